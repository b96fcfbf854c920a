//! A request that runs; durable jobs that do, what sessions have handed over, and who waits for the end
//! of a job.

use crate::error::Error;
use crate::gateway::delivery::Outgoing;
use crate::protocol::Reply;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

/// One request that runs. A panic in it fails it alone. Dropping it aborts it.
pub enum Running {
    /// In the task of its session.
    Here(Pin<Box<dyn Future<Output = Outgoing> + Send>>),
    /// In a task of its own: it goes on while its session is slow to take what has come already.
    Apart(JoinSet<Outgoing>),
}

impl Running {
    pub fn here(run: impl Future<Output = Outgoing> + Send + 'static) -> Self {
        Self::Here(Box::pin(run))
    }

    pub fn apart(run: impl Future<Output = Outgoing> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(run);
        Self::Apart(task)
    }
}

impl Future for Running {
    type Output = Outgoing;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outgoing> {
        let outgoing = match &mut *self {
            // What has panicked is never polled again.
            Self::Here(run) => match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
                Ok(polled) => Some(ready!(polled)),
                Err(_) => None,
            },
            Self::Apart(task) => ready!(task.poll_join_next(cx)).and_then(Result::ok),
        };
        Poll::Ready(outgoing.unwrap_or_else(|| Reply::Failed(Error::panicked()).into()))
    }
}

/// Jobs whose end is remembered, for those who come a moment late to wait for it.
const REMEMBERED: usize = 8192;
/// While so many run, what each of them writes may wait for that of others.
const MANY: usize = 16;

/// Jobs that run, and who waits for them.
#[derive(Default)]
pub struct Jobs(Mutex<State>);

#[derive(Default)]
struct State {
    running: HashMap<Uuid, AbortHandle>,
    waiting: HashMap<Uuid, Vec<oneshot::Sender<()>>>,
    /// Calls that each session, by its process id, has handed over in its present transaction.
    handed_over: HashMap<i32, Vec<Uuid>>,
    ended: HashSet<Uuid>,
    ended_in_order: VecDeque<Uuid>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a job in a task of its own, which says itself when it is [`over`](Self::over).
    pub fn run(&self, job: Uuid, run: impl Future<Output = ()> + Send + 'static) {
        // Held until the task is in the table, or one that ends at once would stay there.
        let mut state = self.lock();
        let task = tokio::spawn(run);
        state.running.insert(job, task.abort_handle());
    }

    /// Whether so many run that there is always another one.
    pub fn are_many(&self) -> bool {
        self.lock().running.len() >= MANY
    }

    /// The task of a job comes to its end.
    pub fn over(&self, job: Uuid) {
        self.lock().running.remove(&job);
    }

    /// A session has handed a call over, in its present transaction.
    pub fn hand_over(&self, session: i32, job: Uuid) {
        self.lock().handed_over.entry(session).or_default().push(job);
    }

    /// Aborts what runs; rows in flight are settled as cancelled.
    pub fn abort(&self, jobs: &[Uuid]) {
        let mut state = self.lock();
        for job in jobs {
            if let Some(task) = state.running.remove(job) {
                task.abort();
            }
        }
    }

    /// The transaction of a session is over: what it had handed over.
    pub fn settle_hand_overs(&self, session: i32) -> Vec<Uuid> {
        self.lock().handed_over.remove(&session).unwrap_or_default()
    }

    /// The results of these jobs are committed.
    pub fn ended(&self, jobs: Vec<Uuid>) {
        let mut state = self.lock();
        for job in jobs {
            state.waiting.remove(&job);
            if state.ended.insert(job) {
                state.ended_in_order.push_back(job);
            }
            if state.ended_in_order.len() > REMEMBERED
                && let Some(oldest) = state.ended_in_order.pop_front()
            {
                state.ended.remove(&oldest);
            }
        }
    }

    /// Returns when the job has ended, or the time is over.
    pub async fn wait(&self, job: Uuid, time: Duration) {
        let ended = {
            let mut state = self.lock();
            if state.ended.contains(&job) {
                return;
            }
            let (end, ended) = oneshot::channel();
            let waiting = state.waiting.entry(job).or_default();
            waiting.retain(|other| !other.is_closed());
            waiting.push(end);
            ended
        };
        let _ = timeout(time, ended).await;
        let mut state = self.lock();
        if state.waiting.get(&job).is_some_and(|all| all.iter().all(oneshot::Sender::is_closed)) {
            state.waiting.remove(&job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_own_request_alone() {
        async fn panics() -> Outgoing {
            panic!("on purpose")
        }
        for failed in [Running::here(panics()), Running::apart(panics())] {
            let reply = failed.await.reply;
            assert!(matches!(reply, Reply::Failed(Error::Internal { .. })), "{reply:?}");
        }
        async fn answers() -> Outgoing {
            Reply::SyncSoon.into()
        }
        for runs in [Running::here(answers()), Running::apart(answers())] {
            assert!(matches!(runs.await.reply, Reply::SyncSoon));
        }
    }
}
