//! A provider's keys, models and prices never outlive it, nor come without it, whoever writes them.

use crate::bed::{self, eventually, failure, rows, value};
use crate::fixtures::{add_provider, user};
use crate::upstream::{Answer, Upstream};

const TABLES: [(&str, &str); 4] = [
    (
        "user_api_providers",
        "INSERT INTO user_api_providers (user_id, api_key_encrypted, key_hint, provider_id) VALUES ('u', 'x', 'h', ",
    ),
    (
        "aggregator_models",
        "INSERT INTO aggregator_models (model_id, model_name, display_name, provider_id) VALUES ('m', 'm', 'M', ",
    ),
    (
        "aggregator_user_models",
        "INSERT INTO aggregator_user_models (user_id, model_id, model_name, display_name, provider_id) VALUES ('u', 'm', 'm', 'M', ",
    ),
    (
        "aggregator_model_prices",
        "INSERT INTO aggregator_model_prices (model_id, pricing, valid_from, source, provider_id) VALUES ('m', '{}', now(), 'sync', ",
    ),
];
const NOBODY: &str = "00000000-0000-4000-8000-00000000dead";

#[tokio::test]
async fn a_row_of_a_provider_that_is_not_there_is_refused_as_a_foreign_key_does() {
    let database = bed::database().await;
    let root = database.root().await;
    for (table, insert) in TABLES {
        let known = format!("{insert}(SELECT id FROM api_providers WHERE name = 'openai'))");
        root.batch_execute(&known).await.unwrap();
        let move_away = format!("UPDATE {table} SET provider_id = '{NOBODY}'");
        let unknown = insert.replace("'u'", "'v'").replace("'m', ", "'n', ");
        for sql in [format!("{unknown}'{NOBODY}')"), move_away] {
            let error = root.simple_query(&sql).await.expect_err(&sql);
            let error = error.as_db_error().expect("PostgreSQL's");
            assert_eq!(error.code().code(), "23503", "{sql}");
            let key = format!("{table}_provider_id_fkey");
            assert_eq!(error.constraint(), Some(key.as_str()), "{sql}");
            assert_eq!((error.schema(), error.table()), (Some("public"), Some(table)), "{sql}");
            assert_eq!(
                error.message(),
                format!(
                    "insert or update on table \"{table}\" violates foreign key constraint \"{key}\""
                )
            );
            assert_eq!(
                error.detail(),
                Some(
                    format!(
                        "Key (provider_id)=({NOBODY}) is not present in table \"api_providers\"."
                    )
                    .as_str()
                )
            );
        }
        // To another that is there.
        let elsewhere = format!(
            "UPDATE {table} SET provider_id = (SELECT id FROM api_providers WHERE name = 'xai')"
        );
        root.batch_execute(&elsewhere).await.unwrap();
    }
    root.batch_execute("DELETE FROM api_providers WHERE name = 'xai'").await.unwrap();
    for (table, _) in TABLES {
        assert_eq!(value(&root, &format!("SELECT count(*) FROM {table}")).await.unwrap(), "0");
    }
    // As any foreign key: the id of a provider with rows cannot be changed, and replication is believed.
    root.batch_execute(&format!(
        "{}(SELECT id FROM api_providers WHERE name = 'openai'))",
        TABLES[0].1
    ))
    .await
    .unwrap();
    let rename = "UPDATE api_providers SET id = gen_random_uuid() WHERE name = 'openai'";
    assert_eq!(failure(&root, rename).await.0, "23503");
    root.batch_execute("SET session_replication_role = replica").await.unwrap();
    root.batch_execute(&format!("{}'{NOBODY}')", TABLES[1].1)).await.unwrap();
}

#[tokio::test]
async fn only_a_restore_writes_rows_before_their_provider() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    root.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated, service_role")
        .await
        .unwrap();
    let tenant = user(&database, "u-orphan").await;
    let service = database.rest("service_role", None).await;
    let old = |id: &str| {
        format!(
            "INSERT INTO aggregator_models (model_id, model_name, display_name, provider_id, first_seen_at)
             VALUES ('old', 'old', 'Old', {id}, '2020-01-01')"
        )
    };
    let nobody = old(&format!("'{NOBODY}'"));
    // Row-level security, and an administrator whom it does not bind.
    assert_eq!(failure(&tenant, &nobody).await.0, "42501");
    assert_eq!(failure(&service, &nobody).await.0, "23503");
    // Who says that it is a restore, and is bound.
    tenant.batch_execute("SET row_security = off").await.unwrap();
    assert_eq!(failure(&tenant, &nobody).await.0, "42501");
    // A provider that policies hide is there all the same.
    root.batch_execute("UPDATE api_providers SET is_active = false WHERE name = 'xai'; CREATE ROLE hired; GRANT hired TO authenticator; SELECT aggregator_grant('hired', 'admin')")
        .await
        .unwrap();
    let hired = database.rest("hired", None).await;
    assert_eq!(failure(&hired, &nobody).await.0, "23503");
    let xai = "SELECT id FROM api_providers WHERE name = 'xai'";
    let xai = value(&root, xai).await.expect("it is seeded");
    hired.batch_execute(&old(&format!("'{xai}'"))).await.unwrap();
    assert_eq!(
        rows(&root, "SELECT model_id FROM aggregator_models WHERE model_id = 'old'").await.len(),
        1
    );
    root.batch_execute("DROP OWNED BY hired; DROP ROLE hired").await.unwrap();
}

