//! Writing rows: a batch in one commit, and what becomes of those that cannot be written.

use super::Desk;
use crate::gateway::task::{Begin, JobEnd, NotBegun, Settle};
use crate::protocol::Settled;
use crate::route_cache;
use crate::worker::jobs::{self, Ended, Finished};
use crate::worker::ledger_statements::LedgerStatements;
use crate::worker::process::{self, Failure};
use crate::worker::settling::settling;
use crate::worker::statements::Statements;
use crate::worker::{batch, quarantine};
use pgrx::spi::{self, Spi, SpiClient, SpiError, SpiErrorCodes};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A settlement that cannot be written for what is in it, or in what it adds to, is set aside after so
/// many tries.
pub const MOST_TRIES: u32 = 5;

/// After so many rows in a row that somebody has locked it is their table that is.
const LOCKED_ROWS: usize = 2;

/// How long what is settled waits for something that is flushed anyway.
const UNFLUSHED: Duration = Duration::from_millis(1);

/// A row to write, and whom to tell.
pub enum Row {
    Begin(Begin, Option<oneshot::Sender<Result<(), NotBegun>>>),
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

    /// Whether it begins what was routed under another generation.
    fn is_stale(&self, generation: u64) -> bool {
        match self {
            Self::Begin(begin, Some(_)) => begin.generation.is_some_and(|of| of != generation),
            _ => false,
        }
    }

    /// Which moment the row of the ledger is of (microseconds since 1970).
    fn moment(&self) -> Option<i64> {
        match self {
            Self::Begin(begin, _) => Some(begin.key.created_at),
            Self::Settle(settle, _) => Some(settle.begin.key.created_at),
            Self::JobEnd(_) => None,
        }
    }
}

/// What writing a row gave.
enum Written {
    Begun,
    Settled(Option<Settled>, Option<Finished>),
    JobEnded(Finished),
}

/// Where rows are written.
#[derive(Clone, Copy)]
enum Target {
    /// The partition that holds what happens now.
    Present,
    /// The ledger, which knows where each row belongs.
    Whole,
}

impl Desk {
    /// Writes rows in one commit; if that fails, each in its own, so that one bad row harms no
    /// other.
    ///
    /// An answer does not wait for the disk: it goes out as soon as its row is settled, which is flushed with
    /// what begins next, or a moment later. What begins does wait, and so does the result of a job, which
    /// somebody may read at once. A crash in between leaves a row that is unknown, whose reservation counts.
    pub fn write(&mut self, rows: Vec<Row>) {
        self.try_to_write(rows);
    }

