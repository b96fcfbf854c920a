//! What both forms can say comes back as it was: requests, answers and streams, from either side.

use super::*;
use crate::core::standard::anthropic::front::answer::message;
use crate::core::standard::anthropic::front::stream::Events;
use crate::core::standard::{Standard, Step};

fn to_anthropic(chat: &Value, streams: bool) -> Value {
    let sending = Sending { streams, ..SENDING };
    parse(&Standard::Anthropic.wire().request(&chat.to_string(), &sending).unwrap())
}

#[test]
fn a_chat_body_comes_back_from_anthropics_form() {
    let cached = json!({"type": "ephemeral"});
    let call = json!([{"id": "t1", "type": "function", "function":
        {"name": "f", "arguments": "{\"city\":\"Rome\",\"days\":1.5}"}}]);
    for body in [
        json!({"messages": [{"role": "user", "content": "Hello"}]}),
        json!({"stream": true, "stop": ["a", "b"], "temperature": 0.5, "top_p": 0.25, "user": "u-1",
            "service_tier": "auto", "messages": [{"role": "user", "content": "Hello"}]}),
        json!({"messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [
                {"type": "text", "text": "Compare"},
                {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "file", "file": {"filename": "a.pdf",
                    "file_data": "data:application/pdf;base64,JVBERi0x"}}]},
            {"role": "assistant", "content": "Both."},
            {"role": "user", "content": "Sure?"}]}),
        json!({"messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": null, "tool_calls": call},
                {"role": "tool", "tool_call_id": "t1", "content": "warm"},
                {"role": "user", "content": "So?"},
                {"role": "assistant", "content": "Warm.", "tool_calls": call},
                {"role": "tool", "tool_call_id": "t1", "content": "warm"}],
            "tools": [
                {"type": "function", "function": {"name": "f", "description": "d", "strict": true,
                    "parameters": {"type": "object", "properties": {}}}},
                {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}],
            "tool_choice": "required", "parallel_tool_calls": false}),
        json!({"messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        json!({"messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": "none"}),
        json!({"messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema":
                {"name": "answer", "strict": true, "schema": {"type": "object"}}}}),
        json!({"messages": [
                {"role": "system", "content": [{"type": "text", "text": "long", "cache_control": cached}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "x", "cache_control": cached},
                    {"type": "image_url", "image_url": {"url": "https://a.example/1.png"},
                        "cache_control": cached}]},
                {"role": "assistant", "content": "Hm.", "tool_calls": [{"id": "t", "type": "function",
                    "function": {"name": "f", "arguments": "{}"}, "cache_control": cached}],
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "hm", "signature": "sig"},
                        {"type": "redacted_thinking", "data": "zz"}]},
                {"role": "tool", "tool_call_id": "t", "content": "y", "cache_control": cached}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}},
                "cache_control": cached}]}),
    ] {
        let mut body = body;
        body["model"] = json!("claude-x");
        body["max_tokens"] = json!(9);
        let between = to_anthropic(&body, body["stream"] == true);
        assert_eq!(chat(&between, CLAUDE), body, "{between}");
    }
}

#[test]
fn a_request_of_messages_comes_back_from_openais_form() {
    let cached = json!({"type": "ephemeral"});
    let text = |text: &str| json!({"type": "text", "text": text});
    for body in [
        json!({"messages": [{"role": "user", "content": [text("Hello")]}]}),
        json!({"system": "Be kind.", "stop_sequences": ["a"], "temperature": 0.5, "top_p": 0.25,
            "metadata": {"user_id": "u-1"}, "service_tier": "auto", "stream": true,
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            "messages": [{"role": "user", "content": [text("Hello")]}]}),
        json!({"system": [{"type": "text", "text": "long", "cache_control": cached}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://a.example/1.png"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                        "data": "AAAA"}},
                    {"type": "document", "title": "a.pdf", "source": {"type": "base64",
                        "media_type": "application/pdf", "data": "JVBERi0x"}},
                    text("Compare")]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    text("I'll look."),
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, 2.5]}},
                    {"type": "tool_use", "id": "t2", "name": "f", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [text("one")]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": [text("two")],
                        "cache_control": cached},
                    text("go on")]}],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"},
                "strict": true, "cache_control": cached}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}),
    ] {
        let mut body = body;
        body["model"] = json!("claude-x");
        body["max_tokens"] = json!(9);
        let between = chat(&body, CLAUDE);
        assert_eq!(to_anthropic(&between, body["stream"] == true), body, "{between}");
    }
}

