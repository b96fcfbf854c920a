//! Keeping provider keys out of the server log and out of `pg_stat_activity`, as far as a library can:
//! it sees a report before it is written, and a function before it is called.

use crate::core::hush;
use crate::sqlstate;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicI64, Ordering};

/// When the statement began in which a function with a key was last seen, or 0. Until the statement
/// ends, whatever it reports is hidden, also what comes after the call and outside of it.
static SECRET_SINCE: AtomicI64 = AtomicI64::new(0);

/// Functions of which it is known whether their arguments hold a key; forgotten when it is full.
const MOST_KNOWN: usize = 4096;

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, bool>> = RefCell::new(HashMap::new());
}

static mut PREVIOUS_LOG_HOOK: pg_sys::emit_log_hook_type = None;
static mut PREVIOUS_ACCESS_HOOK: pg_sys::object_access_hook_type = None;

/// Installs the hooks.
pub fn install() {
    // SAFETY: called once, from _PG_init, on the only thread.
    unsafe {
        PREVIOUS_LOG_HOOK = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(log_hook);
        PREVIOUS_ACCESS_HOOK = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(access_hook);
    }
}

/// Runs a function that takes a key: errors inside it, whoever raises them, do not log the statement or
/// the context in which it was called, nor does what follows in the same statement.
pub fn hiding_statement<T>(work: impl FnOnce() -> T) -> T {
    // Static, because an error leaves it on the stack until PostgreSQL's handler resets that.
    static mut CALLBACK: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(hide),
        arg: std::ptr::null_mut(),
    };
    note_secret();
    // SAFETY: plain reads of a backend's state on its only thread; the entry is static.
    unsafe {
        let text = pg_sys::debug_query_string;
        if !text.is_null() && hush::has_literal(CStr::from_ptr(text).to_bytes()) {
            let shown = c"(a statement that holds a provider key)";
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, shown.as_ptr());
        }
        sqlstate::with_entry(&raw mut CALLBACK, work)
    }
}

unsafe extern "C-unwind" fn hide(_arg: *mut c_void) {
    // SAFETY: elog.c calls this while it finishes a report, which is when these may be called.
    unsafe {
        pg_sys::errhidestmt(true);
        pg_sys::errhidecontext(true);
    }
}

/// The current statement calls a function with a key.
fn note_secret() {
    // SAFETY: a plain read of a backend's state.
    let since = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    SECRET_SINCE.store(since, Ordering::Relaxed);
}

/// Called when the executor gets ready to call a function: before anything of the expression around it
/// is computed, and however it is spelled.
#[pg_guard]
unsafe extern "C-unwind" fn access_hook(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_id: c_int,
    argument: *mut c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        && u32::from(object) >= pg_sys::FirstNormalObjectId
        && is_secret(object)
    {
        note_secret();
    }
    // SAFETY: the hook that was there before, with the arguments as they came.
    unsafe {
        if let Some(previous) = PREVIOUS_ACCESS_HOOK {
            previous(access, class, object, sub_id, argument);
        }
    }
}

fn is_secret(function: pg_sys::Oid) -> bool {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&function).copied()) {
        return known;
    }
    // SAFETY: a catalog look-up inside a transaction; the name is palloc'd, or NULL.
    let is_secret = unsafe {
        let name = pg_sys::get_func_name(function);
        !name.is_null() && {
            let is_one = hush::SECRET_FUNCTIONS.contains(&CStr::from_ptr(name).to_bytes());
            pg_sys::pfree(name.cast());
            is_one
        }
    };
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(function, is_secret);
    });
    is_secret
}

unsafe extern "C-unwind" fn log_hook(edata: *mut pg_sys::ErrorData) {
    // SAFETY: elog.c passes the report that it is about to write, and nobody else reads it meanwhile.
    // Nothing here allocates or raises.
    unsafe {
        if let Some(report) = edata.as_mut()
            && (is_secret_statement() || texts(report).into_iter().any(names_secret))
        {
            conceal(report);
        }
        if let Some(previous) = PREVIOUS_LOG_HOOK {
            previous(edata);
        }
    }
}

/// Whether the current statement holds a key, by its text, by the text that it executes, or by what it
/// has called.
fn is_secret_statement() -> bool {
    // SAFETY: debug_query_string is the current statement or NULL. Looking for a prepared statement
    // neither allocates nor raises.
    unsafe {
        let since = SECRET_SINCE.load(Ordering::Relaxed);
        // A process that serves no session has no statement either.
        if since != 0 && since == pg_sys::GetCurrentStatementStartTimestamp() {
            return true;
        }
        let text = pg_sys::debug_query_string;
        if text.is_null() {
            return false;
        }
        let text = CStr::from_ptr(text).to_bytes();
        hush::names_secret(text)
            || hush::executes(text, |name| {
                let mut key = [0; 64];
                key[..name.len()].copy_from_slice(name);
                let found = pg_sys::FetchPreparedStatement(key.as_ptr().cast(), false);
                found.as_ref().is_some_and(|found| {
                    !found.plansource.is_null() && names_secret((*found.plansource).query_string)
                })
            })
    }
}

/// The texts of a report that may hold a statement.
fn texts(report: &pg_sys::ErrorData) -> [*const c_char; 4] {
    [report.message, report.internalquery, report.detail, report.detail_log]
        .map(<*mut _>::cast_const)
}

fn names_secret(text: *const c_char) -> bool {
    // SAFETY: a C string of the report or of a cached plan, or NULL.
    !text.is_null() && hush::names_secret(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Takes out of a report what may be a key. What is dropped goes with the memory of the report.
unsafe fn conceal(report: &mut pg_sys::ErrorData) {
    report.hide_stmt = true;
    report.hide_ctx = true;
    report.internalquery = std::ptr::null_mut();
    if report.elevel < pg_sys::INFO as c_int {
        // Of log_statement, log_min_duration_statement, auto_explain and their like.
        if names_secret(report.message) || is_statement(report.message) {
            // SAFETY: a palloc'd C string that is the report's own.
            let message = unsafe { bytes(report.message) };
            let end = hush::statement_start(message);
            if let Some(byte) = message.get_mut(end) {
                *byte = 0;
            }
        }
        report.detail = std::ptr::null_mut();
        report.detail_log = std::ptr::null_mut();
    } else if report.sqlerrcode & 0xFFF != OURS {
        // A value that cannot be read as what it should be is quoted in the message.
        for text in [report.message, report.detail, report.detail_log, report.hint] {
            if !text.is_null() {
                // SAFETY: as above.
                hush::mask(unsafe { bytes(text) });
            }
        }
    }
}

/// The class of our own errors, `PT`, whose texts hold no key: six bits a character (elog.h).
const OURS: c_int = (b'P' - b'0') as c_int | (((b'T' - b'0') as c_int) << 6);

fn is_statement(text: *const c_char) -> bool {
    // SAFETY: a C string of the report, or NULL.
    !text.is_null() && hush::statement_start(unsafe { CStr::from_ptr(text) }.to_bytes()) > 0
}

/// # Safety
/// The text is a C string that nobody else reads meanwhile.
unsafe fn bytes<'a>(text: *mut c_char) -> &'a mut [u8] {
    if text.is_null() {
        return &mut [];
    }
    // SAFETY: as long as the string is.
    unsafe {
        let len = CStr::from_ptr(text).to_bytes().len();
        std::slice::from_raw_parts_mut(text.cast(), len)
    }
}
