//! The messages of a request: from Anthropic's turns and blocks to OpenAI's roles and parts.

use super::super::answer::text;
use super::parts::{Given, Part, given, member, part, unknown};
use super::request::Takes;
use super::{REASONING_CONTENT, UNSIGNED, is_signed};
use crate::core::json;
use crate::error::Error;
use serde::Serialize;
use serde_json::value::RawValue;

/// What a message, a part or a call takes at the most: each comes of two values at the least, and the
/// list that it is in may have room for as many again.
pub(super) const BYTES_PER_VALUE: usize = 256;
const _: () = assert!(size_of::<Said>() <= BYTES_PER_VALUE);
const _: () = assert!(size_of::<Part>() <= BYTES_PER_VALUE && size_of::<Call>() <= BYTES_PER_VALUE);

/// Claude Code's first system block, which tells Anthropic whom to bill. It differs with every request,
/// so that no provider would find the prompt in its cache again (ggml-org/llama.cpp #20623).
const BILLING: &str = "x-anthropic-billing-header:";

/// A message of OpenAI's form.
#[derive(Debug, Default, Serialize)]
pub(super) struct Said<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thinking_blocks: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(Vec<Part<'a>>),
}

#[derive(Debug, Serialize)]
struct Call<'a> {
    id: String,
    r#type: &'static str,
    function: Function,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// What becomes of `system` and `messages`.
pub(super) struct Conversation<'a> {
    takes: Takes,
    said: Vec<Said<'a>>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(takes: Takes) -> Self {
        Self { takes, said: Vec::new() }
    }

    pub(super) fn messages(self) -> Vec<Said<'a>> {
        self.said
    }

    /// Adds the system prompt, or a system message from the middle of the conversation (page
    /// "Mid-conversation system messages"), which stays where it is.
    pub(super) fn system(&mut self, content: &'a RawValue, place: &str) -> Result<(), Error> {
        let mut parts = Vec::new();
        match given(content, place)? {
            Given::Text(text) => parts.push(Part::text(text)),
            Given::Blocks(blocks) => {
                for (index, block) in blocks.into_iter().enumerate() {
                    let place = format!("{place}.{index}");
                    let (kind, cache_control) = self.kind(block, &place)?;
                    if kind != "text" {
                        return Err(unknown(&place, &kind, "A system prompt holds only text."));
                    }
                    let text = member(block, "text", &place)?;
                    if !text.starts_with(BILLING) {
                        parts.push(Part::Text { text, cache_control });
                    }
                }
            }
        }
        self.say("system", parts);
        Ok(())
    }

    /// Adds a message.
    pub(super) fn add(&mut self, message: &'a RawValue, place: &str) -> Result<(), Error> {
        let [role, content] = json::pick(message.get(), &["role", "content"])
            .map_err(|_| Error::bad_request(format!("{place}: must be an object")))?;
        let content = content
            .ok_or_else(|| Error::bad_request(format!("{place}.content: Field required")))?;
        match role.and_then(text).as_deref() {
            Some("user") => self.user(content, place),
            Some("assistant") => self.assistant(content, place),
            Some("system") => self.system(content, &format!("{place}.content")),
            _ => Err(Error::bad_request(format!("{place}.role: must be user or assistant"))),
        }
    }

    /// Results of tools become messages of their own, which must follow the calls.
    fn user(&mut self, content: &'a RawValue, place: &str) -> Result<(), Error> {
        let place = format!("{place}.content");
        let blocks = match given(content, &place)? {
            Given::Text(text) => {
                self.say("user", vec![Part::text(text)]);
                return Ok(());
            }
            Given::Blocks(blocks) => blocks,
        };
        let (mut parts, mut shown) = (Vec::new(), Vec::new());
        for (index, block) in blocks.into_iter().enumerate() {
            let place = format!("{place}.{index}");
            let (kind, cache_control) = self.kind(block, &place)?;
            if kind == "tool_result" {
                self.tool_result(block, cache_control, &mut shown, &place)?;
            } else {
                part(&kind, block, cache_control, &mut parts, &place)?;
            }
        }
        shown.append(&mut parts);
        self.say("user", shown);
        Ok(())
    }

    /// A tool's message holds text alone in OpenAI's form, so that what else a result has is shown as
    /// the user's.
    fn tool_result(
        &mut self,
        block: &'a RawValue,
        cache_control: Option<&'a RawValue>,
        shown: &mut Vec<Part<'a>>,
        place: &str,
    ) -> Result<(), Error> {
        let tool_call_id = member(block, "tool_use_id", place)?;
        let [content, is_error] = json::pick(block.get(), &["content", "is_error"])
            .map_err(|_| Error::bad_request(format!("{place}: must be an object")))?;
        let place = format!("{place}.content");
        let (mut texts, mut others) = (Vec::new(), Vec::new());
        match content.map(|content| given(content, &place)).transpose()? {
            None => {}
            Some(Given::Text(text)) => texts.push(text),
            Some(Given::Blocks(blocks)) => {
                for (index, block) in blocks.into_iter().enumerate() {
                    let place = format!("{place}.{index}");
                    let (kind, _) = self.kind(block, &place)?;
                    match kind.as_str() {
                        "text" => texts.push(member(block, "text", &place)?),
                        "image" | "document" | "search_result" => {
                            part(&kind, block, None, &mut others, &place)?;
                        }
                        // A result is what a tool wrote: a model reads it as it is.
                        _ => texts.push(block.get().to_owned()),
                    }
                }
            }
        }
        // Documents that are text.
        let mut rest = Vec::new();
        for part in others {
            match part {
                Part::Text { text, .. } => texts.push(text),
                other => rest.push(other),
            }
        }
        if !rest.is_empty() {
            texts.push("(More of this result is in the next message.)".to_owned());
            shown.push(Part::text(format!("From the result of tool call {tool_call_id}:")));
            shown.append(&mut rest);
        }
        let mut content = texts.join("\n");
        // OpenAI's form cannot say it otherwise.
        if is_error.is_some_and(|is_error| is_error.get() == "true") && !says_error(&content) {
            content.insert_str(0, "Error: ");
        }
        self.said.push(Said {
            role: "tool",
            tool_call_id: Some(tool_call_id),
            content: Some(Content::Text(content)),
            cache_control,
            ..Said::default()
        });
        Ok(())
    }

    fn assistant(&mut self, content: &'a RawValue, place: &str) -> Result<(), Error> {
        let place = format!("{place}.content");
        let blocks = match given(content, &place)? {
            Given::Text(text) => {
                self.say("assistant", vec![Part::text(text)]);
                return Ok(());
            }
            Given::Blocks(blocks) => blocks,
        };
        let mut said = Said { role: "assistant", ..Said::default() };
        let mut parts = Vec::new();
        for (index, block) in blocks.into_iter().enumerate() {
            let place = format!("{place}.{index}");
            let (kind, cache_control) = self.kind(block, &place)?;
            match kind.as_str() {
                "text" | "document" | "image" | "search_result" => {
                    let before = parts.len();
                    part(&kind, block, cache_control, &mut parts, &place)?;
                    if !parts.iter().skip(before).all(|part| matches!(part, Part::Text { .. })) {
                        let hint = "Send it in a user's message.";
                        return Err(unknown(&place, &kind, hint));
                    }
                }
                "thinking" => self.thinking(block, &mut said),
                "redacted_thinking" if self.takes.anthropics_own => {
                    said.thinking_blocks.push(block);
                }
                "tool_use" => said.tool_calls.push(call(block, cache_control, &place)?),
                // What stands for the turns that it has taken the place of (page "Compaction").
                "compaction" => {
                    let [content] = json::pick(block.get(), &["content"]).unwrap_or_default();
                    parts.extend(content.and_then(text).map(Part::text));
                }
                // Tools that ran at Anthropic, and what may be added: it has come from an answer, of
                // which the texts stay.
                _ => {}
            }
        }
        // Citations cut a text into blocks in the middle of its sentences.
        said.content = content_of(parts, "");
        if !said.tool_calls.is_empty() || said.content.is_some() {
            if said.tool_calls.is_empty() {
                said.reasoning_content.clear();
            }
            self.said.push(said);
        }
        Ok(())
    }

    /// A Claude's thinking goes back to a Claude only. What other models have thought goes back where
    /// they have called tools, in the member that it came in: DeepSeek ("Thinking mode: tool calls") and
    /// Moonshot ("reasoning_content is missing in assistant tool call message") ask for it there, and
    /// others refuse the member.
    fn thinking(&self, block: &'a RawValue, said: &mut Said<'a>) {
        let names = ["thinking", "signature"];
        let Ok([thought, signature]) = json::pick(block.get(), &names) else { return };
        let signature = signature.and_then(text);
        let others = signature.as_deref().and_then(|own| own.strip_prefix(UNSIGNED));
        if is_signed(signature.as_deref()) {
            if self.takes.anthropics_own {
                said.thinking_blocks.push(block);
            }
        } else if others == Some(REASONING_CONTENT) {
            said.reasoning_content.extend(thought.and_then(text));
        }
    }

    /// Adds what is not empty.
    fn say(&mut self, role: &'static str, parts: Vec<Part<'a>>) {
        if let Some(content) = content_of(parts, "\n") {
            self.said.push(Said { role, content: Some(content), ..Said::default() });
        }
    }

    /// The type of a block, and its `cache_control`, where that is to be kept.
    fn kind(
        &self,
        block: &'a RawValue,
        place: &str,
    ) -> Result<(String, Option<&'a RawValue>), Error> {
        let wrong = || Error::bad_request(format!("{place}: must be an object with a type"));
        let [kind, cache_control] =
            json::pick(block.get(), &["type", "cache_control"]).map_err(|_| wrong())?;
        let kind = kind.and_then(text).ok_or_else(wrong)?;
        Ok((kind, cache_control.filter(|_| self.takes.anthropics_own)))
    }
}

