//! Fetching model lists and checking keys: requests that cost nothing and leave no usage row. Each leaves a
//! row of its own kind in `aggregator_key_checks`, and those of users keep the limits in flight.

use crate::clock::unix_micros;
use crate::core::refusal::{self, About, Refusal, Verdict};
use crate::core::{catalogue, mend, secret};
use crate::error::Error;
use crate::gateway::admission;
use crate::gateway::clients::{Outgoing, What};
use crate::gateway::http::{Answer, Failure};
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::gateway::task::{CheckOutcome as Outcome, KeyCheckKind, KeyChecked, Task};
use crate::protocol::{CatalogueFetch, Fetched, KeyCheck, Provider, SealedKey};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use zeroize::Zeroizing;

const DEADLINE: Duration = Duration::from_secs(60);
/// No model list is larger.
const LARGEST_LIST: usize = 16 << 20;
const REDIRECT: &str = "a redirect, which is never followed";
const UNREADABLE: &str = "something that cannot be read";

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
    let received = match get(shared, provider, &fetch.models_url, user, key, lease).await {
        Ok(received) => received,
        Err(error) => return asked.failed(error),
    };
    let (status, request_id) = (received.status(), received.answer.request_id.clone());
    if received.answer.status.is_redirection() {
        return asked.failed(broken(provider, status, REDIRECT, request_id));
    }
    let (dialect, unit) = (fetch.dialect, fetch.price_unit);
    let read = move || {
        received.refused()?;
        let catalogue = catalogue::read(&received.answer.body, dialect, unit)
            .map_err(|what| received.broken(what))?;
        let models = catalogue::Columns::of(catalogue.models)
            .map_err(|_| received.broken("a list that cannot be kept"))?;
        let (is_inferred, warnings) = (catalogue.is_inferred, catalogue.warnings);
        Ok(Fetched { models, is_inferred, warnings })
    };
    match shared.heavy.run(LARGEST_LIST, read).await {
        Ok(Ok(fetched)) => {
            asked.answered(status);
            Ok(fetched)
        }
        Ok(Err(No::Refused(refusal))) if key.is_none() && refusal.wants_key() => {
            asked.refused(status);
            Err(Error::NoPlatformKey { provider: provider.name.clone() })
        }
        Ok(Err(No::Refused(refusal))) => asked.failed(upstream(provider, *refusal)),
        Ok(Err(No::Broken(what))) => asked.failed(broken(provider, status, &what, request_id)),
        Err(_) => asked.failed(broken(provider, status, UNREADABLE, request_id)),
    }
}

/// Whether the provider takes a user's key: it answers JSON to it, or refuses it. An answer that is
/// about something else, such as a region, is an error.
pub async fn check_key(
    shared: &Shared,
    check: &KeyCheck,
    lease: &mut Lease,
) -> Result<Verdict, Error> {
    let user = check
        .key
        .binding
        .user_id
        .as_deref()
        .ok_or_else(|| Error::internal("a key that is checked is nobody's"))?;
    let checked = pin!(checked(shared, check, user, lease));
    shared.forgotten.guard(user, Uuid::now_v7(), checked).await
}

async fn checked(
    shared: &Shared,
    check: &KeyCheck,
    user: &str,
    lease: &mut Lease,
) -> Result<Verdict, Error> {
    let provider = &check.provider;
    let most = shared.settings().key_checks_per_minute;
    shared.checks.take(&shared.ledger, most, user, provider).await?;
    let asked = Asked::new(shared, KeyCheckKind::Check, Some(user), provider);
    let answer = get(shared, provider, &check.url, Some(user), Some(&check.key), lease).await;
    let received = match answer {
        Ok(received) => received,
        Err(error) => {
            // The guard let nothing leave.
            if matches!(error, Error::AddressRefused { .. }) {
                shared.checks.give_back(most, user, provider);
            }
            return asked.failed(error);
        }
    };
    let (status, request_id) = (received.status(), received.answer.request_id.clone());
    if received.answer.status.is_redirection() {
        return asked.failed(broken(provider, status, REDIRECT, request_id));
    }
    let read = move || {
        received.refused()?;
        match mend::is_json(&mend::json(&received.answer.body)) {
            true => Ok(()),
            false => Err(received.broken("something that is not JSON")),
        }
    };
    match shared.heavy.run(LARGEST_LIST, read).await {
        Ok(Ok(())) => {
            asked.answered(status);
            Ok(Verdict::Valid)
        }
        Ok(Err(No::Refused(refusal))) if refusal.about == About::Key => {
            asked.refused(status);
            Ok(Verdict::Refused(refusal))
        }
        Ok(Err(No::Refused(refusal))) => asked.failed(upstream(provider, *refusal)),
        Ok(Err(No::Broken(what))) => asked.failed(broken(provider, status, &what, request_id)),
        Err(_) => asked.failed(broken(provider, status, UNREADABLE, request_id)),
    }
}

