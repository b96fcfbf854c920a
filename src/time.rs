//! Microseconds since 1970, as the gateway counts, and PostgreSQL's timestamps, which count from
//! 2000.

pub use crate::clock::unix_micros as now;

use pgrx::datum::TimestampWithTimeZone;

const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// PostgreSQL's timestamp of a moment; what it cannot hold is the beginning of time.
pub fn timestamp(unix_micros: i64) -> TimestampWithTimeZone {
    let micros = unix_micros.saturating_sub(POSTGRES_EPOCH_MICROS);
    TimestampWithTimeZone::try_from(micros)
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}
