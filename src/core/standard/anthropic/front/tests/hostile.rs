//! What a stranger sends: no panic, and no output that grows beyond what came in.

use super::*;
use crate::core::sse::Event;
use crate::core::standard::anthropic::front::answer::message;
use crate::core::standard::anthropic::front::models::Page;
use crate::core::standard::anthropic::front::{count, native, stream};
use crate::core::standard::anthropic::tests::json_like;
use crate::core::stream::Assembler;
use proptest::collection::vec;
use proptest::prelude::*;

/// The most that one byte becomes: an escaped control character, or a part of the shortest block.
const GROWTH: usize = 40;
/// What is there of nothing.
const FRAME: usize = 2_000;

fn read_all(body: &str) {
    for version in [Version::June2023, Version::October2026] {
        let Ok(request) = Incoming::read(body, version) else { continue };
        assert!(count::tokens(&request) >= 1);
        for takes in [OTHERS, CLAUDE] {
            if let Ok(chat) = request.chat(takes) {
                assert!(chat.len() <= GROWTH * body.len() + FRAME, "{body}");
                parse(&chat);
            }
        }
        let Ok(own) = request.native() else { continue };
        let sending = Sending { streams: true, most_tokens: Some(9), ..SENDING };
        if let Ok(sent) = native::request(&own, &sending) {
            assert!(sent.len() <= body.len() + FRAME, "{body}");
            parse(&sent);
        }
    }
}

fn stream_all(chunks: &[String]) {
    let (mut translated, mut passing) = (stream::Events::new(&ASKED), native::Events::default());
    let (mut out, mut passed) = (String::new(), String::new());
    for chunk in chunks {
        let before = (out.len(), passed.len());
        translated.chunk(chunk, &mut out);
        let event = Event { name: None, data: chunk.clone() };
        passing.read(&event, Some("sk-k"), &mut passed);
        // What was held back of earlier ones may come with this one.
        let all: usize = chunks.iter().map(String::len).sum();
        assert!(out.len() - before.0 <= GROWTH * all + FRAME, "{chunks:?}");
        assert!(passed.len() - before.1 <= 2 * chunk.len() + FRAME, "{chunks:?}");
    }
    translated.finish(&mut out);
    passing.finish(&mut passed);
    let names: Vec<String> = events(&out).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.first().unwrap(), "message_start");
    assert_eq!(names.last().unwrap(), "message_stop");
}

/// What a delta may add, and how it is cut.
#[derive(Debug, Clone)]
enum Said {
    Text(String),
    Thinking(String),
    Call { name: String, text: String, cut: usize },
}

fn said() -> impl Strategy<Value = Said> {
    let text = || "[a-c\"\\\\é😀\n]{1,6}";
    prop_oneof![
        text().prop_map(Said::Text),
        text().prop_map(Said::Thinking),
        ("[a-z]{1,3}", text(), 0usize..20).prop_map(|(name, text, cut)| Said::Call {
            name,
            text,
            cut
        }),
    ]
}

fn chunks(said: &[Said]) -> Vec<String> {
    let (mut chunks, mut calls) = (Vec::new(), 0);
    let mut add = |delta: Value| {
        chunks.push(
            json!({"id": "x", "model": "s", "choices": [{"index": 0, "delta": delta}]}).to_string(),
        );
    };
    for piece in said {
        match piece {
            Said::Text(text) => add(json!({"content": text})),
            Said::Thinking(text) => add(json!({"reasoning_content": text})),
            Said::Call { name, text, cut } => {
                let arguments: Vec<char> = json!({"x": text}).to_string().chars().collect();
                let (first, second) = arguments.split_at((*cut).min(arguments.len()));
                let (first, second) = (String::from_iter(first), String::from_iter(second));
                add(json!({"tool_calls": [{"index": calls, "id": format!("t{calls}"),
                    "type": "function", "function": {"name": name, "arguments": first}}]}));
                add(json!({"tool_calls": [{"index": calls, "function": {"arguments": second}}]}));
                calls += 1;
            }
        }
    }
    chunks.push(
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6}})
        .to_string(),
    );
    chunks
}

/// The parts of a message without their order, of which the whole answer knows less.
fn parts(message: &Value) -> (String, String, Vec<Value>, Value, Value) {
    let content = message["content"].as_array().unwrap();
    let joined = |kind: &str| {
        let of_kind = content.iter().filter(|block| block["type"] == kind);
        of_kind.filter_map(|block| block[kind].as_str()).collect::<String>()
    };
    let calls = content.iter().filter(|block| block["type"] == "tool_use").cloned().collect();
    let (reason, usage) = (message["stop_reason"].clone(), message["usage"].clone());
    (joined("text"), joined("thinking"), calls, reason, usage)
}

