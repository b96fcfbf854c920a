//! From the caller's arguments to the body of a request.
//!
//! Values pass through as the text they were given as: no number is read and printed again.

mod check;
mod column;

pub use self::check::Check;

use crate::core::caching::{self, Caching, Wanted};
use crate::core::embedding;
use crate::core::json;
use crate::core::model;
use crate::core::parameters::{self, PARAMETERS};
use crate::core::scan::{Kind, MAX_VALUES, Scanner, Unfit};
use crate::core::tags;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

mod vectors;

pub use vectors::Batching;

/// Ours: they steer the call and are never sent.
pub const OURS: &[&str] = &[
    "cache",
    "extra_body",
    "max_repairs",
    "max_retries",
    "models",
    "on_deadline",
    "schema",
    "stream_upstream",
    "tags",
    "throw_on_error",
    "timeout_ms",
];

const DEFAULT_RETRIES: u16 = 2;
const MOST_RETRIES: u16 = 10;
const MOST_MODELS: usize = 8;

type Fields = BTreeMap<String, Box<RawValue>>;

/// How long a call may take, by the door that it comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Where the request does not say, in milliseconds.
    pub default_ms: u64,
    pub longest_ms: u64,
}

impl Times {
    pub const SQL: Self = Self { default_ms: 120_000, longest_ms: 24 * 60 * 60 * 1000 };
    /// The libraries of OpenAI wait for 600 s. What takes longer than an hour is for a job, which holds no
    /// connection.
    pub const HTTP: Self = Self { default_ms: 600_000, longest_ms: 60 * 60 * 1000 };
}

/// What becomes of a call for which the statement's time is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeadline {
    #[default]
    Error,
    /// It becomes a job.
    Queue,
}

/// A request, checked and ready to be sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub kind: embedding::Kind,
    pub model: String,
    /// Models to fall back on, in this order.
    pub fallbacks: Vec<String>,
    pub timeout_ms: u64,
    pub max_retries: u16,
    pub throw_on_error: bool,
    pub on_deadline: OnDeadline,
    pub stream_upstream: Option<bool>,
    /// By which the call is found again in sums and reports.
    pub tags: Vec<String>,
    /// What it asks of the response cache.
    pub cache: Option<Wanted>,
    /// The caller said `stream: true`.
    pub streams: bool,
    pub check: Option<Check>,
    fields: Fields,
}

impl Prepared {
    /// From the arguments of `chat_complete`.
    pub fn from_arguments(
        model: Option<&str>,
        messages: Option<&str>,
        options: Option<&str>,
    ) -> Result<Self, Error> {
        let fields = checked_options(options)?;
        let messages = messages.map(|text| RawValue::from_string(text.to_owned()));
        let messages = messages.transpose().map_err(|_| no_messages())?;
        Self::from_fields(model, messages, fields, Times::SQL)
    }

    /// From the arguments of `chat_json`.
    pub fn for_json(
        model: Option<&str>,
        messages: &str,
        schema: Option<&str>,
        options: Option<&str>,
    ) -> Result<Self, Error> {
        let mut fields = checked_options(options)?;
        if fields.contains_key("schema") {
            return Err(Error::bad_request_hint(
                "options.schema is not an option here",
                "Give it as the argument schema.",
            ));
        }
        let schema = schema.filter(|schema| *schema != "null");
        let schema = schema.ok_or_else(|| Error::bad_request("schema must not be NULL"))?;
        for (name, text) in [("schema", schema), ("messages", messages)] {
            let raw = RawValue::from_string(text.to_owned()).map_err(Error::internal)?;
            fields.insert(name.to_owned(), raw);
        }
        let messages = fields.remove("messages");
        Self::from_fields(model, messages, fields, Times::SQL)
    }

    /// From a whole OpenAI request body; vendor fields are sent as they are.
    pub fn from_body(body: Option<&str>) -> Result<Self, Error> {
        Self::from_body_with(body, &Options::default())
    }

    /// From the body of an HTTP request.
    pub fn from_http(body: &str) -> Result<Self, Error> {
        Self::read(Some(body), &Options::default(), Times::HTTP)
    }

    /// From a whole request body and options that hold where the body says nothing.
    pub fn from_body_with(body: Option<&str>, options: &Options) -> Result<Self, Error> {
        Self::read(body, options, Times::SQL)
    }

