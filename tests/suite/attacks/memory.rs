//! The gateway's memory: one user's prompts must not leave nothing for the others.

use crate::bed::{
    Cluster, Database, PATIENCE, eventually, eventually_within, failure, quoted, rows, value,
};
use crate::fixtures::{HELLO, add_named, save_key};
use crate::upstream::{Answer, Seen, USAGE, Upstream};
use std::time::Duration;
use tokio_postgres::Client;

async fn tenant(database: &Database<'_>, name: &str) -> Client {
    let client = database.rest("authenticated", Some(name)).await;
    save_key(&client, "standin", &format!("sk-good-{name}")).await;
    client
}

fn prompt(bytes: usize) -> String {
    quoted(&format!(r#"[{{"role":"user","content":"{}"}}]"#, "x".repeat(bytes)))
}

/// Longer than any test lasts.
const WAITS: &str = r#"{"timeout_ms": 600000, "max_retries": 0}"#;

async fn cluster(name: &str, handler: fn(&Seen) -> Answer) -> (Cluster, Upstream) {
    let settings = "aggregator.max_memory = 64MB\nlog_min_error_statement = panic";
    let cluster = Cluster::start(name, settings);
    cluster.supabase_roles().await;
    (cluster, Upstream::start(handler).await)
}

fn hangs_or_answers(seen: &Seen) -> Answer {
    match seen.json()["model"].as_str() {
        Some("hang") => Answer::Stall,
        // A large answer, and one that comes bit by bit.
        Some("large") => Answer::says(&"y".repeat(1_000_000), USAGE),
        _ => Answer::hello(),
    }
}

/// Sessions of a user, each with a large prompt that nobody answers.
async fn hog(database: &Database<'_>, name: &str, sessions: usize, upstream: &Upstream) {
    let mut begun = upstream.chat_count();
    for _ in 0..sessions {
        let client = tenant(database, name).await;
        let sql = format!("SELECT chat_complete('hang', {}, '{WAITS}')", prompt(2_000_000));
        let call = tokio::spawn(async move { client.simple_query(&sql).await.is_err() });
        while upstream.chat_count() == begun && !call.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if upstream.chat_count() == begun {
            assert!(call.await.unwrap(), "it is refused once there is no room");
            return;
        }
        begun = upstream.chat_count();
    }
    panic!("{sessions} prompts of {name} fit into its share");
}

#[tokio::test]
async fn one_user_cannot_take_all_of_the_memory() {
    let (cluster, upstream) = cluster("memory_share", hangs_or_answers).await;
    let database = cluster.database().await;
    let root = database.root().await;
    let models = ["m", "hang", "large"];
    add_named(&root, "standin", "openai", &upstream.base_url(), &models).await;
    hog(&database, "u-a", 33, &upstream).await;
    hog(&database, "u-b", 33, &upstream).await;
    // It is their own share that is taken.
    let a = tenant(&database, "u-a").await;
    let (code, message) =
        failure(&a, &format!("SELECT chat_complete('m', {})", prompt(2_000_000))).await;
    assert_eq!(code, "PT503", "{message}");
    assert!(message.contains("share"), "{message}");
    // Another one is served, with a prompt, with a large answer, with a job.
    let c = tenant(&database, "u-c").await;
    value(&c, &format!("SELECT chat_complete('m', {})", prompt(500_000))).await.unwrap();
    value(&c, &format!("SELECT chat_complete('large', '{HELLO}')")).await.unwrap();
    let before = upstream.chat_count();
    value(&c, &format!("SELECT chat_submit('large', '{HELLO}')")).await.unwrap();
    eventually(&c, "SELECT status FROM aggregator_jobs", "succeeded").await;
    assert_eq!(upstream.chat_count(), before + 1, "it was sent once");
    assert_eq!(
        rows(&root, "SELECT DISTINCT error_code FROM aggregator_usage_logs WHERE user_id = 'u-c'")
            .await,
        ["∅"]
    );
}

#[tokio::test]
async fn a_job_that_waits_for_memory_has_not_been_run_and_is_sent_once() {
    let (cluster, upstream) = cluster("memory_job", hangs_or_answers).await;
    let database = cluster.database().await;
    let root = database.root().await;
    let models = ["m", "hang", "large"];
    add_named(&root, "standin", "openai", &upstream.base_url(), &models).await;
    hog(&database, "u-a", 33, &upstream).await;
    let sent = upstream.chat_count();
    let a = tenant(&database, "u-a").await;
    value(&a, &format!("SELECT chat_submit('m', {})", prompt(2_000_000))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(upstream.chat_count(), sent, "there is no memory for it");
    let waits =
        rows(&a, "SELECT status IN ('queued', 'running'), error IS NULL FROM aggregator_jobs")
            .await;
    assert_eq!(waits, ["t|t"]);
    // The sessions that hold it go away.
    root.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%hang%' AND pid <> pg_backend_pid()").await.unwrap();
    eventually(&a, "SELECT status FROM aggregator_jobs", "succeeded").await;
    assert_eq!(value(&a, "SELECT attempts FROM aggregator_jobs").await.unwrap(), "1");
    assert_eq!(upstream.chat_count(), sent + 1);
}

#[tokio::test]
async fn jobs_that_need_more_memory_than_there_is_come_one_after_the_other() {
    let (cluster, upstream) = cluster("memory_jobs", hangs_or_answers).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m"]).await;
    let a = tenant(&database, "u-a").await;
    // Its share is 24 MB, and these have 80; one of them alone cannot be sent in any share.
    let sql = format!("SELECT chat_submit('m', {}) FROM generate_series(1, 40)", prompt(2_000_000));
    value(&a, &sql).await.unwrap();
    value(&a, &format!("SELECT chat_submit('m', {})", prompt(13_000_000))).await.unwrap();
    let ended = "SELECT string_agg(status || ' ' || count, ', ' ORDER BY status)
                 FROM (SELECT status, count(*) FROM aggregator_jobs GROUP BY status) AS s";
    eventually_within(5 * PATIENCE, &a, ended, "failed 1, succeeded 40").await;
    assert_eq!(
        rows(&a, "SELECT error ->> 'code', error ->> 'sqlstate' FROM aggregator_jobs WHERE status = 'failed'").await,
        ["out_of_memory|PT503"]
    );
    assert_eq!(value(&a, "SELECT max(attempts) FROM aggregator_jobs").await.unwrap(), "1");
    assert_eq!(upstream.chat_count(), 40);
}

#[tokio::test]
async fn a_job_whose_answer_does_not_fit_is_not_sent_again() {
    let (cluster, upstream) = cluster("memory_answer", |seen| {
        if seen.body.contains("endless") { Answer::Endless(256 << 20) } else { Answer::hello() }
    })
    .await;
    cluster.configure("aggregator.max_response_size = 128MB\naggregator.max_memory = 16MB");
    cluster.reload();
    let database = cluster.database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m"]).await;
    let a = tenant(&database, "u-a").await;
    let messages = HELLO.replace("hi", "endless");
    value(&a, &format!("SELECT chat_submit('m', '{messages}')")).await.unwrap();
    eventually(&a, "SELECT status FROM aggregator_jobs", "failed").await;
    assert_eq!(
        rows(&a, "SELECT attempts, error ->> 'code', error ->> 'sqlstate' FROM aggregator_jobs")
            .await,
        ["1|out_of_memory|PT503"]
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(upstream.chat_count(), 1, "an answer that was paid for is not asked for again");
    assert_eq!(
        rows(&a, "SELECT status, error_code FROM aggregator_usage_logs").await,
        ["error|out_of_memory"]
    );
}

#[tokio::test]
async fn frames_of_other_sessions_are_read_while_one_sends_the_largest() {
    let (cluster, upstream) = cluster("memory_frames", hangs_or_answers).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m"]).await;
    // A prompt that never fits is refused, and nothing of it stays.
    let a = tenant(&database, "u-a").await;
    let sql = format!("SELECT chat_complete('m', {})", prompt(14_000_000));
    for _ in 0..3 {
        assert_eq!(failure(&a, &sql).await.0, "PT503");
    }
    assert_eq!(upstream.chat_count(), 0);
    value(&a, &format!("SELECT chat_complete('m', {})", prompt(5_000_000))).await.unwrap();
}
