//! A part of a transaction that is undone alone where it fails.

use crate::clerk::transaction::raised;
use crate::core::front::console::told::Raised;
use crate::sqlstate;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction.
pub fn within<T>(work: impl FnOnce() -> Result<T, Raised>) -> Result<T, Raised> {
    // SAFETY: what plpgsql does for a block with exceptions, in a transaction and outside any statement: memory and
    // resources of now are put back after the subtransaction's end, whichever it is.
    let (memory, resources) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let end = move |is_kept: bool| {
        // SAFETY: as above.
        unsafe {
            if is_kept {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = resources;
        }
    };
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| {
        let result = work();
        end(result.is_ok());
        result
    }))
    .catch_others(|caught| {
        end(false);
        Err(raised(&caught))
    });
    sqlstate::catching(|| caught.execute())
}
