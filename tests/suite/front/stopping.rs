//! What clients and the ledger get when the worker ends: by a signal, with the server, or with what it serves.

use super::calls::chat;
use super::own::{Own, drop_by_force, until_down, until_up};
use super::{Request, Response, read_to_end, token};
use crate::bed::{eventually, rows, value};
use crate::fixtures::{add_named, add_provider, save_key, user};
use crate::upgrade::{CURRENT, Script, released, scripts};
use crate::upstream::{Answer, Piece, Seen, Upstream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PRELOADED: &str = "shared_preload_libraries = 'aggregator'";

/// A stream that stops in the middle, and an answer that never comes.
fn stalls(seen: &Seen) -> Answer {
    match seen.json()["stream"].as_bool() {
        Some(true) => Answer::Stream(vec![Piece::role(), Piece::text("abc"), Piece::Stall]),
        _ => Answer::Stall,
    }
}

fn messages() -> Request {
    let body = json!({"model": "m", "max_tokens": 10, "stream": true,
        "messages": [{"role": "user", "content": "hi"}]});
    Request::new("POST", "/v1/messages").bearer(&token::of("u-1")).json(body.to_string())
}

fn responses() -> Request {
    let body = json!({"model": "m", "input": "hi", "stream": true});
    Request::new("POST", "/v1/responses").bearer(&token::of("u-1")).json(body.to_string())
}

/// Sends a request, and waits for what its stream has said so far.
async fn begin(port: u16, request: &Request) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&request.bytes(port)).await.unwrap();
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("abc") {
        let mut portion = [0; 4096];
        let count = stream.read(&mut portion).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&portion[..count]);
    }
    (stream, bytes)
}

async fn end((mut stream, mut bytes): (TcpStream, Vec<u8>)) -> Response {
    bytes.extend(read_to_end(&mut stream).await);
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.ends_with("0\r\n\r\n"), "the stream has no end: {text}");
    Response::read(&bytes)
}

/// The last event: its name and its data.
fn last(response: &Response) -> (Option<String>, Value) {
    let event = response.body.trim_end().rsplit("\n\n").next().unwrap();
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let data = field("data: ").unwrap_or_else(|| panic!("no data: {event}"));
    (field("event: ").map(str::to_owned), serde_json::from_str(data).unwrap())
}

fn is_an_error(response: &Response) {
    assert_eq!(response.status, 200);
    let (_, data) = last(response);
    assert_eq!(data["error"]["code"], "ledger", "{data}");
    assert!(!response.body.contains("[DONE]"));
}

#[tokio::test]
async fn whoever_is_streamed_to_is_told_when_the_worker_is_terminated() {
    let upstream = Upstream::start(stalls).await;
    let bed = super::calls::ready(&upstream).await;
    let openai = begin(bed.port, &chat("u-1", json!({"stream": true}))).await;
    let anthropic = begin(bed.port, &messages()).await;
    let codex = begin(bed.port, &responses()).await;
    let mut whole = bed.connect().await;
    whole.write_all(&chat("u-1", json!({})).bytes(bed.port)).await.unwrap();
    upstream.wait_for_chats(4).await;
    // One that says nothing more is not waited for.
    let mut idle = bed.connect().await;
    idle.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost:").await.unwrap();
    value(&bed.root, "SELECT pg_terminate_backend(worker_pid) FROM aggregator_status()").await;

    is_an_error(&end(openai).await);
    let anthropic = end(anthropic).await;
    let (name, data) = last(&anthropic);
    assert_eq!((name.as_deref(), data["type"].as_str()), (Some("error"), Some("error")));
    assert!(!anthropic.body.contains("message_stop"));
    let (name, data) = last(&end(codex).await);
    assert_eq!(name.as_deref(), Some("response.failed"), "{data}");
    let whole = Response::read(&read_to_end(&mut whole).await);
    assert_eq!((whole.status, whole.header("x-should-retry")), (503, Some("false")), "{whole:?}");

    let settled = "SELECT count(*), count(*) FILTER (WHERE cost_estimate > 0)
        FROM aggregator_usage_logs WHERE status = 'cancelled'";
    eventually(
        &bed.root,
        "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'",
        "0",
    )
    .await;
    assert_eq!(rows(&bed.root, settled).await, ["4|3"]);
    for index in 0..4 {
        upstream.wait_for_abort(index).await;
    }
    // It is started by the first that needs it, and listens again.
    value(&bed.root, "SELECT aggregator_start()").await;
    until_up(bed.port).await;
}

#[tokio::test]
async fn a_restart_of_the_server_tells_its_streams_and_listens_again_without_being_asked() {
    let upstream = Upstream::start(stalls).await;
    let own = Own::start("restart", PRELOADED).await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let stream = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
    own.cluster.down("fast");
    is_an_error(&end(stream).await);
    until_down(own.port).await;
    own.cluster.up();
    // No session has asked for anything.
    until_up(own.port).await;
    let root = own.cluster.connect("postgres", "app").await;
    let settled = "SELECT status, cost_estimate > 0 FROM aggregator_usage_logs";
    assert_eq!(rows(&root, settled).await, ["cancelled|t"]);
}

