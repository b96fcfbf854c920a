//! Which first syncs are on their way, and what the last one of each provider came to.

use crate::error::Error;
use crate::protocol::{CatalogueFetch, SealedKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

/// Of each provider: the last sync for everybody, locked while one is on its way.
pub type LastSync = Arc<tokio::sync::Mutex<Option<(Instant, Outcome)>>>;

#[derive(Default)]
pub struct FirstSyncs(Mutex<State>);

#[derive(Default)]
pub struct State {
    pub for_all: HashMap<Uuid, LastSync>,
    /// Users whose list is being fetched, and the key that was saved meanwhile.
    pub own: HashMap<(String, Uuid), Option<Own>>,
}

/// A user's list that is to be fetched.
pub type Own = Box<(CatalogueFetch, SealedKey)>;

#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is stored.
    Listed,
    NeedsKey,
    Failed(Error),
}

impl FirstSyncs {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A user's place among those whose list is being fetched, given up when it is dropped.
pub struct Place<'a> {
    pub syncs: &'a FirstSyncs,
    pub place: &'a (String, Uuid),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.syncs.lock().own.remove(self.place);
    }
}
