//! A request: from OpenAI's parameters to Anthropic's.

use super::blank::{Without, without_blanks};
use super::messages::{Conversation, Raw, json};
use crate::core::standard::{Sending, members};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// `max_tokens`, which Anthropic requires, where neither the caller nor the catalogue names it:
/// every model can write as much.
pub(super) const DEFAULT_MAX_TOKENS: i32 = 4096;

/// What `response_format = json_object` asks for; Anthropic has no such mode.
const JSON_ONLY: &str =
    "Answer with one valid JSON object and nothing else: no text and no code fence around it.";

/// OpenAI's parameters that have no effect: those that "OpenAI SDK compatibility" lists as
/// ignored, and newer ones that only tune or route.
const IGNORED: &[&str] = &[
    "audio",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "seed",
    "store",
    "stream",
    "stream_options",
    "top_logprobs",
    "verbosity",
];

/// Parameters without which the answer would not be the one asked for, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("function_call", "Use tool_choice."),
    ("functions", "Use tools."),
    ("web_search_options", "Give Anthropic's own web search tool under tools."),
];

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The body to send, from a request in OpenAI's form. Members that OpenAI's form does not have
/// are sent as they are, and win over what the others are translated to.
pub(super) fn translate(body: &str, sending: &Sending<'_>) -> Result<String, Error> {
    let mut given: Fields = members(body)?;
    refuse(&mut given)?;
    let messages = take(&mut given, "messages")
        .ok_or_else(|| Error::bad_request("messages must be an array of objects"))?;
    let mut conversation = Conversation::read(messages)?;
    let tools = tools(take(&mut given, "tools"))?;
    let translated = [
        ("tool_choice", tool_choice(&mut given, tools.is_some())?),
        ("tools", tools),
        // Before the system prompt, to which it may add.
        ("output_config", output_config(&mut given, &mut conversation)?),
        ("system", conversation.system()?),
        ("messages", Some(conversation.messages()?)),
        ("stop_sequences", stop_sequences(take(&mut given, "stop"))?),
        ("max_tokens", Some(max_tokens(&mut given, sending)?)),
        ("temperature", temperature(take(&mut given, "temperature"))?),
        ("top_p", take(&mut given, "top_p").map(Cow::Borrowed)),
        ("metadata", metadata(&mut given)?),
        ("service_tier", service_tier(take(&mut given, "service_tier"))),
        ("model", Some(json(&sending.model_id)?)),
        ("stream", sending.streams.then(|| json(&true)).transpose()?),
    ];
    for handled in IGNORED.iter().chain(&["model"]) {
        given.remove(*handled);
    }
    // A system prompt in Anthropic's own form.
    let own_system = given.get("system").map_or(Without::Same, |own| without_blanks(own));
    match &own_system {
        Without::Same => {}
        Without::Nothing => drop(given.remove("system")),
        Without::Some(rest) => drop(given.insert("system".to_owned(), rest)),
    }
    let mut out: BTreeMap<&str, &RawValue> = BTreeMap::new();
    out.extend(translated.iter().filter_map(|(key, value)| Some((*key, &**value.as_ref()?))));
    out.extend(given.iter().map(|(key, value)| (key.as_str(), *value)));
    serde_json::to_string(&out).map_err(Error::internal)
}

/// Takes a member out; JSON null means that it is not given, as it does to OpenAI.
fn take<'a>(given: &mut Fields<'a>, key: &str) -> Option<&'a RawValue> {
    given.remove(key).filter(|value| value.get() != "null")
}

fn refuse(given: &mut Fields<'_>) -> Result<(), Error> {
    for (key, instead) in REFUSED {
        if take(given, key).is_some() {
            let error = format!("{key} cannot be sent to Anthropic");
            return Err(Error::bad_request_hint(error, *instead));
        }
    }
    if take(given, "n").is_some_and(|n| n.get().parse() != Ok(1.0)) {
        return Err(Error::bad_request("Anthropic gives one answer: n must be 1"));
    }
    if let Some(modalities) = take(given, "modalities") {
        let modalities: Option<Vec<String>> = serde_json::from_str(modalities.get()).ok();
        if modalities.is_none_or(|all| all.iter().any(|modality| modality != "text")) {
            return Err(Error::bad_request(
                r#"Anthropic answers in text: modalities must be ["text"]"#,
            ));
        }
    }
    Ok(())
}

