//! Many jobs: fairness, a backlog, and what is removed when it is over.

use crate::bed::{Cluster, eventually, eventually_within, processor_time, value};
use crate::fixtures::{HELLO, chat_sql, ended, prepare, submit, user};
use crate::upstream::{Answer, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[tokio::test]
async fn one_users_ten_thousand_do_not_hold_up_anothers_one() {
    let cluster = Cluster::start("fair", "aggregator.max_in_flight = 20");
    cluster.supabase_roles().await;
    // All of them take 50 seconds.
    let late = Arc::new(AtomicU64::new(100));
    let upstream = Upstream::start({
        let late = late.clone();
        move |_| Answer::late(late.load(Ordering::SeqCst), Answer::hello())
    })
    .await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    let ten_thousand =
        format!("SELECT count(chat_submit('m', '{HELLO}')) FROM generate_series(1, 10000)");
    assert_eq!(value(&a, &ten_thousand).await.unwrap(), "10000");
    upstream.wait_for_chats(50).await;
    let id = submit(&b, "{}", "").await;
    assert_eq!(ended(&b, &id).await, "succeeded|hello|1");
    // Of those that were there before it.
    let waiting = format!(
        "SELECT count(*) > 5000 FROM aggregator_jobs AS a, aggregator_jobs AS b
         WHERE b.id = '{id}' AND a.user_id = 'u-a' AND (a.finished_at IS NULL OR a.finished_at > b.finished_at)"
    );
    assert_eq!(value(&root, &waiting).await.unwrap(), "t");
    assert!(upstream.most_at_once() <= 20, "{}", upstream.most_at_once());
    // Nor a call in a session.
    let began = Instant::now();
    value(&b, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    late.store(5, Ordering::SeqCst);
    // And they are all done in the end.
    let left = "SELECT count(*) FROM aggregator_jobs WHERE status <> 'succeeded'";
    eventually_within(Duration::from_secs(240), &root, left, "0").await;
    assert_eq!(upstream.chat_count(), 10_002);
}

#[tokio::test]
async fn what_is_long_over_is_removed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let removing = Cluster::start("retention", "aggregator.job_retention = '8s'");
    let keeping = Cluster::start("keeping", "aggregator.job_retention = 0");
    let (database, other) = (removing.database().await, keeping.database().await);
    let root = prepare(&database, &upstream).await;
    let keeper = prepare(&other, &upstream).await;
    let kept = submit(&keeper, "{}", "").await;
    assert_eq!(ended(&keeper, &kept).await, "succeeded|hello|1");
    let waiting = submit(&root, "{}", ", p_run_after => now() + interval '1 h'").await;
    let done = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &done).await, "succeeded|hello|1");
    let left = "SELECT string_agg(id::text, ' ') FROM aggregator_jobs";
    eventually(&root, left, &waiting).await;
    // What it cost stays.
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "1");
    assert_eq!(value(&keeper, left).await.unwrap(), kept);
}

#[tokio::test]
async fn a_backlog_of_a_hundred_thousand_starts_at_once_and_drains() {
    let cluster = Cluster::start("backlog", "");
    let upstream = Upstream::start(|_| Answer::late(5, Answer::hello())).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let backlog =
        format!("SELECT count(chat_submit('m', '{HELLO}')) FROM generate_series(1, 100000)");
    root.batch_execute("BEGIN").await.unwrap();
    assert_eq!(value(&root, &backlog).await.unwrap(), "100000");
    assert_eq!(upstream.chat_count(), 0);
    root.batch_execute("COMMIT").await.unwrap();
    let committed = Instant::now();
    upstream.wait_for_chats(100).await;
    assert!(committed.elapsed() < Duration::from_secs(20), "{:?}", committed.elapsed());
    let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let mut took = vec![];
    for _ in 0..3 {
        let (chats, before) = (upstream.chat_count(), processor_time(&pid));
        upstream.wait_for_chats(chats + 2000).await;
        let more = u32::try_from(upstream.chat_count() - chats).unwrap();
        took.push((processor_time(&pid) - before) / more);
        let running = "SELECT count(*) <= 1000 FROM aggregator_jobs WHERE status = 'running'";
        assert_eq!(value(&root, running).await.unwrap(), "t", "no more than are in flight");
    }
    // Steadily: the last of them take the worker no more than the first.
    assert!(took[2] < took[0] * 3, "{took:?}");
    let began = Instant::now();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
