//! Goldens under `tests/goldens/anthropic`: what goes in, and what must come out.

use super::*;
use crate::core::sse::Event;
use crate::core::standard::Step;
use crate::core::usage::Usage;
use serde_json::{Value, json};

macro_rules! goldens {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!(
            "../../../../tests/goldens/anthropic/", $folder, "/", $name, ".json"
        )))),*]
    };
}

const SENDING: Sending<'static> = Sending {
    model_id: "claude-x",
    max_output_tokens: None,
    streams: false,
    cap: None,
    takes_newer_name: false,
    most_tokens: None,
};
const HELLO: &str = r#"[{"role":"user","content":"Hello"}]"#;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The refusal of a request whose messages or other members are wrong.
fn refused(body: &str) -> String {
    match Anthropic.request(body, &SENDING) {
        Err(error) => {
            assert_eq!(error.code(), "bad_request", "{body}");
            error.to_string()
        }
        Ok(sent) => panic!("{body} was sent as {sent}"),
    }
}

fn event(data: &str) -> Event {
    Event { name: None, data: data.to_owned() }
}

#[test]
fn requests() {
    let goldens = goldens!("request":
        "plain", "stream", "catalogue_max_tokens", "sampling", "ignored", "system",
        "cache_control", "merged_turns", "tool_round", "tool_results_first",
        "one_function_at_a_time", "no_parallel_tools", "no_tool", "native_tools",
        "images_and_files", "native_parts", "thinking_blocks", "json_schema", "json_object",
        "own_members_win",
    );
    for (name, golden) in goldens {
        let golden = parse(golden);
        let sending = Sending {
            max_output_tokens: golden["max_output_tokens"].as_i64().map(|n| n as i32),
            streams: golden["streams"] == true,
            ..SENDING
        };
        let sent = Anthropic.request(&golden["in"].to_string(), &sending).expect(name);
        assert_eq!(parse(&sent), golden["out"], "{name}");
    }
}

#[test]
fn answers() {
    let goldens = goldens!("answer":
        "text", "tools", "text_and_tool", "thinking", "cache_usage", "refusal", "server_tools",
        "no_usage",
    );
    for (name, golden) in goldens {
        let golden = parse(golden);
        let body = golden["in"].to_string();
        assert_eq!(parse(&Anthropic.answer(&body)), golden["out"], "{name}");
    }
}

#[test]
fn streams() {
    for (name, golden) in goldens!("stream": "text", "tools", "thinking", "error") {
        let golden = parse(golden);
        let mut reader = Anthropic.stream();
        let (mut chunks, mut end) = (Vec::new(), Value::Null);
        for data in golden["events"].as_array().unwrap() {
            match reader.read(&event(&data.to_string()), Some("sk-secret")) {
                Step::Chunk(chunk) => chunks.push(parse(&chunk)),
                Step::Nothing => {}
                Step::Done => end = json!("done"),
                Step::Refused(refusal) => end = serde_json::to_value(refusal).unwrap(),
                Step::Broken(what) => panic!("{name}: {what}: {data}"),
            }
        }
        assert_eq!(json!(chunks), golden["chunks"], "{name}");
        assert_eq!(end, golden["end"], "{name}");
    }
}

#[test]
fn digits_survive_both_ways() {
    let call =
        r#"{"id":"t","function":{"name":"f","arguments":"{\"n\": 12345678901234567890.10}"}}"#;
    let sent = Anthropic
        .request(
            &format!(
                r#"{{"messages":[{{"role":"user","content":"x"}},
                        {{"role":"assistant","tool_calls":[{call}]}}],
                    "temperature":0.10000000000000000001,"max_tokens":1e3,"top_p":0.950,
                    "top_k":12345678901234567890123,
                    "tools":[{{"type":"function","function":{{"name":"f",
                        "parameters":{{"maximum":0.30000000000000000004}}}}}}]}}"#
            ),
            &SENDING,
        )
        .unwrap();
    for digits in [
        r#""temperature":0.10000000000000000001"#,
        r#""max_tokens":1e3"#,
        r#""top_p":0.950"#,
        r#""top_k":12345678901234567890123"#,
        r#""maximum":0.30000000000000000004"#,
        r#""n": 12345678901234567890.10"#,
    ] {
        assert!(sent.contains(digits), "{digits} in {sent}");
    }
    let answer = Anthropic.answer(
        r#"{"type":"message","content":[{"type":"tool_use","id":"t","name":"f",
            "input":{"n":12345678901234567890.10}}]}"#,
    );
    assert_eq!(
        parse(&answer)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        r#"{"n":12345678901234567890.10}"#
    );
}

