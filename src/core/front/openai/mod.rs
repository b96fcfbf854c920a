//! OpenAI's chat completions as clients speak them: what they ask, and answers in the form that they need.

pub mod embeddings;
pub mod models;
pub mod repair;
pub mod stream;
#[cfg(test)]
mod tests;

use self::repair::{Choice, Repair, Repaired};
use crate::core::caching::Wanted;
use crate::core::embedding::Kind;
use crate::core::front::event::readable;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::responses;
use crate::core::front::write;
use crate::core::json;
use crate::core::options::{OnDeadline, Prepared};
use crate::core::tags;
use crate::error::Error;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A request, and what it asks of the front itself.
#[derive(Debug)]
pub struct Asked {
    pub prepared: Prepared,
    /// The stream shall end with a chunk of the usage.
    pub with_usage: bool,
}

impl Asked {
    /// Reads the body of `POST /v1/chat/completions`.
    pub fn read(body: &str) -> Result<Self, Failure> {
        // Cursor's agent sends the body of a Responses request here, and reads chunks of chat (BerriAI/litellm,
        // pull request 34029).
        let [messages, input, options] =
            json::pick(body, &["messages", "input", "stream_options"]).unwrap_or_default();
        let prepared = match (messages, input) {
            (None, Some(_)) => responses::Asked::read(body)?.prepared,
            _ => prepared(body)?,
        };
        Ok(Self { prepared, with_usage: options.is_some_and(wants_usage) })
    }
}

/// A request in chat's form, as HTTP takes it.
pub(super) fn prepared(body: &str) -> Result<Prepared, Failure> {
    let prepared = Prepared::from_http(body).map_err(|error| Failure::of(&error, Sent::Nothing))?;
    // `throw_on_error` says nothing over HTTP, where an error has a status.
    if prepared.on_deadline == OnDeadline::Queue {
        let message = "on_deadline = 'queue' is for SQL; POST /v1/jobs queues a request over HTTP";
        return Err(Failure::invalid("on_deadline", message));
    }
    Ok(prepared)
}

fn wants_usage(options: &RawValue) -> bool {
    json::pick(options.get(), &["include_usage"])
        .is_ok_and(|[wants]| wants.is_some_and(|wants| wants.get() == "true"))
}

/// Adds the tags of the headers `x-aggregator-tags` to those of the body.
pub fn add_tags<'a>(
    prepared: &mut Prepared,
    headers: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Failure> {
    let mut all = Some(prepared.tags.clone());
    for header in headers {
        let more = std::str::from_utf8(header).ok().and_then(tags::of_header);
        all = all.zip(more).and_then(|(all, more)| tags::checked(all.iter().chain(&more)));
    }
    match all {
        Some(all) => prepared.tags = all,
        None => {
            let message = "x-aggregator-tags must be at most 8 texts of at most 64 bytes each, \
                           with commas between them; those of the body count too";
            return Err(Failure::of(&Error::bad_request(message), Sent::Nothing));
        }
    }
    Ok(())
}

/// Takes what the header `x-aggregator-cache` asks of the response cache, in the place of what the body asks.
pub fn take_caching(prepared: &mut Prepared, header: &[u8]) -> Result<(), Failure> {
    let wanted = std::str::from_utf8(header).ok().and_then(Wanted::of_header);
    let message = "x-aggregator-cache must be 'off', or of ttl=SECONDS (1 to 2592000), no-store and \
                   refresh, with commas between them";
    match wanted {
        Some(Wanted::On(_)) if prepared.kind == Kind::Embeddings => {
            let message = "x-aggregator-cache is no option of embeddings";
            return Err(Failure::of(&Error::bad_request(message), Sent::Nothing));
        }
        Some(Wanted::On(_)) if prepared.check.is_some() => {
            let message = "x-aggregator-cache cannot be given beside a schema";
            return Err(Failure::of(&Error::bad_request(message), Sent::Nothing));
        }
        Some(wanted) => prepared.cache = Some(wanted),
        None => return Err(Failure::of(&Error::bad_request(message), Sent::Nothing)),
    }
    Ok(())
}

/// Lowers the time of a call to what the client waits for a whole answer, as its library says in seconds
/// (`x-stainless-timeout` of openai and anthropic for Node, `x-stainless-read-timeout` for Python): what comes later is
/// paid for and not read. A stream may take longer, since those times end with its first byte, or begin again with
/// each. What is no number of seconds says nothing.
pub fn lower_timeout(prepared: &mut Prepared, seconds: &str) {
    if prepared.streams {
        return;
    }
    let seconds = seconds.trim().parse::<f64>().ok();
    if let Some(seconds) = seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0) {
        // Too large for a u64 becomes the largest.
        let ms = (seconds * 1000.0).ceil() as u64;
        prepared.timeout_ms = prepared.timeout_ms.min(ms);
    }
}

/// What an answer says of itself, where the upstream does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// From which ids are made.
    call_id: String,
    id: String,
    /// Seconds since 1970.
    created: i64,
    model: String,
}

impl Stamp {
    /// `model` is the one that was asked for.
    pub fn new(call_id: Uuid, created: i64, model: &str) -> Self {
        let call_id = call_id.simple().to_string();
        let id = format!("chatcmpl-{call_id}");
        Self { call_id, id, created, model: model.to_owned() }
    }
}

/// A whole answer with what OpenAI's form has and the upstream left out. What else it says, our member `aggregator`
/// too, stays as it is.
pub fn whole(answer: &str, mut stamp: Stamp) -> String {
    let mut repair = Repair::new(&stamp.call_id);
    let Some(repaired) = repair.read(answer) else { return answer.to_owned() };
    stamp.take(&repaired);
    let ends: BTreeMap<u64, &str> = repair.unfinished().into_iter().collect();
    let Repaired { usage, choices, rest, .. } = repaired;
    let mut out = String::with_capacity(answer.len());
    write::object(&mut out, |object| {
        stamp.write("chat.completion", object);
        object.list("choices", choices, |choice, out| write_choice(choice, &ends, out));
        if let Some(usage) = usage {
            object.json("usage", usage.get());
        }
        for (name, value) in rest {
            object.json(&name, value.get());
        }
    });
    match readable(&out) {
        Cow::Owned(readable) => readable,
        Cow::Borrowed(_) => out,
    }
}

fn write_choice(choice: Choice<'_>, ends: &BTreeMap<u64, &str>, out: &mut String) {
    let Choice { index, delta, calls, finish_reason, rest, .. } = choice;
    write::object(out, |object| {
        object.json("index", &index.to_string());
        object.object("message", |object| {
            object.text("role", "assistant");
            if !delta.iter().any(|(name, _)| name == "content") {
                object.json("content", "null");
            }
            for (name, value) in delta {
                object.json(&name, value.get());
            }
            if !calls.is_empty() {
                object.list("tool_calls", calls, |call, out| {
                    write::object(out, |object| stream::write_call(call, "{}", object));
                });
            }
        });
        match (finish_reason, ends.get(&index)) {
            (Some(reason), _) => object.json("finish_reason", reason.get()),
            (None, Some(reason)) => object.text("finish_reason", reason),
            (None, None) => object.json("finish_reason", "null"),
        }
        for (name, value) in rest {
            object.json(&name, value.get());
        }
    });
}
