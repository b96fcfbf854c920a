//! What strangers reach, at random and in number: paths, gateway keys, bodies of the three dialects, and the streams
//! that become events for clients. Nothing panics, what is taken is taken alike further in, and what is written can be
//! read. As [`crate::core::fuzz`], which says how to try more.

use super::event;
use super::failure::{Failure, Sent};
use super::openai::{self, Stamp};
use super::path::{self, Route};
use super::responses;
use super::{credential, gateway_key};
use crate::core::fuzz::count_and_seed;
use crate::core::options::Prepared;
use crate::core::sse::{Event, Parser};
use crate::core::standard::anthropic::front::request::{Incoming, Takes};
use crate::core::standard::anthropic::front::stream::Events;
use crate::core::standard::anthropic::front::version::Version;
use crate::core::standard::anthropic::front::{self, count, native};
use crate::core::standard::{Sending, Step};
use crate::core::{json, model, request, usage};
use crate::error::Error;
use fastrand::Rng;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use uuid::Uuid;

const NOW: i64 = 1_700_000_000;

/// Runs `check` on so many inputs, each with a seed of its own; says how many were taken.
fn try_all(what: &str, least: u64, check: impl Fn(&mut Rng, &mut String) -> bool) {
    let (count, seed) = count_and_seed();
    // These take longer than those of the core, and there are more of them.
    let count = if std::env::var_os("AGGREGATOR_FUZZ").is_none() { count / 10 } else { count };
    let mut taken = 0;
    for index in 0..count {
        let mut rng = Rng::with_seed(seed.wrapping_add(index));
        let mut input = String::new();
        match catch_unwind(AssertUnwindSafe(|| check(&mut rng, &mut input))) {
            Ok(is_taken) => taken += u64::from(is_taken),
            Err(_) => panic!("{what} {index} of seed {seed}: {input}"),
        }
    }
    println!("{count} of {what}: {taken} taken");
    // Or nothing would have been tried.
    assert!(taken >= count / least, "{taken} of {count}");
}

fn any<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}

#[test]
fn a_path_leads_to_one_endpoint_however_it_is_written() {
    let parts = [
        "/",
        "/",
        "v1",
        "v1",
        "models",
        "jobs",
        "chat",
        "completions",
        "messages",
        "count_tokens",
        "responses",
        "embeddings",
        "health",
        "%2F",
        "%2f",
        "%",
        "%zz",
        "%00",
        "%e6%bc%a2",
        "%ff",
        "..",
        "openai",
        "gpt-4o",
        ":",
        "0190a6f4-5c2e-7bbb-8ccc-0123456789ab",
        "?",
        "beta=true",
        "#",
        "é",
        " ",
        "\u{0}",
        "metrics",
        "ready",
    ];
    try_all("paths", 50, |rng, path| {
        let method = any(rng, &["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "get", ""]);
        for _ in 0..rng.usize(0..9) {
            path.push_str(any(rng, &parts));
            if rng.bool() {
                path.push('/');
            }
        }
        let found = path::route(method, path);
        if let Ok(Route::Model(name)) = &found {
            assert!(model::problem(name).is_none(), "{name}");
        }
        if method == "OPTIONS" {
            assert_eq!(found, Ok(Route::Preflight));
        } else if found.is_ok() && !path.trim_start_matches('/').starts_with("v1/") {
            for before in ["v1/", "/v1/", "//v1//v1/"] {
                assert_eq!(path::route(method, &format!("{before}{path}")), found);
            }
        }
        found.is_ok()
    });
}

#[test]
fn no_gateway_key_passes_that_was_not_made() {
    try_all("gateway keys", 10, |rng, key| {
        let mut random = [0; gateway_key::RANDOM_BYTES];
        rng.fill(&mut random);
        let made = gateway_key::make(&random);
        let mut bytes = made.text.as_bytes().to_vec();
        for _ in 0..rng.usize(0..4) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..6) {
                0 => bytes[at] = rng.u8(..),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"0Az_".get(rng.usize(0..4)).unwrap()),
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let other = rng.usize(0..bytes.len());
                    bytes.swap(at, other);
                }
                _ => bytes[at] = bytes[at].to_ascii_uppercase(),
            }
            if bytes.is_empty() {
                bytes.push(b'a');
            }
        }
        key.push_str(&String::from_utf8_lossy(&bytes));
        let is_made = bytes == made.text.as_bytes();
        let read = gateway_key::read(&bytes);
        assert_eq!(read.is_some(), is_made, "a checksum of 32 bits, and 10 million tries");
        let header = [b"Bearer ".as_slice(), &bytes].concat();
        let found = credential::find([("authorization", header.as_slice())]);
        assert_eq!(
            found.is_ok_and(|found| matches!(found, credential::Credential::Key(_))),
            is_made
        );
        is_made
    });
}

