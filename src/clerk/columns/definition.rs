//! What a column is, and where it is now.

use super::role::{self, Definer};
use super::rows::Keys;
use crate::core::front::console::told::Raised;
use crate::fresh::required;
use crate::installed::Installed;
use crate::protocol::columns::{ColumnQuestion, Definition, Note};
use crate::session::json::JsonText;
use crate::settings;
use pgrx::spi;
use serde_json::json;

/// Until a column without a view, or without triggers, is looked for again.
const DETACHED_MS: u64 = 60_000;

/// A column that can be worked on.
pub struct Column {
    pub definition: Definition,
    pub definer: Definer,
    /// Quoted, with their schema.
    pub view: String,
    /// Likewise, and without those that inherit from it.
    pub table: String,
    /// Quoted.
    pub output: String,
    pub keys: Keys,
    /// Of the backfill: all rows, or those without a value.
    pub wants_all: bool,
    pub backfill_after: Option<Vec<String>>,
}

/// What stands in the way of a column.
enum Obstacle {
    /// It is dropped, paused, or waits.
    Idle,
    /// Its view or its triggers are not there, or not yet.
    Detached,
    /// Until somebody looks after it.
    Problem(String),
}

/// The column of a question, if anything may be done for it now. `anyway`: something is to be written that was paid
/// for, also where it is paused.
pub fn find(
    installed: &Installed,
    question: &ColumnQuestion,
    anyway: bool,
) -> Result<Option<Column>, Raised> {
    const ACTION: &str = "find an AI column";
    let sql = installed.sql(include_str!("../../../sql/statements/ai_definition.sql"));
    let arguments = [question.column.to_string().into(), anyway.into()];
    let found = role::as_owner(installed, ACTION, |client| {
        let row = client.update(sql.as_str(), Some(1), &arguments)?.next();
        row.map(|row| read(&row)).unwrap_or(Ok(Err(Obstacle::Idle)))
    })?;
    match found {
        Ok(column) => Ok(Some(column)),
        Err(Obstacle::Idle) => Ok(None),
        Err(Obstacle::Detached) => {
            let error = json!({
                "message": "its view or its triggers are not there",
                "code": "detached",
                "sqlstate": "PT404",
                "hint": "Make the column once more with ai_column(), or drop it with ai_column_drop().",
            });
            let wait = Note::Wait { for_ms: DETACHED_MS, error: error.to_string() };
            note(installed, question, Some(&wait), None)?;
            Ok(None)
        }
        Err(Obstacle::Problem(problem)) => {
            let error = json!({
                "message": problem,
                "code": "forbidden",
                "sqlstate": "PT403",
                "hint": "See to it, then ai_column_resume().",
            });
            let sql = installed.sql(include_str!("../../../sql/statements/ai_pause.sql"));
            let arguments =
                [question.column.to_string().into(), JsonText(error.to_string()).into()];
            role::as_owner(installed, "pause an AI column", |client| {
                client.update(sql.as_str(), None, &arguments).map(|_| ())
            })?;
            Ok(None)
        }
    }
}

fn read(row: &spi::SpiHeapTupleData) -> spi::Result<Result<Column, Obstacle>> {
    let (Some(view), Some(key_types), true) =
        (row.get::<String>(15)?, row.get::<Vec<String>>(16)?, required::<bool>(row, 18)?)
    else {
        return Ok(Err(Obstacle::Detached));
    };
    if let Some(problem) = row.get::<String>(17)? {
        return Ok(Err(Obstacle::Problem(problem)));
    }
    let Some(role) = row.get::<pgrx::pg_sys::Oid>(13)? else {
        let name: String = required(row, 2)?;
        return Ok(Err(Obstacle::Problem(format!("role '{name}', who made it, is gone"))));
    };
    let user_id: String = required(row, 1)?;
    let number = |column| Ok::<_, spi::Error>(required::<i32>(row, column)?.max(1) as u32);
    Ok(Ok(Column {
        definer: Definer { role, name: required(row, 2)?, user_id: user_id.clone() },
        definition: Definition {
            user_id,
            kind: required(row, 3)?,
            model: required(row, 4)?,
            provider: row.get(5)?,
            request: required(row, 6)?,
            concurrency: number(7)?,
            batch_size: number(8)?,
            has_waited: required(row, 9)?,
            backfills: required(row, 10)?,
            label: row.get::<String>(14)?.unwrap_or_default(),
            max_attempts: settings::job_max_attempts().max(1) as u32,
        },
        view,
        table: required(row, 19)?,
        output: required(row, 21)?,
        keys: Keys::new(key_types, required(row, 20)?),
        wants_all: required::<String>(row, 11)? == "all",
        backfill_after: row.get(12)?,
    }))
}

/// Notes something of a column, and the last error of a row. Says whether it is noted: not where somebody holds the
/// column.
pub fn note(
    installed: &Installed,
    question: &ColumnQuestion,
    note: Option<&Note>,
    last_error: Option<&str>,
) -> Result<bool, Raised> {
    let (wait, error) = match note {
        Some(Note::Wait { for_ms, error }) => {
            (Some(i64::try_from(*for_ms).unwrap_or(i64::MAX)), Some(error.as_str()))
        }
        Some(Note::Goes) => (Some(0), last_error),
        None if last_error.is_none() => return Ok(true),
        None => (None, last_error),
    };
    let sql = installed.sql(include_str!("../../../sql/statements/ai_note.sql"));
    let error = error.map(|error| JsonText(error.to_owned()));
    let arguments = [question.column.to_string().into(), wait.into(), error.into()];
    role::as_owner(installed, "note what an AI column waits for", |client| {
        Ok(!client.update(sql.as_str(), None, &arguments)?.is_empty())
    })
}
