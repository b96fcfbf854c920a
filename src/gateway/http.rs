//! HTTP to providers: two clients (TLS, and plain for private networks), no redirects, no proxy
//! from the environment, answers cut off at the limit while they stream in.

use crate::core::sse::{self, Kind};
use crate::core::{address, headers as extra, mend, reply, secret};
use crate::error::{Error, Target};
use crate::gateway::body::{Limit, Requests, TooMuch, Unpacked, chunk};
use crate::gateway::connection::{BUFFER, Connector};
use crate::gateway::departure::{Departure, Noted};
use crate::gateway::memory::Lease;
use crate::gateway::resolver::{GuardedResolver, Refused};
use crate::gateway::settings::Settings;
use crate::protocol::Provider;
use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt;
use std::error::Error as StdError;
use std::time::{Duration, SystemTime};
use tower_http::decompression::Decompression;
use tower_service::Service;

const IDLE_CONNECTION: Duration = Duration::from_secs(90);
/// A provider that asks for more time than this is not taken at its word.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Of a response: more headers than any provider sends.
const MOST_HEADERS: usize = 100;
/// What one answer may have on its way over HTTP/2, and all that share the connection: one whose
/// caller does not take it must not hold up the others.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;

/// The pooled clients, made anew when the guard's switch changes: a connection that was allowed
/// must not outlive the permission.
pub struct Clients {
    tls: Pooled,
    plain: Pooled,
    allow_private: bool,
}

type Pooled = Decompression<Requests>;

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub request_id: Option<String>,
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing left this machine.
    NotSent(Error),
    /// The request may have arrived; nothing came back.
    NoAnswer(Error),
    /// The answer had begun.
    Broken { status: u16, error: Error },
}

impl Failure {
    pub fn into_error(self) -> Error {
        match self {
            Self::NotSent(error) | Self::NoAnswer(error) | Self::Broken { error, .. } => error,
        }
    }
}

impl Clients {
    pub fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        let authorities = ClientConfig::with_platform_verifier()?;
        let client = |plain: bool| {
            let resolver =
                GuardedResolver { plain, allow_private: settings.allow_private_networks };
            let connector = Connector::new(resolver, authorities.clone());
            let client = Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_CONNECTION)
                .http1_max_buf_size(BUFFER)
                .http1_max_headers(MOST_HEADERS)
                .http2_max_header_list_size(BUFFER as u32)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .build(connector);
            Decompression::new(Requests(client))
        };
        Ok(Self {
            tls: client(false),
            plain: client(true),
            allow_private: settings.allow_private_networks,
        })
    }

    /// Whether the clients were built for these settings.
    pub fn fit(&self, settings: &Settings) -> bool {
        self.allow_private == settings.allow_private_networks
    }

    /// Checks and builds a request; nothing is sent yet. `body` makes it a POST.
    pub fn prepare(&self, request: Outgoing<'_>) -> Result<Prepared, Error> {
        let target = request.target;
        let url = address::check_url(request.url, self.allow_private).map_err(|reason| {
            Error::AddressRefused { provider: target.provider.clone(), reason }
        })?;
        let headers = headers(request.provider, request.key)?;
        let client = if url.scheme() == "http" { &self.plain } else { &self.tls };
        let uri = Uri::try_from(url.as_str()).map_err(|_| Error::Unreachable {
            target: target.clone(),
            reason: "its URL is not one".to_owned(),
        })?;
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        let departure = Departure::default();
        let limit = Limit(request.limit);
        let mut request = Request::new(departure.body(request.body));
        request.extensions_mut().insert(limit);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        Ok(Prepared { client: client.clone(), request, target, departure })
    }
}

impl Prepared {
    /// Tells, from now on, whether the request has left.
    pub fn departure(&self) -> Departure {
        self.departure.clone()
    }

    /// Sends the request and reads the answer, at most `limit` bytes of it. `key` is removed from
    /// what is kept. The future can be dropped at any time: the connection closes.
    pub async fn exchange(
        self,
        key: Option<&str>,
        limit: usize,
        lease: &mut Lease,
    ) -> Result<Answer, Failure> {
        self.send(key).await?.read(limit, lease).await
    }

    /// Sends the request and waits for the head of the answer.
    pub async fn send(self, key: Option<&str>) -> Result<Incoming, Failure> {
        let Self { mut client, request, target, departure } = self;
        let response =
            client.call(request).await.map_err(|error| sending(error, &target, &departure))?;
        let headers = response.headers();
        let request_id = ["x-request-id", "request-id", "x-generation-id"]
            .iter()
            .find_map(|name| headers.get(*name))
            .and_then(|value| value.to_str().ok())
            .map(|id| secret::scrub(&reply::clean_word(id), key));
        let retry_after = headers.get(RETRY_AFTER).and_then(retry_after);
        let is_event_stream = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.trim_start().to_lowercase().starts_with("text/event-stream"));
        let status = response.status();
        let ahead = Bytes::new();
        Ok(Incoming { status, request_id, retry_after, is_event_stream, ahead, response, target })
    }
}

/// An answer whose head has arrived.
pub struct Incoming {
    pub status: StatusCode,
    pub request_id: Option<String>,
    pub retry_after: Option<Duration>,
    /// As the head says.
    pub is_event_stream: bool,
    /// What has been read of the body to see what it is.
    ahead: Bytes,
    response: Unpacked,
    target: Target,
}

impl Incoming {
    /// Reads the body to its end, at most `limit` bytes of it.
    pub async fn read(self, limit: usize, lease: &mut Lease) -> Result<Answer, Failure> {
        let Self { status, request_id, retry_after, ahead, response, target, .. } = self;
        let body = read_capped(ahead, response, limit, lease, &target)
            .await
            .map_err(|error| Failure::Broken { status: status.as_u16(), error })?;
        Ok(Answer { status, body, request_id, retry_after })
    }

