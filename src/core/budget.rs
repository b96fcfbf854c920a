//! Budgets and rate limits as rules: to whom and what they apply, for which time, and whether a
//! request still fits.

use crate::core::bound::{Dearest, NoBound, Size};
use crate::core::calendar::{DAY, HOUR, civil, days_of};
use crate::core::tags::{Label, Labels};
use crate::core::usage::decimal;
use crate::core::{lease, model};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// What one attempt counts at the most where its request has no bound, whatever the provider says
/// that it came to: `aggregator_counted` in SQL has the same numbers.
pub const MOST_USD: Decimal = Decimal::from_parts(1_000, 0, 0, false, 0);
pub const MOST_TOKENS: i64 = 10_000_000;
/// No attempt is said to have used more: the ledger's columns hold no more.
const LARGEST_COUNT: i64 = i32::MAX as i64;

/// Whom and what a rule is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// One user; `None`: all.
    pub user_id: Option<String>,
    /// Each user has a count of their own.
    pub is_each_user: bool,
    pub provider_id: Option<Uuid>,
    /// A model's id, or the last part of it.
    pub model: Option<String>,
    pub gateway_key: Option<Uuid>,
    pub tag: Option<String>,
}

/// What a call is, as far as rules ask.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub user: &'a str,
    pub provider: Uuid,
    /// The id of the model as the catalogue lists it, else [`model::UNLISTED`].
    pub model: &'a str,
    pub is_platform_key: bool,
    pub labels: Option<&'a Labels>,
}

impl Scope {
    pub fn applies(&self, call: &Subject<'_>) -> bool {
        self.user_id.as_deref().is_none_or(|own| own == call.user)
            && self.provider_id.is_none_or(|own| own == call.provider)
            && self.model.as_deref().is_none_or(|own| model::is_meant(own, call.model))
            && self.means(call.labels)
    }

    /// Whether it is about calls with these labels.
    fn means(&self, labels: Option<&Labels>) -> bool {
        let has_key = |key| labels.is_some_and(|labels| labels.gateway_key == Some(key));
        let has_tag = |tag| labels.is_some_and(|labels| labels.tags.contains(tag));
        self.gateway_key.is_none_or(has_key) && self.tag.as_ref().is_none_or(has_tag)
    }

    /// The gateway key or the tag that it is about, as the sums name them.
    pub fn label(&self) -> Option<Label<'_>> {
        let tag = self.tag.as_deref().map(Label::Tag);
        self.gateway_key.map(Label::Key).or(tag)
    }

    /// Whether it counts what one user has used, and no other.
    pub fn is_ones_own(&self) -> bool {
        self.is_each_user || self.user_id.is_some()
    }

    /// Whose count it is.
    pub fn counted_user(&self, user: &str) -> Option<String> {
        self.is_each_user.then(|| user.to_owned())
    }
}

/// Whose money a budget protects: what it counts is what these keys pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    Platform,
    /// The users' own.
    Own,
    All,
}

impl Keys {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "platform" => Self::Platform,
            "own" => Self::Own,
            "all" => Self::All,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Own => "own",
            Self::All => "all",
        }
    }

    fn covers(self, is_platform_key: bool) -> bool {
        match self {
            Self::Platform => is_platform_key,
            Self::Own => !is_platform_key,
            Self::All => true,
        }
    }
}

/// The time for which a budget's limit holds, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Period {
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Total,
}

impl Period {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "total" => Self::Total,
            _ => return None,
        })
    }

    /// When the period began in which `at` lies (microseconds since 1970).
    pub fn start(self, at: i64) -> i64 {
        match self {
            Self::Hour => at - at.rem_euclid(HOUR),
            Self::Day => at - at.rem_euclid(DAY),
            // 1970 began on a Thursday.
            Self::Week => at - (at + 3 * DAY).rem_euclid(7 * DAY),
            Self::Month => {
                let (year, month, _) = civil(at.div_euclid(DAY));
                days_of(year, month) * DAY
            }
            Self::Total => 0,
        }
    }
}

/// A limit of what may be spent in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub id: Uuid,
    pub scope: Scope,
    pub keys: Keys,
    pub period: Period,
    /// USD, as `numeric` prints it.
    pub limit_usd: Option<String>,
    pub limit_tokens: Option<i64>,
    pub limit_requests: Option<i64>,
    /// Refuse what does not fit; else only warn.
    pub blocks: bool,
}

/// Requests and tokens per minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub id: Uuid,
    pub scope: Scope,
    pub requests_per_minute: Option<i64>,
    pub tokens_per_minute: Option<i64>,
}

impl RateLimit {
    /// The part of it that one of several gateways has.
    pub fn shared_by(&self, gateways: i64, is_hub: bool) -> Self {
        let share = |limit: Option<i64>| limit.map(|limit| lease::share(limit, gateways, is_hub));
        Self {
            requests_per_minute: share(self.requests_per_minute),
            tokens_per_minute: share(self.tokens_per_minute),
            ..self.clone()
        }
    }
}

