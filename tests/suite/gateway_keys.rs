//! Gateway keys: made, shown once, rotated, revoked; whose they are, what they may, and their own limits.

use crate::bed::{Cluster, Database, PATIENCE, eventually, failure, rows, value};
use crate::fixtures::{HELLO, ready, user};
use crate::upstream::{Answer, Gate, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Makes a key: its id, and the key.
async fn create(client: &Client, arguments: &str) -> (String, String) {
    let made = rows(client, &format!("SELECT * FROM create_gateway_key({arguments})")).await;
    let (id, key) = made[0].split_once('|').unwrap();
    (id.to_owned(), key.to_owned())
}

/// What the worker finds for a key that a program shows: whose it is, its models and tags, and the seconds that are
/// left of it, in hundreds. By the worker's own statement, as the worker asks it.
async fn found(root: &Client, key: &str) -> Vec<String> {
    let statement = include_str!("../../sql/statements/gateway_key.sql");
    let set = "SELECT CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END";
    let set = value(root, set).await.unwrap();
    let statement = statement
        .replace("@extschema@", "public")
        .replace("{SET}", &set)
        .replace("$1", &format!("encode(sha256('{key}'::bytea), 'hex')"))
        .replace("$2", "NULL::text");
    let sql = format!(
        "SELECT user_id, models, tags, round(until / 1e6 - extract(epoch FROM clock_timestamp()), -2)
         FROM ({statement}) AS k (id, user_id, models, tags, until)"
    );
    rows(root, &sql).await
}

fn paid() -> Answer {
    // 100 tokens in and 50 out, at 2 and 10 USD per million: 0.0007 USD.
    Answer::says("paid", r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#)
}

/// Jobs of the session's user that come with a key, as the HTTP endpoint will submit them.
async fn submit_with(root: &Client, key: &str, options: &str, jobs: usize) -> Vec<String> {
    root.batch_execute("BEGIN").await.unwrap();
    let submitted = rows(
        root,
        &format!("SELECT chat_submit('m', '{HELLO}', '{options}') FROM generate_series(1, {jobs})"),
    )
    .await;
    root.batch_execute(&format!(
        "UPDATE aggregator_jobs SET gateway_key_id = '{key}' WHERE id IN ('{}'); COMMIT",
        submitted.join("', '")
    ))
    .await
    .unwrap();
    submitted
}

/// How jobs ended: status and the code of the error.
async fn outcome(root: &Client, jobs: &[String]) -> Vec<String> {
    let list = format!("('{}')", jobs.join("', '"));
    let left =
        format!("SELECT count(*) FROM aggregator_jobs WHERE id IN {list} AND finished_at IS NULL");
    eventually(root, &left, "0").await;
    let sql = format!(
        "SELECT status, error ->> 'code', count(*) FROM aggregator_jobs WHERE id IN {list} GROUP BY 1, 2 ORDER BY 1, 2"
    );
    rows(root, &sql).await
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_as_its_hash() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    let (id, key) = create(
        &ann,
        "'My agent', '{m, openai/*}', now() + interval '1 hour', 5, 'day', 100, 20000, '{agent, \" a b \"}'",
    )
    .await;
    assert!(key.len() == 53 && key.starts_with("agk_"), "{key}");
    assert_eq!(
        rows(
            &root,
            &format!(
                "SELECT id, user_id, name, key_hash = sha256('{key}'::bytea), key_hint = right('{key}', 4), models, tags,
                    expires_at - created_at = interval '1 hour', old_key_hash, revoked_at
                 FROM aggregator_gateway_keys"
            )
        )
        .await,
        [format!("{id}|ann|My agent|t|t|{{m,openai/*}}|{{agent,\"a b\"}}|t|∅|∅")]
    );
    // No table holds the key, or what is between its prefix and its checksum.
    let secret = &key[4..47];
    for table in rows(&root, "SELECT aggregator_relations()").await {
        let sql = format!("SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%{secret}%'");
        assert_eq!(value(&root, &sql).await.unwrap(), "0", "{table}");
    }
    // Its limits are rules like all others.
    assert_eq!(
        rows(&root, "SELECT user_id, gateway_key_id, period, limit_usd::real, action, keys FROM aggregator_budgets").await,
        [format!("ann|{id}|day|5|block|all")]
    );
    assert_eq!(
        rows(&root, "SELECT user_id, gateway_key_id, requests_per_minute, tokens_per_minute FROM aggregator_rate_limits").await,
        [format!("ann|{id}|100|20000")]
    );
    assert_eq!(found(&root, &key).await, ["ann|{m,openai/*}|{agent,\"a b\"}|3600"]);
    // No two are alike, and without limits there are no rules.
    let (other_id, other) = create(&ann, "'My agent'").await;
    assert!(other_id != id && other != key);
    assert_eq!(found(&root, &other).await, ["ann|∅|∅|∅"]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_budgets").await.unwrap(), "1");
    // Another key, and what is nearly this one.
    assert_eq!(found(&root, &key.replace("agk_", "agk-")).await.len(), 0);
}

#[tokio::test]
async fn users_see_and_change_their_own_keys_and_administrators_all() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    let ben = database.rest("authenticated", Some("ben")).await;
    let admin = database.rest("service_role", None).await;
    let (id, key) = create(&ann, "'x', p_limit_usd => 5").await;
    let (for_ben, _) = create(&admin, "'y', p_user_id => 'ben'").await;
    let seen = "SELECT id FROM aggregator_gateway_keys ORDER BY name";
    assert_eq!(rows(&ann, seen).await, [id.as_str()]);
    assert_eq!(rows(&ben, seen).await, [for_ben.as_str()]);
    assert_eq!(rows(&admin, seen).await, [id.as_str(), for_ben.as_str()]);
    // By the id of another's key nothing is done.
    let (code, message) = failure(&ben, &format!("SELECT rotate_gateway_key('{id}')")).await;
    assert_eq!(code, "PT404", "{message}");
    let revoke = format!("SELECT revoke_gateway_key('{id}')");
    assert_eq!(value(&ben, &revoke).await.unwrap(), "f");
    assert_eq!(
        failure(&ben, "SELECT create_gateway_key('z', p_user_id => 'ann')").await.0,
        "PT403"
    );
    // Nor by hand, whatever rights a sweeping grant hands out.
    root.batch_execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO authenticated; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO authenticated")
        .await
        .unwrap();
    for (sql, client) in [
        ("UPDATE aggregator_gateway_keys SET user_id = 'ben' RETURNING 1", &ben),
        ("UPDATE aggregator_gateway_keys SET models = NULL, expires_at = NULL RETURNING 1", &ann),
        ("DELETE FROM aggregator_gateway_keys RETURNING 1", &ann),
        ("DELETE FROM aggregator_budgets RETURNING 1", &ann),
        ("UPDATE aggregator_budgets SET limit_usd = 1000 RETURNING 1", &ann),
        ("DELETE FROM aggregator_usage_labels RETURNING 1", &ann),
    ] {
        assert_eq!(rows(client, sql).await.len(), 0, "{sql}");
    }
    for (sql, client) in [
        (format!("INSERT INTO aggregator_gateway_keys (user_id, name, key_hash, key_hint) VALUES ('ben', 'x', sha256('{key}'::bytea), 'x')"), &ben),
        ("SELECT aggregator_store_gateway_key('ann', NULL, 'x', sha256('x'), 'x', NULL, NULL, false, NULL, NULL, 'day', NULL, NULL, 9)".to_owned(), &ben),
        ("SELECT set_budget(1000, p_gateway_key => gen_random_uuid())".to_owned(), &ann),
    ] {
        let (code, message) = failure(client, &sql).await;
        assert!(["42501", "PT403"].contains(&code.as_str()), "{sql}: {code} {message}");
    }
    assert_eq!(found(&root, &key).await.len(), 1);
    // Who has no user id, or no right, makes none.
    let anon = database.rest("anon", None).await;
    for sql in [
        "SELECT create_gateway_key('x')",
        "SELECT rotate_gateway_key(gen_random_uuid())",
        "SELECT revoke_gateway_key(gen_random_uuid())",
    ] {
        assert_eq!(failure(&anon, sql).await.0, "42501", "{sql}");
    }
    let nobody = database.rest("authenticated", None).await;
    for sql in [
        "SELECT create_gateway_key('x')",
        "SELECT rotate_gateway_key(gen_random_uuid())",
        "SELECT revoke_gateway_key(gen_random_uuid())",
    ] {
        assert_eq!(failure(&nobody, sql).await.0, "PT403", "{sql}");
    }
    // An administrator rotates and revokes for others.
    let new = value(&admin, &format!("SELECT rotate_gateway_key('{id}')")).await.unwrap();
    assert_eq!(found(&root, &new).await, ["ann|∅|∅|∅"]);
    assert_eq!(value(&admin, &revoke).await.unwrap(), "t");
    assert_eq!(found(&root, &new).await.len(), 0);
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_budgets").await.unwrap(),
        "0",
        "its limits went with it"
    );
}

#[tokio::test]
async fn a_rotated_key_keeps_its_id_and_limits_and_its_old_secret_for_the_grace() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    let (id, first) = create(&ann, "'x', p_limit_usd => 5").await;
    let budget = value(&root, "SELECT id FROM aggregator_budgets").await.unwrap();
    let rotate = |grace: &str| format!("SELECT rotate_gateway_key('{id}'{grace})");
    let second = value(&ann, &rotate(", '1 hour'")).await.unwrap();
    assert_eq!(found(&root, &first).await, ["ann|∅|∅|3600"], "for its grace");
    assert_eq!(found(&root, &second).await, ["ann|∅|∅|∅"]);
    assert_eq!(
        rows(&root, "SELECT id, key_hint FROM aggregator_gateway_keys").await,
        [format!("{id}|{}", &second[49..])]
    );
    // Of the secrets before the last one none passes.
    let third = value(&ann, &rotate(", '2 hours'")).await.unwrap();
    assert_eq!(found(&root, &first).await.len(), 0);
    assert_eq!(found(&root, &second).await, ["ann|∅|∅|7200"]);
    let fourth = value(&ann, &rotate("")).await.unwrap();
    for old in [&first, &second, &third] {
        assert_eq!(found(&root, old).await.len(), 0);
    }
    assert_eq!(found(&root, &fourth).await.len(), 1);
    assert_eq!(value(&root, "SELECT id FROM aggregator_budgets").await.unwrap(), budget);
    // The grace ends by itself, and with the key's own end.
    value(&ann, &rotate(", '1 hour'")).await.unwrap();
    root.batch_execute(
        "UPDATE aggregator_gateway_keys SET expires_at = now() + interval '10 minutes'",
    )
    .await
    .unwrap();
    assert_eq!(found(&root, &fourth).await, ["ann|∅|∅|600"]);
    root.batch_execute("UPDATE aggregator_gateway_keys SET old_valid_until = now()").await.unwrap();
    assert_eq!(found(&root, &fourth).await.len(), 0);
    for bad in [
        "NULL",
        "'-1 second'",
        "'31 days'",
        "'1 month 1 day'",
        "'178000000 years'",
        "'-178000000 years'",
        "'1000 months -29999 days'",
    ] {
        let (code, message) = failure(&ann, &rotate(&format!(", {bad}"))).await;
        assert_eq!(code, "PT400", "{bad}: {message}");
    }
    for good in ["'0'", "'30 days'", "'1 month'", "'1 second'"] {
        value(&ann, &rotate(&format!(", {good}"))).await.unwrap();
    }
    assert_eq!(failure(&ann, "SELECT rotate_gateway_key(NULL)").await.0, "PT400");
    root.batch_execute("UPDATE aggregator_gateway_keys SET expires_at = now()").await.unwrap();
    assert_eq!(failure(&ann, &rotate("")).await.0, "PT404", "what has expired is not brought back");
}