    /// Whether the body is a stream of events, by its first bytes. White space before them, with which servers keep a
    /// connection alive, is no part of it, but counts in `limit`.
    pub async fn kind(&mut self, limit: usize) -> Result<Kind, Error> {
        let mut skipped = 0;
        loop {
            if let Some(kind) = sse::kind(&self.ahead, self.is_event_stream) {
                return Ok(kind);
            }
            if sse::is_nothing(&self.ahead) {
                skipped += self.ahead.len();
                self.ahead.clear();
            }
            if skipped > limit {
                return Err(Error::AnswerTooLarge {
                    target: self.target.clone(),
                    limit: limit as u64,
                });
            }
            let held = std::mem::take(&mut self.ahead);
            match self.chunk().await? {
                Some(more) if held.is_empty() => self.ahead = more,
                Some(more) => self.ahead = [held, more].concat().into(),
                None => {
                    self.ahead = held;
                    let is_stream = self.is_event_stream;
                    return Ok(if is_stream { Kind::Events } else { Kind::Whole });
                }
            }
        }
    }

    /// The next bytes of the body. `None`: it has ended.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        chunk(&mut self.response).await.map_err(|error| Error::Disconnected {
            target: self.target.clone(),
            reason: cause(&*error),
        })
    }
}

/// A request to be sent.
pub struct Outgoing<'a> {
    pub provider: &'a Provider,
    pub target: Target,
    pub url: &'a str,
    pub key: Option<&'a str>,
    pub body: Option<Bytes>,
    /// Bytes of the answer, packed or not.
    pub limit: usize,
}

/// A request that is ready to leave.
pub struct Prepared {
    client: Pooled,
    request: Request<Noted>,
    target: Target,
    departure: Departure,
}

fn headers(provider: &Provider, key: Option<&str>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("aggregator/", env!("CARGO_PKG_VERSION"))),
    );
    let invalid = |name: &str| {
        Error::bad_request(format!("header '{name}' of provider '{}' is not valid", provider.name))
    };
    for (name, value) in &provider.headers {
        // The row may have been written past the trigger that checks it.
        if extra::problem(name, value).is_some() {
            return Err(invalid(name));
        }
        let header = HeaderName::try_from(name.as_str()).map_err(|_| invalid(name))?;
        headers.insert(header, HeaderValue::try_from(value.as_str()).map_err(|_| invalid(name))?);
    }
    let wire = provider.standard.wire();
    for (name, value) in wire.fixed_headers() {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    if let Some(key) = key {
        let (name, value) = wire.auth_header(key);
        let mut value = HeaderValue::try_from(value).map_err(|_| Error::KeyUnreadable {
            provider: provider.name.clone(),
            reason: "it has characters that no header can carry".to_owned(),
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Seconds, or a date; at most what is worth believing.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let asked = match text.parse::<f64>() {
        Ok(seconds) if seconds >= LONGEST_RETRY_AFTER.as_secs_f64() => LONGEST_RETRY_AFTER,
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

fn sending(
    error: hyper_util::client::legacy::Error,
    target: &Target,
    departure: &Departure,
) -> Failure {
    if let Some(Refused(reason)) = refusal(&error) {
        let (provider, reason) = (target.provider.clone(), (*reason).to_owned());
        return Failure::NotSent(Error::AddressRefused { provider, reason });
    }
    let (target, reason) = (target.clone(), cause(&error));
    if error.is_connect() && !departure.has_left() {
        Failure::NotSent(Error::Unreachable { target, reason })
    } else {
        Failure::NoAnswer(Error::Disconnected { target, reason })
    }
}

/// The guard's own error, if that is what stopped the request.
fn refusal<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refused> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref() {
            return Some(refused);
        }
        source = inner.source();
    }
    None
}

/// Whether an answer was cut off where its size on the wire reached the limit.
fn is_too_much(error: &(dyn StdError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(inner) = error {
        if inner.is::<TooMuch>() {
            return true;
        }
        error = inner.source();
    }
    false
}

/// The innermost cause: short, and without the URL.
fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    reply::clean_word(&innermost.to_string())
}

async fn read_capped(
    ahead: Bytes,
    mut response: Unpacked,
    limit: usize,
    lease: &mut Lease,
    target: &Target,
) -> Result<String, Error> {
    let too_large = || Error::AnswerTooLarge { target: target.clone(), limit: limit as u64 };
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok());
    if announced.and_then(|len| len.parse::<u64>().ok()).is_some_and(|len| len > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    let mut ahead = Some(ahead).filter(|ahead| !ahead.is_empty());
    loop {
        let next = match ahead.take() {
            Some(ahead) => Ok(Some(ahead)),
            None => chunk(&mut response).await,
        };
        match next {
            Ok(Some(chunk)) => {
                if body.len() + chunk.len() > limit {
                    return Err(too_large());
                }
                // Once here, once in the frame to the session.
                lease.grow(2 * chunk.len()).map_err(|shortage| Error::AnswerOutOfMemory {
                    target: target.clone(),
                    limit: shortage.limit as u64,
                })?;
                body.extend_from_slice(&chunk);
            }
            Ok(None) => break,
            Err(error) if is_too_much(&*error) => return Err(too_large()),
            Err(error) => {
                return Err(Error::Disconnected { target: target.clone(), reason: cause(&*error) });
            }
        }
    }
    mend::text(body, limit).ok_or_else(too_large)
}
