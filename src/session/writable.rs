//! What a standby cannot do is refused before anything is begun, with the same error everywhere.

use crate::error::Error;
use crate::session::raise::or_raise;
use pgrx::prelude::*;

/// Refuses on a server in recovery.
pub fn require(action: &str) -> Result<(), Error> {
    // SAFETY: a plain read of a backend's state.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Err(Error::ReadOnly { action: action.to_owned() });
    }
    Ok(())
}

/// Raises PT503 on a server in recovery: for functions of SQL that write.
#[pg_extern]
fn aggregator_require_writable(p_action: &str) {
    let writable = require(p_action);
    or_raise(writable)
}
