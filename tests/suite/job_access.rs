//! Whose a job is, and who may do what with it.

use crate::bed::{self, failure, rows, shared, value};
use crate::fixtures::{HELLO, chat_sql, ended, ready, submit, submit_sql, user};
use crate::upstream::{Answer, Gate, Upstream};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_job_is_its_owners() {
    let upstream = Upstream::start(|seen| match seen.body.contains("stall") {
        true => Answer::Stall,
        false => Answer::hello(),
    })
    .await;
    let (database, _root) = ready(&upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    let done = submit(&a, "{}", "").await;
    assert_eq!(ended(&a, &done).await, "succeeded|hello|1");
    let running = submit(&a, r#"{"user": "stall"}"#, "").await;
    upstream.wait_for_chats(2).await;
    let queued = submit(&a, "{}", ", p_run_after => now() + interval '1 h'").await;
    assert_eq!(rows(&a, "SELECT id FROM aggregator_jobs").await.len(), 3);
    assert_eq!(rows(&b, "SELECT id FROM aggregator_jobs").await.len(), 0);
    for id in [&done, &running, &queued] {
        assert_eq!(rows(&b, &format!("SELECT * FROM chat_result('{id}')")).await.len(), 0);
        let wait = format!("SELECT * FROM chat_wait('{id}', 200)");
        assert_eq!(failure(&b, &wait).await.0, "PT404");
        // Not there, or not done: nothing that tells one from the other.
        let cancel = |id: &str| format!("SELECT chat_cancel('{id}')");
        let said = match b.simple_query(&cancel(id)).await {
            Ok(_) => value(&b, &cancel(id)).await.unwrap(),
            Err(error) => error.code().unwrap().code().to_owned(),
        };
        let nothing = match b.simple_query(&cancel("00000000-0000-4000-8000-000000000000")).await {
            Ok(_) => "f".to_owned(),
            Err(error) => error.code().unwrap().code().to_owned(),
        };
        assert_eq!(said, nothing);
        assert!(["f", "PT404"].contains(&said.as_str()), "{said}");
    }
    assert!(upstream.chats()[1].aborted.is_none());
    let statuses = "SELECT status FROM aggregator_jobs ORDER BY created_at";
    assert_eq!(rows(&a, statuses).await, ["succeeded", "running", "queued"]);
    // Administrators may.
    let service = database.rest("service_role", None).await;
    assert_eq!(ended(&service, &done).await, "succeeded|hello|1");
    assert_eq!(rows(&service, "SELECT DISTINCT user_id FROM aggregator_jobs").await, ["u-a"]);
    for id in [&running, &queued] {
        assert_eq!(value(&service, &format!("SELECT chat_cancel('{id}')")).await.unwrap(), "t");
    }
    upstream.wait_for_abort(1).await;
    assert_eq!(ended(&a, &running).await, "cancelled|∅|1");
}

#[tokio::test]
async fn nobody_writes_jobs_but_through_the_functions() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let a = user(&database, "u-a").await;
    let id = submit(&a, "{}", "").await;
    assert_eq!(ended(&a, &id).await, "succeeded|hello|1");
    let forbidden = [
        "INSERT INTO aggregator_jobs (user_id, model, request) VALUES ('u-a', 'm', '{}')",
        "UPDATE aggregator_jobs SET status = 'queued'",
        "UPDATE aggregator_jobs SET user_id = 'u-b'",
        "DELETE FROM aggregator_jobs",
        "TRUNCATE aggregator_jobs",
    ];
    for sql in forbidden {
        assert_eq!(failure(&a, sql).await.0, "42501", "{sql}");
    }
    // What setup scripts do: row-level security stands where the grants have fallen.
    root.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated, anon")
        .await
        .unwrap();
    assert_eq!(failure(&a, "INSERT INTO aggregator_jobs (user_id, model, request, status) VALUES ('u-a', 'm', '{}', 'queued')").await.0, "42501");
    for sql in &forbidden[1..4] {
        assert_eq!(a.execute(*sql, &[]).await.unwrap(), 0, "{sql}");
    }
    let anon = database.rest("anon", None).await;
    assert_eq!(rows(&anon, "SELECT count(*) FROM aggregator_jobs").await, ["0"]);
    for (client, sql) in [
        (&a, submit_sql("{}", ", p_user_id => 'u-b'")),
        (&a, submit_sql("{}", ", p_user_id => 'role:postgres'")),
    ] {
        assert_eq!(failure(client, &sql).await.0, "PT403", "{sql}");
    }
    assert_eq!(failure(&anon, &submit_sql("{}", "")).await.0, "42501");
    // For another, by an administrator: with that user's key, under that user's name.
    let service = database.rest("service_role", None).await;
    let before = upstream.chat_count();
    let theirs = submit(&service, "{}", ", p_user_id => 'u-a'").await;
    assert_eq!(ended(&a, &theirs).await, "succeeded|hello|1");
    assert_eq!(
        upstream.chats()[before].header("authorization"),
        Some("Bearer sk-good-u-a-0123456789")
    );
    let logged = format!("SELECT user_id FROM aggregator_usage_logs WHERE call_id = '{theirs}'");
    assert_eq!(rows(&root, &logged).await, ["u-a"]);
}

#[tokio::test]
async fn default_privileges_show_no_jobs() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    root.batch_execute(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon;
         CREATE EXTENSION aggregator",
    )
    .await
    .unwrap();
    let anon = database.rest("anon", None).await;
    for sql in [
        "SELECT * FROM aggregator_jobs",
        "SELECT * FROM aggregator_provider_health",
        "SELECT * FROM chat_result('00000000-0000-4000-8000-000000000000')",
        "SELECT * FROM chat_wait('00000000-0000-4000-8000-000000000000')",
        "SELECT chat_cancel('00000000-0000-4000-8000-000000000000')",
        "SELECT * FROM chat_many('[]')",
    ] {
        assert_eq!(failure(&anon, sql).await.0, "42501", "{sql}");
    }
}

