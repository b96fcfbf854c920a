//! Durable jobs on the asynchronous side: those that the main thread has claimed, and calls that go on as jobs.

use crate::error::Error;
use crate::gateway::call;
use crate::gateway::delivery::Delivery;
use crate::gateway::memory::Lease;
use crate::gateway::running::Running;
use crate::gateway::shared::Shared;
use crate::gateway::stats::InFlight;
use crate::gateway::task::{JobAnswer, JobEnd, Task};
use crate::protocol::{ChatAnswer, ChatCall, Reply, Settled};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use uuid::Uuid;

/// Starts jobs that the main thread has claimed.
pub fn start(shared: &Arc<Shared>, calls: Vec<(ChatCall, Lease)>) {
    for (call, mut lease) in calls {
        let in_flight = shared.stats.enter();
        let job = call.call_id;
        let shared_by_call = shared.clone();
        watch(shared, job, in_flight, async move {
            let reply = call::run(&shared_by_call, &call, Delivery::Job, &mut lease).await;
            match call.check {
                // An answer was written with the settling of its attempt.
                None => reply.outcome.map(|_| None),
                Some(_) => reply.outcome.map(ended),
            }
        });
    }
}

/// A call that a session has begun goes on as a job.
pub fn take_over(
    shared: &Arc<Shared>,
    job: Uuid,
    session: Option<i32>,
    in_flight: InFlight,
    running: Running,
) {
    if let Some(session) = session {
        shared.jobs.hand_over(session, job);
    }
    watch(shared, job, in_flight, async move {
        match running.await.reply {
            Reply::Chat(reply) => reply.outcome.map(ended),
            Reply::Failed(error) => Err(error),
            _ => Err(Error::internal("a chat ended with another reply")),
        }
    });
}

fn ended(answer: ChatAnswer) -> Option<(JobAnswer, Settled)> {
    let job = JobAnswer {
        response: answer.response,
        provider: answer.provider,
        served_model: answer.served_model,
    };
    Some((job, answer.settled))
}

type Answered = Result<Option<(JobAnswer, Settled)>, Error>;

/// Runs a job in a task of its own and reports its end; a panic in it fails it alone.
fn watch(
    shared: &Arc<Shared>,
    job: Uuid,
    in_flight: InFlight,
    run: impl Future<Output = Answered> + Send + 'static,
) {
    let by_task = shared.clone();
    shared.jobs.run(job, async move {
        let mut run = Box::pin(run);
        // In this task: one more for each job costs more than this. What has panicked is never polled again.
        let outcome =
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(_) => Poll::Ready(Err(Error::panicked())),
            });
        let outcome = outcome.await;
        by_task.jobs.over(job);
        if let Some(outcome) = outcome.transpose() {
            by_task
                .ledger_for(Delivery::Job)
                .send(Task::JobEnded(Box::new(JobEnd { job, outcome })));
        }
        drop(in_flight);
    });
}
