//! The passage to a provider that speaks Anthropic itself: the body goes as it came, and so does the
//! answer. Only what is ours is mended.
//!
//! It is priced as every other call is: a native body is read by the same outline
//! ([`crate::core::request::outline`]), and its answer also as a completion, for the ledger.

use super::super::answer::text;
use super::super::request::DEFAULT_MAX_TOKENS;
use super::super::stream::AnthropicChunks;
use super::request::{Fields, Incoming, STEERING};
use super::version::Version;
use super::{UNSIGNED, is_signed};
use crate::core::front::event::write_named;
use crate::core::sse::Event;
use crate::core::standard::{Chunks, Sending, Step};
use crate::core::{json, mend};
use crate::error::Error;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// The header that asks for betas.
pub const BETAS: &str = "anthropic-beta";
/// Bytes that each value of a request takes at the most while it is mended, beside its text.
pub const BYTES_PER_VALUE: usize = 64;
/// Betas that are passed on at the most, and the longest of their names. Claude Code sends some ten.
const MOST_BETAS: usize = 64;
const LONGEST_BETA: usize = 128;
/// Longest name of an event that is passed on.
const LONGEST_NAME: usize = 64;
/// What stands beside `extra_body` only.
const RESERVED: &[&str] = &["messages", "model", "stream"];

impl Incoming<'_> {
    /// The body that goes on: without our own options, and with what `extra_body` holds.
    pub fn native(&self) -> Result<String, Error> {
        let extra = self.get("extra_body").map(|extra| json::members(extra.get()));
        let extra = extra.transpose().map_err(Error::unfit)?.unwrap_or_default();
        let is_wrong = |name: &&String| is_ours(name) || RESERVED.contains(&name.as_str());
        if let Some(name) = extra.keys().find(is_wrong) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Error::bad_request(format!("extra_body must not hold '{name}'")));
        }
        let all = self.given.iter().filter(|(name, _)| !is_ours(name)).chain(&extra);
        let body: BTreeMap<&str, &RawValue> =
            all.map(|(name, value)| (name.as_str(), *value)).collect();
        serde_json::to_string(&body).map_err(Error::internal)
    }
}

fn is_ours(name: &str) -> bool {
    STEERING.contains(&name)
}

/// The body to send to a candidate, from a native one. It is the counterpart of what
/// [`crate::core::standard::Wire::request`] makes of a chat body, and keeps to the same limits.
pub fn request(body: &str, sending: &Sending<'_>) -> Result<String, Error> {
    let given = json::members(body).map_err(Error::unfit)?;
    let mut out: BTreeMap<&str, &RawValue> =
        given.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let model = to_raw_value(sending.model_id).map_err(Error::internal)?;
    let yes = to_raw_value(&true).map_err(Error::internal)?;
    out.insert("model", &model);
    out.remove("stream");
    if sending.streams {
        out.insert("stream", &yes);
    }
    let asked = given.get("max_tokens").filter(|asked| asked.get() != "null");
    let max_tokens = match asked {
        Some(asked) => sending.within_most(asked)?.into_owned(),
        None => {
            let most = sending.cap.or(sending.max_output_tokens);
            to_raw_value(&most.unwrap_or(DEFAULT_MAX_TOKENS)).map_err(Error::internal)?
        }
    };
    out.insert("max_tokens", &max_tokens);
    // Others that speak Anthropic sign nothing, and may want their thinking back (DeepSeek).
    let is_claude = sending.model_id.to_ascii_lowercase().contains("claude");
    let messages = given.get("messages");
    let messages = messages.and_then(|messages| without_foreign_thinking(messages, is_claude));
    if let Some(messages) = &messages {
        out.insert("messages", messages);
    }
    serde_json::to_string(&out).map_err(Error::internal)
}

/// The messages without the thinking that another form's model has thought, nor, for a Claude, what no
/// Claude has signed. `None`: there is none.
fn without_foreign_thinking(messages: &RawValue, is_claude: bool) -> Option<Box<RawValue>> {
    let messages: Vec<&RawValue> = serde_json::from_str(messages.get()).ok()?;
    let mended: Vec<Mended> =
        messages.iter().map(|message| without_foreign(message, is_claude)).collect();
    if mended.iter().all(|mended| matches!(mended, Mended::Same)) {
        return None;
    }
    let kept = messages.iter().zip(&mended).filter_map(|(message, mended)| match mended {
        Mended::Same => Some(*message),
        Mended::Other(other) => Some(&**other),
        Mended::Nothing => None,
    });
    to_raw_value(&kept.collect::<Vec<&RawValue>>()).ok()
}

enum Mended {
    Same,
    Other(Box<RawValue>),
    /// Anthropic refuses a message without content.
    Nothing,
}

