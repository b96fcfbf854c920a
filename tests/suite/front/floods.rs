//! Many at one time.

use super::calls::{chat, ready};
use super::{Request, send};
use crate::upstream::{Answer, Upstream};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_thousand_idle_connections_hold_up_nobody() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let mut idle = Vec::new();
    for n in 0..1000 {
        let mut stream = bed.connect().await;
        if n % 2 == 0 {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost:").await.unwrap();
        }
        idle.push(stream);
    }
    let mut times: Vec<Duration> = Vec::new();
    for request in [Request::new("GET", "/ready"), chat("u-1", json!({}))] {
        for _ in 0..25 {
            let began = Instant::now();
            let response = send(bed.connect().await, &request.bytes(bed.port)).await;
            assert_eq!(response.status, 200, "{response:?}");
            times.push(began.elapsed());
        }
    }
    times.sort();
    // A busy machine may hold some of them up.
    assert!(times[25] < Duration::from_secs(3), "{times:?}");
}
