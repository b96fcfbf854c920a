//! pg_dump and restore: what is the user's survives.

use crate::bed::{self, Cluster, failure, rows, value};
use crate::chat::{add_provider, chat_sql};
use crate::jobs::{ended, submit};
use crate::upstream::{Answer, Upstream};

pub fn dump_and_restore(from: &Cluster, to: &Cluster, database: &str) {
    let file = from.dir.join("dump.sql");
    bed::run(
        bed::as_server(bed::pg_bin("pg_dump"))
            .args(["-h", from.dir.to_str().unwrap(), "-U", "postgres", "-d", database, "-f"])
            .arg(&file),
    );
    bed::run(
        bed::as_server(bed::pg_bin("psql"))
            .args([
                "-h",
                to.dir.to_str().unwrap(),
                "-U",
                "postgres",
                "-d",
                database,
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
            ])
            .arg(&file)
            .stdout(std::process::Stdio::piped()),
    );
}

#[tokio::test]
async fn user_data_survives_dump_and_restore() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let old = Cluster::start("old", "");
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
         SELECT save_provider_key('standin', 'sk-good-dumped', p_validate => false), save_platform_key('openrouter', 'sk-good-platform');
         REVOKE SELECT ON api_providers FROM anon",
    )
    .await
    .unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    let done = submit(&root, r#"{"temperature": 0.5}"#, ", p_idempotency_key => 'k'").await;
    assert_eq!(ended(&root, &done).await, "succeeded|hello|1");
    let later = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    // What another server's worker left pending.
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
         SELECT gen_random_uuid(), 1, now(), 1, id, 'u', 'm' FROM api_providers WHERE name = 'standin'",
    )
    .await
    .unwrap();
    const EVERYTHING: [&str; 9] = [
        "SELECT id, name, display_name, base_url, is_active FROM api_providers ORDER BY name",
        "SELECT * FROM user_api_providers ORDER BY id",
        "SELECT id, model_id, pricing, pricing_source, catalogue_pricing FROM aggregator_models ORDER BY id",
        "SELECT * FROM aggregator_model_prices ORDER BY id",
        "SELECT * FROM aggregator_usage_logs ORDER BY call_id",
        "SELECT * FROM aggregator_usage_hourly ORDER BY hour, user_id, status",
        "SELECT * FROM aggregator_usage_totals ORDER BY grain, start, status",
        "SELECT id, user_id, status, model, request, idempotency_key, run_after, response, cost FROM aggregator_jobs ORDER BY id",
        "SELECT has_type_privilege('bob', 'aggregator_admin', 'USAGE'), has_function_privilege('alice', 'chat(text, text, jsonb)', 'EXECUTE'),
            has_type_privilege('alice', 'aggregator_admin', 'USAGE'), has_table_privilege('anon', 'api_providers', 'SELECT')",
    ];
    let mut before = vec![];
    for sql in EVERYTHING {
        before.push(rows(&root, sql).await);
    }

    let new = Cluster::start("new", "");
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
