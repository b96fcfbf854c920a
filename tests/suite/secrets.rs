//! Keys are nowhere in the clear, and the keyring is what opens them.

use crate::bed::{self, Cluster, failure, rows, shown, value};
use crate::fixtures::{HELLO, add_provider, chat_sql, ready};
use crate::upstream::{Answer, Upstream};

/// Every key of this test holds this text; none of the server's files may.
const NEEDLE: &str = "nEeDlE7c1b";

#[tokio::test]
async fn no_key_in_the_log_or_the_data_directory() {
    let cluster = Cluster::start(
        "secrets",
        "log_min_messages = debug1\nlog_statement = none\nlog_error_verbosity = verbose\ntrack_activities = on",
    );
    cluster.supabase_roles().await;
    let upstream = Upstream::start(|seen| {
        if seen.body.contains("fail") {
            Answer::json(
                400,
                format!(
                    r#"{{"error":{{"message":"your key {} is odd","code":"{}"}}}}"#,
                    seen.header("authorization").unwrap(),
                    seen.header("authorization").unwrap()
                ),
            )
        } else {
            Answer::hello()
        }
    })
    .await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let user = database.rest("authenticated", Some("u-1")).await;
    value(&user, &format!("SELECT save_provider_key('standin', 'sk-good-{NEEDLE}')"))
        .await
        .unwrap();
    value(&user, &format!("SELECT validate_provider_key('standin', 'sk-bad-{NEEDLE}')"))
        .await
        .unwrap();
    value(&user, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    let mut errors = vec![];
    let anon = database.rest("anon", None).await;
    value(&anon, "SELECT aggregator_user_id() IS NULL").await;
    for (client, sql) in [
        (&user, format!("SELECT save_provider_key('standin', 'sk-bad-{NEEDLE}')")),
        (&user, format!("SELECT save_provider_key('nosuch', 'sk-good-{NEEDLE}')")),
        (&user, format!("SELECT save_provider_key('standin', 'sk good {NEEDLE}')")),
        (&user, format!("SELECT save_provider_key('standin', 'sk-good-{NEEDLE}', 'u-2')")),
        (&user, format!("SELECT save_platform_key('standin', 'sk-good-{NEEDLE}')")),
        (&user, format!("SELECT validate_provider_key('nosuch', 'sk-good-{NEEDLE}')")),
        (&user, format!("SELECT save_provider_key('standin', 'sk-good-{NEEDLE}', 1, 2)")),
        (
            &user,
            format!(
                "SELECT 1/0 FROM save_provider_key('standin', 'sk-good-{NEEDLE}', p_validate => false)"
            ),
        ),
        (
            &user,
            format!(
                "DO $$ BEGIN EXECUTE 'SELECT save_provider_key(''nosuch'', ''sk-good-{NEEDLE}'')'; END $$"
            ),
        ),
        (&anon, format!("SELECT save_provider_key('standin', 'sk-good-{NEEDLE}')")),
        (&user, format!("SELECT chat_complete('m', '{HELLO}', '{{\"user\": \"fail\"}}')")),
    ] {
        let error = client.simple_query(&sql).await.expect_err(&sql);
        errors.push(shown(&error));
    }
    let chat_error = errors.last().unwrap();
    assert!(!chat_error.contains(NEEDLE), "{chat_error}");
    value(&root, &format!("SELECT save_platform_key('standin', 'sk-good-{NEEDLE}')"))
        .await
        .unwrap();
    value(&root, "SELECT rotate_master_key()").await.unwrap();
    value(&user, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    root.batch_execute("CHECKPOINT").await.unwrap();
    // The worker is alive, with its socket, while the files are searched.
    let found = bed::as_server("grep").args(["-rlaF", NEEDLE]).arg(&cluster.dir).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let all = rows(&root, "SELECT * FROM user_api_providers").await.join("\n")
        + &rows(&root, "SELECT * FROM aggregator_usage_logs").await.join("\n");
    assert!(!all.contains(NEEDLE));
    // And the search can find something.
    root.batch_execute(&format!("CREATE TABLE t AS SELECT '{NEEDLE}' AS x; CHECKPOINT"))
        .await
        .unwrap();
    let found = bed::as_server("grep").args(["-rlaF", NEEDLE]).arg(&cluster.dir).output().unwrap();
    assert!(!found.stdout.is_empty());
}

#[tokio::test]
async fn the_keyring_is_private_grows_and_is_never_replaced_in_silence() {
    let cluster = Cluster::start("keyring", "");
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-1')").await.unwrap();
    let file = cluster.data().join("aggregator.keyring");
    let mode = bed::run(bed::as_server("stat").args(["-c", "%a"]).arg(&file));
    assert_eq!(String::from_utf8_lossy(&mode.stdout).trim(), "600");
    let before = value(
        &root,
        "SELECT encode(substring(api_key_encrypted FROM 2 FOR 8), 'hex') FROM user_api_providers",
    )
    .await
    .unwrap();
    let id = value(&root, "SELECT rotate_master_key()").await.unwrap();
    let after = value(
        &root,
        "SELECT encode(substring(api_key_encrypted FROM 2 FOR 8), 'hex') FROM user_api_providers",
    )
    .await
    .unwrap();
    assert_eq!(after, id);
    assert_ne!(before, after);
    value(&root, &chat_sql("{}")).await.unwrap();
    // A rotation that is rolled back leaves keys that still open.
    root.batch_execute("BEGIN; SELECT rotate_master_key(); ROLLBACK").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    // Without the file: an error that names the key, and no new file.
    bed::run(bed::as_server("mv").arg(&file).arg(cluster.dir.join("away")));
    for sql in [
        chat_sql("{}"),
        "SELECT save_provider_key('standin', 'sk-good-2', p_validate => false)".into(),
    ] {
        let (code, message) = failure(&root, &sql).await;
        assert_eq!(code, "PT503", "{message}");
        assert!(message.contains(&id), "{message}");
    }
    assert!(!bed::as_server("test").arg("-e").arg(&file).status().unwrap().success());
    bed::run(bed::as_server("mv").arg(cluster.dir.join("away")).arg(&file));
    value(&root, &chat_sql("{}")).await.unwrap();
}

#[tokio::test]
async fn keys_can_be_removed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(value(&root, "SELECT key_hint FROM user_api_providers").await.unwrap(), "sk-…cdef");
    assert_eq!(value(&root, "SELECT remove_provider_key('standin')").await.unwrap(), "t");
    assert_eq!(value(&root, "SELECT remove_provider_key('standin')").await.unwrap(), "f");
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT404");
    assert_eq!(failure(&root, "SELECT validate_provider_key('standin')").await.0, "PT404");
}
