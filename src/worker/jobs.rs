//! Durable jobs on the main thread: claiming what is due, fairly, and ending what has run.
//!
//! A job is leased to a life of the worker, its epoch. One worker serves a database, so the leases
//! of every other epoch are over.

use crate::core::budget::Rules;
use crate::core::fair;
use crate::core::options::Prepared;
use crate::error::Error;
use crate::gateway::ledger::{JobAnswer, JobEnd};
use crate::gateway::{Handle, Limits};
use crate::installed::Installed;
use crate::protocol::{Candidate, ChatCall, Settled};
use crate::routing::{self, pg_uuid, uuid};
use crate::settings;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Without being told, how often due jobs are looked for: `run_after`, and COMMIT PREPARED, which
/// tells nobody.
const LOOK: Duration = Duration::from_secs(1);
/// Between rounds of housekeeping: lost jobs, old ones.
const KEEP: Duration = Duration::from_secs(10);
/// Users that one look considers, and jobs that it takes: bounded work between two ledger commits.
const USERS: usize = 64;
const CLAIMS: usize = 256;
/// How long the result of a call waits for its job to be committed by the session that handed it
/// over.
const PATIENCE: Duration = Duration::from_secs(600);

/// The jobs of this worker.
pub struct Jobs {
    epoch: i64,
    limits: Limits,
    /// Jobs that run, and whose they are.
    running: HashMap<Uuid, String>,
    /// How many run of each user.
    busy: HashMap<String, usize>,
    /// Where the last look at the users ended.
    turn: String,
    /// There may be due jobs that were not taken.
    is_hungry: bool,
    look_at: Instant,
    kept_at: Instant,
    /// Ends that could not be written: a lock on the job, or it is not committed yet.
    parked: Vec<(JobEnd, Instant)>,
    /// Jobs that ended, to be told to those who wait.
    ended: Vec<Uuid>,
}

/// What became of the end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Final,
    /// Queued once more.
    Again,
    /// Nothing could be written now.
    NotYet,
}

/// A job as it was claimed.
struct Claimed {
    id: Uuid,
    user: String,
    model: String,
    provider: Option<String>,
    request: String,
    earlier_attempts: u16,
}

impl Jobs {
    pub fn new(epoch: i64) -> Self {
        Self {
            epoch,
            limits: settings::for_gateway().limits,
            running: HashMap::new(),
            busy: HashMap::new(),
            turn: String::new(),
            is_hungry: true,
            look_at: Instant::now(),
            kept_at: Instant::now(),
            parked: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// After a reload.
    pub fn reload(&mut self) {
        self.limits = settings::for_gateway().limits;
        self.is_hungry = true;
    }

    /// A transaction that wrote jobs has ended: some may be due, or cancelled.
    pub fn written(&mut self) {
        self.is_hungry = true;
        self.look_at = Instant::now();
    }

    /// A session's call goes on as a job.
    pub fn handed_over(&mut self, job: Uuid, user: String) {
        *self.busy.entry(user.clone()).or_default() += 1;
        self.running.insert(job, user);
    }

    /// The run of a job is over, and this became of its end.
    pub fn over(&mut self, end: JobEnd, finished: Finished) {
        if finished == Finished::NotYet {
            self.parked.push((end, Instant::now()));
            return;
        }
        self.release(end.job);
        if finished == Finished::Final {
            self.ended.push(end.job);
        }
    }

    fn release(&mut self, job: Uuid) {
        self.is_hungry = true;
        if let Some(user) = self.running.remove(&job)
            && let Some(count) = self.busy.get_mut(&user)
        {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&user);
            }
        }
    }

