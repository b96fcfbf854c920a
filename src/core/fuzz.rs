//! Requests at random, through all that reads them before they are sent: what one reader takes,
//! every other must take in the same sense, and no bound may be less than what is sent.
//!
//! `AGGREGATOR_FUZZ=10000000 cargo test --release --lib fuzz` tries as many; a failure prints the
//! request. `AGGREGATOR_FUZZ_SEED` begins elsewhere.

use crate::core::bound::{self, MOST_OUTPUT_TOKENS, Model, Size};
use crate::core::options::Prepared;
use crate::core::parameters::{self, PARAMETERS, Takes};
use crate::core::request::{self, Outline};
use crate::core::scan::{Scanner, Unfit};
use crate::core::standard::{Sending, Standard};
use crate::core::{estimate, json};
use fastrand::Rng;
use serde_json::Value;
use serde_json::value::RawValue;

/// Tried where nobody asks for more.
const FEW: u64 = 20_000;

/// Types of parts and tools whose cost no bytes bound, or that nobody here understands.
const DANGEROUS: &[&str] = &[
    "image_url",
    "image",
    "input_audio",
    "file",
    "document",
    "video_url",
    "Text",
    "IMAGE",
    "server_tool_use",
    "web_search",
    "web_search_20250305",
    "search_result",
    "container_upload",
    "",
];
const HARMLESS: &[&str] =
    &["text", "refusal", "thinking", "redacted_thinking", "tool_use", "tool_result"];
/// Names that look like parameters and are none, or none that has a bound.
const STRANGE: &[&str] = &[
    "Max_Tokens",
    "N",
    "speed",
    "best_of",
    "max_output_tokens",
    "plugins",
    "mcp_servers",
    "provider",
    "inference_geo",
    "x",
    "",
    "max_tokens ",
    "container",
];

/// Writes requests.
struct Writer {
    rng: Rng,
    out: String,
}

