//! What fails for a row fails that row alone.

use super::{add, becomes, define, echoes, prompt, ready, until_done};
use crate::bed::{rows, value};
use crate::embeddings::{embeds, texts};
use crate::upstream::{Answer, Upstream};

const FAILED: &str =
    "SELECT key[1], error ->> 'sqlstate', error ->> 'message' FROM aggregator_ai_queue
    WHERE status = 'failed' ORDER BY key[1]::bigint";

#[tokio::test]
async fn an_expression_that_fails_and_an_input_that_is_too_long_fail_their_rows() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body || 100 / n", "{}").await;
    add(&alice, 40).await;
    alice
        .batch_execute(
            "UPDATE docs SET n = 0 WHERE id IN (7, 23); UPDATE docs SET body = repeat('x', 1100000) WHERE id = 30",
        )
        .await
        .unwrap();
    until_done(&root).await;
    assert_eq!(value(&alice, "SELECT count(answer) FROM docs").await.unwrap(), "37");
    assert_eq!(
        rows(&root, FAILED).await,
        [
            "7|22012|division by zero",
            "23|22012|division by zero",
            "30|PT413|the request has more than 1048576 bytes in its input",
        ]
    );
    let last = "SELECT last_error IS NOT NULL, last_error_at IS NOT NULL, status FROM aggregator_ai_columns";
    assert_eq!(rows(&root, last).await, ["t|t|active"]);
    // What mends it sets it off once more.
    alice.batch_execute("UPDATE docs SET n = 1 WHERE n = 0").await.unwrap();
    becomes(&alice, "SELECT count(answer) FROM docs", "39").await;
}

#[tokio::test]
async fn a_value_that_the_table_does_not_take_fails_its_row() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "ALTER TABLE docs ALTER COLUMN answer TYPE varchar(12);
             ALTER TABLE docs ADD CONSTRAINT polite CHECK (answer <> 're: rude');
             CREATE TABLE taken (answer text UNIQUE DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO taken VALUES ('re: taken');
             CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO alice.taken VALUES (NEW.answer);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER take AFTER UPDATE OF answer ON docs FOR EACH ROW EXECUTE FUNCTION take()",
        )
        .await
        .unwrap();
    define(&alice, "answer", "chat", "body", "{}").await;
    alice
        .batch_execute(
            "INSERT INTO docs (body) VALUES ('a'), ('rude'), ('much too long'), ('taken'), ('b')",
        )
        .await
        .unwrap();
    until_done(&root).await;
    assert_eq!(
        rows(&alice, "SELECT body, answer FROM docs WHERE answer IS NOT NULL ORDER BY id").await,
        ["a|re: a", "b|re: b"]
    );
    let failed = "SELECT key[1], error ->> 'sqlstate' FROM aggregator_ai_queue ORDER BY key[1]";
    assert_eq!(rows(&root, failed).await, ["2|23514", "3|22001", "4|23505"]);
    assert_eq!(upstream.chat_count(), 5, "nothing is paid for twice");
}

#[tokio::test]
async fn a_refused_input_among_many_is_found() {
    let upstream = Upstream::start(|seen| match texts(seen).contains(&"bad".to_owned()) {
        true => Answer::json(400, r#"{"error": {"message": "one of these is not allowed"}}"#),
        false => embeds(seen),
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "vector", "embed", "body", r#"{"batch_size": 32}"#).await;
    alice
        .batch_execute(
            "INSERT INTO docs (body) SELECT CASE i WHEN 20 THEN 'bad' ELSE 'doc ' || i END FROM generate_series(1, 32) AS i",
        )
        .await
        .unwrap();
    until_done(&root).await;
    assert_eq!(value(&alice, "SELECT count(vector) FROM docs").await.unwrap(), "31");
    let failed =
        "SELECT key[1], error ->> 'sqlstate', error ->> 'upstream_status' FROM aggregator_ai_queue";
    assert_eq!(rows(&root, failed).await, ["20|PT400|400"]);
    assert!(upstream.chat_count() <= 11, "{}", upstream.chat_count());
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let upstream = Upstream::start(|seen| {
        static FIRST: std::sync::Once = std::sync::Once::new();
        let mut is_first = false;
        if prompt(seen) == "doc 2" {
            FIRST.call_once(|| is_first = true);
        }
        match is_first {
            true => Answer::json(500, "{}"),
            false => echoes(seen),
        }
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", r#"{"max_retries": 0}"#).await;
    add(&alice, 3).await;
    becomes(&alice, super::RIGHT, "3").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 4);
}

#[tokio::test]
async fn words_as_long_as_what_they_quote_fail_their_rows_alone() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "vector", "embed", "body::integer", r#"{"batch_size": 128}"#).await;
    // Together far more than an answer of a clerk may have, and one of them alone is.
    alice
        .batch_execute(
            "INSERT INTO docs (body) SELECT repeat('x', 40000) FROM generate_series(1, 300);
             INSERT INTO docs (body) VALUES (repeat('x', 9000000)), ('42')",
        )
        .await
        .unwrap();
    until_done(&root).await;
    let failed =
        "SELECT error ->> 'sqlstate', count(*), max(length(error ->> 'message')), max(attempts)
        FROM aggregator_ai_queue WHERE status = 'failed' GROUP BY 1";
    assert_eq!(rows(&root, failed).await, ["22P02|301|1000|1"]);
    assert_eq!(
        value(&alice, "SELECT body FROM docs WHERE vector IS NOT NULL").await.unwrap(),
        "42"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_value_fails_its_row_as_a_broken_one() {
    let upstream = Upstream::start(|seen| match prompt(seen).as_str() {
        "doc 1" => Answer::json(
            200,
            r#"{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}, "finish_reason": "stop"}]}"#,
        ),
        "doc 2" => Answer::says(&"x".repeat((2 << 20) + 1), crate::upstream::USAGE),
        _ => echoes(seen),
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    add(&alice, 3).await;
    until_done(&root).await;
    let failed = "SELECT key[1], error ->> 'sqlstate', error ->> 'code', error ->> 'message'
        FROM aggregator_ai_queue ORDER BY key[1]";
    assert_eq!(
        rows(&root, failed).await,
        [
            "1|PT502|broken_answer|provider 'standin', model 'm' answered 200 with no text",
            "2|PT502|broken_answer|provider 'standin', model 'm-served' answered 200 with 2097153 bytes, of which a value has at most 2097152",
        ]
    );
    assert_eq!(upstream.chat_count(), 3, "nothing is paid for twice");
}
