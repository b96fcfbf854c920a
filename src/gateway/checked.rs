//! Calls whose answer is JSON that fits a schema: each candidate is asked in the best way that it has, and whoever gives
//! an answer that does not fit is told so and asked again. Each time is an attempt like any other, with a row and under
//! all limits, and all of them are within the time of the call.

use crate::core::retry::Sent;
use crate::core::schema::Schema;
use crate::core::schema::ask::Unfit;
use crate::error::Error;
use crate::gateway::attempt::Attempts;
use crate::gateway::call::{outline, rounds};
use crate::gateway::delivery::Delivery;
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::protocol::{ChatAnswer, ChatCall, Checking, Progress, Settled};
use bigdecimal::BigDecimal;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The schema of a call, or why it is none, and the room that it takes for as long as the call does. A job has all the
/// time for that: its own begins when it is sent.
pub async fn read(
    shared: &Shared,
    call: &ChatCall,
    check: &Arc<Checking>,
    is_job: bool,
    lease: &mut Lease,
) -> Result<Arc<Schema>, Error> {
    let check = check.clone();
    let read = move || Schema::read(&check.schema).map(Arc::new);
    let reading = shared.schemas.run(&call.user_id, read);
    let schema = match is_job || call.candidates.is_empty() {
        true => reading.await??,
        false => {
            let time = Duration::from_millis(call.deadline_ms);
            timeout(time, reading).await.map_err(|_| late(call))???
        }
    };
    lease.begin(schema.memory())?;
    Ok(schema)
}

fn late(call: &ChatCall) -> Error {
    Error::Deadline { target: call.candidates[0].target(), waited_ms: call.deadline_ms }
}

/// What the answers of a call have cost so far.
pub fn spent(check: &Checking) -> Option<Settled> {
    progress(check).spent.clone()
}

fn progress(check: &Checking) -> MutexGuard<'_, Progress> {
    check.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Asks until an answer fits, or as often as may be.
pub async fn run(
    attempts: &mut Attempts<'_>,
    check: &Arc<Checking>,
    lease: &mut Lease,
) -> Result<ChatAnswer, Error> {
    let Some(schema) = attempts.schema.clone() else {
        return Err(Error::internal("a schema was not read"));
    };
    loop {
        let last = progress(check).last.clone();
        let is_repair = last.is_some();
        let _held = ask_for(attempts, &schema, last, lease).await?;
        let mut answer = match rounds(attempts, lease).await {
            Ok(answer) => answer,
            Err(failed) if is_repair => return Err(given_up(attempts, check, failed.error)),
            Err(failed) => return Err(failed.error),
        };
        // Whoever would send the call again, because of what follows, would pay for this again.
        attempts.sent = Sent::PerhapsPaid;
        let spent = {
            let mut progress = progress(check);
            let spent = add(progress.spent.take(), &answer.settled);
            progress.spent.insert(spent).clone()
        };
        let (response, by_schema) = (std::mem::take(&mut answer.response), schema.clone());
        // As it came, as values, and as it goes.
        if lease.grow(3 * response.len()).is_err() {
            let target = attempts.call.candidates[0].target();
            let limit = attempts.shared.settings().max_memory as u64;
            return Err(Error::AnswerOutOfMemory { target, limit });
        }
        let (shared, call) = (attempts.shared, attempts.call);
        let checking = shared.schemas.run(&call.user_id, move || by_schema.answer(&response));
        let checked = match attempts.delivery {
            Delivery::Job => checking.await?,
            _ => timeout_at(attempts.deadline, checking).await.map_err(|_| late(call))??,
        };
        let unfit = match checked {
            Ok(response) => return Ok(ChatAnswer { response, settled: spent, ..answer }),
            Err(unfit) => unfit,
        };
        let mut progress = progress(check);
        if progress.repairs >= check.max_repairs || Instant::now() >= attempts.deadline {
            return Err(violation(attempts, &answer.provider, unfit, progress.repairs));
        }
        progress.repairs += 1;
        progress.last = Some(unfit);
    }
}