/// Writes JSON of names that mean something somewhere.
struct Writer<'r> {
    rng: &'r mut Rng,
    out: &'r mut String,
}

const NAMES: &[&str] = &[
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tools",
    "function",
    "name",
    "arguments",
    "tool_calls",
    "id",
    "index",
    "max_tokens",
    "stream",
    "input",
    "instructions",
    "output",
    "call_id",
    "system",
    "thinking",
    "signature",
    "source",
    "data",
    "media_type",
    "tool_use_id",
    "is_error",
    "tool_choice",
    "metadata",
    "user_id",
    "stop_sequences",
    "models",
    "timeout_ms",
    "tags",
    "extra_body",
    "reasoning",
    "summary",
    "encrypted_content",
    "include",
    "format",
    "schema",
    "budget_tokens",
    "cache_control",
    "input_schema",
    "parameters",
    "strict",
    "choices",
    "delta",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_content",
    "thinking_blocks",
    "refusal",
    "message",
    "error",
    "code",
    "url",
    "image_url",
    "created",
    "service_tier",
    "output_config",
    "context_management",
    "edits",
    "stream_options",
    "include_usage",
    "previous_response_id",
    "store",
    "max_output_tokens",
    "é",
    "",
];
const WORDS: &[&str] = &[
    "user",
    "assistant",
    "system",
    "developer",
    "tool",
    "text",
    "image",
    "document",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "function",
    "custom",
    "input_text",
    "output_text",
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "auto",
    "any",
    "none",
    "required",
    "stop",
    "length",
    "tool_calls",
    "base64",
    "{\\\"a\\\":1}",
    "{\\\"a\\\":",
    "1}",
    "\\ud83d",
    "\\ude00",
    "\\u0000",
    "\u{2028}",
    "é😀",
    "\\n",
    "aggregator.1:{}",
    "EqQB",
    "json_schema",
    "web_search_20250305",
    "msg_1",
    "",
];

/// Members whose values are lists.
const LISTS: &[&str] = &[
    "messages",
    "input",
    "content",
    "tools",
    "tool_calls",
    "choices",
    "thinking_blocks",
    "system",
    "edits",
];

/// The members of what stands under a name, the first of which it nearly always has.
const SHAPES: &[(&str, &[&str])] = &[
    ("messages", &["role", "content", "tool_calls", "tool_call_id", "name"]),
    ("input", &["type", "role", "content", "call_id", "name", "arguments", "output", "summary"]),
    (
        "content",
        &[
            "type",
            "text",
            "source",
            "id",
            "name",
            "input_schema",
            "tool_use_id",
            "thinking",
            "signature",
        ],
    ),
    ("system", &["type", "text", "cache_control"]),
    ("tools", &["name", "input_schema", "type", "function", "description"]),
    ("function", &["name", "arguments", "parameters"]),
    ("tool_calls", &["index", "function", "id", "type"]),
    ("choices", &["delta", "index", "finish_reason", "usage", "message"]),
    (
        "delta",
        &["content", "tool_calls", "reasoning_content", "thinking_blocks", "refusal", "role"],
    ),
    ("message", &["content", "tool_calls", "reasoning_content"]),
    ("thinking_blocks", &["type", "thinking", "signature", "data"]),
    ("usage", &["prompt_tokens", "completion_tokens"]),
    ("context_management", &["edits"]),
    ("edits", &["type", "keep"]),
    ("extra_body", &["seed", "top_k"]),
    ("metadata", &["user_id"]),
];

