//! Writing the ends of jobs, a batch at a time: their answers, their failures, or that they are queued once
//! more.

use crate::error::Error;
use crate::fresh::{self, required};
use crate::gateway::task::{JobAnswer, JobEnd};
use crate::protocol::Settled;
use crate::routing::pg_uuid;
use crate::settings;
use crate::worker::arrays::array;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use uuid::Uuid;

/// What a provider asks for beyond that is not believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Of responses, what one statement writes: an array has its limits. One that is larger goes alone.
const BYTES: usize = 32 << 20;

/// What became of the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Final,
    /// Queued once more.
    Again,
    /// Nothing could be written now.
    NotYet,
}

/// The end of a job's run, to be written.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub job: Uuid,
    pub outcome: Result<(&'a JobAnswer, &'a Settled), &'a Error>,
}

impl<'a> Ended<'a> {
    pub fn of(end: &'a JobEnd) -> Self {
        let outcome = end.outcome.as_ref().map(|(answer, settled)| (answer, settled));
        Self { job: end.job, outcome }
    }

    fn size(&self) -> usize {
        self.answer().map_or(0, |answer| answer.response.len())
    }

    fn answer(&self) -> Option<&'a JobAnswer> {
        self.outcome.ok().map(|(answer, _)| answer)
    }
}

/// Writes the ends of jobs in one transaction of their own: all of them, or none.
pub fn finish_alone(statements: &Statements, ends: &[&JobEnd]) -> Result<Vec<Finished>, Failure> {
    let ends: Vec<Ended<'_>> = ends.iter().map(|end| Ended::of(end)).collect();
    process::ledger_transaction(true, |_| {
        Spi::connect_mut(|client| finish(client, statements, &ends))
    })
}

