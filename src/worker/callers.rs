//! What the main thread knows of those who call over HTTP: what a claimed role may do, whose a gateway key is, who
//! may serve them, and what they can call.
//!
//! No role is ever taken on: what it may do is asked about it, by the rules that hold in SQL.

use crate::core::front::gateway_key::{GatewayKey, KeyHash};
use crate::database::{self, failed};
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::gateway::task::{CallableModel, Found, RouteAsked, Routed, Vouched};
use crate::gateway_keys::{self, By};
use crate::installed::Installed;
use crate::protocol::Whose;
use crate::routing;
use crate::worker::process::{self, Failure};
use crate::{route_cache, settings};
use pgrx::pg_sys::{self, BOOLOID, OIDOID, Oid, TEXTARRAYOID, TEXTOID};
use pgrx::spi::{self, Spi, SpiClient};
use std::sync::Arc;

const CLAIMED_ROLE: &str = include_str!("../../sql/statements/claimed_role.sql");
/// That of a user: to execute the function that chats.
const TO_SPEND: &str = "has_function_privilege(r.oid, $5, 'EXECUTE')";
/// That of an administrator, by the type that marks them, or of a reader.
const TO_READ: &str = "(has_type_privilege(r.oid, $5, 'USAGE') OR has_type_privilege(r.oid, (
        SELECT t.oid FROM pg_type AS t WHERE t.typnamespace = $4 AND t.typname = 'aggregator_reader'), 'USAGE'))";
const CALLABLE_MODELS: &str = include_str!("../../sql/statements/callable_models.sql");

/// The function whose execution is the right to spend, in this very schema: one of the same name that somebody has
/// put there takes other arguments.
fn function(client: &SpiClient, installed: &Installed) -> spi::Result<Oid> {
    const SQL: &str = "
        SELECT p.oid FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = $1 AND p.proname = 'chat_completions'
          AND p.pronargs = 1 AND p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype";
    let found = client.select(SQL, Some(1), &[installed.namespace.into()])?;
    // Nobody may execute what is not there.
    Ok(found
        .map(|row| row.get::<Oid>(1))
        .next()
        .transpose()?
        .flatten()
        .unwrap_or(pg_sys::InvalidOid))
}

/// Begins to watch what the rights of callers depend on, in a transaction.
pub fn watch(client: &SpiClient, installed: &Installed) -> spi::Result<()> {
    let function = function(client, installed)?;
    route_cache::watch_rights(function, installed.authenticator_type, installed.admin_type);
    Ok(())
}

/// Whether a role may spend that an access token claims.
pub fn may_spend(role: &str) -> Result<Vouched, Error> {
    has_right(role, TO_SPEND, true, function)
}

/// What a role may do that was there itself when a session of the console or a gateway key was made.
pub fn may_act(role: &str) -> Result<Vouched, Error> {
    has_right(role, TO_SPEND, false, function)
}

/// Whether it may see what all users together do.
pub fn may_read(role: &str) -> Result<bool, Error> {
    let admin_type = |_: &SpiClient, installed: &Installed| Ok(installed.admin_type);
    has_right(role, TO_READ, true, admin_type).map(|vouched| vouched.may_spend)
}

/// `is_claimed`: it is in an access token, and somebody whose claims are believed must be able to become it.
fn has_right(
    role: &str,
    right: &str,
    is_claimed: bool,
    about: impl FnOnce(&SpiClient, &Installed) -> spi::Result<Oid>,
) -> Result<Vouched, Error> {
    let named = settings::trusted_authenticators();
    let named: Vec<String> = named
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let is_itself = if is_claimed { "false" } else { "true" };
    let sql = CLAIMED_ROLE.replace("{SET}", database::SET).replace("{RIGHT}", right);
    let sql = sql.replace("{IS_ITSELF}", is_itself);
    answer("see what a role may do", |installed| {
        let generation = route_cache::generation();
        let rights = Spi::connect(|client| -> spi::Result<_> {
            let arguments = [
                role.into(),
                (!named.is_empty()).then_some(named).into(),
                installed.authenticator_type.into(),
                installed.namespace.into(),
                about(client, installed)?.into(),
                installed.admin_type.into(),
            ];
            let types = [TEXTOID, TEXTARRAYOID, OIDOID, OIDOID, OIDOID, OIDOID];
            let plan = Plan::prepare(client, &sql, &types)?;
            // By a snapshot of now, and not of before the generation was read.
            let rows = fresh::select(client, &plan, &arguments)?;
            let Some(row) = rows.first() else { return Ok((None, None, None)) };
            Ok((row.get::<bool>(1)?, row.get::<bool>(2)?, row.get::<bool>(3)?))
        });
        let (may_spend, is_admin, is_reached) = rights.map_err(failed("see what a role may do"))?;
        let may_spend = may_spend == Some(true);
        Ok(Vouched {
            may_spend,
            is_admin: may_spend && is_admin == Some(true),
            is_reached: is_reached == Some(true),
            generation,
        })
    })
}

