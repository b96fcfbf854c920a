//! The options of `ai_column`: what is asked for each row, and how the rows are gone through.

use super::{Fields, Prepared, invalid, object, take};
use crate::core::embedding::MOST_PER_REQUEST;
use crate::core::jobs::checked_request;
use crate::core::json;
use crate::error::Error;
use serde_json::Value;

/// Requests of a column at a time.
const MOST_AT_ONCE: u32 = 64;
const USUAL_AT_ONCE: u32 = 4;
/// Rows that are claimed together, where each is a request of its own.
const USUAL_ROWS: usize = 32;
/// Of `chat_complete`, and nothing to a value that is written into a row.
const NOT_HERE: &[&str] = &["n", "on_deadline", "stream", "throw_on_error"];
/// In the place of a prompt, which each row has its own of.
const NO_PROMPT: &str = r#"[{"role": "user", "content": ""}]"#;

/// Which of the rows that are there already get a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backfill {
    Missing,
    All,
    None,
}

impl Backfill {
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// A column that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The request, without input and messages.
    pub request: String,
    pub concurrency: u32,
    pub batch_size: usize,
    pub backfill: Backfill,
}

impl Prepared {
    /// From the arguments of `ai_column`: a request without what goes in, by which routes are found, and the column.
    pub fn of_column(
        kind: Option<&str>,
        model: Option<&str>,
        options: Option<&str>,
    ) -> Result<(Self, Column), Error> {
        let mut fields = object(options.unwrap_or("{}"), "options")?;
        let backfill = take_backfill(&mut fields)?;
        let expected = format!("a whole number from 1 to {MOST_AT_ONCE}");
        let concurrency = take(&mut fields, "concurrency", &expected)?.unwrap_or(USUAL_AT_ONCE);
        if !(1..=MOST_AT_ONCE).contains(&concurrency) {
            return Err(invalid("concurrency", &expected));
        }
        if let Some(name) = NOT_HERE.iter().find(|name| fields.contains_key(**name)) {
            return Err(Error::bad_request(format!(
                "options.{name} is not an option of AI columns"
            )));
        }
        let (prepared, batch_size) = match kind {
            Some("embed") => {
                let (prepared, batching) = Self::embedding(model, Some(&text(&fields)))?;
                (prepared, batching.batch_size)
            }
            Some(kind @ ("chat" | "json")) => {
                let expected = format!("a whole number from 1 to {MOST_PER_REQUEST}");
                let batch_size = take(&mut fields, "batch_size", &expected)?.unwrap_or(USUAL_ROWS);
                if !(1..=MOST_PER_REQUEST).contains(&batch_size) {
                    return Err(invalid("batch_size", &expected));
                }
                let prepared = Self::from_arguments(model, Some(NO_PROMPT), Some(&text(&fields)))?;
                match (kind, prepared.check.is_some()) {
                    ("json", false) => {
                        return Err(Error::bad_request_hint(
                            "options.schema must be a JSON Schema where p_kind is 'json'",
                            r#"For example: {"schema": {"type": "object"}}"#,
                        ));
                    }
                    ("chat", true) => {
                        return Err(Error::bad_request_hint(
                            "options.schema is for JSON",
                            "Give p_kind => 'json', and a column of type jsonb.",
                        ));
                    }
                    _ => (prepared, batch_size),
                }
            }
            _ => return Err(Error::bad_request("p_kind must be 'embed', 'chat' or 'json'")),
        };
        let request = without_input(&prepared.to_request())?;
        Ok((prepared, Column { request, concurrency, batch_size, backfill }))
    }
}

fn text(fields: &Fields) -> String {
    serde_json::to_string(fields).expect("raw JSON is JSON")
}

fn without_input(request: &str) -> Result<String, Error> {
    let mut members = json::members(request).map_err(Error::unfit)?;
    for name in ["input", "messages"] {
        members.remove(name);
    }
    checked_request(serde_json::to_string(&members).map_err(Error::internal)?)
}

fn take_backfill(fields: &mut Fields) -> Result<Backfill, Error> {
    let expected = "'missing', 'all' or false";
    match take::<Value>(fields, "backfill", expected)? {
        None | Some(Value::Null) => Ok(Backfill::Missing),
        Some(Value::Bool(false)) => Ok(Backfill::None),
        Some(Value::String(which)) if which == "missing" => Ok(Backfill::Missing),
        Some(Value::String(which)) if which == "all" => Ok(Backfill::All),
        Some(_) => Err(invalid("backfill", expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: &str, options: &str) -> Result<Column, Error> {
        Prepared::of_column(Some(kind), Some("m"), Some(options)).map(|(_, column)| column)
    }

    #[test]
    fn a_request_is_read_back_with_an_input() {
        let made = column(
            "embed",
            r#"{"dimensions": 3, "batch_size": 7, "concurrency": 64, "backfill": "all"}"#,
        )
        .unwrap();
        assert_eq!((made.batch_size, made.concurrency, made.backfill), (7, 64, Backfill::All));
        let whole = made.request.replacen('{', r#"{"input": ["a"], "#, 1);
        let read = Prepared::of_job(&whole).unwrap();
        assert!(read.body().contains(r#""dimensions":3"#), "{}", read.body());

        let made =
            column("json", r#"{"schema": {"type": "object"}, "temperature": 1.50}"#).unwrap();
        assert_eq!((made.batch_size, made.concurrency, made.backfill), (32, 4, Backfill::Missing));
        assert!(!made.request.contains("messages"), "{}", made.request);
        assert!(made.request.contains("1.50"), "{}", made.request);
        let whole =
            made.request.replacen('{', r#"{"messages": [{"role": "user", "content": "a"}], "#, 1);
        assert!(Prepared::of_job(&whole).unwrap().check.is_some());
        let none = column("chat", r#"{"backfill": false}"#).unwrap();
        assert_eq!(none.backfill, Backfill::None);
        assert_eq!(column("chat", "null").unwrap().backfill, Backfill::Missing);
    }

    #[test]
    fn what_makes_no_column_is_refused() {
        for (kind, options, words) in [
            ("image", "{}", "p_kind must be"),
            ("chat", "[]", "options must be a JSON object"),
            ("chat", r#"{"backfill": true}"#, "options.backfill must be 'missing'"),
            ("chat", r#"{"backfill": "some"}"#, "options.backfill must be 'missing'"),
            ("chat", r#"{"concurrency": 65}"#, "options.concurrency must be"),
            ("chat", r#"{"concurrency": 0}"#, "options.concurrency must be"),
            ("chat", r#"{"batch_size": 0}"#, "options.batch_size must be"),
            ("embed", r#"{"batch_size": 2049}"#, "options.batch_size must be"),
            ("chat", r#"{"stream": true}"#, "options.stream is not"),
            ("chat", r#"{"throw_on_error": false}"#, "options.throw_on_error is not"),
            ("chat", r#"{"messages": []}"#, "options.messages is not"),
            ("embed", r#"{"input": "x"}"#, "options.input is not"),
            ("embed", r#"{"temperature": 1}"#, "unknown option 'temperature'"),
            ("chat", r#"{"temprature": 1}"#, "unknown option 'temprature'"),
            ("chat", r#"{"schema": {}}"#, "options.schema is for JSON"),
            ("json", "{}", "options.schema must be"),
        ] {
            let error = column(kind, options).unwrap_err();
            assert!(error.to_string().starts_with(words), "{kind} {options}: {error}");
            assert_eq!(error.sqlstate(), "PT400");
        }
        assert!(Prepared::of_column(None, Some("m"), None).is_err());
        assert!(Prepared::of_column(Some("chat"), None, None).is_err());
    }
}
