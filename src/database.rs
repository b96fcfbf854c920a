//! The database that this process is connected to, and what the failure of a statement of ours says: in its own
//! words, with its own SQLSTATE.

use crate::core::secret;
use crate::error::Error;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, spi};
use std::ffi::CStr;

/// What the right to become a role is called: before version 16, every member has it.
pub const SET: &str = if cfg!(feature = "pg15") { "MEMBER" } else { "SET" };

/// Most characters of a database's words that are repeated.
const LONGEST: usize = 500;

/// The name of a database, in a transaction. Empty: there is none.
pub fn name(database: u32) -> String {
    // SAFETY: a look-up of the catalog inside a transaction; gives a palloc'd C string, or NULL.
    unsafe {
        let name = pg_sys::get_database_name(database.into());
        match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

/// That of this one.
pub fn current() -> String {
    // SAFETY: a variable that is set before a process is connected, and not changed after.
    name(unsafe { pg_sys::MyDatabaseId }.into())
}

/// Turns what SPI says into the error that `action` failed.
pub fn failed(action: &str) -> impl FnOnce(spi::Error) -> Error {
    move |spi| error(action, &spi.to_string(), None)
}

/// A statement that always gives a row gave none, or a value that is never NULL was.
pub fn no_row(action: &str) -> Error {
    error(action, "a statement did not give what it always gives", None)
}

/// The error that `action` failed of what was caught.
pub fn caught(action: &str, caught: &CaughtError) -> Error {
    match caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            let sqlstate = unpack(report.sql_error_code() as i32);
            error(action, report.message(), Some(sqlstate))
        }
        // Its words may hold anything that the code was about.
        CaughtError::RustPanic { .. } => {
            error(action, "the code panicked; the server log may say more", None)
        }
    }
}

/// The error that `action` failed, in the words of a database.
pub fn error(action: &str, words: &str, sqlstate: Option<String>) -> Error {
    Error::Database { action: action.to_owned(), reason: repeatable(words), sqlstate }
}

/// A database's words as far as they may be repeated: a trigger of an administrator may say anything.
pub fn repeatable(words: &str) -> String {
    secret::scrub(words, None).chars().take(LONGEST).collect()
}

/// The five characters of a packed SQLSTATE: six bits each, the first one lowest (elog.h).
pub fn unpack(sqlstate: i32) -> String {
    let character = |i: i32| char::from(((sqlstate >> (6 * i)) & 0x3F) as u8 + b'0');
    (0..5).map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_unpacked_as_postgresql_does() {
        // ERRCODE_UNDEFINED_TABLE and ERRCODE_INTERNAL_ERROR, in errcodes.h.
        assert_eq!(unpack(16_908_420), "42P01");
        assert_eq!(unpack(2600), "XX000");
    }

    #[test]
    fn words_are_bounded_and_hold_no_key() {
        let Error::Database { reason, .. } =
            error("x", &format!("{} sk-abcdefghijklmnopqrstuvwxyz", "é".repeat(100)), None)
        else {
            panic!("another error")
        };
        assert!(reason.ends_with("[key]"), "{reason}");
        let Error::Database { reason, .. } = error("x", &"é".repeat(1000), None) else {
            panic!("another error")
        };
        assert_eq!(reason.chars().count(), LONGEST);
    }
}
