//! Prices of catalogues, brought to one unit: USD per 1M tokens, or USD per request, image or
//! search. Decimal from the first digit to the last. An unknown price is an absent key; free is 0.

use crate::core::usage::decimal;
use crate::error::Error;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Normalised prices, as they stand in `aggregator_models.pricing`.
pub type Prices = BTreeMap<String, Box<RawValue>>;

/// The unit in which a catalogue gives the price of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    PerToken,
    PerMillion,
}

impl Unit {
    /// Reads `api_providers.price_unit`. `None`: the list itself shows it.
    pub fn parse(name: &str) -> Result<Option<Self>, Error> {
        match name {
            "auto" => Ok(None),
            "token" => Ok(Some(Self::PerToken)),
            "million" => Ok(Some(Self::PerMillion)),
            other => Err(Error::unsupported(format!("the price unit '{other}'"))),
        }
    }
}

/// Prices of a token, in USD per 1M.
const PER_TOKEN: &[&str] = &[
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
];
/// Prices of a piece, in USD.
pub const PER_UNIT: &[&str] = &["request", "image", "web_search"];
/// When a tier holds.
const TIMES: &[&str] = &["utc_start", "utc_end"];
const MIN_PROMPT: &str = "min_prompt_tokens";

/// A price per 1M tokens past this is a slip of units, not a price.
const DEAREST_PER_MILLION: i64 = 10_000;
/// One that is not 0 and below this, USD 0.0001, was given per token.
const CHEAPEST_PER_MILLION: Decimal = Decimal::from_parts(1, 0, 0, false, 4);
/// No model of any catalogue costs more, and this is far from what the dearest does (600): in a list
/// it is a slip of units.
const DEAREST_IN_A_LIST: i64 = 1_000;
/// Below this, and not 0, a price per 1M tokens is so unlikely that it does not say that a list has
/// that unit.
const LIKELY_PER_MILLION: Decimal = Decimal::from_parts(1, 0, 0, false, 3);
/// Likewise for one request, image or search.
const DEAREST_PER_UNIT: i64 = 1_000;

/// One price as the catalogue writes it, a string or a number, in USD per 1M tokens.
/// Negative (OpenRouter's "-1": it varies), not a number, or absurdly large: `None`, unpriced.
pub fn per_million(text: &str, unit: Unit) -> Option<Decimal> {
    let price = parse(text)?;
    let price = match unit {
        Unit::PerToken => price.checked_mul(Decimal::from(1_000_000))?,
        Unit::PerMillion => price,
    };
    is_sane_per_million(price).then(|| price.normalize())
}

/// One price of a list that was fetched.
pub fn listed(text: &str, unit: Unit) -> Option<Decimal> {
    per_million(text, unit).filter(|price| *price <= Decimal::from(DEAREST_IN_A_LIST))
}

/// The unit of a list, from all its prices of tokens: the one in which more of them make sense, else
/// the one that its form has. A price that makes sense in both, or in neither, says nothing.
pub fn unit_of<'a>(prices: impl Iterator<Item = &'a str>, usual: Unit) -> Unit {
    let (mut per_token, mut per_million) = (0_usize, 0_usize);
    for text in prices {
        let Some(price) = parse(text).filter(|price| !price.is_zero()) else { continue };
        let is_token = listed(text, Unit::PerToken).is_some();
        let is_million = price >= LIKELY_PER_MILLION && listed(text, Unit::PerMillion).is_some();
        per_token += usize::from(is_token && !is_million);
        per_million += usize::from(is_million && !is_token);
    }
    match per_token.cmp(&per_million) {
        Ordering::Greater => Unit::PerToken,
        Ordering::Less => Unit::PerMillion,
        Ordering::Equal => usual,
    }
}

fn is_sane_per_million(price: Decimal) -> bool {
    price.is_zero() || (CHEAPEST_PER_MILLION..=Decimal::from(DEAREST_PER_MILLION)).contains(&price)
}

/// One price of a request, image or search, in USD.
pub fn per_unit(text: &str) -> Option<Decimal> {
    parse(text).filter(|price| *price <= Decimal::from(DEAREST_PER_UNIT)).map(|p| p.normalize())
}

