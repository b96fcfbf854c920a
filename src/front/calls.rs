//! Calls of those who are known: who may serve them, as it is kept or as the main thread says, and their life.

use crate::core::budget::Rules;
use crate::core::front::failure::Sent;
use crate::core::options::Prepared;
use crate::error::Error;
use crate::front::Front;
use crate::front::caller::Caller;
use crate::front::pump::Order;
use crate::gateway::call;
use crate::gateway::delivery::Delivery;
use crate::gateway::task::{RouteAsked, Routed, Task};
use crate::protocol::{ChatCall, ChatReply, Checking};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How often a call is routed anew, because something has changed before it was sent.
const MOST_ROUTES: usize = 10;
/// What is kept at the most, in entries and in candidates.
const MOST_ENTRIES: usize = 1024;
const MOST_CANDIDATES: usize = 8192;

/// Routes of the last calls, all of one generation.
#[derive(Default)]
pub struct Routes(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    generation: u64,
    entries: HashMap<Arc<RouteAsked>, Routed>,
    order: VecDeque<Arc<RouteAsked>>,
    candidates: usize,
}

impl Routes {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Who may serve, as of this generation or a later one.
    async fn find(
        &self,
        front: &Front,
        asked: RouteAsked,
        generation: u64,
    ) -> Result<Routed, Error> {
        if let Some(routed) = self.lock().get(&asked, generation) {
            return Ok(routed);
        }
        let turn = front.questions.turn(&asked.whose.user).await?;
        // Another call of theirs may have asked the same.
        if let Some(routed) = self.lock().get(&asked, generation) {
            return Ok(routed);
        }
        let boxed = Box::new(asked.clone());
        let routed = turn.ask(|reply| Task::Route(boxed, reply)).await??;
        self.lock().keep(Arc::new(asked), routed.clone());
        Ok(routed)
    }
}

impl Kept {
    fn get(&mut self, asked: &RouteAsked, generation: u64) -> Option<Routed> {
        self.entries.get(asked).filter(|_| self.generation == generation).cloned()
    }

    fn keep(&mut self, asked: Arc<RouteAsked>, routed: Routed) {
        if routed.generation < self.generation {
            return;
        }
        if routed.generation > self.generation {
            *self = Self { generation: routed.generation, ..Self::default() };
        }
        self.candidates += routed.candidates.len();
        if let Some(earlier) = self.entries.insert(asked.clone(), routed) {
            self.candidates -= earlier.candidates.len();
        } else {
            self.order.push_back(asked);
        }
        while self.entries.len() > MOST_ENTRIES || self.candidates > MOST_CANDIDATES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(routed) = self.entries.remove(&oldest) {
                self.candidates -= routed.candidates.len();
            }
        }
    }
}

/// Refuses a call that nobody can serve.
pub async fn check(front: &Front, caller: &Caller, prepared: &Prepared) -> Result<(), Error> {
    let models = prepared.models().map(str::to_owned).collect();
    let asked = RouteAsked { whose: caller.whose.clone(), models, provider: None };
    front.routes.find(front, asked, caller.generation).await.map(drop)
}

/// Runs a call to its end. Where what it was routed by has changed before it is sent, the ledger refuses it, and it
/// is routed anew: what was taken away by a commit before it came serves nobody.
pub async fn run(front: &Front, order: &mut Order, delivery: Delivery<'_>) -> ChatReply {
    let Order { caller, prepared, form, id, standings, lease, .. } = order;
    let began = Instant::now();
    let time = Duration::from_millis(prepared.timeout_ms);
    let models: Vec<String> = prepared.models().map(str::to_owned).collect();
    let (mut attempts, mut sent) = (0, Sent::Nothing);
    // What has come of it is kept where it is routed anew.
    let check = Checking::of(prepared);
    let failed = |error, attempts, sent| ChatReply {
        outcome: Err(error),
        attempts,
        latency_ms: began.elapsed().as_millis() as u64,
        sent,
        spent: None,
    };
    for _ in 0..MOST_ROUTES {
        let (whose, models) = (caller.whose.clone(), models.clone());
        let asked = RouteAsked { whose, models, provider: None };
        let routed = match front.routes.find(front, asked, caller.generation).await {
            Ok(routed) => routed,
            Err(error) => return failed(error, attempts, sent),
        };
        // Of two generations the earlier one: what either rests on must still hold.
        let generation = routed.generation.min(caller.generation);
        let left = time.saturating_sub(began.elapsed()).as_millis() as u64;
        let (body, native) = match form.bodies(&front.shared, &routed.candidates, lease).await {
            Ok(bodies) => bodies,
            Err(error) => return failed(error, attempts, sent),
        };
        let labels = match caller.labels(&prepared.tags) {
            Ok(labels) => labels,
            Err(error) => return failed(error, attempts, sent),
        };
        let call = ChatCall {
            kind: prepared.kind,
            call_id: *id,
            user_id: caller.whose.user.clone(),
            candidates: routed.candidates,
            body,
            max_retries: prepared.max_retries,
            deadline_ms: left.max(1),
            stream_upstream: prepared.stream_upstream,
            cache: prepared.caching(),
            rules: Rules::about(&routed.rules, labels.as_deref()),
            // What is kept of a generation holds for as long as that does.
            resolved_at: caller.at,
            earlier_attempts: attempts,
            labels,
            check: check.clone(),
            generation: Some(generation),
            native,
            standings: (!routed.rules.rate_limits.is_empty()).then(|| standings.clone()),
        };
        let reply = call::run(&front.shared, &call, delivery, lease).await;
        attempts = attempts.saturating_add(reply.attempts);
        sent = sent.max(reply.sent);
        let is_stale = match &reply.outcome {
            Err(_) if began.elapsed() >= time => false,
            Err(Error::Stale) => true,
            // What refuses it may be gone by now: nothing was written, so nobody has looked.
            Err(_) if reply.attempts == 0 => front.has_changed(generation).await,
            _ => false,
        };
        if !is_stale {
            return ChatReply { attempts, sent, ..reply };
        }
        *caller = match front.callers.again(front, caller).await {
            Ok(caller) => caller,
            Err(error) => return failed(error, attempts, sent),
        };
    }
    failed(Error::Stale, attempts, sent)
}
