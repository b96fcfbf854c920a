//! Limits in flight: calls past them wait and do not fail, and nobody waits behind another's queue.

use crate::bed::{self, Cluster, Database, eventually, failure, rows, value};
use crate::fixtures::{add_provider, chat_sql, save_key};
use crate::upstream::{Answer, Gate, Upstream};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// A cluster with this setting, and an upstream that answers while the gate is open.
async fn limited(name: &str, setting: &str) -> (Cluster, Upstream, Gate) {
    let cluster = Cluster::start(name, setting);
    cluster.supabase_roles().await;
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    (cluster, upstream, gate)
}

/// Waits until so many calls wait for their turn, and so many have been sent since the beginning.
async fn until(root: &Client, upstream: &Upstream, waiting: usize, sent: usize) {
    eventually(root, "SELECT waiting FROM aggregator_status()", &waiting.to_string()).await;
    upstream.wait_for_chats(sent).await;
}

async fn with_provider<'a>(cluster: &'a Cluster, upstream: &Upstream) -> Database<'a> {
    let database = cluster.database().await;
    add_provider(&database.root().await, upstream).await;
    database
}

/// Sessions of a user that each make one call, begun at once.
async fn calls(database: &Database<'_>, user: &str, count: usize) -> JoinSet<()> {
    let mut clients = vec![];
    for _ in 0..count {
        clients.push(database.rest("authenticated", Some(user)).await);
    }
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(async move {
            value(&client, &chat_sql("{}")).await.unwrap();
        });
    }
    tasks
}

async fn key_for(database: &Database<'_>, user: &str) {
    let client = database.rest("authenticated", Some(user)).await;
    save_key(&client, "standin", &format!("sk-good-{user}-0123456789")).await;
}

#[tokio::test]
async fn a_user_has_so_many_in_flight() {
    let (cluster, upstream, gate) =
        limited("per_user", "aggregator.max_in_flight_per_user = 2").await;
    let database = with_provider(&cluster, &upstream).await;
    let root = database.root().await;
    key_for(&database, "u-a").await;
    key_for(&database, "u-b").await;
    let a = calls(&database, "u-a", 10).await;
    until(&root, &upstream, 8, 2).await;
    gate.open();
    assert_eq!(a.join_all().await.len(), 10);
    assert_eq!(upstream.most_at_once(), 2);
    // The limit is each user's own.
    gate.shut();
    let (a, b) = (calls(&database, "u-a", 6).await, calls(&database, "u-b", 6).await);
    until(&root, &upstream, 8, 10 + 4).await;
    gate.open();
    tokio::join!(a.join_all(), b.join_all());
    assert_eq!(upstream.most_at_once(), 4);
    let log = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1";
    assert_eq!(rows(&root, log).await, ["success|22"]);
}

#[tokio::test]
async fn a_key_has_so_many_in_flight() {
    let (cluster, upstream, gate) =
        limited("per_key", "aggregator.max_in_flight_per_key = 3").await;
    let database = with_provider(&cluster, &upstream).await;
    let root = database.root().await;
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform')").await.unwrap();
    let mut tasks = vec![];
    for user in ["u-a", "u-b", "u-c", "u-d"] {
        tasks.push(calls(&database, user, 4).await);
    }
    until(&root, &upstream, 13, 3).await;
    gate.open();
    for tasks in tasks {
        assert_eq!(tasks.join_all().await.len(), 4);
    }
    assert_eq!(upstream.most_at_once(), 3);
    // Another key has its own.
    key_for(&database, "u-a").await;
    gate.shut();
    let (a, b) = (calls(&database, "u-a", 8).await, calls(&database, "u-b", 8).await);
    until(&root, &upstream, 10, 16 + 6).await;
    gate.open();
    tokio::join!(a.join_all(), b.join_all());
    assert_eq!(upstream.most_at_once(), 6);
}