#[tokio::test]
async fn a_provider_that_goes_and_a_row_that_comes_wait_for_each_other() {
    let database = bed::database().await;
    let (going, coming) = (database.root().await, database.root().await);
    let watch = database.root().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for (isolation, code) in [("READ COMMITTED", "23503"), ("REPEATABLE READ", "40001")] {
        for (table, insert) in TABLES {
            going
                .batch_execute(
                    "INSERT INTO api_providers (name, display_name, provider_type, base_url)
                     VALUES ('passing', 'P', 'direct', 'https://p.example/v1')",
                )
                .await
                .unwrap();
            let id = value(&going, "SELECT id FROM api_providers WHERE name = 'passing'").await;
            let insert = format!("{insert}'{}')", id.unwrap());
            let leave = "DELETE FROM api_providers WHERE name = 'passing'";
            // The provider goes first: the row waits, and is refused.
            going.batch_execute(&format!("BEGIN; {leave}")).await.unwrap();
            coming
                .batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1"))
                .await
                .unwrap();
            let refused = failure(&coming, &insert);
            let (refused, ()) = tokio::join!(refused, async {
                eventually(&watch, waits, "1").await;
                going.batch_execute("COMMIT").await.unwrap();
            });
            assert_eq!(refused.0, code, "{isolation} {table}: {}", refused.1);
            coming.batch_execute("ROLLBACK").await.unwrap();
            // In one transaction, after it.
            going.batch_execute("BEGIN").await.unwrap();
            assert_eq!(failure(&going, &insert).await.0, "23503", "{table}");
            going.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    // The row comes first: the provider waits, and takes it along.
    for (table, insert) in TABLES {
        going
            .batch_execute(
                "INSERT INTO api_providers (name, display_name, provider_type, base_url)
                 VALUES ('passing', 'P', 'direct', 'https://p.example/v1')",
            )
            .await
            .unwrap();
        let insert = format!("{insert}(SELECT id FROM api_providers WHERE name = 'passing'))");
        coming.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
        let deleted = going.batch_execute("DELETE FROM api_providers WHERE name = 'passing'");
        let (deleted, ()) = tokio::join!(deleted, async {
            eventually(&watch, waits, "1").await;
            coming.batch_execute("COMMIT").await.unwrap();
        });
        deleted.unwrap_or_else(|e| panic!("{table}: {}", bed::shown(&e)));
        assert_eq!(value(&going, &format!("SELECT count(*) FROM {table}")).await.unwrap(), "0");
    }
}

/// pg_restore --disable-triggers enables all of them at the end.
#[tokio::test]
async fn enabling_all_triggers_of_a_table_leaves_them_as_they_were() {
    let database = bed::database().await;
    let root = database.root().await;
    const TRIGGERS: &str = "SELECT tgrelid::regclass, tgfoid::regproc, tgtype, tgenabled FROM pg_trigger
        WHERE tgrelid IN ('user_api_providers'::regclass, 'api_providers'::regclass, 'aggregator_models'::regclass)
        ORDER BY tgrelid::regclass::text, tgfoid::regproc::text, tgtype, tgenabled";
    let before = rows(&root, TRIGGERS).await;
    for table in ["user_api_providers", "api_providers", "aggregator_models"] {
        let both = format!(
            "ALTER TABLE {table} DISABLE TRIGGER ALL; ALTER TABLE {table} ENABLE TRIGGER ALL"
        );
        root.batch_execute(&both).await.unwrap();
    }
    assert_eq!(rows(&root, TRIGGERS).await, before);
    // What a superuser disables, and is no restore, is disabled.
    root.batch_execute("ALTER TABLE api_providers DISABLE TRIGGER before_provider").await.unwrap();
    const ONE: &str = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'before_provider'";
    assert_eq!(value(&root, ONE).await.unwrap(), "D");
    root.batch_execute("ALTER TABLE api_providers ENABLE TRIGGER before_provider").await.unwrap();
    assert_eq!(value(&root, ONE).await.unwrap(), "A");
}
