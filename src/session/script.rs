//! The end of the extension's own scripts, CREATE EXTENSION's and those of upgrades: what is new gets
//! its owner and its grants.

use crate::database::failed;
use crate::error::Error;
use crate::installed::{self, Installed};
use crate::session::owner::find;
use crate::session::raise::or_raise;
use pgrx::prelude::*;
use pgrx::spi::Spi;

/// Whether a row with this xmin was written by this very transaction, or a part of it.
#[pg_extern]
fn aggregator_is_new(xmin: pg_sys::TransactionId) -> bool {
    // SAFETY: a look at the state of this backend's own transaction.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(xmin) }
}

/// The last call of an install or upgrade script.
#[pg_extern]
fn aggregator_finish_script() {
    let finished = finish();
    or_raise(finished)
}

fn finish() -> Result<(), Error> {
    let installed = find()?;
    // SAFETY: plain reads of a backend's state.
    let is_script =
        unsafe { pg_sys::creating_extension && pg_sys::CurrentExtensionObject == installed.oid };
    if !is_script {
        return Err(Error::bad_request("only the extension's own scripts may call this"));
    }
    let version =
        Spi::connect(|client| installed.version(client)).map_err(failed("read the version"))?;
    if installed::is_library_older(&version) {
        return Err(installed::wrong_version(&version));
    }
    run(&installed, "SELECT @extschema@.aggregator_close_new()")?;
    let _outside = OutsideOfScript::new();
    run(&installed, "SELECT @extschema@.aggregator_open_new()")
}

fn run(installed: &Installed, sql: &str) -> Result<(), Error> {
    Spi::run(&installed.sql(sql)).map_err(failed("finish the script"))
}

/// While this lives, grants are not recorded as those that the extension came with (`pg_init_privs`),
/// which pg_dump leaves out.
struct OutsideOfScript;

impl OutsideOfScript {
    fn new() -> Self {
        // SAFETY: the flag is this backend's own; PostgreSQL clears it when a script fails.
        unsafe { pg_sys::creating_extension = false };
        Self
    }
}

impl Drop for OutsideOfScript {
    fn drop(&mut self) {
        // SAFETY: as above; it was set when this was made.
        unsafe { pg_sys::creating_extension = true };
    }
}
