//! That a provider is there whose keys, models or prices are written. The foreign keys check nothing where a row
//! is written, because a restore copies tables in any order; see `sql/references.sql`.

use crate::database::{self, failed, no_row};
use crate::error::Error;
use crate::installed::Installed;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::{MissingReference, or_raise, raise_missing_reference};
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, Spi};
use std::cell::RefCell;

thread_local! {
    /// The look-up, for the schema that it was prepared for.
    static LOOK_UP: RefCell<Option<(String, OwnedPreparedStatement)>> = const { RefCell::new(None) };
}

/// Checks the row as a foreign key does: the provider is locked, so that it stays until the row is committed, and
/// it is looked for as the tables' owner, whom no policy hides it from.
#[pg_trigger(sql = false)]
fn aggregator_provider_is_there<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    if let Some(missing) = or_raise(check(trigger)) {
        raise_missing_reference(missing);
    }
    Ok(None)
}

const ACTION: &str = "look for the row's provider";

/// What is not there.
fn check(trigger: &PgTrigger) -> Result<Option<MissingReference>, Error> {
    let provider = provider(trigger).ok_or_else(|| no_row(ACTION))?;
    if is_there(provider)? {
        return Ok(None);
    }
    let unreadable = |error: PgTriggerError| database::error(ACTION, &error.to_string(), None);
    Ok(Some(MissingReference {
        schema: trigger.table_schema().map_err(unreadable)?,
        table: trigger.table_name().map_err(unreadable)?,
        column: "provider_id",
        value: provider.to_string(),
        referenced: "api_providers",
    }))
}

fn provider(trigger: &PgTrigger) -> Option<pgrx::Uuid> {
    trigger.new()?.get_by_name("provider_id").ok().flatten()
}

fn is_there(provider: pgrx::Uuid) -> Result<bool, Error> {
    let installed = installed()?;
    let found = as_owner(&installed, || {
        LOOK_UP.with_borrow_mut(|kept| {
            Spi::connect_mut(|client| {
                if kept.as_ref().is_none_or(|(schema, _)| *schema != installed.schema) {
                    *kept = Some((installed.schema.clone(), prepared(client, &installed)?));
                }
                let Some((_, look_up)) = kept else { return Ok(false) };
                Ok::<_, spi::Error>(
                    !client.update(&*look_up, Some(1), &[provider.into()])?.is_empty(),
                )
            })
        })
    });
    found.map_err(failed(ACTION))
}

fn prepared(
    client: &spi::SpiClient<'_>,
    installed: &Installed,
) -> spi::Result<OwnedPreparedStatement> {
    let sql = installed
        .sql("SELECT 1 FROM ONLY @extschema@.api_providers AS p WHERE p.id = $1 FOR KEY SHARE");
    Ok(client.prepare_mut(sql.as_str(), &[PgBuiltInOids::UUIDOID.oid()])?.keep())
}
