//! The response cache: the answer to a call is kept, sealed, and answers the same call of the same user. Of calls
//! that ask the same at one time and find nothing, one asks upstream and the others wait for it.
//!
//! What is the same: the canonical request, who may answer it (provider, model, key) and whose call it is. An
//! answer is looked for by a print of all that for each candidate of a call, so that whoever may not serve the call
//! any more answers nothing either.

mod entry;
mod flight;
mod hit;

use self::entry::Entry;
use self::flight::{Flight, Flights};
use crate::core::caching::Caching;
use crate::core::secret::{Print, Printer};
use crate::core::{canonical, replay};
use crate::error::Error;
use crate::gateway::attempt::Attempts;
use crate::gateway::call;
use crate::gateway::delivery::Delivery;
use crate::gateway::exchange::Failed;
use crate::gateway::memory::Lease;
use crate::gateway::settings::Settings;
use crate::gateway::shared::Shared;
use crate::gateway::task::{AnswerAsked, AnswerFound, AnswerKept, Task};
use crate::protocol::{Candidate, ChatAnswer, ChatCall};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::{Instant, timeout_at};

/// Requests of more bytes are asked upstream each time: making them canonical takes time and memory.
const LARGEST_REQUEST: usize = 4 << 20;
/// Of an answer, sealed: a batch of them is read at one time.
const LARGEST_ENTRY: usize = 256 << 10;
/// One answer takes at most such a part of all that are kept.
const PART: usize = 4;

/// What the gateway holds of the cache. The answers are in the database.
#[derive(Default)]
pub struct Cache {
    flights: Flights,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// Calls that a kept answer has answered, and calls that looked for one in vain.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

/// By which a call is known to the cache.
struct Known {
    printer: Printer,
    /// Of the canonical request.
    request: Print,
    /// Of each candidate, in their order.
    prints: Vec<Print>,
    ttl_s: u32,
}

impl Known {
    /// `None`: the call cannot be kept, for what it is or as things are set.
    async fn of(shared: &Shared, call: &ChatCall, caching: Caching) -> Option<Self> {
        let settings = shared.settings();
        let ttl_s = caching.ttl.unwrap_or(settings.cache_ttl_s);
        let bytes = call.body.len();
        // What goes as it came is answered in the provider's own form, and may be in no other.
        let is_native = call.native.is_some();
        if call.candidates.is_empty() {
            return None;
        }
        if ttl_s == 0 || settings.cache_size == 0 || bytes > LARGEST_REQUEST || is_native {
            return None;
        }
        // Without master keys there is no key to call with either, which is told then.
        let printer = shared.keys.with_ring(&settings.keyring_file, |ring| ring.printer());
        let printer = printer.ok()?.ok()?;
        let (body, by) = (call.body.clone(), printer.clone());
        let print = move || {
            let request = canonical::request(&body).ok()?;
            Some(by.print(&[b"request", request.as_bytes()]))
        };
        let request = shared.heavy.run(bytes, print).await.ok()??;
        let mut known = Self { printer, request, prints: Vec::new(), ttl_s };
        known.prints = call.candidates.iter().map(|it| known.print(&call.user_id, it)).collect();
        Some(known)
    }

