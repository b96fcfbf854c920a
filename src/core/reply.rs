//! Reading what an upstream answered to a chat request.

use crate::core::refusal::{self, Refusal};
use crate::core::usage::{self, Merged, Usage};
use serde::Deserialize;
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
}

/// More than in the text of any book, or in the probabilities of every token of an answer.
const MOST_COMMAS: usize = 4_000_000;

/// How an answer of status 2xx reads.
#[derive(Debug, PartialEq)]
pub enum Reading {
    Completion(Completion),
    /// An error inside a 200.
    Refused(Refusal),
    /// Not what an API answers; the text says what it is instead.
    Broken(&'static str),
}

#[derive(Deserialize)]
struct Answer<'a> {
    model: Option<Value>,
    id: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    x_groq: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    finish_reason: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// What an answer says of its use, wherever it does.
fn usage_of(answer: &Answer<'_>, choices: &[Choice<'_>]) -> Usage {
    let mut own = Merged::default();
    answer.x_groq.and_then(|held| usage::held(held.get())).iter().for_each(|held| own.add(held));
    answer.usage.iter().for_each(|usage| own.add(usage.get()));
    let choices = choices.iter().filter_map(|choice| choice.usage);
    let choices: Vec<Merged> = choices.map(|usage| Merged::of(usage.get())).collect();
    let choices: Vec<&Merged> = choices.iter().filter(|usage| !usage.is_empty()).collect();
    Usage::of_answer(&own, &choices)
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
    let answer: Answer = match serde_json::from_str(body) {
        Ok(answer) => answer,
        Err(error) if error.is_eof() => return Reading::Broken("JSON that ends too early"),
        Err(error) if error.is_data() => return Reading::Broken("JSON that is not a completion"),
        Err(_) => return Reading::Broken("something that is not JSON"),
    };
    let error = answer.error.filter(|error| error.get() != "null");
    let choices: Option<Vec<Choice>> =
        answer.choices.and_then(|choices| serde_json::from_str(choices.get()).ok());
    match (error, choices) {
        (Some(error), choices) if choices.as_ref().is_none_or(Vec::is_empty) => {
            Reading::Refused(refusal::inside_200(error.get(), key))
        }
        (_, Some(choices)) => Reading::Completion(Completion {
            served_model: answer.model.as_ref().and_then(word),
            usage: usage_of(&answer, &choices),
            finish_reason: choices.first().and_then(|c| c.finish_reason.as_ref()).and_then(word),
            id: answer.id.as_ref().and_then(word),
        }),
        _ => Reading::Broken("JSON that is not a completion"),
    }
}

/// The text of the first choice of an answer; parts of a multi-part one are joined.
pub fn content(answer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Option<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        content: Option<Value>,
    }
    let answer: Answer = serde_json::from_str(answer).ok()?;
    match answer.choices.into_iter().next()?.message?.content? {
        Value::String(text) => Some(text),
        Value::Array(parts) => {
            Some(parts.iter().filter_map(|part| part["text"].as_str()).collect())
        }
        _ => None,
    }
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(clean_word).filter(|word| !word.is_empty())
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
