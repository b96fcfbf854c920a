//! Carrying out the gateway's tasks: the ledger by group commit, the rest in transactions of its
//! own.

use crate::core::health::{Health, Place};
use crate::gateway::Handle;
use crate::gateway::forgotten::Mark;
use crate::gateway::ledger::{
    Begin, HealthNote, HiddenTokens, Inbox, JobEnd, RowKey, Settle, Task,
};
use crate::installed::{Installed, LIBRARY};
use crate::protocol::Settled;
use crate::routing::pg_uuid;
use crate::settings;
use crate::time::{self, timestamp};
use crate::worker::forgotten;
use crate::worker::hidden;
use crate::worker::jobs::{self, Finished, Jobs};
use crate::worker::ledger_statements::{Growth, LedgerStatements};
use crate::worker::process::{self, Failure};
use crate::worker::quarantine;
use crate::worker::renewal;
use crate::worker::settling::settling;
use crate::worker::spending;
use crate::worker::statements::Statements;
use crate::worker::{batch, catalogue, cooling};
use pgrx::spi::{self, Spi, SpiClient};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Rows of one commit: enough to share a flush, few enough that nobody waits long.
const BATCH: usize = 256;
/// Between looks whether somebody asks for what was set aside.
const LOOK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
/// How often `last_used_at` is noted, and the low-water mark moved.
const NOTE: Duration = Duration::from_secs(10);
/// A settlement that cannot be written for what is in it, or in what it adds to, is set aside after so
/// many tries.
const MOST_TRIES: u32 = 5;
/// How often partitions are made ahead and old usage is forgotten.
const MAINTAIN: Duration = Duration::from_secs(60);

/// The main thread's desk.
pub struct Desk {
    installed: Installed,
    /// This life of the worker: microseconds since 1970 at its start.
    epoch: i64,
    statements: Statements,
    ledger_statements: LedgerStatements,
    growth: Growth,
    /// Rows that were begun and not settled, and when they were created.
    open: HashMap<RowKey, i64>,
    /// Settlements that could not be written yet.
    stuck: Vec<(Box<Settle>, Option<oneshot::Sender<Settled>>)>,
    stuck_since: Instant,
    /// How often each of them was tried in vain, if not for a reason that passes.
    tries: HashMap<RowKey, u32>,
    /// What dead lives of the worker left pending is not closed yet.
    has_orphans: bool,
    /// Rows are set aside; somebody may ask for them to be tried again.
    has_quarantined: bool,
    /// A transaction has ended that may have asked so; looked at once a second at the most.
    is_asked: bool,
    asked_at: Instant,
    used: HashSet<Uuid>,
    /// What has cooled down or is well again, not yet written.
    health: HashMap<Place, HealthNote>,
    health_at: Instant,
    noted_at: Instant,
    maintained_at: Option<Instant>,
    /// Whether this life has written the ledger: a restore has not, and brings its own partitions.
    has_written: bool,
    has_left: bool,
    pub jobs: Jobs,
}

/// A row to write, and whom to tell.
enum Row {
    Begin(Begin, oneshot::Sender<Result<(), String>>),
    Settle(Box<Settle>, Option<oneshot::Sender<Settled>>),
    JobEnd(Box<JobEnd>),
}

impl Row {
    /// Whether it writes the end of a job.
    fn ends_job(&self) -> bool {
        match self {
            Self::Begin(..) => false,
            Self::Settle(settle, _) => settle.job.is_some(),
            Self::JobEnd(_) => true,
        }
    }
}

/// What writing a row gave.
enum Written {
    Begun,
    Settled(Option<Settled>, Option<Finished>),
    JobEnded(Finished),
}

