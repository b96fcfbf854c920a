//! What a whole answer says.

use crate::core::reply::{self, Completion, Reading};
use crate::core::standard::Standard;
use crate::core::usage::Usage;
use crate::core::{calls, json, mend, refusal};
use crate::error::Refusal;
use http::StatusCode;

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
    /// And what it has used all the same.
    Refused(Refusal, Usage),
    Broken(String),
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
    if status.is_redirection() {
        return Read::Broken("a redirect, which is never followed".to_owned());
    }
    if !status.is_success() {
        return Read::Refused(refusal::read(status.as_u16(), body, Some(key)), Usage::default());
    }
    let own = mend::json(body);
    let body = standard.wire().answer(&own);
    match reply::read(&body, Some(key)) {
        Reading::Completion(completion) if completion.has_choice => {
            let response = json::answer_for_jsonb(&body);
            let response = calls::completed(&response).into_owned();
            let other = match form {
                Form::Response => String::new(),
                Form::Text => reply::content(&response).unwrap_or_default(),
                Form::Native => json::answer_for_jsonb(&own).into_owned(),
            };
            Read::Completion { completion, response, other }
        }
        // OpenRouter gives such answers where the provider behind it gave nothing.
        Reading::Completion(completion) => {
            Read::Refused(refusal::inside_200(NO_CHOICE, None), completion.usage)
        }
        Reading::Refused(refusal) => Read::Refused(refusal, reply::usage(&body)),
        Reading::Broken(what) => Read::Broken(refusal::instead(what, &body, Some(key))),
    }
}