/// Writes the ends of jobs, and says what became of each.
pub fn finish(
    client: &mut SpiClient<'_>,
    statements: &Statements,
    ends: &[Ended<'_>],
) -> spi::Result<Vec<Finished>> {
    // A statement changes a row once.
    let mut seen = HashSet::new();
    let first: Vec<(usize, &Ended<'_>)> =
        ends.iter().enumerate().filter(|(_, end)| seen.insert(end.job)).collect();
    let mut finished: Vec<Option<Finished>> = vec![None; ends.len()];
    let mut rest = first.as_slice();
    while !rest.is_empty() {
        let (some, others) = rest.split_at(within(rest.iter().map(|(_, end)| end.size())));
        for (i, became) in write(client, statements, some)? {
            finished[i] = Some(became);
        }
        rest = others;
    }
    let others: Vec<Uuid> =
        ends.iter().zip(&finished).filter(|(_, f)| f.is_none()).map(|(end, _)| end.job).collect();
    let statuses = statuses(client, statements, &others)?;
    Ok(ends
        .iter()
        .zip(finished)
        .map(|(end, finished)| {
            // Locked by somebody, or not committed yet, unless it has ended otherwise.
            finished.unwrap_or_else(|| match statuses.get(&end.job).map(String::as_str) {
                None | Some("running") => Finished::NotYet,
                Some(_) => Finished::Final,
            })
        })
        .collect())
}

/// How many of these sizes go into one statement: one at the least.
fn within(sizes: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0_usize;
    let fit = |size: &usize| {
        sum = sum.saturating_add(*size);
        sum <= BYTES
    };
    sizes.take_while(fit).count().max(1)
}

/// The place and the end of each job that could be ended.
fn write(
    client: &mut SpiClient<'_>,
    statements: &Statements,
    ends: &[(usize, &Ended<'_>)],
) -> spi::Result<Vec<(usize, Finished)>> {
    let costs = costs(client, statements, ends)?;
    let answers =
        |part: fn(&JobAnswer) -> &str| array(ends.iter().map(|(_, end)| end.answer().map(part)));
    let arguments: [DatumWithOid<'_>; 10] = [
        array(ends.iter().map(|(_, end)| pg_uuid(end.job))),
        answers(|answer| &answer.response),
        answers(|answer| &answer.provider),
        answers(|answer| &answer.served_model),
        array(
            ends.iter().map(|(_, end)| end.outcome.err().map(|error| error.to_json().to_string())),
        ),
        array(costs.iter().map(|settled| settled.cost.as_deref())),
        array(costs.iter().map(|settled| settled.cost_source.as_deref())),
        array(ends.iter().map(|(_, end)| pause_ms(end))),
        // What was not sent because its turn comes later has not been run.
        array(ends.iter().map(|(_, end)| end.outcome.err().is_some_and(|e| e.turn_in().is_some()))),
        settings::job_max_attempts().into(),
    ];
    client
        .update(&statements.finish_jobs, None, &arguments)?
        .map(|row| {
            let place = usize::try_from(required::<i32>(&row, 1)? - 1).ok();
            let (i, _) = place.and_then(|i| ends.get(i)).ok_or(fresh::UNREADABLE)?;
            let is_queued = required::<String>(&row, 2)? == "queued";
            Ok((*i, if is_queued { Finished::Again } else { Finished::Final }))
        })
        .collect()
}

/// After how many milliseconds a failure that may pass is run again.
fn pause_ms(end: &Ended<'_>) -> Option<i64> {
    let asked = end.outcome.err()?.may_pass()?;
    Some(asked.map_or(0, |pause| pause.min(LONGEST_PAUSE).as_millis() as i64))
}

/// What each answer cost. Where a result is written late, or no answer fits and each was paid for, the ledger knows.
fn costs(
    client: &SpiClient<'_>,
    statements: &Statements,
    ends: &[(usize, &Ended<'_>)],
) -> spi::Result<Vec<Settled>> {
    let mut costs: Vec<Settled> = ends
        .iter()
        .map(|(_, end)| end.outcome.map_or_else(|_| Settled::default(), |(_, s)| s.clone()))
        .collect();
    let late: Vec<usize> = (0..ends.len())
        .filter(|i| match ends[*i].1.outcome {
            Ok(_) => costs[*i].cost_source.is_none(),
            Err(error) => matches!(error, Error::SchemaViolation { .. }),
        })
        .collect();
    if late.is_empty() {
        return Ok(costs);
    }
    let jobs: Vec<pgrx::Uuid> = late.iter().map(|i| pg_uuid(ends[*i].1.job)).collect();
    for row in client.select(&statements.late_costs, None, &[jobs.into()])? {
        let place = usize::try_from(required::<i32>(&row, 1)? - 1).ok();
        let i = *place.and_then(|i| late.get(i)).ok_or(fresh::UNREADABLE)?;
        let cost = costs[i].cost.take().map_or_else(|| row.get::<String>(2), |cost| Ok(Some(cost)));
        costs[i] = Settled { cost: cost?, cost_source: row.get(3)? };
    }
    Ok(costs)
}

/// The statuses of those of these jobs that are there.
fn statuses(
    client: &SpiClient<'_>,
    statements: &Statements,
    jobs: &[Uuid],
) -> spi::Result<HashMap<Uuid, String>> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let jobs: Vec<pgrx::Uuid> = jobs.iter().map(|job| pg_uuid(*job)).collect();
    client
        .select(&statements.job_statuses, None, &[jobs.into()])?
        .map(|row| Ok((fresh::uuid(&row, 1)?, required(&row, 2)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{BYTES, within};

    #[test]
    fn a_statement_takes_what_fits_and_one_at_the_least() {
        assert_eq!(within([1; 256].into_iter()), 256);
        assert_eq!(within([BYTES / 2, BYTES / 2, 1].into_iter()), 2);
        assert_eq!(within([BYTES + 1, 1].into_iter()), 1);
        assert_eq!(within([1, BYTES, 1].into_iter()), 1);
        assert_eq!(within([usize::MAX, usize::MAX].into_iter()), 1);
    }
}
