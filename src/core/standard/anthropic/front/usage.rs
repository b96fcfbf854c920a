//! What a call has used, in Anthropic's form: its input excludes what came of the cache and what was
//! written to it.

use crate::core::usage::Usage;
use serde::Serialize;

/// `usage` of a message, and of the event at the end of a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageUsage {
    input_tokens: i32,
    cache_creation_input_tokens: i32,
    cache_read_input_tokens: i32,
    /// What was written for five minutes and what for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<CacheCreation>,
    output_tokens: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_tool_use: Option<ServerToolUse>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: i32,
    ephemeral_1h_input_tokens: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct ServerToolUse {
    web_search_requests: i32,
}

/// From what an upstream has counted. Clients take no message without numbers, so that what it has not
/// counted is estimated: the tokens of the prompt, and those of the answer.
pub fn of(usage: &Usage, prompt_tokens: i32, answer_tokens: i32) -> MessageUsage {
    let Some(parts) = usage.input() else {
        return MessageUsage {
            input_tokens: prompt_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: 0,
            cache_creation: None,
            output_tokens: answer_tokens,
            server_tool_use: None,
        };
    };
    let written = parts.cache_write.saturating_add(parts.cache_write_1h);
    MessageUsage {
        input_tokens: parts.input.saturating_add(parts.audio_input),
        cache_creation_input_tokens: written,
        cache_read_input_tokens: parts.cache_read,
        cache_creation: (written > 0).then_some(CacheCreation {
            ephemeral_5m_input_tokens: parts.cache_write,
            ephemeral_1h_input_tokens: parts.cache_write_1h,
        }),
        output_tokens: usage.parts.map_or(answer_tokens, |parts| parts.completion()),
        server_tool_use: (parts.web_search > 0)
            .then_some(ServerToolUse { web_search_requests: parts.web_search }),
    }
}
