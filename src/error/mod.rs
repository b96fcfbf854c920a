//! Every way in which the extension can refuse or fail, and the one table from each to its
//! SQLSTATE. Messages name provider, model and upstream status; none carries a key, a prompt, an
//! answer, or a URL's query. Details may: what a provider said, or a model that was to fit a schema.
//!
//! `PT` + an HTTP status is the convention that PostgREST turns into that status.

mod hint;

pub use crate::core::refusal::Refusal;

use crate::core::refusal::About;
use crate::core::retry::{self, Again};
use crate::core::scan::{MAX_VALUES, Unfit};
use crate::core::secret::SecretError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Provider and model of a call, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub provider: String,
    pub model: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.model.is_empty() {
            write!(f, "provider '{}'", self.provider)
        } else {
            write!(f, "provider '{}', model '{}'", self.provider, self.model)
        }
    }
}

/// What a budget lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    pub period: String,
    /// " of this user", say.
    pub whose: String,
    pub unit: String,
    pub needed: String,
    /// `None`: what others have left is not told.
    pub left: Option<String>,
    /// It would suffice if the calls in flight cost nothing.
    pub is_set_aside: bool,
}

impl Shortfall {
    fn amounts(&self) -> String {
        let Self { unit, needed, left, .. } = self;
        match left {
            Some(left) => format!("{needed} {unit} may be needed, {left} are left"),
            None => format!("{needed} {unit} may be needed, fewer are left"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    #[error("{message}")]
    BadRequest { message: String, hint: Option<String> },
    #[error("this caller has no user id and may not {action}")]
    Anonymous { action: String },
    #[error("a user who has not signed in may not {action}")]
    NotSignedIn { action: String },
    #[error("role '{role}' may not {action}")]
    Forbidden { role: String, action: String },
    #[error("provider '{provider}' does not exist or is not active")]
    UnknownProvider { provider: String },
    #[error("no available model is called '{model}'")]
    UnknownModel { model: String, similar: Vec<String> },
    #[error("no active key for model '{model}' (offered by: {})", providers.join(", "))]
    NoKeyForModel { model: String, providers: Vec<String> },
    #[error("no active key for provider '{provider}'")]
    NoKey { provider: String },
    #[error("no active key for provider '{provider}' that its model list could be asked for with")]
    NoPlatformKey { provider: String },
    #[error("the platform's key for provider '{provider}' does not serve model '{model}'")]
    NotServed { provider: String, model: String },
    #[error("this gateway key is not for model '{model}'")]
    NotForKey { model: String },
    #[error("{what} is not supported yet")]
    Unsupported { what: String },
    #[error("{target} answered {}{}", refusal.status, code_suffix(refusal))]
    Upstream { target: Target, refusal: Box<Refusal> },
    #[error("{target} did not answer within {waited_ms} ms")]
    Deadline { target: Target, waited_ms: u64 },
    #[error("the stream of {target} was silent for {idle_ms} ms")]
    Stalled { target: Target, idle_ms: u64 },
    #[error("no job {id} of this user exists")]
    UnknownJob { id: String },
    #[error("no gateway key {id} of this user is there that is neither revoked nor expired")]
    UnknownGatewayKey { id: String },
    #[error("the gateway key of this call is revoked or expired, or its owner is gone")]
    NoGatewayKey,
    #[error("the session of the console of this call is over or was ended, or its user is gone")]
    NoSession,
    #[error("this user has {limit} gateway keys, and may have no more")]
    TooManyKeys { limit: u64 },
    #[error("the idempotency key '{key}' belongs to a job with another request")]
    KeyReused { key: String },
    #[error(
        "{target} was not asked: a concurrency limit, or a call that asks the same, left no turn within {waited_ms} ms"
    )]
    NoTurn { target: Target, waited_ms: u64 },
    #[error("a request of {size} bytes is too large for a job")]
    RequestTooLarge { size: usize, limit: usize },
    #[error("the request has more than {limit} {unit}")]
    RequestBeyond { limit: u64, unit: String },
    #[error("more than {limit} of this user may not wait at one time")]
    QueueFull { limit: String },
    #[error("the row of provider '{provider}' cannot be used: {what}")]
    BadProvider { provider: String, what: String },
    #[error("no provider can serve model '{model}' for this user any more")]
    NoRoute { model: String },
    #[error("statement_timeout leaves {left_ms} ms, too little for a call to {target}")]
    NoTime { target: Target, left_ms: u64 },
    #[error("{target} could not be reached: {reason}")]
    Unreachable { target: Target, reason: String },
    #[error("the connection to {target} broke: {reason}")]
    Disconnected { target: Target, reason: String },
    #[error("the address of provider '{provider}' is refused: {reason}")]
    AddressRefused { provider: String, reason: String },
    #[error("{target} answered {status} with {what}")]
    BrokenAnswer { target: Target, status: u16, what: String, request_id: Option<String> },
    /// `answer`: what the model said last, cut.
    #[error("the answer of {target} does not fit the schema{}", after_repairs(*repairs))]
    SchemaViolation { target: Target, violations: Vec<String>, answer: String, repairs: u16 },
    #[error("the answer of {target} is larger than {limit} bytes")]
    AnswerTooLarge { target: Target, limit: u64 },
    #[error("this user's share of the gateway's memory of {limit} bytes is taken")]
    OutOfMemory { limit: u64, may_pass: bool },
    #[error(
        "the answer of {target} does not fit into this user's share of the gateway's memory of {limit} bytes"
    )]
    AnswerOutOfMemory { target: Target, limit: u64 },
    #[error("the {} budget{} does not suffice for {target}: {}", shortfall.period, shortfall.whose, shortfall.amounts())]
    BudgetExceeded { target: Target, shortfall: Box<Shortfall> },
    #[error("a budget is set, and what {target} may cost has no bound: {what}")]
    NoCostBound { target: Target, what: String },
    #[error("the limit of {limit} per minute is reached for {target}")]
    RateLimited { target: Target, limit: String, wait_ms: u64 },
    #[error("the usage log cannot be written, so nothing was sent: {reason}")]
    Ledger { reason: String },
    #[error("provider '{provider}' refuses the key{}", code_suffix(refusal))]
    KeyRefused { provider: String, refusal: Box<Refusal> },
    #[error("the key for provider '{provider}' cannot be opened: {reason}")]
    KeyUnreadable { provider: String, reason: String },
    #[error("master key {key_id} is not in the keyring file")]
    MissingMasterKey { key_id: String },
    #[error("the keyring file cannot be used: {reason}")]
    Keyring { reason: String },
    #[error("the gateway cannot start: {reason}")]
    GatewayDown { reason: String, hint: String },
    #[error("a lease of the hub's budgets cannot be had: {reason}")]
    HubDown { reason: String },
    #[error("the console cannot answer: {reason}")]
    ClerkDown { reason: String, hint: String },
    #[error("{waiting} requests of this user to the console wait already")]
    ConsoleBusy { waiting: u64 },
    #[error("the gateway went away after it had accepted the request")]
    GatewayLost,
    /// The same, where nothing costs.
    #[error("the gateway went away after it had accepted the request")]
    ErrandLost,
    #[error("the call failed inside the gateway: {reason}")]
    Internal { reason: String },
    #[error("the client went away")]
    ClientGone,
    #[error("the server is in recovery, and calls need a writable server")]
    Recovery,
    #[error("the server is in recovery, and to {action} needs a writable server")]
    ReadOnly { action: String },
    #[error("this gateway follows a hub, where its configuration is changed")]
    Follows { hub: String },
    #[error("cannot {action}: another transaction holds a lock on a row of it")]
    Locked { action: String },
    #[error("the user of this call was forgotten while it was on its way")]
    Forgotten,
    #[error("who may serve the call kept changing while it waited to be sent")]
    Stale,
    /// A statement of ours failed, and said so.
    #[error("cannot {action}: {reason}")]
    Database {
        action: String,
        reason: String,
        /// The database's own, where it gave one.
        sqlstate: Option<String>,
    },
}

