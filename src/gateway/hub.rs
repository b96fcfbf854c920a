//! What this gateway is among several, and asking the hub for leases: over its HTTP endpoint, one message at a time,
//! sealed with the master keys that all of them have.

use crate::clock::unix_micros;
use crate::core::lease::{Answer, Ask, LARGEST_MESSAGE, Message};
use crate::core::{address, reply};
use crate::error::{Error, Target};
use crate::gateway::body::Limit;
use crate::gateway::clients;
use crate::gateway::departure::Departure;
use crate::gateway::http::{Pooled, Prepared};
use crate::gateway::keys::Keys;
use crate::gateway::ledger::Ledger;
use crate::gateway::memory::Memory;
use crate::gateway::resolver::GuardedResolver;
use crate::gateway::settings::Settings;
use crate::gateway::task::{Listed, Task};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::MutexGuard as AsyncGuard;
use tokio::time::{Instant, timeout};

/// Where the hub listens, behind its address.
const PATH: &str = "/v1/gateways/lease";
/// For its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failure nobody asks for so long: calls are refused at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Who tells whom.
const TO_HUB: &str = "to the hub";
const FROM_HUB: &str = "from the hub";

/// A sealed message, as it is sent.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// Base64.
    sealed: String,
}

/// What is kept of the others.
#[derive(Default)]
pub struct Hub {
    /// Only whoever has it asks: a lease is changed by nobody else meanwhile.
    line: tokio::sync::Mutex<Line>,
    /// All gateways but the hub, as they were read last. `None`: not yet.
    listed: Mutex<Option<Result<Listed, String>>>,
    /// It has not answered the last time.
    is_down: AtomicBool,
}

/// What whoever asks goes on with.
#[derive(Default)]
pub struct Line {
    /// And whether it is without TLS.
    client: Option<(bool, Pooled)>,
    number: i64,
    failed: Option<(Instant, Error)>,
}

/// What this gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Alone,
    Hub,
    /// It leases budgets of the hub.
    Follower,
}

/// All that asking needs.
#[derive(Clone, Copy)]
pub struct Lender<'a> {
    pub hub: &'a Hub,
    pub keys: &'a Keys,
    pub memory: &'a Arc<Memory>,
    pub ledger: &'a Ledger,
    pub settings: &'a Settings,
}

impl<'a> Lender<'a> {
    pub fn part(&self) -> Result<Part, Error> {
        let gateways = &self.settings.gateways;
        match (&gateways.name, &gateways.hub) {
            (Err(problem), _) => Err(down(problem.clone())),
            (Ok(None), None) => Ok(Part::Alone),
            (Ok(None), Some(_)) => {
                Err(down("aggregator.hub is set and aggregator.gateway is not".to_owned()))
            }
            (Ok(Some(_)), None) => Ok(Part::Hub),
            (Ok(Some(_)), Some(_)) => Ok(Part::Follower),
        }
    }

    /// How many gateways there are, this one among them.
    pub async fn gateways(&self) -> Result<i64, Error> {
        let part = self.part()?;
        if part == Part::Alone {
            return Ok(1);
        }
        if self.hub.listed().is_none() {
            self.read_list().await?;
        }
        let listed = self.hub.listed();
        let names = listed.as_ref().map_or(Ok(&[][..]), |listed| match listed {
            Ok(listed) => Ok(&listed.names[..]),
            Err(reason) => Err(down(format!("the list of gateways cannot be read: {reason}"))),
        })?;
        if part == Part::Follower && !self.is_one_of(names) {
            return Err(down(format!(
                "gateway '{}' is not in the list of gateways that has come from the hub",
                self.own_name().unwrap_or_default()
            )));
        }
        Ok(i64::try_from(names.len()).map_or(i64::MAX, |others| others.saturating_add(1)))
    }

    /// `None`: it has none, or none that could be read.
    fn own_name(&self) -> Option<&str> {
        self.settings.gateways.name.as_ref().ok().and_then(Option::as_deref)
    }

