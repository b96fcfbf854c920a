//! Values of all kinds, written as rows come, and rows that were there before.

use super::{RIGHT, add, becomes, define, echoes, ready, until_done};
use crate::bed::{PATIENCE, eventually_within, rows, value};
use crate::embeddings::{embeds, shown, texts};
use crate::upstream::{Answer, USAGE, Upstream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[tokio::test]
async fn a_chat_fills_its_column_and_is_in_the_ledger() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", r#"{"tags": ["mine"]}"#).await;
    add(&alice, 10).await;
    until_done(&root).await;
    assert_eq!(value(&alice, RIGHT).await.unwrap(), "10");
    assert_eq!(upstream.chat_count(), 10);
    // An update of the output alone sets nothing off; one of an input does, and one that changes nothing does not.
    alice
        .batch_execute(
            "UPDATE docs SET n = 0; UPDATE docs SET body = body; UPDATE docs SET answer = 'x' WHERE id = 2;
             UPDATE docs SET body = 'other' WHERE id = 1",
        )
        .await
        .unwrap();
    becomes(&alice, "SELECT answer FROM docs WHERE id = 1", "re: other").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 11);
    assert_eq!(value(&alice, "SELECT answer FROM docs WHERE id = 2").await.unwrap(), "x");
    let logged =
        "SELECT user_id, status, tags, count(*) FROM aggregator_usage_logs GROUP BY 1, 2, 3";
    let expected = [r#"role:alice|success|{mine,alice.docs.answer}|11"#];
    assert_eq!(rows(&root, logged).await, expected);
}

#[tokio::test]
async fn embeddings_are_asked_for_many_at_a_time_and_nothing_for_nothing() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "vector", "embed", "title: {body}", r#"{"batch_size": 10, "concurrency": 2}"#)
        .await;
    alice.batch_execute("ALTER TABLE docs RENAME COLUMN body TO text").await.unwrap();
    alice
        .batch_execute(
            "INSERT INTO docs (text) SELECT repeat('x', i) FROM generate_series(1, 40) AS i;
             INSERT INTO docs (text, vector) VALUES (NULL, '{1}')",
        )
        .await
        .unwrap();
    until_done(&root).await;
    let found = rows(&alice, "SELECT text, vector FROM docs ORDER BY id").await;
    for row in &found[..40] {
        let (text, vector) = row.split_once('|').unwrap();
        assert_eq!(vector, shown(&format!("title: {text}")));
    }
    assert_eq!(found[40], "∅|∅", "there is nothing to embed, so the vector of before is wrong");
    let asked: Vec<usize> = upstream.chats().iter().map(|seen| texts(seen).len()).collect();
    assert_eq!(asked.iter().sum::<usize>(), 40);
    assert!(asked.iter().all(|count| *count <= 10) && asked.len() <= 8, "{asked:?}");
}

#[tokio::test]
async fn json_fits_its_schema_or_is_asked_for_again() {
    let has_failed = AtomicBool::new(false);
    let upstream = Upstream::start(move |seen| {
        let is_beta = seen.body.contains("beta");
        let is_wrong = is_beta && !has_failed.swap(true, Ordering::SeqCst);
        Answer::says(if is_wrong { r#"{"n": "none"}"# } else { r#"{"n": 7}"# }, USAGE)
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    let schema = r#"{"schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}"#;
    define(&alice, "facts", "json", "body", schema).await;
    alice.batch_execute("INSERT INTO docs (body) VALUES ('alpha'), ('beta')").await.unwrap();
    until_done(&root).await;
    assert_eq!(rows(&alice, "SELECT facts FROM docs").await, [r#"{"n": 7}"#, r#"{"n": 7}"#]);
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn a_chain_of_two_columns_works() {
    let upstream = Upstream::start(|seen| match seen.path.ends_with("/embeddings") {
        true => embeds(seen),
        false => echoes(seen),
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    define(&alice, "vector", "embed", "answer", "{}").await;
    alice.batch_execute("INSERT INTO docs (body) VALUES ('first')").await.unwrap();
    becomes(&alice, "SELECT vector FROM docs", &shown("re: first")).await;
    until_done(&root).await;
    alice.batch_execute("UPDATE docs SET body = 'a second one'").await.unwrap();
    becomes(&alice, "SELECT vector FROM docs", &shown("re: a second one")).await;
}

#[tokio::test]
async fn rows_that_were_there_before_are_filled_as_far_as_they_lack_a_value() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root, alice) = ready(&upstream).await;
    let count = 5000;
    alice
        .batch_execute(&format!(
            "INSERT INTO docs (body) SELECT 'doc ' || i FROM generate_series(1, {count}) AS i;
             UPDATE docs SET vector = '{{0}}' WHERE id % 100 = 0; ANALYZE docs"
        ))
        .await
        .unwrap();
    let began = Instant::now();
    define(&alice, "vector", "embed", "body", r#"{"batch_size": 100}"#).await;
    let status = "SELECT backfill_status FROM aggregator_ai_columns";
    eventually_within(5 * PATIENCE, &root, status, "done").await;
    let missing = "SELECT count(*) FROM docs WHERE vector IS NULL";
    eventually_within(5 * PATIENCE, &alice, missing, "0").await;
    let took = began.elapsed().as_secs_f64();
    println!("backfill of {count} rows: {:.0} rows/s", f64::from(count) / took);
    until_done(&root).await;
    let kept = "SELECT count(*) FROM docs WHERE vector = '{0}'";
    assert_eq!(value(&alice, kept).await.unwrap(), "50");
    let asked: usize = upstream.chats().iter().map(|seen| texts(seen).len()).sum();
    assert_eq!(asked, 4950);
    let seen = "SELECT backfill_seen FROM aggregator_ai_columns";
    assert_eq!(value(&root, seen).await.unwrap(), "5000");
}

#[tokio::test]
async fn with_no_backfill_rows_of_before_are_left_alone() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    add(&alice, 3).await;
    define(&alice, "answer", "chat", "body", r#"{"backfill": false}"#).await;
    alice.batch_execute("INSERT INTO docs (body) VALUES ('new')").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs WHERE body = 'new'", "re: new").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 1);
}