/// The rules that a call has to keep, as its caller's transaction saw them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub budgets: Vec<Budget>,
    pub rate_limits: Vec<RateLimit>,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.budgets.is_empty() && self.rate_limits.is_empty()
    }

    /// Those that may be about a call with these labels.
    pub fn about(rules: &Arc<Self>, labels: Option<&Labels>) -> Arc<Self> {
        let budgets = rules.budgets.iter().map(|budget| &budget.scope);
        let mut scopes = budgets.chain(rules.rate_limits.iter().map(|limit| &limit.scope));
        if scopes.all(|scope| scope.means(labels)) {
            return rules.clone();
        }
        let mut about = Self::clone(rules);
        about.budgets.retain(|budget| budget.scope.means(labels));
        about.rate_limits.retain(|limit| limit.scope.means(labels));
        Arc::new(about)
    }
}

/// Something spent or set aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub usd: Decimal,
    pub tokens: i64,
    pub requests: i64,
}

impl Amount {
    pub fn plus(self, other: Self) -> Self {
        Self {
            usd: self.usd.saturating_add(other.usd),
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            usd: self.usd.saturating_sub(other.usd),
            tokens: self.tokens.saturating_sub(other.tokens),
            requests: self.requests.saturating_sub(other.requests),
        }
    }
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Usd,
    Tokens,
    Requests,
}

impl Unit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usd => "USD",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }
}

/// The most that an attempt can come to by its request, where that says. What a provider reports
/// beyond it is not believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    pub usd: Option<Decimal>,
    pub tokens: Option<i64>,
}

/// What is to be set aside for one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub amount: Amount,
    pub bound: Bound,
    /// Whether the USD are a bound; without one only budgets without USD can be kept.
    pub is_priced: bool,
    /// The answer's tokens are to be limited to this many.
    pub cap: Option<i64>,
}

/// Why an attempt may not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    NoBound(NoBound),
    /// The limit of the budget at this place is no number.
    Unreadable {
        index: usize,
    },
    /// The budget at this place does not suffice.
    Exceeded {
        index: usize,
        unit: Unit,
        needed: Decimal,
        left: Decimal,
    },
}

/// A limit that is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl Budget {
    pub fn applies(&self, call: &Subject<'_>) -> bool {
        self.scope.applies(call) && self.keys.covers(call.is_platform_key)
    }

    /// Its limit of USD, where it has one.
    pub fn usd(&self) -> Result<Option<Decimal>, Unreadable> {
        self.limit_usd.as_deref().map(|limit| decimal(limit).ok_or(Unreadable)).transpose()
    }

    /// What is left after `used`: of each unit that is limited.
    fn left(&self, used: Amount) -> Result<[(Unit, Option<Decimal>); 3], Unreadable> {
        // A Decimal holds the difference of any two i64.
        let left = |limit: Option<i64>, used: i64| {
            limit.map(|limit| Decimal::from(limit).saturating_sub(Decimal::from(used)))
        };
        Ok([
            (Unit::Usd, self.usd()?.map(|limit| limit.saturating_sub(used.usd))),
            (Unit::Tokens, left(self.limit_tokens, used.tokens)),
            (Unit::Requests, left(self.limit_requests, used.requests)),
        ])
    }

    /// How much of the limit is used, in percent of the unit that is nearest to it.
    pub fn percent(&self, used: Amount) -> i64 {
        let part = |used: Decimal, limit: Option<Decimal>| {
            let limit = limit?;
            // What overflows is more than any limit, and so is what a limit of 0 allows.
            let percent =
                used.checked_mul(Decimal::from(100)).and_then(|used| used.checked_div(limit));
            Some(percent.map_or(if limit.is_zero() { 100 } else { i64::MAX }, |percent| {
                percent.floor().to_i64().unwrap_or(i64::MAX)
            }))
        };
        [
            part(used.usd, self.usd().unwrap_or(Some(Decimal::ZERO))),
            part(Decimal::from(used.tokens), self.limit_tokens.map(Decimal::from)),
            part(Decimal::from(used.requests), self.limit_requests.map(Decimal::from)),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(0)
    }
}

