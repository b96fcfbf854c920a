//! The most that a request can cost, before it is sent. A budget reserves this much, so that what
//! is spent can never pass it, whatever happens at once.
//!
//! That rests on three things: that a token has at least one byte; that what providers add to a
//! prompt unseen is no more than they document; and, where one counted more all the same, on
//! [`Hidden`], by which the bound of the next request grows.

use crate::core::request::Outline;
use crate::core::usage::{Parts, decimal};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Prices per token that may apply to what goes in, and to what comes out.
const INPUT: &[&str] = &["input", "cache_read", "cache_write", "cache_write_1h"];
const OUTPUT: &[&str] = &["output", "reasoning"];
/// No price is more than this, in USD per 1M tokens or per request: what is has no bound.
const DEAREST: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);
/// What marks the whole prompt, beyond its JSON.
const OVERHEAD: i64 = 64;
/// What providers tell a model of how to call tools, or in which format to answer. Anthropic's page
/// "Tool use" has the numbers of its models, by `tool_choice`: 159 to 530 of Claude 3, 313 to 589 of
/// Claude 4 to 4.6, 675 and 804 of Opus 4.7, 290 to 474 of those after it. Its page "Structured
/// outputs" says that a format adds to the prompt too, and not how much.
const OVERHEAD_OF_TOOLS: i64 = 1024;
/// Tokens of an answer at the most where the catalogue does not know the model's limit: more than
/// any model writes.
pub const MOST_OUTPUT_TOKENS: i64 = 1_000_000;

/// Tokens beyond the bound of a request that are remembered at the most: no provider, and no user of
/// one, makes the requests of others dearer than by this. More is not believed.
pub const MOST_HIDDEN_INPUT: i64 = 16_384;
pub const MOST_HIDDEN_OUTPUT: i64 = 65_536;

/// What a provider was seen to count for a model beyond the bound of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hidden {
    pub input_tokens: i64,
    /// Of one answer.
    pub output_tokens: i64,
}

impl Hidden {
    /// With what a usage has beyond the size that was reserved for it. `most_output`: tokens that each
    /// answer was limited to, where it was. `None`: it has no more.
    pub fn grown(self, size: &Size, most_output: Option<i64>, parts: &Parts) -> Option<Self> {
        // Of images, audio and the like the bytes say nothing.
        if size.unbounded.is_some() {
            return None;
        }
        let more_input = i64::from(parts.prompt()) - size.input_tokens;
        let more_output = most_output.map_or(0, |most| {
            let n = size.n.max(1);
            let each = (i64::from(parts.completion()) + n - 1) / n;
            each - most.saturating_add(size.hidden_output)
        });
        // What is too much to be true is not believed, as nothing beyond the bound is.
        let add = |known: i64, more: i64, most: i64| {
            let all = known.saturating_add(more.max(0));
            if all > most { known } else { all }
        };
        let grown = Self {
            input_tokens: add(self.input_tokens, more_input, MOST_HIDDEN_INPUT),
            output_tokens: add(self.output_tokens, more_output, MOST_HIDDEN_OUTPUT),
        };
        (grown != self).then_some(grown)
    }

    /// What is remembered of both.
    pub fn most(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.max(other.input_tokens).min(MOST_HIDDEN_INPUT),
            output_tokens: self.output_tokens.max(other.output_tokens).min(MOST_HIDDEN_OUTPUT),
        }
    }
}

/// Why there is no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBound {
    /// Something whose price does not follow from the request.
    Unbounded(String),
    /// No price is known.
    Unpriced,
}

/// What bounds a request's use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// A token has at least one byte, and what marks a message costs less than its JSON.
    pub input_tokens: i64,
    /// Of one answer; `None`: neither the request nor the model says. At most the model's limit,
    /// or [`MOST_OUTPUT_TOKENS`].
    pub output_tokens: Option<i64>,
    /// Tokens that each answer may have beyond that, as was seen.
    pub hidden_output: i64,
    /// Answers, from 1 to 128.
    pub n: i64,
    /// What keeps the cost from being bounded by tokens.
    pub unbounded: Option<String>,
}

/// What the catalogue knows of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Model<'a> {
    pub id: &'a str,
    pub max_output_tokens: Option<i32>,
    pub context_window: Option<i32>,
    pub pricing: Option<&'a str>,
}

impl Model<'_> {
    /// The most tokens that an answer may be asked for.
    pub fn most_output_tokens(&self) -> i64 {
        // A model that no token comes out of is one that the catalogue describes wrongly.
        let known = [self.max_output_tokens, self.context_window];
        let limit = known.into_iter().flatten().find(|limit| *limit > 0);
        limit.map_or(MOST_OUTPUT_TOKENS, i64::from)
    }
}

