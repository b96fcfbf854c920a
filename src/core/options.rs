//! From the caller's arguments to the body of a request.
//!
//! Values pass through as the text they were given as: no number is read and printed again.

use crate::error::Error;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// OpenAI's chat parameters (API reference, "Create chat completion").
const KNOWN: &[&str] = &[
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];
/// Ours: they steer the call and are never sent.
const OURS: &[&str] = &["extra_body", "max_retries", "throw_on_error", "timeout_ms"];

const DEFAULT_TIMEOUT_MS: u64 = 120_000;
const LONGEST_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
const DEFAULT_RETRIES: u16 = 2;
const MOST_RETRIES: u16 = 10;

type Fields = BTreeMap<String, Box<RawValue>>;

/// A request, checked and ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    pub model: String,
    pub timeout_ms: u64,
    pub max_retries: u16,
    pub throw_on_error: bool,
    fields: Fields,
}

impl Prepared {
    /// From the arguments of `chat_complete`.
    pub fn from_arguments(
        model: Option<&str>,
        messages: Option<&str>,
        options: Option<&str>,
    ) -> Result<Self, Error> {
        let mut fields = object(options.unwrap_or("{}"), "options")?;
        for reserved in ["model", "messages"] {
            if fields.contains_key(reserved) {
                return Err(Error::bad_request_hint(
                    format!("options.{reserved} is not an option"),
                    format!("Give it as the argument {reserved}."),
                ));
            }
        }
        let extra = match fields.remove("extra_body") {
            Some(extra) if extra.get() != "null" => object(extra.get(), "options.extra_body")?,
            _ => Fields::new(),
        };
        for reserved in ["model", "messages", "stream"] {
            if extra.contains_key(reserved) {
                return Err(Error::bad_request(format!("extra_body must not hold '{reserved}'")));
            }
        }
        if let Some(unknown) = fields.keys().find(|key| !is_known(key)) {
            return Err(unknown_option(unknown));
        }
        let mut prepared = Self::from_fields(model, messages, fields)?;
        prepared.fields.extend(extra);
        Ok(prepared)
    }

    /// From a whole OpenAI request body; vendor fields are sent as they are.
    pub fn from_body(body: Option<&str>) -> Result<Self, Error> {
        let mut fields = object(body.unwrap_or("null"), "the request body")?;
        let model =
            fields.remove("model").and_then(|m| serde_json::from_str::<String>(m.get()).ok());
        let messages = fields.remove("messages");
        Self::from_fields(model.as_deref(), messages.as_deref().map(RawValue::get), fields)
    }

    fn from_fields(
        model: Option<&str>,
        messages: Option<&str>,
        mut fields: Fields,
    ) -> Result<Self, Error> {
        let model = model.map(str::trim).filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| Error::bad_request("model must be a non-empty text"))?;
        if model.len() > 512 || model.chars().any(char::is_control) {
            return Err(Error::bad_request("model must be a printable text of at most 512 bytes"));
        }
        let messages = checked_messages(messages)?;
        match fields.remove("stream").as_deref().map(RawValue::get) {
            None | Some("false" | "null") => {}
            Some(_) => {
                return Err(Error::bad_request_hint(
                    "stream = true needs a function that returns rows",
                    "Use chat_stream, or leave stream out.",
                ));
            }
        }
        let timeout_ms =
            take(&mut fields, "timeout_ms", "a number of milliseconds from 1 to 86400000")?
                .unwrap_or(DEFAULT_TIMEOUT_MS);
        if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout_ms) {
            return Err(invalid("timeout_ms", "a number of milliseconds from 1 to 86400000"));
        }
        let max_retries = take(&mut fields, "max_retries", "a whole number from 0 to 10")?
            .unwrap_or(DEFAULT_RETRIES);
        if max_retries > MOST_RETRIES {
            return Err(invalid("max_retries", "a whole number from 0 to 10"));
        }
        let throw_on_error = take(&mut fields, "throw_on_error", "true or false")?.unwrap_or(true);
        fields.insert("messages".to_owned(), messages);
        Ok(Self { model: model.to_owned(), timeout_ms, max_retries, throw_on_error, fields })
    }

    /// The body for a provider that calls the model `model_id`.
    pub fn body(&self, model_id: &str) -> String {
        let mut fields: BTreeMap<&str, &RawValue> =
            self.fields.iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        let model = serde_json::value::to_raw_value(model_id).expect("a string is JSON");
        fields.insert("model", &model);
        serde_json::to_string(&fields).expect("raw JSON is JSON")
    }
}

fn is_known(key: &str) -> bool {
    KNOWN.contains(&key) || OURS.contains(&key)
}

fn object(text: &str, what: &str) -> Result<Fields, Error> {
    if text.trim() == "null" && what == "options" {
        return Ok(Fields::new());
    }
    serde_json::from_str(text)
        .map_err(|_| Error::bad_request(format!("{what} must be a JSON object")))
}

