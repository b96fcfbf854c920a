//! One column at work: rows are taken, asked for and written, each of these while the others go on.

use super::became::{again, clean, failed, raised_of, uncounted};
use super::calls::{self, Called, Route, Row};
use super::failing::{Meaning, meaning};
use crate::core::embedding::LONGEST_INPUT;
use crate::core::embedding::batch::MOST_BYTES as MOST_OF_REQUEST;
use crate::error::Error;
use crate::gateway::clerks::Undone;
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::protocol::columns::{
    Became, Definition, Done, Entry, Input, MOST_BYTES, Note, Taken, TakenRow, Told, Unit, Value,
};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// Rows that are written together at the most, and how long the first of them waits for others.
const WRITTEN_TOGETHER: usize = 256;
const LINGER: Duration = Duration::from_millis(10);
/// How long a row that somebody holds a lock on is offered again, at growing intervals.
const OFFERS: u32 = 8;
const OFFER: Duration = Duration::from_millis(100);
const OFFER_LATER: Duration = Duration::from_secs(30);
/// What is said of a row that was held for all that time.
const LOCKED: &str = r#"{"message": "another transaction held a lock on the row or its table for long", "code": "locked",
    "sqlstate": "PT409", "hint": "Look for it in pg_stat_activity, then ai_column_retry()."}"#;
/// So many requests that fail one after the other are no fault of their rows.
const MANY_FAILURES: u32 = 3;
/// Rows that are probably taken where more could be.
const USUALLY_TAKEN: usize = 64;
/// While there is no place for another request, or no memory.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Memory without which nothing is taken.
const LEAST_ROOM: usize = 64 << 10;

/// What became of a row, not yet written.
struct Unwritten {
    done: Done,
    attempts: u32,
    /// What its value holds.
    _lease: Option<Arc<Lease>>,
    since: Instant,
    /// How often it was offered in vain, and when it is offered again.
    offers: u32,
    not_before: Instant,
}

/// A piece of work that a clerk is at.
enum Pending {
    Take { most: usize },
    Write { rows: Vec<Unwritten>, note: Option<Note> },
    Backfill,
}

type Answer = Pin<Box<dyn Future<Output = Result<Told, Undone>> + Send>>;

struct Work {
    shared: Arc<Shared>,
    column: Uuid,
    user: String,
    definition: Option<Arc<Definition>>,
    route: Arc<Route>,
    /// Rows that are to be asked for, and what they hold; those of one request that was refused together.
    pool: VecDeque<(Row, Arc<Lease>)>,
    parts: VecDeque<Vec<Row>>,
    calls: JoinSet<Called>,
    /// Rows of requests on their way.
    asked: usize,
    unwritten: VecDeque<Unwritten>,
    writing: usize,
    write_most: usize,
    note: Option<Note>,
    has_waited: bool,
    is_first: bool,
    has_just_taken: bool,
    /// Nothing more is due, as far as is known; nor is there anything to backfill.
    is_exhausted: bool,
    backfills: bool,
    /// Nothing more is taken or asked for.
    is_halted: bool,
    lacks_place: bool,
    has_worked: bool,
}

/// Works on a column until nothing is due. Says whether anything was.
pub async fn run(shared: Arc<Shared>, column: Uuid, user: String) -> bool {
    let mut work = Work {
        shared,
        column,
        user,
        definition: None,
        route: Arc::default(),
        pool: VecDeque::new(),
        parts: VecDeque::new(),
        calls: JoinSet::new(),
        asked: 0,
        unwritten: VecDeque::new(),
        writing: 0,
        write_most: WRITTEN_TOGETHER,
        note: None,
        has_waited: false,
        is_first: true,
        has_just_taken: false,
        is_exhausted: false,
        backfills: false,
        is_halted: false,
        lacks_place: false,
        has_worked: false,
    };
    work.live().await;
    work.has_worked
}

