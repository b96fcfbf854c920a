//! What a call was resolved with, read again where it has waited since: for its turn, after a pause
//! between attempts, in a batch or among jobs. Budgets, limits, keys and providers are then those of
//! now, and not those of when the call began to wait.

use crate::clock::unix_micros;
use crate::error::Error;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{Renewed, Task};
use crate::protocol::{Candidate, ChatCall, Known};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// How old knowledge may be when a request is sent: microseconds.
const FRESH: i64 = 250_000;
/// Places past which those that nobody uses are forgotten.
const MANY: usize = 1024;

/// What was read again a moment ago: many calls of a batch ask for the same.
#[derive(Default)]
pub struct Renewals(Mutex<HashMap<Known, Arc<Place>>>);

/// Held while it is being read: others wait for that instead of asking as well.
#[derive(Default)]
struct Place(tokio::sync::Mutex<Option<(i64, Renewed)>>);

impl Renewals {
    fn lock(&self) -> MutexGuard<'_, HashMap<Known, Arc<Place>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What holds now, if what the call was resolved with is too old. `None`: it holds still.
    pub async fn renew(
        &self,
        ledger: &Ledger,
        call: &ChatCall,
        candidate: &Candidate,
    ) -> Result<Option<Renewed>, Error> {
        if is_fresh(call.resolved_at) {
            return Ok(None);
        }
        let known = Known {
            user_id: call.user_id.clone(),
            provider_id: candidate.provider.id,
            user_provider_id: candidate.user_provider_id,
            model_id: candidate.model_id.clone(),
            gateway_key: call.labels.as_ref().and_then(|labels| labels.gateway_key),
        };
        let place = self.place(&known);
        let mut place = place.0.lock().await;
        if let Some((at, renewed)) = &*place
            && is_fresh(*at)
        {
            return Ok(Some(renewed.clone()));
        }
        *place = None;
        let at = unix_micros();
        let renewed = ledger.ask(|reply| Task::Renew(known, reply)).await??;
        *place = Some((at, renewed.clone()));
        Ok(Some(renewed))
    }

    fn place(&self, known: &Known) -> Arc<Place> {
        let mut places = self.lock();
        if places.len() >= MANY && !places.contains_key(known) {
            // Nobody waits for those that only the table holds.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(known.clone()).or_default().clone()
    }
}

/// A clock that was set back makes old what came before.
fn is_fresh(at: i64) -> bool {
    (0..FRESH).contains(&unix_micros().saturating_sub(at))
}
