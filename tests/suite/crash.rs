//! Jobs across crashes and restarts: nothing lost, nothing stuck, and every request in the ledger.

use crate::bed::{self, Cluster, PATIENCE, eventually, eventually_within, rows, value};
use crate::fixtures::{HELLO, WORKER, add_provider, ended, kill_worker, prepare, save_key, submit};
use crate::upstream::{Answer, Upstream, in_turn};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A preloaded cluster with one database that has the provider `standin` and a key.
async fn preloaded(name: &str, configuration: &str, upstream: &Upstream) -> (Cluster, String) {
    let cluster = Cluster::start(name, configuration);
    let name = {
        let database = cluster.database().await;
        prepare(&database, upstream).await;
        database.name.clone()
    };
    cluster.down("fast");
    cluster.configure(&format!(
        "shared_preload_libraries = 'aggregator'\naggregator.databases = '{name}'"
    ));
    cluster.up();
    (cluster, name)
}

#[tokio::test]
async fn preloaded_a_killed_worker_resumes_by_itself() {
    let upstream = Upstream::start(in_turn(vec![Answer::Stall, Answer::hello()])).await;
    let (cluster, database) = preloaded("jobkill", "", &upstream).await;
    let root = cluster.connect("postgres", &database).await;
    let id = submit(&root, "{}", "").await;
    let waiting = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    upstream.wait_for_chats(1).await;
    let root = kill_worker(&cluster, &database, root).await;
    // Nobody calls any function of ours.
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "succeeded").await;
    assert_eq!(ended(&root, &id).await, "succeeded|hello|2");
    assert_eq!(
        rows(&root, &format!("SELECT attempt, status, cost_source FROM aggregator_usage_logs WHERE call_id = '{id}' ORDER BY attempt")).await,
        ["1|unknown|incomplete", "2|success|computed"]
    );
    let left = format!("SELECT status FROM chat_result('{waiting}')");
    assert_eq!(value(&root, &left).await.unwrap(), "queued");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn an_immediate_shutdown_is_survived() {
    let upstream = Upstream::start(in_turn(vec![Answer::Stall, Answer::hello()])).await;
    let (cluster, database) = preloaded("jobdown", "", &upstream).await;
    let root = cluster.connect("postgres", &database).await;
    let id = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    cluster.down("immediate");
    upstream.wait_for_abort(0).await;
    cluster.up();
    let root = cluster.connect("postgres", &database).await;
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "succeeded").await;
    assert_eq!(
        rows(&root, "SELECT status FROM aggregator_usage_logs ORDER BY attempt").await,
        ["unknown", "success"]
    );
}

#[tokio::test]
async fn an_ordinary_restart_is_survived() {
    let upstream = Upstream::start(in_turn(vec![Answer::Stall, Answer::hello()])).await;
    let (cluster, database) = preloaded("jobrestart", "", &upstream).await;
    let root = cluster.connect("postgres", &database).await;
    let id = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    let began = Instant::now();
    cluster.down("fast");
    // It writes a checkpoint as well. A worker that does not leave has it wait for three minutes.
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    cluster.up();
    let root = cluster.connect("postgres", &database).await;
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "succeeded").await;
    assert_eq!(upstream.chat_count(), 2);
    let last = "SELECT status FROM aggregator_usage_logs ORDER BY attempt DESC LIMIT 1";
    assert_eq!(value(&root, last).await.unwrap(), "success");
    assert_eq!(
        value(
            &root,
            "SELECT count(*) FROM aggregator_usage_logs WHERE status IN ('cancelled', 'unknown')"
        )
        .await
        .unwrap(),
        "1"
    );
}

#[tokio::test]
async fn without_preloading_it_resumes_at_the_first_use() {
    let upstream = Upstream::start(in_turn(vec![Answer::Stall, Answer::hello()])).await;
    let cluster = Cluster::start("jobuse", "");
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let id = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    let root = kill_worker(&cluster, &database.name, root).await;
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    assert_eq!(value(&root, &status).await.unwrap(), "running", "nobody has been there yet");
    value(&root, "SELECT worker_pid FROM aggregator_status()").await;
    eventually(&root, &status, "succeeded").await;
    assert_eq!(ended(&root, &id).await, "succeeded|hello|2");
    assert_eq!(
        rows(&root, "SELECT attempt, status FROM aggregator_usage_logs ORDER BY attempt").await,
        ["1|unknown", "2|success"]
    );
}

