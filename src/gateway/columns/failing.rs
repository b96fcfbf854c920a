//! What an error of a request means for its rows.

use crate::core::refusal::About;
use crate::error::Error;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Of these inputs: they would fail the same way.
    Row,
    /// It may pass, after what was asked for.
    Passing(Option<Duration>),
    /// Of whatever is asked for this column now: its model, its key, a limit, a provider that is down. It waits.
    Column(Option<Duration>),
    /// The user was forgotten, and the column with them.
    Over,
}

pub fn meaning(error: &Error) -> Meaning {
    match error {
        Error::Forgotten => Meaning::Over,
        Error::Upstream { refusal, .. } => {
            let after = refusal.retry_after_s.map(Duration::from_secs);
            match (refusal.about, refusal.status) {
                (About::Key | About::Permission | About::Credit, _) => Meaning::Column(after),
                (About::TooLong, _) => Meaning::Row,
                (About::Other, 401..=404 | 429 | 501) => Meaning::Column(after),
                (About::Other, 408 | 500..=599) => Meaning::Passing(after),
                (About::Other, _) => Meaning::Row,
            }
        }
        Error::Deadline { .. }
        | Error::Stalled { .. }
        | Error::Disconnected { .. }
        | Error::AnswerOutOfMemory { .. }
        | Error::Internal { .. } => Meaning::Passing(None),
        Error::BadRequest { .. }
        | Error::RequestTooLarge { .. }
        | Error::RequestBeyond { .. }
        | Error::SchemaViolation { .. }
        | Error::BrokenAnswer { .. }
        | Error::AnswerTooLarge { .. }
        | Error::OutOfMemory { may_pass: false, .. } => Meaning::Row,
        _ => Meaning::Column(error.turn_in()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::refusal::Refusal;
    use crate::error::{Shortfall, Target};

    fn target() -> Target {
        Target { provider: "p".to_owned(), model: "m".to_owned() }
    }

    fn refused(status: u16, words: &str, after: Option<u64>) -> Meaning {
        let refusal = Refusal::new(status, None, Some(words.to_owned()));
        let refusal = Box::new(Refusal { retry_after_s: after, ..refusal });
        meaning(&Error::Upstream { target: target(), refusal })
    }

    #[test]
    fn a_refusal_is_of_the_row_the_moment_or_the_column() {
        for (status, words, expected) in [
            (400, "no", Meaning::Row),
            (413, "request too large", Meaning::Row),
            (422, "no", Meaning::Row),
            (401, "bad key", Meaning::Column(None)),
            (402, "pay", Meaning::Column(None)),
            (404, "no such model", Meaning::Column(None)),
            (429, "slow down", Meaning::Column(None)),
            (501, "no", Meaning::Column(None)),
            (408, "late", Meaning::Passing(None)),
            (500, "boom", Meaning::Passing(None)),
            (529, "overloaded", Meaning::Passing(None)),
        ] {
            assert_eq!(refused(status, words, None), expected, "{status}");
        }
        let after = Some(Duration::from_secs(7));
        assert_eq!(refused(429, "slow down", Some(7)), Meaning::Column(after));
        assert_eq!(refused(503, "down", Some(7)), Meaning::Passing(after));
    }

    #[test]
    fn limits_and_what_is_missing_make_the_column_wait() {
        let shortfall = Box::new(Shortfall {
            period: "day".to_owned(),
            whose: String::new(),
            unit: "USD".to_owned(),
            needed: "1".to_owned(),
            left: None,
            is_set_aside: false,
        });
        let of_all = [
            Error::BudgetExceeded { target: target(), shortfall },
            Error::NoRoute { model: "m".to_owned() },
            Error::NoKey { provider: "p".to_owned() },
            Error::Unreachable { target: target(), reason: "refused".to_owned() },
            Error::stopping(),
        ];
        for error in &of_all {
            assert_eq!(meaning(error), Meaning::Column(None), "{error}");
        }
        let limited = Error::RateLimited { target: target(), limit: "1".to_owned(), wait_ms: 2500 };
        assert_eq!(meaning(&limited), Meaning::Column(Some(Duration::from_millis(2500))));
        assert_eq!(meaning(&Error::Forgotten), Meaning::Over);
        let late = Error::Deadline { target: target(), waited_ms: 1 };
        assert_eq!(meaning(&late), Meaning::Passing(None));
        assert_eq!(meaning(&Error::bad_request("no")), Meaning::Row);
    }
}
