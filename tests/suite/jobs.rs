//! Durable jobs: there if and only if their transaction commits, run once, and fair.

use crate::bed::{self, eventually, failure, heard, rows, value};
use crate::fixtures::{HELLO, WORKERS, chat_sql, ended, ready, submit, submit_sql, user};
use crate::upstream::{Answer, Gate, Upstream, echo, in_turn};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_job_runs_at_commit_and_not_before() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("BEGIN").await.unwrap();
    let id = submit(&root, r#"{"temperature": 0.5}"#, "").await;
    assert_eq!(
        rows(&root, &format!("SELECT id, status, response, content, error, cost, attempts, started_at, finished_at FROM chat_result('{id}')")).await,
        [format!("{id}|queued|∅|∅|∅|∅|0|∅|∅")]
    );
    // A wait would last for ever.
    root.batch_execute("SAVEPOINT s").await.unwrap();
    let wait = format!("SELECT * FROM chat_wait('{id}')");
    assert_eq!(failure(&root, &wait).await.0, "PT400");
    root.batch_execute("ROLLBACK TO s").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(upstream.chat_count(), 0);
    let committed = Instant::now();
    root.batch_execute("COMMIT").await.unwrap();
    upstream.wait_for_chats(1).await;
    assert!(committed.elapsed() < Duration::from_secs(20), "{:?}", committed.elapsed());
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    let response = bed::json(&root, &format!("SELECT response FROM chat_result('{id}')")).await;
    assert_eq!(response["choices"][0]["message"]["content"], "hello");
    assert_eq!(response["aggregator"]["provider"], "standin");
    assert_eq!(
        rows(
            &root,
            &format!(
                "SELECT j.user_id, j.status, j.model, j.provider_name, j.served_model, j.cost = 0.00007, j.cost_source, j.error,
                    j.created_at <= j.started_at, j.started_at <= j.finished_at, j.request ->> 'temperature', j.request -> 'messages' -> 0 ->> 'content'
                 FROM aggregator_jobs AS j WHERE id = '{id}'"
            )
        )
        .await,
        ["role:postgres|succeeded|m|standin|m-served|t|computed|∅|t|t|0.5|hi"]
    );
    // Its usage is found by its id.
    assert_eq!(
        rows(&root, &format!("SELECT attempt, status, total_tokens FROM aggregator_usage_logs WHERE call_id = '{id}'")).await,
        ["1|success|15"]
    );
    assert_eq!(upstream.chats()[0].json()["temperature"], 0.5);
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn what_is_rolled_back_never_was() {
    let upstream = Upstream::start(echo).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("BEGIN").await.unwrap();
    let gone = submit(&root, r#"{"user": "gone"}"#, "").await;
    root.batch_execute("ROLLBACK; BEGIN").await.unwrap();
    let kept = submit(&root, r#"{"user": "kept"}"#, "").await;
    root.batch_execute("SAVEPOINT s").await.unwrap();
    submit(&root, r#"{"user": "gone"}"#, "").await;
    root.batch_execute("ROLLBACK TO SAVEPOINT s; SAVEPOINT t").await.unwrap();
    let kept_too = submit(&root, r#"{"user": "kept"}"#, "").await;
    root.batch_execute("RELEASE t; COMMIT").await.unwrap();
    for id in [&kept, &kept_too] {
        assert_eq!(ended(&root, id).await, "succeeded|re: hi|1");
    }
    // Only a rollback of what is left; the session's next commit wakes nobody for it.
    let after = submit(&root, r#"{"user": "kept"}"#, "").await;
    assert_eq!(ended(&root, &after).await, "succeeded|re: hi|1");
    assert_eq!(upstream.chat_count(), 3);
    assert!(upstream.chats().iter().all(|chat| chat.json()["user"] == "kept"));
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "3");
    assert_eq!(rows(&root, &format!("SELECT * FROM chat_result('{gone}')")).await.len(), 0);
    assert_eq!(failure(&root, &format!("SELECT * FROM chat_wait('{gone}')")).await.0, "PT404");
}

#[tokio::test]
async fn nobody_need_stay_for_a_job() {
    let upstream = Upstream::start(|_| Answer::late(300, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    // The commit finds no worker, and the session is gone right after it.
    let client = database.root().await;
    eventually(&root, WORKERS, "0").await;
    let id = submit(&client, "{}", "").await;
    drop(client);
    upstream.wait_for_chats(1).await;
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "succeeded").await;
    // Many small transactions in a row wake it as one does.
    let mut ids = vec![];
    for _ in 0..50 {
        ids.push(submit(&root, "{}", "").await);
    }
    for id in ids {
        assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    }
    assert_eq!(upstream.chat_count(), 51);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    for sql in [
        submit_sql(r#"{"temprature": 1}"#, ""),
        "SELECT chat_submit('m', '\"hi\"')".into(),
        format!("SELECT chat_submit('', '{HELLO}')"),
    ] {
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{sql}");
    }
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "0");
}

#[tokio::test]
async fn one_key_is_one_job() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let keyed = ", p_idempotency_key => 'order-7'";
    let first = submit(&root, "{}", keyed).await;
    assert_eq!(submit(&root, "{}", keyed).await, first);
    assert_eq!(ended(&root, &first).await, "succeeded|hello|1");
    // Also when it is long done.
    assert_eq!(submit(&root, "{}", keyed).await, first);
    let other = submit_sql(r#"{"temperature": 0.5}"#, keyed);
    let (code, message) = failure(&root, &other).await;
    assert_eq!(code, "PT409", "{message}");
    // Another user's key of the same name is another key.
    let a = user(&database, "u-a").await;
    let theirs = submit(&a, "{}", keyed).await;
    assert_ne!(theirs, first);
    assert_eq!(ended(&a, &theirs).await, "succeeded|hello|1");
    assert_eq!(upstream.chat_count(), 2);

    // Ten at once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = database.root().await;
        tasks.spawn(async move { submit(&client, "{}", ", p_idempotency_key => 'k'").await });
    }
    let mut ids = tasks.join_all().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(ended(&root, &ids[0]).await, "succeeded|hello|1");
    assert_eq!(upstream.chat_count(), 3);

    // While the first is not committed yet, the second waits to see.
    const WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let watch = database.root().await;
    for (end, is_same) in [("COMMIT", true), ("ROLLBACK", false)] {
        let early = database.root().await;
        let key = format!(", p_idempotency_key => 'k-{end}'");
        early.batch_execute("BEGIN").await.unwrap();
        let before = submit(&early, "{}", &key).await;
        let late = async {
            let id = submit(&root, "{}", &key).await;
            assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
            id
        };
        let finish = async {
            eventually(&watch, WAITS, "1").await;
            early.batch_execute(end).await.unwrap();
        };
        let (after, ()) = tokio::join!(late, finish);
        assert_eq!(after == before, is_same, "{end}");
    }
    assert_eq!(upstream.chat_count(), 5);
}

#[tokio::test]
async fn a_job_can_wait_for_its_time() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let later = submit(&root, "{}", ", p_run_after => now() + interval '8 s'").await;
    let past = submit(&root, "{}", ", p_run_after => now() - interval '1 day'").await;
    assert_eq!(ended(&root, &past).await, "succeeded|hello|1");
    assert_eq!(upstream.chat_count(), 1);
    let began = Instant::now();
    let waited = format!("SELECT status, attempts FROM chat_wait('{later}', 300)");
    assert_eq!(rows(&root, &waited).await, ["queued|0"]);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    assert_eq!(ended(&root, &later).await, "succeeded|hello|1");
    let punctual = format!(
        "SELECT started_at - run_after BETWEEN '0' AND interval '20 s' FROM aggregator_jobs WHERE id = '{later}'"
    );
    assert_eq!(value(&root, &punctual).await.unwrap(), "t");
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_over() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (_database, root) = ready(&upstream).await;
    let id = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    let began = Instant::now();
    let wait = format!(
        "SELECT status, content, started_at IS NOT NULL, finished_at FROM chat_wait('{id}', 400)"
    );
    assert_eq!(rows(&root, &wait).await, ["running|∅|t|∅"]);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(350) && took < Duration::from_secs(20), "{took:?}");
    gate.open();
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    // What is over is not waited for.
    let began = Instant::now();
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    assert!(began.elapsed() < Duration::from_secs(30));
    let unknown = "SELECT * FROM chat_wait('00000000-0000-4000-8000-000000000000')";
    assert_eq!(failure(&root, unknown).await.0, "PT404");
    // Whoever waits can be cancelled, and the job goes on.
    gate.shut();
    let id = submit(&root, "{}", "").await;
    root.batch_execute("SET statement_timeout = 500").await.unwrap();
    let began = Instant::now();
    let _ = root.simple_query(&format!("SELECT * FROM chat_wait('{id}')")).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    root.batch_execute("RESET statement_timeout").await.unwrap();
    gate.open();
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
}

#[tokio::test]
async fn a_job_can_be_cancelled_before_and_while_it_runs() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (_database, root) = ready(&upstream).await;
    let queued = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    let cancel = |id: &str| format!("SELECT chat_cancel('{id}')");
    assert_eq!(value(&root, &cancel(&queued)).await.unwrap(), "t");
    assert_eq!(ended(&root, &queued).await, "cancelled|∅|0");
    assert_eq!(value(&root, &cancel(&queued)).await.unwrap(), "f");

    let running = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    let status = format!("SELECT status FROM chat_result('{running}')");
    eventually(&root, &status, "running").await;
    let at = Instant::now();
    assert_eq!(value(&root, &cancel(&running)).await.unwrap(), "t");
    let aborted = upstream.wait_for_abort(0).await.saturating_duration_since(at);
    assert!(aborted < Duration::from_secs(20), "{aborted:?}");
    assert_eq!(ended(&root, &running).await, "cancelled|∅|1");
    let logged = format!("SELECT status FROM aggregator_usage_logs WHERE call_id = '{running}'");
    eventually(&root, &logged, "cancelled").await;
    let over = "SELECT count(*) FROM aggregator_jobs WHERE finished_at IS NULL";
    assert_eq!(value(&root, over).await.unwrap(), "0");
    assert_eq!(upstream.chat_count(), 1, "and it is not run again");
}

#[tokio::test]
async fn refusals_end_a_job_and_troubles_do_not() {
    let upstream = Upstream::start(in_turn(vec![
        Answer::Full(
            400,
            vec![("x-request-id", "req-7".into())],
            r#"{"error":{"message":"bad","code":"invalid_value"}}"#.into(),
        ),
        Answer::json(503, r#"{"error":{"message":"busy"}}"#),
        Answer::hello(),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    let refused = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &refused).await, "failed|∅|1");
    let error = bed::json(&root, &format!("SELECT error FROM chat_result('{refused}')")).await;
    assert_eq!(error["sqlstate"], "PT400");
    assert_eq!(error["code"], "invalid_value");
    assert_eq!(error["upstream_status"], 400);
    assert_eq!(error["request_id"], "req-7");
    assert!(error["message"].as_str().unwrap().contains("'standin'"), "{error}");
    assert_eq!(upstream.chat_count(), 1);
    let second = submit(&root, "{}", "").await;
    assert!(ended(&root, &second).await.starts_with("succeeded|hello|"));
    assert_eq!(
        rows(&root, &format!("SELECT attempt, status, http_status FROM aggregator_usage_logs WHERE call_id = '{second}' ORDER BY attempt")).await,
        ["1|error|503", "2|success|200"]
    );
}

#[tokio::test]
async fn each_result_is_written_when_it_arrives() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| match seen.body.contains("slow") {
        true => Answer::held(&held, Answer::hello()),
        false => Answer::hello(),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("BEGIN").await.unwrap();
    let slow = submit(&root, r#"{"user": "slow"}"#, "").await;
    let mut quick = vec![];
    for _ in 0..5 {
        quick.push(submit(&root, "{}", "").await);
    }
    root.batch_execute("COMMIT").await.unwrap();
    for id in quick {
        assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    }
    let status = format!("SELECT status FROM chat_result('{slow}')");
    assert_eq!(value(&root, &status).await.unwrap(), "running");
    gate.open();
    assert_eq!(ended(&root, &slow).await, "succeeded|hello|1");
}

#[tokio::test]
async fn completion_is_told_and_published() {
    let upstream = Upstream::start(in_turn(vec![Answer::hello(), Answer::json(400, "{}")])).await;
    let (database, root) = ready(&upstream).await;
    root.batch_execute("CREATE PUBLICATION p FOR TABLE aggregator_jobs").await.unwrap();
    let (listener, lines) = database.listener().await;
    listener.batch_execute("LISTEN aggregator_jobs").await.unwrap();
    let mut expected = vec![];
    for status in ["succeeded|hello|1", "failed|∅|1"] {
        let id = submit(&root, "{}", "").await;
        assert_eq!(ended(&root, &id).await, status);
        expected.push(format!("aggregator_jobs {id}"));
    }
    let cancelled = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    value(&root, &format!("SELECT chat_cancel('{cancelled}')")).await;
    expected.push(format!("aggregator_jobs {cancelled}"));
    assert_eq!(heard(&lines, expected.len()).await, expected);
}

#[tokio::test]
async fn a_call_that_runs_out_of_time_can_become_a_job() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("SET statement_timeout = '5s'").await.unwrap();
    let answer = bed::json(&root, &chat_sql(r#"{"on_deadline": "queue"}"#)).await;
    let about = &answer["aggregator"];
    assert!(["queued", "running"].contains(&about["status"].as_str().unwrap()), "{answer}");
    let id = about["job_id"].as_str().unwrap().to_owned();
    root.batch_execute("RESET statement_timeout").await.unwrap();
    gate.open();
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
    // The request that was in flight went on: nothing was sent, or paid for, twice.
    assert_eq!(upstream.chat_count(), 1);
    assert!(upstream.chats()[0].aborted.is_none());
    assert_eq!(
        rows(&root, "SELECT status, cost_source FROM aggregator_usage_logs").await,
        ["success|computed"]
    );
    assert_eq!(failure(&root, &chat_sql(r#"{"on_deadline": "explode"}"#)).await.0, "PT400");
}
