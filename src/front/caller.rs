//! Who is calling, and for whom they may spend. Nobody is anybody by default.

use crate::clock::unix_micros;
use crate::core::front::credential::{self, Credential, Refusal};
use crate::core::front::failure::{Failure, Refused, Sent};
use crate::core::front::gateway_key::{GatewayKey, KeyHash};
use crate::core::front::opaque::Hash;
use crate::core::front::proxies::machine;
use crate::core::front::session::{self, Session};
use crate::core::front::throttle::{Source, Throttle};
use crate::core::front::token::Claims;
use crate::core::front::token::cache::{Verifier, print};
use crate::core::front::token::keys::{Keys, LONGEST_SECRET};
use crate::core::tags::Labels;
use crate::error::Error;
use crate::front::connection::Peer;
use crate::front::kept::Kept;
use crate::front::{Front, files};
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{Found, Task, Vouched};
use crate::gateway::{AnonymousUsers, Http};
use crate::protocol::Whose;
use http::HeaderMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Roles of which it is kept what they may do, and gateway keys.
const MOST_ROLES: usize = 256;
const MOST_KEYS: usize = 1024;
/// Sessions of the console.
const MOST_SESSIONS: usize = 1024;
/// Who asks who somebody is.
const NOBODY_YET: &str = "";

/// Somebody who may spend.
#[derive(Debug, Clone)]
pub struct Caller {
    pub whose: Whose,
    /// By which generation of rights, and when that was looked at: microseconds since 1970.
    pub generation: u64,
    pub at: i64,
    /// May see and cancel the jobs of others.
    pub is_admin: bool,
    shown: Shown,
}

/// By what a caller is known.
#[derive(Debug, Clone)]
enum Shown {
    Token(Arc<Claims>),
    Key(KeyHash, Arc<GatewayKey>),
    Session(Hash, Arc<Session>),
}

/// How sure it must be that what a caller may do has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// As far as the main thread has looked: the ledger looks once more before anything is sent.
    AsKept,
    /// Asked for now.
    AsOfNow,
}

/// The generation of rights and routes, and when that was looked at: microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub generation: u64,
    pub at: i64,
}

impl Caller {
    /// The claims of the access token that was shown.
    pub fn claims(&self) -> Option<&Claims> {
        match &self.shown {
            Shown::Token(claims) => Some(claims),
            Shown::Key(..) | Shown::Session(..) => None,
        }
    }

    /// The gateway key that was shown.
    pub fn gateway_key(&self) -> Option<&GatewayKey> {
        match &self.shown {
            Shown::Token(_) | Shown::Session(..) => None,
            Shown::Key(_, key) => Some(key),
        }
    }

    /// The session of the console whose token was shown.
    pub fn session(&self) -> Option<&Session> {
        match &self.shown {
            Shown::Session(_, session) => Some(session),
            Shown::Token(_) | Shown::Key(..) => None,
        }
    }

    /// What a call of theirs with these tags is found again by.
    pub fn labels(&self, tags: &[String]) -> Result<Option<Arc<Labels>>, Error> {
        match self.gateway_key() {
            Some(key) => key.labels(tags),
            None => Ok(Labels::of(None, tags)),
        }
    }
}

