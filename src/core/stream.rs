//! One answer from the chunks of a stream.
//!
//! Everything is kept as it is written: numbers with all their digits, strings with their escapes
//! (so that two halves of a surrogate pair, split between chunks, meet again). Each chunk costs
//! its own length only, however long the answer has become.

pub(in crate::core) mod calls;
mod merge;
#[cfg(test)]
mod tests;

use self::merge::{
    Members, NODE_SIZE, Node, Tally, add_member, is_null, literal, number, quoted, string,
    unescaped, write_key, write_members,
};
use crate::core::estimate;
use crate::core::json;
use crate::core::usage::{self, Merged, Usage};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Adds up chunks of OpenAI's form (`chat.completion.chunk`) to one `chat.completion`.
#[derive(Debug, Default)]
pub struct Assembler {
    id: Option<String>,
    model: Option<String>,
    usage: Merged,
    /// Other members of the answer.
    rest: BTreeMap<String, Box<RawValue>>,
    choices: BTreeMap<u64, Choice>,
    /// The first half of a surrogate pair with which the text of choice 0 ends so far: its other half may come with
    /// the next chunk, and alone it is no character.
    half: String,
    tally: Tally,
}

/// What a chunk adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// What it adds to the text of choice 0; may be empty.
    pub text: String,
    /// It adds generated content to any choice: text, reasoning, a tool call, a refusal, audio.
    pub has_output: bool,
}

impl Assembler {
    /// Adds a chunk. What is not understood of it is passed over: whether the whole makes an answer is seen at the
    /// end.
    pub fn add(&mut self, chunk: &str) -> Added {
        let mut added = Added::default();
        let Ok(mut members) = serde_json::from_str::<Members>(chunk) else { return added };
        members.remove("error");
        let usage = members.remove("usage").filter(|usage| usage.get().starts_with('{'));
        for holder in usage::HOLDERS {
            let held = members.get(*holder).and_then(|held| usage::held(held.get()));
            held.iter().for_each(|usage| self.add_usage(usage));
        }
        if let Some(usage) = usage {
            self.add_usage(usage.get());
        }
        let choices = members.remove("choices");
        if usage.is_some() || choices.is_some_and(|choices| choices.get().starts_with('[')) {
            self.keep_members(members);
        }
        if let Some(choices) = choices {
            let mut place = 0;
            json::each_item(choices.get(), |choice| {
                if let Ok(choice) = serde_json::from_str(choice.get()) {
                    self.add_choice(place, choice, &mut added);
                }
                place += 1;
            });
        }
        added
    }

    /// What an event says of the use that is no chunk: an error, say.
    pub fn add_usage_of(&mut self, event: &str) {
        if let Ok([Some(usage)]) = json::pick(event, &["usage"])
            && usage.get().starts_with('{')
        {
            self.add_usage(usage.get());
        }
    }

    fn add_usage(&mut self, usage: &str) {
        let old = self.usage.size();
        self.usage.add(usage);
        self.tally.replaced(old, self.usage.size());
    }

    fn keep_members(&mut self, mut members: Members<'_>) {
        members.remove("object");
        for (known, name) in [(&mut self.id, "id"), (&mut self.model, "model")] {
            let new = members.remove(name).and_then(string).filter(|text| !text.is_empty());
            // Azure's first chunk has neither yet, but empty texts.
            if let (None, Some(new)) = (&known, new) {
                self.tally.replaced(0, new.len());
                *known = Some(new);
            }
        }
        if self.rest.get("created").is_some_and(|created| created.get() != "0") {
            members.remove("created");
        }
        keep_last(&mut self.rest, members, &mut self.tally);
    }

