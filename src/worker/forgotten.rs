//! Users who were forgotten, between one life of the worker and the next, and what their open
//! transactions wrote since.

use crate::gateway::forgotten::Mark;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi};

/// Those whose calls may still be on their way.
pub fn load(statements: &Statements) -> Vec<Mark> {
    let rows = process::transaction(|_| {
        Spi::connect(|client| {
            client
                .select(&statements.forgotten, None, &[])?
                .map(|row| Ok((row.get::<Vec<u8>>(1)?, row.get::<i64>(2)?)))
                .collect::<spi::Result<Vec<_>>>()
        })
    });
    let marks = rows.unwrap_or_else(|failure| {
        pgrx::warning!("aggregator: who was forgotten cannot be read: {failure:?}");
        Vec::new()
    });
    marks
        .into_iter()
        .filter_map(|(hash, at)| Some((hash?.try_into().ok()?, u64::try_from(at?).ok()?)))
        .collect()
}

/// Deletes what transactions wrote of them that were open when they were forgotten. Says whether all of
/// those have ended.
pub fn sweep(statements: &Statements) -> bool {
    let swept = process::transaction(|_| {
        Spi::connect_mut(|client| {
            client
                .update(&statements.sweep_forgotten, None, &[])?
                .map(|row| row.get(1))
                .next()
                .transpose()
        })
    });
    match swept {
        // No row: nobody was forgotten lately.
        Ok(is_over) => is_over.flatten().unwrap_or(true),
        Err(failure) => {
            pgrx::warning!(
                "aggregator: what is left of forgotten users stays for now: {failure:?}"
            );
            true
        }
    }
}
