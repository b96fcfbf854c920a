//! What a request in OpenAI's form asks for, from one pass over its text: how many answers of how
//! many tokens, about how many tokens go in, and whether those bound what it can cost.
//!
//! Parts that are known to be text are a list; whatever is not understood has no bound. The pass
//! builds no values, so what it takes is bounded by the request's bytes.

use crate::core::estimate::Counter;
use crate::core::parameters::{self, Bound, Takes};
use crate::core::scan::{Kind, Scanner, Text, Unfit};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Most members of a request.
pub const MOST_MEMBERS: usize = 256;
/// Longest name that anything understood has, in bytes.
const LONGEST_NAME: usize = 64;
/// What the role and the marks around a message take.
const TOKENS_PER_MESSAGE: usize = 4;
/// Service tiers that cost no more than the usual one. "auto" is what the account is set to.
const TIERS: &[&str] = &["auto", "default", "flex", "standard_only"];

/// Members of a message that are text, whatever they hold.
const MESSAGE_TEXTS: &[&str] = &[
    "annotations",
    "function_call",
    "name",
    "partial",
    "prefix",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "refusal",
    "tool_call_id",
    "tool_calls",
];

/// Content parts that are text, and the members that each may have beside `type`.
const PARTS: Known = &[
    ("text", &["text", "citations", "annotations", "cache_control"]),
    ("refusal", &["refusal", "cache_control"]),
    ("thinking", &["thinking", "signature", "index"]),
    ("redacted_thinking", &["data", "index"]),
    ("tool_use", &["id", "name", "input", "cache_control"]),
    ("tool_result", &["tool_use_id", "content", "is_error", "cache_control"]),
];
/// Parts that an earlier answer's `thinking_blocks` hold.
const THINKING: &[&str] = &["thinking", "redacted_thinking"];

/// Edits of `context_management` that only leave out of the prompt what an earlier turn has said (Anthropic's page
/// "Context editing"), and their members. One that has the model write a summary is billed for it beside the answer
/// (its page "Compaction").
const EDITS: Known = &[
    (
        "clear_tool_uses_20250919",
        &["trigger", "keep", "clear_at_least", "exclude_tools", "clear_tool_inputs"],
    ),
    ("clear_thinking_20251015", &["keep"]),
];

/// Tools that the caller runs, and the members that each may have beside `type`.
const TOOLS: Known = &[
    ("function", &["function", "name", "description", "parameters", "strict", "cache_control"]),
    (
        "custom",
        &[
            "custom",
            "name",
            "description",
            "input_schema",
            "strict",
            "cache_control",
            // Anthropic's page "Tool reference": how the input comes, and what else the model is told. Who else than
            // the model may call it (`allowed_callers`) is a tool that has no bound.
            "eager_input_streaming",
            "defer_loading",
            "input_examples",
        ],
    ),
];

/// What one pass over a request finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    pub bytes: usize,
    pub values: usize,
    /// The most tokens of an answer that the request asks for; what is more than 2^63-1 is that.
    pub max_tokens: Option<i64>,
    /// Answers. `None`: the request does not say, so one.
    pub n: Option<i64>,
    /// What keeps the cost from being bounded by tokens.
    pub unbounded: Option<String>,
    /// About how many tokens go in.
    pub prompt_tokens: i32,
    /// Providers tell the model how to call tools, which is billed.
    pub has_tools: bool,
    /// Or in which format to answer.
    pub has_format: bool,
    /// Parts of the prompt are to be cached, which may cost more than to read them.
    pub caches: bool,
}

/// How large messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    pub count: usize,
    pub tokens: i32,
    /// Nothing but text: no image, audio or file, of which the bytes say nothing.
    pub is_text: bool,
}