impl Desk {
    /// Opens the desk: a new epoch, and what dead ones left pending becomes unknown.
    pub fn open(installed: Installed) -> Result<Self, String> {
        process::prepare();
        let epoch = time::now();
        let (statements, ledger_statements) = process::transaction(|installed| {
            Spi::connect_mut(|client| {
                let begun = installed.sql(
                    "INSERT INTO @extschema@.aggregator_worker_epochs (epoch) VALUES ($1)
                     ON CONFLICT (epoch) DO NOTHING",
                );
                client.update(begun.as_str(), None, &[epoch.into()])?;
                Ok((
                    Statements::prepare(client, installed)?,
                    LedgerStatements::prepare(client, installed)?,
                ))
            })
        })
        .map_err(|failure| format!("it cannot open the ledger: {failure:?}"))?;
        let mut desk = Self {
            installed,
            epoch,
            statements,
            ledger_statements,
            growth: Growth::new(),
            jobs: Jobs::new(epoch),
            open: HashMap::new(),
            stuck: Vec::new(),
            stuck_since: Instant::now(),
            tries: HashMap::new(),
            has_orphans: true,
            has_quarantined: true,
            is_asked: true,
            asked_at: Instant::now(),
            used: HashSet::new(),
            health: HashMap::new(),
            health_at: Instant::now(),
            noted_at: Instant::now(),
            maintained_at: None,
            has_written: false,
            has_left: false,
        };
        // Before the jobs: of one that has ended, the ledger says how.
        desk.close_orphans();
        // A lock on the table of jobs must not keep calls from being made; it is tried again.
        if let Err(failure) = desk.jobs.take_over(&desk.statements, &[]) {
            pgrx::warning!("aggregator: jobs of the last worker are not taken yet: {failure:?}");
        }
        desk.retry_quarantined();
        Ok(desk)
    }

    /// What dead lives left pending becomes unknown. Whatever is in those rows, the worker goes on; what
    /// a lock prevents is done later.
    fn close_orphans(&mut self) {
        let (statements, epoch) = (&self.statements, self.epoch);
        let closed = process::transaction(|installed| {
            Spi::connect_mut(|client| {
                let rows = client.update(&statements.close_orphans, Some(1), &[epoch.into()])?;
                let set_aside = rows.first().get_one::<i64>()?;
                let ended = installed
                    .sql("DELETE FROM @extschema@.aggregator_worker_epochs WHERE epoch <> $1");
                client.update(ended.as_str(), None, &[epoch.into()])?;
                Ok(set_aside)
            })
        });
        match closed {
            Ok(set_aside) => {
                self.has_orphans = false;
                self.has_quarantined |= set_aside != Some(0);
                quarantine::warn(set_aside);
            }
            Err(failure) => pgrx::warning!(
                "aggregator: what the last worker left pending is not closed yet: {failure:?}"
            ),
        }
    }

    /// Marks the epoch as ended well, if it did: nothing is pending any more.
    pub fn close(&mut self) {
        self.note();
        self.note_health();
        if !self.has_left {
            forgotten::sweep(&self.statements);
            self.jobs.close(&self.statements);
        }
        // A life that was too short for it does it now.
        if self.maintained_at.is_none() && self.has_written && !self.has_left {
            self.maintain();
        }
        if self.has_left || !self.open.is_empty() || !self.stuck.is_empty() {
            return;
        }
        let epoch = self.epoch;
        let _ = process::transaction(|installed| {
            let sql = installed.sql(
                "UPDATE @extschema@.aggregator_worker_epochs SET ended_at = clock_timestamp() WHERE epoch = $1",
            );
            Spi::connect_mut(|client| {
                client.update(sql.as_str(), None, &[epoch.into()]).map(|_| ())
            })
        });
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.stuck.is_empty() && self.open.is_empty()
    }

    /// Whether there is no reason to stay.
    pub fn is_idle(&self) -> bool {
        self.is_empty()
            && forgotten::sweep(&self.statements)
            && self.jobs.is_empty()
            && !self.jobs.any_unfinished(&self.statements)
    }

    /// This life of the worker.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// What is cool still, as the last worker left it.
    pub fn health(&self) -> Health {
        cooling::load(&self.statements)
    }

