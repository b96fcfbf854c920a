//! Anthropic's Messages in front of every provider: the inverse of what this folder does towards
//! providers that speak it.
//!
//! A request is read once ([`request::Incoming`]) and goes out in one of two forms. To a provider of
//! OpenAI's form it becomes the chat body that the gateway takes from a session, and the answer
//! becomes a message ([`answer`], [`stream`]). To a provider that speaks Anthropic it goes as it came
//! ([`native`]), because the chat form has no place for:
//!
//! - `thinking` with its budget and display, the signatures of thinking, `top_k`, `context_management`,
//!   `container`, `mcp_servers`, `inference_geo`, `speed`, `output_config.task_budget`, betas;
//! - where a `cache_control` stands, but for models that are known to be Claude;
//! - tools that run at Anthropic or whose schema only its models know, and their results;
//! - documents by URL or of the Files API, citations, `is_error` of a tool's result, the order of
//!   texts and calls within one turn.
//!
//! The first two are left out for other providers, for they only tune; the tools and documents are
//! refused, because without them the answer would be another one.

pub mod answer;
mod conversation;
pub mod count;
pub mod events;
pub mod models;
pub mod native;
mod parts;
pub mod request;
pub mod stream;
pub mod usage;
pub mod version;

use crate::core::reply::clean_word;

/// What the `signature` of a thinking block begins with that no Claude has written: the rest names the
/// member of OpenAI's form that its text came in. Clients send blocks back as they got them, so that
/// whoever reads it next knows whose it is.
const UNSIGNED: &str = "aggregator/";
const REASONING_CONTENT: &str = "reasoning_content";

/// Of the call's id, what goes into ids that are made here. OpenAI takes ids of tool calls of up to
/// 40 characters ("messages[].tool_calls[].id: string too long").
const LONGEST_ID: usize = 28;

/// What an answer needs beside itself.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The id of the call.
    pub id: &'a str,
    /// The model that the client asked for.
    pub model: &'a str,
    /// About how many tokens went in, where the upstream does not count ([`count::tokens`]).
    pub prompt_tokens: i32,
}

impl Asked<'_> {
    /// The letters and digits of the call's id.
    fn word(&self) -> String {
        self.id.chars().filter(char::is_ascii_alphanumeric).take(LONGEST_ID).collect()
    }

    /// The id of the message: the upstream's where it is one of Anthropic's.
    fn message_id(&self, upstream: Option<String>) -> String {
        let upstream = upstream.map(|id| clean_word(&id)).filter(|id| id.starts_with("msg_"));
        upstream.unwrap_or_else(|| format!("msg_{}", self.word()))
    }

    /// The id of a tool's call that the upstream gave none.
    fn call_id(&self, place: usize) -> String {
        format!("toolu_{}_{place}", self.word())
    }
}

/// Whether a thinking block of this signature can be shown to a Claude: it checks its own signature,
/// and refuses a request with another ("Invalid `signature` in `thinking` block").
fn is_signed(signature: Option<&str>) -> bool {
    signature.is_some_and(|signature| !signature.is_empty() && !signature.starts_with(UNSIGNED))
}

#[cfg(test)]
mod tests;
