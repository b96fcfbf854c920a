//! What is no row's own fault makes the column wait, and it goes on by itself.

use super::{RIGHT, add, becomes, define, echoes, owner, ready, until_done};
use crate::bed::{rows, value};
use crate::fixtures::{chat_sql, save_key};
use crate::upstream::{Answer, Upstream};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WAITS: &str =
    "SELECT wait_until > now() AND last_error ->> 'sqlstate' = '{}' FROM aggregator_ai_columns";

fn waits_for(sqlstate: &str) -> String {
    WAITS.replace("{}", sqlstate)
}

#[tokio::test]
async fn at_a_budget_it_waits_until_that_is_lifted() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    let limit = "SELECT set_budget(p_limit_requests => 3, p_period => 'day', p_user_id => 'role:alice', p_keys => 'all')";
    value(&root, limit).await.unwrap();
    define(&alice, "answer", "chat", "body", "{}").await;
    add(&alice, 8).await;
    becomes(&root, &waits_for("PT402"), "t").await;
    // That it waits is noted first.
    becomes(&alice, RIGHT, "3").await;
    assert_eq!(upstream.chat_count(), 3);
    // Nothing of it counts as a try.
    let queued = "SELECT concat_ws('|', count(*), max(attempts)) FROM aggregator_ai_queue WHERE status = 'queued'";
    becomes(&root, queued, "5|0").await;
    value(&root, "SELECT remove_budget(id) FROM aggregator_budgets").await;
    becomes(&alice, RIGHT, "8").await;
    until_done(&root).await;
    assert_eq!(upstream.chat_count(), 8);
    becomes(&root, "SELECT wait_until IS NULL FROM aggregator_ai_columns", "t").await;
}

#[tokio::test]
async fn a_wrong_key_is_waited_for_until_it_is_mended() {
    let upstream =
        Upstream::start(|seen| match seen.header("authorization").unwrap().contains("good") {
            true => echoes(seen),
            false => Answer::json(
                401,
                r#"{"error": {"message": "invalid api key", "code": "invalid_api_key"}}"#,
            ),
        })
        .await;
    let (_database, root, alice) = ready(&upstream).await;
    save_key(&alice, "standin", "sk-bad-0123456789abcdef").await;
    define(&alice, "answer", "chat", "body", "{}").await;
    add(&alice, 5).await;
    becomes(&root, &waits_for("PT401"), "t").await;
    save_key(&alice, "standin", "sk-good-0123456789abcdef").await;
    becomes(&alice, RIGHT, "5").await;
    until_done(&root).await;
}

