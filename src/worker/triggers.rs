//! Whose triggers the worker runs: the extension's own, and those that a superuser has made run always
//! (`ENABLE ALWAYS`). What anybody else has put on the ledger, a webhook or an attack, does not run in it.

use crate::worker::process::{self, Failure};
use pgrx::spi::{self, Spi};

/// Before the first row is written. Says which triggers and rules are there that will not run.
pub fn prepare() {
    let armed = process::transaction(|installed| {
        Spi::connect_mut(|client| {
            let arm = installed.sql("SELECT @extschema@.aggregator_arm_triggers()");
            client.update(arm.as_str(), None, &[])?;
            let foreign =
                installed.sql("SELECT f FROM @extschema@.aggregator_foreign_triggers() AS f");
            client
                .select(foreign.as_str(), None, &[])?
                .map(|row| row.get::<String>(1))
                .collect::<spi::Result<Vec<_>>>()
        })
    });
    match armed {
        Ok(foreign) => {
            process::run_own_triggers_alone(true);
            for name in foreign.into_iter().flatten() {
                pgrx::warning!(
                    "aggregator: {name} is not the extension's, and the worker does not run it"
                );
            }
        }
        // The sums would no longer follow the ledger: better that all triggers run, as the owner, than none.
        Err(Failure::Database(reason) | Failure::Data(reason)) => {
            process::run_own_triggers_alone(false);
            pgrx::warning!(
                "aggregator: triggers that are not the extension's run in the worker: {reason}"
            );
        }
        Err(Failure::NotInstalled) => {}
    }
}
