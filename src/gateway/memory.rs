//! The bound on the memory of all calls in flight, and each user's share of it.
//!
//! A call leases the room of its request, as it comes and as it is sent, and before it is sent some room for
//! its answer, which suffices for most. A larger answer grows. What begins may take three quarters
//! of the memory, the last one is for answers that grow. Of both, one user takes at most half of what the
//! others leave ([`fair::most`]).

use crate::core::fair;
use crate::error::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Room for the answer that every request has before it is sent: 64 kB, once here and once in the
/// frame to the session. A thousand in flight have a quarter of the default memory.
const ANSWER: usize = 128 * 1024;

/// Bytes that calls hold, of each user and of all, and the most they may.
#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    limit: usize,
    used: usize,
    users: HashMap<Arc<str>, usize>,
}

/// What is asked for is more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub limit: usize,
    /// There would be enough if nobody else, and nothing else of this user, held any.
    pub may_pass: bool,
}

impl Memory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { limit, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A reload may change the limit; what is held stays held.
    pub fn set_limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// A lease that holds nothing yet. What nobody in particular asks for is the user "".
    pub fn lease(self: &Arc<Self>, user: &str) -> Lease {
        Lease { memory: self.clone(), user: user.into(), request: 0, answer: 0, grown: 0 }
    }

    /// Bytes that this user may still begin with.
    pub fn room(&self, user: &str) -> usize {
        let state = self.lock();
        state.most(user, state.for_requests()).saturating_sub(state.of(user))
    }
}

impl State {
    /// What all that begins may take.
    fn for_requests(&self) -> usize {
        self.limit / 4 * 3
    }

    fn of(&self, user: &str) -> usize {
        self.users.get(user).copied().unwrap_or(0)
    }

    /// The most that a user may hold of so much.
    fn most(&self, user: &str, of: usize) -> usize {
        fair::most(of, self.used - self.of(user))
    }

    /// `needed`: by the one call that asks, with what it holds.
    fn take(
        &mut self,
        user: &Arc<str>,
        bytes: usize,
        needed: usize,
        of: usize,
    ) -> Result<(), Shortage> {
        let own = self.of(user).checked_add(bytes).filter(|own| *own <= self.most(user, of));
        let Some(own) = own else {
            let may_pass = needed <= fair::most(of, 0);
            return Err(Shortage { limit: self.limit, may_pass });
        };
        self.used += bytes;
        self.set(user, own);
        Ok(())
    }

    fn give_back(&mut self, user: &Arc<str>, bytes: usize) {
        self.used -= bytes;
        self.set(user, self.of(user) - bytes);
    }

    fn set(&mut self, user: &Arc<str>, own: usize) {
        if own == 0 {
            self.users.remove(user);
        } else if let Some(held) = self.users.get_mut(user) {
            *held = own;
        } else {
            self.users.insert(user.clone(), own);
        }
    }
}

/// What one call holds; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    memory: Arc<Memory>,
    user: Arc<str>,
    request: usize,
    /// Held for the answer, and how much of that it has used.
    answer: usize,
    grown: usize,
}

