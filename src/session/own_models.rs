//! Syncing what a user is shown of the providers at which they have a key of their own.
//!
//! A list that everybody sees is fetched anew once an hour at the most, whoever asks; one that is the user's alone, as
//! often as they may have keys checked.

use crate::database::failed;
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::installed::Installed;
use crate::protocol::{Reply, Request, SealedKey};
use crate::routing::pg_uuid;
use crate::session::catalogue::described;
use crate::session::owner::{as_owner, installed};
use crate::session::provider::{self, ProviderRow};
use crate::session::raise::or_raise;
use crate::session::{gateways, identity, keys, link, writable};
use pgrx::pg_sys::{TEXTOID, UUIDOID};
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use std::collections::HashSet;
use uuid::Uuid;

const ACTION: &str = "sync models";

type SyncRow = (String, Option<i32>, Option<i32>, Option<i32>, Option<String>);

/// Brings what the caller is shown up to date, of one provider or of all at which they have a key. One that fails is a
/// row with its error.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
fn sync_own_models(
    p_provider: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(provider_name, String),
        name!(total, Option<i32>),
        name!(added, Option<i32>),
        name!(removed, Option<i32>),
        name!(error, Option<String>),
    ),
> {
    let rows = sync(p_provider);
    TableIterator::new(or_raise(rows))
}

fn sync(wanted: Option<&str>) -> Result<Vec<SyncRow>, Error> {
    let user = identity::acting_user(None, ACTION)?;
    writable::require(ACTION)?;
    gateways::require_own_configuration()?;
    let installed = installed()?;
    let providers = match wanted {
        Some(_) => vec![provider::find(&installed, wanted)?],
        None => provider::all(&installed)?,
    };
    let mut rows = Vec::new();
    for row in providers {
        let name = row.provider.name.clone();
        let Some(key) = keys::saved_key(&installed, &row.provider, Some(&user))? else {
            // Whoever names a provider is told that there is nothing to ask it with.
            match wanted {
                Some(_) => return Err(Error::NoKey { provider: name }),
                None => continue,
            }
        };
        rows.push(match one(&installed, row, &user, key) {
            Ok([total, added, removed]) => (name, Some(total), Some(added), Some(removed), None),
            Err(error) => (name, None, None, None, Some(described(&error))),
        });
    }
    Ok(rows)
}

/// How many models there are now, how many of them are new, and how many are gone.
fn one(
    installed: &Installed,
    row: ProviderRow,
    user: &str,
    key: SealedKey,
) -> Result<[i32; 3], Error> {
    let provider = row.provider.id;
    let before = listed(installed, user, provider)?;
    if row.is_fresh {
        return Ok([count(before.len()), 0, 0]);
    }
    let sync = keys::first_sync(installed, row, key)?;
    match link::exchange(&Request::SyncNow(Box::new(sync)))? {
        Reply::SyncNow(result) => result?,
        _ => return Err(link::unexpected()),
    }
    let after = listed(installed, user, provider)?;
    let added = after.difference(&before).count();
    let removed = before.difference(&after).count();
    Ok([count(after.len()), count(added), count(removed)])
}

fn count(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// Ids of the models that a user is shown of a provider, as of now.
fn listed(installed: &Installed, user: &str, provider: Uuid) -> Result<HashSet<String>, Error> {
    let sql = installed.sql(
        "SELECT m.model_id FROM @extschema@.aggregator_models AS m
         WHERE m.provider_id = $1 AND m.is_available
         UNION
         SELECT own.model_id FROM @extschema@.aggregator_user_models AS own
         WHERE own.provider_id = $1 AND own.user_id = $2",
    );
    as_owner(installed, || {
        Spi::connect(|client| {
            let plan = Plan::prepare(client, &sql, &[UUIDOID, TEXTOID])?;
            let rows = fresh::select(client, &plan, &[pg_uuid(provider).into(), user.into()])?;
            rows.iter().map(|row| required(row, 1)).collect::<spi::Result<HashSet<String>>>()
        })
    })
    .map_err(failed("read the models"))
}