    fn read(body: Option<&str>, options: &Options, times: Times) -> Result<Self, Error> {
        let mut fields = object(body.unwrap_or("null"), "the request body")?;
        // As a client library's argument of this name would have been merged into it.
        let extra = extra_body(&mut fields, "extra_body")?;
        fields.extend(extra);
        for (key, value) in &options.0 {
            fields.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let model =
            fields.remove("model").and_then(|m| serde_json::from_str::<String>(m.get()).ok());
        let messages = fields.remove("messages");
        Self::from_fields(model.as_deref(), messages, fields, times)
    }

    fn from_fields(
        model: Option<&str>,
        messages: Option<Box<RawValue>>,
        mut fields: Fields,
        times: Times,
    ) -> Result<Self, Error> {
        let model = checked_model(model.unwrap_or_default(), "model")?;
        let messages = messages.ok_or_else(no_messages)?;
        let mut values = checked_messages(messages.get())?;
        let streams = take(&mut fields, "stream", "true or false")?.unwrap_or(false);
        let Steering { timeout_ms, max_retries, fallbacks, tags } =
            Steering::take(&mut fields, times)?;
        let throw_on_error = take(&mut fields, "throw_on_error", "true or false")?.unwrap_or(true);
        let on_deadline =
            take(&mut fields, "on_deadline", "'error' or 'queue'")?.unwrap_or_default();
        let stream_upstream = take(&mut fields, "stream_upstream", "true or false")?;
        let cache = match fields.remove("cache").filter(|cache| cache.get() != "null") {
            Some(cache) => {
                Some(Wanted::read(&cache).ok_or_else(|| invalid("cache", caching::EXPECTED))?)
            }
            None => None,
        };
        let check = check::take(&mut fields)?;
        if check.is_some() && streams {
            return Err(Error::bad_request_hint(
                "an answer that is checked against a schema cannot be streamed",
                "Leave stream out, or the schema.",
            ));
        }
        if check.is_some() && matches!(cache, Some(Wanted::On(_))) {
            return Err(Error::bad_request("cache cannot be given beside a schema"));
        }
        for (name, value) in &fields {
            values += checked_parameter(name, value.get())?;
            if values > MAX_VALUES {
                return Err(Error::unfit(Unfit::TooManyValues));
            }
        }
        fields.insert("messages".to_owned(), messages);
        Ok(Self {
            kind: embedding::Kind::Chat,
            model,
            fallbacks,
            timeout_ms,
            max_retries,
            throw_on_error,
            on_deadline,
            stream_upstream,
            tags,
            cache,
            streams,
            check,
            fields,
        })
    }

    /// Refuses `stream: true` where the answer is given whole.
    pub fn whole(self) -> Result<Self, Error> {
        if self.streams {
            return Err(Error::bad_request_hint(
                "stream = true needs a function that returns rows",
                "Use chat_stream, or leave stream out.",
            ));
        }
        Ok(self)
    }

    /// Refuses a request of more bytes than this.
    pub fn within(&self, most: usize) -> Result<(), Error> {
        let bytes = self.fields.iter().map(|(name, value)| name.len() + value.get().len());
        let schema = self.check.as_ref().map_or(0, |check| check.schema.get().len());
        if bytes.sum::<usize>() + schema > most {
            return Err(Error::RequestBeyond { limit: most as u64, unit: "bytes".to_owned() });
        }
        Ok(())
    }

    /// OpenAI's member `metadata`.
    pub fn metadata(&self) -> Option<Box<RawValue>> {
        self.fields.get("metadata").cloned()
    }

    /// Adds the values of `metadata` as tags, in the order of their names, for as long as there is room for them
    /// beside its own and those that it has already (`others`). They were not written for us: what is no text, or
    /// can be no tag, is passed over.
    pub fn add_tags_of(&mut self, metadata: &RawValue, others: &[String]) {
        let Ok(members) = json::members(metadata.get()) else { return };
        for (_, value) in members {
            let text = serde_json::from_str::<String>(value.get()).ok();
            let Some(tag) = text.and_then(|text| tags::checked([text])?.pop()) else { continue };
            let all = others.iter().chain(&self.tags).chain([&tag]);
            if !self.tags.contains(&tag) && tags::checked(all).is_some() {
                self.tags.push(tag);
            }
        }
    }

    /// The models that may serve the call, the wanted one first.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model).chain(&self.fallbacks).map(String::as_str)
    }

    /// The body in OpenAI's form, without a model.
    pub fn body(&self) -> String {
        serde_json::to_string(&self.fields).expect("raw JSON is JSON")
    }