/// Writes the request in each way that a candidate is asked in, and takes the memory that they hold.
async fn ask_for(
    attempts: &mut Attempts<'_>,
    schema: &Arc<Schema>,
    last: Option<Unfit>,
    lease: &Lease,
) -> Result<Lease, Error> {
    let (shared, call) = (attempts.shared, attempts.call);
    let wanted: BTreeSet<_> = call
        .candidates
        .iter()
        .map(|candidate| schema.way(candidate.takes_schema, candidate.takes_tools))
        .collect();
    let mut held = lease.another();
    let last = last.map(Arc::new);
    attempts.ways.clear();
    for way in wanted {
        let (schema, body, last) = (schema.clone(), call.body.clone(), last.clone());
        let bytes = body.len() + schema.text().len();
        held.begin(2 * bytes)?;
        let write = move || schema.request(&body, way, last.as_deref());
        let body = Arc::new(shared.heavy.run(bytes, write).await??);
        let outline = outline(shared, &body).await?;
        attempts.ways.insert(way, (body, outline));
    }
    Ok(held)
}

/// A repair that was not answered. A job that would be run once more would begin anew and pay anew for what it has: it
/// is told of the answer that it had.
fn given_up(attempts: &Attempts<'_>, check: &Checking, error: Error) -> Error {
    let is_job = matches!(attempts.delivery, Delivery::Job);
    let mut progress = progress(check);
    match progress.last.take() {
        Some(unfit) if is_job && error.may_pass().is_some() => {
            let provider = attempts.call.candidates[0].provider.name.clone();
            violation(attempts, &provider, unfit, progress.repairs.saturating_sub(1))
        }
        last => {
            progress.last = last;
            error
        }
    }
}

fn violation(attempts: &Attempts<'_>, provider: &str, unfit: Unfit, repairs: u16) -> Error {
    let candidates = &attempts.call.candidates;
    let served = candidates.iter().find(|candidate| candidate.provider.name == provider);
    let target = served.unwrap_or(&candidates[0]).target();
    let Unfit { said, violations } = unfit;
    Error::SchemaViolation { target, violations, answer: said, repairs }
}

/// What two answers cost together. Of one that nobody knows the price of, the sum is not known either.
fn add(before: Option<Settled>, now: &Settled) -> Settled {
    let Some(before) = before else { return now.clone() };
    let number = |cost: &Option<String>| BigDecimal::from_str(cost.as_deref()?).ok();
    let sum = number(&before.cost).zip(number(&now.cost)).map(|(a, b)| a + b);
    let cost_source = match () {
        () if before.cost_source == now.cost_source => now.cost_source.clone(),
        () if before.cost.is_none() => before.cost_source.clone(),
        () if now.cost.is_none() => now.cost_source.clone(),
        () => Some("computed".to_owned()),
    };
    Settled { cost: sum.map(|sum| sum.to_plain_string()), cost_source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(cost: Option<&str>, source: &str) -> Settled {
        Settled { cost: cost.map(str::to_owned), cost_source: Some(source.to_owned()) }
    }

    fn sum(before: Settled, now: Settled) -> (Option<String>, Option<String>) {
        let Settled { cost, cost_source } = add(Some(before), &now);
        (cost, cost_source)
    }

    #[test]
    fn costs_add_up_exactly_and_what_is_unknown_stays_so() {
        let small = settled(Some("0.00000000000000000007"), "computed");
        let large = settled(Some("123456789.1"), "computed");
        assert_eq!(
            sum(small.clone(), large.clone()).0.as_deref(),
            Some("123456789.10000000000000000007")
        );
        assert_eq!(add(None, &small).cost, small.cost);
        let unknown = settled(None, "unpriced");
        let told = (None, Some("unpriced".to_owned()));
        assert_eq!(sum(small.clone(), unknown.clone()), told);
        assert_eq!(sum(unknown, small.clone()), told);
        let upstream = settled(Some("1"), "upstream");
        assert_eq!(sum(upstream.clone(), upstream.clone()).1.as_deref(), Some("upstream"));
        assert_eq!(sum(upstream, small).1.as_deref(), Some("computed"));
    }
}
