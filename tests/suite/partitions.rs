//! The ledger by months.

use crate::bed::{self, Cluster, PATIENCE, eventually, failure, nodes, rows, value};
use crate::fixtures::{chat_sql, prepare, ready};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};

const PARTITIONS: &str = "SELECT count(*) FROM aggregator_partitions()";

/// The month, so many months from now, as it is in a partition's name.
fn month(from_now: i32) -> String {
    format!("to_char(now() AT TIME ZONE 'UTC' + interval '{from_now} months', 'YYYY_MM')")
}

#[tokio::test]
async fn the_worker_makes_partitions_ahead_and_the_ledger_goes_on_in_them() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    nodes::bring_back(&root).await;
    // What a database may do to new tables.
    root.batch_execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, authenticated")
        .await
        .unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    // An idle worker leaves, and makes them before it does.
    eventually(&root, PARTITIONS, "3").await;
    assert_eq!(
        rows(&root, &format!("SELECT c.relname IN ('aggregator_usage_logs_' || {}, 'aggregator_usage_logs_' || {}, 'aggregator_usage_logs_' || {}),
                c.relrowsecurity, c.relacl IS NULL OR NOT EXISTS (SELECT FROM aclexplode(c.relacl) AS a WHERE a.grantee <> c.relowner),
                c.reloptions, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) = (SELECT count(*) FROM pg_index WHERE indrelid = 'aggregator_usage_logs_default'::regclass)
             FROM aggregator_partitions() JOIN pg_class AS c ON c.oid = partition", month(0), month(1), month(2))).await,
        ["t|t|t|{fillfactor=95,autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=10000}|t"; 3]
    );
    // The row that was there has moved, and the sums have not.
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs_default").await, ["0"]);
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(
        rows(&root, "SELECT count(DISTINCT tableoid), count(*), (SELECT requests FROM usage_summary('day')) FROM aggregator_usage_logs WHERE status = 'success'").await,
        ["1|2|2"]
    );
    let a = database.rest("authenticated", Some("u-a")).await;
    let name = value(&root, "SELECT partition FROM aggregator_partitions() LIMIT 1").await.unwrap();
    assert_eq!(failure(&a, &format!("SELECT * FROM {name}")).await.0, "42501");
    assert_eq!(failure(&a, "SELECT * FROM maintain_usage()").await.0, "42501");
    root.batch_execute("GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO authenticated")
        .await
        .unwrap();
    assert_eq!(failure(&a, "SELECT * FROM maintain_usage()").await.0, "PT403");
    assert_eq!(rows(&root, "SELECT * FROM maintain_usage()").await, ["0|0|0"]);
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(
        rows(&root, "SELECT count(*) FROM pg_class WHERE relname LIKE 'aggregator%'").await,
        ["0"]
    );
}

/// An index on a column that settling writes, or a page without room, would write each row's index entries twice.
#[tokio::test]
async fn rows_are_settled_in_the_page_where_they_were_pending() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let call = chat_sql("{}").replacen("SELECT ", "", 1);
    let calls = format!("SELECT count({call}) FROM generate_series(1, 200)");
    assert_eq!(value(&root, &calls).await.unwrap(), "200");
    eventually(
        &root,
        "SELECT sum(n_tup_upd) >= 200 AND sum(n_tup_hot_upd) > 0.8 * sum(n_tup_upd) FROM pg_stat_user_tables
         WHERE relname LIKE 'aggregator_usage_logs_%'",
        "t",
    )
    .await;
}

