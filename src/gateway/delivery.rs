//! How answers go to those who wait for them.

use crate::gateway::memory::Lease;
use crate::protocol::Reply;
use tokio::sync::mpsc;

/// How the caller wants its answer.
#[derive(Clone, Copy)]
pub enum Delivery<'a> {
    Whole,
    /// Whole, and written as the result of a job.
    Job,
    /// Text as it arrives, then the whole.
    Deltas(&'a Sink),
    /// All that arrives, then the whole.
    Chunks(&'a Pieces),
}

/// A reply, and the memory that it holds until the session has read it.
pub struct Outgoing {
    pub reply: Reply,
    pub lease: Option<Lease>,
}

impl From<Reply> for Outgoing {
    fn from(reply: Reply) -> Self {
        Self { reply, lease: None }
    }
}

/// Where replies go before the last one.
pub type Sink = mpsc::Sender<Outgoing>;

/// What arrives of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The JSON of a chunk in OpenAI's form.
    Chunk(String),
    /// Events of a provider that speaks the caller's own form, as they are written to it.
    Events(String),
}

impl Said {
    pub fn len(&self) -> usize {
        match self {
            Self::Chunk(text) | Self::Events(text) => text.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What arrives, and the memory that it holds until it is written.
pub struct Piece {
    pub said: Said,
    pub lease: Lease,
    /// Whose it is; the first one says so.
    pub provider: Option<String>,
}

/// Where pieces of an answer go: a channel of few places, which hold what is read of the upstream ahead of the caller.
pub type Pieces = mpsc::Sender<Piece>;