#[tokio::test]
async fn what_is_revoked_expired_or_nobodys_passes_nothing() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    let revoked = create(&ann, "'x'").await;
    let old = revoked.1.clone();
    let new =
        value(&ann, &format!("SELECT rotate_gateway_key('{}', '1 day')", revoked.0)).await.unwrap();
    let revoke = format!("SELECT revoke_gateway_key('{}')", revoked.0);
    // Not before it is committed, and not at all if it is rolled back.
    ann.batch_execute("BEGIN").await.unwrap();
    assert_eq!(value(&ann, &revoke).await.unwrap(), "t");
    assert_eq!(found(&root, &new).await.len(), 1);
    ann.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(found(&root, &new).await.len(), 1);
    assert_eq!(value(&ann, &revoke).await.unwrap(), "t");
    assert_eq!(value(&ann, &revoke).await.unwrap(), "f", "it is already");
    for key in [&old, &new] {
        assert_eq!(found(&root, key).await.len(), 0, "with its grace");
    }
    assert_eq!(
        failure(&ann, &format!("SELECT rotate_gateway_key('{}')", revoked.0)).await.0,
        "PT404"
    );
    assert_eq!(failure(&ann, "SELECT revoke_gateway_key(NULL)").await.0, "PT400");
    // On a busy machine it may be over before it is looked for.
    for seconds in [0.4, 2.0, 8.0, 32.0] {
        let brief = format!("'x', p_expires_at => clock_timestamp() + interval '{seconds} s'");
        let (id, brief) = create(&ann, &brief).await;
        let before = found(&root, &brief).await.len();
        let is_over = format!(
            "SELECT clock_timestamp() > expires_at FROM aggregator_gateway_keys WHERE id = '{id}'"
        );
        if before == 0 && value(&root, &is_over).await.as_deref() == Some("t") {
            assert!(seconds < 32.0, "it was never found");
            continue;
        }
        assert_eq!(before, 1);
        eventually(&root, &is_over, "t").await;
        assert_eq!(found(&root, &brief).await.len(), 0);
        break;
    }
    // What a superuser or a restore may have written.
    let (_, odd) = create(&ann, "'x'").await;
    for (change, passes) in [
        ("expires_at = 'infinity'", true),
        ("expires_at = '-infinity'", false),
        ("expires_at = NULL, old_key_hash = sha256('x'), old_valid_until = 'infinity'", true),
        ("old_key_hash = NULL, old_valid_until = NULL, revoked_at = 'infinity'", false),
    ] {
        root.batch_execute(&format!(
            "UPDATE aggregator_gateway_keys SET {change} WHERE key_hash = sha256('{odd}'::bytea)"
        ))
        .await
        .unwrap();
        assert_eq!(found(&root, &odd).await.len(), usize::from(passes), "{change}");
    }
    // Of a role, while it may chat and somebody other than a superuser can log in as it.
    root.batch_execute(
        "CREATE ROLE key_holder LOGIN; CREATE ROLE key_heir LOGIN; SELECT aggregator_grant('key_holder', 'user')",
    )
    .await
    .unwrap();
    let holder = database.user("key_holder").await;
    let (_, of_role) = create(&holder, "'x'").await;
    for (change, passes) in [
        ("SELECT 1", true),
        ("ALTER ROLE key_holder NOLOGIN", false),
        ("GRANT key_holder TO key_heir", true),
        ("ALTER ROLE key_heir NOLOGIN", false),
        ("ALTER ROLE key_holder LOGIN", true),
        ("SELECT aggregator_revoke('key_holder', 'user')", false),
    ] {
        root.batch_execute(change).await.unwrap();
        let found = found(&root, &of_role).await;
        match passes {
            true => assert_eq!(found, ["role:key_holder|∅|∅|∅"], "{change}"),
            false => assert_eq!(found.len(), 0, "{change}"),
        }
    }
    let (_, of_nobody) = create(&root, "'x', p_user_id => 'role:nosuch'").await;
    assert_eq!(found(&root, &of_nobody).await.len(), 0);
}

