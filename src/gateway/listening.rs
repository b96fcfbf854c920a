//! Where the gateway is reached over HTTP, for those who ask after it, and for those who serve there.

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

    /// Requests are taken at this place now, or at none, and something may be wrong with it. Says whether the place is
    /// another than before.
    pub fn is_at(&self, place: Option<&str>, problem: Option<&str>) -> bool {
        let mut state = self.lock();
        let is_new = state.place.as_deref() != place;
        *state = State { place: place.map(str::to_owned), problem: problem.map(str::to_owned) };
        is_new
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
