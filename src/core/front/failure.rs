//! What becomes of an error over HTTP: the one table from it to a status, a type and a code, and to what is said
//! about trying again.
//!
//! The clients' libraries send again by themselves what comes back with 408, 409, 429 or from 500 on, twice where
//! nobody says otherwise (openai and anthropic for Node and Python, `shouldRetry` and `_should_retry`); the header
//! `x-should-retry` goes before the status. Here a call has had its own attempts by then, and some of them may have
//! been paid for: a client that sends it again must not buy it again.

mod console;
#[cfg(test)]
mod tests;

pub use crate::core::retry::Sent;

use crate::core::front::limits::Header;
use crate::core::refusal::About;
use crate::core::{options, parameters};
use crate::error::{Error, Refusal};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;

/// The longest wait that every client keeps. openai for Node passes over a longer one and comes back after half a
/// second (`retryRequest`), so it is told not to.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// When something of ours that is short of room may have some again.
const SOON: Duration = Duration::from_secs(1);
/// Most characters that are repeated of what a stranger sent.
const MOST_REPEATED: usize = 100;

/// Why the front itself answers no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused<'a> {
    NoCredential,
    /// `message` for whoever reads it, `description` for the challenge (RFC 6750).
    BadCredential {
        message: &'a str,
        description: &'a str,
    },
    NotFound {
        method: &'a str,
        path: &'a str,
    },
    Method {
        method: &'a str,
        path: &'a str,
        allow: &'static str,
    },
    /// The body has more bytes than this.
    TooLarge {
        limit: usize,
    },
    /// So has the head of the request, or what stands between its method and its version.
    LargeHead {
        limit: usize,
    },
    LongTarget {
        limit: usize,
    },
    /// The body is of another type than JSON.
    ContentType {
        given: &'a str,
    },
    /// The body is compressed.
    Encoding {
        given: &'a str,
    },
    NotUtf8,
    /// The request is for a host that is none of ours.
    Host,
    /// The body did not come in time.
    Slow,
    /// There are as many connections as there may be, or the server stops.
    Busy,
    NotYet {
        what: &'a str,
    },
    /// So many credentials were bad that no more are looked at before this has passed.
    TooManyFailures {
        wait: Duration,
    },
}

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

/// The kinds of errors, of which each dialect has its own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Invalid,
    Unauthorized,
    KeyRefused,
    Quota,
    Permission,
    NotFound,
    Timeout,
    Conflict,
    TooLarge,
    RateLimit,
    Upstream,
    Overloaded,
    Server,
}

impl Kind {
    fn of_openai(self) -> &'static str {
        match self {
            Self::Invalid | Self::Unauthorized | Self::NotFound | Self::TooLarge => {
                "invalid_request_error"
            }
            Self::KeyRefused => "provider_key_refused",
            Self::Quota => "insufficient_quota",
            Self::Permission => "permission_error",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::RateLimit => "rate_limit_error",
            Self::Upstream => "api_error",
            Self::Overloaded => "overloaded",
            Self::Server => "server_error",
        }
    }

    /// The types of @anthropic-ai/sdk, `resources/shared`.
    fn of_anthropic(self) -> &'static str {
        match self {
            Self::Invalid | Self::Conflict => "invalid_request_error",
            Self::Unauthorized => "authentication_error",
            Self::Quota => "billing_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::RateLimit => "rate_limit_error",
            Self::Timeout => "timeout_error",
            Self::Overloaded => "overloaded_error",
            Self::KeyRefused | Self::Upstream | Self::Server => "api_error",
        }
    }
}

/// Whether a client shall send the request again.
#[derive(Debug, Clone, Copy)]
enum Again {
    /// No library does by this status, so nothing is said.
    Unsaid,
    Never,
    /// If nothing has left yet.
    IfUnsent,
    /// After the wait, if that is short.
    Later,
}

/// A line of the table.
struct Line {
    status: u16,
    kind: Kind,
    code: Option<Cow<'static, str>>,
    again: Again,
}

fn line(status: u16, kind: Kind, code: impl Into<Option<&'static str>>, again: Again) -> Line {
    Line { status, kind, code: code.into().map(Cow::Borrowed), again }
}

