//! What clients really send, what comes back to them, and that neither direction loses what the other
//! can say.

mod answers;
mod hostile;
mod native;
mod requests;
mod round_trip;
mod small;
mod streams;

use super::Asked;
use super::request::{Incoming, Takes};
use super::version::Version;
use crate::core::sse;
use crate::core::standard::Sending;
use serde_json::{Value, json};

/// A model of a provider that knows nothing of Anthropic's own.
const OTHERS: Takes = Takes { anthropics_own: false, reasoning_effort: true };
/// A Claude, offered in OpenAI's form.
const CLAUDE: Takes = Takes { anthropics_own: true, reasoning_effort: true };

const ASKED: Asked<'static> =
    Asked { id: "0193a1b2-7c3d-7000-8000-0123456789ab", model: "asked", prompt_tokens: 77 };
/// What of its id goes into ids.
const WORD: &str = "0193a1b27c3d7000800001234567";

const SENDING: Sending<'static> = Sending {
    model_id: "claude-x",
    max_output_tokens: None,
    streams: false,
    cap: None,
    takes_newer_name: false,
    most_tokens: None,
};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The chat body of a request.
fn chat(body: &Value, takes: Takes) -> Value {
    let body = body.to_string();
    let request = Incoming::read(&body, Version::June2023).unwrap();
    parse(&request.chat(takes).unwrap())
}

/// The messages of a chat body, from the messages of a request.
fn messages(messages: Value, takes: Takes) -> Value {
    chat(&json!({"model": "m", "messages": messages}), takes)["messages"].take()
}

/// Why a request cannot be read, or cannot become a chat body.
fn refusal(body: &Value, version: Version) -> String {
    let body = body.to_string();
    let read = Incoming::read(&body, version);
    match read.and_then(|request| request.chat(OTHERS)) {
        Err(error) => {
            assert_eq!(error.code(), "bad_request", "{body}");
            error.to_string()
        }
        Ok(chat) => panic!("{body} became {chat}"),
    }
}

/// The events of a stream, as a client reads them.
fn events(text: &str) -> Vec<(String, Value)> {
    let (mut parser, mut events) = (sse::Parser::new(text.len() + 1), Vec::new());
    parser.feed(text.as_bytes(), &mut events).unwrap();
    assert_eq!(parser.finish().unwrap(), None, "the last event is not whole: {text}");
    let read = |event: sse::Event| {
        let (name, data) = (event.name.unwrap(), parse(&event.data));
        assert_eq!(data["type"], name, "clients go by both");
        (name, data)
    };
    events.into_iter().map(read).collect()
}

/// The message that a client puts together, as Anthropic's libraries do, which go by the order and the
/// indices of the events.
fn assembled(text: &str) -> Value {
    let events = events(text);
    let (first, last) = (events.first().unwrap(), events.last().unwrap());
    assert_eq!((first.0.as_str(), last.0.as_str()), ("message_start", "message_stop"));
    let mut message = first.1["message"].clone();
    let mut inputs: Vec<String> = Vec::new();
    let mut open: Vec<u64> = Vec::new();
    for (name, data) in &events[1..events.len() - 1] {
        let index = data["index"].as_u64().unwrap_or_default();
        let content = message["content"].as_array_mut().unwrap();
        match name.as_str() {
            "content_block_start" => {
                assert_eq!(index as usize, content.len());
                content.push(data["content_block"].clone());
                inputs.push(String::new());
                open.push(index);
            }
            "content_block_delta" => {
                assert!(open.contains(&index), "a delta of a block that is not open: {text}");
                let (block, delta) = (&mut content[index as usize], &data["delta"]);
                let kind = delta["type"].as_str().unwrap();
                let member = match kind {
                    "text_delta" => "text",
                    "thinking_delta" => "thinking",
                    "signature_delta" => {
                        block["signature"] = delta["signature"].clone();
                        continue;
                    }
                    "input_json_delta" => {
                        assert_eq!(block["type"], "tool_use");
                        inputs[index as usize].push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                assert_eq!(block["type"], member);
                let more =
                    block[member].as_str().unwrap().to_owned() + delta[member].as_str().unwrap();
                block[member] = json!(more);
            }
            "content_block_stop" => {
                assert!(open.contains(&index), "{text}");
                open.retain(|open| *open != index);
                if !inputs[index as usize].is_empty() {
                    content[index as usize]["input"] = parse(&inputs[index as usize]);
                }
            }
            "message_delta" => {
                assert!(open.is_empty(), "{text}");
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                message["usage"] = data["usage"].clone();
            }
            other => panic!("{other}"),
        }
    }
    message
}
