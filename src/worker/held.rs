//! Pending rows that nobody waits for (`ledger_sync` off), for a few milliseconds: an answer that comes by
//! then is written at once, settled, instead of twice.

use crate::gateway::task::{Begin, RowKey};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Little beside the time after which the log is written without `ledger_sync` (`wal_writer_delay`, 200 ms).
const HOLD: Duration = Duration::from_millis(10);

#[derive(Default)]
pub struct Held {
    rows: HashMap<RowKey, Begin>,
    /// Oldest first; also rows that were released since.
    order: VecDeque<(Instant, RowKey)>,
}

impl Held {
    pub fn hold(&mut self, begin: Begin) {
        self.order.push_back((Instant::now(), begin.key));
        self.rows.insert(begin.key, begin);
    }

    /// Forgets a row that settles. Says whether it was held.
    pub fn release(&mut self, key: &RowKey) -> bool {
        self.rows.remove(key).is_some()
    }

    /// Takes those that have waited long enough.
    pub fn due(&mut self) -> Vec<Begin> {
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Vec<Begin> {
        let mut due = Vec::new();
        while let Some((since, key)) = self.order.front() {
            let begin = self.rows.get(key);
            if begin.is_some() && now.saturating_duration_since(*since) < HOLD {
                break;
            }
            due.extend(self.rows.remove(key));
            self.order.pop_front();
        }
        due
    }

    /// Takes all of them.
    pub fn all(&mut self) -> Vec<Begin> {
        self.order.clear();
        std::mem::take(&mut self.rows).into_values().collect()
    }

    /// How long none is due. `None`: none is held.
    pub fn patience(&self) -> Option<Duration> {
        let (since, _) = self.order.iter().find(|(_, key)| self.rows.contains_key(key))?;
        Some(HOLD.saturating_sub(since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn begin(attempt: i16) -> Begin {
        Begin {
            key: RowKey { call_id: Uuid::nil(), attempt, created_at: 0 },
            user_id: String::new(),
            provider_id: Uuid::nil(),
            user_provider_id: Uuid::nil(),
            model_id: String::new(),
            is_listed: true,
            is_platform_key: false,
            reserved: None,
            labels: None,
            generation: None,
        }
    }

    #[test]
    fn what_settles_in_time_is_not_written_before() {
        let mut held = Held::default();
        assert_eq!(held.patience(), None);
        held.hold(begin(1));
        held.hold(begin(2));
        assert!(held.patience().is_some_and(|left| left <= HOLD));
        assert!(held.release(&begin(1).key));
        assert!(!held.release(&begin(1).key));
        std::thread::sleep(HOLD);
        assert_eq!(held.due().iter().map(|begin| begin.key.attempt).collect::<Vec<_>>(), [2]);
        assert!(!held.release(&begin(2).key));
        assert_eq!(held.patience(), None);
        held.hold(begin(3));
        let (since, _) = held.order[0];
        assert_eq!(held.due_at(since + HOLD / 2).len(), 0);
        assert_eq!(held.all().len(), 1);
        assert_eq!(held.all().len(), 0);
    }
}
