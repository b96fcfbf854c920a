use super::*;
use crate::core::reply::{self, Reading};
use proptest::prelude::*;
use serde_json::{Value, json};

fn assemble(chunks: &[&str]) -> Assembler {
    let mut assembler = Assembler::default();
    for chunk in chunks {
        assembler.add(chunk);
    }
    assembler
}

fn answer(assembler: Assembler) -> Value {
    let text = assembler.finish();
    assert!(matches!(reply::read(&text, None), Reading::Completion(_)), "{text}");
    serde_json::from_str(&text).unwrap()
}

fn delta(delta: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#)
}

/// The message of choice 0 after these deltas.
fn message(deltas: &[&str]) -> Value {
    let mut assembler = Assembler::default();
    for text in deltas {
        assembler.add(&delta(text));
    }
    answer(assembler)["choices"][0]["message"].take()
}

#[test]
fn a_text_and_its_usage() {
    let mut stream = Assembler::default();
    let first = r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m-1",
        "service_tier":null,"choices":[{"index":0,"finish_reason":null,"logprobs":null,
        "delta":{"role":"assistant","content":"","refusal":null}}]}"#;
    assert_eq!(stream.add(first), Added::default());
    assert!(!stream.has_output() && !stream.is_finished() && stream.usage() == Usage::default());
    for text in ["Hé", "llo\\n", "\\\"w\\\""] {
        let added = stream.add(&delta(&format!(r#"{{"content":"{text}"}}"#)));
        assert!(added.has_output && !added.text.is_empty());
    }
    let last = r#"{"id":"c-2","model":"","service_tier":"flex","choices":[{"index":0,
        "delta":{},"finish_reason":"stop"}]}"#;
    stream.add(last);
    assert!(stream.has_output() && stream.is_finished() && stream.usage() == Usage::default());
    stream.add(r#"{"choices":[],"usage":{"prompt_tokens":1}}"#);
    stream.add(r#"{"choices":[],"usage":{"prompt_tokens":2}}"#);
    stream.add(r#"{"choices":[],"usage":null}"#);
    assert_eq!(stream.usage(), Usage::parse(r#"{"prompt_tokens":2}"#));
    assert_eq!((stream.id(), stream.served_model()), (Some("c-1"), Some("m-1")));
    assert_eq!(stream.output_estimate(), 3);
    let expected = json!({
        "id": "c-1", "object": "chat.completion", "created": 7, "model": "m-1",
        "service_tier": "flex", "usage": {"prompt_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Héllo\n\"w\""}}],
    });
    assert_eq!(answer(stream), expected);
}

#[test]
fn parallel_tool_calls_are_told_apart_by_index() {
    let message = message(&[
        r#"{"role":"assistant","content":null,"tool_calls":[
            {"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"x\""}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"b","function":{"name":"g_","arguments":"{"}}]}"#,
        r#"{"tool_calls":[{"index":0,"id":"","function":{"arguments":":1}"}},
            {"index":1,"function":{"name":"h","arguments":"}"}}]}"#,
        r#"{"tool_calls":[]}"#,
    ]);
    let expected = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
        {"id": "b", "function": {"name": "g_h", "arguments": "{}"}},
    ]});
    assert_eq!(message, expected);
}

