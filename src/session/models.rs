//! Names of models for SQL, and the models for which the platform's key pays.

use crate::core::model;
use crate::database::failed;
use crate::error::Error;
use crate::routing::pg_uuid;
use crate::session::owner::{as_owner, installed};
use crate::session::provider;
use crate::session::raise::or_raise;
use crate::session::{gateways, identity, writable};
use pgrx::prelude::*;
use pgrx::spi::Spi;

/// The list is in a key's settings, which are small.
const MOST_LISTED: usize = 100;
const MOST_BYTES: usize = 6_000;

/// Whether a rule about a model means this one. Declared in sql/budgets.sql.
#[pg_extern(sql = false)]
fn aggregator_is_model(rule: Option<&str>, model: Option<&str>) -> bool {
    match (rule, model) {
        (Some(rule), Some(model)) => model::is_meant(rule, model),
        // A rule about no model in particular is about all; what has none may be any.
        _ => true,
    }
}

/// Why a text is no name of a model. Declared in sql/budgets.sql.
#[pg_extern(sql = false)]
fn aggregator_model_problem(name: &str) -> Option<&'static str> {
    model::problem(name)
}

/// For which models of the catalogue the platform's key of a provider pays; NULL: for all of them.
#[pg_extern]
fn set_platform_models(p_provider: Option<&str>, p_models: Option<Vec<Option<String>>>) {
    let set = identity::require_admin("set the models of a platform key")
        .and_then(|()| writable::require("set the models of a platform key"))
        .and_then(|()| gateways::require_own_configuration())
        .and_then(|()| set(p_provider, p_models));
    or_raise(set)
}

fn set(wanted: Option<&str>, models: Option<Vec<Option<String>>>) -> Result<(), Error> {
    let models: Option<Vec<String>> = models
        .map(|models| models.into_iter().collect::<Option<_>>())
        .map(|models| models.ok_or_else(|| Error::bad_request("p_models must not hold NULL")))
        .transpose()?;
    for name in models.iter().flatten() {
        if let Some(problem) = model::problem(name) {
            return Err(Error::bad_request(format!("a name in p_models {problem}")));
        }
    }
    let bytes: usize = models.iter().flatten().map(String::len).sum();
    if models.as_ref().is_some_and(|models| models.len() > MOST_LISTED) || bytes > MOST_BYTES {
        let what = format!("p_models may hold {MOST_LISTED} names and {MOST_BYTES} bytes");
        return Err(Error::bad_request(what));
    }
    let installed = installed()?;
    let provider = provider::find(&installed, wanted)?.provider;
    let sql = installed.sql(
        "UPDATE @extschema@.user_api_providers AS k
         SET settings = CASE
                 WHEN $2 IS NULL THEN k.settings - 'models'::text
                 ELSE k.settings || jsonb_build_object('models', to_jsonb($2))
             END
         WHERE k.provider_id = $1 AND k.user_id IS NULL
         RETURNING k.id",
    );
    let is_there = as_owner(&installed, || {
        Spi::connect_mut(|client| {
            let arguments = [pg_uuid(provider.id).into(), models.into()];
            client.update(sql.as_str(), Some(1), &arguments).map(|rows| !rows.is_empty())
        })
    })
    .map_err(failed("set the models of a platform key"))?;
    if is_there { Ok(()) } else { Err(Error::NoKey { provider: provider.name }) }
}
