//! Answering a call by a kept answer: its row of the ledger, and its pieces where a stream was asked for.

use super::entry::Entry;
use crate::clock::unix_micros;
use crate::core::cost::CACHED;
use crate::core::usage::{Parts, Usage};
use crate::core::{replay, reply};
use crate::error::Error;
use crate::gateway::attempt::Attempts;
use crate::gateway::delivery::{Delivery, Said};
use crate::gateway::exchange::Failed;
use crate::gateway::memory::Lease;
use crate::gateway::outlet::{Blocked, Outlet};
use crate::gateway::row::SETTLE_PATIENCE;
use crate::gateway::task::{Begin, JobAnswer, Limits, Outcome, RowKey, Saved, Settle, Task};
use crate::protocol::{Candidate, ChatAnswer, Settled};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// Writes the row, and hands the answer on.
pub async fn answer(
    attempts: &mut Attempts<'_>,
    lease: &mut Lease,
    candidate: &Candidate,
    entry: Entry,
    age_s: i64,
) -> Result<ChatAnswer, Failed> {
    let began = Instant::now();
    attempts.made += 1;
    let provider = candidate.provider.name.clone();
    let Entry { response, served_model, cost, tokens } = entry;
    let job = matches!(attempts.delivery, Delivery::Job).then(|| JobAnswer {
        response: response.clone(),
        provider: provider.clone(),
        served_model: served_model.clone(),
    });
    let settle = Settle {
        begin: begin(attempts, candidate),
        outcome: Outcome::Success,
        served_model: Some(served_model.clone()),
        // Nothing was used.
        usage: Usage { parts: Some(Parts::default()), ..Usage::default() },
        is_estimate: false,
        is_free_of_charge: true,
        limits: Limits::default(),
        pricing: None,
        latency_ms: i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX),
        time_to_first_token_ms: None,
        http_status: None,
        error_code: None,
        request_id: None,
        finish_reason: reply::finish_reason(&response),
        job,
        cached: Some(Saved { cost, tokens, age_s }),
    };
    let settled = record(attempts, settle).await;
    stream(attempts, lease, candidate, &response).await?;
    Ok(ChatAnswer { provider, response, served_model, settled, native: None })
}

fn begin(attempts: &Attempts<'_>, candidate: &Candidate) -> Begin {
    let call = attempts.call;
    let attempt = call.earlier_attempts.saturating_add(attempts.made);
    Begin {
        key: RowKey {
            call_id: call.call_id,
            attempt: i16::try_from(attempt).unwrap_or(i16::MAX),
            created_at: unix_micros(),
        },
        user_id: call.user_id.clone(),
        provider_id: candidate.provider.id,
        user_provider_id: candidate.user_provider_id,
        model_id: candidate.model_id.clone(),
        is_listed: candidate.is_listed,
        is_platform_key: candidate.is_platform_key(),
        reserved: None,
        labels: call.labels.clone(),
        generation: call.generation,
    }
}

/// What a row that cannot be written in time came to is known all the same.
async fn record(attempts: &Attempts<'_>, settle: Settle) -> Settled {
    let ledger = attempts.shared.ledger_for(attempts.delivery);
    let (done, settled) = oneshot::channel();
    ledger.send(Task::Settle(Box::new(settle), Some(done)));
    match timeout(SETTLE_PATIENCE, ledger.answer(settled)).await {
        Ok(Ok(settled)) if settled.cost.is_some() => settled,
        _ => Settled { cost: Some("0".to_owned()), cost_source: Some(CACHED.to_owned()) },
    }
}

/// Hands on the pieces of an answer that was asked for as a stream.
async fn stream(
    attempts: &mut Attempts<'_>,
    lease: &Lease,
    candidate: &Candidate,
    response: &str,
) -> Result<(), Failed> {
    let (delivery, deadline) = (attempts.delivery, attempts.deadline);
    let name = &candidate.provider.name;
    let mut outlet = Outlet::new(name, delivery, deadline, &mut attempts.has_delivered);
    match delivery {
        Delivery::Whole | Delivery::Job => {}
        Delivery::Deltas(_) => {
            let content = reply::content(response).unwrap_or_default();
            for text in replay::texts(&content) {
                // One that is not taken in time is part of the whole all the same.
                if outlet.text(text.to_owned()).await.is_err() {
                    break;
                }
            }
        }
        Delivery::Chunks(_) => {
            for chunk in replay::chunks(response) {
                let sent = outlet.piece(Said::Chunk(chunk), true, lease).await;
                sent.map_err(|blocked| {
                    Failed::finally(match blocked {
                        Blocked::Late => Error::Deadline {
                            target: candidate.target(),
                            waited_ms: attempts.call.deadline_ms,
                        },
                        Blocked::Shortage(shortage) => Error::AnswerOutOfMemory {
                            target: candidate.target(),
                            limit: shortage.limit as u64,
                        },
                    })
                })?;
            }
        }
    }
    Ok(())
}
