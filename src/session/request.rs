//! From a checked request to a call for the gateway: who pays, who may serve it, how long it may
//! take.

use crate::core::budget::Rules;
use crate::core::options::Prepared;
use crate::core::tags::Labels;
use crate::error::{Error, Target};
use crate::protocol::{Candidate, ChatCall, Checking, Whose};
use crate::session::owner::installed;
use crate::session::{deadline, identity, route};
use crate::{route_cache, settings, time};
use std::sync::Arc;
use uuid::Uuid;

/// Of the argument that names a provider, in bytes.
const LONGEST_PROVIDER: usize = 255;

/// A call, resolved as of now: not as its transaction or its statement saw the rules at its start.
pub struct Resolved {
    pub whose: Whose,
    pub candidates: Arc<[Candidate]>,
    rules: Arc<Rules>,
    /// Microseconds since 1970, from before they were read.
    at: i64,
}

impl Resolved {
    pub fn find(
        prepared: &Prepared,
        provider: Option<&str>,
        p_user_id: Option<&str>,
    ) -> Result<Self, Error> {
        prepared.within(settings::max_request_size())?;
        if provider.is_some_and(|name| name.len() > LONGEST_PROVIDER) {
            let what =
                format!("provider must be a name or an id, of at most {LONGEST_PROVIDER} bytes");
            return Err(Error::bad_request(what));
        }
        let whose = identity::acting(p_user_id, "chat")?;
        let at = time::now();
        let installed = installed()?;
        let (candidates, rules) =
            route_cache::get(&installed, &whose, prepared.models(), provider, || {
                let found = route::candidates(&installed, prepared, &whose, provider)?;
                Ok((found.0.into(), Arc::new(found.1)))
            })?;
        Ok(Self { whose, candidates, rules, at })
    }

    /// Refuses what would become a job, with which it is not kept by whose keys it may be served.
    pub fn may_wait(&self) -> Result<(), Error> {
        match self.whose.own_keys_only {
            true => Err(Error::NotSignedIn { action: "submit a job".to_owned() }),
            false => Ok(()),
        }
    }

    /// Whom the call would ask first, for messages.
    pub fn target(&self) -> Target {
        self.candidates[0].target()
    }

    pub fn call(&self, prepared: &Prepared, deadline_ms: u64) -> ChatCall {
        // From SQL no gateway key comes: it has roles.
        let labels = Labels::of(None, &prepared.tags);
        ChatCall {
            kind: prepared.kind,
            call_id: Uuid::now_v7(),
            user_id: self.whose.user.clone(),
            candidates: self.candidates.clone(),
            body: prepared.body().into(),
            max_retries: prepared.max_retries,
            deadline_ms,
            stream_upstream: prepared.stream_upstream,
            cache: prepared.caching(),
            rules: Rules::about(&self.rules, labels.as_deref()),
            resolved_at: self.at,
            earlier_attempts: 0,
            labels,
            check: Checking::of(prepared),
            generation: None,
            native: None,
            standings: None,
        }
    }
}

/// Milliseconds that the statement can wait and still give its caller an answer or a clear error.
/// `None`: as long as it takes.
pub fn usable_ms() -> Option<u64> {
    deadline::left_ms().map(|left| left.saturating_sub(deadline::margin_ms(left)))
}

/// The statement's time does not suffice for anything.
pub fn no_time(target: Target) -> Error {
    Error::NoTime { target, left_ms: deadline::left_ms().unwrap_or(0) }
}
