//! What disjoint parts cost: the only implementation of the price rules. The ledger settles with it, and
//! the SQL functions that price (`calculate_cost`, `recost_usage`, `quote_cost`) ask it too.
//!
//! Exact to the last digit, however many there are: nothing is divided, and no digit is cut off.

use crate::core::usage::Parts;
use bigdecimal::{BigDecimal, Zero};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Tokens by the million to USD: multiplied, because a division would have to stop somewhere.
const PER_MILLION: (i64, i64) = (1, 6);
/// What is longer is no number that a table can hold.
const LONGEST_NUMBER: usize = 150_000;
const LARGEST_EXPONENT: i64 = 1_000;

/// A decimal of any length. `None`: it is none.
pub fn exact(text: &str) -> Option<BigDecimal> {
    if text.len() > LONGEST_NUMBER {
        return None;
    }
    if let Some((_, exponent)) = text.split_once(['e', 'E']) {
        let exponent: i64 = exponent.parse().ok()?;
        if exponent.abs() > LARGEST_EXPONENT {
            return None;
        }
    }
    BigDecimal::from_str(text).ok()
}

/// All digits, none of them a trailing zero, without an exponent: as `trim_scale(numeric)` prints.
pub fn shown(number: &BigDecimal) -> String {
    if number.is_zero() { "0".to_owned() } else { number.normalized().to_plain_string() }
}

/// A price list as it stands in `aggregator_models.pricing`: USD per 1M tokens, or per piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceList {
    prices: Prices,
    tiers: Vec<Tier>,
}

type Prices = BTreeMap<String, BigDecimal>;

/// Prices that hold instead, under conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tier {
    /// Strictly more than so many tokens went in.
    min_prompt_tokens: Option<BigDecimal>,
    /// From and until when (HHMM, UTC), half-open; it may wrap midnight.
    hours: Option<(u16, u16)>,
    /// `None`: unknown while the tier holds.
    prices: BTreeMap<String, Option<BigDecimal>>,
}

impl PriceList {
    /// `None`: that is no price list.
    pub fn parse(text: &str) -> Option<Self> {
        let raw: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let mut list = Self::default();
        for (key, value) in raw {
            match key.as_str() {
                "tiers" => {
                    let tiers: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                    list.tiers = tiers
                        .into_iter()
                        .map(|tier| Tier::parse(tier.get()))
                        .collect::<Option<_>>()?;
                }
                "utc_start" | "utc_end" => {}
                _ => {
                    if let Some(price) = price(value)? {
                        list.prices.insert(key, price);
                    }
                }
            }
        }
        Some(list)
    }

    /// As [`Self::at`], as a price list in JSON.
    pub fn at_json(&self, prompt_tokens: i64, clock: u16) -> String {
        let prices = self.at(&prompt_tokens.into(), clock);
        let members: Vec<String> = prices
            .iter()
            .map(|(key, price)| format!("{}: {}", Value::from(key.as_str()), shown(price)))
            .collect();
        format!("{{{}}}", members.join(", "))
    }

    /// The prices that hold for a prompt of this size at this time of day (HHMM, UTC): the list, overlaid
    /// by every tier whose conditions all match, a later tier over an earlier one (OpenRouter's
    /// `pricing.overrides`). A long-context tier reprices the whole request.
    fn at(&self, prompt_tokens: &BigDecimal, clock: u16) -> Prices {
        let mut prices = self.prices.clone();
        for tier in self.tiers.iter().filter(|tier| tier.holds(prompt_tokens, clock)) {
            for (key, price) in &tier.prices {
                match price {
                    Some(price) => prices.insert(key.clone(), price.clone()),
                    None => prices.remove(key),
                };
            }
        }
        prices
    }
}

impl Tier {
    fn parse(text: &str) -> Option<Self> {
        let mut raw: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let min_prompt_tokens = match raw.remove("min_prompt_tokens") {
            Some(tokens) => price(tokens)?,
            None => None,
        };
        let mut clock = |key: &str| match raw.remove(key).map(RawValue::get) {
            None | Some("null") => Some(None),
            Some(text) => text.trim_matches('"').parse::<u16>().ok().map(Some),
        };
        let hours = match (clock("utc_start")?, clock("utc_end")?) {
            (None, None) => None,
            (start, end) => Some((start.unwrap_or(0), end.unwrap_or(2400))),
        };
        let prices = raw
            .into_iter()
            .map(|(key, value)| Some((key, price(value)?)))
            .collect::<Option<_>>()?;
        Some(Self { min_prompt_tokens, hours, prices })
    }

    fn holds(&self, prompt_tokens: &BigDecimal, clock: u16) -> bool {
        self.min_prompt_tokens.as_ref().is_none_or(|min| prompt_tokens > min)
            && self.hours.is_none_or(|(start, end)| {
                if start <= end {
                    (start..end).contains(&clock)
                } else {
                    clock >= start || clock < end
                }
            })
    }
}

/// A number, or nothing. `None`: it is neither.
fn price(value: &RawValue) -> Option<Option<BigDecimal>> {
    match value.get() {
        "null" => Some(None),
        text => exact(text).map(Some),
    }
}

