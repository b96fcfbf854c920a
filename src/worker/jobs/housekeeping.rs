//! What is done about jobs from time to time, and at the beginning and end of the worker: those that
//! nobody runs are queued again, those that ended long ago are deleted.

use super::{Jobs, LOOK, ids};
use crate::fresh::{self, required};
use crate::settings;
use crate::worker::detached;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Between rounds of housekeeping.
pub const KEEP: Duration = Duration::from_secs(10);
/// Jobs that one round of retention deletes; a full round is followed by another.
const FORGOTTEN: usize = 2000;

impl Jobs {
    pub(super) fn keep_house(&mut self, statements: &Statements) {
        self.keep_at = Instant::now() + KEEP;
        let lost = self.lost(statements);
        if let Err(failure) = self.take_over(statements, &lost) {
            pgrx::warning!("aggregator: jobs of the last worker are not taken yet: {failure:?}");
        }
        detached::sweep();
        let forgotten = process::transaction(|_| {
            Spi::connect_mut(|client| {
                client.update(&statements.forget_cooling, None, &[])?;
                match settings::job_retention_s() {
                    Some(seconds) => client
                        .update(&statements.forget_jobs, None, &[seconds.into()])
                        .map(|rows| rows.len()),
                    None => Ok(0),
                }
            })
        });
        if forgotten.is_ok_and(|count| count >= FORGOTTEN) {
            self.keep_at = Instant::now() + LOOK;
        }
    }

    /// Jobs that this worker has leased and does not know, this time and the last.
    fn lost(&mut self, statements: &Statements) -> Vec<Uuid> {
        let (epoch, known) = (self.epoch, self.known());
        let found = process::transaction(|_| {
            Spi::connect(|client| {
                let arguments = [epoch.into(), ids(&known).into()];
                let rows = client.select(&statements.lost_jobs, None, &arguments)?;
                rows.map(|row| fresh::uuid(&row, 1)).collect::<spi::Result<HashSet<_>>>()
            })
        });
        let found = found.unwrap_or_default();
        let lost = found.intersection(&self.suspects).copied().collect();
        self.suspects = found;
        lost
    }

    /// Queues the jobs that nobody runs any more: those of dead workers, and `lost`.
    pub fn take_over(&mut self, statements: &Statements, lost: &[Uuid]) -> Result<(), Failure> {
        let (epoch, most) = (self.epoch, settings::job_max_attempts());
        let taken = process::transaction(|_| {
            Spi::connect_mut(|client| {
                let arguments = [epoch.into(), most.into(), ids(lost).into()];
                let taken = client.update(&statements.take_over_jobs, None, &arguments)?;
                taken
                    .map(|row| Ok((fresh::uuid(&row, 1)?, required::<bool>(&row, 2)?)))
                    .collect::<spi::Result<Vec<_>>>()
            })
        })?;
        self.is_hungry |= !taken.is_empty();
        self.ended.extend(taken.into_iter().filter(|(_, is_over)| *is_over).map(|(job, _)| job));
        Ok(())
    }

    /// At an orderly end: what was written last, and jobs that were aborted.
    pub fn close(&mut self, statements: &Statements) {
        self.retry_parked(statements);
        self.notify(statements);
        let epoch = self.epoch;
        let _ = process::transaction(|_| {
            Spi::connect_mut(|client| {
                client.update(&statements.give_back_jobs, None, &[epoch.into()]).map(|_| ())
            })
        });
    }

    /// Whether jobs wait or run: then the worker stays.
    pub fn any_unfinished(&self, statements: &Statements) -> bool {
        process::transaction(|_| {
            Spi::connect(|client| {
                client.select(&statements.any_jobs, Some(1), &[])?.first().get_one::<bool>()
            })
        })
        .is_ok_and(|any| any == Some(true))
    }
}
