//! Budgets and rate limits as rules: to whom and what they apply, for which time, and whether a
//! request still fits.

use crate::core::bound::{Dearest, NoBound, Size};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// Whom and what a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// One user; `None`: all.
    pub user_id: Option<String>,
    /// Each user has a count of their own.
    pub is_each_user: bool,
    pub provider_id: Option<Uuid>,
    /// A model's id, or the last part of it.
    pub model: Option<String>,
}

impl Scope {
    pub fn applies(&self, user: &str, provider: Uuid, model: &str) -> bool {
        self.user_id.as_deref().is_none_or(|own| own == user)
            && self.provider_id.is_none_or(|own| own == provider)
            && self.model.as_deref().is_none_or(|own| {
                own == model || model.rsplit('/').next().is_some_and(|name| name == own)
            })
    }

    /// Whose count it is.
    pub fn counted_user(&self, user: &str) -> Option<String> {
        self.is_each_user.then(|| user.to_owned())
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

/// Year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

/// The day since 1970 on which a month begins (`days_from_civil`).
fn days_of(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A limit of what may be spent in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub id: Uuid,
    pub scope: Scope,
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

/// The rules that a call has to keep, as its caller's transaction saw them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub budgets: Vec<Budget>,
    pub rate_limits: Vec<RateLimit>,
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

/// What is to be set aside for one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub amount: Amount,
    /// Whether the USD are a bound; without one only budgets without USD can be kept.
    pub is_priced: bool,
    /// The answer's tokens are to be limited to this many.
    pub cap: Option<i64>,
}

/// Why an attempt may not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    NoBound(NoBound),
    /// The budget at this place does not suffice.
    Exceeded {
        index: usize,
        unit: Unit,
        needed: Decimal,
        left: Decimal,
    },
}

impl Budget {
    fn usd(&self) -> Option<Decimal> {
        self.limit_usd.as_deref().and_then(crate::core::usage::decimal)
    }

    /// What is left after `used`: of each unit that is limited.
    fn left(&self, used: Amount) -> [(Unit, Option<Decimal>); 3] {
        let tokens = self.limit_tokens.map(|limit| Decimal::from(limit - used.tokens));
        let requests = self.limit_requests.map(|limit| Decimal::from(limit - used.requests));
        [
            (Unit::Usd, self.usd().map(|limit| limit.saturating_sub(used.usd))),
            (Unit::Tokens, tokens),
            (Unit::Requests, requests),
        ]
    }

