//! A provider that sends without end what is no answer: it must not take the gateway's thread.

use crate::bed::{Cluster, Database, as_server, failure, rows, run, value};
use crate::fixtures::{HELLO, add_named, add_provider, save_key};
use crate::upstream::{Answer, Upstream};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// What is sent at the start, and what again and again after it.
struct Flood {
    start: &'static [u8],
    again: Vec<u8>,
    pause: Duration,
}

/// A raw upstream, and how many bytes of its flood somebody took.
struct Flooder {
    port: u16,
    taken: Arc<AtomicUsize>,
    is_flooding: Arc<AtomicBool>,
}

impl Flooder {
    fn start(flood: Flood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(AtomicUsize::new(0));
        let is_flooding = Arc::new(AtomicBool::new(false));
        let (count, flag, flood) = (taken.clone(), is_flooding.clone(), Arc::new(flood));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, flag, flood) = (count.clone(), flag.clone(), flood.clone());
                std::thread::spawn(move || {
                    let _ = pour(stream.unwrap(), &flood, &count, &flag);
                });
            }
        });
        Self { port, taken, is_flooding }
    }
}

fn pour(
    mut stream: TcpStream,
    flood: &Flood,
    count: &AtomicUsize,
    flag: &AtomicBool,
) -> std::io::Result<()> {
    let mut request = [0; 65536];
    let _ = stream.read(&mut request)?;
    flag.store(true, Ordering::SeqCst);
    stream.write_all(flood.start)?;
    loop {
        stream.write_all(&flood.again)?;
        count.fetch_add(flood.again.len(), Ordering::SeqCst);
        std::thread::sleep(flood.pause);
    }
}

