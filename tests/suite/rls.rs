//! The attacker's view: every table and function, under real roles.

use crate::bed::{self, Database, failure, rows, shared, value};
use crate::fixtures::{HELLO, add_provider};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

const KEY_A: &str = "sk-good-aaaaaaaaaaaaaaaa";
const KEY_B: &str = "sk-good-bbbbbbbbbbbbbbbb";

/// Users u-a and u-b, each with a key and one usage row.
async fn two_users(upstream: &Upstream) -> (Database<'static>, Client, Client, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    let a = database.rest("authenticated", Some("u-a")).await;
    let b = database.rest("authenticated", Some("u-b")).await;
    for (client, key) in [(&a, KEY_A), (&b, KEY_B)] {
        value(client, &format!("SELECT save_provider_key('standin', '{key}')")).await.unwrap();
        value(client, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    }
    (database, root, a, b)
}

#[tokio::test]
async fn each_user_sees_uses_and_changes_only_their_own() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, a, b) = two_users(&upstream).await;
    assert_eq!(rows(&a, "SELECT user_id FROM user_api_providers").await, ["u-a"]);
    assert_eq!(rows(&b, "SELECT user_id FROM aggregator_usage_logs").await, ["u-b"]);
    assert_eq!(rows(&root, "SELECT count(*) FROM user_api_providers").await, ["2"]);
    let keys: Vec<_> =
        upstream.chats().iter().map(|c| c.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(keys, [format!("Bearer {KEY_A}"), format!("Bearer {KEY_B}")]);
    // Own row: some columns. Others' rows: none.
    assert_eq!(a.execute("UPDATE user_api_providers SET priority = 5", &[]).await.unwrap(), 1);
    for sql in [
        "UPDATE user_api_providers SET user_id = 'u-b'",
        "UPDATE user_api_providers SET api_key_encrypted = ''",
        "DELETE FROM user_api_providers",
        "INSERT INTO user_api_providers (user_id, provider_id, api_key_encrypted, key_hint) SELECT 'u-a', id, '', '' FROM api_providers",
        "UPDATE aggregator_usage_logs SET cost_estimate = 0",
        "DELETE FROM aggregator_usage_logs",
        "INSERT INTO api_providers (name, display_name, provider_type, base_url) VALUES ('x', 'x', 'direct', 'https://x.example')",
        "UPDATE aggregator_models SET pricing = '{}'",
        "SELECT * FROM aggregator_usage_logs_default",
        "SELECT * FROM aggregator_worker_epochs",
    ] {
        assert_eq!(failure(&a, sql).await.0, "42501", "{sql}");
    }
    assert_eq!(
        rows(&root, "SELECT priority FROM user_api_providers ORDER BY user_id").await,
        ["5", "0"]
    );
}

#[tokio::test]
async fn no_function_acts_for_another_user() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, a, _b) = two_users(&upstream).await;
    let before = rows(&root, "SELECT * FROM user_api_providers ORDER BY id").await;
    for sql in [
        "SELECT * FROM get_user_available_models('u-b')".to_owned(),
        "SELECT * FROM get_model_provider_config('m', 'u-b')".to_owned(),
        "SELECT save_provider_key('standin', 'sk-good-x', 'u-b', false)".to_owned(),
        "SELECT remove_provider_key('standin', 'u-b')".to_owned(),
        format!("SELECT chat_complete('m', '{HELLO}', p_user_id => 'u-b')"),
        format!("SELECT chat_stream('m', '{HELLO}', p_user_id => 'u-b')"),
        format!("SELECT chat_submit('m', '{HELLO}', p_user_id => 'u-b')"),
        "SELECT * FROM calculate_provider_costs('u-b')".to_owned(),
        "SELECT aggregator_acting_user('u-b')".to_owned(),
        "SELECT aggregator_spendable_providers('u-b')".to_owned(),
    ] {
        assert_eq!(failure(&a, &sql).await.0, "PT403", "{sql}");
        // One's own id is not another's.
        let own = sql
            .replace("'u-b'", "'u-a'")
            .replace("remove_provider_key", "validate_provider_key")
            .replace(", 'u-a')", ", NULL)");
        a.simple_query(&own).await.unwrap_or_else(|e| panic!("{own}: {}", bed::shown(&e)));
    }
    assert_eq!(
        rows(&root, "SELECT * FROM user_api_providers WHERE user_id = 'u-b'").await,
        [before.iter().find(|r| r.contains("u-b")).unwrap().clone()]
    );
}

