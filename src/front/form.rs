//! The bodies of a call, by whom they go to.

use crate::core::options::Prepared;
use crate::core::standard::anthropic::front::request::{BYTES_PER_VALUE, Incoming, Takes};
use crate::core::standard::anthropic::front::version::Version;
use crate::core::standard::{Standard, openai};
use crate::error::Error;
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::protocol::{Candidate, Native};
use std::sync::Arc;

/// In which form a call has come.
pub enum Form {
    /// In OpenAI's, which goes to everybody.
    Chat(Arc<String>),
    /// In Anthropic's, which goes to those who speak it as it came, and to others translated.
    Messages(Arc<Message>),
}

/// A request of Anthropic's form.
pub struct Message {
    pub body: String,
    pub version: Version,
    pub betas: Option<String>,
    /// How many values it has, by which translating it takes memory.
    pub values: usize,
}

/// What goes out: in OpenAI's form, and in Anthropic's own.
pub type Bodies = (Arc<String>, Option<Arc<Native>>);

impl Form {
    /// What goes out to these candidates.
    pub async fn bodies(
        &self,
        shared: &Shared,
        candidates: &Arc<[Candidate]>,
        lease: &Lease,
    ) -> Result<Bodies, Error> {
        match self {
            Self::Chat(body) => Ok((body.clone(), None)),
            Self::Messages(message) => {
                let (message, candidates) = (message.clone(), candidates.clone());
                let bytes = message.body.len();
                let mut working = lease.another();
                working.begin(message.values.saturating_mul(BYTES_PER_VALUE))?;
                shared.heavy.run(bytes, move || message.bodies(&candidates)).await?
            }
        }
    }
}

impl Message {
    fn bodies(&self, candidates: &[Candidate]) -> Result<Bodies, Error> {
        let request = Incoming::read(&self.body, self.version)?;
        let speaks_it = |candidate: &Candidate| candidate.provider.standard == Standard::Anthropic;
        let others: Vec<&str> = candidates
            .iter()
            .filter(|candidate| !speaks_it(candidate))
            .map(|candidate| candidate.model_id.as_str())
            .collect();
        let translated = match others.is_empty() {
            // It is asked for by a row that has become another since, if at all.
            true => Err(Error::NoRoute { model: request.model.clone() }),
            false => {
                let reasons = others.iter().all(|model| openai::reasons(model));
                let takes = Takes::of(others.iter().copied(), reasons);
                request.chat(takes).and_then(|chat| Prepared::from_http(&chat))
            }
        };
        if !candidates.iter().any(speaks_it) {
            return Ok((translated?.body().into(), None));
        }
        let (chat, only) = match translated {
            Ok(prepared) => (prepared.body(), None),
            // Nobody is told it.
            Err(error) => ("{}".to_owned(), Some(error)),
        };
        let (body, version, betas) =
            (Arc::new(request.native()?), self.version, self.betas.clone());
        Ok((Arc::new(chat), Some(Arc::new(Native { body, version, betas, only }))))
    }
}
