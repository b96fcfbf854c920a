//! Fetching model lists and checking keys: requests that cost nothing and leave no usage row.

use crate::core::{catalogue, reply, secret};
use crate::error::{Error, Refusal};
use crate::gateway::http::{Answer, Failure, Outgoing};
use crate::gateway::memory::Lease;
use crate::gateway::server::Shared;
use crate::protocol::{CatalogueFetch, Fetched, KeyCheck, Provider, SealedKey};
use std::time::Duration;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);

/// Fetches a provider's model list: with the platform's key if there is one, else without a key,
/// and, where that is refused, with the fallback key.
pub async fn fetch(
    shared: &Shared,
    fetch: &CatalogueFetch,
    lease: &mut Lease,
) -> Result<Fetched, Error> {
    let provider = &fetch.provider;
    let first =
        get(shared, provider, &fetch.models_url, fetch.platform_key.as_ref(), lease).await?;
    let is_refused = matches!(first.status.as_u16(), 401 | 403);
    let answer = match &fetch.fallback_key {
        Some(key) if is_refused => {
            get(shared, provider, &fetch.models_url, Some(key), lease).await?
        }
        None if is_refused && fetch.platform_key.is_none() => {
            return Err(Error::NoKey { provider: provider.name.clone() });
        }
        _ => first,
    };
    if !answer.status.is_success() {
        return Err(refused(provider, answer));
    }
    let status = answer.status.as_u16();
    let catalogue = catalogue::read(&answer.body, fetch.dialect)
        .map_err(|what| broken(provider, status, what, answer.request_id))?;
    Ok(Fetched {
        models: serde_json::to_string(&catalogue.models).map_err(|_| Error::Internal)?,
        is_inferred: catalogue.is_inferred,
        warnings: catalogue.warnings,
    })
}

/// Whether the provider takes a key: it answers JSON to it, or refuses it with 401 or 403.
pub async fn check_key(
    shared: &Shared,
    check: &KeyCheck,
    lease: &mut Lease,
) -> Result<bool, Error> {
    let answer = get(shared, &check.provider, &check.url, Some(&check.key), lease).await?;
    match answer.status.as_u16() {
        401 | 403 => Ok(false),
        status if answer.status.is_success() => {
            serde_json::from_str::<serde::de::IgnoredAny>(&answer.body).map(|_| true).map_err(
                |_| {
                    let what = "something that is not JSON";
                    broken(&check.provider, status, what, answer.request_id)
                },
            )
        }
        _ => Err(refused(&check.provider, answer)),
    }
}

async fn get(
    shared: &Shared,
    provider: &Provider,
    url: &str,
    key: Option<&SealedKey>,
    lease: &mut Lease,
) -> Result<Answer, Error> {
    // A key opens for its provider's origin; it must not be sent to another.
    if secret::origin(url) != secret::origin(&provider.base_url) {
        return Err(Error::bad_request(format!(
            "a URL of provider '{}' does not share the origin of its base_url",
            provider.name
        )));
    }
    let settings = shared.settings();
    let key = match key {
        Some(key) => Some(shared.keys.open(&settings.keyring_file, &provider.name, key)?),
        None => None,
    };
    let key = key.as_ref().map(|key| key.as_str());
    let target = provider.target("");
    let request = || {
        shared.clients(&settings)?.prepare(Outgoing {
            provider,
            target: target.clone(),
            url,
            key,
            body: None,
            limit: settings.max_response_size,
        })
    };
    let exchange = async {
        match request()?.exchange(key, settings.max_response_size, lease).await {
            // A connection from the pool may just have been closed by the other side.
            Err(Failure::NoAnswer(_)) => {
                let again = request()?.exchange(key, settings.max_response_size, lease).await;
                again.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    };
    timeout(DEADLINE, exchange).await.unwrap_or_else(|_| {
        Err(Error::Deadline { target: target.clone(), waited_ms: DEADLINE.as_millis() as u64 })
    })
}

fn refused(provider: &Provider, answer: Answer) -> Error {
    let refusal = reply::refusal(answer.status.as_u16(), &answer.body, None);
    let refusal = Box::new(Refusal {
        request_id: answer.request_id,
        retry_after_s: answer.retry_after.map(|d| d.as_secs()),
        ..refusal
    });
    Error::Upstream { target: provider.target(""), refusal }
}

fn broken(provider: &Provider, status: u16, what: &str, request_id: Option<String>) -> Error {
    Error::BrokenAnswer { target: provider.target(""), status, what: what.to_owned(), request_id }
}
