//! A streamed answer: from Anthropic's events to OpenAI's `chat.completion.chunk`
//! (page "Streaming messages").

use super::answer::{OpenAiUsage, finish_reason, openai_usage, text};
use crate::core::sse::Event;
use crate::core::standard::{Chunks, Step};
use crate::core::usage::Merged;
use crate::core::{json, mend, refusal, reply, secret};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// Reads one stream.
#[derive(Default)]
pub(super) struct AnthropicChunks {
    id: Option<String>,
    model: Option<String>,
    /// `message_start` has the input's counts, `message_delta` the output's, all cumulative: the
    /// later of two wins, but for zeros.
    usage: Merged,
    /// The blocks that have begun and not ended, by their index.
    open: BTreeMap<u64, Open>,
    tool_calls: u32,
    thinking_blocks: u32,
}

/// A block that is being sent.
enum Open {
    Tool {
        index: u32,
        /// Some upstreams give the whole input at the start instead of in deltas.
        input: String,
        streamed: bool,
    },
    /// As it is written, since half a character may stand at the end of a piece.
    Thinking { thinking: String, signature: String },
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: Option<&'a str>,
    object: &'static str,
    /// Anthropic does not say when.
    created: u8,
    model: Option<&'a str>,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a RawValue>,
}

#[derive(Default, Serialize)]
struct Choice<'a> {
    index: u8,
    delta: Delta<'a>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_blocks: Option<[ThinkingBlock<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

/// A whole block, for the caller to send back. It is sent at its end, when its signature is known;
/// its text has been sent as `reasoning_content` by then. The `index` counts these blocks.
#[derive(Serialize)]
struct ThinkingBlock<'a> {
    index: u32,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a RawValue,
}

impl Chunks for AnthropicChunks {
    fn read(&mut self, event: &Event, key: Option<&str>) -> Step {
        let data = event.data.trim();
        if data.is_empty() {
            return Step::Nothing;
        }
        // Relays end their streams as OpenAI does.
        if data == "[DONE]" {
            return Step::Done;
        }
        let data = mend::json(data);
        let kind = match json::pick(&data, &["type"]) {
            Ok([kind]) => kind.and_then(text),
            Err(_) if event.name.as_deref() == Some("error") => Some("error".to_owned()),
            // A number, a list.
            Err(_) if mend::is_json(&data) => return Step::Nothing,
            Err(_) => return Step::Broken("an event that is not JSON"),
        };
        let step = match kind.as_deref().or(event.name.as_deref()) {
            Some("message_start") => self.message_start(&data),
            Some("content_block_start") => self.block_start(&data),
            Some("content_block_delta") => self.block_delta(&data),
            Some("content_block_stop") => self.block_stop(&data),
            Some("message_delta") => self.message_delta(&data),
            Some("message_stop") => Some(Step::Done),
            Some("error") => Some(refused(&data, key)),
            // A ping, or one of the types that may be added ("Versions").
            _ => None,
        };
        // What is not of its type's form is passed over: the answer as a whole must make sense.
        step.unwrap_or(Step::Nothing)
    }
}

