//! What becomes of rows that have no value, and the words for it.

use super::troubles::LONGEST_MS;
use crate::core::front::console::told::Raised;
use crate::core::json;
use crate::error::Error;
use crate::gateway::clerks::Undone;
use crate::protocol::columns::Became;
use std::borrow::Cow;
use std::time::Duration;

/// Queued once more, as a fault of nobody's.
pub fn uncounted() -> Became {
    Became::Again { after_ms: 0, is_counted: false, error: None }
}

/// Queued once more, or failed where it was tried as often as it may be.
pub fn again(
    attempts: u32,
    most: u32,
    asked: Option<Duration>,
    error: &str,
    is_counted: bool,
) -> Became {
    if is_counted && attempts >= most {
        return Became::Failed(error.to_owned());
    }
    let grown = 1000 * 2_u64.pow(attempts.min(8));
    let asked = asked.map_or(0, |asked| asked.as_millis() as u64);
    Became::Again {
        after_ms: asked.max(grown).min(LONGEST_MS),
        is_counted,
        error: Some(error.to_owned()),
    }
}

pub fn failed(error: &Error) -> Became {
    Became::Failed(clean(error.to_json().to_string()))
}

/// JSON that every database takes: what others have said may hold anything.
pub fn clean(json: String) -> String {
    match json::answer_for_jsonb(&json) {
        Cow::Owned(fit) => fit,
        Cow::Borrowed(_) => json,
    }
}

/// What is said of work that came to nothing.
pub fn raised_of(undone: &Undone) -> Raised {
    let of = |sqlstate: &str, message: String, hint: Option<String>| Raised {
        sqlstate: sqlstate.to_owned(),
        message,
        hint,
        detail: None,
    };
    match undone {
        Undone::Raised(raised) => raised.clone(),
        Undone::TooLong => of("57014", "it took too long".to_owned(), None),
        Undone::NoClerk(error) => of(error.sqlstate(), error.to_string(), error.hint()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_json_that_every_database_takes() {
        let words = |words: &str| clean(serde_json::json!({"message": words}).to_string());
        assert_eq!(words("no"), r#"{"message":"no"}"#);
        assert_eq!(words("a\0b"), r#"{"message":"a\ufffdb"}"#);
        // Six characters of a text, which are no NUL.
        assert_eq!(words(r"x\u0000"), r#"{"message":"x\\u0000"}"#);
        assert_eq!(words("\\\0"), r#"{"message":"\\\ufffd"}"#);
    }
}