#[test]
fn tool_calls_without_an_index_of_their_own() {
    for index in ["\"index\":0,", ""] {
        let call = |call: &str| format!(r#"{{"tool_calls":[{{{index}{call}}}]}}"#);
        let message = message(&[
            &call(r#""id":"a","function":{"name":"f","arguments":"1"}"#),
            &call(r#""id":"b","function":{"name":"f","arguments":"2"}"#),
            &call(r#""function":{"arguments":"3"}"#),
        ]);
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "1");
        assert_eq!(message["tool_calls"][1]["function"]["arguments"], "23");
    }
    assert_eq!(message(&[r#"{"content":"a","tool_calls":[]}"#]).get("tool_calls"), None);
}

/// Names and arguments of the calls that these deltas of calls make, each in a chunk of its own.
fn calls(deltas: &[&str]) -> Vec<(String, String)> {
    let deltas: Vec<String> =
        deltas.iter().map(|call| format!(r#"{{"tool_calls":[{{{call}}}]}}"#)).collect();
    let message = message(&deltas.iter().map(String::as_str).collect::<Vec<_>>());
    let calls = message["tool_calls"].as_array().unwrap().iter();
    calls
        .map(|call| {
            let of = |name: &str| call["function"][name].as_str().unwrap().to_owned();
            (of("name"), of("arguments"))
        })
        .collect()
}

#[test]
fn calls_that_share_an_index_are_told_apart() {
    let two = |a: &str, b: &str| [("rd".to_owned(), a.to_owned()), ("wr".to_owned(), b.to_owned())];
    // Whole calls, without ids.
    assert_eq!(
        calls(&[
            r#""index":0,"function":{"name":"rd","arguments":"{\"a\":1}"}"#,
            r#""index":0,"function":{"name":"wr","arguments":"{\"b\":2}"}"#,
        ]),
        two(r#"{"a":1}"#, r#"{"b":2}"#)
    );
    // In pieces.
    assert_eq!(
        calls(&[
            r#""index":0,"function":{"name":"rd","arguments":""}"#,
            r#""index":0,"function":{"arguments":"{\"a\""}"#,
            r#""index":0,"function":{"arguments":":1}"}"#,
            r#""index":0,"function":{"name":"wr","arguments":""}"#,
            r#""index":0,"function":{"arguments":"{\"b\":2}"}"#,
        ]),
        two(r#"{"a":1}"#, r#"{"b":2}"#)
    );
    // Without arguments.
    for arguments in ["", r#","arguments":"""#, r#","arguments":null"#, r#","arguments":"{}""#] {
        assert_eq!(
            calls(&[
                &format!(r#""index":0,"function":{{"name":"rd"{arguments}}}"#),
                &format!(r#""index":0,"function":{{"name":"wr"{arguments}}}"#),
            ]),
            two("{}", "{}"),
            "{arguments}"
        );
    }
    // The same function twice; and a call of which only the first has an id.
    assert_eq!(
        calls(&[
            r#""index":0,"function":{"name":"f","arguments":"{\"a\":1}"}"#,
            r#""index":0,"function":{"name":"f","arguments":"{\"a\":2}"}"#,
        ])
        .len(),
        2
    );
    assert_eq!(
        calls(&[
            r#""index":0,"id":"a","function":{"name":"rd","arguments":"{}"}"#,
            r#""index":0,"function":{"name":"wr","arguments":"{}"}"#,
        ]),
        two("{}", "{}")
    );
}

#[test]
fn a_name_that_is_repeated_or_comes_in_pieces_is_one_call() {
    let whole = [("get_x".to_owned(), r#"{"a":"}"}"#.to_owned())];
    // Repeated with each piece, and once more at the end.
    assert_eq!(
        calls(&[
            r#""index":0,"function":{"name":"get_x","arguments":"{\"a\":\"}"}"#,
            r#""index":0,"function":{"name":"get_x","arguments":"\"}"}"#,
            r#""index":0,"function":{"name":"get_x","arguments":""}"#,
        ]),
        whole
    );
    // In pieces, of a call that has an id.
    assert_eq!(
        calls(&[
            r#""index":0,"id":"a","function":{"name":"get"}"#,
            r#""index":0,"function":{"name":"_x","arguments":"{\"a\":\"}\"}"}"#,
        ]),
        whole
    );
}

#[test]
fn arguments_are_always_the_text_of_an_object() {
    assert_eq!(calls(&[r#""index":0,"id":"a","function":{"name":"f"}"#])[0].1, "{}");
    assert_eq!(
        calls(&[r#""id":"a","function":{"name":"f","arguments":{"n":0.10,"t":"\""}}"#])[0].1,
        r#"{"n":0.10,"t":"\""}"#
    );
    let message = message(&[r#"{"function_call":{"name":"f"}}"#]);
    assert_eq!(message["function_call"]["arguments"], "{}");
}

#[test]
fn a_surrogate_pair_that_is_split_between_chunks_is_whole_in_the_deltas() {
    let texts = |deltas: &[&str]| {
        let mut stream = Assembler::default();
        let mut texts: Vec<String> =
            deltas.iter().map(|text| stream.add(&delta(text)).text).collect();
        texts.push(stream.take_rest());
        let whole = match answer(stream)["choices"][0]["message"]["content"].take() {
            Value::Array(parts) => parts.iter().map(|p| p["text"].as_str().unwrap()).collect(),
            whole => whole.as_str().unwrap().to_owned(),
        };
        assert_eq!(texts.concat(), whole);
        texts
    };
    let cases: [(&[&str], &[&str]); 8] = [
        (&[r#"{"content":"a\ud83d"}"#, r#"{"content":"\ude00b"}"#], &["a", "😀b", ""]),
        (
            &[r#"{"content":"\uD83D"}"#, r#"{"content":""}"#, r#"{"content":"\uDE00"}"#],
            &["", "", "😀", ""],
        ),
        (
            &[r#"{"content":"\ud83d"}"#, r#"{"reasoning":"x"}"#, r#"{"content":"\ude00"}"#],
            &["", "", "😀", ""],
        ),
        // No other half comes.
        (&[r#"{"content":"a\ud83d"}"#, r#"{"content":"b"}"#], &["a", "\u{fffd}b", ""]),
        (&[r#"{"content":"a\ud83d"}"#], &["a", "\u{fffd}"]),
        (&[r#"{"content":"\ude00"}"#], &["\u{fffd}", ""]),
        // A backslash and letters.
        (
            &[r#"{"content":"\\ud83d"}"#, r#"{"content":"\\\ud83d"}"#],
            &["\\ud83d", "\\", "\u{fffd}"],
        ),
        (
            &[
                r#"{"content":[{"type":"text","text":"a\ud83d"}]}"#,
                r#"{"content":[{"type":"text","text":"\ude00"}]}"#,
            ],
            &["a", "😀", ""],
        ),
    ];
    for (deltas, expected) in cases {
        assert_eq!(texts(deltas), expected, "{deltas:?}");
    }
}

#[test]
fn reasoning_is_output_and_counted_once() {
    let text = r#"{"content":null,"reasoning":"1234","reasoning_details":[
        {"type":"reasoning.text","text":"1234","index":0,"format":"f-1"}]}"#;
    let mut stream = Assembler::default();
    for _ in 0..2 {
        let added = stream.add(&delta(text));
        assert_eq!(added, Added { text: String::new(), has_output: true });
    }
    assert_eq!(stream.output_estimate(), 2);
    let expected = json!({"role": "assistant", "content": null, "reasoning": "12341234",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "12341234", "index": 0, "format": "f-1"}]});
    assert_eq!(answer(stream)["choices"][0]["message"], expected);
}

#[test]
fn several_choices() {
    let mut stream = assemble(&[
        r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"delta":{"content":"c"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
    ]);
    assert!(!stream.is_finished());
    let added =
        stream.add(r#"{"choices":[{"index":1,"delta":{"content":"!"},"finish_reason":"length"}]}"#);
    assert_eq!(added, Added { text: String::new(), has_output: true });
    assert!(stream.is_finished());
    let choices = answer(stream)["choices"].take();
    assert_eq!(choices[0]["message"]["content"], "a");
    assert_eq!(choices[1]["message"]["content"], "bc!");
    assert_eq!(choices[1]["finish_reason"], "length");
}

#[test]
fn content_in_parts() {
    let parts = [
        r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"h"}]}]}"#,
        r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"m"}]}]}"#,
        r#"{"content":"a"}"#,
        r#"{"content":[{"type":"text","text":"b"}]}"#,
    ];
    let mut stream = Assembler::default();
    let texts: String = parts.iter().map(|part| stream.add(&delta(part)).text).collect();
    assert_eq!(texts, "ab");
    let expected = json!([
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "ab"},
    ]);
    assert_eq!(answer(stream)["choices"][0]["message"]["content"], expected);
    let expected = json!([{"type": "text", "text": "xab"}]);
    assert_eq!(message(&[r#"{"content":"x"}"#, parts[3], parts[3]])["content"][0]["text"], "xbb");
    assert_eq!(message(&[r#"{"content":"x"}"#, parts[2], parts[3]])["content"], expected);
}

#[test]
fn audio_refusals_logprobs_and_unknown_members_are_kept() {
    let stream = assemble(&[
        r#"{"created":0,"x":[1],"choices":[{"delta":{"refusal":"n","audio":{"id":"au",
            "data":"AA"},"odd":1,"annotations":[{"type":"url_citation"}]},
            "logprobs":{"content":[{"token":"n","logprob":-0.10}]},"native":"a"}]}"#,
        r#"{"created":9,"x":null,"choices":[{"delta":{"refusal":"o","audio":{"data":"BB",
            "transcript":"hi","expires_at":5},"odd":2,"annotations":[{"type":"url_citation"}]},
            "logprobs":{"content":[{"token":"o","logprob":-0.2}]},"native":"b"}]}"#,
        r#"{"created":10,"x":{"y":1},"choices":[{"message":{"content":"all"}}]}"#,
    ]);
    let expected = json!({"object": "chat.completion", "created": 9, "x": {"y": 1},
        "choices": [{"index": 0, "finish_reason": null, "native": "b",
        "logprobs": {"content": [
            {"token": "n", "logprob": -0.1}, {"token": "o", "logprob": -0.2}]},
        "message": {"role": "assistant", "content": null, "refusal": "no", "odd": 2,
            "annotations": [{"type": "url_citation"}, {"type": "url_citation"}],
            "audio": {"id": "au", "data": "AABB", "transcript": "hi", "expires_at": 5}}}]});
    assert_eq!(answer(stream), expected);
    assert_eq!(message(&[r#"{"audio":{"data":"AA"}}"#])["audio"]["data"], "AA");
    let whole = assemble(&[r#"{"choices":[{"message":{"content":"all"}}]}"#]);
    assert!(whole.has_output());
    assert_eq!(answer(whole)["choices"][0]["message"]["content"], "all");
}

#[test]
fn every_digit_and_half_character_is_kept() {
    let text = assemble(&[
        r#"{"n":0.10000000000000000000001,"choices":[{"delta":{"content":"\ud83d"},
            "logprobs":{"content":[{"logprob":-1.50}]}}],"usage":{"cost":1.230e-7}}"#,
        r#"{"choices":[{"delta":{"content":"\ude00\u0000",
            "big":123456789012345678901234567890}}]}"#,
    ])
    .finish();
    for kept in ["0.10000000000000000000001", "-1.50", "1.230e-7"] {
        assert!(text.contains(kept), "{text}");
    }
    assert!(text.contains("123456789012345678901234567890"), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "😀\u{fffd}");
}

#[test]
fn what_is_no_chunk_is_passed_over() {
    let strange = [
        "7",
        "[]",
        "{}",
        "nonsense",
        r#"{"type":"ping"}"#,
        r#"{"choices":null,"statistics":{"a":1}}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[1]}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[{"delta":"x"}]}"#,
        r#"{"usage":7}"#,
        r#"{"error":{},"choices":[]}"#,
    ];
    let mut stream = Assembler::default();
    for chunk in strange {
        assert_eq!(stream.add(chunk), Added::default(), "{chunk}");
    }
    assert!(!stream.has_output() && !stream.is_finished());
    // Between the texts, and after the end.
    let mut stream = Assembler::default();
    for text in ["a", "b"] {
        stream.add(&delta(&format!(r#"{{"content":"{text}"}}"#)));
        strange.iter().for_each(|chunk| drop(stream.add(chunk)));
    }
    stream.add(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
    stream.add(r#"{"choices":[],"usage":{"prompt_tokens":1}}"#);
    strange.iter().for_each(|chunk| drop(stream.add(chunk)));
    assert!(stream.is_finished());
    let answer = answer(stream);
    assert_eq!(answer["choices"][0]["message"]["content"], "ab");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 1}));
    assert_eq!(answer.get("statistics"), None);
}

#[test]
fn a_finish_reason_before_the_end_is_none_however_it_is_written() {
    for reason in [r#""""#, r#""null""#, "null", "7"] {
        let stream = assemble(&[&format!(
            r#"{{"choices":[{{"delta":{{"content":"a"}},"finish_reason":{reason}}}]}}"#
        )]);
        assert!(!stream.is_finished(), "{reason}");
    }
}

#[test]
fn bombs_do_not_go_off() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    for bomb in [deep("[", "]"), deep("{\"a\":", "}"), "1e999999".to_owned()] {
        let chunk = format!(
            r#"{{"model":{bomb},"x":{bomb},"usage":{{"a":{bomb}}},"choices":[{{"finish_reason":
            {bomb},"logprobs":{bomb},"delta":{{"content":{bomb},"tool_calls":[{bomb}]}}}}]}}"#
        );
        let stream = assemble(&[&chunk, &chunk]);
        assert!(matches!(reply::read(&stream.finish(), None), Reading::Completion(_)));
    }
}

#[test]
fn size_grows_with_what_is_held() {
    let mut stream = assemble(&[&delta(r#"{"content":"x"}"#)]);
    let before = stream.size();
    stream.add(&delta(&format!(r#"{{"content":"{}"}}"#, "x".repeat(1000))));
    assert_eq!(stream.size(), before + 1000);
    stream.add(r#"{"choices":[],"usage":{"a":1}}"#);
    stream.add(r#"{"choices":[],"usage":{"a":2}}"#);
    assert_eq!(stream.size(), before + 1000 + NODE_SIZE + 2);
}

fn any_json() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "index",
        "delta",
        "message",
        "content",
        "tool_calls",
        "function",
        "name",
        "id",
        "type",
        "text",
        "logprobs",
        "finish_reason",
        "choices",
        "usage",
        "model",
        "reasoning",
    ]);
    let leaf = prop::sample::select(vec![
        "null",
        "0",
        "1",
        "-1",
        "1e999",
        "true",
        "\"\"",
        "\"text\"",
        "\"\\ud83d\"",
        "\"a\\u0000\"",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 4, move |inner| {
        let member = (key.clone(), inner.clone()).prop_map(|(k, v)| format!("\"{k}\":{v}"));
        let object = prop::collection::vec(member, 0..4).prop_map(|m| m.join(","));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            object.prop_map(|members| format!("{{{members}}}")),
        ]
    })
}

proptest! {
    #[test]
    fn any_deltas_of_a_text_give_the_text(
        pieces in prop::collection::vec("\\PC{0,5}|\n", 0..20),
    ) {
        let mut stream = Assembler::default();
        let mut texts = String::new();
        for piece in &pieces {
            let chunk = json!({"choices": [{"index": 0, "delta": {"content": piece}}]});
            texts.push_str(&stream.add(&chunk.to_string()).text);
        }
        prop_assert_eq!(&texts, &pieces.concat());
        let mut counter = estimate::Counter::default();
        counter.add(&texts);
        prop_assert_eq!(stream.output_estimate(), counter.tokens());
        if !pieces.is_empty() {
            prop_assert_eq!(&answer(stream)["choices"][0]["message"]["content"], &json!(texts));
        }
    }

    #[test]
    fn nothing_from_outside_panics(
        values in prop::collection::vec((any_json(), any_json(), any_json()), 1..6),
        text in "\\PC{0,40}",
    ) {
        let mut stream = Assembler::default();
        let _ = stream.add(&text);
        for (a, b, c) in &values {
            let _ = stream.add(a);
            let _ = stream.add(&delta(a));
            let _ = stream.add(&delta(&format!(r#"{{"content":{a},"tool_calls":[{b}]}}"#)));
            let _ = stream.add(&format!(
                r#"{{"choices":[{{"index":{a},"delta":{{"content":[{b}]}},"logprobs":{c},
                    "finish_reason":{b}}}],"model":{c},"usage":{a}}}"#
            ));
        }
        let text = stream.finish();
        prop_assert!(matches!(reply::read(&text, None), Reading::Completion(_)), "{}", text);
        prop_assert!(serde_json::from_str::<&RawValue>(&text).is_ok());
    }
}

/// The parts of a stream of these chunks' usages, of its assembled answer too.
fn used(chunks: &[&str]) -> Usage {
    let mut stream = Assembler::default();
    for chunk in chunks {
        stream.add(chunk);
    }
    let usage = stream.usage();
    let answer = stream.finish();
    let Reading::Completion(whole) = reply::read(&answer, None) else { panic!("{answer}") };
    assert_eq!(whole.usage, usage, "{answer}");
    usage
}

#[test]
fn usage_comes_in_parts_and_zeros_do_not_undo_it() {
    const REAL: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":4}}}"#;
    const TEXT: &str = r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
    for after in [
        r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":null,"total_tokens":null}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0,"total_tokens":9,"prompt_tokens_details":null}}"#,
        r#"{"choices":[],"usage":null}"#,
        r#"{"choices":[],"usage":{}}"#,
    ] {
        let usage = used(&[TEXT, REAL, after]);
        let parts = usage.parts.unwrap();
        assert_eq!((parts.input, parts.cache_read, parts.output), (5, 4, 5), "{after}");
    }
    let parts = used(&[
        r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":9}}"#,
        r#"{"choices":[],"usage":{"completion_tokens":5}}"#,
    ]);
    assert_eq!(parts.parts.map(|p| (p.prompt(), p.completion())), Some((9, 5)));
}

#[test]
fn usage_is_found_where_it_is() {
    let text = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    for last in [
        // Moonshot.
        r#"{"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":5}}]}"#,
        r#"{"choices":[{"delta":{},"usage":{"prompt_tokens":9,"completion_tokens":5}}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#,
        // Groq.
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req","usage":{"prompt_tokens":9,"completion_tokens":5}}}"#,
    ] {
        let parts = used(&[text, last]).parts.unwrap();
        assert_eq!((parts.prompt(), parts.completion()), (9, 5), "{last}");
    }
    // Two answers to one prompt.
    let parts = used(&[
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"usage":{"prompt_tokens":9,"completion_tokens":5}}]}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"b"},"usage":{"prompt_tokens":9,"completion_tokens":7}}]}"#,
    ]);
    assert_eq!(parts.parts.map(|p| (p.prompt(), p.completion())), Some((9, 12)));
}

#[test]
fn a_usage_in_every_chunk_takes_the_room_of_one() {
    let mut stream = Assembler::default();
    let chunk = |n: u32| {
        format!(r#"{{"choices":[],"usage":{{"prompt_tokens":9,"completion_tokens":{n}}}}}"#)
    };
    stream.add(&chunk(1));
    let first = stream.size();
    (2..1000).for_each(|n| drop(stream.add(&chunk(n))));
    assert!(stream.size() <= first + 8, "{first} {}", stream.size());
}
