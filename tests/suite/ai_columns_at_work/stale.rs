//! Rows that change, go or are locked while a model is asked about them.

use super::{add, becomes, define, echoes, prompt, ready, until_done};
use crate::bed::{rows, value};
use crate::embeddings::{embeds, texts};
use crate::upstream::{Answer, Gate, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A stand-in that answers late as long as it is told so.
async fn slow(ms: u64) -> (Upstream, Arc<AtomicBool>) {
    let is_slow = Arc::new(AtomicBool::new(true));
    let told = is_slow.clone();
    let upstream = Upstream::start(move |seen| match told.load(Ordering::SeqCst) {
        true => Answer::late(ms, echoes(seen)),
        false => echoes(seen),
    })
    .await;
    (upstream, is_slow)
}

#[tokio::test]
async fn an_answer_to_what_is_not_there_any_more_is_dropped() {
    let (upstream, is_slow) = slow(1000).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    alice.batch_execute("INSERT INTO docs (body) VALUES ('old'), ('gone')").await.unwrap();
    upstream.wait_for_chats(2).await;
    is_slow.store(false, Ordering::SeqCst);
    // Both are on their way.
    alice.batch_execute("UPDATE docs SET body = 'x' WHERE body = 'old'").await.unwrap();
    alice.batch_execute("UPDATE docs SET body = 'new' WHERE body = 'x'").await.unwrap();
    alice.batch_execute("DELETE FROM docs WHERE body = 'gone'").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs", "re: new").await;
    until_done(&root).await;
    assert_eq!(rows(&alice, "SELECT answer FROM docs").await, ["re: new"]);
    let asked: Vec<String> = upstream.chats().iter().map(prompt).collect();
    assert!(asked.contains(&"new".to_owned()) && asked.len() <= 4, "{asked:?}");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_ai_queue").await.unwrap(), "0");
}

#[tokio::test]
async fn changes_of_one_row_before_it_is_taken_are_one_call() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    alice.batch_execute("BEGIN; INSERT INTO docs (body) VALUES ('0')").await.unwrap();
    for i in 1..=20 {
        alice.batch_execute(&format!("UPDATE docs SET body = '{i}'")).await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 0);
    alice.batch_execute("COMMIT").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs", "re: 20").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 1);
    alice
        .batch_execute("BEGIN; INSERT INTO docs (body) VALUES ('undone'); ROLLBACK")
        .await
        .unwrap();
    alice.batch_execute("INSERT INTO docs (body) VALUES ('last')").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs WHERE body = 'last'", "re: last").await;
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_row_that_somebody_holds_is_written_when_it_is_free_and_others_are_not_held_up() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| Answer::held(&held, echoes(seen))).await;
    let (database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    add(&alice, 3).await;
    let other = database.root().await;
    other.batch_execute("BEGIN; SELECT FROM alice.docs WHERE id = 2 FOR UPDATE").await.unwrap();
    upstream.wait_for_chats(3).await;
    gate.open();
    becomes(&alice, "SELECT count(answer) FROM docs WHERE id <> 2", "2").await;
    // Long enough for it to be offered.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(value(&alice, "SELECT answer FROM docs WHERE id = 2").await, None);
    other.batch_execute("COMMIT").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs WHERE id = 2", "re: doc 2").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 3, "it was asked for once");
}

#[tokio::test]
async fn what_a_trigger_changes_in_the_midst_of_a_write_is_computed_anew() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root, alice) = ready(&upstream).await;
    // Each child tells its parent, which is in the same request, and in the same write.
    alice
        .batch_execute(
            "ALTER TABLE docs ADD parent bigint;
             CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 UPDATE alice.docs SET body = body || '+' || NEW.body WHERE id = NEW.parent;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER tell AFTER UPDATE OF vector ON docs FOR EACH ROW EXECUTE FUNCTION tell()",
        )
        .await
        .unwrap();
    define(&alice, "vector", "embed", "body", "{}").await;
    alice
        .batch_execute("INSERT INTO docs (body, parent) VALUES ('a', 2), ('p', NULL), ('b', 2)")
        .await
        .unwrap();
    until_done(&root).await;
    becomes(&alice, "SELECT body FROM docs WHERE id = 2", "p+a+b").await;
    until_done(&root).await;
    let asked: Vec<String> = upstream.chats().iter().flat_map(texts).collect();
    assert_eq!(asked.last().map(String::as_str), Some("p+a+b"), "{asked:?}");
    let missing = "SELECT count(*) FROM docs WHERE vector IS NULL";
    assert_eq!(value(&alice, missing).await.unwrap(), "0");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_ai_queue").await.unwrap(), "0");
}

#[tokio::test]
async fn what_a_trigger_makes_of_the_write_itself_is_not_computed_for_ever() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 NEW.body := NEW.body || '.';
                 RETURN NEW;
             END $$;
             CREATE TRIGGER mark BEFORE UPDATE OF answer ON docs FOR EACH ROW EXECUTE FUNCTION mark()",
        )
        .await
        .unwrap();
    define(&alice, "answer", "chat", "body", "{}").await;
    alice.batch_execute("INSERT INTO docs (body) VALUES ('x')").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs", "re: x").await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_ai_queue").await.unwrap(), "0");
    // Another's change is one.
    alice.batch_execute("UPDATE docs SET body = 'y'").await.unwrap();
    becomes(&alice, "SELECT answer FROM docs", "re: y").await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_ai_queue").await.unwrap(), "0");
    assert_eq!(value(&alice, "SELECT body FROM docs").await.unwrap(), "y.");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_row_of_a_table_that_inherits_is_left_alone() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE TABLE heirs () INHERITS (docs);
             INSERT INTO heirs (id, body, answer) VALUES (1, 'other', 'own')",
        )
        .await
        .unwrap();
    define(&alice, "answer", "chat", "body", "{}").await;
    add(&alice, 2).await;
    until_done(&root).await;
    assert_eq!(
        rows(&alice, "SELECT tableoid::regclass, id, answer FROM docs ORDER BY answer").await,
        ["heirs|1|own", "docs|1|re: doc 1", "docs|2|re: doc 2"]
    );
}
