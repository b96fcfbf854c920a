//! Many calls of one session, so many at a time, each answered as it ends.

use crate::core::retry::Sent;
use crate::error::Error;
use crate::gateway::call;
use crate::gateway::delivery::{Delivery, Outgoing, Sink};
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::protocol::{Batch, ChatReply, Reply};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Runs a batch to its end. Dropping the future aborts every call in flight.
pub async fn run(shared: Arc<Shared>, batch: Batch, sink: Sink) {
    let deadline = Instant::now() + Duration::from_millis(batch.deadline_ms);
    let concurrency = usize::try_from(batch.concurrency).unwrap_or(1).max(1);
    let mut waiting = (0u32..).zip(batch.calls);
    let mut running = JoinSet::new();
    let mut indices = HashMap::new();
    loop {
        while running.len() < concurrency
            && let Some((index, mut call)) = waiting.next()
        {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
            if left == 0 {
                let target = call.candidates[0].target();
                let error = Error::NoTurn { target, waited_ms: batch.deadline_ms };
                if sink.send(item(index, failed(error), None)).await.is_err() {
                    return;
                }
                continue;
            }
            call.deadline_ms = call.deadline_ms.min(left);
            let shared = shared.clone();
            let task = running.spawn(async move {
                let mut lease = shared.memory.lease(&call.user_id);
                let reply = call::run(&shared, &call, Delivery::Whole, &mut lease).await;
                (reply, Some(lease))
            });
            indices.insert(task.id(), index);
        }
        let (id, (reply, lease)) = match running.join_next_with_id().await {
            None => return,
            Some(Ok(ended)) => ended,
            // A panic in one call fails it alone.
            Some(Err(ended)) => (ended.id(), (failed(Error::panicked()), None)),
        };
        if let Some(index) = indices.remove(&id)
            && sink.send(item(index, reply, lease)).await.is_err()
        {
            return;
        }
    }
}

fn item(index: u32, reply: ChatReply, lease: Option<Lease>) -> Outgoing {
    Outgoing { reply: Reply::Item { index, reply: Box::new(reply) }, lease }
}

fn failed(error: Error) -> ChatReply {
    ChatReply { outcome: Err(error), attempts: 0, latency_ms: 0, sent: Sent::Nothing, spent: None }
}
