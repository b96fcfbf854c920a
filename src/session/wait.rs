//! Waiting for the gateway without deafness: the session wakes for its latch (cancel, timeout,
//! termination), for the gateway's socket, and for a client that goes away.

use crate::error::Error;
use pgrx::pg_sys;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// A set of events, kept for as long as the connection to the gateway: making one costs as much as
/// a round trip.
pub struct WaitSet {
    set: *mut pg_sys::WaitEventSet,
    /// Where the gateway's socket stands in the set.
    socket: i32,
}

/// What the gateway's socket should be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    Reading,
    Writing,
}

/// Sleeps, awake for interrupts.
pub fn sleep(milliseconds: i64) {
    // SAFETY: MyLatch is the backend's own; a postmaster's death ends the process.
    unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let woken = pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            milliseconds as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        if woken & pg_sys::WL_LATCH_SET as i32 != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
    pgrx::check_for_interrupts!();
}

enum Woken {
    Socket,
    Latch,
    ClientGone,
}

impl WaitSet {
    pub fn new(socket: RawFd) -> Self {
        let null = std::ptr::null_mut();
        // SAFETY: the set outlives the transaction, so it belongs to no resource owner and to the
        // top memory context; Drop frees it. Latch and client socket live as long as the process,
        // and the gateway's socket is closed after the set. MyProcPort is NULL in background
        // workers, which have no client; its first member is the client's socket (libpq-be.h,
        // PostgreSQL 15 to 18).
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 4);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), 4);
            let add = |events, fd, latch| {
                pg_sys::AddWaitEventToSet(set, events, fd, latch, std::ptr::null_mut())
            };
            let socket = add(pg_sys::WL_SOCKET_READABLE, socket, null);
            add(pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch);
            add(pg_sys::WL_EXIT_ON_PM_DEATH, pg_sys::PGINVALID_SOCKET, null);
            if !pg_sys::MyProcPort.is_null() && pg_sys::WaitEventSetCanReportClosed() {
                let client = *pg_sys::MyProcPort.cast::<pg_sys::pgsocket>();
                add(pg_sys::WL_SOCKET_CLOSED, client, null);
            }
            Self { set, socket }
        }
    }

    /// Waits until the socket is ready; false: that moment came first. A cancel or a timeout raises
    /// PostgreSQL's own error from here, unwinding through the caller.
    pub fn ready(&self, direction: For, given_up: Option<Instant>) -> Result<bool, Error> {
        let events = match direction {
            For::Reading => pg_sys::WL_SOCKET_READABLE,
            For::Writing => pg_sys::WL_SOCKET_WRITEABLE,
        };
        // SAFETY: the position is that of the socket; nothing changes if the events do not.
        unsafe {
            pg_sys::ModifyWaitEvent(self.set, self.socket, events, std::ptr::null_mut());
        }
        loop {
            let timeout_ms = match given_up.map(|at| at.saturating_duration_since(Instant::now())) {
                None => -1,
                Some(Duration::ZERO) => return Ok(false),
                // Rounded up: woken a moment early, it would wait again for nothing.
                Some(left) => i64::try_from(left.as_millis()).unwrap_or(i64::MAX - 1) + 1,
            };
            match self.wait(timeout_ms) {
                Woken::Socket => return Ok(true),
                Woken::ClientGone => return Err(Error::ClientGone),
                Woken::Latch => {
                    pgrx::check_for_interrupts!();
                }
            }
        }
    }

    fn wait(&self, timeout_ms: std::ffi::c_long) -> Woken {
        let mut event = pg_sys::WaitEvent::default();
        // SAFETY: room for one event; after the latch fired it is reset before interrupts are
        // checked, so that none is missed.
        unsafe {
            let count = pg_sys::WaitEventSetWait(
                self.set,
                timeout_ms,
                &raw mut event,
                1,
                pg_sys::PG_WAIT_EXTENSION,
            );
            if count == 0 || event.events & pg_sys::WL_LATCH_SET != 0 {
                pg_sys::ResetLatch(pg_sys::MyLatch);
                return Woken::Latch;
            }
        }
        if event.events & pg_sys::WL_SOCKET_CLOSED != 0 { Woken::ClientGone } else { Woken::Socket }
    }
}

impl Drop for WaitSet {
    fn drop(&mut self) {
        // SAFETY: created in `new`, freed once.
        unsafe { pg_sys::FreeWaitEventSet(self.set) };
    }
}
