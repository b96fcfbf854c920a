//! The passage to a provider that speaks Anthropic.

use super::*;
use crate::core::request::outline;
use crate::core::sse::Event;
use crate::core::standard::Step;
use crate::core::standard::anthropic::front::native::{self, Events};

/// What only Anthropic's own form can say, with digits and an order of its own.
const OWN: &str = r#"{"model":"claude-sonnet-5","max_tokens":100,"stream":true,"timeout_ms":5,"models":["x"],
    "system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}],
    "thinking":{"type":"enabled","budget_tokens":2000,"display":"summarized"},"top_k":5,
    "context_management":{"edits":[]},"speed":"fast",
    "tools":[{"type":"web_search_20250305","name":"web_search","max_uses":3}],
    "messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]},
        {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQB"},
            {"type":"tool_use","id":"t","name":"f","input":{"z":1.50,"a":12345678901234567890.10}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","is_error":true}]}]}"#;

fn sent(body: &str, sending: &Sending<'_>) -> String {
    let request = Incoming::read(body, Version::June2023).unwrap();
    native::request(&request.native().unwrap(), sending).unwrap()
}

#[test]
fn a_body_goes_as_it_came_but_for_what_is_ours() {
    let text = sent(OWN, &SENDING);
    let (given, found) = (parse(OWN), parse(&text));
    assert_eq!(found["model"], "claude-x");
    for ours in ["timeout_ms", "models", "stream"] {
        assert!(found.get(ours).is_none(), "{ours}");
    }
    for (name, value) in given.as_object().unwrap() {
        if !["model", "timeout_ms", "models", "stream"].contains(&name.as_str()) {
            assert_eq!(&found[name], value, "{name}");
        }
    }
    for kept in [r#""input":{"z":1.50,"a":12345678901234567890.10}"#, r#""budget_tokens":2000"#] {
        assert!(text.contains(kept), "{kept} in {text}");
    }
    let streamed = parse(&sent(OWN, &Sending { streams: true, ..SENDING }));
    assert_eq!(streamed["stream"], true);
}

#[test]
fn no_more_is_asked_for_than_was_reserved() {
    let max_tokens =
        |body: &str, sending: Sending<'_>| parse(&sent(body, &sending))["max_tokens"].take();
    let silent = r#"{"model":"m","messages":[]}"#;
    let asks = r#"{"model":"m","messages":[],"max_tokens":9000}"#;
    assert_eq!(max_tokens(asks, Sending { most_tokens: Some(50), ..SENDING }), 50);
    assert_eq!(max_tokens(asks, SENDING), 9000);
    assert_eq!(max_tokens(silent, SENDING), 4096);
    assert_eq!(max_tokens(silent, Sending { max_output_tokens: Some(7), ..SENDING }), 7);
    let cap = Some(5);
    assert_eq!(max_tokens(silent, Sending { max_output_tokens: Some(7), cap, ..SENDING }), 5);
    let wrong = r#"{"model":"m","messages":[],"max_tokens":"9"}"#;
    assert!(native::request(wrong, &Sending { most_tokens: Some(50), ..SENDING }).is_err());
}

#[test]
fn thinking_that_no_claude_has_signed_is_left_out() {
    let thought =
        |signature: Value| json!({"type": "thinking", "thinking": "x", "signature": signature});
    let own = thought(json!("EqQB"));
    let text = json!({"type": "text", "text": "y"});
    let given = json!({"model": "m", "max_tokens": 1, "messages": [
        {"role": "user", "content": [thought(json!(""))]},
        {"role": "assistant", "content": [thought(json!("aggregator/reasoning")), own, text]},
        {"role": "assistant", "content": [thought(json!("")), thought(Value::Null)]},
        {"role": "assistant", "content": "plain"}]});
    let found = parse(&sent(&given.to_string(), &SENDING));
    assert_eq!(
        found["messages"],
        json!([
            {"role": "user", "content": [thought(json!(""))]},
            {"role": "assistant", "content": [own, text]},
            {"role": "assistant", "content": "plain"}])
    );
    let found = parse(&sent(&given.to_string(), &Sending { model_id: "deepseek-x", ..SENDING }));
    assert_eq!(found["messages"][1]["content"], json!([own, text]));
    assert_eq!(found["messages"][2], given["messages"][2]);
}

#[test]
fn an_extra_body_stands_beside_the_rest() {
    let with = |extra: Value| {
        let body =
            json!({"model": "m", "messages": [], "top_k": 1, "extra_body": extra}).to_string();
        Incoming::read(&body, Version::June2023).unwrap().native()
    };
    let native = parse(&with(json!({"top_k": 2, "seed": 3})).unwrap());
    assert_eq!(native, json!({"model": "m", "messages": [], "top_k": 2, "seed": 3}));
    assert!(with(Value::Null).is_ok());
    for bad in [json!(7), json!({"model": "x"}), json!({"stream": true}), json!({"timeout_ms": 1})]
    {
        assert!(with(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn it_has_the_bound_of_every_request() {
    let plain = r#"{"model":"m","max_tokens":7,"system":"x","stop_sequences":["a"],"thinking":{},"messages":[
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"y"}]}],
        "tools":[{"name":"f","input_schema":{}}]}"#;
    let found = outline(plain).unwrap();
    assert_eq!((found.unbounded, found.max_tokens), (None, Some(7)));
    assert!(outline(OWN).unwrap().unbounded.is_some());
}

#[test]
fn headers_name_the_version_and_the_betas() {
    let betas = native::betas(["a-1, b-2", "a-1,c-3", ""].into_iter()).unwrap();
    assert_eq!(betas.as_deref(), Some("a-1,b-2,c-3"));
    assert_eq!(
        native::headers(Version::October2026, betas, true),
        [
            ("anthropic-version", "2026-10-21".to_owned()),
            ("anthropic-beta", "a-1,b-2,c-3".to_owned())
        ]
    );
    let relays = native::headers(Version::October2026, None, false);
    assert_eq!(relays, [("anthropic-version", "2023-06-01".to_owned())]);
    assert_eq!(native::betas([" , "].into_iter()).unwrap(), None);
    let many: Vec<String> = (0..65).map(|n| format!("b-{n}")).collect();
    for bad in [many.join(","), "b".repeat(129), "a\r\nx: y".to_owned(), "é".to_owned()] {
        assert!(native::betas([bad.as_str()].into_iter()).is_err(), "{bad}");
    }
    assert!(native::betas([many[..64].join(",").as_str()].into_iter()).unwrap().is_some());
}

fn event(data: &str) -> Event {
    Event { name: None, data: data.to_owned() }
}

#[test]
fn a_stream_goes_as_it_came_and_to_the_ledger() {
    let golden = parse(include_str!("../../../../../../tests/goldens/anthropic/stream/text.json"));
    let (mut passing, mut out, mut chunks) = (Events::default(), String::new(), Vec::new());
    for data in golden["events"].as_array().unwrap() {
        let before = out.len();
        let passed = passing.read(&event(&data.to_string()), None, &mut out);
        assert_eq!(passed.has_event, out.len() > before);
        if let Step::Chunk(chunk) = passed.step {
            chunks.push(parse(&chunk));
        }
    }
    passing.finish(&mut out);
    let found: Vec<Value> = events(&out).into_iter().map(|(_, data)| data).collect();
    // Pings, and what nobody here knows.
    assert_eq!(json!(found), golden["events"]);
    assert_eq!(json!(chunks), golden["chunks"]);
}

#[test]
fn what_is_no_event_of_a_message_is_not_passed_on() {
    let read = |data: &[&str]| {
        let (mut passing, mut out) = (Events::default(), String::new());
        let steps: Vec<Step> = data
            .iter()
            .map(|data| passing.read(&event(data), Some("sk-key"), &mut out).step)
            .collect();
        passing.finish(&mut out);
        (steps, out)
    };
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}"#;
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    // An end that is missing, one of OpenAI's, and two of them.
    for end in [&[delta][..], &[delta, "[DONE]"], &[delta, r#"{"type":"message_stop"}"#, "[DONE]"]]
    {
        let (_, out) = read(end);
        assert_eq!(out, format!("event: message_delta\ndata: {delta}\n\n{stop}"), "{end:?}");
    }
    // One that was left in the middle has none.
    let (_, out) = read(&[r#"{"type":"message_delta","delta":{"stop_reason":null}}"#]);
    assert!(!out.contains("message_stop"), "{out}");
    let failed = r#"{"type":"error","error":{"type":"overloaded_error","message":"sk-key"}}"#;
    let (steps, out) = read(&[failed, delta]);
    assert!(matches!(&steps[0], Step::Refused(refusal) if refusal.status == 529));
    assert_eq!(out, "");
    let (steps, out) = read(&["nonsense"]);
    assert!(matches!(steps[0], Step::Broken(_)));
    assert_eq!(out, "");
    let (_, out) = read(&["7", "", "{}", r#"{"type":"a b"}"#, r#"{"type":"a\nb"}"#]);
    assert_eq!(out, "");
    // A line's end between the members is no end of the event.
    let (_, out) = read(&["{\"type\":\"ping\",\r\n\"x\":\"a\\nb\"}"]);
    assert_eq!(events(&out), [("ping".to_owned(), json!({"type": "ping", "x": "a\nb"}))]);
}

#[test]
fn a_relay_that_leaves_the_type_out_names_the_event() {
    let (mut passing, mut out) = (Events::default(), String::new());
    let named = Event { name: Some("ping".to_owned()), data: "{}".to_owned() };
    passing.read(&named, None, &mut out);
    assert_eq!(out, "event: ping\ndata: {}\n\n");
}
