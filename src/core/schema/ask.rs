//! How a model is asked for JSON that fits a schema, and what of its answer is that: in OpenAI's form, from which each
//! standard translates.

use super::Schema;
use crate::core::json::{self, Pairs};
use crate::core::reply;
use crate::error::Error;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// The function that a model is made to call.
const FUNCTION: &str = "answer";
/// Bytes of an answer that are repeated, to the model that gave it and to whoever asked.
const LONGEST_REPEATED: usize = 16 << 10;

/// How a model is asked, by what it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The provider lets it write nothing else.
    Strict,
    /// It must call a function, whose arguments are the answer.
    Tool,
    /// It is told in words.
    Words,
}

/// An answer that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What the model said, cut.
    pub said: String,
    pub violations: Vec<String>,
}

impl Schema {
    /// The way for a model with these abilities.
    pub fn way(&self, takes_schema: bool, takes_tools: bool) -> Way {
        match self.strict {
            Some(_) if takes_schema => Way::Strict,
            _ if takes_tools && self.is_of_objects => Way::Tool,
            _ => Way::Words,
        }
    }

    /// The request to send, from one that says nothing of a schema.
    pub fn request(&self, body: &str, way: Way, last: Option<&Unfit>) -> Result<String, Error> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(Error::internal);
        let mut members = json::members(body).map_err(Error::unfit)?;
        let messages = members.remove("messages").map_or("[]", RawValue::get);
        let mut messages: Vec<&RawValue> = serde_json::from_str(messages)
            .map_err(|_| Error::bad_request("messages must be an array"))?;
        let told = match way {
            Way::Words => Some(self.in_words(&mut messages)?),
            Way::Strict | Way::Tool => None,
        };
        messages.extend(told.as_deref());
        let corrected = last.map(|last| correction(last, way)).transpose()?;
        messages.extend(corrected.iter().flatten().map(|message| &**message));
        let messages = to_raw_value(&messages).map_err(Error::internal)?;
        let added = match (way, &self.strict) {
            (Way::Strict, Some(strict)) => {
                let format = format!(
                    r#"{{"type":"json_schema","json_schema":{{"name":"{FUNCTION}","strict":true,"schema":{strict}}}}}"#
                );
                vec![("response_format", raw(&format)?)]
            }
            (Way::Tool, _) => {
                let tools = format!(
                    r#"[{{"type":"function","function":{{"name":"{FUNCTION}","description":"Gives the answer.","parameters":{}}}}}]"#,
                    self.text
                );
                let choice = json!({"type": "function", "function": {"name": FUNCTION}});
                vec![("tools", raw(&tools)?), ("tool_choice", raw(&choice.to_string())?)]
            }
            _ => vec![],
        };
        let mut out: BTreeMap<&str, &RawValue> =
            members.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        out.insert("messages", &messages);
        out.extend(added.iter().map(|(name, value)| (*name, &**value)));
        serde_json::to_string(&out).map_err(Error::internal)
    }

    /// Says it at the end of the last message, which is taken out, if that is the user's: some models take no others,
    /// nor two of one kind in a row.
    fn in_words(&self, messages: &mut Vec<&RawValue>) -> Result<Box<RawValue>, Error> {
        let words = format!(
            "Answer with one JSON value that fits this JSON Schema and with nothing else: no text and no code fence \
             around it.\n{}",
            self.text
        );
        let alone = json!({"role": "user", "content": words});
        let last = messages.last().and_then(|last| json::members(last.get()).ok());
        let said = |name: &str| last.as_ref().and_then(|last| last.get(name)).map(|raw| raw.get());
        let content = match (said("role"), said("content")) {
            (Some(r#""user""#), Some(content)) if content.starts_with('"') => {
                serde_json::from_str::<String>(content)
                    .ok()
                    .and_then(|own| to_raw_value(&format!("{own}\n\n{words}")).ok())
            }
            (Some(r#""user""#), Some(content)) if content.starts_with('[') => {
                let part = json!({"type": "text", "text": words}).to_string();
                let own = content.trim_end().trim_end_matches(']').trim_end();
                let comma = if own == "[" { "" } else { "," };
                // Only what was one list is one again.
                RawValue::from_string(format!("{own}{comma}{part}]")).ok()
            }
            _ => None,
        };
        let Some((mut last, content)) = last.zip(content) else {
            return to_raw_value(&alone).map_err(Error::internal);
        };
        last.insert("content".to_owned(), &content);
        let last = to_raw_value(&last).map_err(Error::internal)?;
        messages.pop();
        Ok(last)
    }

    /// The answer with what fits as its text and its member `parsed`; else what does not fit.
    pub fn answer(&self, response: &str) -> Result<String, Unfit> {
        let said = said(response);
        let text = said.text.as_deref().unwrap_or_default();
        let mut violations = match self.find(text) {
            Ok(parsed) => return Ok(with(response, &parsed)),
            Err(violations) => violations,
        };
        if said.is_cut {
            violations.insert(0, "the answer was cut off at its longest".to_owned());
        }
        if let Some(refusal) = said.refusal.filter(|_| text.is_empty()) {
            violations.insert(0, format!("the model refused: {}", shortened(&refusal, 300)));
        }
        Err(Unfit { said: shortened(text, LONGEST_REPEATED), violations })
    }
}

/// What a model is told of its answer.
fn correction(last: &Unfit, way: Way) -> Result<[Box<RawValue>; 2], Error> {
    // Some providers refuse a message that says nothing.
    let said = if last.said.trim().is_empty() { "(nothing)" } else { last.said.trim_end() };
    let violations = last.violations.join("\n- ");
    let again = match way {
        Way::Tool => "Call the function again, with all of its arguments as they should be.",
        Way::Strict | Way::Words => {
            "Answer again with the whole JSON as it should be, and with nothing else."
        }
    };
    let words = format!("That answer does not fit the JSON Schema:\n- {violations}\n\n{again}");
    let assistant = to_raw_value(&json!({"role": "assistant", "content": said}));
    let user = to_raw_value(&json!({"role": "user", "content": words}));
    Ok([assistant.map_err(Error::internal)?, user.map_err(Error::internal)?])
}

#[derive(Default)]
struct Said {
    text: Option<String>,
    refusal: Option<String>,
    is_cut: bool,
}

/// What the first choice of an answer says: the arguments of a call of our function, or its text.
fn said(response: &str) -> Said {
    let read = || {
        let [choices] = json::pick(response, &["choices"]).ok()?;
        let mut first = None;
        json::each_item(choices?.get(), |choice| first = first.or(Some(choice)));
        let [message, reason] = json::pick(first?.get(), &["message", "finish_reason"]).ok()?;
        let [calls, refusal] = json::pick(message?.get(), &["tool_calls", "refusal"]).ok()?;
        let mut arguments = None;
        if let Some(calls) = calls {
            json::each_item(calls.get(), |call| {
                arguments = arguments.take().or_else(|| called(call))
            });
        }
        Some(Said {
            text: arguments,
            refusal: refusal.and_then(|refusal| serde_json::from_str(refusal.get()).ok()),
            is_cut: reason.is_some_and(|reason| reason.get() == r#""length""#),
        })
    };
    let said = read().unwrap_or_default();
    Said { text: said.text.or_else(|| reply::content(response)), ..said }
}

/// The arguments of a call, which some providers give as they are and not as text.
fn called(call: &RawValue) -> Option<String> {
    let [function] = json::pick(call.get(), &["function"]).ok()?;
    let [name, arguments] = json::pick(function?.get(), &["name", "arguments"]).ok()?;
    if serde_json::from_str::<String>(name?.get()).ok()? != FUNCTION {
        return None;
    }
    let arguments = arguments?.get();
    Some(serde_json::from_str(arguments).unwrap_or_else(|_| arguments.to_owned()))
}

/// An answer whose first choice says `parsed` and nothing else, with that as its member `parsed`. What cannot be read
/// stays as it is.
fn with(response: &str, parsed: &str) -> String {
    let said = spoken(response, parsed).unwrap_or_else(|| response.to_owned());
    let end = said.rfind('}').unwrap_or(said.len());
    let comma = if said[..end].trim_end().ends_with('{') { "" } else { "," };
    format!("{}{comma}\"parsed\":{parsed}}}", &said[..end])
}

fn spoken(response: &str, parsed: &str) -> Option<String> {
    let content = serde_json::to_string(parsed).ok()?;
    replaced(response, |name, value| match name {
        "choices" => {
            let mut choices = Vec::new();
            json::each_item(value, |choice| choices.push(choice.get().to_owned()));
            let first = choices.first_mut()?;
            *first = replaced(first, |name, value| match name {
                "message" => replaced(value, |name, _| match name {
                    "content" => Some(String::new()),
                    "tool_calls" => Some(String::new()),
                    _ => None,
                })
                .map(|message| {
                    let rest = message.strip_prefix('{').unwrap_or_default();
                    let comma = if rest.starts_with('}') { "" } else { "," };
                    format!("{{\"content\":{content}{comma}{rest}")
                }),
                "finish_reason" if value == r#""tool_calls""# => Some(r#""stop""#.to_owned()),
                _ => None,
            })?;
            Some(format!("[{}]", choices.join(",")))
        }
        // It is ours, whoever else has said it.
        "parsed" => Some(String::new()),
        _ => None,
    })
}

/// An object of which some members have another value; "": they are left out.
fn replaced(object: &str, other: impl Fn(&str, &str) -> Option<String>) -> Option<String> {
    let Pairs(members) = serde_json::from_str(object).ok()?;
    if members.len() > crate::core::request::MOST_MEMBERS {
        return None;
    }
    let mut out = Vec::with_capacity(members.len());
    for (name, value) in members {
        let value = other(&name, value.get()).unwrap_or_else(|| value.get().to_owned());
        if !value.is_empty() {
            out.push(format!("{}:{value}", serde_json::to_string(&name).ok()?));
        }
    }
    Some(format!("{{{}}}", out.join(",")))
}

/// The beginning of a text.
fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
