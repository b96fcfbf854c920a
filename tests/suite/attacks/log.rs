//! Provider keys in the server log, however a statement is written and wherever it fails.

use crate::bed::{self, Cluster, PATIENCE, quoted, value};
use crate::fixtures::add_provider;
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Every key of these tests holds this text.
const NEEDLE: &str = "nEeDlE5d2f";

/// The library is there from the first statement on, and everything is logged that can be.
async fn loud(name: &str) -> Cluster {
    let cluster = Cluster::start(
        name,
        "shared_preload_libraries = 'auto_explain, aggregator'\nlog_statement = all\n\
         log_min_duration_statement = 0\nlog_parameter_max_length = -1\n\
         log_parameter_max_length_on_error = -1\nlog_error_verbosity = verbose\n\
         log_min_messages = debug1\nlog_duration = on\n\
         auto_explain.log_min_duration = 0\nauto_explain.log_nested_statements = on\n\
         auto_explain.log_verbose = on",
    );
    cluster.supabase_roles().await;
    cluster
}

fn lines_with(cluster: &Cluster, text: &str) -> Vec<String> {
    cluster.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

async fn fails(client: &Client, sql: &str) {
    client.simple_query(sql).await.expect_err(sql);
}

#[tokio::test]
async fn no_statement_with_a_key_is_logged_wherever_it_fails() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = loud("loud").await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let key = format!("sk-good-{NEEDLE}");
    let user = database.rest("authenticated", Some("u-1")).await;
    // Prepared under another name, and executed with the key as a literal.
    for (name, query) in [
        ("x", "SELECT save_provider_key($1, $2, p_validate => false), 1 / (length($1) - 7)"),
        ("y", "SELECT 1 / (length($1) - 7), save_provider_key($1, $2, p_validate => false)"),
        ("\"Z z\"", "SELECT save_provider_key($1, $2), $1::integer"),
        (
            "u",
            r#"SELECT U&"save\005Fprovider_key"($1, $2, p_validate => false), 1 / (length($1) - 7)"#,
        ),
    ] {
        user.batch_execute(&format!("PREPARE {name} (text, text) AS {query}")).await.unwrap();
        fails(&user, &format!("EXECUTE {name} ('standin', '{key}')")).await;
        fails(&user, &format!("/* a */ EXECUTE -- b\n {name}('standin', '{key}')")).await;
        fails(&user, &format!("EXPLAIN (ANALYZE, VERBOSE) EXECUTE {name} ('standin', '{key}')"))
            .await;
    }
    for sql in [
        // Other spellings of the name.
        format!(r#"SELECT U&"save\005Fprovider_key"('standin', '{key}', 'x', 'x')"#),
        format!(r#"SELECT U&"save!005Fprovider_key" UESCAPE '!' ('nosuch', '{key}')"#),
        format!("SELECT public . \"save_provider_key\" ('nosuch', '{key}')"),
        // Failing after the call, before it, and beside it.
        format!(
            "SELECT save_provider_key('standin', '{key}', p_validate => false), 1 / (random() * 0)"
        ),
        format!(
            "SELECT 1 / (random() * 0), save_provider_key('standin', '{key}', p_validate => false)"
        ),
        format!("SELECT save_provider_key('standin', '{key}'), 1 / 0"),
        format!("SELECT save_provider_key('standin', 'x', 'u-1', '{key}')"),
        format!("SELECT save_provider_key('standin', '{key}'::integer::text)"),
        format!("SELECT save_provider_key('standin', '{key}' nonsense '{key}')"),
        format!("SELECT save_provider_key('standin', '{key}'"),
        format!(
            "DO $$BEGIN EXECUTE 'SELECT save_provider_key(''standin'', ''{key}'', p_validate => fals)'; END$$"
        ),
        format!(
            "DO $$BEGIN PERFORM save_provider_key('standin', '{key}', p_validate => false); RAISE division_by_zero; END$$"
        ),
        format!("SELECT save_platform_key('standin', '{key}')"),
        format!("SELECT validate_provider_key('nosuch', '{key}')"),
    ] {
        fails(&user, &sql).await;
    }
    // Nor where nothing fails.
    for sql in [
        format!("SELECT save_provider_key('standin', '{key}', p_validate => false)"),
        format!("SELECT save_provider_key('standin', {}, p_validate => false)", quoted(&key)),
        format!("SELECT validate_provider_key('standin', '{key}')"),
    ] {
        user.simple_query(&sql).await.unwrap();
    }
    // As parameters of the extended protocol, with errors.
    let save = "SELECT save_provider_key($1, $2, p_validate => false), 1 / (length($1) - 7)";
    let _ = user.query(save, &[&"standin", &key.as_str()]).await.unwrap_err();
    let _ = user
        .query(
            "SELECT save_provider_key($1, $2, p_validate => false)::text",
            &[&"standin", &key.as_str()],
        )
        .await
        .unwrap();
    assert_eq!(lines_with(&cluster, NEEDLE), Vec::<String>::new());
    // What other processes report is left alone.
    value(&root, "SELECT pg_reload_conf()").await;
    let given_up = Instant::now() + PATIENCE;
    while !cluster.log().contains("received SIGHUP, reloading configuration files") {
        assert!(Instant::now() < given_up, "{}", cluster.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And the search would find something; and what has no key in it is logged as ever.
    user.simple_query(&format!("SELECT '{NEEDLE}'")).await.unwrap();
    fails(&user, "SELECT 'seen', 1 / 0").await;
    assert!(!lines_with(&cluster, NEEDLE).is_empty());
    assert!(lines_with(&cluster, "STATEMENT:").iter().any(|line| line.contains("'seen', 1 / 0")));
}

/// The text of these statements says nothing of a key: what they call does, before anything else of the
/// expression is computed.
#[tokio::test]
async fn wrappers_that_fail_log_no_key() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start(
        "wrapped",
        "shared_preload_libraries = 'aggregator'\nlog_parameter_max_length_on_error = -1\n\
         log_error_verbosity = verbose",
    );
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    root.batch_execute(
        "CREATE FUNCTION wrapped(p text, k text) RETURNS uuid LANGUAGE sql AS
             'SELECT save_provider_key(p, k, p_validate => false)';
         CREATE FUNCTION wrapped_plpgsql(p text, k text) RETURNS uuid LANGUAGE plpgsql AS
             'BEGIN RETURN save_provider_key(p, k, p_validate => false); END';
         CREATE FUNCTION wrapped_dynamic(p text, k text) RETURNS void LANGUAGE plpgsql AS
             $$BEGIN EXECUTE format('SELECT save_provider_key(%L, %L, p_validate => false)', p, k); END$$;
         CREATE FUNCTION fails_later(p text, k text) RETURNS integer LANGUAGE plpgsql AS
             'BEGIN PERFORM save_provider_key(p, k, p_validate => false); RETURN 1 / (length(p) - length(p)); END';",
    )
    .await
    .unwrap();
    let key = format!("sk-good-{NEEDLE}");
    let user = database.rest("authenticated", Some("u-1")).await;
    user.batch_execute("PREPARE v (text, text) AS SELECT wrapped($1, $2), 1 / (random() * 0)")
        .await
        .unwrap();
    for sql in [
        format!("EXECUTE v ('standin', '{key}')"),
        format!("SELECT wrapped('nosuch', '{key}')"),
        format!("SELECT wrapped('standin', '{key}'), 1 / (random() * 0)"),
        format!("SELECT 1 / (random() * 0), wrapped('standin', '{key}')"),
        format!("SELECT wrapped_plpgsql('nosuch', '{key}')"),
        format!("SELECT wrapped_plpgsql('standin', '{key}'), 1 / (random() * 0)"),
        format!("SELECT fails_later('standin', '{key}')"),
        format!("SELECT wrapped_dynamic('nosuch', '{key}')"),
    ] {
        fails(&user, &sql).await;
    }
    let wrapped = "SELECT wrapped_plpgsql($1, $2)::text, 1 / (random() * 0)";
    let _ = user.query(wrapped, &[&"standin", &key.as_str()]).await.unwrap_err();
    assert_eq!(lines_with(&cluster, NEEDLE), Vec::<String>::new());
    // A later statement of the session is logged as ever.
    fails(&user, &format!("SELECT '{NEEDLE}', 1 / (random() * 0)")).await;
    assert!(!lines_with(&cluster, NEEDLE).is_empty());
}

#[tokio::test]
async fn a_session_does_not_show_a_key_that_it_has_saved() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let user = database.rest("authenticated", Some("u-1")).await;
    let sql =
        format!("SELECT save_provider_key('standin', 'sk-good-{NEEDLE}', p_validate => false)");
    value(&user, &sql).await.unwrap();
    let shown = "SELECT query FROM pg_stat_activity WHERE usename = 'authenticator' AND datname = current_database()";
    let shown = value(&root, shown).await.unwrap();
    assert!(!shown.contains(NEEDLE), "{shown}");
    // What has no key in it is shown as ever.
    value(&user, "SELECT aggregator_user_id()").await;
    let shown = "SELECT query FROM pg_stat_activity WHERE usename = 'authenticator' AND datname = current_database()";
    assert_eq!(value(&root, shown).await.unwrap(), "SELECT aggregator_user_id()");
}
