//! The bodies of refusals, in every form that providers, servers and the proxies before them send:
//! whatever it is, its words are kept, and nothing of the request that they repeat as a member of
//! its own.

use super::{Refusal, sayings};
use crate::core::reply::clean_word;
use crate::core::{mend, secret};
use serde_json::{Map, Value};

/// Longest upstream message that is repeated to the caller.
const MAX_MESSAGE: usize = 1000;
/// Of a page that is no refusal.
const MAX_PAGE: usize = 200;
/// Of a body: what follows is no explanation any more.
const MAX_BODY: usize = 256 << 10;
/// Of its words: what is looked through for what the refusal is about.
const MAX_WORDS: usize = 16 << 10;
/// JSON in a text in JSON: OpenRouter's `raw`, Gemini's `message`.
const MAX_DEPTH: u8 = 6;
/// Of a list of errors, or of the members of an unknown form.
const MAX_ITEMS: usize = 20;
/// Words and codes that are kept of one body.
const MAX_SAID: usize = 50;

/// Members that hold another error, or are it.
const NESTED: [&str; 6] = ["error", "errors", "base_resp", "fault", "response", "err"];
/// Members that hold words.
const WORDS: [&str; 13] = [
    "message",
    "msg",
    "detail",
    "details",
    "error_message",
    "error_msg",
    "errorMessage",
    "errmsg",
    "error_description",
    "status_msg",
    "faultstring",
    "Message",
    "raw",
];
/// Members that hold words where nothing better does.
const TITLES: [&str; 3] = ["title", "description", "reason"];
/// Members that hold a code, the most telling one first.
const CODES: [&str; 8] = [
    "error_code",
    "code",
    "type",
    "error_type",
    "status_code",
    "http_status_code",
    "__type",
    "status",
];
/// Codes that say nothing.
const EMPTY_CODES: [&str; 4] = ["error", "fail", "failed", "failure"];
/// Members that repeat the request or place the error in a program.
const ECHOES: [&str; 10] = [
    "input",
    "inputs",
    "messages",
    "prompt",
    "request",
    "headers",
    "ctx",
    "stack",
    "traceback",
    "flagged_input",
];

/// Reads the body of an answer that is not 2xx. `key` is removed from whatever is repeated.
pub fn read(status: u16, body: &str, key: Option<&str>) -> Refusal {
    let mut said = Said::default();
    said.text(body, 0);
    said.into_refusal(Some(status), key)
}

/// Reads the `error` member of an answer that began as a success: a chunk of a stream, say.
pub fn inside_200(error: &str, key: Option<&str>) -> Refusal {
    let mut said = Said::default();
    said.text(error, 0);
    said.into_refusal(None, key)
}

/// The refusal that a body of a 2xx answer is, if it is one: `error`, an array of it, MiniMax's
/// `base_resp`, `success: false`, or a code of an error beside a message and no data.
pub fn inside_success(body: &str, key: Option<&str>) -> Option<Refusal> {
    let body = bare(body);
    // Larger ones hold data.
    if body.len() > MAX_BODY {
        return None;
    }
    let answer: Value = serde_json::from_str(&mend::json(body)).ok()?;
    let is_error = match &answer {
        Value::Array(items) => items.first().and_then(Value::as_object).is_some_and(has_error),
        Value::Object(members) => has_error(members) || is_failure(members),
        _ => false,
    };
    if !is_error {
        return None;
    }
    let mut said = Said::default();
    said.value(&answer, 0);
    Some(said.into_refusal(None, key))
}

/// What a body is instead of JSON, with the words of a page: they say which proxy stands before the
/// provider, and why. Other texts may be an answer, and are not repeated.
pub fn instead(what: &str, body: &str, key: Option<&str>) -> String {
    let body = bare(body);
    if !body.starts_with('<') {
        return what.to_owned();
    }
    let start: String = body.chars().take(MAX_WORDS).collect();
    let words = tidy(&secret::scrub(&without_markup(&start), key));
    match words.char_indices().nth(MAX_PAGE) {
        _ if words.is_empty() => what.to_owned(),
        Some((end, _)) => format!("{what}: {}…", &words[..end]),
        None => format!("{what}: {words}"),
    }
}

fn has_error(members: &Map<String, Value>) -> bool {
    members.get("error").is_some_and(|error| !is_nothing(error))
}

