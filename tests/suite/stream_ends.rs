//! Streams that end before their end: nothing more is bought, and what was is in the log.

use crate::bed::{Database, eventually, rows, value};
use crate::fixtures::{AT_ONCE, ready, stream_sql, streaming};
use crate::upstream::{Answer, Piece, USAGE, Upstream};
use crate::wire::{Said, Wire};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Of its own accord the call would wait for a minute.
const SOON: Duration = Duration::from_secs(20);

/// A stream that begins, and then waits for whoever leaves.
fn begun() -> Answer {
    Answer::Stream(vec![Piece::role(), Piece::text("Hello there"), Piece::Stall])
}

/// The upstream noticed soon, and the row says what is known, which is never nothing.
async fn is_cancelled(upstream: &Upstream, root: &Client, since: Instant) {
    let at = upstream.wait_for_abort(0).await;
    assert!(at.saturating_duration_since(since) < SOON, "{:?}", at - since);
    eventually(root, "SELECT status FROM aggregator_usage_logs", "cancelled").await;
    assert_eq!(
        rows(
            root,
            "SELECT cost_source, cost_estimate > 0, completion_tokens >= 1, prompt_tokens >= 1, time_to_first_token_ms IS NOT NULL FROM aggregator_usage_logs"
        )
        .await,
        ["incomplete|t|t|t|t"]
    );
    assert_eq!(upstream.chat_count(), 1);
}

async fn begin() -> (Upstream, Database<'static>, Client, Wire) {
    streaming(begun()).await
}

#[tokio::test]
async fn limit_aborts_the_call() {
    let (upstream, _database, root, mut wire) = begin().await;
    let heard = wire.run(&format!("{} LIMIT 1", stream_sql("{}"))).await;
    assert_eq!(heard.texts(), ["Hello there"], "{:?}", heard.failure);
    is_cancelled(&upstream, &root, heard.ended).await;
}

#[tokio::test]
async fn closing_the_cursor_aborts_the_call() {
    let (upstream, database, root, _wire) = begin().await;
    let reader = database.root().await;
    reader
        .batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {}", stream_sql("{}")))
        .await
        .unwrap();
    assert_eq!(value(&reader, "FETCH 1 FROM c").await.unwrap(), "Hello there");
    assert!(upstream.chats()[0].aborted.is_none());
    let closed = Instant::now();
    reader.batch_execute("CLOSE c").await.unwrap();
    is_cancelled(&upstream, &root, closed).await;
    // The transaction goes on.
    assert_eq!(value(&reader, "SELECT 1").await.unwrap(), "1");
    reader.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_transaction_aborts_the_call() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (upstream, database, root, _wire) = begin().await;
        let mut reader = database.root().await;
        let transaction = reader.transaction().await.unwrap();
        let portal = transaction.bind(&stream_sql("{}"), &[]).await.unwrap();
        let first = transaction.query_portal(&portal, 1).await.unwrap();
        assert_eq!(first[0].get::<_, Option<&str>>(0), Some("Hello there"));
        let ended = Instant::now();
        match end {
            "COMMIT" => transaction.commit().await.unwrap(),
            _ => transaction.rollback().await.unwrap(),
        }
        is_cancelled(&upstream, &root, ended).await;
    }
}

#[tokio::test]
async fn cancel_aborts_the_call() {
    let (upstream, _database, root, mut wire) = begin().await;
    wire.ask(&stream_sql("{}")).await;
    assert_eq!(wire.row().await.as_deref(), Some("Hello there"));
    let cancelled = Instant::now();
    value(&root, &format!("SELECT pg_cancel_backend({})", wire.pid)).await;
    match wire.next().await {
        Said::Failed(code, _) => assert_eq!(code, "57014"),
        other => panic!("{other:?}"),
    }
    is_cancelled(&upstream, &root, cancelled).await;
    // The session is good for another statement.
    assert!(matches!(wire.next().await, Said::Ready));
    assert_eq!(wire.run("SELECT 1").await.texts(), ["1"]);
}

#[tokio::test]
async fn a_lost_client_aborts_the_call() {
    let (upstream, _database, root, mut wire) = begin().await;
    wire.ask(&stream_sql("{}")).await;
    assert_eq!(wire.row().await.as_deref(), Some("Hello there"));
    let lost = Instant::now();
    drop(wire);
    is_cancelled(&upstream, &root, lost).await;
}

#[tokio::test]
async fn a_killed_session_aborts_the_call() {
    let (upstream, _database, root, mut wire) = begin().await;
    wire.ask(&stream_sql("{}")).await;
    assert_eq!(wire.row().await.as_deref(), Some("Hello there"));
    let killed = Instant::now();
    value(&root, &format!("SELECT pg_terminate_backend({})", wire.pid)).await;
    is_cancelled(&upstream, &root, killed).await;
}

