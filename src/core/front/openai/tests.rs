use super::stream::Stream;
use super::*;
use crate::core::front::event::OfChunks;
use crate::core::sse::Parser;
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_700_000_000;
const MADE_ID: &str = "chatcmpl-00000000000000000000000000000000";

fn stamp() -> Stamp {
    Stamp::new(Uuid::nil(), NOW, "asked/model")
}

fn events(text: &str) -> Vec<String> {
    let (mut parser, mut events) = (Parser::new(1_000_000), Vec::new());
    parser.feed(text.as_bytes(), &mut events).unwrap();
    assert_eq!(parser.finish().unwrap(), None, "{text}");
    events.into_iter().map(|event| event.data).collect()
}

/// The chunks of a stream that ends as it should.
fn streamed(chunks: &[&str], with_usage: bool, answer: &str) -> Vec<Value> {
    let (mut stream, mut out) = (Stream::new(stamp(), with_usage), String::new());
    for chunk in chunks {
        stream.chunk(chunk, &mut out);
    }
    stream.finish(answer, &mut out);
    let mut events = events(&out);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn choices(chunks: &[Value]) -> Vec<Value> {
    chunks.iter().map(|chunk| chunk["choices"][0].clone()).collect()
}

/// The calls of tools, as OpenAI's libraries add them up.
fn added_up(chunks: &[Value]) -> Vec<Value> {
    let mut calls: Vec<Value> = Vec::new();
    for call in chunks.iter().flat_map(|chunk| {
        chunk["choices"][0]["delta"]["tool_calls"].as_array().cloned().unwrap_or_default()
    }) {
        let index = call["index"].as_u64().unwrap() as usize;
        if index == calls.len() {
            assert!(call["id"].is_string() && call["type"].is_string(), "{call}");
            assert!(call["function"]["name"].is_string(), "{call}");
            calls.push(json!({"id": "", "type": call["type"], "name": "", "arguments": ""}));
        }
        let known = calls.get_mut(index).expect("indexes follow each other");
        for (name, piece) in [
            ("id", &call["id"]),
            ("name", &call["function"]["name"]),
            ("arguments", &call["function"]["arguments"]),
        ] {
            let text = known[name].as_str().unwrap().to_owned();
            known[name] = (text + piece.as_str().unwrap_or_default()).into();
        }
    }
    calls
}

#[test]
fn what_an_upstream_leaves_out_is_filled_in() {
    let chunks = streamed(
        &[
            r#"{"choices":[{"delta":{"content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":"b"}}]}"#,
        ],
        false,
        "{}",
    );
    for chunk in &chunks {
        assert_eq!(chunk["id"], MADE_ID);
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["created"], NOW);
        assert_eq!(chunk["model"], "asked/model");
        assert!(chunk.get("usage").is_none());
    }
    assert_eq!(
        choices(&chunks),
        [
            json!({"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": null}),
            json!({"index": 0, "delta": {"content": "b"}, "finish_reason": null}),
            json!({"index": 0, "delta": {}, "finish_reason": "stop"}),
        ]
    );
}

#[test]
fn what_an_upstream_says_of_itself_stays_the_same() {
    let chunks = streamed(
        &[
            // Azure's first chunk.
            r#"{"id":"","model":"","choices":[],"prompt_filter_results":[]}"#,
            r#"{"id":"x","created":7,"model":"m","object":"text","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"system_fingerprint":"f"}"#,
            r#"{"id":"y","created":0,"model":"n","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"logprobs":{"content":[1.50]}}]}"#,
            r#"{"id":"y","choices":[{"index":0,"delta":{},"finish_reason":"length"}],"error":null}"#,
        ],
        false,
        "{}",
    );
    assert_eq!(chunks.len(), 3);
    for chunk in &chunks {
        assert_eq!(
            (&chunk["id"], &chunk["created"], &chunk["model"]),
            (&json!("x"), &json!(7), &json!("m"))
        );
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk.get("error").is_none());
    }
    assert_eq!(chunks[0]["system_fingerprint"], "f");
    assert_eq!(
        choices(&chunks),
        [
            json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}),
            json!({"index": 0, "delta": {"content": "a"}, "finish_reason": null, "logprobs": {"content": [1.5]}}),
            json!({"index": 0, "delta": {}, "finish_reason": "length"}),
        ]
    );
}

#[test]
fn numbers_keep_their_digits() {
    let (mut stream, mut out) = (Stream::new(stamp(), false), String::new());
    let chunk = r#"{"choices":[{"delta":{"x":0.10000000000000000001},"y":1e400}],"z":12345678901234567890123}"#;
    stream.chunk(chunk, &mut out);
    for number in ["0.10000000000000000001", "1e400", "12345678901234567890123"] {
        assert!(out.contains(number), "{out}");
    }
}

