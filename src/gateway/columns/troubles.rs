//! What goes wrong with columns again and again: each time they wait longer, and take fewer rows at a time.

use crate::protocol::columns::MOST_ROWS;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

const FIRST_MS: u64 = 1_000;
/// Between probes at the most.
pub const LONGEST_MS: u64 = 300_000;
/// Columns whose troubles are remembered.
const MOST: usize = 4096;
/// Of those that are held off, how many a look passes over.
const MOST_TOLD: usize = 256;

/// The troubles of all columns.
#[derive(Default)]
pub struct Troubles(Mutex<HashMap<Uuid, Trouble>>);

#[derive(Debug, Clone)]
struct Trouble {
    /// How often it has waited since anything went well.
    waits: u32,
    /// Requests that have failed one after the other.
    failures: u32,
    rows: usize,
    /// Nothing is begun before, where that could not be noted of the column itself.
    not_before: Option<Instant>,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { waits: 0, failures: 0, rows: MOST_ROWS, not_before: None }
    }
}

impl Trouble {
    fn is_held_off(&self) -> bool {
        self.not_before.is_some_and(|until| until > Instant::now())
    }
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Trouble>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn with<T>(&self, column: Uuid, change: impl FnOnce(&mut Trouble) -> T) -> T {
        let mut all = self.lock();
        if all.len() >= MOST && !all.contains_key(&column) {
            // The one with the least to remember; should there be many, it is begun with anew.
            let least = all.iter().min_by_key(|(_, trouble)| trouble.waits).map(|(id, _)| *id);
            least.map(|id| all.remove(&id));
        }
        change(all.entry(column).or_default())
    }

    pub fn is_too_early(&self, column: Uuid) -> bool {
        self.lock().get(&column).is_some_and(Trouble::is_held_off)
    }

    /// Some of the columns with which nothing is begun now.
    pub fn held_off(&self) -> Vec<Uuid> {
        let all = self.lock();
        let held = all.iter().filter(|(_, trouble)| trouble.is_held_off());
        held.map(|(column, _)| *column).take(MOST_TOLD).collect()
    }

    /// For how many milliseconds it waits now: as long as was asked for, or twice as long as the last time.
    pub fn wait_ms(&self, column: Uuid, asked: Option<Duration>) -> u64 {
        self.with(column, |trouble| {
            let doubled = FIRST_MS << trouble.waits.min(9);
            trouble.waits += 1;
            let asked = asked.map_or(0, |asked| asked.as_millis() as u64);
            // Never less than what has grown: a limit may name the moment at which it is next looked at.
            asked.max(doubled).min(LONGEST_MS)
        })
    }

    /// Whether it has waited the longest already.
    pub fn is_long(&self, column: Uuid) -> bool {
        self.lock().get(&column).is_some_and(|trouble| trouble.waits > 9)
    }

    /// Nothing is begun for so long.
    pub fn hold_off(&self, column: Uuid, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        self.with(column, |trouble| trouble.not_before = Some(until));
    }

    /// A request has failed for a reason that may pass. How many have, one after the other.
    pub fn failed(&self, column: Uuid) -> u32 {
        self.with(column, |trouble| {
            trouble.failures = trouble.failures.saturating_add(1);
            trouble.failures
        })
    }

    /// A request was answered.
    pub fn answered(&self, column: Uuid) {
        let mut all = self.lock();
        if let Some(trouble) = all.get_mut(&column) {
            (trouble.waits, trouble.failures) = (0, 0);
            // It may be held off since this was asked for.
            if trouble.rows >= MOST_ROWS && !trouble.is_held_off() {
                all.remove(&column);
            }
        }
    }

    /// The most rows that are taken or written at one time.
    pub fn rows(&self, column: Uuid) -> usize {
        self.lock().get(&column).map_or(MOST_ROWS, |trouble| trouble.rows)
    }

    /// So many took too long.
    pub fn too_many(&self, column: Uuid, rows: usize) {
        self.with(column, |trouble| trouble.rows = (rows / 4).max(1));
    }

    /// So many did not.
    pub fn were_right(&self, column: Uuid, rows: usize) {
        if let Some(trouble) = self.lock().get_mut(&column)
            && rows >= trouble.rows
        {
            trouble.rows = (2 * trouble.rows).min(MOST_ROWS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_it_waits_twice_as_long() {
        let (troubles, column) = (Troubles::default(), Uuid::nil());
        let waits: Vec<u64> = (0..11).map(|_| troubles.wait_ms(column, None) / 1000).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(troubles.is_long(column));
        troubles.answered(column);
        assert!(!troubles.is_long(column));
        assert!(troubles.lock().is_empty());
        assert_eq!(troubles.wait_ms(column, Some(Duration::from_secs(20))), 20_000);
        assert_eq!(troubles.wait_ms(column, Some(Duration::from_secs(9000))), LONGEST_MS);
    }

    #[test]
    fn an_answer_to_what_was_asked_before_ends_no_hold_off() {
        let (troubles, column) = (Troubles::default(), Uuid::nil());
        troubles.wait_ms(column, None);
        troubles.hold_off(column, 60_000);
        troubles.answered(column);
        assert!(troubles.is_too_early(column));
        assert_eq!(troubles.held_off(), [column]);
        troubles.hold_off(column, 0);
        assert!(!troubles.is_too_early(column));
        assert!(troubles.held_off().is_empty());
        troubles.answered(column);
        assert!(troubles.lock().is_empty());
    }

    #[test]
    fn what_takes_too_long_is_taken_in_smaller_parts() {
        let (troubles, column) = (Troubles::default(), Uuid::nil());
        troubles.too_many(column, 16);
        assert_eq!(troubles.rows(column), 4);
        troubles.were_right(column, 2);
        assert_eq!(troubles.rows(column), 4);
        troubles.were_right(column, 4);
        assert_eq!(troubles.rows(column), 8);
        troubles.too_many(column, 1);
        assert_eq!(troubles.rows(column), 1);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let troubles = Troubles::default();
        for _ in 0..MOST + 10 {
            troubles.hold_off(Uuid::now_v7(), 1);
        }
        assert_eq!(troubles.lock().len(), MOST);
    }
}
