//! Microseconds since 1970, as the gateway counts, and PostgreSQL's timestamps, which count from
//! 2000.

use pgrx::datum::TimestampWithTimeZone;
use std::time::{SystemTime, UNIX_EPOCH};

const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// PostgreSQL's timestamp of a moment; what it cannot hold is the beginning of time.
pub fn timestamp(unix_micros: i64) -> TimestampWithTimeZone {
    let micros = unix_micros.saturating_sub(POSTGRES_EPOCH_MICROS);
    TimestampWithTimeZone::try_from(micros)
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