/// Reads a request in OpenAI's form, which may or may not name a model.
pub fn outline(body: &str) -> Result<Outline, Unfit> {
    let mut reader = Reader::default();
    let mut scanner = Scanner::new(body);
    let mut seen = BTreeSet::new();
    if scanner.kind()? != Kind::Object {
        return Err(Unfit::Wrong("must be a JSON object".to_owned()));
    }
    scanner.members(|scanner, key| {
        let key = key.said().ok_or_else(|| Unfit::Wrong("has a name that is no text".into()))?;
        if seen.len() == MOST_MEMBERS {
            return Err(Unfit::Wrong(format!("has more than {MOST_MEMBERS} members")));
        }
        reader.parameter(scanner, &key)?;
        if !seen.insert(key.clone()) {
            return Err(Unfit::Twice(shortened(&key)));
        }
        Ok(())
    })?;
    scanner.end()?;
    let overhead = reader.messages.saturating_mul(TOKENS_PER_MESSAGE);
    Ok(Outline {
        bytes: body.len(),
        values: scanner.values(),
        prompt_tokens: reader.counter.tokens_and(overhead),
        ..reader.found
    })
}

/// Reads `messages` alone.
pub fn messages(text: &str) -> Result<Messages, Unfit> {
    let mut reader = Reader::default();
    let mut scanner = Scanner::new(text);
    reader.all_messages(&mut scanner)?;
    scanner.end()?;
    let overhead = reader.messages.saturating_mul(TOKENS_PER_MESSAGE);
    Ok(Messages {
        count: reader.messages,
        tokens: reader.counter.tokens_and(overhead),
        is_text: reader.found.unbounded.is_none(),
    })
}

#[derive(Default)]
struct Reader {
    found: Outline,
    counter: Counter,
    messages: usize,
}

impl Reader {
    fn parameter(&mut self, scanner: &mut Scanner<'_>, key: &str) -> Result<(), Unfit> {
        if key == "messages" {
            return self.all_messages(scanner);
        }
        let kind = scanner.kind()?;
        if kind == Kind::Null || key == "model" {
            return scanner.skip().map(drop);
        }
        let Some(parameter) = parameters::find(key) else {
            self.unbounded(|| format!("'{}', which is not known", shortened(key)));
            return scanner.skip().map(drop);
        };
        match key {
            "tools" => self.tools(scanner)?,
            "system" => self.content(scanner, Some(&["text"]))?,
            "modalities" => self.modalities(scanner)?,
            "context_management" => self.context_management(scanner)?,
            _ => {
                let value = scanner.skip()?;
                if !parameter.takes.fits(value) {
                    return Err(wrong_type(key, parameter.takes));
                }
                match key {
                    "max_tokens" | "max_completion_tokens" => {
                        self.found.max_tokens = self.found.max_tokens.max(parameters::whole(value));
                    }
                    "n" => self.found.n = parameters::whole(value),
                    "functions" => {
                        self.found.has_tools = true;
                        self.counter.add(value);
                    }
                    "response_format" | "output_config" => self.found.has_format = true,
                    "cache_control" => self.found.caches = true,
                    "service_tier" => {
                        let tier = Scanner::new(value).string()?.said_within(LONGEST_NAME);
                        if !tier.is_some_and(|tier| TIERS.contains(&&*tier)) {
                            self.unbounded(|| format!("service_tier {}", shortened(value)));
                        }
                    }
                    _ => {}
                }
            }
        }
        if parameter.bound == Bound::None {
            self.unbounded(|| key.to_owned());
        }
        Ok(())
    }

    /// Notes why there is no bound; the first reason is told.
    fn unbounded(&mut self, what: impl FnOnce() -> String) {
        self.found.unbounded.get_or_insert_with(what);
    }

    fn all_messages(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        let wrong = || Unfit::Wrong("must have an array of objects as its messages".to_owned());
        if scanner.kind()? != Kind::List {
            return Err(wrong());
        }
        scanner.items(|scanner| {
            if scanner.kind()? != Kind::Object {
                return Err(wrong());
            }
            self.messages += 1;
            scanner.members(|scanner, key| self.member_of_message(scanner, key))
        })
    }

