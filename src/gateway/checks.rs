//! How many keys a user may have checked at a provider in a minute: whoever could try thousands would find one.
//! The rows of the last minute are read when a user comes first in this life of the worker, so that its end
//! forgets nothing.

use crate::clock::unix_micros;
use crate::core::rate::{MINUTE, Taken};
use crate::error::Error;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::Task;
use crate::protocol::Provider;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Counts past which those that are free again are forgotten.
const MANY: usize = 10_000;

#[derive(Default)]
pub struct Checks {
    taken: Mutex<HashMap<(String, Uuid), Taken>>,
    /// Held while a count is read, so that it is read once.
    reading: tokio::sync::Mutex<()>,
}

impl Checks {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Uuid), Taken>> {
        self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes one of the `most` checks of a user's, or says how long it is too early.
    pub async fn take(
        &self,
        ledger: &Ledger,
        most: i64,
        user: &str,
        provider: &Provider,
    ) -> Result<(), Error> {
        let key = (user.to_owned(), provider.id);
        self.read(ledger, &key, most).await?;
        let taken = self.lock().entry(key).or_default().take(1, most, unix_micros());
        taken.map_err(|too_early| Error::RateLimited {
            target: provider.target(""),
            limit: format!("{most} key checks"),
            wait_ms: u64::try_from(too_early).map_or(0, |wait| wait.div_ceil(1000)),
        })
    }

    /// Nothing was sent after all.
    pub fn give_back(&self, most: i64, user: &str, provider: &Provider) {
        if let Some(taken) = self.lock().get_mut(&(user.to_owned(), provider.id)) {
            taken.correct(-1, most);
        }
    }

    async fn read(&self, ledger: &Ledger, key: &(String, Uuid), most: i64) -> Result<(), Error> {
        if self.lock().contains_key(key) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if self.lock().contains_key(key) {
            return Ok(());
        }
        let (reply, read) = oneshot::channel();
        let now = unix_micros();
        let (user, provider) = key.clone();
        ledger.send(Task::RecentChecks { user, provider, since: now - MINUTE, reply });
        let times = match read.await {
            Ok(Ok(times)) => times,
            Ok(Err(reason)) => return Err(Error::Ledger { reason }),
            Err(_) => return Err(Error::stopping()),
        };
        let mut taken = Taken::default();
        for at in times {
            taken.note(1, most, at);
        }
        let mut all = self.lock();
        if all.len() > MANY {
            all.retain(|_, taken| !taken.is_free(now));
        }
        all.insert(key.clone(), taken);
        Ok(())
    }
}
