//! Sending requests to providers and reading their answers, cut off at the limit while they stream in.

use crate::core::sse::{self, Kind};
use crate::core::{mend, reply, secret};
use crate::error::{Error, Target};
use crate::gateway::body::{Requests, TooMuch, Unpacked, chunk};
use crate::gateway::departure::{Departure, Noted};
use crate::gateway::memory::Lease;
use crate::gateway::resolver::Refused;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use std::error::Error as StdError;
use std::time::{Duration, SystemTime};
use tower_http::decompression::Decompression;
use tower_service::Service;

/// A provider that asks for more time than this is not taken at its word.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// The pool of connections, whose answers are unpacked.
pub type Pooled = Decompression<Requests>;

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
        let (ahead, response) = (Bytes::new(), Box::new(response));
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
    response: Box<Unpacked>,
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

/// A request that is ready to leave.
pub struct Prepared {
    pub client: Pooled,
    pub request: Request<Noted>,
    pub target: Target,
    pub departure: Departure,
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
    mut response: Box<Unpacked>,
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
