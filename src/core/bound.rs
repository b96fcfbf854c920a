//! The most that a request can cost, before it is sent. A budget reserves this much, so that what
//! is spent can never pass it, whatever happens at once.

use crate::core::usage::decimal;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Prices per token that may apply to what goes in, and to what comes out.
const INPUT: &[&str] = &["input", "cache_read", "cache_write", "cache_write_1h"];
const OUTPUT: &[&str] = &["output", "reasoning"];
/// Members of a request that let the provider do, and bill, more than answer in text.
const UNBOUNDED: &[&str] =
    &["plugins", "web_search_options", "audio", "mcp_servers", "container", "search_parameters"];

/// Why there is no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBound {
    /// Something whose price does not follow from the request.
    Unbounded(String),
    /// No price is known.
    Unpriced,
}

/// What bounds a request's use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Size {
    /// A token has at least one byte, and what marks a message costs less than its JSON.
    pub input_tokens: i64,
    /// Of one answer; `None`: neither the request nor the model says.
    pub output_tokens: Option<i64>,
    /// Answers.
    pub n: i64,
    /// What keeps the cost from being bounded by tokens.
    pub unbounded: Option<String>,
}

/// The size of a request in OpenAI's form for a model with this limit.
pub fn size(body: &str, model: &str, model_limit: Option<i32>) -> Size {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(body).unwrap_or_default();
    let number = |key: &str| {
        let value: Value = serde_json::from_str(fields.get(key)?.get()).ok()?;
        value.as_i64().or_else(|| value.as_f64().map(|n| n.ceil() as i64)).filter(|n| *n >= 0)
    };
    let limit = match (number("max_completion_tokens"), number("max_tokens")) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    Size {
        input_tokens: i64::try_from(body.len()).unwrap_or(i64::MAX).saturating_add(64),
        output_tokens: limit.or(model_limit.map(i64::from)),
        n: number("n").unwrap_or(1).max(1),
        unbounded: unbounded(&fields, model),
    }
}

/// What in a request cannot be bounded by its tokens.
fn unbounded(fields: &BTreeMap<&str, &RawValue>, model: &str) -> Option<String> {
    let is_set = |key: &&&str| fields.get(**key).is_some_and(|value| value.get() != "null");
    if let Some(key) = UNBOUNDED.iter().find(is_set) {
        return Some((*key).to_owned());
    }
    // OpenRouter's suffix for web search.
    if model.ends_with(":online") {
        return Some("web search".to_owned());
    }
    let list = |key: &str| -> Vec<Value> {
        fields.get(key).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    };
    if list("modalities").iter().any(|kind| kind != "text") {
        return Some("modalities".to_owned());
    }
    if let Some(tool) = list("tools").iter().find_map(|tool| {
        let kind = tool["type"].as_str().unwrap_or("function");
        (!matches!(kind, "function" | "custom")).then(|| kind.to_owned())
    }) {
        return Some(format!("tool '{tool}'"));
    }
    list("messages").iter().find_map(|message| {
        message["content"].as_array()?.iter().find_map(|part| {
            let kind = part["type"].as_str().unwrap_or("text");
            let is_text =
                matches!(kind, "text" | "refusal" | "tool_use" | "tool_result" | "thinking");
            (!is_text).then(|| kind.to_owned())
        })
    })
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
        #[derive(Deserialize)]
        struct Tiers<'a> {
            #[serde(borrow, default)]
            tiers: Vec<BTreeMap<String, &'a RawValue>>,
        }
        let text = pricing.unwrap_or("{}");
        let base: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|_| NoBound::Unpriced)?;
        let tiers: Tiers = serde_json::from_str(text).map_err(|_| NoBound::Unpriced)?;
        let lists: Vec<_> = std::iter::once(&base).chain(&tiers.tiers).collect();
        let price = |key: &str| lists.iter().filter_map(|list| decimal(list.get(key)?.get())).max();
        let dearest = |keys: &[&str]| keys.iter().filter_map(|key| price(key)).max();
        let per_million = Decimal::from(1_000_000);
        // Without its base price a part could be billed at anything.
        let (Some(_), Some(_)) = (price("input"), price("output")) else {
            return Err(NoBound::Unpriced);
        };
        Ok(Self {
            input: dearest(INPUT).unwrap_or_default() / per_million,
            output: dearest(OUTPUT).unwrap_or_default() / per_million,
            request: price("request").unwrap_or_default(),
        })
    }

    /// USD of a request at the most.
    pub fn cost(&self, size: &Size, output_tokens: i64) -> Option<Decimal> {
        let output = Decimal::from(output_tokens).checked_mul(Decimal::from(size.n))?;
        let input = self.input.checked_mul(Decimal::from(size.input_tokens))?;
        self.output.checked_mul(output)?.checked_add(input)?.checked_add(self.request)
    }

    /// Tokens of each answer that `left` USD can pay.
    pub fn affordable(&self, size: &Size, left: Decimal) -> i64 {
        let Some(fixed) = self.cost(size, 0) else { return 0 };
        let per_token = self.output * Decimal::from(size.n);
        if left < fixed {
            return 0;
        }
        if per_token.is_zero() {
            return i64::MAX;
        }
        ((left - fixed) / per_token).floor().to_i64().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: &str = r#"{"input":2,"output":10,"cache_write":2.5,"request":0.01,
        "tiers":[{"min_prompt_tokens":200000,"input":4,"output":20}]}"#;

    #[test]
    fn the_dearest_tier_and_part_count() {
        let dearest = Dearest::of(Some(PRICES)).unwrap();
        let size = Size { input_tokens: 1_000_000, output_tokens: None, n: 2, unbounded: None };
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
        let size = Size { input_tokens: 9, output_tokens: None, n: 1, unbounded: None };
        assert_eq!(free.affordable(&size, Decimal::ZERO), i64::MAX);
    }

    #[test]
    fn the_size_of_a_request() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"n":3}"#;
        let size = size(body, "m", Some(99));
        assert_eq!((size.output_tokens, size.n, size.unbounded), (Some(7), 3, None));
        assert!(size.input_tokens >= body.len() as i64);
        let plain = r#"{"messages":[]}"#;
        assert_eq!(super::size(plain, "m", Some(99)).output_tokens, Some(99));
        assert_eq!(super::size(plain, "m", None).output_tokens, None);
    }

    #[test]
    fn what_tokens_do_not_bound_is_named() {
        let what = |body: &str| size(body, "m", None).unbounded;
        let image = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url"}]}]}"#;
        assert_eq!(what(image).unwrap(), "image_url");
        assert_eq!(what(r#"{"modalities":["text","audio"]}"#).unwrap(), "modalities");
        assert_eq!(what(r#"{"plugins":[{"id":"web"}]}"#).unwrap(), "plugins");
        assert_eq!(what(r#"{"tools":[{"type":"web_search"}]}"#).unwrap(), "tool 'web_search'");
        assert_eq!(what(r#"{"tools":[{"type":"function"}],"plugins":null}"#), None);
        assert_eq!(size("{}", "x/y:online", None).unbounded.unwrap(), "web search");
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(body in "\\PC{0,80}", json in "[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = (size(&body, "m", None), size(&json, "m", None));
            let _ = (Dearest::of(Some(&body)), Dearest::of(Some(&json)));
        }
    }
}
