//! Rows that reach the client while the query runs.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// `libpq/libpq.h`; pgrx does not bind it. The same in PostgreSQL 15 to 18.
    #[link_name = "PqCommMethods"]
    static COMM_METHODS: *const CommMethods;
}

/// `PQcommMethods`: the members up to the one that is used.
#[repr(C)]
struct CommMethods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> std::ffi::c_int,
    flush_if_writable: unsafe extern "C-unwind" fn() -> std::ffi::c_int,
}

/// Sends what waits in the output buffer, as far as the client takes it without waiting.
pub fn flush_client() {
    // SAFETY: in a backend with a client the pointer names its methods, which need no more than
    // that; elsewhere nothing is called. It never blocks, and a lost client shows at the next wait.
    unsafe {
        if pg_sys::whereToSendOutput == pg_sys::CommandDest::DestRemote && !COMM_METHODS.is_null() {
            ((*COMM_METHODS).flush_if_writable)();
        }
    }
}
