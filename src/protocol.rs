//! The frames between a session and the gateway, over the worker's Unix socket.
//!
//! A frame is a length (4 bytes, little endian) and a postcard document. A session sends one
//! request and reads replies until the last one; closing the connection cancels the request. Between the
//! length of a request and its document stands for whose sake it comes (a length of one byte, and the
//! user's id), because the memory for it is that user's.
//! Provider keys cross the socket sealed, never in the clear.
//!
//! [`Request::Outbox`] is different: after it the session sends one bare byte, when its
//! transaction ends, because nothing more can be done in a commit callback.

pub mod clerk;
pub mod columns;

use crate::core::budget::Rules;
use crate::core::caching::Caching;
use crate::core::catalogue::{Columns, Dialect};
use crate::core::embedding::Kind;
use crate::core::front::gateway_key::GatewayKey;
use crate::core::model::UNLISTED;
use crate::core::options::Prepared;
use crate::core::price::Unit;
use crate::core::rate::Standings;
use crate::core::refusal::Verdict;
use crate::core::retry::Sent;
use crate::core::schema::ask::Unfit;
use crate::core::secret::Binding;
use crate::core::standard::Standard;
use crate::core::standard::anthropic::front::version::Version;
use crate::core::tags::Labels;
use crate::error::{Error, Target};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Part of the socket's and the lock's name, so that an old session and a new worker never meet.
/// Raise it with every change of the types below.
pub const VERSION: u32 = 10;

/// After [`Request::Outbox`], at the end of the transaction.
pub const COMMITTED: u8 = b'+';
pub const ROLLED_BACK: u8 = b'-';

/// A frame's header: the length of what follows.
pub const HEADER_LEN: usize = 4;

/// No frame is larger, whatever its header says.
pub const MAX_FRAME: usize = 1 << 30;

/// Directory of sockets and locks, relative to the data directory, which is the working
/// directory of every server process: no socket path is ever too long, and base backups skip it.
const DIRECTORY: &str = "pg_stat_tmp";

/// Where the worker of a database listens.
pub fn socket_path(database: u32) -> String {
    format!("{DIRECTORY}/aggregator.{database}.v{VERSION}.sock")
}

/// The file whose lock makes one worker per database.
pub fn lock_path(database: u32) -> String {
    format!("{DIRECTORY}/aggregator.{database}.v{VERSION}.lock")
}

/// The file whose lock makes one starter at a time.
pub fn starter_path(database: u32) -> String {
    format!("{DIRECTORY}/aggregator.{database}.v{VERSION}.start")
}

/// A sealed key and what it is bound to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SealedKey {
    pub binding: Binding,
    pub envelope: Vec<u8>,
}

/// How to reach a provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Provider {
    pub id: Uuid,
    pub name: String,
    pub standard: Standard,
    pub base_url: String,
    /// Extra headers, none of them secret.
    pub headers: Vec<(String, String)>,
}

impl Provider {
    /// For messages about a call to `model` (empty: no model is meant).
    pub fn target(&self, model: &str) -> Target {
        Target { provider: self.name.clone(), model: model.to_owned() }
    }
}

/// One call of a model: a chat, or embeddings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatCall {
    pub kind: Kind,
    /// Of a job: its id.
    pub call_id: Uuid,
    pub user_id: String,
    /// Whom to ask, best first; the next one is asked where the failure of one allows it.
    pub candidates: Arc<[Candidate]>,
    /// The request's JSON in OpenAI's form, without a model.
    pub body: Arc<String>,
    pub max_retries: u16,
    /// From now on.
    pub deadline_ms: u64,
    /// Ask the upstream for a stream even if the caller wants the answer whole. `None`: as
    /// `aggregator.stream_upstream` says.
    pub stream_upstream: Option<bool>,
    /// What it asks of the response cache. `None`: it is passed by.
    pub cache: Option<Caching>,
    /// Budgets and rate limits, as of `resolved_at`.
    pub rules: Arc<Rules>,
    /// When candidates and rules were read, or a moment before: microseconds since 1970. A call that
    /// waits has them read again before it is sent.
    pub resolved_at: i64,
    /// Attempts that the ledger has of this call already, from earlier runs of a job.
    pub earlier_attempts: u16,
    /// The gateway key that it came with, and its tags; mostly there are none.
    pub labels: Option<Arc<Labels>>,
    /// Its answer is to fit a schema. Then `body` says nothing of that yet.
    pub check: Option<Arc<Checking>>,
    /// The generation by which it was routed, where it must still be that when it is sent. A session has asked in its
    /// own transaction.
    #[serde(skip)]
    pub generation: Option<u64>,
    /// The same request in the form of the candidates that speak Anthropic. None has it that comes over the socket.
    #[serde(skip)]
    pub native: Option<Arc<Native>>,
    /// Where it is told how the caller's limits stand when it is sent. No session asks.
    #[serde(skip)]
    pub standings: Option<Arc<Mutex<Standings>>>,
}