#[tokio::test]
async fn a_forgotten_users_keys_are_gone_and_do_not_come_back() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let ann = user(&database, "ann").await;
    let (id, key) = create(
        &ann,
        "'x', p_limit_usd => 5, p_requests_per_minute => 5, p_tags => '{secret project}'",
    )
    .await;
    // One that is made in a transaction that was open then, and commits after.
    let late = database.rest("authenticated", Some("ann")).await;
    late.batch_execute("BEGIN").await.unwrap();
    let (_, made_late) = create(&late, "'late'").await;
    value(&root, "SELECT forget_user('ann')").await.unwrap();
    late.batch_execute("COMMIT").await.unwrap();
    for key in [&key, &made_late] {
        assert_eq!(found(&root, key).await.len(), 0);
    }
    for table in ["aggregator_budgets", "aggregator_rate_limits"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE gateway_key_id = '{id}'");
        assert_eq!(value(&root, &sql).await.unwrap(), "0");
    }
    // The worker sweeps it away.
    eventually(&root, "SELECT count(*) FROM aggregator_gateway_keys", "0").await;
    // Whoever comes under the same id makes keys of their own.
    let again = database.rest("authenticated", Some("ann")).await;
    let (_, new) = create(&again, "'x'").await;
    assert_eq!(found(&root, &new).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_a_keys_is_refused() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    for bad in [
        "NULL",
        "''",
        "' '",
        "' x'",
        "E'a\\nb'",
        "U&'a\\200bb'",
        "repeat('x', 256)",
        "repeat('x', 100000000)",
        "'x', '{NULL}'",
        "'x', '{\"\"}'",
        "'x', '{a*b}'",
        "'x', '{\"a b\"}'",
        "'x', array_fill('m'::text, '{101}')",
        "'x', array_fill('m'::text, '{20000000}')",
        "'x', ARRAY[repeat('m', 257)]",
        "'x', ARRAY[repeat('m', 100000000)]",
        "'x', p_expires_at => 'infinity'",
        "'x', p_expires_at => '-infinity'",
        "'x', p_expires_at => now()",
        "'x', p_expires_at => '1970-01-01'",
        "'x', p_expires_at => '294276-12-31'",
        "'x', p_limit_usd => 'NaN'",
        "'x', p_limit_usd => 'Infinity'",
        "'x', p_limit_usd => '-Infinity'",
        "'x', p_limit_usd => -1",
        "'x', p_limit_usd => 1e12",
        "'x', p_limit_usd => ('1' || repeat('0', 100000))::numeric",
        "'x', p_limit_usd => 5, p_period => 'year'",
        "'x', p_limit_usd => 5, p_period => NULL",
        "'x', p_period => repeat('x', 100000000)",
        "'x', p_requests_per_minute => 0",
        "'x', p_tokens_per_minute => -9223372036854775808",
        "'x', p_tags => '{}'",
        "'x', p_tags => '{NULL}'",
        "'x', p_tags => '{\"\"}'",
        "'x', p_tags => '{1,2,3,4,5,6,7,8,9}'",
        "'x', p_tags => ARRAY[repeat('x', 65)]",
        "'x', p_tags => ARRAY[repeat('x', 100000000)]",
        "'x', p_tags => ARRAY[E'a\\nb']",
        "'x', p_user_id => ''",
    ] {
        let (code, message) = failure(&ann, &format!("SELECT create_gateway_key({bad})")).await;
        assert_eq!(code, "PT400", "{bad}: {message}");
        assert!(message.len() < 600, "{bad}: {message}");
    }
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_gateway_keys").await.unwrap(), "0");
    for good in [
        "'x'",
        "repeat('é', 127)",
        "'a b', '{}'",
        "'x', array_fill('m'::text, '{100}')",
        "'x', '{*}', now() + interval '99 years', 0, 'total', 1, 1, '{1,2,3,4,5,6,7,8}'",
        "'x', p_limit_usd => 0.0000000001",
        "'x', p_limit_usd => 999999999999",
    ] {
        create(&ann, good).await;
    }
    // In the server of a transaction that reads only, as everywhere.
    let (code, _) = failure(&ann, "BEGIN READ ONLY; SELECT create_gateway_key('x')").await;
    assert_eq!(code, "25006");
}

