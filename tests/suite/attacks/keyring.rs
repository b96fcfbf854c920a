//! The keyring and its rotation: what fails or is rolled back leaves nothing behind, and waits for nobody
//! without end.

use crate::bed::{self, Cluster, Database, failure, value};
use crate::fixtures::{add_provider, chat_sql, save_key};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

fn ring(cluster: &Cluster) -> String {
    let file = cluster.data().join("aggregator.keyring");
    let output = bed::run(bed::as_server("cat").arg(file));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ids of the master keys that seal, oldest first, and of those whose rotation is open.
fn keys(cluster: &Cluster) -> (Vec<String>, usize) {
    let text = ring(cluster);
    let id = |line: &str| line.split(' ').next().unwrap().to_owned();
    let sealing = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(id);
    (sealing.collect(), text.lines().filter(|line| line.starts_with("# pending: ")).count())
}

async fn sealed_by(root: &Client, user: &str) -> String {
    let sql = format!(
        "SELECT encode(substring(api_key_encrypted FROM 2 FOR 8), 'hex') FROM user_api_providers
         WHERE user_id = '{user}'"
    );
    value(root, &sql).await.unwrap()
}

/// A database with a provider and a key of the superuser's.
async fn prepared<'a>(cluster: &'a Cluster, upstream: &Upstream) -> (Database<'a>, Client) {
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    save_key(&root, "standin", "sk-good-1").await;
    (database, root)
}

async fn save_for(client: &Client, user: &str) {
    let sql = format!("SELECT save_provider_key('standin', 'sk-good-2', '{user}', false)");
    value(client, &sql).await.unwrap();
}

#[tokio::test]
async fn a_rotation_that_is_not_committed_seals_no_other_key() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("rotation", "max_prepared_transactions = 5");
    let (database, root) = prepared(&cluster, &upstream).await;
    let other = database.root().await;
    let (before, _) = keys(&cluster);
    assert_eq!(before.len(), 1);

    // Rolled back: while it is open, and after it, the old key seals.
    root.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    assert_eq!(keys(&cluster), (before.clone(), 1));
    save_for(&other, "u-1").await;
    assert_eq!(sealed_by(&other, "u-1").await, before[0]);
    root.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(keys(&cluster), (before.clone(), 0));
    save_for(&other, "u-2").await;
    assert_eq!(sealed_by(&other, "u-2").await, before[0]);
    value(&root, &chat_sql("{}")).await.unwrap();

    // Back to a savepoint, and by an error after it.
    root.batch_execute("BEGIN; SAVEPOINT s; SELECT rotate_master_key(); ROLLBACK TO s; COMMIT")
        .await
        .unwrap();
    assert_eq!(keys(&cluster), (before.clone(), 0));
    assert_eq!(failure(&root, "SELECT rotate_master_key(), 1 / (random() * 0)").await.0, "22012");
    // The error is told before the transaction has been undone; the next statement comes after.
    value(&root, "SELECT 1").await;
    assert_eq!(keys(&cluster), (before.clone(), 0));

    // It cannot be put off, and does not survive its session.
    root.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    assert_eq!(failure(&root, "PREPARE TRANSACTION 'x'").await.0, "PT400");
    root.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(keys(&cluster), (before.clone(), 0));
    let victim = database.root().await;
    let pid = value(&victim, "SELECT pg_backend_pid()").await.unwrap();
    victim.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    let ended = format!("SELECT pg_terminate_backend({pid}, 60000)");
    assert_eq!(value(&root, &ended).await.unwrap(), "t");
    assert_eq!(keys(&cluster), (before.clone(), 0));

    // A call meanwhile opens what is sealed either way; committed, the new key seals.
    root.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    value(&other, &chat_sql("{}")).await.unwrap();
    root.batch_execute("COMMIT").await.unwrap();
    let (after, pending) = keys(&cluster);
    assert_eq!((after.len(), pending), (2, 0));
    assert_eq!(sealed_by(&root, "role:postgres").await, after[1]);
    save_for(&other, "u-3").await;
    assert_eq!(sealed_by(&other, "u-3").await, after[1]);
    value(&other, &chat_sql("{}")).await.unwrap();
}

#[tokio::test]
async fn two_databases_that_rotate_at_once_keep_every_key() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("two-rings", "");
    let (_one, first) = prepared(&cluster, &upstream).await;
    let (_two, second) = prepared(&cluster, &upstream).await;
    first.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    second.batch_execute("BEGIN; SELECT rotate_master_key()").await.unwrap();
    second.batch_execute("COMMIT").await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    let (sealing, pending) = keys(&cluster);
    assert_eq!((sealing.len(), pending), (3, 0));
    let sealed =
        [sealed_by(&first, "role:postgres").await, sealed_by(&second, "role:postgres").await];
    assert_eq!([&sealed[1], &sealed[0]], [&sealing[1], &sealing[2]]);
    for client in [&first, &second] {
        value(client, &chat_sql("{}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_locked_key_holds_up_no_rotation_and_leaves_the_file_alone() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("locked-ring", "");
    cluster.supabase_roles().await;
    let (database, root) = prepared(&cluster, &upstream).await;
    save_for(&root, "u-1").await;
    let tenant = database.rest("authenticated", Some("u-1")).await;
    tenant.batch_execute("BEGIN; SELECT id FROM user_api_providers FOR UPDATE").await.unwrap();
    let before = ring(&cluster);
    let began = Instant::now();
    let (code, message) = failure(&root, "SELECT rotate_master_key()").await;
    assert_eq!(code, "PT409", "{message}");
    assert!(message.contains("pg_terminate_backend"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(ring(&cluster), before);
    tenant.batch_execute("ROLLBACK").await.unwrap();
    value(&root, "SELECT rotate_master_key()").await.unwrap();
}

#[tokio::test]
async fn a_keyring_that_the_group_may_read_is_refused() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("open-ring", "");
    let (_database, root) = prepared(&cluster, &upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    let file = cluster.data().join("aggregator.keyring");
    for (mode, is_refused) in [("640", true), ("604", true), ("660", true), ("600", false)] {
        bed::run(bed::as_server("chmod").arg(mode).arg(&file));
        for sql in [
            chat_sql(r#"{"max_retries": 0}"#),
            "SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)".to_owned(),
            "SELECT rotate_master_key()".to_owned(),
        ] {
            if is_refused {
                let (code, message) = failure(&root, &sql).await;
                assert_eq!(code, "PT503", "{mode} {sql}: {message}");
                assert!(message.contains("0600"), "{message}");
            } else {
                value(&root, &sql).await.unwrap();
            }
        }
    }
}
