//! OpenAI's Responses in front of chat completions, without any memory: the Codex CLI speaks nothing else, and it is
//! what the AI SDK's OpenAI provider speaks unless it is told otherwise.
//!
//! A request becomes one of chat, and the chunks of its answer become the events of a response. Whatever needs what
//! was stored by an earlier request is refused: nothing is.

mod input;
mod item;
mod output;
mod request;
pub mod stream;
#[cfg(test)]
mod tests;
mod tools;

pub use request::Asked;

use crate::core::front::failure::Failure;
use serde_json::value::RawValue;

/// Of a request, what its answer needs.
#[derive(Debug, Default)]
pub struct About {
    /// Members that the response repeats.
    echo: Vec<(&'static str, Box<RawValue>)>,
    names: tools::Names,
    /// The client keeps reasoning, and sends it back as it came (`include: ["reasoning.encrypted_content"]`).
    wants_sealed: bool,
}

impl About {
    /// The request's `metadata`.
    pub fn metadata(&self) -> Option<&RawValue> {
        self.echo.iter().find(|(name, _)| *name == "metadata").map(|(_, value)| &**value)
    }
}

/// How `encrypted_content` of ours begins. Behind it stands, as JSON, what a provider wants back of its reasoning:
/// it is the caller's own answer, and nothing that would have to be hidden.
const SEAL: &str = "aggregator.1:";
/// The members of a message that carry reasoning with its signatures: Anthropic's form of it here, OpenRouter's, and
/// the plain text that DeepSeek and others want back while tools are called.
const CARRIED: [&str; 3] = ["thinking_blocks", "reasoning_details", "reasoning_content"];

/// The code of a failed response. Codex ends a turn on the first two and on `invalid_prompt`, waits as a rate limit's
/// message says, and sends the request again for all others (codex-api, `sse/responses.rs`).
fn code(failure: &Failure) -> &'static str {
    match (failure.code(), failure.status) {
        (Some("context_length_exceeded"), _) => "context_length_exceeded",
        (_, 402) => "insufficient_quota",
        (_, 429) => "rate_limit_exceeded",
        (_, 408) => "server_error",
        (_, 400..=499) => "invalid_prompt",
        // What cannot be done at all.
        (_, 501) => "invalid_prompt",
        _ => "server_error",
    }
}

/// The message of a failed response, with the wait in the words that Codex reads.
fn message(failure: &Failure) -> String {
    match failure.wait() {
        Some(wait) if failure.status == 429 => {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            format!("{}. Please try again in {seconds}s.", failure.message())
        }
        _ => failure.message().to_owned(),
    }
}