/// The size of a request for a model. `default_output_tokens`: what the provider's standard asks
/// for where nobody says.
pub fn size(
    request: &Outline,
    model: &Model<'_>,
    default_output_tokens: Option<i32>,
    hidden: Hidden,
) -> Size {
    let has_instructions = request.has_tools || request.has_format;
    let overhead = OVERHEAD + if has_instructions { OVERHEAD_OF_TOOLS } else { 0 };
    let overhead = overhead.saturating_add(hidden.input_tokens);
    let asked = request.max_tokens.map(|asked| asked.min(model.most_output_tokens()));
    let limit = model.max_output_tokens.or(default_output_tokens).filter(|limit| *limit > 0);
    Size {
        input_tokens: i64::try_from(request.bytes).unwrap_or(i64::MAX).saturating_add(overhead),
        output_tokens: asked.or(limit.map(i64::from)),
        hidden_output: hidden.output_tokens,
        n: request.n.unwrap_or(1),
        unbounded: unbounded(request, model),
    }
}

fn unbounded(request: &Outline, model: &Model<'_>) -> Option<String> {
    if request.unbounded.is_some() {
        return request.unbounded.clone();
    }
    // OpenRouter's suffix for web search.
    if model.id.rsplit(':').next().is_some_and(|suffix| suffix.eq_ignore_ascii_case("online")) {
        return Some("web search".to_owned());
    }
    // To write a cache is dearer than to read a prompt (Anthropic's page "Prompt caching").
    (request.caches && !prices_cache_writes(model.pricing))
        .then(|| "cache_control, and the price of writing the cache is not known".to_owned())
}

fn prices_cache_writes(pricing: Option<&str>) -> bool {
    let list: Option<BTreeMap<String, &RawValue>> =
        pricing.and_then(|text| serde_json::from_str(text).ok());
    list.is_some_and(|list| list.contains_key("cache_write"))
}

/// The dearest prices of a list, whatever tier or part applies, in USD per token and request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dearest {
    pub input: Decimal,
    pub output: Decimal,
    pub request: Decimal,
}

impl Dearest {
    /// Of `aggregator_models.pricing`.
    pub fn of(pricing: Option<&str>) -> Result<Self, NoBound> {
        Self::read(pricing, &["input", "output"])
    }

    /// The same of a model that no token comes out of: it needs no price for that.
    pub fn of_input(pricing: Option<&str>) -> Result<Self, NoBound> {
        Self::read(pricing, &["input"])
    }

    fn read(pricing: Option<&str>, needed: &[&str]) -> Result<Self, NoBound> {
        #[derive(Deserialize)]
        struct Tiers<'a> {
            #[serde(borrow, default)]
            tiers: Vec<BTreeMap<String, &'a RawValue>>,
        }
        let text = pricing.ok_or(NoBound::Unpriced)?;
        let base: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|_| NoBound::Unpriced)?;
        let tiers: Tiers = serde_json::from_str(text).map_err(|_| NoBound::Unpriced)?;
        // The dearest price of each part. One that cannot be read could be any; so could one that a
        // tier says is unknown, which is null there.
        let mut dearest: BTreeMap<&str, Decimal> = BTreeMap::new();
        for (key, raw) in std::iter::once(&base).chain(&tiers.tiers).flatten() {
            let is_price = INPUT.iter().chain(OUTPUT).chain(&["request"]).any(|part| part == key);
            if !is_price {
                continue;
            }
            let price = decimal(raw.get())
                .filter(|price| !price.is_sign_negative() && *price <= DEAREST)
                .ok_or(NoBound::Unpriced)?;
            let known = dearest.entry(key).or_insert(price);
            *known = price.max(*known);
        }
        let of = |keys: &[&str]| {
            let price = keys.iter().filter_map(|key| dearest.get(key)).max();
            price.copied().map(per_token)
        };
        // Without its base price a part could be billed at anything.
        if !needed.iter().all(|part| base.contains_key(*part)) {
            return Err(NoBound::Unpriced);
        }
        let has_output = needed.contains(&"output");
        Ok(Self {
            input: of(INPUT).ok_or(NoBound::Unpriced)?,
            output: match of(OUTPUT) {
                None if has_output => return Err(NoBound::Unpriced),
                price => price.unwrap_or(Decimal::ZERO),
            },
            // Not every provider takes money for the request itself.
            request: dearest.get("request").copied().unwrap_or(Decimal::ZERO),
        })
    }

    /// USD of a request at the most. `None`: more than can be computed.
    pub fn cost(&self, size: &Size, output_tokens: i64) -> Option<Decimal> {
        let output = output_tokens.checked_add(size.hidden_output)?;
        let output = Decimal::from(output).checked_mul(Decimal::from(size.n))?;
        let input = self.input.checked_mul(Decimal::from(size.input_tokens))?;
        self.output.checked_mul(output)?.checked_add(input)?.checked_add(self.request)
    }

    /// Tokens of each answer that `left` USD can pay.
    pub fn affordable(&self, size: &Size, left: Decimal) -> i64 {
        let Some(fixed) = self.cost(size, 0) else { return 0 };
        let Some(per_token) = self.output.checked_mul(Decimal::from(size.n)) else { return 0 };
        if left < fixed {
            return 0;
        }
        // More than any answer has.
        match (left - fixed).checked_div(per_token) {
            Some(tokens) => tokens.floor().to_i64().unwrap_or(i64::MAX),
            None => i64::MAX,
        }
    }
}

