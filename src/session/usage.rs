//! What the worker does with the usage log from time to time, on request.

use crate::database::{failed, no_row};
use crate::error::Error;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::{identity, writable};
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::Spi;

/// Declared in sql/partitions.sql.
#[pg_extern(sql = false)]
fn maintain_usage()
-> TableIterator<'static, (name!(created, i32), name!(dropped, i32), name!(deleted, i64))> {
    let done = maintain();
    TableIterator::once(or_raise(done))
}

fn maintain() -> Result<(i32, i32, i64), Error> {
    const ACTION: &str = "maintain the usage log";
    identity::require_admin(ACTION)?;
    writable::require(ACTION)?;
    let installed = installed()?;
    let sql = installed.sql("SELECT * FROM @extschema@.aggregator_maintain_usage(true, $1)");
    let done = as_owner(&installed, || {
        Spi::connect_mut(|client| {
            let rows =
                client.update(sql.as_str(), Some(1), &[settings::usage_retention_s().into()])?;
            rows.first().get_three::<i32, i32, i64>()
        })
    });
    match done {
        Ok((Some(created), Some(dropped), Some(deleted))) => Ok((created, dropped, deleted)),
        Ok(_) => Err(no_row(ACTION)),
        Err(error) => Err(failed(ACTION)(error)),
    }
}
