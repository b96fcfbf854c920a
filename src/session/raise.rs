//! Raising our errors with their own SQLSTATE.
//!
//! pgrx's error codes are a closed enum, in which `PT404` becomes `XX000`. So the error is thrown
//! by PostgreSQL's own function, as the last act, when nothing is left to drop.

use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CString, c_int};

pub use crate::session::hush::hiding_statement;

unsafe extern "C-unwind" {
    /// `utils/elog.h`; pgrx's own binding would catch the jump and lose the SQLSTATE.
    #[link_name = "ThrowErrorData"]
    fn throw_error_data(edata: *mut pg_sys::ErrorData);
}

/// Gives the value, or raises the error. Call it as the last act of a function: what the caller
/// still owns would never be dropped.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(error),
    }
}

/// Raises an error with its message, detail, hint and SQLSTATE. Its code stands where programs find it: in
/// the field of a constraint's name, which drivers and GET STACKED DIAGNOSTICS give as it is, and at the
/// beginning of the detail, for PostgREST, which gives no other field.
pub fn raise(error: Error) -> ! {
    let mut data = pg_sys::ErrorData {
        elevel: pg_sys::PGERROR as c_int,
        sqlerrcode: make_sqlstate(error.sqlstate()),
        message: palloc_text(&error.to_string()),
        detail: palloc_text(&error.coded_detail()),
        hint: error.hint().map_or(std::ptr::null_mut(), |text| palloc_text(&text)),
        constraint_name: palloc_text(error.code()),
        ..Default::default()
    };
    drop(error);
    // SAFETY: elevel is ERROR, so this jumps to PostgreSQL's handler and never returns. The texts
    // are palloc'd and freed with their memory context; no Rust value that needs dropping is
    // alive in this frame, and callers use this as their last act.
    unsafe { throw_error_data(&raw mut data) };
    unreachable!("ThrowErrorData at level ERROR does not return")
}

/// A row that names another one, which is not there.
pub struct MissingReference {
    pub schema: String,
    pub table: String,
    pub column: &'static str,
    pub value: String,
    pub referenced: &'static str,
}

/// Raises what PostgreSQL does where a foreign key's row is not there, under the name that it gives such a key.
pub fn raise_missing_reference(missing: MissingReference) -> ! {
    let MissingReference { schema, table, column, value, referenced } = &missing;
    let constraint = format!("{table}_{column}_fkey");
    let message = format!(
        "insert or update on table \"{table}\" violates foreign key constraint \"{constraint}\""
    );
    let detail = format!("Key ({column})=({value}) is not present in table \"{referenced}\".");
    let mut data = pg_sys::ErrorData {
        elevel: pg_sys::PGERROR as c_int,
        sqlerrcode: make_sqlstate("23503"),
        message: palloc_text(&message),
        detail: palloc_text(&detail),
        schema_name: palloc_text(schema),
        table_name: palloc_text(table),
        constraint_name: palloc_text(&constraint),
        ..Default::default()
    };
    drop((constraint, message, detail, missing));
    // SAFETY: as in `raise`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_packed_as_postgresql_does() {
        // ERRCODE_UNDEFINED_TABLE, 42P01, in errcodes.h.
        assert_eq!(make_sqlstate("42P01"), 16908420);
    }
}
