//! What a call used, normalised once per protocol to disjoint counts.
//!
//! OpenAI's `prompt_tokens` include cached tokens and `completion_tokens` include reasoning;
//! Anthropic's `input_tokens` exclude the cache. After this module no part contains another, so
//! that a price list can simply be multiplied and added.

use crate::core::json;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::str::FromStr;

/// Disjoint token counts, and what is paid by the piece, under the same names as the keys of a
/// price list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub input: i32,
    pub cache_read: i32,
    pub cache_write: i32,
    pub cache_write_1h: i32,
    pub audio_input: i32,
    pub output: i32,
    pub reasoning: i32,
    pub audio_output: i32,
    /// Pieces, not tokens.
    pub image: i32,
    pub web_search: i32,
}

impl Parts {
    /// All tokens that went in.
    pub fn prompt(&self) -> i32 {
        [self.cache_read, self.cache_write, self.cache_write_1h, self.audio_input]
            .into_iter()
            .fold(self.input, i32::saturating_add)
    }

    /// All tokens that came out.
    pub fn completion(&self) -> i32 {
        self.output.saturating_add(self.reasoning).saturating_add(self.audio_output)
    }
}

/// The usage of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `None`: the upstream gave no counts that make sense.
    pub parts: Option<Parts>,
    /// What the upstream says the call cost, USD, every digit kept.
    pub reported_cost: Option<String>,
}

impl Usage {
    /// Reads a `usage` object of OpenAI's or Anthropic's form; they are told apart by their keys.
    /// Text that is not such an object gives an empty usage: missing, not zero.
    pub fn parse(text: &str) -> Self {
        let Ok(raw) = serde_json::from_str::<RawUsage>(text) else { return Self::default() };
        let parts = if count(&raw.prompt_tokens).is_some() || raw.input_tokens.is_none() {
            raw.openai_parts()
        } else {
            raw.anthropic_parts()
        };
        Self { parts, reported_cost: raw.reported_cost() }
    }
}

#[derive(Deserialize)]
struct RawUsage<'a> {
    prompt_tokens: Option<Value>,
    completion_tokens: Option<Value>,
    total_tokens: Option<Value>,
    prompt_tokens_details: Option<Value>,
    completion_tokens_details: Option<Value>,
    prompt_cache_hit_tokens: Option<Value>,
    input_tokens: Option<Value>,
    output_tokens: Option<Value>,
    cache_read_input_tokens: Option<Value>,
    cache_creation_input_tokens: Option<Value>,
    cache_creation: Option<Value>,
    server_tool_use: Option<Value>,
    images: Option<Value>,
    #[serde(borrow)]
    cost: Option<&'a RawValue>,
    is_byok: Option<Value>,
    #[serde(borrow)]
    cost_details: Option<&'a RawValue>,
}

impl RawUsage<'_> {
    fn openai_parts(&self) -> Option<Parts> {
        let prompt = count(&self.prompt_tokens)?;
        let mut completion = count(&self.completion_tokens).unwrap_or(0);
        let detail = |details: &Option<Value>, key| {
            details.as_ref().and_then(|d| d.get(key)).and_then(number).unwrap_or(0)
        };
        let cached = match detail(&self.prompt_tokens_details, "cached_tokens") {
            // DeepSeek's own name, for the same subset.
            0 => count(&self.prompt_cache_hit_tokens).unwrap_or(0),
            cached => cached,
        };
        let reasoning = detail(&self.completion_tokens_details, "reasoning_tokens");
        // Some upstreams leave reasoning out of completion_tokens; their own total tells.
        let outside = i64::from(prompt) + i64::from(completion) + i64::from(reasoning);
        if reasoning > 0 && count(&self.total_tokens).map(i64::from) == Some(outside) {
            completion = completion.saturating_add(reasoning);
        }
        let mut input = Total(prompt);
        let cache_read = input.take(cached);
        let mut written =
            Total(input.take(detail(&self.prompt_tokens_details, "cache_write_tokens")));
        let cache_write_1h = written.take(self.one_hour());
        let audio_input = input.take(detail(&self.prompt_tokens_details, "audio_tokens"));
        let mut output = Total(completion);
        let reasoning = output.take(reasoning);
        let audio_output = output.take(detail(&self.completion_tokens_details, "audio_tokens"));
        Some(Parts {
            input: input.0,
            cache_read,
            cache_write: written.0,
            cache_write_1h,
            audio_input,
            output: output.0,
            reasoning,
            audio_output,
            image: self.images(),
            web_search: self.web_searches(),
        })
    }

    fn anthropic_parts(&self) -> Option<Parts> {
        let mut written = Total(count(&self.cache_creation_input_tokens).unwrap_or(0));
        let cache_write_1h = written.take(self.one_hour());
        Some(Parts {
            input: count(&self.input_tokens)?,
            cache_read: count(&self.cache_read_input_tokens).unwrap_or(0),
            cache_write: written.0,
            cache_write_1h,
            output: count(&self.output_tokens).unwrap_or(0),
            image: self.images(),
            web_search: self.web_searches(),
            ..Parts::default()
        })
    }

    /// Searches that the provider made, each for a fee. Anthropic's member, which OpenRouter and
    /// our own translation keep.
    fn web_searches(&self) -> i32 {
        let searches = self.server_tool_use.as_ref().and_then(|u| u.get("web_search_requests"));
        searches.and_then(number).unwrap_or(0)
    }

    /// No provider that we know counts images in its usage; whoever does finds them priced.
    fn images(&self) -> i32 {
        count(&self.images).unwrap_or(0)
    }

    /// What was written to the cache for an hour, a subset of all that was written. Anthropic's
    /// own member; translated to OpenAI's form, its usage keeps it.
    fn one_hour(&self) -> i32 {
        let hour = self.cache_creation.as_ref().and_then(|c| c.get("ephemeral_1h_input_tokens"));
        hour.and_then(number).unwrap_or(0)
    }

    /// OpenRouter: the true cost is `cost`, plus what the user's own upstream account was charged
    /// when, and only when, the call went through such an account (`is_byok`).
    fn reported_cost(&self) -> Option<String> {
        let cost = json::amount(self.cost?.get())?;
        if self.is_byok != Some(Value::Bool(true)) {
            return Some(cost);
        }
        #[derive(Deserialize)]
        struct Details<'a> {
            #[serde(borrow)]
            upstream_inference_cost: Option<&'a RawValue>,
        }
        let details: Details = serde_json::from_str(self.cost_details?.get()).ok()?;
        let upstream = json::amount(details.upstream_inference_cost?.get())?;
        let (Some(ours), Some(theirs)) = (decimal(&cost), decimal(&upstream)) else {
            // One of them is larger than any cost: the sum says no more.
            return Some(if decimal(&cost).is_none() { cost } else { upstream });
        };
        Some(ours.checked_add(theirs).map_or(cost, |sum| sum.to_string()))
    }
}

