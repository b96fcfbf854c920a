//! What keeps failing cools down: for a while it goes behind the other candidates of a call. It is
//! never refused, or a sole candidate could never show that it is well again.

use crate::core::refusal::{About, Refusal};
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// The first pause after a failure that may pass; each further one doubles it.
const FIRST_PAUSE_S: u64 = 1;
const LONGEST_PAUSE_S: u64 = 300;
/// Places past which those that have been well for a while are forgotten.
const MANY: usize = 1000;
const FORGOTTEN_AFTER: i64 = 600_000_000;
/// Out of credit: somebody may be topping it up.
const CREDIT_PAUSE: Duration = Duration::from_secs(60);

/// The provider, key and model of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub provider: Uuid,
    pub key: Uuid,
    /// Another one after the key was saved again.
    pub key_print: i64,
    pub model: String,
}

/// What cools: as little as the failure speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Provider(Uuid),
    Key(Uuid, Uuid),
    Model(Uuid, Uuid, String),
}

/// What a failed attempt says about those who were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Unreachable,
    /// The connection broke, or the stream stalled.
    Broken,
    Refused(Box<Refusal>),
}

/// Until when something is cool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cold {
    /// Microseconds since 1970; `None`: until the key changes.
    pub until: Option<i64>,
    /// Of the key that failed; 0 where no key is meant.
    pub key_print: i64,
    pub failures: i32,
    /// For people: the upstream's code or status.
    pub reason: String,
}

/// A place that changed, to be kept for the next worker. `None`: it is well again.
pub type Change = (Place, Option<Cold>);

/// Every place that is cool, or was until lately.
#[derive(Debug, Default)]
pub struct Health {
    cold: HashMap<Place, Cold>,
}

impl Health {
    /// As an earlier worker left it.
    pub fn restored(cold: impl IntoIterator<Item = (Place, Cold)>) -> Self {
        Self { cold: cold.into_iter().collect() }
    }

    /// Notes a failure at `now` (microseconds since 1970). `None`: it cools nothing.
    pub fn failed(&mut self, subject: &Subject, fault: &Fault, now: i64) -> Option<Change> {
        let Subject { provider, key, model, .. } = subject;
        let on_model = || Place::Model(*provider, *key, model.clone());
        let on_key = || Place::Key(*provider, *key);
        let (place, pause) = match fault {
            Fault::Unreachable => (Place::Provider(*provider), Pause::Growing),
            Fault::Broken => (on_model(), Pause::Growing),
            Fault::Refused(refusal) => match (refusal.about, refusal.status) {
                (About::Key, _) => (on_key(), Pause::UntilKeyChanges),
                (About::Credit, _) => (on_key(), Pause::For(CREDIT_PAUSE)),
                (_, 429) => match refusal.retry_after_s {
                    Some(seconds) => (on_model(), Pause::For(Duration::from_secs(seconds))),
                    None => (on_model(), Pause::Growing),
                },
                (_, 408 | 500..=599) => (on_model(), Pause::Growing),
                // 403 may be about the content of one request; 400 and 404 are about it.
                _ => return None,
            },
        };
        let key_print = match place {
            Place::Provider(_) => 0,
            _ => subject.key_print,
        };
        let before = self.cold.get(&place).filter(|cold| cold.key_print == key_print);
        let failures = before.map_or(0, |cold| cold.failures).saturating_add(1);
        let until = match pause {
            Pause::UntilKeyChanges => None,
            Pause::For(pause) => Some(later(now, pause)),
            Pause::Growing => Some(later(now, growing(failures))),
        };
        let reason = match fault {
            Fault::Unreachable => "unreachable".to_owned(),
            Fault::Broken => "disconnected".to_owned(),
            Fault::Refused(refusal) => {
                refusal.code.clone().unwrap_or_else(|| format!("http_{}", refusal.status))
            }
        };
        if self.cold.len() >= MANY {
            let old = now - FORGOTTEN_AFTER;
            self.cold.retain(|_, cold| cold.until.is_none_or(|until| until > old));
        }
        let cold = Cold { until, key_print, failures, reason };
        self.cold.insert(place.clone(), cold.clone());
        Some((place, Some(cold)))
    }

    /// Whether nothing at all is cool.
    pub fn is_good(&self) -> bool {
        self.cold.is_empty()
    }

    /// Notes a success: everything about the candidate is well.
    pub fn succeeded(&mut self, subject: &Subject) -> Vec<Change> {
        places(subject)
            .into_iter()
            .filter(|place| self.cold.remove(place).is_some())
            .map(|place| (place, None))
            .collect()
    }