#[tokio::test]
async fn an_open_transaction_of_one_holds_up_no_other() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| match seen.body.contains("stall") {
        true => Answer::held(&held, Answer::hello()),
        false => Answer::hello(),
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    value(&b, &chat_sql("{}")).await.unwrap();
    let before = upstream.chat_count();
    let mut jobs = vec![];
    for _ in 0..3 {
        jobs.push(submit(&a, r#"{"user": "stall"}"#, "").await);
    }
    upstream.wait_for_chats(before + 3).await;
    a.batch_execute("BEGIN").await.unwrap();
    value(&a, &format!("SELECT chat_cancel('{}')", jobs[0])).await;
    // The superuser can lock rows outright.
    root.batch_execute(&format!(
        "BEGIN; SELECT * FROM aggregator_jobs WHERE id = '{}' FOR UPDATE",
        jobs[1]
    ))
    .await
    .unwrap();
    // While the worker has something to write to both. Who waited for their locks, if only for a second at a time,
    // would need seconds for each call and for each job.
    gate.open();
    let began = Instant::now();
    for _ in 0..15 {
        value(&b, &chat_sql("{}")).await.unwrap();
        let id = submit(&b, "{}", "").await;
        assert_eq!(ended(&b, &id).await, "succeeded|hello|1");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    a.batch_execute("COMMIT").await.unwrap();
    root.batch_execute("COMMIT").await.unwrap();
    for id in &jobs[1..] {
        assert_eq!(ended(&a, id).await, "succeeded|hello|1");
    }
    let first = ended(&a, &jobs[0]).await;
    assert!(first.starts_with("cancelled|") || first.starts_with("succeeded|"), "{first}");
}

#[tokio::test]
async fn an_account_that_is_forgotten_has_no_jobs() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    for client in [&a, &b] {
        let id = submit(client, "{}", "").await;
        assert_eq!(ended(client, &id).await, "succeeded|hello|1");
    }
    submit(&a, "{}", ", p_run_after => now() + interval '1 h'").await;
    let service = database.rest("service_role", None).await;
    value(&service, "SELECT forget_user('u-a')").await.unwrap();
    assert_eq!(rows(&root, "SELECT user_id FROM aggregator_jobs").await, ["u-b"]);
}

#[tokio::test]
async fn a_job_needs_a_key_of_its_user() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, _root) = ready(&upstream).await;
    let c = database.rest("authenticated", Some("u-c")).await;
    let sql = format!("SELECT chat_submit('m', '{HELLO}')");
    // Refused at once, or the job fails with the same.
    match c.simple_query(&sql).await {
        Err(error) => assert_eq!(error.code().unwrap().code(), "PT404", "{}", bed::shown(&error)),
        Ok(_) => {
            let id = value(&c, "SELECT id FROM aggregator_jobs LIMIT 1").await.unwrap();
            assert!(ended(&c, &id).await.starts_with("failed|"));
            let error = bed::json(&c, "SELECT error FROM aggregator_jobs LIMIT 1").await;
            assert_eq!(error["sqlstate"], "PT404");
        }
    }
    assert_eq!(upstream.chat_count(), 0);
}
