//! Whole answers.

use super::*;
use crate::core::standard::anthropic::front::answer::message;

fn of(choice: Value) -> Value {
    let completion = json!({"id": "chatcmpl-1", "model": "served", "choices": [choice]});
    parse(&message(&completion.to_string(), &ASKED).unwrap())
}

#[test]
fn an_answer_becomes_a_message() {
    let completion = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "served",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": "Let me see.", "reasoning_content": "hm",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function":
                    {"name": "f", "arguments": "{\"n\": 12345678901234567890.10}"}},
                {"type": "function", "function": {"name": "g", "arguments": ""}}]}}],
        "usage": {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 20}},
        "aggregator": {"cost_usd": 0.10},
    });
    let text = message(&completion.to_string(), &ASKED).unwrap();
    assert!(text.contains(r#""input":{"n": 12345678901234567890.10}"#), "{text}");
    let mut found = parse(&text);
    assert_eq!(found["content"][2]["input"].take()["n"], parse("12345678901234567890.10"));
    assert_eq!(
        found,
        json!({
            "id": format!("msg_{WORD}"), "type": "message", "role": "assistant", "model": "served",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "aggregator/reasoning_content"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_1", "name": "f", "input": null},
                {"type": "tool_use", "id": format!("toolu_{WORD}_1"), "name": "g", "input": {}}],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 20, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 100, "output_tokens": 30},
            "aggregator": {"cost_usd": 0.10},
        })
    );
}

#[test]
fn every_end_has_its_reason() {
    for (finish_reason, expected) in [
        (json!("stop"), "end_turn"),
        (json!("length"), "max_tokens"),
        (json!("content_filter"), "refusal"),
        (json!("eos"), "end_turn"),
        (Value::Null, "end_turn"),
    ] {
        let found = of(json!({"finish_reason": finish_reason, "message": {"content": "x"}}));
        assert_eq!(found["stop_reason"], expected, "{finish_reason}");
    }
    let call = json!([{"function": {"name": "f", "arguments": "{}"}}]);
    for (finish_reason, expected) in [("stop", "tool_use"), ("length", "max_tokens")] {
        let message = json!({"content": null, "tool_calls": call});
        let found = of(json!({"finish_reason": finish_reason, "message": message}));
        assert_eq!(found["stop_reason"], expected);
    }
    let refused = of(json!({"finish_reason": "stop", "message": {"refusal": "I won't."}}));
    assert_eq!(refused["stop_reason"], "refusal");
    assert_eq!(refused["content"], json!([{"type": "text", "text": "I won't."}]));
}

#[test]
fn what_nobody_counted_is_estimated() {
    let found = of(json!({"finish_reason": "stop", "message": {"content": "12345678"}}));
    assert_eq!(
        found["usage"],
        json!({"input_tokens": 77, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 2})
    );
}

#[test]
fn arguments_that_are_no_object_are_shown_as_they_are() {
    for (arguments, input) in [
        (json!("{\"a\":"), json!({"invalid_arguments": "{\"a\":"})),
        (json!("[1]"), json!({"invalid_arguments": "[1]"})),
        (json!(" {\"a\":1} "), json!({"a": 1})),
        (json!({"a": 1}), json!({"a": 1})),
        (Value::Null, json!({})),
    ] {
        let call = json!([{"id": "t", "function": {"name": "f", "arguments": arguments}}]);
        let found = of(json!({"message": {"content": "", "tool_calls": call}}));
        assert_eq!(
            found["content"],
            json!([{"type": "tool_use", "id": "t", "name": "f", "input": input}])
        );
    }
}

#[test]
fn parts_and_older_calls_are_read_too() {
    let found = of(json!({"finish_reason": "function_call", "message": {
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "reasoning": "hm",
        "function_call": {"name": "f", "arguments": "{}"}}}));
    assert_eq!(
        found["content"],
        json!([
            {"type": "thinking", "thinking": "hm", "signature": "aggregator/reasoning"},
            {"type": "text", "text": "ab"},
            {"type": "tool_use", "id": format!("toolu_{WORD}_0"), "name": "f", "input": {}}])
    );
}

#[test]
fn what_is_no_completion_is_no_message() {
    for body in ["", "7", "{}", r#"{"choices":[]}"#, r#"{"choices":[7]}"#, r#"{"choices":[{}]}"#] {
        assert_eq!(message(body, &ASKED), None, "{body}");
    }
}