/// Disjoint counts, by the keys of a price list. One that is missing is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counts(BTreeMap<String, Count>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Option<Box<RawValue>>")]
struct Count(Option<BigDecimal>);

impl TryFrom<Option<Box<RawValue>>> for Count {
    type Error = &'static str;

    fn try_from(raw: Option<Box<RawValue>>) -> Result<Self, Self::Error> {
        let Some(raw) = raw else { return Ok(Self(None)) };
        price(&raw).map(Self).ok_or("a count is a number")
    }
}

impl Counts {
    /// `None`: these are no counts.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn get(&self, key: &str) -> Option<&BigDecimal> {
        self.0.get(key).and_then(|count| count.0.as_ref())
    }

    /// All tokens that went in. `None`: one of the counts is unknown.
    fn prompt(&self) -> Option<BigDecimal> {
        ["input", "cache_read", "cache_write", "cache_write_1h", "audio_input"]
            .into_iter()
            .try_fold(BigDecimal::zero(), |sum, key| Some(sum + self.get(key)?))
    }
}

impl From<Parts> for Counts {
    fn from(parts: Parts) -> Self {
        let counts = [
            ("input", parts.input),
            ("cache_read", parts.cache_read),
            ("cache_write", parts.cache_write),
            ("cache_write_1h", parts.cache_write_1h),
            ("audio_input", parts.audio_input),
            ("output", parts.output),
            ("reasoning", parts.reasoning),
            ("audio_output", parts.audio_output),
            ("image", parts.image),
            ("web_search", parts.web_search),
        ];
        Self(
            counts
                .into_iter()
                .map(|(key, count)| (key.to_owned(), Count(Some(count.into()))))
                .collect(),
        )
    }
}

/// What something costs by a price list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Priced {
    /// USD. `None`: a part has no price, so the whole has none; never 0 for that.
    pub cost: Option<BigDecimal>,
    /// Every part had its own price.
    pub is_complete: bool,
}

/// The keys of tokens, and whose price stands in where a list has none of their own.
const TOKENS: [(&str, &[&str]); 8] = [
    ("input", &[]),
    ("output", &[]),
    ("cache_read", &["input"]),
    ("cache_write", &["input"]),
    ("cache_write_1h", &["cache_write", "input"]),
    ("reasoning", &["output"]),
    ("audio_input", &["input"]),
    ("audio_output", &["output"]),
];

/// What is paid by the piece: there is no neighbour to price it at.
const PIECES: [&str; 2] = ["image", "web_search"];

/// What the parts cost at a time of day (HHMM, UTC).
pub fn cost(list: &PriceList, counts: &Counts, clock: u16) -> Priced {
    let overlaid = match (list.tiers.is_empty(), counts.prompt()) {
        (true, _) => None,
        (false, Some(prompt)) => Some(list.at(&prompt, clock)),
        // Which tier holds is unknown.
        (false, None) => return Priced::default(),
    };
    let prices = overlaid.as_ref().unwrap_or(&list.prices);
    if !["input", "output", "request", "image"].iter().any(|key| prices.contains_key(*key)) {
        return Priced::default();
    }
    let mut by_million = Some(BigDecimal::zero());
    let mut is_complete = true;
    for (key, neighbours) in TOKENS {
        let tokens = counts.get(key);
        if tokens.is_some_and(Zero::is_zero) {
            continue;
        }
        let price = prices.get(key).or_else(|| {
            // Reasoning is billed as output unless it has a price of its own; the others' are missing.
            is_complete &= key == "reasoning";
            neighbours.iter().find_map(|neighbour| prices.get(*neighbour))
        });
        by_million = match (by_million, tokens, price) {
            (Some(sum), Some(tokens), Some(price)) => Some(sum + tokens * price),
            _ => None,
        };
    }
    let mut fees = prices.get("request").cloned().unwrap_or_default();
    for key in PIECES {
        let Some(pieces) = counts.get(key).filter(|pieces| !pieces.is_zero()) else { continue };
        match prices.get(key) {
            Some(price) => fees += pieces * price,
            None => is_complete = false,
        }
    }
    let per_million = BigDecimal::from(PER_MILLION);
    let cost = by_million.map(|sum| sum * per_million + fees);
    Priced { is_complete: is_complete && cost.is_some(), cost }
}

/// Where a cost comes from that is 0 because the answer was there already.
pub const CACHED: &str = "cached";

/// The cost with which a row is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledCost {
    /// USD: what the upstream reports, else what the rules say.
    pub cost: Option<BigDecimal>,
    /// What the rules say, also beside a reported cost.
    pub computed: Option<BigDecimal>,
    /// `upstream`, `computed`, `incomplete`, `unpriced` or `cached`.
    pub source: &'static str,
}

impl SettledCost {
    /// Of an answer that was there already.
    pub fn cached() -> Self {
        let nothing = BigDecimal::default;
        Self { cost: Some(nothing()), computed: Some(nothing()), source: CACHED }
    }
}

