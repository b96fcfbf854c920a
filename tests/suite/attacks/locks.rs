//! A tenant who keeps a transaction open holds up no administrator without end.

use crate::bed::{self, Database, failure, rows, value};
use crate::fixtures::{HELLO, add_provider, save_key, user};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Without bounds these would wait for the tenant, who waits for the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database with a provider, a superuser's session, and one of `service_role`.
async fn prepared(upstream: &Upstream) -> (Database<'static>, Client, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    let service = database.rest("service_role", None).await;
    (database, root, service)
}

/// The statement fails within some seconds, says that something is locked, and what to do.
async fn is_told(client: &Client, sql: &str) {
    let began = Instant::now();
    let (code, message) = failure(client, sql).await;
    assert!(began.elapsed() < PATIENCE, "{sql}: {:?}", began.elapsed());
    assert_eq!(code, "PT409", "{sql}: {message}");
    assert!(
        message.contains("lock") && message.contains("pg_terminate_backend"),
        "{sql}: {message}"
    );
}

#[tokio::test]
async fn a_locked_key_holds_up_no_administrator() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, service) = prepared(&upstream).await;
    let tenant = user(&database, "u-lock").await;
    tenant.batch_execute("BEGIN; SELECT id FROM user_api_providers FOR UPDATE").await.unwrap();
    for (client, sql) in [
        (&service, "SELECT forget_user('u-lock')"),
        (&service, "DELETE FROM api_providers WHERE name = 'standin'"),
        (&service, "SELECT save_provider_key('standin', 'sk-good-2', 'u-lock', false)"),
        (&service, "SELECT remove_provider_key('standin', 'u-lock')"),
        (&root, "DELETE FROM api_providers WHERE name = 'standin'"),
        (&root, "SELECT rotate_master_key()"),
    ] {
        is_told(client, sql).await;
    }
    // What the session had set stays: shorter patience counts, and the statement leaves nothing behind.
    root.batch_execute("SET lock_timeout = '300ms'").await.unwrap();
    // Ours is of three seconds, each time.
    let mut took = vec![];
    while took.last().is_none_or(|took| *took >= Duration::from_secs(2)) {
        assert!(took.len() < 5, "{took:?}");
        let began = Instant::now();
        is_told(&root, "SELECT forget_user('u-lock')").await;
        took.push(began.elapsed());
    }
    root.batch_execute("SET lock_timeout = '1min'").await.unwrap();
    // The tenant's keys are there still, and so is the tenant.
    tenant.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&tenant, "SELECT count(*) FROM user_api_providers").await.unwrap(), "1");
    root.batch_execute("BEGIN; DELETE FROM api_providers WHERE name = 'standin'").await.unwrap();
    assert_eq!(value(&root, "SHOW lock_timeout").await.unwrap(), "1min");
    root.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM user_api_providers").await.unwrap(), "0");
}

#[tokio::test]
async fn a_key_that_is_being_saved_holds_up_no_administrator() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, service) = prepared(&upstream).await;
    let tenant = database.rest("authenticated", Some("u-save")).await;
    tenant.batch_execute("BEGIN").await.unwrap();
    save_key(&tenant, "standin", "sk-good-1").await;
    // The provider itself is held by a reference to it.
    for (client, sql) in [
        (&service, "DELETE FROM api_providers WHERE name = 'standin'"),
        (&root, "DELETE FROM api_providers WHERE name = 'standin'"),
        (&root, "UPDATE api_providers SET name = 'other' WHERE name = 'standin'"),
    ] {
        let began = Instant::now();
        let (code, message) = failure(client, sql).await;
        assert!(began.elapsed() < PATIENCE, "{sql}: {:?}", began.elapsed());
        assert_eq!(code, "55P03", "{sql}: {message}");
    }
    // The same user's key, by somebody else.
    is_told(&service, "SELECT save_provider_key('standin', 'sk-good-2', 'u-save', false)").await;
    tenant.batch_execute("COMMIT").await.unwrap();
    root.batch_execute("UPDATE api_providers SET name = 'other' WHERE name = 'standin'")
        .await
        .unwrap();
    service.batch_execute("DELETE FROM api_providers WHERE name = 'other'").await.unwrap();
    assert_eq!(value(&service, "SHOW lock_timeout").await.unwrap(), "0");
    assert_eq!(rows(&root, "SELECT * FROM user_api_providers").await.len(), 0);
}

#[tokio::test]
async fn an_open_cancel_holds_up_no_administrator() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, _root, service) = prepared(&upstream).await;
    let tenant = user(&database, "u-cancel").await;
    let sql =
        format!("SELECT chat_submit('m', '{HELLO}', p_run_after => now() + interval '1 hour')");
    let job = value(&tenant, &sql).await.unwrap();
    tenant.batch_execute(&format!("BEGIN; SELECT chat_cancel('{job}')")).await.unwrap();
    is_told(&service, "SELECT forget_user('u-cancel')").await;
    is_told(&service, &format!("SELECT chat_cancel('{job}')")).await;
    tenant.batch_execute("ROLLBACK").await.unwrap();
    // An idempotency key that an open transaction has taken.
    let submit = format!(
        "SELECT chat_submit('m', '{HELLO}', p_user_id => 'u-cancel', p_idempotency_key => 'k',
             p_run_after => now() + interval '1 hour')"
    );
    tenant.batch_execute("BEGIN").await.unwrap();
    value(&tenant, &submit).await.unwrap();
    is_told(&service, &submit).await;
    tenant.batch_execute("ROLLBACK").await.unwrap();
    value(&service, "SELECT forget_user('u-cancel')").await.unwrap();
    assert_eq!(rows(&service, "SELECT * FROM aggregator_jobs").await.len(), 0);
}
