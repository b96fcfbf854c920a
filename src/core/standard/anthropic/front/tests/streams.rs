//! Streams.

use super::*;
use crate::core::standard::anthropic::front::events::ping;
use crate::core::standard::anthropic::front::stream::Events;

fn written(chunks: &[Value]) -> String {
    let (mut events, mut out) = (Events::new(&ASKED), String::new());
    chunks.iter().for_each(|chunk| events.chunk(&chunk.to_string(), &mut out));
    events.finish(&mut out);
    out
}

fn delta(delta: Value) -> Value {
    json!({"id": "c", "model": "served", "choices": [{"index": 0, "delta": delta}]})
}

fn end(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage(prompt: i32, completion: i32) -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
}

fn call(index: Option<u32>, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    let mut call = json!({"function": {"arguments": arguments}});
    if let Some(index) = index {
        call["index"] = json!(index);
    }
    if let Some(id) = id {
        call["id"] = json!(id);
    }
    if let Some(name) = name {
        call["function"]["name"] = json!(name);
    }
    delta(json!({"tool_calls": [call]}))
}

#[test]
fn a_stream_is_written_as_anthropics_own() {
    let out = written(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "h"})),
        delta(json!({"reasoning_content": "m"})),
        delta(json!({"content": "Hel"})),
        delta(json!({"content": "lo"})),
        call(Some(0), Some("t"), Some("f"), ""),
        call(Some(0), None, None, "{\"a\":"),
        call(Some(0), None, None, "1}"),
        end("tool_calls"),
        usage(9, 30),
    ]);
    let usage = |input: i32, output: i32| {
        json!({"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output})
    };
    let expected = [
        json!({"type": "message_start", "message": {"id": format!("msg_{WORD}"), "type": "message",
            "role": "assistant", "model": "served", "content": [], "stop_reason": null,
            "stop_sequence": null, "usage": usage(77, 0)}}),
        json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "thinking_delta", "thinking": "h"}}),
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "thinking_delta", "thinking": "m"}}),
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "signature_delta", "signature": "aggregator/reasoning_content"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1,
            "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "content_block_start", "index": 2,
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
        json!({"type": "content_block_delta", "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": "{\"a\":"}}),
        json!({"type": "content_block_delta", "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
        json!({"type": "content_block_stop", "index": 2}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null},
            "usage": usage(9, 30)}),
        json!({"type": "message_stop"}),
    ];
    let found: Vec<Value> = events(&out).into_iter().map(|(_, data)| data).collect();
    assert_eq!(json!(found), json!(expected));
    assert!(out.starts_with("event: message_start\ndata: {"), "{out}");
}

#[test]
fn each_event_goes_out_with_the_chunk_that_makes_it() {
    let (mut events, mut out) = (Events::new(&ASKED), String::new());
    for (chunk, ends_with) in [
        (delta(json!({"role": "assistant"})), "}}\n\n"),
        (delta(json!({"content": "a"})), "\"text\":\"a\"}}\n\n"),
        (delta(json!({"content": "b"})), "\"text\":\"b\"}}\n\n"),
    ] {
        let before = out.len();
        events.chunk(&chunk.to_string(), &mut out);
        assert!(out.len() > before && out.ends_with(ends_with), "{out}");
    }
}

#[test]
fn calls_that_are_mixed_come_one_after_the_other() {
    let content = |chunks: &[Value]| assembled(&written(chunks))["content"].take();
    let expected = json!([
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"y": [2]}}]);
    // Both begin before either goes on.
    let mixed = [
        call(Some(0), Some("a"), Some("f"), ""),
        call(Some(1), Some("b"), Some("g"), ""),
        call(Some(0), None, None, "{\"x\""),
        call(Some(1), None, None, "{\"y\":["),
        call(Some(0), None, None, ":1}"),
        call(Some(1), None, None, "2]}"),
        end("tool_calls"),
    ];
    assert_eq!(content(&mixed), expected);
    let out = written(&mixed);
    let opens: Vec<String> = events(&out)
        .into_iter()
        .filter(|(name, _)| name == "content_block_start" || name == "content_block_stop")
        .map(|(name, data)| format!("{name} {}", data["index"]))
        .collect();
    assert_eq!(
        opens,
        [
            "content_block_start 0",
            "content_block_stop 0",
            "content_block_start 1",
            "content_block_stop 1"
        ]
    );
    // Ollama gives each the same index, and the whole at once.
    let same = [
        call(Some(0), Some("a"), Some("f"), "{\"x\":1}"),
        call(Some(0), Some("b"), Some("g"), "{\"y\":[2]}"),
    ];
    assert_eq!(content(&same), expected);
    // Others give none.
    let none = [
        call(None, Some("a"), Some("f"), "{\"x\":1}"),
        call(None, Some("b"), Some("g"), "{\"y\":"),
        call(None, None, None, "[2]}"),
    ];
    assert_eq!(content(&none), expected);
    // The first takes nothing, and so never has arguments.
    let empty = [
        call(Some(0), Some("a"), Some("f"), ""),
        call(Some(1), Some("b"), Some("g"), "{\"y\":[2]}"),
    ];
    let found = content(&empty);
    assert_eq!((&found[0]["input"], &found[1]), (&json!({}), &expected[1]));
}