#[test]
fn what_cannot_be_sent_is_named() {
    let with = |member: &str| refused(&format!(r#"{{"messages":{HELLO},{member}}}"#));
    for (member, named) in [
        (r#""n":2"#, "n must be 1"),
        (r#""modalities":["text","audio"]"#, "modalities"),
        (r#""functions":[]"#, "functions"),
        (r#""function_call":"auto""#, "function_call"),
        (r#""web_search_options":{}"#, "web_search_options"),
        (r#""response_format":{"type":"grammar"}"#, "response_format"),
        (r#""response_format":{"type":"json_schema"}"#, "schema"),
        (r#""tools":[{"type":"custom","custom":{"name":"x"}}]"#, "tools[0]"),
        (r#""tools":[{"type":"function"}]"#, "tools[0]"),
        (r#""tool_choice":"some""#, "tool_choice"),
        (r#""tool_choice":{"type":"allowed_tools"}"#, "tool_choice"),
        (r#""stop":7"#, "stop"),
    ] {
        assert!(with(member).contains(named), "{member}");
    }
    for (messages, named) in [
        (r#"{}"#, "messages must be"),
        (r#"[]"#, "messages must hold"),
        (r#"[{"role":"system","content":"x"}]"#, "messages must hold"),
        (r#"[7]"#, "messages[0]"),
        (r#"[{"role":"bard","content":"x"}]"#, "messages[0]: unknown role"),
        (r#"[{"role":"function","name":"f","content":"x"}]"#, "role 'function'"),
        (r#"[{"role":"tool","content":"x"}]"#, "tool_call_id"),
        (r#"[{"role":"user","content":7}]"#, "messages[0].content"),
        (r#"[{"role":"user","content":[{"type":"input_audio"}]}]"#, "messages[0].content[0]"),
        (r#"[{"role":"system","content":[{"type":"image"}]}]"#, "only text"),
    ] {
        let refusal = refused(&format!(r#"{{"messages":{messages}}}"#));
        assert!(refusal.contains(named), "{refusal}");
    }
    for url in ["http://a.example/x.png", "data:image/png,AAAA", "data:text/plain;base64,AAAA", ""]
    {
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        let body = json!({"messages": [{"role": "user", "content": [part]}]});
        assert!(refused(&body.to_string()).contains("https URL"), "{url}");
    }
    for file in [json!({"file_id": "f-1"}), json!({"file_data": "data:text/csv;base64,AAAA"})] {
        let part = json!({"type": "file", "file": file});
        let body = json!({"messages": [{"role": "user", "content": [part]}]});
        assert!(refused(&body.to_string()).contains("PDF"), "{file}");
    }
}

#[test]
fn wrong_arguments_are_named_but_not_repeated() {
    for arguments in [r#"{"secret": "#, "[1]", "nonsense"] {
        let call = json!({"id": "t", "function": {"name": "lookup", "arguments": arguments}});
        let body = json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}).to_string();
        let refusal = refused(&body);
        assert!(refusal.contains("messages[0].tool_calls[0] (lookup)"), "{refusal}");
        assert!(!refusal.contains("secret") && !refusal.contains("nonsense"), "{refusal}");
    }
}

#[test]
fn a_system_prompt_is_no_turn_and_keeps_its_cache() {
    let body = r#"{"messages":[{"role":"system","content":"x","cache_control":{"type":"ephemeral"}},
        {"role":"user","content":"y"}],"response_format":{"type":"json_object"}}"#;
    let system = &parse(&Anthropic.request(body, &SENDING).unwrap())["system"];
    assert_eq!(system[0], json!({"type":"text","text":"x","cache_control":{"type":"ephemeral"}}));
    assert!(system[1]["text"].as_str().unwrap().contains("JSON"));
}

#[test]
fn blank_texts_are_not_sent() {
    let call =
        json!([{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let with = |blank: &str| {
        json!({"messages": [
            {"role": "system", "content": blank},
            {"role": "system", "content": [{"type": "text", "text": blank}]},
            {"role": "user", "content": blank},
            {"role": "user", "content": [{"type": "text", "text": blank}, {"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": blank, "tool_calls": call},
            {"role": "tool", "tool_call_id": "t", "content": blank},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "u", "content": blank},
                {"type": "tool_result", "tool_use_id": "v", "content": [{"type": "text", "text": blank}]}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": blank}]},
        ], "max_tokens": 9})
    };
    let expected = json!({"model": "claude-x", "max_tokens": 9, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t"},
            {"type": "tool_result", "tool_use_id": "u"},
            {"type": "tool_result", "tool_use_id": "v"}]},
    ]});
    for blank in ["", " ", "\n\n", "\t \u{a0}\u{3000}\r\n"] {
        let mut body = with(blank);
        assert_eq!(
            parse(&Anthropic.request(&body.to_string(), &SENDING).unwrap()),
            expected,
            "{blank:?}"
        );
        for system in [json!(blank), json!([{"type": "text", "text": blank}])] {
            body["system"] = system;
            let sent = Anthropic.request(&body.to_string(), &SENDING).unwrap();
            assert_eq!(parse(&sent), expected, "{blank:?}");
        }
        let alone = json!({"messages": [{"role": "user", "content": blank}]}).to_string();
        assert!(refused(&alone).contains("not empty"), "{blank:?}");
    }
}

#[test]
fn a_last_turn_of_the_assistant_does_not_end_in_white_space() {
    let content = |messages: Value| {
        let body = json!({"messages": messages}).to_string();
        parse(&Anthropic.request(&body, &SENDING).unwrap())["messages"].take()
    };
    for prefill in ["Sure: \n", "Sure:", "Sure:\u{a0}\t"] {
        for given in [json!(prefill), json!([{"type": "text", "text": prefill}])] {
            let turns = content(json!([
                {"role": "assistant", "content": "As it was \n"},
                {"role": "user", "content": "hi \n"},
                {"role": "assistant", "content": given},
            ]));
            assert_eq!(turns[2]["content"], json!([{"type": "text", "text": "Sure:"}]));
            // What comes before is the caller's.
            assert_eq!(turns[0]["content"][0]["text"], "As it was \n");
            assert_eq!(turns[1]["content"][0]["text"], "hi \n");
        }
    }
    // A blank end is no end.
    let turns =
        content(json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
        {"type": "text", "text": "Sure: "}, {"type": "text", "text": "\n"}]}]));
    assert_eq!(turns[1]["content"], json!([{"type": "text", "text": "Sure:"}]));
}

#[test]
fn a_blank_text_that_ends_the_cached_prompt_leaves_that_to_the_one_before() {
    let cached = json!({"type": "ephemeral"});
    let body = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "long"},
        {"type": "text", "text": " ", "cache_control": cached},
        {"type": "text", "text": "hi"}]}]});
    let sent = parse(&Anthropic.request(&body.to_string(), &SENDING).unwrap());
    assert_eq!(
        sent["messages"][0]["content"],
        json!([
        {"type": "text", "text": "long", "cache_control": cached}, {"type": "text", "text": "hi"}])
    );
}

#[test]
fn what_is_no_message_stays_as_it_is() {
    for body in [
        "",
        "<html>",
        "[]",
        r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#,
        r#"{"type":"message"}"#,
        r#"{"type":"message","content":[{"type":"tool_use"}]}"#,
        r#"{"choices":[]}"#,
    ] {
        assert!(matches!(Anthropic.answer(body), Cow::Borrowed(same) if same == body), "{body}");
    }
}

#[test]
fn a_lone_surrogate_costs_a_character_not_the_answer() {
    let body = r#"{"type":"message","content":[{"type":"text","text":"a\ud800b"}]}"#;
    assert_eq!(parse(&Anthropic.answer(body))["choices"][0]["message"]["content"], "a\u{fffd}b");
    let delta = r#"{"type":"content_block_delta","index":0,
        "delta":{"type":"text_delta","text":"\ud800"}}"#;
    assert!(matches!(Anthropic.stream().read(&event(delta), None), Step::Chunk(_)));
}

#[test]
fn every_error_type_has_its_status() {
    for (kind, status) in [
        ("invalid_request_error", 400),
        ("authentication_error", 401),
        ("billing_error", 402),
        ("permission_error", 403),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("overloaded_error", 529),
        ("something_new", 502),
    ] {
        let data = json!({"type": "error", "error": {"type": kind, "message": "m"}}).to_string();
        let Step::Refused(refusal) = Anthropic.stream().read(&event(&data), None) else { panic!() };
        assert_eq!((refusal.status, refusal.code.as_deref()), (status, Some(kind)));
    }
}

#[test]
fn events_that_are_not_anthropics_are_named() {
    let mut reader = Anthropic.stream();
    assert_eq!(reader.read(&event(" "), None), Step::Nothing);
    let named = Event { name: Some("ping".to_owned()), data: "{}".to_owned() };
    assert_eq!(reader.read(&named, None), Step::Nothing);
    for data in ["{", "nonsense", "7 8"] {
        assert!(matches!(reader.read(&event(data), None), Step::Broken(_)), "{data}");
    }
}

#[test]
fn events_that_are_not_understood_are_passed_over() {
    let mut reader = Anthropic.stream();
    for data in [
        "7",
        "[]",
        "null",
        r#"{"type":7}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"message_start"}"#,
        r#"{"type":"content_block_start","index":0}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"new"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":"x"}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":7}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}"#,
        r#"{"type":"content_block_stop","index":"x"}"#,
        r#"{"type":"statistics","choices":null}"#,
    ] {
        assert_eq!(reader.read(&event(data), None), Step::Nothing, "{data}");
    }
    assert_eq!(reader.read(&event("[DONE]"), None), Step::Done);
}

#[test]
fn an_event_that_is_named_an_error_is_one_whatever_it_holds() {
    for (data, words) in [
        (r#"{"message":"upstream died"}"#, "upstream died"),
        (r#"{"detail":"upstream died"}"#, "upstream died"),
        (r#""upstream died""#, "upstream died"),
        ("upstream died", "upstream died"),
    ] {
        let named = Event { name: Some("error".to_owned()), data: data.to_owned() };
        let Step::Refused(refusal) = Anthropic.stream().read(&named, None) else {
            panic!("{data}")
        };
        assert_eq!((refusal.status, refusal.message.as_deref()), (502, Some(words)), "{data}");
    }
}

#[test]
fn members_of_another_form_do_not_cost_the_answer() {
    let body = r#"{"type":"message","role":7,"model":"a","model":"b","stop_reason":7,"content":[
        {"type":"text","text":7},{"type":"text","text":"x","text":"y"},8,
        {"type":"tool_use","name":"f","input":{}}],"usage":{"input_tokens":1,"output_tokens":2}}"#;
    let answer = parse(&Anthropic.answer(body));
    assert_eq!(answer["choices"][0]["message"]["content"], "y");
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!((&answer["model"], &answer["usage"]["total_tokens"]), (&json!("b"), &json!(3)));
    let untyped = r#"{"role":"assistant","content":[{"type":"text","text":"x"}]}"#;
    assert_eq!(parse(&Anthropic.answer(untyped))["choices"][0]["message"]["content"], "x");
}

#[test]
fn halves_of_characters_meet_again() {
    let mut reader = Anthropic.stream();
    let mut stream = crate::core::stream::Assembler::default();
    let mut texts = String::new();
    for data in [
        r#"{"type":"message_start","message":{"id":"m","model":"c"}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"\ud83d"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"\ude00"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"a\ud83d"}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"\ude00b"}}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t","name":"f"}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"x\":\"\ud83d"}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"\ude00\"}"}}"#,
    ] {
        if let Step::Chunk(chunk) = reader.read(&event(data), None) {
            texts.push_str(&stream.add(&chunk).text);
        }
    }
    assert_eq!(texts, "a😀b");
    let answer = parse(&stream.finish());
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("a😀b"), &json!("😀"))
    );
    assert_eq!(message["thinking_blocks"][0]["thinking"], "😀");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"x\":\"😀\"}");
}

#[test]
fn an_input_given_at_once_is_streamed_at_once() {
    let mut reader = Anthropic.stream();
    let start = r#"{"type":"content_block_start","index":4,"content_block":
        {"type":"tool_use","id":"t","name":"f","input":{"n":0.10}}}"#;
    assert!(matches!(reader.read(&event(start), None), Step::Chunk(_)));
    let stop = event(r#"{"type":"content_block_stop","index":4}"#);
    let Step::Chunk(chunk) = reader.read(&stop, None) else { panic!() };
    let call = &parse(&chunk)["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], r#"{"n":0.10}"#);
    assert_eq!(reader.read(&stop, None), Step::Nothing);
}

#[test]
fn usage_comes_at_the_start_and_again_with_the_last_delta() {
    let mut reader = Anthropic.stream();
    let start =
        r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}"#;
    let Step::Chunk(first) = reader.read(&event(start), None) else { panic!() };
    assert_eq!(parse(&first)["usage"]["prompt_tokens"], 5);
    let bare = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    let Step::Chunk(bare) = reader.read(&event(bare), None) else { panic!() };
    assert!(parse(&bare).get("usage").is_none());
}

proptest::proptest! {
    #[test]
    fn the_translated_usage_is_the_native_one(
        input in 0..100_000_000i32, output in 0..i32::MAX, read in 0..100_000_000i32,
        written in 0..100_000_000i32, one_hour in 0..200_000_000i32,
    ) {
        let native = json!({
            "input_tokens": input, "output_tokens": output, "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_1h_input_tokens": one_hour},
        });
        let message = json!({"type": "message", "content": [], "usage": native}).to_string();
        let translated = parse(&Anthropic.answer(&message))["usage"].to_string();
        proptest::prop_assert_eq!(Usage::parse(&translated), Usage::parse(&native.to_string()));
    }

    #[test]
    fn nothing_from_outside_panics(json in json_like(), text in "\\PC{0,60}") {
        let mut reader = Anthropic.stream();
        for text in [json.to_string(), text] {
            let _ = Anthropic.request(&text, &SENDING);
            let _ = Anthropic.answer(&text);
            let _ = reader.read(&event(&text), Some("sk-k"));
            for body in [
                format!(r#"{{"messages":{text}}}"#),
                format!(r#"{{"messages":[{{"role":"user","content":{text}}}]}}"#),
                format!(r#"{{"messages":[{{"role":"user","content":[{text}]}}]}}"#),
                format!(r#"{{"messages":{HELLO},"tools":[{text}],"tool_choice":{text}}}"#),
                format!(r#"{{"messages":{HELLO},"response_format":{text},"stop":{text}}}"#),
            ] {
                let _ = Anthropic.request(&body, &SENDING);
            }
            let _ = Anthropic.answer(&format!(r#"{{"type":"message","content":[{text}],"usage":{text}}}"#));
            for kind in ["message_start", "message_delta", "content_block_start", "error"] {
                let data = format!(
                    r#"{{"type":"{kind}","index":0,"message":{text},"delta":{text},
                        "content_block":{text},"usage":{text},"error":{text}}}"#
                );
                let _ = reader.read(&event(&data), Some("sk-k"));
            }
        }
    }
}

/// JSON that is often nearly right: the members and values that the two forms use.
pub(super) fn json_like() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    const WORDS: &[&str] = &[
        "type",
        "role",
        "content",
        "text",
        "user",
        "assistant",
        "tool",
        "system",
        "messages",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_use",
        "tool_result",
        "input",
        "thinking",
        "signature",
        "image_url",
        "url",
        "data:image/png;base64,x",
        "file",
        "file_data",
        "data:;,",
        "message",
        "usage",
        "input_tokens",
        "output_tokens",
        "index",
        "text_delta",
        "cache_control",
        "json_schema",
        "schema",
        "stop_reason",
        "choices",
        "delta",
        "finish_reason",
        "reasoning_content",
        "thinking_blocks",
        "redacted_thinking",
        "source",
        "base64",
        "media_type",
        "data",
        "document",
        "image",
        "model",
        "tools",
        "max_tokens",
        "é",
        "",
    ];
    let word = || proptest::sample::select(WORDS).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(word(), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