/// Texts alone are one text, which servers take that know no parts. `None`: there is nothing.
fn content_of<'a>(parts: Vec<Part<'a>>, between: &str) -> Option<Content<'a>> {
    let is_plain = |part: &Part| matches!(part, Part::Text { cache_control: None, .. });
    if !parts.iter().all(is_plain) {
        return Some(Content::Parts(parts));
    }
    let texts = parts.into_iter().filter_map(|part| match part {
        Part::Text { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    });
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { None } else { Some(Content::Text(texts.join(between))) }
}

/// The input goes on digit for digit.
fn call<'a>(
    block: &'a RawValue,
    cache_control: Option<&'a RawValue>,
    place: &str,
) -> Result<Call<'a>, Error> {
    let (id, name) = (member(block, "id", place)?, member(block, "name", place)?);
    let [input] = json::pick(block.get(), &["input"]).unwrap_or_default();
    let arguments = input.map_or("{}", RawValue::get).to_owned();
    if !arguments.starts_with('{') {
        return Err(Error::bad_request(format!("{place}.input: must be an object")));
    }
    Ok(Call { id, r#type: "function", function: Function { name, arguments }, cache_control })
}

/// Whether a model sees by its beginning that a result is an error.
fn says_error(content: &str) -> bool {
    let start: String = content.chars().take(40).collect();
    start.to_ascii_lowercase().contains("error")
}