proptest! {
    #[test]
    fn a_stream_says_what_the_whole_answer_says(said in vec(said(), 0..12)) {
        let (mut events, mut out) = (stream::Events::new(&ASKED), String::new());
        let mut whole = Assembler::default();
        for chunk in chunks(&said) {
            events.chunk(&chunk, &mut out);
            whole.add(&chunk);
        }
        events.finish(&mut out);
        let (streamed, whole) = (assembled(&out), parse(&message(&whole.finish(), &ASKED).unwrap()));
        prop_assert_eq!(parts(&streamed), parts(&whole));
    }

    #[test]
    fn no_request_panics_or_grows(json in json_like(), other in json_like(), text in "\\PC{0,60}") {
        for text in [json.to_string(), text] {
            read_all(&text);
            for body in [
                format!(r#"{{"model":"m","messages":{text}}}"#),
                format!(r#"{{"model":"m","messages":[{text}],"system":{other}}}"#),
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":{text}}}]}}"#),
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{text},{other}]}}]}}"#),
                format!(r#"{{"model":"m","messages":[{{"role":"assistant","content":[{text}]}}]}}"#),
                format!(r#"{{"model":"m","messages":[],"tools":[{text}],"tool_choice":{other},
                    "thinking":{text},"output_config":{other},"metadata":{text}}}"#),
            ] {
                read_all(&body);
            }
            for kind in ["tool_result", "document", "image", "search_result", "tool_use", "thinking"] {
                for role in ["user", "assistant", "system"] {
                    read_all(&format!(
                        r#"{{"model":"m","messages":[{{"role":"{role}","content":[{{"type":"{kind}",
                            "tool_use_id":"t","id":"i","name":"n","content":{text},"source":{other},
                            "input":{text},"thinking":{other},"signature":{text},"title":{other}}}]}}]}}"#
                    ));
                }
            }
        }
    }

    #[test]
    fn no_answer_panics_or_grows(json in json_like(), other in json_like(), text in "\\PC{0,60}") {
        for text in [json.to_string(), text] {
            for body in [
                text.clone(),
                format!(r#"{{"choices":[{text}],"usage":{other}}}"#),
                format!(r#"{{"id":{other},"choices":[{{"message":{text}}}]}}"#),
                format!(r#"{{"choices":[{{"message":{{"content":{text},"tool_calls":[{other}],
                    "thinking_blocks":[{text}],"reasoning":{other}}},"finish_reason":{text}}}]}}"#),
            ] {
                if let Some(message) = message(&body, &ASKED) {
                    prop_assert!(message.len() <= GROWTH * body.len() + FRAME);
                    parse(&message);
                }
            }
        }
    }

    #[test]
    fn no_stream_panics_or_grows(
        pieces in vec((json_like(), 0usize..8), 0..8), text in "\\PC{0,60}",
    ) {
        let mut chunks = vec![text];
        for (json, form) in pieces {
            chunks.push(match form {
                0 => json.to_string(),
                1 => format!(r#"{{"choices":{json},"usage":{json}}}"#),
                2 => format!(r#"{{"choices":[{{"delta":{json},"finish_reason":{json}}}]}}"#),
                3 => format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{json}]}}}}]}}"#),
                4 => format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":{json},
                    "function":{{"name":"f","arguments":{json}}}}}]}}}}]}}"#),
                5 => format!(r#"{{"choices":[{{"delta":{{"thinking_blocks":[{json}],"content":{json}}}}}]}}"#),
                6 => format!(r#"{{"type":"message_delta","delta":{json},"usage":{json}}}"#),
                _ => format!(r#"{{"type":{json},"index":0,"delta":{json}}}"#),
            });
        }
        stream_all(&chunks);
    }

    #[test]
    fn no_query_and_no_header_panics(text in "\\PC{0,60}", query in "[a-z_=&%0-9+]{0,40}") {
        for text in [&text, &query] {
            let _ = (Page::of(Some(text)), Version::of(Some(text)));
            if let Ok(Some(betas)) = native::betas([text.as_str()].into_iter()) {
                prop_assert!(betas.len() <= text.len() && betas.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
