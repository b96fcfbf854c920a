//! Anthropic's Messages, so that its models answer as OpenAI's do.
//!
//! The rules are those of Anthropic's documentation; a comment names the page a rule comes from.
//! Where that leaves a choice, this follows Anthropic's own layer for OpenAI's clients (page
//! "OpenAI SDK compatibility"), but refuses what would otherwise change the answer unseen.

mod answer;
mod blank;
pub mod front;
mod messages;
mod request;
mod stream;

use super::{Chunks, Sending, Wire};
use crate::error::Error;
use std::borrow::Cow;

/// Anthropic's Messages.
pub struct Anthropic;

impl Wire for Anthropic {
    fn chat_path(&self) -> &'static str {
        "messages"
    }

    fn embeddings_path(&self) -> Option<&'static str> {
        None
    }

    fn auth_header(&self, key: &str) -> (&'static str, String) {
        ("x-api-key", key.to_owned())
    }

    fn fixed_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("anthropic-version", "2023-06-01")]
    }

    fn request(&self, body: &str, sending: &Sending<'_>) -> Result<String, Error> {
        request::translate(body, sending)
    }

    fn bytes_per_value(&self) -> usize {
        messages::BYTES_PER_VALUE
    }

    fn default_output_tokens(&self) -> Option<i32> {
        Some(request::DEFAULT_MAX_TOKENS)
    }

    fn answer<'a>(&self, body: &'a str) -> Cow<'a, str> {
        answer::translate(body).map_or(Cow::Borrowed(body), Cow::Owned)
    }

    fn stream(&self) -> Box<dyn Chunks> {
        Box::<stream::AnthropicChunks>::default()
    }
}

#[cfg(test)]
mod tests;
