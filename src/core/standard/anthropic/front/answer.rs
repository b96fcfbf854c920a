//! A whole answer: from OpenAI's `chat.completion` to Anthropic's message.

use super::super::answer::text;
use super::usage::{self, MessageUsage};
use super::{Asked, REASONING_CONTENT, UNSIGNED};
use crate::core::estimate::Counter;
use crate::core::{json, reply};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    r#type: &'static str,
    role: &'static str,
    model: String,
    content: Vec<Block<'a>>,
    stop_reason: &'static str,
    /// Which of the stop sequences it was is said nowhere in OpenAI's form.
    stop_sequence: Option<&'static str>,
    usage: MessageUsage,
    /// What the gateway adds to every answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    Made(Made),
    /// A Claude's own thinking, whose signature covers it.
    Own(Box<RawValue>),
    Call(ToolUse<'a>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Made {
    Text { text: String },
    Thinking { thinking: String, signature: String },
}

#[derive(Serialize)]
struct ToolUse<'a> {
    r#type: &'static str,
    id: String,
    name: String,
    input: Cow<'a, RawValue>,
}

/// The answer as a message. `None`: it is no completion with a choice.
pub fn message(completion: &str, asked: &Asked<'_>) -> Option<String> {
    let completion = json::answer_for_jsonb(completion);
    let names = ["id", "model", "choices", "aggregator"];
    let [id, model, choices, aggregator] = json::pick(&completion, &names).ok()?;
    let mut first = None;
    json::each_item(choices?.get(), |choice| first = first.or(Some(choice)));
    let [message, finish_reason] = json::pick(first?.get(), &["message", "finish_reason"]).ok()?;
    let mut read = Reader { asked, content: Vec::new(), calls: 0, output: Counter::default() };
    let is_refusal = read.message(message?)?;
    let finish_reason = finish_reason.and_then(text);
    let stop_reason = stop_reason(finish_reason.as_deref(), read.calls > 0, is_refusal);
    let used = reply::usage(&completion);
    let message = Message {
        id: asked.message_id(id.and_then(text)),
        r#type: "message",
        role: "assistant",
        model: model
            .and_then(text)
            .filter(|model| !model.is_empty())
            .unwrap_or_else(|| asked.model.to_owned()),
        usage: usage::of(&used, asked.prompt_tokens, read.output.tokens()),
        content: read.content,
        stop_reason,
        stop_sequence: None,
        aggregator,
    };
    serde_json::to_string(&message).ok()
}

/// "Handling stop reasons". Some servers say `stop` after a call.
pub(super) fn stop_reason(
    finish_reason: Option<&str>,
    has_calls: bool,
    is_refusal: bool,
) -> &'static str {
    match finish_reason {
        Some("length") => "max_tokens",
        Some("content_filter") => "refusal",
        _ if has_calls => "tool_use",
        _ if is_refusal => "refusal",
        _ => "end_turn",
    }
}

struct Reader<'a, 'q> {
    asked: &'q Asked<'q>,
    content: Vec<Block<'a>>,
    calls: usize,
    output: Counter,
}

impl<'a> Reader<'a, '_> {
    /// Whether the model says that it refuses. `None`: it is no message.
    fn message(&mut self, message: &'a RawValue) -> Option<bool> {
        let names = [
            "content",
            "reasoning_content",
            "reasoning",
            "thinking_blocks",
            "refusal",
            "tool_calls",
            "function_call",
        ];
        let [content, reasoning_content, reasoning, thinking, refusal, calls, older] =
            json::pick(message.get(), &names).ok()?;
        let mut has_own = false;
        if let Some(thinking) = thinking {
            json::each_item(thinking.get(), |block| {
                if let Some(own) = own_thinking(block) {
                    self.content.push(Block::Own(own));
                    has_own = true;
                }
            });
        }
        // The same comes under two names from some: once is enough.
        let said =
            |member: Option<&RawValue>| member.and_then(text).filter(|text| !text.is_empty());
        let others = said(reasoning_content).map(|thought| (thought, REASONING_CONTENT));
        let others = others.or_else(|| said(reasoning).map(|thought| (thought, "reasoning")));
        if let Some((thinking, member)) = others {
            self.output.add(&thinking);
            if !has_own {
                let signature = format!("{UNSIGNED}{member}");
                self.content.push(Block::Made(Made::Thinking { thinking, signature }));
            }
        }
        let refusal = said(refusal);
        let is_refusal = refusal.is_some();
        for text in content.and_then(text_of).into_iter().chain(refusal) {
            self.output.add(&text);
            self.content.push(Block::Made(Made::Text { text }));
        }
        if let Some(calls) = calls {
            json::each_item(calls.get(), |call| {
                let Ok([id, function]) = json::pick(call.get(), &["id", "function"]) else {
                    return;
                };
                self.call(id.and_then(text), function);
            });
        }
        if older.is_some() {
            self.call(None, older);
        }
        Some(is_refusal)
    }

    fn call(&mut self, id: Option<String>, function: Option<&'a RawValue>) {
        let Some(function) = function else { return };
        let Ok([name, arguments]) = json::pick(function.get(), &["name", "arguments"]) else {
            return;
        };
        // Without a name nothing can be called.
        let Some(name) = name.and_then(text) else { return };
        self.output.add(arguments.map_or("", RawValue::get));
        let Some(input) = input(arguments) else { return };
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| self.asked.call_id(self.calls));
        self.calls += 1;
        self.content.push(Block::Call(ToolUse { r#type: "tool_use", id, name, input }));
    }
}

/// The text of a content, which is a text or a list of parts. `None`: it says nothing.
fn text_of(content: &RawValue) -> Option<String> {
    let said = text(content).unwrap_or_else(|| {
        let mut texts = String::new();
        json::each_item(content.get(), |part| {
            if let Ok([said]) = json::pick(part.get(), &["text"]) {
                texts.extend(said.and_then(text));
            }
        });
        texts
    });
    Some(said).filter(|said| !said.is_empty())
}

/// A block of `thinking_blocks`, without the `index` that a stream's has.
pub(super) fn own_thinking(block: &RawValue) -> Option<Box<RawValue>> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(block.get()).ok()?;
    let kind = members.get("type").copied().and_then(text);
    if !matches!(kind.as_deref(), Some("thinking" | "redacted_thinking")) {
        return None;
    }
    match members.remove("index") {
        Some(_) => to_raw_value(&members).ok(),
        None => Some(block.to_owned()),
    }
}

/// The object of a call's arguments, digit for digit. A model that has written none has been paid for it
/// all the same: what it wrote stands under a name that no tool has, so that the client can tell it what
/// it misses.
fn input(arguments: Option<&RawValue>) -> Option<Cow<'_, RawValue>> {
    let Some(arguments) = arguments else {
        return RawValue::from_string("{}".to_owned()).ok().map(Cow::Owned);
    };
    if arguments.get().starts_with('{') {
        return Some(Cow::Borrowed(arguments));
    }
    let said = text(arguments).unwrap_or_else(|| arguments.get().to_owned());
    let trimmed = if said.trim().is_empty() { "{}" } else { said.trim() };
    let object = RawValue::from_string(trimmed.to_owned()).ok();
    match object.filter(|object| object.get().starts_with('{')) {
        Some(object) => Some(Cow::Owned(object)),
        None => {
            #[derive(Serialize)]
            struct Invalid<'a> {
                invalid_arguments: &'a str,
            }
            to_raw_value(&Invalid { invalid_arguments: &said }).ok().map(Cow::Owned)
        }
    }
}
