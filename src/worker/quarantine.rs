//! Settlements that cannot be written: set aside with what is known, for administrators to see, so that
//! one row holds up no other.

use crate::gateway::task::{RowKey, Settle};
use crate::routing::pg_uuid;
use crate::time::timestamp;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi};

/// Tells the server log that rows were set aside now.
pub fn warn(set_aside: Option<i64>) {
    if let Some(count) = set_aside.filter(|count| *count > 0) {
        pgrx::warning!(
            "aggregator: {count} row(s) of the usage log cannot be settled and are quarantined: see \
             aggregator_quarantine"
        );
    }
}

/// Sets a settlement aside. Says whether that was possible.
pub fn set_aside(statements: &Statements, settle: &Settle, reason: &str, tries: u32) -> bool {
    let Ok(settlement) = serde_json::to_string(settle) else { return false };
    let key = settle.begin.key;
    process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments: [DatumWithOid<'_>; 7] = [
                pg_uuid(key.call_id).into(),
                key.attempt.into(),
                timestamp(key.created_at).into(),
                settle.begin.user_id.as_str().into(),
                reason.into(),
                i32::try_from(tries).unwrap_or(i32::MAX).into(),
                settlement.as_str().into(),
            ];
            client.update(&statements.set_aside, None, &arguments).map(|_| ())
        })
    })
    .is_ok()
}

/// Whether rows are set aside. Also where that cannot be found out.
pub fn is_there_any(statements: &Statements) -> bool {
    let any = process::transaction(|_| {
        Spi::connect(|client| {
            client.select(&statements.any_quarantined, Some(1), &[])?.first().get_one::<bool>()
        })
    });
    any != Ok(Some(false))
}

/// Tries rows of dead lives again, where somebody has asked for it.
pub fn retry_orphans(statements: &Statements) {
    let retried = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let rows = client.update(&statements.retry_orphans, Some(1), &[])?;
            rows.first().get_one::<i64>()
        })
    });
    warn(retried.ok().flatten());
}

/// Settlements that are to be tried again. One that cannot be read any more is left where it is.
pub fn wanted(statements: &Statements) -> Vec<Settle> {
    let found = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let rows = client.update(&statements.wanted_settlements, None, &[])?;
            rows.map(|row| row.get::<String>(1)).collect::<spi::Result<Vec<_>>>()
        })
    });
    let found = found.unwrap_or_default();
    found.into_iter().flatten().filter_map(|text| serde_json::from_str(&text).ok()).collect()
}

/// The row is written by now.
pub fn forget_written(statements: &Statements, key: RowKey) {
    let forgotten = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments: [DatumWithOid<'_>; 3] =
                [pg_uuid(key.call_id).into(), key.attempt.into(), timestamp(key.created_at).into()];
            client.update(&statements.forget_quarantined, None, &arguments).map(|_| ())
        })
    });
    if let Err(failure) = forgotten {
        pgrx::warning!("aggregator: aggregator_quarantine is not written: {failure:?}");
    }
}