    fn member_of_message(&mut self, scanner: &mut Scanner<'_>, key: Text) -> Result<(), Unfit> {
        if scanner.kind()? == Kind::Null {
            return scanner.skip().map(drop);
        }
        match name(key).as_deref() {
            Some("role") => {
                scanner.skip()?;
            }
            Some("content") => {
                self.content(scanner, None)?;
            }
            Some("thinking_blocks") => self.parts(scanner, Some(THINKING))?,
            Some("cache_control") => {
                self.found.caches = true;
                scanner.skip()?;
            }
            Some("tool_calls") => {
                let whole = scanner.rest();
                match scanner.kind()? {
                    Kind::List => scanner.items(|scanner| self.text_that_may_be_cached(scanner))?,
                    _ => scanner.skip().map(drop)?,
                }
                self.counter.add(&whole[..whole.len() - scanner.rest().len()]);
            }
            Some(known) if MESSAGE_TEXTS.contains(&known) => {
                scanner.skip()?;
            }
            _ => {
                self.unbounded(|| format!("'{}' of a message", shortened(key.raw())));
                scanner.skip()?;
            }
        }
        Ok(())
    }

    /// A text, or parts: of these kinds, or of all that are understood.
    fn content(&mut self, scanner: &mut Scanner<'_>, kinds: Option<&[&str]>) -> Result<(), Unfit> {
        match scanner.kind()? {
            Kind::Null => scanner.skip().map(drop),
            Kind::Text => {
                self.counter.add_json(scanner.string()?);
                Ok(())
            }
            _ => self.parts(scanner, kinds),
        }
    }

    fn parts(&mut self, scanner: &mut Scanner<'_>, kinds: Option<&[&str]>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::List {
            self.unbounded(|| "content that is neither text nor a list of parts".to_owned());
            return scanner.skip().map(drop);
        }
        scanner.items(|scanner| {
            if scanner.kind()? != Kind::Object {
                self.unbounded(|| "a content part that is no object".to_owned());
                return scanner.skip().map(drop);
            }
            self.part(scanner, kinds)
        })
    }

    fn part(&mut self, scanner: &mut Scanner<'_>, kinds: Option<&[&str]>) -> Result<(), Unfit> {
        let mut members = Members::new(PARTS);
        scanner.members(|scanner, key| {
            match name(key).as_deref() {
                Some("type") => members.kind(scanner)?,
                // Of the result of a tool.
                Some("content") => {
                    members.add("content");
                    self.content(scanner, None)?;
                }
                Some("text") if scanner.kind()? == Kind::Text => {
                    members.add("text");
                    self.counter.add_json(scanner.string()?);
                }
                _ if scanner.kind()? == Kind::Null => {
                    scanner.skip()?;
                }
                Some(known) => {
                    members.add(known);
                    self.found.caches |= known == "cache_control";
                    scanner.skip()?;
                }
                None => {
                    members.add("");
                    scanner.skip()?;
                }
            }
            Ok(())
        })?;
        match members.understood() {
            Ok(kind) if kinds.is_none_or(|kinds| kinds.contains(&kind)) => {}
            Ok(kind) => self.unbounded(|| kind.to_owned()),
            Err(what) => self.unbounded(|| what.unwrap_or_else(|| "a content part".to_owned())),
        }
        Ok(())
    }

    /// A call or description of a function, which is text, and which may say that the prompt is to
    /// be cached up to it.
    fn text_that_may_be_cached(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::Object {
            return scanner.skip().map(drop);
        }
        scanner.members(|scanner, key| {
            self.found.caches |= name(key).as_deref() == Some("cache_control");
            scanner.skip().map(drop)
        })
    }

    fn modalities(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::List {
            return Err(wrong_type("modalities", Takes::List));
        }
        scanner.items(|scanner| {
            let is_text = scanner.skip()? == r#""text""#;
            if !is_text {
                self.unbounded(|| "modalities".to_owned());
            }
            Ok(())
        })
    }

    fn context_management(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::Object {
            self.unbounded(|| "context_management that is no object".to_owned());
            return scanner.skip().map(drop);
        }
        scanner.members(|scanner, key| {
            let is_edits = name(key).as_deref() == Some("edits");
            match scanner.kind()? {
                Kind::Null => scanner.skip().map(drop),
                Kind::List if is_edits => scanner.items(|scanner| self.edit(scanner)),
                _ => {
                    self.unbounded(|| format!("context_management '{}'", shortened(key.raw())));
                    scanner.skip().map(drop)
                }
            }
        })
    }

    fn edit(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::Object {
            self.unbounded(|| "an edit of context_management that is no object".to_owned());
            return scanner.skip().map(drop);
        }
        let mut members = Members::new(EDITS);
        scanner.members(|scanner, key| {
            match name(key).as_deref() {
                Some("type") => members.kind(scanner)?,
                known => {
                    members.add(known.unwrap_or_default());
                    scanner.skip()?;
                }
            }
            Ok(())
        })?;
        if let Err(what) = members.understood() {
            let what = what.unwrap_or_else(|| "of no type".to_owned());
            self.unbounded(|| format!("context_management '{what}'"));
        }
        Ok(())
    }

    fn tools(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        if scanner.kind()? != Kind::List {
            return Err(wrong_type("tools", Takes::List));
        }
        let whole = scanner.rest();
        scanner.items(|scanner| {
            self.found.has_tools = true;
            if scanner.kind()? != Kind::Object {
                self.unbounded(|| "a tool that is no object".to_owned());
                return scanner.skip().map(drop);
            }
            let mut members = Members::new(TOOLS);
            let mut has_schema = false;
            scanner.members(|scanner, key| {
                match name(key).as_deref() {
                    Some("type") => members.kind(scanner)?,
                    _ if scanner.kind()? == Kind::Null => {
                        scanner.skip()?;
                    }
                    known => {
                        members.add(known.unwrap_or_default());
                        self.found.caches |= known == Some("cache_control");
                        has_schema |= known == Some("input_schema");
                        self.text_that_may_be_cached(scanner)?;
                    }
                }
                Ok(())
            })?;
            // Anthropic's own form has no type, and cannot be told from others' but by its schema.
            if members.kind.is_none() && has_schema {
                members.kind = Some("custom".into());
            }
            if let Err(what) = members.understood() {
                let what =
                    what.map_or_else(|| "a tool".to_owned(), |kind| format!("tool '{kind}'"));
                self.unbounded(|| what);
            }
            Ok(())
        })?;
        let tools = &whole[..whole.len() - scanner.rest().len()];
        self.counter.add(tools);
        Ok(())
    }
}

