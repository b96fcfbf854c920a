//! Limits in flight: at them a call waits. Users take turns, so that the thousand calls of one do
//! not hold up the one call of another.

use crate::gateway::Limits;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How far into a user's own queue a call with a free key is looked for.
const LOOK_AHEAD: usize = 256;

/// The gate before every request to a provider.
pub struct Admission {
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    in_flight: usize,
    users: HashMap<String, User>,
    keys: HashMap<Uuid, usize>,
    /// Users with a queue, the next one to be served in front.
    turns: VecDeque<String>,
    /// Calls that have queued so far.
    queued: u64,
}

#[derive(Default)]
struct User {
    in_flight: usize,
    queue: VecDeque<Waiter>,
}

struct Waiter {
    /// Later ones have larger numbers.
    number: u64,
    key: Uuid,
    enter: oneshot::Sender<Permit>,
}

/// Leave to send one request; given back when it is dropped.
pub struct Permit {
    admission: Arc<Admission>,
    user: String,
    key: Uuid,
    is_held: bool,
}

/// A place in a queue, given up when it is dropped.
struct Place<'a> {
    admission: &'a Admission,
    user: &'a str,
    number: u64,
}

impl Admission {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                limits,
                in_flight: 0,
                users: HashMap::new(),
                keys: HashMap::new(),
                turns: VecDeque::new(),
                queued: 0,
            }),
        })
    }

    /// A reload may change the limits; who is inside stays.
    pub fn set_limits(self: &Arc<Self>, limits: Limits) {
        let mut state = self.lock();
        state.limits = limits;
        self.let_in(state);
    }

    /// Waits for its turn. Dropping the future gives the place up.
    pub async fn enter(self: &Arc<Self>, user: &str, key: Uuid) -> Option<Permit> {
        let (enter, entered) = oneshot::channel();
        let number = {
            let mut state = self.lock();
            state.queued += 1;
            let number = state.queued;
            let queue = &mut state.users.entry(user.to_owned()).or_default().queue;
            queue.push_back(Waiter { number, key, enter });
            if queue.len() == 1 {
                state.turns.push_back(user.to_owned());
            }
            self.let_in(state);
            number
        };
        // Dropped before `entered`: nobody is let in who has gone away.
        let _place = Place { admission: self, user, number };
        entered.await.ok()
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.lock().users.values().map(|user| user.queue.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets in whoever may enter.
    fn let_in(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut passed_over = 0;
        while passed_over < state.turns.len() && state.in_flight < state.limits.all {
            let Some(name) = state.turns.pop_front() else { break };
            match state.next_of(&name) {
                Some(waiter) => {
                    passed_over = 0;
                    state.count_in(&name, waiter.key);
                    let permit = Permit {
                        admission: self.clone(),
                        user: name.clone(),
                        key: waiter.key,
                        is_held: true,
                    };
                    // Its call has gone away: the permit must not come back by itself, because
                    // that would take the lock that is held here.
                    if let Err(mut permit) = waiter.enter.send(permit) {
                        permit.is_held = false;
                        state.count_out(&name, waiter.key);
                    }
                }
                None => passed_over += 1,
            }
            if state.users.get(&name).is_some_and(|user| !user.queue.is_empty()) {
                state.turns.push_back(name);
            }
        }
    }

    fn leave(self: &Arc<Self>, user: &str, key: Uuid) {
        let mut state = self.lock();
        state.count_out(user, key);
        self.let_in(state);
    }
}

impl State {
    /// Takes the first call of a user that may enter out of their queue.
    fn next_of(&mut self, name: &str) -> Option<Waiter> {
        let user = self.users.get_mut(name)?;
        if user.in_flight >= self.limits.per_user {
            return None;
        }
        let keys = &self.keys;
        let most = self.limits.per_key;
        let index = user
            .queue
            .iter()
            .take(LOOK_AHEAD)
            .position(|waiter| keys.get(&waiter.key).copied().unwrap_or(0) < most)?;
        user.queue.remove(index)
    }

    fn count_in(&mut self, name: &str, key: Uuid) {
        self.in_flight += 1;
        *self.keys.entry(key).or_default() += 1;
        if let Some(user) = self.users.get_mut(name) {
            user.in_flight += 1;
        }
    }

    fn count_out(&mut self, name: &str, key: Uuid) {
        self.in_flight -= 1;
        if let Some(count) = self.keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&key);
            }
        }
        if let Some(user) = self.users.get_mut(name) {
            user.in_flight -= 1;
        }
        self.forget_if_idle(name);
    }

    fn forget_if_idle(&mut self, name: &str) {
        let is_idle = |user: &User| user.in_flight == 0 && user.queue.is_empty();
        if self.users.get(name).is_some_and(is_idle) {
            self.users.remove(name);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_held {
            self.admission.leave(&self.user, self.key);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        let Some(user) = state.users.get_mut(self.user) else { return };
        let Ok(index) = user.queue.binary_search_by_key(&self.number, |waiter| waiter.number)
        else {
            return;
        };
        user.queue.remove(index);
        if user.queue.is_empty() {
            state.turns.retain(|name| name != self.user);
            state.forget_if_idle(self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    /// Polls once: what comes out, if the call may enter now.
    fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn gate(all: usize, per_user: usize, per_key: usize) -> Arc<Admission> {
        Admission::new(Limits { all, per_user, per_key })
    }

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    #[test]
    fn past_a_limit_calls_wait_and_users_take_turns() {
        let gate = gate(1, 9, 9);
        let mut first = Box::pin(gate.enter("alice", A));
        let inside = poll(&mut first).flatten().unwrap();
        let mut alices: Vec<_> = (0..3).map(|_| Box::pin(gate.enter("alice", A))).collect();
        assert!(alices.iter_mut().all(|call| poll(call).is_none()));
        let mut bobs = Box::pin(gate.enter("bob", B));
        assert!(poll(&mut bobs).is_none());
        assert_eq!(gate.waiting(), 4);
        drop(inside);
        let second = poll(&mut alices[0]).flatten().unwrap();
        drop(second);
        // Bob came last, and is not behind all of Alice's.
        let his = poll(&mut bobs).flatten().unwrap();
        drop(his);
        assert!(poll(&mut alices[1]).is_some());
    }

    #[test]
    fn limits_of_user_and_key_hold_only_them_up() {
        let gate = gate(9, 2, 1);
        let mut one = Box::pin(gate.enter("alice", A));
        let one = poll(&mut one).flatten().unwrap();
        let mut same_key = Box::pin(gate.enter("alice", A));
        assert!(poll(&mut same_key).is_none());
        let mut other_key = Box::pin(gate.enter("alice", B));
        let other_key = poll(&mut other_key).flatten().unwrap();
        let mut third = Box::pin(gate.enter("alice", Uuid::from_u128(3)));
        assert!(poll(&mut third).is_none());
        let mut bob = Box::pin(gate.enter("bob", Uuid::from_u128(4)));
        assert!(poll(&mut bob).is_some());
        drop(one);
        assert!(poll(&mut same_key).is_some());
        drop(other_key);
    }

    #[test]
    fn who_stops_waiting_holds_nobody_up() {
        let gate = gate(1, 9, 9);
        let mut first = Box::pin(gate.enter("alice", A));
        let inside = poll(&mut first).flatten().unwrap();
        let mut gone = Box::pin(gate.enter("bob", A));
        assert!(poll(&mut gone).is_none());
        let mut last = Box::pin(gate.enter("carol", A));
        assert!(poll(&mut last).is_none());
        drop(gone);
        drop(inside);
        let permit = poll(&mut last).flatten().unwrap();
        assert_eq!(gate.waiting(), 0);
        drop(permit);
        assert!(gate.lock().users.is_empty() && gate.lock().keys.is_empty());
        // However many they are.
        let mut holder = Box::pin(gate.enter("eve", A));
        let held = poll(&mut holder).flatten().unwrap();
        let mut many: Vec<_> = (0..100_000).map(|_| Box::pin(gate.enter("eve", A))).collect();
        assert!(many.iter_mut().all(|call| poll(call).is_none()));
        many.truncate(1);
        assert_eq!(gate.waiting(), 1);
        drop(held);
        assert!(poll(&mut many[0]).is_some());
        drop(many);
        assert!(gate.lock().users.is_empty() && gate.lock().turns.is_empty());
        // A raised limit lets in who waits.
        gate.set_limits(Limits { all: 0, per_user: 1, per_key: 1 });
        let mut waits = Box::pin(gate.enter("dora", A));
        assert!(poll(&mut waits).is_none());
        gate.set_limits(Limits { all: 1, per_user: 1, per_key: 1 });
        assert!(poll(&mut waits).is_some());
    }
}