#[tokio::test]
async fn functions_for_administrators_check_the_role_beyond_the_acl() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, a, _b) = two_users(&upstream).await;
    let forbidden = [
        "SELECT save_platform_key('standin', 'sk-good-p')",
        "SELECT remove_platform_key('standin')",
        "SELECT * FROM sync_models()",
        "SELECT forget_user('u-b')",
        "SELECT * FROM aggregator_status()",
        "SELECT aggregator_grant('authenticated', 'admin')",
        "SELECT rotate_master_key()",
    ];
    for sql in forbidden {
        assert_eq!(failure(&a, sql).await.0, "42501", "{sql}");
    }
    // What setup scripts do.
    root.batch_execute(
        "GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO authenticated, anon;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated, anon",
    )
    .await
    .unwrap();
    for sql in forbidden {
        assert_eq!(failure(&a, sql).await.0, "PT403", "{sql}");
    }
    // Internal ones give nothing away and change nothing either.
    assert_eq!(rows(&a, "SELECT count(*) FROM aggregator_routes('m', 'u-b')").await, ["0"]);
    assert_eq!(failure(&a, "SELECT aggregator_apply_grants('anon', 'admin')").await.0, "42501");
    let stored = "SELECT aggregator_store_catalogue(id, false, ARRAY['x'], ARRAY['x'], ARRAY['x'], ARRAY['chat'], ARRAY['{}'], ARRAY[NULL]::integer[], ARRAY[NULL]::integer[], ARRAY[NULL]) FROM api_providers WHERE name = 'standin'";
    assert_eq!(failure(&a, stored).await.0, "42501");
    // Row-level security stands where the grants have fallen.
    // Of months that are with Citus, where there are some, nobody deletes.
    let recent = "DELETE FROM aggregator_usage_logs WHERE created_at >= 'yesterday'";
    assert_eq!(rows(&a, "SELECT DISTINCT user_id FROM user_api_providers").await, ["u-a"]);
    assert_eq!(a.execute("DELETE FROM user_api_providers", &[]).await.unwrap(), 0);
    assert_eq!(a.execute(recent, &[]).await.unwrap(), 0);
    assert_eq!(a.execute("UPDATE aggregator_models SET pricing = '{}'", &[]).await.unwrap(), 0);
    assert_eq!(rows(&a, "SELECT count(*) FROM aggregator_worker_epochs").await, ["0"]);
    assert_eq!(rows(&a, "SELECT count(*) FROM aggregator_usage_logs_default").await, ["0"]);
    assert_eq!(failure(&a, "UPDATE user_api_providers SET user_id = 'u-b'").await.0, "42501");
    let anon = database.rest("anon", None).await;
    assert_eq!(rows(&anon, "SELECT aggregator_user_id() IS NULL").await, ["t"]);
    for sql in [
        format!("SELECT chat_complete('m', '{HELLO}')"),
        "SELECT save_provider_key('standin', 'sk-good-z')".into(),
    ] {
        assert_eq!(failure(&anon, &sql).await.0, "PT403", "{sql}");
    }
    assert_eq!(rows(&anon, "SELECT count(*) FROM user_api_providers").await, ["0"]);
}

#[tokio::test]
async fn a_plain_login_cannot_become_another_user() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, _a, _b) = two_users(&upstream).await;
    root.batch_execute(
        "SELECT aggregator_grant('alice', 'user');
         GRANT ALL ON ALL TABLES IN SCHEMA public TO alice; GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO alice",
    )
    .await
    .unwrap();
    // Placeholders set before the library is loaded in this session.
    let alice = database.user("alice").await;
    alice
        .batch_execute(
            "SET aggregator.user_id = 'u-b'; SET aggregator.trusted_authenticators = 'alice';
             SET request.jwt.claims = '{\"sub\": \"u-b\"}'; SET request.jwt.claim.sub = 'u-b'",
        )
        .await
        .unwrap();
    assert_eq!(rows(&alice, "SELECT user_id FROM user_api_providers").await.len(), 0);
    assert_eq!(value(&alice, "SELECT aggregator_user_id()").await.unwrap(), "role:alice");
    assert_eq!(value(&alice, "SELECT aggregator_is_admin()").await.unwrap(), "f");
    for sql in [
        "SET aggregator.user_id = 'u-b'",
        "SET aggregator.trusted_authenticators = 'alice'",
        "SET aggregator.keyring_file = '/tmp/x'",
        "SHOW aggregator.keyring_file",
    ] {
        assert!(alice.simple_query(sql).await.is_err(), "{sql}");
    }
    assert_eq!(
        failure(&alice, &format!("SELECT chat_complete('m', '{HELLO}', p_user_id => 'u-b')"))
            .await
            .0,
        "PT403"
    );
    // A setting of the role itself is a placeholder too.
    let _ = alice.batch_execute("ALTER ROLE alice SET aggregator.user_id = 'u-b'").await;
    let again = database.user("alice").await;
    assert_eq!(value(&again, "SELECT aggregator_user_id()").await.unwrap(), "role:alice");
    root.batch_execute("ALTER ROLE alice RESET ALL").await.unwrap();
    // A claim that names a role is not believed from an authenticator either.
    let forger = database.rest("authenticated", Some("role:alice")).await;
    assert_eq!(value(&forger, "SELECT aggregator_user_id()").await, None);
    // Nor inside a definer function, where current_user is another.
    root.batch_execute(
        "CREATE FUNCTION as_root() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT aggregator_user_id()';
         GRANT EXECUTE ON FUNCTION as_root() TO alice",
    )
    .await
    .unwrap();
    assert_eq!(value(&again, "SELECT as_root()").await.unwrap(), "role:alice");
}

