//! The configurations of real proxies that the pages show, each in front of the endpoint.

use super::calls::{body, chat};
use super::own::Own;
use super::{Request, Response, free_port, send};
use crate::bed::{PATIENCE, as_server, run, tree, var};
use crate::upstream::{Answer, Piece, Upstream};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name that the pages give to the server.
const HOST: &str = "llm.example.com";
const SETTINGS: &str =
    "aggregator.http_hosts = 'llm.example.com'\naggregator.http_trusted_proxies = '127.0.0.1'";

struct Proxy {
    process: Child,
    /// Of its program, which is not the process that was started where another user runs it.
    pid_file: String,
    port: u16,
    tls: TlsConnector,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let script = "kill $(cat \"$1\")";
        let _ = as_server("sh").args(["-c", script, "sh", &self.pid_file]).output();
        let _ = self.process.wait();
    }
}

impl Proxy {
    /// Starts `program` with this configuration: of `page` the block that begins so, with names that are here.
    async fn start(own: &Own, program: &str, page: &str, begins: &str) -> Self {
        let port = free_port().await;
        let dir = own.cluster.dir.join("proxy");
        let dir = dir.to_str().unwrap();
        let text = std::fs::read_to_string(tree(page)).unwrap();
        let (_, block) = text.split_once(begins).unwrap_or_else(|| panic!("{begins} in {page}"));
        let (block, _) = block.split_once("\n```").unwrap();
        let shown = format!("{}{block}\n", begins.lines().last().unwrap());
        let (configuration, arguments) = match program {
            "usr/sbin/nginx" => (nginx(&shown, dir, port, own.port), "-e stderr -c"),
            _ => (caddy(&shown, dir, port, own.port), "run --adapter caddyfile --config"),
        };
        let certified = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        run(as_server("mkdir").args(["-p", dir]));
        for (name, text) in [
            ("configuration", configuration.as_str()),
            ("crt", &certified.cert.pem()),
            ("key", &certified.signing_key.serialize_pem()),
        ] {
            let script = "umask 077; printf '%s' \"$1\" > \"$2\"";
            let file = format!("{dir}/{name}");
            run(as_server("sh").args(["-c", script, "sh", text, &file]));
        }
        let program = format!("{}/{program}", var("AGGREGATOR_PROXIES"));
        let script = format!(
            "echo $$ > {dir}/pid; HOME={dir} exec {program} {arguments} {dir}/configuration 2> {dir}/log"
        );
        let process = as_server("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let proxy = Self {
            process,
            pid_file: format!("{dir}/pid"),
            port,
            tls: TlsConnector::from(Arc::new(config)),
        };
        let given_up = Instant::now() + PATIENCE;
        while proxy.connect().await.is_err() {
            if Instant::now() > given_up {
                let log = run(as_server("cat").arg(format!("{dir}/log"))).stdout;
                panic!("{program}: {}", String::from_utf8_lossy(&log));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        proxy
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        self.tls.connect(ServerName::try_from(HOST).unwrap(), stream).await
    }

    async fn send(&self, request: Request) -> Response {
        let bytes = request.header("host", HOST).bytes(self.port);
        send(self.connect().await.expect("it listens"), &bytes).await
    }
}

/// With what Debian's own configuration has around it.
fn nginx(shown: &str, dir: &str, port: u16, to: u16) -> String {
    let shown = shown
        .replace("127.0.0.1:8787", &format!("127.0.0.1:{to}"))
        .replace("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"))
        .replace("/etc/ssl/llm.crt", &format!("{dir}/crt"))
        .replace("/etc/ssl/private/llm.key", &format!("{dir}/key"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\nerror_log stderr;\npid {dir}/nginx.pid;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{shown}}}\n"
    )
}

/// Without a certificate from the internet.
fn caddy(shown: &str, dir: &str, port: u16, to: u16) -> String {
    let site = format!("https://{HOST}:{port} {{\n    bind 127.0.0.1\n    tls {dir}/crt {dir}/key");
    let shown = shown
        .replace("127.0.0.1:8787", &format!("127.0.0.1:{to}"))
        .replace(&format!("{HOST} {{"), &site);
    let global = "admin off\nauto_https disable_redirects\nservers {\nprotocols h1 h2\n}";
    format!("{{\n{global}\n}}\n{shown}")
}

/// What a caller has through a proxy of the pages.
async fn serves(name: &str, program: &str, page: &str, begins: &str) {
    let upstream = Upstream::start(|seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::Stream(vec![
            Piece::role(),
            Piece::text("at once"),
            Piece::Wait(Duration::from_secs(600)),
            Piece::text("never"),
        ]),
        _ => Answer::hello(),
    })
    .await;
    let own = Own::ready(name, SETTINGS, &upstream).await;
    let proxy = Proxy::start(&own, program, page, begins).await;
    for _ in 0..3 {
        let answered = proxy.send(chat("u-1", json!({}))).await;
        assert_eq!(answered.status, 200, "{answered:?}");
    }
    // What is larger than proxies let through unless they are told.
    let long = json!([{"role": "user", "content": "long ".repeat(500_000)}]);
    let request = chat("u-1", json!({"messages": long}));
    assert_eq!(proxy.send(request).await.status, 200);
    assert_eq!(proxy.send(Request::new("GET", "/health")).await.status, 200);
    assert_eq!(proxy.send(Request::new("GET", "/metrics")).await.status, 403);
    let wrong = Request::new("POST", "/v1/chat/completions").bearer("nobody").json(body(json!({})));
    assert_eq!(proxy.send(wrong).await.status, 401);
    // A stream arrives while it is made, and is cancelled when its reader goes.
    let sent = upstream.chat_count();
    let mut reader = proxy.connect().await.unwrap();
    let request = chat("u-1", json!({"stream": true})).header("host", HOST);
    reader.write_all(&request.bytes(proxy.port)).await.unwrap();
    let (mut heard, mut portion) = (String::new(), [0; 4096]);
    while !heard.contains("at once") {
        let read = tokio::time::timeout(PATIENCE, reader.read(&mut portion));
        let read = read.await.unwrap_or_else(|_| panic!("{heard}")).unwrap();
        assert!(read > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&portion[..read]));
    }
    assert!(upstream.chats()[sent].aborted.is_none());
    drop(reader);
    upstream.wait_for_abort(sent).await;
}

#[tokio::test]
async fn nginx_as_the_pages_configure_it() {
    let program = "usr/sbin/nginx";
    let begins = "```nginx\nupstream aggregator {";
    serves("nginx", program, "docs/operate/install.md", begins).await;
    serves("nginx_more", program, "docs/guides/http.md", begins).await;
}

#[tokio::test]
async fn caddy_as_the_pages_configure_it() {
    serves("caddy", "usr/bin/caddy", "docs/guides/http.md", "```text\nllm.example.com {").await;
}
