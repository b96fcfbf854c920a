//! What becomes of an error over HTTP: what a client is told in each dialect, and about trying again.
//!
//! The clients' libraries send again by themselves what comes back with 408, 409, 429 or from 500 on, twice where
//! nobody says otherwise (openai and anthropic for Node and Python, `shouldRetry` and `_should_retry`); the header
//! `x-should-retry` goes before the status. Here a call has had its own attempts by then, and some of them may have
//! been paid for: a client that sends it again must not buy it again.

mod console;
mod refused;
mod table;
#[cfg(test)]
mod tests;

pub use self::refused::Refused;
pub use crate::core::retry::Sent;

use self::refused::challenge;
use self::table::{Again, Kind, Line, line_of};
use crate::core::front::limits::Header;
use crate::core::{embedding, options, parameters};
use crate::error::Error;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;

/// The longest wait that every client keeps. openai for Node passes over a longer one and comes back after half a
/// second (`retryRequest`), so it is told not to.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// An error as a client is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    kind: Kind,
    code: Option<Cow<'static, str>>,
    message: String,
    /// What `x-should-retry` says.
    should_retry: Option<bool>,
    wait: Option<Duration>,
    more: Box<More>,
}

/// What few errors have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct More {
    param: Option<String>,
    allow: Option<&'static str>,
    challenge: Option<String>,
    /// What else is known, for the member `aggregator`.
    about: Option<Value>,
    /// How the caller's limits stand.
    limits: Vec<Header>,
}

impl Failure {
    /// Of a call, or of anything that SQL has an error for.
    pub fn of(error: &Error, sent: Sent) -> Self {
        let Line { status, kind, code, again } = line_of(error);
        let wait = wait(error, status);
        let should_retry = match (again, sent) {
            (_, Sent::PerhapsPaid) | (Again::Never, _) => Some(false),
            (Again::Unsaid, _) => None,
            (Again::IfUnsent, sent) => Some(sent == Sent::Nothing),
            (Again::Later, _) => Some(wait.is_none_or(|wait| wait <= LONGEST_WAIT)),
        };
        Self {
            status,
            kind,
            code,
            message: message(error),
            should_retry,
            wait,
            more: Box::new(More {
                param: param(error),
                about: Some(about(error)),
                challenge: matches!(error, Error::NoGatewayKey | Error::NoSession)
                    .then(|| challenge(&error.to_string())),
                ..More::default()
            }),
        }
    }

    /// Of what the front refuses before there is a call: nothing has left.
    pub fn refused(refused: &Refused<'_>) -> Self {
        let Line { status, kind, code, again } = refused.line();
        let wait = refused.wait();
        let should_retry = match again {
            Again::Unsaid => None,
            Again::Never => Some(false),
            Again::IfUnsent | Again::Later => Some(wait.is_none_or(|wait| wait <= LONGEST_WAIT)),
        };
        let (allow, challenge) = match refused {
            Refused::Method { allow, .. } => (Some(*allow), None),
            Refused::NoCredential => (None, Some("Bearer".to_owned())),
            Refused::BadCredential { description, .. } => (None, Some(challenge(description))),
            _ => (None, None),
        };
        Self {
            status,
            kind,
            code,
            message: refused.words(),
            should_retry,
            wait,
            more: Box::new(More { allow, challenge, ..More::default() }),
        }
    }

