//! Jobs under locks, rollbacks, limits and oversize: what was paid for is kept, and nobody is held
//! up by what another does.

use crate::bed::{self, Cluster, eventually, failure, rows, value};
use crate::fixtures::{HELLO, WORKERS, chat_sql, ended, prepare, ready, submit, submit_sql, user};
use crate::upstream::{Answer, Gate, Upstream, in_turn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[tokio::test]
async fn an_answer_outlives_a_lock_on_the_table_of_jobs() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let job = submit(&root, "{}", "").await;
    let locker = database.root().await;
    upstream.wait_for_chats(1).await;
    locker.batch_execute("BEGIN; LOCK TABLE aggregator_jobs IN SHARE MODE").await.unwrap();
    gate.open();
    eventually(&root, "SELECT status FROM aggregator_usage_logs", "success").await;
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ended(&root, &job).await, "succeeded|hello|1");
    assert_eq!(
        rows(&root, "SELECT cost = 0.00007, cost_source FROM aggregator_jobs").await,
        ["t|computed"]
    );
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn a_hand_over_that_is_rolled_back_is_aborted_and_holds_nobody() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("SET statement_timeout = 4000").await.unwrap();
    for turn in 0..2 {
        root.batch_execute("BEGIN").await.unwrap();
        let said = bed::json(&root, &chat_sql(r#"{"on_deadline": "queue"}"#)).await;
        assert_eq!(said["aggregator"]["status"], "running", "{said}");
        root.batch_execute("ROLLBACK").await.unwrap();
        upstream.wait_for_abort(turn).await;
    }
    root.batch_execute("SET statement_timeout = 0").await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled'", "2")
        .await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "0");
    // Nothing keeps the worker.
    eventually(&root, WORKERS, "0").await;
}

#[tokio::test]
async fn a_job_waits_for_its_turn_longer_than_it_may_take() {
    let cluster = Cluster::start("jobturn", "aggregator.max_in_flight_per_key = 1");
    let late = Arc::new(AtomicU64::new(800));
    let upstream = Upstream::start({
        let late = late.clone();
        move |_| Answer::late(late.load(Ordering::SeqCst), Answer::hello())
    })
    .await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    root.batch_execute(&format!(
        "SELECT count({}) FROM generate_series(1, 6)",
        submit_sql(r#"{"timeout_ms": 4000}"#, "").trim_start_matches("SELECT ")
    ))
    .await
    .unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "6").await;
    assert_eq!(upstream.most_at_once(), 1);
    // A session's call says why it was not asked.
    let other = database.root().await;
    late.store(600_000, Ordering::SeqCst);
    let (chats, sql) = (upstream.chat_count(), chat_sql(r#"{"timeout_ms": 3000}"#));
    let busy = async {
        upstream.wait_for_chats(chats + 1).await;
        failure(&other, &sql).await
    };
    let held = chat_sql(r#"{"timeout_ms": 600000}"#);
    let (code, message) = tokio::select! {
        answer = value(&root, &held) => panic!("{answer:?} came before the turn was asked for"),
        refused = busy => refused,
    };
    assert_eq!(code, "PT504", "{message}");
    assert!(message.contains("concurrency limit"), "{message}");
}

#[tokio::test]
async fn users_take_turns_however_their_jobs_end() {
    let cluster = Cluster::start("jobturns", "aggregator.max_in_flight = 3");
    let count = AtomicU64::new(0);
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let turn = count.fetch_add(1, Ordering::SeqCst);
        Answer::held(&held, Answer::late(20 + turn % 7 * 9, Answer::hello()))
    })
    .await;
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let many = |jobs: u32| {
        let one = submit_sql("{}", "").trim_start_matches("SELECT ").to_owned();
        format!("SELECT count({one}) FROM generate_series(1, {jobs})")
    };
    for (name, jobs) in [("bob", 150), ("alice", 12), ("carol", 3)] {
        let client = user(&database, name).await;
        client.batch_execute(&many(jobs)).await.unwrap();
    }
    gate.open();
    eventually(
        &root,
        "SELECT count(*) FROM aggregator_jobs WHERE user_id IN ('alice', 'carol') AND status = 'succeeded'",
        "15",
    )
    .await;
    let bobs = value(
        &root,
        "SELECT count(*) FROM aggregator_jobs WHERE user_id = 'bob'
             AND finished_at <= (SELECT max(finished_at) FROM aggregator_jobs WHERE user_id <> 'bob')",
    )
    .await;
    let bobs: u32 = bobs.unwrap().parse().unwrap();
    assert!(bobs < 100, "{bobs} of Bob's were done before Alice's twelve");
}

#[tokio::test]
async fn jobs_of_the_future_hold_up_nobody() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(
        "INSERT INTO aggregator_jobs (user_id, model, request, run_after)
         SELECT 'a' || i, 'm', '{}', now() + interval '1 day' FROM generate_series(1, 3000) AS i",
    )
    .await
    .unwrap();
    let began = Instant::now();
    let job = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &job).await, "succeeded|hello|1");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    root.batch_execute("DELETE FROM aggregator_jobs").await.unwrap();
}

#[tokio::test]
async fn jobs_that_cannot_be_run_fail_by_themselves() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(
        "INSERT INTO aggregator_jobs (user_id, model, request)
         SELECT 'nobody', 'm', jsonb_build_object('model', 'm', 'messages', '[{\"role\": \"user\", \"content\": \"x\"}]'::jsonb)
         FROM generate_series(1, 50);
         INSERT INTO aggregator_jobs (user_id, model, request) VALUES ('role:postgres', 'm', '{\"nonsense\": 1}')",
    )
    .await
    .unwrap();
    value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'failed'", "51").await;
    assert_eq!(
        rows(&root, "SELECT DISTINCT error ->> 'code' FROM aggregator_jobs ORDER BY 1").await,
        ["bad_request", "no_route"]
    );
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn a_request_too_large_to_keep_is_refused() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let sql = "SELECT chat_submit('m', jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('x', 17000000))))";
    assert_eq!(failure(&root, sql).await.0, "PT413");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "0");
}

#[tokio::test]
async fn absurd_numbers_of_an_upstream_do_no_harm() {
    let refuse = |after: &'static str| {
        Answer::Full(
            429,
            vec![("retry-after", after.into())],
            r#"{"error":{"message":"slow"}}"#.into(),
        )
    };
    let upstream = Upstream::start(in_turn(vec![
        refuse("1e19"),
        refuse("99999999999"),
        Answer::says("big", r#"{"prompt_tokens":2000000000,"completion_tokens":2000000000}"#),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    for _ in 0..2 {
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT429", "{message}");
        assert!(message.contains("3600 seconds"), "{message}");
    }
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(
        rows(
            &root,
            "SELECT total_tokens, cost_estimate FROM aggregator_usage_logs WHERE status = 'success'"
        )
        .await,
        ["2147483647|24000"]
    );
}

#[tokio::test]
async fn a_restored_row_that_is_running_for_nobody_is_run() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let job = value(
        &root,
        &format!(
            "INSERT INTO aggregator_jobs (user_id, model, status, epoch, attempts, request)
             VALUES ('role:postgres', 'm', 'running', 1, 1, jsonb_build_object('model', 'm', 'messages', '{HELLO}'::jsonb)) RETURNING id"
        ),
    )
    .await
    .unwrap();
    value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    assert_eq!(ended(&root, &job).await, "succeeded|hello|2");
}