    fn add_choice(&mut self, place: u64, mut members: Members<'_>, added: &mut Added) {
        let index = members.remove("index").and_then(number).unwrap_or(place);
        let choice = self.choices.entry(index).or_insert_with(|| {
            self.tally.size += NODE_SIZE;
            Choice::default()
        });
        let delta = members.remove("delta").filter(|delta| !is_null(delta));
        // A few upstreams put a whole message into a stream; others repeat it beside the deltas.
        let message = members.remove("message").filter(|_| !choice.has_output);
        let delta =
            delta.or(message).and_then(|delta| serde_json::from_str::<Members>(delta.get()).ok());
        if let Some(delta) = delta {
            if index == 0 {
                let text = delta.get("content").map_or_else(String::new, |c| text_of(c));
                added.text.push_str(&said(&mut self.half, text));
            }
            let tally = choice.add_delta(delta);
            choice.has_output |= tally.has_output;
            added.has_output |= tally.has_output;
            self.tally.add_all(tally);
        }
        if let Some(logprobs) = members.remove("logprobs") {
            let mut tally = Tally::default();
            choice.logprobs.add("logprobs", logprobs, 0, &mut tally);
            self.tally.size += tally.size;
        }
        if let Some(usage) = members.remove("usage") {
            let old = choice.usage.size();
            choice.usage.add(usage.get());
            self.tally.replaced(old, choice.usage.size());
        }
        let reason = members.remove("finish_reason").and_then(string);
        // Some servers write a text instead of null.
        let reason = reason.filter(|reason| !reason.is_empty() && reason != "null");
        if let Some(reason) = reason {
            let old = choice.finish_reason.as_ref().map_or(0, String::len);
            self.tally.replaced(old, reason.len());
            choice.finish_reason = Some(reason);
        }
        keep_last(&mut choice.rest, members, &mut self.tally);
    }

    /// The end of the text of choice 0, once nothing more comes: a half without its other half.
    pub fn take_rest(&mut self) -> String {
        unescaped(&std::mem::take(&mut self.half)).into_owned()
    }

    /// Every choice so far has its `finish_reason`, and there is one.
    pub fn is_finished(&self) -> bool {
        let mut choices = self.choices.values();
        !self.choices.is_empty() && choices.all(|choice| choice.finish_reason.is_some())
    }

    /// Anything at all has been generated.
    pub fn has_output(&self) -> bool {
        self.tally.has_output
    }

    /// About how many tokens have been generated.
    pub fn output_estimate(&self) -> i32 {
        self.tally.output.tokens()
    }

    /// The model that answers.
    pub fn served_model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The upstream's id of the answer.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What has been used, by all that has been said of it.
    pub fn usage(&self) -> Usage {
        let choices = self.choices.values().map(|choice| &choice.usage);
        let choices: Vec<&Merged> = choices.filter(|usage| !usage.is_empty()).collect();
        Usage::of_answer(&self.usage, &choices)
    }

    /// About how many bytes the answer takes so far.
    pub fn size(&self) -> usize {
        self.tally.size
    }

    /// The JSON text of the whole answer, fit for `jsonb` unless it is nested too deeply or has a
    /// monstrous number.
    pub fn finish(mut self) -> String {
        let mut out = r#"{"object":"chat.completion""#.to_owned();
        for (name, text) in [("id", &self.id), ("model", &self.model)] {
            if let Some(text) = text {
                write_key(name, &mut out);
                out.push_str(&quoted(text));
            }
        }
        write_rest(&self.rest, &mut out);
        write_key("choices", &mut out);
        out.push('[');
        for (i, (index, choice)) in self.choices.iter_mut().enumerate() {
            out.push_str(if i > 0 { "," } else { "" });
            choice.write(*index, &mut out);
        }
        out.push(']');
        let mut usage = Merged::default();
        // Of one choice it is the answer's.
        if let [choice] = self.choices.values().collect::<Vec<_>>()[..] {
            usage.add_merged(&choice.usage);
        }
        usage.add_merged(&self.usage);
        if !usage.is_empty() {
            write_key("usage", &mut out);
            out.push_str(&usage.to_json());
        }
        out.push('}');
        match json::fit_for_jsonb(&out) {
            Ok(Cow::Owned(fit)) => fit,
            _ => out,
        }
    }
}

