//! Durable jobs on the main thread: claiming what is due, fairly, and ending what has run.
//!
//! A job is leased to a life of the worker, its epoch. One worker serves a database, so the leases
//! of every other epoch are over.

mod ending;
mod housekeeping;
mod parked;

pub use ending::{Ended, Finished, finish};

use crate::core::budget::Rules;
use crate::core::fair;
use crate::core::options::Prepared;
use crate::core::tags::Labels;
use crate::error::Error;
use crate::fresh::{self, required};
use crate::gateway::task::JobEnd;
use crate::gateway::{Handle, Limits};
use crate::gateway_keys;
use crate::installed::Installed;
use crate::protocol::{ChatCall, Whose};
use crate::route_cache;
use crate::routing::{self, pg_uuid};
use crate::settings;
use crate::time;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use housekeeping::KEEP;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Without being told, how often due jobs are looked for: `run_after`, and COMMIT PREPARED, which
/// tells nobody.
const LOOK: Duration = Duration::from_secs(1);
/// Bounded work between two ledger commits: users that one look passes, those of them whose jobs it
/// takes, jobs, and bytes of requests.
const WALK: usize = 4096;
const USERS: usize = 64;
const CLAIMS: usize = 256;
const CLAIMED_BYTES: i64 = 32 << 20;
/// While many run, what has ended makes room for others together: a look for a few costs as much as one for
/// many, and of those that have been taken some wait for their turn.
const PART: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Between two that tell of ends.
const TELL: Duration = Duration::from_millis(5);

/// The jobs of this worker.
pub struct Jobs {
    epoch: i64,
    limits: Limits,
    /// Jobs that were claimed and run, and whose they are.
    claimed: HashMap<Uuid, String>,
    /// How many of them run of each user.
    busy: HashMap<String, usize>,
    /// Calls that their sessions have handed over: they take no room from others.
    adopted: HashSet<Uuid>,
    /// Ends that could not be written: a lock on the job, or it is not committed yet.
    parked: HashMap<Uuid, (JobEnd, Instant)>,
    /// Jobs that, by the table, this worker runs, and that it does not know. One that is found so
    /// twice is lost; once, its hand-over may just be on its way.
    suspects: HashSet<Uuid>,
    /// The user who was served last.
    turn: String,
    /// There may be due jobs that were not taken.
    is_hungry: bool,
    look_at: Instant,
    /// Until then, jobs are claimed only where enough have ended since the last look.
    claim_at: Instant,
    freed: usize,
    keep_at: Instant,
    /// Jobs that ended, to be told to those who wait and listen.
    ended: Vec<Uuid>,
    tell_at: Instant,
}

/// A job as it was claimed.
struct Claimed {
    id: Uuid,
    user: String,
    provider: Option<String>,
    request: String,
    earlier_attempts: u16,
    gateway_key: Option<Uuid>,
}

/// What a look at the queue gave.
#[derive(Default)]
struct Look {
    ready: Vec<(String, ChatCall)>,
    /// Jobs that cannot be run, and their ends are written.
    failed: Vec<Uuid>,
    turn: String,
    /// Every user was passed.
    is_whole: bool,
}

impl Look {
    /// Adds jobs that were leased; those that cannot be run are ended.
    fn take(
        &mut self,
        client: &mut SpiClient,
        statements: &Statements,
        installed: &Installed,
        claimed: Vec<Claimed>,
    ) -> spi::Result<()> {
        let mut failed = Vec::new();
        for (user, job, call) in prepare(client, installed, claimed) {
            match call {
                Ok(call) => self.ready.push((user, call)),
                Err(error) => failed.push((job, error)),
            }
        }
        let ends: Vec<Ended<'_>> =
            failed.iter().map(|(job, error)| Ended { job: *job, outcome: Err(error) }).collect();
        finish(client, statements, &ends)?;
        self.failed.extend(failed.iter().map(|(job, _)| job));
        Ok(())
    }
}

