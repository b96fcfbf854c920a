//! Limits in flight: at them a call waits. Users take turns, so that the thousand calls of one do
//! not hold up the one call of another. Calls that are inside may stay there for hours, and nobody throws
//! them out: so of all places, and of those of a key that many may spend, one user takes at most half of
//! what the others leave ([`fair::most`]), and the next one always finds a place.

use crate::core::fair;
use crate::error::Error;
use crate::gateway::settings::Limits;
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
    users: HashMap<Arc<str>, User>,
    keys: HashMap<Uuid, Key>,
    /// Users with a queue, the next one to be served in front.
    turns: VecDeque<Arc<str>>,
    /// Calls that have queued so far.
    queued: u64,
}

/// Calls inside with one key.
#[derive(Default)]
struct Key {
    in_flight: usize,
    /// Of each user, where more than one may spend it.
    of: HashMap<Arc<str>, usize>,
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
    /// Others may spend the key as well.
    is_shared: bool,
    enter: oneshot::Sender<Permit>,
}

/// Leave to send one request; given back when it is dropped.
pub struct Permit {
    admission: Arc<Admission>,
    user: Arc<str>,
    key: Uuid,
    is_held: bool,
}

/// A place in a queue, given up when it is dropped.
struct Place<'a> {
    admission: &'a Admission,
    user: &'a Arc<str>,
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

    /// Waits for its turn. Dropping the future gives the place up. `is_shared`: others may spend the key
    /// as well.
    pub async fn enter(self: &Arc<Self>, user: &str, key: Uuid, is_shared: bool) -> Option<Permit> {
        let (user, number, entered) = {
            let mut state = self.lock();
            let user = state.name_of(user);
            // Whoever waits could not enter a moment ago, and so not now.
            if state.may_enter_at_once(&user, key, is_shared) {
                state.count_in(&user, key, is_shared);
                return Some(Permit { admission: self.clone(), user, key, is_held: true });
            }
            let (enter, entered) = oneshot::channel();
            state.queued += 1;
            let number = state.queued;
            let queue = &mut state.users.entry(user.clone()).or_default().queue;
            queue.push_back(Waiter { number, key, is_shared, enter });
            if queue.len() == 1 {
                state.turns.push_back(user.clone());
            }
            self.let_in(state);
            (user, number, entered)
        };
        // Dropped before `entered`: nobody is let in who has gone away.
        let _place = Place { admission: self, user: &user, number };
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
                    state.count_in(&name, waiter.key, waiter.is_shared);
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
    /// A user's name, shared with what is known of them.
    fn name_of(&self, user: &str) -> Arc<str> {
        self.users.get_key_value(user).map_or_else(|| user.into(), |(name, _)| name.clone())
    }

    /// Whether there is a place for a call of a user who does not wait already.
    fn may_enter_at_once(&self, name: &str, key: Uuid, is_shared: bool) -> bool {
        let (inside, waits) = self
            .users
            .get(name)
            .map_or((0, false), |user| (user.in_flight, !user.queue.is_empty()));
        !waits
            && self.in_flight < self.limits.all
            && self.has_place_for(inside)
            && has_place(&self.keys, self.limits.per_key, name, key, is_shared)
    }

    /// Whether a user with so many calls inside may have one more.
    fn has_place_for(&self, inside: usize) -> bool {
        let others = self.in_flight - inside;
        inside < self.limits.per_user.min(fair::most(self.limits.all, others))
    }

    /// Takes the first call of a user that may enter out of their queue.
    fn next_of(&mut self, name: &str) -> Option<Waiter> {
        if !self.has_place_for(self.users.get(name)?.in_flight) {
            return None;
        }
        let user = self.users.get_mut(name)?;
        let (keys, most) = (&self.keys, self.limits.per_key);
        let may_enter = |waiter: &Waiter| has_place(keys, most, name, waiter.key, waiter.is_shared);
        // Most of a queue is for one key: each is asked about once.
        let mut full: Vec<Uuid> = Vec::new();
        let index = user.queue.iter().take(LOOK_AHEAD).position(|waiter| {
            if full.contains(&waiter.key) {
                return false;
            }
            let may_enter = may_enter(waiter);
            if !may_enter {
                full.push(waiter.key);
            }
            may_enter
        })?;
        user.queue.remove(index)
    }

    fn count_in(&mut self, name: &Arc<str>, key: Uuid, is_shared: bool) {
        self.in_flight += 1;
        let key = self.keys.entry(key).or_default();
        key.in_flight += 1;
        if is_shared {
            *key.of.entry(name.clone()).or_default() += 1;
        }
        match self.users.get_mut(name) {
            Some(user) => user.in_flight += 1,
            None => {
                self.users.insert(name.clone(), User { in_flight: 1, ..User::default() });
            }
        }
    }

    fn count_out(&mut self, name: &str, key: Uuid) {
        self.in_flight -= 1;
        if let Some(inside) = self.keys.get_mut(&key) {
            inside.in_flight -= 1;
            if let Some(own) = inside.of.get_mut(name) {
                *own -= 1;
                if *own == 0 {
                    inside.of.remove(name);
                }
            }
            if inside.in_flight == 0 {
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

/// Whether one more call of a user may be inside with a key, of which `most` may be.
fn has_place(
    keys: &HashMap<Uuid, Key>,
    most: usize,
    name: &str,
    key: Uuid,
    is_shared: bool,
) -> bool {
    let Some(key) = keys.get(&key) else { return most > 0 };
    let own = key.of.get(name).copied().unwrap_or(0);
    if is_shared { own < fair::most(most, key.in_flight - own) } else { key.in_flight < most }
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

/// Nobody lets in any more.
pub fn ended() -> Error {
    Error::internal("the queue for a turn ended")
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
        let mut first = Box::pin(gate.enter("alice", A, false));
        let inside = poll(&mut first).flatten().unwrap();
        let mut alices: Vec<_> = (0..3).map(|_| Box::pin(gate.enter("alice", A, false))).collect();
        assert!(alices.iter_mut().all(|call| poll(call).is_none()));
        let mut bobs = Box::pin(gate.enter("bob", B, false));
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
        let mut one = Box::pin(gate.enter("alice", A, false));
        let one = poll(&mut one).flatten().unwrap();
        let mut same_key = Box::pin(gate.enter("alice", A, false));
        assert!(poll(&mut same_key).is_none());
        let mut other_key = Box::pin(gate.enter("alice", B, false));
        let other_key = poll(&mut other_key).flatten().unwrap();
        let mut third = Box::pin(gate.enter("alice", Uuid::from_u128(3), false));
        assert!(poll(&mut third).is_none());
        let mut bob = Box::pin(gate.enter("bob", Uuid::from_u128(4), false));
        assert!(poll(&mut bob).is_some());
        drop(one);
        assert!(poll(&mut same_key).is_some());
        drop(other_key);
    }

    #[test]
    fn who_stops_waiting_holds_nobody_up() {
        let gate = gate(1, 9, 9);
        let mut first = Box::pin(gate.enter("alice", A, false));
        let inside = poll(&mut first).flatten().unwrap();
        let mut gone = Box::pin(gate.enter("bob", A, false));
        assert!(poll(&mut gone).is_none());
        let mut last = Box::pin(gate.enter("carol", A, false));
        assert!(poll(&mut last).is_none());
        drop(gone);
        drop(inside);
        let permit = poll(&mut last).flatten().unwrap();
        assert_eq!(gate.waiting(), 0);
        drop(permit);
        assert!(gate.lock().users.is_empty() && gate.lock().keys.is_empty());
        // However many they are.
        let mut holder = Box::pin(gate.enter("eve", A, false));
        let held = poll(&mut holder).flatten().unwrap();
        let mut many: Vec<_> =
            (0..100_000).map(|_| Box::pin(gate.enter("eve", A, false))).collect();
        assert!(many.iter_mut().all(|call| poll(call).is_none()));
        many.truncate(1);
        assert_eq!(gate.waiting(), 1);
        drop(held);
        assert!(poll(&mut many[0]).is_some());
        drop(many);
        assert!(gate.lock().users.is_empty() && gate.lock().turns.is_empty());
        // A raised limit lets in who waits.
        gate.set_limits(Limits { all: 0, per_user: 1, per_key: 1 });
        let mut waits = Box::pin(gate.enter("dora", A, false));
        assert!(poll(&mut waits).is_none());
        gate.set_limits(Limits { all: 1, per_user: 1, per_key: 1 });
        assert!(poll(&mut waits).is_some());
    }

    /// As many calls of a user as may enter.
    fn fill(gate: &Arc<Admission>, user: &str, key: Uuid, is_shared: bool) -> Vec<Permit> {
        let mut inside = Vec::new();
        loop {
            let mut call = Box::pin(gate.enter(user, key, is_shared));
            match poll(&mut call).flatten() {
                Some(permit) => inside.push(permit),
                None => return inside,
            }
        }
    }

    #[test]
    fn whoever_holds_a_shared_key_leaves_places_for_the_next_user() {
        let gate = gate(1000, 1000, 256);
        let mut inside = Vec::new();
        for (user, places) in [("a", 128), ("b", 64), ("c", 32), ("d", 16), ("e", 8)] {
            let held = fill(&gate, user, A, true);
            assert_eq!(held.len(), places, "{user}");
            inside.push(held);
        }
        // A key of one's own is one's own.
        assert_eq!(fill(&gate, "f", B, false).len(), 256);
        // Who goes makes place, and at the limit it is for whom it does not make too many.
        inside.remove(1);
        assert_eq!(fill(&gate, "a", A, true).len(), 0, "it has 128 of the 200 that others leave");
        assert_eq!(fill(&gate, "g", A, true).len(), 36);
        drop(inside);
        assert!(gate.lock().users.is_empty() && gate.lock().keys.is_empty());
    }

    #[test]
    fn whoever_holds_places_of_all_leaves_some_for_the_next_user() {
        let gate = gate(100, 100, 100);
        let key = |user: u128| Uuid::from_u128(user);
        let inside: Vec<_> =
            (0..7).map(|user| fill(&gate, &user.to_string(), key(user), false)).collect();
        let held: Vec<usize> = inside.iter().map(Vec::len).collect();
        assert_eq!(held, [50, 25, 13, 6, 3, 2, 1]);
    }
}
