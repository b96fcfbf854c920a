//! The sync that a saved key sets off at a provider whose catalogue was never fetched, for which nobody waits, and the
//! one that a user asks for.
//!
//! What everybody sees is asked for with the platform's key, or with none; one at a time at each provider. Only
//! where that is refused is the list asked for with the user's key, and it is that user's alone.

use crate::error::Error;
use crate::gateway::catalogue;
use crate::gateway::shared::Shared;
use crate::gateway::syncing::{Last, Outcome, Place};
use crate::gateway::task::{Task, UserModels};
use crate::protocol::{CatalogueFetch, FirstSync, SealedKey};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use uuid::Uuid;

/// Begins at once to count as in flight, so that the worker stays for it.
pub fn run(shared: Arc<Shared>, sync: FirstSync) -> impl Future<Output = ()> {
    let in_flight = shared.stats.enter();
    async move {
        let FirstSync { fetch, own_key } = sync;
        match own_key {
            Some(key) => {
                if let Some(user) = key.binding.user_id.clone() {
                    let synced = pin!(async {
                        by_user(&shared, fetch, key).await;
                        Ok(())
                    });
                    let _ = shared.forgotten.guard(&user, Uuid::now_v7(), synced).await;
                }
            }
            None => {
                for_all(&shared, &fetch, false).await;
            }
        }
        drop(in_flight);
    }
}

/// A user asks for the list that they are shown, and waits until it is stored.
pub async fn now(shared: &Arc<Shared>, sync: FirstSync) -> Result<(), Error> {
    let FirstSync { fetch, own_key } = sync;
    let nobody = || Error::internal("a list is nobody's");
    let key = own_key.ok_or_else(nobody)?;
    let user = key.binding.user_id.clone().ok_or_else(nobody)?;
    let synced = pin!(async {
        match for_all(shared, &fetch, true).await {
            Outcome::Listed => Ok(()),
            Outcome::NeedsKey => own(shared, &user, &fetch, &key).await,
            Outcome::Failed(error) => Err(error),
        }
    });
    shared.forgotten.guard(&user, Uuid::now_v7(), synced).await
}

/// A user has saved a key. One sync at a time of each user: the key that is saved meanwhile has its turn after
/// it, the last one alone.
async fn by_user(shared: &Arc<Shared>, fetch: CatalogueFetch, key: SealedKey) {
    let Some(user) = key.binding.user_id.clone() else { return };
    let place = (user, fetch.provider.id);
    {
        let mut state = shared.first_syncs.lock();
        if let Some(waiting) = state.own.get_mut(&place) {
            *waiting = Some(Box::new((fetch, key)));
            return;
        }
        state.own.insert(place.clone(), None);
    }
    let _place = Place { syncs: &shared.first_syncs, place: &place };
    let mut next = Some(Box::new((fetch, key)));
    while let Some(boxed) = next {
        let (fetch, key) = *boxed;
        if let Outcome::NeedsKey = for_all(shared, &fetch, true).await {
            // It is in the user's key checks; everybody's log is not for it.
            let _ = own(shared, &place.0, &fetch, &key).await;
        }
        next = shared.first_syncs.lock().own.get_mut(&place).and_then(Option::take);
    }
}

/// Fetches the list that a user's key is shown, no more often than they may have keys checked.
async fn own(
    shared: &Shared,
    user: &str,
    fetch: &CatalogueFetch,
    key: &SealedKey,
) -> Result<(), Error> {
    let most = shared.settings().key_checks_per_minute;
    shared.checks.take(&shared.ledger, most, user, &fetch.provider).await?;
    let mut lease = shared.memory.lease(user);
    match catalogue::list(shared, fetch, Some(key), &mut lease).await {
        Ok(fetched) => {
            let models = UserModels {
                user_id: user.to_owned(),
                provider_id: fetch.provider.id,
                models: fetched.models,
            };
            let asked = |reply| Task::UserModels(Box::new(models), reply);
            stored(shared.ledger.ask(asked).await)
        }
        Err(error) => {
            if matches!(error, Error::AddressRefused { .. }) {
                shared.checks.give_back(most, user, &fetch.provider);
            }
            Err(error)
        }
    }
}

fn stored(answer: Result<bool, Error>) -> Result<(), Error> {
    let not = || Error::Ledger { reason: "the models could not be stored".to_owned() };
    answer?.then_some(()).ok_or_else(not)
}

/// `by_user`: what was found a moment ago holds, and a failure the longer the more there were. Once begun it goes on to
/// its end: whoever asks and goes away, again and again, has the provider asked once.
async fn for_all(shared: &Arc<Shared>, fetch: &CatalogueFetch, by_user: bool) -> Outcome {
    let last = shared.first_syncs.lock().for_all.entry(fetch.provider.id).or_default().clone();
    let mut last = last.lock_owned().await;
    if let Some(last) = &*last
        && by_user
        && last.holds(&fetch.models_url)
    {
        return last.outcome.clone();
    }
    let in_flight = shared.stats.enter();
    let (shared, fetch) = (shared.clone(), fetch.clone());
    let fetching = tokio::spawn(async move {
        let url = fetch.models_url.clone();
        let outcome = everybodys(&shared, fetch).await;
        *last = Some(Last::after(last.as_ref(), url, outcome.clone()));
        drop(in_flight);
        outcome
    });
    fetching.await.unwrap_or_else(|_| Outcome::Failed(Error::panicked()))
}

/// Fetches the list that everybody sees, and has it stored.
async fn everybodys(shared: &Shared, fetch: CatalogueFetch) -> Outcome {
    let mut lease = shared.memory.lease("");
    match catalogue::fetch(shared, &fetch, &mut lease).await {
        Ok(fetched) => {
            let asked = |reply| Task::Catalogue(Box::new(fetch), fetched, reply);
            stored(shared.ledger.ask(asked).await)
                .map_or_else(Outcome::Failed, |()| Outcome::Listed)
        }
        Err(Error::NoPlatformKey { .. }) => Outcome::NeedsKey,
        Err(error) => {
            shared.ledger.send(Task::Log(format!("first sync failed: {}", error.in_full())));
            Outcome::Failed(error)
        }
    }
}