fn without_foreign(message: &RawValue, is_claude: bool) -> Mended {
    let Ok([role, Some(content)]) = json::pick(message.get(), &["role", "content"]) else {
        return Mended::Same;
    };
    if role.and_then(text).as_deref() != Some("assistant") {
        return Mended::Same;
    }
    let Ok(mut blocks) = serde_json::from_str::<Vec<&RawValue>>(content.get()) else {
        return Mended::Same;
    };
    let before = blocks.len();
    blocks.retain(|block| !is_foreign_thinking(block, is_claude));
    if blocks.len() == before {
        return Mended::Same;
    }
    if blocks.is_empty() {
        return Mended::Nothing;
    }
    let Ok(content) = to_raw_value(&blocks) else { return Mended::Same };
    let Ok(mut members) = serde_json::from_str::<Fields>(message.get()) else {
        return Mended::Same;
    };
    members.insert("content".to_owned(), &content);
    to_raw_value(&members).map_or(Mended::Same, Mended::Other)
}

fn is_foreign_thinking(block: &RawValue, is_claude: bool) -> bool {
    let Ok([kind, signature]) = json::pick(block.get(), &["type", "signature"]) else {
        return false;
    };
    let signature = signature.and_then(text);
    let is_others = signature.as_deref().is_some_and(|own| own.starts_with(UNSIGNED));
    kind.and_then(text).as_deref() == Some("thinking")
        && (is_others || (is_claude && !is_signed(signature.as_deref())))
}

/// Whether a provider is Anthropic, and no relay.
pub fn is_anthropic_itself(base_url: &str) -> bool {
    base_url.starts_with("https://api.anthropic.com/") || base_url == "https://api.anthropic.com"
}

/// The headers that go on with a native body, beside the key. `is_anthropic_itself`: relays may know
/// the older version only, of which the newer one takes a part.
pub fn headers(
    version: Version,
    betas: Option<String>,
    is_anthropic_itself: bool,
) -> Vec<(&'static str, String)> {
    let version = if is_anthropic_itself { version } else { Version::June2023 };
    let mut headers = vec![("anthropic-version", version.name().to_owned())];
    headers.extend(betas.map(|betas| (BETAS, betas)));
    headers
}

/// The betas that a client asks for, in one header: those of `anthropic-beta`, which may come more
/// than once. Which of them exist is the provider's to say.
pub fn betas<'a>(values: impl Iterator<Item = &'a str>) -> Result<Option<String>, Error> {
    let mut betas: Vec<&str> = Vec::new();
    for beta in values.flat_map(|value| value.split(',')).map(str::trim) {
        let is_name = beta.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name || beta.len() > LONGEST_BETA {
            return Err(Error::bad_request("anthropic-beta: must be names, with commas between"));
        }
        if beta.is_empty() || betas.contains(&beta) {
            continue;
        }
        if betas.len() == MOST_BETAS {
            return Err(Error::bad_request(format!(
                "anthropic-beta: more than {MOST_BETAS} names"
            )));
        }
        betas.push(beta);
    }
    Ok(if betas.is_empty() { None } else { Some(betas.join(",")) })
}

/// What an event is for the client and for the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// What it says of the answer, in OpenAI's form; an error and the end, too.
    pub step: Step,
    /// Something was appended for the client.
    pub has_event: bool,
}

/// Passes the events of one stream on.
#[derive(Default)]
pub struct Events {
    reader: AnthropicChunks,
    has_reason: bool,
    has_ended: bool,
}

impl Events {
    /// Reads an event, and appends what the client gets of it: the event itself, with its name, on one
    /// line. What refuses or breaks the stream is not passed on, for its words may hold the key and its
    /// type is for the front to say. `key` is removed from what the step repeats.
    pub fn read(&mut self, event: &Event, key: Option<&str>, out: &mut String) -> Passed {
        let step = self.reader.read(event, key);
        let before = out.len();
        match step {
            Step::Refused(_) | Step::Broken(_) => self.has_ended = true,
            _ if self.has_ended => {}
            Step::Done => self.end(out),
            Step::Chunk(_) | Step::Nothing => self.pass(event, out),
        }
        Passed { step, has_event: out.len() > before }
    }

    /// Appends the end, where the upstream has said why it stopped and left it at that.
    pub fn finish(&mut self, out: &mut String) {
        if self.has_reason && !self.has_ended {
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut String) {
        write_named("message_stop", r#"{"type":"message_stop"}"#, out);
        self.has_ended = true;
    }

    fn pass(&mut self, event: &Event, out: &mut String) {
        let data = mend::json(event.data.trim());
        let Ok([kind, delta]) = json::pick(&data, &["type", "delta"]) else { return };
        let kind = kind.and_then(text).or_else(|| event.name.clone());
        // Clients go by the name, which relays leave out; and it must not hold a line's end.
        let Some(kind) = kind.filter(|kind| is_name(kind)) else { return };
        if kind == "message_delta"
            && let Some(delta) = delta
            && let Ok([Some(_)]) = json::pick(delta.get(), &["stop_reason"])
        {
            self.has_reason = true;
        }
        write_named(&kind, &data, out);
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_part)
}