#[tokio::test]
async fn an_extension_that_is_dropped_answers_no_longer_and_one_that_is_made_again_does() {
    let upstream = Upstream::start(stalls).await;
    let own = Own::start("dropped", PRELOADED).await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let stream = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
    own.root.batch_execute("DROP EXTENSION aggregator CASCADE").await.unwrap();
    is_an_error(&end(stream).await);
    until_down(own.port).await;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aggregator worker'";
    eventually(&own.root, workers, "0").await;
    own.root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
    until_up(own.port).await;
}

#[tokio::test]
async fn a_database_that_is_dropped_by_force_takes_its_streams_along() {
    let upstream = Upstream::start(stalls).await;
    let own = Own::start("forced", PRELOADED).await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let stream = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
    let other = own.cluster.connect("postgres", "postgres").await;
    drop_by_force(&other, "app").await;
    is_an_error(&end(stream).await);
    until_down(own.port).await;
    assert_eq!(
        value(&other, "SELECT count(*) FROM pg_database WHERE datname = 'app'").await.as_deref(),
        Some("0")
    );
    // The launcher looks again, finds nothing, and is still there.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let workers = "SELECT string_agg(backend_type, ',') FROM pg_stat_activity WHERE backend_type LIKE 'aggregator%'";
    assert_eq!(value(&other, workers).await.as_deref(), Some("aggregator launcher"));
}

#[tokio::test]
async fn an_update_of_the_extension_ends_streams_and_brings_the_address_up() {
    // One that was released before there was an endpoint.
    let update = scripts().join(format!("aggregator--0.2.0--{CURRENT}.sql"));
    let _update = Script::install(
        &format!("0.2.0http--{CURRENT}"),
        &std::fs::read_to_string(update).unwrap(),
    );
    let (_, script) = released().into_iter().find(|(version, _)| version == "0.2.0").unwrap();
    let _script = Script::install("0.2.0http", &script);
    // And one that this library does not know yet.
    let _later = Script::install(&format!("{CURRENT}--9.9.9http"), "SELECT 1;");
    let _back = Script::install(&format!("9.9.9http--{CURRENT}"), "SELECT 1;");
    let upstream = Upstream::start(stalls).await;
    let own = Own::start("updated", PRELOADED).await;
    own.root.batch_execute("DROP EXTENSION aggregator CASCADE").await.unwrap();
    until_down(own.port).await;
    own.root.batch_execute("CREATE EXTENSION aggregator VERSION '0.2.0http'").await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(TcpStream::connect(("127.0.0.1", own.port)).await.is_err(), "it is not served yet");
    let update = |version: &str| format!("ALTER EXTENSION aggregator UPDATE TO '{version}'");
    own.root.batch_execute(&update(CURRENT)).await.unwrap();
    until_up(own.port).await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let stream = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
    // What is up to date already goes on.
    own.root.batch_execute("ALTER EXTENSION aggregator UPDATE").await.unwrap();
    until_up(own.port).await;
    own.root.batch_execute(&update("9.9.9http")).await.unwrap();
    is_an_error(&end(stream).await);
    until_down(own.port).await;
    own.root.batch_execute(&update(CURRENT)).await.unwrap();
    until_up(own.port).await;
    let settled = "SELECT string_agg(status, ',') FROM aggregator_usage_logs";
    assert_eq!(value(&own.root, settled).await.as_deref(), Some("cancelled"));
}

#[tokio::test]
async fn an_extension_that_is_made_anew_at_once_is_another_also_of_another_version() {
    let (_, script) = released().into_iter().find(|(version, _)| version == "0.2.0").unwrap();
    let _script = Script::install("0.2.0anew", &script);
    let update = scripts().join(format!("aggregator--0.2.0--{CURRENT}.sql"));
    let _update = Script::install(
        &format!("0.2.0anew--{CURRENT}"),
        &std::fs::read_to_string(update).unwrap(),
    );
    let upstream = Upstream::start(stalls).await;
    let own = Own::start("anew", PRELOADED).await;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aggregator worker'";
    for version in ["0.2.0anew", CURRENT] {
        add_provider(&own.root, &upstream).await;
        user(&own.database(), "u-1").await;
        let worker = "SELECT worker_pid FROM aggregator_status()";
        let worker = value(&own.root, worker).await.unwrap();
        let stream = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
        // There is no moment at which there is none.
        let anew = format!(
            "BEGIN; DROP EXTENSION aggregator CASCADE; CREATE EXTENSION aggregator VERSION '{version}'; COMMIT"
        );
        own.root.batch_execute(&anew).await.unwrap();
        is_an_error(&end(stream).await);
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {worker}");
        eventually(&own.root, &left, "0").await;
        if version != CURRENT {
            until_down(own.port).await;
            eventually(&own.root, workers, "0").await;
            own.root.batch_execute("ALTER EXTENSION aggregator UPDATE").await.unwrap();
        }
        until_up(own.port).await;
        // What was asked of the first is not written down by the second.
        let rows = "SELECT count(*) FROM aggregator_usage_logs";
        assert_eq!(value(&own.root, rows).await.as_deref(), Some("0"), "{version}");
    }
}