impl AnthropicChunks {
    fn message_start(&mut self, data: &str) -> Option<Step> {
        #[derive(Deserialize)]
        struct Start<'a> {
            #[serde(borrow)]
            message: Message<'a>,
        }
        #[derive(Deserialize)]
        struct Message<'a> {
            id: Option<String>,
            model: Option<String>,
            #[serde(borrow)]
            usage: Option<&'a RawValue>,
        }
        let Start { message } = serde_json::from_str(data).ok()?;
        self.id = message.id;
        self.model = message.model;
        // What went in is known from here on, should the stream be left; the output's count is a
        // placeholder, which an unfinished stream's count is anyway.
        let merged = self.add_usage(message.usage);
        let (usage, service_tier) = merged.as_deref().map(openai_usage).unwrap_or_default();
        let delta = Delta { role: Some("assistant"), ..Delta::default() };
        let choice = Choice { delta, ..Choice::default() };
        step(&Chunk { usage, service_tier, ..self.frame(choice) })
    }

    /// The usage so far, where an event brings some.
    fn add_usage(&mut self, usage: Option<&RawValue>) -> Option<Box<RawValue>> {
        self.usage.add(usage?.get());
        if self.usage.is_empty() { None } else { RawValue::from_string(self.usage.to_json()).ok() }
    }

    fn block_start(&mut self, data: &str) -> Option<Step> {
        let [index, block] = json::pick(data, &["index", "content_block"]).ok()?;
        let index = index?.get().parse().ok()?;
        let names = ["type", "text", "thinking", "signature", "data", "id", "name", "input"];
        let [kind, said, thinking, signature, redacted, id, name, input] =
            json::pick(block?.get(), &names).ok()?;
        match text(kind?)?.as_str() {
            "text" => self.content(said?),
            "thinking" => {
                let step = thinking.and_then(|thinking| self.reasoning(thinking));
                let thinking = thinking.and_then(literal).unwrap_or_default().to_owned();
                let signature = signature.and_then(literal).unwrap_or_default().to_owned();
                self.open.insert(index, Open::Thinking { thinking, signature });
                step
            }
            "redacted_thinking" => self.thinking_block(ThinkingBlock {
                index: 0,
                r#type: "redacted_thinking",
                thinking: None,
                signature: None,
                data: Some(redacted.filter(|data| literal(data).is_some())?),
            }),
            "tool_use" => {
                let name = text(name?)?;
                let call = self.tool_calls;
                self.tool_calls = call.saturating_add(1);
                let input = input.map_or("{}", RawValue::get).to_owned();
                self.open.insert(index, Open::Tool { index: call, input, streamed: false });
                self.tool_call(ToolCall {
                    index: call,
                    id: id.and_then(text).as_deref(),
                    r#type: Some("function"),
                    function: Function { name: Some(&name), arguments: &quoted("")? },
                })
            }
            _ => None,
        }
    }

    fn block_delta(&mut self, data: &str) -> Option<Step> {
        let [index, delta] = json::pick(data, &["index", "delta"]).ok()?;
        let index: u64 = index?.get().parse().ok()?;
        let names = ["type", "text", "thinking", "signature", "partial_json"];
        let [kind, said, thinking, signature, input] = json::pick(delta?.get(), &names).ok()?;
        match (text(kind?)?.as_str(), self.open.get_mut(&index)) {
            ("text_delta", _) => self.content(said?),
            ("thinking_delta", Some(Open::Thinking { thinking: known, .. })) => {
                known.push_str(literal(thinking?)?);
                self.reasoning(thinking?)
            }
            ("signature_delta", Some(Open::Thinking { signature: known, .. })) => {
                known.push_str(literal(signature?)?);
                None
            }
            ("input_json_delta", Some(Open::Tool { index, streamed, .. }))
                if input.and_then(literal).is_some_and(|piece| !piece.is_empty()) =>
            {
                *streamed = true;
                let index = *index;
                self.arguments(index, input?)
            }
            // Citations, and what may be added.
            _ => None,
        }
    }

    fn block_stop(&mut self, data: &str) -> Option<Step> {
        let [index] = json::pick(data, &["index"]).ok()?;
        match self.open.remove(&index?.get().parse().ok()?)? {
            Open::Tool { index, input, streamed: false } => self.arguments(index, &quoted(&input)?),
            Open::Thinking { thinking, signature } => self.thinking_block(ThinkingBlock {
                index: 0,
                r#type: "thinking",
                thinking: Some(&written(&thinking)?),
                signature: Some(&written(&signature)?),
                data: None,
            }),
            Open::Tool { .. } => None,
        }
    }

    fn message_delta(&mut self, data: &str) -> Option<Step> {
        #[derive(Deserialize)]
        struct Incoming<'a> {
            delta: Option<Change>,
            #[serde(borrow)]
            usage: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Change {
            stop_reason: Option<String>,
        }
        let Incoming { delta, usage } = serde_json::from_str(data).ok()?;
        let stop_reason = delta.and_then(|delta| delta.stop_reason);
        // Until here the count of the output was a placeholder.
        let merged = self.add_usage(usage);
        let (usage, service_tier) = merged.as_deref().map(openai_usage).unwrap_or_default();
        let finish_reason = stop_reason.as_deref().map(finish_reason);
        step(&Chunk {
            usage,
            service_tier,
            ..self.frame(Choice { finish_reason, ..Choice::default() })
        })
    }

    fn content(&self, text: &RawValue) -> Option<Step> {
        self.text(text, Delta { content: Some(text), ..Delta::default() })
    }

    fn reasoning(&self, text: &RawValue) -> Option<Step> {
        self.text(text, Delta { reasoning_content: Some(text), ..Delta::default() })
    }

    fn text(&self, text: &RawValue, delta: Delta<'_>) -> Option<Step> {
        if literal(text)?.is_empty() { None } else { self.chunk(delta) }
    }

    fn thinking_block(&mut self, block: ThinkingBlock<'_>) -> Option<Step> {
        let index = self.thinking_blocks;
        self.thinking_blocks = index.saturating_add(1);
        let block = ThinkingBlock { index, ..block };
        self.chunk(Delta { thinking_blocks: Some([block]), ..Delta::default() })
    }

    fn arguments(&self, index: u32, arguments: &RawValue) -> Option<Step> {
        let function = Function { name: None, arguments };
        self.tool_call(ToolCall { index, id: None, r#type: None, function })
    }

    fn tool_call(&self, call: ToolCall<'_>) -> Option<Step> {
        self.chunk(Delta { tool_calls: Some([call]), ..Delta::default() })
    }

    fn chunk(&self, delta: Delta<'_>) -> Option<Step> {
        step(&self.frame(Choice { delta, ..Choice::default() }))
    }

    fn frame<'a>(&'a self, choice: Choice<'a>) -> Chunk<'a> {
        Chunk {
            id: self.id.as_deref(),
            object: "chat.completion.chunk",
            created: 0,
            model: self.model.as_deref(),
            choices: [choice],
            usage: None,
            service_tier: None,
        }
    }
}

/// The inside of a JSON string, as written.
pub(super) fn literal(value: &RawValue) -> Option<&str> {
    value.get().strip_prefix('"')?.strip_suffix('"')
}

/// A JSON string of this inside.
fn written(literal: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(format!("\"{literal}\"")).ok()
}

/// A JSON string that says this.
fn quoted(text: &str) -> Option<Box<RawValue>> {
    to_raw_value(text).ok()
}

fn step(chunk: &Chunk<'_>) -> Option<Step> {
    serde_json::to_string(chunk).ok().map(Step::Chunk)
}

/// An `error` event: the upstream gave up after its status 200.
fn refused(data: &str, key: Option<&str>) -> Step {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<Cause>,
        request_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Cause {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let failed: Option<Failed> = serde_json::from_str(data).ok();
    let (error, request_id) =
        failed.map_or((None, None), |failed| (failed.error, failed.request_id));
    let kind = error.and_then(|error| error.kind);
    let mut refusal = refusal::read(kind.as_deref().map_or(502, status), data, key);
    refusal.request_id = request_id.map(|id| reply::clean_word(&secret::scrub(&id, key)));
    Step::Refused(refusal)
}

/// The HTTP status that an error of this type has where it comes before the stream ("Errors").
fn status(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "api_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 502,
    }
}