fn checked_messages(messages: Option<&str>) -> Result<Box<RawValue>, Error> {
    let refuse = || {
        Error::bad_request_hint(
            "messages must be a non-empty array of objects",
            r#"For example: '[{"role": "user", "content": "Hello"}]'"#,
        )
    };
    let text = messages.ok_or_else(refuse)?;
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| refuse())?;
    if items.is_empty() || items.iter().any(|item| !item.get().starts_with('{')) {
        return Err(refuse());
    }
    RawValue::from_string(text.to_owned()).map_err(|_| refuse())
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

fn unknown_option(key: &str) -> Error {
    let nearest = KNOWN
        .iter()
        .chain(OURS)
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)))
        .expect("there are known options");
    Error::bad_request_hint(
        format!("unknown option '{key}'; the nearest known one is '{nearest}'"),
        "A vendor's own fields go under extra_body.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = r#"[{"role":"user","content":"hi"}]"#;

    fn with(options: &str) -> Result<Prepared, Error> {
        Prepared::from_arguments(Some("gpt-4o"), Some(HELLO), Some(options))
    }

    #[test]
    fn values_pass_through_to_the_digit() {
        let body =
            with(r#"{"temperature": 0.10000000000000000001, "seed": 12345678901234567890123}"#)
                .unwrap()
                .body("openai/gpt-4o");
        assert!(
            body.contains("0.10000000000000000001") && body.contains("12345678901234567890123")
        );
        assert!(body.contains(r#""model":"openai/gpt-4o""#) && body.contains(HELLO));
    }

    #[test]
    fn our_own_options_are_not_sent() {
        let p =
            with(r#"{"timeout_ms":5,"max_retries":0,"throw_on_error":false,"top_p":1}"#).unwrap();
        assert_eq!((p.timeout_ms, p.max_retries, p.throw_on_error), (5, 0, false));
        let body = p.body("m");
        assert!(
            !body.contains("timeout_ms") && !body.contains("max_retries") && body.contains("top_p")
        );
        let p = with(r#"{"timeout_ms":null}"#).unwrap();
        assert_eq!((p.timeout_ms, p.max_retries, p.throw_on_error), (120_000, 2, true));
    }

    #[test]
    fn unknown_options_name_the_nearest() {
        let error = with(r#"{"temprature":1}"#).unwrap_err();
        assert!(error.to_string().contains("'temperature'"), "{error}");
        assert_eq!(error.sqlstate(), "PT400");
    }

    #[test]
    fn vendor_fields_go_under_extra_body() {
        let body =
            with(r#"{"extra_body":{"top_k":4,"provider":{"order":["x"]}}}"#).unwrap().body("m");
        assert!(body.contains(r#""top_k":4"#) && !body.contains("extra_body"));
        for bad in [
            r#"{"extra_body":{"stream":true}}"#,
            r#"{"extra_body":{"model":"x"}}"#,
            r#"{"extra_body":3}"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn streaming_points_to_chat_stream() {
        assert!(with(r#"{"stream":true}"#).unwrap_err().hint().unwrap().contains("chat_stream"));
        assert!(!with(r#"{"stream":false}"#).unwrap().body("m").contains("stream"));
    }

    #[test]
    fn bad_arguments_are_bad_requests() {
        for messages in [
            None,
            Some("null"),
            Some("[]"),
            Some("{}"),
            Some("[1]"),
            Some(r#"["a"]"#),
            Some("[null]"),
        ] {
            let error = Prepared::from_arguments(Some("m"), messages, None).unwrap_err();
            assert_eq!(error.sqlstate(), "PT400", "{messages:?}");
        }
        for model in [None, Some(""), Some("  "), Some("a\nb")] {
            assert!(Prepared::from_arguments(model, Some(HELLO), None).is_err(), "{model:?}");
        }
        for options in [
            "[]",
            "3",
            r#"{"timeout_ms":0}"#,
            r#"{"timeout_ms":"x"}"#,
            r#"{"max_retries":99}"#,
            r#"{"throw_on_error":1}"#,
            r#"{"model":"x"}"#,
        ] {
            assert!(with(options).is_err(), "{options}");
        }
    }

    #[test]
    fn a_whole_body_keeps_its_vendor_fields() {
        let body = format!(
            r#"{{"model":"m","messages":{HELLO},"top_k":3,"provider":{{"sort":"price"}}}}"#
        );
        let p = Prepared::from_body(Some(&body)).unwrap();
        assert_eq!(p.model, "m");
        assert!(p.body("n").contains(r#""top_k":3"#));
        for bad in [None, Some("[]"), Some("{}"), Some(r#"{"model":1}"#)] {
            assert!(Prepared::from_body(bad).is_err(), "{bad:?}");
        }
    }
}
