//! Calls of a user that ask the same at one time: one of them has the turn to ask upstream, the others wait for it.
//! Whose turn it is holds it until its answer is kept; where it fails or is dropped, the next one has it.
//!
//! Only calls of one user wait for each other, also where answers are shared: nobody waits because somebody else
//! reads slowly.

use crate::core::secret::Print;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::OwnedMutexGuard;

/// Places past which those that nobody is at are forgotten.
const MANY: usize = 1024;

#[derive(Default)]
pub struct Flights(Mutex<HashMap<Print, Arc<Flight>>>);

/// Calls that ask the same.
#[derive(Default)]
pub struct Flight {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How often an answer was kept.
    kept: AtomicU64,
    is_open: AtomicBool,
}

/// Held by the one that asks.
pub type Turn = OwnedMutexGuard<()>;

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Print, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The place of calls with this print, which is there for as long as any of them holds it.
    pub fn of(&self, print: Print) -> Arc<Flight> {
        let mut flights = self.lock();
        if flights.len() >= MANY && !flights.contains_key(&print) {
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        }
        let flight = flights.entry(print).or_default();
        // What was found out by others who are gone holds no more.
        if Arc::strong_count(flight) == 1 {
            *flight = Arc::default();
        }
        flight.clone()
    }
}

impl Flight {
    /// Waits for the turn. Those who wait have it one after the other.
    pub async fn turn(&self) -> Turn {
        self.turn.clone().lock_owned().await
    }

    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::SeqCst)
    }

    /// An answer is on its way to be kept: who looks from now on finds it.
    pub fn note_kept(&self) {
        self.kept.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether answers turned out not to be kept, so that nobody need wait for one.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }

    pub fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_turn_goes_to_one_after_the_other() {
        let flights = Flights::default();
        let flight = flights.of(Print([1; 32]));
        let turn = flight.turn().await;
        assert!(Arc::ptr_eq(&flight, &flights.of(Print([1; 32]))));
        assert!(!Arc::ptr_eq(&flight, &flights.of(Print([2; 32]))));
        let second = tokio::spawn({
            let flight = flight.clone();
            async move { flight.turn().await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        // Whoever goes away while it waits keeps nobody from it.
        let third = flight.clone();
        second.abort();
        assert!(second.await.is_err());
        drop(turn);
        let _turn = third.turn().await;
    }

    #[test]
    fn places_that_nobody_is_at_are_forgotten() {
        let flights = Flights::default();
        let held = flights.of(Print([255; 32]));
        held.open();
        held.note_kept();
        for n in 0..2 * MANY {
            let mut print = [0; 32];
            print[..8].copy_from_slice(&n.to_le_bytes());
            flights.of(Print(print));
        }
        assert!(flights.lock().len() <= MANY + 1);
        let again = flights.of(Print([255; 32]));
        assert!(again.is_open() && again.kept() == 1);
        drop((held, again));
        assert!(!flights.of(Print([255; 32])).is_open(), "another time, another answer");
    }
}