#[tokio::test]
async fn a_user_has_a_thousand_keys_of_which_the_revoked_make_room() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    root.batch_execute(
        "INSERT INTO aggregator_gateway_keys (user_id, name, key_hash, key_hint, revoked_at)
         SELECT 'ann', 'n' || i, sha256(i::text::bytea), 'x', CASE WHEN i <= 2 THEN now() - i * interval '1 day' END
         FROM generate_series(1, 1000) AS i",
    )
    .await
    .unwrap();
    create(&ann, "'new 1'").await;
    assert_eq!(
        rows(&root, "SELECT name FROM aggregator_gateway_keys WHERE revoked_at IS NOT NULL").await,
        ["n1"],
        "the one that was revoked first is gone"
    );
    create(&ann, "'new 2'").await;
    let (code, message) = failure(&ann, "SELECT create_gateway_key('new 3')").await;
    assert_eq!(code, "PT409", "{message}");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_gateway_keys").await.unwrap(), "1000");
    let (other, _) = create(&root, "'x', p_user_id => 'ben'").await;
    assert!(!other.is_empty());
}

#[tokio::test]
async fn open_transactions_make_no_more_keys_than_a_user_may_have() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "INSERT INTO aggregator_gateway_keys (user_id, name, key_hash, key_hint)
         SELECT 'ann', 'n' || i, sha256(i::text::bytea), 'x' FROM generate_series(1, 998) AS i",
    )
    .await
    .unwrap();
    let ann = || database.rest("authenticated", Some("ann"));
    let ben = database.rest("authenticated", Some("ben")).await;
    let count = "SELECT count(*) FROM aggregator_gateway_keys WHERE user_id = 'ann'";
    let mut given_up = 0;
    let mut isolations = vec!["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"];
    while let Some(isolation) = isolations.pop() {
        let (first, second) = (ann().await, ann().await);
        for client in [&first, &second] {
            // Both have seen what is there before either makes one.
            let begin = format!("BEGIN ISOLATION LEVEL {isolation}; {count}");
            client.batch_execute(&begin).await.unwrap();
        }
        first.batch_execute("SELECT create_gateway_key('first')").await.unwrap();
        let waits = tokio::spawn(async move {
            let made = second.simple_query("SELECT create_gateway_key('second')").await.map(drop);
            let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
            second.batch_execute(end).await.unwrap();
            made
        });
        let began = Instant::now();
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        // It waits for what the first does.
        while value(&root, waiting).await.unwrap() == "0" && !waits.is_finished() {
            assert!(began.elapsed() < PATIENCE, "{isolation}: it does not wait");
        }
        // Another user's does not wait.
        create(&ben, "'x'").await;
        first.batch_execute("COMMIT").await.unwrap();
        let made = waits.await.unwrap();
        let code = made.as_ref().err().and_then(|error| error.code()).map(|code| code.code());
        let keys = value(&root, count).await.unwrap();
        // It waits for three seconds, which a busy machine may take to come to the end of the first.
        if isolation == "READ COMMITTED" && code == Some("PT409") && given_up < 5 {
            assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
            root.batch_execute("DELETE FROM aggregator_gateway_keys WHERE name = 'first'")
                .await
                .unwrap();
            given_up += 1;
            isolations.push(isolation);
            continue;
        }
        match isolation {
            // The first two make the user's keys a thousand.
            "READ COMMITTED" => assert_eq!((code, keys.as_str()), (None, "1000")),
            _ => assert_eq!((code, keys.as_str()), (Some("PT409"), "1000"), "{isolation}"),
        }
        if isolation == "READ COMMITTED" {
            root.batch_execute("DELETE FROM aggregator_gateway_keys WHERE name IN ('second')")
                .await
                .unwrap();
        } else {
            root.batch_execute("DELETE FROM aggregator_gateway_keys WHERE name = 'first' AND created_at = (SELECT max(created_at) FROM aggregator_gateway_keys WHERE user_id = 'ann')").await.unwrap();
        }
    }
    // Who does not end the transaction holds nobody up for ever.
    let (open, waits) = (ann().await, ann().await);
    open.batch_execute("BEGIN; SELECT create_gateway_key('open')").await.unwrap();
    let began = Instant::now();
    assert_eq!(failure(&waits, "SELECT create_gateway_key('late')").await.0, "PT409");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_key_spends_as_its_owner_within_its_own_limits() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let (id, _) = create(&root, "'x', p_limit_usd => 0.0015, p_period => 'total'").await;
    let (free, _) = create(&root, "'y', p_tags => '{of the key, night run}'").await;
    let options = r#"{"max_tokens": 50, "tags": ["night run"]}"#;
    let jobs = submit_with(&root, &id, options, 1).await;
    assert_eq!(outcome(&root, &jobs).await, ["succeeded|∅|1"]);
    assert_eq!(
        rows(&root, "SELECT user_id, gateway_key_id, tags, status FROM aggregator_usage_logs")
            .await,
        [format!("role:postgres|{id}|{{\"night run\"}}|success")]
    );
    let jobs = submit_with(&root, &id, options, 1).await;
    assert_eq!(outcome(&root, &jobs).await, ["succeeded|∅|1"]);
    eventually(
        &root,
        "SELECT string_agg(name, ' ') FROM aggregator_gateway_keys WHERE last_used_at > created_at",
        "x",
    )
    .await;
    // The key has used up its own budget, and the owner, and another key, have not.
    let jobs = submit_with(&root, &id, options, 1).await;
    assert_eq!(outcome(&root, &jobs).await, ["failed|budget_exceeded|1"]);
    let message =
        format!("SELECT error ->> 'message' FROM aggregator_jobs WHERE id = '{}'", jobs[0]);
    let message = value(&root, &message).await.unwrap();
    assert!(message.contains("of this gateway key"), "{message}");
    let jobs = submit_with(&root, &free, options, 1).await;
    assert_eq!(outcome(&root, &jobs).await, ["succeeded|∅|1"]);
    let tags = format!("SELECT tags FROM aggregator_usage_logs WHERE gateway_key_id = '{free}'");
    assert_eq!(value(&root, &tags).await.unwrap(), r#"{"of the key","night run"}"#);
    value(&root, &crate::fixtures::chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    // What the owner may spend binds the key.
    value(&root, "SELECT set_budget(p_limit_requests => 4, p_user_id => 'role:postgres', p_period => 'total')").await.unwrap();
    let jobs = submit_with(&root, &free, options, 1).await;
    assert_eq!(outcome(&root, &jobs).await, ["failed|budget_exceeded|1"]);
    assert_eq!(
        rows(&root, "SELECT gateway_key_id IS NOT NULL, spent_usd, spent_requests FROM aggregator_budget_status ORDER BY 1").await,
        ["f|0.0028|4", "t|0.0014|2"]
    );
    // Users see the usage of their own keys, by name, and readers that of all.
    assert_eq!(
        rows(&root, "SELECT name, user_id, requests, errors, total_tokens, cost, unpriced_requests FROM usage_by_key('day')").await,
        ["x|role:postgres|2|0|300|0.0014|0", "y|role:postgres|1|0|150|0.0007|0"]
    );
    assert_eq!(
        rows(&root, "SELECT * FROM usage_by_key('day', p_user_id => 'nobody')").await.len(),
        0
    );
    let ann = user(&database, "ann").await;
    assert_eq!(rows(&ann, "SELECT * FROM usage_by_key('day')").await.len(), 0);
    assert_eq!(
        failure(&ann, "SELECT * FROM usage_by_key('day', p_user_id => 'role:postgres')").await.0,
        "PT403"
    );
    assert_eq!(rows(&ann, "SELECT * FROM aggregator_usage_labels").await.len(), 0);
}

#[tokio::test]
async fn what_a_key_may_not_call_is_not_sent_and_a_revoked_key_sends_nothing() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    let (none, _) = create(&root, "'x', '{}'").await;
    let (other, _) = create(&root, "'x', '{standin:other, m2, M}'").await;
    let (fits, _) = create(&root, "'x', '{standin:*}'").await;
    for (key, expected) in
        [(&none, "failed|no_route|1"), (&other, "failed|no_route|1"), (&fits, "succeeded|∅|1")]
    {
        let jobs = submit_with(&root, key, "{}", 1).await;
        assert_eq!(outcome(&root, &jobs).await, [expected]);
    }
    assert_eq!(upstream.chat_count(), 1);
    // Revoked while it waits in the queue, and one that never was.
    let missing = "00000000-0000-4000-8000-000000000000";
    value(&root, &format!("SELECT revoke_gateway_key('{fits}')")).await.unwrap();
    for key in [fits.as_str(), missing] {
        let jobs = submit_with(&root, key, "{}", 1).await;
        assert_eq!(outcome(&root, &jobs).await, ["failed|invalid_api_key|1"]);
    }
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_is_not_sent_once_its_key_is_revoked() {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |_| Answer::held(&gate, paid())
    })
    .await;
    let cluster = Cluster::start("keyturn", "fsync = off\naggregator.max_in_flight_per_key = 1");
    let database: Database<'_> = cluster.database().await;
    let root = crate::fixtures::prepare(&database, &upstream).await;
    let (id, _) = create(&root, "'x'").await;
    let jobs = submit_with(&root, &id, "{}", 3).await;
    upstream.wait_for_chats(1).await;
    eventually(&root, "SELECT waiting FROM aggregator_status()", "2").await;
    value(&root, &format!("SELECT revoke_gateway_key('{id}')")).await.unwrap();
    // What was known of it when it began to wait counts for a quarter of a second.
    tokio::time::sleep(Duration::from_millis(400)).await;
    gate.open();
    assert_eq!(outcome(&root, &jobs).await, ["failed|invalid_api_key|2", "succeeded|∅|1"]);
    assert_eq!(upstream.chat_count(), 1, "what was sent before ends; nothing is sent after");
}

