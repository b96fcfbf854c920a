//! What the reports read: settled rows of the ledger, added up before they reach the tables of sums.

use crate::core::budget::{MOST_TOKENS, MOST_USD, Period};
use crate::core::cost::CACHED;
use crate::core::histogram;
use crate::core::model::UNLISTED;
use crate::core::tags::{Label, Labels};
use crate::core::usage::Parts;
use bigdecimal::BigDecimal;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What nobody can have reserved.
const MOST_RESERVED_USD: i64 = 1_000_000_000_000;
const MOST_RESERVED_TOKENS: i64 = i32::MAX as i64;

/// What one attempt counts at the most, in USD, where its request has no bound.
pub fn most_usd() -> BigDecimal {
    BigDecimal::new(MOST_USD.mantissa().into(), MOST_USD.scale().into())
}

/// A settled row of the ledger, as far as sums ask.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    pub labels: Option<&'a Labels>,
    pub user_id: &'a str,
    pub provider_id: Uuid,
    pub model_id: &'a str,
    pub is_listed: bool,
    pub is_platform_key: bool,
    /// Microseconds since 1970.
    pub created_at: i64,
    pub status: &'static str,
    /// It never left this machine.
    pub is_unreachable: bool,
    pub parts: Option<Parts>,
    pub total_tokens: Option<i32>,
    pub is_estimate: bool,
    pub latency_ms: i32,
    pub time_to_first_token_ms: Option<i32>,
    /// USD.
    pub cost: Option<&'a BigDecimal>,
    pub cost_source: &'static str,
    pub reserved_cost: Option<BigDecimal>,
    pub reserved_tokens: Option<i64>,
    /// What was reported is beyond the bound of the request, which is what is reserved.
    pub is_cost_beyond: bool,
    pub are_tokens_beyond: bool,
}

/// What a row counts against a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub cost: BigDecimal,
    pub tokens: i64,
    pub requests: i64,
}

impl Row<'_> {
    /// The rule of `aggregator_counted` in SQL, which counts what others write.
    pub fn counted(&self) -> Counted {
        let most_usd = most_usd();
        let reserved_usd = self
            .reserved_cost
            .clone()
            .map(|usd| usd.clamp(BigDecimal::default(), MOST_RESERVED_USD.into()));
        let reserved_tokens =
            self.reserved_tokens.map(|tokens| tokens.clamp(0, MOST_RESERVED_TOKENS));
        let known = self.cost.cloned();
        let mut cost = match self.cost_source {
            "upstream" | "computed" => known,
            _ => reserved_usd.clone().max(known),
        }
        .unwrap_or_default();
        let total = self.total_tokens.map(i64::from);
        let mut tokens = match total {
            Some(total) if !self.is_estimate => total,
            // Priced without usage: it was refused, or nothing was sent, and it is free.
            None if self.cost_source == "computed" => 0,
            total => reserved_tokens.max(total).unwrap_or(0),
        };
        let is_beyond = self.is_cost_beyond || self.are_tokens_beyond;
        if cost > most_usd || tokens > MOST_TOKENS || is_beyond {
            cost = cost.min(match reserved_usd {
                Some(reserved) if self.is_cost_beyond => reserved,
                Some(reserved) => reserved.max(most_usd),
                None => most_usd,
            });
            tokens = tokens.min(match reserved_tokens {
                Some(reserved) if self.are_tokens_beyond => reserved,
                Some(reserved) => reserved.max(MOST_TOKENS),
                None => MOST_TOKENS,
            });
        }
        Counted { cost, tokens, requests: i64::from(!self.is_unreachable) }
    }
}

/// What is counted, in the order of [`Sums::counts`], and whether it is for each gateway key and tag too: as
/// aggregator_rollup_measures() in SQL has it.
pub const COUNTS: [(&str, bool); 21] = [
    ("requests", true),
    ("unreachable", true),
    ("priced", true),
    ("unpriced", true),
    ("prompt_tokens", true),
    ("completion_tokens", true),
    ("total_tokens", true),
    ("cache_read_tokens", false),
    ("cache_write_tokens", false),
    ("cache_write_1h_tokens", false),
    ("audio_input_tokens", false),
    ("reasoning_tokens", false),
    ("audio_output_tokens", false),
    ("timed", false),
    ("latency_ms_sum", false),
    ("first_tokens", false),
    ("first_token_ms_sum", false),
    ("budget_requests", true),
    ("budget_tokens", true),
    ("own_requests", true),
    ("own_tokens", true),
];