/// From `response_format` ("Structured outputs"). The caller's own `output_config` keeps what it
/// says: it may hold `effort` beside.
fn output_config<'a>(
    given: &mut Fields<'a>,
    conversation: &mut Conversation<'_>,
) -> Result<Option<Raw<'a>>, Error> {
    #[derive(Deserialize)]
    struct ResponseFormat<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(borrow)]
        json_schema: Option<JsonSchema<'a>>,
    }
    #[derive(Deserialize)]
    struct JsonSchema<'a> {
        #[serde(borrow)]
        schema: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Format<'a> {
        r#type: &'static str,
        schema: &'a RawValue,
    }
    let Some(asked) = take(given, "response_format") else { return Ok(None) };
    let wrong = || Error::bad_request("response_format must be text, json_object or json_schema");
    let asked: ResponseFormat = serde_json::from_str(asked.get()).map_err(|_| wrong())?;
    match asked.kind.as_str() {
        "text" => return Ok(None),
        "json_object" => {
            conversation.instruct(JSON_ONLY);
            return Ok(None);
        }
        "json_schema" => {}
        _ => return Err(wrong()),
    }
    let schema = asked
        .json_schema
        .and_then(|json_schema| json_schema.schema)
        .ok_or_else(|| Error::bad_request("response_format.json_schema needs its schema"))?;
    let format = json(&Format { r#type: "json_schema", schema })?;
    let mut config: Fields = match given.get("output_config") {
        Some(own) => match serde_json::from_str(own.get()) {
            Ok(own) => own,
            Err(_) => return Ok(None),
        },
        None => Fields::new(),
    };
    config.entry("format".to_owned()).or_insert(&format);
    let config = json(&config)?;
    given.remove("output_config");
    Ok(Some(config))
}

/// Functions become tools; tools of Anthropic's form stay as they are.
fn tools<'a>(tools: Option<&'a RawValue>) -> Result<Option<Raw<'a>>, Error> {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(rename = "type")]
        kind: Option<String>,
        #[serde(borrow)]
        function: Option<Function<'a>>,
        #[serde(borrow)]
        custom: Option<&'a RawValue>,
        #[serde(borrow)]
        cache_control: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Function<'a> {
        name: String,
        #[serde(borrow)]
        description: Option<&'a RawValue>,
        #[serde(borrow)]
        parameters: Option<&'a RawValue>,
        strict: Option<bool>,
        #[serde(borrow)]
        cache_control: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Translated<'a> {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a RawValue>,
        input_schema: Raw<'a>,
        /// "Structured outputs": the same promise as OpenAI's. False is the default of both.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        strict: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    }
    let Some(tools) = tools else { return Ok(None) };
    let tools: Vec<&RawValue> = serde_json::from_str(tools.get())
        .map_err(|_| Error::bad_request("tools must be an array of objects"))?;
    let mut out: Vec<Raw> = Vec::with_capacity(tools.len());
    for (index, raw) in tools.into_iter().enumerate() {
        let wrong = || Error::bad_request(format!("tools[{index}] is not a tool"));
        let tool: Tool = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
        if tool.custom.is_some() {
            let error = format!("tools[{index}]: Anthropic has no tools with free-form input");
            return Err(Error::bad_request(error));
        }
        if tool.kind.as_deref() != Some("function") {
            out.push(Cow::Borrowed(raw));
            continue;
        }
        let function = tool.function.ok_or_else(wrong)?;
        let input_schema = match function.parameters {
            Some(parameters) => Cow::Borrowed(parameters),
            None => json(&serde_json::json!({"type": "object", "properties": {}}))?,
        };
        out.push(json(&Translated {
            name: function.name,
            description: function.description,
            input_schema,
            strict: function.strict.unwrap_or(false),
            cache_control: tool.cache_control.or(function.cache_control),
        })?);
    }
    json(&out).map(Some)
}

