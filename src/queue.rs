//! How many jobs of a user may wait, and of how many bytes. Sessions and the worker submit them.

use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::installed::Installed;
use crate::settings::QueueLimits;
use pgrx::pg_sys::{INT8OID, TEXTOID};
use pgrx::spi::{self, SpiClient};

/// What waits, no further than to the limit.
const WAITING: &str = "
    SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(waiting.request_bytes), 0)::bigint
    FROM (
        SELECT job.request_bytes
        FROM @extschema@.aggregator_jobs AS job
        WHERE job.user_id = $1 AND job.status = 'queued'::text
        LIMIT $2
    ) AS waiting";

#[derive(Debug, Clone, Copy, Default)]
pub struct Amount {
    pub jobs: i64,
    pub bytes: i64,
}

impl Amount {
    /// One job of so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self { jobs: 1, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_add(other.jobs),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Whether a part of it, one in so many, is within the limits.
    pub fn fits(self, parts: i64, limits: QueueLimits) -> bool {
        self.jobs.saturating_mul(parts) <= limits.jobs
            && self.bytes.saturating_mul(parts) <= limits.bytes
    }

    /// Refuses more than may wait.
    pub fn check(self, limits: QueueLimits) -> Result<(), Error> {
        if self.fits(1, limits) {
            return Ok(());
        }
        let limit = if self.jobs > limits.jobs {
            format!("{} jobs", limits.jobs)
        } else {
            format!("{} bytes of jobs", limits.bytes)
        };
        Err(Error::QueueFull { limit })
    }
}

/// What of a user waits by now.
pub fn waiting(
    client: &SpiClient,
    installed: &Installed,
    user: &str,
    limits: QueueLimits,
) -> spi::Result<Amount> {
    let plan = Plan::prepare(client, &installed.sql(WAITING), &[TEXTOID, INT8OID])?;
    let arguments = [user.into(), limits.jobs.saturating_add(1).into()];
    let rows = fresh::select(client, &plan, &arguments)?;
    let row = rows.first().ok_or(fresh::UNREADABLE)?;
    Ok(Amount { jobs: required(row, 1)?, bytes: required(row, 2)? })
}
