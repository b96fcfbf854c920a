//! What ends a clerk's statement: its time, the gateway, which sends SIGINT where nobody waits for the answer any
//! more, and SIGTERM, which ends the clerk with it.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::time::Duration;

/// `STATEMENT_TIMEOUT` of `utils/timeout.h`, the same in PostgreSQL 15 to 18.
const STATEMENT_TIMEOUT: u32 = 3;

unsafe extern "C-unwind" {
    /// `tcop/tcopprot.h`, for `pqsignal`, which takes no wrapper of pgrx's.
    #[link_name = "die"]
    fn end_at_next_interrupt(signal: c_int);
    /// `utils/timeout.h`, which pgrx does not bind.
    fn enable_timeout_after(id: u32, delay_ms: c_int);
    fn disable_timeout(id: u32, keep_indicator: bool);
}

/// Ends the process at SIGTERM as a session does, in the middle of a statement too. To be called before signals are
/// let through.
pub fn end_when_told() {
    // SAFETY: in a background worker that blocks signals still; the handler only notes what to do.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as c_int, Some(end_at_next_interrupt));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as c_int, Some(end_at_next_interrupt));
    }
}

/// Forgets cancels that came for what is done by now.
pub fn forget_cancels() {
    // SAFETY: a flag that signal handlers set, on the thread that they run on.
    unsafe { pg_sys::QueryCancelPending = 0 };
}

/// From now on the statement has so much time.
pub fn begin(patience: Duration) {
    let ms = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: every process that is connected to a database has this timeout, whose handler cancels the statement.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, ms) };
}

/// The statement is over.
pub fn end() {
    // SAFETY: as above; one that does not run is none to stop.
    unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
}
