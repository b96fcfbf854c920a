//! What each kind of role can do, and what it cannot.

use crate::bed::{self, Database, failure, rows, shared, tree, value};
use crate::fixtures::{HELLO, add_provider, save_key};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// Every privilege of a role on what belongs to the extension, those of PUBLIC included.
async fn rights(root: &Client, role: &str) -> Vec<String> {
    rows(
        root,
        &format!(
            "WITH members AS (
                 SELECT classid, objid FROM pg_depend
                 WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
             )
             SELECT c.relname || ' ' || lower(p.privilege)
             FROM members JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid
             CROSS JOIN unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}}'::text[]) AS p (privilege)
             WHERE c.relkind IN ('r', 'p', 'v') AND has_table_privilege('{role}', c.oid, p.privilege)
             UNION ALL
             SELECT c.relname || '.' || a.attname || ' ' || lower(p.privilege)
             FROM members JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attacl IS NOT NULL
             CROSS JOIN unnest('{{SELECT,UPDATE}}'::text[]) AS p (privilege)
             WHERE has_column_privilege('{role}', c.oid, a.attnum, p.privilege)
               AND NOT has_table_privilege('{role}', c.oid, p.privilege)
             UNION ALL
             SELECT p.oid::regprocedure || ' execute'
             FROM members JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid
             WHERE has_function_privilege('{role}', p.oid, 'EXECUTE')
             UNION ALL
             SELECT t.typname || ' usage'
             FROM members JOIN pg_type AS t ON classid = 'pg_type'::regclass AND t.oid = objid
             WHERE t.typtype = 'd' AND has_type_privilege('{role}', t.oid, 'USAGE')
             ORDER BY 1"
        ),
    )
    .await
}

/// A database in which each kind is granted to a role of its own.
async fn granted() -> (Database<'static>, Client) {
    let cluster = shared().await;
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute(
        "DO $$ BEGIN
             IF to_regrole('kind_none') IS NULL THEN
                 CREATE ROLE kind_none LOGIN; CREATE ROLE kind_user LOGIN;
                 CREATE ROLE kind_reader LOGIN; CREATE ROLE kind_admin LOGIN;
             END IF;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
         END $$",
    )
    .await
    .unwrap();
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "SELECT aggregator_grant('kind_user', 'user'), aggregator_grant('kind_reader', 'reader'),
             aggregator_grant('kind_admin', 'admin')",
    )
    .await
    .unwrap();
    (database, root)
}

#[tokio::test]
async fn a_login_without_a_grant_can_ask_who_it_is_and_nothing_else() {
    let (database, root) = granted().await;
    assert_eq!(
        rights(&root, "kind_none").await,
        [
            "aggregator_ai_column_changed() execute",
            "aggregator_follows() execute",
            "aggregator_is_admin() execute",
            "aggregator_is_applying() execute",
            "aggregator_is_reader() execute",
            "aggregator_user_id() execute",
            "text/html usage",
        ]
    );
    let login = database.user("kind_none").await;
    assert_eq!(
        rows(&login, "SELECT aggregator_user_id(), aggregator_is_admin(), aggregator_is_reader()")
            .await,
        ["role:kind_none|f|f"]
    );
    for sql in [
        "SELECT * FROM api_providers",
        "SELECT * FROM usage_summary()",
        &format!("SELECT chat_complete('m', '{HELLO}')"),
        "SELECT aggregator_grant('kind_none', 'reader')",
    ] {
        assert_eq!(failure(&login, sql).await.0, "42501", "{sql}");
    }
}

