//! Syncing model catalogues: fetch all of them first, then store; no lock is held meanwhile.

use crate::columns;
use crate::core::catalogue::Dialect;
use crate::database::failed;
use crate::error::Error;
use crate::installed::Installed;
use crate::protocol::{CatalogueFetch, Fetched, Reply, Request};
use crate::routing::pg_uuid;
use crate::session::owner::{as_owner, installed};
use crate::session::provider::{self, ProviderRow};
use crate::session::raise::or_raise;
use crate::session::{gateways, identity, keys, link};
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use std::time::Instant;

type SyncRow = (
    String,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<String>,
    i64,
    Vec<String>,
);

/// Brings the catalogue up to date, of one provider or of all. A provider that fails is a row
/// with its error.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
fn sync_models(
    p_provider: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(provider_name, String),
        name!(total, Option<i32>),
        name!(added, Option<i32>),
        name!(updated, Option<i32>),
        name!(removed, Option<i32>),
        name!(unchanged, Option<i32>),
        name!(error, Option<String>),
        name!(duration_ms, i64),
        name!(warnings, Vec<String>),
    ),
> {
    let rows = sync(p_provider);
    TableIterator::new(or_raise(rows))
}

fn sync(wanted: Option<&str>) -> Result<Vec<SyncRow>, Error> {
    identity::require_admin("sync models")?;
    gateways::require_own_configuration()?;
    let installed = installed()?;
    let providers = match wanted {
        Some(_) => vec![provider::find(&installed, wanted)?],
        None => provider::all(&installed)?,
    };
    let started = Instant::now();
    let mut fetches = Vec::new();
    for row in &providers {
        fetches.push(fetch_of(&installed, row)?);
    }
    let Reply::Catalogues(results) = link::exchange(&Request::Catalogues(fetches))? else {
        return Err(link::unexpected());
    };
    let fetched_ms = started.elapsed().as_millis() as i64;
    let mut rows = Vec::new();
    for (row, result) in providers.into_iter().zip(results) {
        let started = Instant::now();
        let name = row.provider.name.clone();
        let stored = result.and_then(|fetched| {
            store(&installed, &row, &fetched).map(|counts| (counts, fetched.warnings))
        });
        let took = fetched_ms + started.elapsed().as_millis() as i64;
        rows.push(match stored {
            Ok(([total, added, updated, removed, unchanged], warnings)) => {
                (name, total, added, updated, removed, unchanged, None, took, warnings)
            }
            Err(error) => {
                (name, None, None, None, None, None, Some(described(&error)), took, Vec::new())
            }
        });
    }
    Ok(rows)
}

/// With what the provider says, and what can be done about it.
pub fn described(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{}. {hint}", error.in_full()),
        None => error.in_full(),
    }
}

fn fetch_of(installed: &Installed, row: &ProviderRow) -> Result<CatalogueFetch, Error> {
    Ok(CatalogueFetch {
        provider: row.provider.clone(),
        models_url: row.models_url.clone(),
        dialect: Dialect::parse(&row.catalogue_format),
        price_unit: row.price_unit,
        platform_key: keys::saved_key(installed, &row.provider, None)?,
    })
}

fn store(
    installed: &Installed,
    row: &ProviderRow,
    fetched: &Fetched,
) -> Result<[Option<i32>; 5], Error> {
    for warning in &fetched.warnings {
        pgrx::warning!("provider '{}': {warning}", row.provider.name);
    }
    let sql = installed.sql(
        "SELECT s.total, s.added, s.updated, s.removed, s.unchanged
         FROM @extschema@.aggregator_store_catalogue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS s",
    );
    as_owner(installed, || {
        Spi::connect_mut(|client| {
            let provider = [pg_uuid(row.provider.id).into(), fetched.is_inferred.into()];
            let arguments: Vec<_> =
                provider.into_iter().chain(columns::arguments(&fetched.models)).collect();
            let counts = client.update(sql.as_str(), Some(1), &arguments)?.first();
            let mut out = [None; 5];
            for (i, slot) in out.iter_mut().enumerate() {
                *slot = counts.get::<i32>(i + 1)?;
            }
            Ok::<_, spi::Error>(out)
        })
    })
    .map_err(failed("store the models"))
}
