//! Raising our errors with their own SQLSTATE, and keeping statements that carry a key out of the
//! server log.
//!
//! pgrx's error codes are a closed enum, in which `PT404` becomes `XX000`. So the error is thrown
//! by PostgreSQL's own function, as the last act, when nothing is left to drop.

use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, CString, c_int};

unsafe extern "C-unwind" {
    /// `utils/elog.h`; pgrx's own binding would catch the jump and lose the SQLSTATE.
    #[link_name = "ThrowErrorData"]
    fn throw_error_data(edata: *mut pg_sys::ErrorData);
}

/// Functions whose arguments hold a key.
const SECRET_FUNCTIONS: [&[u8]; 3] =
    [b"save_provider_key", b"validate_provider_key", b"save_platform_key"];

/// Gives the value, or raises the error. Call it as the last act of a function: what the caller
/// still owns would never be dropped.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(error),
    }
}

/// Raises an error with its message, detail, hint and SQLSTATE.
pub fn raise(error: Error) -> ! {
    let mut data = pg_sys::ErrorData {
        elevel: pg_sys::PGERROR as c_int,
        sqlerrcode: make_sqlstate(error.sqlstate()),
        message: palloc_text(&error.to_string()),
        detail: error.detail().map_or(std::ptr::null_mut(), |text| palloc_text(&text)),
        hint: error.hint().map_or(std::ptr::null_mut(), |text| palloc_text(&text)),
        ..Default::default()
    };
    drop(error);
    // SAFETY: elevel is ERROR, so this jumps to PostgreSQL's handler and never returns. The texts
    // are palloc'd and freed with their memory context; no Rust value that needs dropping is
    // alive in this frame, and callers use this as their last act.
    unsafe { throw_error_data(&raw mut data) };
    unreachable!("ThrowErrorData at level ERROR does not return")
}

/// A copy of the text in PostgreSQL's memory, cut at a NUL.
fn palloc_text(text: &str) -> *mut std::ffi::c_char {
    let text = CString::new(text.split('\0').next().unwrap_or("")).unwrap_or_default();
    // SAFETY: pstrdup copies a NUL-terminated string into the current memory context.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// PostgreSQL's MAKE_SQLSTATE: six bits a character.
fn make_sqlstate(code: &str) -> c_int {
    code.bytes().rev().fold(0, |sum, byte| (sum << 6) | c_int::from((byte - b'0') & 0x3F))
}

/// Runs a function that takes a key: errors inside it, whoever raises them, do not log the
/// statement or the context in which it was called.
pub fn hiding_statement<T>(work: impl FnOnce() -> T) -> T {
    // Static, because an error leaves it on the stack until PostgreSQL's handler resets that.
    static mut CALLBACK: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(hide),
        arg: std::ptr::null_mut(),
    };
    // SAFETY: backends are single-threaded, and the functions that call this do not nest. The
    // entry is pushed on, and popped from, the stack that elog.c keeps for this purpose.
    unsafe {
        let previous = pg_sys::error_context_stack;
        CALLBACK.previous = previous;
        pg_sys::error_context_stack = &raw mut CALLBACK;
        let result = work();
        pg_sys::error_context_stack = previous;
        result
    }
}

unsafe extern "C-unwind" fn hide(_arg: *mut std::ffi::c_void) {
    // SAFETY: elog.c calls this while it finishes a report, which is when these may be called.
    unsafe {
        pg_sys::errhidestmt(true);
        pg_sys::errhidecontext(true);
    }
}

static mut PREVIOUS_HOOK: pg_sys::emit_log_hook_type = None;

/// Hides statements that call a function with a key even where the error comes from outside it: a
/// missing privilege, a wrong argument, a later part of the statement.
pub fn install_log_hook() {
    // SAFETY: called once, from _PG_init, on the only thread.
    unsafe {
        PREVIOUS_HOOK = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(log_hook);
    }
}

unsafe extern "C-unwind" fn log_hook(edata: *mut pg_sys::ErrorData) {
    // SAFETY: elog.c passes the report that it is about to write; debug_query_string is the
    // current statement or NULL. Nothing here allocates or raises.
    unsafe {
        if !edata.is_null() && !pg_sys::debug_query_string.is_null() {
            let statement = CStr::from_ptr(pg_sys::debug_query_string).to_bytes();
            if SECRET_FUNCTIONS.iter().any(|name| contains(statement, name)) {
                (*edata).hide_stmt = true;
                (*edata).hide_ctx = true;
            }
        }
        if let Some(previous) = PREVIOUS_HOOK {
            previous(edata);
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_packed_as_postgresql_does() {
        // ERRCODE_UNDEFINED_TABLE, 42P01, in errcodes.h.
        assert_eq!(make_sqlstate("42P01"), 16908420);
    }
}
