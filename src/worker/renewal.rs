//! What holds now for a call that has waited since it was resolved.

use crate::error::Error;
use crate::gateway::task::Renewed;
use crate::gateway_keys;
use crate::installed::Installed;
use crate::protocol::{Known, Whose};
use crate::routing;
use crate::worker::process::{self, Failure};
use pgrx::spi::{Spi, SpiClient};
use std::sync::Arc;

/// Answers the gateway. What cannot be read refuses the call.
pub fn find(known: &Known) -> Result<Renewed, Error> {
    let found = process::transaction(|installed| {
        Spi::connect(|client| Ok(as_of_now(client, installed, known)))
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

fn as_of_now(
    client: &SpiClient<'_>,
    installed: &Installed,
    known: &Known,
) -> Result<Renewed, Error> {
    let key = gateway_keys::require(client, installed, known.gateway_key)?;
    let whose = Whose::of(known.user_id.as_str(), known.gateway_key);
    let candidate = routing::again(client, installed, known)?
        .filter(|candidate| whose.may_ask(key.as_ref(), candidate));
    let rules = routing::rules(client, installed, &known.user_id, known.gateway_key)?;
    Ok(Renewed { rules: Arc::new(rules), candidate: candidate.map(Arc::new) })
}
