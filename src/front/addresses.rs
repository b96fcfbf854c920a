//! How much of the endpoint each other machine takes.

use crate::core::front::proxies::machine;
use http_body::{Body, Frame, SizeHint};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

/// Connections of one other machine at one time, or requests where a proxy asks for it.
pub const MOST_OF_ADDRESS: usize = 64;

/// How many connections and requests each other machine has.
#[derive(Default, Clone)]
pub struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Addresses {
    /// Counts one more of an address until the guard is dropped. `None`: it is one too many. This machine, and who is
    /// not known, may have any number.
    pub fn count(&self, address: Option<IpAddr>) -> Option<Counted> {
        let address = address.map(machine).filter(|address| !address.is_loopback());
        if let Some(address) = address {
            let mut counts = self.lock();
            let count = counts.entry(address).or_default();
            if *count >= MOST_OF_ADDRESS {
                return None;
            }
            *count += 1;
        }
        Some(Counted { counts: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One that is counted.
pub struct Counted {
    counts: Addresses,
    address: Option<IpAddr>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// A body that counts until all of it is written.
pub struct Counting<B> {
    body: B,
    _counted: Option<Counted>,
}

impl<B> Counting<B> {
    pub fn new(body: B, counted: Option<Counted>) -> Self {
        Self { body, _counted: counted }
    }
}

impl<B: Body + Unpin> Body for Counting<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_does_not_take_every_place() {
        let addresses = Addresses::default();
        let of = |text: &str| Some(text.parse().unwrap());
        let mut held: Vec<_> =
            (0..MOST_OF_ADDRESS).map(|_| addresses.count(of("192.0.2.1")).unwrap()).collect();
        assert!(addresses.count(of("192.0.2.1")).is_none());
        assert!(addresses.count(of("192.0.2.2")).is_some());
        assert!(addresses.count(None).is_some());
        held.pop();
        assert!(addresses.count(of("192.0.2.1")).is_some());
        held.clear();
        // Nor does one with a network of its own.
        let one_of = |number: usize| of(&format!("2001:db8::{number:x}"));
        held.extend((0..MOST_OF_ADDRESS).map(|number| addresses.count(one_of(number)).unwrap()));
        assert!(addresses.count(of("2001:db8::ffff")).is_none());
        assert!(addresses.count(of("2001:db8:0:1::1")).is_some());
        held.clear();
        // This machine's programs are not strangers.
        held.extend((0..MOST_OF_ADDRESS).map(|_| addresses.count(of("127.0.0.1")).unwrap()));
        assert!(addresses.count(of("127.0.0.1")).is_some());
        held.extend((0..MOST_OF_ADDRESS).map(|_| addresses.count(of("::1")).unwrap()));
        assert!(addresses.count(of("::1")).is_some());
        held.clear();
        assert!(addresses.lock().is_empty());
    }
}