#[derive(Debug, Default)]
struct Choice {
    message: BTreeMap<String, Node>,
    logprobs: Node,
    finish_reason: Option<String>,
    usage: Merged,
    rest: BTreeMap<String, Box<RawValue>>,
    has_output: bool,
}

impl Choice {
    fn add_delta(&mut self, delta: Members<'_>) -> Tally {
        let mut sum = Tally::default();
        let mut has_reasoning = false;
        for (key, value) in delta {
            let mut tally = Tally::default();
            add_member(&mut self.message, &key, value, 0, &mut tally);
            // Some upstreams send the same reasoning under two or three names, and Anthropic's
            // thinking comes once more as a whole.
            if key == "thinking_blocks" {
                tally.output = estimate::Counter::default();
            } else if key.starts_with("reasoning") && tally.has_output {
                if has_reasoning {
                    tally.output = estimate::Counter::default();
                }
                has_reasoning = true;
            }
            sum.add_all(tally);
        }
        sum
    }

    fn write(&mut self, index: u64, out: &mut String) {
        calls::complete(&mut self.message);
        let reason = self.finish_reason.as_deref().map_or("null".to_owned(), quoted);
        out.push_str(&format!(r#"{{"index":{index},"finish_reason":{reason},"message":{{"#));
        for (key, default) in [("role", "\"assistant\""), ("content", "null")] {
            if let None | Some(Node::Null) = self.message.get(key) {
                write_key(key, out);
                out.push_str(default);
            }
        }
        write_members(&self.message, out);
        out.push('}');
        if !matches!(self.logprobs, Node::Null) {
            write_key("logprobs", out);
            self.logprobs.write(out);
        }
        if !self.usage.is_empty() {
            write_key("usage", out);
            out.push_str(&self.usage.to_json());
        }
        write_rest(&self.rest, out);
        out.push('}');
    }
}

/// Keeps the last value of each member that is not null.
fn keep_last(known: &mut BTreeMap<String, Box<RawValue>>, members: Members<'_>, tally: &mut Tally) {
    for (key, value) in members {
        if is_null(value) {
            continue;
        }
        let (key_len, len) = (key.len() + NODE_SIZE, value.get().len());
        match known.insert(key, value.to_owned()) {
            Some(old) => tally.replaced(old.get().len(), len),
            None => tally.replaced(0, key_len + len),
        }
    }
}

/// The text of a message's `content`, a string or a list of parts, as written.
pub(in crate::core) fn text_of(content: &RawValue) -> String {
    if let Some(text) = literal(content) {
        return text.to_owned();
    }
    let parts: Vec<Members> = serde_json::from_str(content.get()).unwrap_or_default();
    let is_text = |part: &&Members| part.get("type").is_some_and(|t| literal(t) == Some("text"));
    parts.iter().filter(is_text).filter_map(|part| literal(part.get("text")?)).collect()
}

/// What a text says, as written, after the half that came before, and without the half that it ends with.
pub(in crate::core) fn said(half: &mut String, text: String) -> String {
    let mut text = if half.is_empty() { text } else { std::mem::take(half) + &text };
    if let Some(at) = half_at_end(&text) {
        *half = text.split_off(at);
    }
    unescaped(&text).into_owned()
}

/// Where the first half of a surrogate pair begins with which a text, as written, ends.
pub(in crate::core) fn half_at_end(text: &str) -> Option<usize> {
    let at = text.len().checked_sub(6)?;
    let (before, last) = (text.as_bytes().get(..at)?, text.as_bytes().get(at..)?);
    let hex = std::str::from_utf8(last.strip_prefix(b"\\u")?).ok()?;
    let is_half = matches!(u16::from_str_radix(hex, 16), Ok(0xD800..=0xDBFF));
    // The backslash may itself be escaped.
    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
    (is_half && backslashes % 2 == 0).then_some(at)
}

fn write_rest(members: &BTreeMap<String, Box<RawValue>>, out: &mut String) {
    for (key, value) in members {
        write_key(key, out);
        out.push_str(value.get());
    }
}
