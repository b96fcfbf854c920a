//! One user's jobs that wait are bounded, in number, in bytes and in time, however they are submitted.

use crate::bed::{Cluster, Database, eventually, failure, value};
use crate::fixtures::{HELLO, add_provider, save_key};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const LATER: &str = "now() + interval '1 d'";

fn submit(count: usize) -> String {
    format!(
        "SELECT count(chat_submit('m', '{HELLO}', p_run_after => {LATER})) FROM generate_series(1, {count})"
    )
}

/// A cluster where a hundred jobs, and 64 kB of them, may wait of each user.
fn cluster(name: &str) -> Cluster {
    let limits =
        "aggregator.max_queued_jobs_per_user = 100\naggregator.max_queued_size_per_user = '64kB'";
    Cluster::start(name, &format!("{limits}\nmax_prepared_transactions = 5"))
}

async fn user(database: &Database<'_>, name: &str) -> Client {
    let client = database.rest("authenticated", Some(name)).await;
    save_key(&client, "standin", "sk-good-0123456789abcdef").await;
    client
}

async fn prepare<'a>(cluster: &'a Cluster, upstream: &Upstream) -> (Database<'a>, Client) {
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    (database, root)
}

#[tokio::test]
async fn one_user_cannot_queue_more_jobs_than_the_limit() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queue");
    let (database, root) = prepare(&cluster, &upstream).await;
    let (one, other) = (user(&database, "u-1").await, user(&database, "u-2").await);
    // Neither in one statement,
    let (code, text) = failure(&one, &submit(101)).await;
    assert_eq!(code, "PT429", "{text}");
    assert!(text.contains("100 jobs") && text.contains("max_queued_jobs_per_user"), "{text}");
    assert_eq!(value(&one, &submit(100)).await.unwrap(), "100");
    // nor one after the other,
    for _ in 0..3 {
        assert_eq!(failure(&one, &submit(1)).await.0, "PT429");
    }
    // nor from another session, nor as what a call becomes whose time is over.
    let again = database.rest("authenticated", Some("u-1")).await;
    assert_eq!(failure(&again, &submit(1)).await.0, "PT429");
    let queued = format!(
        "SET statement_timeout = 2000; SELECT pg_sleep(1.95), chat_complete('m', '{HELLO}', '{{\"on_deadline\": \"queue\"}}')"
    );
    // The statement's own time may be over first, if the machine does something else.
    let mut code = "57014".to_owned();
    for _ in 0..10 {
        if code == "57014" {
            code = failure(&again, &queued).await.0;
        }
    }
    assert_eq!(code, "PT429");
    again.batch_execute("RESET statement_timeout").await.unwrap();
    // Others are not meant.
    assert_eq!(value(&other, &submit(100)).await.unwrap(), "100");
    // There is room again once one is over.
    let cancel =
        "SELECT chat_cancel((SELECT id FROM aggregator_jobs WHERE status = 'queued' LIMIT 1))";
    assert_eq!(value(&one, cancel).await.unwrap(), "t");
    assert_eq!(value(&one, &submit(1)).await.unwrap(), "1");
    assert_eq!(failure(&one, &submit(1)).await.0, "PT429");
    let waiting =
        "SELECT count(*) FROM aggregator_jobs WHERE status = 'queued' AND user_id = 'u-1'";
    assert_eq!(value(&root, waiting).await.unwrap(), "100");
}

#[tokio::test]
async fn one_user_cannot_queue_more_by_transactions_that_are_open_at_one_time() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queueopen");
    let (database, root) = prepare(&cluster, &upstream).await;
    let mut sessions = vec![user(&database, "u-1").await];
    for _ in 0..5 {
        sessions.push(database.rest("authenticated", Some("u-1")).await);
    }
    for session in &sessions {
        session.batch_execute("BEGIN").await.unwrap();
        assert_eq!(value(session, &submit(40)).await.unwrap(), "40");
    }
    let mut refused = 0;
    for (i, session) in sessions.iter().enumerate() {
        let end =
            if i % 2 == 0 { "COMMIT".to_owned() } else { format!("PREPARE TRANSACTION 'p{i}'") };
        if let Err(error) = session.batch_execute(&end).await {
            assert_eq!(error.code().unwrap().code(), "PT429");
            refused += 1;
        }
    }
    let waiting = "SELECT count(*) FROM aggregator_jobs WHERE status = 'queued'";
    assert_eq!(value(&root, waiting).await.unwrap(), "80");
    assert!(refused > 0);
    // What is committed together at one time, is counted one after the other.
    for session in &sessions {
        let _ = session.batch_execute("ROLLBACK").await;
        session.batch_execute("BEGIN").await.unwrap();
        assert_eq!(value(session, &submit(10)).await.unwrap(), "10");
    }
    let mut all = tokio::task::JoinSet::new();
    for session in sessions {
        all.spawn(async move {
            let _ = session.batch_execute("COMMIT").await;
        });
    }
    all.join_all().await;
    assert_eq!(value(&root, waiting).await.unwrap(), "100");
}