    /// Of a request that cannot be what it should: `param` is the member of its body that is wrong.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        let mut failure = Self::of(&Error::bad_request(message), Sent::Nothing);
        failure.more.param = Some(param.to_owned());
        failure
    }

    /// The same, with headers of how the caller's limits stand.
    pub fn with(mut self, limits: Vec<Header>) -> Self {
        self.more.limits = limits;
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// OpenAI's `type`.
    #[cfg(test)]
    pub fn kind(&self) -> &'static str {
        self.kind.of_openai()
    }

    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    #[cfg(test)]
    pub fn param(&self) -> Option<&str> {
        self.more.param.as_deref()
    }

    /// Anthropic's `type`.
    #[cfg(test)]
    pub fn anthropic_kind(&self) -> &'static str {
        self.kind.of_anthropic()
    }

    /// How long to wait before another try, where that is known.
    pub fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The headers that go with it, names in small letters.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(should_retry) = self.should_retry {
            headers.push(("x-should-retry", should_retry.to_string()));
        }
        if let Some(wait) = self.wait {
            // Whole seconds, and none of them 0: clients take that for no wait at all.
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            headers.push(("retry-after", seconds.to_string()));
            headers.push(("retry-after-ms", wait.as_millis().max(1).to_string()));
        }
        headers.extend(self.more.allow.map(|allow| ("allow", allow.to_owned())));
        headers.extend(self.more.challenge.clone().map(|words| ("www-authenticate", words)));
        headers.extend(self.more.limits.iter().cloned());
        headers
    }

    /// OpenAI's error object: the member `error`.
    pub fn object(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "type": self.kind.of_openai(),
            "param": self.more.param,
            "code": self.code,
        });
        if let Some(about) = &self.more.about {
            error["aggregator"] = about.clone();
        }
        error
    }

    /// The body in OpenAI's form, which is also the data of an event in a stream.
    pub fn openai(&self) -> String {
        json!({"error": self.object()}).to_string()
    }

    /// The body in Anthropic's form, which is also the data of its event `error`.
    pub fn anthropic(&self, request_id: &str) -> String {
        json!({
            "type": "error",
            "error": {"type": self.kind.of_anthropic(), "message": self.message},
            "request_id": request_id,
        })
        .to_string()
    }
}

/// How long until the request may pass, where that is known.
fn wait(error: &Error, status: u16) -> Option<Duration> {
    match error {
        Error::Upstream { refusal, .. } if matches!(status, 429 | 503) => {
            refusal.retry_after_s.map(Duration::from_secs)
        }
        // Its status is none after which a client waits.
        Error::BudgetExceeded { .. } => None,
        _ => error.turn_in(),
    }
}

fn message(error: &Error) -> String {
    let message = error.in_full();
    // Over HTTP options stand in the body itself.
    let message = message.strip_prefix("options.").unwrap_or(&message);
    match (error, error.hint()) {
        (Error::BadRequest { .. }, Some(hint)) => format!("{message}. {hint}"),
        (Error::UnknownModel { similar, .. }, Some(hint)) if !similar.is_empty() => {
            format!("{message}. {hint}")
        }
        _ => message.to_owned(),
    }
}

/// The member of the request that is wrong. What is refused as such begins with its name.
fn param(error: &Error) -> Option<String> {
    match error {
        Error::UnknownModel { .. }
        | Error::NoRoute { .. }
        | Error::NoKeyForModel { .. }
        | Error::NotForKey { .. }
        | Error::NotServed { .. } => return Some("model".to_owned()),
        Error::BadRequest { .. } => {}
        _ => return None,
    }
    let message = error.to_string();
    let first = message.split([' ', ':']).next()?;
    let place = first.strip_prefix("options.").unwrap_or(first);
    let name = place.split(['.', '[']).next()?;
    let is_known = matches!(name, "model" | "messages" | "input")
        || options::is_ours(name)
        || parameters::find(name).is_some()
        || embedding::find(name).is_some();
    is_known.then(|| place.to_owned())
}

/// What SQL tells beside the message.
fn about(error: &Error) -> Value {
    let mut about = json!({"code": error.code()});
    let target = error.target();
    for (name, value) in [
        ("provider", target.map(|target| target.provider.as_str().into())),
        ("model", target.map(|target| target.model.as_str().into())),
        ("upstream_status", error.upstream_status().map(Value::from)),
        ("upstream_request_id", error.request_id().map(Value::from)),
        ("hint", error.hint().map(Value::from)),
    ] {
        if let Some(value) = value {
            about[name] = value;
        }
    }
    about
}
