//! Leases of budgets: on the hub what it grants, on the other gateways what they hold.

use super::Spending;
use super::counts::{Held, Period, State, period_of};
use super::hold::warn;
use crate::core::budget::{Amount, Budget, Unreadable};
use crate::core::lease::{self, Answer, Ask, Lease, MOST_ASKS, Total, Wish};
use crate::error::Error;
use crate::gateway::hub::{Lender, Line, down};
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{Counted, LeaseKept, Leased, Lending, Task};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// What no call has needed for so long is given back.
const IDLE: Duration = Duration::from_secs(10);
/// So long nobody asks again where the hub has not given what was wanted.
const SHORT: Duration = Duration::from_millis(500);

/// What a gateway wants of a budget.
#[derive(Debug, Clone)]
pub struct Want {
    budget: Budget,
    period: Period,
    counted_since: i64,
    used: Amount,
    wanted: Amount,
    gives_back: bool,
}

impl Want {
    fn ask(&self) -> Ask {
        Ask {
            budget: self.budget.id,
            user: self.period.0.clone(),
            since: self.period.1,
            counted_since: self.counted_since,
            used: self.used.into(),
            wanted: self.wanted.into(),
            gives_back: self.gives_back,
        }
    }
}

impl State {
    /// On the hub: the counts of which others have leases.
    fn lent(&self) -> Vec<Counted> {
        let of = |(budget, known): (&Uuid, &super::counts::Counted)| {
            let lent = known.counts.iter().filter(|(_, count)| !count.lent.is_empty());
            lent.map(|(period, _)| (*budget, period.0.clone(), period.1)).collect::<Vec<_>>()
        };
        self.budgets.iter().flat_map(of).collect()
    }

    /// The budgets with what is leased of them for limits.
    pub(super) fn leased(&mut self, budgets: &[&Budget], user: &str, at: i64) -> Vec<Budget> {
        let now = Instant::now();
        let of = |budget: &&Budget| {
            let held = self.count(budget, &period_of(budget, user, at)).lease.get_or_insert(Held {
                granted: Amount::default(),
                spent_by_others: Amount::default(),
                told: None,
                needed_at: now,
                short_until: now,
            });
            lease::leased(budget, held.granted)
        };
        budgets.iter().map(of).collect()
    }

    /// Of which of these budgets more is to be leased before a call can come to so much. Not of those of which there
    /// was none a moment ago.
    pub(super) fn wants(
        &mut self,
        budgets: &[&Budget],
        user: &str,
        at: i64,
        amount: Amount,
    ) -> Vec<Want> {
        let now = Instant::now();
        let mut wants = Vec::new();
        for budget in budgets.iter().filter(|budget| budget.blocks) {
            let period = period_of(budget, user, at);
            let count = self.count(budget, &period);
            let used = count.used();
            let wanted = used.plus(amount);
            let Some(held) = count.lease else { continue };
            if lease::suffices(budget, held.granted, wanted) {
                continue;
            }
            if held.short_until > now {
                return Vec::new();
            }
            let budget = Budget::clone(budget);
            let counted_since = count.kept_since;
            wants.push(Want { budget, period, counted_since, used, wanted, gives_back: false });
        }
        wants
    }
}

impl Spending {
    /// Leases what is wanted, as far as the hub has it.
    pub(super) async fn lease(
        &self,
        lender: Lender<'_>,
        line: &mut Line,
        wants: Vec<Want>,
    ) -> Result<(), Error> {
        let answer = lender.ask(line, wants.iter().map(Want::ask).collect()).await?;
        self.take(&wants, &answer)
    }

    /// Takes what the hub has granted.
    fn take(&self, wants: &[Want], answer: &Answer) -> Result<(), Error> {
        let mut state = self.lock();
        for (want, lease) in wants.iter().zip(&answer.leases) {
            let held = &mut state.count(&want.budget, &want.period).lease;
            let Some(lease) = lease else {
                // What is used here is nobody's any more.
                *held = None;
                if want.gives_back {
                    continue;
                }
                let id = want.budget.id;
                return Err(down(format!("the hub has no budget {id}, or has forgotten its user")));
            };
            let amount = |total: &Total| {
                total.amount().ok_or_else(|| down("the lease is no number".to_owned()))
            };
            let granted = amount(&lease.granted)?;
            let spent_by_others = amount(&lease.spent_by_others)?;
            let Some(held) = held else { continue };
            (held.granted, held.spent_by_others) = (granted, spent_by_others);
            if want.gives_back {
                continue;
            }
            match lease::suffices(&want.budget, granted, want.wanted) {
                true => held.needed_at = Instant::now(),
                false => held.short_until = Instant::now() + SHORT,
            }
        }
        Ok(())
    }

