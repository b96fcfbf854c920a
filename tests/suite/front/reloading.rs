//! Settings that change while it runs.

use super::calls::{body, chat};
use super::own::{Own, until_down, until_status, until_up};
use super::{Request, Response, free_port, read_to_end, send, token, write_secret};
use crate::bed::{eventually, value};
use crate::fixtures::{add_provider, user};
use crate::upstream::{Answer, Gate, Piece, Upstream};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn tokens_of_a_secret_that_was_replaced_are_dead_at_once() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let own = Own::start("secret", "").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let new_secret = "another-secret-of-the-tests-just-as-long";
    let (old, new) = (token::of("u-1"), token::signed(&token::claims("u-1"), new_secret));
    let with = |token: &str| {
        Request::new("POST", "/v1/chat/completions").bearer(token).json(body(json!({})))
    };
    assert_eq!(own.send(&with(&old)).await.status, 200);
    assert_eq!(own.send(&with(&new)).await.status, 401);
    let file = own.cluster.data().join("jwt_secret");
    // What is in the file counts from the reload on.
    write_secret(&file, new_secret);
    assert_eq!(own.send(&with(&old)).await.status, 200);
    own.cluster.reload();
    until_status(own.port, &with(&new), 200).await;
    // Not one of them, though the old one was vouched for a moment ago.
    assert_eq!(own.send(&with(&old)).await.status, 401);
    assert_eq!(own.send(&with(&new)).await.status, 200);
    // A file that others may read is none, and then nobody is believed.
    crate::bed::run(crate::bed::as_server("chmod").arg("0640").arg(&file));
    own.cluster.reload();
    until_status(own.port, &with(&new), 401).await;
    own.logs("want mode 0600").await;
    let reached = upstream.chat_count();
    assert_eq!(own.send(&with(&old)).await.status, 401);
    assert_eq!(upstream.chat_count(), reached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_moves_without_a_gap_and_what_is_streamed_goes_on() {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |_| {
            Answer::Stream(vec![
                Piece::role(),
                Piece::text("abc"),
                Piece::Until(gate.clone()),
                Piece::text("d"),
                Piece::finish("stop"),
                Piece::done(),
            ])
        }
    })
    .await;
    let own = Own::start("moving", "").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let (old, new) = (own.port, free_port().await);
    let mut idle = own.connect().await;
    let health = format!("GET /health HTTP/1.1\r\nhost: 127.0.0.1:{old}\r\n\r\n");
    idle.write_all(health.as_bytes()).await.unwrap();
    let mut portion = [0; 4096];
    assert!(idle.read(&mut portion).await.unwrap() > 0);
    let mut stream = own.connect().await;
    let bytes = chat("u-1", json!({"stream": true})).bytes(old);
    stream.write_all(&bytes).await.unwrap();
    let count = stream.read(&mut portion).await.unwrap();
    let mut said = portion[..count].to_vec();

    // Asked without a pause, one of the two answers each time.
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = tokio::spawn({
        let asked = asked.clone();
        async move {
            loop {
                let answers =
                    async |port: u16| TcpStream::connect(("127.0.0.1", port)).await.is_ok();
                if !answers(old).await {
                    assert!(answers(new).await, "nobody answers after {asked:?}");
                    return;
                }
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    while asked.load(Ordering::Relaxed) == 0 && !asking.is_finished() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    own.set(&format!("aggregator.http_listen = 'app=127.0.0.1:{new}'"));
    own.says(&format!("http://127.0.0.1:{new}")).await;
    until_up(new).await;
    until_down(old).await;
    asking.await.unwrap();
    assert!(asked.load(Ordering::Relaxed) > 0);
    gate.open();
    // Whoever waits for nothing is let go, and the stream comes to its end.
    assert_eq!(idle.read(&mut portion).await.unwrap_or(0), 0);
    said.extend(read_to_end(&mut stream).await);
    let response = Response::read(&said);
    assert!(response.body.contains("[DONE]"), "{}", response.body);
    assert!(response.body.contains(r#""content":"d""#), "{}", response.body);
    // And away altogether.
    own.set("aggregator.http_listen = ''");
    until_down(new).await;
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_setting_of_its_own() {
    let own = Own::start("remote", "").await;
    let port = own.port;
    let remote = format!("aggregator.http_listen = 'app=0.0.0.0:{port}'");
    own.set(&remote);
    let refused = format!(
        "- http://0.0.0.0:{port}: other machines can reach it, which needs aggregator.http_allow_remote"
    );
    own.says(&refused).await;
    until_down(port).await;
    own.set("aggregator.http_allow_remote = on");
    own.says(&format!("http://0.0.0.0:{port}")).await;
    until_up(port).await;
    let warned = format!("HTTP at http://0.0.0.0:{port} is not encrypted");
    own.logs(&warned).await;
    // Back to this machine alone, on the same port, which the wider address has until then.
    own.set(&format!("aggregator.http_listen = 'app=127.0.0.1:{port}'"));
    own.says(&format!("http://127.0.0.1:{port}")).await;
    until_up(port).await;
    // Only a superuser may set it.
    let alice = own.cluster.connect("alice", "app").await;
    for setting in ["http_allow_remote = on", "http_listen = ''", "http_trusted_proxies = '::/0'"] {
        let (code, _) =
            crate::bed::failure(&alice, &format!("ALTER SYSTEM SET aggregator.{setting}")).await;
        assert_eq!(code, "42501", "{setting}");
    }
}

#[tokio::test]
async fn hosts_and_limits_are_those_of_the_last_reload() {
    let own = Own::start("hosts", "aggregator.http_hosts = 'first.example'").await;
    let of = |host: &str| Request::new("GET", "/health").header("host", host);
    assert_eq!(own.send(&of("first.example")).await.status, 200);
    assert_eq!(own.send(&of("second.example")).await.status, 421);
    own.set("aggregator.http_hosts = 'second.example'\naggregator.http_max_body = 1kB");
    eventually(&own.root, "SHOW aggregator.http_hosts", "second.example").await;
    until_status(own.port, &of("second.example"), 200).await;
    assert_eq!(own.send(&of("first.example")).await.status, 421);
    let large = chat("u-1", json!({"x": "y".repeat(2000)}));
    assert_eq!(own.send(&large).await.status, 413);
}

#[tokio::test]
async fn two_databases_do_not_share_an_address() {
    let own = Own::start("shared_address", "").await;
    let other = own.cluster.connect("postgres", "postgres").await;
    other.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
    let port = own.port;
    own.set(&format!("aggregator.http_listen = 'app=127.0.0.1:{port}, postgres=127.0.0.1:{port}'"));
    value(&other, "SELECT aggregator_start()").await;
    let refused = format!("http://127.0.0.1:{port} is the address of database 'app' already");
    eventually(&other, "SELECT http_error FROM aggregator_status()", &refused).await;
    own.logs(&refused).await;
    // The first one does not notice.
    own.says(&format!("http://127.0.0.1:{port}")).await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(send(stream, &Request::new("GET", "/ready").bytes(port)).await.status, 200);
}
