//! A stand-in upstream: it speaks OpenAI's wire format, misbehaves on demand, and counts what
//! reached it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// When the other side went away before it was answered.
    pub aborted: Option<Instant>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the request is JSON")
    }
}

/// How to answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status, extra headers, body.
    Full(u16, Vec<(&'static str, String)>, String),
    /// These bytes instead of an answer, then close.
    Raw(Vec<u8>),
    /// Wait first.
    After(Duration, Box<Answer>),
    /// Never answer.
    Stall,
    /// A body of this many bytes, length unknown beforehand.
    Endless(usize),
}

impl Answer {
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Full(status, vec![], body.into())
    }

    /// A completion with this text and usage.
    pub fn says(text: &str, usage: &str) -> Self {
        let text = serde_json::to_string(text).unwrap();
        Self::json(
            200,
            format!(
                r#"{{"id":"gen-1","object":"chat.completion","created":1,"model":"m-served",
                    "choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},
                    "finish_reason":"stop"}}],"usage":{usage}}}"#
            ),
        )
    }

    pub fn hello() -> Self {
        Self::says("hello", r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#)
    }
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

#[derive(Clone)]
pub struct Upstream {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Starts an upstream that answers `/models` with a small bare list, refuses every key but
    /// those that start with `sk-good`, and everything else with `handler`.
    pub async fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::raw(move |seen| {
            let key = seen.header("authorization").unwrap_or("").trim_start_matches("Bearer ");
            if !key.starts_with("sk-good") {
                return Answer::json(
                    401,
                    format!(
                        r#"{{"error":{{"message":"Incorrect API key provided: {key}","code":"invalid_api_key"}}}}"#
                    ),
                );
            }
            if seen.path.ends_with("/models") {
                return Answer::json(200, r#"{"object":"list","data":[{"id":"m"},{"id":"v/plain"}]}"#);
            }
            handler(seen)
        })
        .await
    }

    /// Starts an upstream that answers everything with `handler`.
    pub async fn raw(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(handler, None).await
    }

    /// The same behind TLS.
    pub async fn tls(
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
        acceptor: TlsAcceptor,
    ) -> Self {
        Self::listen(handler, Some(acceptor)).await
    }

    async fn listen(
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let upstream = Self { port, seen: seen.clone() };
        let handler: Arc<Handler> = Arc::new(handler);
        // A thread of its own, so that it lives on when a test's runtime is busy or gone.
        let listener = listener.into_std().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let (seen, handler, tls) = (seen.clone(), handler.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, seen, handler).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream, seen, handler).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        upstream
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Chat requests that arrived.
    pub fn chats(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.ends_with("/chat/completions")).collect()
    }

    /// Waits until this many chat requests have arrived.
    pub async fn wait_for_chats(&self, count: usize) {
        for _ in 0..1000 {
            if self.chats().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {} of {count} requests arrived", self.chats().len());
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    seen: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<Handler>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let index = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let mut answer = handler(&request);
        while let Answer::After(pause, then) = answer {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = gone(&mut stream) => {
                    seen.lock().unwrap()[index].aborted = Some(Instant::now());
                    return;
                }
            }
            answer = *then;
        }
        match answer {
            Answer::Full(status, headers, body) => {
                let mut head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
                    body.len()
                );
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                let whole = [head.as_bytes(), body.as_bytes()].concat();
                if stream.write_all(&whole).await.is_err() {
                    return;
                }
            }
            Answer::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Answer::Stall => {
                gone(&mut stream).await;
                seen.lock().unwrap()[index].aborted = Some(Instant::now());
                return;
            }
            Answer::Endless(size) => {
                let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"a\":\"";
                let _ = stream.write_all(head.as_bytes()).await;
                let block = vec![b'x'; 64 * 1024];
                for _ in 0..size / block.len() {
                    if stream.write_all(&block).await.is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"\"}").await;
                return;
            }
            Answer::After(..) => unreachable!("unfolded above"),
        }
    }
}

async fn gone<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) {
    let _ = stream.read(&mut [0; 1]).await;
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let path = first.nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let length: usize = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { path, headers, body: String::from_utf8(body).ok()?, aborted: None })
}