    /// The whole request, our own options included: `from_body` reads it back.
    pub fn to_request(&self) -> String {
        #[derive(Serialize)]
        struct Request<'a> {
            model: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            models: &'a [String],
            timeout_ms: u64,
            max_retries: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            stream_upstream: Option<bool>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            tags: &'a [String],
            #[serde(skip_serializing_if = "Option::is_none")]
            cache: Option<Wanted>,
            #[serde(skip_serializing_if = "Option::is_none")]
            schema: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            max_repairs: Option<u16>,
            #[serde(flatten)]
            fields: BTreeMap<&'a str, &'a RawValue>,
        }
        serde_json::to_string(&Request {
            model: &self.model,
            models: &self.fallbacks,
            timeout_ms: self.timeout_ms,
            max_retries: self.max_retries,
            stream_upstream: self.stream_upstream,
            tags: &self.tags,
            cache: self.cache,
            schema: self.check.as_ref().map(|check| &*check.schema),
            max_repairs: self.check.as_ref().map(|check| check.max_repairs),
            fields: self.fields.iter().map(|(key, value)| (key.as_str(), &**value)).collect(),
        })
        .expect("raw JSON is JSON")
    }

    /// What the call asks of the response cache. `None`: it is passed by, as embeddings and what is checked do.
    pub fn caching(&self) -> Option<Caching> {
        let is_chat = self.kind == embedding::Kind::Chat && self.check.is_none();
        caching::of(self.cache, self.is_deterministic()).filter(|_| is_chat)
    }

    /// Whether the same request gives the same answer, as far as a request can ask for that.
    pub fn is_deterministic(&self) -> bool {
        self.fields.get("temperature").is_some_and(|t| t.get().parse::<f64>() == Ok(0.0))
    }
}

/// How a call is made, of whatever kind it is.
struct Steering {
    timeout_ms: u64,
    max_retries: u16,
    fallbacks: Vec<String>,
    tags: Vec<String>,
}

impl Steering {
    /// Takes it out of the members of a request.
    fn take(fields: &mut Fields, times: Times) -> Result<Self, Error> {
        let expected = format!("a number of milliseconds from 1 to {}", times.longest_ms);
        let timeout_ms = take(fields, "timeout_ms", &expected)?.unwrap_or(times.default_ms);
        if !(1..=times.longest_ms).contains(&timeout_ms) {
            return Err(invalid("timeout_ms", &expected));
        }
        let max_retries =
            take(fields, "max_retries", "a whole number from 0 to 10")?.unwrap_or(DEFAULT_RETRIES);
        if max_retries > MOST_RETRIES {
            return Err(invalid("max_retries", "a whole number from 0 to 10"));
        }
        let expected = "an array of at most 8 model names";
        let fallbacks: Vec<String> = take(fields, "models", expected)?.unwrap_or_default();
        if fallbacks.len() > MOST_MODELS {
            return Err(invalid("models", expected));
        }
        let fallbacks = fallbacks
            .iter()
            .map(|model| checked_model(model, "options.models"))
            .collect::<Result<Vec<_>, _>>()?;
        let expected = "an array of at most 8 texts of at most 64 bytes each";
        let tags: Vec<String> = take(fields, "tags", expected)?.unwrap_or_default();
        let tags = tags::checked(tags).ok_or_else(|| invalid("tags", expected))?;
        Ok(Self { timeout_ms, max_retries, fallbacks, tags })
    }
}

/// Options, checked: what holds for every request of a batch.
#[derive(Debug, Default)]
pub struct Options(Fields);

impl Options {
    /// The options of `chat_many`, and whether identical requests are sent once.
    pub fn of_many(options: Option<&str>) -> Result<(Self, bool), Error> {
        let mut fields = object(options.unwrap_or("{}"), "options")?;
        let dedupe = take(&mut fields, "dedupe", "true or false")?.unwrap_or(false);
        let fields = serde_json::to_string(&fields).expect("raw JSON is JSON");
        Ok((Self(checked_options(Some(&fields))?), dedupe))
    }
}

