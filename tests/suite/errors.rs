//! What a raised error tells: its SQLSTATE, its code where programs find it, the database's own words.

use crate::bed::{Cluster, json, value};
use crate::fixtures::{HELLO, chat_sql, prepare, ready};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

async fn raised(client: &Client, sql: &str) -> DbError {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql} succeeds"));
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone()
}

#[tokio::test]
async fn a_raised_error_carries_its_code_for_drivers_for_postgrest_and_for_plpgsql() {
    let upstream = Upstream::start(|_| {
        let error = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
        Answer::json(429, error)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    // The provider's account and one's own budget are both PT402: the code tells them apart.
    let error = raised(&root, &chat_sql("{}")).await;
    assert_eq!((error.code().code(), error.constraint()), ("PT402", Some("insufficient_quota")));
    assert_eq!(error.detail(), Some("insufficient_quota: You exceeded your current quota"));
    root.batch_execute("SELECT set_budget(0, p_keys => 'all')").await.unwrap();
    let error = raised(&root, &chat_sql("{}")).await;
    assert_eq!((error.code().code(), error.constraint()), ("PT402", Some("budget_exceeded")));
    assert_eq!(error.detail(), Some("budget_exceeded"));
    // Whoever streams, sends many or submits gets the same.
    let error = raised(&root, &format!("SELECT chat_stream('m', '{HELLO}')")).await;
    assert_eq!(error.constraint(), Some("budget_exceeded"));
    for (sql, code) in [
        (format!("SELECT chat_complete('nosuch', '{HELLO}')"), "unknown_model"),
        (format!("SELECT chat_complete('openai:gpt', '{HELLO}')"), "no_key"),
        ("SELECT chat_complete('m', '[]')".to_owned(), "bad_request"),
        (format!("SELECT chat_submit('', '{HELLO}')"), "bad_request"),
        ("SELECT chat_wait('00000000-0000-4000-8000-000000000000')".to_owned(), "unknown_job"),
        ("SELECT save_provider_key('nosuch', 'sk-0123456789')".to_owned(), "unknown_provider"),
    ] {
        assert_eq!(raised(&root, &sql).await.constraint(), Some(code), "{sql}");
    }
    root.batch_execute(
        "CREATE FUNCTION caught() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
             v_code text; v_detail text;
         BEGIN
             PERFORM chat_complete('m', '[{\"role\": \"user\", \"content\": \"hi\"}]');
         EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS v_code = CONSTRAINT_NAME, v_detail = PG_EXCEPTION_DETAIL;
             RETURN v_code || ' ' || v_detail;
         END $$",
    )
    .await
    .unwrap();
    assert_eq!(value(&root, "SELECT caught()").await.unwrap(), "budget_exceeded budget_exceeded");
    // As a value it is what it was.
    let error = json(&root, &chat_sql(r#"{"throw_on_error": false}"#)).await;
    assert_eq!(error["error"]["code"], "budget_exceeded");
    assert_eq!(error["error"]["detail"], serde_json::Value::Null);
}

#[tokio::test]
async fn an_error_of_a_statement_of_ours_keeps_its_sqlstate_and_words() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    // A code that PostgreSQL has, one that nobody has, and one of ours, from a trigger of an administrator.
    for code in ["23514", "MY001", "PT418", "P0001", "XX000", "55P03"] {
        root.batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE EXCEPTION 'not on a Friday' USING ERRCODE = '{code}', DETAIL = 'see the calendar', HINT = 'wait';
             END $$;
             CREATE OR REPLACE TRIGGER refuses BEFORE INSERT OR UPDATE ON user_api_providers
             FOR EACH ROW EXECUTE FUNCTION refuses()"
        ))
        .await
        .unwrap();
        let ann = database.rest("authenticated", Some("ann")).await;
        let error = raised(
            &ann,
            "SELECT save_provider_key('standin', 'sk-good-ann-0123456789', p_validate => false)",
        )
        .await;
        if code == "55P03" {
            // A lock that is waited for in vain is one of ours.
            assert_eq!((error.code().code(), error.constraint()), ("PT409", Some("locked")));
            continue;
        }
        assert_eq!((error.code().code(), error.message()), (code, "not on a Friday"));
        assert_eq!((error.detail(), error.hint()), (Some("see the calendar"), Some("wait")));
        // Caught and gone, it colours no other.
        let other = raised(&ann, "SELECT 1 / 0").await;
        assert_eq!(other.code().code(), "22012");
    }
    root.batch_execute("DROP TRIGGER refuses ON user_api_providers").await.unwrap();
    // In plpgsql as well, where a block goes on after it.
    root.batch_execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RAISE EXCEPTION 'not this one' USING ERRCODE = 'MY002';
         END $$;
         CREATE TRIGGER late BEFORE INSERT ON aggregator_jobs FOR EACH ROW EXECUTE FUNCTION late()",
    )
    .await
    .unwrap();
    let block = format!(
        "DO $$
         BEGIN
             FOR i IN 1 .. 3 LOOP
                 BEGIN
                     PERFORM chat_submit('m', '{HELLO}');
                     RAISE EXCEPTION 'it went through';
                 EXCEPTION WHEN SQLSTATE 'MY002' THEN
                     NULL;
                 END;
             END LOOP;
         END $$"
    );
    root.batch_execute(&block).await.unwrap();
}