/// The list is in tests/goldens/grants.txt. With AGGREGATOR_WRITE_GOLDENS it is written anew, for
/// a look at the difference.
#[tokio::test]
async fn kinds_of_roles_have_the_rights_that_are_written_down() {
    let (_database, root) = granted().await;
    let mut found = String::new();
    let none = rights(&root, "kind_none").await;
    let mut below = none.clone();
    for kind in ["reader", "user", "admin"] {
        let own = rights(&root, &format!("kind_{kind}")).await;
        found += &format!("# {kind}: beside what PUBLIC has\n");
        for right in own.iter().filter(|right| !none.contains(right)) {
            found += &format!("{right}\n");
        }
        // Administrators are users too.
        if kind == "admin" {
            let missing: Vec<_> = below.iter().filter(|right| !own.contains(right)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
        below = own;
    }
    // Supabase's roles are granted by CREATE EXTENSION, and are like the others of their kind.
    assert_eq!(rights(&root, "authenticated").await, rights(&root, "kind_user").await);
    assert_eq!(rights(&root, "service_role").await, rights(&root, "kind_admin").await);
    let file = &tree("tests/goldens/grants.txt");
    if std::env::var_os("AGGREGATOR_WRITE_GOLDENS").is_some() {
        std::fs::write(file, &found).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap();
    for (line, (found, written)) in found.lines().zip(written.lines()).enumerate() {
        assert_eq!(found, written, "line {}", line + 1);
    }
    assert_eq!(found.lines().count(), written.lines().count());
}

/// One user's key, platform key, usage and job.
async fn busy(database: &Database<'_>, root: &Client, upstream: &Upstream) {
    add_provider(root, upstream).await;
    root.batch_execute("SELECT save_platform_key('standin', 'sk-good-platform')").await.unwrap();
    let user = database.rest("authenticated", Some("u-a")).await;
    save_key(&user, "standin", "sk-good-aaaaaaaaaaaaaaaa").await;
    value(&user, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    let job = value(&user, &format!("SELECT chat_submit('m', '{HELLO}')")).await.unwrap();
    assert_eq!(
        value(&user, &format!("SELECT status FROM chat_wait('{job}')")).await.unwrap(),
        "succeeded"
    );
    root.batch_execute("SELECT set_budget(5, p_each_user => true)").await.unwrap();
}

#[tokio::test]
async fn a_reader_sees_usage_and_neither_keys_nor_prompts() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = granted().await;
    busy(&database, &root, &upstream).await;
    let reader = database.user("kind_reader").await;
    for (sql, expected) in [
        ("SELECT user_id, count(*) FROM aggregator_usage_logs GROUP BY 1", "u-a|2"),
        ("SELECT user_id, requests FROM usage_by_user()", "u-a|2"),
        ("SELECT requests FROM usage_summary()", "2"),
        ("SELECT requests FROM usage_summary(p_user_id => 'u-a')", "2"),
        ("SELECT requests FROM usage_summary(p_user_id => 'u-b')", "0"),
        ("SELECT sum(requests) FROM usage_over_time()", "2"),
        ("SELECT provider_name, model_id, requests FROM usage_by_model()", "standin|m|2"),
        ("SELECT status, requests FROM usage_by_status()", "success|2"),
        ("SELECT usage_dashboard() LIKE '%standin%'", "t"),
        (
            "SELECT user_id, provider_name, count(*) FROM aggregator_usage GROUP BY 1, 2",
            "u-a|standin|2",
        ),
        ("SELECT user_id, sum(requests) FROM aggregator_usage_by_hour GROUP BY 1", "u-a|2"),
        ("SELECT provider_name, requests FROM aggregator_usage_by_day", "standin|2"),
        ("SELECT DISTINCT spent_requests FROM aggregator_budget_status WHERE user_id = 'u-a'", "2"),
        ("SELECT provider_name, calls, errors FROM aggregator_provider_health", "standin|2|0"),
        ("SELECT aggregator_is_reader(), aggregator_is_admin()", "t|f"),
    ] {
        assert_eq!(rows(&reader, sql).await, [expected], "{sql}");
    }
    for sql in [
        "SELECT * FROM user_api_providers",
        "SELECT api_key_encrypted FROM user_api_providers",
        "SELECT key_hint FROM user_api_providers",
        "SELECT * FROM aggregator_jobs",
        "SELECT * FROM chat_result(gen_random_uuid())",
        "SELECT * FROM get_model_provider_config('m', 'u-a')",
        &format!("SELECT chat_complete('m', '{HELLO}')"),
        &format!("SELECT chat_submit('m', '{HELLO}')"),
        "SELECT save_provider_key('standin', 'sk-good-x')",
        "SELECT set_budget(1)",
        "SELECT set_model_price('m', NULL)",
        "SELECT * FROM sync_models()",
        "SELECT forget_user('u-a')",
        "SELECT aggregator_grant('kind_reader', 'admin')",
        "UPDATE aggregator_usage_logs SET cost_estimate = 0",
        "UPDATE api_providers SET base_url = 'https://thief.example/v1'",
        "DELETE FROM aggregator_budgets",
    ] {
        assert_eq!(failure(&reader, sql).await.0, "42501", "{sql}");
    }
    // Nor where somebody grants everything.
    root.batch_execute(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO kind_reader;
         GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO kind_reader",
    )
    .await
    .unwrap();
    assert_eq!(rows(&reader, "SELECT * FROM user_api_providers").await.len(), 0);
    assert_eq!(rows(&reader, "SELECT * FROM aggregator_jobs").await.len(), 0);
    assert_eq!(reader.execute("UPDATE api_providers SET is_active = false", &[]).await.unwrap(), 0);
    for sql in ["SELECT set_budget(1)", "SELECT forget_user('u-a')"] {
        assert_eq!(failure(&reader, sql).await.0, "PT403", "{sql}");
    }
    // No longer a reader, no longer shown.
    root.batch_execute("REVOKE USAGE ON TYPE aggregator_reader FROM kind_reader").await.unwrap();
    assert_eq!(rows(&reader, "SELECT * FROM aggregator_usage_logs").await.len(), 0);
    assert_eq!(failure(&reader, "SELECT * FROM usage_by_user()").await.0, "PT403");
}

#[tokio::test]
async fn an_administrator_opens_no_key() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let thief = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = granted().await;
    busy(&database, &root, &upstream).await;
    let service = database.rest("service_role", None).await;
    let admin = database.user("kind_admin").await;
    // Sealed; and of the platform's, what knows row-level security sees nothing.
    assert_eq!(
        rows(&service, "SELECT user_id FROM user_api_providers ORDER BY 1").await,
        ["u-a", "∅"]
    );
    assert_eq!(rows(&admin, "SELECT user_id FROM user_api_providers").await, ["u-a"]);
    for client in [&service, &admin] {
        for sql in [
            "SELECT * FROM user_api_providers",
            "SELECT * FROM get_model_provider_config('m', 'u-a')",
            "SELECT aggregator_status()",
        ] {
            let seen = rows(client, sql).await.join("\n");
            assert!(!seen.contains("sk-good"), "{sql}: {seen}");
        }
        for sql in [
            "SHOW aggregator.keyring_file",
            "SELECT rotate_master_key()",
            "ALTER SYSTEM SET aggregator.keyring_file = '/tmp/x'",
            "SELECT pg_read_file('aggregator.keyring')",
            "UPDATE user_api_providers SET user_id = 'role:kind_admin'",
            "SELECT aggregator_routes('m', 'u-a')",
        ] {
            assert_eq!(failure(client, sql).await.0, "42501", "{sql}");
        }
    }
    // Another host under the provider's name, or as its own: no key opens for it, and none is sent.
    admin
        .batch_execute(&format!(
            "UPDATE api_providers SET base_url = '{}' WHERE name = 'standin'",
            thief.base_url()
        ))
        .await
        .unwrap();
    for user in ["'u-a'", "'u-b'"] {
        let sql = format!("SELECT chat_complete('m', '{HELLO}', p_user_id => {user})");
        assert_eq!(failure(&admin, &sql).await.0, "PT409", "{user}");
    }
    value(&admin, "SELECT * FROM sync_models('standin')").await;
    let told = thief.seen();
    assert!(told.iter().all(|seen| seen.header("authorization").is_none()), "{told:?}");
    assert_eq!(thief.chats().len(), 0);
}
