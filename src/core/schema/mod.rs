//! Answers in JSON that fit a schema: whether a schema can be used, whether an answer fits it, and in which words
//! it does not.
//!
//! Both come from outside. So a schema has a largest size, refers to nothing but itself, and has expressions that are
//! matched in linear time; and what the check of an answer takes is counted before it is done.

pub mod ask;
pub mod extract;
mod strict;
#[cfg(test)]
mod tests;
mod walk;

use self::walk::Effort;
use crate::core::json;
use crate::core::scan::Scanner;
use crate::error::Error;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use std::fmt::Write;

/// Bytes of a schema.
pub const LARGEST_SCHEMA: usize = 64 << 10;
/// How often a model is asked again, where nobody says, and at the most.
pub const DEFAULT_REPAIRS: u16 = 2;
pub const MOST_REPAIRS: u16 = 5;

/// Bytes and values of JSON that is checked.
const LARGEST_ANSWER: usize = 1 << 20;
const MOST_VALUES: usize = 100_000;
/// Violations that are told, and the bytes of each.
const MOST_VIOLATIONS: usize = 10;
const LONGEST_VIOLATION: usize = 300;
/// Bytes of a compiled expression: what it takes of memory, and for each byte that it looks at, of time.
const LARGEST_PATTERN: usize = 64 << 10;

/// A schema, compiled.
pub struct Schema {
    text: String,
    value: Value,
    validator: Validator,
    /// As strict modes take it.
    strict: Option<String>,
    memory: usize,
    /// Its answers are objects: what a function can be called with.
    is_of_objects: bool,
}

/// Refuses what cannot be a schema, at little cost: the rest is told by [`Schema::read`].
pub fn outline(text: &str) -> Result<(), Error> {
    if text.len() > LARGEST_SCHEMA {
        return Err(wrong(format!("may have {LARGEST_SCHEMA} bytes at the most")));
    }
    match text.trim_start().starts_with('{') {
        true => Ok(()),
        false => Err(wrong("must be a JSON object")),
    }
}

impl Schema {
    /// Takes time and memory in proportion to the bounds above: not for a thread that others wait for.
    pub fn read(text: &str) -> Result<Self, Error> {
        outline(text)?;
        let mut scanner = Scanner::new(text);
        let scanned = scanner.skip().map(drop).and_then(|()| scanner.end());
        scanned.map_err(|unfit| wrong(unfit.to_string()))?;
        let value: Value = serde_json::from_str(text).map_err(|_| wrong("is not JSON"))?;
        let compiled = walk::survey(&value).map_err(wrong)?;
        let options = jsonschema::options().offline().should_validate_formats(true);
        let patterns = PatternOptions::regex().size_limit(LARGEST_PATTERN);
        let validator = options
            .with_pattern_options(patterns.dfa_size_limit(LARGEST_PATTERN))
            .build(&value)
            .map_err(|error| wrong(format!("cannot be used: {}", told(&error))))?;
        let is_of_objects = value.get("type").is_some_and(|kind| kind == "object");
        let strict = strict::form(&value).filter(|_| is_of_objects);
        let strict = strict.map(|strict| strict.to_string());
        // As text, as values, and as strict modes take it.
        let memory = compiled + 16 * text.len();
        Ok(Self { text: text.to_owned(), value, validator, strict, memory, is_of_objects })
    }

    /// Bytes that it takes for as long as a call has it, at about.
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The JSON in what a model says that fits, fit for `jsonb`; else in which words it does not.
    pub fn find(&self, said: &str) -> Result<String, Vec<String>> {
        if said.len() > LARGEST_ANSWER {
            return Err(vec![format!("the answer has more than {LARGEST_ANSWER} bytes")]);
        }
        let mut first = None;
        for candidate in extract::candidates(said) {
            let Ok(fit) = json::fit_for_jsonb(candidate) else { continue };
            match self.violations(&fit) {
                violations if violations.is_empty() => return Ok(fit.into_owned()),
                violations => drop(first.get_or_insert(violations)),
            }
        }
        Err(first.unwrap_or_else(|| vec!["there is no complete JSON in the answer".to_owned()]))
    }

    fn violations(&self, text: &str) -> Vec<String> {
        let mut scanner = Scanner::new(text);
        if scanner.skip().is_err() || scanner.values() > MOST_VALUES {
            return vec![format!("it has more than {MOST_VALUES} values, or is nested too deep")];
        }
        let instance: Value = match serde_json::from_str(text) {
            Ok(instance) => instance,
            Err(error) => return vec![format!("it cannot be read: {error}")],
        };
        match walk::effort(&self.value, &instance) {
            Effort::TooMuch => vec!["it takes too long to be checked".to_owned()],
            // Without a list of all that is wrong.
            Effort::Check if self.validator.is_valid(&instance) => vec![],
            Effort::Check => vec!["it does not fit, and is too large to say where".to_owned()],
            Effort::Tell => self
                .validator
                .iter_errors(&instance)
                .take(MOST_VIOLATIONS)
                .map(|e| told(&e))
                .collect(),
        }
    }
}

/// What is wrong, and where.
fn told(error: &jsonschema::ValidationError<'_>) -> String {
    let mut words = Short(String::new());
    let place = error.instance_path().as_str();
    // It ends with an error where there is no more room.
    let _ = match place.is_empty() {
        true => write!(words, "{error}"),
        false => write!(words, "at {place}: {error}"),
    };
    words.0
}

/// A text that does not grow beyond its bound, and says nothing that a text of SQL cannot.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }) {
            if self.0.len() + c.len_utf8() > LONGEST_VIOLATION {
                self.0.push('…');
                return Err(std::fmt::Error);
            }
            self.0.push(c);
        }
        Ok(())
    }
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::bad_request_hint(
        format!("schema {what}"),
        "It is a JSON Schema, which refers to nothing but its own parts ('#/$defs/name').",
    )
}