#[tokio::test]
async fn a_constraint_keeps_its_name() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("CREATE UNIQUE INDEX one_job_a_model ON aggregator_jobs (user_id, model)")
        .await
        .unwrap();
    let submit =
        format!("SELECT chat_submit('m', '{HELLO}', p_run_after => now() + interval '1 hour')");
    value(&root, &submit).await.unwrap();
    let error = raised(&root, &submit).await;
    assert_eq!((error.code().code(), error.constraint()), ("23505", Some("one_job_a_model")));
    assert_eq!(error.table(), Some("aggregator_jobs"));
    // An error of ours, inside a statement of ours: a trigger that saves a key while one is saved.
    root.batch_execute(
        "CREATE FUNCTION saves() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM public.save_provider_key('nosuch', 'sk-0123456789');
             RETURN NEW;
         END $$;
         CREATE TRIGGER saves BEFORE UPDATE ON user_api_providers FOR EACH ROW EXECUTE FUNCTION saves()",
    )
    .await
    .unwrap();
    let error = raised(
        &root,
        "SELECT save_provider_key('standin', 'sk-good-2-0123456789', p_validate => false)",
    )
    .await;
    assert_eq!(
        (error.code().code(), error.constraint()),
        ("PT404", Some("unknown_provider")),
        "{error:?}"
    );
    assert_eq!(error.detail(), Some("unknown_provider"));
}

#[tokio::test]
async fn what_the_worker_cannot_write_says_why() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    // It reaches the worker's own statements only where a superuser has it run always.
    root.batch_execute(
        "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RAISE EXCEPTION 'no rows on a Friday, sk-0123456789abcdef' USING ERRCODE = 'MY003', DETAIL = 'secret';
         END $$;
         CREATE TRIGGER refuses BEFORE INSERT ON aggregator_usage_logs FOR EACH ROW EXECUTE FUNCTION refuses();
         ALTER TABLE aggregator_usage_logs ENABLE ALWAYS TRIGGER refuses",
    )
    .await
    .unwrap();
    let error = raised(&root, &chat_sql("{}")).await;
    assert_eq!((error.code().code(), error.constraint()), ("PT503", Some("ledger")));
    assert!(
        error.message().contains("no rows on a Friday") && error.message().contains("MY003"),
        "{error:?}"
    );
    assert!(
        !format!("{error:?}").contains("secret") && !error.message().contains("sk-0123"),
        "{error:?}"
    );
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn a_rule_that_cannot_be_read_says_so_and_not_that_a_call_failed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(
        "ALTER TABLE aggregator_budgets DROP CONSTRAINT aggregator_budgets_period_check;
         INSERT INTO aggregator_budgets (period, limit_usd) VALUES ('fortnight', 1)",
    )
    .await
    .unwrap();
    let error = raised(&root, &chat_sql("{}")).await;
    assert_eq!((error.code().code(), error.constraint()), ("PT500", Some("database")));
    assert!(error.message().starts_with("cannot read the budgets and rate limits: "), "{error:?}");
    assert!(!error.message().contains("gateway"), "{error:?}");
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn frames_of_rust_are_shown_to_nobody_whatever_the_servers_environment_asks_for() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    for (name, configuration) in
        [("frames", ""), ("frames_preloaded", "shared_preload_libraries = 'aggregator'")]
    {
        let cluster = Cluster::make(name, configuration);
        cluster.up_with(&[("RUST_BACKTRACE", "1"), ("RUST_LIB_BACKTRACE", "full")]);
        let database = cluster.database().await;
        let root = prepare(&database, &upstream).await;
        root.batch_execute("SET statement_timeout = 0").await.unwrap();
        let asked = upstream.chat_count();
        let canceller = database.canceller(&root).await;
        let sql = chat_sql("{}");
        let (error, ()) = tokio::join!(raised(&root, &sql), async {
            upstream.wait_for_chats(asked + 1).await;
            canceller.cancel().await;
        });
        assert_eq!((error.code().code(), error.detail()), ("57014", None), "{name}");
        // An error of a statement inside a function of ours.
        root.batch_execute(
            "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER refuses BEFORE INSERT ON aggregator_jobs FOR EACH ROW EXECUTE FUNCTION refuses()",
        )
        .await
        .unwrap();
        let error = raised(&root, &format!("SELECT chat_submit('m', '{HELLO}')")).await;
        assert_eq!((error.code().code(), error.detail()), ("P0001", None), "{name}");
        let log = cluster.log();
        for frame in
            ["std::panicking", "stack backtrace", "rust_begin_unwind", "::unwind", "__libc_start"]
        {
            assert!(!log.contains(frame), "{name}: {frame} in {log}");
        }
    }
}