/// Takes a minute, as it would.
#[tokio::test]
async fn what_does_not_end_at_the_old_address_is_told_after_a_minute_that_it_ends() {
    let upstream = Upstream::start(|seen| {
        if seen.json()["stream"].as_bool() != Some(true) {
            return Answer::Stall;
        }
        let mut pieces = vec![Piece::role(), Piece::text("abc")];
        for _ in 0..10 {
            pieces.extend([Piece::Wait(Duration::from_secs(20)), Piece::text("d")]);
        }
        Answer::Stream(pieces)
    })
    .await;
    let own = Own::start("draining", "").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let openai = begin(own.port, &chat("u-1", json!({"stream": true}))).await;
    let anthropic = begin(own.port, &messages()).await;
    let codex = begin(own.port, &responses()).await;
    let mut whole = own.connect().await;
    whole.write_all(&chat("u-1", json!({})).bytes(own.port)).await.unwrap();
    upstream.wait_for_chats(4).await;
    let began = Instant::now();
    own.set("aggregator.http_listen = ''");
    until_down(own.port).await;
    let (openai, anthropic, codex, whole) =
        tokio::join!(end(openai), end(anthropic), end(codex), read_to_end(&mut whole));
    assert!(began.elapsed() > Duration::from_secs(50), "{:?}", began.elapsed());
    // What the upstream says takes 200 seconds.
    assert!(began.elapsed() < Duration::from_secs(150), "{:?}", began.elapsed());
    // Signs of life until then, and what has come since.
    assert!(openai.body.contains(": keepalive"), "{openai:?}");
    assert!(openai.body.contains(r#""content":"d""#), "{openai:?}");
    let (_, data) = last(&openai);
    assert_eq!(data["error"]["code"], "gateway_lost", "{data}");
    assert!(!openai.body.contains("[DONE]"));
    let (name, data) = last(&anthropic);
    assert_eq!((name.as_deref(), data["type"].as_str()), (Some("error"), Some("error")));
    assert!(!anthropic.body.contains("message_stop"));
    let (name, data) = last(&codex);
    assert_eq!(name.as_deref(), Some("response.failed"), "{data}");
    let whole = Response::read(&whole);
    assert_eq!((whole.status, whole.header("x-should-retry")), (502, Some("false")), "{whole:?}");
    let cancelled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled' AND cost_estimate > 0";
    eventually(&own.root, cancelled, "3").await;
    for index in 0..4 {
        upstream.wait_for_abort(index).await;
    }
}

#[tokio::test]
async fn native_events_end_with_an_error_too() {
    let claude = Upstream::raw(|_| {
        let event = |name: &str, data: Value| Piece::Event(name.to_owned(), data.to_string());
        Answer::Stream(vec![
            event(
                "message_start",
                json!({"type": "message_start", "message": {"id": "msg_1",
                "type": "message", "role": "assistant", "model": "claude-x", "content": [],
                "usage": {"input_tokens": 5, "output_tokens": 1}}}),
            ),
            event(
                "content_block_start",
                json!({"type": "content_block_start", "index": 0,
                "content_block": {"type": "text", "text": ""}}),
            ),
            event(
                "content_block_delta",
                json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": "abc"}}),
            ),
            Piece::Stall,
        ])
    })
    .await;
    let bed = super::Bed::new().await;
    add_named(&bed.root, "claude", "anthropic", &claude.base_url(), &["claude-x"]).await;
    let user = bed.database.rest("authenticated", Some("u-1")).await;
    save_key(&user, "claude", "sk-ant-0123456789abcdef").await;
    let body = json!({"model": "claude-x", "max_tokens": 10, "stream": true,
        "messages": [{"role": "user", "content": "hi"}]});
    let request =
        Request::new("POST", "/v1/messages").bearer(&token::of("u-1")).json(body.to_string());
    let stream = begin(bed.port, &request).await;
    value(&bed.root, "SELECT pg_terminate_backend(worker_pid) FROM aggregator_status()").await;
    let (name, data) = last(&end(stream).await);
    assert_eq!((name.as_deref(), data["type"].as_str()), (Some("error"), Some("error")));
    eventually(&bed.root, "SELECT string_agg(status, ',') FROM aggregator_usage_logs", "cancelled")
        .await;
}