/// How callers are known.
#[derive(Default)]
pub struct Callers {
    tokens: Mutex<Tokens>,
    failures: Mutex<Throttle>,
    /// Roles that tokens claim, and those that have signed in or made a key themselves.
    roles: Kept<String, Vouched, MOST_ROLES>,
    acting: Kept<String, Vouched, MOST_ROLES>,
    keys: Kept<KeyHash, Arc<GatewayKey>, MOST_KEYS>,
    sessions: Kept<Hash, Arc<Session>, MOST_SESSIONS>,
    /// Keys and sessions that have passed, at whatever time.
    passed: Mutex<HashSet<Hash>>,
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
    pub async fn identify(
        &self,
        front: &Front,
        peer: Peer,
        headers: &HeaderMap,
        rights: Rights,
    ) -> Result<Caller, Failure> {
        let shown = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let machine = another_machine(front, peer);
        let of = |error: Error| Failure::of(&error, Sent::Nothing);
        let credential = match credential::find(shown) {
            Ok(credential) => credential,
            Err(Refusal::Missing) => return Err(Refusal::Missing.into()),
            // What cannot be one is seen at once.
            Err(refusal) => {
                return Err(match machine.map(Source::Address) {
                    Some(source) => self.failed(self.may_try(source)?, refusal),
                    None => refusal.into(),
                });
            }
        };
        match credential {
            Credential::Token(token) => {
                let claims = self.verify(token, machine)?;
                let look = front.look(rights).await.map_err(of)?;
                self.vouch(front, claims, look).await.map_err(of)
            }
            Credential::Key(hash) => {
                let source = self.may_try_again(machine, hash)?;
                let look = front.look(rights).await.map_err(of)?;
                let found = self.find(front, hash, look).await.map_err(of)?;
                found.ok_or_else(|| self.failed(source, Refusal::DeadKey))
            }
            Credential::Session(hash) => {
                let source = self.may_try_again(machine, hash)?;
                let look = front.look(rights).await.map_err(of)?;
                let found = self.find_session(front, hash, look).await.map_err(of)?;
                found.ok_or_else(|| self.failed(source, Refusal::DeadSession))
            }
        }
    }

    /// Refuses whoever is not a reader or an administrator, by the role of an access token: a gateway key has none.
    pub async fn check_reader(
        &self,
        front: &Front,
        peer: Peer,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        let shown = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let claims = match credential::find(shown)? {
            Credential::Token(token) => self.verify(token, another_machine(front, peer))?,
            Credential::Key(_) | Credential::Session(_) => return Err(Refusal::Unknown.into()),
        };
        let of = |error: Error| Failure::of(&error, Sent::Nothing);
        let turn = front.questions.turn(NOBODY_YET).await.map_err(of)?;
        let role = claims.role.clone();
        match turn.ask(|reply| Task::MayRead(role, reply)).await.flatten().map_err(of)? {
            true => Ok(()),
            false => {
                let action = "read the metrics, which takes the right of a reader".to_owned();
                Err(of(Error::Forbidden { role: claims.role.clone(), action }))
            }
        }
    }

    /// What a token says that holds now. Whoever was vouched for before is not kept out by what others show.
    fn verify(&self, token: &str, machine: Option<IpAddr>) -> Result<Arc<Claims>, Failure> {
        let now = unix_micros() / 1_000_000;
        let mut tokens = lock(&self.tokens);
        let verifier = tokens.verifier.as_mut().ok_or(Refusal::NoTokens)?;
        let print = print(token).map_err(Refusal::from)?;
        if let Some(known) = verifier.known(&print, now) {
            return known.map_err(|error| Refusal::from(error).into());
        }
        let source = self.may_try(laid_to(machine, &print))?;
        let verified = verifier.verify(token, print, now);
        verified.map_err(|error| self.failed(source, error.into()))
    }

    /// Exchanges the code of a link for this token: until when that passes, in microseconds since 1970.
    pub async fn sign_in(
        &self,
        front: &Front,
        peer: Peer,
        code: &str,
        token: Hash,
    ) -> Result<i64, Failure> {
        let machine = another_machine(front, peer);
        let Some(code) = session::read_code(code.as_bytes()) else {
            return Err(match machine.map(Source::Address) {
                Some(source) => self.failed(self.may_try(source)?, Refusal::DeadCode),
                None => Refusal::DeadCode.into(),
            });
        };
        let source = self.may_try(laid_to(machine, &code.0))?;
        let of = |error: Error| Failure::of(&error, Sent::Nothing);
        let turn = front.questions.turn(NOBODY_YET).await.map_err(of)?;
        let asking = turn.ask(|reply| Task::SignIn { code, token, reply });
        let until = asking.await.flatten().map_err(of)?;
        until.ok_or_else(|| self.failed(source, Refusal::DeadCode))
    }