/// The gateway key of this hash, if it passes now.
pub fn gateway_key(hash: KeyHash) -> Result<Found<GatewayKey>, Error> {
    answer("look for a gateway key", |installed| {
        let generation = route_cache::generation();
        let key = Spi::connect(|client| gateway_keys::find(client, installed, By::Hash(hash)))?;
        Ok(Found { found: key.map(Arc::new), generation })
    })
}

/// Who may serve a call.
pub fn route(asked: &RouteAsked) -> Result<Routed, Error> {
    let RouteAsked { whose, models, provider } = asked;
    answer("find who may serve the model", |installed| {
        let generation = route_cache::generation();
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        let provider = provider.as_deref();
        let find = || {
            Spi::connect(|client| {
                let key = gateway_keys::require(client, installed, whose.gateway_key)?;
                let user = whose.user.as_str();
                let found =
                    routing::candidates(client, installed, &models, user, provider, |candidate| {
                        whose.may_ask(key.as_ref(), candidate)
                    })?;
                if found.is_empty() {
                    return Err(routing::nobody(client, installed, &models, whose, provider));
                }
                let rules = routing::rules(client, installed, user, whose.gateway_key)?;
                Ok((found.into(), Arc::new(rules)))
            })
        };
        let (candidates, rules) =
            route_cache::get(installed, whose, models.iter().copied(), provider, find)?;
        Ok(Routed { candidates, rules, generation })
    })
}

/// What somebody can call, in the order of the ids.
pub fn models(whose: &Whose) -> Result<Vec<CallableModel>, Error> {
    const ACTION: &str = "read the models";
    answer(ACTION, |installed| {
        let sql = installed.sql(CALLABLE_MODELS);
        Spi::connect(|client| {
            let arguments = [whose.user.as_str().into(), whose.own_keys_only.into()];
            let plan = Plan::prepare(client, &sql, &[TEXTOID, BOOLOID])?;
            let rows = fresh::select(client, &plan, &arguments)?;
            rows.iter()
                .map(|row| {
                    Ok(CallableModel {
                        provider: required(row, 1)?,
                        id: required(row, 2)?,
                        name: row.get(3)?,
                        context_window: row.get(4)?,
                        max_output_tokens: row.get(5)?,
                        pricing: row.get(6)?,
                        first_seen: row.get(7)?,
                    })
                })
                .collect::<spi::Result<Vec<_>>>()
        })
        .map_err(failed(ACTION))
    })
}

/// Answers the gateway. What cannot be read refuses.
pub fn answer<T>(
    action: &str,
    find: impl FnOnce(&Installed) -> Result<T, Error>,
) -> Result<T, Error> {
    told(action, process::transaction(|installed| Ok(find(installed))))
}

/// What a transaction came to.
pub fn told<T>(action: &str, ended: Result<Result<T, Error>, Failure>) -> Result<T, Error> {
    match ended {
        Ok(found) => found,
        Err(Failure::NotInstalled) => {
            Err(Error::Ledger { reason: "the extension was dropped".to_owned() })
        }
        Err(Failure::Database(cause) | Failure::Data(cause)) => Err(Error::Database {
            action: action.to_owned(),
            reason: cause.words,
            sqlstate: cause.sqlstate,
        }),
    }
}
