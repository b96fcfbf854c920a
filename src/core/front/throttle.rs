//! How often credentials are looked at that nobody vouches for.
//!
//! No credential can be guessed. But each that is shown costs a signature to verify or a question to the database, so
//! whoever goes on showing bad ones is told to wait before that. Of another machine all that fails counts together.
//! This machine is not one caller: behind a proxy that says not for whom it asks, everybody has its address. There
//! each credential counts for itself, so that nobody is kept out by what a stranger shows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// As many may fail at once, and one more after each pause.
const AT_ONCE: i64 = 20;
const PAUSE: i64 = 6_000_000;
/// Those of each kind of which it is known that they have failed.
const MOST: usize = 4096;
/// Between looks whether some of them are past.
const SWEEP: i64 = 1_000_000;

/// What a failure is laid to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Another machine.
    Address(IpAddr),
    /// The beginning of a credential's SHA-256.
    Credential([u8; 16]),
}

/// What has failed of late. The clock counts microseconds since 1970.
#[derive(Debug, Default)]
pub struct Throttle {
    addresses: Table<IpAddr>,
    credentials: Table<[u8; 16]>,
}

impl Throttle {
    /// How long until one more is looked at. `None`: it is now.
    pub fn wait(&self, source: Source, now: i64) -> Option<Duration> {
        match source {
            Source::Address(address) => self.addresses.wait(&address, now),
            Source::Credential(print) => self.credentials.wait(&print, now),
        }
    }

    /// One has failed.
    pub fn note(&mut self, source: Source, now: i64) {
        match source {
            Source::Address(address) => self.addresses.note(address, now),
            Source::Credential(print) => self.credentials.note(print, now),
        }
    }
}

/// Of each source, when all that has failed is past (the generic cell rate algorithm).
#[derive(Debug)]
struct Table<K> {
    past_at: HashMap<K, i64>,
    swept_at: i64,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { past_at: HashMap::new(), swept_at: 0 }
    }
}

impl<K: Eq + std::hash::Hash> Table<K> {
    fn wait(&self, source: &K, now: i64) -> Option<Duration> {
        let past_at = *self.past_at.get(source)?;
        let wait =
            past_at.saturating_add(PAUSE).saturating_sub(now.saturating_add(AT_ONCE * PAUSE));
        // A clock that was set back does not keep anybody out for longer than all that may fail at once takes.
        let wait = wait.min(AT_ONCE * PAUSE);
        u64::try_from(wait).ok().filter(|wait| *wait > 0).map(Duration::from_micros)
    }

    fn note(&mut self, source: K, now: i64) {
        if self.past_at.len() >= MOST && !self.past_at.contains_key(&source) {
            if now.saturating_sub(self.swept_at).unsigned_abs() >= SWEEP.unsigned_abs() {
                self.swept_at = now;
                self.past_at.retain(|_, past_at| *past_at > now);
            }
            // Where so many fail at one time, one more is none of those that fail again and again.
            if self.past_at.len() >= MOST {
                return;
            }
        }
        let past_at = self.past_at.entry(source).or_insert(now);
        let most = now.saturating_add(AT_ONCE * PAUSE);
        *past_at = (*past_at).max(now).saturating_add(PAUSE).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_800_000_000 * SECOND;

    fn address(text: &str) -> Source {
        Source::Address(text.parse().unwrap())
    }

    #[test]
    fn twenty_may_fail_and_then_ten_a_minute() {
        let mut throttle = Throttle::default();
        let source = address("192.0.2.1");
        for _ in 0..20 {
            assert_eq!(throttle.wait(source, NOW), None);
            throttle.note(source, NOW);
        }
        assert_eq!(throttle.wait(source, NOW), Some(Duration::from_secs(6)));
        assert_eq!(throttle.wait(source, NOW + 5 * SECOND), Some(Duration::from_secs(1)));
        // Nobody else is kept out.
        assert_eq!(throttle.wait(address("192.0.2.2"), NOW), None);
        assert_eq!(throttle.wait(Source::Credential([0; 16]), NOW), None);
        let mut looked_at = 0;
        for second in 0..600 {
            let now = NOW + second * SECOND;
            if throttle.wait(source, now).is_none() {
                throttle.note(source, now);
                looked_at += 1;
            }
        }
        assert_eq!(looked_at, 99);
        // Once it is left alone, all is forgotten.
        assert_eq!(throttle.wait(source, NOW + 720 * SECOND), None);
        // A clock that was set back keeps nobody out for long.
        assert_eq!(throttle.wait(source, NOW - 3600 * SECOND), Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_room_and_keeps_those_that_are_known() {
        let mut throttle = Throttle::default();
        let known = address("192.0.2.1");
        (0..20).for_each(|_| throttle.note(known, NOW));
        for number in 0..10 * MOST as u128 {
            throttle.note(Source::Credential(number.to_be_bytes()), NOW);
            throttle.note(Source::Address(IpAddr::V6(number.into())), NOW);
        }
        assert_eq!(throttle.addresses.past_at.len(), MOST);
        assert_eq!(throttle.credentials.past_at.len(), MOST);
        assert!(throttle.wait(known, NOW).is_some());
        // Once they are past, others have their room.
        let later = NOW + 10 * SECOND;
        throttle.note(address("192.0.2.2"), later);
        assert!(throttle.addresses.past_at.len() < 10);
        assert!(throttle.wait(known, later).is_none() && throttle.addresses.past_at.len() >= 2);
    }

    proptest::proptest! {
        #[test]
        fn no_clock_panics(moments in proptest::collection::vec(proptest::num::i64::ANY, 0..50)) {
            let mut throttle = Throttle::default();
            for now in moments {
                throttle.note(Source::Credential([1; 16]), now);
                let wait = throttle.wait(Source::Credential([1; 16]), now);
                proptest::prop_assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(120)));
            }
        }
    }
}