/// The table for the errors of a call.
fn line_of(error: &Error) -> Line {
    use Again::{IfUnsent, Later, Never, Unsaid};
    let own = |status, kind, again| Line {
        code: Some(Cow::Owned(error.code().to_owned())),
        ..line(status, kind, None, again)
    };
    match error {
        Error::BadRequest { .. } => line(400, Kind::Invalid, None, Unsaid),
        Error::Upstream { refusal, .. } => line_of_refusal(refusal, status(error)),
        // 401 would say that the client's own credential is wrong, and Codex and Claude Code would ask for another
        // one. This one is the key that the gateway holds.
        Error::KeyRefused { .. } => line(424, Kind::KeyRefused, "provider_key_refused", Never),
        Error::BudgetExceeded { .. } | Error::NoCostBound { .. } => own(402, Kind::Quota, Unsaid),
        Error::Anonymous { .. }
        | Error::NotSignedIn { .. }
        | Error::Forbidden { .. }
        | Error::NotServed { .. }
        | Error::NotForKey { .. }
        | Error::AddressRefused { .. } => own(403, Kind::Permission, Unsaid),
        Error::UnknownModel { .. } | Error::NoRoute { .. } => {
            line(404, Kind::NotFound, "model_not_found", Unsaid)
        }
        Error::UnknownProvider { .. }
        | Error::NoKeyForModel { .. }
        | Error::NoKey { .. }
        | Error::NoPlatformKey { .. }
        | Error::UnknownGatewayKey { .. }
        | Error::UnknownJob { .. } => own(404, Kind::NotFound, Unsaid),
        Error::Deadline { .. }
        | Error::Stalled { .. }
        | Error::NoTime { .. }
        | Error::NoTurn { .. } => own(504, Kind::Timeout, IfUnsent),
        Error::NoGatewayKey => line(401, Kind::Unauthorized, "invalid_api_key", Unsaid),
        Error::TooManyKeys { .. }
        | Error::KeyReused { .. }
        | Error::BadProvider { .. }
        | Error::KeyUnreadable { .. }
        | Error::Locked { .. }
        | Error::Forgotten => own(409, Kind::Conflict, Never),
        Error::RequestTooLarge { .. } | Error::RequestBeyond { .. } => {
            own(413, Kind::TooLarge, Unsaid)
        }
        Error::RateLimited { .. } => line(429, Kind::RateLimit, "rate_limit_exceeded", Later),
        Error::QueueFull { .. } | Error::ConsoleBusy { .. } => own(429, Kind::RateLimit, Later),
        Error::Unsupported { .. } => own(501, Kind::Invalid, Never),
        Error::Unreachable { .. }
        | Error::Disconnected { .. }
        | Error::BrokenAnswer { .. }
        | Error::AnswerTooLarge { .. } => line(502, Kind::Upstream, "upstream_error", Never),
        Error::GatewayLost | Error::ErrandLost | Error::Internal { .. } => {
            own(502, Kind::Upstream, Never)
        }
        Error::OutOfMemory { may_pass: true, .. } | Error::Stale => {
            own(503, Kind::Overloaded, Later)
        }
        Error::OutOfMemory { .. } | Error::AnswerOutOfMemory { .. } => {
            own(503, Kind::Overloaded, Never)
        }
        Error::Ledger { .. }
        | Error::MissingMasterKey { .. }
        | Error::Keyring { .. }
        | Error::GatewayDown { .. }
        | Error::ClerkDown { .. }
        | Error::Recovery
        | Error::ReadOnly { .. } => own(503, Kind::Server, Never),
        // For the log alone: nobody is there to be told.
        Error::ClientGone => own(499, Kind::Invalid, Unsaid),
        Error::Database { .. } => own(500, Kind::Server, Never),
    }
}

/// The table for what an upstream refused. `status` is the one that SQL has for it.
fn line_of_refusal(refusal: &Refusal, status: u16) -> Line {
    use Again::{Later, Never, Unsaid};
    let said = || refusal.code.clone().map(Cow::Owned);
    match (refusal.about, status) {
        (About::Key, _) | (_, 401) => line(424, Kind::KeyRefused, "provider_key_refused", Never),
        (_, 402) => line(402, Kind::Quota, "insufficient_quota", Unsaid),
        (_, 403) => Line { code: said(), ..line(403, Kind::Permission, None, Unsaid) },
        // What Codex, Cline and others look for before they shorten the conversation.
        (About::TooLong, 413) => line(413, Kind::TooLarge, "context_length_exceeded", Unsaid),
        (About::TooLong, _) => line(400, Kind::Invalid, "context_length_exceeded", Unsaid),
        (_, 404) => line(404, Kind::NotFound, "model_not_found", Unsaid),
        (_, 408) => line(408, Kind::Timeout, "timeout", Never),
        (_, 504) => line(504, Kind::Timeout, "timeout", Never),
        (_, 409) => Line { code: said(), ..line(409, Kind::Conflict, None, Never) },
        (_, 413) => line(413, Kind::TooLarge, "request_too_large", Unsaid),
        (_, 422) => Line { code: said(), ..line(422, Kind::Invalid, None, Unsaid) },
        (_, 429) => line(429, Kind::RateLimit, "rate_limit_exceeded", Later),
        (_, 400..=499) => Line { code: said(), ..line(400, Kind::Invalid, None, Unsaid) },
        _ => line(502, Kind::Upstream, "upstream_error", Never),
    }
}