impl Jobs {
    pub fn new(epoch: i64) -> Self {
        Self {
            epoch,
            limits: settings::limits(),
            claimed: HashMap::new(),
            busy: HashMap::new(),
            adopted: HashSet::new(),
            parked: HashMap::new(),
            suspects: HashSet::new(),
            turn: String::new(),
            is_hungry: true,
            look_at: Instant::now(),
            claim_at: Instant::now(),
            freed: 0,
            keep_at: Instant::now() + KEEP,
            ended: Vec::new(),
            tell_at: Instant::now(),
        }
    }

    /// After a reload.
    pub fn reload(&mut self) {
        self.limits = settings::limits();
        self.is_hungry = true;
    }

    /// A transaction that wrote jobs has ended: some may be due, or cancelled.
    pub fn written(&mut self) {
        self.is_hungry = true;
        self.look_at = Instant::now();
    }

    /// A session's call goes on as a job.
    pub fn adopt(&mut self, job: Uuid) {
        self.adopted.insert(job);
    }

    /// The transaction that should have made rows of these calls was rolled back.
    pub fn forget(&mut self, jobs: &[Uuid]) {
        for job in jobs {
            self.adopted.remove(job);
            self.parked.remove(job);
        }
    }

    /// The run of a job is over, and this became of its end.
    pub fn over(&mut self, end: JobEnd, finished: Finished) {
        self.release(end.job);
        match finished {
            // Its row is going, or is found to be lost.
            Finished::NotYet if matches!(end.outcome, Err(Error::Forgotten)) => {}
            Finished::NotYet => {
                self.parked.insert(end.job, (end, Instant::now()));
            }
            Finished::Again => {
                self.parked.remove(&end.job);
            }
            Finished::Final => {
                self.parked.remove(&end.job);
                self.ended.push(end.job);
            }
        }
    }

    /// A user is being forgotten, and nothing of theirs runs any more. Should the rows of their jobs stay
    /// after all, they are found to be lost, and run again.
    pub fn forget_user(&mut self, user: &str) {
        let theirs = |(job, whose): (&Uuid, &String)| (whose == user).then_some(*job);
        let jobs: Vec<Uuid> = self.claimed.iter().filter_map(theirs).collect();
        for job in jobs {
            self.release(job);
            self.parked.remove(&job);
        }
    }

    fn release(&mut self, job: Uuid) {
        self.is_hungry = true;
        self.freed += 1;
        self.adopted.remove(&job);
        if let Some(user) = self.claimed.remove(&job)
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
        self.claimed.is_empty() && self.adopted.is_empty() && self.parked.is_empty()
    }

    /// Does what is due. Says whether jobs were started.
    pub fn work(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        let is_due = Instant::now() >= self.look_at;
        if is_due {
            self.look_at = Instant::now() + LOOK;
            self.cancel(statements, gateway);
            self.retry_parked(statements);
        }
        if Instant::now() >= self.keep_at {
            self.keep_house(statements);
        }
        let may_claim = is_due || (self.is_hungry && self.is_worth_a_look());
        let has_claimed = may_claim && self.claim(statements, gateway);
        if !self.ended.is_empty() && self.tell_at <= Instant::now() {
            self.tell(statements, gateway);
        }
        has_claimed
    }

    fn is_worth_a_look(&self) -> bool {
        self.freed * PART >= self.claimed.len() || self.claim_at <= Instant::now()
    }