#[tokio::test]
async fn a_column_that_somebody_holds_waits_all_the_same() {
    let upstream =
        Upstream::start(|_| Answer::json(404, r#"{"error": {"message": "no such model"}}"#)).await;
    let (database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", r#"{"max_retries": 0}"#).await;
    becomes(&root, "SELECT backfill_status FROM aggregator_ai_columns", "done").await;
    let other = database.user("alice").await;
    other.batch_execute("BEGIN; SELECT ai_column_pause('alice.docs', 'answer')").await.unwrap();
    let began = Instant::now();
    add(&alice, 1).await;
    upstream.wait_for_chats(3).await;
    assert!(began.elapsed() > Duration::from_millis(2900), "{:?}", began.elapsed());
    let noted = "SELECT wait_until, last_error FROM aggregator_ai_columns";
    assert_eq!(rows(&root, noted).await, ["∅|∅"]);
    other.batch_execute("ROLLBACK").await.unwrap();
    becomes(&root, &waits_for("PT404"), "t").await;
}

#[tokio::test]
async fn of_whoever_has_many_columns_a_look_gives_a_few() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, _alice) = ready(&upstream).await;
    // Seen by nobody else.
    root.batch_execute(
        "BEGIN;
         INSERT INTO aggregator_ai_columns (id, user_id, definer, kind, model, request, batch_size)
         SELECT md5(u || i)::uuid, u, 'nobody', 'chat', 'm', '{}', 1
         FROM (VALUES ('many', 200), ('few', 2), ('one', 1)) AS v (u, n) CROSS JOIN generate_series(1, n) AS i",
    )
    .await
    .unwrap();
    let due = include_str!("../../../sql/statements/ai_due.sql").replace("@extschema@.", "");
    let mut turn = "00000000-0000-0000-0000-000000000000".to_owned();
    let mut seen = HashSet::new();
    // However the turns fall, those of others are in each look, and the many come in turn.
    for _ in 0..60 {
        let due = due.replace("$1", "'{}'::uuid[]").replace("$2", &format!("'{turn}'::uuid"));
        let found = rows(&root, &due).await;
        let of = |user: &str| found.iter().filter(|row| row.ends_with(user)).count();
        assert_eq!((of("|many"), of("|few"), of("|one")), (4, 2, 1), "{found:?}");
        let last = found.last().unwrap().split('|').next().unwrap();
        turn = last.to_owned();
        seen.extend(found);
    }
    assert!(seen.len() > 7, "{seen:?}");
    root.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_provider_that_is_down_fails_no_row() {
    let is_up = Arc::new(AtomicBool::new(false));
    let told = is_up.clone();
    let upstream = Upstream::start(move |seen| match told.load(Ordering::SeqCst) {
        true => echoes(seen),
        false => Answer::json(503, "{}"),
    })
    .await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", r#"{"max_retries": 0}"#).await;
    add(&alice, 5).await;
    becomes(&root, &waits_for("PT502"), "t").await;
    is_up.store(true, Ordering::SeqCst);
    becomes(&alice, RIGHT, "5").await;
    until_done(&root).await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_ai_queue").await.unwrap(), "0");
}

#[tokio::test]
async fn a_trigger_that_sleeps_holds_up_neither_the_ledger_nor_another_tenant() {
    let upstream = Upstream::start(echoes).await;
    let (database, root, alice) = ready(&upstream).await;
    root.batch_execute(
        "SELECT aggregator_grant('bob', 'user'); CREATE SCHEMA bob AUTHORIZATION bob",
    )
    .await
    .unwrap();
    let bob = owner(&database, "bob").await;
    // It does not end by a cancel either.
    alice
        .batch_execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 LOOP
                     BEGIN
                         PERFORM pg_catalog.pg_sleep(1000);
                     EXCEPTION WHEN query_canceled THEN
                         NULL;
                     END;
                 END LOOP;
             END $$;
             CREATE TRIGGER dawdle BEFORE UPDATE OF answer ON docs FOR EACH ROW EXECUTE FUNCTION dawdle()",
        )
        .await
        .unwrap();
    define(&alice, "answer", "chat", "body", "{}").await;
    define(&bob, "answer", "chat", "body", "{}").await;
    add(&alice, 4).await;
    const SLEEPING: &str = "FROM pg_stat_activity WHERE backend_type = 'aggregator clerk'
        AND datname = current_database() AND wait_event = 'PgSleep'";
    // It is ended after a while, for which a machine may stand still, and sleeps again.
    let sleeper = format!("SELECT pid {SLEEPING}");
    let mut tries = 0;
    let mut is_free = false;
    while !is_free {
        tries += 1;
        assert!(tries <= 3, "bob waits for whom sleeps");
        becomes(&root, &format!("SELECT count(*) {SLEEPING}"), "1").await;
        let before = value(&root, &sleeper).await;
        add(&bob, 20).await;
        becomes(&bob, RIGHT, &(20 * tries).to_string()).await;
        value(&bob, &chat_sql("{}")).await.unwrap();
        is_free = before.is_some() && before == value(&root, &sleeper).await;
    }
    // In the end it is ended, and its column waits.
    let waits = "SELECT count(*) FROM aggregator_ai_columns WHERE definer = 'alice' AND last_error ->> 'sqlstate' = '57014'";
    becomes(&root, waits, "1").await;
    let left = "SELECT count(*) FROM aggregator_ai_queue AS q JOIN aggregator_ai_columns AS c ON c.id = q.column_id
        WHERE c.definer = 'alice'";
    assert_eq!(value(&root, left).await.unwrap(), "4");
}