#[tokio::test]
async fn all_together_have_so_many_in_flight() {
    let (cluster, upstream, gate) = limited("in_flight", "aggregator.max_in_flight = 3").await;
    let database = with_provider(&cluster, &upstream).await;
    let root = database.root().await;
    key_for(&database, "u-a").await;
    key_for(&database, "u-b").await;
    let (a, b) = (calls(&database, "u-a", 6).await, calls(&database, "u-b", 6).await);
    until(&root, &upstream, 9, 3).await;
    gate.open();
    let (a, b) = tokio::join!(a.join_all(), b.join_all());
    assert_eq!(a.len() + b.len(), 12);
    assert_eq!(upstream.most_at_once(), 3);
}

#[tokio::test]
async fn nobody_waits_behind_anothers_queue() {
    let (cluster, upstream, gate) = limited("turns", "aggregator.max_in_flight = 2").await;
    let database = with_provider(&cluster, &upstream).await;
    let root = database.root().await;
    key_for(&database, "u-a").await;
    key_for(&database, "u-b").await;
    let alice = calls(&database, "u-a", 40).await;
    until(&root, &upstream, 38, 2).await;
    let bob = calls(&database, "u-b", 1).await;
    until(&root, &upstream, 39, 2).await;
    gate.open();
    tokio::join!(alice.join_all(), bob.join_all());
    let bobs = Some("Bearer sk-good-u-b-0123456789");
    let before =
        upstream.chats().iter().position(|chat| chat.header("authorization") == bobs).unwrap();
    assert!(before < 10, "{before} of the first user's calls were sent before the second's");
    assert_eq!(upstream.most_at_once(), 2);
}

#[tokio::test]
async fn who_waits_for_a_turn_can_give_up() {
    let (cluster, upstream, gate) = limited("giveup", "aggregator.max_in_flight = 1").await;
    let database = with_provider(&cluster, &upstream).await;
    let root = database.root().await;
    key_for(&database, "u-a").await;
    let mut first = calls(&database, "u-a", 1).await;
    upstream.wait_for_chats(1).await;
    let waiting = database.rest("authenticated", Some("u-a")).await;
    let began = Instant::now();
    let (code, message) =
        failure(&waiting, &chat_sql(r#"{"timeout_ms": 300, "max_retries": 0}"#)).await;
    assert_eq!(code, "PT504", "{message}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let canceller = database.canceller(&waiting).await;
    let sql = chat_sql("{}");
    let cancel = async {
        eventually(&root, "SELECT waiting FROM aggregator_status()", "1").await;
        canceller.cancel().await;
    };
    let ((code, _), ()) = tokio::join!(failure(&waiting, &sql), cancel);
    assert_eq!(code, "57014");
    gate.open();
    first.join_next().await.unwrap().unwrap();
    assert_eq!(upstream.chat_count(), 1, "what never got its turn was never sent");
    // Nor did it leave its turn taken.
    value(&waiting, &chat_sql("{}")).await.unwrap();
}

#[tokio::test]
async fn the_limits_are_settings_of_the_server() {
    let database = bed::database().await;
    let root = database.root().await;
    value(&root, "SELECT aggregator_user_id()").await;
    let settings = rows(
        &root,
        "SELECT name, boot_val, unit, context FROM pg_settings
         WHERE name ~ '^aggregator\\.(job_|max_in_flight)' ORDER BY name",
    )
    .await;
    assert_eq!(
        settings,
        [
            "aggregator.job_max_attempts|5|∅|sighup",
            "aggregator.job_retention|604800|s|sighup",
            "aggregator.max_in_flight|1000|∅|sighup",
            "aggregator.max_in_flight_per_key|256|∅|sighup",
            "aggregator.max_in_flight_per_user|128|∅|sighup",
        ]
    );
    // No session can lift them for itself.
    assert_eq!(failure(&root, "SET aggregator.max_in_flight_per_user = 1000").await.0, "55P02");
}
