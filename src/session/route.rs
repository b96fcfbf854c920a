//! Which provider, model and key a call takes.

use crate::error::Error;
use crate::installed::Installed;
use crate::session::identity;
use crate::session::json::JsonText;
use crate::session::owner::{as_owner, installed};
use crate::session::provider::{self, pg_uuid, uuid};
use crate::session::raise::or_raise;
use pgrx::PgOid;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, Spi, SpiHeapTupleData};
use std::cell::RefCell;
use uuid::Uuid;

/// The route that a call would take first.
#[pg_extern(stable)]
#[allow(clippy::type_complexity)]
fn get_model_provider_config(
    p_model: Option<&str>,
    p_user_id: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(provider_id, pgrx::Uuid),
        name!(provider_name, String),
        name!(provider_type, String),
        name!(api_standard, String),
        name!(base_url, String),
        name!(model_id, String),
        name!(user_provider_id, pgrx::Uuid),
        name!(api_key_encrypted, Option<Vec<u8>>),
        name!(pricing, Option<JsonText>),
    ),
> {
    let route =
        identity::acting_user(p_user_id, "see the providers of another user").and_then(|user| {
            match p_model {
                Some(model) => first_route(&installed()?, model, &user, None),
                None => Ok(None),
            }
        });
    let route = or_raise(route);
    TableIterator::new(route.into_iter().map(|route| {
        (
            pg_uuid(route.provider_id),
            route.provider_name,
            route.provider_type,
            route.api_standard,
            route.base_url,
            route.model_id,
            pg_uuid(route.user_provider_id),
            // Nobody reads a platform's key, not even sealed.
            Some(route.envelope).filter(|_| !route.is_platform_key),
            route.pricing.map(JsonText),
        )
    }))
}

/// One row of `aggregator_routes`.
pub struct Route {
    pub provider_id: Uuid,
    pub provider_name: String,
    pub provider_type: String,
    pub api_standard: String,
    pub base_url: String,
    pub headers: String,
    pub model_id: String,
    pub user_provider_id: Uuid,
    pub is_platform_key: bool,
    pub envelope: Vec<u8>,
    pub pricing: Option<String>,
}

impl Route {
    fn read(row: &SpiHeapTupleData) -> spi::Result<Self> {
        Ok(Self {
            provider_id: uuid(row.get(1)?),
            provider_name: row.get(2)?.unwrap_or_default(),
            provider_type: row.get(3)?.unwrap_or_default(),
            api_standard: row.get(4)?.unwrap_or_default(),
            base_url: row.get(5)?.unwrap_or_default(),
            headers: row.get(6)?.unwrap_or_default(),
            model_id: row.get(7)?.unwrap_or_default(),
            user_provider_id: uuid(row.get(8)?),
            is_platform_key: row.get(9)?.unwrap_or_default(),
            envelope: row.get(10)?.unwrap_or_default(),
            pricing: row.get(11)?,
        })
    }
}

const ROUTES: &str = "
    SELECT r.provider_id, r.provider_name, r.provider_type, r.api_standard, r.base_url,
        r.headers::text, r.model_id, r.user_provider_id, r.is_platform_key, r.api_key_encrypted,
        r.pricing::text
    FROM @extschema@.aggregator_routes($1, $2, $3) AS r
    LIMIT 1";

thread_local! {
    /// The plan of ROUTES, for the installation that it was made for.
    static PLAN: RefCell<Option<(pg_sys::Oid, OwnedPreparedStatement)>> = const { RefCell::new(None) };
}

/// The best route of a user for a model.
pub fn first_route(
    installed: &Installed,
    model: &str,
    user: &str,
    provider: Option<&str>,
) -> Result<Option<Route>, Error> {
    let routes = as_owner(installed, || {
        Spi::connect(|client| {
            PLAN.with_borrow_mut(|plan| {
                if plan.as_ref().is_none_or(|(oid, _)| *oid != installed.oid) {
                    let text = [PgOid::from(pg_sys::TEXTOID); 3];
                    let fresh = client.prepare(installed.sql(ROUTES).as_str(), &text)?.keep();
                    *plan = Some((installed.oid, fresh));
                }
                let (_, plan) = plan.as_ref().expect("it was just made");
                let found =
                    client.select(plan, Some(1), &[model.into(), user.into(), provider.into()])?;
                found.map(|row| Route::read(&row)).collect::<spi::Result<Vec<_>>>()
            })
        })
    });
    Ok(routes.map_err(|_| Error::Internal)?.into_iter().next())
}

/// Why there is no route: no such provider, no such model, or no key for it.
pub fn no_route(installed: &Installed, model: &str, provider: Option<&str>) -> Error {
    if let Some(wanted) = provider {
        return match provider::find(installed, Some(wanted)) {
            Ok(row) => Error::NoKey { provider: row.provider.name },
            Err(error) => error,
        };
    }
    if let Some((prefix, _)) = model.split_once(':')
        && let Ok(row) = provider::find(installed, Some(prefix))
        && row.provider.name == prefix
    {
        return Error::NoKey { provider: row.provider.name };
    }
    let sql = installed.sql(
        "SELECT p.name, m.model_id, m.model_id = $1 OR m.model_name = $1
         FROM @extschema@.aggregator_models AS m
         JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
         WHERE m.is_available AND p.is_active
         ORDER BY 3 DESC, p.name, m.model_id
         LIMIT 20000",
    );
    let rows = as_owner(installed, || {
        Spi::connect(|client| {
            client
                .select(sql.as_str(), None, &[model.into()])?
                .map(|row| {
                    Ok((
                        row.get::<String>(1)?.unwrap_or_default(),
                        row.get::<String>(2)?.unwrap_or_default(),
                        row.get::<bool>(3)?.unwrap_or_default(),
                    ))
                })
                .collect::<spi::Result<Vec<_>>>()
        })
    })
    .unwrap_or_default();
    let mut providers: Vec<String> =
        rows.iter().filter(|(.., matches)| *matches).map(|(name, ..)| name.clone()).collect();
    providers.dedup();
    if !providers.is_empty() {
        return Error::NoKeyForModel { model: model.to_owned(), providers };
    }
    let mut scored: Vec<(f64, &str)> = rows
        .iter()
        .map(|(_, id, _)| {
            let name = id.rsplit('/').next().unwrap_or(id);
            (strsim::jaro_winkler(name, model).max(strsim::jaro_winkler(id, model)), id.as_str())
        })
        .filter(|(score, _)| *score > 0.85)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut similar: Vec<String> = scored.into_iter().map(|(_, id)| id.to_owned()).collect();
    similar.dedup();
    similar.truncate(2);
    Error::UnknownModel { model: model.to_owned(), similar }
}
