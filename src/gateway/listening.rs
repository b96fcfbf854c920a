//! Where the gateway is reached over HTTP, for those who ask after it, and for those who serve there.

use crate::core::front::place::Place;
use std::sync::{Mutex, MutexGuard};

/// What has become of the address that is wanted.
#[derive(Debug, Default)]
pub struct Listening(Mutex<State>);

#[derive(Debug, Default, Clone)]
struct State {
    place: Option<String>,
    problem: Option<String>,
}

impl Listening {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Requests are taken at this place now; `None`: at none.
    pub fn is_at(&self, place: Option<&Place>) {
        *self.lock() = State { place: place.map(Place::to_string), problem: None };
    }

    /// There is no listening where it is wanted. Says whether that was not known yet.
    pub fn fails(&self, problem: &str) -> bool {
        let mut state = self.lock();
        let is_new = state.problem.as_deref() != Some(problem);
        *state = State { place: None, problem: Some(problem.to_owned()) };
        is_new
    }

    /// The address, and what is wrong.
    pub fn tell(&self) -> (Option<String>, Option<String>) {
        let State { place, problem } = self.lock().clone();
        (place, problem)
    }
}
