//! Where and how often the worker writes a row of the ledger.

use crate::bed::{Cluster, eventually, eventually_within, failure, rows, value};
use crate::chat::{chat_sql, prepare, ready};
use crate::upstream::{Answer, Upstream, in_turn};
use std::time::Duration;

const PENDING: &str = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
const LEDGER: &str = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1";
const SUMS: &str = "SELECT sum(requests) FROM aggregator_usage_hourly";

#[tokio::test]
async fn without_ledger_sync_what_settles_at_once_is_written_once() {
    let cluster = Cluster::start("writtenonce", "aggregator.ledger_sync = off");
    let slow = Answer::late(400, Answer::hello());
    let mut answers = vec![Answer::hello(); 20];
    answers.push(slow);
    let upstream = Upstream::start(in_turn(answers)).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    for _ in 0..20 {
        value(&root, &chat_sql("{}")).await.unwrap();
    }
    assert_eq!(rows(&root, LEDGER).await, ["success|20"]);
    assert_eq!(value(&root, SUMS).await.unwrap(), "20");
    // On a machine that is busy one or the other takes longer than at once.
    let writes = "SELECT sum(n_tup_ins) >= 20, sum(n_tup_upd) <= 6 FROM pg_stat_all_tables
                  WHERE relname LIKE 'aggregator_usage_logs%'";
    eventually(&root, &format!("SELECT concat(x) FROM ({writes}) AS x"), "(t,t)").await;
    // Nobody has to wait for an answer to see that it is on its way.
    let other = database.root().await;
    let sql = chat_sql("{}");
    let (answered, ()) = tokio::join!(value(&root, &sql), eventually(&other, PENDING, "1"));
    assert!(answered.is_some());
    assert_eq!(rows(&root, LEDGER).await, ["success|21"]);
    assert_eq!(value(&root, SUMS).await.unwrap(), "21");
}

#[tokio::test]
async fn a_row_that_has_moved_while_it_was_pending_settles_where_it_is() {
    let upstream = Upstream::start(|_| Answer::late(1500, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let sql = chat_sql("{}");
    let (answered, ()) = tokio::join!(value(&root, &sql), async {
        eventually(&other, PENDING, "1").await;
        assert_eq!(value(&other, "SELECT created FROM maintain_usage()").await.unwrap(), "3");
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
    value(&root, &chat_sql("{}")).await.unwrap();
    eventually_within(
        Duration::from_secs(30),
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
    let (locker, one, other) =
        (database.root().await, database.root().await, database.root().await);
    let canceller = database.canceller(&other).await;
    let sql = chat_sql("{}");
    let held = async {
        locker
            .batch_execute("BEGIN; LOCK TABLE aggregator_usage_logs IN EXCLUSIVE MODE")
            .await
            .unwrap();
        // The worker waits for the lock when the second begins, and still when its caller has gone.
        let first = tokio::spawn(async move { value(&one, &chat_sql("{}")).await });
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'aggregator_usage_logs'::regclass";
        eventually(&locker, waits, "1").await;
        let (second, ()) = tokio::join!(failure(&other, &sql), async {
            eventually(&locker, "SELECT in_flight FROM aggregator_status()", "2").await;
            canceller.cancel().await;
        });
        locker.batch_execute("COMMIT").await.unwrap();
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
    eventually_within(Duration::from_secs(20), &root, workers, "0").await;
}
