//! From pg_cancel_backend to the upstream seeing the connection drop.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod standin;

use bed::{Cluster, Database, value};
use common::{Direct, HELLO, Times, number};
use standin::{Manner, Standin, Told};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const CANCELS: usize = 200;
/// A call is well under way before it is cancelled.
const BEFORE: Duration = Duration::from_millis(10);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::start("bench_cancel", "");
    let mut upstream = Standin::start(Manner::Stall);
    let database = cluster.database().await;
    let root = common::prepare(&database, &upstream.base_url()).await;
    let direct = Direct::to(&upstream.base_url());
    let chat = format!("SELECT chat_complete('m', '{HELLO}')");

    let (mut dropped, mut slept, mut gone, mut failed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..CANCELS {
        dropped.push(drop_one(&direct, &mut upstream).await);
        slept.push(cancel(&database, &root, "SELECT pg_sleep(60)", None).await.1);
        let (at, session) = cancel(&database, &root, &chat, Some(&mut upstream)).await;
        gone.extend(at);
        failed.push(session);
    }
    assert_eq!(gone.len(), CANCELS);

    println!("cancel: {CANCELS} calls in flight");
    println!("{:<56} | {:>8} {:>8} {:>8}", "", "50", "99", "most");
    for (what, times) in [
        ("direct request dropped, until its upstream sees it", dropped),
        ("pg_cancel_backend, until the upstream sees it", gone),
        ("pg_cancel_backend, until the chat's session is free", failed),
        ("pg_cancel_backend, until a pg_sleep's session is free", slept),
    ] {
        let times = Times::new(times);
        println!("{what:<56} | {:>8.3} {:>8.3} {:>8.3}", times.at(50), times.at(99), times.at(100));
    }
    println!("times in milliseconds");
}

/// Drops a request made directly.
async fn drop_one(direct: &Direct, upstream: &mut Standin) -> Duration {
    let request = tokio::spawn({
        let direct = direct.clone();
        async move { direct.ask(false).await }
    });
    arrived(upstream).await;
    tokio::time::sleep(BEFORE).await;
    let began = Instant::now();
    request.abort();
    went(upstream).await - began
}

/// Cancels a statement from another session. Says when the upstream, if it has one, saw that, and
/// when the session had its error.
async fn cancel(
    database: &Database<'_>,
    root: &Client,
    sql: &str,
    upstream: Option<&mut Standin>,
) -> (Option<Duration>, Duration) {
    let session = database.root().await;
    let pid = number(&session, "SELECT pg_backend_pid()").await;
    let sql = sql.to_owned();
    let statement = tokio::spawn(async move {
        let error = session.simple_query(&sql).await.expect_err("it is cancelled");
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error}");
        Instant::now()
    });
    let cancel = format!("SELECT pg_cancel_backend({pid})");
    match upstream {
        None => {
            tokio::time::sleep(BEFORE).await;
            let began = Instant::now();
            value(root, &cancel).await;
            (None, statement.await.unwrap() - began)
        }
        Some(upstream) => {
            arrived(upstream).await;
            tokio::time::sleep(BEFORE).await;
            let began = Instant::now();
            value(root, &cancel).await;
            (Some(went(upstream).await - began), statement.await.unwrap() - began)
        }
    }
}

async fn arrived(upstream: &mut Standin) {
    let told = upstream.next().await;
    assert!(matches!(told, Told::Arrived(_)), "{told:?}");
}

async fn went(upstream: &mut Standin) -> Instant {
    match upstream.next().await {
        Told::Gone(at) => at,
        other => panic!("{other:?}"),
    }
}
