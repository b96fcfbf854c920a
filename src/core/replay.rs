//! A whole answer in pieces, as if it came in a stream: for those who asked for one, when it is there already.

use crate::core::front::write::{self, Members, Object, is_null};
use crate::core::json;
use serde_json::value::RawValue;

/// Bytes of a piece, unless the answer is long.
const PIECE: usize = 64;
/// Most pieces of one answer.
const MOST_PIECES: usize = 256;

/// A text in pieces, at the ends of characters.
pub fn texts(text: &str) -> impl Iterator<Item = &str> {
    let size = PIECE.max(text.len().div_ceil(MOST_PIECES));
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = size.min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// An answer in OpenAI's form as chunks that say the same together: of its one choice first what goes before the
/// text, then the text in pieces, then the calls of tools and why it ended. Of any other answer it is one chunk.
pub fn chunks(answer: &str) -> Vec<String> {
    in_pieces(answer).unwrap_or_else(|| vec![answer.to_owned()])
}

fn in_pieces(answer: &str) -> Option<Vec<String>> {
    let mut about: Members<'_> = serde_json::from_str(answer).ok()?;
    let choices: Vec<&RawValue> = serde_json::from_str(about.remove("choices")?.get()).ok()?;
    let [choice] = choices[..] else { return None };
    let mut choice: Members<'_> = serde_json::from_str(choice.get()).ok()?;
    let index = choice.remove("index").map_or("0", RawValue::get);
    let mut message: Members<'_> = serde_json::from_str(choice.remove("message")?.get()).ok()?;
    let content = message.remove("content").filter(|content| !is_null(content));
    // Parts, say.
    let content: String = match content {
        Some(content) => serde_json::from_str(content.get()).ok()?,
        None => String::new(),
    };
    let calls = match message.remove("tool_calls").filter(|calls| !is_null(calls)) {
        Some(calls) => serde_json::from_str::<Vec<Members<'_>>>(calls.get()).ok()?,
        None => Vec::new(),
    };
    let usage = about.remove("usage");
    about.remove("object");
    let chunk = |delta: &dyn Fn(&mut Object<'_>), end: Option<&Members<'_>>| {
        let mut out = String::new();
        write::object(&mut out, |object| {
            object.text("object", "chat.completion.chunk");
            about.iter().for_each(|(name, value)| object.json(name, value.get()));
            object.list("choices", [()], |(), out| {
                write::object(out, |object| {
                    object.json("index", index);
                    object.object("delta", delta);
                    match end {
                        Some(end) => {
                            end.iter().for_each(|(name, value)| object.json(name, value.get()));
                        }
                        None => object.json("finish_reason", "null"),
                    }
                });
            });
            if let (Some(usage), Some(_)) = (usage, end) {
                object.json("usage", usage.get());
            }
        });
        out
    };
    let before = |object: &mut Object<'_>| {
        message.iter().for_each(|(name, value)| object.json(name, value.get()));
    };
    let mut chunks = vec![chunk(&before, None)];
    for text in texts(&content) {
        chunks.push(chunk(&|object| object.text("content", text), None));
    }
    let last = |object: &mut Object<'_>| {
        if calls.is_empty() {
            return;
        }
        object.list("tool_calls", calls.iter().enumerate(), |(place, call), out| {
            write::object(out, |object| {
                object.number("index", place as i64);
                let named = call.iter().filter(|(name, _)| *name != "index");
                named.for_each(|(name, value)| object.json(name, value.get()));
            });
        });
    };
    chunks.push(chunk(&last, Some(&choice)));
    Some(chunks)
}

/// Whether an answer is whole: each of its choices has ended by itself, or with calls of tools, and none was cut.
pub fn is_whole(answer: &str) -> bool {
    let Ok([Some(choices)]) = json::pick(answer, &["choices"]) else { return false };
    let (mut ended, mut all) = (0, 0);
    let are_choices = json::each_item(choices.get(), |choice| {
        all += 1;
        let reason = json::pick(choice.get(), &["finish_reason"]);
        let reason = reason.ok().and_then(|[reason]| reason).map(RawValue::get);
        ended += usize::from(matches!(reason, Some(r#""stop""# | r#""tool_calls""#)));
    });
    are_choices && all > 0 && ended == all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::stream::Assembler;
    use serde_json::{Value, json};

    fn again(answer: &str) -> Value {
        let mut stream = Assembler::default();
        for chunk in chunks(answer) {
            stream.add(&chunk);
        }
        assert!(stream.is_finished());
        serde_json::from_str(&stream.finish()).unwrap()
    }

    fn answer(message: Value, reason: &str) -> String {
        json!({"object": "chat.completion", "id": "gen-1", "model": "m", "created": 7,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
        .to_string()
    }

    #[test]
    fn pieces_make_the_answer_again() {
        let long = "Grüße 😀, ".repeat(500);
        for message in [
            json!({"role": "assistant", "content": "hello"}),
            json!({"role": "assistant", "content": long}),
            json!({"role": "assistant", "reasoning": "so", "content": "x"}),
        ] {
            let whole = answer(message, "stop");
            assert_eq!(again(&whole), serde_json::from_str::<Value>(&whole).unwrap());
        }
        let empty = answer(json!({"role": "assistant", "content": ""}), "stop");
        assert_eq!(chunks(&empty).len(), 2);
        let said = answer(json!({"role": "assistant", "content": long}), "stop");
        assert!((3..=MOST_PIECES + 2).contains(&chunks(&said).len()));
    }

    #[test]
    fn calls_of_tools_come_with_their_places() {
        let call = |id: &str| {
            json!({"id": id, "type": "function",
            "function": {"name": "f", "arguments": "{\"a\":1}"}})
        };
        let message = json!({"role": "assistant", "content": null,
            "tool_calls": [call("a"), call("b")]});
        let made = again(&answer(message, "tool_calls"));
        let choice = &made["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!((&calls[1]["id"], &calls[1]["function"]), (&json!("b"), &call("b")["function"]));
    }

    #[test]
    fn what_cannot_be_cut_is_one_chunk() {
        for whole in [
            "nonsense",
            "{}",
            r#"{"choices":[{},{}]}"#,
            r#"{"choices":[7]}"#,
            r#"{"choices":[{"message":{"content":[{"text":"x"}]}}]}"#,
        ] {
            assert_eq!(chunks(whole), [whole]);
        }
    }

    #[test]
    fn texts_end_at_characters_and_are_not_many() {
        for text in ["", "x", &"é".repeat(1000), &"a😀".repeat(100_000)] {
            let pieces: Vec<&str> = texts(text).collect();
            assert_eq!(pieces.concat(), *text);
            assert!(pieces.len() <= MOST_PIECES && pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn only_what_ended_by_itself_is_whole() {
        let of = |reasons: &[&str]| {
            let choices: Vec<Value> =
                reasons.iter().map(|reason| json!({"finish_reason": reason})).collect();
            is_whole(&json!({"choices": choices}).to_string())
        };
        assert!(of(&["stop"]) && of(&["tool_calls"]) && of(&["stop", "stop"]));
        assert!(!of(&["length"]) && !of(&["content_filter"]) && !of(&["stop", "length"]));
        assert!(!of(&[]) && !is_whole("{}") && !is_whole("") && !is_whole(r#"{"choices":7}"#));
        assert!(!is_whole(r#"{"choices":[{"finish_reason":null}]}"#));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*", json in "[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = (chunks(&text), chunks(&json), is_whole(&json));
        }
    }
}