    /// Tells the hub what is used of its leases, and gives back what no call has needed for a while.
    pub async fn tell_hub(&self, lender: Lender<'_>) -> Result<(), Error> {
        // From here on nothing is granted.
        let mut line = lender.line().await;
        loop {
            let wants = self.to_tell();
            let is_last = wants.len() < MOST_ASKS;
            let answer =
                Box::pin(lender.ask(&mut line, wants.iter().map(Want::ask).collect())).await;
            if let Err(error) = answer.and_then(|answer| self.take(&wants, &answer)) {
                self.untold(&wants);
                return Err(error);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// This gateway is removed: what no call has used it spends no more, because the hub may have settled it.
    pub async fn let_go(&self, lender: Lender<'_>) {
        // From here on nothing is granted.
        let _line = lender.line().await;
        let mut state = self.lock();
        for count in state.budgets.values_mut().flat_map(|counted| counted.counts.values_mut()) {
            let used = count.used();
            if let Some(held) = &mut count.lease {
                held.granted = used;
            }
        }
    }

    /// What the hub does not know yet, as much as one message is about.
    fn to_tell(&self) -> Vec<Want> {
        let mut state = self.lock();
        let mut wants = Vec::new();
        for counted in state.budgets.values_mut() {
            for (period, count) in &mut counted.counts {
                let used = count.used();
                let Some(held) = count.lease.as_mut().filter(|_| count.is_read) else { continue };
                if held.needed_at.elapsed() > IDLE {
                    held.granted = used;
                }
                let now = (used, held.granted);
                if wants.len() == MOST_ASKS || held.told == Some(now) {
                    continue;
                }
                held.told = Some(now);
                let (budget, period) = (counted.budget.clone(), period.clone());
                let (counted_since, wanted) = (count.kept_since, held.granted);
                wants.push(Want { budget, period, counted_since, used, wanted, gives_back: true });
            }
        }
        wants
    }

    /// Whether the hub knows all, and nothing is to be given back.
    pub fn has_told_all(&self) -> bool {
        let state = self.lock();
        let mut counts = state.budgets.values().flat_map(|counted| counted.counts.values());
        counts.all(|count| {
            count.lease.is_none_or(|held| held.told == Some((count.used(), count.used())))
        })
    }

    fn untold(&self, wants: &[Want]) {
        let mut state = self.lock();
        for want in wants {
            if let Some(held) = &mut state.count(&want.budget, &want.period).lease {
                held.told = None;
            }
        }
    }

    /// On the hub: where leases were settled in the database, reads them again.
    pub async fn read_settled(&self, lender: Lender<'_>) -> Result<(), Error> {
        let Some(settlements) = lender.settlements() else { return Ok(()) };
        if self.lock().settlements == settlements {
            return Ok(());
        }
        // From here on nobody is granted anything; and what is being read has come, perhaps from before.
        let _line = lender.line().await;
        let reading = self.reading.lock().await;
        let lent = self.lock().lent();
        drop(reading);
        for counts in lent.chunks(MOST_ASKS) {
            let (reply, read) = oneshot::channel();
            let asked = Lending::Read { counts: counts.to_vec(), reply };
            lender.ledger.send(Task::Lend(asked));
            let read = read.await.map_err(|_| Error::stopping())?;
            let read = read.map_err(|reason| Error::Ledger { reason })?;
            let mut state = self.lock();
            for ((budget, user, since), leases) in counts.iter().zip(read) {
                let counted = state.budgets.get_mut(budget);
                let count = counted.and_then(|known| known.counts.get_mut(&(user.clone(), *since)));
                if let Some(count) = count.filter(|count| count.is_read) {
                    count.lent = leases.into_iter().collect();
                }
            }
        }
        self.lock().settlements = settlements;
        Ok(())
    }

    /// On the hub: grants another gateway what it asks for. What is granted is in the database before it is said.
    pub async fn grant(
        &self,
        ledger: &Ledger,
        from: &str,
        asks: &[Option<Ask>],
        budgets: Vec<Budget>,
        gateways: i64,
    ) -> Result<Vec<Option<Lease>>, Error> {
        let budgets: HashMap<Uuid, Budget> =
            budgets.into_iter().map(|budget| (budget.id, budget)).collect();
        let mut lending = Lent { spending: self, counts: Vec::new() };
        let mut leases = Vec::with_capacity(asks.len());
        let mut kept = Vec::with_capacity(asks.len());
        for ask in asks {
            let known = ask.as_ref().and_then(|ask| Some((ask, budgets.get(&ask.budget)?)));
            let Some((ask, budget)) = known else {
                leases.push(None);
                continue;
            };
            let (lease, spent_by_others) =
                Box::pin(self.lend(ledger, from, ask, budget, gateways, &mut lending)).await?;
            leases.push(Some(Lease {
                granted: lease.granted.into(),
                spent_by_others: spent_by_others.into(),
            }));
            let (budget, user, since) = (ask.budget, ask.user.clone(), ask.since);
            kept.push(LeaseKept { budget, user, since, lease });
        }
        if !kept.is_empty() {
            let (reply, done) = oneshot::channel();
            let from = from.to_owned();
            ledger.send(Task::Lend(Lending::Keep { from, leases: kept, reply }));
            let done = done.await.map_err(|_| Error::stopping())?;
            done.map_err(|reason| Error::Ledger { reason })?;
        }
        lending.keep(ledger);
        Ok(leases)
    }

    async fn lend(
        &self,
        ledger: &Ledger,
        from: &str,
        ask: &Ask,
        budget: &Budget,
        gateways: i64,
        lending: &mut Lent<'_>,
    ) -> Result<(Leased, Amount), Error> {
        let bad = |what: &str| Error::bad_request(format!("a lease is asked for with {what}"));
        let used = ask.used.amount().ok_or_else(|| bad("an amount that is none"))?;
        let wanted = ask.wanted.amount().ok_or_else(|| bad("an amount that is none"))?;
        if budget.period.start(ask.since) != ask.since {
            return Err(bad("a period that is none of its budget"));
        }
        if ask.user.is_some() != budget.scope.is_each_user {
            return Err(bad("a count that the budget does not have"));
        }
        let period = (ask.user.clone(), ask.since);
        loop {
            self.read_count(ledger, budget, period.clone()).await?;
            let mut state = self.lock();
            let count = state.count(budget, &period);
            if !count.is_read {
                continue;
            }
            let others = count.taken_but_by(Some(from));
            let spent_by_others = count.spent.plus(count.spent_by(Some(from)));
            let before = count.lent.get(from).copied();
            let held = before.unwrap_or_default().granted;
            let wish = Wish { used, wanted, gives_back: ask.gives_back };
            let granted = lease::granted(budget, others, held, wish, gateways);
            let granted = granted.map_err(|Unreadable| Error::Ledger {
                reason: format!("the limit of budget {} is no number", budget.id),
            })?;
            let lease = Leased { granted, used };
            // Until the database has it, the larger of the two counts.
            let meanwhile = Leased { granted: larger(held, granted), used };
            count.lent.insert(from.to_owned(), meanwhile);
            count.is_lending = true;
            lending.counts.push(Changed {
                budget: budget.id,
                period,
                from: from.to_owned(),
                before,
                lease,
            });
            return Ok((lease, spent_by_others));
        }
    }
}

/// Leases that are being granted. Where that fails, they are read again from the database: it may have them.
struct Lent<'a> {
    spending: &'a Spending,
    counts: Vec<Changed>,
}

struct Changed {
    budget: Uuid,
    period: Period,
    from: String,
    before: Option<Leased>,
    lease: Leased,
}

impl Lent<'_> {
    /// The database has them.
    fn keep(mut self, ledger: &Ledger) {
        let mut state = self.spending.lock();
        for changed in std::mem::take(&mut self.counts) {
            let Some(counted) = state.budgets.get_mut(&changed.budget) else { continue };
            let Some(count) = counted.counts.get_mut(&changed.period) else { continue };
            count.lent.insert(changed.from, changed.lease);
            count.is_lending = false;
            warn(ledger, &counted.budget, &changed.period, count);
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.spending.lock();
        for changed in std::mem::take(&mut self.counts) {
            let counts = state.budgets.get_mut(&changed.budget).map(|known| &mut known.counts);
            let Some(count) = counts.and_then(|counts| counts.get_mut(&changed.period)) else {
                continue;
            };
            // The larger one counts on: whether the database has it is not known.
            let before = changed.before.unwrap_or_default().granted;
            let granted = larger(before, changed.lease.granted);
            count.lent.insert(changed.from, Leased { granted, used: changed.lease.used });
            count.is_lending = false;
        }
    }
}

/// The larger one of each unit.
fn larger(one: Amount, other: Amount) -> Amount {
    Amount {
        usd: one.usd.max(other.usd),
        tokens: one.tokens.max(other.tokens),
        requests: one.requests.max(other.requests),
    }
}
