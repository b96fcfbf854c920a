//! What the front itself refuses, before there is a call.

use super::table::{Again, Kind, Line, line};
use std::time::Duration;

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
    /// So many credentials were bad that no more are looked at before this has passed.
    TooManyFailures {
        wait: Duration,
    },
}

impl Refused<'_> {
    /// Its line of the table.
    pub(super) fn line(&self) -> Line {
        use Again::{Later, Unsaid};
        match self {
            Self::NoCredential | Self::BadCredential { .. } => {
                line(401, Kind::Unauthorized, "invalid_api_key", Unsaid)
            }
            Self::Host => line(421, Kind::Invalid, "unknown_host", Unsaid),
            Self::LongTarget { .. } => line(414, Kind::TooLarge, "target_too_long", Unsaid),
            Self::LargeHead { .. } => line(431, Kind::TooLarge, "head_too_large", Unsaid),
            Self::NotFound { .. } => line(404, Kind::NotFound, "unknown_path", Unsaid),
            Self::Method { .. } => line(405, Kind::Invalid, "method_not_allowed", Unsaid),
            Self::Slow => line(408, Kind::Timeout, "request_timeout", Later),
            Self::TooLarge { .. } => line(413, Kind::TooLarge, "request_too_large", Unsaid),
            Self::ContentType { .. } | Self::Encoding { .. } => {
                line(415, Kind::Invalid, "unsupported_media_type", Unsaid)
            }
            Self::NotUtf8 => line(400, Kind::Invalid, None, Unsaid),
            Self::Busy => line(503, Kind::Overloaded, "busy", Later),
            Self::TooManyFailures { .. } => line(429, Kind::RateLimit, "too_many_failures", Later),
        }
    }

    /// How long to wait before another try, where that is known.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Busy => Some(SOON),
            Self::TooManyFailures { wait } => Some(*wait),
            _ => None,
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::NoCredential => {
                "No credential was sent. Send a gateway key or an access token in the header \
                 Authorization, as 'Bearer ...'."
                    .to_owned()
            }
            Self::BadCredential { message, .. } => (*message).to_owned(),
            Self::NotFound { method, path } => {
                format!("There is no endpoint {} {}", repeated(method), repeated(path))
            }
            Self::Method { method, path, allow } => {
                format!("{} takes {allow}, not {}", repeated(path), repeated(method))
            }
            Self::TooLarge { limit } => format!("The body has more than {limit} bytes"),
            Self::ContentType { given } => {
                format!("The body must be of type application/json, not '{}'", repeated(given))
            }
            Self::Encoding { given } => {
                format!("The body must not be compressed ('{}')", repeated(given))
            }
            Self::NotUtf8 => "The body is not UTF-8".to_owned(),
            Self::LargeHead { limit } => {
                format!("The head of the request has more than {limit} bytes")
            }
            Self::LongTarget { limit } => format!("The path has more than {limit} bytes"),
            Self::Host => "This server has another name than the header Host says".to_owned(),
            Self::Slow => "The body did not come in time".to_owned(),
            Self::Busy => "The server takes no more requests at this time".to_owned(),
            Self::TooManyFailures { .. } => {
                "Too many credentials were bad: no more are looked at for a moment".to_owned()
            }
        }
    }
}

/// What a stranger sent, short and without what does not show.
fn repeated(given: &str) -> String {
    given.chars().filter(|c| !c.is_control()).take(MOST_REPEATED).collect()
}

/// What `www-authenticate` says of a credential that is bad (RFC 6750).
pub(super) fn challenge(description: &str) -> String {
    let words = quoted_words(description);
    format!(r#"Bearer error="invalid_token", error_description="{words}""#)
}

/// Words fit for a quoted string of a header (RFC 6750: no quotes, backslashes, or anything but ASCII).
fn quoted_words(words: &str) -> String {
    let is_fit = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    words.chars().filter(is_fit).take(MOST_REPEATED).collect()
}
