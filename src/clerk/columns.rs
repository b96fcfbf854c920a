//! What a clerk does for AI columns. Of one piece of work, what is the extension's own runs as its owner, what is the
//! user's as the role that has defined the column; nothing of the user's, which may be anything, runs as another.

mod backfill;
mod definition;
mod read;
mod role;
mod rows;
mod subtransaction;
mod take;
mod write;

use super::transaction::{report, served};
use crate::core::front::console::told::Raised;
use crate::installed::Installed;
use crate::protocol::clerk::Answer;
use crate::protocol::columns::{ColumnQuestion, OWN_TIME, TIME, Unit};
use std::time::Duration;

/// Does a piece of work, in one transaction or two. Whatever becomes of it, the process is nobody's again.
pub fn run(question: &ColumnQuestion) -> Answer {
    report(Some(&format!("AI column: {}", question.unit.name())));
    let told = match &question.unit {
        Unit::Take { is_first, most, bytes } => take::run(question, *is_first, *most, *bytes),
        Unit::Write { done, note } => {
            within(question, TIME, |installed| write::run(installed, question, done, note.as_ref()))
        }
        Unit::Backfill => within(question, TIME, |installed| backfill::run(installed, question)),
    };
    report(None);
    match told {
        Ok(told) => Answer::Told(told),
        Err(raised) => Answer::Failed(raised),
    }
}

/// Runs `work` in a transaction that is committed as the extension's owner.
fn within<T>(
    question: &ColumnQuestion,
    time: Duration,
    work: impl FnOnce(&Installed) -> Result<T, Raised>,
) -> Result<T, Raised> {
    role::transaction(true, time, || {
        let installed = served(question.extension).map_err(|error| role::told(&error))?;
        let done = work(&installed)?;
        let owner = installed.owner().map_err(|error| role::told(&error))?;
        role::end_as(owner);
        Ok(done)
    })
}

/// Likewise in one that writes nothing.
fn reading<T>(time: Duration, work: impl FnOnce() -> Result<T, Raised>) -> Result<T, Raised> {
    role::transaction(false, time, work)
}

/// Whether an error ends a whole piece of work, whichever row was in turn: its time is over, or the server's means are.
fn is_of_all(raised: &Raised) -> bool {
    matches!(raised.sqlstate.get(..2), Some("53" | "57" | "58" | "XX"))
}

/// Whether it is a lock that somebody else holds, or a name that has just become another, so that it may pass.
fn may_pass(raised: &Raised) -> bool {
    matches!(raised.sqlstate.as_str(), "55P03" | "40P01" | "40001" | "42P01" | "42703")
}