/// From `tool_choice` and `parallel_tool_calls`; a choice of Anthropic's form stays as it is.
fn tool_choice<'a>(given: &mut Fields<'a>, has_tools: bool) -> Result<Option<Raw<'a>>, Error> {
    #[derive(Deserialize)]
    struct Choice {
        #[serde(rename = "type")]
        kind: String,
        function: Option<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        name: String,
    }
    #[derive(Serialize)]
    struct Translated {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    }
    let one_at_a_time =
        take(given, "parallel_tool_calls").is_some_and(|parallel| parallel.get() == "false");
    let wrong = || Error::bad_request("tool_choice must be auto, none, required or one function");
    let (kind, name) = match take(given, "tool_choice") {
        // Without tools there is nothing to choose, and Anthropic refuses the choice.
        None if one_at_a_time && has_tools => ("auto", None),
        None => return Ok(None),
        Some(choice) if choice.get().starts_with('"') => match choice.get() {
            r#""auto""# => ("auto", None),
            r#""none""# => ("none", None),
            r#""required""# => ("any", None),
            _ => return Err(wrong()),
        },
        Some(choice) => {
            let parsed: Choice = serde_json::from_str(choice.get()).map_err(|_| wrong())?;
            match (parsed.kind.as_str(), parsed.function) {
                ("function", Some(function)) => ("tool", Some(function.name)),
                ("auto" | "any" | "tool" | "none", _) => return Ok(Some(Cow::Borrowed(choice))),
                _ => return Err(wrong()),
            }
        }
    };
    // "Messages": the choice of no tool has no such member.
    let disable_parallel_tool_use = one_at_a_time && kind != "none";
    json(&Translated { r#type: kind, name, disable_parallel_tool_use }).map(Some)
}

/// From `stop`. "OpenAI SDK compatibility": all stop sequences work that are not whitespace; the
/// others are left out, since Anthropic refuses them.
fn stop_sequences<'a>(stop: Option<&RawValue>) -> Result<Option<Raw<'a>>, Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    let Some(stop) = stop else { return Ok(None) };
    let stop = serde_json::from_str(stop.get())
        .map_err(|_| Error::bad_request("stop must be a text or an array of texts"))?;
    let mut sequences = match stop {
        Stop::One(sequence) => vec![sequence],
        Stop::Many(sequences) => sequences,
    };
    sequences.retain(|sequence| !sequence.trim().is_empty());
    if sequences.is_empty() { Ok(None) } else { json(&sequences).map(Some) }
}

fn max_tokens<'a>(given: &mut Fields<'a>, sending: &Sending<'_>) -> Result<Raw<'a>, Error> {
    let older = take(given, "max_tokens");
    match take(given, "max_completion_tokens").or(older) {
        Some(asked) => sending.within_most(asked),
        None => json(&sending.max_output_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
    }
}

/// "OpenAI SDK compatibility": from 0 to 1, and what is more is capped.
fn temperature<'a>(asked: Option<&'a RawValue>) -> Result<Option<Raw<'a>>, Error> {
    let Some(asked) = asked else { return Ok(None) };
    let too_hot = asked.get().parse::<f64>().is_ok_and(|degrees| degrees > 1.0);
    if too_hot { json(&1).map(Some) } else { Ok(Some(Cow::Borrowed(asked))) }
}

/// The end user, for Anthropic's checks against abuse. OpenAI's own `metadata` are notes for its
/// archive; those of Anthropic's form are known by their `user_id`.
fn metadata<'a>(given: &mut Fields<'a>) -> Result<Option<Raw<'a>>, Error> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        user_id: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Translated<'a> {
        user_id: &'a RawValue,
    }
    let older = take(given, "user");
    let user = take(given, "safety_identifier").or(older);
    if let Some(metadata) = take(given, "metadata")
        && let Ok(Metadata { user_id: Some(_) }) = serde_json::from_str(metadata.get())
    {
        return Ok(Some(Cow::Borrowed(metadata)));
    }
    user.map(|user_id| json(&Translated { user_id })).transpose()
}

fn service_tier(asked: Option<&RawValue>) -> Option<Raw<'_>> {
    asked.filter(|tier| matches!(tier.get(), r#""auto""# | r#""standard_only""#)).map(Cow::Borrowed)
}