#[tokio::test]
async fn a_worker_that_is_terminated_hands_its_jobs_on() {
    let upstream = Upstream::start(in_turn(vec![Answer::Stall, Answer::hello()])).await;
    let (cluster, database) = preloaded("jobterm", "", &upstream).await;
    let root = cluster.connect("postgres", &database).await;
    let id = submit(&root, "{}", "").await;
    upstream.wait_for_chats(1).await;
    let terminate = WORKER.replace("SELECT pid", "SELECT pg_terminate_backend(pid)");
    assert_eq!(value(&root, &terminate).await.unwrap(), "t");
    upstream.wait_for_abort(0).await;
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "succeeded").await;
    assert_eq!(
        rows(&root, "SELECT attempt, status FROM aggregator_usage_logs ORDER BY attempt").await,
        ["1|cancelled", "2|success"]
    );
}

#[tokio::test]
async fn what_kills_every_worker_fails_in_the_end() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (cluster, database) =
        preloaded("jobpoison", "aggregator.job_max_attempts = 2", &upstream).await;
    let mut root = cluster.connect("postgres", &database).await;
    let id = submit(&root, "{}", "").await;
    for attempt in 1..=2 {
        upstream.wait_for_chats(attempt).await;
        root = kill_worker(&cluster, &database, root).await;
    }
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    eventually(&root, &status, "failed").await;
    assert_eq!(
        rows(&root, "SELECT attempts, error ->> 'message' <> '', finished_at IS NOT NULL FROM aggregator_jobs").await,
        ["2|t|t"]
    );
    assert_eq!(
        rows(&root, "SELECT attempt, status FROM aggregator_usage_logs ORDER BY attempt").await,
        ["1|unknown", "2|unknown"]
    );
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_prepared_transaction_is_found() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (cluster, database) =
        preloaded("jobprepared", "max_prepared_transactions = 5", &upstream).await;
    let root = cluster.connect("postgres", &database).await;
    let mut ids = vec![];
    for name in ["kept", "gone"] {
        root.batch_execute("BEGIN").await.unwrap();
        ids.push(submit(&root, "{}", "").await);
        root.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(upstream.chat_count(), 0);
    // From another session, as such things are.
    let other = cluster.connect("postgres", &database).await;
    drop(root);
    other.batch_execute("COMMIT PREPARED 'kept'").await.unwrap();
    other.batch_execute("ROLLBACK PREPARED 'gone'").await.unwrap();
    let status = format!("SELECT status FROM aggregator_jobs WHERE id = '{}'", ids[0]);
    eventually(&other, &status, "succeeded").await;
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(value(&other, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "1");
}

#[tokio::test]
async fn ten_random_kills_lose_nothing_and_hide_nothing() {
    let delay = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| {
        let step = delay.fetch_add(7, Ordering::Relaxed) as u64;
        Answer::late(30 + step % 71, Answer::hello())
    })
    .await;
    // Few at a time, so that the work lasts for all the kills.
    let (cluster, database) = preloaded(
        "jobkills",
        "aggregator.job_max_attempts = 50\naggregator.max_in_flight_per_user = 6",
        &upstream,
    )
    .await;
    let mut root = cluster.connect("postgres", &database).await;
    let submitted = format!(
        "SELECT count(chat_submit('m', '{HELLO}', jsonb_build_object('user', 'j' || i))) FROM generate_series(1, 500) AS i"
    );
    assert_eq!(value(&root, &submitted).await.unwrap(), "500");
    let mut seed = u64::from(std::process::id()) + 1;
    for kill in 0..10 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_millis(20 + (seed >> 33) % 500);
        tokio::time::sleep(pause).await;
        root = kill_worker(&cluster, &database, root).await;
        println!("kill {kill} after {pause:?}: {} requests so far", upstream.chat_count());
    }
    let open = "SELECT count(*) FROM aggregator_jobs WHERE status NOT IN ('succeeded', 'failed', 'cancelled')";
    eventually_within(5 * PATIENCE, &root, open, "0").await;
    assert_eq!(
        rows(&root, "SELECT status, count(*), count(response) FROM aggregator_jobs GROUP BY 1")
            .await,
        ["succeeded|500|500"]
    );
    // Every request that the upstream saw has a row of its own.
    let mut seen: HashMap<String, u32> = HashMap::new();
    for chat in upstream.chats() {
        *seen.entry(chat.json()["user"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 500);
    let logged = rows(
        &root,
        "SELECT j.request ->> 'user', count(u.call_id), count(DISTINCT u.attempt), count(*) FILTER (WHERE u.status = 'success'), j.attempts
         FROM aggregator_jobs AS j LEFT JOIN aggregator_usage_logs AS u ON u.call_id = j.id GROUP BY j.id, j.request, j.attempts",
    )
    .await;
    let mut again = 0;
    for row in logged {
        let columns: Vec<_> = row.split('|').collect();
        let number = |i: usize| columns[i].parse::<u32>().unwrap();
        let sent = seen[columns[0]];
        assert!(number(1) >= sent, "{row}: the upstream saw {sent}");
        assert_eq!(number(1), number(2), "{row}: attempts are told apart");
        assert!(number(3) >= 1, "{row}: a success is in the log");
        assert!(number(4) >= 1 && number(4) <= 50, "{row}");
        again += sent - 1;
    }
    println!("{again} requests were made again after a kill");
    assert!(again <= 10 * 12, "{again}: only what was in flight is made again");
    let unsettled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&root, unsettled, "0").await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_large_batches_leaves_every_request_in_the_ledger() {
    // So many are answered: however late the kill comes, it comes before the end.
    let answered = Arc::new(AtomicUsize::new(0));
    let (arrived, most) = (AtomicUsize::new(0), answered.clone());
    let upstream = Upstream::start(move |_| {
        match arrived.fetch_add(1, Ordering::SeqCst) < most.load(Ordering::SeqCst) {
            true => Answer::late(20, Answer::hello()),
            false => Answer::Stall,
        }
    })
    .await;
    let (cluster, database) = preloaded("batchkill", "", &upstream).await;
    let mut root = cluster.connect("postgres", &database).await;
    for round in 0..3 {
        let before = upstream.chat_count();
        answered.store(before + 1600, Ordering::SeqCst);
        let caller = cluster.connect("postgres", &database).await;
        // 200 begin in one batch, and their answers come at the same time.
        let many = tokio::spawn(async move {
            let sql = format!(
                "SELECT count(*) FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'messages', '{HELLO}'::jsonb))
                 FROM generate_series(1, 2000)), '{{}}', 200)"
            );
            caller.simple_query(&sql).await.is_err()
        });
        upstream.wait_for_chats(before + 400 + 150 * round).await;
        root = kill_worker(&cluster, &database, root).await;
        assert!(many.await.unwrap(), "the kill ends the statement");
    }
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
    let rows: usize =
        value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap().parse().unwrap();
    // A row may have no request: the kill came between the two. No request is without a row.
    assert!(rows >= upstream.chat_count(), "{rows} rows, {} requests", upstream.chat_count());
    assert!(crate::reports::assert_equal(&root, "after the kills").await > 0);
}

#[tokio::test]
async fn a_job_whose_key_is_gone_fails_and_blocks_nobody() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    let later = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    value(&root, "SELECT remove_provider_key('standin')").await.unwrap();
    root.batch_execute("UPDATE aggregator_jobs SET run_after = now()").await.unwrap();
    assert_eq!(ended(&root, &later).await.split('|').next(), Some("failed"));
    let error = bed::json(&root, &format!("SELECT error FROM chat_result('{later}')")).await;
    assert_eq!(error["sqlstate"], "PT404", "{error}");
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    let next = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &next).await, "succeeded|hello|1");
    assert_eq!(upstream.chat_count(), 1);
}
