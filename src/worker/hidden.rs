//! What providers count beyond the bounds of requests, between one life of the worker and the next.

use crate::core::bound::Hidden;
use crate::fresh::{self, required};
use crate::gateway::task::HiddenTokens;
use crate::routing::pg_uuid;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi, SpiHeapTupleData};

/// What was seen so far. What cannot be read is seen again.
pub fn load(statements: &Statements) -> Vec<HiddenTokens> {
    let rows = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let rows = client.update(&statements.hidden, None, &[])?;
            rows.map(|row| read(&row)).collect::<spi::Result<Vec<_>>>()
        })
    });
    rows.unwrap_or_else(|failure| {
        pgrx::warning!("aggregator: hidden tokens cannot be read: {failure:?}");
        Vec::new()
    })
}

fn read(row: &SpiHeapTupleData) -> spi::Result<HiddenTokens> {
    Ok(HiddenTokens {
        provider: fresh::uuid(row, 1)?,
        model: required(row, 2)?,
        hidden: Hidden { input_tokens: required(row, 3)?, output_tokens: required(row, 4)? },
    })
}

/// Keeps what was seen now: rare, because a bound grows a few times at the most.
pub fn store(statements: &Statements, seen: &HiddenTokens) {
    let stored = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments = [
                pg_uuid(seen.provider).into(),
                seen.model.as_str().into(),
                seen.hidden.input_tokens.into(),
                seen.hidden.output_tokens.into(),
            ];
            client.update(&statements.note_hidden, None, &arguments).map(|_| ())
        })
    });
    if let Err(failure) = stored {
        pgrx::warning!("aggregator: hidden tokens are not noted: {failure:?}");
    }
}
