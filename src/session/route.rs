//! Which provider, model and key a call takes.

use crate::core::budget::Rules;
use crate::core::options::Prepared;
use crate::error::Error;
use crate::installed::Installed;
use crate::protocol::{Candidate, Whose};
use crate::routing::{self, Route, pg_uuid};
use crate::session::identity;
use crate::session::json::JsonText;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use pgrx::prelude::*;
use pgrx::spi::Spi;

/// The route that a call would take first.
#[pg_extern(stable)]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
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
        identity::acting(p_user_id, "see the providers of another user").and_then(|whose| {
            match p_model {
                Some(model) => first_route(&installed()?, model, &whose, None),
                None => Ok(None),
            }
        });
    let route = or_raise(route);
    TableIterator::new(route.into_iter().map(|route| {
        let Route { provider_type, api_standard, is_platform_key, candidate } = route;
        (
            pg_uuid(candidate.provider.id),
            candidate.provider.name,
            provider_type,
            api_standard,
            candidate.provider.base_url,
            candidate.model_id,
            pg_uuid(candidate.user_provider_id),
            // Nobody reads a platform's key, not even sealed.
            Some(candidate.key.envelope).filter(|_| !is_platform_key),
            candidate.pricing.map(JsonText),
        )
    }))
}

/// The model and the prices of the route that a call of the caller would take first; no row for one who
/// may not call.
#[pg_extern(stable)]
fn aggregator_route(
    p_model: Option<&str>,
    p_provider: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(provider_id, pgrx::Uuid),
        name!(model_id, String),
        name!(pricing, Option<JsonText>),
        name!(max_output_tokens, Option<i32>),
    ),
> {
    let route = match p_model.zip(identity::acting(None, "call").ok()) {
        Some((model, whose)) => {
            installed().and_then(|installed| first_route(&installed, model, &whose, p_provider))
        }
        None => Ok(None),
    };
    let route = or_raise(route);
    TableIterator::new(route.into_iter().map(|Route { candidate, .. }| {
        let pricing = candidate.pricing.map(JsonText);
        (pg_uuid(candidate.provider.id), candidate.model_id, pricing, candidate.max_output_tokens)
    }))
}

fn first_route(
    installed: &Installed,
    model: &str,
    whose: &Whose,
    provider: Option<&str>,
) -> Result<Option<Route>, Error> {
    as_owner(installed, || {
        Spi::connect(|client| routing::routes(client, installed, model, &whose.user, provider))
    })
    .map(|routes| routes.into_iter().find(|route| whose.may_ask(None, &route.candidate)))
}

/// Who may serve a request, best first, and the rules that it has to keep.
pub fn candidates(
    installed: &Installed,
    prepared: &Prepared,
    whose: &Whose,
    provider: Option<&str>,
) -> Result<(Vec<Candidate>, Rules), Error> {
    let models: Vec<&str> = prepared.models().collect();
    let user = whose.user.as_str();
    as_owner(installed, || {
        Spi::connect(|client| {
            let may_ask = |candidate: &Candidate| whose.may_ask(None, candidate);
            let found = routing::candidates(client, installed, &models, user, provider, may_ask)?;
            if found.is_empty() {
                return Err(routing::nobody(client, installed, &models, whose, provider));
            }
            Ok((found, routing::rules(client, installed, user, None)?))
        })
    })
}
