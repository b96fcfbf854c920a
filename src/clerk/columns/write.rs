//! Writing what became of rows: values into the user's table, as the definer, and the rest into the queue. All of it in
//! one transaction; a row whose value the table does not take fails alone.

use super::definition::{self, Column};
use super::{is_of_all, may_pass, role, subtransaction};
use crate::core::front::console::told::Raised;
use crate::fresh::{UNREADABLE, required};
use crate::installed::Installed;
use crate::protocol::columns::{Became, ColumnQuestion, Done, Entry, Note, Told, Value};
use crate::session::ai_columns;
use crate::session::json::JsonText;
use pgrx::datum::DatumWithOid;
use serde_json::{Value as Json, json};
use std::collections::HashSet;

pub fn run(
    installed: &Installed,
    question: &ColumnQuestion,
    done: &[Done],
    note: Option<&Note>,
) -> Result<Told, Raised> {
    let (locked, mut held) = lock(installed, question, done)?;
    let mut ended: Vec<Json> = Vec::new();
    let mut last_error = None;
    let mut values: Vec<usize> = Vec::new();
    for place in locked {
        match &done[place].became {
            Became::Value(_) | Became::Gone => values.push(place),
            Became::Failed(error) => ended.push(failed(&done[place], error, &mut last_error)),
            Became::Again { after_ms, is_counted, error } => {
                let mut item = item(&done[place], Some("queued"), error.as_deref());
                item["after_ms"] = (*after_ms).into();
                item["is_counted"] = (*is_counted).into();
                ended.push(item);
            }
        }
    }
    if !values.is_empty() {
        match definition::find(installed, question, true)? {
            Some(column) => {
                let written = role::as_definer(&column.definer, || {
                    ai_columns::writing(question.column, || write(&column, done, &values))
                })?;
                held.extend(written.held);
                for (place, raised) in written.failed {
                    let error = raised.to_json().to_string();
                    ended.push(failed(&done[place], &error, &mut last_error));
                }
                ended.extend(written.done.iter().map(|place| item(&done[*place], None, None)));
            }
            // It was dropped, or is somebody else's by now: its rows wait for what becomes of that.
            None => ended.extend(values.iter().map(|place| {
                let mut item = item(&done[*place], Some("queued"), None);
                item["is_counted"] = false.into();
                item
            })),
        }
    }
    if !ended.is_empty() {
        let sql = installed.sql(include_str!("../../../sql/statements/ai_finish.sql"));
        let ended = JsonText(Json::from(ended).to_string());
        let arguments = [question.column.to_string().into(), ended.into()];
        role::as_owner(installed, "end the work on rows of an AI column", |client| {
            client.update(sql.as_str(), None, &arguments).map(|_| ())
        })?;
    }
    let is_noted = definition::note(installed, question, note, last_error.as_deref())?;
    held.sort_unstable();
    Ok(Told::Written { held: held.into_iter().map(|place| place as u32).collect(), is_noted })
}

/// One of the list that `ai_finish.sql` takes.
fn item(done: &Done, status: Option<&str>, error: Option<&str>) -> Json {
    let error: Option<Json> = error.and_then(|error| serde_json::from_str(error).ok());
    let Entry { key, version } = &done.entry;
    json!({"key": key, "version": version, "status": status, "error": error})
}

fn failed(done: &Done, error: &str, last_error: &mut Option<String>) -> Json {
    *last_error = Some(error.to_owned());
    item(done, Some("failed"), Some(error))
}

/// Locks the entries whose rows nobody has changed since: the places of those that are locked now, and of those that
/// somebody else holds.
fn lock(
    installed: &Installed,
    question: &ColumnQuestion,
    done: &[Done],
) -> Result<(Vec<usize>, Vec<usize>), Raised> {
    if done.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let current = installed.sql(include_str!("../../../sql/statements/ai_current.sql"));
    let locking = format!("{current} FOR UPDATE OF q SKIP LOCKED");
    let items: Json = done.iter().map(|done| json!([done.entry.key, done.entry.version])).collect();
    let items = items.to_string();
    role::as_owner(installed, "find the entries of rows of an AI column", |client| {
        let mut places = |sql: &str| {
            let arguments: [DatumWithOid<'_>; 3] = [
                question.column.to_string().into(),
                question.epoch.into(),
                JsonText(items.clone()).into(),
            ];
            client
                .update(sql, None, &arguments)?
                .map(|row| Ok(required::<i32>(&row, 1)?.max(1) as usize - 1))
                .collect::<pgrx::spi::Result<Vec<_>>>()
        };
        let current = places(&current)?;
        let locked = places(&locking)?;
        let own: HashSet<usize> = locked.iter().copied().collect();
        Ok((locked, current.into_iter().filter(|place| !own.contains(place)).collect()))
    })
}

