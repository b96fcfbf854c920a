//! Fetching model lists and checking keys: requests that cost nothing and leave no usage row. Each leaves a
//! row of its own kind in `aggregator_key_checks`, and those of users keep the limits in flight.

use crate::core::{catalogue, mend, reply, secret};
use crate::error::{Error, Refusal};
use crate::gateway::http::{Answer, Failure, Outgoing};
use crate::gateway::ledger::{KeyCheckKind, KeyChecked, Task};
use crate::gateway::memory::Lease;
use crate::gateway::row::unix_micros;
use crate::gateway::server::Shared;
use crate::protocol::{CatalogueFetch, Fetched, KeyCheck, Provider, SealedKey};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(60);
/// No model list is larger.
const LARGEST_LIST: usize = 16 << 20;

/// Fetches the model list that everybody sees: with the platform's key if there is one, else without a key,
/// never with a user's.
pub async fn fetch(
    shared: &Shared,
    fetch: &CatalogueFetch,
    lease: &mut Lease,
) -> Result<Fetched, Error> {
    list(shared, fetch, fetch.platform_key.as_ref(), lease).await
}

/// Fetches the model list that a provider shows to a key.
pub async fn list(
    shared: &Shared,
    fetch: &CatalogueFetch,
    key: Option<&SealedKey>,
    lease: &mut Lease,
) -> Result<Fetched, Error> {
    let provider = &fetch.provider;
    let user = key.and_then(|key| key.binding.user_id.as_deref());
    let asked = Asked::new(shared, KeyCheckKind::Sync, user, provider);
    let answer = match get(shared, provider, &fetch.models_url, user, key, lease).await {
        Ok(answer) => answer,
        Err(error) => return asked.failed(error),
    };
    let status = answer.status.as_u16();
    if key.is_none() && matches!(status, 401 | 403) {
        asked.answered(status);
        return Err(Error::NoKey { provider: provider.name.clone() });
    }
    if !answer.status.is_success() {
        return asked.failed(refused(provider, answer));
    }
    let dialect = fetch.dialect;
    let Answer { body, request_id, .. } = answer;
    let read = move || {
        let catalogue = catalogue::read(&mend::json(&body), dialect)?;
        let models =
            serde_json::to_string(&catalogue.models).map_err(|_| "a list that cannot be kept")?;
        let (is_inferred, warnings) = (catalogue.is_inferred, catalogue.warnings);
        Ok::<_, &'static str>(Fetched { models, is_inferred, warnings })
    };
    match shared.heavy.run(LARGEST_LIST, read).await {
        Ok(Ok(fetched)) => {
            asked.answered(status);
            Ok(fetched)
        }
        Ok(Err(what)) => asked.failed(broken(provider, status, what, request_id)),
        Err(error) => asked.failed(error),
    }
}

/// Whether the provider takes a user's key: it answers JSON to it, or refuses it with 401 or 403.
pub async fn check_key(
    shared: &Shared,
    check: &KeyCheck,
    lease: &mut Lease,
) -> Result<bool, Error> {
    let user = check.key.binding.user_id.as_deref().ok_or(Error::Internal)?;
    shared.forgotten.guard(user, Uuid::now_v7(), checked(shared, check, user, lease)).await
}

async fn checked(
    shared: &Shared,
    check: &KeyCheck,
    user: &str,
    lease: &mut Lease,
) -> Result<bool, Error> {
    let provider = &check.provider;
    shared.checks.take(shared, user, provider).await?;
    let asked = Asked::new(shared, KeyCheckKind::Check, Some(user), provider);
    let answer = get(shared, provider, &check.url, Some(user), Some(&check.key), lease).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            // The guard let nothing leave.
            if matches!(error, Error::AddressRefused { .. }) {
                shared.checks.give_back(shared, user, provider);
            }
            return asked.failed(error);
        }
    };
    let status = answer.status.as_u16();
    if matches!(status, 401 | 403) {
        asked.answered(status);
        return Ok(false);
    }
    if !answer.status.is_success() {
        return asked.failed(refused(provider, answer));
    }
    let Answer { body, request_id, .. } = answer;
    let is_json = move || mend::is_json(&mend::json(&body));
    match shared.heavy.run(LARGEST_LIST, is_json).await {
        Ok(true) => {
            asked.answered(status);
            Ok(true)
        }
        Ok(false) => {
            asked.failed(broken(provider, status, "something that is not JSON", request_id))
        }
        Err(error) => asked.failed(error),
    }
}

/// A request whose row is written when it has ended, also when nobody waits for it any more.
struct Asked<'a> {
    shared: &'a Shared,
    kind: KeyCheckKind,
    user: Option<&'a str>,
    provider: Uuid,
    at: i64,
    began: Instant,
    has_ended: bool,
}

impl<'a> Asked<'a> {
    fn new(
        shared: &'a Shared,
        kind: KeyCheckKind,
        user: Option<&'a str>,
        provider: &Provider,
    ) -> Self {
        Self {
            shared,
            kind,
            user,
            provider: provider.id,
            at: unix_micros(),
            began: Instant::now(),
            has_ended: false,
        }
    }

    /// The provider has said yes or no.
    fn answered(mut self, status: u16) {
        self.note(Some(status), None);
    }

    fn failed<T>(mut self, error: Error) -> Result<T, Error> {
        self.note(error.upstream_status(), Some(error.code()));
        Err(error)
    }

    fn note(&mut self, status: Option<u16>, error_code: Option<&str>) {
        self.has_ended = true;
        self.shared.ledger.send(Task::KeyChecked(Box::new(KeyChecked {
            kind: self.kind,
            user_id: self.user.map(str::to_owned),
            provider_id: self.provider,
            created_at: self.at,
            http_status: status,
            error_code: error_code.map(str::to_owned),
            latency_ms: self.began.elapsed().as_millis() as u64,
        })));
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.note(None, Some("cancelled"));
        }
    }
}

async fn get(
    shared: &Shared,
    provider: &Provider,
    url: &str,
    user: Option<&str>,
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
    // Checks at one provider share their places as calls with one key do.
    let _permit = match user {
        Some(user) => {
            let entering = shared.admission.enter(user, provider.id, true);
            let entered = timeout(DEADLINE, entering).await.map_err(|_| Error::NoTurn {
                target: target.clone(),
                waited_ms: DEADLINE.as_millis() as u64,
            })?;
            Some(entered.ok_or(Error::Internal)?)
        }
        None => None,
    };
    let limit = settings.max_response_size.min(LARGEST_LIST);
    lease.expect_answer(limit)?;
    let request = || {
        shared.clients(&settings)?.prepare(Outgoing {
            provider,
            target: target.clone(),
            url,
            key,
            body: None,
            limit,
        })
    };
    let exchange = async {
        match request()?.exchange(key, limit, lease).await {
            // A connection from the pool may just have been closed by the other side.
            Err(Failure::NoAnswer(_)) => {
                let again = request()?.exchange(key, limit, lease).await;
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