#[test]
fn a_reason_that_is_none_is_null_and_one_that_never_comes_is_made() {
    for reason in ["null", "\"\"", "\"null\"", "7"] {
        let chunk =
            format!(r#"{{"choices":[{{"delta":{{"content":"a"}},"finish_reason":{reason}}}]}}"#);
        let chunks = streamed(&[&chunk], false, "{}");
        assert_eq!(chunks[0]["choices"][0]["finish_reason"], Value::Null, "{reason}");
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], "stop", "{reason}");
    }
    let chunk = r#"{"choices":[{"delta":{"tool_calls":[{"id":"c","function":{"name":"f"}}]}},{"index":1,"delta":{"content":"x"}}]}"#;
    let chunks = streamed(&[chunk], false, "{}");
    assert_eq!(
        chunks[1]["choices"],
        json!([
            {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
            {"index": 1, "delta": {}, "finish_reason": "stop"},
        ])
    );
}

#[test]
fn calls_of_tools_can_be_added_up() {
    let delta = |calls: &str| format!(r#"{{"choices":[{{"delta":{{"tool_calls":{calls}}}}}]}}"#);
    let of = |calls: &[&str]| {
        let chunks: Vec<String> = calls.iter().map(|calls| delta(calls)).collect();
        let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
        added_up(&streamed(&chunks, false, "{}"))
    };
    let made = |n: u32| format!("call_00000000000000000000000000000000_{n}");
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "name": name, "arguments": arguments});
    // As OpenAI sends them.
    assert_eq!(
        of(&[
            r#"[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"function":{"arguments":"1}"}}]"#,
            r#"[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]"#,
        ]),
        [call("a", "f", r#"{"x":1}"#), call("b", "g", "{}")]
    );
    // No index, id or type; the name again with each piece.
    assert_eq!(
        of(&[
            r#"[{"function":{"name":"f","arguments":"{}"}},{"function":{"name":"g","arguments":"{}"}}]"#
        ]),
        [call(&made(1), "f", "{}"), call(&made(2), "g", "{}")]
    );
    assert_eq!(
        of(&[
            r#"[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"1}"}}]"#,
        ]),
        [call("a", "f", r#"{"x":1}"#)]
    );
    // Each call under the same index (Ollama), arguments as an object.
    assert_eq!(
        of(&[
            r#"[{"index":0,"id":"a","function":{"name":"f","arguments":{"x":"\n"}}}]"#,
            r#"[{"index":0,"id":"b","function":{"name":"f","arguments":{"x":2}}}]"#,
        ]),
        [call("a", "f", r#"{"x":"\n"}"#), call("b", "f", r#"{"x":2}"#)]
    );
    // Two calls of the same id.
    assert_eq!(
        of(&[
            r#"[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"a","function":{"name":"g"}}]"#
        ]),
        [call("a", "f", ""), call(&made(1), "g", "")]
    );
    // A name that comes late, a space that is an argument's own, an index that is far.
    assert_eq!(
        of(&[
            r#"[{"index":7,"id":"a","function":{"arguments":"{\"x\":\"a"}}]"#,
            r#"[{"index":7,"function":{"name":"f","arguments":" "}}]"#,
            r#"[{"index":7,"function":{"arguments":" "}},{"index":7,"function":{"arguments":"b\"}"}}]"#,
        ]),
        [call("a", "f", r#"{"x":"a  b"}"#)]
    );
}

#[test]
fn what_else_a_call_has_is_passed_on() {
    let chunks = streamed(
        &[
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}},{"id":"b","type":"custom","custom":{"name":"p","input":"x"}}]}}]}"#,
        ],
        false,
        "{}",
    );
    assert_eq!(
        chunks[0]["choices"][0]["delta"]["tool_calls"],
        json!([
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "s"}}},
            {"index": 1, "id": "b", "type": "custom", "custom": {"name": "p", "input": "x"}},
        ])
    );
}

