//! The asynchronous side of the worker: one thread that serves sessions and talks to providers.
//! It never touches PostgreSQL; what must be written goes to the main thread as a
//! [`ledger::Task`].

mod admission;
mod attempt;
mod batch;
mod body;
mod call;
mod catalogue;
mod checks;
mod connection;
mod departure;
mod first_sync;
pub mod forgotten;
mod heavy;
mod hidden;
mod http;
mod jobs;
mod keys;
pub mod ledger;
mod memory;
mod renewal;
mod resolver;
mod row;
mod server;
mod spending;
mod watchdog;

pub use server::{Gateway, Handle};

use crate::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use watchdog::Watchdog;

/// A task of the gateway panicked. Its words may hold anything that it was about; where it was is in the
/// server log.
fn panicked() -> Error {
    Error::internal("a part of it panicked")
}

/// The settings that the gateway obeys, as of the last reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Wait for the pending row to be on disk before the request leaves.
    pub ledger_sync: bool,
    /// Bytes of one request.
    pub max_request_size: usize,
    /// Bytes of one answer.
    pub max_response_size: usize,
    /// Bytes of all calls in flight.
    pub max_memory: usize,
    pub allow_private_networks: bool,
    pub keyring_file: PathBuf,
    /// Silence of an upstream, once its stream has begun, after which it counts as stalled.
    pub stream_idle_timeout: Duration,
    /// Whether answers that are wanted whole are asked for as streams.
    pub stream_upstream: bool,
    pub limits: Limits,
    /// Of one user at one provider.
    pub key_checks_per_minute: i64,
}

/// Chat requests at providers at one time; past a limit they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub all: usize,
    pub per_user: usize,
    pub per_key: usize,
}

/// Counters that the main thread reads.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests accepted and not yet answered.
    pub in_flight: AtomicU64,
    /// Requests answered.
    pub served: AtomicU64,
    watchdog: Watchdog,
}

impl Stats {
    /// Counts a request as in flight for as long as the returned guard lives.
    fn enter(self: &std::sync::Arc<Self>) -> InFlight {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.watchdog.wake();
        }
        InFlight(self.clone())
    }
}

struct InFlight(std::sync::Arc<Stats>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.served.fetch_add(1, Ordering::Relaxed);
    }
}
