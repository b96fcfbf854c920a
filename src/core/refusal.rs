//! An upstream's refusal, and what it is about. This is the one place that says whether a refusal
//! means the key, the account's money, what the key may do, or the length of the prompt: calls,
//! jobs, key checks, syncs and health all ask here.

mod body;
mod sayings;
#[cfg(test)]
mod tests;

pub use body::{inside_200, inside_success, instead, read};
pub use sayings::is_out_of_credit;

use serde::{Deserialize, Serialize};

/// An upstream's refusal, as far as it may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The HTTP status, or the status that an error inside a 200 names.
    pub status: u16,
    pub about: About,
    /// The upstream's own code, such as `rate_limit_exceeded`.
    pub code: Option<String>,
    /// The upstream's message, shortened, keys removed.
    pub message: Option<String>,
    pub request_id: Option<String>,
    pub retry_after_s: Option<u64>,
}

/// What a refusal is about, as far as its status, code and words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum About {
    /// The key: unknown, expired or revoked. It is good for nothing until it is changed.
    Key,
    /// What this key, this account or this place may do: a region, a service that is not enabled.
    /// The key itself is known to the provider.
    Permission,
    /// The account has no money left.
    Credit,
    /// The prompt, with the answer it asks for, is longer than the model takes.
    TooLong,
    /// Anything else, or it does not say.
    Other,
}

impl Refusal {
    /// A refusal of this status, code and message, and what they say that it is about.
    #[cfg(test)]
    pub fn new(status: u16, code: Option<String>, message: Option<String>) -> Self {
        let about =
            sayings::about(Some(status), code.as_slice(), message.as_deref().unwrap_or_default());
        Self { status, about, code, message, request_id: None, retry_after_s: None }
    }

    /// Whether a request without a key was refused for want of one. A 403 that says nothing else
    /// counts too: nothing but a key can tell more.
    pub fn wants_key(&self) -> bool {
        match self.about {
            About::Key => true,
            About::Other => matches!(self.status, 401 | 403),
            About::Permission | About::Credit | About::TooLong => false,
        }
    }
}

/// What a provider's answer says about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Valid,
    /// In these words.
    Refused(Box<Refusal>),
}
