//! Ends of jobs that could not be written: kept and tried again, because they were paid for.

use super::ending::{Finished, finish_alone};
use super::{CLAIMS, Jobs, ids};
use crate::database;
use crate::fresh;
use crate::gateway::task::JobEnd;
use crate::worker::process::{self, Cause, Failure};
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long the result of a call waits for its job to be committed by the session that handed it
/// over, and how much may wait so.
const PATIENCE: Duration = Duration::from_secs(600);
const PARKED_BYTES: usize = 64 << 20;

impl Jobs {
    /// Writes the ends whose jobs are there by now. One transaction finds out which those are.
    pub(super) fn retry_parked(&mut self, statements: &Statements) {
        if self.parked.is_empty() {
            return;
        }
        let parked: Vec<Uuid> = self.parked.keys().copied().collect();
        let there = process::transaction(|_| {
            Spi::connect(|client| {
                let rows = client.select(&statements.known_jobs, None, &[ids(&parked).into()])?;
                rows.map(|row| fresh::uuid(&row, 1)).collect::<spi::Result<HashSet<_>>>()
            })
        });
        let Ok(there) = there else { return };
        let ends: Vec<(JobEnd, Instant)> =
            there.iter().filter_map(|job| self.parked.remove(job)).collect();
        for ends in pieces(ends) {
            self.finish_parked(statements, ends);
        }
        // Nobody has committed the others yet: rolled back to a savepoint, prepared, or slow.
        self.parked.retain(|job, (_, since)| there.contains(job) || since.elapsed() < PATIENCE);
        let mut bytes = 0;
        let mut by_age: Vec<(Instant, Uuid, usize)> = self
            .parked
            .iter()
            .filter(|(job, _)| !there.contains(*job))
            .map(|(job, (end, since))| (*since, *job, end.size()))
            .collect();
        by_age.sort_by_key(|(since, ..)| std::cmp::Reverse(*since));
        for (_, job, size) in by_age {
            bytes += size;
            if bytes > PARKED_BYTES {
                self.parked.remove(&job);
            }
        }
    }

    /// Ends these jobs together or, if one of them cannot be written, each by itself.
    fn finish_parked(&mut self, statements: &Statements, ends: Vec<(JobEnd, Instant)>) {
        let all: Vec<&JobEnd> = ends.iter().map(|(end, _)| end).collect();
        match finish_alone(statements, &all) {
            Ok(finished) => {
                for ((end, since), finished) in ends.into_iter().zip(finished) {
                    match finished {
                        // Somebody holds a lock on it.
                        Finished::NotYet => {
                            self.parked.insert(end.job, (end, since));
                        }
                        finished => self.over(end, finished),
                    }
                }
            }
            Err(Failure::Data(_)) if ends.len() > 1 => {
                ends.into_iter().for_each(|end| self.finish_parked(statements, vec![end]));
            }
            Err(failure) => {
                for (end, since) in ends {
                    let end = match &failure {
                        // The result itself cannot be written: the job fails, and says so.
                        Failure::Data(cause) => unwritable(end.job, cause),
                        _ => end,
                    };
                    self.parked.insert(end.job, (end, since));
                }
            }
        }
    }
}

/// Of these ends, as many as go into one transaction each time.
fn pieces(mut ends: Vec<(JobEnd, Instant)>) -> Vec<Vec<(JobEnd, Instant)>> {
    let mut pieces = Vec::new();
    while !ends.is_empty() {
        let rest = ends.split_off(CLAIMS.min(ends.len()));
        pieces.push(std::mem::replace(&mut ends, rest));
    }
    pieces
}

/// The end of a job whose result cannot be written.
fn unwritable(job: Uuid, cause: &Cause) -> JobEnd {
    pgrx::warning!("aggregator: the result of job {job} is not written: {cause}");
    let error = database::error("write the job's result", &cause.words, cause.sqlstate.clone());
    JobEnd { job, outcome: Err(error) }
}