#[test]
fn the_usage_comes_last_and_only_if_asked_for() {
    let chunks = [
        r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
    ];
    let answer = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2.0},"aggregator":{"cost":0.10}}"#;
    let asked = streamed(&chunks, true, answer);
    assert_eq!(asked.len(), 3);
    assert!(
        asked[..2].iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
    );
    assert_eq!(asked[2]["choices"], json!([]));
    assert_eq!(asked[2]["usage"]["completion_tokens"], 2.0);
    assert_eq!(asked[2]["aggregator"]["cost"], 0.1);
    let unasked = streamed(&chunks, false, answer);
    assert_eq!(unasked.len(), 2);
    assert!(unasked.iter().all(|chunk| chunk.get("usage").is_none()));
    // Unknown is not 0.
    assert_eq!(streamed(&chunks, true, r#"{"usage":null}"#).len(), 2);
}

#[test]
fn half_a_character_waits_for_the_other() {
    let chunks = streamed(
        &[
            r#"{"choices":[{"delta":{"content":"a\ud83d","reasoning":"\ud83d"}}]}"#,
            r#"{"choices":[{"delta":{"content":"\ude00b","tool_calls":[{"id":"c","function":{"name":"f","arguments":"\"\ud83d"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"\ude00\""}}]}}]}"#,
        ],
        false,
        "{}",
    );
    let texts: String = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(texts, "a😀b");
    assert_eq!(added_up(&chunks)[0]["arguments"], "\"😀\"");
}

#[test]
fn an_error_ends_a_stream_without_its_end() {
    let (mut stream, mut out) = (Stream::new(stamp(), false), String::new());
    stream.chunk(r#"{"choices":[{"delta":{"content":"a"}}]}"#, &mut out);
    let failure = Failure::of(&Error::panicked(), Sent::PerhapsPaid);
    stream.fail(&failure, &mut out);
    let events = events(&out);
    assert_eq!(events.len(), 2);
    let last: Value = serde_json::from_str(&events[1]).unwrap();
    assert_eq!(last["error"]["code"], "internal");
}

#[test]
fn an_answer_that_came_whole_is_one_chunk() {
    let answer = r#"{"id":"x","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"message":
        {"role":"assistant","content":"a","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1},"aggregator":{"cost":1}}"#;
    let chunks = streamed(&[], false, answer);
    assert_eq!(
        chunks,
        [json!({
            "id": "x", "object": "chat.completion.chunk", "created": 7, "model": "m",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": "a", "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]}, "finish_reason": "tool_calls"}],
        })]
    );
    assert_eq!(streamed(&[], true, answer).len(), 2);
}

#[test]
fn a_whole_answer_has_what_openais_form_has() {
    let answer = r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":""}}]}},
        {"message":{"content":"x"},"finish_reason":"length","logprobs":null}],
        "usage":{"prompt_tokens":1,"cost":0.10000000000000000001},"created":0,"aggregator":{"cost":0.10}}"#;
    let out = whole(answer, stamp());
    assert!(
        out.contains("0.10000000000000000001") && out.contains(r#""aggregator":{"cost":0.10}"#)
    );
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&value["id"], &value["object"], &value["created"], &value["model"]),
        (&json!(MADE_ID), &json!("chat.completion"), &json!(NOW), &json!("asked/model"))
    );
    assert_eq!(
        value["choices"],
        json!([
            {"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_00000000000000000000000000000000_1", "type": "function",
                    "function": {"name": "f", "arguments": "{}"}},
            ]}, "finish_reason": "tool_calls"},
            {"index": 1, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length",
                "logprobs": null},
        ])
    );
    assert_eq!(whole("[1]", stamp()), "[1]");
}

const HELLO: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;

fn asked(rest: &str) -> Result<Asked, Failure> {
    Asked::read(&format!("{{{HELLO}{rest}}}"))
}