/// An answer that is not what was asked for.
enum No {
    Refused(Box<Refusal>),
    /// The text says what it is instead.
    Broken(String),
}

/// An answer, and the key that went with the request.
struct Received {
    answer: Answer,
    key: Option<Zeroizing<String>>,
}

impl Received {
    fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }

    fn key(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.as_str())
    }

    /// What the provider refuses, by its status or inside a success.
    fn refused(&self) -> Result<(), No> {
        let Answer { status, body, request_id, retry_after, .. } = &self.answer;
        let refusal = match status.is_success() {
            true => refusal::inside_success(body, self.key()),
            false => Some(refusal::read(status.as_u16(), body, self.key())),
        };
        match refusal {
            Some(refusal) => Err(No::Refused(Box::new(Refusal {
                request_id: request_id.clone(),
                retry_after_s: retry_after.map(|pause| pause.as_secs_f64().ceil() as u64),
                ..refusal
            }))),
            None => Ok(()),
        }
    }

    fn broken(&self, what: &str) -> No {
        No::Broken(refusal::instead(what, &self.answer.body, self.key()))
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

    fn answered(mut self, status: u16) {
        self.note(Outcome::Success, Some(status), None);
    }

    /// The provider has said no.
    fn refused(mut self, status: u16) {
        self.note(Outcome::Refused, Some(status), None);
    }

    fn failed<T>(mut self, error: Error) -> Result<T, Error> {
        let outcome = match error.is_about_key() {
            true => Outcome::Refused,
            false => Outcome::Error,
        };
        self.note(outcome, error.upstream_status(), Some(error.code()));
        Err(error)
    }

    fn note(&mut self, outcome: Outcome, status: Option<u16>, error_code: Option<&str>) {
        self.has_ended = true;
        self.shared.ledger.send(Task::KeyChecked(Box::new(KeyChecked {
            kind: self.kind,
            user_id: self.user.map(str::to_owned),
            provider_id: self.provider,
            created_at: self.at,
            outcome,
            http_status: status,
            error_code: error_code.map(str::to_owned),
            latency_ms: self.began.elapsed().as_millis() as u64,
        })));
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.note(Outcome::Error, None, Some("cancelled"));
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
) -> Result<Received, Error> {
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
    let sent = key.as_ref().map(|key| key.as_str());
    let target = provider.target("");
    // Checks at one provider share their places as calls with one key do.
    let _permit = match user {
        Some(user) => {
            let entering = shared.admission.enter(user, provider.id, true);
            let entered = timeout(DEADLINE, entering).await.map_err(|_| Error::NoTurn {
                target: target.clone(),
                waited_ms: DEADLINE.as_millis() as u64,
            })?;
            Some(entered.ok_or_else(admission::ended)?)
        }
        None => None,
    };
    let limit = settings.max_response_size.min(LARGEST_LIST);
    lease.expect_answer(limit)?;
    let request = || {
        shared.clients(&settings)?.prepare(Outgoing {
            provider,
            target: target.clone(),
            what: What::Url(url),
            key: sent,
            limit,
        })
    };
    let exchange = async {
        match request()?.exchange(sent, limit, lease).await {
            // A connection from the pool may just have been closed by the other side.
            Err(Failure::NoAnswer(_)) => {
                let again = request()?.exchange(sent, limit, lease).await;
                again.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    };
    let answer = timeout(DEADLINE, exchange).await.unwrap_or_else(|_| {
        Err(Error::Deadline { target: target.clone(), waited_ms: DEADLINE.as_millis() as u64 })
    })?;
    Ok(Received { answer, key })
}

fn upstream(provider: &Provider, refusal: Refusal) -> Error {
    Error::Upstream { target: provider.target(""), refusal: Box::new(refusal) }
}

fn broken(provider: &Provider, status: u16, what: &str, request_id: Option<String>) -> Error {
    Error::BrokenAnswer { target: provider.target(""), status, what: what.to_owned(), request_id }
}