#[tokio::test]
async fn fifty_calls_at_once_never_pass_the_limit_of_a_key() {
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(20), Box::new(paid()))).await;
    let (_database, root) = ready(&upstream).await;
    // Room for 0.007 / 0.0007 = 10 calls.
    let (id, _) = create(&root, "'x', p_limit_usd => 0.007").await;
    let (limited, _) = create(&root, "'y', p_requests_per_minute => 7").await;
    let jobs = submit_with(&root, &id, r#"{"max_tokens": 50}"#, 50).await;
    let ended = outcome(&root, &jobs).await;
    // The last one may need more than is left, by the bound of its prompt.
    let sent = upstream.chat_count();
    assert!(sent == 9 || sent == 10, "{sent}");
    let expected = [format!("failed|budget_exceeded|{}", 50 - sent), format!("succeeded|∅|{sent}")];
    assert_eq!(ended, expected);
    let spent = "SELECT sum(cost_estimate) <= 0.007 FROM aggregator_usage_logs";
    assert_eq!(value(&root, spent).await.unwrap(), "t");
    // Jobs wait for a rate limit; what is through at once is no more than it allows.
    let began = Instant::now();
    submit_with(&root, &limited, r#"{"max_tokens": 50}"#, 50).await;
    eventually(
        &root,
        &format!(
            "SELECT count(*) >= 7 FROM aggregator_usage_logs WHERE gateway_key_id = '{limited}'"
        ),
        "t",
    )
    .await;
    let sent =
        format!("SELECT count(*) FROM aggregator_usage_logs WHERE gateway_key_id = '{limited}'");
    let sent: usize = value(&root, &sent).await.unwrap().parse().unwrap();
    // One more for each eight and a half seconds.
    let allowed = 8 + (began.elapsed().as_secs_f64() * 7.0 / 60.0) as usize;
    assert!(sent <= allowed, "{sent} of {allowed}");
    root.batch_execute("DELETE FROM aggregator_jobs").await.unwrap();
}

#[tokio::test]
async fn administrators_set_rules_about_a_key_for_its_owner_alone() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let ann = database.rest("authenticated", Some("ann")).await;
    let (id, _) = create(&ann, "'x'").await;
    let set = format!("SELECT set_budget(5, p_gateway_key => '{id}')");
    let budget = value(&root, &set).await.unwrap();
    assert_eq!(value(&root, &set).await.unwrap(), budget, "the same budget set again");
    value(&root, &format!("SELECT set_rate_limit(5, p_gateway_key => '{id}')")).await.unwrap();
    value(&root, "SELECT set_budget(6, p_user_id => 'ann')").await.unwrap();
    assert_eq!(
        rows(&ann, "SELECT user_id, gateway_key_id, limit_usd::real, keys FROM aggregator_budget_status ORDER BY 3").await,
        [format!("ann|{id}|5|all"), "ann|∅|6|all".to_owned()]
    );
    for (bad, code) in [
        (format!("set_budget(5, p_gateway_key => '{id}', p_user_id => 'ben')"), "PT400"),
        (format!("set_budget(5, p_gateway_key => '{id}', p_each_user => true)"), "PT400"),
        (format!("set_budget(5, p_gateway_key => '{id}', p_tag => 'x')"), "PT400"),
        ("set_budget(5, p_gateway_key => gen_random_uuid())".to_owned(), "PT404"),
        (format!("set_rate_limit(5, p_gateway_key => '{id}', p_user_id => 'ben')"), "PT400"),
        (format!("set_rate_limit(5, p_gateway_key => '{id}', p_each_user => true)"), "PT400"),
        (format!("set_rate_limit(5, p_gateway_key => '{id}', p_tag => 'x')"), "PT400"),
        ("set_rate_limit(5, p_gateway_key => gen_random_uuid())".to_owned(), "PT404"),
    ] {
        assert_eq!(failure(&root, &format!("SELECT {bad}")).await.0, code, "{bad}");
    }
    let both = format!(
        "INSERT INTO aggregator_budgets (period, limit_usd, gateway_key_id, tag) VALUES ('day', 1, '{id}', 'x')"
    );
    assert_eq!(failure(&root, &both).await.0, "23514");
    // Taken away with the key.
    root.batch_execute("DELETE FROM aggregator_gateway_keys").await.unwrap();
    assert_eq!(rows(&root, "SELECT limit_usd::real FROM aggregator_budgets").await, ["6"]);
    assert_eq!(rows(&root, "SELECT 1 FROM aggregator_rate_limits").await.len(), 0);
}