    /// By which the answer of a candidate to this request is found.
    fn print(&self, user: &str, candidate: &Candidate) -> Print {
        let provider = &candidate.provider;
        let whose: [&[u8]; 2] = match candidate.is_shared() {
            true => [b"everybody", b""],
            false => [b"user", user.as_bytes()],
        };
        let standard = format!("{:?}", provider.standard);
        let mut parts = vec![
            b"answer".as_slice(),
            whose[0],
            whose[1],
            provider.id.as_bytes(),
            standard.as_bytes(),
            provider.base_url.as_bytes(),
            candidate.model_id.as_bytes(),
            candidate.user_provider_id.as_bytes(),
            // Another key may be another's, and be answered by something else.
            &candidate.key.envelope,
            &self.request.0,
        ];
        for (name, value) in &provider.headers {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
        self.printer.print(&parts)
    }

    /// By which calls of a user are the same.
    fn flight(&self, user: &str) -> Print {
        let prints = self.prints.iter().map(|print| print.0.as_slice());
        let parts: Vec<&[u8]> =
            [b"flight".as_slice(), user.as_bytes()].into_iter().chain(prints).collect();
        self.printer.print(&parts)
    }
}

/// Answers a call by what is kept, or has it asked and keeps the answer.
pub async fn run(
    attempts: &mut Attempts<'_>,
    lease: &mut Lease,
    caching: Caching,
) -> Result<ChatAnswer, Failed> {
    let (shared, call) = (attempts.shared, attempts.call);
    let Some(known) = Known::of(shared, call, caching).await else {
        return call::rounds(attempts, lease).await;
    };
    if caching.refresh {
        let answer = call::rounds(attempts, lease).await?;
        if !caching.no_store {
            keep(attempts, &known, &answer).await;
        }
        return Ok(answer);
    }
    let flight = shared.cache.flights.of(known.flight(&call.user_id));
    let turn = loop {
        let kept = flight.kept();
        if let Some(answer) = find(attempts, lease, &known).await? {
            return Ok(answer);
        }
        let turn = wait(attempts, &flight).await?;
        if flight.kept() == kept {
            break turn;
        }
        // Somebody has been answered meanwhile. All who waited for that look at one time.
        drop(turn);
    };
    shared.cache.misses.fetch_add(1, Ordering::Relaxed);
    if caching.no_store || flight.is_open() {
        // What is not kept is worth no waiting for.
        drop(turn);
        return call::rounds(attempts, lease).await;
    }
    // Should this fail, or be dropped, the turn is that of the next.
    let answer = call::rounds(attempts, lease).await?;
    match keep(attempts, &known, &answer).await {
        true => flight.note_kept(),
        false => flight.open(),
    }
    drop(turn);
    Ok(answer)
}

/// Waits for one's turn to ask, as long as the call may take. A job's time begins when it has it.
async fn wait(attempts: &mut Attempts<'_>, flight: &Arc<Flight>) -> Result<flight::Turn, Failed> {
    let began = Instant::now();
    let turn = match attempts.delivery {
        Delivery::Job => flight.turn().await,
        _ => timeout_at(attempts.deadline, flight.turn()).await.map_err(|_| {
            let target = attempts.call.candidates[0].target();
            let waited_ms = began.elapsed().as_millis() as u64;
            Failed::finally(Error::NoTurn { target, waited_ms })
        })?,
    };
    if matches!(attempts.delivery, Delivery::Job) {
        attempts.deadline += began.elapsed();
    }
    Ok(turn)
}

/// Answers by what is kept. `None`: nothing is that will do.
async fn find(
    attempts: &mut Attempts<'_>,
    lease: &mut Lease,
    known: &Known,
) -> Result<Option<ChatAnswer>, Failed> {
    let (shared, call) = (attempts.shared, attempts.call);
    let asked = Box::new(AnswerAsked {
        prints: known.prints.clone(),
        ttl_s: known.ttl_s,
        generation: call.generation,
    });
    let found = match shared.ledger.ask(|reply| Task::FindAnswer(asked, reply)).await {
        Ok(Ok(found)) => found,
        // The route is no more: nothing is asked by it, and nothing answered.
        Ok(Err(error)) => return Err(Failed::finally(error)),
        // What cannot be read is asked for.
        Err(_) => None,
    };
    let Some(found) = found else { return Ok(None) };
    let by = known.prints.iter().position(|print| *print == found.print);
    let Some(candidate) = by.and_then(|by| call.candidates.get(by)) else { return Ok(None) };
    // Of one that has waited, whether the candidate may still serve it: as it was, or it is another.
    let renewed = shared.renewals.renew(&shared.ledger, call, candidate).await;
    if let Some(renewed) = renewed.map_err(Failed::elsewhere)?
        && renewed.candidate.is_none_or(|now| known.print(&call.user_id, &now) != found.print)
    {
        return Ok(None);
    }
    let Some(entry) = open(shared, &found).await else { return Ok(None) };
    let room = lease.expect_answer(shared.settings().max_response_size);
    if room.is_err() || lease.grow_to(2 * entry.response.len()).is_err() {
        return Ok(None);
    }
    shared.cache.hits.fetch_add(1, Ordering::Relaxed);
    hit::answer(attempts, lease, candidate, entry, found.age_s).await.map(Some)
}

/// Opens a kept answer. `None`: its master key is gone, or it is none.
async fn open(shared: &Shared, found: &AnswerFound) -> Option<Entry> {
    let file = shared.settings().keyring_file.clone();
    let opened = shared.keys.with_ring(&file, |ring| ring.open_answer(&found.answer, &found.print));
    Entry::read(&opened.ok()?.ok()?)
}

/// Keeps an answer, if it is one to keep. Says whether it was.
async fn keep(attempts: &Attempts<'_>, known: &Known, answer: &ChatAnswer) -> bool {
    let (shared, call) = (attempts.shared, attempts.call);
    let settings = shared.settings();
    let most = most(&settings);
    let Some(by) = &attempts.served else { return false };
    if answer.response.len() > most || !replay::is_whole(&answer.response) {
        return false;
    }
    let print = known.print(&call.user_id, by);
    let entry = Entry::of(answer).write();
    let sealed =
        shared.keys.with_ring(&settings.keyring_file, |ring| ring.seal_answer(&entry, &print));
    let Ok(Ok(sealed)) = sealed else { return false };
    if sealed.len() > most {
        return false;
    }
    shared.ledger.send(Task::KeepAnswer(Box::new(AnswerKept {
        print,
        user_id: call.user_id.clone(),
        provider_id: by.provider.id,
        model_id: by.model_id.clone(),
        is_shared: by.is_shared(),
        answer: sealed,
        ttl_s: known.ttl_s,
    })));
    true
}

/// The largest answer that is kept.
fn most(settings: &Settings) -> usize {
    LARGEST_ENTRY.min(settings.cache_size / PART)
}
