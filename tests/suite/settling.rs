//! Where and how often the worker writes a row of the ledger.

use crate::bed::{Cluster, eventually, failure, json, nodes, rows, value};
use crate::fixtures::{chat_sql, prepare, ready};
use crate::upstream::{Answer, Gate, Upstream};
use std::time::{Duration, Instant};

const PENDING: &str = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
const LEDGER: &str = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1";
const SUMS: &str = "SELECT sum(requests) FROM aggregator_usage_hourly";

#[tokio::test]
async fn without_ledger_sync_what_settles_at_once_is_written_once() {
    let cluster = Cluster::start("writtenonce", "aggregator.ledger_sync = off");
    let gate = Gate::default();
    gate.open();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    const TABLES: &str = "FROM pg_stat_all_tables WHERE relname LIKE 'aggregator_usage_logs%'";
    let mut calls = 0u32;
    // On a machine that is busy many take longer than at once, but not always. Who writes each twice writes all so.
    loop {
        for _ in 0..20 {
            value(&root, &chat_sql("{}")).await.unwrap();
        }
        calls += 20;
        assert_eq!(rows(&root, LEDGER).await, [format!("success|{calls}")]);
        assert_eq!(value(&root, SUMS).await.unwrap(), calls.to_string());
        eventually(&root, &format!("SELECT sum(n_tup_ins) >= {calls} {TABLES}"), "t").await;
        // What is counted of updates comes with what is counted of inserts.
        let updates = value(&root, &format!("SELECT sum(n_tup_upd) {TABLES}")).await.unwrap();
        if updates.parse::<u32>().unwrap() + 14 <= calls {
            break;
        }
        assert!(calls < 400, "{updates} of {calls} rows were written twice");
    }
    // Nobody has to wait for an answer to see that it is on its way.
    gate.shut();
    let other = database.root().await;
    let sql = chat_sql("{}");
    let (answered, ()) = tokio::join!(value(&root, &sql), async {
        eventually(&other, PENDING, "1").await;
        gate.open();
    });
    assert!(answered.is_some());
    assert_eq!(rows(&root, LEDGER).await, [format!("success|{}", calls + 1)]);
    assert_eq!(value(&root, SUMS).await.unwrap(), (calls + 1).to_string());
}

#[tokio::test]
async fn a_row_that_has_moved_while_it_was_pending_settles_where_it_is() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let sql = chat_sql("{}");
    let (answered, ()) = tokio::join!(value(&root, &sql), async {
        eventually(&other, PENDING, "1").await;
        assert_eq!(value(&other, "SELECT created FROM maintain_usage()").await.unwrap(), "3");
        gate.open();
    });
    assert!(answered.is_some());
    assert_eq!(rows(&root, LEDGER).await, ["success|1"]);
    assert_eq!(value(&root, SUMS).await.unwrap(), "1");
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs_default").await, ["0"]);
}

#[tokio::test]
async fn nothing_is_written_into_a_partition_that_was_detached() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    nodes::bring_back(&root).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    eventually(
        &root,
        "SELECT (maintain_usage()).created + (SELECT count(*) FROM aggregator_partitions())",
        "3",
    )
    .await;
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&root, LEDGER).await, ["success|2"]);
    let month = value(
        &root,
        "SELECT min(partition::text) FROM aggregator_partitions() WHERE since <= now()",
    )
    .await
    .unwrap();
    root.batch_execute(&format!("ALTER TABLE aggregator_usage_logs DETACH PARTITION {month}"))
        .await
        .unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&root, LEDGER).await, ["success|1"]);
    assert_eq!(rows(&root, &format!("SELECT count(*) FROM {month}")).await, ["2"]);
    // Nor into one of the same name, which is gone after that.
    root.batch_execute(&format!("DROP TABLE {month}")).await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&root, LEDGER).await, ["success|2"]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_quarantine").await.unwrap(), "0");
}

