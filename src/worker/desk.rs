//! Carrying out the gateway's tasks: the ledger by group commit, the rest in transactions of its
//! own.

mod tasks;
mod writing;

use crate::core::health::{Health, Place};
use crate::gateway::Handle;
use crate::gateway::forgotten::Mark;
use crate::gateway::ledger::Inbox;
use crate::gateway::task::{Begin, HealthNote, HiddenTokens, RowKey, Settle};
use crate::installed::{Installed, LIBRARY};
use crate::protocol::Settled;
use crate::routing::pg_uuid;
use crate::settings;
use crate::time::{self, timestamp};
use crate::worker::answers::Answers;
use crate::worker::callers;
use crate::worker::columns::Columns;
use crate::worker::console;
use crate::worker::cooling;
use crate::worker::forgotten;
use crate::worker::held::Held;
use crate::worker::hidden;
use crate::worker::jobs::Jobs;
use crate::worker::ledger_statements::{Growth, LedgerStatements};
use crate::worker::prices::Prices;
use crate::worker::process::{self, Failure};
use crate::worker::quarantine;
use crate::worker::statements::Statements;
use pgrx::spi::{OwnedPreparedStatement, Spi};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use uuid::Uuid;
use writing::Row;

/// Rows of one commit: enough to share a flush, few enough that nobody waits long.
const BATCH: usize = 256;
/// Between looks whether somebody asks for what was set aside.
const LOOK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
/// How often `last_used_at` is noted, and the low-water mark moved.
const NOTE: Duration = Duration::from_secs(10);
/// How often partitions are made ahead and old usage is forgotten.
const MAINTAIN: Duration = Duration::from_secs(60);

/// The main thread's desk.
pub struct Desk {
    /// Oid of the database.
    database: u32,
    installed: Installed,
    /// This life of the worker: microseconds since 1970 at its start.
    epoch: i64,
    statements: Statements,
    ledger_statements: LedgerStatements,
    growth: Growth,
    prices: Prices,
    /// Rows that were begun and not settled, and when they were created.
    open: HashMap<RowKey, i64>,
    /// Those of them that are not written yet.
    held: Held,
    /// Since when something is settled and not flushed yet.
    unflushed_since: Option<Instant>,
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
    used_gateway_keys: HashSet<Uuid>,
    /// What has cooled down or is well again, not yet written.
    health: HashMap<Place, HealthNote>,
    health_at: Instant,
    noted_at: Instant,
    maintained_at: Option<Instant>,
    /// Whether this life has written the ledger: a restore has not, and brings its own partitions.
    has_written: bool,
    has_left: bool,
    /// Answers that are kept.
    answers: Answers,
    pub jobs: Jobs,
    columns: Columns,
}

impl Desk {
    /// Opens the desk: a new epoch, and what dead ones left pending becomes unknown.
    pub fn open(database: u32, installed: Installed) -> Result<Self, Failure> {
        process::prepare();
        let epoch = time::now();
        let (statements, ledger_statements) = process::transaction(|installed| {
            Spi::connect_mut(|client| {
                callers::watch(client, installed)?;
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
        })?;
        let mut desk = Self {
            database,
            installed,
            epoch,
            statements,
            ledger_statements,
            growth: Growth::new(),
            prices: Prices::default(),
            jobs: Jobs::new(epoch),
            columns: Columns::new(),
            open: HashMap::new(),
            held: Held::default(),
            unflushed_since: None,
            stuck: Vec::new(),
            stuck_since: Instant::now(),
            tries: HashMap::new(),
            has_orphans: true,
            has_quarantined: true,
            is_asked: true,
            asked_at: Instant::now(),
            used: HashSet::new(),
            used_gateway_keys: HashSet::new(),
            health: HashMap::new(),
            health_at: Instant::now(),
            noted_at: Instant::now(),
            maintained_at: None,
            has_written: false,
            has_left: false,
            answers: Answers::default(),
        };
        desk.plan_ledger();
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
        let held = self.held.all();
        self.begin(held);
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
            && !self.columns.any_unfinished(&self.statements)
    }

    /// How long nothing has to be done, unless something arrives.
    pub fn patience(&self) -> Option<Duration> {
        let others = self.jobs.patience().into_iter().chain(self.columns.patience());
        self.writing_patience().into_iter().chain(others).min()
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

    /// Looks after the AI columns. Says whether any had something to do.
    pub fn run_columns(&mut self, gateway: &Handle) -> bool {
        self.columns.work(&self.statements, gateway)
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
            Spi::connect(|client| {
                let oid = installed.oid.into();
                let rows = client.select(&self.statements.version, Some(1), &[oid])?;
                rows.first().get_one::<String>()
            })
        });
        match version {
            Ok(version) => version.as_deref() == Some(LIBRARY),
            Err(Failure::NotInstalled) => {
                self.has_left = true;
                false
            }
            Err(Failure::Database(_) | Failure::Data(_)) => true,
        }
    }

    fn write_counted(&mut self, rows: Vec<Row>, inbox: &Inbox) {
        for _ in &rows {
            inbox.wake.done();
        }
        if !rows.is_empty() {
            self.write(rows);
        }
    }

    /// Writes rows that were held.
    fn begin(&mut self, held: Vec<Begin>) {
        if !held.is_empty() {
            self.write(held.into_iter().map(|begin| Row::Begin(begin, None)).collect());
        }
    }

    /// Writes what has arrived and what waits, because somebody reads the ledger now.
    fn write_all(&mut self, rows: Vec<Row>, inbox: &Inbox) {
        self.write_counted(rows, inbox);
        let held = self.held.all();
        self.begin(held);
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
            self.tries.insert(settle.begin.key, writing::MOST_TRIES);
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
        console::sweep();
        self.answers.sweep(&self.statements);
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
        note_used(&statements.used, &mut self.used);
        note_used(&statements.used_gateway_keys, &mut self.used_gateway_keys);
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

/// Notes that keys were used.
fn note_used(statement: &OwnedPreparedStatement, keys: &mut HashSet<Uuid>) {
    if keys.is_empty() {
        return;
    }
    let used: Vec<Uuid> = keys.drain().collect();
    let note = |keys: &[Uuid]| {
        process::transaction(|_| {
            let keys: Vec<pgrx::Uuid> = keys.iter().map(|id| pg_uuid(*id)).collect();
            Spi::connect_mut(|client| client.update(statement, None, &[keys.into()]).map(|_| ()))
        })
    };
    // One key's row must not keep that of others from being noted.
    match note(&used) {
        Ok(()) => {}
        Err(Failure::Data(_)) => used.iter().for_each(|key| {
            let _ = note(std::slice::from_ref(key));
        }),
        Err(_) => keys.extend(used),
    }
}
