//! The wake-up at commit. A transaction that writes jobs keeps a connection to the gateway; when
//! it ends, one byte on it says so.
//!
//! In a commit callback nothing may fail, or the server goes down: so everything is made ready
//! before, and all that is left is one send that does not block and whose errors do not matter.
//! COMMIT PREPARED runs no callback: the worker looks by itself from time to time, and stays for as
//! long as there are prepared transactions.

use crate::error::Error;
use crate::protocol::{COMMITTED, ROLLED_BACK, Request};
use crate::session::link::{self, Link};
use pgrx::pg_sys;
use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The connection's descriptor while a transaction that writes jobs is open; else -1.
static TO_TELL: AtomicI32 = AtomicI32::new(-1);
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CONNECTION: Cell<Option<Link>> = const { Cell::new(None) };
}

/// The current transaction writes jobs: the worker runs from now on, and learns of its end.
pub fn open() -> Result<(), Error> {
    if TO_TELL.load(Ordering::Relaxed) >= 0 {
        return Ok(());
    }
    let link = link::accepted(&Request::Outbox, CONNECTION.take())?;
    let descriptor = link.stream.as_raw_fd();
    CONNECTION.set(Some(link));
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
    }
    TO_TELL.store(descriptor, Ordering::Relaxed);
    Ok(())
}

unsafe extern "C-unwind" fn at_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if !matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        return;
    }
    let descriptor = TO_TELL.swap(-1, Ordering::Relaxed);
    if descriptor >= 0 {
        let byte = if event == XACT_EVENT_ABORT { ROLLED_BACK } else { COMMITTED };
        // SAFETY: one byte of this frame; the connection is kept open by CONNECTION.
        unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::send(descriptor, (&raw const byte).cast(), 1, flags);
        }
    }
}
