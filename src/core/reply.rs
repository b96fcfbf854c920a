//! Reading what an upstream answered to a chat request.

use crate::core::failure::{self, Signs};
use crate::core::json::{self, Pairs};
use crate::core::refusal::{self, Refusal};
use crate::core::usage::{self, HOLDERS, Merged, Usage};
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest upstream id or code that is kept.
const MAX_WORD: usize = 128;

/// What matters of a successful answer, for the ledger.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completion {
    /// The model that really answered.
    pub served_model: Option<String>,
    pub usage: Usage,
    pub finish_reason: Option<String>,
    /// The upstream's id of the answer.
    pub id: Option<String>,
    pub has_choice: bool,
}

/// More than in the text of any book, or in the probabilities of every token of an answer.
const MOST_COMMAS: usize = 4_000_000;

/// As many as OpenAI gives, of which the usage is added up.
const MOST_CHOICES: usize = 128;

/// How an answer of status 2xx reads.
#[derive(Debug, PartialEq)]
pub enum Reading {
    Completion(Completion),
    /// An error inside a 200.
    Refused(Refusal),
    /// Not what an API answers; the text says what it is instead.
    Broken(&'static str),
}

/// Reads the body of a 2xx answer. `key` is removed from whatever is repeated.
pub fn read(body: &str, key: Option<&str>) -> Reading {
    // Readers take many times the room of small values; their number is at most that of commas.
    if body.bytes().filter(|byte| *byte == b',').count() > MOST_COMMAS {
        return Reading::Broken("more values than an answer has");
    }
    let trimmed = body.trim_start();
    if trimmed.is_empty() {
        return Reading::Broken("an empty body");
    }
    if trimmed.starts_with('<') {
        return Reading::Broken("HTML instead of JSON");
    }
    // An array with an error in it (Gemini).
    if trimmed.starts_with('[')
        && let Some(refusal) = refusal::inside_success(body, key)
    {
        return Reading::Refused(refusal);
    }
    let names = ["model", "id", "choices", "error", "base_resp"];
    let [model, id, choices, error, base_resp] = match json::pick(body, &names) {
        Ok(members) => members,
        Err(error) if error.is_eof() => return Reading::Broken("JSON that ends too early"),
        Err(error) if error.is_data() => return Reading::Broken("JSON that is not a completion"),
        Err(_) => return Reading::Broken("something that is not JSON"),
    };
    if let Some(refusal) = failure::in_answer(body, Signs { error, base_resp, choices }, key) {
        return Reading::Refused(refusal);
    }
    let mut first = None;
    let are_choices = choices.is_some_and(|choices| {
        json::each_item(choices.get(), |choice| first = first.or(Some(choice)))
    });
    if !are_choices {
        return Reading::Broken("JSON that is not a completion");
    }
    let reason = first.and_then(|choice| json::pick(choice.get(), &["finish_reason"]).ok());
    Reading::Completion(Completion {
        served_model: model.and_then(word),
        usage: usage(body),
        finish_reason: reason.and_then(|[reason]| word(reason?)).filter(|reason| reason != "null"),
        id: id.and_then(word),
        has_choice: first.is_some(),
    })
}

/// An answer with our object `aggregator` as its last member. The cost is spliced in as text: a number that
/// never was a float.
pub fn with_member(response: &str, about: &Value, cost: Option<&str>) -> String {
    let about = about.to_string();
    let cost = cost.unwrap_or("null");
    let end = response.rfind('}').unwrap_or(response.len());
    let about = about.trim_end_matches('}');
    format!("{},\"aggregator\":{about},\"cost\":{cost}}}}}", &response[..end])
}

/// What an answer says of its use, wherever and however often it does.
pub fn usage(answer: &str) -> Usage {
    let mut own = Merged::default();
    match serde_json::from_str(answer) {
        Ok(Pairs(members)) => {
            let held = members.iter().filter(|(name, _)| HOLDERS.contains(&name.as_str()));
            held.filter_map(|(_, held)| usage::held(held.get())).for_each(|held| own.add(&held));
            let usages = members.iter().filter(|(name, _)| name == "usage");
            usages.for_each(|(_, usage)| own.add(usage.get()));
        }
        // One of its names is no text.
        Err(_) => {
            if let Ok([Some(usage)]) = json::pick(answer, &["usage"]) {
                own.add(usage.get());
            }
        }
    }
    let mut choices = Vec::new();
    if let Ok([Some(list)]) = json::pick(answer, &["choices"]) {
        json::each_item(list.get(), |choice| {
            if choices.len() < MOST_CHOICES
                && let Ok([Some(usage)]) = json::pick(choice.get(), &["usage"])
            {
                choices.push(Merged::of(usage.get()));
            }
        });
    }
    let choices: Vec<&Merged> = choices.iter().filter(|usage| !usage.is_empty()).collect();
    Usage::of_answer(&own, &choices)
}

/// Why the first choice of an answer ended.
pub fn finish_reason(answer: &str) -> Option<String> {
    let [choices] = json::pick(answer, &["choices"]).ok()?;
    let mut first = None;
    json::each_item(choices?.get(), |choice| first = first.or(Some(choice)));
    let [reason] = json::pick(first?.get(), &["finish_reason"]).ok()?;
    word(reason?)
}

/// The text of the first choice of an answer; parts of a multi-part one are joined.
pub fn content(answer: &str) -> Option<String> {
    let [choices] = json::pick(answer, &["choices"]).ok()?;
    let mut first = None;
    json::each_item(choices?.get(), |choice| first = first.or(Some(choice)));
    let [message] = json::pick(first?.get(), &["message"]).ok()?;
    let [content] = json::pick(message?.get(), &["content"]).ok()?;
    if let Ok(text) = serde_json::from_str(content?.get()) {
        return Some(text);
    }
    let mut texts = String::new();
    let is_list = json::each_item(content?.get(), |part| {
        if let Ok([Some(text)]) = json::pick(part.get(), &["text"]) {
            texts.extend(serde_json::from_str::<String>(text.get()));
        }
    });
    is_list.then_some(texts)
}

/// The JSON of an answer that was checked.
pub fn parsed(answer: &str) -> Option<String> {
    let [parsed] = json::pick(answer, &["parsed"]).ok()?;
    // Null is an answer too.
    Some(parsed.map_or("null", RawValue::get).to_owned())
}

fn word(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    Some(clean_word(&text)).filter(|word| !word.is_empty())
}

/// An id or name from outside, cut and without control characters (a NUL would end a `text`).
pub fn clean_word(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_completion() {
        let body = r#"{"id":"gen-1","model":"m-2","choices":[{"finish_reason":"stop","message":{}}],
                       "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let Reading::Completion(c) = read(body, None) else { panic!() };
        assert_eq!(c.served_model.as_deref(), Some("m-2"));
        assert_eq!(c.finish_reason.as_deref(), Some("stop"));
        assert_eq!(c.usage.parts.unwrap().prompt(), 3);
    }

    #[test]
    fn an_error_inside_a_200_is_a_refusal() {
        let body = r#"{"error":{"code":429,"message":"slow down","metadata":{}}}"#;
        let Reading::Refused(r) = read(body, None) else { panic!() };
        assert_eq!((r.status, r.message.as_deref()), (429, Some("slow down")));
        let Reading::Refused(r) = read(r#"{"error":"boom","choices":[]}"#, None) else { panic!() };
        assert_eq!(r.status, 502);
        assert!(matches!(read(r#"{"error":null,"choices":[{}]}"#, None), Reading::Completion(_)));
    }

    #[test]
    fn members_that_are_given_twice_or_of_another_form_do_not_cost_the_answer() {
        let body = r#"{"model":"a","model":"b","id":7,"choices":[{"finish_reason":"length",
            "finish_reason":"stop","message":{"content":"x","content":"y"}},8],
            "usage":{"prompt_tokens":1},"usage":{"prompt_tokens":3,"completion_tokens":4},"usage":null}"#;
        let Reading::Completion(c) = read(body, None) else { panic!() };
        assert_eq!((c.served_model.as_deref(), c.id, c.has_choice), (Some("b"), None, true));
        assert_eq!(c.finish_reason.as_deref(), Some("stop"));
        assert_eq!(c.usage.parts.unwrap().prompt(), 3);
        assert_eq!(content(body).as_deref(), Some("y"));
        let parts =
            r#"{"choices":[{"message":{"content":[{"text":"x"},7,{"text":null},{"text":"y"}]}}]}"#;
        assert_eq!(content(parts).as_deref(), Some("xy"));
        for none in ["{}", r#"{"choices":[]}"#, r#"{"choices":[{"message":{"content":null}}]}"#] {
            assert_eq!(content(none), None, "{none}");
        }
        let Reading::Completion(c) = read(r#"{"choices":[]}"#, None) else { panic!() };
        assert!(!c.has_choice);
    }

    #[test]
    fn an_error_of_any_form_inside_a_200_is_a_refusal() {
        for (body, status, words) in [
            (
                r#"{"choices":[{"finish_reason":"error","error":{"code":502,"message":"upstream died"},"message":{"content":""}}]}"#,
                502,
                "upstream died",
            ),
            (
                r#"{"choices":[{"finish_reason":"error","message":{"content":"so far"}}]}"#,
                502,
                "the choice ends with the reason 'error'",
            ),
            (
                r#"{"error":{"message":"upstream died"},"choices":[{"message":{"content":""},"finish_reason":null}]}"#,
                502,
                "upstream died",
            ),
            (
                r#"{"choices":null,"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#,
                429,
                "rate limit",
            ),
            (r#"[{"error":{"code":429,"message":"slow down"}}]"#, 429, "slow down"),
        ] {
            let Reading::Refused(refusal) = read(body, None) else { panic!("{body}") };
            assert_eq!(
                (refusal.status, refusal.message.as_deref()),
                (status, Some(words)),
                "{body}"
            );
        }
    }

    #[test]
    fn what_is_not_an_answer_is_named() {
        for (body, what) in [
            ("", "an empty body"),
            ("<html>", "HTML instead of JSON"),
            (r#"{"choices":[{"mess"#, "JSON that ends too early"),
            ("[1,2]", "JSON that is not a completion"),
            ("{}", "JSON that is not a completion"),
            (r#"{"choices":7}"#, "JSON that is not a completion"),
            (&format!("[{}1]", "1,".repeat(MOST_COMMAS + 1)), "more values than an answer has"),
            ("gateway timeout", "something that is not JSON"),
            (r#"{"model":"a","model":"b"}"#, "JSON that is not a completion"),
        ] {
            assert_eq!(read(body, None), Reading::Broken(what), "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(body in "\\PC*", json in "[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = (read(&body, Some("k")), read(&json, None));
        }
    }
}