#[test]
fn a_request_says_whether_it_wants_the_usage() {
    assert!(!asked("").unwrap().with_usage);
    assert!(
        asked(r#","stream_options":{"include_usage":true,"include_obfuscation":false}"#)
            .unwrap()
            .with_usage
    );
    for no in [r#"{"include_usage":false}"#, r#"{"include_usage":"true"}"#, "{}", "null", "7"] {
        assert!(!asked(&format!(r#","stream_options":{no}"#)).unwrap().with_usage, "{no}");
    }
}

#[test]
fn our_options_work_in_a_body() {
    let asked_for = asked(r#","timeout_ms":5,"max_retries":0,"models":["n"],"tags":["t"],"extra_body":{"top_k":4},"throw_on_error":false,"whatever":{"x":1.50}"#).unwrap();
    let prepared = asked_for.prepared;
    assert_eq!((prepared.timeout_ms, prepared.max_retries), (5, 0));
    assert_eq!(prepared.models().collect::<Vec<_>>(), ["m", "n"]);
    assert_eq!(prepared.tags, ["t"]);
    let body = prepared.body();
    assert!(body.contains(r#""top_k":4"#) && body.contains(r#""whatever":{"x":1.50}"#), "{body}");
    assert!(!body.contains("tags") && !body.contains("throw_on_error"), "{body}");
    assert_eq!(asked("").unwrap().prepared.timeout_ms, 600_000);
    for (rest, param) in [
        (r#","timeout_ms":99999999"#, "timeout_ms"),
        (r#","on_deadline":"queue""#, "on_deadline"),
        (r#","temperature":"hot""#, "temperature"),
        (r#","tags":"x""#, "tags"),
    ] {
        let failure = asked(rest).unwrap_err();
        assert_eq!((failure.status, failure.param()), (400, Some(param)), "{rest}");
    }
    for body in ["", "[]", "{", "null", r#"{"model":"m"}"#] {
        assert_eq!(Asked::read(body).unwrap_err().status, 400, "{body}");
    }
}

#[test]
fn a_header_asks_the_cache_before_the_body_does() {
    let mut prepared = asked(r#","cache":{"ttl":5}"#).unwrap().prepared;
    take_caching(&mut prepared, b"ttl=60, no-store").unwrap();
    assert!(prepared.caching().is_some_and(|cache| cache.ttl == Some(60) && cache.no_store));
    take_caching(&mut prepared, b"off").unwrap();
    assert_eq!(prepared.caching(), None);
    for bad in [&b"on"[..], b"", b"ttl=0", b"\xff"] {
        let refused = take_caching(&mut prepared, bad).unwrap_err();
        assert_eq!(refused.status, 400, "{bad:?}");
        assert!(refused.message().contains("x-aggregator-cache must be"), "{refused:?}");
    }
}

#[test]
fn headers_add_tags_and_lower_the_time() {
    let mut prepared = asked(r#","tags":["a"]"#).unwrap().prepared;
    let add = |prepared: &mut _, headers: &[&[u8]]| add_tags(prepared, headers.iter().copied());
    add(&mut prepared, &[b"b, a"]).unwrap();
    assert_eq!(prepared.tags, ["a", "b"]);
    for bad in [
        &[&b"1,2,3,4,5,6,7"[..]][..],
        &[b"1,2,3,4", b"5,6,7"],
        &[b"\x7f"],
        &[b"fine", b"\xff"],
        &["x".repeat(65).as_bytes()],
    ] {
        let refused = add(&mut prepared, bad).unwrap_err();
        assert_eq!(refused.status, 400, "{bad:?}");
        assert!(refused.message().contains("at most 8 texts of at most 64 bytes"), "{refused:?}");
        assert_eq!(prepared.tags, ["a", "b"]);
    }
    add(&mut prepared, &[]).unwrap();
    add(&mut prepared, &["é".as_bytes(), b"c,d"]).unwrap();
    assert_eq!(prepared.tags, ["a", "b", "é", "c", "d"]);
    for (seconds, ms) in [
        ("x", 600_000),
        ("-1", 600_000),
        ("0", 600_000),
        ("inf", 600_000),
        ("900", 600_000),
        ("1e300", 600_000),
        (" 60 ", 60_000),
        ("0.0001", 1),
    ] {
        let mut prepared = asked("").unwrap().prepared;
        lower_timeout(&mut prepared, seconds);
        assert_eq!(prepared.timeout_ms, ms, "{seconds}");
    }
    let mut prepared = asked(r#","stream":true"#).unwrap().prepared;
    lower_timeout(&mut prepared, "60");
    assert_eq!(prepared.timeout_ms, 600_000);
}

#[test]
fn a_body_of_responses_is_understood_as_what_it_is() {
    let body = r#"{"model":"m","input":[{"role":"user","content":"hi"}],"stream":true,
        "stream_options":{"include_usage":true},
        "tools":[{"type":"function","name":"f","parameters":{"type":"object"}}]}"#;
    let asked = Asked::read(body).unwrap();
    assert!(asked.with_usage && asked.prepared.streams);
    let body: Value = serde_json::from_str(&asked.prepared.body()).unwrap();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
    assert_eq!(body["tools"][0]["function"]["name"], "f");
}

/// JSON that looks like a chunk, and may be anything.
fn like_a_chunk() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("7".to_owned()),
        Just(r#""""#.to_owned()),
        Just(r#""a\ud83d""#.to_owned()),
        Just(r#""\ude00""#.to_owned()),
        Just(r#""f""#.to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        "[0-3]",
    ];
    let name = proptest::sample::select(vec![
        "index",
        "id",
        "type",
        "function",
        "name",
        "arguments",
        "delta",
        "message",
        "content",
        "role",
        "tool_calls",
        "finish_reason",
        "choices",
        "usage",
        "created",
        "x",
    ]);
    value.prop_recursive(6, 60, 4, move |inner| {
        let member =
            (name.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..3)
                .prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec(member, 0..5)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// A chunk whose calls are nearly right.
fn calls() -> impl Strategy<Value = String> {
    let part = |name: &'static str, values: &'static [&'static str]| {
        proptest::option::of(proptest::sample::select(values))
            .prop_map(move |value| value.map(|value| format!("\"{name}\":{value}")))
    };
    let function = (
        part("name", &["\"f\"", "\"g\"", "\"\""]),
        part("arguments", &["\"{\"", "\"}\"", "{}", "\"\\ud83d\"", "null"]),
    )
        .prop_map(|(name, arguments)| {
            let members: Vec<String> = [name, arguments].into_iter().flatten().collect();
            format!("\"function\":{{{}}}", members.join(","))
        });
    let call = (
        part("index", &["0", "1", "7", "\"0\""]),
        part("id", &["\"a\"", "\"b\"", "\"\""]),
        function,
    )
        .prop_map(|(index, id, function)| {
            let members: Vec<String> = [index, id, Some(function)].into_iter().flatten().collect();
            format!("{{{}}}", members.join(","))
        });
    proptest::collection::vec(call, 0..4).prop_map(|calls| {
        format!(
            r#"{{"choices":[{{"delta":{{"role":"assistant","tool_calls":[{}]}}}}]}}"#,
            calls.join(",")
        )
    })
}

proptest! {
    #[test]
    fn whatever_comes_clients_can_read_it(
        chunks in proptest::collection::vec(like_a_chunk(), 0..6),
        with_usage in any::<bool>(),
    ) {
        let texts: Vec<&str> = chunks.iter().map(String::as_str).collect();
        for chunk in streamed(&texts, with_usage, "{}") {
            prop_assert!(chunk["id"].is_string() && chunk["created"].is_i64() && chunk["model"].is_string());
            let choices = chunk["choices"].as_array().unwrap();
            prop_assert!(!choices.is_empty());
            for choice in choices {
                prop_assert!(choice["index"].is_u64() && choice["delta"].is_object(), "{}", choice);
                prop_assert!(choice["finish_reason"].is_string() || choice["finish_reason"].is_null());
            }
        }
        for text in texts.into_iter().filter(|text| text.starts_with('{')) {
            prop_assert!(serde_json::from_str::<Value>(&whole(text, stamp())).is_ok(), "{}", text);
        }
    }

    #[test]
    fn whatever_calls_come_they_can_be_added_up(
        chunks in proptest::collection::vec(calls(), 0..6),
    ) {
        let texts: Vec<&str> = chunks.iter().map(String::as_str).collect();
        let chunks = streamed(&texts, false, "{}");
        let calls = added_up(&chunks);
        let ids: std::collections::BTreeSet<&str> =
            calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
        prop_assert!(ids.len() == calls.len() && !ids.contains(""), "{:?}", calls);
        let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"].get("role").is_some());
        prop_assert!(roles.count() <= 1);
    }

    #[test]
    fn nothing_from_outside_panics(text in "\\PC{0,60}", like in "[{}\\[\\]\":,a-z0-9]{0,60}") {
        for text in [text, like] {
            let _ = (Asked::read(&text), whole(&text, stamp()));
            let (mut stream, mut out) = (Stream::new(stamp(), true), String::new());
            stream.chunk(&text, &mut out);
            stream.finish(&text, &mut out);
        }
    }
}

#[test]
fn what_is_held_of_calls_that_never_begin_is_counted() {
    let mut stream = Stream::new(stamp(), false);
    let mut out = String::new();
    for index in 0..1000 {
        let id = "x".repeat(50);
        let call = json!({"index": index, "id": id, "function": {"arguments": "y".repeat(100)}});
        let chunk = json!({"choices": [{"delta": {"tool_calls": [call]}}]}).to_string();
        stream.chunk(&chunk, &mut out);
    }
    assert!((200_000..800_000).contains(&stream.size()), "{}", stream.size());
    // Once they have a name nothing of their arguments is held.
    let before = stream.size();
    for index in 0..1000 {
        let call = json!({"index": index, "function": {"name": "f"}});
        let chunk = json!({"choices": [{"delta": {"tool_calls": [call]}}]}).to_string();
        stream.chunk(&chunk, &mut out);
    }
    assert!(stream.size() < before, "{} {before}", stream.size());
    for choice in 0..1000 {
        let delta =
            json!({format!("member{choice}"): "x"}).to_string().replace("\"x\"", r#""\ud83d""#);
        let chunk = format!(r#"{{"choices":[{{"index":{choice},"delta":{delta}}}]}}"#);
        stream.chunk(&chunk, &mut out);
    }
    assert!(stream.size() > before + 100_000, "{} {before}", stream.size());
}