impl Lease {
    /// Another one of the same user, that holds nothing yet.
    pub fn another(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            user: self.user.clone(),
            request: 0,
            answer: 0,
            grown: 0,
        }
    }

    /// Takes room for a request, or fails at once.
    pub fn begin(&mut self, bytes: usize) -> Result<(), Error> {
        let mut state = self.memory.lock();
        let of = state.for_requests();
        // What comes is sent as well.
        let needed = self.request.saturating_add(bytes.saturating_mul(2));
        state.take(&self.user, bytes, needed, of).map_err(Error::from)?;
        self.request += bytes;
        Ok(())
    }

    /// Takes room for a request that is here already, whatever there is.
    pub fn begin_anyway(&mut self, bytes: usize) {
        let mut state = self.memory.lock();
        state.used += bytes;
        let own = state.of(&self.user) + bytes;
        state.set(&self.user, own);
        self.request += bytes;
    }

    /// Before a request is sent: room for its answer, of at most `limit` bytes. What an earlier answer
    /// has taken is given back.
    pub fn expect_answer(&mut self, limit: usize) -> Result<(), Error> {
        let mut state = self.memory.lock();
        if self.answer > 0 {
            state.give_back(&self.user, self.answer);
        }
        (self.answer, self.grown) = (0, 0);
        let bytes = ANSWER.min(limit.saturating_mul(2));
        let of = state.for_requests();
        let needed = self.request.saturating_mul(2).saturating_add(bytes);
        state.take(&self.user, bytes, needed, of).map_err(Error::from)?;
        self.answer = bytes;
        Ok(())
    }

    /// The answer has grown by so much.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Shortage> {
        self.grow_to(self.grown.saturating_add(bytes))
    }

    /// The answer takes so much by now.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Shortage> {
        if bytes > self.answer {
            let mut state = self.memory.lock();
            let limit = state.limit;
            state.take(&self.user, bytes - self.answer, bytes, limit)?;
            self.answer = bytes;
        }
        self.grown = self.grown.max(bytes);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = self.request + self.answer;
        if bytes > 0 {
            self.memory.lock().give_back(&self.user, bytes);
        }
    }
}

impl From<Shortage> for Error {
    /// Nothing was sent.
    fn from(shortage: Shortage) -> Self {
        Self::OutOfMemory { limit: shortage.limit as u64, may_pass: shortage.may_pass }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1024 * 1024;

    #[test]
    fn leases_add_up_and_come_back() {
        let memory = Memory::new(100 * MB);
        let mut a = memory.lease("a");
        a.begin(37 * MB).unwrap();
        let mut again = memory.lease("a");
        assert_eq!(again.begin(MB).unwrap_err().sqlstate(), "PT503");
        again.expect_answer(usize::MAX).unwrap();
        drop(a);
        again.begin(37 * MB).unwrap();
        assert!(again.begin(usize::MAX).is_err());
        drop(again);
        assert_eq!(memory.lock().used, 0);
        assert!(memory.lock().users.is_empty());
    }

    #[test]
    fn whoever_takes_what_there_is_leaves_some_for_the_next_user() {
        let memory = Memory::new(512 * MB);
        let mut held = Vec::new();
        for (user, most) in [("a", 192), ("b", 96), ("c", 48), ("d", 24), ("e", 12)] {
            loop {
                let mut lease = memory.lease(user);
                if lease.begin(MB).is_err() {
                    break;
                }
                held.push(lease);
            }
            assert_eq!(memory.lock().of(user), most * MB, "{user}");
        }
        let mut last = memory.lease("f");
        assert!(memory.room("f") >= 5 * MB && memory.room("a") == 0);
        last.begin(MB).unwrap();
        last.expect_answer(32 * MB).unwrap();
        // An answer grows into what requests cannot take.
        last.grow(60 * MB).unwrap();
        assert_eq!(last.grow(60 * MB), Err(Shortage { limit: 512 * MB, may_pass: true }));
        assert_eq!(last.grow(300 * MB), Err(Shortage { limit: 512 * MB, may_pass: false }));
        let passes =
            |bytes| matches!(last.begin(bytes), Err(Error::OutOfMemory { may_pass: true, .. }));
        assert_eq!([90 * MB, 100 * MB].map(passes), [true, false], "it is held twice");
    }

    #[test]
    fn an_answer_uses_its_room_first_and_a_second_try_begins_anew() {
        let memory = Memory::new(100 * MB);
        let mut lease = memory.lease("a");
        lease.begin(MB).unwrap();
        lease.expect_answer(32 * MB).unwrap();
        let begun = memory.lock().used;
        lease.grow(ANSWER - 1).unwrap();
        lease.grow(1).unwrap();
        assert_eq!(memory.lock().used, begun);
        lease.grow(10).unwrap();
        lease.grow_to(ANSWER).unwrap();
        assert_eq!(memory.lock().used, begun + 10);
        lease.expect_answer(1000).unwrap();
        assert_eq!(memory.lock().used, MB + 2000);
    }
}