/// A condition of a tier, as it stands in a price list: a number of tokens, or a time of day as
/// HHMM. `None`: it cannot be understood.
pub fn condition(key: &str, text: &str) -> Option<Decimal> {
    let number = parse(text).filter(|number| number.is_integer())?;
    let is_time = number <= Decimal::from(2400) && number % Decimal::from(100) < Decimal::from(60);
    match key {
        MIN_PROMPT => Some(number.normalize()),
        _ if TIMES.contains(&key) => is_time.then(|| number.normalize()),
        _ => None,
    }
}

/// What is wrong with a price list that somebody gives by hand; `None`: nothing.
pub fn problem(text: &str) -> Option<String> {
    problem_in(text, false).err()
}

fn problem_in(text: &str, is_tier: bool) -> Result<(), String> {
    let list: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|_| "a price list is an object".to_owned())?;
    for (key, raw) in &list {
        let key = key.as_str();
        let raw = raw.get();
        let is_number = raw.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        if key == "tiers" && !is_tier {
            let tiers: Vec<&RawValue> =
                serde_json::from_str(raw).map_err(|_| "tiers must be an array".to_owned())?;
            for tier in tiers {
                problem_in(tier.get(), true).map_err(|what| format!("in a tier, {what}"))?;
            }
        } else if is_tier && (key == MIN_PROMPT || TIMES.contains(&key)) {
            if (key == MIN_PROMPT && !is_number) || condition(key, raw).is_none() {
                let form = if key == MIN_PROMPT { "a whole number" } else { "a time as HHMM" };
                return Err(format!("{key} must be {form}"));
            }
        } else if !PER_TOKEN.contains(&key) && !PER_UNIT.contains(&key) {
            let known = [PER_TOKEN, PER_UNIT].concat().join(", ");
            return Err(format!("'{key}' is not known; there are {known} and tiers"));
        } else if is_tier && raw == "null" {
            continue;
        } else if !is_number {
            return Err(format!("{key} must be a number"));
        } else if raw.starts_with('-') {
            return Err(format!("{key} must not be negative"));
        } else if PER_UNIT.contains(&key) && per_unit(raw).is_none() {
            return Err(format!("{key} is more than {DEAREST_PER_UNIT} USD a piece"));
        } else if PER_TOKEN.contains(&key) && per_million(raw, Unit::PerMillion).is_none() {
            return Err(format!(
                "{key} is not between {CHEAPEST_PER_MILLION} and {DEAREST_PER_MILLION} USD per 1M tokens"
            ));
        }
    }
    Ok(())
}

fn parse(text: &str) -> Option<Decimal> {
    decimal(text.trim().trim_matches('"').trim()).filter(|price| !price.is_sign_negative())
}

