//! What an attempt has set aside, until it is settled.

use super::counts::{Count, Counted, Period, period_of};
use super::{Share, Spending};
use crate::core::budget::{Amount, Budget, Plan, Spent, Subject};
use crate::core::tags::Labels;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{BudgetWarning, Limits, Reserved, Task};
use std::sync::Arc;
use uuid::Uuid;

/// Of a budget's limit, in percent: when somebody is told.
const WARN_AT: [i64; 2] = [80, 100];

/// What an attempt has set aside, until it is settled.
pub struct Hold {
    pub(super) spending: Arc<Spending>,
    pub(super) ledger: Ledger,
    pub(super) user: String,
    pub(super) provider: Uuid,
    /// As rules know it.
    pub(super) model: String,
    pub(super) is_platform_key: bool,
    pub(super) labels: Option<Arc<Labels>>,
    /// When the attempt began: the period in which it counts.
    pub(super) began: i64,
    /// Budgets in which it has set aside.
    pub(super) budgets: Vec<(Uuid, Period)>,
    pub(super) plan: Plan,
    /// What the pending row says that is set aside; nothing where there are no rules.
    pub(super) reserved: Amount,
    /// Rate limits of which a share was taken.
    pub(super) taken: Vec<Share>,
    pub(super) is_open: bool,
    /// Whether this gateway tells how much of a budget is spent: else its hub does.
    pub(super) warns: bool,
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
            if self.warns {
                warn(&self.ledger, budget, &period, count);
            }
        }
    }

    /// Gives back the shares of rate limits.
    pub(super) fn untake(&mut self) {
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

/// Tells, once for each level, how much of a budget is spent.
pub(super) fn warn(ledger: &Ledger, budget: &Budget, period: &Period, count: &mut Count) {
    let spent = count.spent_by_all();
    let percent = budget.percent(spent);
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
        spent,
    })));
}
