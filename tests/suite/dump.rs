//! pg_dump and restore: what is the user's survives.

use crate::bed::{self, Cluster, failure, rows, shared, value};
use crate::fixtures::{add_provider, chat_sql, dump, dump_and_restore, ended, restore, submit};
use crate::upstream::{Answer, Upstream};
use std::path::PathBuf;

#[tokio::test]
async fn user_data_survives_dump_and_restore() {
    everything_moves(Cluster::start("old", ""), Cluster::start("new", "")).await;
}

/// `tools/test.sh` leaves this one out, and says so, where there is no older PostgreSQL.
#[tokio::test]
async fn a_database_moves_from_an_older_postgresql() {
    let older = Cluster::make_of(PathBuf::from(bed::var("AGGREGATOR_OLDER_PG_BIN")), "older", "");
    older.up();
    let newer = Cluster::start("newer", "");
    let major = |version: Option<String>| version.unwrap().parse::<u32>().unwrap() / 10000;
    let [from, to] = [&older, &newer].map(|cluster| cluster.connect("postgres", "postgres"));
    let from = major(value(&from.await, "SHOW server_version_num").await);
    let to = major(value(&to.await, "SHOW server_version_num").await);
    assert!(from < to, "{from} and {to}");
    everything_moves(older, newer).await;
}

