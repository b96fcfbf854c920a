//! The sync that a saved key sets off at a provider whose catalogue was never fetched. Nobody waits for it.
//!
//! What everybody sees is asked for with the platform's key, or with none; one at a time at each provider. Only
//! where that is refused is the list asked for with the user's key, and it is that user's alone.

use crate::error::Error;
use crate::gateway::catalogue;
use crate::gateway::ledger::{Task, UserModels};
use crate::gateway::server::Shared;
use crate::protocol::{CatalogueFetch, FirstSync, SealedKey};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long what a provider said without a user's key holds for the keys of all users.
const PAUSE: Duration = Duration::from_secs(60);

/// Of each provider: the last sync for everybody, locked while one is on its way.
type LastSync = Arc<tokio::sync::Mutex<Option<(Instant, Outcome)>>>;

#[derive(Default)]
pub struct FirstSyncs(Mutex<State>);

#[derive(Default)]
struct State {
    for_all: HashMap<Uuid, LastSync>,
    /// Users whose list is being fetched, and the key that was saved meanwhile.
    own: HashMap<(String, Uuid), Option<Own>>,
}

/// A user's list that is to be fetched.
type Own = Box<(CatalogueFetch, SealedKey)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Listed,
    NeedsKey,
    Failed,
}

impl FirstSyncs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Begins at once to count as in flight, so that the worker stays for it.
pub fn run(shared: Arc<Shared>, sync: FirstSync) -> impl Future<Output = ()> {
    let in_flight = shared.stats.enter();
    async move {
        let FirstSync { fetch, own_key } = sync;
        let Some(key) = own_key else {
            for_all(&shared, &fetch, false).await;
            return drop(in_flight);
        };
        let user = key.binding.user_id.clone();
        // A user who saves one key after the other syncs no more often than they may check them.
        if let Some(user) = user
            && shared.checks.take(&shared, &user, &fetch.provider).await.is_ok()
            && for_all(&shared, &fetch, true).await == Outcome::NeedsKey
        {
            own(&shared, user, fetch, key).await;
        }
        drop(in_flight);
    }
}

/// `by_user`: what was found a moment ago holds.
async fn for_all(shared: &Shared, fetch: &CatalogueFetch, by_user: bool) -> Outcome {
    let last = shared.first_syncs.lock().for_all.entry(fetch.provider.id).or_default().clone();
    let mut last = last.lock().await;
    if let Some((at, outcome)) = *last
        && by_user
        && at.elapsed() < PAUSE
    {
        return outcome;
    }
    let mut lease = shared.memory.lease("");
    let outcome = match catalogue::fetch(shared, fetch, &mut lease).await {
        Ok(fetched) => {
            shared.ledger.send(Task::Catalogue(Box::new(fetch.clone()), fetched));
            Outcome::Listed
        }
        Err(Error::NoKey { .. }) => Outcome::NeedsKey,
        Err(error) => {
            shared.ledger.send(Task::Log(format!("first sync failed: {error}")));
            Outcome::Failed
        }
    };
    *last = Some((Instant::now(), outcome));
    outcome
}

/// Fetches a user's own list; the key that is saved meanwhile has its turn after it, the last one alone.
async fn own(shared: &Shared, user: String, fetch: CatalogueFetch, key: SealedKey) {
    let place = (user, fetch.provider.id);
    {
        let mut state = shared.first_syncs.lock();
        if let Some(waiting) = state.own.get_mut(&place) {
            *waiting = Some(Box::new((fetch, key)));
            return;
        }
        state.own.insert(place.clone(), None);
    }
    let _place = Place { shared, place: &place };
    let mut next = Some(Box::new((fetch, key)));
    while let Some(boxed) = next {
        let (fetch, key) = *boxed;
        let mut lease = shared.memory.lease(&place.0);
        // A failure is in the user's key checks; everybody's log is not for it.
        if let Ok(fetched) = catalogue::list(shared, &fetch, Some(&key), &mut lease).await {
            shared.ledger.send(Task::UserModels(Box::new(UserModels {
                user_id: place.0.clone(),
                provider_id: fetch.provider.id,
                models: fetched.models,
            })));
        }
        next = shared.first_syncs.lock().own.get_mut(&place).and_then(Option::take);
    }
}

/// A user's place among those whose list is being fetched, given up when it is dropped.
struct Place<'a> {
    shared: &'a Shared,
    place: &'a (String, Uuid),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.first_syncs.lock().own.remove(self.place);
    }
}
