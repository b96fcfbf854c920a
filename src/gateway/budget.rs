//! The bound on the memory of all calls in flight.

use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that calls hold, and the most they may.
#[derive(Debug, Default)]
pub struct Memory {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl Memory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
    }

    /// A reload may change the limit; what is held stays held.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A lease that holds nothing yet.
    pub fn lease(self: &Arc<Self>) -> Lease {
        Lease { memory: self.clone(), held: 0 }
    }
}

/// What one call holds; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    memory: Arc<Memory>,
    held: usize,
}

impl Lease {
    /// Takes more, or fails at once.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let limit = self.memory.limit.load(Ordering::Relaxed);
        self.memory
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .map_err(|_| Error::OutOfMemory { limit: limit as u64 })?;
        self.held += bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_add_up_and_come_back() {
        let memory = Memory::new(100);
        let mut a = memory.lease();
        a.grow(60).unwrap();
        let mut b = memory.lease();
        assert_eq!(b.grow(50).unwrap_err().sqlstate(), "PT503");
        b.grow(40).unwrap();
        drop(a);
        b.grow(60).unwrap();
        assert!(b.grow(usize::MAX).is_err());
    }
}
