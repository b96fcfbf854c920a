//! JSON at random, of names that mean something somewhere.

use super::any;
use fastrand::Rng;

/// Writes it.
pub struct Writer<'r> {
    pub rng: &'r mut Rng,
    pub out: &'r mut String,
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
    pub fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    pub fn value(&mut self, depth: usize) {
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

    pub fn member(&mut self, name: &str, depth: usize) {
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
    pub fn body(&mut self, list: &str) {
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