/// The status that SQL has for an error.
fn status(error: &Error) -> u16 {
    error.sqlstate().strip_prefix("PT").and_then(|status| status.parse().ok()).unwrap_or(500)
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
                challenge: matches!(error, Error::NoGatewayKey)
                    .then(|| challenge(&error.to_string())),
                ..More::default()
            }),
        }
    }

    /// Of what the front refuses before there is a call: nothing has left.
    pub fn refused(refused: &Refused<'_>) -> Self {
        use Again::{Later, Never, Unsaid};
        let Line { status, kind, code, again } = match refused {
            Refused::NoCredential | Refused::BadCredential { .. } => {
                line(401, Kind::Unauthorized, "invalid_api_key", Unsaid)
            }
            Refused::Host => line(421, Kind::Invalid, "unknown_host", Unsaid),
            Refused::LongTarget { .. } => line(414, Kind::TooLarge, "target_too_long", Unsaid),
            Refused::LargeHead { .. } => line(431, Kind::TooLarge, "head_too_large", Unsaid),
            Refused::NotFound { .. } => line(404, Kind::NotFound, "unknown_path", Unsaid),
            Refused::Method { .. } => line(405, Kind::Invalid, "method_not_allowed", Unsaid),
            Refused::Slow => line(408, Kind::Timeout, "request_timeout", Later),
            Refused::TooLarge { .. } => line(413, Kind::TooLarge, "request_too_large", Unsaid),
            Refused::ContentType { .. } | Refused::Encoding { .. } => {
                line(415, Kind::Invalid, "unsupported_media_type", Unsaid)
            }
            Refused::NotUtf8 => line(400, Kind::Invalid, None, Unsaid),
            Refused::NotYet { .. } => line(501, Kind::Invalid, "unsupported", Never),
            Refused::Busy => line(503, Kind::Overloaded, "busy", Later),
            Refused::TooManyFailures { .. } => {
                line(429, Kind::RateLimit, "too_many_failures", Later)
            }
        };
        let wait = match refused {
            Refused::Busy => Some(SOON),
            Refused::TooManyFailures { wait } => Some(*wait),
            _ => None,
        };
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
            message: words_of(refused),
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
    let is_known = matches!(name, "model" | "messages")
        || options::is_ours(name)
        || parameters::find(name).is_some();
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

fn words_of(refused: &Refused<'_>) -> String {
    match refused {
        Refused::NoCredential => {
            "No credential was sent. Send a gateway key or an access token in the header \
             Authorization, as 'Bearer ...'."
                .to_owned()
        }
        Refused::BadCredential { message, .. } => (*message).to_owned(),
        Refused::NotFound { method, path } => {
            format!("There is no endpoint {} {}", repeated(method), repeated(path))
        }
        Refused::Method { method, path, allow } => {
            format!("{} takes {allow}, not {}", repeated(path), repeated(method))
        }
        Refused::TooLarge { limit } => format!("The body has more than {limit} bytes"),
        Refused::ContentType { given } => {
            format!("The body must be of type application/json, not '{}'", repeated(given))
        }
        Refused::Encoding { given } => {
            format!("The body must not be compressed ('{}')", repeated(given))
        }
        Refused::NotUtf8 => "The body is not UTF-8".to_owned(),
        Refused::LargeHead { limit } => {
            format!("The head of the request has more than {limit} bytes")
        }
        Refused::LongTarget { limit } => format!("The path has more than {limit} bytes"),
        Refused::Host => "This server has another name than the header Host says".to_owned(),
        Refused::Slow => "The body did not come in time".to_owned(),
        Refused::Busy => "The server takes no more requests at this time".to_owned(),
        Refused::NotYet { what } => format!("{what} are not supported yet"),
        Refused::TooManyFailures { .. } => {
            "Too many credentials were bad: no more are looked at for a moment".to_owned()
        }
    }
}

/// What a stranger sent, short and without what does not show.
fn repeated(given: &str) -> String {
    given.chars().filter(|c| !c.is_control()).take(MOST_REPEATED).collect()
}

/// What `www-authenticate` says of a credential that is bad (RFC 6750).
fn challenge(description: &str) -> String {
    let words = quoted_words(description);
    format!(r#"Bearer error="invalid_token", error_description="{words}""#)
}

/// Words fit for a quoted string of a header (RFC 6750: no quotes, backslashes, or anything but ASCII).
fn quoted_words(words: &str) -> String {
    let is_fit = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    words.chars().filter(is_fit).take(MOST_REPEATED).collect()
}
