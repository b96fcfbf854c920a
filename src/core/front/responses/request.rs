//! A request: from Responses to chat.

use super::input::Messages;
use super::tools::Tools;
use super::{About, input};
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai;
use crate::core::front::write::{self, is_null, literal};
use crate::core::json;
use crate::core::options::Prepared;
use crate::core::scan::{Scanner, Unfit};
use crate::error::Error;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What has another form in chat, or none. Whatever else a request has is sent as it is.
const HANDLED: &[&str] = &[
    "background",
    "client_metadata",
    "context_management",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "messages",
    // OpenAI's chat takes it together with `store` only.
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "reasoning",
    "store",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
];

/// What the response repeats of the request.
const ECHO: &[&str] = &[
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
];

/// What needs a memory, and why it is refused.
const STORED: &[(&str, &str)] = &[
    ("previous_response_id", "no response is stored here: send the whole conversation as input"),
    ("conversation", "no conversation is stored here: send the whole of it as input"),
    ("prompt", "no prompt is stored here: send its text as instructions"),
];

/// A request, as chat, and what its answer needs.
#[derive(Debug)]
pub struct Asked {
    pub prepared: Prepared,
    pub about: About,
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

impl Asked {
    /// Reads the body of `POST /v1/responses`.
    pub fn read(body: &str) -> Result<Self, Failure> {
        bounded(body).map_err(unfit)?;
        let mut fields = json::members(body).map_err(unfit)?;
        fields.retain(|_, value| !is_null(value));
        refuse_stored(&fields)?;
        let mut tools = Tools::default();
        let mut messages = Messages::default();
        if let Some(instructions) = fields.get("instructions") {
            messages.instructions(instructions)?;
        }
        match fields.get("input") {
            Some(list) => input::read(list, &mut messages, &mut tools)?,
            None => return Err(Failure::invalid("input", "input must be a text or an array")),
        }
        if let Some(list) = fields.get("tools") {
            tools.add(list, "tools")?;
        }
        let chat = chat(&fields, messages, &mut tools)?;
        let wants_sealed = fields.get("include").is_some_and(|include| wants_sealed(include));
        let echo = ECHO.iter().filter_map(|name| {
            let value: &RawValue = fields.get(*name)?;
            Some((*name, value.to_owned()))
        });
        let about = About { echo: echo.collect(), names: tools.names, wants_sealed };
        Ok(Self { prepared: openai::prepared(&chat)?, about })
    }
}

/// The bounds that every request has, before anything is made of it.
fn bounded(body: &str) -> Result<(), Unfit> {
    let mut scanner = Scanner::new(body);
    scanner.skip()?;
    scanner.end()
}

fn unfit(unfit: Unfit) -> Failure {
    Failure::of(&Error::unfit(unfit), Sent::Nothing)
}

fn refuse_stored(fields: &Fields<'_>) -> Result<(), Failure> {
    for (name, why) in STORED {
        if fields.contains_key(*name) {
            return Err(Failure::invalid(name, format!("{name}: {why}")));
        }
    }
    if fields.get("background").is_some_and(|background| background.get() == "true") {
        let message = "background: POST /v1/jobs queues a request";
        return Err(Failure::invalid("background", message));
    }
    Ok(())
}

fn wants_sealed(include: &RawValue) -> bool {
    let mut wants = false;
    json::each_item(include.get(), |item| {
        wants |= literal(item) == Some("reasoning.encrypted_content");
    });
    wants
}

/// The body in chat's form.
fn chat(fields: &Fields<'_>, messages: Messages<'_>, tools: &mut Tools) -> Result<String, Failure> {
    let choice = match fields.get("tool_choice") {
        Some(choice) => tools.choice(choice)?,
        None => None,
    };
    let format = fields.get("text").map_or(Ok((None, None)), |text| text_format(text))?;
    let [effort] = match fields.get("reasoning") {
        Some(reasoning) => json::pick(reasoning.get(), &["effort"])
            .map_err(|_| Failure::invalid("reasoning", "reasoning must be an object"))?,
        None => [None],
    };
    let mut out = String::new();
    let mut object = write::Object::open(&mut out);
    for (name, value) in fields {
        if !HANDLED.contains(&name.as_str()) {
            object.json(name, value.get());
        }
    }
    object.with("messages", |out| messages.write(out));
    if let Some(tokens) = fields.get("max_output_tokens") {
        object.json("max_completion_tokens", tokens.get());
    }
    if let Some(effort) = effort {
        object.json("reasoning_effort", effort.get());
    }
    let (response_format, verbosity) = format;
    if let Some(format) = response_format {
        object.json("response_format", &format);
    }
    if let Some(verbosity) = verbosity {
        object.json("verbosity", verbosity);
    }
    // Without tools OpenAI refuses what is about them.
    if !tools.is_empty() {
        object.json("tools", &tools.to_json());
        if let Some(choice) = choice {
            object.json("tool_choice", &choice);
        }
        if let Some(parallel) = fields.get("parallel_tool_calls") {
            object.json("parallel_tool_calls", parallel.get());
        }
    }
    object.close();
    Ok(out)
}

/// `text`: the format of the answer in chat's form, and its verbosity.
fn text_format(text: &RawValue) -> Result<(Option<String>, Option<&str>), Failure> {
    let wrong = || Failure::invalid("text", "text must be an object");
    let [format, verbosity] =
        json::pick(text.get(), &["format", "verbosity"]).map_err(|_| wrong())?;
    let verbosity = verbosity.map(RawValue::get);
    let Some(format) = format else { return Ok((None, verbosity)) };
    let wrong = || Failure::invalid("text.format", "text.format must be an object with a type");
    let [kind] = json::pick(format.get(), &["type"]).map_err(|_| wrong())?;
    let format = match kind.and_then(literal).ok_or_else(wrong)? {
        "text" => None,
        "json_schema" => {
            let names = ["name", "description", "schema", "strict"];
            let members = json::pick(format.get(), &names).map_err(|_| wrong())?;
            let mut out = String::new();
            write::object(&mut out, |object| {
                object.text("type", "json_schema");
                object.object("json_schema", |object| {
                    for (name, value) in names.iter().zip(members) {
                        if let Some(value) = value {
                            object.json(name, value.get());
                        }
                    }
                });
            });
            Some(out)
        }
        // `json_object`, and what may be added.
        _ => Some(format.get().to_owned()),
    };
    Ok((format, verbosity))
}
