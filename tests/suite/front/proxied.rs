//! Behind proxies: who is believed for whom they ask.

use super::calls::chat;
use super::own::Own;
use super::{Request, Response, read_to_end, send};
use crate::bed::PATIENCE;
use crate::fixtures::{add_provider, user};
use crate::upstream::{Answer, Upstream};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Connections or requests of one machine at one time.
const MOST: usize = 64;

/// A connection to this machine from another of its own addresses.
async fn from(address: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// An address of this machine that is not loopback. Nothing is sent to find it.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

async fn holds(mut stream: TcpStream, request: &Request, port: u16) -> TcpStream {
    stream.write_all(&request.bytes(port)).await.unwrap();
    stream
}

#[tokio::test]
async fn requests_of_one_address_through_a_trusted_proxy_are_limited_and_others_are_not() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let own = Own::start(
        "proxied",
        "aggregator.http_trusted_proxies = '127.0.0.9'\naggregator.max_in_flight_per_user = 1000",
    )
    .await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let to = SocketAddr::from(([127, 0, 0, 1], own.port));
    let proxy = "127.0.0.9".parse().unwrap();
    let asks_for = |forwarded: &str| chat("u-1", json!({})).header("x-forwarded-for", forwarded);
    let mut held = Vec::new();
    for n in 0..MOST {
        // What the client has made up itself is passed over.
        let request = asks_for(&format!("10.0.0.{n}, 203.0.113.7"));
        held.push(holds(from(proxy, to).await, &request, own.port).await);
    }
    upstream.wait_for_chats(MOST).await;
    let health =
        |forwarded: &str| Request::new("GET", "/health").header("x-forwarded-for", forwarded);
    let status = async |request: Request, stream: TcpStream| -> u16 {
        send(stream, &request.bytes(own.port)).await.status
    };
    assert_eq!(status(health("203.0.113.7"), from(proxy, to).await).await, 503);
    assert_eq!(status(health("1.1.1.1, 203.0.113.7"), from(proxy, to).await).await, 503);
    // Through the same proxy for others, for nobody, and for the proxy itself.
    for other in ["203.0.113.8", "203.0.113.7, 203.0.113.8", "unknown", "127.0.0.9"] {
        assert_eq!(status(health(other), from(proxy, to).await).await, 200, "{other}");
    }
    // Whoever is no proxy of the list is not believed: neither to be another, nor to be one.
    let stranger = "127.0.0.8".parse().unwrap();
    assert_eq!(status(health("203.0.113.7"), from(stranger, to).await).await, 200);
    // As soon as one has ended, there is room.
    drop(held.pop());
    let began = Instant::now();
    while status(health("203.0.113.7"), from(proxy, to).await).await != 200 {
        assert!(began.elapsed() < PATIENCE, "there is no room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let aborted = || upstream.chats().iter().filter(|chat| chat.aborted.is_some()).count();
    while aborted() == 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(aborted(), 1);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_trusts_nobody() {
    let own = Own::start("no_proxies", "aggregator.http_trusted_proxies = '127.0.0.9, x'").await;
    own.logs("no proxy is trusted: aggregator.http_trusted_proxies: 'x' is").await;
    let health = Request::new("GET", "/health").header("x-forwarded-for", "203.0.113.7");
    assert_eq!(own.send(&health).await.status, 200);
}

/// Where this machine has no other address, there is no other machine to be: `tools/test.sh` counts it as skipped.
#[tokio::test]
async fn another_machine_has_sixty_four_connections_and_a_proxy_as_many_as_it_wants() {
    let address = other_address().expect("an address of this machine that is not loopback");
    let own = Own::start("other_machine", "aggregator.http_allow_remote = on").await;
    let port = own.port;
    own.set(&format!("aggregator.http_listen = 'app=0.0.0.0:{port}'"));
    own.says(&format!("http://0.0.0.0:{port}")).await;
    let to = SocketAddr::new(address, port);
    let health = Request::new("GET", "/health").header("host", &to.to_string());
    let keep = format!("GET /health HTTP/1.1\r\nhost: {to}\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(keep.as_bytes()).await.unwrap();
        let mut portion = [0; 1024];
        assert!(stream.read(&mut portion).await.unwrap() > 0);
        held.push(stream);
    }
    let mut refused = TcpStream::connect(to).await.unwrap();
    let refused = Response::read(&read_to_end(&mut refused).await);
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"), "{refused:?}");
    // This machine's own programs are not strangers.
    assert_eq!(own.send(&Request::new("GET", "/health")).await.status, 200);
    own.set(&format!("aggregator.http_trusted_proxies = '{address}'"));
    let began = Instant::now();
    loop {
        let stream = TcpStream::connect(to).await.unwrap();
        if send(stream, &health.bytes(port)).await.status == 200 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it is not trusted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