    /// What providers were seen to count beyond the bounds of requests.
    pub fn hidden(&self) -> Vec<HiddenTokens> {
        hidden::load(&self.statements)
    }

    /// Users who were forgotten lately. Nobody, if that cannot be read: then nothing is on its way either,
    /// unless a session tries for the second time.
    pub fn forgotten(&self) -> Vec<Mark> {
        forgotten::sweep(&self.statements);
        forgotten::load(&self.statements)
    }

    /// Looks after the jobs. Says whether any was started.
    pub fn run_jobs(&mut self, gateway: &Handle) -> bool {
        self.jobs.work(&self.statements, gateway)
    }

    /// Oid of the extension that is served.
    pub fn extension(&self) -> u32 {
        self.installed.oid.into()
    }

    /// Whether it is known that the extension has been dropped.
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// Whether the extension is still the one, of the version, that this worker was started for.
    pub fn is_current(&mut self) -> bool {
        let version = process::transaction(|installed| {
            Ok((installed.oid, Spi::connect(|client| installed.version(client))?))
        });
        match version {
            Ok((oid, version)) => oid == self.installed.oid && version == LIBRARY,
            Err(Failure::NotInstalled) => {
                self.has_left = true;
                false
            }
            Err(Failure::Database(_) | Failure::Data(_)) => true,
        }
    }

    /// Does what has arrived, one batch of it: jobs are to be claimed between batches. Says whether
    /// that was anything.
    pub fn work(&mut self, inbox: &Inbox) -> bool {
        let mut did = false;
        let mut rows = Vec::new();
        while rows.len() < BATCH
            && let Ok(task) = inbox.tasks.try_recv()
        {
            did = true;
            match task {
                Task::Begin(begin, done) => rows.push(Row::Begin(begin, done)),
                Task::Settle(settle, done) => rows.push(Row::Settle(settle, done)),
                Task::JobEnded(end) => rows.push(Row::JobEnd(end)),
                Task::JobsWritten => {
                    self.jobs.written();
                    self.is_asked = true;
                    inbox.wake.done();
                }
                Task::HandedOver(job) => {
                    self.jobs.adopt(job);
                    inbox.wake.done();
                }
                Task::HandOversUndone(jobs) => {
                    self.jobs.forget(&jobs);
                    inbox.wake.done();
                }
                Task::Renew(known, reply) => {
                    let _ = reply.send(renewal::find(&known));
                    inbox.wake.done();
                }
                Task::Spending(query, reply) => {
                    // What was sent before must be in the ledger before it is read.
                    self.write_counted(std::mem::take(&mut rows), inbox);
                    let _ = reply.send(spending::find(&self.statements, &query));
                    inbox.wake.done();
                }
                Task::BudgetWarning(warning) => {
                    spending::warn(&self.statements, &warning);
                    inbox.wake.done();
                }
                Task::Health(note) => {
                    self.health.insert(note.change.0.clone(), *note);
                    inbox.wake.done();
                }
                Task::HiddenTokens(seen) => {
                    hidden::store(&self.statements, &seen);
                    inbox.wake.done();
                }
                Task::KeyUsed(key) => {
                    self.used.insert(key);
                    inbox.wake.done();
                }
                Task::Catalogue(fetch, fetched) => {
                    catalogue::store(&self.statements, &fetch, &fetched);
                    inbox.wake.done();
                }
                Task::UserModels(own) => {
                    catalogue::store_own(&self.statements, &own);
                    inbox.wake.done();
                }
                Task::KeyChecked(checked) => {
                    catalogue::note_check(&self.statements, &checked);
                    inbox.wake.done();
                }
                Task::RecentChecks { user, provider, since, reply } => {
                    let recent = catalogue::recent_checks(&self.statements, &user, provider, since);
                    let _ = reply.send(recent);
                    inbox.wake.done();
                }
                Task::Forget { user, anonymous, done } => {
                    self.write_counted(std::mem::take(&mut rows), inbox);
                    self.forget_user(&user, &anonymous);
                    let _ = done.send(());
                    inbox.wake.done();
                }
                Task::Outdated => {
                    self.has_left = true;
                    inbox.wake.done();
                }
                Task::Log(line) => {
                    pgrx::log!("aggregator: {line}");
                    inbox.wake.done();
                }
            }
        }
        self.write_counted(rows, inbox);
        if !self.stuck.is_empty() && self.stuck_since.elapsed() > RETRY {
            let stuck = std::mem::take(&mut self.stuck);
            self.stuck_since = Instant::now();
            self.write(stuck.into_iter().map(|(settle, done)| Row::Settle(settle, done)).collect());
        }
        if self.noted_at.elapsed() > NOTE {
            self.note();
            if self.has_written {
                // A month may have begun, with an empty partition.
                self.plan_ledger();
            }
            if self.has_orphans {
                self.close_orphans();
            }
            self.is_asked = true;
            forgotten::sweep(&self.statements);
            if self.maintained_at.is_none_or(|at| at.elapsed() > MAINTAIN) {
                self.maintain();
            }
        }
        if self.is_asked && (self.has_quarantined || self.asked_at.elapsed() > LOOK) {
            self.retry_quarantined();
        }
        self.note_health();
        did
    }

