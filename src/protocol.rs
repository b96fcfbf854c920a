//! The frames between a session and the gateway, over the worker's Unix socket.
//!
//! A frame is a length (4 bytes, little endian) and a postcard document. A session sends one
//! request and reads replies until the last one; closing the connection cancels the request.
//! Provider keys cross the socket sealed, never in the clear.

use crate::core::catalogue::Dialect;
use crate::core::secret::Binding;
use crate::core::standard::Standard;
use crate::error::{Error, Target};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Part of the socket's and the lock's name, so that an old session and a new worker never meet.
/// Raise it with every change of the types below.
pub const VERSION: u32 = 1;

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

/// One chat call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatCall {
    pub call_id: Uuid,
    pub user_id: String,
    pub provider: Provider,
    pub model_id: String,
    /// The row of `user_api_providers` that pays, and its key.
    pub user_provider_id: Uuid,
    pub key: SealedKey,
    /// `aggregator_models.pricing` as the caller's transaction saw it.
    pub pricing: Option<String>,
    /// The request's JSON.
    pub body: String,
    pub max_retries: u16,
    /// From now on.
    pub deadline_ms: u64,
}

/// A catalogue to fetch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogueFetch {
    pub provider: Provider,
    pub models_url: String,
    pub dialect: Dialect,
    /// Tried first, where there is one.
    pub platform_key: Option<SealedKey>,
    /// Tried only when the list is refused without it.
    pub fallback_key: Option<SealedKey>,
}

/// A catalogue as it arrived, ready for the SQL that stores it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetched {
    /// A JSON array of models.
    pub models: String,
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
    Chat(Box<ChatCall>),
    Catalogues(Vec<CatalogueFetch>),
    CheckKey(Box<KeyCheck>),
    /// Sync this provider soon; the reply does not wait for it.
    SyncSoon(Box<CatalogueFetch>),
    /// Open these envelopes and seal them with the newest master key.
    Reseal(Vec<SealedKey>),
    Status,
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
}

/// A call that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// The upstream's answer, fit for `jsonb`.
    pub response: String,
    pub served_model: String,
    pub settled: Settled,
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
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The request is taken: from here on it must not be sent again.
    Accepted,
    Chat(Box<ChatReply>),
    /// In the order of the request.
    Catalogues(Vec<Result<Fetched, Error>>),
    /// Whether the provider takes the key.
    CheckKey(Result<bool, Error>),
    SyncSoon,
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