impl Work {
    async fn live(&mut self) {
        let mut pending: Option<(Pending, Answer)> = None;
        loop {
            self.start_calls();
            if pending.is_none() {
                pending = self.next_unit().map(|unit| {
                    let answer = self.begin(&unit);
                    (unit, answer)
                });
            }
            if pending.is_none() && self.is_over() {
                return;
            }
            let wake = self.wake_at(pending.is_some());
            let told = async {
                match &mut pending {
                    Some((_, answer)) => answer.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = told => {
                    if let Some((unit, _)) = pending.take() {
                        self.unit_ended(unit, told);
                    }
                }
                Some(called) = self.calls.join_next(), if !self.calls.is_empty() => {
                    // Of one that has panicked the rows are found to be lost by the next who takes some.
                    if let Ok(called) = called {
                        self.called(called);
                    }
                    if self.calls.is_empty() {
                        self.asked = 0;
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        let has_rows = !self.pool.is_empty() || !self.parts.is_empty();
        let goes_on = has_rows || !self.is_exhausted || self.backfills;
        self.calls.is_empty()
            && self.unwritten.is_empty()
            && self.note.is_none()
            && (self.is_halted || !goes_on)
    }

    /// Rows of one request.
    fn batch(&self) -> usize {
        match &self.definition {
            Some(definition) if definition.kind == "embed" => definition.batch_size as usize,
            _ => 1,
        }
    }

    fn concurrency(&self) -> usize {
        self.definition.as_ref().map_or(1, |definition| definition.concurrency as usize)
    }

    /// Sends what may be sent. What is paid for and not written yet is bounded: it is what is lost where the worker
    /// dies.
    fn start_calls(&mut self) {
        self.lacks_place = false;
        let Some(definition) = self.definition.clone() else { return };
        let most = (2 * self.concurrency() * self.batch()).max(16);
        while !self.is_halted
            && self.calls.len() < self.concurrency()
            && self.asked + self.unwritten.len() + self.writing < most
        {
            if self.parts.is_empty() && self.pool.is_empty() {
                return;
            }
            let Some(place) = self.shared.columns.place(&self.shared, &self.user) else {
                self.lacks_place = true;
                return;
            };
            let rows = self.next_rows();
            self.asked += rows.len();
            let (shared, route) = (self.shared.clone(), self.route.clone());
            self.calls.spawn(calls::run(shared, definition.clone(), route, rows, place));
        }
    }

    /// The rows of the next request.
    fn next_rows(&mut self) -> Vec<Row> {
        if let Some(rows) = self.parts.pop_front() {
            return rows;
        }
        let batch = self.batch();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < batch
            && let Some((row, _)) = self.pool.front()
            && (rows.is_empty() || bytes + row.input.len() <= MOST_OF_REQUEST)
            && let Some((row, _lease)) = self.pool.pop_front()
        {
            bytes += row.input.len();
            rows.push(row);
        }
        rows
    }

    /// When something is to be done, though nothing has ended. `is_busy`: a clerk is at work, whose end is waited for.
    fn wake_at(&self, is_busy: bool) -> Option<Instant> {
        let is_soon = self.lacks_place || (!is_busy && self.needs_rows());
        let soon = is_soon.then(|| Instant::now() + LOOK_AGAIN);
        if is_busy {
            return soon;
        }
        let offered = self.unwritten.iter().map(|row| row.not_before.max(row.since + LINGER)).min();
        soon.into_iter().chain(offered).min()
    }

    fn needs_rows(&self) -> bool {
        let most = self.concurrency() * self.batch();
        !self.is_halted && !self.is_exhausted && self.pool.len() < most.max(1)
    }

    /// What a clerk is to do next.
    fn next_unit(&mut self) -> Option<Pending> {
        let now = Instant::now();
        let ready = self.unwritten.iter().filter(|row| row.not_before <= now);
        let (mut count, mut is_time) = (0, false);
        for row in ready {
            count += 1;
            is_time |= row.since + LINGER <= now;
        }
        is_time |= count >= self.concurrency() * self.batch() || self.calls.is_empty();
        let writes = self.note.is_some() || (count > 0 && is_time);
        if self.needs_rows() && !(writes && self.has_just_taken) {
            let room = self.shared.memory.room(&self.user) / 3;
            if room >= LEAST_ROOM {
                self.has_just_taken = true;
                return Some(Pending::Take {
                    most: self.shared.columns.troubles.rows(self.column),
                });
            }
        }
        if writes {
            self.has_just_taken = false;
            return Some(self.write(now));
        }
        let may_fill = !self.is_halted && self.is_exhausted && self.backfills;
        (may_fill && self.pool.len() < self.concurrency() * self.batch())
            .then_some(Pending::Backfill)
    }

    fn write(&mut self, now: Instant) -> Pending {
        // That it waits is noted alone: what follows may take its time.
        if matches!(self.note, Some(Note::Wait { .. })) {
            return Pending::Write { rows: Vec::new(), note: self.note.take() };
        }
        let (mut rows, mut later, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for row in self.unwritten.drain(..) {
            let size = row.done.size();
            let fits = rows.is_empty() || bytes + size <= MOST_BYTES;
            if row.not_before <= now && rows.len() < self.write_most && fits {
                bytes += size;
                rows.push(row);
            } else {
                later.push_back(row);
            }
        }
        self.unwritten = later;
        self.writing = rows.len();
        Pending::Write { rows, note: self.note.take() }
    }

    fn begin(&mut self, pending: &Pending) -> Answer {
        let unit = match pending {
            Pending::Take { most } => {
                let room = self.shared.memory.room(&self.user) / 3;
                Unit::Take {
                    is_first: std::mem::take(&mut self.is_first),
                    most: *most as u32,
                    bytes: room.clamp(LEAST_ROOM, MOST_BYTES) as u64,
                }
            }
            Pending::Write { rows, note } => Unit::Write {
                done: rows.iter().map(|row| row.done.clone()).collect(),
                note: note.clone(),
            },
            Pending::Backfill => Unit::Backfill,
        };
        let (shared, user, column) = (self.shared.clone(), self.user.clone(), self.column);
        Box::pin(async move { shared.clerks.work_on(&user, shared.epoch(), column, unit).await })
    }

    fn unit_ended(&mut self, pending: Pending, told: Result<Told, Undone>) {
        match (pending, told) {
            (Pending::Take { .. }, Ok(Told::Taken(taken))) => self.taken(*taken),
            (Pending::Backfill, Ok(Told::Backfilled { queued, goes_on })) => {
                self.backfills = goes_on;
                self.is_exhausted &= queued == 0;
            }
            (Pending::Write { rows, note }, Ok(Told::Written { held, is_noted })) => {
                self.writing = 0;
                if let (Some(Note::Wait { for_ms, .. }), false) = (note, is_noted) {
                    self.shared.columns.troubles.hold_off(self.column, for_ms);
                }
                self.write_most = (2 * self.write_most).min(WRITTEN_TOGETHER);
                for (place, row) in rows.into_iter().enumerate() {
                    if held.contains(&(place as u32)) {
                        self.offer_again(row);
                    }
                }
            }
            (Pending::Write { rows, note }, told) => self.not_written(rows, note, told),
            (_, Ok(_)) => self.halt(),
            (unit, Err(undone)) => {
                if let (Pending::Take { most }, Undone::TooLong) = (&unit, &undone) {
                    self.shared.columns.troubles.too_many(self.column, (*most).min(USUALLY_TAKEN));
                }
                let ms = match &undone {
                    // It can be noted, so it is.
                    Undone::Raised(_) | Undone::TooLong => {
                        self.wait(None, raised_of(&undone).to_json().to_string())
                    }
                    Undone::NoClerk(_) => {
                        self.halt();
                        self.shared.columns.troubles.wait_ms(self.column, None)
                    }
                };
                // Also where it cannot.
                self.shared.columns.troubles.hold_off(self.column, ms);
            }
        }
    }

    fn taken(&mut self, taken: Taken) {
        let Taken { definition, rows, has_more, trouble } = taken;
        let count = rows.len();
        self.has_worked |= count > 0;
        self.is_exhausted = !has_more;
        self.backfills = definition.backfills;
        self.has_waited = definition.has_waited;
        let max_attempts = definition.max_attempts;
        self.definition = Some(Arc::new(definition));
        let bytes = rows.iter().map(|row| match &row.input {
            Input::Text(text) => text.len(),
            _ => 0,
        });
        let mut lease = self.shared.memory.lease(&self.user);
        lease.begin_anyway(bytes.sum());
        let lease = Arc::new(lease);
        let error = trouble.as_ref().map(|raised| raised.to_json().to_string());
        let unread = rows.iter().filter(|row| matches!(row.input, Input::Unread)).count();
        self.is_exhausted &= unread == 0;
        for TakenRow { entry, attempts, input } in rows {
            let became = match input {
                Input::Text(input) => {
                    self.pool.push_back((Row { entry, attempts, input }, lease.clone()));
                    continue;
                }
                Input::Nothing => Became::Value(Value::Null),
                Input::Gone => Became::Gone,
                Input::TooLong { .. } => failed(&Error::RequestBeyond {
                    limit: LONGEST_INPUT as u64,
                    unit: "bytes in its input".to_owned(),
                }),
                Input::Failed(raised) => Became::Failed(clean(raised.to_json().to_string())),
                // With others it may have been one of those that took the time.
                Input::Unread => match &error {
                    Some(error) if count == 1 => again(attempts, max_attempts, None, error, true),
                    _ => uncounted(),
                },
            };
            self.ended(entry, attempts, became, None);
        }
        match error {
            Some(error) => {
                self.shared.columns.troubles.too_many(self.column, count);
                self.wait(None, error);
            }
            None if count > 0 => self.shared.columns.troubles.were_right(self.column, count),
            None => {}
        }
    }

    fn ended(&mut self, entry: Entry, attempts: u32, became: Became, lease: Option<Arc<Lease>>) {
        let now = Instant::now();
        let done = Done { entry, became };
        self.unwritten.push_back(Unwritten {
            done,
            attempts,
            _lease: lease,
            since: now,
            offers: 0,
            not_before: now,
        });
    }

    /// A request has ended.
    fn called(&mut self, called: Called) {
        let Called { rows, outcome, lease } = called;
        self.asked = self.asked.saturating_sub(rows.len());
        let error = match outcome {
            Ok(values) => {
                self.shared.columns.troubles.answered(self.column);
                if std::mem::take(&mut self.has_waited) && !self.is_halted {
                    self.note = Some(Note::Goes);
                }
                let lease = Arc::new(lease);
                for (row, value) in rows.into_iter().zip(values) {
                    let became = Became::Value(value);
                    self.ended(row.entry, row.attempts, became, Some(lease.clone()));
                }
                return;
            }
            Err(error) => error,
        };
        if rows.len() > 1 && calls::may_pass_in_parts(&error) {
            let mut first = rows;
            let second = first.split_off(first.len().div_ceil(2));
            self.parts.push_front(second);
            self.parts.push_front(first);
            if self.is_halted {
                self.give_back();
            }
            return;
        }
        let words = clean(error.to_json().to_string());
        let max_attempts = self.max_attempts();
        let troubles = &self.shared.columns.troubles;
        let (mut waits, mut after) = (false, None);
        let became: Vec<Became> = match meaning(&error) {
            Meaning::Over => {
                self.abandon();
                return;
            }
            Meaning::Row => rows.iter().map(|_| Became::Failed(words.clone())).collect(),
            Meaning::Passing(asked) => {
                (waits, after) = (troubles.failed(self.column) >= MANY_FAILURES, asked);
                // Where nothing is answered it is no fault of the rows, at first.
                let is_counted = !waits || troubles.is_long(self.column);
                let each = rows.iter();
                each.map(|row| again(row.attempts, max_attempts, asked, &words, is_counted))
                    .collect()
            }
            Meaning::Column(asked) => {
                (waits, after) = (true, asked);
                rows.iter().map(|_| uncounted()).collect()
            }
        };
        for (row, became) in rows.into_iter().zip(became) {
            self.ended(row.entry, row.attempts, became, None);
        }
        if waits {
            self.wait(after, words);
        }
    }

    /// Stops, and has it noted that the column waits and why. Says for how many milliseconds.
    fn wait(&mut self, asked: Option<Duration>, error: String) -> u64 {
        if self.is_halted {
            return 0;
        }
        let for_ms = self.shared.columns.troubles.wait_ms(self.column, asked);
        self.note = Some(Note::Wait { for_ms, error: clean(error) });
        self.halt();
        for_ms
    }

    fn halt(&mut self) {
        self.is_halted = true;
        self.give_back();
    }

    /// Gives back what was taken and is not asked for.
    fn give_back(&mut self) {
        let parts = std::mem::take(&mut self.parts).into_iter().flatten();
        let pool = std::mem::take(&mut self.pool).into_iter().map(|(row, _)| row);
        for row in parts.chain(pool).collect::<Vec<_>>() {
            self.ended(row.entry, row.attempts, uncounted(), None);
        }
    }

    /// There is nothing more to write: the column and its rows are gone.
    fn abandon(&mut self) {
        self.is_halted = true;
        self.calls.abort_all();
        self.pool.clear();
        self.parts.clear();
        self.unwritten.clear();
        self.note = None;
    }

    fn max_attempts(&self) -> u32 {
        self.definition.as_ref().map_or(1, |definition| definition.max_attempts)
    }

    /// Somebody holds a lock on the row, or its entry. What is held for long is computed anew, unless whoever holds it
    /// changes it; but not for ever.
    fn offer_again(&mut self, mut row: Unwritten) {
        row.offers += 1;
        if row.offers > 2 * OFFERS {
            // Nor can that be written. Whoever takes rows of the column first next time finds the entry.
            return;
        }
        if row.offers > OFFERS && matches!(row.done.became, Became::Value(_)) {
            let later = Some(OFFER_LATER);
            row.done.became = again(row.attempts, self.max_attempts(), later, LOCKED, true);
        }
        row.not_before = Instant::now() + OFFER * (1 << row.offers.min(6));
        self.unwritten.push_back(row);
    }

    /// Nothing of this was written: all of them fail, or one of them.
    fn not_written(
        &mut self,
        rows: Vec<Unwritten>,
        note: Option<Note>,
        told: Result<Told, Undone>,
    ) {
        self.writing = 0;
        let undone = told.err().unwrap_or_else(|| Undone::NoClerk(Error::stopping()));
        let raised = raised_of(&undone);
        if matches!(undone, Undone::NoClerk(_)) || rows.is_empty() {
            // With nobody to note it, it is kept in mind.
            let ms = self.shared.columns.troubles.wait_ms(self.column, None);
            self.shared.columns.troubles.hold_off(self.column, ms);
            self.halt();
            rows.into_iter().for_each(|row| self.offer_again(row));
            return;
        }
        self.note = self.note.take().or(note);
        let words = clean(raised.to_json().to_string());
        match raised.sqlstate.as_str() {
            // A trigger, or a statement of ours that waits for somebody, takes the time of everybody.
            "57014" => {
                let (count, most) = (rows.len(), self.max_attempts());
                for mut row in rows {
                    if matches!(row.done.became, Became::Value(_) | Became::Gone) {
                        row.done.became = again(row.attempts, most, None, &words, true);
                    }
                    self.unwritten.push_back(row);
                }
                self.shared.columns.troubles.too_many(self.column, count);
                self.wait(None, words);
            }
            // Of the whole table, or a name of before.
            "55P03" | "40P01" | "40001" | "42P01" | "42703" => {
                rows.into_iter().for_each(|row| self.offer_again(row));
            }
            _ if rows.len() > 1 => {
                self.write_most = rows.len().div_ceil(2);
                self.unwritten.extend(rows);
            }
            _ => {
                for mut row in rows {
                    if matches!(row.done.became, Became::Value(_) | Became::Gone) {
                        row.done.became = Became::Failed(words.clone());
                    }
                    self.offer_again(row);
                }
            }
        }
    }
}