    /// A user is being forgotten, and nothing of theirs is in flight any more: what could not be written
    /// yet is nobody's.
    fn forget_user(&mut self, user: &str, anonymous: &str) {
        for (settle, _) in &mut self.stuck {
            if settle.begin.user_id == user {
                anonymous.clone_into(&mut settle.begin.user_id);
            }
        }
        self.health.retain(|_, note| note.user_id.as_deref() != Some(user));
        self.jobs.forget_user(user);
    }

    fn write_counted(&mut self, rows: Vec<Row>, inbox: &Inbox) {
        for _ in &rows {
            inbox.wake.done();
        }
        if !rows.is_empty() {
            self.write(rows);
        }
    }

    /// Writes rows in one commit; if that fails, each in its own, so that one bad row harms no
    /// other.
    ///
    /// An answer does not wait for the disk: it goes out as soon as its row is settled. What begins does,
    /// and so does the result of a job, which somebody may read at once. A crash in between leaves a row
    /// that is unknown, whose reservation counts.
    fn write(&mut self, rows: Vec<Row>) {
        let Self { statements, ledger_statements, epoch, .. } = &*self;
        let is_durable = rows.iter().any(Row::ends_job);
        let all = settling(|| {
            process::ledger_transaction(is_durable, |_| {
                Spi::connect_mut(|client| {
                    write_all(client, statements, ledger_statements, *epoch, &rows)
                })
            })
        });
        match all {
            Ok(written) => {
                self.has_written = true;
                let has_outgrown = self.growth.add(rows.len());
                let (begun, ended): (Vec<_>, Vec<_>) = rows
                    .into_iter()
                    .zip(written)
                    .partition(|(row, _)| matches!(row, Row::Begin(..)));
                for (row, written) in ended {
                    self.done(row, written);
                }
                let flushed = if is_durable { Ok(()) } else { process::flush() };
                for (row, written) in begun {
                    match &flushed {
                        Ok(()) => self.done(row, written),
                        Err(failure) => self.failed(row, failure),
                    }
                }
                if has_outgrown {
                    self.plan_ledger();
                }
            }
            Err(failure) if rows.len() == 1 => {
                rows.into_iter().for_each(|row| self.failed(row, &failure));
            }
            Err(_) => rows.into_iter().for_each(|row| self.write(vec![row])),
        }
    }

    /// Plans the ledger's statements anew, for the tables as they are. If that fails, the old ones do.
    fn plan_ledger(&mut self) {
        let planned = process::transaction(|installed| {
            Spi::connect(|client| LedgerStatements::prepare(client, installed))
        });
        if let Ok(planned) = planned {
            self.ledger_statements = planned;
        }
    }

