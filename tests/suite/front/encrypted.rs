//! TLS.

use super::calls::chat;
use super::own::{Own, until_down};
use super::{Request, Response, free_port, read_to_end, send};
use crate::bed::{PATIENCE, as_server, run, value};
use crate::fixtures::{add_provider, user};
use crate::upstream::{Answer, Upstream};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

fn certified() -> Certified {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// Writes the two files as the server's.
fn write(own: &Own, certified: &Certified, mode: &str) {
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    for (name, text, mode) in [("http.crt", certificate, "0644"), ("http.key", key, mode)] {
        let script = "printf '%s' \"$1\" > \"$2\" && chmod \"$3\" \"$2\"";
        let file = own.cluster.data().join(name);
        run(as_server("sh").args(["-c", script, "sh", &text]).arg(file).arg(mode));
    }
}

async fn handshake(
    own: &Own,
    trusted: &Certified,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, own.connect().await).await
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

async fn over_tls(own: &Own, trusted: &Certified, request: &Request) -> Response {
    let stream = handshake(own, trusted, BOTH, &[]).await.expect("it is encrypted");
    send(stream, &request.bytes(own.port)).await
}

const FILES: &str =
    "aggregator.http_tls_certificate = 'http.crt'\naggregator.http_tls_key = 'http.key'";

#[tokio::test]
async fn an_encrypted_address_speaks_tls_and_nothing_else() {
    let upstream = Upstream::start(|seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::streams(&["a", "b"], Duration::from_millis(10), None),
        _ => Answer::hello(),
    })
    .await;
    let own = Own::start("tls", "").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    let first = certified();
    write(&own, &first, "0600");
    let mut plain = own.connect().await;
    own.set(FILES);
    own.says(&format!("https://127.0.0.1:{}", own.port)).await;
    // Who was there before, in plain text, is let go.
    assert_eq!(plain.read(&mut [0; 64]).await.unwrap_or(0), 0);
    let whole = over_tls(&own, &first, &chat("u-1", json!({}))).await;
    assert_eq!(whole.status, 200, "{whole:?}");
    let streamed = over_tls(&own, &first, &chat("u-1", json!({"stream": true}))).await;
    assert!(streamed.body.contains("[DONE]"), "{streamed:?}");
    // Its name is that of TLS's port, too; a stranger's is not.
    let health = |host: &str| Request::new("GET", "/health").header("host", host);
    let named = health(&format!("localhost:{}", own.port));
    assert_eq!(over_tls(&own, &first, &named).await.status, 200);
    assert_eq!(over_tls(&own, &first, &health("evil.example")).await.status, 421);
    for (version, expected) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let stream = handshake(&own, &first, &[version], &["h2", "http/1.1"]).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    assert!(handshake(&own, &first, BOTH, &["h2"]).await.is_err(), "HTTP/2 is not spoken");
    // Plain text is not answered.
    let mut stream = own.connect().await;
    stream.write_all(&Request::new("GET", "/health").bytes(own.port)).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");

    // A new certificate, from the reload on.
    let second = certified();
    write(&own, &second, "0600");
    own.cluster.reload();
    let began = Instant::now();
    while handshake(&own, &second, BOTH, &[]).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the new one is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(handshake(&own, &first, BOTH, &[]).await.is_err());
    // One that cannot be read is not used, and said; the last one serves on.
    write(&own, &certified(), "0644");
    own.cluster.reload();
    let kept = format!(
        "https://127.0.0.1:{} the last certificate is still in use: aggregator.http_tls_key: \
         others than its owner may read or write it (want mode 0600)",
        own.port
    );
    own.says(&kept).await;
    assert_eq!(over_tls(&own, &second, &named).await.status, 200);
    own.logs("the last certificate is still in use").await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_no_reason_to_speak_plain_text() {
    let own = Own::start("no_tls", "shared_preload_libraries = 'aggregator'").await;
    let port = own.port;
    let (one, other) = (certified(), certified());
    write(&own, &one, "0600");
    let said = |problem: &str| format!("- https://127.0.0.1:{port}: {problem}");
    for (set, problem) in [
        ("aggregator.http_tls_certificate = 'http.crt'", "aggregator.http_tls_key is not set"),
        (
            "aggregator.http_tls_certificate = ''\naggregator.http_tls_key = 'http.key'",
            "aggregator.http_tls_certificate is not set",
        ),
        (
            "aggregator.http_tls_certificate = 'nosuch.crt'",
            "aggregator.http_tls_certificate: entity not found",
        ),
        (
            "aggregator.http_tls_certificate = 'base'",
            "aggregator.http_tls_certificate: it is not a file",
        ),
        (
            "aggregator.http_tls_certificate = 'PG_VERSION'",
            "aggregator.http_tls_certificate: there is none in it",
        ),
        (
            "aggregator.http_tls_certificate = 'http.crt'\naggregator.http_tls_key = 'http.crt'",
            "aggregator.http_tls_key: others than its owner may read or write it (want mode 0600)",
        ),
        (
            "aggregator.http_tls_key = 'jwt_secret'",
            "aggregator.http_tls_key: there is no private key in it",
        ),
    ] {
        own.set(set);
        own.says(&said(problem)).await;
        until_down(port).await;
    }
    // Of another certificate.
    let key = own.cluster.data().join("http.key");
    let script = "printf '%s' \"$1\" > \"$2\"";
    run(as_server("sh").args(["-c", script, "sh", &other.signing_key.serialize_pem()]).arg(&key));
    own.set("aggregator.http_tls_key = 'http.key'");
    let mismatch = "SELECT http_address IS NULL AND http_error LIKE '%with this key: %' FROM aggregator_status()";
    crate::bed::eventually(&own.root, mismatch, "t").await;
    until_down(port).await;
    own.logs("no HTTP requests are taken: https://").await;
    assert!(!own.cluster.log().contains("PRIVATE KEY"));
    // Once it is right, it is found without being told.
    write(&own, &one, "0600");
    own.says(&format!("https://127.0.0.1:{port}")).await;
    let health = Request::new("GET", "/health");
    assert_eq!(over_tls(&own, &one, &health).await.status, 200);
    // Who begins and goes no further is let go, and holds nobody up.
    let mut is_held_up = true;
    for _ in 0..5 {
        let began = Instant::now();
        let mut silent = own.connect().await;
        assert_eq!(over_tls(&own, &one, &health).await.status, 200);
        // While it is there still.
        let is_there = silent.try_read(&mut [0; 64]).is_err();
        let end = timeout(PATIENCE, silent.read(&mut [0; 64])).await;
        assert_eq!(end.expect("it is let go").unwrap_or(0), 0);
        assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
        is_held_up = !is_there;
        if !is_held_up {
            break;
        }
    }
    assert!(!is_held_up);
    // Where the files are is not everybody's to know.
    let alice = own.cluster.connect("alice", "app").await;
    assert_eq!(crate::bed::failure(&alice, "SHOW aggregator.http_tls_key").await.0, "42501");
    assert_eq!(value(&own.root, "SHOW aggregator.http_tls_key").await.as_deref(), Some("http.key"));
}

#[tokio::test]
async fn others_may_reach_an_encrypted_address_and_a_unix_socket_has_no_tls() {
    let own = Own::start("tls_remote", "aggregator.http_allow_remote = on").await;
    let one = certified();
    write(&own, &one, "0600");
    let (port, socket) = (free_port().await, own.cluster.dir.join("http.sock"));
    own.set(&format!("{FILES}\naggregator.http_listen = 'app=0.0.0.0:{port}'"));
    own.says(&format!("https://0.0.0.0:{port}")).await;
    assert!(!own.cluster.log().contains("is not encrypted: put a proxy"));
    own.set(&format!("aggregator.http_listen = 'app=unix:{}'", socket.display()));
    own.says(&format!("unix:{}", socket.display())).await;
    let health = Request::new("GET", "/health");
    assert_eq!(super::over_socket(&socket, &health).await.status, 200);
}
