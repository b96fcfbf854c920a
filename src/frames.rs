//! Rust's frames stay out of errors. With `RUST_BACKTRACE` in the server's environment the first cancelled call of
//! a session would wait for symbols to be read, and every error would carry dozens of lines of frames to the client
//! and into the log.

use std::backtrace::Backtrace;
use std::env;

/// Which of the two variables decides (std::backtrace).
const DECIDES: &str = "RUST_LIB_BACKTRACE";

/// Has this library's copy of the standard library settle, once and for all, that it captures nothing. To be
/// called before the first panic of a process.
pub fn leave_out() {
    let before = env::var_os(DECIDES);
    if before.is_none() && env::var_os("RUST_BACKTRACE").is_none() {
        return;
    }
    // SAFETY: while a library is loaded the process has one thread, PostgreSQL's. The environment is put back as
    // it was: another library has a standard library of its own, which reads it for itself.
    unsafe {
        env::set_var(DECIDES, "0");
        drop(Backtrace::capture());
        match before {
            Some(value) => env::set_var(DECIDES, value),
            None => env::remove_var(DECIDES),
        }
    }
}
