//! What holds now for a call that has waited since it was resolved.

use crate::error::Error;
use crate::gateway::ledger::Renewed;
use crate::protocol::Known;
use crate::routing;
use crate::worker::process::{self, Failure};
use pgrx::spi::Spi;
use std::sync::Arc;

/// Answers the gateway. What cannot be read refuses the call.
pub fn find(known: &Known) -> Result<Renewed, Error> {
    let found = process::transaction(|installed| {
        Spi::connect(|client| {
            let candidate = match routing::again(client, installed, known) {
                Ok(candidate) => candidate,
                Err(error) => return Ok(Err(error)),
            };
            let rules = routing::rules(client, installed, &known.user_id);
            Ok(rules.map(|rules| Renewed {
                rules: Arc::new(rules),
                candidate: candidate.map(Arc::new),
            }))
        })
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
