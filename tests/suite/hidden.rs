//! Tokens that providers count beyond the bytes of a request: what they document is reserved, and what
//! they were seen to count makes the bound of the next request grow.

use crate::bed::{Database, eventually, failure, quoted, rows, value};
use crate::fixtures::{HELLO, chat_sql, ready, user};
use crate::upstream::{Answer, Seen, Upstream};
use serde_json::json;
use tokio_postgres::Client;

/// A request with tools, of about 200 bytes.
fn with_tools() -> String {
    json!({
        "max_tokens": 100,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    })
    .to_string()
}

async fn prices(root: &Client, pricing: &str) {
    root.batch_execute(&format!("UPDATE aggregator_models SET pricing = '{pricing}'"))
        .await
        .unwrap();
}

async fn new_worker(root: &Client) {
    let pid = value(root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    value(root, &format!("SELECT pg_terminate_backend({pid})")).await;
    eventually(root, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"), "0")
        .await;
}

const HIDDEN: &str =
    "SELECT model_id, prompt_tokens, completion_tokens FROM aggregator_hidden_tokens ORDER BY 1";
const RESERVED: &str =
    "SELECT reserved_tokens FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1";

async fn reserved(root: &Client) -> i64 {
    value(root, RESERVED).await.unwrap().parse().unwrap()
}

/// 200 bytes are billed 580 tokens, as Anthropic documents of its tool prompt: a cap of 0.02 was passed at
/// 0.0204.
#[tokio::test]
async fn the_tool_prompt_that_a_provider_documents_is_reserved() {
    let usage = r#"{"prompt_tokens":580,"completion_tokens":100,"total_tokens":680}"#;
    let upstream = Upstream::start(move |_: &Seen| Answer::says("x", usage)).await;
    let (_database, root) = ready(&upstream).await;
    prices(&root, r#"{"input": 30, "output": 30}"#).await;
    value(&root, "SELECT set_budget(0.02, p_period => 'total', p_keys => 'all')").await.unwrap();
    assert_eq!(failure(&root, &chat_sql(&with_tools())).await.0, "PT402");
    assert_eq!(upstream.chat_count(), 0);
    value(&root, "SELECT set_budget(0.05, p_period => 'total', p_keys => 'all')").await.unwrap();
    value(&root, &chat_sql(&with_tools())).await.unwrap();
    assert_eq!(
        rows(&root, "SELECT trim_scale(cost_estimate), metadata ->> 'beyond_bound' FROM aggregator_usage_logs").await,
        ["0.0204|∅"]
    );
    assert_eq!(rows(&root, HIDDEN).await.len(), 0);
}

/// A provider that counts so much for everything.
async fn counting(input: i64, output: i64) -> (Upstream, Database<'static>, Client) {
    let usage = json!({"prompt_tokens": input, "completion_tokens": output}).to_string();
    let upstream = Upstream::start(move |_: &Seen| Answer::says("x", &usage)).await;
    let (database, root) = ready(&upstream).await;
    (upstream, database, root)
}

#[tokio::test]
async fn a_provider_that_counts_more_than_the_bound_is_remembered_and_the_bound_grows() {
    let (upstream, database, root) = counting(3000, 40).await;
    let other = user(&database, "u-b").await;
    let options = r#"{"max_tokens": 10}"#;
    value(&root, "SELECT set_budget(p_limit_tokens => 1000000, p_keys => 'all')").await.unwrap();
    let quote = format!("SELECT max_cost FROM quote_cost('m', '{HELLO}', 10)");
    let quoted_before: f64 = value(&root, &quote).await.unwrap().parse().unwrap();
    value(&root, &chat_sql(options)).await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_hidden_tokens", "1").await;
    let seen = rows(&root, HIDDEN).await.concat();
    let parts: Vec<i64> = seen.split('|').skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(seen.starts_with("m|") && parts[0] > 2700 && parts[1] == 30, "{seen}");
    // Everybody asks the same provider, so that the bound is everybody's; a quote knows it too.
    value(&other, &chat_sql(options)).await.unwrap();
    assert_eq!(reserved(&root).await, 3040);
    assert_eq!(
        value(&root, "SELECT metadata FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1")
            .await,
        None
    );
    let after: f64 = value(&other, &quote).await.unwrap().parse().unwrap();
    assert!(after > quoted_before + 0.0054, "{quoted_before} {after}");
    // Nothing is written where nothing grew, and the next worker knows it.
    let noted = value(&root, "SELECT noted_at FROM aggregator_hidden_tokens").await;
    new_worker(&root).await;
    value(&root, &chat_sql(options)).await.unwrap();
    assert_eq!(reserved(&root).await, 3040);
    assert_eq!(value(&root, "SELECT noted_at FROM aggregator_hidden_tokens").await, noted);
    // A budget that such a request does not fit into is not passed any more.
    value(&root, "SELECT set_budget(p_limit_tokens => 7000, p_keys => 'all')").await.unwrap();
    assert_eq!(failure(&root, &chat_sql(options)).await.0, "PT402");
    assert_eq!(upstream.chat_count(), 3);
    // Models of a provider that is gone are nobody's.
    root.batch_execute("DELETE FROM api_providers WHERE name = 'standin'").await.unwrap();
    new_worker(&root).await;
    value(&root, "SELECT sync_models('openrouter')").await;
    eventually(&root, "SELECT count(*) FROM aggregator_hidden_tokens", "0").await;
}

#[tokio::test]
async fn the_bound_grows_no_further_than_so_much_and_for_no_other_provider() {
    // What is too much to be true is not believed.
    let (_upstream, database, root) = counting(2_000_000_000, 2_000_000_000).await;
    value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
    new_worker(&root).await;
    value(&root, "SELECT set_budget(p_limit_tokens => 10000000, p_keys => 'all')").await.unwrap();
    value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
    assert!(reserved(&root).await < 300);
    assert_eq!(rows(&root, HIDDEN).await.len(), 0);
    // What may be true is, and no further.
    let (_upstream, database, root) = {
        drop((_upstream, database));
        counting(16_400, 65_500).await
    };
    let honest = Upstream::start(|_: &Seen| Answer::hello()).await;
    crate::fixtures::add_named(&root, "honest", "openai", &honest.base_url(), &["v/h"]).await;
    let attacker = user(&database, "u-a").await;
    // Names that no catalogue lists share one row.
    for model in ["m", "standin:made-up-1", "standin:made-up-2"] {
        let sql =
            format!("SELECT chat_complete({}, '{HELLO}', '{{\"max_tokens\": 5}}')", quoted(model));
        value(&attacker, &sql).await.unwrap();
    }
    eventually(&root, "SELECT count(*) FROM aggregator_hidden_tokens", "2").await;
    let most = "SELECT model_id, prompt_tokens BETWEEN 16000 AND 16384, completion_tokens FROM aggregator_hidden_tokens ORDER BY 1";
    assert_eq!(rows(&root, most).await, ["(unlisted)|t|65495", "m|t|65495"]);
    let other = user(&database, "u-b").await;
    crate::fixtures::save_key(&other, "honest", "sk-good-of-other-0123").await;
    value(&root, "SELECT set_budget(p_limit_tokens => 10000000, p_each_user => true)")
        .await
        .unwrap();
    let ask = |model: &str| {
        format!("SELECT chat_complete('{model}', '{HELLO}', '{{\"max_tokens\": 5}}')")
    };
    value(&other, &ask("v/h")).await.unwrap();
    assert!(reserved(&root).await < 300);
    value(&other, &ask("m")).await.unwrap();
    let bound = reserved(&root).await;
    assert!((81_900..82_300).contains(&bound), "{bound}");
    // Users read what is remembered, and change nothing of it.
    assert_eq!(rows(&other, HIDDEN).await.len(), 2);
    for write in [
        "DELETE FROM aggregator_hidden_tokens",
        "UPDATE aggregator_hidden_tokens SET prompt_tokens = 1",
    ] {
        assert_eq!(failure(&other, write).await.0, "42501");
    }
}

#[tokio::test]
async fn an_image_and_an_estimate_say_nothing_of_the_bound() {
    let (_upstream, _database, root) = counting(3000, 5).await;
    let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]"#;
    let sql = format!("SELECT chat_complete('m', {}, '{{\"max_tokens\": 10}}')", quoted(image));
    value(&root, &sql).await.unwrap();
    // Nobody counts on a limit that a request asks beyond of.
    root.batch_execute("UPDATE aggregator_models SET max_output_tokens = 2").await.unwrap();
    let long = "x".repeat(4000);
    let messages = json!([{"role": "user", "content": long}]).to_string();
    let sql = format!("SELECT chat_complete('m', {}, '{{\"max_tokens\": 10}}')", quoted(&messages));
    value(&root, &sql).await.unwrap();
    assert_eq!(rows(&root, HIDDEN).await.len(), 0);
}