#[tokio::test]
async fn a_role_that_may_set_the_user_id_acts_as_that_user() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, _a, _b) = two_users(&upstream).await;
    root.batch_execute("SELECT aggregator_grant('bob', 'user')").await.unwrap();
    let bob = database.user("bob").await;
    value(&bob, "SELECT aggregator_user_id()").await;
    assert!(bob.simple_query("SET aggregator.user_id = 'u-a'").await.is_err());
    root.batch_execute("GRANT SET ON PARAMETER aggregator.user_id TO bob").await.unwrap();
    bob.batch_execute("SET aggregator.user_id = 'u-a'").await.unwrap();
    assert_eq!(rows(&bob, "SELECT user_id FROM user_api_providers").await, ["u-a"]);
    root.batch_execute("REVOKE SET ON PARAMETER aggregator.user_id FROM bob").await.unwrap();
}

#[tokio::test]
async fn default_privileges_hand_out_nothing() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    root.batch_execute(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO anon; ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO anon;
         CREATE EXTENSION aggregator;
         UPDATE api_providers SET is_active = false WHERE name = 'xai'",
    )
    .await
    .unwrap();
    let granted = rows(
        &root,
        "SELECT d.objid::regclass::text, a.privilege_type FROM pg_depend d JOIN pg_class c ON c.oid = d.objid, aclexplode(c.relacl) a
         WHERE d.deptype = 'e' AND d.classid = 'pg_class'::regclass AND a.grantee IN (0, 'anon'::regrole) UNION ALL
         SELECT p.oid::regprocedure::text, a.privilege_type FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass AND a.grantee IN (0, 'anon'::regrole) UNION ALL
         SELECT 'type', a.privilege_type FROM pg_type t, aclexplode(t.typacl) a WHERE typname IN ('aggregator_admin', 'aggregator_reader') AND a.grantee IN (0, 'anon'::regrole)
         ORDER BY 1",
    )
    .await;
    let own: Vec<_> = granted
        .iter()
        .filter(|g| g.contains("aggregator") || g.contains("api_providers") || g.contains("chat"))
        .cloned()
        .collect();
    assert_eq!(
        own,
        [
            // For triggers that are restored by their tables' owners; it believes nothing.
            "aggregator_ai_column_changed()|EXECUTE",
            // Asked by triggers, as whoever writes.
            "aggregator_follows()|EXECUTE",
            "aggregator_is_admin()|EXECUTE",
            "aggregator_is_applying()|EXECUTE",
            "aggregator_is_reader()|EXECUTE",
            "aggregator_user_id()|EXECUTE",
            "api_providers|SELECT"
        ]
    );
    let anon = database.rest("anon", None).await;
    assert_eq!(rows(&anon, "SELECT count(*) FROM api_providers").await, ["9"]);
    assert_eq!(failure(&anon, "SELECT * FROM aggregator_models").await.0, "42501");
    assert_eq!(failure(&anon, &format!("SELECT chat_complete('m', '{HELLO}')")).await.0, "42501");
}