/// A schema that an answer is to fit, and how far that has come.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checking {
    pub schema: String,
    pub max_repairs: u16,
    #[serde(skip)]
    pub progress: Mutex<Progress>,
}

/// What has come of a call whose answer is checked, in all attempts.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// How often the model was asked again.
    pub repairs: u16,
    /// The last answer, which does not fit.
    pub last: Option<Unfit>,
    /// What the answers so far have cost together.
    pub spent: Option<Settled>,
}

impl Checking {
    pub fn of(prepared: &Prepared) -> Option<Arc<Self>> {
        let check = prepared.check.as_ref()?;
        Some(Arc::new(Self {
            schema: check.schema.get().to_owned(),
            max_repairs: check.max_repairs,
            progress: Mutex::default(),
        }))
    }
}

/// A request that goes as it came.
#[derive(Debug)]
pub struct Native {
    /// Without what is our own.
    pub body: Arc<String>,
    pub version: Version,
    /// What the caller asks for in `anthropic-beta`.
    pub betas: Option<String>,
    /// Why it cannot be told to others, who are not asked then.
    pub only: Option<Error>,
}

/// A provider, model and key that can serve a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Candidate {
    pub provider: Provider,
    pub model_id: String,
    /// Whether the provider's catalogue has it.
    pub is_listed: bool,
    /// The row of `user_api_providers` that pays, and its key.
    pub user_provider_id: Uuid,
    pub key: SealedKey,
    /// `aggregator_models.pricing` as the caller's transaction saw it.
    pub pricing: Option<String>,
    pub context_window: Option<i32>,
    pub max_output_tokens: Option<i32>,
    /// `api_providers.features.supports_streaming`.
    pub can_stream: bool,
    /// Not known to be a model of another kind than one that gives embeddings.
    pub may_embed: bool,
    /// `aggregator_models.shares_cache`.
    pub shares_cache: bool,
    /// `aggregator_models.capabilities.structured_outputs`.
    pub takes_schema: bool,
    /// `aggregator_models.capabilities.functions`.
    pub takes_tools: bool,
}

impl Candidate {
    /// For messages about a call to it.
    pub fn target(&self) -> Target {
        self.provider.target(&self.model_id)
    }

    /// Whether the platform pays, and not the user.
    pub fn is_platform_key(&self) -> bool {
        self.key.binding.user_id.is_none()
    }

    /// Whether what it has answered to one user may answer others: an administrator has said so of the model, and
    /// the platform pays.
    pub fn is_shared(&self) -> bool {
        self.shares_cache && self.is_platform_key()
    }

    /// The model as rules and sums know it.
    pub fn counted_model(&self) -> &str {
        if self.is_listed { &self.model_id } else { UNLISTED }
    }
}

/// Who is served, with whose keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Whose {
    pub user: String,
    /// With keys of their own, and none of the platform's.
    pub own_keys_only: bool,
    /// The gateway key that the call comes with, which has to pass, and which its models must be for.
    pub gateway_key: Option<Uuid>,
}

impl Whose {
    /// A user's, with whatever keys there are for them.
    pub fn of(user: impl Into<String>, gateway_key: Option<Uuid>) -> Self {
        Self { user: user.into(), own_keys_only: false, gateway_key }
    }

    /// Whether a candidate may serve them. `key`: the gateway key, as it is now.
    pub fn may_ask(&self, key: Option<&GatewayKey>, candidate: &Candidate) -> bool {
        let (provider, model) = (candidate.provider.name.as_str(), candidate.model_id.as_str());
        !(self.own_keys_only && candidate.is_platform_key())
            && key.is_none_or(|key| key.models.allow(provider, model))
    }
}