#[tokio::test]
async fn what_is_taken_back_does_not_count() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queueback");
    let (database, root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    for _ in 0..3 {
        one.batch_execute("BEGIN").await.unwrap();
        assert_eq!(value(&one, &submit(100)).await.unwrap(), "100");
        one.batch_execute("ROLLBACK").await.unwrap();
    }
    one.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
    assert_eq!(value(&one, &submit(70)).await.unwrap(), "70");
    one.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(value(&one, &submit(70)).await.unwrap(), "70");
    one.batch_execute("COMMIT").await.unwrap();
    let waiting = "SELECT count(*) FROM aggregator_jobs WHERE status = 'queued'";
    assert_eq!(value(&root, waiting).await.unwrap(), "70");
}

#[tokio::test]
async fn one_user_cannot_queue_more_bytes_than_the_limit() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queuebytes");
    let (database, _root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    let large = |bytes: usize| {
        format!(
            "SELECT chat_submit('m', jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('x', {bytes}))), p_run_after => {LATER})"
        )
    };
    assert_eq!(failure(&one, &large(70_000)).await.0, "PT429");
    value(&one, &large(40_000)).await.unwrap();
    let (code, text) = failure(&one, &large(40_000)).await;
    assert!(code == "PT429" && text.contains("65536 bytes"), "{code} {text}");
    value(&one, &large(20_000)).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_counts_again_holds_while_others_change_the_catalogue() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queuechanged");
    let (database, root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    for end in ["COMMIT", "PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'"] {
        // Enough to be counted again,
        one.batch_execute(&format!("BEGIN; {}", submit(40))).await.unwrap();
        root.batch_execute("UPDATE api_providers SET is_active = true").await.unwrap();
        // in a session that has heard of the change by then: a lock asks for news.
        one.batch_execute("SELECT count(*) FROM pg_catalog.pg_am").await.unwrap();
        for statement in end.split("; ") {
            one.batch_execute(statement).await.unwrap();
        }
    }
    let waiting = "SELECT count(*) FROM aggregator_jobs WHERE status = 'queued'";
    assert_eq!(value(&root, waiting).await.unwrap(), "80");
    assert_eq!(failure(&one, &submit(21)).await.0, "PT429");
}

#[tokio::test]
async fn a_job_cannot_wait_for_ever() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queuetime");
    let (database, root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    let at = |at: &str| format!("SELECT chat_submit('m', '{HELLO}', p_run_after => {at})");
    for bad in ["'infinity'", "'-infinity'", "now() + interval '367 d'", "'294276-12-31'"] {
        let (code, text) = failure(&one, &at(bad)).await;
        assert!(code == "PT400" && text.contains("p_run_after"), "{bad}: {code} {text}");
    }
    value(&one, &at("now() + interval '365 d'")).await.unwrap();
    value(&one, &at("'2000-01-01'")).await.unwrap();
    let over = "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'";
    eventually(&root, over, "1").await;
}

#[tokio::test]
async fn keys_and_names_of_jobs_are_bounded_and_the_same_key_is_the_same_job_in_a_full_queue() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster("queuekeys");
    let (database, _root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    let keyed = |key: &str| {
        format!(
            "SELECT chat_submit('m', '{HELLO}', p_run_after => {LATER}, p_idempotency_key => {key})"
        )
    };
    for bad in ["repeat('x', 256)", "repeat('x', 100000000)", "E'a\\nb'"] {
        let (code, text) = failure(&one, &keyed(bad)).await;
        assert!(code == "PT400" && text.len() < 400, "{bad}: {code}");
    }
    let id = value(&one, &keyed("repeat('x', 255)")).await.unwrap();
    assert_eq!(value(&one, &submit(99)).await.unwrap(), "99");
    assert_eq!(failure(&one, &submit(1)).await.0, "PT429");
    assert_eq!(value(&one, &keyed("repeat('x', 255)")).await.unwrap(), id);
    // A made-up name is refused now, as it would be when it is run.
    for (sql, code) in [
        (format!("SELECT chat_submit('made-up', '{HELLO}')"), "PT404"),
        (format!("SELECT chat_submit(repeat('x', 256), '{HELLO}')"), "PT400"),
        (
            format!("SELECT chat_submit('m', '{HELLO}', provider => repeat('x', 100000000))"),
            "PT400",
        ),
    ] {
        let (found, text) = failure(&one, &sql).await;
        assert!(found == code && text.len() < 400, "{sql}: {found}");
    }
}

#[tokio::test]
async fn submitting_stays_cheap_with_many_that_wait() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("queuecheap", "");
    let (database, _root) = prepare(&cluster, &upstream).await;
    let one = user(&database, "u-1").await;
    // What half of them take at the most: one that the machine holds up says nothing.
    let time = async |rounds: usize| {
        let mut took = vec![];
        for _ in 0..rounds {
            let began = Instant::now();
            value(&one, &submit(1)).await.unwrap();
            took.push(began.elapsed());
        }
        took.sort();
        took[rounds / 2]
    };
    let few = time(200).await;
    assert_eq!(value(&one, &submit(40_000)).await.unwrap(), "40000");
    let many = time(200).await;
    eprintln!("a job beside few: {few:?}, beside 40,000: {many:?}");
    assert!(many < few * 3 + Duration::from_millis(5), "{few:?} {many:?}");
}
