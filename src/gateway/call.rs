//! The life of one chat call: candidates in the order of their health, the next one where a
//! failure allows it, and another round after a pause.

use crate::core::embedding;
use crate::core::embedding::Kind;
use crate::core::request::{self, Outline};
use crate::core::retry::{self, Again, Sent};
use crate::core::scan::Unfit;
use crate::core::schema::Schema;
use crate::core::standard::Standard;
use crate::error::Error;
use crate::gateway::attempt::{Attempts, Outlines, Ways};
use crate::gateway::delivery::Delivery;
use crate::gateway::exchange::Failed;
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::gateway::{cache, checked};
use crate::protocol::{Candidate, ChatAnswer, ChatCall, ChatReply};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Runs a call to its end. Dropping the future aborts the request and settles the open row as
/// cancelled.
pub async fn run(
    shared: &Shared,
    call: &ChatCall,
    delivery: Delivery<'_>,
    lease: &mut Lease,
) -> ChatReply {
    let started = Instant::now();
    let (outlines, schema) =
        match read(shared, call, matches!(delivery, Delivery::Job), lease).await {
            Ok(read) => read,
            Err(error) => {
                let latency_ms = started.elapsed().as_millis() as u64;
                let outcome = Err(error);
                return ChatReply {
                    outcome,
                    attempts: 0,
                    latency_ms,
                    sent: Sent::Nothing,
                    spent: None,
                };
            }
        };
    let mut attempts = Attempts {
        shared,
        call,
        outlines,
        ways: Ways::new(),
        schema,
        delivery,
        deadline: started + Duration::from_millis(call.deadline_ms),
        made: 0,
        has_delivered: false,
        sent: Sent::Nothing,
        served: None,
    };
    let outcome = {
        let answered = pin!(async {
            match &call.check {
                None => answer(&mut attempts, lease).await.map_err(|failed| failed.error),
                Some(check) => checked::run(&mut attempts, check, lease).await,
            }
        });
        shared.forgotten.guard(&call.user_id, call.call_id, answered).await
    };
    let latency_ms = started.elapsed().as_millis() as u64;
    let spent = call.check.as_ref().and_then(|check| checked::spent(check));
    ChatReply { outcome, attempts: attempts.made, latency_ms, sent: attempts.sent, spent }
}

/// What the request asks for, within the bounds of a request. Whoever wrote it has looked already,
/// but a job may be old, and this is where all requests pass.
async fn read(
    shared: &Shared,
    call: &ChatCall,
    is_job: bool,
    lease: &mut Lease,
) -> Result<(Outlines, Option<Arc<Schema>>), Error> {
    if call.kind == Kind::Embeddings {
        let (chat, wanted) = read_with(shared, &call.body, embedding::request::outline).await?;
        // An answer that is too large would be paid for all the same.
        let most = wanted.most_inputs(shared.settings().max_response_size);
        if let Some(most) = most.filter(|most| wanted.inputs > *most) {
            let unit = "inputs whose vectors fit into aggregator.max_response_size".to_owned();
            return Err(Error::RequestBeyond { limit: most as u64, unit });
        }
        return Ok((Outlines { chat, native: None, wanted: Some(wanted) }, None));
    }
    let schema = match &call.check {
        Some(check) => Some(checked::read(shared, call, check, is_job, lease).await?),
        None => None,
    };
    let chat = outline(shared, &call.body).await?;
    let speaks_it = |candidate: &Candidate| candidate.provider.standard == Standard::Anthropic;
    let native = match &call.native {
        Some(native) if call.candidates.iter().any(speaks_it) => {
            Some(outline(shared, &native.body).await?)
        }
        _ => None,
    };
    Ok((Outlines { chat, native, wanted: None }, schema))
}

/// What a request asks for, if it is no larger than a request may be.
pub(super) async fn outline(shared: &Shared, body: &Arc<String>) -> Result<Outline, Error> {
    read_with(shared, body, request::outline).await
}

async fn read_with<T: Send + 'static>(
    shared: &Shared,
    body: &Arc<String>,
    outline: fn(&str) -> Result<T, Unfit>,
) -> Result<T, Error> {
    let (bytes, most) = (body.len(), shared.settings().max_request_size);
    if bytes > most {
        return Err(Error::RequestBeyond { limit: most as u64, unit: "bytes".to_owned() });
    }
    let body = body.clone();
    shared.heavy.run(bytes, move || outline(&body)).await?.map_err(Error::unfit)
}

