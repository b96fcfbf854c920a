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