async fn everything_moves(old: Cluster, new: Cluster) {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    old.supabase_roles().await;
    let database = old.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    root.batch_execute(
        "UPDATE api_providers SET display_name = 'Edited', is_active = false WHERE name = 'xai';
         DELETE FROM api_providers WHERE name = 'groq';
         INSERT INTO api_providers (name, display_name, provider_type, base_url) VALUES ('groq', 'My own', 'direct', 'https://groq.example/v1');
         SELECT aggregator_grant('alice', 'user'), aggregator_grant('bob', 'admin');
         SELECT set_model_price('m', '{\"input\": 3, \"output\": 10}'), set_model_price('free', '{\"input\": 0}', 'standin');
         SELECT set_budget(50), set_budget(0.0000001, p_period => 'total', p_action => 'warn', p_keys => 'all'), set_rate_limit(1000, p_user_id => 'ann');
         SELECT create_gateway_key('x', '{m}', now() + interval '1 day', 5, 'day', p_tags => '{t}'), set_budget(7, p_tag => 't');
         SELECT save_provider_key('standin', 'sk-good-dumped', p_validate => false), save_platform_key('openrouter', 'sk-good-platform');
         REVOKE SELECT ON api_providers FROM anon;
         GRANT SELECT (model_id, pricing) ON aggregator_models TO authenticator;
         GRANT EXECUTE ON FUNCTION calculate_cost TO authenticator",
    )
    .await
    .unwrap();
    value(&root, &chat_sql(r#"{"tags": ["t", "a b"]}"#)).await.unwrap();
    let done = submit(&root, r#"{"temperature": 0.5}"#, ", p_idempotency_key => 'k'").await;
    assert_eq!(ended(&root, &done).await, "succeeded|hello|1");
    let later = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    // The worker notes when a key was used as it leaves, at the latest.
    let ended = "SELECT pg_terminate_backend(worker_pid, 60000) FROM aggregator_status()";
    assert_eq!(value(&root, ended).await.unwrap(), "t");
    // What another server's worker left pending.
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
         SELECT gen_random_uuid(), 1, now(), 1, id, 'u', 'm' FROM api_providers WHERE name = 'standin'",
    )
    .await
    .unwrap();
    const EVERYTHING: [&str; 15] = [
        "SELECT id, name, display_name, base_url, is_active FROM api_providers ORDER BY name",
        "SELECT * FROM user_api_providers ORDER BY id",
        "SELECT id, model_id, pricing, pricing_source, catalogue_pricing FROM aggregator_models ORDER BY id",
        "SELECT * FROM aggregator_model_prices ORDER BY id",
        "SELECT * FROM aggregator_usage_logs ORDER BY call_id",
        "SELECT * FROM aggregator_usage_hourly ORDER BY hour, user_id, status",
        "SELECT * FROM aggregator_usage_totals ORDER BY grain, start, status",
        "SELECT * FROM aggregator_usage_labels ORDER BY kind, label, hour, status",
        "SELECT * FROM aggregator_gateway_keys ORDER BY id",
        "SELECT id, user_id, status, model, request, idempotency_key, run_after, response, cost FROM aggregator_jobs ORDER BY id",
        "SELECT * FROM aggregator_budgets ORDER BY limit_usd",
        "SELECT * FROM aggregator_rate_limits",
        "SELECT * FROM aggregator_budget_warnings ORDER BY percent",
        "SELECT period, user_id, limit_usd, spent_usd, reserved_usd, left_usd FROM aggregator_budget_status ORDER BY limit_usd",
        "SELECT has_type_privilege('bob', 'aggregator_admin', 'USAGE'), has_function_privilege('alice', 'chat(text, text, jsonb)', 'EXECUTE'),
            has_type_privilege('alice', 'aggregator_admin', 'USAGE'), has_table_privilege('anon', 'api_providers', 'SELECT'),
            has_column_privilege('authenticator', 'aggregator_models', 'pricing', 'SELECT'), has_table_privilege('authenticator', 'aggregator_models', 'SELECT'),
            has_function_privilege('authenticator', (SELECT oid FROM pg_proc WHERE proname = 'calculate_cost'), 'EXECUTE')",
    ];
    let mut before = vec![];
    for sql in EVERYTHING {
        let found = rows(&root, sql).await;
        assert!(!found.is_empty(), "{sql}");
        before.push(found);
    }
    assert_eq!(before.last().unwrap(), &["t|t|f|f|t|f|t"]);

    new.supabase_roles().await;
    new.connect("postgres", "postgres")
        .await
        .batch_execute(&format!("CREATE DATABASE {}", database.name))
        .await
        .unwrap();
    dump_and_restore(&old, &new, &database.name);
    let restored = new.connect("postgres", &database.name).await;
    for (sql, before) in EVERYTHING.iter().zip(&before) {
        let after = rows(&restored, sql).await;
        assert_eq!(&after, before, "{sql}");
    }
    // Three lists of prices, and the restored catalogue has not been noted once more.
    let open =
        "SELECT count(*), count(*) FILTER (WHERE valid_to IS NULL) FROM aggregator_model_prices";
    assert_eq!(rows(&restored, open).await, ["3|2"]);
    // Without the keyring: an error that says which key is missing.
    let id = value(&restored, "SELECT encode(substring(api_key_encrypted FROM 2 FOR 8), 'hex') FROM user_api_providers LIMIT 1").await.unwrap();
    let (code, message) = failure(&restored, &chat_sql("{}")).await;
    assert_eq!(code, "PT503");
    assert!(message.contains(&id), "{message}");
    // With it, as the README says, the keys open.
    bed::run(
        bed::as_server("cp")
            .args(["-p"])
            .arg(old.data().join("aggregator.keyring"))
            .arg(new.data()),
    );
    value(&restored, &chat_sql("{}")).await.unwrap();
    assert_eq!(
        upstream.chats().last().unwrap().header("authorization"),
        Some("Bearer sk-good-dumped")
    );
    assert_eq!(value(&restored, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "4");
    // The first worker of a database looks at all rows.
    assert_eq!(
        rows(&restored, "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1")
            .await,
        ["success|3", "unknown|1"]
    );
    // Jobs go on where they were; one that is done is not done again.
    let again = submit(&restored, r#"{"temperature": 0.5}"#, ", p_idempotency_key => 'k'").await;
    assert_eq!(again, done);
    let cancel = format!("SELECT chat_cancel('{later}')");
    assert_eq!(value(&restored, &cancel).await.unwrap(), "t");
    assert_eq!(upstream.chats().len(), 3);
}

#[tokio::test]
async fn a_type_of_pages_that_was_there_before_survives_dump_and_restore() {
    let cluster = shared().await;
    let from = cluster.empty_database().await;
    let root = from.root().await;
    root.batch_execute(
        "CREATE DOMAIN \"text/html\" AS text CHECK (VALUE <> ''); COMMENT ON DOMAIN \"text/html\" IS 'mine';
         CREATE FUNCTION my_page() RETURNS \"text/html\" LANGUAGE sql AS $$ SELECT '<p>' $$;
         CREATE EXTENSION aggregator",
    )
    .await
    .unwrap();
    let to = cluster.empty_database().await;
    restore(&dump(cluster, &from.name), cluster, &to.name);
    const TYPE: &str = "SELECT obj_description(oid, 'pg_type'), (SELECT count(*) FROM pg_constraint WHERE contypid = t.oid),
        (SELECT prorettype = t.oid FROM pg_proc WHERE proname = 'usage_dashboard'),
        (SELECT prorettype = t.oid FROM pg_proc WHERE proname = 'my_page'),
        EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e')
        FROM pg_type AS t WHERE typname = 'text/html'";
    assert_eq!(rows(&root, TYPE).await, ["mine|1|t|t|f"]);
    let restored = to.root().await;
    assert_eq!(rows(&restored, TYPE).await, ["mine|1|t|t|f"]);
    let page = value(&restored, "SELECT usage_dashboard('day')").await.unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
}