/// USD: of all, what counts against budgets, and of that what the users' own keys pay.
pub const AMOUNTS: [&str; 3] = ["cost", "budget_cost", "own_cost"];

/// What is added to one row of the sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    pub counts: [i64; COUNTS.len()],
    pub amounts: [BigDecimal; AMOUNTS.len()],
    pub latency: [i32; histogram::PLACES],
}

impl Sums {
    fn of(row: &Row<'_>) -> Self {
        let Counted { cost: counted, tokens, requests } = row.counted();
        let parts = row.parts.unwrap_or_default();
        let priced = if row.cost.is_some() { requests } else { 0 };
        // What the cache has answered asks nothing of a provider.
        let budget_requests = if row.cost_source == CACHED { 0 } else { requests };
        let (own_requests, own_tokens) =
            if row.is_platform_key { (0, 0) } else { (budget_requests, tokens) };
        let counts = [
            requests,
            1 - requests,
            priced,
            requests - priced,
            row.parts.map_or(0, |parts| parts.prompt().into()),
            row.parts.map_or(0, |parts| parts.completion().into()),
            row.total_tokens.map_or(0, i64::from),
            parts.cache_read.into(),
            parts.cache_write.into(),
            parts.cache_write_1h.into(),
            parts.audio_input.into(),
            parts.reasoning.into(),
            parts.audio_output.into(),
            1,
            row.latency_ms.into(),
            i64::from(row.time_to_first_token_ms.is_some()),
            row.time_to_first_token_ms.map_or(0, i64::from),
            budget_requests,
            tokens,
            own_requests,
            own_tokens,
        ];
        let own = if row.is_platform_key { BigDecimal::default() } else { counted.clone() };
        let amounts = [row.cost.cloned().unwrap_or_default(), counted, own];
        let mut latency = [0; histogram::PLACES];
        latency[histogram::place(row.latency_ms)] = 1;
        Self { counts, amounts, latency }
    }

    fn add(&mut self, other: &Self) {
        for (sum, added) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(added);
        }
        for (sum, added) in self.amounts.iter_mut().zip(&other.amounts) {
            *sum += added;
        }
        self.latency = histogram::add(&self.latency, &other.latency);
    }
}

/// A row of the sums: by user and hour, or by grain and start, and then by provider, model and status.
pub type Key<'a> = (&'a str, i64, Uuid, &'a str, &'static str);

/// A row of the sums of gateway keys and tags: by label, hour and user, and then as the others.
pub type LabelKey<'a> = (Label<'a>, i64, &'a str, Uuid, &'a str, &'static str);

/// What a batch of settled rows adds to the sums.
#[derive(Debug, Default)]
pub struct Rollup<'a> {
    /// Per user and hour (microseconds since 1970, UTC).
    pub hourly: BTreeMap<Key<'a>, Sums>,
    /// Of all users, per `hour` and `day`.
    pub totals: BTreeMap<Key<'a>, Sums>,
    /// Per gateway key and tag.
    pub labels: BTreeMap<LabelKey<'a>, Sums>,
}

impl<'a> Rollup<'a> {
    pub fn add(&mut self, row: &Row<'a>) {
        let sums = Sums::of(row);
        // Names that people make up are one row of the sums, and not a row each.
        let model = if row.is_listed { row.model_id } else { UNLISTED };
        let (hour, day) = (Period::Hour.start(row.created_at), Period::Day.start(row.created_at));
        let (provider, status) = (row.provider_id, row.status);
        self.hourly.entry((row.user_id, hour, provider, model, status)).or_default().add(&sums);
        for (grain, start) in [("hour", hour), ("day", day)] {
            self.totals.entry((grain, start, provider, model, status)).or_default().add(&sums);
        }
        for label in row.labels.into_iter().flat_map(Labels::each) {
            let key = (label, hour, row.user_id, provider, model, status);
            self.labels.entry(key).or_default().add(&sums);
        }
    }
}