/// What tells a candidate of a user from every other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Known {
    pub user_id: String,
    pub provider_id: Uuid,
    pub user_provider_id: Uuid,
    pub model_id: String,
    /// The gateway key of the call, which has to pass still.
    pub gateway_key: Option<Uuid>,
}

/// Many chat calls, at most so many at a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// Answered by their place here.
    pub calls: Vec<ChatCall>,
    pub concurrency: u32,
    /// From now on; what has not begun by then never does.
    pub deadline_ms: u64,
}

/// A catalogue to fetch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogueFetch {
    pub provider: Provider,
    pub models_url: String,
    pub dialect: Dialect,
    /// Of the prices of tokens. `None`: the list shows it.
    pub price_unit: Option<Unit>,
    /// Used where there is one. No user's key is, for what everybody sees.
    pub platform_key: Option<SealedKey>,
}

/// What a saved key sets off at a provider that was never synced, and what its user asks for later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FirstSync {
    pub fetch: CatalogueFetch,
    /// The key that a user has saved: for a list of their own, where there is none for everybody.
    pub own_key: Option<SealedKey>,
}

/// A catalogue as it arrived, ready for the SQL that stores it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetched {
    pub models: Columns,
    pub is_inferred: bool,
    pub warnings: Vec<String>,
}

/// A key to check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyCheck {
    pub provider: Provider,
    pub url: String,
    pub key: SealedKey,
}

/// A request, and the installation of the extension for which it is meant: one that was dropped
/// and made anew has another oid, and a worker of the old one must not serve it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Addressed<R> {
    pub extension: u32,
    pub request: R,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Answered by [`Reply::Chat`], or, once `hand_over_after_ms` have passed, by
    /// [`Reply::HandedOver`]: the call then goes on as the job of its id.
    Chat {
        call: Box<ChatCall>,
        hand_over_after_ms: Option<u64>,
    },
    /// Answered by [`Reply::Delta`] for each piece of text, then [`Reply::Chat`].
    Stream(Box<ChatCall>),
    /// Answered by [`Reply::Item`] for each call as it ends, then [`Reply::End`].
    Many(Box<Batch>),
    /// A transaction has written jobs. The session sends one byte when it ends; until then the
    /// worker does not leave.
    Outbox,
    /// Answered by [`Reply::End`] when the job ends, or after so many milliseconds.
    AwaitJob {
        job: Uuid,
        for_ms: u64,
    },
    Catalogues(Vec<CatalogueFetch>),
    CheckKey(Box<KeyCheck>),
    /// Sync this provider soon; the reply does not wait for it.
    SyncSoon(Box<FirstSync>),
    /// The same for the user whose key it is; the reply comes once the list is stored.
    SyncNow(Box<FirstSync>),
    /// Open these envelopes and seal them with the master key of this id.
    Reseal {
        master_key: String,
        keys: Vec<SealedKey>,
    },
    /// End what is in flight of this user. Answered by [`Reply::End`] when that is in the ledger.
    Forget {
        user: String,
        /// For what could not be written yet.
        anonymous: String,
    },
    Status,
}

impl Request {
    /// Whether it may have been paid for when its reply is lost.
    pub fn may_cost(&self) -> bool {
        match self {
            Self::Chat { .. } | Self::Stream(_) | Self::Many(_) | Self::AwaitJob { .. } => true,
            Self::Outbox
            | Self::Catalogues(_)
            | Self::CheckKey(_)
            | Self::SyncSoon(_)
            | Self::SyncNow(_)
            | Self::Reseal { .. }
            | Self::Forget { .. }
            | Self::Status => false,
        }
    }

    /// For whose sake it comes; "": nobody's in particular.
    fn user(&self) -> &str {
        match self {
            Self::Chat { call, .. } => &call.user_id,
            Self::Stream(call) => &call.user_id,
            Self::Many(batch) => batch.calls.first().map_or("", |call| &call.user_id),
            Self::CheckKey(check) => check.key.binding.user_id.as_deref().unwrap_or(""),
            Self::SyncSoon(sync) | Self::SyncNow(sync) => {
                sync.own_key.as_ref().and_then(|key| key.binding.user_id.as_deref()).unwrap_or("")
            }
            _ => "",
        }
    }
}