/// Puts a price under its key.
pub fn put(prices: &mut Prices, key: &str, price: Option<Decimal>) {
    if let Some(price) = price
        && let Ok(raw) = RawValue::from_string(price.to_string())
    {
        prices.insert(key.to_owned(), raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(price: Option<Decimal>) -> Option<String> {
        price.map(|p| p.to_string())
    }

    #[test]
    fn units_are_exact() {
        assert_eq!(shown(per_million("\"0.00000015\"", Unit::PerToken)).unwrap(), "0.15");
        assert_eq!(shown(per_million("1.5e-7", Unit::PerToken)).unwrap(), "0.15");
        assert_eq!(shown(per_million("2.50", Unit::PerMillion)).unwrap(), "2.5");
        assert_eq!(shown(per_million("0", Unit::PerToken)).unwrap(), "0");
        assert_eq!(shown(per_unit("\"0.002\"")).unwrap(), "0.002");
    }

    #[test]
    fn what_is_no_price_is_absent() {
        for text in ["-1", "\"-1\"", "NaN", "null", "\"\"", "inf", "0.5", "{}"] {
            assert_eq!(per_million(text, Unit::PerToken), None, "{text}");
        }
        assert_eq!(per_million("10001", Unit::PerMillion), None);
        assert_eq!(per_million("0.0000025", Unit::PerMillion), None);
        assert_eq!(shown(per_million("0.0001", Unit::PerMillion)).unwrap(), "0.0001");
        assert_eq!(per_unit("5000"), None);
    }

    #[test]
    fn conditions_are_whole_and_times_are_times() {
        for (key, text, expected) in [
            ("min_prompt_tokens", "200000", Some("200000")),
            ("min_prompt_tokens", "\"200000\"", Some("200000")),
            ("min_prompt_tokens", "2e5", Some("200000")),
            ("min_prompt_tokens", "-1", None),
            ("min_prompt_tokens", "1.5", None),
            ("utc_start", "\"0830\"", Some("830")),
            ("utc_end", "2400", Some("2400")),
            ("utc_end", "2401", None),
            ("utc_end", "860", None),
            ("weekday", "1", None),
        ] {
            assert_eq!(shown(condition(key, text)).as_deref(), expected, "{key} {text}");
        }
    }

    #[test]
    fn a_list_by_hand_is_told_what_is_wrong_with_it() {
        for good in [
            "{}",
            r#"{"input": 2.5, "output": 10, "cache_read": 0, "request": 0.01}"#,
            r#"{"input": 1, "tiers": [{"min_prompt_tokens": 200000, "input": 2, "output": null}]}"#,
            r#"{"input": 1, "tiers": [{"utc_start": "2300", "utc_end": 30, "input": 0.5}]}"#,
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, says) in [
            ("[]", "is an object"),
            ("7", "is an object"),
            (r#"{"prompt": 1}"#, "'prompt' is not known"),
            (r#"{"input": -1}"#, "input must not be negative"),
            (r#"{"input": "2.5"}"#, "input must be a number"),
            (r#"{"input": null}"#, "input must be a number"),
            (r#"{"input": 0.0000025}"#, "input is not between 0.0001 and 10000"),
            (r#"{"output": 20000}"#, "output is not between"),
            (r#"{"image": 1001}"#, "image is more than 1000 USD"),
            (r#"{"tiers": {}}"#, "tiers must be an array"),
            (r#"{"tiers": [7]}"#, "in a tier, a price list is an object"),
            (r#"{"tiers": [{"tiers": []}]}"#, "in a tier, 'tiers' is not known"),
            (r#"{"tiers": [{"min_prompt_tokens": "1"}]}"#, "min_prompt_tokens must be a whole"),
            (r#"{"tiers": [{"utc_start": "soon"}]}"#, "utc_start must be a time"),
            (r#"{"utc_start": "0830"}"#, "'utc_start' is not known"),
        ] {
            let problem = problem(bad).unwrap_or_else(|| panic!("{bad} is refused"));
            assert!(problem.contains(says), "{bad}: {problem}");
        }
    }

    #[test]
    fn the_unit_of_a_list_is_the_one_in_which_it_makes_sense() {
        use Unit::{PerMillion, PerToken};
        let none: &[&str] = &[];
        for (prices, expected) in [
            // As OpenRouter has them.
            (&["0.00000015", "0.0000006", "0"][..], PerToken),
            (&["0.0006", "0.00015"], PerToken),
            // As some write them.
            (&["0.005", "0.01", "0.0272", "0.35"], PerMillion),
            (&["3", "15", "0.3", "3.75", "0"], PerMillion),
            // One slip does not change a list, either way.
            (&["0.0000001", "0.0000004", "0.5"], PerToken),
            (&["0.005", "0.01", "0.0000001"], PerMillion),
            // What says nothing.
            (&["0", "-1", "x", "1e9"], PerToken),
            (none, PerToken),
            (&["0.001"], PerToken),
        ] {
            assert_eq!(unit_of(prices.iter().copied(), PerToken), expected, "{prices:?}");
        }
        assert_eq!(unit_of(["0"].into_iter(), PerMillion), PerMillion);
        assert_eq!(listed("0.005", PerToken), None);
        assert_eq!(shown(listed("0.0006", PerToken)).unwrap(), "600");
        assert_eq!(listed("1001", PerMillion), None);
        assert_eq!(Unit::parse("million").unwrap(), Some(PerMillion));
        assert!(Unit::parse("thousand").is_err());
    }
}