/// Members of bodies.
const MEMBERS: &[&str] = &[
    "max_tokens",
    "stream",
    "tools",
    "system",
    "metadata",
    "stop_sequences",
    "instructions",
    "extra_body",
    "context_management",
    "max_output_tokens",
    "tags",
    "models",
];

const TYPES: &[&str] = &[
    "text",
    "text",
    "input_text",
    "message",
    "function",
    "function_call",
    "function_call_output",
    "tool_use",
    "tool_result",
    "thinking",
    "reasoning",
    "image",
    "custom",
];

impl Writer<'_> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn value(&mut self, depth: usize) {
        match self.rng.u8(0..16) {
            0 => self.put("null"),
            1 => self.one(&["true", "false"]),
            2 => self.one(&["0", "1", "7", "-1", "0.5", "1e9", "9223372036854775808"]),
            3..=6 => self.word(),
            _ if depth == 0 => self.word(),
            7..=10 => {
                self.put("[");
                for place in 0..self.rng.usize(0..4) {
                    self.put(if place > 0 { "," } else { "" });
                    self.value(depth - 1);
                }
                self.put("]");
            }
            _ => self.object(depth - 1),
        }
    }

    fn one(&mut self, of: &[&str]) {
        let one = any(self.rng, of);
        self.put(one);
    }

    fn word(&mut self) {
        let word = any(self.rng, WORDS);
        self.out.extend(["\"", word, "\""]);
    }

    fn object(&mut self, depth: usize) {
        self.put("{");
        for place in 0..self.rng.usize(0..5) {
            self.put(if place > 0 { "," } else { "" });
            let name = any(self.rng, NAMES);
            self.member(name, depth);
        }
        self.put("}");
    }

    fn member(&mut self, name: &str, depth: usize) {
        self.out.extend(["\"", name, "\":"]);
        let names = SHAPES.iter().find(|(list, _)| *list == name).map(|(_, names)| *names);
        match (name, names) {
            // Not what it should be.
            _ if self.rng.u8(0..24) == 0 => self.value(depth),
            (_, Some(names)) if LISTS.contains(&name) => {
                if name == "content" && self.rng.bool() {
                    return self.word();
                }
                self.put("[");
                for place in 0..self.rng.usize(1..4) {
                    self.put(if place > 0 { "," } else { "" });
                    self.shaped(names, depth.saturating_sub(1));
                }
                self.put("]");
            }
            (_, Some(names)) => self.shaped(names, depth.saturating_sub(1)),
            ("model", _) => self.put("\"a/b\""),
            ("role", _) => self.word_of(&WORDS[..5]),
            ("type", _) => self.word_of(TYPES),
            ("stream", _) => self.one(&["true", "false"]),
            ("index", _) => self.one(&["0", "0", "1", "2"]),
            ("max_tokens" | "max_output_tokens", _) => self.one(&["1", "100", "999999"]),
            ("finish_reason", _) => self.word_of(&["stop", "length", "tool_calls", ""]),
            ("arguments" | "text" | "name" | "id" | "thinking" | "reasoning_content", _) => {
                self.word()
            }
            ("tool_use_id" | "call_id" | "tool_call_id" | "signature", _) => self.word(),
            _ => self.value(depth.min(2)),
        }
    }

    /// An object with some of these members, and sometimes another one.
    fn shaped(&mut self, names: &[&str], depth: usize) {
        self.put("{");
        let mut is_first = true;
        let mut other = self.rng.u8(0..10) == 0;
        for name in names {
            // The first of them makes it what it is.
            if !is_first && self.rng.u8(0..3) == 0
                || depth == 0 && SHAPES.iter().any(|(shape, _)| shape == name)
            {
                continue;
            }
            self.put(if is_first { "" } else { "," });
            is_first = false;
            self.member(name, depth);
            if std::mem::take(&mut other) {
                let name = any(self.rng, NAMES);
                self.put(",");
                self.member(name, depth);
            }
        }
        self.put("}");
    }

    fn word_of(&mut self, words: &[&str]) {
        let word = any(self.rng, words);
        self.out.extend(["\"", word, "\""]);
    }

    /// A body that may be one.
    fn body(&mut self, list: &str) {
        self.put("{");
        self.member("model", 1);
        self.put(",");
        self.member(list, 4);
        let mut given = vec!["model", list];
        for _ in 0..self.rng.usize(0..4) {
            let name = any(self.rng, MEMBERS);
            if !given.contains(&name) {
                given.push(name);
                self.put(",");
                self.member(name, 3);
            }
        }
        if self.rng.u8(0..10) == 0 {
            self.put(",");
            let name = any(self.rng, NAMES);
            self.member(name, 3);
        }
        self.put("}");
        if self.rng.u8(0..12) == 0 {
            // Damaged somewhere.
            let at = self.rng.usize(0..self.out.len());
            if self.out.is_char_boundary(at) {
                match self.rng.bool() {
                    true => self.out.truncate(at),
                    false => self.out.insert_str(at, any(self.rng, &["{", "]", "\"", ",", "\\"])),
                }
            }
        }
    }
}

