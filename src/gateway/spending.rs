//! Budgets and rate limits at the moment of sending. The gateway is the one place through which
//! every request of a database leaves, so its counts are those of all sessions: what is spent, by
//! the ledger, and what is set aside for the attempts that are on their way.
//!
//! A count is read from the ledger when it is first needed in this life of the worker, and kept
//! from then on. The ledger is written in the order in which tasks are sent to the main thread, so
//! an attempt that was settled before the count was read is in it, and one after is not.

mod counts;
mod hold;
mod leases;
mod refused;

use crate::clock::unix_micros;
use crate::core::bound::{Dearest, NoBound, Size};
use crate::core::budget::{self, Amount, Budget, Plan, RateLimit, Refused, Rules, Subject};
use crate::core::rate::{MINUTE, Standings};
use crate::core::tags::Labels;
use crate::error::Error;
use crate::gateway::hub::{Lender, Line, Part, down};
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{Spending as Found, SpendingQuery, Task};
use crate::protocol::Candidate;
use counts::{MANY, Period, Rate, State, period_of};
pub use hold::Hold;
pub use leases::Want;
use refused::NotAllowed;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{MutexGuard as AsyncGuard, oneshot};
use tokio::time::{Instant, timeout_at};

/// Tokens that an answer is taken to have where neither the request nor the model says, if so many
/// are left of the minute.
const LIKELY_ANSWER: i64 = 4096;

/// Every count.
#[derive(Default)]
pub struct Spending {
    state: Mutex<State>,
    /// Held while a count is read, so that it is read once.
    reading: tokio::sync::Mutex<()>,
}

/// What was taken of a rate limit.
struct Share {
    limit: RateLimit,
    whose: Option<String>,
    tokens: i64,
}

/// Whether there is room for a request.
enum Room {
    /// A count is not read.
    Unread,
    SetAside(Plan),
    /// The budgets have it, and what is leased of them does not.
    Short(Vec<Want>),
    Refused(NotAllowed),
}

/// A request that asks for room.
pub struct Asking<'a> {
    pub user: &'a str,
    pub candidate: &'a Candidate,
    pub rules: &'a Rules,
    pub size: &'a Size,
    /// Tokens that its prompt probably has.
    pub prompt: i64,
    pub labels: &'a Option<Arc<Labels>>,
    /// Where it is told how the caller's own limits stand.
    pub standings: Option<&'a Mutex<Standings>>,
    /// For how long a lease may be waited for.
    pub deadline: Instant,
}

impl Asking<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject {
            user: self.user,
            provider: self.candidate.provider.id,
            model: self.candidate.counted_model(),
            is_platform_key: self.candidate.is_platform_key(),
            labels: self.labels.as_deref(),
        }
    }

    /// Tokens to take of a rate limit: the prompt, and the answer in full.
    fn tokens(&self, rate: &Rate, per_minute: i64, now: i64) -> i64 {
        let answer = match self.size.output_tokens {
            Some(each) => each.saturating_mul(self.size.n),
            None => {
                let left = rate.tokens.left(per_minute, now).saturating_sub(self.prompt);
                left.clamp(0, LIKELY_ANSWER.saturating_mul(self.size.n))
            }
        };
        self.prompt.saturating_add(answer)
    }
}

