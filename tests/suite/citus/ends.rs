//! What becomes of months that are with Citus: they end, get columns, and go there one at a time.

use super::{BOTH, LEDGER, MOVED, Nodes, OVER, SUMS};
use crate::bed::{eventually, eventually_within, failure, rows, shown, value};
use crate::fixtures::chat_sql;
use crate::upgrade::{CURRENT, Script};
use crate::upstream::{Answer, Upstream};
use std::time::Duration;
use tokio_postgres::Client;

/// Has the coordinator keep usage back to a moment, and waits until it knows.
async fn keep_since(nodes: &Nodes, root: &Client, cutoff: &str) {
    let seconds =
        format!("SELECT extract(epoch FROM now() - '{cutoff}'::timestamptz)::integer - 1");
    let seconds = value(root, &seconds).await.unwrap();
    nodes.coordinator.configure(&format!("aggregator.usage_retention = '{seconds}s'"));
    nodes.coordinator.reload();
    let set = "SELECT setting FROM pg_settings WHERE name = 'aggregator.usage_retention'";
    eventually(root, set, &seconds).await;
}

#[tokio::test]
async fn old_usage_ends_there_too() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("end", &upstream).await;
    root.batch_execute("SET timezone = 'UTC'").await.unwrap();
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    // Whole months, and of the one that is not over by then, whole hours.
    let cutoff = format!("SELECT {OVER} - interval '24 days'");
    let cutoff = value(&root, &cutoff).await.unwrap();
    let left = format!("SELECT count(*) FROM aggregator_usage_logs WHERE created_at >= '{cutoff}'");
    let left = value(&root, &left).await.unwrap();
    keep_since(&nodes, &root, &cutoff).await;
    // The worker leaves them alone: who calls would wait for Citus.
    assert_eq!(rows(&root, "SELECT dropped, deleted FROM maintain_usage()").await, ["0|0"]);
    // A column that the ledger has since, those months get first, with what it is to hold there.
    root.batch_execute(
        "ALTER TABLE aggregator_usage_logs ADD COLUMN extra text NOT NULL DEFAULT 'it''s none'",
    )
    .await
    .unwrap();
    let ended = "SELECT DISTINCT action, moved_rows > 0 FROM aggregator_distribute() ORDER BY 1";
    assert_eq!(rows(&root, ended).await, ["deleted|t", "dropped|∅", "has the column extra now|∅"]);
    let extra = "SELECT DISTINCT extra FROM aggregator_usage_logs";
    assert_eq!(rows(&root, extra).await, ["it's none"]);
    let columns = "SELECT DISTINCT a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
        FROM aggregator_archives() AS month
        JOIN pg_attribute AS a ON a.attrelid = month.archive
        JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attname = 'extra'";
    assert_eq!(rows(&root, columns).await, ["t|'it''s none'::text"]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), left);
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));
    assert_eq!(rows(&root, MOVED).await, Vec::<String>::new());
    // Without the workers old months stay as they are, and the rest goes on.
    for worker in &nodes.workers {
        worker.down("immediate");
    }
    assert_eq!(rows(&root, "SELECT dropped, deleted FROM maintain_usage()").await, ["0|0"]);
    value(&root, &chat_sql("{}")).await.unwrap();
    let recent =
        "SELECT count(*) FROM aggregator_usage_logs WHERE created_at > now() - interval '1 hour'";
    assert_eq!(value(&root, recent).await.unwrap(), "1");
}

