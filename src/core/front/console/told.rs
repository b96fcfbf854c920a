//! What the console is told of an error: its words, what to do about it, and the status of its SQLSTATE.

use crate::core::secret;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most characters of a database's words that are repeated.
const LONGEST: usize = 1000;

/// An error as the database gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    pub sqlstate: String,
    pub message: String,
    pub hint: Option<String>,
    pub detail: Option<String>,
}

impl Raised {
    /// With few more words than are ever repeated: they may quote whatever a row holds.
    pub fn bounded(self) -> Self {
        Self {
            sqlstate: self.sqlstate,
            message: bounded(self.message),
            hint: self.hint.map(bounded),
            detail: self.detail.map(bounded),
        }
    }

    /// About how many bytes it takes in a frame.
    pub fn size(&self) -> usize {
        let more = [&self.hint, &self.detail].into_iter().flatten();
        64 + self.message.len() + more.map(String::len).sum::<usize>()
    }

    /// As [`Error::to_json`] has errors of our own.
    pub fn to_json(&self) -> Value {
        let Told { message, hint, code, sqlstate, .. } = Told::of_raised(self);
        json!({"message": message, "code": code, "sqlstate": sqlstate, "hint": hint})
    }
}

/// An error as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub status: u16,
    message: String,
    hint: Option<String>,
    code: String,
    sqlstate: String,
}

impl Told {
    /// An error of ours has its code before its detail; of any other the code is that of its status.
    pub fn of_raised(raised: &Raised) -> Self {
        let Raised { sqlstate, message, hint, detail } = raised;
        let status = status(sqlstate);
        let detail = detail.as_deref().unwrap_or_default();
        let (code, more) = match sqlstate.starts_with("PT") {
            true => detail.split_once(": ").map_or((detail, ""), |(code, more)| (code, more)),
            false => ("", ""),
        };
        let is_code = !code.is_empty()
            && code.len() <= 64
            && code
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
        let message = match (status, is_code && !more.is_empty()) {
            (504, false) if sqlstate == CANCELLED => {
                "it took too long, and was given up".to_owned()
            }
            // What a provider said.
            (_, true) => format!("{message}: {more}"),
            (_, false) => message.clone(),
        };
        Self {
            status,
            message: repeatable(&message),
            hint: hint.as_deref().map(repeatable),
            code: if is_code { code } else { code_of(status) }.to_owned(),
            sqlstate: sqlstate.clone(),
        }
    }

    /// An error of ours that no statement has raised.
    pub fn of(error: &Error) -> Self {
        Self {
            status: status(error.sqlstate()),
            message: error.in_full(),
            hint: error.hint(),
            code: error.code().to_owned(),
            sqlstate: error.sqlstate().to_owned(),
        }
    }

    /// What the console itself refuses.
    pub fn forbidden(message: &str, hint: Option<&str>) -> Self {
        Self {
            status: 403,
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
            code: code_of(403).to_owned(),
            sqlstate: "PT403".to_owned(),
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        let Self { message, hint, code, sqlstate, .. } = self;
        json!({"error": {"message": message, "hint": hint, "code": code, "sqlstate": sqlstate}})
            .to_string()
    }
}

const CANCELLED: &str = "57014";

/// The HTTP status of a SQLSTATE: of ours it says so itself.
fn status(sqlstate: &str) -> u16 {
    match sqlstate {
        // A provider refuses a key: 401 would say that of the caller's own credential.
        "PT401" => 424,
        CANCELLED => 504,
        // In a transaction that only reads; and without the right.
        "25006" | "42501" => 403,
        // A lock is held, or two wrote at one time.
        "55P03" | "40001" | "40P01" => 409,
        _ => match sqlstate.get(..2) {
            Some("PT") => {
                let status = sqlstate[2..].parse().ok();
                status.filter(|status| (400..600).contains(status)).unwrap_or(500)
            }
            // A value is none: what is no date, no number, no id.
            Some("22") => 400,
            // It breaks a rule of a table.
            Some("23") => 409,
            // No memory, disk or connections; or the server goes down.
            Some("53" | "57") => 503,
            _ => 500,
        },
    }
}

fn code_of(status: u16) -> &'static str {
    match status {
        400 => "bad_request",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        429 => "rate_limited",
        503 => "unavailable",
        504 => "timeout",
        _ => "database",
    }
}

/// Cut where a character ends, and beyond what is repeated, so that no part of a key ends that.
fn bounded(mut words: String) -> String {
    if let Some((end, _)) = words.char_indices().nth(2 * LONGEST) {
        words.truncate(end);
    }
    words
}