    /// How much of the limit is used, in percent of the unit that is nearest to it.
    pub fn percent(&self, used: Amount) -> i64 {
        let part = |used: Decimal, limit: Option<Decimal>| match limit {
            Some(limit) if limit.is_zero() => Some(Decimal::from(100)),
            Some(limit) => used.checked_mul(Decimal::from(100))?.checked_div(limit),
            None => None,
        };
        [
            part(used.usd, self.usd()),
            part(Decimal::from(used.tokens), self.limit_tokens.map(Decimal::from)),
            part(Decimal::from(used.requests), self.limit_requests.map(Decimal::from)),
        ]
        .into_iter()
        .flatten()
        .max()
        .and_then(|percent| rust_decimal::prelude::ToPrimitive::to_i64(&percent.floor()))
        .unwrap_or(0)
    }
}

/// Whether an attempt of this size fits into every budget that blocks, given what each has used,
/// and what to set aside for it.
pub fn plan(
    budgets: &[(&Budget, Amount)],
    size: &Size,
    prices: Result<Dearest, NoBound>,
) -> Result<Plan, Refused> {
    let blocking = || budgets.iter().enumerate().filter(|(_, (budget, _))| budget.blocks);
    let is_about_usd = blocking().any(|(_, (budget, _))| budget.limit_usd.is_some());
    let is_about_tokens = blocking().any(|(_, (budget, _))| budget.limit_tokens.is_some());
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
        None => blocking()
            .flat_map(|(_, (budget, used))| budget.left(*used))
            .filter_map(|(unit, left)| match (unit, left, &prices) {
                (Unit::Usd, Some(left), Some(prices)) => Some(prices.affordable(size, left)),
                (Unit::Tokens, Some(left), _) => {
                    let left = rust_decimal::prelude::ToPrimitive::to_i64(&left).unwrap_or(0);
                    Some((left - size.input_tokens).max(0) / size.n)
                }
                _ => None,
            })
            .min()
            // More than any model says.
            .filter(|tokens| *tokens < i64::from(i32::MAX)),
    };
    let output = size.output_tokens.or(cap).unwrap_or(0).max(i64::from(cap.is_some()));
    let amount = Amount {
        usd: prices.as_ref().and_then(|prices| prices.cost(size, output)).unwrap_or_default(),
        tokens: size.input_tokens.saturating_add(output.saturating_mul(size.n)),
        requests: 1,
    };
    for (index, (budget, used)) in blocking() {
        for (unit, left) in budget.left(*used) {
            let needed = match unit {
                Unit::Usd => amount.usd,
                Unit::Tokens => Decimal::from(amount.tokens),
                Unit::Requests => Decimal::from(amount.requests),
            };
            if let Some(left) = left.filter(|left| needed > *left) {
                return Err(Refused::Exceeded { index, unit, needed, left });
            }
        }
    }
    Ok(Plan { amount, is_priced: prices.is_some(), cap: cap.map(|cap| cap.max(1)) })
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
    /// what is guessed. The same rule as `aggregator_counted` in SQL.
    pub fn counted(&self, reserved: Amount) -> Amount {
        let requests = i64::from(!self.is_unsent);
        if self.is_free_of_charge && self.tokens.is_none() {
            return Amount { requests, ..Amount::default() };
        }
        let cost = self.cost.and_then(crate::core::usage::decimal).unwrap_or_default();
        let is_exact = matches!(self.cost_source, Some("upstream" | "computed"));
        let tokens = self.tokens.unwrap_or(0);
        Amount {
            usd: if is_exact { cost } else { cost.max(reserved.usd) },
            tokens: match self.tokens {
                Some(tokens) if !self.is_estimate => tokens,
                _ => tokens.max(reserved.tokens),
            },
            requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_counts_in_full() {
        let reserved = Amount { usd: "0.5".parse().unwrap(), tokens: 900, requests: 1 };
        let known = Spent {
            cost: Some("0.1"),
            cost_source: Some("computed"),
            tokens: Some(20),
            ..Spent::default()
        };
        let usd = |spent: Spent| spent.counted(reserved).usd.to_string();
        assert_eq!(usd(known), "0.1");
        assert_eq!(known.counted(reserved).tokens, 20);
        let guessed = Spent { cost_source: Some("incomplete"), is_estimate: true, ..known };
        assert_eq!(usd(guessed), "0.5");
        assert_eq!(guessed.counted(reserved).tokens, 900);
        assert_eq!(usd(Spent { cost: Some("0.7"), ..guessed }), "0.7");
        assert_eq!(usd(Spent::default()), "0.5");
        let refused = Spent { is_free_of_charge: true, ..Spent::default() };
        assert_eq!(refused.counted(reserved), Amount { requests: 1, ..Amount::default() });
        let unsent = Spent { is_unsent: true, ..refused };
        assert_eq!(unsent.counted(reserved), Amount::default());
    }

    fn budget(limit_usd: Option<&str>) -> Budget {
        Budget {
            id: Uuid::nil(),
            scope: Scope { user_id: None, is_each_user: false, provider_id: None, model: None },
            period: Period::Month,
            limit_usd: limit_usd.map(str::to_owned),
            limit_tokens: None,
            limit_requests: None,
            blocks: true,
        }
    }

    fn size(output_tokens: Option<i64>) -> Size {
        Size { input_tokens: 100, output_tokens, n: 1, unbounded: None }
    }

    fn prices() -> Result<Dearest, NoBound> {
        Dearest::of(Some(r#"{"input":10,"output":100}"#))
    }

    fn used(usd: &str) -> Amount {
        Amount { usd: usd.parse().unwrap(), tokens: 0, requests: 0 }
    }

    #[test]
    fn periods_begin_where_utc_says() {
        let at = |text: &str| {
            // Seconds since 1970 of moments that `date -u -d` gave.
            text.parse::<i64>().unwrap() * 1_000_000
        };
        // 2026-11-24 05:29:12, a Tuesday.
        let now = at("1795498152");
        assert_eq!(Period::Hour.start(now), at("1795496400"));
        assert_eq!(Period::Day.start(now), at("1795478400"));
        assert_eq!(Period::Week.start(now), at("1795392000"));
        assert_eq!(Period::Month.start(now), at("1793491200"));
        assert_eq!(Period::Total.start(now), 0);
        // 2024-02-29 23:59:59 and the second after it.
        assert_eq!(Period::Month.start(at("1709251199")), at("1706745600"));
        assert_eq!(Period::Month.start(at("1709251200")), at("1709251200"));
    }

    #[test]
    fn a_scope_names_a_model_by_its_id_or_its_last_part() {
        let scope = |model: &str| Scope {
            user_id: None,
            is_each_user: false,
            provider_id: None,
            model: Some(model.to_owned()),
        };
        assert!(scope("openai/gpt-4o").applies("u", Uuid::nil(), "openai/gpt-4o"));
        assert!(scope("gpt-4o").applies("u", Uuid::nil(), "openai/gpt-4o"));
        assert!(!scope("gpt-4").applies("u", Uuid::nil(), "openai/gpt-4o"));
        let own = Scope { user_id: Some("a".into()), model: None, ..scope("") };
        assert!(own.applies("a", Uuid::nil(), "m") && !own.applies("b", Uuid::nil(), "m"));
    }

    #[test]
    fn what_fits_is_set_aside_and_what_does_not_is_refused() {
        // 100 x 10 + 10 x 100 USD per million.
        let budget = budget(Some("0.01"));
        let plan_with = |spent: &str| plan(&[(&budget, used(spent))], &size(Some(10)), prices());
        let fits = plan_with("0.008").unwrap();
        assert_eq!((fits.amount.usd.normalize().to_string().as_str(), fits.cap), ("0.002", None));
        assert!(plan_with("0.008000001").is_err());
        let warns = Budget { blocks: false, ..budget.clone() };
        assert!(plan(&[(&warns, used("99"))], &size(Some(10)), prices()).is_ok());
    }

    #[test]
    fn the_budget_caps_an_answer_that_nothing_else_bounds() {
        let budget = budget(Some("0.01"));
        let plan = plan(&[(&budget, used("0.004"))], &size(None), prices()).unwrap();
        // 0.006 less 0.001 for the prompt, at 0.0001 each.
        assert_eq!((plan.cap, plan.amount.usd.normalize().to_string()), (Some(50), "0.006".into()));
        let nothing = super::plan(&[(&budget, used("0.0091"))], &size(None), prices());
        assert!(matches!(nothing, Err(Refused::Exceeded { unit: Unit::Usd, .. })), "{nothing:?}");
    }

    #[test]
    fn without_a_bound_a_budget_in_usd_refuses() {
        let budget = budget(Some("5"));
        let images = Size { unbounded: Some("image_url".into()), ..size(Some(1)) };
        let all = [(&budget, used("0"))];
        assert!(matches!(plan(&all, &images, prices()), Err(Refused::NoBound(_))));
        let unpriced = plan(&all, &size(Some(1)), Dearest::of(None));
        assert_eq!(unpriced, Err(Refused::NoBound(NoBound::Unpriced)));
        let requests = Budget { limit_usd: None, limit_requests: Some(2), ..budget.clone() };
        let two = Amount { requests: 2, ..Amount::default() };
        assert!(plan(&[(&requests, Amount::default())], &images, Dearest::of(None)).is_ok());
        assert!(plan(&[(&requests, two)], &images, Dearest::of(None)).is_err());
    }

    #[test]
    fn percentages_are_those_of_the_nearest_limit() {
        let both = Budget { limit_requests: Some(10), ..budget(Some("1")) };
        let spent = Amount { usd: "0.5".parse().unwrap(), tokens: 0, requests: 8 };
        assert_eq!(both.percent(spent), 80);
        assert_eq!(budget(Some("0")).percent(Amount::default()), 100);
    }
}
