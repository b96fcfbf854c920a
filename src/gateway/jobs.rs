//! Durable jobs on the asynchronous side: running them, aborting them, and waiting for them.

use crate::error::Error;
use crate::gateway::InFlight;
use crate::gateway::attempt::Delivery;
use crate::gateway::call;
use crate::gateway::ledger::{JobAnswer, JobEnd, Task};
use crate::gateway::memory::Lease;
use crate::gateway::panicked;
use crate::gateway::server::{Outgoing, Shared};
use crate::protocol::{ChatCall, Reply};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

/// Jobs whose end is remembered, for those who come a moment late to wait for it.
const REMEMBERED: usize = 8192;

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

/// Starts jobs that the main thread has claimed.
pub fn start(shared: &Arc<Shared>, calls: Vec<(ChatCall, Lease)>) {
    for (call, mut lease) in calls {
        let in_flight = shared.stats.enter();
        let job = call.call_id;
        let shared_by_call = shared.clone();
        watch(shared, job, in_flight, async move {
            let reply = call::run(&shared_by_call, &call, Delivery::Job, &mut lease).await;
            // An answer was written with the settling of its attempt.
            reply.outcome.map(|_| None)
        });
    }
}

/// A call that a session has begun goes on as a job.
pub fn take_over(
    shared: &Arc<Shared>,
    job: Uuid,
    session: Option<i32>,
    in_flight: InFlight,
    mut calls: JoinSet<Outgoing>,
) {
    if let Some(session) = session {
        shared.jobs.lock().handed_over.entry(session).or_default().push(job);
    }
    watch(shared, job, in_flight, async move {
        match calls.join_next().await {
            Some(Ok(Outgoing { reply: Reply::Chat(reply), .. })) => reply.outcome.map(|answer| {
                let job = JobAnswer {
                    response: answer.response,
                    provider: answer.provider,
                    served_model: answer.served_model,
                };
                Some((job, answer.settled))
            }),
            Some(Ok(_)) => Err(Error::internal("a chat ended with another reply")),
            _ => Err(panicked()),
        }
    });
}

type Answered = Result<Option<(JobAnswer, crate::protocol::Settled)>, Error>;

/// Runs a job in a task of its own and reports its end; a panic in it fails it alone.
fn watch(
    shared: &Arc<Shared>,
    job: Uuid,
    in_flight: InFlight,
    run: impl Future<Output = Answered> + Send + 'static,
) {
    let by_task = shared.clone();
    // Held until the task is in the table, or one that ends at once would stay there.
    let mut state = shared.jobs.lock();
    let task = tokio::spawn(async move {
        let mut runs = JoinSet::new();
        runs.spawn(run);
        let outcome = match runs.join_next().await {
            Some(Ok(outcome)) => outcome,
            _ => Err(panicked()),
        };
        by_task.jobs.lock().running.remove(&job);
        if let Some(outcome) = outcome.transpose() {
            by_task.ledger.send(Task::JobEnded(Box::new(JobEnd { job, outcome })));
        }
        drop(in_flight);
    });
    state.running.insert(job, task.abort_handle());
}