#[tokio::test]
async fn whatever_changes_what_a_key_may_is_told_to_all_processes() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    // By row, for every way in which a row may come, go and change; what is left out opens and closes nothing.
    assert_eq!(
        rows(
            &root,
            "SELECT a.attname FROM pg_attribute AS a, pg_trigger AS t
             WHERE t.tgrelid = 'aggregator_gateway_keys'::regclass AND t.tgname = 'routes_changed'
               AND a.attrelid = t.tgrelid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (t.tgattr)
               AND t.tgenabled = 'A' AND t.tgtype & 1 = 1 AND t.tgtype & 28 = 28
             ORDER BY 1"
        )
        .await,
        ["created_at", "key_hint", "last_used_at", "name", "rotated_at"]
    );
}

#[tokio::test]
async fn a_row_that_is_no_key_opens_nothing_and_holds_up_no_other() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    let (good, _) = create(&root, "'good', '{{m,a},{b,c}}', p_tags => '{{x},{y}}'").await;
    let listed = "SELECT models, tags FROM aggregator_gateway_keys";
    assert_eq!(rows(&root, listed).await, ["{m,a,b,c}|{x,y}"]);
    // What a superuser, or a restore from somewhere, may have written.
    for change in [
        "models = '{NULL}'",
        "models = '{m,a b}'",
        "models = '{*m}'",
        "models = array_fill('m'::text, '{101}')",
        "models = ARRAY[repeat('m', 10000000)]",
        "models = '{{m,NULL},{m,m}}'",
        "tags = '{NULL}'",
        "tags = '{1,2,3,4,5,6,7,8,9}'",
        "tags = ARRAY[repeat('x', 10000000)]",
    ] {
        let (bad, _) = create(&root, "'bad'").await;
        root.batch_execute(&format!(
            "UPDATE aggregator_gateway_keys SET {change} WHERE id = '{bad}'"
        ))
        .await
        .unwrap();
        let jobs = submit_with(&root, &bad, "{}", 1).await;
        assert_eq!(outcome(&root, &jobs).await, ["failed|database|1"], "{change}");
        let message = format!(
            "SELECT length(error::text) < 2000 FROM aggregator_jobs WHERE id = '{}'",
            jobs[0]
        );
        assert_eq!(value(&root, &message).await.unwrap(), "t", "{change}");
    }
    assert_eq!(upstream.chat_count(), 0);
    let jobs = submit_with(&root, &good, "{}", 2).await;
    assert_eq!(outcome(&root, &jobs).await, ["succeeded|∅|2"]);
    // A limit that no function would have set refuses those whom it is about.
    let tagged = crate::fixtures::chat_sql(r#"{"tags": ["x"]}"#);
    root.batch_execute(
        "INSERT INTO aggregator_budgets (period, limit_usd, tag) VALUES ('day', 'NaN', 'x')",
    )
    .await
    .unwrap();
    let (code, message) = failure(&root, &tagged).await;
    assert_eq!(code, "PT503", "{message}");
    value(&root, &crate::fixtures::chat_sql("{}")).await.unwrap();
}