#[test]
fn text_in_the_middle_of_a_call_loses_neither() {
    let found = assembled(&written(&[
        delta(json!({"content": "a"})),
        call(Some(0), Some("t"), Some("f"), "{\"x\":"),
        delta(json!({"content": "b"})),
        call(Some(0), None, None, "1}"),
        delta(json!({"content": "c"})),
        end("stop"),
    ]));
    assert_eq!(
        found["content"],
        json!([{"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
            {"type": "text", "text": "bc"}])
    );
    assert_eq!(found["stop_reason"], "tool_use");
}

#[test]
fn a_call_without_a_name_is_none_and_one_without_an_id_gets_one() {
    let found = assembled(&written(&[
        call(Some(0), Some("a"), None, "{}"),
        call(Some(1), None, Some("g"), "{}"),
        end("tool_calls"),
    ]));
    let id = format!("toolu_{WORD}_1");
    assert_eq!(found["content"], json!([{"type": "tool_use", "id": id, "name": "g", "input": {}}]));
    let nothing = assembled(&written(&[call(Some(0), Some("a"), None, "{}"), end("stop")]));
    assert_eq!((&nothing["content"], &nothing["stop_reason"]), (&json!([]), &json!("end_turn")));
}

#[test]
fn halves_of_characters_meet_again() {
    let (mut events, mut out) = (Events::new(&ASKED), String::new());
    for chunk in [
        r#"{"choices":[{"delta":{"reasoning":"\ud83d"}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"\ude00"}}]}"#,
        r#"{"choices":[{"delta":{"content":"a\ud83d"}}]}"#,
        r#"{"choices":[{"delta":{"content":"\ude00b\ud83d"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f",
            "arguments":"{\"x\":\"\ud83d"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\ude00\"}"}}]}}]}"#,
    ] {
        events.chunk(chunk, &mut out);
    }
    events.finish(&mut out);
    let content = assembled(&out)["content"].take();
    assert_eq!(content[0]["thinking"], "😀");
    assert_eq!(content[1]["text"], "a😀b\u{fffd}");
    assert_eq!(content[2]["input"], json!({"x": "😀"}));
}

#[test]
fn odd_chunks_are_passed_over() {
    let found = assembled(&written(&[
        json!(7),
        json!({"type": "ping"}),
        json!({"choices": null}),
        json!({"choices": [{"index": 1, "delta": {"content": "another answer"}}]}),
        json!({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]}),
        json!({"choices": [{"message": {"content": "a whole one again"}, "finish_reason": "length"}]}),
        json!({"choices": [{"delta": null, "finish_reason": "null"}], "x_groq": {"usage":
            {"prompt_tokens": 5, "completion_tokens": 6}}}),
    ]));
    assert_eq!(found["content"], json!([{"type": "text", "text": "a"}]));
    assert_eq!(found["stop_reason"], "max_tokens");
    assert_eq!(
        (&found["usage"]["input_tokens"], &found["usage"]["output_tokens"]),
        (&json!(5), &json!(6))
    );
    let whole = assembled(&written(&[
        json!({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}),
    ]));
    assert_eq!(whole["content"], json!([{"type": "text", "text": "whole"}]));
    // Of a stream of nothing there is a message all the same.
    assert_eq!(assembled(&written(&[]))["content"], json!([]));
}

#[test]
fn what_nobody_counted_is_estimated() {
    let found = assembled(&written(&[delta(json!({"content": "12345678"})), end("stop")]));
    assert_eq!(
        (&found["usage"]["input_tokens"], &found["usage"]["output_tokens"]),
        (&json!(77), &json!(2))
    );
}

#[test]
fn a_stream_that_breaks_ends_with_an_error() {
    let (mut writer, mut out) = (Events::new(&ASKED), String::new());
    writer.chunk(&delta(json!({"content": "a"})).to_string(), &mut out);
    let body =
        "{\"type\":\"error\",\n\"error\":{\"type\":\"overloaded_error\",\"message\":\"a\\nb\"}}";
    writer.fail(body, &mut out);
    let end = out.len();
    // Nothing comes after it.
    writer.chunk(&delta(json!({"content": "b"})).to_string(), &mut out);
    writer.finish(&mut out);
    writer.fail(body, &mut out);
    assert_eq!(out.len(), end);
    let (name, data) = events(&out).pop().unwrap();
    assert_eq!(name, "error");
    assert_eq!(
        data,
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "a\nb"}})
    );
}

#[test]
fn a_ping_is_an_event() {
    let mut out = String::new();
    ping(&mut out);
    assert_eq!(out, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
}

#[test]
fn what_calls_wait_with_is_counted() {
    let (mut stream, mut out) = (Events::new(&ASKED), String::new());
    let mut add = |stream: &mut Events, index: u64, function: Value| {
        let call = json!({"index": index, "function": function});
        let chunk = json!({"choices": [{"delta": {"tool_calls": [call]}}]});
        stream.chunk(&chunk.to_string(), &mut out);
    };
    add(&mut stream, 0, json!({"name": "f", "arguments": "{"}));
    for index in 1..100 {
        add(&mut stream, index, json!({"name": "g", "arguments": "z".repeat(1000)}));
    }
    assert!((99_000..150_000).contains(&stream.size()), "{}", stream.size());
    stream.finish(&mut out);
    assert!(stream.size() < 50_000, "{}", stream.size());
    assert!(out.contains(&"z".repeat(1000)));
}