/// The way to an older version, which has one column more than the ledger of today, and the way on from there.
#[tokio::test]
async fn an_upgrade_that_adds_a_column_leaves_every_month_readable() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("column", &upstream).await;
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    let _there = Script::install(
        &format!("{CURRENT}--0.2.9citus"),
        "ALTER TABLE @extschema@.aggregator_usage_logs ADD COLUMN extra integer NOT NULL DEFAULT 7;
         SELECT @extschema@.aggregator_finish_script();",
    );
    let _back = Script::install(
        &format!("0.2.9citus--{CURRENT}"),
        "SELECT @extschema@.aggregator_finish_script();",
    );
    // Both in one transaction, or none.
    nodes.workers[1].down("immediate");
    failure(&root, "ALTER EXTENSION aggregator UPDATE TO '0.2.9citus'").await;
    nodes.workers[1].up();
    let root = nodes.coordinator.again(&nodes.database).await;
    let reads = "SELECT count(*), count(DISTINCT user_id) FROM aggregator_usage_logs";
    assert_eq!(rows(&root, reads).await, ["3000|3"]);
    for version in ["0.2.9citus", CURRENT] {
        root.batch_execute(&format!("ALTER EXTENSION aggregator UPDATE TO '{version}'"))
            .await
            .unwrap_or_else(|error| panic!("{version}: {}", shown(&error)));
        assert_eq!(
            rows(&root, "SELECT count(*), min(extra), max(extra) FROM aggregator_usage_logs").await,
            ["3000|7|7"]
        );
        for worker in &nodes.workers {
            let client = worker.connect("postgres", &nodes.database).await;
            let there = "SELECT extversion FROM pg_extension WHERE extname = 'aggregator'";
            assert_eq!(value(&client, there).await.unwrap(), version);
        }
    }
    // Nothing is left to do, and everything works as before.
    assert_eq!(rows(&root, MOVED).await, Vec::<String>::new());
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT forget_user('u-b')").await.unwrap(), "1000");
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));
    let back = "SELECT sum(moved_rows) FROM aggregator_undistribute()";
    assert_eq!(rows(&root, back).await, ["3000"]);
    assert_eq!(
        rows(&root, "SELECT count(*), sum(extra) FROM aggregator_usage_logs").await,
        ["3001|21007"]
    );
}

/// One transaction for each month; and the statement of SCALING.md, run by pg_cron.
#[tokio::test]
async fn by_a_schedule_months_go_there_one_at_a_time_and_end() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("schedule", &upstream).await;
    root.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let before = (rows(&root, LEDGER).await, rows(&root, SUMS).await);
    let months = format!(
        "SELECT DISTINCT date_trunc('month', created_at) FROM aggregator_usage_logs WHERE created_at < {OVER} ORDER BY 1"
    );
    let months = rows(&root, &months).await;
    assert!(months.len() >= 2, "{months:?}");
    let (code, message) = failure(&root, "SELECT * FROM aggregator_distribute(-1)").await;
    assert_eq!(code, "PT400", "{message}");
    assert_eq!(rows(&root, "SELECT * FROM aggregator_distribute(0)").await, Vec::<String>::new());
    let one = "SELECT count(*), count(DISTINCT action), max(action) FROM aggregator_distribute(1)";
    assert_eq!(rows(&root, one).await, ["1|1|distributed"]);
    let with_citus = "SELECT since FROM aggregator_archives()";
    assert_eq!(rows(&root, with_citus).await, months[..1]);
    assert_eq!((rows(&root, LEDGER).await, rows(&root, SUMS).await), before);

    drop(root);
    nodes.coordinator.down("fast");
    nodes.coordinator.configure(&format!(
        "shared_preload_libraries = 'citus,pg_cron,aggregator'\ncron.use_background_workers = on\n\
         cron.database_name = '{}'",
        nodes.database
    ));
    nodes.coordinator.up();
    let root = nodes.root().await;
    root.batch_execute("SET timezone = 'UTC'").await.unwrap();
    keep_since(&nodes, &root, &months[1]).await;
    root.batch_execute(
        "SET citus.enable_ddl_propagation = off; CREATE EXTENSION pg_cron; RESET citus.enable_ddl_propagation;
         SELECT cron.schedule('aggregator: distribute', '* * * * *', 'SELECT * FROM aggregator_distribute(1)')",
    )
    .await
    .unwrap_or_else(|error| panic!("{}", shown(&error)));
    // The first month is too old by now, and the second is over; the least that pg_cron knows is a minute.
    let state = format!("SELECT string_agg(since::text, ' ') FROM ({with_citus}) AS month");
    eventually_within(Duration::from_secs(150), &root, &state, &months[1]).await;
    assert_eq!(
        value(&root, "SELECT min(created_at) >= (SELECT min(since) FROM aggregator_archives()) FROM aggregator_usage_logs").await.unwrap(),
        "t"
    );
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));
    let failed = "SELECT return_message FROM cron.job_run_details WHERE status = 'failed'";
    assert_eq!(rows(&root, failed).await, Vec::<String>::new());
}
