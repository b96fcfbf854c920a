//! Microseconds since 1970, as the gateway counts, and PostgreSQL's timestamps, which count from
//! 2000.

use pgrx::datum::{FromDatum, IntoDatum, TimestampWithTimeZone};

const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// PostgreSQL's timestamp of a moment.
pub fn timestamp(unix_micros: i64) -> TimestampWithTimeZone {
    let micros = unix_micros.saturating_sub(POSTGRES_EPOCH_MICROS);
    // SAFETY: a timestamptz is passed by value as its count of microseconds.
    unsafe { TimestampWithTimeZone::from_datum(micros.into_datum().expect("not NULL"), false) }
        .expect("not NULL")
}
