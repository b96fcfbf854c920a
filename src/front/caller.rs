//! Who is calling, and for whom they may spend. Nobody is anybody by default.

use crate::clock::unix_micros;
use crate::core::front::credential::{self, Credential, Refusal};
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::token::Claims;
use crate::core::front::token::cache::Verifier;
use crate::core::front::token::keys::{Keys, LONGEST_SECRET};
use crate::error::Error;
use crate::front::{Front, files};
use crate::gateway::ledger::{Ledger, Task, Vouched, Whose};
use crate::gateway::{AnonymousUsers, Http};
use http::HeaderMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Roles of which it is kept what they may do.
const MOST_ROLES: usize = 256;

/// Somebody who may spend.
#[derive(Debug, Clone)]
pub struct Caller {
    pub whose: Whose,
    /// By which generation of rights, and when that was looked at: microseconds since 1970.
    pub generation: u64,
    pub at: i64,
    claims: Arc<Claims>,
}

/// How callers are known.
#[derive(Default)]
pub struct Callers {
    tokens: Mutex<Tokens>,
    roles: Mutex<HashMap<String, Vouched>>,
}

#[derive(Default)]
struct Tokens {
    /// `None`: no token is accepted.
    verifier: Option<Verifier>,
}

impl Callers {
    /// Makes a new verifier, as the settings are: nothing that the last one has vouched for is kept. What cannot
    /// be used accepts no token. Gives back what is wrong.
    pub fn reload(&self, http: &Http) -> Vec<String> {
        let read = http.token_keys.as_deref().map(read_keys).transpose();
        let (keys, problems) = match read {
            Ok(keys) => {
                let problems = keys.as_ref().map(problems).unwrap_or_default();
                (keys, problems)
            }
            Err(problem) => (None, vec![format!("no access token is accepted: {problem}")]),
        };
        let verifier = keys.map(|keys| Verifier::new(keys, http.token_rules.clone()));
        *lock(&self.tokens) = Tokens { verifier };
        problems
    }

    /// Who shows the credential of these headers, if they may spend.
    pub async fn identify(&self, front: &Front, headers: &HeaderMap) -> Result<Caller, Failure> {
        let shown = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let claims = match credential::find(shown)? {
            Credential::Token(token) => self.verify(token)?,
            // No gateway key is known here yet.
            Credential::Key(_) => return Err(Refusal::DeadKey.into()),
        };
        let caller = self.vouch(front, claims).await;
        caller.map_err(|error| Failure::of(&error, Sent::Nothing))
    }

    /// Refuses whoever is not a reader or an administrator, by the role of an access token: a gateway key has none.
    pub async fn check_reader(&self, front: &Front, headers: &HeaderMap) -> Result<(), Failure> {
        let shown = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let claims = match credential::find(shown)? {
            Credential::Token(token) => self.verify(token)?,
            Credential::Key(_) => return Err(Refusal::Unknown.into()),
        };
        let (reply, answered) = oneshot::channel();
        front.shared.ledger.send(Task::MayRead(claims.role.clone(), reply));
        let may_read = answered.await.map_err(|_| stopping()).flatten();
        match may_read.map_err(|error| Failure::of(&error, Sent::Nothing))? {
            true => Ok(()),
            false => {
                let action = "read the metrics, which takes the right of a reader".to_owned();
                let error = Error::Forbidden { role: claims.role.clone(), action };
                Err(Failure::of(&error, Sent::Nothing))
            }
        }
    }

    fn verify(&self, token: &str) -> Result<Arc<Claims>, Refusal> {
        let now = unix_micros() / 1_000_000;
        let mut tokens = lock(&self.tokens);
        let verifier = tokens.verifier.as_mut().ok_or(Refusal::NoTokens)?;
        Ok(verifier.verify(token, now)?)
    }

    /// The same caller as of now: what they may do can have changed.
    pub async fn again(&self, front: &Front, caller: &Caller) -> Result<Caller, Error> {
        self.vouch(front, caller.claims.clone()).await
    }

    async fn vouch(&self, front: &Front, claims: Arc<Claims>) -> Result<Caller, Error> {
        let forbidden =
            || Error::Forbidden { role: claims.role.clone(), action: "chat over HTTP".to_owned() };
        let own_keys_only = match front.shared.settings().http.anonymous_users {
            _ if !claims.is_anonymous => false,
            AnonymousUsers::Allow => false,
            AnonymousUsers::OwnKeys => true,
            AnonymousUsers::Refuse => {
                return Err(Error::Anonymous {
                    action: "chat without having signed in".to_owned(),
                });
            }
        };
        let at = unix_micros();
        let vouched = self.may_spend(front, &claims.role).await?;
        if !vouched.may_spend {
            return Err(forbidden());
        }
        let whose = Whose { user: claims.user_id.clone(), own_keys_only };
        Ok(Caller { whose, generation: vouched.generation, at, claims })
    }

    /// Whether a role may spend, as it is kept for this generation, or as the main thread says.
    async fn may_spend(&self, front: &Front, role: &str) -> Result<Vouched, Error> {
        let generation = front.generation().await?;
        let kept = lock(&self.roles).get(role).copied();
        if let Some(vouched) = kept.filter(|vouched| vouched.generation == generation) {
            return Ok(vouched);
        }
        let role = role.to_owned();
        let (reply, answered) = oneshot::channel();
        front.shared.ledger.send(Task::MaySpend(role.clone(), reply));
        let vouched = answered.await.map_err(|_| stopping())??;
        // Who may not is asked after each time: nobody would tell that they may now.
        if !vouched.may_spend {
            return Ok(vouched);
        }
        let mut roles = lock(&self.roles);
        if roles.len() >= MOST_ROLES && !roles.contains_key(&role) {
            roles.clear();
        }
        roles.insert(role, vouched);
        Ok(vouched)
    }
}

/// The generation of rights and routes as of now, asked of the main thread.
pub async fn ask_generation(ledger: &Ledger) -> Result<u64, Error> {
    let (reply, answered) = oneshot::channel();
    ledger.send(Task::Generation(reply));
    let unknown = || Error::Ledger { reason: "the database does not answer".to_owned() };
    answered.await.map_err(|_| stopping())?.ok_or_else(unknown)
}

/// The worker ends before it has answered.
pub fn stopping() -> Error {
    Error::Ledger { reason: "the worker is stopping".to_owned() }
}

/// What an administrator should know of keys that can be used.
fn problems(keys: &Keys) -> Vec<String> {
    let skipped = keys.skipped().iter().map(|(place, why)| {
        format!("aggregator.jwt_secret_file: key {place} is passed over: it {why}")
    });
    let example = keys.has_example().then(|| {
        "aggregator.jwt_secret_file: a secret of somebody's documentation is in it, which everybody knows".to_owned()
    });
    skipped.chain(example).collect()
}

/// Reads the keys of tokens from a file that nobody else can read or write.
fn read_keys(path: &Path) -> Result<Keys, String> {
    let said = |problem: String| format!("aggregator.jwt_secret_file: {problem}");
    let secret = files::read_secret(path, LONGEST_SECRET).map_err(said)?;
    Keys::parse(&secret).map_err(|error| said(error.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
