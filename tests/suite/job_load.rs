//! Many jobs: fairness, a backlog, and what is removed when it is over.

use crate::bed::{Cluster, eventually_within, value};
use crate::chat::{HELLO, chat_sql, prepare, user};
use crate::jobs::{ended, submit};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};

#[tokio::test]
async fn one_users_ten_thousand_do_not_hold_up_anothers_one() {
    let cluster = Cluster::start("fair", "aggregator.max_in_flight = 20");
    cluster.supabase_roles().await;
    let upstream = Upstream::start(|_| Answer::late(20, Answer::hello())).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    let ten_thousand =
        format!("SELECT count(chat_submit('m', '{HELLO}')) FROM generate_series(1, 10000)");
    assert_eq!(value(&a, &ten_thousand).await.unwrap(), "10000");
    upstream.wait_for_chats(50).await;
    let began = Instant::now();
    let id = submit(&b, "{}", "").await;
    assert_eq!(ended(&b, &id).await, "succeeded|hello|1");
    let waiting =
        "SELECT count(*) > 5000 FROM aggregator_jobs WHERE user_id = 'u-a' AND status = 'queued'";
    assert_eq!(value(&root, waiting).await.unwrap(), "t");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(upstream.most_at_once() <= 20, "{}", upstream.most_at_once());
    // Nor a call in a session.
    let began = Instant::now();
    value(&b, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // And they are all done in the end.
    let left = "SELECT count(*) FROM aggregator_jobs WHERE status <> 'succeeded'";
    eventually_within(Duration::from_secs(120), &root, left, "0").await;
    assert_eq!(upstream.chat_count(), 10_002);
}

#[tokio::test]
async fn what_is_long_over_is_removed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let removing = Cluster::start("retention", "aggregator.job_retention = '2s'");
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
    eventually_within(Duration::from_secs(40), &root, left, &waiting).await;
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
    assert!(committed.elapsed() < Duration::from_secs(3), "{:?}", committed.elapsed());
    let mut done = vec![];
    for _ in 0..3 {
        let before = upstream.chat_count();
        tokio::time::sleep(Duration::from_secs(2)).await;
        done.push(upstream.chat_count() - before);
        let running = "SELECT count(*) <= 1000 FROM aggregator_jobs WHERE status = 'running'";
        assert_eq!(value(&root, running).await.unwrap(), "t", "no more than are in flight");
    }
    // Steadily: the last two seconds like the first, give or take a busy machine.
    assert!(done[0] > 200 && done[2] > done[0] / 3, "{done:?}");
    let began = Instant::now();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
