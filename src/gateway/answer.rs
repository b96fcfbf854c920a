//! What a whole answer says.

use crate::core::embedding::{self, Wanted};
use crate::core::reply::{self, Completion, Reading};
use crate::core::standard::Standard;
use crate::core::usage::Usage;
use crate::core::{calls, json, mend, refusal};
use crate::error::Refusal;
use http::StatusCode;
use std::borrow::Cow;

/// What an answer without a choice says.
const NO_CHOICE: &str = r#"{"code":502,"message":"the answer has no choice"}"#;

/// How a whole answer reads.
pub enum Read {
    Completion {
        completion: Completion,
        /// Fit for `jsonb`.
        response: String,
        /// The same in another form, where one is wanted.
        other: String,
    },
    /// And what it has used all the same, as has one that is broken.
    Refused(Refusal, Usage),
    Broken(String, Usage),
}

/// In which form an answer is wanted, beside OpenAI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Response,
    /// What it says.
    Text,
    /// The provider's own.
    Native,
}

pub fn read_answer(
    standard: Standard,
    status: StatusCode,
    body: &str,
    key: &str,
    form: Form,
) -> Read {
    if let Some(read) = unsuccessful(status, body, key) {
        return read;
    }
    let own = mend::json(body);
    let body = standard.wire().answer(&own);
    let is_translated = matches!(body, Cow::Owned(_));
    match reply::read(&body, Some(key)) {
        Reading::Completion(completion) if completion.has_choice => {
            let response = json::answer_for_jsonb(&body);
            let response = calls::completed(&response).into_owned();
            let other = match form {
                Form::Response => String::new(),
                Form::Text => reply::content(&response).unwrap_or_default(),
                Form::Native if is_translated => json::answer_for_jsonb(&own).into_owned(),
                // It is of another form than its provider's.
                Form::Native => String::new(),
            };
            Read::Completion { completion, response, other }
        }
        // OpenRouter gives such answers where the provider behind it gave nothing.
        Reading::Completion(completion) => {
            Read::Refused(refusal::inside_200(NO_CHOICE, None), completion.usage)
        }
        Reading::Refused(refusal) => Read::Refused(refusal, reply::usage(&body)),
        Reading::Broken(what) => {
            Read::Broken(refusal::instead(what, &body, Some(key)), Usage::default())
        }
    }
}

/// The same of an answer that must have these embeddings.
pub fn read_embeddings(status: StatusCode, body: &str, key: &str, wanted: Wanted) -> Read {
    if let Some(read) = unsuccessful(status, body, key) {
        return read;
    }
    let body = mend::json(body);
    match embedding::answer::read(&body, wanted, Some(key)) {
        embedding::answer::Reading::Embeddings { completion, response } => {
            Read::Completion { completion, response, other: String::new() }
        }
        embedding::answer::Reading::Refused(refusal) => Read::Refused(refusal, reply::usage(&body)),
        embedding::answer::Reading::Broken(what) => {
            // Too few vectors, or shorter ones, have their price all the same.
            let usage = embedding::answer::usage(&body);
            Read::Broken(refusal::instead(&what, &body, Some(key)), usage)
        }
    }
}

/// What an answer of another status than success says.
fn unsuccessful(status: StatusCode, body: &str, key: &str) -> Option<Read> {
    if status.is_redirection() {
        let what = "a redirect, which is never followed".to_owned();
        return Some(Read::Broken(what, Usage::default()));
    }
    (!status.is_success())
        .then(|| Read::Refused(refusal::read(status.as_u16(), body, Some(key)), Usage::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The completion's tokens of the prompt, and the answer in the provider's own form.
    fn native(body: &str) -> Option<(i32, String)> {
        match read_answer(Standard::Anthropic, StatusCode::OK, body, "sk-k", Form::Native) {
            Read::Completion { completion, other, .. } => {
                Some((completion.usage.parts.map_or(0, |parts| parts.prompt()), other))
            }
            Read::Refused(..) | Read::Broken(..) => None,
        }
    }

    #[test]
    fn an_answer_goes_as_it_came_and_to_the_ledger() {
        let body = r#"{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[
            {"type":"server_tool_use","id":"s","name":"web_search","input":{}},{"type":"text","text":"x",
            "citations":[{"n":1.50}]}],"stop_reason":"pause_turn","container":{"id":"c"},
            "usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":7}}"#;
        assert_eq!(native(body), Some((15, body.to_owned())));
        // OpenAI's form from a provider that should speak another is not passed on as that.
        let other = r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
        assert_eq!(native(other), Some((3, String::new())));
        for bad in
            ["", "<html>", r#"{"choices":[]}"#, r#"{"type":"error","error":{"type":"api_error"}}"#]
        {
            assert_eq!(native(bad), None, "{bad}");
        }
    }
}