    /// Whether one more key or session is looked for. One that has passed before is not kept out by what others show.
    fn may_try_again(&self, machine: Option<IpAddr>, hash: Hash) -> Result<Source, Failure> {
        let machine = machine.filter(|_| !lock(&self.passed).contains(&hash));
        self.may_try(laid_to(machine, &hash.0))
    }

    fn note_passed(&self, hash: Hash) {
        let mut passed = lock(&self.passed);
        if passed.len() >= MOST_KEYS + MOST_SESSIONS {
            passed.clear();
        }
        passed.insert(hash);
    }

    /// Whether one more credential of this source is looked at.
    fn may_try(&self, source: Source) -> Result<Source, Failure> {
        match lock(&self.failures).wait(source, unix_micros()) {
            None => Ok(source),
            Some(wait) => Err(Failure::refused(&Refused::TooManyFailures { wait })),
        }
    }

    /// One was bad.
    fn failed(&self, source: Source, refusal: Refusal) -> Failure {
        lock(&self.failures).note(source, unix_micros());
        refusal.into()
    }

    /// The same caller as of now: what they may do can have changed.
    pub async fn again(&self, front: &Front, caller: &Caller) -> Result<Caller, Error> {
        let look = front.look(Rights::AsKept).await?;
        match &caller.shown {
            Shown::Token(claims) => self.vouch(front, claims.clone(), look).await,
            Shown::Key(hash, _) => {
                let found = self.find(front, *hash, look).await?;
                found.ok_or(Error::NoGatewayKey)
            }
            Shown::Session(hash, _) => {
                let found = self.find_session(front, *hash, look).await?;
                found.ok_or(Error::NoSession)
            }
        }
    }

    async fn vouch(&self, front: &Front, claims: Arc<Claims>, look: Look) -> Result<Caller, Error> {
        let forbidden =
            || Error::Forbidden { role: claims.role.clone(), action: "chat over HTTP".to_owned() };
        let own_keys_only = own_keys_only(front, claims.is_anonymous)?;
        let Vouched { may_spend, is_admin, generation, .. } =
            self.may_spend(front, &claims.role, look.generation).await?;
        if !may_spend {
            return Err(forbidden());
        }
        let whose = Whose { own_keys_only, ..Whose::of(claims.user_id.as_str(), None) };
        Ok(Caller { whose, generation, at: look.at, is_admin, shown: Shown::Token(claims) })
    }

    /// Whose a gateway key is, as it is kept for this generation, or as the main thread says. It administers
    /// nothing, whoever its owner is.
    async fn find(
        &self,
        front: &Front,
        hash: KeyHash,
        look: Look,
    ) -> Result<Option<Caller>, Error> {
        let asked = |reply| Task::GatewayKey(hash, reply);
        let found = self.known(front, &self.keys, hash, look, asked).await?;
        let Some((key, generation)) = found else { return Ok(None) };
        // That its time is over changes no generation.
        if !key.passes(unix_micros()) {
            return Ok(None);
        }
        front.shared.settings().http.anonymous_users.check_key(&key)?;
        let whose = Whose::of(key.user_id.as_str(), Some(key.id));
        let shown = Shown::Key(hash, key);
        Ok(Some(Caller { whose, generation, at: look.at, is_admin: false, shown }))
    }

    /// Whose a session is, likewise, with the rights that its role has now.
    async fn find_session(
        &self,
        front: &Front,
        hash: Hash,
        look: Look,
    ) -> Result<Option<Caller>, Error> {
        let asked = |reply| Task::Session(hash, reply);
        let found = self.known(front, &self.sessions, hash, look, asked).await?;
        let Some((session, generation)) = found else { return Ok(None) };
        if !session.lasts(unix_micros()) {
            return Ok(None);
        }
        let own_keys_only = own_keys_only(front, session.is_anonymous)?;
        let vouched = self.may_act(front, &session.role, generation).await?;
        if !vouched.may_spend {
            let action = "use the console".to_owned();
            return Err(Error::Forbidden { role: session.role.clone(), action });
        }
        let whose = Whose { own_keys_only, ..Whose::of(session.user_id.as_str(), None) };
        Ok(Some(Caller {
            whose,
            // What is older decides: the ledger refuses both where only one of them is of now.
            generation: generation.min(vouched.generation),
            at: look.at,
            is_admin: vouched.is_admin,
            shown: Shown::Session(hash, session),
        }))
    }

