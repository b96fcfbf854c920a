//! Which unit the prices of a model list have, judged by the list as a whole.

use crate::core::catalogue::item::Item;
use crate::core::price::{self, Unit};
use rust_decimal::Decimal;
use serde_json::value::RawValue;

/// The unit of prices that are written as numbers, and of those that are written as text: OpenRouter
/// writes text per token, and others that took its form write numbers per 1M.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    numbers: Unit,
    texts: Unit,
}

impl Units {
    /// From the prices of each model, of which `keys` are those of tokens, `usual`ly in this unit.
    pub fn of<'a>(
        pricings: impl Iterator<Item = &'a RawValue>,
        keys: &[&str],
        usual: Unit,
        fixed: Option<Unit>,
        warnings: &mut Vec<String>,
    ) -> Self {
        if let Some(fixed) = fixed {
            return Self { numbers: fixed, texts: fixed };
        }
        let lists: Vec<Item> = pricings.filter_map(Item::read).collect();
        let prices = lists.iter().flat_map(|list| keys.iter().filter_map(|key| list.get(key)));
        let numbers = prices.map(|price| price.get()).filter(|price| !price.starts_with('"'));
        let found = price::unit_of(numbers, usual);
        if found != usual {
            let unit = if found == Unit::PerMillion { "1M tokens" } else { "token" };
            warnings.push(format!(
                "the prices of this list make sense per {unit} only and are read so; price_unit of the provider can say otherwise"
            ));
        }
        Self { numbers: found, texts: usual }
    }

    pub fn read(self, price: &str) -> Option<Decimal> {
        price::listed(price, if price.starts_with('"') { self.texts } else { self.numbers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::{Dialect, Model, read};

    fn price<'a>(model: &'a Model, key: &str) -> Option<&'a str> {
        model.pricing.as_ref().unwrap().get(key).map(|raw| raw.get())
    }

    #[test]
    fn a_list_is_judged_as_a_whole() {
        let list = |prices: &[&str]| {
            let items: Vec<String> = prices
                .iter()
                .enumerate()
                .map(|(i, pricing)| format!(r#"{{"id":"m{i}","pricing":{pricing}}}"#))
                .collect();
            format!(r#"{{"data":[{}]}}"#, items.join(","))
        };
        let read_as = |body: &str, unit| {
            let found = read(body, Dialect::Auto, unit).unwrap();
            let prices: Vec<String> = found
                .models
                .iter()
                .map(|m| {
                    let of = |key| price(m, key).unwrap_or("-").to_owned();
                    format!("{} {}", of("input"), of("output"))
                })
                .collect();
            (prices, found.warnings.len())
        };
        // Numbers per 1M in OpenRouter's shape.
        let million = list(&[
            r#"{"prompt":0.005,"completion":0.01}"#,
            r#"{"prompt":0.0272,"completion":0.2}"#,
            r#"{"prompt":0,"completion":0}"#,
        ]);
        let expected = vec!["0.005 0.01".to_owned(), "0.0272 0.2".into(), "0 0".into()];
        assert_eq!(read_as(&million, None), (expected.clone(), 1));
        assert_eq!(read_as(&million, Some(Unit::PerMillion)), (expected, 0));
        // Somebody has said that they are per token: then no model costs that.
        assert_eq!(
            read_as(&million, Some(Unit::PerToken)),
            (vec!["- -".to_owned(), "- -".into(), "0 0".into()], 4)
        );
        // Numbers per token, and one that slipped: refused, with a warning.
        let token = list(&[
            r#"{"prompt":1.5e-7,"completion":6e-7}"#,
            r#"{"prompt":0.000003,"completion":0.005}"#,
        ]);
        assert_eq!(read_as(&token, None), (vec!["0.15 0.6".to_owned(), "3 -".into()], 1));
        // Text is per token, as OpenRouter documents, also where that makes no sense.
        let text = list(&[r#"{"prompt":"0.005","completion":"0.00001"}"#]);
        assert_eq!(read_as(&text, None), (vec!["- 10".to_owned()], 1));
        assert_eq!(read_as(&text, Some(Unit::PerMillion)), (vec!["0.005 -".to_owned()], 1));
        // AiHubMix's shape, per token.
        let other = r#"{"data":[{"model_id":"a","pricing":{"input":0.000003,"output":0.000015}}]}"#;
        assert_eq!(read_as(other, None), (vec!["3 15".to_owned()], 1));
        let other = r#"{"data":[{"model_id":"a","pricing":{"input":3,"output":1500}}]}"#;
        assert_eq!(read_as(other, None), (vec!["3 -".to_owned()], 1));
    }
}
