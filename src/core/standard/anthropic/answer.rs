//! A whole answer: from Anthropic's message to OpenAI's `chat.completion`.

use crate::core::usage::Usage;
use crate::core::{json, mend};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Completion<'a> {
    id: Option<&'a RawValue>,
    object: &'static str,
    /// Anthropic does not say when.
    created: u8,
    model: Option<&'a RawValue>,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u8,
    message: Answer<'a>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Answer<'a> {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    /// As they came, for the caller to send back: their signature covers every byte.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thinking_blocks: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Serialize)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// The answer in OpenAI's form; `None` where `body` is no message of Anthropic's. What is not of the form that it
/// should have is left out, and does not cost the rest.
pub(super) fn translate(body: &str) -> Option<String> {
    if !mend::is_json(body) {
        return None;
    }
    // First, because a lone surrogate can be repaired in the text but not read into a string.
    let body = json::answer_for_jsonb(body);
    let names = ["type", "role", "id", "model", "content", "stop_reason", "usage"];
    let [kind, role, id, model, content, stop_reason, usage] = json::pick(&body, &names).ok()?;
    match (kind.and_then(text).as_deref(), role.and_then(text).as_deref()) {
        (Some("message"), _) | (None, Some("assistant")) => {}
        _ => return None,
    }
    let stop_reason = stop_reason.and_then(text);
    let (usage, service_tier) = usage.map(openai_usage).unwrap_or_default();
    let completion = Completion {
        id,
        object: "chat.completion",
        created: 0,
        model,
        choices: [Choice {
            index: 0,
            message: answer(content?)?,
            finish_reason: stop_reason.as_deref().map(finish_reason),
        }],
        usage,
        service_tier,
    };
    serde_json::to_string(&completion).ok()
}

/// What a string of JSON says.
pub(super) fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Server tools and whatever else OpenAI's form has no place for are left out.
fn answer(content: &RawValue) -> Option<Answer<'_>> {
    let mut answer = Answer { role: "assistant", ..Answer::default() };
    let mut is_whole = true;
    let is_list = json::each_item(content.get(), |raw| {
        let names = ["type", "text", "thinking", "id", "name", "input"];
        let Ok([kind, said, thinking, id, name, input]) = json::pick(raw.get(), &names) else {
            return;
        };
        match kind.and_then(text).as_deref() {
            Some("text") => {
                let content = answer.content.get_or_insert_default();
                content.extend(said.and_then(text));
            }
            Some("thinking") => {
                answer.reasoning_content.extend(thinking.and_then(text));
                answer.thinking_blocks.push(raw);
            }
            Some("redacted_thinking") => answer.thinking_blocks.push(raw),
            Some("tool_use") => match name.and_then(text) {
                Some(name) => answer.tool_calls.push(ToolCall {
                    id: id.and_then(text),
                    r#type: "function",
                    function: Function {
                        name,
                        arguments: input.map_or("{}", RawValue::get).to_owned(),
                    },
                }),
                // Whoever asked for a tool cannot go on without its name.
                None => is_whole = false,
            },
            _ => {}
        }
    });
    if answer.tool_calls.is_empty() {
        answer.content.get_or_insert_default();
    }
    (is_list && is_whole).then_some(answer)
}

/// "Handling stop reasons".
pub(super) fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// A `usage` of OpenAI's form. What is not known is left out: unknown is not 0.
#[derive(Serialize)]
pub(super) struct OpenAiUsage<'a> {
    prompt_tokens: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens: Option<i64>,
    prompt_tokens_details: PromptDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionDetails>,
    /// What was written for five minutes and what for an hour: their prices differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_tool_use: Option<&'a RawValue>,
    /// Of relays that speak Anthropic's form.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_byok: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_details: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: i32,
    cache_write_tokens: i32,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: i32,
}

/// Anthropic's `usage` in OpenAI's form, and the service tier in it. `None` where the counts make
/// no sense: missing, not zero.
pub(super) fn openai_usage(usage: &RawValue) -> (Option<OpenAiUsage<'_>>, Option<&RawValue>) {
    #[derive(Deserialize)]
    struct Kept<'a> {
        #[serde(borrow)]
        cache_creation: Option<&'a RawValue>,
        #[serde(borrow)]
        server_tool_use: Option<&'a RawValue>,
        #[serde(borrow)]
        service_tier: Option<&'a RawValue>,
        #[serde(borrow)]
        cost: Option<&'a RawValue>,
        #[serde(borrow)]
        is_byok: Option<&'a RawValue>,
        #[serde(borrow)]
        cost_details: Option<&'a RawValue>,
    }
    let Ok(kept) = serde_json::from_str::<Kept>(usage.get()) else { return (None, None) };
    let read = Usage::parse(usage.get());
    let usage = read.input().map(|input| {
        let completion = read.parts.map(|parts| parts.completion());
        OpenAiUsage {
            prompt_tokens: input.prompt(),
            completion_tokens: completion,
            total_tokens: completion.map(|out| i64::from(input.prompt()) + i64::from(out)),
            prompt_tokens_details: PromptDetails {
                cached_tokens: input.cache_read,
                cache_write_tokens: input.cache_write.saturating_add(input.cache_write_1h),
            },
            completion_tokens_details: (input.reasoning > 0)
                .then_some(CompletionDetails { reasoning_tokens: input.reasoning }),
            cache_creation: kept.cache_creation,
            server_tool_use: kept.server_tool_use,
            cost: kept.cost,
            is_byok: kept.is_byok,
            cost_details: kept.cost_details,
        }
    });
    (usage, kept.service_tier)
}
