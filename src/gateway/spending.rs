//! Budgets and rate limits at the moment of sending. The gateway is the one place through which
//! every request of a database leaves, so its counts are those of all sessions: what is spent, by
//! the ledger, and what is set aside for the attempts that are on their way.
//!
//! A count is read from the ledger when it is first needed in this life of the worker, and kept
//! from then on. The ledger is written in the order in which tasks are sent to the main thread, so
//! an attempt that was settled before the count was read is in it, and one after is not.

use crate::clock::unix_micros;
use crate::core::bound::{Dearest, NoBound, Size};
use crate::core::budget::{self, Amount, Budget, Plan, RateLimit, Refused, Rules, Spent, Subject};
use crate::core::rate::{MINUTE, Standings, Taken};
use crate::core::tags::{Label, Labels};
use crate::error::{Error, Shortfall, Target};
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{
    BudgetWarning, Limits, Reserved, Spending as Found, SpendingQuery, Task,
};
use crate::protocol::Candidate;
use rust_decimal::Decimal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Of a budget's limit, in percent: when somebody is told.
const WARN_AT: [i64; 2] = [80, 100];
/// Counts past which those that can be read again are forgotten.
const MANY: usize = 10_000;
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

#[derive(Default)]
struct State {
    /// Settlements and readings sent to the main thread so far.
    sent: u64,
    budgets: HashMap<Uuid, Counted>,
    rates: HashMap<(Uuid, Option<String>), Rate>,
}

struct Counted {
    budget: Budget,
    counts: HashMap<Period, Count>,
}

impl Counted {
    /// Forgets counts of this user's earlier periods, and, where there are many, those of others:
    /// they are read again when they are needed. Not those in which something is set aside.
    fn forget_old(&mut self, current: &Period) {
        let are_many = self.counts.len() > MANY;
        self.counts.retain(|period, count| {
            period == current
                || !count.is_read
                || count.set_aside != Amount::default()
                || (period.0 != current.0 && !are_many)
        });
    }
}

/// Whose count, and of which period: microseconds since 1970 at its start.
type Period = (Option<String>, i64);

struct Count {
    spent: Amount,
    set_aside: Amount,
    /// The ledger is read up to this settlement.
    read_at: u64,
    is_read: bool,
    warned_at: i64,
}

#[derive(Clone, Copy, Default)]
struct Rate {
    requests: Taken,
    tokens: Taken,
}

/// What an attempt has set aside, until it is settled.
pub struct Hold {
    spending: Arc<Spending>,
    ledger: Ledger,
    user: String,
    provider: Uuid,
    /// As rules know it.
    model: String,
    is_platform_key: bool,
    labels: Option<Arc<Labels>>,
    /// When the attempt began: the period in which it counts.
    began: i64,
    /// Budgets in which it has set aside.
    budgets: Vec<(Uuid, Period)>,
    plan: Plan,
    /// What the pending row says that is set aside; nothing where there are no rules.
    reserved: Amount,
    /// Rate limits of which a share was taken.
    taken: Vec<Share>,
    is_open: bool,
}

/// What was taken of a rate limit.
struct Share {
    limit: RateLimit,
    whose: Option<String>,
    tokens: i64,
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
        ledger: &Ledger,
        asking: Asking<'_>,
    ) -> Result<Hold, Error> {
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
        };
        for limit in rules.rate_limits.iter().filter(|limit| limit.scope.applies(&subject)) {
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
        let prices = Dearest::of(candidate.pricing.as_deref());
        hold.plan = loop {
            for budget in &budgets {
                if let Err(error) = self.read_budget(ledger, budget, user, began).await {
                    hold.untake();
                    return Err(error);
                }
            }
            // Should a count have been forgotten meanwhile, it is read again.
            match self.set_aside(&budgets, user, began, size, prices.clone()) {
                None => {}
                Some(Ok(plan)) => break plan,
                Some(Err(refused)) => {
                    hold.untake();
                    return Err(refused.error(candidate.target(), &budgets));
                }
            }
        };
        if !hold.taken.is_empty() || !budgets.is_empty() {
            hold.reserved = hold.plan.amount;
        }
        hold.budgets =
            budgets.iter().map(|budget| (budget.id, period_of(budget, user, began))).collect();
        hold.is_open = true;
        Ok(hold)
    }

    /// Sets aside in every budget or in none. `None`: a count is not read.
    fn set_aside(
        &self,
        budgets: &[&Budget],
        user: &str,
        at: i64,
        size: &Size,
        prices: Result<Dearest, NoBound>,
    ) -> Option<Result<Plan, NotAllowed>> {
        let mut state = self.lock();
        let mut used = Vec::new();
        let mut spent = Vec::new();
        for budget in budgets {
            let count = state.count(budget, &period_of(budget, user, at));
            if !count.is_read {
                return None;
            }
            used.push((*budget, count.spent.plus(count.set_aside)));
            spent.push((*budget, count.spent));
        }
        let plan = match budget::plan(&used, size, prices.clone()) {
            Ok(plan) => plan,
            Err(refused) => {
                let is_set_aside = matches!(refused, Refused::Exceeded { .. })
                    && budget::plan(&spent, size, prices).is_ok();
                return Some(Err(NotAllowed { refused, is_set_aside }));
            }
        };
        for budget in budgets {
            let count = state.count(budget, &period_of(budget, user, at));
            count.set_aside = count.set_aside.plus(plan.amount);
        }
        Some(Ok(plan))
    }

    async fn read_budget(
        &self,
        ledger: &Ledger,
        budget: &Budget,
        user: &str,
        at: i64,
    ) -> Result<(), Error> {
        let period = period_of(budget, user, at);
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
                    scope: budget.scope.clone(),
                    keys: budget.keys,
                    user: period.0.clone(),
                    since: period.1,
                },
                reply,
            ));
        }
        let found = answered(read.await)?.amount;
        let mut state = self.lock();
        let count = state.count(budget, &period);
        count.spent = count.spent.plus(found);
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

