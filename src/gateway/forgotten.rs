//! Users who are being forgotten: their calls in flight end, and what was on its way to the gateway does
//! not begin. Whoever comes later under the same id is somebody else.

use crate::clock::unix_micros;
use crate::error::Error;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

/// No call is on its way for longer than the longest timeout, a day.
const LONGEST_MS: u64 = 25 * 60 * 60 * 1000;
/// How long the end of calls is waited for. It takes no time but that of other tasks.
const PATIENCE: Duration = Duration::from_secs(5);

/// A user, by a hash of the id, and the last millisecond of their calls.
pub type Mark = ([u8; 32], u64);

/// Who runs, and who was forgotten.
#[derive(Debug, Default)]
pub struct Forgotten(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// For each user with calls in flight, what tells them to end.
    running: HashMap<String, watch::Sender<bool>>,
    marks: HashMap<[u8; 32], u64>,
}

/// The permission to run of one call.
struct Ticket<'a> {
    forgotten: &'a Forgotten,
    user: &'a str,
    is_over: Option<watch::Receiver<bool>>,
}

/// The hash by which a user is remembered as forgotten.
pub fn hash(user: &str) -> [u8; 32] {
    Sha256::digest(user.as_bytes()).into()
}

impl Forgotten {
    /// With those whom the last worker knew.
    pub fn new(marks: impl IntoIterator<Item = Mark>) -> Self {
        let state = State { running: HashMap::new(), marks: marks.into_iter().collect() };
        Self(Mutex::new(state))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a call of a user, or what else is theirs, to its end or to that of the user. Pinned by whoever
    /// asks: what a call is on its way is large, and would be here twice.
    pub async fn guard<T>(
        &self,
        user: &str,
        call: Uuid,
        run: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> Result<T, Error> {
        let ticket = self.enter(user, call)?;
        tokio::select! {
            outcome = run => outcome,
            () = ticket.revoked() => Err(Error::Forgotten),
        }
    }

    /// Lets a call begin, unless its user was forgotten since it was made.
    fn enter<'a>(&'a self, user: &'a str, call: Uuid) -> Result<Ticket<'a>, Error> {
        let mut state = self.lock();
        if !state.marks.is_empty()
            && let Some(last) = state.marks.get(&hash(user))
            && made_at_ms(call).is_some_and(|made| made <= *last)
        {
            return Err(Error::Forgotten);
        }
        let is_over = match state.running.get(user) {
            Some(running) => running.subscribe(),
            None => {
                let (running, is_over) = watch::channel(false);
                state.running.insert(user.to_owned(), running);
                is_over
            }
        };
        Ok(Ticket { forgotten: self, user, is_over: Some(is_over) })
    }

    /// Whether a user was forgotten after this moment (microseconds since 1970).
    pub fn is_after(&self, user: &str, at: i64) -> bool {
        let state = self.lock();
        !state.marks.is_empty()
            && state
                .marks
                .get(&hash(user))
                .is_some_and(|last| u64::try_from(at / 1000).unwrap_or(0) <= *last)
    }

    /// Ends the calls of a user, and returns when they have ended.
    pub async fn forget(&self, user: &str) {
        let now = u64::try_from(unix_micros() / 1000).unwrap_or(0);
        let running = {
            let mut state = self.lock();
            state.marks.retain(|_, last| *last + LONGEST_MS > now);
            state.marks.insert(hash(user), now);
            state.running.remove(user)
        };
        if let Some(running) = running {
            running.send_replace(true);
            let _ = timeout(PATIENCE, running.closed()).await;
        }
    }
}

impl Ticket<'_> {
    /// Returns when the user is forgotten.
    async fn revoked(&self) {
        let Some(mut is_over) = self.is_over.clone() else { return };
        // Without a sender nobody can be forgotten by it any more.
        if is_over.wait_for(|is_over| *is_over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.forgotten.lock();
        self.is_over = None;
        if state.running.get(self.user).is_some_and(|running| running.receiver_count() == 0) {
            state.running.remove(self.user);
        }
    }
}

/// When a call was made, by its id.
fn made_at_ms(call: Uuid) -> Option<u64> {
    let (seconds, nanos) = call.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn calls_in_flight_end_and_later_ones_begin() {
        let forgotten = Arc::new(Forgotten::default());
        let early = Uuid::now_v7();
        let other = forgotten.enter("b", Uuid::now_v7()).unwrap();
        let by_call = forgotten.clone();
        let call = tokio::spawn(async move {
            let ticket = by_call.enter("a", Uuid::now_v7()).unwrap();
            ticket.revoked().await;
        });
        tokio::task::yield_now().await;
        forgotten.forget("a").await;
        assert!(call.is_finished());
        assert!(matches!(forgotten.enter("a", early), Err(Error::Forgotten)));
        assert!(forgotten.enter("b", early).is_ok());
        // An id without a time is of no call that is on its way.
        assert!(forgotten.enter("a", Uuid::new_v4()).is_ok());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let later = forgotten.enter("a", Uuid::now_v7()).unwrap();
        assert!(timeout(Duration::from_millis(10), later.revoked()).await.is_err());
        assert!(timeout(Duration::from_millis(10), other.revoked()).await.is_err());
        drop((later, other));
        assert!(forgotten.lock().running.is_empty());
    }

    #[test]
    fn the_next_worker_knows_them_too() {
        let early = Uuid::now_v7();
        let now = u64::try_from(unix_micros() / 1000).unwrap();
        let forgotten = Forgotten::new([(hash("a"), now)]);
        assert!(matches!(forgotten.enter("a", early), Err(Error::Forgotten)));
        assert!(forgotten.enter("b", early).is_ok());
    }
}
