//! The price rules, in SQL, by hand-computed cases.

use crate::bed::{self, rows, value};
use tokio_postgres::Client;

/// USD of a usage under a price list, through `calculate_cost`.
async fn cost(root: &Client, pricing: &str, usage: &str) -> Option<String> {
    root.batch_execute(&format!(
        "UPDATE aggregator_models SET pricing = '{pricing}' WHERE model_id = 'v/m'"
    ))
    .await
    .unwrap();
    value(root, &format!("SELECT calculate_cost('v/m', '{usage}')")).await
}

#[tokio::test]
async fn golden_costs() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute("INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name) SELECT id, 'v/m', 'm', 'M' FROM api_providers WHERE name = 'openrouter'").await.unwrap();
    const BASIC: &str = r#"{"input": 2.5, "output": 10}"#;
    const FULL: &str = r#"{"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75, "cache_write_1h": 6, "reasoning": 20, "audio_input": 40, "audio_output": 80, "request": 0.01}"#;
    const TIERS: &str = r#"{"input": 1, "output": 2, "tiers": [{"min_prompt_tokens": 200000, "input": 2}, {"min_prompt_tokens": 400000, "input": 4, "output": 8}]}"#;
    for (pricing, usage, expected) in [
        // Plain.
        (BASIC, r#"{"prompt_tokens": 1000, "completion_tokens": 500}"#, Some("0.0075")),
        (BASIC, r#"{"prompt_tokens": 1, "completion_tokens": 0}"#, Some("0.0000025")),
        (BASIC, r#"{"prompt_tokens": 0, "completion_tokens": 0}"#, Some("0")),
        (BASIC, r#"{"prompt_tokens": 2147483647, "completion_tokens": 0}"#, Some("5368.7091175")),
        // Cached tokens are part of OpenAI's prompt tokens, and not of Anthropic's.
        (
            FULL,
            r#"{"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 800}}"#,
            Some("0.01234"),
        ),
        (
            FULL,
            r#"{"input_tokens": 200, "cache_read_input_tokens": 800, "output_tokens": 100}"#,
            Some("0.01234"),
        ),
        (
            FULL,
            r#"{"input_tokens": 0, "cache_creation_input_tokens": 1000, "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}, "output_tokens": 0}"#,
            Some("0.0151"),
        ),
        // Reasoning is part of the completion, at its own price or the output's.
        (
            FULL,
            r#"{"prompt_tokens": 0, "completion_tokens": 1000, "completion_tokens_details": {"reasoning_tokens": 600}}"#,
            Some("0.028"),
        ),
        (
            BASIC,
            r#"{"prompt_tokens": 0, "completion_tokens": 1000, "completion_tokens_details": {"reasoning_tokens": 600}}"#,
            Some("0.01"),
        ),
        (
            FULL,
            r#"{"prompt_tokens": 100, "completion_tokens": 100, "prompt_tokens_details": {"audio_tokens": 100}, "completion_tokens_details": {"audio_tokens": 100}}"#,
            Some("0.022"),
        ),
        // Without a price for the cache: an estimate at the input's, never 0.
        (
            BASIC,
            r#"{"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 1000}}"#,
            Some("0.0025"),
        ),
        // Long prompts: the whole request, strictly greater.
        (TIERS, r#"{"prompt_tokens": 200000, "completion_tokens": 1000}"#, Some("0.202")),
        (TIERS, r#"{"prompt_tokens": 200001, "completion_tokens": 1000}"#, Some("0.402002")),
        (TIERS, r#"{"prompt_tokens": 400001, "completion_tokens": 1000}"#, Some("1.608004")),
        // What the upstream reports comes first, with every digit.
        (
            BASIC,
            r#"{"prompt_tokens": 1000, "completion_tokens": 500, "cost": 0.001}"#,
            Some("0.001"),
        ),
        (
            "{}",
            r#"{"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.00000000000000000000000012}"#,
            Some("0.00000000000000000000000012"),
        ),
        (
            BASIC,
            r#"{"cost": 0.05, "is_byok": true, "cost_details": {"upstream_inference_cost": 1.2}}"#,
            Some("1.25"),
        ),
        (
            BASIC,
            r#"{"cost": 0.05, "is_byok": false, "cost_details": {"upstream_inference_cost": 1.2}}"#,
            Some("0.05"),
        ),
        // Unknown is NULL, free is 0.
        ("{}", r#"{"prompt_tokens": 1000, "completion_tokens": 500}"#, None),
        ("{}", r#"{"prompt_tokens": 0, "completion_tokens": 0}"#, None),
        (r#"{"input": 1}"#, r#"{"prompt_tokens": 1000, "completion_tokens": 500}"#, None),
        (r#"{"input": 1}"#, r#"{"prompt_tokens": 1000, "completion_tokens": 0}"#, Some("0.001")),
        (
            r#"{"input": 0, "output": 0}"#,
            r#"{"prompt_tokens": 1000, "completion_tokens": 500}"#,
            Some("0"),
        ),
        (BASIC, "{}", None),
        (BASIC, r#"{"prompt_tokens": -5}"#, None),
        (BASIC, r#"{"prompt_tokens": "x"}"#, None),
    ] {
        assert_eq!(cost(&root, pricing, usage).await.as_deref(), expected, "{pricing} {usage}");
    }
    for bad in [
        r#"[]"#,
        r#"{"input": -1}"#,
        r#"{"input": "dear"}"#,
        r#"{"input": null}"#,
        r#"{"tiers": {}}"#,
        r#"{"tiers": [{"input": -1}]}"#,
        r#"{"tiers": [{"utc_start": "soon"}]}"#,
    ] {
        let sql = format!("UPDATE aggregator_models SET pricing = '{bad}'");
        assert_eq!(bed::failure(&root, &sql).await.0, "23514", "{bad}");
    }
    for (model, provider, expected) in [
        ("m", "NULL", true),
        ("openrouter:v/m", "NULL", true),
        ("openrouter:m", "NULL", true),
        ("m", "'openrouter'", true),
        ("m", "'openai'", false),
        ("m", "'nosuch'", false),
        ("nosuch", "NULL", false),
    ] {
        root.batch_execute(
            "UPDATE aggregator_models SET pricing = '{\"input\": 1, \"output\": 1}'",
        )
        .await
        .unwrap();
        let cost = value(&root, &format!("SELECT calculate_cost('{model}', '{{\"prompt_tokens\": 1, \"completion_tokens\": 1}}', {provider})")).await;
        assert_eq!(cost.is_some(), expected, "{model} {provider}");
    }
}

#[tokio::test]
async fn prices_by_time_of_day_may_wrap_midnight() {
    let database = bed::database().await;
    let root = database.root().await;
    let price = async |start: &str, end: &str, at: &str| {
        value(&root, &format!(
            "SELECT aggregator_prices_at('{{\"input\": 1, \"tiers\": [{{\"utc_start\": {start}, \"utc_end\": {end}, \"input\": 9}}]}}', 0, '2026-01-01 {at}+00') ->> 'input'"
        )).await.unwrap()
    };
    for (start, end, at, expected) in [
        ("\"0830\"", "\"1630\"", "08:29", "1"),
        ("\"0830\"", "\"1630\"", "08:30", "9"),
        ("\"0830\"", "\"1630\"", "16:29", "9"),
        ("\"0830\"", "\"1630\"", "16:30", "1"),
        ("1630", "30", "23:59", "9"),
        ("1630", "30", "00:29", "9"),
        ("1630", "30", "00:30", "1"),
        ("1630", "30", "12:00", "1"),
    ] {
        assert_eq!(price(start, end, at).await, expected, "{start}-{end} at {at}");
    }
}

#[tokio::test]
async fn completeness_is_told() {
    let database = bed::database().await;
    let root = database.root().await;
    let parts = |cache: i32| {
        format!(
            r#"{{"input": 10, "cache_read": {cache}, "cache_write": 0, "cache_write_1h": 0, "audio_input": 0, "output": 5, "reasoning": 0, "audio_output": 0}}"#
        )
    };
    for (pricing, parts, reported, free, expected) in [
        (
            r#"'{"input": 1, "output": 1}'"#,
            format!("'{}'", parts(0)),
            "NULL",
            false,
            "0.000015|0.000015|computed",
        ),
        (
            r#"'{"input": 1, "output": 1}'"#,
            format!("'{}'", parts(5)),
            "NULL",
            false,
            "0.00002|0.00002|incomplete",
        ),
        ("'{}'", format!("'{}'", parts(0)), "NULL", false, "∅|∅|unpriced"),
        ("NULL", format!("'{}'", parts(0)), "NULL", false, "∅|∅|unpriced"),
        (
            r#"'{"input": 1, "output": 1}'"#,
            format!("'{}'", parts(0)),
            "7",
            false,
            "7|0.000015|upstream",
        ),
        (r#"'{"input": 1, "output": 1}'"#, "NULL".into(), "NULL", false, "∅|∅|incomplete"),
        (r#"'{"input": 1, "output": 1}'"#, "NULL".into(), "NULL", true, "0|0|computed"),
    ] {
        let row = rows(&root, &format!("SELECT * FROM aggregator_settled_cost({pricing}, {parts}, {reported}, {free}, now())")).await;
        assert_eq!(row, [expected], "{pricing} {parts}");
    }
}
