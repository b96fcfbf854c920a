//! The versions of Anthropic's API that clients ask for, and what the newer one refuses (page
//! "Migrating to API version 2026-10-21").

use super::super::answer::text;
use crate::core::json;
use crate::error::Error;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// `anthropic-version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 2023-06-01
    June2023,
    /// 2026-10-21
    October2026,
}

/// "Sampling parameters are removed": even their default values are refused.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

/// Lists in a user's message that hold text: its own, a tool's result, a search result in that.
const DEEPEST: usize = 3;

impl Version {
    /// Reads the header. Clients that send none were written for the older version, which for three
    /// years was the only one.
    pub fn of(header: Option<&str>) -> Result<Self, Error> {
        match header.map(str::trim) {
            None | Some("2023-06-01") => Ok(Self::June2023),
            Some("2026-10-21") => Ok(Self::October2026),
            Some(_) => Err(Error::bad_request_hint(
                "anthropic-version: this version is not known",
                "Send 2023-06-01 or 2026-10-21.",
            )),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::June2023 => "2023-06-01",
            Self::October2026 => "2026-10-21",
        }
    }

    /// Refuses what this version refuses and the older one does not. The same holds for requests and
    /// for counting.
    pub(super) fn check(self, given: &BTreeMap<String, &RawValue>) -> Result<(), Error> {
        if self == Self::June2023 {
            return Ok(());
        }
        if let Some(name) = SAMPLING.iter().find(|name| given.contains_key(**name)) {
            return Err(refused(format!("{name}: Extra inputs are not permitted")));
        }
        let Some(messages) = given.get("messages") else { return Ok(()) };
        let mut place = 0;
        let mut found = None;
        json::each_item(messages.get(), |message| {
            if found.is_none() {
                found = in_message(message, &format!("messages.{place}"));
            }
            place += 1;
        });
        found.map_or(Ok(()), |what| Err(refused(what)))
    }
}

fn in_message(message: &RawValue, place: &str) -> Option<String> {
    let [role, content] = json::pick(message.get(), &["role", "content"]).ok()?;
    let content = content?;
    match text(role?)?.as_str() {
        // Only directly: what a tool of Anthropic's fetched may hold one.
        "assistant" => {
            let at = first(content, |block| {
                let [kind] = json::pick(block.get(), &["type"]).ok()?;
                (text(kind?)? == "document").then(String::new)
            });
            at.map(|(at, _)| {
                format!("{place}.content.{at}: document blocks belong into user messages")
            })
        }
        "user" => citations(content, place, DEEPEST),
        _ => None,
    }
}

/// Where a text of the user's has citations. That a document may be cited is said by an object, which
/// is no list.
fn citations(content: &RawValue, place: &str, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let at = first(content, |block| {
        let names = ["type", "citations", "content"];
        let [kind, citations, inner] = json::pick(block.get(), &names).ok()?;
        let mut cited = false;
        if text(kind?)? == "text"
            && let Some(list) = citations
        {
            json::each_item(list.get(), |_| cited = true);
        }
        if cited {
            return Some(".citations: not permitted in user messages".to_owned());
        }
        self::citations(inner?, "", depth)
    });
    at.map(|(at, what)| format!("{place}.content.{at}{what}"))
}

/// The first item of a list in which something is found.
fn first<'a>(
    list: &'a RawValue,
    find: impl Fn(&'a RawValue) -> Option<String>,
) -> Option<(usize, String)> {
    let (mut place, mut found) = (0, None);
    json::each_item(list.get(), |item| {
        if found.is_none() {
            found = find(item).map(|what| (place, what));
        }
        place += 1;
    });
    found
}

fn refused(what: String) -> Error {
    Error::bad_request_hint(
        what,
        "Version 2026-10-21 refuses it: leave it out, or ask with anthropic-version 2023-06-01.",
    )
}