fn is_failure(members: &Map<String, Value>) -> bool {
    let is_set = |name: &str| members.get(name).is_some_and(|value| !is_nothing(value));
    let base = members.get("base_resp").and_then(|base| base["status_code"].as_i64());
    let code = members.get("code").and_then(number);
    base.is_some_and(|status| status != 0)
        || members.get("success") == Some(&Value::Bool(false))
        || (code.is_some_and(|code| code >= 400)
            && ["message", "msg", "error_msg"].into_iter().any(is_set)
            && !["data", "choices", "content", "models", "object"].into_iter().any(is_set))
}

/// What a body says.
#[derive(Default)]
struct Said {
    status: Option<u16>,
    codes: Vec<String>,
    words: Vec<String>,
}

impl Said {
    fn into_refusal(self, status: Option<u16>, key: Option<&str>) -> Refusal {
        let words: Vec<String> =
            self.words.iter().map(|words| tidy(&secret::scrub(words, key))).collect();
        let mut told: Vec<&str> = Vec::new();
        for words in &words {
            // A wrapper often repeats what it wraps.
            if !words.is_empty() && !told.iter().any(|said| said.contains(words.as_str())) {
                told.push(words);
            }
        }
        let mut words = told.join("; ");
        if let Some((end, _)) = words.char_indices().nth(MAX_WORDS) {
            words.truncate(end);
        }
        let codes: Vec<String> = self
            .codes
            .iter()
            .map(|code| clean_word(&secret::scrub(code, key)))
            .filter(|code| !code.is_empty())
            .collect();
        let told = status.or(self.status);
        let about = sayings::about(told, &codes, &words);
        Refusal {
            status: told.unwrap_or_else(|| sayings::status_of(about, &codes, &words)),
            about,
            code: codes.into_iter().next(),
            message: Some(shortened(words)).filter(|message| !message.is_empty()),
            request_id: None,
            retry_after_s: None,
        }
    }

    /// Reads a text: JSON, events of a stream, a page, or just words.
    fn text(&mut self, text: &str, depth: u8) {
        let text = bare(text);
        if text.is_empty() || text == "null" {
            return;
        }
        let may_hold_more = depth < MAX_DEPTH && text.len() <= MAX_BODY;
        if may_hold_more && let Some(data) = data_of_events(text) {
            return self.text(&data, depth + 1);
        }
        let is_json = text.starts_with(['{', '[', '"']);
        if is_json
            && may_hold_more
            && let Ok(value) = serde_json::from_str(&mend::json(text))
        {
            return self.value(&value, depth + 1);
        }
        let start: String = text.chars().take(MAX_WORDS).collect();
        match start.starts_with('<') {
            true => self.say(without_markup(&start)),
            false => self.say(start),
        }
    }

    fn say(&mut self, words: impl Into<String>) {
        if self.words.len() < MAX_SAID {
            self.words.push(words.into());
        }
    }

    fn note(&mut self, code: &str) {
        if self.codes.len() < MAX_SAID {
            self.codes.push(code.to_owned());
        }
    }

