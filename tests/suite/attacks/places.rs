//! Places in flight: users who hold theirs for ever leave some for the others.

use crate::bed::{Cluster, Database, eventually, value};
use crate::fixtures::{HELLO, add_named, save_key};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

async fn tenant(database: &Database<'_>, name: &str) -> Client {
    let client = database.rest("authenticated", Some(name)).await;
    value(&client, "SELECT aggregator_user_id()").await;
    client
}

/// Holds as many places as it gets: jobs that no upstream answers.
async fn hang(database: &Database<'_>, name: &str, provider: &str, calls: usize) -> Client {
    let client = tenant(database, name).await;
    let sql = format!(
        r#"SELECT count(chat_submit('hang', '{HELLO}', '{{"timeout_ms": 600000}}', '{provider}'))
           FROM generate_series(1, {calls})"#
    );
    value(&client, &sql).await;
    client
}

fn upstream(seen: &crate::upstream::Seen) -> Answer {
    if seen.body.contains("hang") { Answer::Stall } else { Answer::hello() }
}

#[tokio::test]
async fn two_users_cannot_hold_every_place_of_the_platforms_key() {
    let cluster = Cluster::start("places_key", "aggregator.max_in_flight_per_key = 64");
    cluster.supabase_roles().await;
    let upstream = Upstream::start(upstream).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m", "hang"]).await;
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform')").await.unwrap();
    let _a = hang(&database, "u-a", "standin", 100).await;
    upstream.wait_for_chats(32).await;
    let _b = hang(&database, "u-b", "standin", 100).await;
    upstream.wait_for_chats(48).await;
    // A third one, and a fourth with many, and a fifth.
    let c = tenant(&database, "u-c").await;
    let _d = hang(&database, "u-d", "standin", 100).await;
    upstream.wait_for_chats(56).await;
    let e = tenant(&database, "u-e").await;
    for client in [&c, &e] {
        // Those that hang do so for ten minutes.
        let sql = format!(r#"SELECT chat_complete('m', '{HELLO}', '{{"timeout_ms": 30000}}')"#);
        value(client, &sql).await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 58, "half, half of the rest, and half of that hang");
    // What waited has its turn when there is place again.
    value(&_a, "SELECT count(chat_cancel(id)) FROM aggregator_jobs").await;
    let hanging = "SELECT count(*) >= 40 FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&root, hanging, "t").await;
}

#[tokio::test]
async fn one_user_cannot_hold_every_place_of_all() {
    let cluster = Cluster::start("places_all", "aggregator.max_in_flight = 40");
    cluster.supabase_roles().await;
    let upstream = Upstream::start(upstream).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m", "hang"]).await;
    for user in ["u-a", "u-b", "u-c"] {
        let client = tenant(&database, user).await;
        save_key(&client, "standin", "sk-good-own").await;
    }
    let _a = hang(&database, "u-a", "standin", 60).await;
    upstream.wait_for_chats(20).await;
    let _b = hang(&database, "u-b", "standin", 60).await;
    upstream.wait_for_chats(30).await;
    let c = tenant(&database, "u-c").await;
    let sql = format!(r#"SELECT chat_complete('m', '{HELLO}', '{{"timeout_ms": 30000}}')"#);
    value(&c, &sql).await.unwrap();
    assert_eq!(upstream.chat_count(), 31);
}
