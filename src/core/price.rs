//! Prices of catalogues, brought to one unit: USD per 1M tokens, or USD per request, image or
//! search. Decimal from the first digit to the last. An unknown price is an absent key; free is 0.

use crate::core::usage::decimal;
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Normalised prices, as they stand in `aggregator_models.pricing`.
pub type Prices = BTreeMap<String, Box<RawValue>>;

/// The unit in which a catalogue gives the price of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerToken,
    PerMillion,
}

/// A price per 1M tokens past this is a slip of units, not a price.
const DEAREST_PER_MILLION: i64 = 10_000;
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
    (price <= Decimal::from(DEAREST_PER_MILLION)).then(|| price.normalize())
}

/// One price of a request, image or search, in USD.
pub fn per_unit(text: &str) -> Option<Decimal> {
    parse(text).filter(|price| *price <= Decimal::from(DEAREST_PER_UNIT)).map(|p| p.normalize())
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
        assert_eq!(per_unit("5000"), None);
    }
}
