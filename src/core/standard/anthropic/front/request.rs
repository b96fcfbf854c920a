//! A request of Messages, and what it becomes for a provider of OpenAI's form.

use super::super::answer::text;
use super::super::messages::{Raw, json as raw};
use super::conversation::{self, Conversation, Said};
use super::version::Version;
use crate::core::json;
use crate::core::parameters;
use crate::core::scan::Scanner;
use crate::error::Error;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Ours: they steer the call, and mean here what they mean in every other body.
pub(super) const STEERING: &[&str] = &[
    "cache",
    "extra_body",
    "max_retries",
    "models",
    "on_deadline",
    "stream_upstream",
    "tags",
    "throw_on_error",
    "timeout_ms",
];

/// What both forms have under one name.
const SAME: &[&str] = &["max_tokens", "stream", "temperature", "top_p"];

/// Longest `user` that OpenAI takes ("Invalid 'user': string too long"). Claude Code's is longer.
const LONGEST_USER: usize = 64;

/// Tokens of thinking up to which it counts as little, and as some. Efforts have no numbers; these are
/// between those that clients offer by name: Claude Code's think, think hard and ultrathink were 4,000,
/// 10,000 and 31,999.
const LITTLE_THINKING: i64 = 4_000;
const SOME_THINKING: i64 = 16_000;

/// Bytes that each value of a request takes at the most while it is translated, beside its text.
pub const BYTES_PER_VALUE: usize = conversation::BYTES_PER_VALUE;

pub(super) type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// What the models that may answer can be told beyond what every server of OpenAI's form takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// `cache_control` where it stands and `thinking_blocks`: Claude, whoever offers it in OpenAI's form.
    pub anthropics_own: bool,
    /// `reasoning_effort`, which a model that does not reason may refuse (OpenAI: "Unrecognized request
    /// argument").
    pub reasoning_effort: bool,
}

impl Takes {
    /// By the names of the models that may answer. Whether they reason is known to the catalogue.
    pub fn of<'a>(mut models: impl Iterator<Item = &'a str>, reasons: bool) -> Self {
        let anthropics_own = models.all(|model| model.to_ascii_lowercase().contains("claude"));
        Self { anthropics_own, reasoning_effort: reasons }
    }
}

/// A request, read once.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub(super) given: Fields<'a>,
    pub(super) messages: Vec<&'a RawValue>,
    /// The model that is asked for.
    pub model: String,
    /// How many values it has.
    pub values: usize,
}