    fn done(&mut self, row: Row, written: Written) {
        match (row, written) {
            (Row::Begin(begin, done), _) => {
                self.open.insert(begin.key, begin.key.created_at);
                let _ = done.send(Ok(()));
            }
            (Row::Settle(settle, done), Written::Settled(settled, finished)) => {
                let settled = settled.unwrap_or_default();
                self.open.remove(&settle.begin.key);
                self.tries.remove(&settle.begin.key);
                if let (Some(answer), Some(finished)) = (settle.job, finished) {
                    let job = settle.begin.key.call_id;
                    let end = JobEnd { job, outcome: Ok((answer, settled.clone())) };
                    self.jobs.over(end, finished);
                }
                if let Some(done) = done {
                    let _ = done.send(settled);
                }
            }
            (Row::JobEnd(end), Written::JobEnded(finished)) => self.jobs.over(*end, finished),
            // What was written is of the kind of its row.
            (Row::Settle(..) | Row::JobEnd(_), _) => {}
        }
    }

    fn failed(&mut self, row: Row, failure: &Failure) {
        let reason = match failure {
            Failure::NotInstalled => "the extension was dropped".to_owned(),
            Failure::Database(cause) | Failure::Data(cause) => cause.to_string(),
        };
        self.has_left |= *failure == Failure::NotInstalled;
        match row {
            Row::Begin(_, done) => {
                let _ = done.send(Err(reason));
            }
            Row::JobEnd(end) => self.jobs.over(*end, Finished::NotYet),
            // The usage goes before the result, which is kept and tried again: it was paid for.
            Row::Settle(mut settle, done) if settle.job.is_some() && !self.has_left => {
                pgrx::warning!("aggregator: the result of a job is not written yet: {reason}");
                let (job, answer) = (settle.begin.key.call_id, settle.job.take());
                // Where the usage is, there is the cost.
                self.write(vec![Row::Settle(settle, done)]);
                if let Some(answer) = answer {
                    let outcome = Ok((answer, Settled::default()));
                    self.jobs.over(JobEnd { job, outcome }, Finished::NotYet);
                }
            }
            // The answer was paid for: keep it and try again, for as long as there is a ledger.
            Row::Settle(settle, done) if !self.has_left => {
                if matches!(failure, Failure::Data(_)) && self.give_up(&settle, &reason) {
                    return;
                }
                if self.stuck.is_empty() {
                    self.stuck_since = Instant::now();
                    pgrx::warning!("aggregator: a usage row is not written yet: {reason}");
                }
                self.stuck.push((settle, done));
            }
            Row::Settle(settle, _) => {
                self.open.remove(&settle.begin.key);
            }
        }
    }

    /// Sets a settlement aside that was tried often enough. Says whether it did.
    fn give_up(&mut self, settle: &Settle, reason: &str) -> bool {
        let key = settle.begin.key;
        let tries = self.tries.entry(key).or_default();
        *tries += 1;
        if *tries < MOST_TRIES || !quarantine::set_aside(&self.statements, settle, reason, *tries) {
            return false;
        }
        self.tries.remove(&key);
        self.open.remove(&key);
        self.has_quarantined = true;
        quarantine::warn(Some(1));
        true
    }

    /// Tries what was set aside again, where an administrator has asked for it.
    fn retry_quarantined(&mut self) {
        self.is_asked = false;
        self.asked_at = Instant::now();
        // A session may have set some aside.
        self.has_quarantined = quarantine::is_there_any(&self.statements);
        if !self.has_quarantined {
            return;
        }
        quarantine::retry_orphans(&self.statements);
        for settle in quarantine::wanted(&self.statements) {
            // It is set aside once more at the first failure.
            self.tries.insert(settle.begin.key, MOST_TRIES);
            let key = settle.begin.key;
            self.write(vec![Row::Settle(Box::new(settle), None)]);
            if !self.tries.contains_key(&key) && !self.stuck.iter().any(|(s, _)| s.begin.key == key)
            {
                quarantine::forget_written(&self.statements, key);
            }
        }
        self.has_quarantined = quarantine::is_there_any(&self.statements);
    }

