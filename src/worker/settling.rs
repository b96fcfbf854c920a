//! Whether this process is writing the ledger at this moment, and adds what it settles to the sums
//! by itself, a batch at a time: the triggers that do so for everybody else then have nothing to do.

use pgrx::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_SETTLING: AtomicBool = AtomicBool::new(false);

/// Runs `write` as the ledger's writer.
pub fn settling<T>(write: impl FnOnce() -> T) -> T {
    IS_SETTLING.store(true, Ordering::Relaxed);
    let result = write();
    IS_SETTLING.store(false, Ordering::Relaxed);
    result
}

/// Declared in sql/rollup.sql.
#[pg_extern(sql = false)]
fn aggregator_is_settling() -> bool {
    IS_SETTLING.load(Ordering::Relaxed)
}
