//! The address guard where it counts: on the addresses that are really connected to.
//!
//! The client connects to what this resolver returns and to nothing else, so a name that
//! resolves differently a moment later (DNS rebinding) changes nothing.

use crate::core::address;
use hyper_util::client::legacy::connect::dns::Name;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

/// Resolves names with the system's resolver and drops every address that the guard refuses.
#[derive(Debug, Clone, Copy)]
pub struct GuardedResolver {
    /// For http without TLS.
    pub plain: bool,
    pub allow_private: bool,
}

/// Why a name was not connected to; found again in the chain of the client's errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub &'static str);

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (mut allowed, mut reason) = (Vec::new(), "the name has no address");
            for address in found {
                match address::verdict(address.ip(), guard.plain, guard.allow_private) {
                    Ok(()) => allowed.push(address),
                    Err(why) => reason = why,
                }
            }
            if allowed.is_empty() {
                return Err(Refused(reason).into());
            }
            Ok(allowed.into_iter())
        })
    }
}
