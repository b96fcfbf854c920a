//! Chat from SQL: resolve the route under the caller's own transaction, hand the call to the
//! gateway, give back its answer.

use crate::core::options::Prepared;
use crate::core::secret::Binding;
use crate::error::{Error, Target};
use crate::protocol::{ChatCall, ChatReply, Provider, Reply, Request, SealedKey};
use crate::session::json::JsonText;
use crate::session::owner::installed;
use crate::session::provider::provider;
use crate::session::raise::or_raise;
use crate::session::route::{first_route, no_route};
use crate::session::{deadline, identity, link};
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;
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
