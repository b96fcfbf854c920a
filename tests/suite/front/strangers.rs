//! What is sent by somebody who means ill, or knows no better.

use super::{Bed, Request, send};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn the_host_of_a_stranger_is_refused() {
    let bed = Bed::new().await;
    let port = bed.port;
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{}", port ^ 1),
        String::new(),
    ] {
        let response = bed.send(&Request::new("GET", "/health").header("host", &host)).await;
        assert_eq!((response.status, response.code().as_str()), (421, "unknown_host"), "{host}");
    }
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}")] {
        let response = bed.send(&Request::new("GET", "/health").header("host", &host)).await;
        assert_eq!(response.status, 200, "{host}");
    }
    let raw = async |text: &str| send(bed.connect().await, text.as_bytes()).await;
    let twice = format!(
        "GET /health HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(raw(&twice).await.status, 400);
    assert_eq!(raw("GET /health HTTP/1.1\r\nconnection: close\r\n\r\n").await.status, 400);
    assert_eq!(raw("GET /health HTTP/1.0\r\n\r\n").await.status, 200);
    let absolute = format!(
        "GET http://127.0.0.1:{port}/health HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(raw(&absolute).await.status, 400);
    let connect = format!("CONNECT evil.example:443 HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    assert_eq!(raw(&connect).await.status, 400);
}

#[tokio::test]
async fn heads_that_are_too_large_or_no_heads_are_refused() {
    let bed = Bed::new().await;
    let large = Request::new("GET", "/health").header("x-large", &"x".repeat(100_000));
    assert_eq!(bed.send(&large).await.status, 431);
    let many = (0..200)
        .fold(Request::new("GET", "/health"), |request, n| request.header(&format!("x-{n}"), "1"));
    assert_eq!(bed.send(&many).await.status, 431);
    let long = Request::new("GET", &format!("/v1/models/{}", "x".repeat(9000)));
    assert_eq!(bed.send(&long).await.status, 414);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx\0: y\r\n\r\n",
        b"GET /he\xff\xfealth\r\n\r\n",
        b"\r\n\r\n\r\nGET\r\n\r\n",
    ] {
        let mut stream = bed.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = super::read_to_end(&mut stream).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{bytes:?}: {answer}");
    }
    assert_eq!(bed.get("/health").await.status, 200);
}

#[tokio::test]
async fn what_is_smuggled_is_not_a_second_request() {
    let bed = Bed::new().await;
    let port = bed.port;
    // Chunked goes before the length: what follows the last chunk is the next request, and nothing in between is.
    let both = format!(
        "POST /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /health HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    );
    let mut stream = bed.connect().await;
    stream.write_all(both.as_bytes()).await.unwrap();
    let answers = String::from_utf8_lossy(&super::read_to_end(&mut stream).await).into_owned();
    assert!(answers.starts_with("HTTP/1.1 404"), "{answers}");
    assert!(answers.matches("HTTP/1.1 ").count() <= 2, "{answers}");
    for head in [
        "content-length: 5\r\ncontent-length: 6",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
        "content-length: -1",
        "content-length: 99999999999999999999999999",
    ] {
        let text =
            format!("POST /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{head}\r\n\r\nhello");
        let response = send(bed.connect().await, text.as_bytes()).await;
        assert!(matches!(response.status, 400 | 413 | 431), "{head}: {response:?}");
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let bed = Bed::new().await;
    let began = Instant::now();
    let mut stream = bed.connect().await;
    let dribble = async {
        stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if stream.write_all(b"x: y\r\n").await.is_err() {
                return began.elapsed();
            }
        }
    };
    let lasted = tokio::time::timeout(Duration::from_secs(120), dribble).await.expect("given up");
    assert!(lasted > Duration::from_secs(20), "{lasted:?}");
}
