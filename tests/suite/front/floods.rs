//! Many at one time.

use super::{Bed, Request, send};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_thousand_idle_connections_hold_up_nobody() {
    let bed = Bed::new().await;
    let mut idle = Vec::new();
    for n in 0..1000 {
        let mut stream = bed.connect().await;
        if n % 2 == 0 {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost:").await.unwrap();
        }
        idle.push(stream);
    }
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        let response =
            send(bed.connect().await, &Request::new("GET", "/ready").bytes(bed.port)).await;
        assert_eq!(response.status, 200);
        times.push(began.elapsed());
    }
    times.sort();
    // A busy machine may hold one of them up.
    assert!(times[25] < Duration::from_millis(250), "{times:?}");
}
