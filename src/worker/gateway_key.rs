//! Whose a gateway key is that a program shows over HTTP.
#![allow(dead_code)] // Until the listener asks.

use crate::core::front::gateway_key::KeyHash;
use crate::error::Error;
use crate::gateway_keys::{self, By, GatewayKey};
use crate::worker::process::{self, Failure};
use pgrx::spi::Spi;

/// The key, if it passes now. The answer holds until the generation of the routes changes
/// (`route_cache::generation`), or its own time is over.
pub fn find(hash: KeyHash) -> Result<Option<GatewayKey>, Error> {
    let found = process::transaction(|installed| {
        Spi::connect(|client| Ok(gateway_keys::find(client, installed, By::Hash(hash))))
    });
    match found {
        Ok(found) => found,
        Err(Failure::NotInstalled) => {
            Err(Error::Ledger { reason: "the extension was dropped".to_owned() })
        }
        Err(Failure::Database(cause) | Failure::Data(cause)) => {
            Err(Error::Ledger { reason: cause.to_string() })
        }
    }
}