/// Prices an attempt. Without `counts` nothing is known of its use; `is_free`: then it cost nothing.
/// `is_estimate`: the counts are our guess.
pub fn settled(
    list: &PriceList,
    counts: Option<&Counts>,
    reported: Option<BigDecimal>,
    is_free: bool,
    clock: u16,
    is_estimate: bool,
) -> SettledCost {
    let priced = match counts {
        Some(counts) => cost(list, counts, clock),
        None if is_free => Priced { cost: Some(BigDecimal::zero()), is_complete: true },
        None => Priced::default(),
    };
    let source = if reported.is_some() {
        "upstream"
    } else if counts.is_none() && !is_free {
        "incomplete"
    } else if priced.cost.is_none() {
        "unpriced"
    } else if !priced.is_complete || is_estimate {
        "incomplete"
    } else {
        "computed"
    };
    SettledCost { cost: reported.or_else(|| priced.cost.clone()), computed: priced.cost, source }
}

/// The time of day of a moment (microseconds since 1970) as HHMM, UTC.
pub fn clock(unix_micros: i64) -> u16 {
    let minute = unix_micros.div_euclid(60_000_000).rem_euclid(24 * 60);
    // Below 2400.
    (minute / 60 * 100 + minute % 60) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priced(list: &str, counts: &str) -> (Option<String>, bool) {
        let list = PriceList::parse(list).unwrap();
        let found = cost(&list, &Counts::parse(counts).unwrap(), 1200);
        (found.cost.map(|cost| shown(&cost)), found.is_complete)
    }

    const NOTHING: &str = r#""cache_read": 0, "cache_write": 0, "cache_write_1h": 0, "audio_input": 0, "reasoning": 0, "audio_output": 0"#;

    #[test]
    fn no_digit_is_cut_off() {
        for (price, tokens, expected) in [
            ("0.1234567890123456789", 7, "0.0000008641975230864197523"),
            (
                "0.00000000000000000000000000000000000001",
                1,
                "0.00000000000000000000000000000000000000000001",
            ),
            ("12345678901234567890.000000000000001", 3, "37037036703703.703670000000000000003"),
            ("3", 333_333, "0.999999"),
        ] {
            let counts = format!(r#"{{"input": {tokens}, "output": 0, {NOTHING}}}"#);
            let found = priced(&format!(r#"{{"input": {price}}}"#), &counts);
            assert_eq!(found, (Some(expected.to_owned()), true), "{price} x {tokens}");
        }
    }

    #[test]
    fn what_is_unknown_has_no_price() {
        let list = r#"{"input": 3, "output": 15}"#;
        for (counts, expected) in [
            (r#"{"input": 1, "output": 1}"#, (None, false)),
            (r#"{"input": null, "output": 1}"#, (None, false)),
            (
                &*format!(r#"{{"input": 1, "output": 2, {NOTHING}}}"#),
                (Some("0.000033".to_owned()), true),
            ),
            (
                &*format!(r#"{{"input": 1, "output": 2, {NOTHING}, "image": 2}}"#),
                (Some("0.000033".to_owned()), false),
            ),
        ] {
            assert_eq!(priced(list, counts), expected, "{counts}");
        }
        assert_eq!(
            priced("{}", &format!(r#"{{"input": 1, "output": 1, {NOTHING}}}"#)),
            (None, false)
        );
    }

    #[test]
    fn what_is_no_price_list_is_refused() {
        for text in [
            "[]",
            "7",
            r#"{"input": "3"}"#,
            r#"{"input": []}"#,
            r#"{"tiers": {}}"#,
            r#"{"tiers": [7]}"#,
            r#"{"tiers": [{"utc_start": "soon"}]}"#,
            r#"{"input": 1e100000}"#,
        ] {
            assert_eq!(PriceList::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_tier_wins_and_may_take_a_price_away() {
        let list = r#"{"input": 1, "output": 1, "tiers": [
            {"min_prompt_tokens": 100, "input": 2},
            {"min_prompt_tokens": 200, "input": 3, "output": null},
            {"utc_start": "2300", "utc_end": 30, "input": 9}]}"#;
        let at = |tokens: i32, clock| {
            let counts = format!(r#"{{"input": {tokens}, "output": 1, {NOTHING}}}"#);
            let found =
                cost(&PriceList::parse(list).unwrap(), &Counts::parse(&counts).unwrap(), clock);
            found.cost.map(|cost| shown(&cost))
        };
        assert_eq!(at(100, 1200).as_deref(), Some("0.000101"));
        assert_eq!(at(101, 1200).as_deref(), Some("0.000203"));
        assert_eq!(at(201, 1200), None);
        assert_eq!(at(10, 2359).as_deref(), Some("0.000091"));
        assert_eq!(at(10, 29).as_deref(), Some("0.000091"));
        assert_eq!(at(10, 30).as_deref(), Some("0.000011"));
    }

    #[test]
    fn the_clock_is_utc() {
        assert_eq!(clock(0), 0);
        assert_eq!(clock(86_400_000_000 - 1), 2359);
        assert_eq!(clock(-1), 2359);
        assert_eq!(clock(45_240_000_000), 1234);
    }
}
