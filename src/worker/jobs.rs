//! Durable jobs on the main thread: which of them run, and when to look for more.
//!
//! A job is leased to a life of the worker, its epoch. One worker serves a database, so the leases
//! of every other epoch are over.

mod claiming;
mod ending;
mod housekeeping;
mod parked;

pub use ending::{Ended, Finished, finish};

use crate::error::Error;
use crate::fresh;
use crate::gateway::task::JobEnd;
use crate::gateway::{Handle, Limits};
use crate::routing::pg_uuid;
use crate::settings;
use crate::worker::process;
use crate::worker::statements::Statements;
use housekeeping::KEEP;
use pgrx::spi::{self, Spi};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Without being told, how often due jobs are looked for: `run_after`, and COMMIT PREPARED, which
/// tells nobody.
const LOOK: Duration = Duration::from_secs(1);
/// Jobs that are claimed or ended between two ledger commits.
const CLAIMS: usize = 256;
/// While many run, what has ended makes room for others together: a look for a few costs as much as one for
/// many, and of those that have been taken some wait for their turn.
const PART: usize = 8;
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

/// Some more than can be in flight, so that the next one is there when one has ended.
fn some_more(limit: usize) -> usize {
    limit.saturating_add((limit / 4).min(CLAIMS))
}

fn ids(jobs: &[Uuid]) -> Vec<pgrx::Uuid> {
    jobs.iter().map(|job| pg_uuid(*job)).collect()
}