#[tokio::test]
async fn a_platform_key_is_spent_by_all_and_read_by_none() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, a, _b) = two_users(&upstream).await;
    let service = database.rest("service_role", None).await;
    value(&service, "SELECT save_platform_key('standin', 'sk-good-platform')").await.unwrap();
    let c = database.rest("authenticated", Some("u-c")).await;
    value(&c, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    assert_eq!(
        upstream.chats().last().unwrap().header("authorization").unwrap(),
        "Bearer sk-good-platform"
    );
    assert_eq!(
        rows(&c, "SELECT provider_name, api_key_encrypted FROM get_model_provider_config('m')")
            .await,
        ["standin|∅"]
    );
    assert_eq!(rows(&c, "SELECT count(*) FROM user_api_providers").await, ["0"]);
    assert_ne!(rows(&c, "SELECT count(*) FROM get_user_available_models()").await, ["0"]);
    // One's own key goes first, and its owner may read it, sealed.
    value(&a, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    assert_eq!(
        upstream.chats().last().unwrap().header("authorization").unwrap(),
        format!("Bearer {KEY_A}")
    );
    assert_eq!(rows(&a, "SELECT c.api_key_encrypted = k.api_key_encrypted FROM get_model_provider_config('m') c JOIN user_api_providers k ON k.id = c.user_provider_id").await, ["t"]);
    // An administrator without BYPASSRLS sees users' keys, and the platform's not at all.
    root.batch_execute("SELECT aggregator_grant('bob', 'admin')").await.unwrap();
    let bob = database.user("bob").await;
    assert_eq!(
        rows(&bob, "SELECT DISTINCT user_id FROM user_api_providers ORDER BY 1").await,
        ["u-a", "u-b"]
    );
    assert_eq!(rows(&bob, "SELECT remove_platform_key('standin')").await, ["t"]);
    assert_eq!(failure(&c, &format!("SELECT chat_complete('m', '{HELLO}')")).await.0, "PT404");
}

#[tokio::test]
async fn a_moved_ciphertext_does_not_open() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, a, _b) = two_users(&upstream).await;
    root.batch_execute(
        "UPDATE user_api_providers SET api_key_encrypted = (SELECT api_key_encrypted FROM user_api_providers WHERE user_id = 'u-b') WHERE user_id = 'u-a'",
    )
    .await
    .unwrap();
    let (code, message) = failure(&a, &format!("SELECT chat_complete('m', '{HELLO}')")).await;
    assert_eq!(code, "PT409", "{message}");
    // A provider that moved to another host does not get the keys of the first.
    let other = Upstream::start(|_| Answer::hello()).await;
    root.batch_execute(&format!(
        "UPDATE api_providers SET base_url = '{}' WHERE name = 'standin'",
        other.base_url()
    ))
    .await
    .unwrap();
    let b = _b;
    assert_eq!(failure(&b, &format!("SELECT chat_complete('m', '{HELLO}')")).await.0, "PT409");
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn a_bent_search_path_runs_nothing_as_the_owner() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, _a, _b) = two_users(&upstream).await;
    root.batch_execute("SELECT aggregator_grant('alice', 'user'); CREATE SCHEMA trap AUTHORIZATION alice; CREATE TABLE trap.log (who text); GRANT ALL ON trap.log TO PUBLIC; ALTER TABLE trap.log OWNER TO alice").await.unwrap();
    let alice = database.user("alice").await;
    alice
        .batch_execute(
            "CREATE FUNCTION trap.same(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trap.log VALUES (current_user); RETURN true; END $$;
             CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
             CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trap.log VALUES (current_user); RETURN pg_catalog.now(); END $$;
             CREATE FUNCTION trap.split_part(text, text, integer) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trap.log VALUES (current_user); RETURN ''; END $$;
             SET search_path = trap, pg_catalog, public",
        )
        .await
        .unwrap();
    value(&alice, "SELECT save_provider_key('standin', 'sk-good-alice-key')").await.unwrap();
    value(&alice, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    value(&alice, "SELECT count(*) FROM get_user_available_models()").await.unwrap();
    value(&alice, "SELECT calculate_cost('m', '{\"prompt_tokens\": 1, \"completion_tokens\": 1}')")
        .await
        .unwrap();
    value(&alice, "SELECT remove_provider_key('standin')").await.unwrap();
    assert_eq!(
        rows(&root, "SELECT DISTINCT who FROM trap.log WHERE who <> 'alice'").await.len(),
        0
    );
}

#[tokio::test]
async fn an_account_can_be_forgotten() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, a, _b) = two_users(&upstream).await;
    let service = database.rest("service_role", None).await;
    assert_eq!(value(&service, "SELECT forget_user('u-a')").await.unwrap(), "1");
    assert_eq!(rows(&a, "SELECT count(*) FROM user_api_providers").await, ["0"]);
    assert_eq!(rows(&a, "SELECT count(*) FROM aggregator_usage_logs").await, ["0"]);
    assert_eq!(rows(&root, "SELECT user_id LIKE 'forgotten:%', cost_estimate IS NOT NULL FROM aggregator_usage_logs WHERE user_id <> 'u-b'").await, ["t|t"]);
}