    /// Partitions ahead of time, and an end for what is old. What cannot be had now is left for the
    /// next time.
    fn maintain(&mut self) {
        self.maintained_at = Some(Instant::now());
        let arguments = [self.has_written.into(), settings::usage_retention_s().into()];
        let maintained = process::transaction(|_| {
            Spi::connect_mut(|client| {
                client.update(&self.statements.maintain, None, &arguments).map(|_| ())
            })
        });
        if let Err(Failure::Database(reason)) = maintained {
            pgrx::warning!("aggregator: the usage log is not maintained: {reason}");
        }
    }

    /// Keeps what cools down for the next worker. At once: a session may be looking at it.
    fn note_health(&mut self) {
        if self.health.is_empty() || self.health_at > Instant::now() {
            return;
        }
        cooling::keep(&self.statements, &mut self.health);
        if !self.health.is_empty() {
            self.health_at = Instant::now() + RETRY;
        }
    }

    /// What need not be at once, in transactions of its own: a tenant may hold a lock on a key.
    fn note(&mut self) {
        self.noted_at = Instant::now();
        let (statements, epoch) = (&self.statements, self.epoch);
        if !self.used.is_empty() {
            let used: Vec<Uuid> = self.used.drain().collect();
            let note = |keys: &[Uuid]| {
                process::transaction(|_| {
                    let keys: Vec<pgrx::Uuid> = keys.iter().map(|id| pg_uuid(*id)).collect();
                    Spi::connect_mut(|client| {
                        client.update(&statements.used, None, &[keys.into()]).map(|_| ())
                    })
                })
            };
            // One key's row must not keep that of others from being noted.
            match note(&used) {
                Ok(()) => {}
                Err(Failure::Data(_)) => used.iter().for_each(|key| {
                    let _ = note(std::slice::from_ref(key));
                }),
                Err(_) => self.used.extend(used),
            }
        }
        if !self.open.is_empty() {
            let low = self.open.values().min().copied().unwrap_or(epoch);
            let _ = process::transaction(|_| {
                Spi::connect_mut(|client| {
                    let arguments = [epoch.into(), timestamp(low).into()];
                    client.update(&statements.low_water, None, &arguments).map(|_| ())
                })
            });
        }
    }
}

/// Writes a batch: first what begins, because it may settle in the same batch.
fn write_all(
    client: &mut SpiClient,
    statements: &Statements,
    ledger: &LedgerStatements,
    epoch: i64,
    rows: &[Row],
) -> spi::Result<Vec<Written>> {
    let mut begins = Vec::new();
    let mut settles: Vec<&Settle> = Vec::new();
    for row in rows {
        match row {
            Row::Begin(begin, _) => begins.push(begin),
            Row::Settle(settle, _) => settles.push(settle),
            Row::JobEnd(_) => {}
        }
    }
    batch::begin(client, ledger, epoch, &begins)?;
    let mut settled = batch::settle(client, ledger, epoch, &settles)?.into_iter();
    rows.iter()
        .map(|row| match row {
            Row::Begin(..) => Ok(Written::Begun),
            Row::Settle(settle, _) => {
                let settled = settled.next().flatten();
                let finished = match &settle.job {
                    None => None,
                    Some(answer) => {
                        let job = settle.begin.key.call_id;
                        let costs = settled.clone().unwrap_or_default();
                        Some(jobs::succeeded(client, statements, job, answer, &costs)?)
                    }
                };
                Ok(Written::Settled(settled, finished))
            }
            Row::JobEnd(end) => match &end.outcome {
                Ok((answer, settled)) => {
                    jobs::succeeded(client, statements, end.job, answer, settled)
                }
                Err(error) => jobs::failed(client, statements, end.job, error),
            }
            .map(Written::JobEnded),
        })
        .collect()
}