/// By the response cache, where the call asks for that, else by whoever may serve it.
async fn answer(attempts: &mut Attempts<'_>, lease: &mut Lease) -> Result<ChatAnswer, Failed> {
    match attempts.call.cache {
        None => rounds(attempts, lease).await,
        Some(caching) => Box::pin(cache::run(attempts, lease, caching)).await,
    }
}

/// Asks those who may serve a call until one answers.
pub async fn rounds(attempts: &mut Attempts<'_>, lease: &mut Lease) -> Result<ChatAnswer, Failed> {
    let candidates = attempts.call.candidates.clone();
    let mut order = attempts.shared.health.order(&candidates);
    if attempts.call.kind == Kind::Embeddings {
        order.retain(|index| refuses_to_embed(&candidates[*index]).is_none());
        if order.is_empty() {
            // All refuse: what the first says.
            let error = candidates.first().and_then(refuses_to_embed);
            let error = error.unwrap_or_else(|| Error::internal("nobody is there to be asked"));
            return Err(Failed::finally(error));
        }
    }
    let mut round = 0;
    let mut too_short = TooShort::default();
    loop {
        let mut last = None;
        // Who may be asked again, and after how long.
        let mut hopeful: Vec<(usize, Duration)> = Vec::new();
        for &index in &order {
            let candidate = &candidates[index];
            if too_short.has(candidate.context_window) {
                continue;
            }
            let failed = match attempts.ask(candidate, lease).await {
                Ok(answer) => {
                    attempts.shared.health.succeeded(&attempts.shared.ledger, candidate);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            attempts.sent = attempts.sent.max(failed.sent);
            if let Some(fault) = &failed.fault {
                attempts.shared.health.failed(&attempts.shared.ledger, candidate, fault);
            }
            if attempts.has_delivered || failed.again == Again::Never {
                return Err(failed);
            }
            match failed.again {
                Again::Anywhere(after) => hopeful.push((index, after.unwrap_or_default())),
                Again::Longer => too_short.note(candidate.context_window),
                Again::Elsewhere | Again::Never => {}
            }
            last = Some(failed);
        }
        let failed = last.unwrap_or_else(|| Failed {
            error: Error::internal("nobody is there to be asked"),
            again: Again::Never,
            fault: None,
            sent: Sent::Nothing,
        });
        hopeful.retain(|(index, _)| !too_short.has(candidates[*index].context_window));
        if hopeful.is_empty() || round >= attempts.call.max_retries {
            return Err(failed);
        }
        round += 1;
        let shortest = hopeful.iter().map(|(_, after)| *after).min();
        let asked_for = shortest.filter(|after| !after.is_zero());
        let pause = retry::pause(round, asked_for, fastrand::f64());
        if Instant::now() + pause >= attempts.deadline {
            return Err(failed);
        }
        sleep(pause).await;
        // Those that asked for more time than this have their turn later.
        order = hopeful
            .into_iter()
            .filter(|(_, after)| *after <= pause)
            .map(|(index, _)| index)
            .collect();
    }
}

/// Why a candidate cannot be asked for embeddings, as far as that is known beforehand.
fn refuses_to_embed(candidate: &Candidate) -> Option<Error> {
    let (provider, model) = (&candidate.provider.name, &candidate.model_id);
    if candidate.provider.standard.wire().embeddings_path().is_none() {
        let what = format!("asking provider '{provider}' for embeddings");
        return Some(Error::unsupported(what));
    }
    (!candidate.may_embed).then(|| {
        Error::bad_request_hint(
            format!("model '{model}' of provider '{provider}' gives no embeddings, as the catalogue has it"),
            "SELECT model_id FROM get_user_available_models() WHERE model_type = 'embedding';",
        )
    })
}

/// The longest context that is known to be too short for the prompt of a call. A candidate whose
/// context nobody knows is asked: the caller lists it.
#[derive(Default)]
struct TooShort(Option<i32>);

impl TooShort {
    fn note(&mut self, context_window: Option<i32>) {
        self.0 = self.0.max(context_window);
    }

    fn has(&self, context_window: Option<i32>) -> bool {
        matches!((self.0, context_window), (Some(limit), Some(window)) if window <= limit)
    }
}