#[tokio::test]
async fn readers_miss_no_row_while_a_partition_is_made() {
    let database = bed::database().await;
    let root = database.root().await;
    nodes::bring_back(&root).await;
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status)
         SELECT gen_random_uuid(), 1, now(), 1, id, 'u', 'm', 'success' FROM api_providers, generate_series(1, 15000) WHERE name = 'openai'",
    )
    .await
    .unwrap();
    let mut readers = vec![];
    for _ in 0..8 {
        let reader = database.root().await;
        readers.push(tokio::spawn(async move {
            let mut seen = vec![];
            for _ in 0..1000 {
                seen.push(
                    value(&reader, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(),
                );
                if value(&reader, PARTITIONS).await.as_deref() == Some("1") {
                    break;
                }
            }
            seen
        }));
    }
    // Readers in its way make it try again, as the worker does.
    let given_up = Instant::now() + 2 * PATIENCE;
    while value(&root, "SELECT aggregator_make_partition(now())").await.as_deref() != Some("t") {
        assert!(Instant::now() < given_up, "no partition is made");
    }
    assert_eq!(value(&root, PARTITIONS).await.unwrap(), "1");
    for reader in readers {
        let seen = reader.await.unwrap();
        assert!(!seen.is_empty() && seen.iter().all(|count| count == "15000"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_month_with_many_rows_and_a_ledger_in_use_are_left_alone() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status)
         SELECT gen_random_uuid(), 1, date_trunc('month', now(), 'UTC'), 1, gen_random_uuid(), 'u', 'm', 'success' FROM generate_series(1, 20001)",
    )
    .await
    .unwrap();
    let user = database.root().await;
    user.batch_execute("BEGIN; LOCK TABLE aggregator_usage_logs_default IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let began = Instant::now();
    assert_eq!(rows(&root, "SELECT * FROM maintain_usage()").await, ["0|0|0"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rows(&root, "SELECT * FROM maintain_usage()").await, ["2|0|0"]);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs_default").await, ["20001"]);
}

#[tokio::test]
async fn what_is_too_old_goes_with_its_sums() {
    let cluster = Cluster::start("usageold", "aggregator.usage_retention = '60d'");
    let database = cluster.database().await;
    let root = database.root().await;
    nodes::bring_back(&root).await;
    const ROWS: &str = "SELECT gen_random_uuid(), 1, now() - n * interval '1 day', 1, gen_random_uuid(), 'u', 'm', 'success', 5 FROM generate_series(0, 199) AS n";
    root.batch_execute(&format!(
        "SELECT aggregator_make_partition(now() - n * interval '30 days') FROM generate_series(2, 4) AS n;
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, total_tokens) {ROWS}"
    ))
    .await
    .unwrap();
    assert_eq!(
        rows(&root, "SELECT sum(total_tokens) FROM aggregator_usage_hourly").await,
        ["1000"]
    );
    let done = rows(&root, "SELECT created, dropped > 0, deleted > 0 FROM maintain_usage()").await;
    assert_eq!(done, ["3|t|t"]);
    let left = rows(&root, "SELECT count(*) BETWEEN 60 AND 62, min(created_at) > now() - interval '61 days' FROM aggregator_usage_logs").await;
    assert_eq!(left, ["t|t"]);
    assert_eq!(
        rows(&root, "SELECT (SELECT count(*) FROM aggregator_usage_logs) = (SELECT sum(requests) FROM aggregator_usage_hourly),
            (SELECT count(*) FROM aggregator_usage_logs) = (SELECT sum(requests) FROM aggregator_usage_totals WHERE grain = 'day'),
            (SELECT count(*) FROM aggregator_usage_logs) = (SELECT sum(requests) FROM aggregator_usage_totals WHERE grain = 'hour')").await,
        ["t|t|t"]
    );
    assert_eq!(rows(&root, "SELECT * FROM maintain_usage()").await, ["0|0|0"]);
    // The default is to keep.
    let keeping = bed::database().await;
    let root = keeping.root().await;
    nodes::bring_back(&root).await;
    root.batch_execute(&format!("INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, total_tokens) {ROWS}")).await.unwrap();
    value(&root, "SELECT maintain_usage()").await;
    assert_eq!(rows(&root, "SELECT name, boot_val, unit, context FROM pg_settings WHERE name = 'aggregator.usage_retention'").await, ["aggregator.usage_retention|0|s|sighup"]);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs").await, ["200"]);
}

#[tokio::test]
async fn partitions_survive_dump_and_restore() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let old = Cluster::start("partold", "");
    old.supabase_roles().await;
    let database = old.database().await;
    let root = prepare(&database, &upstream).await;
    nodes::bring_back(&root).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    value(&root, "SELECT maintain_usage()").await;
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, PARTITIONS).await.unwrap(), "3");
    const ALL: [&str; 4] = [
        "SELECT * FROM aggregator_partitions()",
        "SELECT tableoid::regclass, * FROM aggregator_usage_logs ORDER BY created_at",
        "SELECT * FROM aggregator_usage_hourly",
        "SELECT relname, relrowsecurity, reloptions FROM pg_class WHERE relname LIKE 'aggregator_usage_logs_2%' AND relkind = 'r' ORDER BY 1",
    ];
    let mut before = vec![];
    for sql in ALL {
        before.push(rows(&root, sql).await);
    }
    // The new server's worker starts with it, and is there during the restore.
    let new = Cluster::start(
        "partnew",
        &format!(
            "shared_preload_libraries = 'aggregator'\naggregator.databases = '{}'",
            database.name
        ),
    );
    new.supabase_roles().await;
    new.connect("postgres", "postgres")
        .await
        .batch_execute(&format!("CREATE DATABASE {}", database.name))
        .await
        .unwrap();
    crate::fixtures::dump_and_restore(&old, &new, &database.name);
    let restored = new.connect("postgres", &database.name).await;
    for (sql, before) in ALL.iter().zip(&before) {
        assert_eq!(&rows(&restored, sql).await, before, "{sql}");
    }
    assert_eq!(rows(&restored, "SELECT * FROM maintain_usage()").await, ["0|0|0"]);
}
