//! The counts: what is spent of each budget, by whose and which period, and of each rate limit.

use crate::clock::unix_micros;
use crate::core::budget::{Amount, Budget, RateLimit};
use crate::core::rate::{MINUTE, Standings, Taken};
use crate::gateway::task::Leased;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;
use uuid::Uuid;

/// Counts past which those that can be read again are forgotten.
pub(super) const MANY: usize = 10_000;

#[derive(Default)]
pub(super) struct State {
    /// Settlements and readings sent to the main thread so far.
    pub(super) sent: u64,
    pub(super) budgets: HashMap<Uuid, Counted>,
    pub(super) rates: HashMap<(Uuid, Option<String>), Rate>,
    /// On the hub: of how many settlements of others' leases it knows.
    pub(super) settlements: i64,
}

pub(super) struct Counted {
    pub(super) budget: Budget,
    pub(super) counts: HashMap<Period, Count>,
}

impl Counted {
    /// Forgets counts of this user's earlier periods, and, where there are many, those of others:
    /// they are read again when they are needed. Not those in which something is set aside.
    pub(super) fn forget_old(&mut self, current: &Period) {
        let are_many = self.counts.len() > MANY;
        self.counts.retain(|period, count| {
            period == current
                || !count.is_read
                || count.set_aside != Amount::default()
                || count.is_lending
                || count.lease.is_some_and(|held| held.granted != count.used())
                || (period.0 != current.0 && !are_many)
        });
    }
}

/// Whose count, and of which period: microseconds since 1970 at its start.
pub(super) type Period = (Option<String>, i64);

pub(super) struct Count {
    pub(super) spent: Amount,
    pub(super) set_aside: Amount,
    /// The ledger is read up to this settlement.
    pub(super) read_at: u64,
    pub(super) is_read: bool,
    /// Since when it is kept: microseconds since 1970.
    pub(super) kept_since: i64,
    pub(super) warned_at: i64,
    /// On the hub: what the other gateways have leased, by their names.
    pub(super) lent: BTreeMap<String, Leased>,
    /// A lease of it is being granted, and not kept by the database yet.
    pub(super) is_lending: bool,
    /// On the others: what they have leased. `None`: that is not known, and none is.
    pub(super) lease: Option<Held>,
}

/// A lease of the hub.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) granted: Amount,
    /// What all others had spent when it was granted, as far as the hub knew.
    pub(super) spent_by_others: Amount,
    /// What the hub was told last: what is used, and how much of the lease is kept.
    pub(super) told: Option<(Amount, Amount)>,
    /// When a call was last let through by it. One that is refused needs nothing of what is there: otherwise users who
    /// try again and again would keep on each gateway what is too little there, and enough together.
    pub(super) needed_at: Instant,
    /// The hub has not given what was wanted: until then nobody asks again.
    pub(super) short_until: Instant,
}

impl Count {
    /// What is spent or set aside here.
    pub(super) fn used(&self) -> Amount {
        self.spent.plus(self.set_aside)
    }

    /// What all gateways have spent, set aside or leased, but for the one of this name.
    pub(super) fn taken_but_by(&self, name: Option<&str>) -> Amount {
        let others = self.lent.iter().filter(|(other, _)| Some(other.as_str()) != name);
        others.fold(self.used(), |sum, (_, lease)| sum.plus(lease.granted))
    }

    /// What all gateways have spent, as far as they have told.
    pub(super) fn spent_by_all(&self) -> Amount {
        let others = self.lease.map_or(Amount::default(), |held| held.spent_by_others);
        self.spent.plus(others).plus(self.spent_by(None))
    }

    /// On the hub: what the other gateways have spent, as far as they have told, but for the one of this name.
    pub(super) fn spent_by(&self, but: Option<&str>) -> Amount {
        let others = self.lent.iter().filter(|(other, _)| Some(other.as_str()) != but);
        others.fold(Amount::default(), |sum, (_, lease)| sum.plus(lease.used))
    }
}

#[derive(Clone, Copy, Default)]
pub(super) struct Rate {
    pub(super) requests: Taken,
    pub(super) tokens: Taken,
}

impl Rate {
    /// Takes a request and its tokens, or says which limit it is too early for, and by how much.
    pub(super) fn take(
        &mut self,
        requests_per_minute: Option<i64>,
        tokens_per_minute: Option<i64>,
        tokens: i64,
        now: i64,
    ) -> Result<(), (String, i64)> {
        let mut taken = *self;
        // One of several gateways may have no share of a small limit.
        for (limit, unit) in [(requests_per_minute, "requests"), (tokens_per_minute, "tokens")] {
            if limit.is_some_and(|limit| limit < 1) {
                return Err((format!("0 {unit} (the share of this gateway)"), MINUTE));
            }
        }
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

    pub(super) fn standings(&self, limit: &RateLimit, now: i64) -> Standings {
        let of = |taken: &Taken, per_minute: Option<i64>| {
            per_minute.map(|per_minute| taken.standing(per_minute, now))
        };
        Standings {
            requests: of(&self.requests, limit.requests_per_minute),
            tokens: of(&self.tokens, limit.tokens_per_minute),
        }
    }

    pub(super) fn is_free(&self, now: i64) -> bool {
        self.requests.is_free(now) && self.tokens.is_free(now)
    }
}

pub(super) fn period_of(budget: &Budget, user: &str, at: i64) -> Period {
    (budget.scope.counted_user(user), budget.period.start(at))
}

impl State {
    /// The count of a budget, whose limits may have changed since.
    pub(super) fn count(&mut self, budget: &Budget, period: &Period) -> &mut Count {
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
            kept_since: unix_micros(),
            warned_at: 0,
            lent: BTreeMap::new(),
            is_lending: false,
            lease: None,
        })
    }
}