/// A price per 1M tokens as one per token: exact, or, past the digits that a Decimal has, rounded up.
fn per_token(price: Decimal) -> Decimal {
    let mut exact = price;
    match exact.set_scale(price.scale() + 6) {
        Ok(()) => exact,
        Err(_) => price / Decimal::from(1_000_000) + Decimal::from_parts(1, 0, 0, false, 28),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::request::outline;

    const PRICES: &str = r#"{"input":2,"output":10,"cache_write":2.5,"request":0.01,
        "tiers":[{"min_prompt_tokens":200000,"input":4,"output":20}]}"#;

    #[test]
    fn the_dearest_tier_and_part_count() {
        let dearest = Dearest::of(Some(PRICES)).unwrap();
        let size = Size {
            input_tokens: 1_000_000,
            output_tokens: None,
            hidden_output: 0,
            n: 2,
            unbounded: None,
        };
        // 1 M at 4 USD, 2 answers of 0.5 M at 20, and the request.
        assert_eq!(dearest.cost(&size, 500_000).unwrap().to_string(), "24.010000");
        assert_eq!(dearest.affordable(&size, Decimal::new(2401, 2)), 500_000);
        assert_eq!(dearest.affordable(&size, Decimal::new(4, 0)), 0);
    }

    #[test]
    fn without_prices_there_is_no_bound() {
        for pricing in
            [None, Some("{}"), Some(r#"{"input":1}"#), Some(r#"{"output":1}"#), Some("x")]
        {
            assert_eq!(Dearest::of(pricing), Err(NoBound::Unpriced), "{pricing:?}");
        }
        let free = Dearest::of(Some(r#"{"input":0,"output":0}"#)).unwrap();
        let size =
            Size { input_tokens: 9, output_tokens: None, hidden_output: 0, n: 1, unbounded: None };
        assert_eq!(free.affordable(&size, Decimal::ZERO), i64::MAX);
    }

    #[test]
    fn a_price_that_cannot_be_read_has_no_bound() {
        for price in [r#""x""#, "null", "-1", "1e30", "1e-99999", "true", "[]", "{}", "99999999"] {
            for pricing in [
                format!(r#"{{"input":{price},"output":1}}"#),
                format!(r#"{{"input":1,"output":1,"cache_write_1h":{price}}}"#),
                format!(r#"{{"input":1,"output":1,"tiers":[{{"output":{price}}}]}}"#),
            ] {
                assert_eq!(Dearest::of(Some(&pricing)), Err(NoBound::Unpriced), "{pricing}");
            }
        }
        // What a tier does not say is that of the list, and what is no part is not asked.
        let tier =
            r#"{"input":1,"output":1,"image":"x","tiers":[{"min_prompt_tokens":9,"input":1}]}"#;
        assert_eq!(Dearest::of(Some(tier)).unwrap().output, Decimal::new(1, 6));
    }

    #[test]
    fn the_largest_size_has_a_cost() {
        let list = r#"{"input":1000000,"output":1000000,"request":1000000}"#;
        let size = Size {
            input_tokens: 1 << 40,
            output_tokens: None,
            hidden_output: 0,
            n: 128,
            unbounded: None,
        };
        let dearest = Dearest::of(Some(list)).unwrap();
        assert!(dearest.cost(&size, i64::from(i32::MAX)).unwrap() > Decimal::from(1u64 << 40));
        assert!(dearest.affordable(&size, Decimal::MAX) > 0);
    }

    fn size_of(body: &str, model: Model<'_>) -> Size {
        size(&outline(body).unwrap(), &model, None, Hidden::default())
    }

    fn limited(limit: Option<i32>) -> Model<'static> {
        Model { id: "m", max_output_tokens: limit, ..Model::default() }
    }

    #[test]
    fn the_size_of_a_request() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"n":3}"#;
        let size = size_of(body, limited(Some(99)));
        assert_eq!((size.output_tokens, size.n, size.unbounded), (Some(7), 3, None));
        assert!(size.input_tokens >= body.len() as i64);
        let plain = r#"{"messages":[]}"#;
        assert_eq!(size_of(plain, limited(Some(99))).output_tokens, Some(99));
        assert_eq!(size_of(plain, limited(None)).output_tokens, None);
        let defaulted =
            super::size(&outline(plain).unwrap(), &limited(None), Some(5), Hidden::default());
        assert_eq!(defaulted.output_tokens, Some(5));
        let tools = r#"{"messages":[],"tools":[{"type":"function"}]}"#;
        assert!(size_of(tools, limited(None)).input_tokens >= tools.len() as i64 + 804);
        let format = r#"{"messages":[],"response_format":{"type":"json_object"}}"#;
        assert!(size_of(format, limited(None)).input_tokens >= format.len() as i64 + 804);
    }

    #[test]
    fn what_a_provider_counts_beyond_the_bound_is_remembered() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"n":2}"#;
        let request = outline(body).unwrap();
        let sized = |hidden| super::size(&request, &limited(Some(99)), None, hidden);
        let none = Hidden::default();
        let bound = sized(none);
        let used = |input: i64, output: i64| Parts {
            input: input as i32,
            output: output as i32,
            ..Parts::default()
        };
        let within = used(bound.input_tokens, 14);
        assert_eq!(none.grown(&bound, Some(7), &within), None);
        let beyond = used(bound.input_tokens + 500, 14 + 5);
        let seen = none.grown(&bound, Some(7), &beyond).unwrap();
        assert_eq!(seen, Hidden { input_tokens: 500, output_tokens: 3 });
        // The next one is bound by as much.
        let next = sized(seen);
        assert_eq!(next.input_tokens, bound.input_tokens + 500);
        assert_eq!(seen.grown(&next, Some(7), &beyond), None);
        let price = Dearest::of(Some(r#"{"input":1,"output":1000000}"#)).unwrap();
        assert!(price.cost(&next, 7).unwrap() > Decimal::from(20));
        // What nobody adds to a prompt is not believed, in one step or in many.
        let absurd = used(i64::from(i32::MAX), i64::from(i32::MAX));
        assert_eq!(seen.grown(&next, Some(7), &absurd), None);
        let half = used(next.input_tokens + MOST_HIDDEN_INPUT / 2 + 1, 0);
        let more = seen.grown(&next, Some(7), &half).unwrap();
        assert_eq!(more.input_tokens, 500 + MOST_HIDDEN_INPUT / 2 + 1);
        assert_eq!(more.grown(&sized(seen), Some(7), &half), None);
        // Nor where nothing bounds it.
        let image = Size { unbounded: Some("image_url".to_owned()), ..bound.clone() };
        assert_eq!(none.grown(&image, Some(7), &beyond), None);
        let endless = none.grown(&bound, None, &used(0, 1_000_000));
        assert_eq!(endless, None);
    }

    #[test]
    fn no_more_is_asked_for_than_the_model_can_write() {
        for asked in ["6660000", "9223372036854775807", "99999999999999999999999999"] {
            for name in ["max_tokens", "max_completion_tokens"] {
                let body = format!(r#"{{"{name}":{asked}}}"#);
                let most = |model| size_of(&body, model).output_tokens.unwrap();
                assert_eq!(most(limited(Some(8192))), 8192);
                let window = Model { context_window: Some(1000), ..limited(None) };
                assert_eq!(most(window), 1000);
                assert_eq!(most(Model { max_output_tokens: Some(0), ..window }), 1000);
                assert_eq!(most(limited(None)), MOST_OUTPUT_TOKENS);
            }
        }
        let both = r#"{"max_tokens":5,"max_completion_tokens":9}"#;
        assert_eq!(size_of(both, limited(Some(8192))).output_tokens, Some(9));
    }

    #[test]
    fn a_model_that_searches_has_no_bound() {
        let what = |id| size_of("{}", Model { id, ..Model::default() }).unbounded;
        assert_eq!(what("x/y:online").unwrap(), "web search");
        assert_eq!(what("x/y:free:ONLINE").unwrap(), "web search");
        assert_eq!(what("x/y:free"), None);
    }

    #[test]
    fn a_cache_is_written_at_a_price_that_is_known() {
        let body = r#"{"messages":[{"content":[{"type":"text","text":"x","cache_control":{}}]}]}"#;
        let model = |pricing| Model { pricing, ..limited(None) };
        assert!(size_of(body, model(Some(r#"{"input":1,"output":1}"#))).unbounded.is_some());
        let priced = size_of(body, model(Some(r#"{"input":1,"output":1,"cache_write":2}"#)));
        assert_eq!(priced.unbounded, None);
    }

    proptest::proptest! {
        #[test]
        fn no_price_list_panics(text in "\\PC{0,80}", json in "[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = (Dearest::of(Some(&text)), Dearest::of(Some(&json)));
        }
    }
}