#[tokio::test]
async fn an_error_of_the_statement_aborts_the_call() {
    let (upstream, _database, root, mut wire) = begin().await;
    let heard = wire
        .run("SELECT 1 / (length((t).delta) - length('Hello there')) FROM (SELECT chat_stream('m', '[{\"role\":\"user\",\"content\":\"hi\"}]') AS t) s")
        .await;
    assert_eq!(heard.failure.unwrap().0, "22012");
    is_cancelled(&upstream, &root, heard.ended).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error_and_not_sent_again() {
    let (upstream, _database, root, mut wire) =
        streaming(Answer::Stream(vec![Piece::role(), Piece::text("one two three"), Piece::Cut]))
            .await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["one two three"]);
    let (code, message) = heard.failure.expect("it fails");
    assert_eq!(code, "PT502", "{message}");
    assert!(message.contains("'standin'") && message.contains("'m'"), "{message}");
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(
        rows(&root, "SELECT status, cost_source, cost_estimate > 0, completion_tokens >= 1 FROM aggregator_usage_logs").await,
        ["error|incomplete|t|t"]
    );
}

#[tokio::test]
async fn an_end_without_a_finish_reason_is_a_break() {
    let (_upstream, _database, root, mut wire) =
        streaming(Answer::Stream(vec![Piece::role(), Piece::text("one two three")])).await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.failure.expect("it fails").0, "PT502");
    assert_eq!(
        rows(&root, "SELECT status, cost_estimate > 0 FROM aggregator_usage_logs").await,
        ["error|t"]
    );
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_raised() {
    let (upstream, _database, root, mut wire) = streaming(Answer::Stream(vec![
        Piece::role(),
        Piece::text("one two"),
        Piece::Data(
            r#"{"id":"gen-1","model":"m-served","error":{"code":"server_error","message":"the model fell over"},
                "choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#
                .replace('\n', " "),
        ),
        Piece::done(),
    ]))
    .await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["one two"]);
    let (code, message) = heard.failure.expect("it fails");
    assert_eq!(code, "PT502", "{message}");
    assert!(message.contains("'standin'"), "{message}");
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(
        rows(&root, "SELECT status, error_code, cost_estimate > 0 FROM aggregator_usage_logs")
            .await,
        ["error|server_error|t"]
    );
}

#[tokio::test]
async fn statement_timeout_gives_our_error_before_the_kill() {
    let (upstream, _database, root, mut wire) = begin().await;
    wire.run("SET statement_timeout = 5000").await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["Hello there"]);
    let (code, message) = heard.failure.expect("it fails");
    assert_eq!(code, "PT504", "{message}");
    upstream.wait_for_abort(0).await;
    eventually(
        &root,
        "SELECT status || ' ' || cost_source || ' ' || (cost_estimate > 0)::text FROM aggregator_usage_logs",
        "cancelled incomplete true",
    )
    .await;
}

#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    let texts: Vec<String> = (0..2000).map(|i| format!("{i:04} ").repeat(20)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (_upstream, _database, root, mut wire) =
        streaming(Answer::streams(&texts, AT_ONCE, Some(USAGE))).await;
    wire.ask(&stream_sql("{}")).await;
    assert_eq!(wire.row().await.as_deref(), Some(texts[0]));
    // The sockets between are full long before all is sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for text in &texts[1..] {
        assert_eq!(wire.row().await.as_deref(), Some(*text));
    }
    assert_eq!(wire.row().await, None);
    assert!(matches!(wire.next().await, Said::Ready));
    assert_eq!(
        rows(&root, "SELECT status, total_tokens FROM aggregator_usage_logs").await,
        ["success|15"]
    );
}

#[tokio::test]
async fn an_idle_cursor_gives_its_place_back_at_the_deadline() {
    let chunk = r#"{"id":"g","model":"m","choices":[{"index":0,"delta":{"content":"word "}}]}"#;
    let pieces: Vec<Piece> = (0..20_000).map(|_| Piece::Data(chunk.into())).collect();
    let upstream = Upstream::start(move |_| Answer::Stream(pieces.clone())).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(&format!(
        "BEGIN; DECLARE c CURSOR FOR {}; FETCH 1 FROM c",
        stream_sql(r#"{"timeout_ms": 5000}"#)
    ))
    .await
    .unwrap();
    eventually(
        &root,
        "SELECT status || ' ' || error_code || ' ' || (cost_estimate > 0)::text FROM aggregator_usage_logs",
        "error deadline true",
    )
    .await;
    root.batch_execute("ROLLBACK").await.unwrap();
}
