//! `embed_many`: many texts in one statement.

use super::{add_embedder, embeds, many, ready, shown, texts};
use crate::bed::{Cluster, failure, rows, value};
use crate::fixtures::save_key;
use crate::upstream::{Answer, Seen, Upstream};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use std::collections::BTreeSet;

#[tokio::test]
async fn every_text_has_a_row_in_its_order() {
    let upstream = Upstream::start(|seen| {
        // Earlier ones later.
        let first: u64 = texts(seen)[0].trim_start_matches('q').parse().unwrap();
        Answer::late(200 - first * 7, embeds(seen))
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let inputs: Vec<String> = (1..=25).map(|i| format!("q{i}")).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let all = rows(&root, &many("*", &inputs, r#"{"batch_size": 4, "concurrency": 3}"#)).await;
    let expected: Vec<String> =
        inputs.iter().enumerate().map(|(i, text)| format!("{}|{}|∅", i + 1, shown(text))).collect();
    assert_eq!(all, expected);
    let sizes: Vec<usize> = upstream.chats().iter().map(|seen| texts(seen).len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 25);
    assert_eq!((sizes.len(), sizes.iter().max()), (7, Some(&4)));
    let most = upstream.most_at_once();
    assert!((2..=3).contains(&most), "{most}");
    // A row of the ledger for each request; 9 texts of 2 bytes, 16 of 3.
    assert_eq!(
        rows(&root, "SELECT count(*), count(DISTINCT call_id), sum(prompt_tokens), sum(cost_estimate) = 66 * 0.000002, sum(completion_tokens) FROM aggregator_usage_logs WHERE status = 'success'").await,
        ["7|7|66|t|0"]
    );
}

#[tokio::test]
async fn null_and_nothing_are_rows_without_a_call() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    let inputs = ["∅", "a", "", "bb", "∅"];
    let expected = [
        "1|∅|∅".to_owned(),
        format!("2|{}|∅", shown("a")),
        "3|∅|∅".to_owned(),
        format!("4|{}|∅", shown("bb")),
        "5|∅|∅".to_owned(),
    ];
    assert_eq!(rows(&root, &many("*", &inputs, "{}")).await, expected);
    assert_eq!(texts(&upstream.chats()[0]), ["a", "bb"]);
    assert_eq!(rows(&root, &many("*", &["∅", ""], "{}")).await, ["1|∅|∅", "2|∅|∅"]);
    assert_eq!(rows(&root, &many("*", &[], "{}")).await.len(), 0);
    assert_eq!(rows(&root, "SELECT * FROM embed_many(NULL, 'e')").await.len(), 0);
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn what_is_too_large_goes_in_smaller_requests() {
    for refusal in [
        (413, r#"{"error":{"message":"Payload Too Large"}}"#),
        (
            422,
            r#"{"error":"batch size 8 > maximum allowed batch size 3","error_type":"Validation"}"#,
        ),
        (
            400,
            r#"{"error":{"message":"Invalid 'input': array too long.","code":"array_above_max_length"}}"#,
        ),
    ] {
        let upstream = Upstream::start(move |seen| match texts(seen).len() {
            0..=3 => embeds(seen),
            _ => Answer::json(refusal.0, refusal.1),
        })
        .await;
        let (_database, root) = ready(&upstream).await;
        let inputs = ["a", "bb", "ccc", "dd", "e", "ff", "ggg", "hh", "i"];
        let all = rows(&root, &many("embedding, error", &inputs, r#"{"batch_size": 8}"#)).await;
        let expected: Vec<String> =
            inputs.iter().map(|text| format!("{}|∅", shown(text))).collect();
        assert_eq!(all, expected);
        let mut sizes: Vec<usize> = upstream.chats().iter().map(|seen| texts(seen).len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2, 2, 2, 2, 4, 4, 8], "{}", refusal.1);
        // What was refused cost nothing.
        assert_eq!(
            rows(&root, "SELECT status, count(*), sum(cost_estimate) = 0 FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1").await,
            ["error|3|t", "success|5|f"]
        );
    }
}

#[tokio::test]
async fn one_text_that_is_too_long_fails_alone() {
    let upstream = Upstream::start(|seen: &Seen| {
        match texts(seen).iter().any(|text| text.starts_with("long")) {
            true => Answer::json(
                400,
                r#"{"error":{"message":"This model's maximum context length is 9 tokens","code":"context_length_exceeded"}}"#,
            ),
            false => embeds(seen),
        }
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let inputs = ["a", "bb", "long one", "dd", "eee"];
    let all =
        rows(&root, &many("ord, embedding, error ->> 'sqlstate', error ->> 'code'", &inputs, "{}"))
            .await;
    for (i, text) in inputs.iter().enumerate() {
        let expected = match *text {
            "long one" => format!("{}|∅|PT400|context_length_exceeded", i + 1),
            text => format!("{}|{}|∅|∅", i + 1, shown(text)),
        };
        assert_eq!(all[i], expected);
    }
}

#[tokio::test]
async fn a_request_has_so_many_bytes_and_a_statement_so_many_texts() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    // Of 300 kB each, one goes with no other.
    let sql = "SELECT count(embedding), count(error) FROM embed_many(
        (SELECT array_agg(repeat('x', CASE i WHEN 3 THEN 1048577 ELSE 300000 END)) FROM generate_series(1, 4) AS i), 'e')";
    assert_eq!(rows(&root, sql).await, ["3|1"]);
    assert_eq!(upstream.chat_count(), 3);
    let sql = "SELECT * FROM embed_many(array_fill('x'::text, ARRAY[50001]), 'e')";
    let (code, message) = failure(&root, sql).await;
    assert_eq!(code, "PT400");
    assert!(message.contains("50000"), "{message}");
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn ten_thousand_texts_come_back_in_their_order() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    let sql = "SELECT count(*), count(embedding), bool_and(embedding[1] = length('q' || ord)) FROM embed_many(
        (SELECT array_agg('q' || i ORDER BY i) FROM generate_series(1, 10000) AS i), 'e')";
    assert_eq!(rows(&root, sql).await, ["10000|10000|t"]);
    assert_eq!(upstream.chat_count(), 79);
    let sent: BTreeSet<String> = upstream.chats().iter().flat_map(texts).collect();
    assert_eq!(sent.len(), 10_000);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "79");
}

#[tokio::test]
async fn more_than_there_is_memory_for_goes_in_parts() {
    let upstream = Upstream::start(embeds).await;
    let cluster = Cluster::start("embedmuch", "aggregator.max_memory = '128MB'");
    let database = cluster.database().await;
    let root = database.root().await;
    add_embedder(&root, "standin", "openai", &upstream).await;
    save_key(&root, "standin", "sk-good-1").await;
    // 60 MB of texts, and 60 MB that are few kB of arguments many times: one user may hold 48 MB.
    for sql in [
        "SELECT count(embedding), count(error), bool_and(embedding[1] = 100000) FROM embed_many(
            array_fill(repeat('x', 100000), ARRAY[600]), 'e', '{\"batch_size\": 5, \"concurrency\": 4}')",
        "SELECT count(embedding), count(error), bool_and(embedding[1] = 1) FROM embed_many(
            array_fill('x'::text, ARRAY[600]), 'e',
            jsonb_build_object('batch_size', 1, 'concurrency', 4, 'extra_body', jsonb_build_object('task', repeat('y', 100000))))",
    ] {
        assert_eq!(rows(&root, sql).await, ["600|0|t"], "{sql}");
    }
    assert_eq!(upstream.chat_count(), 120 + 600);
}

#[tokio::test]
async fn what_no_answer_can_hold_is_not_asked_for_at_once() {
    let upstream = Upstream::start(|seen: &Seen| {
        let bytes = 4 * seen.json()["dimensions"].as_u64().unwrap() as usize;
        let vector = BASE64_STANDARD.encode(vec![0u8; bytes]);
        let data: Vec<_> = texts(seen).iter().map(|_| json!({"embedding": vector})).collect();
        Answer::json(200, json!({"data": data, "usage": {"prompt_tokens": 1}}).to_string())
    })
    .await;
    let cluster = Cluster::start("embedlarge", "aggregator.max_response_size = '64kB'");
    let database = cluster.database().await;
    let root = database.root().await;
    add_embedder(&root, "standin", "openai", &upstream).await;
    save_key(&root, "standin", "sk-good-1").await;
    // 12 of them are 64 kB.
    let sql = r#"SELECT count(embedding), count(error), min(cardinality(embedding)) FROM embed_many(
        array_fill('x'::text, ARRAY[40]), 'e', '{"dimensions": 1000, "batch_size": 20}')"#;
    assert_eq!(rows(&root, sql).await, ["40|0|1000"]);
    assert_eq!(upstream.chat_count(), 4);
    let submit =
        r#"SELECT embed_submit(array_fill('x'::text, ARRAY[13]), 'e', '{"dimensions": 1000}')"#;
    let job = value(&root, submit).await.unwrap();
    let waited =
        rows(&root, &format!("SELECT status, error ->> 'sqlstate' FROM chat_wait('{job}', 60000)"))
            .await;
    assert_eq!(waited, ["failed|PT413"]);
    assert_eq!(upstream.chat_count(), 4);
}

#[tokio::test]
async fn a_request_beyond_our_own_limit_goes_in_parts() {
    let upstream = Upstream::start(embeds).await;
    let cluster = Cluster::start("embedsmall", "aggregator.max_request_size = '64kB'");
    let database = cluster.database().await;
    let root = database.root().await;
    add_embedder(&root, "standin", "openai", &upstream).await;
    save_key(&root, "standin", "sk-good-1").await;
    let sql = "SELECT count(embedding), count(error), max(error ->> 'sqlstate') FROM embed_many(
        (SELECT array_agg(repeat('x', CASE i WHEN 7 THEN 70000 ELSE 5000 END)) FROM generate_series(1, 40) AS i), 'e')";
    assert_eq!(rows(&root, sql).await, ["39|1|PT413"]);
    assert!(upstream.chats().iter().all(|seen| seen.body.len() <= 64 * 1024));
}
