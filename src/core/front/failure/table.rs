//! The one table from an error to a status, a type and a code, and to whether it is worth another try.

use crate::core::refusal::About;
use crate::error::{Error, Refusal};
use std::borrow::Cow;

/// The kinds of errors, of which each dialect has its own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
    pub(super) fn of_openai(self) -> &'static str {
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
    pub(super) fn of_anthropic(self) -> &'static str {
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
pub(super) enum Again {
    /// No library does by this status, so nothing is said.
    Unsaid,
    Never,
    /// If nothing has left yet.
    IfUnsent,
    /// After the wait, if that is short.
    Later,
}

/// A line of the table.
pub(super) struct Line {
    pub(super) status: u16,
    pub(super) kind: Kind,
    pub(super) code: Option<Cow<'static, str>>,
    pub(super) again: Again,
}

pub(super) fn line(
    status: u16,
    kind: Kind,
    code: impl Into<Option<&'static str>>,
    again: Again,
) -> Line {
    Line { status, kind, code: code.into().map(Cow::Borrowed), again }
}

/// The table for the errors of a call.
pub(super) fn line_of(error: &Error) -> Line {
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
        Error::NoGatewayKey | Error::NoSession => {
            line(401, Kind::Unauthorized, "invalid_api_key", Unsaid)
        }
        Error::TooManyKeys { .. }
        | Error::KeyReused { .. }
        | Error::BadProvider { .. }
        | Error::KeyUnreadable { .. }
        | Error::Locked { .. }
        | Error::Forgotten
        | Error::Follows { .. } => own(409, Kind::Conflict, Never),
        Error::RequestTooLarge { .. } | Error::RequestBeyond { .. } => {
            own(413, Kind::TooLarge, Unsaid)
        }
        Error::RateLimited { .. } => line(429, Kind::RateLimit, "rate_limit_exceeded", Later),
        Error::QueueFull { .. } | Error::ConsoleBusy { .. } => own(429, Kind::RateLimit, Later),
        Error::Unsupported { .. } => own(501, Kind::Invalid, Never),
        Error::SchemaViolation { .. } => own(422, Kind::Invalid, Never),
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
        Error::HubDown { .. } => own(503, Kind::Server, Later),
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
