//! The HTTP endpoint, from outside.

mod cache;
mod callers;
mod calls;
mod checked_json;
mod clerks;
mod clients;
pub mod console_data;
mod console_pages;
mod console_sessions;
mod console_walks;
mod dialects;
mod embeddings;
mod encrypted;
mod errors;
mod floods;
mod headers;
mod jobs;
mod key_limits;
mod keys;
mod limits;
mod listening;
mod metrics;
mod own;
mod proxied;
mod real_proxies;
mod reloading;
mod stopping;
mod strangers;
mod tags;
mod throttle;
pub mod token;
mod ways;

use crate::bed::{self, Cluster, Database, eventually, value};
use crate::upstream::Upstream;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::Client;

/// A database that is reached over HTTP.
pub struct Bed {
    pub database: Database<'static>,
    pub root: Client,
    /// On this machine.
    pub port: u16,
}

impl Bed {
    /// On the cluster that the tests of HTTP share.
    pub async fn new() -> Self {
        static TEMPLATE: bed::Template = bed::Template::const_new();
        let database = cluster().await.copy(&TEMPLATE).await;
        let port = free_port().await;
        let root = database.root().await;
        listen(&root, &format!("{}=127.0.0.1:{port}", database.name)).await;
        value(&root, "SELECT aggregator_start()").await;
        let address = format!("http://127.0.0.1:{port}");
        eventually(&root, "SELECT http_address FROM aggregator_status()", &address).await;
        Self { database, root, port }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens")
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Response {
        send(self.connect().await, &request.bytes(self.port)).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(&Request::new("GET", path)).await
    }
}

/// Waits until the worker at this port has read what so many streams have said before they stall. It reads what has
/// come before it takes a request that comes later.
pub async fn until_read(upstream: &Upstream, streams: usize, port: u16) {
    upstream.wait_for_stalls(streams).await;
    for _ in 0..2 {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let health = Request::new("GET", "/health");
        assert_eq!(send(stream, &health.bytes(port)).await.status, 200);
    }
}

/// Has databases listen, beside those that do.
pub async fn listen(root: &Client, entry: &str) {
    static ENTRIES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let list = {
        let mut entries = ENTRIES.lock().unwrap();
        entries.push(entry.to_owned());
        entries.join(", ")
    };
    root.batch_execute("LOAD 'aggregator'").await.expect("it is there");
    let sql = format!("ALTER SYSTEM SET aggregator.http_listen = '{list}'");
    root.batch_execute(&sql).await.expect("it is set");
    root.batch_execute("SELECT pg_reload_conf()").await.expect("it is read");
    eventually(root, "SHOW aggregator.http_listen", &list).await;
}

/// The cluster that the tests of HTTP share.
pub async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static ROLES: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let cluster = CLUSTER.get_or_init(|| {
        let cluster = Cluster::make(
            bed::FRONT,
            "autovacuum = off\nmax_wal_size = 256MB\naggregator.jwt_secret_file = 'jwt_secret'\n\
             aggregator.http_cors_origins = 'https://app.example'\naggregator.http_max_body = 1MB",
        );
        write_secret(&cluster.data().join("jwt_secret"), SECRET);
        cluster.up();
        cluster
    });
    ROLES.get_or_init(|| cluster.supabase_roles()).await;
    cluster
}

/// With which the tests' access tokens are signed.
pub const SECRET: &str = "a-secret-of-the-tests-that-is-long-enough";

/// Writes a file that the server alone may read.
pub fn write_secret(path: &PathBuf, secret: &str) {
    let script = "umask 077; printf '%s' \"$1\" > \"$2\"";
    bed::run(bed::as_server("sh").args(["-c", script, "sh", secret]).arg(path));
}

/// A port for a server of a test. None that the system gives out by itself: between now and when the server has it,
/// a stand-in of another test would get it, or whoever asks whether the server is up would reach itself. Others that
/// run this suite see that it is taken, also while no server has it, by the UDP port of the same number.
pub async fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let begin = std::process::id() % u32::from(PORTS);
    for _ in 0..PORTS {
        let taken = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + ((begin + taken) % u32::from(PORTS)) as u16;
        let Ok(held) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            HELD.lock().unwrap().push(held);
            return port;
        }
    }
    panic!("no port is free");
}

/// A request to be sent as it is written here.
#[derive(Clone)]
pub struct Request {
    head: String,
    host: Option<String>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { head: format!("{method} {path} HTTP/1.1\r\n"), host: None, body: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        if name.eq_ignore_ascii_case("host") {
            self.host = Some(value.to_owned());
        } else {
            self.head.push_str(&format!("{name}: {value}\r\n"));
        }
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// A body, of type JSON and with its length.
    pub fn json(mut self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        self.head.push_str(&format!(
            "content-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        ));
        self.body = Some(body);
        self
    }

    /// What goes over the wire.
    pub fn bytes(&self, port: u16) -> Vec<u8> {
        let host = self.host.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
        let mut bytes = self.head.clone().into_bytes();
        bytes.extend(format!("host: {host}\r\nconnection: close\r\n\r\n").bytes());
        bytes.extend(self.body.iter().flatten());
        bytes
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Without the framing of its chunks.
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = found.next();
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        first.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// OpenAI's `error.code`.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("∅").to_owned()
    }

    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("0");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let is_chunked = headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked"
        });
        let body = if is_chunked { unchunked(body) } else { body.to_owned() };
        Self { status: status.parse().expect("a status"), headers, body }
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        // An answer that was cut off ends somewhere.
        let end = size.min(rest.len());
        whole.push_str(&rest[..end]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Sends bytes and reads what comes back, until the other side closes.
pub async fn send<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> Response {
    // Whoever is refused may be cut off before all is sent.
    let _ = stream.write_all(bytes).await;
    Response::read(&read_to_end(&mut stream).await)
}

pub async fn read_to_end<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(90), async {
        let mut portion = [0; 8192];
        while let Ok(count) = stream.read(&mut portion).await {
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&portion[..count]);
        }
    });
    read.await.expect("the answer ends");
    bytes
}

pub async fn over_socket(path: &std::path::Path, request: &Request) -> Response {
    let stream = UnixStream::connect(path).await.expect("it listens");
    send(stream, &request.bytes(0)).await
}