/// The longest of another tenant's calls, made one after the other for as long.
async fn slowest(client: &Client, time: Duration) -> Duration {
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < time {
        let call = Instant::now();
        value(client, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
        slowest = slowest.max(call.elapsed());
    }
    slowest
}

/// How often each flood is tried: a machine that does something else may hold up another tenant once, and a provider
/// that takes the gateway's thread holds everybody up each time.
const TRIES: usize = 3;

/// Calls a provider that floods while another tenant calls another one.
async fn floods(flooder: &Flooder, name: &str, alice: &Client, bob: &Client) {
    let sql = format!(
        r#"SELECT chat_complete('x', '{HELLO}', '{{"timeout_ms": 2500, "max_retries": 0}}', '{name}')"#
    );
    let mut waited = vec![];
    for _ in 0..TRIES {
        flooder.is_flooding.store(false, Ordering::SeqCst);
        flooder.taken.store(0, Ordering::SeqCst);
        let is_over = AtomicBool::new(false);
        let attack = async {
            let began = Instant::now();
            let (code, message) = failure(alice, &sql).await;
            is_over.store(true, Ordering::SeqCst);
            assert!(matches!(code.as_str(), "PT502" | "PT504"), "{name}: {code} {message}");
            assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
        };
        let others = async {
            while !flooder.is_flooding.load(Ordering::SeqCst) {
                // Its time may have been over before it was sent.
                if is_over.load(Ordering::SeqCst) {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Some(slowest(bob, Duration::from_millis(1500)).await)
        };
        let ((), slowest) = tokio::join!(attack, others);
        let taken = flooder.taken.load(Ordering::SeqCst);
        // Of which the sockets hold some megabytes.
        assert!(taken < 64 << 20, "{name}: {taken} bytes were taken");
        if slowest.is_some_and(|slowest| slowest < Duration::from_millis(1400)) {
            return;
        }
        waited.push(slowest);
    }
    panic!("{name}: another tenant waited {waited:?}");
}

async fn tenant(database: &Database<'_>, name: &str) -> Client {
    let client = database.rest("authenticated", Some(name)).await;
    value(&client, "SELECT aggregator_user_id()").await;
    client
}

const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_provider_that_floods_takes_nobody_elses_time() {
    let cluster = Cluster::start("floods", "");
    cluster.supabase_roles().await;
    let good = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &good).await;
    let bob = tenant(&database, "u-b").await;
    save_key(&bob, "standin", "sk-good-b").await;
    let alice = tenant(&database, "u-a").await;
    let none = Duration::ZERO;
    let gzip: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03";
    let floods_of = [
        ("hundreds", b"" as &[u8], b"HTTP/1.1 100 Continue\r\n\r\n".repeat(4000), none),
        (
            "hints",
            b"",
            b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n".repeat(2000),
            none,
        ),
        ("headers", b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n".repeat(8000), none),
        ("header", b"HTTP/1.1 200 OK\r\nx-a: ", vec![b'a'; 65536], none),
        ("reason", b"HTTP/1.1 200 ", vec![b'a'; 65536], none),
        ("extension", CHUNKED, [b"1;".to_vec(), vec![b'a'; 65536]].concat(), none),
        (
            "trailers",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            b"x-a: b\r\n".repeat(8000),
            none,
        ),
        // Stored blocks of no bytes: it is unpacked to nothing.
        ("gzip", gzip, b"\x00\x00\x00\xff\xff".repeat(10_000), none),
        ("drip", b"", b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), Duration::from_millis(20)),
    ];
    for (name, start, again, pause) in floods_of {
        let flooder = Flooder::start(Flood { start, again, pause });
        let url = format!("http://127.0.0.1:{}/v1", flooder.port);
        add_named(&root, name, "openai", &url, &[]).await;
        save_key(&alice, name, "sk-good-a").await;
        floods(&flooder, name, &alice, &bob).await;
    }
    let log = "SELECT bool_and(status = 'error'), count(DISTINCT provider_id)
               FROM aggregator_usage_logs WHERE user_id = 'u-a'";
    assert_eq!(rows(&root, log).await, ["t|9"]);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&[len[1], len[2], len[3], kind, flags, 0, 0, 0, stream], payload].concat()
}

/// An upstream of HTTP/2 behind TLS that begins and then sends `again` without end.
fn http2(
    certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
    start: Vec<u8>,
    again: Vec<u8>,
) -> Flooder {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
    let provider = rustls::crypto::ring::default_provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let is_flooding = Arc::new(AtomicBool::new(false));
    let (count, flag) = (taken.clone(), is_flooding.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (count, flag, config) = (count.clone(), flag.clone(), config.clone());
            let (start, again) = (start.clone(), again.clone());
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut stream = stream.unwrap();
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::Stream::new(&mut tls, &mut stream);
                let mut request = [0; 65536];
                while !request.windows(4).any(|bytes| bytes == b"\0\0\0\x01") {
                    let _ = stream.read(&mut request)?;
                }
                flag.store(true, Ordering::SeqCst);
                stream.write_all(&frame(4, 0, 0, &[]))?;
                stream.write_all(&start)?;
                loop {
                    stream.write_all(&again)?;
                    count.fetch_add(again.len(), Ordering::SeqCst);
                }
            });
        }
    });
    Flooder { port, taken, is_flooding }
}

#[tokio::test]
async fn a_provider_of_http2_that_floods_takes_nobody_elses_time() {
    let trusted = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cluster = Cluster::make("floods2", "");
    let authorities = cluster.dir.join("ca.pem");
    run(as_server("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &trusted.cert.pem()])
        .arg(&authorities));
    cluster.up_with(&[("SSL_CERT_FILE", authorities.to_str().unwrap())]);
    cluster.supabase_roles().await;
    let good = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &good).await;
    let bob = tenant(&database, "u-b").await;
    save_key(&bob, "standin", "sk-good-b").await;
    let alice = tenant(&database, "u-a").await;
    let interim = frame(1, 4, 1, b"\x08\x03100");
    for (name, start, again) in [
        ("ping", vec![], frame(6, 0, 0, &[0; 8])),
        ("settings", vec![], frame(4, 0, 0, &[])),
        ("window", vec![], frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", vec![], frame(0xee, 0, 0, &[])),
        ("interim", vec![], interim),
        ("continuation", frame(1, 0, 1, b"\x88"), frame(9, 0, 1, b"\x00\x01a\x01b")),
        ("empty", frame(1, 4, 1, b"\x88"), frame(0, 0, 1, &[])),
    ] {
        let flooder = http2(&trusted, start, again.repeat(4000));
        let url = format!("https://localhost:{}/v1", flooder.port);
        add_named(&root, name, "openai", &url, &[]).await;
        save_key(&alice, name, "sk-good-a").await;
        floods(&flooder, name, &alice, &bob).await;
    }
}