    fn is_one_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| Some(name.as_str()) == self.own_name())
    }

    /// Whether the list has come from the hub, and does not have this gateway.
    pub fn is_removed(&self) -> bool {
        let listed = self.hub.listed();
        matches!(&*listed, Some(Ok(listed)) if !self.is_one_of(&listed.names))
    }

    /// Reads which gateways there are.
    pub async fn read_list(&self) -> Result<(), Error> {
        let listed = self.ledger.ask(Task::Gateways).await?;
        *self.hub.listed() = Some(listed);
        Ok(())
    }

    /// How often leases were settled without whoever had them. `None`: that is not known now.
    pub fn settlements(&self) -> Option<i64> {
        self.hub.listed().as_ref()?.as_ref().ok().map(|listed| listed.settlements)
    }

    /// Waits for its turn to ask.
    pub async fn line(self) -> AsyncGuard<'a, Line> {
        self.hub.line.lock().await
    }

    /// Asks the hub for leases, or gives some back.
    pub async fn ask(&self, line: &mut Line, asks: Vec<Ask>) -> Result<Answer, Error> {
        if let Some((at, error)) = &line.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let asked = Box::pin(timeout(PATIENCE, self.exchange(line, asks))).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(down(format!("the hub did not answer within {} s", PATIENCE.as_secs())))
        });
        self.hub.is_down.store(answer.is_err(), Ordering::Relaxed);
        line.failed = answer.as_ref().err().map(|error| (Instant::now(), error.clone()));
        answer
    }

    async fn exchange(&self, line: &mut Line, asks: Vec<Ask>) -> Result<Answer, Error> {
        let Ok(Some(from)) = self.settings.gateways.name.clone() else {
            return Err(down("aggregator.gateway is not set".to_owned()));
        };
        line.number = unix_micros().max(line.number + 1);
        let (number, asked) = (line.number, asks.len());
        let body = self.seal(&Message { from, number, asks }, TO_HUB)?;
        let (client, uri) = self.client(line)?;
        let departure = Departure::default();
        let mut request = Request::new(departure.body(Some(body)));
        request.extensions_mut().insert(Limit(LARGEST_MESSAGE));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(ACCEPT, json.clone());
        request.headers_mut().insert(CONTENT_TYPE, json);
        let target = Target { provider: "hub".to_owned(), model: String::new() };
        let sent = Prepared { client, request, target, departure };
        let mut lease = self.memory.lease("");
        let answer = sent.exchange(None, LARGEST_MESSAGE, &mut lease).await;
        let answer = answer.map_err(|failure| down(failure.into_error().to_string()))?;
        if answer.status != StatusCode::OK {
            let words = words(&answer.body);
            return Err(down(format!("the hub answered {}{words}", answer.status.as_u16())));
        }
        let answer: Answer = self.open(&answer.body, FROM_HUB)?;
        if answer.number != number || answer.leases.len() != asked {
            return Err(down("the hub has answered something else".to_owned()));
        }
        Ok(answer)
    }

    /// The connections to the hub, and where it listens.
    fn client(&self, line: &mut Line) -> Result<(Pooled, Uri), Error> {
        let hub = self.settings.gateways.hub.as_deref().unwrap_or_default();
        let url = format!("{}{PATH}", hub.trim_end_matches('/'));
        // It may be in a private network, where TLS is not asked for: what is sent is sealed.
        let url = address::check_url(&url, true)
            .map_err(|reason| down(format!("aggregator.hub cannot be used: {reason}")))?;
        let uri = Uri::try_from(url.as_str())
            .map_err(|_| down("aggregator.hub cannot be used: it is no URL".to_owned()))?;
        // Without TLS to private addresses alone; with it to any.
        let resolver = GuardedResolver { plain: url.scheme() == "http", allow_private: true };
        let client = match line.client.take() {
            Some((plain, client)) if plain == resolver.plain => client,
            _ => {
                let authorities = ClientConfig::with_platform_verifier();
                clients::pool(resolver, authorities.map_err(Error::internal)?)
            }
        };
        line.client = Some((resolver.plain, client.clone()));
        Ok((client, uri))
    }

    fn seal<T: Serialize>(&self, message: &T, purpose: &str) -> Result<Bytes, Error> {
        let text = serde_json::to_vec(message).map_err(Error::internal)?;
        let sealed = self
            .keys
            .with_ring(&self.settings.keyring_file, |ring| ring.seal_message(&text, purpose))?
            .map_err(|error| down(error.to_string()))?;
        let sealed = Sealed { sealed: BASE64_STANDARD.encode(sealed) };
        Ok(serde_json::to_vec(&sealed).map_err(Error::internal)?.into())
    }

    fn open<T: for<'de> Deserialize<'de>>(&self, body: &str, purpose: &str) -> Result<T, Error> {
        let sealed: Sealed = serde_json::from_str(body)
            .map_err(|_| Error::bad_request("the message is not one of a gateway"))?;
        let sealed = BASE64_STANDARD
            .decode(sealed.sealed)
            .map_err(|_| Error::bad_request("the message is not one of a gateway"))?;
        let text = self
            .keys
            .with_ring(&self.settings.keyring_file, |ring| ring.open_message(&sealed, purpose))?
            .map_err(|_| {
                Error::bad_request("the message is not sealed with a master key of this gateway")
            })?;
        serde_json::from_slice(&text)
            .map_err(|_| Error::bad_request("the message is none that this version knows"))
    }

    /// On the hub: what another gateway asks.
    pub fn read(&self, body: &str) -> Result<Message, Error> {
        self.open(body, TO_HUB)
    }

    /// On the hub: the answer.
    pub fn write(&self, answer: &Answer) -> Result<Bytes, Error> {
        self.seal(answer, FROM_HUB)
    }
}

impl Hub {
    /// Whether it has not answered the last time.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    fn listed(&self) -> MutexGuard<'_, Option<Result<Listed, String>>> {
        self.listed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A lease cannot be had.
pub fn down(reason: String) -> Error {
    Error::HubDown { reason }
}

/// What the hub says in its error, short.
fn words(body: &str) -> String {
    let error: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let message = error.as_ref().and_then(|error| error.pointer("/error/message")?.as_str());
    message.map_or_else(String::new, |message| format!(": {}", reply::clean_word(message)))
}