impl Spending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A user is being forgotten: whoever comes under the same id begins with nothing spent.
    pub fn forget_user(&self, user: &str) {
        let is_theirs = |whose: &Option<String>| whose.as_deref() == Some(user);
        let mut state = self.lock();
        for counted in state.budgets.values_mut() {
            counted.counts.retain(|period, count| {
                !is_theirs(&period.0) || count.set_aside != Amount::default()
            });
        }
        state.rates.retain(|(_, whose), _| !is_theirs(whose));
    }

    /// Sets aside what a request may cost, or says why it may not be sent.
    pub async fn hold(
        self: &Arc<Self>,
        lender: Lender<'_>,
        asking: Asking<'_>,
    ) -> Result<Hold, Error> {
        let ledger = lender.ledger;
        let Asking { user, candidate, rules, size, .. } = asking;
        let subject = asking.subject();
        let began = unix_micros();
        let mut hold = Hold {
            spending: self.clone(),
            ledger: ledger.clone(),
            user: user.to_owned(),
            provider: subject.provider,
            model: subject.model.to_owned(),
            is_platform_key: subject.is_platform_key,
            labels: asking.labels.clone(),
            began,
            budgets: Vec::new(),
            plan: Plan::default(),
            reserved: Amount::default(),
            taken: Vec::new(),
            is_open: false,
            warns: true,
        };
        let part = if rules.is_empty() { Part::Alone } else { lender.part()? };
        hold.warns = part != Part::Follower;
        let gateways = if rules.rate_limits.is_empty() { 1 } else { lender.gateways().await? };
        for limit in rules.rate_limits.iter().filter(|limit| limit.scope.applies(&subject)) {
            let limit = limit.shared_by(gateways, part != Part::Follower);
            let limit = &limit;
            let whose = limit.scope.counted_user(user);
            if let Err(error) = self.read_rate(ledger, limit, &whose, began).await {
                hold.untake();
                return Err(error);
            }
            let taken = {
                let mut state = self.lock();
                let rate = state.rates.entry((limit.id, whose.clone())).or_default();
                let tokens = limit
                    .tokens_per_minute
                    .map_or(0, |per_minute| asking.tokens(rate, per_minute, began));
                let taken = rate
                    .take(limit.requests_per_minute, limit.tokens_per_minute, tokens, began)
                    .map(|()| tokens);
                // What all users have used together is not told to each of them.
                if let Some(standings) = asking.standings.filter(|_| limit.scope.is_ones_own()) {
                    let mut standings = standings.lock().unwrap_or_else(|it| it.into_inner());
                    standings.add(rate.standings(limit, began));
                }
                taken
            };
            match taken {
                Ok(tokens) => hold.taken.push(Share { limit: limit.clone(), whose, tokens }),
                Err((limit, wait)) => {
                    hold.untake();
                    let target = candidate.target();
                    let wait_ms = u64::try_from(wait).unwrap_or(0).div_ceil(1000);
                    return Err(Error::RateLimited { target, limit, wait_ms });
                }
            }
        }
        let budgets: Vec<&Budget> =
            rules.budgets.iter().filter(|budget| budget.applies(&subject)).collect();
        let pricing = candidate.pricing.as_deref();
        // Embeddings: only what goes in is paid.
        let prices = match size.output_tokens {
            Some(0) => Dearest::of_input(pricing),
            _ => Dearest::of(pricing),
        };
        let mut leasing =
            (part == Part::Follower).then(|| Leasing { lender, turn: None, asked: false });
        hold.plan = loop {
            for budget in &budgets {
                if let Err(error) = self.read_budget(ledger, budget, user, began).await {
                    hold.untake();
                    return Err(error);
                }
            }
            let may_ask = leasing.as_ref().map(|leasing| !leasing.asked);
            // Should a count have been forgotten meanwhile, it is read again.
            match self.set_aside(&budgets, user, began, size, prices.clone(), may_ask) {
                Room::Unread => {}
                Room::SetAside(plan) => break plan,
                Room::Short(wants) => {
                    let Some(leasing) = &mut leasing else { continue };
                    let leased = timeout_at(asking.deadline, leasing.ask(self, wants));
                    let late = || Err(down("the hub did not answer in time".to_owned()));
                    if let Err(error) = Box::pin(leased).await.unwrap_or_else(|_| late()) {
                        hold.untake();
                        return Err(error);
                    }
                }
                Room::Refused(refused) => {
                    hold.untake();
                    return Err(refused.error(candidate.target(), &budgets));
                }
            }
        };
        drop(leasing);
        if !hold.taken.is_empty() || !budgets.is_empty() {
            hold.reserved = hold.plan.amount;
        }
        hold.budgets =
            budgets.iter().map(|budget| (budget.id, period_of(budget, user, began))).collect();
        hold.is_open = true;
        Ok(hold)
    }

    /// Sets aside in every budget or in none. `may_ask`: on a gateway that leases, whether the hub may be asked for
    /// more; `None`: it does not lease.
    fn set_aside(
        &self,
        budgets: &[&Budget],
        user: &str,
        at: i64,
        size: &Size,
        prices: Result<Dearest, NoBound>,
        may_ask: Option<bool>,
    ) -> Room {
        let mut state = self.lock();
        let mut used = Vec::new();
        let mut spent = Vec::new();
        for budget in budgets {
            let count = state.count(budget, &period_of(budget, user, at));
            if !count.is_read {
                return Room::Unread;
            }
            used.push((*budget, count.taken_but_by(None)));
            spent.push((*budget, count.spent_by_all()));
        }
        let mut planned = budget::plan(&used, size, prices.clone());
        if let (Some(may_ask), Ok(plan)) = (may_ask, &planned) {
            let leased = state.leased(budgets, user, at);
            let within: Vec<_> =
                leased.iter().zip(&used).map(|(budget, (_, used))| (budget, *used)).collect();
            let leased = budget::plan(&within, size, prices.clone());
            // A shorter answer than the budgets would allow is asked for only where the hub has no more.
            if may_ask && leased.as_ref() != Ok(plan) {
                let wants = state.wants(budgets, user, at, plan.amount);
                if !wants.is_empty() {
                    return Room::Short(wants);
                }
            }
            planned = leased;
        }
        let plan = match planned {
            Ok(plan) => plan,
            Err(refused) => {
                let is_set_aside = matches!(refused, Refused::Exceeded { .. })
                    && budget::plan(&spent, size, prices).is_ok();
                return Room::Refused(NotAllowed { refused, is_set_aside });
            }
        };
        for budget in budgets {
            let count = state.count(budget, &period_of(budget, user, at));
            count.set_aside = count.set_aside.plus(plan.amount);
            if let Some(held) = &mut count.lease {
                held.needed_at = Instant::now();
            }
        }
        Room::SetAside(plan)
    }

    async fn read_budget(
        &self,
        ledger: &Ledger,
        budget: &Budget,
        user: &str,
        at: i64,
    ) -> Result<(), Error> {
        self.read_count(ledger, budget, period_of(budget, user, at)).await
    }

    async fn read_count(
        &self,
        ledger: &Ledger,
        budget: &Budget,
        period: Period,
    ) -> Result<(), Error> {
        if self.lock().count(budget, &period).is_read {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        let (reply, read) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.count(budget, &period).is_read {
                return Ok(());
            }
            // What is settled from here on comes on top.
            state.sent += 1;
            let sent = state.sent;
            let count = state.count(budget, &period);
            count.read_at = sent;
            count.spent = Amount::default();
            ledger.send(Task::Spending(
                SpendingQuery::Budget {
                    budget: budget.id,
                    scope: budget.scope.clone(),
                    keys: budget.keys,
                    user: period.0.clone(),
                    since: period.1,
                },
                reply,
            ));
        }
        let Found { amount, leases, .. } = answered(read.await)?;
        let mut state = self.lock();
        let count = state.count(budget, &period);
        count.spent = count.spent.plus(amount);
        count.lent = leases.into_iter().collect();
        count.is_read = true;
        if let Some(counted) = state.budgets.get_mut(&budget.id) {
            counted.forget_old(&period);
        }
        Ok(())
    }

    async fn read_rate(
        &self,
        ledger: &Ledger,
        limit: &RateLimit,
        whose: &Option<String>,
        now: i64,
    ) -> Result<(), Error> {
        let key = (limit.id, whose.clone());
        if self.lock().rates.contains_key(&key) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if self.lock().rates.contains_key(&key) {
            return Ok(());
        }
        let (reply, read) = oneshot::channel();
        let query = SpendingQuery::LastMinute {
            scope: limit.scope.clone(),
            user: whose.clone(),
            since: now - MINUTE,
        };
        ledger.send(Task::Spending(query, reply));
        let found = answered(read.await)?.calls;
        let mut rate = Rate::default();
        for (at, tokens) in found {
            rate.requests.note(1, limit.requests_per_minute.unwrap_or(i64::MAX), at);
            rate.tokens.note(tokens, limit.tokens_per_minute.unwrap_or(i64::MAX), at);
        }
        let mut state = self.lock();
        if state.rates.len() > MANY {
            state.rates.retain(|_, rate| !rate.is_free(now));
        }
        state.rates.entry(key).or_insert(rate);
        Ok(())
    }
}

/// Asking the hub for a call's sake, once.
struct Leasing<'a> {
    lender: Lender<'a>,
    /// Nobody else asks meanwhile.
    turn: Option<AsyncGuard<'a, Line>>,
    asked: bool,
}

impl Leasing<'_> {
    /// Waits for its turn first: whoever had it may have got enough for this call too.
    async fn ask(&mut self, spending: &Spending, wants: Vec<Want>) -> Result<(), Error> {
        match self.turn.take() {
            None => self.turn = Some(self.lender.line().await),
            Some(mut line) => {
                self.asked = true;
                spending.lease(self.lender, &mut line, wants).await?;
            }
        }
        Ok(())
    }
}

/// What the main thread has read. What cannot be read is not 0.
fn answered<E>(read: Result<Result<Found, String>, E>) -> Result<Found, Error> {
    let stopping = |_| "the worker is stopping".to_owned();
    read.map_err(stopping).flatten().map_err(|reason| Error::Ledger { reason })
}
