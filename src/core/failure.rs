//! Errors inside an answer of status 200, whole or a chunk of a stream: beside the choices, in a choice, or as the
//! reason why a choice ends. They are errors like any other, however much was said before.

use crate::core::json;
use crate::core::refusal::{self, Refusal};
use serde_json::value::RawValue;

/// Reasons with which a choice ends because the upstream failed, and the HTTP status that says the same.
const FAILED: &[(&str, u16)] = &[
    // OpenRouter ("Errors and debugging"), Mistral ("Chat completion"), Together, Cohere, vLLM.
    ("error", 502),
    // Z.ai ("Chat completion"): the model's inference broke. Behind OpenRouter as `native_finish_reason`.
    ("network_error", 502),
    // DeepSeek ("Create chat completion"): interrupted for want of resources.
    ("insufficient_system_resource", 503),
    // vLLM and SGLang: the engine gave the request up (vllm-project/vllm issue 57082).
    ("abort", 502),
    ("aborted", 502),
];

/// What an upstream says of its own failure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'a> {
    pub error: Option<&'a RawValue>,
    /// MiniMax: `status_code` 0 is success.
    pub base_resp: Option<&'a RawValue>,
    pub choices: Option<&'a RawValue>,
}

/// The error that a chunk of a stream is or holds.
pub fn in_chunk(chunk: &str, key: Option<&str>) -> serde_json::Result<Option<Refusal>> {
    let [error, base_resp, choices, object, kind] =
        json::pick(chunk, &["error", "base_resp", "choices", "object", "type"])?;
    let signs = Signs { error, base_resp, choices };
    let is_error = [object, kind].into_iter().flatten().any(|kind| kind.get() == r#""error""#);
    Ok(beside_choices(chunk, signs, key)
        .or_else(|| is_error.then(|| refusal::inside_200(chunk, key)))
        .or_else(|| in_choice(first_choice(choices?)?, key)))
}

/// The error of a whole answer. One beside a choice that has ended well is none: it is not of the answer.
pub fn in_answer(answer: &str, signs: Signs<'_>, key: Option<&str>) -> Option<Refusal> {
    let first = signs.choices.and_then(first_choice);
    let in_choice = first.and_then(|choice| in_choice(choice, key));
    if in_choice.is_some() || first.is_some_and(has_ended) {
        return in_choice;
    }
    beside_choices(answer, signs, key)
}

/// The error of an answer whose `choices` say nothing of it.
pub fn beside_choices(answer: &str, signs: Signs<'_>, key: Option<&str>) -> Option<Refusal> {
    if let Some(error) = signs.error.filter(|error| !is_nothing(error)) {
        return Some(refusal::inside_200(error.get(), key));
    }
    // Forms without an `error` have no choices either; MiniMax's member comes with every answer.
    match signs.choices.is_none() || signs.base_resp.is_some() {
        true => refusal::inside_success(answer, key),
        false => None,
    }
}

/// The choice whose text is the answer's: the one with index 0, which the first in the list has that says no other.
fn first_choice(choices: &RawValue) -> Option<&RawValue> {
    let mut found = None;
    let mut place = 0;
    json::each_item(choices.get(), |choice| {
        let index = json::pick(choice.get(), &["index"]).ok().and_then(|[index]| index);
        let index = index.and_then(|index| index.get().parse::<u64>().ok()).unwrap_or(place);
        if found.is_none() && index == 0 {
            found = Some(choice);
        }
        place += 1;
    });
    found
}

fn in_choice(choice: &RawValue, key: Option<&str>) -> Option<Refusal> {
    let [error, finish, native] =
        json::pick(choice.get(), &["error", "finish_reason", "native_finish_reason"]).ok()?;
    if let Some(error) = error.filter(|error| !is_nothing(error)) {
        return Some(refusal::inside_200(error.get(), key));
    }
    [finish, native].into_iter().flatten().find_map(|reason| failed(reason, key))
}

/// The refusal that a choice's end is: a reason, or SGLang's object of a `type` and a `message`.
fn failed(reason: &RawValue, key: Option<&str>) -> Option<Refusal> {
    let kind = match json::pick(reason.get(), &["type"]) {
        Ok([kind]) => kind?,
        Err(_) => reason,
    };
    let named = kind.get().trim_matches('"');
    let (name, status) = FAILED.iter().find(|(name, _)| name.eq_ignore_ascii_case(named))?;
    if reason.get().starts_with('{') {
        return Some(Refusal { status: *status, ..refusal::inside_200(reason.get(), key) });
    }
    let words = format!("the choice ends with the reason '{name}'");
    let error = serde_json::json!({"status": status, "code": name, "message": words});
    Some(refusal::inside_200(&error.to_string(), key))
}

fn has_ended(choice: &RawValue) -> bool {
    json::pick(choice.get(), &["finish_reason"])
        .is_ok_and(|[reason]| reason.is_some_and(|reason| !is_no_reason(reason.get())))
}

/// A `finish_reason` before the end, in JSON: some servers write a text instead of null.
fn is_no_reason(reason: &str) -> bool {
    matches!(reason, "null" | r#""""# | r#""null""#)
}

/// An `error` member that says that there is none.
fn is_nothing(error: &RawValue) -> bool {
    let dense: String = error.get().split_whitespace().take(2).collect();
    matches!(dense.as_str(), "null" | "false" | "0" | r#""""# | "{}" | "[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Option<(u16, Option<String>, Option<String>)> {
        let refusal = in_chunk(text, Some("sk-secret")).unwrap()?;
        Some((refusal.status, refusal.code, refusal.message))
    }

    fn says(
        status: u16,
        code: Option<&str>,
        words: &str,
    ) -> Option<(u16, Option<String>, Option<String>)> {
        Some((status, code.map(str::to_owned), Some(words.to_owned())))
    }

    #[test]
    fn an_error_in_a_choice_is_an_error() {
        let text = r#"{"choices":[{"finish_reason":"error","error":{"code":502,
            "message":"upstream died of sk-secret"},"message":{"content":""}}]}"#;
        let found = chunk(text).unwrap();
        assert_eq!(found.0, 502);
        assert!(
            found.2.as_ref().is_some_and(
                |said| said.starts_with("upstream died") && !said.contains("sk-secret")
            )
        );
        // As a text, and while the choice goes on.
        let text = r#"{"choices":[{"delta":{"content":"x"},"error":"upstream died"}]}"#;
        assert_eq!(chunk(text), says(502, None, "upstream died"));
        let text =
            r#"{"choices":[{"error":{"code":429,"message":"slow down"},"finish_reason":"stop"}]}"#;
        assert_eq!(chunk(text), says(429, None, "slow down"));
    }

    #[test]
    fn a_choice_that_ends_because_the_upstream_failed_is_an_error() {
        for (reason, status, code) in [
            ("error", 502, None),
            ("ERROR", 502, None),
            ("network_error", 502, Some("network_error")),
            ("insufficient_system_resource", 503, Some("insufficient_system_resource")),
            ("abort", 502, Some("abort")),
        ] {
            let words = format!("the choice ends with the reason '{}'", reason.to_lowercase());
            for name in ["finish_reason", "native_finish_reason"] {
                let text = format!(
                    r#"{{"choices":[{{"{name}":"{reason}","message":{{"content":"so far"}}}}]}}"#
                );
                assert_eq!(chunk(&text), says(status, code, &words), "{text}");
            }
        }
        let text =
            r#"{"choices":[{"finish_reason":{"type":"abort","message":"the engine stops"}}]}"#;
        assert_eq!(chunk(text), says(502, Some("abort"), "the engine stops"));
        for reason in [
            r#""stop""#,
            r#""length""#,
            r#""content_filter""#,
            r#""""#,
            r#""null""#,
            "null",
            "7",
            "[]",
        ] {
            let text = format!(r#"{{"choices":[{{"finish_reason":{reason}}}]}}"#);
            assert_eq!(chunk(&text), None, "{text}");
        }
    }

    #[test]
    fn an_error_beside_the_choices_is_an_error() {
        assert_eq!(
            chunk(r#"{"error":{"code":429,"message":"slow"},"choices":[{}]}"#),
            says(429, None, "slow")
        );
        assert_eq!(chunk(r#"{"error":"boom"}"#), says(502, None, "boom"));
        let base = |code: i32| {
            format!(r#"{{"base_resp":{{"status_code":{code},"status_msg":"m"}},"choices":null}}"#)
        };
        assert_eq!(chunk(&base(1000)).unwrap().2.as_deref(), Some("m"));
        assert_eq!(chunk(&base(0)), None);
        let text = r#"{"object":"error","message":"the model fell over","type":"InternalServerError","code":500}"#;
        assert_eq!(chunk(text).unwrap().0, 500);
        for nothing in ["null", "false", "\"\"", "{ }", "[]", "0"] {
            assert_eq!(
                chunk(&format!(r#"{{"error":{nothing},"choices":[{{}}]}}"#)),
                None,
                "{nothing}"
            );
        }
        for odd in [r#"{"type":"ping"}"#, "{}", r#"{"choices":7}"#, r#"{"choices":[7]}"#] {
            assert_eq!(chunk(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_choice_that_counts_is_the_one_with_index_0() {
        let text = r#"{"choices":[{"index":1,"finish_reason":"error"},{"index":0,"finish_reason":"stop"}]}"#;
        assert_eq!(chunk(text), None);
        let text = r#"{"choices":[{"index":1},{"index":0,"finish_reason":"error"}]}"#;
        assert!(chunk(text).is_some());
        assert_eq!(chunk(r#"{"choices":[{"index":1,"error":"x"}]}"#), None);
    }

    #[test]
    fn an_error_beside_a_choice_that_ended_well_is_not_of_the_answer() {
        let whole = |text: &str| {
            let [error, base_resp, choices] =
                json::pick(text, &["error", "base_resp", "choices"]).unwrap();
            in_answer(text, Signs { error, base_resp, choices }, None)
        };
        let text = |reason: &str| {
            format!(
                r#"{{"error":{{"message":"m"}},"choices":[{{"finish_reason":{reason},"message":{{}}}}]}}"#
            )
        };
        assert_eq!(whole(&text(r#""stop""#)), None);
        for reason in ["null", r#""""#, r#""null""#, r#""error""#] {
            assert!(whole(&text(reason)).is_some(), "{reason}");
        }
        assert_eq!(
            whole(r#"{"choices":[{"finish_reason":"stop"}],"base_resp":{"status_code":0}}"#),
            None
        );
        assert!(
            whole(r#"{"choices":[],"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#)
                .is_some()
        );
    }
}
