//! Which first syncs are on their way, and what the last one of each provider came to.

use crate::error::Error;
use crate::protocol::{CatalogueFetch, SealedKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long what a provider said without a user's key holds for the keys of all users.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest that a provider is left alone which fails again and again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Of each provider: the last sync for everybody, locked while one is on its way.
pub type LastSync = Arc<tokio::sync::Mutex<Option<Last>>>;

/// What the last sync of a provider came to.
pub struct Last {
    at: Instant,
    /// Where it was asked. Whoever sets that right need not wait.
    url: String,
    pub outcome: Outcome,
    /// How often it has failed since it last did not.
    failures: u32,
}

impl Last {
    /// One that has just ended, after another.
    pub fn after(before: Option<&Self>, url: String, outcome: Outcome) -> Self {
        let earlier = before.filter(|before| before.url == url).map_or(0, |before| before.failures);
        let failures = match outcome {
            Outcome::Failed(_) => earlier.saturating_add(1),
            Outcome::Listed | Outcome::NeedsKey => 0,
        };
        Self { at: Instant::now(), url, outcome, failures }
    }

    /// Whether users are told this instead of the provider being asked again.
    pub fn holds(&self, url: &str) -> bool {
        self.url == url && self.at.elapsed() < self.pause()
    }

    /// Twice as long after each failure.
    fn pause(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX);
        PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
    }
}

#[derive(Default)]
pub struct FirstSyncs(Mutex<State>);

#[derive(Default)]
pub struct State {
    pub for_all: HashMap<Uuid, LastSync>,
    /// Users whose list is being fetched, and the key that was saved meanwhile.
    pub own: HashMap<(String, Uuid), Option<Own>>,
}

/// A user's list that is to be fetched.
pub type Own = Box<(CatalogueFetch, SealedKey)>;

#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is stored.
    Listed,
    NeedsKey,
    Failed(Error),
}

impl FirstSyncs {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A user's place among those whose list is being fetched, given up when it is dropped.
pub struct Place<'a> {
    pub syncs: &'a FirstSyncs,
    pub place: &'a (String, Uuid),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.syncs.lock().own.remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        let ended = |before: Option<&Last>, url: &str, outcome| {
            let last = Last::after(before, url.to_owned(), outcome);
            assert!(last.holds(url) && !last.holds("elsewhere"));
            last
        };
        let failed = || Outcome::Failed(Error::stopping());
        let mut last = ended(None, "a", failed());
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(last.pause(), minutes * PAUSE);
            last = ended(Some(&last), "a", failed());
        }
        let at = Instant::now().checked_sub(LONGEST_PAUSE).unwrap();
        assert!(!Last { at, ..ended(Some(&last), "a", failed()) }.holds("a"));
        // Its address was set right, or it has answered: from the beginning.
        assert_eq!(ended(Some(&last), "b", failed()).pause(), PAUSE);
        let listed = ended(Some(&last), "a", Outcome::Listed);
        assert_eq!(listed.pause(), PAUSE);
        assert_eq!(ended(Some(&listed), "a", failed()).pause(), PAUSE);
        let often = Last { failures: u32::MAX, ..listed };
        assert_eq!(often.pause(), LONGEST_PAUSE);
    }
}