#[tokio::test]
async fn what_begins_and_settles_in_one_batch_is_over() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    // Locks are waited for so many seconds and no longer; here the worker waits as long as the test needs.
    root.batch_execute(
        "CREATE TABLE held AS SELECT 1;
         GRANT SELECT ON held TO PUBLIC;
         CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             WHILE EXISTS (SELECT FROM public.held) LOOP
                 PERFORM pg_catalog.pg_sleep(0.05);
             END LOOP;
             RETURN NEW;
         END $$;
         CREATE TRIGGER waits BEFORE INSERT ON aggregator_usage_logs FOR EACH ROW EXECUTE FUNCTION waits();
         ALTER TABLE aggregator_usage_logs ENABLE ALWAYS TRIGGER waits",
    )
    .await
    .unwrap();
    let (watch, one, other) = (database.root().await, database.root().await, database.root().await);
    let canceller = database.canceller(&other).await;
    let sql = chat_sql("{}");
    let held = async {
        // The worker waits when the second begins, and still when its caller has gone.
        let first = tokio::spawn(async move { value(&one, &chat_sql("{}")).await });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        eventually(&watch, waits, "1").await;
        let (second, ()) = tokio::join!(failure(&other, &sql), async {
            eventually(&watch, "SELECT in_flight FROM aggregator_status()", "2").await;
            canceller.cancel().await;
        });
        watch.batch_execute("DELETE FROM held").await.unwrap();
        (first.await.unwrap(), second.0)
    };
    let (first, second) = held.await;
    assert!(first.is_some());
    assert_eq!(second, "57014");
    let ledger = "SELECT string_agg(status || ' ' || coalesce(error_code, '-'), ', ' ORDER BY status) FROM aggregator_usage_logs";
    eventually(&root, ledger, "cancelled unreachable, success -, success -").await;
    assert_eq!(upstream.chat_count(), 2);
    // Nothing is open that would keep it.
    let workers = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'aggregator worker' AND datname = current_database()";
    eventually(&root, workers, "0").await;
}

#[tokio::test]
async fn a_row_that_has_changed_hands_while_it_was_pending_settles_as_it_is() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let sql = chat_sql(r#"{"tags": ["first"]}"#);
    let (answered, ()) = tokio::join!(value(&root, &sql), async {
        eventually(&other, PENDING, "1").await;
        other
            .batch_execute(
                "UPDATE aggregator_usage_logs SET user_id = 'somebody', tags = '{second,third}'
                 WHERE status = 'pending' AND created_at >= aggregator_archived_until()",
            )
            .await
            .unwrap();
        gate.open();
    });
    assert!(answered.is_some());
    assert_eq!(rows(&root, LEDGER).await, ["success|1"]);
    let sums = "SELECT user_id, requests FROM aggregator_usage_hourly";
    assert_eq!(rows(&root, sums).await, ["somebody|1"]);
    let labels = "SELECT label, user_id, requests FROM aggregator_usage_labels ORDER BY 1";
    assert_eq!(rows(&root, labels).await, ["second|somebody|1", "third|somebody|1"]);
    crate::reports::assert_equal(&root, "after it has changed hands").await;
}

#[tokio::test]
async fn an_answer_waits_for_its_cost_as_long_as_its_caller_waits() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let cost = json(&root, &chat_sql("{}")).await["aggregator"]["cost"].clone();
    assert!(cost.is_number(), "{cost}");
    // The worker waits here as long as the test needs.
    root.batch_execute(
        "CREATE TABLE held AS SELECT 1;
         GRANT SELECT ON held TO PUBLIC;
         CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             WHILE EXISTS (SELECT FROM public.held) LOOP
                 PERFORM pg_catalog.pg_sleep(0.05);
             END LOOP;
             RETURN NEW;
         END $$;
         CREATE TRIGGER waits BEFORE INSERT OR UPDATE ON aggregator_usage_hourly
         FOR EACH ROW EXECUTE FUNCTION waits();
         ALTER TABLE aggregator_usage_hourly ENABLE ALWAYS TRIGGER waits",
    )
    .await
    .unwrap();
    let watch = database.root().await;
    let sql = chat_sql("{}");
    let (answer, ()) = tokio::join!(json(&root, &sql), async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        eventually(&watch, waits, "1").await;
        // Longer than what has failed would wait.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        watch.batch_execute("DELETE FROM held").await.unwrap();
    });
    assert_eq!(answer["aggregator"]["cost"], cost);
    // A caller who has less time has the answer in time.
    root.batch_execute("INSERT INTO held SELECT 1; SET statement_timeout = '3s'").await.unwrap();
    let answer = json(&root, &sql).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    assert!(answer["aggregator"]["cost"].is_null(), "{answer}");
    root.batch_execute("DELETE FROM held; RESET statement_timeout").await.unwrap();
    eventually(&root, "SELECT sum(requests) FROM aggregator_usage_hourly", "3").await;
}

#[tokio::test]
async fn where_the_ledger_is_locked_answers_come_without_their_cost_and_long_before_the_deadline() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let caller = database.root().await;
        calls.spawn(async move { json(&caller, &chat_sql("{}")).await });
    }
    eventually(&root, PENDING, "12").await;
    let locker = database.root().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE aggregator_usage_hourly IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let began = Instant::now();
    gate.open();
    for answer in calls.join_all().await {
        assert!(answer["aggregator"]["cost"].is_null(), "{answer}");
    }
    // Nobody waits a second for each of the others.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(value(&root, PENDING).await.unwrap(), "12");
    locker.batch_execute("ROLLBACK").await.unwrap();
    let priced = "SELECT count(cost_estimate) FROM aggregator_usage_logs";
    eventually(&root, priced, "12").await;
    crate::reports::assert_equal(&root, "after the lock").await;
}