/// Objects that are known by their `type`, and the members that each may have beside it.
type Known = &'static [(&'static str, &'static [&'static str])];

/// The members of an object that is known by its `type`, whichever comes first.
struct Members {
    known: Known,
    kind: Option<Cow<'static, str>>,
    kinds: usize,
    /// Bits of those in `known` that may have all the members so far.
    fitting: u32,
}

impl Members {
    fn new(known: Known) -> Self {
        Self { known, kind: None, kinds: 0, fitting: u32::MAX }
    }

    fn kind(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Unfit> {
        self.kinds += 1;
        let kind = match scanner.kind()? {
            Kind::Text => name(scanner.string()?),
            _ => scanner.skip().map(|_| None)?,
        };
        let kind = kind.unwrap_or(Cow::Borrowed("of no known type"));
        let known = self.known.iter().find(|(known, _)| *known == kind);
        self.kind = Some(known.map_or(Cow::Owned(kind.into_owned()), |(known, _)| (*known).into()));
        Ok(())
    }

    fn add(&mut self, name: &str) {
        for (index, (_, names)) in self.known.iter().enumerate() {
            if !names.contains(&name) {
                self.fitting &= !(1 << index);
            }
        }
    }

    /// Its type, if all of it is understood; else what is not, or nothing where it has no type.
    fn understood(self) -> Result<&'static str, Option<String>> {
        let Some(kind) = &self.kind else { return Err(None) };
        match self.known.iter().position(|(known, _)| known == kind) {
            Some(index) if self.kinds <= 1 && self.fitting & 1 << index != 0 => {
                Ok(self.known[index].0)
            }
            Some(_) => Err(Some(format!("{kind} with members that are not known"))),
            None => Err(Some(shortened(kind))),
        }
    }
}

/// A name that may be known.
fn name(text: Text<'_>) -> Option<Cow<'_, str>> {
    text.said_within(LONGEST_NAME)
}

fn wrong_type(key: &str, takes: Takes) -> Unfit {
    Unfit::Wrong(format!("must have {} as its {key}", takes.words()))
}

/// A name from outside, for a message.
fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests;
