//! The events of a response.

use super::{chat, codex, messages};
use crate::core::front::event::OfChunks;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::responses::stream::{Stream, whole};
use crate::core::front::responses::{About, Asked, SEAL};
use crate::core::sse::Parser;
use crate::error::{Error, Refusal, Target};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

const NOW: i64 = 1_700_000_000;
const HEX: &str = "00000000000000000000000000000000";

/// The events of a stream, whose names are their types and whose numbers follow each other.
fn events(text: &str) -> Vec<Value> {
    let (mut parser, mut events) = (Parser::new(10_000_000), Vec::new());
    parser.feed(text.as_bytes(), &mut events).unwrap();
    assert_eq!(parser.finish().unwrap(), None);
    let values = events.iter().enumerate().map(|(number, event)| {
        let value: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(value["type"].as_str(), event.name.as_deref());
        assert_eq!(value["sequence_number"], number);
        value
    });
    values.collect()
}

fn about(body: &Value) -> About {
    Asked::read(&body.to_string()).unwrap().about
}

fn stream(about: About) -> Stream {
    Stream::new(about, Uuid::nil(), NOW, "asked")
}

fn streamed(about: About, chunks: &[&str], answer: &str) -> Vec<Value> {
    let (mut stream, mut out) = (stream(about), String::new());
    for chunk in chunks {
        stream.chunk(chunk, &mut out);
    }
    stream.finish(answer, &mut out);
    events(&out)
}

fn types(events: &[Value]) -> Vec<&str> {
    let types = events.iter().map(|event| event["type"].as_str().unwrap());
    types.map(|name| name.strip_prefix("response.").unwrap()).collect()
}

const TEXT: [&str; 3] = [
    r#"{"id":"x","model":"served","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
    r#"{"choices":[{"delta":{"content":"Hel\ud83d"}}]}"#,
    r#"{"choices":[{"delta":{"content":"\ude00lo"},"finish_reason":"stop"}]}"#,
];
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,
    "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}},
    "aggregator":{"cost":0.10},"service_tier":"default"}"#;

#[test]
fn a_text_is_told_in_the_order_that_clients_check() {
    let events = streamed(about(&codex()), &TEXT, USAGE);
    assert_eq!(
        types(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    let created = &events[0]["response"];
    assert_eq!(created["id"], format!("resp_{HEX}"));
    assert_eq!((&created["created_at"], &created["model"]), (&json!(NOW), &json!("served")));
    assert_eq!((&created["status"], &created["output"]), (&json!("in_progress"), &json!([])));
    let id = format!("msg_{HEX}_0");
    assert_eq!(
        events[2]["item"],
        json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
    );
    for event in &events[3..8] {
        assert_eq!(event["item_id"], id.as_str());
        assert_eq!((&event["output_index"], &event["content_index"]), (&json!(0), &json!(0)));
    }
    assert_eq!((&events[4]["delta"], &events[5]["delta"]), (&json!("Hel"), &json!("😀lo")));
    assert_eq!(events[6]["text"], "Hel😀lo");
    let part = json!({"type": "output_text", "text": "Hel😀lo", "annotations": [], "logprobs": []});
    assert_eq!(events[7]["part"], part);
    let item = json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part]});
    assert_eq!(events[8]["item"], item);
    let response = &events[9]["response"];
    assert_eq!(response["id"], created["id"]);
    assert_eq!((&response["status"], &response["output"]), (&json!("completed"), &json!([item])));
    assert_eq!(
        response["usage"],
        json!({
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 15,
        })
    );
    assert_eq!(response["aggregator"]["cost"], 0.1);
    assert_eq!(response["service_tier"], "default");
    assert_eq!(response["instructions"], "You are a coding agent.");
    assert_eq!(response["tools"].as_array().map(Vec::len), Some(5));
    assert_eq!((&response["store"], &response["error"]), (&json!(false), &Value::Null));
}