/// Reads options: known ones only, with the members of `extra_body` among them.
fn checked_options(options: Option<&str>) -> Result<Fields, Error> {
    let mut fields = object(options.unwrap_or("{}"), "options")?;
    for reserved in ["model", "messages"] {
        if fields.contains_key(reserved) {
            return Err(Error::bad_request_hint(
                format!("options.{reserved} is not an option"),
                format!("Give it as the argument {reserved}."),
            ));
        }
    }
    let extra = extra_body(&mut fields, "options.extra_body")?;
    if let Some(unknown) = fields.keys().find(|key| !is_known(key)) {
        let known = PARAMETERS.iter().filter(|parameter| parameter.is_openais);
        let known = known.map(|parameter| parameter.name).chain(OURS.iter().copied());
        return Err(unknown_option(unknown, known));
    }
    fields.extend(extra);
    Ok(fields)
}

/// Takes `extra_body` out, whose members are sent as if they stood beside it: a vendor's own, none of ours.
fn extra_body(fields: &mut Fields, what: &str) -> Result<Fields, Error> {
    let extra = match fields.remove("extra_body") {
        Some(extra) if extra.get() != "null" => object(extra.get(), what)?,
        _ => Fields::new(),
    };
    for reserved in ["model", "messages", "stream"] {
        if extra.contains_key(reserved) {
            return Err(Error::bad_request(format!("extra_body must not hold '{reserved}'")));
        }
    }
    if let Some(ours) = extra.keys().find(|key| is_ours(key)) {
        return Err(Error::bad_request(format!("'{ours}' is an option, not part of extra_body")));
    }
    Ok(extra)
}

fn checked_model(model: &str, what: &str) -> Result<String, Error> {
    let model = model.trim();
    if model.is_empty() {
        return Err(Error::bad_request(format!("{what} must be a non-empty text")));
    }
    match model::problem(model) {
        Some(problem) => Err(Error::bad_request(format!("{what} {problem}"))),
        None => Ok(model.to_owned()),
    }
}

/// Whether this is an option of ours, which is never sent.
pub fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

fn is_known(key: &str) -> bool {
    is_ours(key) || parameters::find(key).is_some_and(|parameter| parameter.is_openais)
}

fn object(text: &str, what: &str) -> Result<Fields, Error> {
    if text.trim() == "null" && what == "options" {
        return Ok(Fields::new());
    }
    let members = json::members(text).map_err(|unfit| match unfit {
        Unfit::Wrong(_) => Error::bad_request(format!("{what} must be a JSON object")),
        other => Error::bad_request(format!("{what}: the object {other}")),
    })?;
    Ok(members.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
}

fn no_messages() -> Error {
    Error::bad_request_hint(
        "messages must be a non-empty array of objects",
        r#"For example: '[{"role": "user", "content": "Hello"}]'"#,
    )
}

/// Counts the values in `messages`.
fn checked_messages(text: &str) -> Result<usize, Error> {
    let mut scanner = Scanner::within_object(text);
    let mut is_fit = false;
    let read = scanner.items(|scanner| {
        is_fit = scanner.kind()? == Kind::Object;
        if !is_fit {
            return Err(Unfit::NotJson(0));
        }
        scanner.skip().map(drop)
    });
    match read {
        Ok(()) if is_fit => Ok(scanner.values()),
        Ok(()) | Err(Unfit::NotJson(_)) => Err(no_messages()),
        Err(other) => Err(Error::unfit(other)),
    }
}

/// Counts the values in a parameter, which is of its kind, if it is known.
fn checked_parameter(name: &str, value: &str) -> Result<usize, Error> {
    let mut scanner = Scanner::within_object(value);
    scanner.skip().map_err(Error::unfit)?;
    match parameters::find(name) {
        Some(parameter) if !parameter.takes.fits(value) => {
            Err(invalid(name, parameter.takes.words()))
        }
        _ => Ok(scanner.values()),
    }
}

/// Takes one of our own options out; JSON null is the default.
fn take<T: serde::de::DeserializeOwned>(
    fields: &mut Fields,
    key: &str,
    expected: &str,
) -> Result<Option<T>, Error> {
    match fields.remove(key) {
        None => Ok(None),
        Some(value) => serde_json::from_str(value.get()).map_err(|_| invalid(key, expected)),
    }
}

fn invalid(key: &str, expected: &str) -> Error {
    Error::bad_request(format!("options.{key} must be {expected}"))
}

fn unknown_option<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let nearest = known
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)))
        .expect("there are known options");
    Error::bad_request_hint(
        format!("unknown option '{key}'; the nearest known one is '{nearest}'"),
        "A vendor's own fields go under extra_body.",
    )
}

#[cfg(test)]
mod tests;