impl<'a> Incoming<'a> {
    /// Reads a body. What it may hold at the most are the values and the depth of any request.
    pub fn read(body: &'a str, version: Version) -> Result<Self, Error> {
        let mut scanner = Scanner::new(body);
        scanner.skip().and_then(|_| scanner.end()).map_err(Error::unfit)?;
        let given = json::members(body).map_err(Error::unfit)?;
        let model = given.get("model").copied().and_then(text).filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| Error::bad_request("model: must be a non-empty text"))?;
        let messages = given.get("messages").map_or("null", |messages| messages.get());
        let messages: Vec<&RawValue> = serde_json::from_str(messages)
            .map_err(|_| Error::bad_request("messages: must be an array of objects"))?;
        let stream = given.get("stream").map_or("null", |stream| stream.get());
        if !matches!(stream, "true" | "false" | "null") {
            return Err(Error::bad_request("stream: must be true or false"));
        }
        // Here they would be no option, and no provider has them.
        if let Some(name) = ["schema", "max_repairs"].iter().find(|name| given.contains_key(**name))
        {
            let hint = "POST /v1/chat/completions takes it.";
            return Err(Error::bad_request_hint(format!("{name}: is not for Messages"), hint));
        }
        version.check(&given)?;
        Ok(Self { given, messages, model, values: scanner.values() })
    }

    /// What steers the call and for which model it is, as a chat body without a conversation: it is known before it is
    /// known who may answer, and in which form.
    pub fn steering(&self) -> Result<String, Error> {
        let mut steering: BTreeMap<&str, Raw> = BTreeMap::new();
        for name in ["model", "stream"].iter().chain(STEERING).filter(|name| **name != "extra_body")
        {
            if let Some(value) = self.get(name) {
                steering.insert(name, Cow::Borrowed(value));
            }
        }
        let nothing = [BTreeMap::from([("role", "user"), ("content", "")])];
        steering.insert("messages", raw(&nothing)?);
        serde_json::to_string(&steering).map_err(Error::internal)
    }

    /// OpenAI's chat body of it, our own options included. `takes`: by the models that may answer.
    pub fn chat(&self, takes: Takes) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Chat<'a> {
            messages: Vec<Said<'a>>,
            #[serde(flatten)]
            rest: BTreeMap<&'a str, Raw<'a>>,
        }
        let mut conversation = Conversation::new(takes);
        if let Some(system) = self.get("system") {
            conversation.system(system, "system")?;
        }
        for (index, message) in self.messages.iter().enumerate() {
            conversation.add(message, &format!("messages.{index}"))?;
        }
        let mut rest: BTreeMap<&str, Raw> = BTreeMap::new();
        for name in ["model"].iter().chain(SAME).chain(STEERING) {
            if let Some(value) = self.get(name) {
                rest.insert(name, Cow::Borrowed(value));
            }
        }
        let tools = self.tools(takes)?;
        let has_tools = tools.is_some();
        let translated = [
            ("stop", self.get("stop_sequences").map(Cow::Borrowed)),
            ("tools", tools),
            ("tool_choice", if has_tools { self.tool_choice()? } else { None }),
            ("parallel_tool_calls", if has_tools { self.parallel_tool_calls()? } else { None }),
            ("response_format", self.response_format()?),
            ("reasoning_effort", self.effort(takes)?),
            ("service_tier", self.service_tier()?),
            ("user", self.user()?),
        ];
        rest.extend(translated.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let chat = Chat { messages: conversation.messages(), rest };
        serde_json::to_string(&chat).map_err(Error::internal)
    }

    /// A member that is given: JSON null is not.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.given.get(name).copied().filter(|value| value.get() != "null")
    }

    /// A member of a member.
    fn inner(&self, name: &str, inner: &str) -> Option<&'a RawValue> {
        let [found] = json::pick(self.get(name)?.get(), &[inner]).unwrap_or_default();
        found
    }

    /// Tools that the client runs become functions. Those of Anthropic's own have no schema that another
    /// model could be told, or run where it is not.
    fn tools(&self, takes: Takes) -> Result<Option<Raw<'a>>, Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            r#type: &'static str,
            function: Function<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cache_control: Option<&'a RawValue>,
        }
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            description: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            parameters: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            strict: bool,
        }
        let Some(tools) = self.get("tools") else { return Ok(None) };
        let tools: Vec<&RawValue> = serde_json::from_str(tools.get())
            .map_err(|_| Error::bad_request("tools: must be an array of objects"))?;
        let mut functions = Vec::with_capacity(tools.len());
        for (index, tool) in tools.into_iter().enumerate() {
            let wrong = || Error::bad_request(format!("tools.{index}: must have a name"));
            let names = ["type", "name", "description", "input_schema", "strict", "cache_control"];
            let [kind, name, description, parameters, strict, cache_control] =
                json::pick(tool.get(), &names).map_err(|_| wrong())?;
            let kind = kind.map(|kind| text(kind).ok_or_else(wrong)).transpose()?;
            if let Some(kind) = kind.filter(|kind| kind != "custom") {
                let kind: String = kind.chars().filter(|c| !c.is_control()).take(64).collect();
                return Err(Error::bad_request_hint(
                    format!("tools.{index}: '{kind}' is a tool that only Anthropic's models know"),
                    "Describe it with a name and an input_schema, or choose a model of a provider \
                     that speaks Anthropic's API.",
                ));
            }
            functions.push(Tool {
                r#type: "function",
                function: Function {
                    name: name.ok_or_else(wrong)?,
                    description,
                    parameters,
                    strict: strict.is_some_and(|strict| strict.get() == "true"),
                },
                cache_control: cache_control.filter(|_| takes.anthropics_own),
            });
        }
        // An empty list of them is refused by OpenAI ("[] is too short - 'tools'").
        if functions.is_empty() { Ok(None) } else { raw(&functions).map(Some) }
    }

    fn tool_choice(&self) -> Result<Option<Raw<'a>>, Error> {
        #[derive(Serialize)]
        struct Choice<'a> {
            r#type: &'static str,
            function: Function<'a>,
        }
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a RawValue,
        }
        if self.get("tool_choice").is_none() {
            return Ok(None);
        }
        let kind = self.inner("tool_choice", "type").and_then(text);
        match (kind.as_deref(), self.inner("tool_choice", "name")) {
            (Some("auto"), _) => raw(&"auto").map(Some),
            (Some("any"), _) => raw(&"required").map(Some),
            (Some("none"), _) => raw(&"none").map(Some),
            (Some("tool"), Some(name)) => {
                raw(&Choice { r#type: "function", function: Function { name } }).map(Some)
            }
            _ => Err(Error::bad_request("tool_choice: must be auto, any, none or a tool's name")),
        }
    }

    fn parallel_tool_calls(&self) -> Result<Option<Raw<'a>>, Error> {
        let disable = self.inner("tool_choice", "disable_parallel_tool_use");
        match disable.map(RawValue::get) {
            Some("true") => raw(&false).map(Some),
            _ => Ok(None),
        }
    }

    /// From `output_config.format`, or `output_format` as it was called in its beta. The promise is the
    /// same ("Structured outputs"), so that OpenAI is asked for it strictly.
    fn response_format(&self) -> Result<Option<Raw<'a>>, Error> {
        #[derive(Serialize)]
        struct ResponseFormat<'a> {
            r#type: &'static str,
            json_schema: JsonSchema<'a>,
        }
        #[derive(Serialize)]
        struct JsonSchema<'a> {
            name: &'static str,
            schema: &'a RawValue,
            strict: bool,
        }
        let format = self.inner("output_config", "format").or_else(|| self.get("output_format"));
        let Some(format) = format else { return Ok(None) };
        let [kind, schema] = json::pick(format.get(), &["type", "schema"]).unwrap_or_default();
        match (kind.and_then(text).as_deref(), schema) {
            (Some("json_schema"), Some(schema)) => {
                let json_schema = JsonSchema { name: "answer", schema, strict: true };
                raw(&ResponseFormat { r#type: "json_schema", json_schema }).map(Some)
            }
            _ => Err(Error::bad_request(
                "output_config.format: must be of type json_schema and have a schema",
            )),
        }
    }

    /// From `output_config.effort`, else from the tokens of `thinking`. Adaptive thinking alone says no
    /// more than the model's default does. What only Anthropic has is the nearest that all have.
    fn effort(&self, takes: Takes) -> Result<Option<Raw<'a>>, Error> {
        if !takes.reasoning_effort {
            return Ok(None);
        }
        let effort = self.inner("output_config", "effort").and_then(text);
        let thinking = self.inner("thinking", "type").and_then(text);
        let budget = self.inner("thinking", "budget_tokens");
        let budget = budget.and_then(|budget| parameters::whole(budget.get()));
        let effort = match (effort.as_deref(), thinking.as_deref(), budget) {
            (Some("low"), ..) => "low",
            (Some("medium"), ..) => "medium",
            (Some("high" | "xhigh" | "max"), ..) => "high",
            (None, Some("enabled"), Some(..=LITTLE_THINKING)) => "low",
            (None, Some("enabled"), Some(..=SOME_THINKING)) => "medium",
            (None, Some("enabled"), Some(_)) => "high",
            // A word that is new tunes nothing here.
            _ => return Ok(None),
        };
        raw(&effort).map(Some)
    }

    fn service_tier(&self) -> Result<Option<Raw<'a>>, Error> {
        let tier = self.get("service_tier").and_then(text);
        match tier.as_deref() {
            Some("auto") => raw(&"auto").map(Some),
            Some("standard_only") => raw(&"default").map(Some),
            _ => Ok(None),
        }
    }

    /// The end user, under a name of its own where the given one is too long: the same each time, which
    /// is all that it is for.
    fn user(&self) -> Result<Option<Raw<'a>>, Error> {
        let Some(user) = self.inner("metadata", "user_id").and_then(text) else { return Ok(None) };
        if user.len() <= LONGEST_USER {
            return raw(&user).map(Some);
        }
        let print = Sha256::digest(user.as_bytes());
        let hex: String = print.iter().map(|byte| format!("{byte:02x}")).collect();
        raw(&hex).map(Some)
    }
}
