//! What is counted of requests.

use crate::gateway::watchdog::Watchdog;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    pub fn enter(self: &Arc<Self>) -> InFlight {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.watchdog.wake();
        }
        InFlight(self.clone())
    }

    /// Watches the thread that it runs on.
    pub async fn watch(&self) {
        self.watchdog.watch(|| self.in_flight.load(Ordering::Relaxed) > 0).await;
    }

    /// The longest that the thread was held lately, in milliseconds.
    pub fn worst_stall_ms(&self) -> u64 {
        self.watchdog.worst_ms()
    }
}

/// A request in flight.
pub struct InFlight(Arc<Stats>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.served.fetch_add(1, Ordering::Relaxed);
    }
}
