//! AI columns across crashes: every row right in the end, and not much asked for twice.

use super::{echoes, prompt};
use crate::bed::{Cluster, PATIENCE, eventually, eventually_within, value};
use crate::fixtures::{add_named, kill_worker, save_key};
use crate::upstream::{Answer, Upstream};
use std::collections::HashMap;

const ROWS: usize = 500;
const KILLS: usize = 4;
/// Requests at a time, and what may be paid for and not written yet when the worker is killed.
const CONCURRENCY: usize = 8;
const UNWRITTEN: usize = 2 * CONCURRENCY;

#[tokio::test]
async fn five_hundred_rows_come_right_whenever_the_worker_is_killed() {
    let upstream = Upstream::start(|seen| Answer::late(5, echoes(seen))).await;
    let cluster = Cluster::start("aikill", "");
    let name = {
        let database = cluster.database().await;
        let root = database.root().await;
        add_named(&root, "standin", "openai", &upstream.base_url(), &["m"]).await;
        root.batch_execute(
            "CREATE ROLE alice LOGIN; SELECT aggregator_grant('alice', 'user'); CREATE SCHEMA alice AUTHORIZATION alice",
        )
        .await
        .unwrap();
        database.name.clone()
    };
    cluster.down("fast");
    cluster.configure(&format!(
        "shared_preload_libraries = 'aggregator'\naggregator.databases = '{name}'"
    ));
    cluster.up();
    let mut root = cluster.connect("postgres", &name).await;
    let alice = cluster.connect("alice", &name).await;
    save_key(&alice, "standin", "sk-good-0123456789abcdef").await;
    alice
        .batch_execute(&format!(
            "SET search_path = alice, public;
             CREATE TABLE docs (id integer PRIMARY KEY, body text, answer text);
             SELECT ai_column('docs', 'answer', 'chat', 'body', 'm', '{{\"concurrency\": {CONCURRENCY}}}');
             INSERT INTO docs SELECT i, 'doc ' || i FROM generate_series(1, {ROWS}) AS i"
        ))
        .await
        .unwrap();
    for kill in 1..=KILLS {
        // Somewhere in the middle, and each time further on.
        let target = kill * ROWS / (KILLS + 1) + fastrand::usize(0..20);
        upstream.wait_for_chats(target).await;
        root = kill_worker(&cluster, &name, root).await;
    }
    let right = "SELECT count(*) FROM alice.docs WHERE answer = 're: ' || body";
    eventually_within(5 * PATIENCE, &root, right, "500").await;
    let left = "SELECT count(*) FROM aggregator_ai_queue";
    eventually(&root, left, "0").await;
    let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&root, pending, "0").await;
    let mut asked: HashMap<String, usize> = HashMap::new();
    for seen in upstream.chats() {
        *asked.entry(prompt(&seen)).or_default() += 1;
    }
    assert_eq!(asked.len(), ROWS);
    let calls: usize = asked.values().sum();
    println!("{calls} calls for {ROWS} rows and {KILLS} kills");
    assert!(calls <= ROWS + KILLS * UNWRITTEN, "{calls}");
    // Each of them is in the ledger, but for what it cannot know.
    let logged =
        "SELECT count(*) FROM aggregator_usage_logs WHERE status IN ('success', 'unknown')";
    let logged: usize = value(&root, logged).await.unwrap().parse().unwrap();
    assert!(logged >= calls, "{logged} rows of the ledger for {calls} calls");
}
