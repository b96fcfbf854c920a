//! Writing the end of a job: its answer, its failure, or that it is queued once more.

use crate::error::Error;
use crate::gateway::ledger::{JobAnswer, JobEnd};
use crate::protocol::Settled;
use crate::routing::pg_uuid;
use crate::settings;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use std::time::Duration;
use uuid::Uuid;

/// What a provider asks for beyond that is not believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Final,
    /// Queued once more.
    Again,
    /// Nothing could be written now.
    NotYet,
}

/// Writes the end of a job in a transaction of its own.
pub fn finish_alone(statements: &Statements, end: &JobEnd) -> Result<Finished, Failure> {
    process::transaction(|_| {
        Spi::connect_mut(|client| match &end.outcome {
            Ok((answer, settled)) => succeeded(client, statements, end.job, answer, settled),
            Err(error) => failed(client, statements, end.job, error),
        })
    })
}

/// Writes the answer of a job.
pub fn succeeded(
    client: &mut SpiClient,
    statements: &Statements,
    job: Uuid,
    answer: &JobAnswer,
    settled: &Settled,
) -> spi::Result<Finished> {
    let arguments: [DatumWithOid<'_>; 11] = [
        pg_uuid(job).into(),
        "succeeded".into(),
        answer.response.as_str().into(),
        answer.provider.as_str().into(),
        answer.served_model.as_str().into(),
        None::<&str>.into(),
        settled.cost.as_deref().into(),
        settled.cost_source.as_deref().into(),
        None::<i64>.into(),
        settings::job_max_attempts().into(),
        false.into(),
    ];
    finish(client, statements, job, &arguments)
}

/// Writes the failure of a job, or queues it once more.
pub fn failed(
    client: &mut SpiClient,
    statements: &Statements,
    job: Uuid,
    error: &Error,
) -> spi::Result<Finished> {
    let again_after_ms = error
        .may_pass()
        .map(|asked| asked.map_or(0, |pause| pause.min(LONGEST_PAUSE).as_millis() as i64));
    // What was not sent because its turn comes later has not been run.
    let is_early = error.turn_in().is_some();
    let error = error.to_json().to_string();
    let arguments: [DatumWithOid<'_>; 11] = [
        pg_uuid(job).into(),
        "failed".into(),
        None::<&str>.into(),
        None::<&str>.into(),
        None::<&str>.into(),
        error.as_str().into(),
        None::<&str>.into(),
        None::<&str>.into(),
        again_after_ms.into(),
        settings::job_max_attempts().into(),
        is_early.into(),
    ];
    finish(client, statements, job, &arguments)
}

fn finish(
    client: &mut SpiClient,
    statements: &Statements,
    job: Uuid,
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<Finished> {
    let rows = client.update(&statements.finish_job, Some(1), arguments)?;
    if !rows.is_empty() {
        let status = rows.first().get_one::<String>()?;
        return Ok(if status.as_deref() == Some("queued") {
            Finished::Again
        } else {
            Finished::Final
        });
    }
    // Locked by somebody, or not committed yet, unless it has ended otherwise.
    let status = client.select(&statements.job_status, Some(1), &[pg_uuid(job).into()])?;
    let status = status.map(|row| row.get::<String>(1)).next().transpose()?.flatten();
    Ok(match status.as_deref() {
        None | Some("running") => Finished::NotYet,
        Some(_) => Finished::Final,
    })
}
