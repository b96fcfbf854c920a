//! Rows of the ledger that were set aside, and what administrators do about them.

use crate::database::failed;
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::{identity, outbox, writable};
use pgrx::prelude::*;
use pgrx::spi::Spi;

/// Has the worker try again what it could not settle; returns how many rows that is. It does so once the
/// caller's transaction is committed.
#[pg_extern]
fn aggregator_retry_quarantined() -> i64 {
    let count = retry();
    or_raise(count)
}

fn retry() -> Result<i64, Error> {
    identity::require_admin("have rows of the usage log settled again")?;
    writable::require("have rows settled again")?;
    let installed = installed()?;
    let sql =
        installed.sql("UPDATE @extschema@.aggregator_quarantine SET retry_at = now() RETURNING 1");
    let count = as_owner(&installed, || {
        Spi::connect_mut(|client| {
            client.update(sql.as_str(), None, &[]).map(|rows| rows.len() as i64)
        })
    })
    .map_err(failed("have rows settled again"))?;
    // The worker runs from now on, and is told when this transaction ends.
    outbox::open()?;
    Ok(count)
}

/// How many rows are set aside now: the worker that this very statement has started may have added some.
pub fn count() -> Result<i64, Error> {
    let installed = installed()?;
    let sql = installed.sql("SELECT pg_catalog.count(*) FROM @extschema@.aggregator_quarantine");
    let count = || -> spi::Result<i64> {
        Spi::connect(|client| {
            let plan = Plan::prepare(client, &sql, &[])?;
            let rows = fresh::select(client, &plan, &[])?;
            required(rows.first().ok_or(fresh::UNREADABLE)?, 1)
        })
    };
    as_owner(&installed, count).map_err(failed("count the rows that are quarantined"))
}