    /// How long nothing has to be done, unless something arrives. `None`: for long.
    pub fn patience(&self) -> Option<Duration> {
        let claim_at = self.is_hungry.then_some(self.claim_at);
        let tell_at = (!self.ended.is_empty()).then_some(self.tell_at);
        let next = claim_at.into_iter().chain(tell_at).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Tells of jobs that ended.
    fn tell(&mut self, statements: &Statements, gateway: &Handle) {
        self.tell_at = Instant::now() + TELL;
        let ended = self.notify(statements);
        if !ended.is_empty() {
            gateway.jobs_ended(ended);
        }
    }

    /// Tells those who listen of jobs that ended, and says which. Their ends are committed: should nobody be
    /// told, for a queue of notifications that somebody keeps full, nothing else is lost.
    fn notify(&mut self, statements: &Statements) -> Vec<Uuid> {
        let ended = std::mem::take(&mut self.ended);
        if ended.is_empty() {
            return ended;
        }
        // It leaves nothing on disk itself.
        let told = process::passing_transaction(|_| {
            Spi::connect_mut(|client| {
                client.update(&statements.notify_jobs, None, &[ids(&ended).into()]).map(|_| ())
            })
        });
        if let Err(failure) = told {
            pgrx::warning!("aggregator: NOTIFY aggregator_jobs failed: {failure:?}");
        }
        ended
    }

    /// Leases due jobs, commits that, and hands them to the gateway.
    fn claim(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        self.freed = 0;
        let room = some_more(self.limits.all).saturating_sub(self.claimed.len()).min(CLAIMS);
        if room == 0 {
            // Until one has ended.
            self.is_hungry = false;
            return false;
        }
        let looked = process::transaction_by_keys(|installed| {
            Spi::connect_mut(|client| self.look(client, statements, installed, gateway, room))
        });
        let Look { ready, failed, turn, is_whole } = match looked {
            Ok(look) => look,
            // Somebody's job, or what it needs, cannot be read: it must not hold up the others.
            Err(Failure::Data(reason)) => {
                pgrx::warning!("aggregator: jobs are claimed one by one: {reason}");
                self.look_alone(statements, gateway)
            }
            Err(failure) => {
                pgrx::warning!("aggregator: jobs cannot be claimed: {failure:?}");
                self.is_hungry = false;
                return false;
            }
        };
        self.turn = turn;
        // Until a look at everybody finds nothing.
        let taken = ready.len() + failed.len();
        self.is_hungry = taken > 0 || !is_whole;
        // Where there was much, there is more; where there was nothing, the walk goes on.
        let goes_on = taken >= CLAIMS / 4 || (taken == 0 && !is_whole);
        self.claim_at = Instant::now() + if goes_on { Duration::ZERO } else { PAUSE };
        self.ended.extend(failed);
        let mut calls = Vec::new();
        for (user, call) in ready {
            *self.busy.entry(user.clone()).or_default() += 1;
            self.claimed.insert(call.call_id, user);
            calls.push(call);
        }
        let has_any = !calls.is_empty();
        if has_any {
            gateway.run_jobs(calls);
        }
        has_any
    }

    /// How many more jobs of this user may be taken.
    fn spare(&self, user: &String) -> usize {
        let own = self.busy.get(user).copied().unwrap_or(0);
        let all = some_more(self.limits.all);
        let most = fair::most(all, self.claimed.len().saturating_sub(own));
        some_more(self.limits.per_user).min(most).saturating_sub(own)
    }

    fn look(
        &self,
        client: &mut SpiClient,
        statements: &Statements,
        installed: &Installed,
        gateway: &Handle,
        room: usize,
    ) -> spi::Result<Look> {
        let (users, reached, is_whole) =
            self.users(client, statements, |user| self.spare(user) > 0)?;
        let most: Vec<usize> = users.iter().map(|user| self.spare(user)).collect();
        let mut look = Look { turn: reached, is_whole, ..Look::default() };
        let mut claimed = Vec::new();
        for (user, share) in users.iter().zip(fair::shares(room, &most)) {
            if share > 0 {
                let memory = gateway.room(user);
                self.lease(client, statements, user, (share, memory), &mut claimed)?;
                look.turn.clone_from(user);
            }
        }
        look.take(client, statements, installed, claimed)?;
        Ok(look)
    }

    /// One job of each user, each in a transaction of its own. One that cannot even be taken fails.
    fn look_alone(&self, statements: &Statements, gateway: &Handle) -> Look {
        let users = process::transaction(|_| {
            Spi::connect(|client| self.users(client, statements, |user| self.spare(user) > 0))
        });
        let Ok((users, turn, is_whole)) = users else {
            return Look { turn: self.turn.clone(), is_whole: true, ..Look::default() };
        };
        let mut look = Look { turn, is_whole, ..Look::default() };
        for user in &users {
            let found = process::transaction(|installed| {
                Spi::connect_mut(|client| {
                    let (mut claimed, mut own) = (Vec::new(), Look::default());
                    let memory = gateway.room(user);
                    self.lease(client, statements, user, (1, memory), &mut claimed)?;
                    own.take(client, statements, installed, claimed)?;
                    Ok(own)
                })
            });
            match found {
                Ok(own) => {
                    look.ready.extend(own.ready);
                    look.failed.extend(own.failed);
                }
                Err(Failure::Data(reason)) => {
                    look.failed.extend(fail_first(statements, user, &reason.to_string()));
                }
                Err(_) => {}
            }
        }
        look
    }

    /// Users with due jobs whom this test lets pass, from the one after the last that was served
    /// and then from the start; how far the walk came, and whether it passed everybody.
    fn users(
        &self,
        client: &SpiClient,
        statements: &Statements,
        may_run: impl Fn(&String) -> bool,
    ) -> spi::Result<(Vec<String>, String, bool)> {
        let mut users = Vec::new();
        let mut reached = self.turn.clone();
        let mut walked = 0;
        let mut is_whole = false;
        // To the end, and from the start to where it began.
        for from in [self.turn.as_str(), ""] {
            let is_second = walked > 0 || from.is_empty();
            let arguments: [DatumWithOid<'_>; 2] = [from.into(), ((WALK - walked) as i32).into()];
            let mut last = 0;
            for row in client.select(&statements.claim_users, None, &arguments)? {
                let user: String = required(&row, 1)?;
                last = usize::try_from(required::<i32>(&row, 3)?).unwrap_or(WALK);
                if is_second && !self.turn.is_empty() && user > self.turn {
                    is_whole = true;
                    break;
                }
                reached.clone_from(&user);
                if required(&row, 2)? && may_run(&user) {
                    users.push(user);
                    if users.len() == USERS {
                        return Ok((users, reached, false));
                    }
                }
            }
            walked += last;
            if walked >= WALK {
                return Ok((users, reached, false));
            }
            if from.is_empty() {
                is_whole = true;
                break;
            }
        }
        Ok((users, reached, is_whole))
    }

    fn lease(
        &self,
        client: &mut SpiClient,
        statements: &Statements,
        user: &str,
        (share, memory): (usize, usize),
        claimed: &mut Vec<Claimed>,
    ) -> spi::Result<()> {
        let taken: usize = claimed.iter().map(|job| job.request.len()).sum();
        // Of one's share of the memory, the job that reaches its end is taken whole.
        let left = (CLAIMED_BYTES - i64::try_from(taken).unwrap_or(CLAIMED_BYTES))
            .min(i64::try_from(memory).unwrap_or(i64::MAX));
        if left <= 0 {
            return Ok(());
        }
        let arguments = [user.into(), self.epoch.into(), (share as i64).into(), left.into()];
        for row in client.update(&statements.claim, None, &arguments)? {
            claimed.push(Claimed {
                id: fresh::uuid(&row, 1)?,
                user: user.to_owned(),
                provider: row.get(2)?,
                request: required(&row, 3)?,
                // A number that no attempt ever had says nothing.
                earlier_attempts: required::<i16>(&row, 4)?.try_into().unwrap_or(0),
                gateway_key: row.get::<pgrx::Uuid>(5)?.map(|id| routing::uuid(Some(id))),
            });
        }
        Ok(())
    }

    /// Aborts what was cancelled meanwhile, or is no more.
    fn cancel(&mut self, statements: &Statements, gateway: &Handle) {
        if self.claimed.is_empty() && self.adopted.is_empty() {
            return;
        }
        let claimed: Vec<Uuid> = self.claimed.keys().copied().collect();
        let adopted: Vec<Uuid> = self.adopted.iter().copied().collect();
        let cancelled = process::transaction(|_| {
            Spi::connect(|client| {
                // In here, because the type of an array is looked up in the catalog.
                let arguments = [ids(&claimed).into(), ids(&adopted).into()];
                let rows = client.select(&statements.cancelled_jobs, None, &arguments)?;
                rows.map(|row| fresh::uuid(&row, 1)).collect::<spi::Result<Vec<_>>>()
            })
        });
        let cancelled = cancelled.unwrap_or_default();
        if cancelled.is_empty() {
            return;
        }
        gateway.abort_jobs(cancelled.clone());
        for job in cancelled {
            self.release(job);
            self.ended.push(job);
        }
    }

    /// Every job that this worker knows to run or to have run.
    fn known(&self) -> Vec<Uuid> {
        self.claimed.keys().chain(&self.adopted).chain(self.parked.keys()).copied().collect()
    }
}

/// Ends the job of a user that is due first and cannot be taken.
fn fail_first(statements: &Statements, user: &str, reason: &str) -> Option<Uuid> {
    let error = serde_json::json!({
        "message": "the job, or what it needs, cannot be read",
        "code": "unreadable",
        "sqlstate": "PT500",
        "detail": reason,
        "hint": "Nothing was sent in this run. An administrator finds the reason in the server log.",
    });
    let error = error.to_string();
    let ended = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments = [user.into(), error.as_str().into()];
            let rows = client.update(&statements.fail_first, None, &arguments)?;
            rows.map(|row| fresh::uuid(&row, 1)).next().transpose()
        })
    });
    ended.unwrap_or_else(|failure| {
        pgrx::warning!("aggregator: a job that cannot be read is not ended: {failure:?}");
        None
    })
}

