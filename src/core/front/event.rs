//! Server-sent events as clients read them.

use crate::core::front::failure::Failure;
use crate::core::json;
use std::borrow::Cow;

/// Keeps a connection alive while nothing is to be said: undici, Node's `fetch`, gives a body up that is silent for
/// 300 s, and proxies do after 60 s.
pub const KEEPALIVE: &str = ": keepalive\n\n";
/// How a stream of OpenAI's chat completions ends.
pub const DONE: &str = "data: [DONE]\n\n";

/// Line ends of Unicode. Readers that cut text into lines by all of them (Python's `str.splitlines`, with that
/// httpx's `iter_lines`) would cut an event in its middle.
const LINE_ENDS: [(char, &str); 3] =
    [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];

/// Writes the events of one answer that comes in chunks of OpenAI's chat.
pub trait OfChunks {
    /// Writes what a chunk adds.
    fn chunk(&mut self, chunk: &str, out: &mut String);

    /// Writes the end. `answer` is the whole of it, with the usage that was settled and our member `aggregator`; if
    /// no chunk came before, it is the one chunk.
    fn finish(&mut self, answer: &str, out: &mut String);

    /// Writes that the answer failed, with what had come of it.
    fn fail(&mut self, failure: &Failure, out: &mut String);

    /// About how many bytes are held.
    fn size(&self) -> usize;
}

/// Writes an event without a name.
pub fn write(json: &str, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&on_one_line(json));
    out.push_str("\n\n");
}

/// Writes an event of this name, by which clients go, and in which there must be no line's end.
pub fn write_named(name: &str, json: &str, out: &mut String) {
    out.extend(["event: ", name, "\n"]);
    write(json, out);
}

/// JSON that every reader takes: without half characters, which Rust's refuse the whole event for, and without line
/// ends: between its values they are nothing but space, and in its strings they are escaped.
fn on_one_line(json: &str) -> Cow<'_, str> {
    let json = readable(json);
    let json = match json.contains(['\n', '\r']) {
        true => Cow::Owned(json.replace(['\n', '\r'], " ")),
        false => json,
    };
    // All three begin with one of these bytes in UTF-8, which few texts have.
    if !json.bytes().any(|byte| matches!(byte, 0xC2 | 0xE2)) {
        return json;
    }
    LINE_ENDS.iter().fold(json, |json, (end, escape)| match json.contains(*end) {
        true => Cow::Owned(json.replace(*end, escape)),
        false => json,
    })
}

/// JSON as `jsonb` would take it, too.
pub(super) fn readable(json: &str) -> Cow<'_, str> {
    if json.contains("\\u") { json::answer_for_jsonb(json) } else { Cow::Borrowed(json) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sse::{Event, Parser};
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(text: &str) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::new(100_000), Vec::new());
        parser.feed(text.as_bytes(), &mut events).unwrap();
        assert_eq!(parser.finish().unwrap(), None);
        events
    }

    #[test]
    fn an_event_is_one_line_whatever_its_json_looks_like() {
        let mut out = String::new();
        write("{\n  \"a\": \"x\u{2028}y\u{85}z\u{2029}\",\r\n\t\"b\": \"â\u{a0}\"}", &mut out);
        assert_eq!(
            out,
            "data: {   \"a\": \"x\\u2028y\\u0085z\\u2029\",  \t\"b\": \"â\u{a0}\"}\n\n"
        );
        write_named("response.created", r#"{"a":"\ud83d\ude00\ud83d"}"#, &mut out);
        assert!(
            out.ends_with("event: response.created\ndata: {\"a\":\"\\ud83d\\ude00\\ufffd\"}\n\n")
        );
        out.push_str(KEEPALIVE);
        out.push_str(DONE);
        let events = read(&out);
        assert_eq!(events.len(), 3);
        assert_eq!(events[1].name.as_deref(), Some("response.created"));
        assert_eq!(events[2].data, "[DONE]");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in "\\PC{0,30}|[\u{80}-\u{90}\u{2020}-\u{2030}\n\r ]{0,9}") {
            let json = serde_json::json!({"text": text});
            for json_text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                let mut out = String::new();
                write(&json_text, &mut out);
                prop_assert_eq!(out.lines().count(), 2);
                let events = read(&out);
                prop_assert_eq!(events.len(), 1);
                let said: Value = serde_json::from_str(&events[0].data).unwrap();
                prop_assert_eq!(&said, &json);
            }
        }
    }
}
