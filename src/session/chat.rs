//! Chat from SQL: resolve the route under the caller's own transaction, hand the call to the
//! gateway, give back its answer.

use crate::core::options::Prepared;
use crate::core::secret::Binding;
use crate::error::{Error, Target};
use crate::installed::Installed;
use crate::protocol::{ChatCall, ChatReply, Provider, Reply, Request, SealedKey};
use crate::session::json::JsonText;
use crate::session::owner::{as_owner, installed};
use crate::session::provider::{pg_uuid, provider, uuid};
use crate::session::raise::or_raise;
use crate::session::{deadline, identity, link};
use pgrx::PgOid;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, Spi, SpiHeapTupleData};
use serde::Deserialize;
use serde_json::json;
use std::cell::RefCell;
use uuid::Uuid;

/// Sends a chat to a model and returns the answer in OpenAI's format, with an `aggregator` object
/// that says who served it and what it cost.
#[pg_extern]
fn chat_complete(
    model: Option<&str>,
    messages: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> JsonText {
    let prepared = Prepared::from_arguments(model, text(&messages), text(&options));
    drop((messages, options));
    let answer = prepared.and_then(|prepared| complete(prepared, provider, p_user_id));
    JsonText(or_raise(answer))
}

/// Sends one prompt and returns the text of the answer.
#[pg_extern]
fn chat(
    prompt: Option<&str>,
    model: Option<&str>,
    options: default!(Option<JsonText>, "'{}'"),
) -> Option<String> {
    let prepared = match prompt {
        Some(prompt) => {
            let messages = json!([{"role": "user", "content": prompt}]).to_string();
            Prepared::from_arguments(model, Some(&messages), text(&options))
        }
        None => Err(Error::bad_request("prompt must not be NULL")),
    };
    drop(options);
    let answer = prepared.and_then(|prepared| match prepared.throw_on_error {
        true => complete(prepared, None, None),
        false => Err(Error::bad_request_hint(
            "throw_on_error = false needs a result that can hold an error",
            "Use chat_complete.",
        )),
    });
    let content = answer.map(|answer| content_of(&answer));
    or_raise(content)
}

/// Takes a whole OpenAI request body and returns the answer. Its one parameter has no name, so
/// that PostgREST hands it the body of the HTTP request as it is.
#[pg_extern(sql = "
CREATE FUNCTION chat_completions(jsonb) RETURNS jsonb
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn chat_completions(body: Option<JsonText>) -> JsonText {
    let prepared = Prepared::from_body(text(&body));
    drop(body);
    let answer = prepared.and_then(|prepared| complete(prepared, None, None));
    JsonText(or_raise(answer))
}

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

fn text(json: &Option<JsonText>) -> Option<&str> {
    json.as_ref().map(|json| json.0.as_str())
}

/// Runs a call. With `throw_on_error = false` whatever goes wrong, once the request itself is
/// understood, is a JSON value.
fn complete(
    prepared: Prepared,
    provider: Option<&str>,
    p_user_id: Option<&str>,
) -> Result<String, Error> {
    let throws = prepared.throw_on_error;
    let call_id = Uuid::now_v7();
    let (outcome, about) = match call(prepared, call_id, provider, p_user_id) {
        Ok((provider, reply)) => {
            let mut about = json!({
                "provider": provider,
                "usage_log_id": call_id,
                "attempts": reply.attempts,
                "latency_ms": reply.latency_ms,
            });
            let outcome = reply.outcome.map(|answer| {
                about["served_model"] = answer.served_model.into();
                about["cost_source"] = answer.settled.cost_source.into();
                (answer.response, answer.settled.cost)
            });
            (outcome, about)
        }
        Err(error) => (Err(error), json!({})),
    };
    match outcome {
        Ok((response, cost)) => Ok(with_member(&response, &about, cost.as_deref())),
        Err(error) if throws || matches!(error, Error::ClientGone) => Err(error),
        Err(error) => Ok(json!({"error": error.to_json(), "aggregator": about}).to_string()),
    }
}

/// The answer with our object as its last member. The cost is spliced in as text: a number that
/// never was a float.
fn with_member(response: &str, about: &serde_json::Value, cost: Option<&str>) -> String {
    let about = about.to_string();
    let cost = cost.unwrap_or("null");
    let end = response.rfind('}').unwrap_or(response.len());
    let about = about.trim_end_matches('}');
    format!("{},\"aggregator\":{about},\"cost\":{cost}}}}}", &response[..end])
}

fn call(
    prepared: Prepared,
    call_id: Uuid,
    provider_name: Option<&str>,
    p_user_id: Option<&str>,
) -> Result<(String, ChatReply), Error> {
    let user = identity::acting_user(p_user_id, "chat")?;
    let installed = installed()?;
    let route = first_route(&installed, &prepared.model, &user, provider_name)?
        .map_or_else(|| Err(no_route(&installed, &prepared.model, provider_name)), Ok)?;
    let body = prepared.body(&route.model_id);
    let (timeout_ms, max_retries) = (prepared.timeout_ms, prepared.max_retries);
    drop(prepared);

    let target = Target { provider: route.provider_name.clone(), model: route.model_id.clone() };
    let deadline_ms = match deadline::left_ms() {
        None => timeout_ms,
        Some(left) => {
            let usable = left.saturating_sub(deadline::margin_ms(left));
            if usable == 0 {
                return Err(Error::NoTime { target, left_ms: left });
            }
            timeout_ms.min(usable)
        }
    };
    let request = Request::Chat(Box::new(ChatCall {
        call_id,
        key: SealedKey {
            binding: Binding::new(
                (!route.is_platform_key).then(|| user.clone()),
                route.provider_id,
                &route.base_url,
            )
            .map_err(|error| Error::from_secret(error, &route.provider_name))?,
            envelope: route.envelope,
        },
        user_id: user,
        provider: route_provider(
            route.provider_id,
            route.provider_name,
            &route.api_standard,
            route.base_url,
            &route.headers,
        )?,
        model_id: route.model_id,
        user_provider_id: route.user_provider_id,
        pricing: route.pricing,
        body,
        max_retries,
        deadline_ms,
    }));
    match link::exchange(&request)? {
        Reply::Chat(reply) => Ok((target.provider, *reply)),
        _ => Err(link::unexpected()),
    }
}

fn route_provider(
    id: Uuid,
    name: String,
    standard: &str,
    base_url: String,
    headers: &str,
) -> Result<Provider, Error> {
    let provider = provider(id, name, standard, base_url, headers)?;
    // Refused here, before anything is opened or sent.
    provider.standard.chat_url(&provider.base_url)?;
    Ok(provider)
}

/// One row of `aggregator_routes`.
struct Route {
    provider_id: Uuid,
    provider_name: String,
    provider_type: String,
    api_standard: String,
    base_url: String,
    headers: String,
    model_id: String,
    user_provider_id: Uuid,
    is_platform_key: bool,
    envelope: Vec<u8>,
    pricing: Option<String>,
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

fn first_route(
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
fn no_route(installed: &Installed, model: &str, provider: Option<&str>) -> Error {
    if let Some(wanted) = provider {
        return match crate::session::provider::find(installed, Some(wanted)) {
            Ok(row) => Error::NoKey { provider: row.provider.name },
            Err(error) => error,
        };
    }
    if let Some((prefix, _)) = model.split_once(':')
        && let Ok(row) = crate::session::provider::find(installed, Some(prefix))
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

/// The text of the first choice; parts of a multi-part answer are joined.
fn content_of(answer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Option<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        content: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_str(answer).ok()?;
    match answer.choices.into_iter().next()?.message?.content? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(parts) => {
            Some(parts.iter().filter_map(|part| part["text"].as_str()).collect())
        }
        _ => None,
    }
}
