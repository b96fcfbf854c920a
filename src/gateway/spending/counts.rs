//! The counts: what is spent of each budget, by whose and which period, and of each rate limit.

use crate::core::budget::{Amount, Budget, RateLimit};
use crate::core::rate::{Standings, Taken};
use std::collections::HashMap;
use uuid::Uuid;

/// Counts past which those that can be read again are forgotten.
pub(super) const MANY: usize = 10_000;

#[derive(Default)]
pub(super) struct State {
    /// Settlements and readings sent to the main thread so far.
    pub(super) sent: u64,
    pub(super) budgets: HashMap<Uuid, Counted>,
    pub(super) rates: HashMap<(Uuid, Option<String>), Rate>,
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
    pub(super) warned_at: i64,
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
            warned_at: 0,
        })
    }
}