/// What the main thread has read. What cannot be read is not 0.
fn answered<E>(read: Result<Result<Found, String>, E>) -> Result<Found, Error> {
    let stopping = |_| "the worker is stopping".to_owned();
    read.map_err(stopping).flatten().map_err(|reason| Error::Ledger { reason })
}

impl Rate {
    /// Takes a request and its tokens, or says which limit it is too early for, and by how much.
    fn take(
        &mut self,
        requests_per_minute: Option<i64>,
        tokens_per_minute: Option<i64>,
        tokens: i64,
        now: i64,
    ) -> Result<(), (String, i64)> {
        let mut taken = *self;
        if let Some(most) = requests_per_minute {
            taken.requests.take(1, most, now).map_err(|wait| (format!("{most} requests"), wait))?;
        }
        if let Some(most) = tokens_per_minute {
            taken
                .tokens
                .take(tokens, most, now)
                .map_err(|wait| (format!("{most} tokens"), wait))?;
        }
        *self = taken;
        Ok(())
    }

    fn standings(&self, limit: &RateLimit, now: i64) -> Standings {
        let of = |taken: &Taken, per_minute: Option<i64>| {
            per_minute.map(|per_minute| taken.standing(per_minute, now))
        };
        Standings {
            requests: of(&self.requests, limit.requests_per_minute),
            tokens: of(&self.tokens, limit.tokens_per_minute),
        }
    }

    fn is_free(&self, now: i64) -> bool {
        self.requests.is_free(now) && self.tokens.is_free(now)
    }
}

fn period_of(budget: &Budget, user: &str, at: i64) -> Period {
    (budget.scope.counted_user(user), budget.period.start(at))
}

impl State {
    /// The count of a budget, whose limits may have changed since.
    fn count(&mut self, budget: &Budget, period: &Period) -> &mut Count {
        let counted = self
            .budgets
            .entry(budget.id)
            .or_insert_with(|| Counted { budget: budget.clone(), counts: HashMap::new() });
        if counted.budget != *budget {
            // Another scope counts other things.
            let counts = |budget: &Budget| (budget.scope.clone(), budget.keys, budget.period);
            if counts(&counted.budget) != counts(budget) {
                counted.counts.clear();
            }
            counted.budget = budget.clone();
        }
        counted.counts.entry(period.clone()).or_insert(Count {
            spent: Amount::default(),
            set_aside: Amount::default(),
            read_at: u64::MAX,
            is_read: false,
            warned_at: 0,
        })
    }
}

struct NotAllowed {
    refused: Refused,
    is_set_aside: bool,
}

impl NotAllowed {
    fn error(self, target: Target, budgets: &[&Budget]) -> Error {
        match self.refused {
            Refused::NoBound(NoBound::Unpriced) => {
                Error::NoCostBound { target, what: "its price is not known".to_owned() }
            }
            Refused::NoBound(NoBound::Unbounded(what)) => Error::NoCostBound { target, what },
            Refused::Unreadable { index } => Error::Ledger {
                reason: format!("the limit of budget {} is no number", budgets[index].id),
            },
            Refused::Exceeded { index, unit, needed, left } => {
                let budget = budgets[index];
                let is_ones_own = budget.scope.is_ones_own();
                let shortfall = Box::new(Shortfall {
                    period: format!("{:?}", budget.period).to_lowercase(),
                    whose: match (budget.scope.label(), is_ones_own) {
                        (Some(Label::Key(_)), _) => " of this gateway key".to_owned(),
                        (Some(Label::Tag(tag)), true) => format!(" of this user with tag '{tag}'"),
                        (Some(Label::Tag(tag)), false) => format!(" of all users with tag '{tag}'"),
                        (None, true) => " of this user".to_owned(),
                        (None, false) => " of all users".to_owned(),
                    },
                    unit: unit.as_str().to_owned(),
                    needed: needed.normalize().to_string(),
                    // What others have spent is not told to each of them.
                    left: is_ones_own.then(|| left.max(Decimal::ZERO).normalize().to_string()),
                    is_set_aside: self.is_set_aside,
                });
                Error::BudgetExceeded { target, shortfall }
            }
        }
    }
}