/// What the front takes, the gateway takes, and a job is read back from.
fn taken(prepared: &Prepared) {
    request::outline(&prepared.body()).unwrap_or_else(|unfit| panic!("{unfit}"));
    let kept = Prepared::from_http(&prepared.to_request()).expect("it is read back");
    assert_eq!(kept.body(), prepared.body());
}

#[test]
fn a_body_of_chat_is_taken_as_the_gateway_takes_it() {
    try_all("bodies of chat", 50, |rng, body| {
        Writer { rng, out: body }.body("messages");
        let read = openai::Asked::read(body);
        read.as_ref().inspect(|asked| taken(&asked.prepared)).is_ok()
    });
}

#[test]
fn a_body_of_responses_becomes_one_of_chat() {
    try_all("bodies of Responses", 50, |rng, body| {
        Writer { rng, out: body }.body("input");
        let read = responses::Asked::read(body);
        if let Ok(responses::Asked { prepared, about }) = &read {
            taken(prepared);
            let _ = format!("{about:?}");
        }
        read.is_ok()
    });
}

#[test]
fn a_body_of_messages_becomes_one_of_chat_or_goes_as_it_came() {
    try_all("bodies of Messages", 50, |rng, body| {
        let version = if rng.bool() { Version::June2023 } else { Version::October2026 };
        Writer { rng, out: body }.body("messages");
        let Ok(asked) = Incoming::read(body, version) else { return false };
        assert!(count::tokens(&asked) >= 1);
        let _ = asked.steering().map(|steering| Prepared::from_http(&steering));
        for anthropics_own in [true, false] {
            let takes = Takes { anthropics_own, reasoning_effort: true };
            if let Ok(prepared) = asked.chat(takes).and_then(|chat| Prepared::from_http(&chat)) {
                taken(&prepared);
            }
        }
        let Ok(own) = asked.native() else { return false };
        let sending = Sending {
            model_id: "claude-x",
            max_output_tokens: Some(8192),
            streams: true,
            cap: None,
            takes_newer_name: false,
            most_tokens: Some(9),
        };
        let Ok(sent) = native::request(&own, &sending) else { return false };
        json::members(&sent).expect("an object that gives nothing twice");
        if let (Ok(before), Ok(after)) = (request::outline(&own), request::outline(&sent)) {
            let most = if before.max_tokens.is_some() { 9 } else { 8192 };
            assert!(after.max_tokens.is_some_and(|tokens| tokens <= most), "{sent}");
            assert!(before.unbounded.is_some() || after.unbounded.is_none(), "{sent}");
        }
        true
    });
}

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
