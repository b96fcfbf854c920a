//! The address guard where it counts: on the addresses that are really connected to.
//!
//! The client connects to what this resolver returns and to nothing else, so a name that
//! resolves differently a moment later (DNS rebinding) changes nothing.

use crate::core::address;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;

/// Resolves names with the system's resolver and drops every address that the guard refuses.
#[derive(Debug, Clone, Copy)]
pub struct GuardedResolver {
    /// For http without TLS.
    pub plain: bool,
    pub allow_private: bool,
}

/// Why a name was not connected to; found again in the chain of reqwest's errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub &'static str);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
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
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
