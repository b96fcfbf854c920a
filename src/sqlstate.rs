//! The SQLSTATE of an error on its way through Rust.
//!
//! pgrx's error codes are a closed enum: an error of any other code that a statement of ours raises (`PT404` of
//! our own functions, a code that a trigger of an administrator chose) comes out of pgrx as `XX000`. PostgreSQL
//! calls whoever has put himself on the stack of contexts when an error is thrown: the first time the code is
//! kept, and when the same error is thrown again as `XX000`, it is given its code back.

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int, c_void};

const INTERNAL: c_int = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as c_int;

unsafe extern "C-unwind" {
    /// `utils/elog.h`: sets the SQLSTATE of the error that is being thrown.
    fn errcode(sqlerrcode: c_int) -> c_int;
}

thread_local! {
    /// The code of the last error that pgrx does not know, and its message.
    static LAST: RefCell<Option<(c_int, CString)>> = const { RefCell::new(None) };
}

/// The one entry of ours. It is never freed and not on Rust's stack, which is unwound before an error is thrown
/// again. Only the main thread of a process has a stack of contexts.
static mut ENTRY: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(note),
    arg: std::ptr::null_mut(),
};

/// Runs `work`, whose errors keep their SQLSTATE. Who catches one in Rust runs it in [`catching`].
pub fn keeping<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: on the main thread, the only one that touches the stack and the entry. What is on the stack is
    // valid: frames of functions that have not returned, and the entry. After an error PostgreSQL or
    // `catching` puts the stack back, otherwise this does.
    unsafe {
        let before = pg_sys::error_context_stack;
        let mut known = before;
        while !known.is_null() && known != &raw mut ENTRY {
            known = (*known).previous;
        }
        if !known.is_null() {
            return work();
        }
        ENTRY.previous = before;
        pg_sys::error_context_stack = &raw mut ENTRY;
        let result = work();
        pg_sys::error_context_stack = before;
        result
    }
}

/// Runs what catches errors of PostgreSQL in Rust, and puts the stack of contexts back as it was.
pub fn catching<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: on the main thread; entries of functions that have not returned stay valid.
    unsafe {
        let before = pg_sys::error_context_stack;
        let result = work();
        pg_sys::error_context_stack = before;
        result
    }
}

/// The code of an error that was caught as `XX000`, if its message is that of the last one pgrx did not know.
pub fn of_unknown(message: &str) -> Option<c_int> {
    LAST.with_borrow(|last| {
        last.as_ref()
            .filter(|(_, text)| text.to_bytes() == message.as_bytes())
            .map(|(code, _)| *code)
    })
}

/// Called by PostgreSQL for each message, while it is being made.
unsafe extern "C-unwind" fn note(_argument: *mut c_void) {
    // SAFETY: PostgreSQL is making an error or a notice, so there is one to copy; it is copied into memory of
    // the transaction, because that of errors is emptied. Nothing in here raises but for want of memory.
    unsafe {
        if pg_sys::geterrcode() == 0 || pg_sys::TopTransactionContext.is_null() {
            return;
        }
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let error = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(before);
        let (level, code, text) = ((*error).elevel, (*error).sqlerrcode, (*error).message);
        if level == pg_sys::PGERROR as c_int && !text.is_null() {
            let text = CStr::from_ptr(text);
            if code != INTERNAL && PgSqlErrorCode::from(code) as c_int == INTERNAL {
                LAST.set(Some((code, text.to_owned())));
            } else if code == INTERNAL
                && let Some(kept) = text.to_str().ok().and_then(of_unknown)
            {
                errcode(kept);
            }
        }
        pg_sys::FreeErrorData(error);
    }
}
