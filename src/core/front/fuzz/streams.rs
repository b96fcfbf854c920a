//! What upstreams send, as the events that clients get of it.

use super::try_all;
use super::writer::Writer;
use crate::core::front::event::{self, OfChunks};
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::{self, Stamp};
use crate::core::front::responses;
use crate::core::sse::{Event, Parser};
use crate::core::standard::Step;
use crate::core::standard::anthropic::front::stream::Events;
use crate::core::standard::anthropic::front::{self, native};
use crate::core::usage;
use crate::error::Error;
use fastrand::Rng;
use serde_json::Value;
use uuid::Uuid;

const NOW: i64 = 1_700_000_000;

fn read(text: &str) -> Vec<Event> {
    assert!(!text.contains(['\r', '\u{2028}', '\u{2029}', '\u{85}']), "{text}");
    let (mut parser, mut events) = (Parser::new(text.len() + 1), Vec::new());
    parser.feed(text.as_bytes(), &mut events).expect("a stream");
    assert_eq!(parser.finish().expect("a stream"), None, "{text}");
    events
}

fn parsed(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))
}

/// Chunks of an answer as upstreams might send them, into `input`, one a line.
fn chunks(rng: &mut Rng, input: &mut String) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..rng.usize(0..7) {
        let mut chunk = String::new();
        let mut writer = Writer { rng, out: &mut chunk };
        if writer.rng.u8(0..10) == 0 {
            writer.value(3);
        } else {
            writer.put("{");
            writer.member("id", 0);
            writer.put(",");
            writer.member("choices", 5);
            if writer.rng.bool() {
                writer.put(",");
                writer.member("usage", 2);
            }
            writer.put("}");
        }
        // What is no JSON ends a stream before any writer sees it.
        if serde_json::from_str::<Value>(&chunk).is_ok() {
            input.push_str(&chunk);
            input.push('\n');
            all.push(chunk);
        }
    }
    all
}

fn failure() -> Failure {
    Failure::of(&Error::internal("x"), Sent::PerhapsPaid)
}

#[test]
fn a_stream_of_chat_can_be_read_whatever_the_upstream_sends() {
    try_all("streams of chat", 6, |rng, input| {
        let stamp = Stamp::new(Uuid::nil(), NOW, "asked");
        let with_usage = rng.bool();
        let mut stream = openai::stream::Stream::new(stamp, with_usage);
        let mut out = String::new();
        let all = chunks(rng, input);
        all.iter().for_each(|chunk| stream.chunk(chunk, &mut out));
        let fails = rng.u8(0..5) == 0;
        match fails {
            true => stream.fail(&failure(), &mut out),
            false => stream.finish(all.first().map_or("{}", String::as_str), &mut out),
        }
        let events = read(&out);
        let is_done = events.last().is_some_and(|event| event.data == "[DONE]");
        assert_eq!(is_done, !fails, "{out}");
        let mut ids = std::collections::BTreeSet::new();
        for event in &events[..events.len() - 1] {
            let chunk = parsed(&event.data);
            assert!(event.name.is_none() && chunk["choices"].is_array(), "{out}");
            ids.insert(chunk["id"].to_string());
        }
        assert!(ids.len() <= 1, "{out}");
        events.len() > 1
    });
}

#[test]
fn a_stream_of_responses_can_be_read_whatever_the_upstream_sends() {
    try_all("streams of Responses", 6, |rng, input| {
        let about = responses::About::default();
        let mut stream = responses::stream::Stream::new(about, Uuid::nil(), NOW, "asked");
        let mut out = String::new();
        let all = chunks(rng, input);
        all.iter().for_each(|chunk| stream.chunk(chunk, &mut out));
        match rng.u8(0..5) {
            0 => stream.fail(&failure(), &mut out),
            _ => stream.finish(all.first().map_or("{}", String::as_str), &mut out),
        }
        let events = read(&out);
        for (place, event) in events.iter().enumerate() {
            let data = parsed(&event.data);
            assert_eq!(data["sequence_number"].as_u64(), Some(place as u64), "{out}");
            assert_eq!(data["type"].as_str(), event.name.as_deref(), "{out}");
        }
        let last = events.last().and_then(|event| event.name.clone()).unwrap_or_default();
        let ends = ["response.completed", "response.incomplete", "response.failed"];
        assert!(ends.contains(&last.as_str()), "{out}");
        events.len() > 3
    });
}

#[test]
fn a_stream_of_messages_can_be_read_whatever_the_upstream_sends() {
    try_all("streams of Messages", 6, |rng, input| {
        let asked = front::Asked { id: "0193a1b2", model: "asked", prompt_tokens: 7 };
        let (mut stream, mut passing) = (Events::new(&asked), native::Events::default());
        let (mut out, mut passed) = (String::new(), String::new());
        let all = chunks(rng, input);
        for chunk in &all {
            stream.chunk(chunk, &mut out);
            let event = Event { name: None, data: chunk.clone() };
            let step = passing.read(&event, Some("sk-k"), &mut passed).step;
            if let Step::Chunk(chunk) = step {
                parsed(&chunk);
            }
        }
        stream.finish(&mut out);
        passing.finish(&mut passed);
        read(&passed).iter().for_each(|event| drop(parsed(&event.data)));
        let events = read(&out);
        let mut open = Vec::new();
        for event in &events {
            let data = parsed(&event.data);
            assert_eq!(data["type"].as_str(), event.name.as_deref(), "{out}");
            let index = data["index"].as_u64();
            match event.name.as_deref() {
                Some("content_block_start") => open.push(index),
                Some("content_block_delta") => assert!(open.contains(&index), "{out}"),
                Some("content_block_stop") => {
                    assert!(open.contains(&index), "{out}");
                    open.retain(|open| *open != index);
                }
                Some("message_delta") => assert!(open.is_empty(), "{out}"),
                _ => {}
            }
        }
        let first = events.first().and_then(|event| event.name.as_deref());
        let last = events.last().and_then(|event| event.name.as_deref());
        assert_eq!((first, last), (Some("message_start"), Some("message_stop")), "{out}");
        events.len() > 3
    });
}

#[test]
fn an_event_is_one_line_whatever_its_data_is() {
    try_all("events", 2, |rng, input| {
        Writer { rng, out: input }.value(4);
        let mut out = String::new();
        event::write(input, &mut out);
        let events = read(&out);
        assert_eq!((events.len(), out.lines().count()), (1, 2), "{out}");
        let _ = usage::Usage::parse(&events[0].data);
        !input.is_empty()
    });
}
