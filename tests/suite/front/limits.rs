//! What is too large, too slow or too much.

use super::calls::{body, chat, ready};
use super::{Bed, Request, Response, read_to_end, send, token};
use crate::bed::{PATIENCE, as_server, eventually, eventually_within, rows, run, value};
use crate::upstream::{Answer, Piece, Upstream};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn a_head_of_32_kb_is_read_and_one_byte_more_is_refused() {
    let bed = Bed::new().await;
    let of = |bytes: usize| {
        let start = format!("GET /health HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nx: ", bed.port);
        let end = "\r\nconnection: close\r\n\r\n";
        format!("{start}{}{end}", "y".repeat(bytes - start.len() - end.len()))
    };
    let asks = async |text: String| send(bed.connect().await, text.as_bytes()).await;
    assert_eq!(asks(of(32 * 1024)).await.status, 200);
    let refused = asks(of(32 * 1024 + 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (431, "head_too_large"));
    assert_eq!(asks(of(200 * 1024)).await.status, 431);
    // What stands between the method and the version.
    let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
    assert_eq!(bed.get(&path(8 * 1024)).await.status, 404);
    let refused = bed.get(&path(8 * 1024 + 1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (414, "target_too_long"));
    let query = format!("/health?{}", "x".repeat(8 * 1024));
    assert_eq!(bed.get(&query).await.status, 414);
}

#[tokio::test]
async fn no_request_changes_the_protocol_or_is_echoed() {
    let bed = Bed::new().await;
    let upgrade = Request::new("GET", "/health")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let response = bed.send(&upgrade).await;
    assert_eq!((response.status, response.header("upgrade")), (200, None));
    let h2c = Request::new("GET", "/health")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA");
    assert_eq!(bed.send(&h2c).await.status, 200);
    for method in ["TRACE", "TRACK", "PUT", "PATCH", "PROPFIND", "get"] {
        let response =
            bed.send(&Request::new(method, "/health").header("x-secret", "s3cr3t")).await;
        assert_eq!(response.status, 405, "{method}");
        assert!(!response.body.contains("s3cr3t"), "{method}");
    }
    let raw = async |text: String| send(bed.connect().await, text.as_bytes()).await;
    let port = bed.port;
    let host = format!("host: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    for target in [
        format!("http://127.0.0.1:{port}/health"),
        "http://evil.example/health".to_owned(),
        "https://127.0.0.1/health".to_owned(),
    ] {
        let response = raw(format!("GET {target} HTTP/1.1\r\n{host}")).await;
        assert_eq!(response.status, 400, "{target}");
    }
    assert_eq!(raw(format!("CONNECT 127.0.0.1:22 HTTP/1.1\r\n{host}")).await.status, 400);
}

#[tokio::test]
async fn after_a_length_beside_chunks_nothing_more_is_read() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let port = bed.port;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\n",
        token::of("u-1")
    );
    let body = body(json!({}));
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let smuggled = format!("GET /health HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    for both in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "transfer-encoding: chunked",
    ] {
        let mut stream = bed.connect().await;
        let text = format!("{head}{both}\r\n\r\n{chunks}{smuggled}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let answers = read_to_end(&mut stream).await;
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.starts_with("HTTP/1.1 200"), "{both}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{both}: {answers}");
        assert!(answers.contains("connection: close"), "{both}: {answers}");
    }
    for bad in [
        "content-length: 4\r\ncontent-length: 5",
        "content-length: 4, 5",
        "transfer-encoding: identity",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
    ] {
        let text = format!("{head}{bad}\r\n\r\n{chunks}{smuggled}");
        let mut stream = bed.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let answers = read_to_end(&mut stream).await;
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.starts_with("HTTP/1.1 400"), "{bad}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{bad}: {answers}");
    }
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn what_is_not_utf_8_is_refused_wherever_it_is() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let port = bed.port;
    let bearer = token::of("u-1");
    let host = format!("host: 127.0.0.1:{port}\r\nconnection: close\r\n");
    let post = |before: &[u8], body: &[u8]| {
        let mut bytes = b"POST /v1/chat/completions HTTP/1.1\r\n".to_vec();
        bytes.extend(host.bytes());
        bytes.extend(before);
        let length =
            format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        bytes.extend(length.bytes());
        bytes.extend(body);
        bytes
    };
    let authorization = format!("authorization: Bearer {bearer}\r\n").into_bytes();
    let text = body(json!({})).replace("hi", "h\u{fffd}").into_bytes();
    let place = text.windows(3).position(|bytes| bytes == "\u{fffd}".as_bytes()).unwrap();
    for bad in [&b"\xff\xfe\xfd"[..], b"\xed\xa0\x80", b"\xc0\x80\x80", b"\xf8\x88\x80"] {
        let mut text = text.clone();
        text[place..place + 3].copy_from_slice(bad);
        let response = send(bed.connect().await, &post(&authorization, &text)).await;
        assert_eq!(response.status, 400, "{bad:?}: {response:?}");
    }
    // In a credential, a tag, a host and a path.
    let mut broken = b"authorization: Bearer \xff\xfe".to_vec();
    broken.extend(b"\r\n");
    let good = body(json!({})).into_bytes();
    assert_eq!(send(bed.connect().await, &post(&broken, &good)).await.status, 401);
    let get = |bytes: &[u8]| {
        let mut request = b"GET ".to_vec();
        request.extend(bytes);
        request.extend(b" HTTP/1.1\r\n");
        request.extend(host.bytes());
        request.extend(format!("authorization: Bearer {bearer}\r\n\r\n").bytes());
        request
    };
    for path in [&b"/v1/models/\xff\xfe"[..], b"/v1/models/%ff%fe", b"/%ff", b"/v1/models/a%00b"] {
        let response = send(bed.connect().await, &get(path)).await;
        assert!(matches!(response.status, 400 | 404), "{path:?}: {response:?}");
    }
    let strange = b"GET /health HTTP/1.1\r\nhost: \xff\xfe\r\nconnection: close\r\n\r\n";
    assert_eq!(send(bed.connect().await, strange).await.status, 421);
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(bed.send(&chat("u-1", json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let mut stream = bed.connect().await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 5000\r\n\r\n{{",
        bed.port,
        token::of("u-1")
    );
    let began = Instant::now();
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let dribble = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writing.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let answer = tokio::select! {
        answer = read_to_end(&mut reading) => Response::read(&answer),
        () = dribble => unreachable!(),
    };
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    // All of it would take more than an hour.
    assert!(began.elapsed() < Duration::from_secs(80), "{:?}", began.elapsed());
    assert_eq!(upstream.chat_count(), 0);
}

/// Takes more than a minute, as real clients would.
#[tokio::test]
async fn a_reader_that_stops_reading_is_given_up_after_a_minute_and_paid_for() {
    let text = "x".repeat(16 * 1024);
    let upstream = Upstream::start(move |_| {
        let mut pieces = vec![Piece::role()];
        pieces.extend((0..2000).map(|_| Piece::text(&text)));
        pieces.push(Piece::Stall);
        Answer::Stream(pieces)
    })
    .await;
    let bed = ready(&upstream).await;
    // Of what it does not read, its own system takes little.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], bed.port).into()).await.unwrap();
    let began = Instant::now();
    stream.write_all(&chat("u-1", json!({"stream": true})).bytes(bed.port)).await.unwrap();
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    let cancelled = "SELECT status FROM aggregator_usage_logs WHERE status <> 'pending'";
    eventually_within(3 * PATIENCE, &bed.root, cancelled, "cancelled").await;
    assert!(began.elapsed() > Duration::from_secs(50), "{:?}", began.elapsed());
    upstream.wait_for_abort(0).await;
    let settled = "SELECT count(*) FROM aggregator_usage_logs WHERE cost_estimate > 0";
    assert_eq!(value(&bed.root, settled).await.as_deref(), Some("1"));
    eventually(&bed.root, "SELECT in_flight FROM aggregator_status()", "0").await;
}

#[tokio::test]
async fn a_worker_that_is_out_of_descriptors_waits_and_recovers() {
    let bed = Bed::new().await;
    let pid = value(&bed.root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let limit = |soft: &str| {
        run(as_server("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]));
    };
    let told =
        run(as_server("prlimit").args(["--pid", &pid, "--nofile", "-o", "SOFT", "--noheadings"]));
    let usual = String::from_utf8(told.stdout).unwrap().trim().to_owned();
    let open = run(as_server("ls").arg(format!("/proc/{pid}/fd")));
    let open = String::from_utf8(open.stdout).unwrap().lines().count();
    limit(&(open + 10).to_string());
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap());
    }
    // Whoever is in has been served; the others wait in line.
    let cpu = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = cpu();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // In hundredths of a second: it does not spin.
    assert!(cpu() - before < 50, "{}", cpu() - before);
    drop(held);
    let began = Instant::now();
    assert_eq!(bed.get("/health").await.status, 200);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    limit(&usual);
    assert_eq!(bed.get("/ready").await.status, 200);
    assert_eq!(rows(&bed.root, "SELECT http_error IS NULL FROM aggregator_status()").await, ["t"]);
}