    /// Says why a row that was alone is not written.
    fn try_to_write(&mut self, rows: Vec<Row>) -> Option<Failure> {
        let is_durable = rows.iter().any(Row::ends_job);
        match self.commit(&rows, is_durable) {
            // Who may serve these calls, or call at all, has changed since they were routed: before they leave.
            Ok(None) => {
                let now = route_cache::shared().load(Ordering::Relaxed);
                let (stale, rest): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|row| row.is_stale(now));
                for row in stale {
                    if let Row::Begin(_, Some(done)) = row {
                        let _ = done.send(Err(NotBegun::Stale));
                    }
                }
                if !rest.is_empty() {
                    self.write(rest);
                }
            }
            Ok(Some(written)) => {
                self.has_written = true;
                let has_outgrown = self.growth.add(rows.len());
                // First: it may settle in the same batch, when its caller is gone already.
                for row in &rows {
                    if let Row::Begin(begin, _) = row {
                        self.open.insert(begin.key, begin.key.created_at);
                    }
                }
                let (begun, ended): (Vec<_>, Vec<_>) = rows
                    .into_iter()
                    .zip(written)
                    .partition(|(row, _)| matches!(row, Row::Begin(..)));
                for (row, written) in ended {
                    self.done(row, written);
                }
                let flushed = match (is_durable, begun.is_empty()) {
                    (true, _) => Ok(()),
                    (false, false) => process::flush(),
                    // What comes next may be flushed with it.
                    (false, true) => {
                        if process::is_synchronous() {
                            self.unflushed_since.get_or_insert_with(Instant::now);
                        }
                        Ok(())
                    }
                };
                if is_durable || !begun.is_empty() {
                    self.unflushed_since = None;
                }
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
                return Some(failure);
            }
            Err(_) => self.write_each(rows),
        }
        None
    }

    /// Writes each row in its own commit. Where one after the other waits for a lock in vain, it is a table that is
    /// locked, and the rest does not wait for it as well: calls are behind them.
    fn write_each(&mut self, rows: Vec<Row>) {
        let mut locked = Vec::new();
        for row in rows {
            match locked.last() {
                Some(failure) if locked.len() >= LOCKED_ROWS => self.failed(row, failure),
                _ => match self.try_to_write(vec![row]) {
                    Some(failure) if failure.is_about_locks() => locked.push(failure),
                    _ => locked.clear(),
                },
            }
        }
    }

    /// `None`: some of them are stale, and nothing was written.
    fn commit(&mut self, rows: &[Row], is_durable: bool) -> Result<Option<Vec<Written>>, Failure> {
        if self.ledger_statements.are_present(rows.iter().filter_map(Row::moment)) {
            match self.commit_into(Target::Present, rows, is_durable) {
                Err(failure) if self.is_elsewhere(&failure) => {}
                outcome => return outcome,
            }
        }
        self.commit_into(Target::Whole, rows, is_durable)
    }

    /// Whether a failure to write the partition of now is one because it is no such thing any more.
    fn is_elsewhere(&mut self, failure: &Failure) -> bool {
        if *failure == Failure::NotInstalled {
            return false;
        }
        let is_stale = process::transaction(|_| Ok(self.ledger_statements.is_stale()));
        let is_stale = is_stale.unwrap_or(true);
        if is_stale {
            self.plan_ledger();
        }
        is_stale || failure.is_about_tables()
    }

    fn commit_into(
        &mut self,
        target: Target,
        rows: &[Row],
        is_durable: bool,
    ) -> Result<Option<Vec<Written>>, Failure> {
        settling(|| {
            process::ledger_transaction(is_durable, |_| {
                // Whoever has committed a change has said so by now.
                let generation = route_cache::generation();
                if rows.iter().any(|row| row.is_stale(generation)) {
                    return Ok(None);
                }
                let written = Spi::connect_mut(|client| self.write_batch(client, target, rows))?;
                // Asked now, with the partition locked: nobody can detach it before the commit.
                match target {
                    Target::Present if self.ledger_statements.is_stale() => {
                        Err(SpiError::SpiError(SpiErrorCodes::RelNotFound))
                    }
                    _ => Ok(Some(written)),
                }
            })
        })
    }

    /// Writes a batch: first what settles, because it finds room in the page where it was pending only
    /// until what begins takes it. What does both in one batch is written settled, and then is there.
    fn write_batch(
        &mut self,
        client: &mut SpiClient,
        target: Target,
        rows: &[Row],
    ) -> spi::Result<Vec<Written>> {
        let Self { statements, ledger_statements, prices, open, epoch, .. } = self;
        let LedgerStatements { whole, present, price_lists, rollups } = ledger_statements;
        let present = present.as_ref().filter(|_| matches!(target, Target::Present));
        let ledger = present.map_or(&*whole, |present| &present.ledger);
        let mut begins = Vec::new();
        let mut settles: Vec<(&Settle, bool)> = Vec::new();
        for row in rows {
            match row {
                Row::Begin(begin, _) => begins.push(begin),
                Row::Settle(settle, _) => {
                    settles.push((settle, open.contains_key(&settle.begin.key)));
                }
                Row::JobEnd(_) => {}
            }
        }
        let settled =
            batch::settle(client, price_lists, rollups, ledger, prices, *epoch, &settles)?;
        batch::begin(client, ledger, *epoch, &begins)?;
        let mut settled = settled.into_iter();
        let written: Vec<Written> = rows
            .iter()
            .map(|row| match row {
                Row::Begin(..) => Written::Begun,
                Row::Settle(..) => Written::Settled(settled.next().flatten(), None),
                Row::JobEnd(_) => Written::JobEnded(Finished::NotYet),
            })
            .collect();
        finish_jobs(client, statements, rows, written)
    }

    /// Flushes what is settled, after a moment in which nothing came that would have done so.
    pub fn flush(&mut self) {
        if self.unflushed_since.is_some_and(|since| since.elapsed() >= UNFLUSHED) {
            self.unflushed_since = None;
            if let Err(failure) = process::flush() {
                pgrx::warning!("aggregator: what is settled is not on disk yet: {failure:?}");
            }
        }
    }

    /// How long nothing has to be written or flushed.
    pub fn writing_patience(&self) -> Option<Duration> {
        let flush = self.unflushed_since.map(|since| UNFLUSHED.saturating_sub(since.elapsed()));
        flush.into_iter().chain(self.held.patience()).min()
    }

    /// Plans the ledger's statements anew, for the tables as they are. If that fails, the old ones do.
    pub fn plan_ledger(&mut self) {
        let planned = process::transaction(|installed| {
            Spi::connect(|client| LedgerStatements::prepare(client, installed))
        });
        let Ok(mut planned) = planned else { return };
        // Bounds that somebody's partition has and that cannot be read must not keep the rest from being done.
        let _ = process::transaction(|installed| {
            Spi::connect(|client| planned.locate(client, installed))
        });
        self.ledger_statements = planned;
    }

    fn done(&mut self, row: Row, written: Written) {
        match (row, written) {
            (Row::Begin(_, done), _) => {
                if let Some(done) = done {
                    let _ = done.send(Ok(()));
                }
            }
            (Row::Settle(settle, done), Written::Settled(settled, finished)) => {
                let settled = settled.unwrap_or_default();
                self.open.remove(&settle.begin.key);
                self.tries.remove(&settle.begin.key);
                let key = settle.begin.labels.as_ref().and_then(|labels| labels.gateway_key);
                self.used_gateway_keys.extend(key);
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
                if let Some(done) = done {
                    let _ = done.send(Err(NotBegun::Failed(reason)));
                }
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
}

/// Writes the ends of the jobs of a batch whose rows of the ledger are written.
fn finish_jobs(
    client: &mut SpiClient,
    statements: &Statements,
    rows: &[Row],
    mut written: Vec<Written>,
) -> spi::Result<Vec<Written>> {
    // Where a row was settled before, there is the cost.
    let unknown = Settled::default();
    let ends: Vec<Ended<'_>> = rows
        .iter()
        .zip(&written)
        .filter_map(|(row, written)| match (row, written) {
            (Row::Settle(settle, _), Written::Settled(settled, _)) => {
                let answer = settle.job.as_ref()?;
                let outcome = Ok((answer, settled.as_ref().unwrap_or(&unknown)));
                Some(Ended { job: settle.begin.key.call_id, outcome })
            }
            (Row::JobEnd(end), _) => Some(Ended::of(end)),
            _ => None,
        })
        .collect();
    let mut finished = jobs::finish(client, statements, &ends)?.into_iter();
    for (_, written) in rows.iter().zip(&mut written).filter(|(row, _)| row.ends_job()) {
        match written {
            Written::Settled(_, became) => *became = finished.next(),
            Written::JobEnded(became) => *became = finished.next().unwrap_or(*became),
            Written::Begun => {}
        }
    }
    Ok(written)
}