impl Writer {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(0..of.len())]
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// A string, of which some letters may be escaped.
    fn text(&mut self, text: &str) {
        let escapes = self.one_in(12);
        self.out.push('"');
        for c in text.chars() {
            if (escapes && self.one_in(3)) || c.is_control() || matches!(c, '"' | '\\') {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                self.out.push(c);
            }
        }
        self.out.push('"');
    }

    fn words(&mut self) {
        let words = [
            "hi",
            "",
            "é😀漢",
            "a \"quoted\" \\ line\n",
            "JVBERi0",
            "auto",
            "{\"a\":1}",
            "data:image/png;base64,AA",
        ];
        let word = self.any(&words);
        let word = if self.one_in(50) { word.repeat(40) } else { word.to_owned() };
        self.text(&word);
    }

    fn number(&mut self) {
        let numbers = [
            "0",
            "1",
            "2",
            "7",
            "100",
            "128",
            "129",
            "8192",
            "8193",
            "1000000",
            "6660000",
            "9223372036854775807",
            "9223372036854775808",
            "99999999999999999999999999",
            "-1",
            "1.5",
            "1e3",
            "1e400",
            "0.0",
            "-0",
        ];
        let number = self.any(&numbers);
        self.put(number);
    }

    /// Any value at all.
    fn value(&mut self, depth: u32) {
        match self.rng.u32(0..if depth == 0 { 6 } else { 8 }) {
            0 => self.put("null"),
            1 => self.put("true"),
            2 => self.put("false"),
            3 => self.number(),
            4 | 5 => self.words(),
            6 => self.list(|w| w.value(depth - 1)),
            _ => self.object(|w| {
                let names = ["type", "a", "text", "name", "cache_control", "image_url", "content"];
                let name = w.any(&names);
                w.text(name);
                w.put(":");
                w.value(depth - 1);
            }),
        }
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self)) {
        self.put("[");
        for index in 0..self.rng.u32(0..4) {
            self.put(if index > 0 { "," } else { "" });
            item(self);
        }
        self.put("]");
    }

    fn object(&mut self, mut member: impl FnMut(&mut Self)) {
        self.put("{");
        for index in 0..self.rng.u32(0..5) {
            self.put(if index > 0 { ", " } else { "" });
            member(self);
        }
        self.put("}");
    }

    fn member(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.text(name);
        self.put(":");
        if self.one_in(25) {
            self.value(2);
        } else {
            value(self);
        }
    }

    /// A part as it should be, mostly.
    fn part(&mut self, depth: u32) {
        match self.rng.u32(0..10) {
            0 => return self.odd_part(depth),
            1 => return self.value(2),
            _ => {}
        }
        let kind = self.any(HARMLESS);
        self.put("{");
        self.member("type", |w| w.text(kind));
        let names: &[&str] = match kind {
            "tool_use" => &["id", "name", "input"],
            "tool_result" => &["tool_use_id", "content"],
            "thinking" => &["thinking", "signature"],
            "redacted_thinking" => &["data"],
            kind => &[kind],
        };
        for name in names {
            self.put(",");
            self.member(name, |w| match *name {
                "input" => w.value(2),
                "content" if depth > 0 => w.content(depth - 1),
                _ => w.words(),
            });
        }
        self.put("}");
    }

    fn odd_part(&mut self, depth: u32) {
        let kind = if self.one_in(8) { self.any(DANGEROUS) } else { self.any(HARMLESS) };
        self.object(|w| {
            let names = [
                "type",
                "type",
                "text",
                "refusal",
                "content",
                "id",
                "name",
                "input",
                "thinking",
                "signature",
                "data",
                "tool_use_id",
                "cache_control",
                "image_url",
                "source",
            ];
            let name = if w.one_in(6) { w.any(&names) } else { w.any(&names[..5]) };
            w.member(name, |w| match name {
                "type" => w.text(kind),
                "content" if depth > 0 => w.content(depth - 1),
                "input" | "cache_control" | "source" => w.value(2),
                "image_url" => w.put(r#"{"url":"https://x.example/a.png"}"#),
                _ => w.words(),
            });
        });
    }

    fn content(&mut self, depth: u32) {
        match self.rng.u32(0..4) {
            0 => self.words(),
            1 if self.one_in(4) => self.put("null"),
            _ => self.list(|w| w.part(depth)),
        }
    }

    fn message(&mut self) {
        if self.one_in(60) {
            return self.value(1);
        }
        if !self.one_in(8) {
            let role = self.any(&["user", "user", "assistant", "system", "tool"]);
            self.put("{");
            self.member("role", |w| w.text(role));
            self.put(",");
            match role {
                "user" | "assistant" => self.member("content", |w| w.content(2)),
                _ => self.member("content", Self::words),
            }
            if role == "tool" {
                self.put(",");
                self.member("tool_call_id", Self::words);
            }
            return self.put("}");
        }
        self.object(|w| {
            let names = [
                "role",
                "role",
                "content",
                "content",
                "content",
                "tool_calls",
                "tool_call_id",
                "thinking_blocks",
                "name",
                "cache_control",
                "audio",
                "images",
                "reasoning_details",
                "function_call",
                "Content",
            ];
            let name = if w.one_in(5) { w.any(&names) } else { w.any(&names[..6]) };
            w.member(name, |w| match name {
                "role" => {
                    let role =
                        w.any(&["user", "assistant", "system", "tool", "developer", "function"]);
                    w.text(role);
                }
                "content" | "Content" => w.content(2),
                "thinking_blocks" | "images" => w.list(|w| w.part(1)),
                "tool_calls" => w.list(|w| {
                    w.put(r#"{"id":"c","type":"function","function":{"name":"f","arguments":"#);
                    w.words();
                    w.put("}}");
                }),
                "name" | "tool_call_id" => w.words(),
                _ => w.value(2),
            });
        });
    }

    fn parameter(&mut self) {
        let name = match self.rng.u32(0..10) {
            0 if self.one_in(3) => self.any(STRANGE),
            1..=4 => self.any(&[
                "messages",
                "max_tokens",
                "max_completion_tokens",
                "n",
                "tools",
                "model",
                "service_tier",
            ]),
            _ => PARAMETERS[self.rng.usize(0..PARAMETERS.len())].name,
        };
        self.member(name, |w| match name {
            "messages" => w.list(Self::message),
            "model" => w.put(r#""v/m""#),
            "system" => w.content(1),
            "tools" => w.list(|w| {
                if w.one_in(3) {
                    return w.put(r#"{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}"#);
                }
                let kind = if w.one_in(3) { w.any(DANGEROUS) } else { w.any(&["function", "custom"]) };
                w.object(|w| {
                    let names = ["type", "function", "name", "input_schema", "custom", "google_search"];
                    let name = w.any(&names);
                    w.member(name, |w| if name == "type" { w.text(kind) } else { w.value(1) });
                });
            }),
            "service_tier" => {
                let tier = w.any(&["auto", "default", "flex", "priority", "Auto"]);
                w.text(tier);
            }
            "context_management" if !w.one_in(5) => {
                let some = w.any(&[
                    r#"{"edits":[]}"#,
                    r#"{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#,
                    r#"{"edits":[{"type":"clear_tool_uses_20250919"},{"type":"compact_20260112"}]}"#,
                    r#"{"edits":[{"type":"compact_20260112"}]}"#,
                    r#"{"edits":[{"keep":1}]}"#,
                ]);
                w.put(some);
            }
            "modalities" => {
                let some = w.any(&[r#"["text"]"#, r#"["text","audio"]"#, "[]"]);
                w.put(some);
            }
            "n" if !w.one_in(4) => w.put("1"),
            "max_tokens" | "max_completion_tokens" | "n" => w.number(),
            "stop" | "tool_choice" => w.words(),
            "response_format" => {
                let some = w.any(&[r#"{"type":"json_object"}"#, r#"{"type":"text"}"#, r#"{"type":"json_schema","json_schema":{"schema":{}}}"#]);
                w.put(some);
            }
            _ => w.fitting(name),
        });
    }

    /// A value of the kind that a parameter takes.
    fn fitting(&mut self, name: &str) {
        let takes = parameters::find(name).map_or(Takes::Any, |parameter| parameter.takes);
        match takes {
            Takes::Flag => self.put("true"),
            Takes::Number | Takes::Whole | Takes::Tokens | Takes::Answers => self.put("1"),
            Takes::Text | Takes::TextOrList | Takes::TextOrObject => self.words(),
            Takes::List => self.list(|w| w.value(1)),
            Takes::Object => self.object(|w| w.member("a", |w| w.value(1))),
            Takes::Any => self.value(2),
        }
    }

    /// Changes bytes here and there.
    fn damage(&mut self) {
        let mut bytes = std::mem::take(&mut self.out).into_bytes();
        for _ in 0..self.rng.u32(1..4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.rng.usize(0..bytes.len());
            let to = self.rng.usize(at..bytes.len().min(at + 12));
            match self.rng.u32(0..5) {
                0 => drop(bytes.drain(at..=to)),
                1 => bytes[at] = b"{}[]\":,\\u01eE.-+ntf\x00\x1f "[self.rng.usize(0..22)],
                2 => bytes.insert(at, b"{}[]\":,\\u01eE.-+ntf"[self.rng.usize(0..19)]),
                3 => {
                    let copy = bytes[at..=to].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => bytes.truncate(at),
            }
        }
        self.out = String::from_utf8_lossy(&bytes).into_owned();
    }

    fn request(&mut self) -> String {
        self.out.clear();
        let names = self.rng.u32(1..6);
        self.put("{\"messages\":");
        match self.one_in(10) {
            true => self.value(2),
            false => self.list(Self::message),
        }
        for _ in 0..names {
            self.put(",");
            self.parameter();
        }
        self.put("}");
        if self.one_in(4) {
            self.damage();
        }
        std::mem::take(&mut self.out)
    }
}

/// Counts of what became of the requests, which must not all be refused.
#[derive(Debug, Default)]
struct Tally {
    json: u64,
    taken: u64,
    bounded: u64,
    sent: [u64; 2],
    sent_bounded: [u64; 2],
}

/// Whether a slow walk over the values finds what must not have a bound.
fn is_dangerous(request: &Value) -> bool {
    let tools = request["tools"].as_array().into_iter().flatten();
    let is_strange = |name: &str| request.get(name).is_some_and(|value| !value.is_null());
    let edits = request["context_management"]["edits"].as_array().into_iter().flatten();
    STRANGE.iter().any(|name| is_strange(name))
        || edits
            .map(|edit| &edit["type"])
            .any(|kind| kind.as_str().is_none_or(|kind| !kind.starts_with("clear_")))
        || !matches!(request["service_tier"].as_str(), None | Some("auto" | "default" | "flex"))
        || request["modalities"].as_array().into_iter().flatten().any(|kind| kind != "text")
        || tools
            .map(|tool| &tool["type"])
            .any(|kind| !kind.is_null() && kind != "function" && kind != "custom")
        || is_more_than_text(&request["system"])
        || request["messages"].as_array().into_iter().flatten().any(|message| {
            ["content", "thinking_blocks"].iter().any(|name| is_more_than_text(&message[name]))
                || ["audio", "images", "Content"].iter().any(|name| !message[name].is_null())
        })
}

/// Of a content. What a tool is given is text, whatever it is.
fn is_more_than_text(content: &Value) -> bool {
    match content {
        Value::Null | Value::String(_) => false,
        Value::Array(parts) => parts.iter().any(|part| {
            !HARMLESS.iter().any(|kind| part["type"] == *kind)
                || !part["image_url"].is_null()
                || !part["source"].is_null()
                || is_more_than_text(&part["content"])
        }),
        _ => true,
    }
}

/// Bytes of all texts.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "model")
            .map(|(_, item)| text_bytes(item))
            .sum(),
        _ => 0,
    }
}

/// What is sent asks for no more than the size says.
fn check_sent(body: &str, outline: &Outline, size: &Size, standard: Standard, tally: &mut Tally) {
    let place = standard as usize;
    let cap = size.output_tokens.is_none().then_some(77);
    let sending = Sending {
        model_id: "v/m",
        max_output_tokens: Some(8192),
        streams: body.len().is_multiple_of(2),
        cap,
        takes_newer_name: place == 0 && body.len().is_multiple_of(3),
        most_tokens: size.output_tokens,
    };
    let Ok(sent) = standard.wire().request(body, &sending) else { return };
    tally.sent[place] += 1;
    json::members(&sent).expect("an object that gives nothing twice");
    let most = size.output_tokens.unwrap_or(77);
    let again = request::outline(&sent);
    if let Ok(again) = &again {
        assert!(again.max_tokens.is_none_or(|tokens| tokens <= most), "{sent}");
        assert!(again.n.is_none_or(|n| n <= size.n), "{sent}");
    }
    if outline.unbounded.is_some() {
        return;
    }
    tally.sent_bounded[place] += 1;
    let again = again.unwrap_or_else(|unfit| panic!("what is sent {unfit}: {sent}"));
    assert_eq!(again.unbounded, None, "{sent}");
    assert!(!again.caches || outline.caches, "{sent}");
    if let Ok(value) = serde_json::from_str::<Value>(&sent) {
        assert!(!is_dangerous(&value), "{sent}");
        assert!(text_bytes(&value) as i64 <= size.input_tokens, "{sent}");
        if standard == Standard::Anthropic {
            assert!(value["max_tokens"].as_i64().is_some_and(|tokens| tokens <= most), "{sent}");
        }
    }
}

fn check(body: &str, tally: &mut Tally) {
    // The grammar is that of everybody else.
    let mut scanner = Scanner::new(body);
    let scanned = scanner.skip().and_then(|_| scanner.end());
    let by_serde = serde_json::from_str::<&RawValue>(body).is_ok();
    assert_eq!(scanned.is_ok(), by_serde, "{scanned:?}");
    tally.json += u64::from(by_serde);
    let outline = request::outline(body);
    assert!(by_serde || outline.is_err());
    let _ = (estimate::prompt_size(body), request::messages(body), json::members(body));

    // What a session takes, the gateway takes.
    if let Ok(prepared) = Prepared::from_body(Some(body)) {
        let again = request::outline(&prepared.body());
        assert!(again.is_ok(), "the gateway refuses what a session takes: {again:?}");
        let kept = Prepared::from_body(Some(&prepared.to_request())).expect("it is read back");
        assert_eq!(kept.body(), prepared.body());
    }
    let _ = Prepared::from_arguments(Some("m"), Some(body), Some(body));

    let outline = match outline {
        Ok(outline) => outline,
        Err(Unfit::Twice(_)) => {
            for standard in [Standard::OpenAi, Standard::Anthropic] {
                let sending = Sending {
                    model_id: "m",
                    max_output_tokens: None,
                    streams: false,
                    cap: None,
                    takes_newer_name: false,
                    most_tokens: None,
                };
                assert!(standard.wire().request(body, &sending).is_err());
            }
            return;
        }
        Err(_) => return,
    };
    tally.taken += 1;
    tally.bounded += u64::from(outline.unbounded.is_none());
    if let Ok(value) = serde_json::from_str::<Value>(body) {
        assert!(outline.unbounded.is_some() || !is_dangerous(&value), "this has no bound");
        let asked = ["max_tokens", "max_completion_tokens"].map(|name| value[name].as_i64());
        assert!(outline.max_tokens >= asked.into_iter().flatten().max());
        assert!(outline.n.unwrap_or(1) >= value["n"].as_i64().unwrap_or(1));
    }
    for (limit, default) in [(Some(8192), None), (None, None), (Some(8192), Some(4096))] {
        let model = Model { id: "v/m", max_output_tokens: limit, ..Model::default() };
        let size = bound::size(&outline, &model, default, bound::Hidden::default());
        assert!(size.input_tokens >= body.len() as i64 && (1..=128).contains(&size.n));
        assert!(size.output_tokens.is_none_or(|most| (1..=MOST_OUTPUT_TOKENS).contains(&most)));
        check_sent(body, &outline, &size, Standard::OpenAi, tally);
        if limit.is_some() {
            check_sent(body, &outline, &size, Standard::Anthropic, tally);
        }
    }
}

/// How many to try, and where to begin: for every test of this kind.
pub fn count_and_seed() -> (u64, u64) {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    };
    (number("AGGREGATOR_FUZZ", FEW), number("AGGREGATOR_FUZZ_SEED", 1))
}

#[test]
fn no_request_is_understood_in_two_ways() {
    let (count, seed) = count_and_seed();
    let mut tally = Tally::default();
    for index in 0..count {
        // Each has a seed of its own, so that it can be had again.
        let mut writer =
            Writer { rng: Rng::with_seed(seed.wrapping_add(index)), out: String::new() };
        let body = writer.request();
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&body, &mut tally)));
        if checked.is_err() {
            panic!("request {index} of seed {seed}: {body}");
        }
    }
    println!("{count} requests: {tally:?}");
    // Or nothing would have been tried.
    assert!(
        tally.bounded > count / 50 && tally.sent_bounded.iter().all(|sent| *sent > count / 50),
        "{tally:?}"
    );
}
