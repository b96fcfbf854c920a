//! The SQLSTATE of an error on its way through Rust, and the names of what it is about.
//!
//! pgrx's error codes are a closed enum: an error of any other code that a statement of ours raises (`PT404` of
//! our own functions, a code that a trigger of an administrator chose) comes out of pgrx as `XX000`. The names of
//! its constraint, table and column do not come out at all. PostgreSQL calls whoever is on the stack of contexts
//! when an error is thrown: the first time what pgrx loses is kept, and when the same error is thrown again it is
//! given back.

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

const INTERNAL: c_int = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as c_int;

unsafe extern "C-unwind" {
    /// `utils/elog.h`: sets the SQLSTATE of the error that is being thrown.
    fn errcode(sqlerrcode: c_int) -> c_int;
    /// Likewise: sets one of its names.
    fn err_generic_string(field: c_int, text: *const c_char) -> c_int;
}

/// What pgrx loses of an error.
struct Lost {
    code: c_int,
    message: CString,
    names: [Option<CString>; 5],
}

/// PG_DIAG_SCHEMA_NAME and its like, of `postgres_ext.h`, in the order of [`names`].
const FIELDS: [u8; 5] = *b"stcdn";

fn names(error: &pg_sys::ErrorData) -> [*mut c_char; 5] {
    [
        error.schema_name,
        error.table_name,
        error.column_name,
        error.datatype_name,
        error.constraint_name,
    ]
}

thread_local! {
    /// Of the last error of which something was lost.
    static LAST: RefCell<Option<Lost>> = const { RefCell::new(None) };
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
    // SAFETY: the entry is static.
    unsafe { with_entry(&raw mut ENTRY, work) }
}

/// Runs `work` with an entry on the stack of contexts, where it is not there already: twice on it, it would
/// make a circle. It stays after an error, for those through whom that passes.
///
/// # Safety
/// The entry is never freed, and nobody else changes it.
pub unsafe fn with_entry<T>(
    entry: *mut pg_sys::ErrorContextCallback,
    work: impl FnOnce() -> T,
) -> T {
    // SAFETY: on the main thread, the only one that touches the stack and its entries. What is on the stack is
    // valid: frames of functions that have not returned, and such entries. After an error PostgreSQL or
    // `catching` puts the stack back, otherwise this does.
    unsafe {
        let before = pg_sys::error_context_stack;
        let mut known = before;
        while !known.is_null() && known != entry {
            known = (*known).previous;
        }
        if !known.is_null() {
            return work();
        }
        (*entry).previous = before;
        pg_sys::error_context_stack = entry;
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
            .filter(|lost| lost.message.to_bytes() == message.as_bytes())
            .map(|lost| lost.code)
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
        if (*error).elevel == pg_sys::PGERROR as c_int && !(*error).message.is_null() {
            keep_or_give_back(&*error);
        }
        pg_sys::FreeErrorData(error);
    }
}

/// # Safety
/// A copy of the error that PostgreSQL is making right now.
unsafe fn keep_or_give_back(error: &pg_sys::ErrorData) {
    // SAFETY: the texts of an error are C strings or NULL.
    let text = |text: *mut c_char| (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
    let Some(message) = text(error.message) else { return };
    let code = error.sqlerrcode;
    let names = names(error).map(text);
    let is_unknown = code != INTERNAL && PgSqlErrorCode::from(code) as c_int == INTERNAL;
    if is_unknown || names.iter().any(Option::is_some) {
        let names = names.map(|name| name.map(CStr::to_owned));
        LAST.set(Some(Lost { code, message: message.to_owned(), names }));
        return;
    }
    LAST.with_borrow(|last| {
        let Some(lost) = last.as_ref().filter(|lost| *lost.message == *message) else { return };
        if code != INTERNAL && code != lost.code {
            return;
        }
        // SAFETY: the error is being made, and has none of these names.
        unsafe {
            errcode(lost.code);
            for (field, name) in FIELDS.iter().zip(&lost.names) {
                if let Some(name) = name {
                    err_generic_string(c_int::from(*field), name.as_ptr());
                }
            }
        }
    });
}
