//! Taking rows that are due: their entries are leased and that is committed, then their inputs are read.

use super::{OWN_TIME, TIME, definition, read, reading, role, within};
use crate::core::front::console::told::Raised;
use crate::fresh::required;
use crate::protocol::columns::{
    ColumnQuestion, Entry, Input, MOST_BYTES, MOST_ROWS, Taken, TakenRow, Told,
};

/// A row whose worker or clerk has died so often fails.
const MOST_CLAIMS: i32 = 20;

pub fn run(
    question: &ColumnQuestion,
    is_first: bool,
    most: u32,
    bytes: u64,
) -> Result<Told, Raised> {
    let claimed = within(question, OWN_TIME, |installed| {
        let Some(column) = definition::find(installed, question, false)? else { return Ok(None) };
        let id = question.column.to_string();
        if is_first {
            let sql = installed.sql(include_str!("../../../sql/statements/ai_reset.sql"));
            let arguments = [id.as_str().into(), MOST_CLAIMS.into()];
            role::as_owner(installed, "look for lost rows of an AI column", |client| {
                client.update(sql.as_str(), None, &arguments).map(|_| ())
            })?;
        }
        let wanted = wanted(&column.definition).min(most as usize).clamp(1, MOST_ROWS);
        let sql = installed.sql(include_str!("../../../sql/statements/ai_claim.sql"));
        let arguments = [id.as_str().into(), question.epoch.into(), (wanted as i64).into()];
        let rows = role::as_owner(installed, "take rows of an AI column", |client| {
            client
                .update(sql.as_str(), None, &arguments)?
                .map(|row| {
                    let entry = Entry { key: required(&row, 1)?, version: required(&row, 2)? };
                    Ok((entry, required::<i32>(&row, 3)?.max(1) as u32))
                })
                .collect::<pgrx::spi::Result<Vec<_>>>()
        })?;
        Ok(Some((column, rows, wanted)))
    })?;
    let Some((column, rows, wanted)) = claimed else { return Ok(Told::Idle) };
    let has_more = rows.len() == wanted;
    let mut inputs: Vec<Input> = rows.iter().map(|_| Input::Unread).collect();
    let mut trouble = None;
    if !rows.is_empty() {
        let entries: Vec<&Entry> = rows.iter().map(|(entry, _)| entry).collect();
        let bytes = bytes.min(MOST_BYTES as u64);
        let read = reading(TIME, || {
            role::as_definer(&column.definer, || {
                read::inputs(&column, &entries, bytes, &mut inputs)
            })
        });
        trouble = read.err();
    }
    let rows = rows.into_iter().zip(inputs);
    let rows = rows.map(|((entry, attempts), input)| TakenRow { entry, attempts, input });
    let definition = column.definition;
    Ok(Told::Taken(Box::new(Taken { definition, rows: rows.collect(), has_more, trouble })))
}

/// As many rows as keep its requests busy while the next ones are taken.
fn wanted(definition: &crate::protocol::columns::Definition) -> usize {
    let (concurrency, batch) = (definition.concurrency as usize, definition.batch_size as usize);
    match definition.kind.as_str() {
        "embed" => 2 * concurrency * batch,
        _ => batch.max(2 * concurrency),
    }
}