/// Some more than can be in flight, so that the next one is there when one has ended.
fn some_more(limit: usize) -> usize {
    limit.saturating_add((limit / 4).min(CLAIMS))
}

fn ids(jobs: &[Uuid]) -> Vec<pgrx::Uuid> {
    jobs.iter().map(|job| pg_uuid(*job)).collect()
}

/// What the gateway needs to run each job, or why it cannot be run.
fn prepare(
    client: &SpiClient,
    installed: &Installed,
    claimed: Vec<Claimed>,
) -> Vec<(String, Uuid, Result<ChatCall, Error>)> {
    // Jobs of one batch mostly find the same lack of a route.
    let mut missing: HashSet<(Whose, Vec<String>, Option<String>)> = HashSet::new();
    let resolved_at = time::now();
    let mut prepare = |job: &Claimed| {
        let prepared = Prepared::from_body(Some(&job.request))?;
        let models: Vec<String> = prepared.models().map(str::to_owned).collect();
        let provider = job.provider.as_deref();
        let no_route = || Error::NoRoute { model: prepared.model.clone() };
        let whose = Whose::of(job.user.as_str(), job.gateway_key);
        let wanted = (whose.clone(), models, job.provider.clone());
        if missing.contains(&wanted) {
            return Err(no_route());
        }
        let key = gateway_keys::require(client, installed, job.gateway_key)?;
        let wanted_models: Vec<&str> = prepared.models().collect();
        let find = || {
            let user = job.user.as_str();
            let found = routing::candidates(
                client,
                installed,
                &wanted_models,
                user,
                provider,
                |candidate| whose.may_ask(key.as_ref(), candidate),
            )?;
            if found.is_empty() {
                return Err(no_route());
            }
            let rules = routing::rules(client, installed, user, job.gateway_key)?;
            Ok((found.into(), Arc::new(rules)))
        };
        let found = route_cache::get(installed, &whose, prepared.models(), provider, find);
        if matches!(found, Err(Error::NoRoute { .. })) {
            missing.insert(wanted);
        }
        let (candidates, rules) = found?;
        let labels = match &key {
            Some(key) => key.labels(&prepared.tags)?,
            None => Labels::of(None, &prepared.tags),
        };
        Ok(ChatCall {
            call_id: job.id,
            user_id: job.user.clone(),
            candidates,
            body: prepared.body().into(),
            max_retries: prepared.max_retries,
            deadline_ms: prepared.timeout_ms,
            stream_upstream: prepared.stream_upstream,
            rules: Rules::about(&rules, labels.as_deref()),
            resolved_at,
            earlier_attempts: job.earlier_attempts,
            labels,
            generation: None,
            native: None,
            standings: None,
        })
    };
    claimed
        .into_iter()
        .map(|job| {
            let call = prepare(&job);
            (job.user, job.id, call)
        })
        .collect()
}
