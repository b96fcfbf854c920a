//! The list of models in OpenAI's form, with the members that OpenRouter added to it: LibreChat, Cline and others
//! read the context's length and the prices there.

use crate::core::front::write::{self, Object};
use crate::core::price::PER_UNIT;
use crate::core::usage::decimal;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Digits that a price of a million tokens is moved by to be one of a token.
const MILLION: u32 = 6;

/// Prices of a token: our name, OpenRouter's name.
const PER_TOKEN: &[(&str, &str)] = &[
    ("input", "prompt"),
    ("output", "completion"),
    ("reasoning", "internal_reasoning"),
    ("cache_read", "input_cache_read"),
    ("cache_write", "input_cache_write"),
    ("cache_write_1h", "input_cache_write_1h"),
    ("audio_input", "audio"),
    ("audio_output", "audio_output"),
];

/// A model that the caller can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model<'a> {
    /// As it can be sent back.
    pub id: &'a str,
    pub provider: &'a str,
    pub name: Option<&'a str>,
    /// Seconds since 1970; 0: nobody knows.
    pub created: i64,
    pub context_length: Option<i32>,
    pub max_output_tokens: Option<i32>,
    /// As `aggregator_models.pricing` has them: USD per 1M tokens, and per piece.
    pub pricing: Option<&'a str>,
}

/// `GET /v1/models`.
pub fn list<'a>(models: impl IntoIterator<Item = Model<'a>>) -> String {
    let mut out = String::new();
    write::object(&mut out, |object| {
        object.text("object", "list");
        object
            .list("data", models, |model, out| write::object(out, |object| write(&model, object)));
    });
    out
}

/// `GET /v1/models/{id}`.
pub fn one(model: &Model<'_>) -> String {
    let mut out = String::new();
    write::object(&mut out, |object| write(model, object));
    out
}

fn write(model: &Model<'_>, object: &mut Object<'_>) {
    object.text("id", model.id);
    object.text("object", "model");
    object.number("created", model.created);
    object.text("owned_by", model.provider);
    if let Some(name) = model.name {
        object.text("name", name);
    }
    if let Some(length) = model.context_length {
        object.number("context_length", length.into());
    }
    if let Some(tokens) = model.max_output_tokens {
        object.number("max_output_tokens", tokens.into());
    }
    let prices = model.pricing.map(prices).unwrap_or_default();
    if !prices.is_empty() {
        object.object("pricing", |object| {
            for (name, price) in prices {
                object.text(name, &price);
            }
        });
    }
}

/// Prices in OpenRouter's form: texts, in USD per token and per piece, to the last digit. One that is not known is
/// not there.
fn prices(pricing: &str) -> Vec<(&'static str, String)> {
    let known: BTreeMap<String, &RawValue> = serde_json::from_str(pricing).unwrap_or_default();
    let price = |name: &str, digits: u32| {
        let mut price = decimal(known.get(name)?.get())?;
        price.set_scale(price.scale() + digits).ok()?;
        Some(price.normalize().to_string())
    };
    let per_token = PER_TOKEN.iter().map(|(ours, theirs)| (*theirs, price(ours, MILLION)));
    let per_piece = PER_UNIT.iter().map(|name| (*name, price(name, 0)));
    per_token.chain(per_piece).filter_map(|(name, price)| Some((name, price?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn model() -> Model<'static> {
        Model {
            id: "openrouter:v/m",
            provider: "openrouter",
            name: Some("M \"1\""),
            created: 1_700_000_000,
            context_length: Some(128_000),
            max_output_tokens: Some(4096),
            pricing: Some(
                r#"{"input":0.15,"output":0.6,"cache_read":0.0750,"cache_write_1h":1.23456789,
                    "request":0.01,"tiers":[{"min_prompt_tokens":200000,"input":3}],"x":1}"#,
            ),
        }
    }

    #[test]
    fn prices_are_texts_per_token_to_the_last_digit() {
        let one: Value = serde_json::from_str(&one(&model())).unwrap();
        assert_eq!(
            one,
            json!({
                "id": "openrouter:v/m",
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "openrouter",
                "name": "M \"1\"",
                "context_length": 128_000,
                "max_output_tokens": 4096,
                "pricing": {
                    "prompt": "0.00000015",
                    "completion": "0.0000006",
                    "input_cache_read": "0.000000075",
                    "input_cache_write_1h": "0.00000123456789",
                    "request": "0.01",
                },
            })
        );
        assert_eq!(
            prices(r#"{"input":0,"output":10000}"#),
            [("prompt", "0".to_owned()), ("completion", "0.01".to_owned())]
        );
        // More digits than a decimal has: no price rather than another one.
        assert!(prices(r#"{"input":0.1234567890123456789012345}"#).is_empty());
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let unknown = Model {
            name: None,
            created: 0,
            context_length: None,
            max_output_tokens: None,
            pricing: None,
            ..model()
        };
        for pricing in [None, Some("{}"), Some("null"), Some("7"), Some(r#"{"input":null}"#)] {
            assert_eq!(
                one(&Model { pricing, ..unknown }),
                r#"{"id":"openrouter:v/m","object":"model","created":0,"owned_by":"openrouter"}"#
            );
        }
    }

    #[test]
    fn a_list_has_them_all() {
        let list: Value = serde_json::from_str(&list([model(), model()])).unwrap();
        assert_eq!(list["object"], "list");
        assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(super::list([]), r#"{"object":"list","data":[]}"#);
    }
}