    /// Whether none runs or waits to be written.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.parked.is_empty()
    }

    /// Does what is due. Says whether jobs were started.
    pub fn work(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        let is_due = Instant::now() >= self.look_at;
        if is_due {
            self.look_at = Instant::now() + LOOK;
            self.cancel(statements, gateway);
            self.retry_parked(statements);
        }
        if self.kept_at.elapsed() > KEEP {
            self.keep_house(statements);
        }
        let has_claimed = (self.is_hungry || is_due) && self.claim(statements, gateway);
        if !self.ended.is_empty() {
            gateway.jobs_ended(std::mem::take(&mut self.ended));
        }
        has_claimed
    }

    /// Leases due jobs, commits that, and hands them to the gateway.
    fn claim(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        let room = self.limits.all.saturating_sub(self.running.len()).min(CLAIMS);
        if room == 0 {
            return false;
        }
        let claimed = process::transaction(|installed| {
            Spi::connect_mut(|client| {
                let users = self.users(client, statements)?;
                let most: Vec<usize> = users
                    .iter()
                    .map(|user| {
                        let busy = self.busy.get(user).copied().unwrap_or(0);
                        self.limits.per_user.saturating_sub(busy)
                    })
                    .collect();
                let mut claimed = Vec::new();
                for (user, share) in users.iter().zip(fair::shares(room, &most)) {
                    if share > 0 {
                        self.lease(client, statements, user, share, &mut claimed)?;
                    }
                }
                let calls = prepare(client, installed, claimed);
                Ok((calls, users.last().cloned().unwrap_or_default()))
            })
        });
        let (calls, turn) = match claimed {
            Ok(claimed) => claimed,
            Err(failure) => {
                pgrx::warning!("aggregator: jobs cannot be claimed: {failure:?}");
                self.is_hungry = false;
                return false;
            }
        };
        self.turn = turn;
        // Until a look finds nothing.
        self.is_hungry = !calls.is_empty();
        let mut ready = Vec::new();
        for (user, call) in calls {
            match call {
                Ok(call) => {
                    self.handed_over(call.call_id, user);
                    ready.push(call);
                }
                Err((job, error)) => {
                    let end = JobEnd { job, outcome: Err(error) };
                    let finished = finish_alone(statements, &end);
                    self.over(end, finished);
                }
            }
        }
        let has_any = !ready.is_empty();
        if has_any {
            gateway.run_jobs(ready);
        }
        has_any
    }

    /// Users with queued jobs, from where the last look ended and then from the start.
    fn users(&self, client: &SpiClient, statements: &Statements) -> spi::Result<Vec<String>> {
        let after = |turn: &str| -> spi::Result<Vec<String>> {
            let arguments: [DatumWithOid<'_>; 2] = [turn.into(), (USERS as i32).into()];
            let rows = client.select(&statements.claim_users, None, &arguments)?;
            rows.map(|row| Ok(row.get::<String>(1)?.unwrap_or_default())).collect()
        };
        let mut users = after(&self.turn)?;
        if users.len() < USERS && !self.turn.is_empty() {
            let first = after("")?;
            users.extend(first.into_iter().take_while(|user| *user <= self.turn));
            users.truncate(USERS);
        }
        Ok(users)
    }

    fn lease(
        &self,
        client: &mut SpiClient,
        statements: &Statements,
        user: &str,
        share: usize,
        claimed: &mut Vec<Claimed>,
    ) -> spi::Result<()> {
        let arguments = [user.into(), self.epoch.into(), (share as i64).into()];
        for row in client.update(&statements.claim, None, &arguments)? {
            claimed.push(Claimed {
                id: uuid(row.get(1)?),
                user: user.to_owned(),
                model: row.get(2)?.unwrap_or_default(),
                provider: row.get(3)?,
                request: row.get(4)?.unwrap_or_default(),
                earlier_attempts: row.get::<i16>(5)?.unwrap_or(0).try_into().unwrap_or(0),
            });
        }
        Ok(())
    }

    /// Aborts what was cancelled meanwhile.
    fn cancel(&mut self, statements: &Statements, gateway: &Handle) {
        if self.running.is_empty() {
            return;
        }
        let running = self.ids();
        let cancelled = process::transaction(|_| {
            Spi::connect(|client| {
                let rows = client.select(&statements.cancelled_jobs, None, &[running.into()])?;
                rows.map(|row| Ok(uuid(row.get(1)?))).collect::<spi::Result<Vec<_>>>()
            })
        });
        let cancelled = cancelled.unwrap_or_default();
        if cancelled.is_empty() {
            return;
        }
        gateway.abort_jobs(cancelled.clone());
        self.parked.retain(|(end, _)| !cancelled.contains(&end.job));
        for job in cancelled {
            self.release(job);
            self.ended.push(job);
        }
    }

    fn ids(&self) -> Vec<pgrx::Uuid> {
        self.running.keys().map(|id| pg_uuid(*id)).collect()
    }

    fn retry_parked(&mut self, statements: &Statements) {
        for (end, since) in std::mem::take(&mut self.parked) {
            match finish_alone(statements, &end) {
                Finished::NotYet if since.elapsed() < PATIENCE => self.parked.push((end, since)),
                // The transaction that should have made the job a row was rolled back.
                Finished::NotYet => self.release(end.job),
                finished => self.over(end, finished),
            }
        }
    }

    fn keep_house(&mut self, statements: &Statements) {
        self.kept_at = Instant::now();
        if let Err(failure) = self.take_over(statements) {
            pgrx::warning!("aggregator: jobs of the last worker are not taken yet: {failure:?}");
        }
        if let Some(seconds) = settings::job_retention_s() {
            let _ = process::transaction(|_| {
                Spi::connect_mut(|client| {
                    client.update(&statements.forget_jobs, None, &[seconds.into()]).map(|_| ())
                })
            });
        }
    }

    /// Queues the jobs that nobody runs any more.
    pub fn take_over(&mut self, statements: &Statements) -> Result<(), process::Failure> {
        let (epoch, most, running) = (self.epoch, settings::job_max_attempts(), self.ids());
        let taken = process::transaction(|_| {
            Spi::connect_mut(|client| {
                // In here, because the type of an array is looked up in the catalog.
                let arguments = [epoch.into(), most.into(), running.into()];
                let taken = client.update(&statements.take_over_jobs, Some(1), &arguments)?;
                taken.first().get_one::<i64>()
            })
        })?;
        self.is_hungry |= taken != Some(0);
        Ok(())
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

/// What the gateway needs to run each job, or why it cannot be run.
#[allow(clippy::type_complexity)]
fn prepare(
    client: &SpiClient,
    installed: &Installed,
    claimed: Vec<Claimed>,
) -> Vec<(String, Result<ChatCall, (Uuid, Error)>)> {
    // Jobs of one batch mostly take the same route.
    let mut known: HashMap<(String, Vec<String>, Option<String>), Arc<[Candidate]>> =
        HashMap::new();
    let mut rules: HashMap<String, Arc<Rules>> = HashMap::new();
    claimed
        .into_iter()
        .map(|job| {
            let prepared = Prepared::from_body(Some(&job.request));
            let call = prepared.and_then(|prepared| {
                let models = prepared.models().map(str::to_owned).collect();
                let route = (job.user.clone(), models, job.provider.clone());
                let candidates = match known.get(&route) {
                    Some(candidates) => candidates.clone(),
                    None => {
                        let provider = job.provider.as_deref();
                        let found: Arc<[Candidate]> =
                            routing::candidates(client, installed, &prepared, &job.user, provider)?
                                .into();
                        known.insert(route, found.clone());
                        found
                    }
                };
                let rules = match rules.get(&job.user) {
                    Some(rules) => rules.clone(),
                    None => {
                        let found = Arc::new(routing::rules(client, installed, &job.user)?);
                        rules.insert(job.user.clone(), found.clone());
                        found
                    }
                };
                Ok(ChatCall {
                    call_id: job.id,
                    user_id: job.user.clone(),
                    candidates,
                    body: prepared.body(),
                    max_retries: prepared.max_retries,
                    deadline_ms: prepared.timeout_ms,
                    stream_upstream: prepared.stream_upstream,
                    rules,
                    earlier_attempts: job.earlier_attempts,
                })
            });
            debug_assert!(!job.model.is_empty());
            (job.user, call.map_err(|error| (job.id, error)))
        })
        .collect()
}

/// Writes the end of a job in a transaction of its own.
fn finish_alone(statements: &Statements, end: &JobEnd) -> Finished {
    let finished = process::transaction(|_| {
        Spi::connect_mut(|client| match &end.outcome {
            Ok((answer, settled)) => succeeded(client, statements, end.job, answer, settled),
            Err(error) => failed(client, statements, end.job, error),
        })
    });
    finished.unwrap_or(Finished::NotYet)
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
        .map(|asked| asked.map_or(0, |pause| i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)));
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
