//! What the expression of a column gives for rows, read as its definer in a transaction that writes nothing.

use super::definition::Column;
use super::{is_of_all, role, subtransaction};
use crate::core::embedding::LONGEST_INPUT;
use crate::core::front::console::told::Raised;
use crate::protocol::columns::{Entry, Input};

/// Rows of one statement: what they give is in memory together, whatever that is.
const TOGETHER: usize = 16;

/// Reads the inputs of rows, into `inputs` at the same places, until they are so many bytes. An expression that fails
/// for a row fails that one alone; an error is one that ends all of it.
pub fn inputs(
    column: &Column,
    entries: &[&Entry],
    bytes: u64,
    inputs: &mut [Input],
) -> Result<(), Raised> {
    let places: Vec<usize> = (0..entries.len()).collect();
    let mut read = 0;
    for places in places.chunks(TOGETHER) {
        if read >= bytes {
            return Ok(());
        }
        match subtransaction::within(|| some(column, entries, places)) {
            Ok(found) => take(found, inputs, &mut read, bytes),
            Err(raised) if is_of_all(&raised) => return Err(raised),
            Err(_) => {
                for place in places {
                    if read >= bytes {
                        return Ok(());
                    }
                    match subtransaction::within(|| some(column, entries, &[*place])) {
                        Ok(found) => take(found, inputs, &mut read, bytes),
                        Err(raised) if is_of_all(&raised) => return Err(raised),
                        Err(raised) => {
                            read += raised.size() as u64;
                            inputs[*place] = Input::Failed(raised);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn take(found: Vec<(usize, Input)>, inputs: &mut [Input], read: &mut u64, bytes: u64) {
    for (place, input) in found {
        if let Input::Text(text) = &input {
            if *read >= bytes {
                continue;
            }
            *read += text.len() as u64;
        }
        if let Some(own) = inputs.get_mut(place) {
            *own = input;
        }
    }
}

fn some(
    column: &Column,
    entries: &[&Entry],
    places: &[usize],
) -> Result<Vec<(usize, Input)>, Raised> {
    let (keys, view) = (&column.keys, &column.view);
    // Computed once for each row, and found by its key, whatever else could be done with it.
    let sql = format!(
        "SELECT k.place, r.is_there, octet_length(r.input)::bigint,
            CASE WHEN octet_length(r.input) <= {LONGEST_INPUT} THEN r.input END
         FROM {} LEFT JOIN LATERAL (
            SELECT true AS is_there, v.input FROM {view} AS v WHERE {} OFFSET 0) AS r ON true",
        keys.table(None),
        keys.fit()
    );
    let rows: Vec<(usize, &[String])> =
        places.iter().map(|place| (*place, entries[*place].key.as_slice())).collect();
    let Some(arguments) = keys.arguments(&rows) else {
        // The table has another primary key by now: no row is found by the one of before.
        return Ok(places.iter().map(|place| (*place, Input::Gone)).collect());
    };
    role::with_client("read the input of an AI column", |client| {
        client
            .select(sql.as_str(), None, &arguments)?
            .map(|row| {
                let place = crate::fresh::required::<i32>(&row, 1)? as usize;
                let bytes = row.get::<i64>(3)?;
                let input = match (row.get::<bool>(2)?, bytes, row.get::<String>(4)?) {
                    (None, ..) => Input::Gone,
                    (_, None | Some(0), _) => Input::Nothing,
                    (_, Some(bytes), None) => Input::TooLong { bytes: bytes as u64 },
                    (_, Some(_), Some(text)) => Input::Text(text),
                };
                Ok((place, input))
            })
            .collect()
    })
}
