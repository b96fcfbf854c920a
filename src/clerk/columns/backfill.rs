//! Queueing rows that were there before their column, some at a time and in the order of their keys.

use super::{definition, role};
use crate::core::front::console::told::Raised;
use crate::fresh::{UNREADABLE, required};
use crate::installed::Installed;
use crate::protocol::columns::{ColumnQuestion, Told};
use crate::session::json::JsonText;
use pgrx::datum::DatumWithOid;
use serde_json::Value;

/// Rows that one piece of work looks at.
const ROWS: usize = 1000;

pub fn run(installed: &Installed, question: &ColumnQuestion) -> Result<Told, Raised> {
    const ACTION: &str = "backfill an AI column";
    let nothing = Told::Backfilled { queued: 0, goes_on: false };
    let Some(column) = definition::find(installed, question, false)? else { return Ok(Told::Idle) };
    let id = question.column.to_string();
    let room = installed.sql(include_str!("../../../sql/statements/ai_backfill_room.sql"));
    let has_room = role::as_owner(installed, ACTION, |client| {
        client.update(room.as_str(), Some(1), &[id.as_str().into()])?.first().get_one::<bool>()
    })?;
    if !column.definition.backfills || has_room != Some(true) {
        return Ok(nothing);
    }
    let keys = &column.keys;
    let after = column.backfill_after.filter(|after| after.len() == keys.count());
    // Of the table itself: through the view an expression might be computed too, which is for what only reads.
    let (list, table) = (keys.list("::text"), &column.table);
    let is_wanted = match column.wants_all {
        true => "true".to_owned(),
        false => format!("t.{} IS NULL", column.output),
    };
    let so_far = after.as_ref().map(|_| format!("WHERE {}", keys.after())).unwrap_or_default();
    let sql = format!(
        "SELECT ARRAY[{list}], {is_wanted} FROM {table} AS t {so_far} ORDER BY {} LIMIT {ROWS}",
        keys.list("")
    );
    let arguments: Vec<DatumWithOid<'_>> =
        after.iter().flatten().map(|part| part.as_str().into()).collect();
    let rows: Vec<(Vec<String>, bool)> = role::as_definer(&column.definer, || {
        role::with_client(ACTION, |client| {
            client
                .update(sql.as_str(), None, &arguments)?
                .map(|row| Ok((required(&row, 1)?, required(&row, 2)?)))
                .collect()
        })
    })?;
    let is_all = rows.len() < ROWS;
    let last = rows.last().map(|(key, _)| key.clone());
    let wanted: Vec<Value> = rows
        .iter()
        .filter(|(_, is_wanted)| *is_wanted)
        .map(|(key, _)| key.clone().into())
        .collect();
    let sql = installed.sql(include_str!("../../../sql/statements/ai_backfill.sql"));
    let arguments: [DatumWithOid<'_>; 5] = [
        id.as_str().into(),
        JsonText(Value::from(wanted).to_string()).into(),
        (rows.len() as i64).into(),
        last.into(),
        is_all.into(),
    ];
    let queued = role::as_owner(installed, ACTION, |client| {
        client
            .update(sql.as_str(), Some(1), &arguments)?
            .first()
            .get_one::<i32>()?
            .ok_or(UNREADABLE)
    })?;
    Ok(Told::Backfilled { queued: queued.max(0) as u32, goes_on: !is_all })
}
