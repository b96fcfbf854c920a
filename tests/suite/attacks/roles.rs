//! What administrators hand out and take back, and what everybody may read of a provider.

use crate::bed::{self, failure, rows, shared, value};
use crate::fixtures::{add_provider, chat_sql, ready, save_key};
use crate::upstream::{Answer, Upstream};

#[tokio::test]
async fn no_header_of_a_provider_can_hold_a_secret() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let service = database.rest("service_role", None).await;
    for headers in [
        r#"{"Authorization": "Bearer x"}"#,
        r#"{"api-key": "0123456789"}"#,
        r#"{"Ocp-Apim-Subscription-Key": "0123456789"}"#,
        r#"{"X-Goog-Api-Key": "0123456789"}"#,
        r#"{"Cookie": "a=b"}"#,
        r#"{"Proxy-Authorization": "Basic x"}"#,
        r#"{"x-amz-security-token": "x"}"#,
        r#"{"X-Custom": "sk-live-0123456789"}"#,
        r#"{"X-Custom": "Bearer 0123456789"}"#,
        r#"{"X-Custom": "0123456789abcdef0123456789abcdef"}"#,
        r#"{"Host": "thief.example"}"#,
        r#"{"x": 1}"#,
        r#"{"x": ["y"]}"#,
    ] {
        for sql in [
            format!("UPDATE api_providers SET headers = '{headers}' WHERE name = 'standin'"),
            format!(
                "INSERT INTO api_providers (name, display_name, provider_type, base_url, headers)
                 VALUES ('other', 'O', 'direct', 'https://a.example/v1', '{headers}')"
            ),
        ] {
            assert_eq!(failure(&service, &sql).await.0, "PT400", "{sql}");
        }
    }
    for url in ["https://a.example/v1?api_key=x", "https://a.example/v1?x=sk-live-0123456789"] {
        let sql = format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url, models_url)
             VALUES ('other', 'O', 'direct', 'https://a.example/v1', '{url}')"
        );
        assert_eq!(failure(&service, &sql).await.0, "PT400", "{url}");
    }
    // Written past the trigger, such a row sends nothing.
    root.batch_execute(
        r#"SET session_replication_role = replica;
           ALTER TABLE api_providers DISABLE TRIGGER before_provider_headers;
           UPDATE api_providers SET headers = '{"api-key": "x"}' WHERE name = 'standin';
           ALTER TABLE api_providers ENABLE ALWAYS TRIGGER before_provider_headers;
           RESET session_replication_role"#,
    )
    .await
    .unwrap();
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT400");
    assert_eq!(upstream.chats().len(), 0);
    // A restore brings it without.
    root.batch_execute(
        r#"INSERT INTO api_providers (name, display_name, provider_type, base_url, headers, created_at)
           VALUES ('old', 'O', 'direct', 'https://a.example/v1', '{"api-key": "x", "X-Title": "t"}', '2026-01-01')"#,
    )
    .await
    .unwrap();
    assert_eq!(
        value(&root, "SELECT headers FROM api_providers WHERE name = 'old'").await.unwrap(),
        r#"{"X-Title": "t"}"#
    );
}

#[tokio::test]
async fn what_was_granted_can_be_taken_back() {
    let cluster = shared().await;
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute(
        "DO $$ BEGIN
             IF to_regrole('taken') IS NULL THEN CREATE ROLE taken LOGIN; END IF;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
         END $$",
    )
    .await
    .unwrap();
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let service = database.rest("service_role", None).await;
    let rights = "SELECT count(*) FROM (
            SELECT c.relacl AS acl FROM pg_class AS c UNION ALL
            SELECT p.proacl FROM pg_proc AS p UNION ALL
            SELECT t.typacl FROM pg_type AS t UNION ALL
            SELECT a.attacl FROM pg_attribute AS a
        ) AS every CROSS JOIN LATERAL aclexplode(every.acl) AS right_of
        WHERE right_of.grantee = 'taken'::regrole";
    let taken = database.user("taken").await;
    assert_eq!(value(&root, rights).await.unwrap(), "0");
    for kind in ["user", "reader", "admin"] {
        value(&service, &format!("SELECT aggregator_grant('taken', '{kind}')")).await;
        assert_ne!(value(&root, rights).await.unwrap(), "0", "{kind}");
        value(&taken, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap();
        let revoke = format!("SELECT aggregator_revoke('taken', '{kind}')");
        assert_eq!(value(&service, &revoke).await.unwrap(), "t");
        assert_eq!(value(&root, rights).await.unwrap(), "0", "{kind}");
        assert_eq!(value(&service, &revoke).await.unwrap(), "f");
        let sql = "SELECT count(*) FROM aggregator_usage_logs";
        assert_eq!(failure(&taken, sql).await.0, "42501", "{kind}");
    }
    // Of several kinds, the others stay.
    root.batch_execute(
        "SELECT aggregator_grant('taken', 'user'), aggregator_grant('taken', 'reader');
         SELECT aggregator_revoke('taken', 'reader')",
    )
    .await
    .unwrap();
    save_key(&taken, "standin", "sk-good-1").await;
    assert_eq!(value(&taken, "SELECT aggregator_is_reader()").await.unwrap(), "f");
    root.batch_execute(
        "SELECT aggregator_grant('taken', 'reader'); SELECT aggregator_revoke('taken', 'user')",
    )
    .await
    .unwrap();
    assert_eq!(value(&taken, "SELECT aggregator_is_reader()").await.unwrap(), "t");
    assert_eq!(rows(&taken, "SELECT * FROM usage_by_user()").await.len(), 0);
    assert_eq!(failure(&taken, &chat_sql("{}")).await.0, "42501");
    root.batch_execute("SELECT aggregator_grant('taken', 'admin')").await.unwrap();
    // An administrator is a user as well.
    assert_eq!(failure(&root, "SELECT aggregator_revoke('taken', 'user')").await.0, "PT400");
    root.batch_execute("SELECT aggregator_revoke('taken', 'admin')").await.unwrap();
    assert_eq!(value(&taken, "SELECT aggregator_is_admin()").await.unwrap(), "f");
    assert_eq!(rows(&taken, "SELECT * FROM usage_by_user()").await.len(), 0);
    for sql in [
        "SELECT aggregator_revoke('taken', 'reader')",
        "SELECT aggregator_revoke('authenticated', 'user')",
    ] {
        assert_eq!(failure(&taken, sql).await.0, "42501", "{sql}");
    }
    root.batch_execute("SELECT aggregator_revoke('taken', 'reader')").await.unwrap();
    assert_eq!(value(&root, rights).await.unwrap(), "0");
    for sql in [
        "SELECT aggregator_revoke('taken', 'owner')",
        "SELECT aggregator_revoke('4000000000'::oid::regrole, 'user')",
        "SELECT aggregator_grant('4000000000'::oid::regrole, 'user')",
    ] {
        assert_eq!(failure(&root, sql).await.0, "PT400", "{sql}");
    }
    root.batch_execute("DROP OWNED BY taken").await.unwrap();
}