/// Reads decimal or scientific notation.
pub fn decimal(text: &str) -> Option<Decimal> {
    Decimal::from_str(text).or_else(|_| Decimal::from_scientific(text)).ok()
}

/// A total from which subsets are taken, never more than is left.
struct Total(i32);

impl Total {
    fn take(&mut self, subset: i32) -> i32 {
        let taken = subset.clamp(0, self.0);
        self.0 -= taken;
        taken
    }
}

fn count(value: &Option<Value>) -> Option<i32> {
    value.as_ref().and_then(number)
}

/// A token count: a non-negative whole number, however it is written. One that the ledger's columns
/// do not hold is the largest that they do: an absurd word of the provider's, and not none at all.
fn number(value: &Value) -> Option<i32> {
    if let Some(n) = value.as_u64() {
        return Some(i32::try_from(n).unwrap_or(i32::MAX));
    }
    let n = value.as_f64()?;
    // A cast saturates. Past this a float is no count.
    (n.fract() == 0.0 && (0.0..=LARGEST_FLOAT).contains(&n)).then_some(n as i32)
}

/// 2^63.
const LARGEST_FLOAT: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Parts {
        Usage::parse(text).parts.unwrap()
    }

    #[test]
    fn openai_subsets_become_disjoint() {
        let p = parts(
            r#"{"prompt_tokens":1000,"completion_tokens":500,"total_tokens":1500,
                "prompt_tokens_details":{"cached_tokens":600,"audio_tokens":50,"cache_write_tokens":100},
                "completion_tokens_details":{"reasoning_tokens":300,"audio_tokens":20}}"#,
        );
        assert_eq!((p.input, p.cache_read, p.cache_write, p.audio_input), (250, 600, 100, 50));
        assert_eq!((p.output, p.reasoning, p.audio_output), (180, 300, 20));
        assert_eq!((p.prompt(), p.completion()), (1000, 500));
    }

    #[test]
    fn anthropic_counts_are_disjoint_already() {
        let p = parts(
            r#"{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,
                "cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},
                "output_tokens":7}"#,
        );
        assert_eq!((p.input, p.cache_read, p.cache_write, p.cache_write_1h), (10, 1000, 60, 40));
        assert_eq!((p.prompt(), p.completion()), (1110, 7));
    }

    #[test]
    fn a_translated_usage_has_the_parts_of_the_native_one() {
        for (one_hour, written) in [(40, 60), (0, 100), (100, 0), (999, 0)] {
            let creation = format!(r#"{{"ephemeral_1h_input_tokens":{one_hour}}}"#);
            let native = parts(&format!(
                r#"{{"input_tokens":10,"cache_creation_input_tokens":100,
                    "cache_read_input_tokens":1000,"cache_creation":{creation},
                    "output_tokens":7}}"#
            ));
            let translated = parts(&format!(
                r#"{{"prompt_tokens":1110,"completion_tokens":7,"total_tokens":1117,
                    "prompt_tokens_details":{{"cached_tokens":1000,"cache_write_tokens":100}},
                    "cache_creation":{creation}}}"#
            ));
            assert_eq!(translated, native);
            assert_eq!((native.cache_write, native.prompt()), (written, 1110));
        }
    }

    #[test]
    fn pieces_are_counted_in_either_form() {
        let tools = r#""server_tool_use":{"web_search_requests":3},"images":2"#;
        for tokens in [r#""prompt_tokens":7"#, r#""input_tokens":7"#] {
            let p = parts(&format!("{{{tokens},{tools}}}"));
            assert_eq!((p.input, p.web_search, p.image, p.prompt()), (7, 3, 2, 7));
        }
        for odd in ["null", "{}", "[]", r#"{"web_search_requests":-1}"#] {
            let p = parts(&format!(r#"{{"prompt_tokens":7,"server_tool_use":{odd}}}"#));
            assert_eq!(p.web_search, 0, "{odd}");
        }
    }

    #[test]
    fn a_subset_larger_than_its_total_is_trimmed() {
        let p = parts(
            r#"{"prompt_tokens":10,"completion_tokens":5,
                "prompt_tokens_details":{"cached_tokens":99},
                "completion_tokens_details":{"reasoning_tokens":99}}"#,
        );
        assert_eq!((p.input, p.cache_read, p.output, p.reasoning), (0, 10, 0, 5));
    }

    #[test]
    fn reasoning_outside_the_completion_is_added_when_the_total_says_so() {
        let text = |total| {
            format!(
                r#"{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":{total},
                    "completion_tokens_details":{{"reasoning_tokens":4}}}}"#
            )
        };
        assert_eq!(parts(&text(15)).completion(), 5);
        assert_eq!(parts(&text(19)).completion(), 9);
    }

    #[test]
    fn negatives_and_nonsense_are_missing_not_zero() {
        for text in [
            "null",
            "[]",
            "{}",
            "7",
            r#"{"prompt_tokens":-1,"completion_tokens":5}"#,
            r#"{"prompt_tokens":"many"}"#,
            r#"{"prompt_tokens":1e300}"#,
            "{",
        ] {
            assert_eq!(Usage::parse(text).parts, None, "{text}");
        }
        assert_eq!(parts(r#"{"prompt_tokens":0,"completion_tokens":0}"#), Parts::default());
        assert_eq!(parts(r#"{"prompt_tokens":3.0}"#).input, 3);
    }

    #[test]
    fn an_absurd_count_is_the_largest_and_does_not_wrap() {
        for count in ["2147483648", "4294967297", "18446744073709551615", "1e15"] {
            let p = parts(&format!(r#"{{"prompt_tokens":{count},"completion_tokens":{count}}}"#));
            assert_eq!((p.prompt(), p.completion()), (i32::MAX, i32::MAX), "{count}");
        }
        let text =
            r#"{"cost":7e28,"is_byok":true,"cost_details":{"upstream_inference_cost":7e28}}"#;
        assert!(Usage::parse(text).reported_cost.is_some(), "a sum that is no Decimal");
        let text = r#"{"cost":1,"is_byok":true,"cost_details":{"upstream_inference_cost":1e30}}"#;
        assert!(Usage::parse(text).reported_cost.unwrap().len() >= 4);
    }

    #[test]
    fn reported_cost_keeps_its_digits() {
        let usage = Usage::parse(r#"{"prompt_tokens":1,"cost":0.00012345678901234567890123}"#);
        assert_eq!(usage.reported_cost.unwrap(), "0.00012345678901234567890123");
        assert_eq!(Usage::parse(r#"{"cost":{"total":1}}"#).reported_cost, None);
        assert_eq!(Usage::parse(r#"{"cost":-1}"#).reported_cost, None);
    }

    #[test]
    fn byok_adds_the_upstream_cost_and_only_then() {
        let own = r#"{"cost":0.05,"is_byok":true,"cost_details":{"upstream_inference_cost":1.2}}"#;
        assert_eq!(Usage::parse(own).reported_cost.unwrap(), "1.25");
        let not = r#"{"cost":0.05,"is_byok":false,"cost_details":{"upstream_inference_cost":1.2}}"#;
        assert_eq!(Usage::parse(not).reported_cost.unwrap(), "0.05");
        let unknown =
            r#"{"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}"#;
        assert_eq!(Usage::parse(unknown).reported_cost, None);
    }

    proptest::proptest! {
        #[test]
        fn parts_always_add_up_to_the_totals(
            prompt in 0..i32::MAX, completion in 0..i32::MAX,
            cached in 0..i32::MAX, written in 0..i32::MAX, reasoning in 0..i32::MAX,
        ) {
            let p = parts(&serde_json::json!({
                "prompt_tokens": prompt, "completion_tokens": completion,
                "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            }).to_string());
            proptest::prop_assert_eq!(p.prompt(), prompt);
            proptest::prop_assert_eq!(p.completion(), completion);
        }
    }
}