fn after_repairs(repairs: u16) -> String {
    match repairs {
        0 => String::new(),
        1 => ", nor does that to one more request".to_owned(),
        repairs => format!(", nor do those to {repairs} more requests"),
    }
}

fn code_suffix(refusal: &Refusal) -> String {
    let code = refusal.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    let id = refusal.request_id.as_ref().map(|id| format!(", request {id}")).unwrap_or_default();
    code + &id
}

impl Error {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest { message: message.into(), hint: None }
    }

    pub fn bad_request_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::BadRequest { message: message.into(), hint: Some(hint.into()) }
    }

    /// A fault of our own, in the gateway.
    pub fn internal(reason: impl std::fmt::Display) -> Self {
        Self::Internal { reason: reason.to_string() }
    }

    /// A task of the gateway panicked. Its words may hold anything that it was about; where it was is in
    /// the server log.
    pub fn panicked() -> Self {
        Self::internal("a part of it panicked")
    }

    /// The worker ends before it has answered.
    pub fn stopping() -> Self {
        Self::Ledger { reason: "the worker is stopping".to_owned() }
    }

    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// The one translation from what is wrong with the JSON of a request.
    pub fn unfit(unfit: Unfit) -> Self {
        match unfit {
            Unfit::TooManyValues => {
                Self::RequestBeyond { limit: MAX_VALUES as u64, unit: "values".to_owned() }
            }
            other => Self::bad_request(format!("the request {other}")),
        }
    }

    /// The one translation from the envelope's errors.
    pub fn from_secret(error: SecretError, provider: &str) -> Self {
        match error {
            SecretError::MissingMasterKey(key_id) => Self::MissingMasterKey { key_id },
            other => {
                Self::KeyUnreadable { provider: provider.to_owned(), reason: other.to_string() }
            }
        }
    }

    /// The one table: of each error its SQLSTATE, and its code for `error_code` columns, JSON error
    /// values, and those who catch it.
    fn class(&self) -> (&str, &str) {
        match self {
            Self::BadRequest { .. } => ("PT400", "bad_request"),
            Self::Anonymous { .. } | Self::NotSignedIn { .. } => ("PT403", "no_user"),
            Self::Forbidden { .. } => ("PT403", "forbidden"),
            Self::UnknownProvider { .. } => ("PT404", "unknown_provider"),
            Self::UnknownModel { .. } => ("PT404", "unknown_model"),
            Self::NoKeyForModel { .. } | Self::NoKey { .. } | Self::NoPlatformKey { .. } => {
                ("PT404", "no_key")
            }
            Self::NotServed { .. } => ("PT403", "model_not_served"),
            Self::Unsupported { .. } => ("PT501", "unsupported"),
            Self::Upstream { refusal, .. } => {
                (upstream_sqlstate(refusal), refusal.code.as_deref().unwrap_or("upstream_error"))
            }
            Self::Deadline { .. } | Self::NoTime { .. } => ("PT504", "deadline"),
            Self::Stalled { .. } => ("PT504", "stalled"),
            Self::UnknownJob { .. } => ("PT404", "unknown_job"),
            Self::UnknownGatewayKey { .. } => ("PT404", "unknown_gateway_key"),
            Self::NoGatewayKey | Self::NoSession => ("PT401", "invalid_api_key"),
            Self::TooManyKeys { .. } => ("PT409", "too_many_keys"),
            Self::KeyReused { .. } => ("PT409", "idempotency_key_reused"),
            Self::NoTurn { .. } => ("PT504", "no_turn"),
            Self::RequestTooLarge { .. } | Self::RequestBeyond { .. } => {
                ("PT413", "request_too_large")
            }
            Self::QueueFull { .. } => ("PT429", "queue_full"),
            Self::BadProvider { .. } => ("PT409", "bad_provider"),
            Self::NoRoute { .. } => ("PT404", "no_route"),
            Self::Unreachable { .. } => ("PT502", UNREACHABLE),
            Self::Disconnected { .. } => ("PT502", "disconnected"),
            Self::AddressRefused { .. } => ("PT403", "address_refused"),
            Self::BrokenAnswer { .. } => ("PT502", "broken_answer"),
            Self::SchemaViolation { .. } => ("PT422", "schema_violation"),
            Self::AnswerTooLarge { .. } => ("PT502", "answer_too_large"),
            Self::OutOfMemory { .. } | Self::AnswerOutOfMemory { .. } => ("PT503", "out_of_memory"),
            Self::BudgetExceeded { .. } => ("PT402", "budget_exceeded"),
            Self::NoCostBound { .. } => ("PT402", "no_cost_bound"),
            Self::RateLimited { .. } => ("PT429", "rate_limited"),
            Self::Ledger { .. } => ("PT503", "ledger"),
            Self::KeyRefused { .. } => ("PT401", "key_refused"),
            Self::KeyUnreadable { .. } => ("PT409", "key_unreadable"),
            Self::MissingMasterKey { .. } => ("PT503", "missing_master_key"),
            Self::Keyring { .. } => ("PT503", "keyring"),
            Self::GatewayDown { .. } => ("PT503", "gateway_down"),
            Self::HubDown { .. } => ("PT503", "hub_down"),
            Self::ClerkDown { .. } => ("PT503", "clerk_down"),
            Self::ConsoleBusy { .. } => ("PT429", "console_busy"),
            Self::GatewayLost | Self::ErrandLost => ("PT502", "gateway_lost"),
            Self::Internal { .. } => ("PT502", "internal"),
            Self::ClientGone => ("08006", "client_gone"),
            Self::Recovery | Self::ReadOnly { .. } => ("PT503", "recovery"),
            Self::Locked { .. } => ("PT409", "locked"),
            Self::Forgotten => ("PT409", "forgotten"),
            Self::Follows { .. } => ("PT409", "follows_hub"),
            Self::Stale => ("PT503", "stale"),
            Self::NotForKey { .. } => ("PT403", "model_not_allowed"),
            Self::Database { sqlstate, .. } => (sqlstate.as_deref().unwrap_or("PT500"), "database"),
        }
    }

    pub fn sqlstate(&self) -> &str {
        self.class().0
    }

    /// A short name that does not change with the message.
    pub fn code(&self) -> &str {
        self.class().1
    }

    /// What the upstream said, for DETAIL; of an answer that does not fit its schema what is wrong, and the answer.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Upstream { refusal, .. } | Self::KeyRefused { refusal, .. } => {
                refusal.message.clone()
            }
            Self::SchemaViolation { violations, answer, .. } => {
                Some(format!("{}\nThe answer: {answer}", violations.join("\n")))
            }
            _ => None,
        }
    }

    /// The code, and what the upstream said after a colon: the DETAIL of a raised error.
    pub fn coded_detail(&self) -> String {
        match self.detail() {
            Some(detail) => format!("{}: {detail}", self.code()),
            None => self.code().to_owned(),
        }
    }

    /// The error and what the upstream said, where there is no place for a detail of its own.
    pub fn in_full(&self) -> String {
        match self.detail() {
            Some(detail) => format!("{self}: {detail}"),
            None => self.to_string(),
        }
    }

    /// Whether the upstream refuses the key.
    pub fn is_about_key(&self) -> bool {
        matches!(self, Self::Upstream { refusal, .. } | Self::KeyRefused { refusal, .. }
            if refusal.about == About::Key)
    }

    /// The provider and model that were asked, where that is what the error is about.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Upstream { target, .. }
            | Self::Deadline { target, .. }
            | Self::Stalled { target, .. }
            | Self::NoTime { target, .. }
            | Self::NoTurn { target, .. }
            | Self::Unreachable { target, .. }
            | Self::Disconnected { target, .. }
            | Self::BrokenAnswer { target, .. }
            | Self::SchemaViolation { target, .. }
            | Self::AnswerTooLarge { target, .. }
            | Self::AnswerOutOfMemory { target, .. }
            | Self::BudgetExceeded { target, .. }
            | Self::NoCostBound { target, .. }
            | Self::RateLimited { target, .. } => Some(target),
            _ => None,
        }
    }

    /// The HTTP status of the upstream, where it gave one.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::Upstream { refusal, .. } | Self::KeyRefused { refusal, .. } => {
                Some(refusal.status)
            }
            Self::BrokenAnswer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same request may succeed later, and after what the upstream asked for.
    pub fn may_pass(&self) -> Option<Option<Duration>> {
        match self {
            Self::Upstream { refusal, .. } => match retry::after(refusal) {
                Again::Anywhere(after) => Some(after),
                _ => None,
            },
            Self::Unreachable { .. }
            | Self::Disconnected { .. }
            | Self::Stalled { .. }
            | Self::Ledger { .. } => Some(None),
            _ => self.turn_in().map(Some),
        }
    }

    /// The request was not sent, because its turn comes later: after how long.
    pub fn turn_in(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait_ms, .. } => Some(Duration::from_millis(*wait_ms)),
            Self::BudgetExceeded { shortfall, .. } if shortfall.is_set_aside => {
                Some(Duration::from_secs(2))
            }
            Self::HubDown { .. } => Some(Duration::from_secs(2)),
            Self::OutOfMemory { may_pass: true, .. } | Self::Stale => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The upstream's id of the request, where it gave one.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Upstream { refusal, .. } | Self::KeyRefused { refusal, .. } => {
                refusal.request_id.as_deref()
            }
            Self::BrokenAnswer { request_id, .. } => request_id.as_deref(),
            _ => None,
        }
    }

    /// The error as the JSON value of `throw_on_error = false`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "message": self.to_string(),
            "code": self.code(),
            "sqlstate": self.sqlstate(),
            "upstream_status": self.upstream_status(),
            "request_id": self.request_id(),
            "detail": self.detail(),
            "hint": self.hint(),
        })
    }
}

/// `error_code` of an attempt that never left this machine.
pub const UNREACHABLE: &str = "unreachable";

fn upstream_sqlstate(refusal: &Refusal) -> &'static str {
    match refusal.about {
        About::Key => return "PT401",
        About::Credit => return "PT402",
        About::Permission => return "PT403",
        About::TooLong | About::Other => {}
    }
    match refusal.status {
        401 => "PT401",
        402 => "PT402",
        403 => "PT403",
        404 => "PT404",
        408 => "PT408",
        409 => "PT409",
        413 => "PT413",
        422 => "PT422",
        429 => "PT429",
        400..=499 => "PT400",
        504 | 524 => "PT504",
        _ => "PT502",
    }
}

#[cfg(test)]
pub mod tests;