    fn value(&mut self, value: &Value, depth: u8) {
        if depth > MAX_DEPTH {
            return;
        }
        match value {
            Value::String(text) => self.text(text, depth),
            Value::Array(items) => {
                for item in items.iter().take(MAX_ITEMS) {
                    self.value(item, depth + 1);
                }
            }
            Value::Object(members) => self.object(members, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn object(&mut self, members: &Map<String, Value>, depth: u8) {
        let before = self.words.len();
        // FastAPI: {"loc": ["body", "messages"], "msg": "Field required", "input": ...}.
        if let (Some(place), Some(Value::String(message))) =
            (members.get("loc"), members.get("msg"))
        {
            return self.say(format!("{}: {message}", path(place)));
        }
        for name in WORDS {
            match members.get(name) {
                // The words of Google's details are those of the message, in another language maybe.
                Some(Value::Array(details)) if name == "details" => self.reasons(details),
                Some(Value::Object(details)) if name == "details" => self.details(details, depth),
                Some(value) => self.value(value, depth + 1),
                None => {}
            }
        }
        for name in NESTED {
            if let Some(value) = members.get(name) {
                self.value(value, depth + 1);
            }
        }
        // OpenRouter: what the provider behind it answered.
        if let Some(raw) = members.get("metadata").and_then(|metadata| metadata.get("raw")) {
            self.value(raw, depth + 1);
        }
        self.codes_of(members);
        if self.words.len() > before {
            return;
        }
        for name in TITLES {
            if let Some(Value::String(words)) = members.get(name) {
                self.say(words.as_str());
            }
        }
        if self.words.len() == before {
            self.leaves(members, "", depth);
        }
    }

    /// Google's `details`: the reason of an `ErrorInfo`.
    fn reasons(&mut self, details: &[Value]) {
        for detail in details.iter().take(MAX_ITEMS) {
            match detail {
                Value::Object(detail) if detail.contains_key("@type") => {
                    if let Some(Value::String(reason)) = detail.get("reason") {
                        self.note(reason);
                    }
                }
                other => self.value(other, MAX_DEPTH),
            }
        }
    }

    /// Anthropic's `details`: of its members only codes and words are for people.
    fn details(&mut self, details: &Map<String, Value>, depth: u8) {
        self.codes_of(details);
        for name in WORDS {
            if let Some(words) = details.get(name) {
                self.value(words, depth + 1);
            }
        }
    }

    fn codes_of(&mut self, members: &Map<String, Value>) {
        for name in CODES {
            match members.get(name) {
                Some(Value::String(code)) => match code.trim().contains(char::is_whitespace) {
                    false => self.code(code.trim()),
                    // xAI's codes are sentences.
                    true if name == "code" => self.say(code.as_str()),
                    true => {}
                },
                Some(value) => {
                    if let Some(code) = value.as_u64() {
                        self.code(&code.to_string());
                    }
                }
                None => {}
            }
        }
    }

    /// A code, or an HTTP status where one should stand.
    fn code(&mut self, code: &str) {
        match code.parse::<u64>() {
            Ok(0..=99) => {}
            Ok(status @ 100..=599) => {
                if status >= 400 && self.status.is_none() {
                    self.status = u16::try_from(status).ok();
                }
            }
            Err(_) if EMPTY_CODES.contains(&code) => {}
            Ok(_) | Err(_) => self.note(code),
        }
    }

    /// Texts and numbers of a form that nobody knows, each with its name.
    fn leaves(&mut self, members: &Map<String, Value>, prefix: &str, depth: u8) {
        for (name, value) in members.iter().take(MAX_ITEMS) {
            if ECHOES.contains(&name.as_str()) || CODES.contains(&name.as_str()) {
                continue;
            }
            let name = format!("{prefix}{name}");
            match value {
                Value::String(text) => self.say(format!("{name}: {text}")),
                Value::Number(number) => self.say(format!("{name}: {number}")),
                Value::Object(inner) if depth < MAX_DEPTH => {
                    self.leaves(inner, &format!("{name}."), depth + 1);
                }
                Value::Array(items) => {
                    let texts = items.iter().filter_map(Value::as_str).take(MAX_ITEMS);
                    let texts: Vec<&str> = texts.collect();
                    if !texts.is_empty() {
                        self.say(format!("{name}: {}", texts.join(", ")));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Without white space around it and a byte order mark before it.
fn bare(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim()
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Where a list of names and numbers points to.
fn path(place: &Value) -> String {
    let names = place.as_array().into_iter().flatten().take(MAX_ITEMS);
    let names = names.map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned));
    names.collect::<Vec<_>>().join(".")
}

/// The data of a text that is events of a stream. llama.cpp sends errors as a field of that name.
fn data_of_events(text: &str) -> Option<String> {
    const FIELDS: [&str; 5] = ["data:", "event:", "id:", "retry:", ":"];
    let is_field = |line: &str| {
        FIELDS.iter().any(|field| line.starts_with(field)) || line.starts_with("error: {")
    };
    let mut data = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if !is_field(line) {
            return None;
        }
        let line = line.strip_prefix("data:").or_else(|| line.strip_prefix("error:"));
        data.extend(line.map(str::trim).filter(|data| *data != "[DONE]"));
    }
    Some(data.join("\n")).filter(|data| !data.is_empty())
}

/// The words of a page, or of XML: what stands between tags, once, without scripts and styles.
fn without_markup(page: &str) -> String {
    // As long as the page, byte for byte.
    let lower = page.to_ascii_lowercase();
    let mut words: Vec<&str> = Vec::new();
    let mut at = 0;
    while let Some(start) = lower[at..].find('<').map(|start| at + start) {
        let text = page[at..start].trim();
        if !text.is_empty() && words.len() < MAX_SAID && !words.contains(&text) {
            words.push(text);
        }
        let hidden =
            ["script", "style"].into_iter().find(|tag| lower[start + 1..].starts_with(tag));
        let from = match hidden {
            Some(tag) => lower[start..].find(&format!("</{tag}")).map(|end| start + end),
            None => Some(start),
        };
        let end = from.and_then(|from| lower[from..].find('>').map(|end| from + end + 1));
        at = end.unwrap_or(lower.len());
    }
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    let words = [words.join(" ").as_str(), page[at..].trim()].join(" ");
    entities.iter().fold(words, |words, (entity, sign)| words.replace(entity, sign))
}

/// One line, without control characters.
fn tidy(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    message
}
