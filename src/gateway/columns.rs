//! AI columns on the asynchronous side: which of them are at work, and what they share. Each has a task of its own,
//! which ends when nothing is due; the main thread says when something is.

mod became;
mod calls;
mod failing;
mod troubles;
mod work;

use crate::core::fair;
use crate::gateway::shared::Shared;
use crate::gateway::task::Task;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use troubles::Troubles;
use uuid::Uuid;

/// Columns at work at one time; of these, one user has at most half of what the others leave.
const MOST: usize = 64;

/// A column with something to do, and whose it is.
pub type Due = (Uuid, String);

/// The columns at work, and the requests that are on their way for them.
#[derive(Default)]
pub struct Columns {
    state: Mutex<State>,
    /// A request has ended.
    freed: Notify,
    pub(super) troubles: Troubles,
}

#[derive(Default)]
struct State {
    at_work: HashMap<Uuid, String>,
    /// Requests of each user, and of all.
    calls: HashMap<String, usize>,
    count: usize,
}

impl State {
    fn may_begin(&self, user: &str) -> bool {
        let own = self.at_work.values().filter(|whose| *whose == user).count();
        own < fair::most(MOST, self.at_work.len() - own)
    }
}

impl Columns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Those that need not be looked at now.
    pub fn at_work(&self) -> Vec<Uuid> {
        let mut columns = self.troubles.held_off();
        columns.extend(self.lock().at_work.keys());
        columns
    }

    /// A place for one more request of this user. Half of the places of calls are left to those who wait for an
    /// answer. `None`: there is none now.
    fn place(self: &Arc<Self>, shared: &Shared, user: &str) -> Option<Place> {
        let limits = shared.settings().limits;
        let mut state = self.lock();
        let own = state.calls.get(user).copied().unwrap_or(0);
        let most = fair::most((limits.all / 2).max(1), state.count - own);
        if own >= most.min((limits.per_user / 2).max(1)) {
            return None;
        }
        state.count += 1;
        *state.calls.entry(user.to_owned()).or_default() += 1;
        Some(Place { columns: self.clone(), user: user.to_owned() })
    }
}

/// A request's place, given up when it is dropped.
struct Place {
    columns: Arc<Columns>,
    user: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.columns.lock();
        state.count -= 1;
        if let Some(own) = state.calls.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                state.calls.remove(&self.user);
            }
        }
        drop(state);
        self.columns.freed.notify_waiters();
    }
}

/// A column at work.
struct AtWork {
    shared: Arc<Shared>,
    column: Uuid,
    /// It has done something: what came meanwhile may be due.
    has_worked: bool,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.shared.columns.lock().at_work.remove(&self.column);
        if self.has_worked {
            self.shared.ledger.send(Task::ColumnsDue);
        }
    }
}

/// Begins the work on columns, as far as there are places for them.
pub fn start(shared: &Arc<Shared>, due: Vec<Due>) {
    for (column, user) in due {
        {
            let mut state = shared.columns.lock();
            if state.at_work.contains_key(&column)
                || !state.may_begin(&user)
                || shared.columns.troubles.is_too_early(column)
            {
                continue;
            }
            state.at_work.insert(column, user.clone());
        }
        let at_work = AtWork { shared: shared.clone(), column, has_worked: false };
        let in_flight = shared.stats.enter();
        tokio::spawn(async move {
            // The whole of it, which says at its end that it is over.
            let mut at_work = at_work;
            at_work.has_worked = work::run(at_work.shared.clone(), column, user).await;
            drop(in_flight);
        });
    }
}