    /// Places of candidates in the order in which to ask them: those that are not cool as they
    /// came, then those that are, the one that is over first before the others.
    pub fn order(&self, subjects: &[Subject], now: i64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        // The sort is stable.
        order.sort_by_key(|index| self.cool_until(&subjects[*index], now));
        order
    }

    fn cool_until(&self, subject: &Subject, now: i64) -> Option<i64> {
        if self.cold.is_empty() {
            return None;
        }
        places(subject)
            .iter()
            .filter_map(|place| {
                let cold = self.cold.get(place)?;
                let is_old_key =
                    !matches!(place, Place::Provider(_)) && cold.key_print != subject.key_print;
                let until = cold.until.unwrap_or(i64::MAX);
                (!is_old_key && until > now).then_some(until)
            })
            .max()
    }
}

enum Pause {
    UntilKeyChanges,
    For(Duration),
    Growing,
}

fn places(subject: &Subject) -> [Place; 3] {
    let Subject { provider, key, model, .. } = subject;
    [
        Place::Provider(*provider),
        Place::Key(*provider, *key),
        Place::Model(*provider, *key, model.clone()),
    ]
}

fn growing(failures: i32) -> Duration {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(16);
    Duration::from_secs((FIRST_PAUSE_S << doublings).min(LONGEST_PAUSE_S))
}

fn later(now: i64, pause: Duration) -> i64 {
    now.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn subject(provider: u128, model: &str) -> Subject {
        Subject {
            provider: Uuid::from_u128(provider),
            key: Uuid::from_u128(provider + 100),
            key_print: 7,
            model: model.into(),
        }
    }

    fn refused(status: u16, retry_after_s: Option<u64>) -> Fault {
        let refusal = Refusal { retry_after_s, ..Refusal::new(status, None, None) };
        Fault::Refused(Box::new(refusal))
    }

    #[test]
    fn a_server_error_cools_one_model_for_longer_each_time() {
        let mut health = Health::default();
        let (a, b) = (subject(1, "m"), subject(2, "m"));
        let both = [a.clone(), b.clone()];
        assert_eq!(health.order(&both, 0), [0, 1]);
        for (now, pause) in [(0, 1), (10, 2), (20, 4), (30, 8)] {
            let (_, cold) = health.failed(&a, &refused(503, None), now * SECOND).unwrap();
            assert_eq!(cold.unwrap().until, Some((now + pause) * SECOND));
        }
        assert_eq!(health.order(&both, 31 * SECOND), [1, 0]);
        // Another model of the same key is not meant.
        assert_eq!(health.order(&[subject(1, "n"), b.clone()], 31 * SECOND), [0, 1]);
        assert_eq!(health.order(&both, 38 * SECOND), [0, 1]);
        assert_eq!(health.succeeded(&a).len(), 1);
        assert_eq!(health.order(&both, 31 * SECOND), [0, 1]);
    }

    #[test]
    fn a_refused_key_is_cool_until_it_changes() {
        let mut health = Health::default();
        let (a, b) = (subject(1, "m"), subject(2, "m"));
        health.failed(&a, &refused(401, None), 0).unwrap();
        assert_eq!(health.order(&[subject(1, "n"), b.clone()], i64::MAX - 1), [1, 0]);
        let changed = Subject { key_print: 8, ..a };
        assert_eq!(health.order(&[changed, b], 1), [0, 1]);
    }

    #[test]
    fn credit_rate_limits_and_connections_have_their_own_times() {
        let mut health = Health::default();
        let until = |change: Option<Change>| change.and_then(|(_, cold)| cold?.until);
        let a = subject(1, "m");
        assert_eq!(until(health.failed(&a, &refused(402, None), 0)), Some(60 * SECOND));
        assert_eq!(until(health.failed(&a, &refused(429, Some(9)), 0)), Some(9 * SECOND));
        let (place, _) = health.failed(&a, &Fault::Unreachable, 0).unwrap();
        assert_eq!(place, Place::Provider(a.provider));
        for status in [400, 403, 404, 422] {
            assert_eq!(health.failed(&a, &refused(status, None), 0), None, "{status}");
        }
    }

    #[test]
    fn all_that_are_cool_are_still_asked() {
        let mut health = Health::default();
        let (a, b) = (subject(1, "m"), subject(2, "m"));
        health.failed(&a, &refused(429, Some(30)), 0);
        health.failed(&b, &refused(429, Some(3)), 0);
        assert_eq!(health.order(&[a.clone(), b.clone()], 1), [1, 0]);
        let restored = Health::restored(health.cold.clone());
        assert_eq!(restored.order(&[a, b], 1), [1, 0]);
    }
}