    /// What has this hash, as it is kept for this generation, or as the main thread says, and as of which generation.
    async fn known<T, const MOST: usize>(
        &self,
        front: &Front,
        kept: &Kept<Hash, Arc<T>, MOST>,
        hash: Hash,
        look: Look,
        asked: impl FnOnce(oneshot::Sender<Result<Found<T>, Error>>) -> Task,
    ) -> Result<Option<(Arc<T>, u64)>, Error> {
        if let Some(known) = kept.get(&hash, look.generation) {
            return Ok(Some((known, look.generation)));
        }
        // The main thread has more to do than to look for what nobody has made.
        let turn = front.questions.turn(NOBODY_YET).await?;
        let Found { found, generation } = turn.ask(asked).await??;
        // Of what passes nothing, nothing is kept: nobody would tell that it does now.
        let Some(found) = found else { return Ok(None) };
        kept.keep(hash, found.clone(), generation);
        self.note_passed(hash);
        Ok(Some((found, generation)))
    }

    /// What a role may do that nobody need become, likewise.
    pub async fn may_act(
        &self,
        front: &Front,
        role: &str,
        generation: u64,
    ) -> Result<Vouched, Error> {
        if let Some(vouched) = self.acting.get(role, generation) {
            return Ok(vouched);
        }
        let turn = front.questions.turn(NOBODY_YET).await?;
        let vouched = turn.ask(|reply| Task::MayAct(role.to_owned(), reply)).await??;
        if vouched.may_spend {
            self.acting.keep(role.to_owned(), vouched, vouched.generation);
        }
        Ok(vouched)
    }

    /// What a role may do, as it is kept for this generation, or as the main thread says.
    async fn may_spend(
        &self,
        front: &Front,
        role: &str,
        generation: u64,
    ) -> Result<Vouched, Error> {
        if let Some(vouched) = self.roles.get(role, generation) {
            return Ok(vouched);
        }
        let turn = front.questions.turn(NOBODY_YET).await?;
        if let Some(vouched) = self.roles.get(role, generation) {
            return Ok(vouched);
        }
        let vouched = turn.ask(|reply| Task::MaySpend(role.to_owned(), reply)).await??;
        // Who may not is asked after each time: nobody would tell that they may now.
        if vouched.may_spend {
            self.roles.keep(role.to_owned(), vouched, vouched.generation);
        }
        Ok(vouched)
    }
}

/// Whether somebody may spend with their own keys only.
fn own_keys_only(front: &Front, is_anonymous: bool) -> Result<bool, Error> {
    match front.shared.settings().http.anonymous_users {
        _ if !is_anonymous => Ok(false),
        AnonymousUsers::Allow => Ok(false),
        AnonymousUsers::OwnKeys => Ok(true),
        AnonymousUsers::Refuse => Err(Error::NotSignedIn { action: "chat".to_owned() }),
    }
}

/// The machine that a request comes from, where that is another one than this and is known. A proxy that is trusted
/// and does not say for whom it asks is no caller.
fn another_machine(front: &Front, peer: Peer) -> Option<IpAddr> {
    let is_proxy = front.trusts(peer.from) && peer.address == peer.from;
    peer.address.filter(|_| !is_proxy).map(machine).filter(|address| !address.is_loopback())
}

/// What the failure of a credential is laid to, of which this is the SHA-256.
fn laid_to(machine: Option<IpAddr>, print: &[u8; 32]) -> Source {
    machine.map_or_else(
        || Source::Credential(std::array::from_fn(|place| print[place])),
        Source::Address,
    )
}

/// The generation of rights and routes as of now, asked of the main thread.
pub async fn ask_generation(ledger: &Ledger) -> Result<u64, Error> {
    let unknown = || Error::Ledger { reason: "the database does not answer".to_owned() };
    ledger.ask(Task::Generation).await?.ok_or_else(unknown)
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