#[test]
fn calls_of_tools_are_items_with_the_names_that_the_client_gave() {
    let chunks = [
        r#"{"choices":[{"delta":{"content":"ok"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"mcp__db__query","arguments":"{\"q\":"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"apply_patch","arguments":"{\"input\":"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}},{"index":1,"function":{"arguments":"\"x\\n\"}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":2,"id":"c","function":{"name":"shell"}}]},"finish_reason":"tool_calls"}]}"#,
    ];
    let events = streamed(about(&codex()), &chunks, "{}");
    assert_eq!(
        types(&events)[2..],
        [
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "output_item.added",
            "function_call_arguments.delta",
            "output_item.added",
            "function_call_arguments.done",
            "output_item.done",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let output = events.last().unwrap()["response"]["output"].clone();
    assert_eq!(
        output.as_array().unwrap()[1..],
        [
            json!({"id": format!("fc_{HEX}_1"), "status": "completed", "type": "function_call", "call_id": "a",
                "name": "query", "namespace": "mcp__db__", "arguments": "{\"q\":1}"}),
            json!({"id": format!("ctc_{HEX}_2"), "status": "completed", "type": "custom_tool_call", "call_id": "b",
                "name": "apply_patch", "input": "x\n"}),
            json!({"id": format!("fc_{HEX}_3"), "status": "completed", "type": "function_call", "call_id": "c",
                "name": "shell", "arguments": "{}"}),
        ]
    );
    // What is done is what the response has.
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(done, output.as_array().unwrap().iter().collect::<Vec<_>>());
    // And it comes back as it went.
    let mut input = output.as_array().unwrap().clone();
    for id in ["a", "b", "c"] {
        input.push(json!({"type": "function_call_output", "call_id": id, "output": "1"}));
    }
    let mut body = codex();
    body["input"] = input.into();
    let messages = chat(&body)["messages"].clone();
    let names: Vec<&Value> = messages[1]["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| &call["function"]["name"])
        .collect();
    assert_eq!(names, ["mcp__db__query", "apply_patch", "shell"]);
    assert_eq!(messages[1]["tool_calls"][1]["function"]["arguments"], r#"{"input":"x\n"}"#);
}

#[test]
fn reasoning_is_an_item_and_comes_back_with_its_signature() {
    // As Anthropic's translation gives it.
    let chunks = [
        r#"{"choices":[{"delta":{"reasoning_content":"I "}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"think"}}]}"#,
        r#"{"choices":[{"delta":{"thinking_blocks":[{"index":0,"type":"thinking","thinking":"I think","signature":"s/="}]}}]}"#,
        r#"{"choices":[{"delta":{"content":"yes"},"finish_reason":"stop"}]}"#,
    ];
    let events = streamed(about(&codex()), &chunks, "{}");
    assert_eq!(
        types(&events)[2..9],
        [
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
        ]
    );
    assert_eq!(events[6]["text"], "I think");
    let item = events[8]["item"].clone();
    assert_eq!(item["summary"], json!([{"type": "summary_text", "text": "I think"}]));
    let sealed = item["encrypted_content"].as_str().unwrap();
    assert!(sealed.starts_with(SEAL), "{sealed}");
    let back = messages(
        json!([{"role": "user", "content": "x"}, item, events.last().unwrap()["response"]["output"][1]]),
    );
    assert_eq!(back[1]["role"], "assistant");
    assert_eq!(back[1]["content"], "yes");
    assert_eq!(back[1]["thinking_blocks"][0]["signature"], "s/=");
    assert!(back[1].get("reasoning_content").is_none());
    // Who did not ask for it gets none.
    let mut body = codex();
    body["include"] = json!([]);
    let events = streamed(about(&body), &chunks, "{}");
    assert_eq!(events[8]["item"]["encrypted_content"], Value::Null);
    // Reasoning that is text only comes back as that; somebody else's does not.
    let text = [chunks[0], chunks[3]];
    let item =
        streamed(about(&codex()), &text, "{}").last().unwrap()["response"]["output"][0].clone();
    let answer = json!({"role": "assistant", "content": "a"});
    assert_eq!(messages(json!([item, answer]))[0]["reasoning_content"], "I ");
    for foreign in ["gAAAA", "aggregator.1:", "aggregator.1:7", "aggregator.1:{}"] {
        let item = json!({"type": "reasoning", "encrypted_content": foreign});
        assert_eq!(
            messages(json!([item, answer])),
            json!([{"role": "assistant", "content": "a"}]),
            "{foreign}"
        );
    }
    // Reasoning after the calls that it belongs to does not come between them and their outputs.
    let sealed = json!({"type": "reasoning", "encrypted_content": format!("{SEAL}{}", r#"{"reasoning_details":[1]}"#)});
    let back = messages(json!([
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "a"}, sealed,
        {"type": "function_call_output", "call_id": "a", "output": "x"}, sealed,
    ]));
    assert_eq!(back.as_array().map(Vec::len), Some(2));
    assert_eq!(back[0]["reasoning_details"], json!([1]));
}

#[test]
fn a_refusal_and_what_follows_it_are_messages_of_their_own() {
    let chunks = [
        r#"{"choices":[{"delta":{"refusal":"I can't"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"text","text":"but"}]},"finish_reason":"stop"}]}"#,
    ];
    let events = streamed(About::default(), &chunks, "{}");
    let output = &events.last().unwrap()["response"]["output"];
    assert_eq!(output[0]["content"], json!([{"type": "refusal", "refusal": "I can't"}]));
    assert_eq!(output[1]["content"][0]["text"], "but");
    assert_eq!(types(&events)[4..6], ["refusal.delta", "refusal.done"]);
}

#[test]
fn an_answer_that_was_cut_is_incomplete() {
    for (reason, detail) in [("length", "max_output_tokens"), ("content_filter", "content_filter")]
    {
        let chunk =
            format!(r#"{{"choices":[{{"delta":{{"content":"a"}},"finish_reason":"{reason}"}}]}}"#);
        let events = streamed(About::default(), &[&chunk], "{}");
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.incomplete");
        assert_eq!(last["response"]["status"], "incomplete");
        assert_eq!(last["response"]["incomplete_details"], json!({"reason": detail}));
        assert_eq!(last["response"]["output"][0]["status"], "incomplete");
        assert_eq!(last["response"]["usage"], Value::Null);
    }
}

#[test]
fn a_failure_has_the_code_that_codex_acts_on() {
    let target = || Target { provider: "p".into(), model: "m".into() };
    let upstream = |status, words: &str| Error::Upstream {
        target: target(),
        refusal: Box::new(Refusal::new(status, None, Some(words.to_owned()))),
    };
    for (error, code) in [
        (upstream(400, "maximum context length is 8192 tokens"), "context_length_exceeded"),
        (upstream(402, ""), "insufficient_quota"),
        (upstream(400, "bad"), "invalid_prompt"),
        (upstream(500, ""), "server_error"),
        (Error::Deadline { target: target(), waited_ms: 1 }, "server_error"),
        (
            Error::RateLimited { target: target(), limit: "9".into(), wait_ms: 2500 },
            "rate_limit_exceeded",
        ),
    ] {
        let failure = Failure::of(&error, Sent::PerhapsPaid);
        let (mut stream, mut out) = (stream(About::default()), String::new());
        stream.chunk(TEXT[1], &mut out);
        stream.fail(&failure, &mut out);
        let events = events(&out);
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.failed");
        assert_eq!(last["response"]["status"], "failed");
        assert_eq!(last["response"]["error"]["code"], code, "{error:?}");
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], "Hel");
        assert_eq!(last["response"]["output"][0]["status"], "incomplete");
        let message = last["response"]["error"]["message"].as_str().unwrap();
        assert_eq!(message.ends_with("Please try again in 3s."), code == "rate_limit_exceeded");
    }
    // Before anything else, too, the response has been created first.
    let (mut stream, mut out) = (stream(About::default()), String::new());
    stream.fail(&Failure::of(&Error::panicked(), Sent::PerhapsPaid), &mut out);
    assert_eq!(types(&events(&out)), ["created", "in_progress", "failed"]);
}

#[test]
fn a_whole_response_is_what_a_stream_ends_with() {
    let answer = r#"{"id":"x","model":"served","choices":[{"index":0,"message":{"role":"assistant","content":"a",
        "reasoning_content":"r","tool_calls":[{"id":"b","type":"function","function":{"name":"apply_patch","arguments":"{\"input\":\"x\"}"}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2},"aggregator":{"cost":1}}"#;
    let whole: Value =
        serde_json::from_str(&whole(answer, about(&codex()), Uuid::nil(), NOW, "asked")).unwrap();
    let events = streamed(about(&codex()), &[], answer);
    assert_eq!(events.last().unwrap()["response"], whole);
    assert_eq!((&whole["model"], &whole["status"]), (&json!("served"), &json!("completed")));
    let kinds: Vec<&Value> =
        whole["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "custom_tool_call"]);
    assert_eq!(whole["usage"]["total_tokens"], 3);
}

#[test]
fn what_is_held_is_counted() {
    let mut stream = stream(About::default());
    let chunk = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(1000));
    stream.chunk(&chunk, &mut String::new());
    assert!((1000..2000).contains(&stream.size()), "{}", stream.size());
}

proptest! {
    #[test]
    fn no_answer_from_outside_panics(
        text in "\\PC{0,60}",
        like in "([{}\\[\\]:,]|\"(choices|delta|content|tool_calls|id|function|name|arguments|finish_reason|reasoning)\"|\"[a-z]{0,9}\"|[0-9]){0,40}",
    ) {
        for text in [text, like] {
            let (mut stream, mut out) = (stream(about(&codex())), String::new());
            stream.chunk(&text, &mut out);
            stream.chunk(&format!(r#"{{"choices":[{{"delta":{text}}}]}}"#), &mut out);
            stream.finish(&text, &mut out);
            let events = events(&out);
            prop_assert_eq!(types(&events)[0], "created");
            let whole = whole(&text, About::default(), Uuid::nil(), NOW, "asked");
            prop_assert!(serde_json::from_str::<Value>(&whole).is_ok(), "{}", whole);
        }
    }
}