/// Whether an attempt of this size fits into every budget that blocks, given what each has used,
/// and what to set aside for it. What cannot be computed or read does not fit.
pub fn plan(
    budgets: &[(&Budget, Amount)],
    size: &Size,
    prices: Result<Dearest, NoBound>,
) -> Result<Plan, Refused> {
    let mut left = Vec::with_capacity(budgets.len());
    for (index, (budget, used)) in budgets.iter().enumerate() {
        let of_it = budget.left(*used).map_err(|Unreadable| Refused::Unreadable { index })?;
        if budget.blocks {
            left.extend(
                of_it.into_iter().filter_map(|(unit, left)| left.map(|left| (index, unit, left))),
            );
        }
    }
    let is_about = |wanted: Unit| left.iter().any(|(_, unit, _)| *unit == wanted);
    let (is_about_usd, is_about_tokens) = (is_about(Unit::Usd), is_about(Unit::Tokens));
    if (is_about_usd || is_about_tokens)
        && let Some(what) = &size.unbounded
    {
        return Err(Refused::NoBound(NoBound::Unbounded(what.clone())));
    }
    let prices = match prices {
        Ok(prices) => Some(prices),
        Err(none) if is_about_usd => return Err(Refused::NoBound(none)),
        Err(_) => None,
    };
    // Where nothing says how long the answer may be, the budget says it.
    let cap = match size.output_tokens {
        Some(_) => None,
        None => left
            .iter()
            .filter_map(|(_, unit, left)| match (unit, &prices) {
                (Unit::Usd, Some(prices)) => Some(prices.affordable(size, *left)),
                (Unit::Tokens, _) => {
                    // No more than a limit, which is an i64, can be left.
                    let left = left.max(&Decimal::ZERO).to_i64().unwrap_or(0);
                    let each = left.saturating_sub(size.input_tokens).max(0) / size.n.max(1);
                    Some(each.saturating_sub(size.hidden_output).max(0))
                }
                _ => None,
            })
            .min()
            // More than any model says.
            .filter(|tokens| *tokens < i64::from(i32::MAX)),
    };
    let output = size.output_tokens.or(cap).unwrap_or(0).max(i64::from(cap.is_some()));
    let usd = prices.as_ref().and_then(|prices| prices.cost(size, output));
    let tokens = output
        .checked_add(size.hidden_output)
        .and_then(|output| output.checked_mul(size.n))
        .and_then(|output| output.checked_add(size.input_tokens));
    if (is_about_usd && usd.is_none()) || (is_about_tokens && tokens.is_none()) {
        return Err(Refused::NoBound(NoBound::Unbounded("an answer of that size".to_owned())));
    }
    for (index, unit, left) in left {
        let needed = match unit {
            Unit::Usd => usd,
            Unit::Tokens => tokens.map(Decimal::from),
            Unit::Requests => Some(Decimal::ONE),
        };
        if let Some(needed) = needed
            && needed > left
        {
            return Err(Refused::Exceeded { index, unit, needed, left });
        }
    }
    // What is computed without the length of the answer, or beside an image, is no bound.
    let is_bound = size.unbounded.is_none() && (size.output_tokens.is_some() || cap.is_some());
    let counted = tokens.map_or(LARGEST_COUNT, |tokens| tokens.min(LARGEST_COUNT));
    Ok(Plan {
        // `is_priced` says whether the USD are any.
        amount: Amount { usd: usd.unwrap_or(Decimal::ZERO), tokens: counted, requests: 1 },
        bound: Bound {
            usd: usd.filter(|_| is_bound),
            tokens: tokens.filter(|_| is_bound).map(|_| counted),
        },
        is_priced: usd.is_some(),
        cap: cap.map(|cap| cap.max(1)),
    })
}

/// What an attempt came to, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent<'a> {
    /// The upstream refused it, or nothing was sent.
    pub is_free_of_charge: bool,
    /// Nothing was sent.
    pub is_unsent: bool,
    /// USD, and where they come from, as the ledger has settled them.
    pub cost: Option<&'a str>,
    pub cost_source: Option<&'a str>,
    pub tokens: Option<i64>,
    /// The tokens are a guess.
    pub is_estimate: bool,
}

impl Spent<'_> {
    /// What counts against budgets: what is known exactly, else the more of what was set aside and
    /// what is guessed; and never more than the request can have come to. The same rule as
    /// `aggregator_counted` in SQL.
    pub fn counted(&self, reserved: Amount, bound: Bound) -> Amount {
        let requests = i64::from(!self.is_unsent);
        if self.is_free_of_charge && self.tokens.is_none() {
            return Amount { requests, ..Amount::default() };
        }
        // A number that is too large to be one here is beyond every bound.
        let known = |cost: &str| decimal(cost).unwrap_or(Decimal::MAX).max(Decimal::ZERO);
        let cost = self.cost.map_or(Decimal::ZERO, known);
        let is_exact = matches!(self.cost_source, Some("upstream" | "computed"));
        let usd = if is_exact { cost } else { cost.max(reserved.usd) };
        let tokens = match self.tokens {
            Some(tokens) if !self.is_estimate => tokens,
            tokens => tokens.map_or(reserved.tokens, |tokens| tokens.max(reserved.tokens)),
        };
        Amount {
            usd: match bound.usd {
                Some(bound) if cost > bound => bound,
                None if cost > MOST_USD => MOST_USD,
                _ => usd,
            },
            tokens: self.bounded_tokens(bound).map_or(tokens, |bounded| bounded),
            requests,
        }
    }

    /// Where the tokens are beyond the bound: what they count then.
    fn bounded_tokens(&self, bound: Bound) -> Option<i64> {
        let most = bound.tokens.unwrap_or(MOST_TOKENS);
        self.tokens.filter(|tokens| *tokens > most).map(|_| most)
    }

    /// The tokens that a rate limit counts; `None`: what was reserved stays taken.
    pub fn tokens_used(&self, bound: Bound) -> Option<i64> {
        match self.tokens {
            Some(tokens) => Some(self.bounded_tokens(bound).unwrap_or(tokens)),
            None if self.is_unsent || self.is_free_of_charge => Some(0),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests;
