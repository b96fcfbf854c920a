//! What all calls share.

use crate::error::Error;
use crate::gateway::admission::Admission;
use crate::gateway::cache::Cache;
use crate::gateway::checking::Schemas;
use crate::gateway::checks::Checks;
use crate::gateway::clerks::Clerks;
use crate::gateway::clients::Clients;
use crate::gateway::columns::Columns;
use crate::gateway::delivery::Delivery;
use crate::gateway::forgotten::Forgotten;
use crate::gateway::health::SharedHealth;
use crate::gateway::heavy::Heavy;
use crate::gateway::hidden::Excesses;
use crate::gateway::hub::{Hub, Lender};
use crate::gateway::keys::Keys;
use crate::gateway::ledger::Ledger;
use crate::gateway::listening::Listening;
use crate::gateway::memory::Memory;
use crate::gateway::renewal::Renewals;
use crate::gateway::running::Jobs;
use crate::gateway::settings::Settings;
use crate::gateway::spending::Spending;
use crate::gateway::stats::Stats;
use crate::gateway::syncing::FirstSyncs;
use crate::protocol::Status;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// What every call needs.
pub struct Shared {
    pub(super) settings: Mutex<Arc<Settings>>,
    pub(super) clients: Mutex<Arc<Clients>>,
    pub keys: Keys,
    pub ledger: Ledger,
    /// For what may wait a few milliseconds.
    pub(super) unhurried: Ledger,
    pub admission: Arc<Admission>,
    pub health: SharedHealth,
    pub spending: Arc<Spending>,
    pub hub: Hub,
    pub excesses: Arc<Excesses>,
    pub renewals: Renewals,
    pub cache: Cache,
    pub jobs: Jobs,
    pub columns: Arc<Columns>,
    pub checks: Checks,
    pub first_syncs: FirstSyncs,
    pub clerks: Arc<Clerks>,
    pub forgotten: Forgotten,
    pub memory: Arc<Memory>,
    pub heavy: Heavy,
    /// Where answers are checked against schemas: how long that takes is up to whoever wrote the schema.
    pub schemas: Schemas,
    pub stats: Arc<Stats>,
    pub listening: Listening,
    /// Of routes and callers, as the main thread knows it.
    pub(super) generation: &'static AtomicU64,
    /// Tells of each reload.
    pub reloads: watch::Sender<()>,
    /// Whether the gateway ends.
    pub stopping: watch::Sender<bool>,
    pub(super) extension: u32,
    pub(super) epoch: i64,
    pub(super) pid: u32,
    pub(super) started_at: i64,
}

impl Shared {
    /// The settings as of the last reload.
    pub fn settings(&self) -> Arc<Settings> {
        locked(&self.settings).clone()
    }

    /// Of which generation routes and callers are, as far as the main thread has looked.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// This life of the worker.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The HTTP clients for these settings.
    pub fn clients(&self, settings: &Settings) -> Result<Arc<Clients>, Error> {
        let mut clients = locked(&self.clients);
        if !clients.fit(settings) {
            *clients = Arc::new(Clients::new(settings).map_err(Error::internal)?);
        }
        Ok(clients.clone())
    }

    /// What leases of the hub are asked for with.
    pub fn lender<'a>(&'a self, settings: &'a Settings) -> Lender<'a> {
        let Self { hub, keys, memory, ledger, .. } = self;
        Lender { hub, keys, memory, ledger, settings }
    }

    /// How soon the rows of an attempt are written: of many jobs, together.
    pub fn ledger_for(&self, delivery: Delivery<'_>) -> &Ledger {
        match delivery {
            Delivery::Job if self.jobs.are_many() => &self.unhurried,
            _ => &self.ledger,
        }
    }

    pub(super) fn reload(&self, settings: Settings) {
        self.memory.set_limit(settings.max_memory);
        self.admission.set_limits(settings.limits);
        *locked(&self.settings) = Arc::new(settings);
        self.reloads.send_replace(());
    }

    pub fn status(&self) -> Status {
        let (http_address, http_error) = self.listening.tell();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: self.pid,
            started_at: self.started_at,
            // This very request does not count.
            in_flight: self.stats.in_flight.load(Ordering::Relaxed).saturating_sub(1),
            served: self.stats.served.load(Ordering::Relaxed),
            ledger_queue: self.ledger.queued(),
            waiting: self.admission.waiting() as u64,
            stall_ms: self.stats.worst_stall_ms(),
            http_address,
            http_error,
            clerks: self.clerks.count() as u64,
        }
    }
}

/// Waits until it is so.
pub async fn until_true(state: &mut watch::Receiver<bool>) {
    let _ = state.wait_for(|is_so| *is_so).await;
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