/// Messages as Anthropic gives them, and what a client of another provider gets of them.
fn given() -> Vec<Value> {
    let usage = json!({"input_tokens": 25, "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000, "output_tokens": 15,
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}});
    let plain = json!({"input_tokens": 9, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "output_tokens": 30});
    let message = |content: Value, stop_reason: &str, usage: &Value| {
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage})
    };
    vec![
        message(json!([{"type": "text", "text": "Hello"}]), "end_turn", &usage),
        message(json!([{"type": "text", "text": "Hel"}]), "max_tokens", &plain),
        message(json!([{"type": "text", "text": "No."}]), "refusal", &plain),
        message(
            json!([
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "zz"},
                {"type": "text", "text": "Let me \"see\".\n"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "Rome", "n": [1.5]}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {}}]),
            "tool_use",
            &plain,
        ),
    ]
}

#[test]
fn a_message_comes_back_from_openais_form() {
    for given in given() {
        let body = given.to_string();
        let completion = Standard::Anthropic.wire().answer(&body);
        assert_eq!(parse(&message(&completion, &ASKED).unwrap()), given, "{completion}");
    }
}

/// The events by which Anthropic streams a message.
fn streamed(message: &Value) -> Vec<Value> {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    let mut events =
        vec![json!({"type": "message_start", "message": start}), json!({"type": "ping"})];
    for (index, block) in message["content"].as_array().unwrap().iter().enumerate() {
        let mut empty = block.clone();
        let mut deltas = Vec::new();
        match block["type"].as_str().unwrap() {
            "text" => {
                empty["text"] = json!("");
                for c in block["text"].as_str().unwrap().chars() {
                    deltas.push(json!({"type": "text_delta", "text": c}));
                }
            }
            "thinking" => {
                empty["thinking"] = json!("");
                empty["signature"] = json!("");
                let thinking = block["thinking"].as_str().unwrap();
                deltas.extend(
                    thinking.chars().map(|c| json!({"type": "thinking_delta", "thinking": c})),
                );
                deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
            }
            "tool_use" => {
                empty["input"] = json!({});
                for c in block["input"].to_string().chars() {
                    deltas.push(json!({"type": "input_json_delta", "partial_json": c}));
                }
            }
            _ => {}
        }
        events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        events.extend(
            deltas.into_iter().map(
                |delta| json!({"type": "content_block_delta", "index": index, "delta": delta}),
            ),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": message["stop_reason"], "stop_sequence": null});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": message["usage"]}));
    events.push(json!({"type": "message_stop"}));
    events
}

#[test]
fn a_stream_comes_back_from_openais_form() {
    for given in given() {
        let mut reader = Standard::Anthropic.wire().stream();
        let (mut writer, mut out) = (Events::new(&ASKED), String::new());
        for event in streamed(&given) {
            let event = sse::Event { name: None, data: event.to_string() };
            match reader.read(&event, None) {
                Step::Chunk(chunk) => writer.chunk(&chunk, &mut out),
                Step::Nothing => {}
                Step::Done => writer.finish(&mut out),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(assembled(&out), given);
        // What went in is known from the start.
        let start = &events(&out)[0].1["message"]["usage"];
        assert_eq!(start["cache_read_input_tokens"], given["usage"]["cache_read_input_tokens"]);
    }
}