impl Hold {
    /// When the attempt began: microseconds since 1970.
    pub fn began(&self) -> i64 {
        self.began
    }

    /// USD and tokens that are set aside, for the pending row.
    pub fn reserved(&self) -> Option<Reserved> {
        if self.reserved == Amount::default() {
            return None;
        }
        let cost = self.plan.is_priced.then(|| self.reserved.usd.normalize().to_string());
        Some(Reserved { cost, tokens: self.reserved.tokens })
    }

    /// What the attempt is believed to have come to at the most.
    pub fn limits(&self) -> Limits {
        Limits {
            cost: self.plan.bound.usd.map(|usd| usd.normalize().to_string()),
            tokens: self.plan.bound.tokens,
        }
    }

    /// The most tokens that the answer may have, where only the budget says.
    pub fn cap(&self) -> Option<i32> {
        self.plan.cap.map(|cap| i32::try_from(cap).unwrap_or(i32::MAX))
    }

    /// A settlement is being sent to the ledger: what is read from there before does not have it.
    pub fn note_sent(&self) -> u64 {
        let mut state = self.spending.lock();
        state.sent += 1;
        state.sent
    }

    /// The attempt is settled: what it has really used counts from now on.
    pub fn settle(mut self, sent: u64, spent: Spent<'_>) {
        self.finish(sent, Some(spent));
    }

    /// Nothing was sent.
    pub fn release(mut self) {
        self.give_back();
    }

    fn finish(&mut self, sent: u64, spent: Option<Spent<'_>>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let spent = spent.unwrap_or_default();
        let counted = spent.counted(self.reserved, self.plan.bound);
        let spending = self.spending.clone();
        let mut state = spending.lock();
        for Share { limit, whose, tokens } in std::mem::take(&mut self.taken) {
            if let Some(per_minute) = limit.tokens_per_minute
                && let Some(used) = spent.tokens_used(self.plan.bound)
                && let Some(rate) = state.rates.get_mut(&(limit.id, whose))
            {
                rate.tokens.correct(used.saturating_sub(tokens), per_minute);
            }
        }
        let subject = Subject {
            user: &self.user,
            provider: self.provider,
            model: &self.model,
            is_platform_key: self.is_platform_key,
            labels: self.labels.as_deref(),
        };
        for (id, known) in &mut state.budgets {
            let Counted { budget, counts } = known;
            if !budget.applies(&subject) {
                continue;
            }
            let period = period_of(budget, &self.user, self.began);
            let Some(count) = counts.get_mut(&period) else { continue };
            if self.budgets.iter().any(|own| *own == (*id, period.clone())) {
                count.set_aside = count.set_aside.minus(self.plan.amount);
            } else if sent < count.read_at {
                // The count was read from a ledger that has it already.
                continue;
            }
            count.spent = count.spent.plus(counted);
            warn(&self.ledger, budget, &period, count);
        }
    }

    /// Gives back the shares of rate limits.
    fn untake(&mut self) {
        let spending = self.spending.clone();
        let mut state = spending.lock();
        for Share { limit, whose, tokens } in std::mem::take(&mut self.taken) {
            let Some(rate) = state.rates.get_mut(&(limit.id, whose)) else { continue };
            if let Some(per_minute) = limit.requests_per_minute {
                rate.requests.correct(-1, per_minute);
            }
            if let Some(per_minute) = limit.tokens_per_minute {
                rate.tokens.correct(tokens.saturating_neg(), per_minute);
            }
        }
    }

    fn give_back(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        self.untake();
        let spending = self.spending.clone();
        let mut state = spending.lock();
        for (id, period) in &self.budgets {
            if let Some(count) =
                state.budgets.get_mut(id).and_then(|known| known.counts.get_mut(period))
            {
                count.set_aside = count.set_aside.minus(self.plan.amount);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Of an attempt that was cut off nobody knows more: it counts in full.
        let sent = self.note_sent();
        self.finish(sent, None);
    }
}

fn warn(ledger: &Ledger, budget: &Budget, period: &Period, count: &mut Count) {
    let percent = budget.percent(count.spent);
    let Some(level) = WARN_AT.into_iter().filter(|level| percent >= *level).max() else { return };
    if level <= count.warned_at {
        return;
    }
    count.warned_at = level;
    ledger.send(Task::BudgetWarning(Box::new(BudgetWarning {
        budget: budget.id,
        user: period.0.clone().or_else(|| budget.scope.user_id.clone()),
        period_start: period.1,
        level: level as i16,
        spent: count.spent,
    })));
}
