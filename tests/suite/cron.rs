//! Schedules of pg_cron: made, run for real, ended; and a clear word where they cannot be.

use crate::bed::{Cluster, PATIENCE, failure, rows, shared, value};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};

const MODELS: &str = r#"{"data":[{"id":"m","name":"M","context_length":1000,
    "pricing":{"prompt":"0.000001","completion":"0.000002"}}]}"#;

#[tokio::test]
async fn a_schedule_really_runs_and_syncs() {
    let upstream = Upstream::raw(|_| Answer::json(200, MODELS)).await;
    let cluster = Cluster::start(
        "schedule",
        "fsync = off\nshared_preload_libraries = 'pg_cron,aggregator'\ncron.use_background_workers = on",
    );
    cluster.supabase_roles().await;
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute(&format!(
        "CREATE EXTENSION pg_cron; CREATE EXTENSION aggregator;
         DELETE FROM api_providers WHERE name <> 'openrouter';
         UPDATE api_providers SET base_url = '{}', models_url = NULL, key_check_url = NULL;
         SELECT aggregator_grant('bob', 'admin'), aggregator_grant('alice', 'user'),
             aggregator_grant('service_role', 'admin')",
        upstream.base_url()
    ))
    .await
    .unwrap();
    value(&root, "SELECT save_provider_key('openrouter', 'sk-good', p_validate => false)").await;
    let before = upstream.seen().len();

    // Every minute, which is the least that pg_cron knows.
    let id = value(&root, "SELECT schedule_model_sync('* * * * *')").await.unwrap();
    let night = value(&root, "SELECT schedule_usage_maintenance()").await.unwrap();
    assert_eq!(
        rows(
            &root,
            "SELECT jobname, schedule, command, database, username FROM cron.job ORDER BY jobid"
        )
        .await,
        [
            "aggregator: sync models|* * * * *|SELECT * FROM public.sync_models(NULL::text)|postgres|postgres",
            "aggregator: maintain usage|5 0 * * *|SELECT * FROM public.maintain_usage()|postgres|postgres",
        ]
    );

    // Who may not, is told why.
    let alice = cluster.connect("alice", "postgres").await;
    assert_eq!(failure(&alice, "SELECT schedule_model_sync()").await.0, "42501");
    let bob = cluster.connect("bob", "postgres").await;
    let (code, message) = failure(&bob, "SELECT schedule_model_sync()").await;
    assert_eq!(code, "PT403", "{message}");
    assert!(message.contains("GRANT USAGE ON SCHEMA cron TO bob"), "{message}");
    root.batch_execute("GRANT USAGE ON SCHEMA cron TO bob, service_role").await.unwrap();
    bob.batch_execute("SELECT schedule_model_sync('30 4 * * 1')").await.unwrap();
    assert_eq!(value(&bob, "SELECT count(*) FROM cron.job").await.unwrap(), "1");
    assert_eq!(value(&bob, "SELECT unschedule_model_sync()").await.unwrap(), "t");
    assert_eq!(value(&bob, "SELECT unschedule_model_sync()").await.unwrap(), "f");
    root.batch_execute("SET ROLE service_role").await.unwrap();
    let (code, message) = failure(&root, "SELECT schedule_model_sync()").await;
    assert_eq!(code, "PT403");
    assert!(message.contains("cannot log in"), "{message}");
    root.batch_execute("RESET ROLE").await.unwrap();

    // A schedule that is none leaves the one that is.
    for (sql, reason) in [
        ("SELECT schedule_model_sync('now and then')", "pg_cron refuses"),
        ("SELECT schedule_model_sync('')", "must not be empty"),
        ("SELECT schedule_model_sync(NULL)", "must not be empty"),
    ] {
        let (code, message) = failure(&root, sql).await;
        assert_eq!(code, "PT400", "{sql}");
        assert!(message.contains(reason) && message.contains("minute"), "{message}");
    }
    assert_eq!(
        rows(&root, "SELECT jobid FROM cron.job ORDER BY jobid").await,
        [id.clone(), night.clone()]
    );

    // It runs, in a background worker, without a session of ours.
    let ended = format!(
        "SELECT DISTINCT status, return_message FROM cron.job_run_details
         WHERE jobid = {id} AND status IN ('succeeded', 'failed')"
    );
    let began = Instant::now();
    let mut ran = rows(&root, &ended).await;
    while ran.is_empty() && began.elapsed() < 5 * PATIENCE {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ran = rows(&root, &ended).await;
    }
    assert_eq!(ran, ["succeeded|SELECT 1"], "{}", cluster.log());
    assert!(upstream.seen().len() > before);
    assert_eq!(rows(&root, "SELECT model_id FROM aggregator_models").await, ["m"]);

    // Changed, not doubled; then ended.
    value(&root, "SELECT schedule_model_sync()").await.unwrap();
    assert_eq!(
        rows(&root, "SELECT schedule FROM cron.job WHERE jobname LIKE '%sync%'").await,
        ["0 * * * *"]
    );
    assert_eq!(
        rows(&root, "SELECT unschedule_model_sync(), unschedule_usage_maintenance()").await,
        ["t|t"]
    );
    assert_eq!(value(&root, "SELECT count(*) FROM cron.job").await.unwrap(), "0");

    // pg_cron lives in one database; in another the hint has the statement to run there.
    let other = cluster.database().await;
    let elsewhere = other.root().await;
    let (code, message) = failure(&elsewhere, "SELECT schedule_model_sync()").await;
    assert_eq!(code, "PT503");
    let statement = message.split_once("there: ").expect("it names a statement").1;
    root.batch_execute(statement).await.unwrap();
    elsewhere.batch_execute("SELECT aggregator_grant('bob', 'admin')").await.unwrap();
    let bob = other.user("bob").await;
    assert_eq!(failure(&bob, "SELECT schedule_model_sync()").await.0, "PT503");
    assert_eq!(
        rows(&root, "SELECT command, database FROM cron.job").await,
        [format!("SELECT * FROM public.sync_models(NULL::text)|{}", other.name)]
    );
    let (code, message) = failure(&elsewhere, "SELECT unschedule_model_sync()").await;
    assert_eq!(code, "PT503");
    root.batch_execute(message.split_once("there: ").expect("it names a statement").1)
        .await
        .unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM cron.job").await.unwrap(), "0");
}

#[tokio::test]
async fn without_pg_cron_it_says_what_to_do() {
    let database = shared().await.database().await;
    let root = database.root().await;
    for sql in [
        "SELECT schedule_model_sync()",
        "SELECT unschedule_model_sync()",
        "SELECT schedule_usage_maintenance()",
        "SELECT unschedule_usage_maintenance()",
    ] {
        let (code, message) = failure(&root, sql).await;
        assert_eq!(code, "PT503", "{sql}: {message}");
        assert!(
            message.contains("shared_preload_libraries")
                && message.contains("CREATE EXTENSION pg_cron"),
            "{message}"
        );
    }
}