/// How the ledger settled the attempt that answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settled {
    /// USD, as `numeric` prints it.
    pub cost: Option<String>,
    pub cost_source: Option<String>,
}

/// What became of a chat call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatReply {
    pub outcome: Result<ChatAnswer, Error>,
    /// Attempts for which a usage row was opened.
    pub attempts: u16,
    pub latency_ms: u64,
    /// How far a call that failed got. No session asks.
    #[serde(skip)]
    pub sent: Sent,
    /// What the answers have cost of a call that failed because none fits its schema, or after one that does not.
    pub spent: Option<Settled>,
}

/// A call that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// Name of the provider that served it.
    pub provider: String,
    /// The upstream's answer, fit for `jsonb`.
    pub response: String,
    pub served_model: String,
    pub settled: Settled,
    /// The provider's own, where a request went as it came and its answer came whole.
    #[serde(skip)]
    pub native: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Microseconds since 1970.
    pub started_at: i64,
    pub in_flight: u64,
    pub served: u64,
    pub ledger_queue: u64,
    /// Chat calls that wait for a limit in flight.
    pub waiting: u64,
    /// The longest that the gateway's thread was held lately.
    pub stall_ms: u64,
    /// Where HTTP requests are taken.
    pub http_address: Option<String>,
    /// Why they are not.
    pub http_error: Option<String>,
    /// Processes that answer the console.
    pub clerks: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// [`Request::Outbox`] is taken. Any other request is, as soon as all of it is read: a worker that closes
    /// the connection before that, or says [`Reply::Unread`], has not seen it, and it is sent again.
    Accepted,
    /// The request is another worker's.
    Unread,
    Chat(Box<ChatReply>),
    /// What the answer gains.
    Delta(String),
    /// How the call at this place of the batch ended.
    Item {
        index: u32,
        reply: Box<ChatReply>,
    },
    End,
    /// The call goes on as a job, in this life of the worker.
    HandedOver {
        epoch: i64,
    },
    /// In the order of the request.
    Catalogues(Vec<Result<Fetched, Error>>),
    /// Whether the provider takes the key.
    CheckKey(Result<Verdict, Error>),
    SyncSoon,
    SyncNow(Result<(), Error>),
    Reseal(Result<Vec<Vec<u8>>, Error>),
    Status(Box<Status>),
    /// The request failed as a whole.
    Failed(Error),
}

/// A frame with its header.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut frame = postcard::to_extend(value, vec![0; HEADER_LEN]).expect("frames can be encoded");
    let len = (frame.len() - HEADER_LEN) as u32;
    frame[..HEADER_LEN].copy_from_slice(&len.to_le_bytes());
    frame
}

/// A request's frame, with its header and for whose sake it comes.
pub fn encode_request(extension: u32, request: &Request) -> Vec<u8> {
    let user = request.user();
    // No id is longer; of one that was, the beginning would do to tell users apart.
    let mut end = user.len().min(usize::from(u8::MAX));
    while !user.is_char_boundary(end) {
        end -= 1;
    }
    let user = &user[..end];
    let start = HEADER_LEN + 1 + user.len();
    let addressed = Addressed { extension, request };
    let mut frame = postcard::to_extend(&addressed, vec![0; start]).expect("frames can be encoded");
    let len = (frame.len() - start) as u32;
    frame[..HEADER_LEN].copy_from_slice(&len.to_le_bytes());
    frame[HEADER_LEN] = user.len() as u8;
    frame[HEADER_LEN + 1..start].copy_from_slice(user.as_bytes());
    frame
}

/// The length that a header announces, if it is sane.
pub fn body_len(header: [u8; HEADER_LEN]) -> Option<usize> {
    Some(u32::from_le_bytes(header) as usize).filter(|len| *len <= MAX_FRAME)
}

/// Reads a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let frame = encode(&Reply::Failed(Error::bad_request("x")));
        let len = body_len(frame[..4].try_into().unwrap()).unwrap();
        assert_eq!(len, frame.len() - 4);
        assert!(matches!(decode(&frame[4..]), Some(Reply::Failed(Error::BadRequest { .. }))));
    }

    #[test]
    fn garbage_is_no_frame() {
        assert!(decode::<Request>(&[255; 9]).is_none());
        assert!(body_len([255; 4]).is_none());
    }
}
