//! Budgets and limits hold for embeddings.

use super::{embeds, many, ready, shown, texts};
use crate::bed::{eventually, failure, rows, value};
use crate::upstream::{Answer, Upstream};

#[tokio::test]
async fn a_budget_is_never_passed_whatever_is_sent_at_once() {
    let upstream = Upstream::start(|seen| Answer::late(20, embeds(seen))).await;
    let (_database, root) = ready(&upstream).await;
    // Each request of one text of 100 bytes costs 0.0002; some hundred bytes more are set aside for it.
    value(&root, "SELECT set_budget(0.01, p_keys => 'all')").await.unwrap();
    let sql = r#"SELECT count(embedding), count(*) FILTER (WHERE error ->> 'sqlstate' = 'PT402') FROM embed_many(
        array_fill(repeat('x', 100), ARRAY[200]), 'e', '{"batch_size": 1, "concurrency": 50}')"#;
    let counts = rows(&root, sql).await.concat();
    let (sent, refused) = counts.split_once('|').unwrap();
    let (sent, refused): (usize, usize) = (sent.parse().unwrap(), refused.parse().unwrap());
    assert_eq!(sent + refused, 200);
    assert!((10..=50).contains(&sent), "{sent}");
    assert_eq!(upstream.chat_count(), sent, "what was refused was not sent");
    assert_eq!(
        value(&root, "SELECT sum(cost_estimate) <= 0.01 FROM aggregator_usage_logs").await.unwrap(),
        "t"
    );
    let left = "SELECT reserved_usd FROM aggregator_budget_status";
    eventually(&root, left, "0").await;
}

#[tokio::test]
async fn only_what_goes_in_needs_a_price() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_budget(1, p_keys => 'all')").await.unwrap();
    assert_eq!(value(&root, "SELECT embed('x', 'e')").await, Some(shown("x")));
    assert_eq!(
        rows(&root, "SELECT reserved_cost > 0, reserved_cost < 0.001, cost_estimate FROM aggregator_usage_logs").await,
        ["t|t|0.000002"]
    );
    // A member that nobody knows may cost anything.
    let sql = r#"SELECT embed('x', 'e', '{"extra_body": {"rerank": true}}')"#;
    let (code, message) = failure(&root, sql).await;
    assert_eq!(code, "PT402", "{message}");
    assert!(message.contains("'rerank'"), "{message}");
    root.batch_execute("UPDATE aggregator_models SET pricing = '{}'").await.unwrap();
    assert_eq!(failure(&root, "SELECT embed('x', 'e')").await.0, "PT402");
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn rate_limits_count_requests_and_what_goes_in() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    let limit = value(&root, "SELECT set_rate_limit(3)").await.unwrap();
    let all = rows(
        &root,
        &many(
            "count(embedding), count(*) FILTER (WHERE error ->> 'sqlstate' = 'PT429')",
            &["a", "b", "c", "d", "e"],
            r#"{"batch_size": 1, "max_retries": 0}"#,
        ),
    )
    .await;
    assert_eq!(all, ["3|2"]);
    assert_eq!(upstream.chat_count(), 3);
    value(&root, &format!("SELECT remove_rate_limit('{limit}')")).await;
    value(&root, "SELECT set_rate_limit(NULL, 100)").await.unwrap();
    // 400 bytes are about 100 tokens: with what has gone in already that is too much.
    value(&root, "SELECT embed(repeat('x', 300), 'e')").await.unwrap();
    assert_eq!(failure(&root, "SELECT embed(repeat('x', 400), 'e')").await.0, "PT429");
    assert_eq!(texts(&upstream.chats()[0]).len(), 1);
    assert_eq!(upstream.chat_count(), 4);
}
