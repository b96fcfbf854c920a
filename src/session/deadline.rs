//! What is left of the statement's time.

use pgrx::pg_sys;

/// `STATEMENT_TIMEOUT` of `utils/timeout.h`, the same in PostgreSQL 15 to 18.
const STATEMENT_TIMEOUT: u32 = 3;
/// `TRANSACTION_TIMEOUT`, since PostgreSQL 17.
#[cfg(any(feature = "pg17", feature = "pg18"))]
const TRANSACTION_TIMEOUT: u32 = 8;

unsafe extern "C-unwind" {
    /// Both only read static memory and cannot raise.
    fn get_timeout_active(id: u32) -> bool;
    fn get_timeout_finish_time(id: u32) -> pg_sys::TimestampTz;
}

/// Milliseconds until the server would cancel the statement, if it would.
pub fn left_ms() -> Option<u64> {
    let left = left_of(STATEMENT_TIMEOUT);
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    let left = [left, left_of(TRANSACTION_TIMEOUT)].into_iter().flatten().min();
    left
}

fn left_of(timeout: u32) -> Option<u64> {
    // SAFETY: the ids are valid on this version; the functions read the timers of this process.
    unsafe {
        if !get_timeout_active(timeout) {
            return None;
        }
        let left = get_timeout_finish_time(timeout) - pg_sys::GetCurrentTimestamp();
        Some(u64::try_from(left / 1000).unwrap_or(0))
    }
}

/// The time that is kept back to deliver an answer, or a clear error, before the server cancels.
pub fn margin_ms(left_ms: u64) -> u64 {
    (left_ms / 10).clamp(10, 500)
}

#[cfg(test)]
mod tests {
    use super::margin_ms;

    #[test]
    fn the_margin_is_a_tenth_within_bounds() {
        assert_eq!([50, 1000, 60_000].map(margin_ms), [10, 100, 500]);
    }
}