/// The places of rows that are done with, that somebody holds, and that have failed.
#[derive(Default)]
struct Written {
    done: Vec<usize>,
    held: Vec<usize>,
    failed: Vec<(usize, Raised)>,
}

/// Writes values, as the definer.
fn write(column: &Column, done: &[Done], places: &[usize]) -> Result<Written, Raised> {
    const ACTION: &str = "write the values of an AI column";
    let (table, fit, keys) = (&column.table, column.keys.fit_table(), column.keys.table(None));
    let mut written = Written::default();
    let rows: Vec<(usize, &[String])> =
        places.iter().map(|place| (*place, done[*place].entry.key.as_slice())).collect();
    if column.keys.arguments(&rows).is_none() {
        // The table has another primary key by now: the rows have other entries, or will have.
        written.done = places.to_vec();
        return Ok(written);
    }
    let find = |sql: String| {
        role::with_client(ACTION, |client| {
            let arguments = column.keys.arguments(&rows).ok_or(UNREADABLE)?;
            client
                .update(sql.as_str(), None, &arguments)?
                .map(|row| Ok(required::<i32>(&row, 1)? as usize))
                .collect::<pgrx::spi::Result<HashSet<_>>>()
        })
    };
    // In the table itself: of a view whose rows are locked PostgreSQL computes all, the input too.
    let there = find(format!("SELECT k.place FROM {keys} JOIN {table} AS t ON {fit}"))?;
    let locked = find(format!(
        "SELECT k.place FROM {keys} JOIN {table} AS t ON {fit} FOR UPDATE OF t SKIP LOCKED"
    ))?;
    let mut updates: Vec<usize> = Vec::new();
    for place in places {
        match (there.contains(place), locked.contains(place), &done[*place].became) {
            // It is gone, or will be read once more.
            (false, ..) => written.done.push(*place),
            (true, false, _) | (_, _, Became::Gone) => written.held.push(*place),
            (true, true, _) => updates.push(*place),
        }
    }
    // What a row breaks is to be known now, and of which row.
    role::with_client(ACTION, |client| {
        client.update("SET CONSTRAINTS ALL IMMEDIATE", None, &[]).map(|_| ())
    })?;
    match subtransaction::within(|| update(column, done, &updates)) {
        Ok(()) => written.done.extend(updates),
        Err(raised) if is_of_all(&raised) => return Err(raised),
        Err(_) => {
            for place in updates {
                match subtransaction::within(|| update(column, done, &[place])) {
                    Ok(()) => written.done.push(place),
                    Err(raised) if is_of_all(&raised) => return Err(raised),
                    Err(raised) if may_pass(&raised) => written.held.push(place),
                    Err(raised) => written.failed.push((place, raised)),
                }
            }
        }
    }
    Ok(written)
}

fn update(column: &Column, done: &[Done], places: &[usize]) -> Result<(), Raised> {
    if places.is_empty() {
        return Ok(());
    }
    let cast = match column.definition.kind.as_str() {
        "embed" => "::real[]",
        "json" => "::jsonb",
        _ => "",
    };
    // To the column's type as an assignment does it: of a text that is too long for it nothing is cut off.
    let sql = format!(
        "UPDATE {} AS t SET {} = k.value{cast} FROM {} WHERE {}",
        column.table,
        column.output,
        column.keys.table(Some("value")),
        column.keys.fit_table()
    );
    let rows: Vec<(usize, &[String])> =
        places.iter().map(|place| (*place, done[*place].entry.key.as_slice())).collect();
    let values: Vec<Option<String>> = places.iter().map(|place| text(&done[*place])).collect();
    role::with_client("write the values of an AI column", |client| {
        let mut arguments = column.keys.arguments(&rows).ok_or(UNREADABLE)?;
        arguments.push(values.into());
        client.update(sql.as_str(), None, &arguments).map(|_| ())
    })
}

fn text(done: &Done) -> Option<String> {
    match &done.became {
        Became::Value(Value::Text(text) | Value::Json(text)) => Some(text.clone()),
        Became::Value(Value::Vector(numbers)) => {
            let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:e}")).collect();
            Some(format!("{{{}}}", numbers.join(",")))
        }
        _ => None,
    }
}