/// Words as far as they may be repeated: a trigger of an administrator may say anything.
fn repeatable(words: &str) -> String {
    secret::scrub(words, None).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(sqlstate: &str, message: &str, detail: Option<&str>) -> (u16, String, String) {
        let raised = Raised {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            hint: None,
            detail: detail.map(str::to_owned),
        };
        let told = Told::of_raised(&raised);
        let body: Value = serde_json::from_str(&told.body()).unwrap();
        assert_eq!(body["error"]["sqlstate"], sqlstate);
        assert_eq!(body["error"]["hint"], Value::Null);
        let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
        (told.status, text("message"), text("code"))
    }

    #[test]
    fn an_error_of_ours_has_its_status_and_its_code() {
        for (sqlstate, detail, expected) in [
            ("PT402", Some("budget_exceeded"), (402, "x", "budget_exceeded")),
            ("PT401", Some("key_refused: no such key"), (424, "x: no such key", "key_refused")),
            ("PT400", None, (400, "x", "bad_request")),
            // Of functions in SQL, a detail may be a sentence.
            ("PT404", Some("Nothing here: really"), (404, "x", "not_found")),
            ("PT999", Some("a"), (500, "x", "a")),
            ("PTabc", None, (500, "x", "database")),
        ] {
            let (status, message, code) = expected;
            let expected = (status, message.to_owned(), code.to_owned());
            assert_eq!(told(sqlstate, "x", detail), expected, "{sqlstate}");
        }
    }

    #[test]
    fn any_other_error_has_the_status_of_its_class() {
        for (sqlstate, status, code) in [
            ("57014", 504, "timeout"),
            ("25006", 403, "forbidden"),
            ("42501", 403, "forbidden"),
            ("22P02", 400, "bad_request"),
            ("22008", 400, "bad_request"),
            ("23505", 409, "conflict"),
            ("55P03", 409, "conflict"),
            ("40P01", 409, "conflict"),
            ("53200", 503, "unavailable"),
            ("57P01", 503, "unavailable"),
            ("42P01", 500, "database"),
            ("XX000", 500, "database"),
            ("", 500, "database"),
            ("é", 500, "database"),
        ] {
            let (found, _, found_code) = told(sqlstate, "x", Some("what: it is about"));
            assert_eq!((found, found_code.as_str()), (status, code), "{sqlstate}");
        }
    }

    #[test]
    fn what_is_raised_is_cut_where_a_character_ends() {
        let long = "\u{20ac}".repeat(9_000);
        let raised = Raised {
            sqlstate: "22P02".to_owned(),
            message: format!("\"{long}"),
            hint: Some("short".to_owned()),
            detail: Some(long),
        };
        let bounded = raised.bounded();
        assert_eq!(bounded.message, format!("\"{}", "\u{20ac}".repeat(1999)));
        assert_eq!(bounded.hint.as_deref(), Some("short"));
        assert_eq!(bounded.detail, Some("\u{20ac}".repeat(2000)));
        assert_eq!(bounded.size(), 64 + 5998 + 5 + 6000);
        assert_eq!(bounded.clone().bounded(), bounded);
    }

    #[test]
    fn an_error_without_a_statement_is_told_alike() {
        let told = Told::of(&Error::bad_request_hint("no", "Do."));
        let expected = json!({"error": {
            "message": "no", "hint": "Do.", "code": "bad_request", "sqlstate": "PT400"}});
        assert_eq!((told.status, told.body()), (400, expected.to_string()));
    }

    #[test]
    fn words_are_bounded_and_hold_no_key() {
        let (_, message, _) =
            told("P0001", &format!("sk-abcdefghijklmnopqrstuvwxyz {}", "é".repeat(5000)), None);
        assert!(message.starts_with("[key]"), "{message:.50}");
        assert_eq!(message.chars().count(), LONGEST);
    }

    proptest! {
        #[test]
        fn whatever_was_raised_is_a_status_and_json(
            sqlstate in "PT[0-9]{3}|PT\\PC{0,5}|[0-9A-Z]{5}|\\PC{0,6}",
            message in "\\PC{0,40}",
            detail in proptest::option::of("\\PC{0,10}(: )?\\PC{0,10}"),
        ) {
            let (status, _, code) = told(&sqlstate, &message, detail.as_deref());
            prop_assert!((400..600).contains(&status));
            prop_assert!(!code.is_empty());
        }
    }
}
