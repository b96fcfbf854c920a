//! A stand-in upstream: it speaks OpenAI's wire format, misbehaves on demand, and counts what
//! reached it.

use crate::bed::PATIENCE;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    /// What comes after the question mark.
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// When it had arrived.
    pub at: Instant,
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

    fn is_chat(&self) -> bool {
        ["/chat/completions", "/messages", "/embeddings"]
            .iter()
            .any(|path| self.path.ends_with(path))
    }
}

/// Holds answers back until the test lets them go. A new one is shut.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn shut(&self) {
        self.0.send_replace(false);
    }

    async fn is_open(&self) {
        let _ = self.0.subscribe().wait_for(|is_open| *is_open).await;
    }
}

/// A part of a stream, sent as soon as its turn comes.
#[derive(Debug, Clone)]
pub enum Piece {
    /// An event without a name: `data: ...`.
    Data(String),
    /// An event with a name and data.
    Event(String, String),
    /// These bytes as they are.
    Bytes(Vec<u8>),
    /// A pause.
    Wait(Duration),
    /// Nothing until this opens.
    Until(Gate),
    /// Close the connection in the middle of the answer.
    Cut,
    /// Send nothing more until the other side goes away.
    Stall,
}

impl Piece {
    /// The chunk with which OpenAI begins: a role and no text.
    pub fn role() -> Self {
        Self::chunk(json!({"role": "assistant", "content": ""}), None)
    }

    pub fn text(text: &str) -> Self {
        Self::chunk(json!({"content": text}), None)
    }

    pub fn finish(reason: &str) -> Self {
        Self::chunk(json!({}), Some(reason))
    }

    /// The chunk with the usage, which has no choices.
    pub fn usage(usage: &str) -> Self {
        Self::Data(format!(
            r#"{{"id":"gen-1","object":"chat.completion.chunk","created":1,"model":"m-served","choices":[],"usage":{usage}}}"#
        ))
    }

    pub fn done() -> Self {
        Self::Data("[DONE]".into())
    }

    /// A chunk of OpenAI's form with this delta.
    pub fn chunk(delta: serde_json::Value, finish: Option<&str>) -> Self {
        Self::Data(
            json!({
                "id": "gen-1", "object": "chat.completion.chunk", "created": 1, "model": "m-served",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            })
            .to_string(),
        )
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
    /// When this opens.
    Until(Gate, Box<Answer>),
    /// Never answer.
    Stall,
    /// A body of this many bytes, length unknown beforehand.
    Endless(usize),
    /// A stream of events, in chunks.
    Stream(Vec<Piece>),
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
        Self::says("hello", USAGE)
    }

    /// This answer after some time.
    pub fn late(ms: u64, answer: Self) -> Self {
        Self::After(Duration::from_millis(ms), Box::new(answer))
    }

    /// This answer once the gate is open.
    pub fn held(gate: &Gate, answer: Self) -> Self {
        Self::Until(gate.clone(), Box::new(answer))
    }

    /// A stream of these texts in OpenAI's form, with a pause before each but the first.
    pub fn streams(texts: &[&str], pause: Duration, usage: Option<&str>) -> Self {
        let mut pieces = vec![Piece::role()];
        for (i, text) in texts.iter().enumerate() {
            if i > 0 {
                pieces.push(Piece::Wait(pause));
            }
            pieces.push(Piece::text(text));
        }
        pieces.push(Piece::finish("stop"));
        pieces.extend(usage.map(Piece::usage));
        pieces.push(Piece::done());
        Self::Stream(pieces)
    }
}

/// The usage that [`Answer::hello`] reports.
pub const USAGE: &str = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#;

/// A handler that gives these answers one after the other, and the last one from then on.
pub fn in_turn(answers: Vec<Answer>) -> impl Fn(&Seen) -> Answer + Send + Sync + 'static {
    let next = AtomicUsize::new(0);
    move |_| {
        let index = next.fetch_add(1, Ordering::SeqCst);
        answers[index.min(answers.len() - 1)].clone()
    }
}

/// A handler that answers with the last message's text, after a prefix.
pub fn echo(seen: &Seen) -> Answer {
    let body = seen.json();
    let text = body["messages"].as_array().and_then(|m| m.last()).map(|m| m["content"].clone());
    Answer::says(&format!("re: {}", text.as_ref().and_then(|t| t.as_str()).unwrap_or("")), USAGE)
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

#[derive(Clone)]
pub struct Upstream {
    pub port: u16,
    log: Arc<Log>,
}

/// What has reached an upstream.
#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    chats: AtomicUsize,
    stalls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Log {
    /// Notes a request; says where, for what becomes of it.
    fn arrived(&self, request: &Seen) -> usize {
        let mut seen = self.seen.lock().unwrap();
        seen.push(request.clone());
        if request.is_chat() {
            self.chats.fetch_add(1, Ordering::SeqCst);
        }
        seen.len() - 1
    }

    fn aborted(&self, index: usize) {
        self.seen.lock().unwrap()[index].aborted = Some(Instant::now());
    }
}

/// A chat that is being answered. It ends just before the last bytes go out: after them the other
/// side may at once send the next.
struct Busy(Arc<Log>);

impl Busy {
    fn begin(log: &Arc<Log>) -> Self {
        let now = log.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        log.most_at_once.fetch_max(now, Ordering::SeqCst);
        Self(log.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
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
        // Room for a thousand that connect at once.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().unwrap()).expect("a port is free");
        let listener = socket.listen(4096).expect("it listens");
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Log::default());
        let upstream = Self { port, log: log.clone() };
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
                    let (log, handler, tls) = (log.clone(), handler.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, log, handler).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream, log, handler).await;
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
        self.log.seen.lock().unwrap().clone()
    }

    /// Chat requests that arrived.
    pub fn chats(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::is_chat).collect()
    }

    /// How many chat requests arrived.
    pub fn chat_count(&self) -> usize {
        self.log.chats.load(Ordering::SeqCst)
    }

    /// The most chat requests that were being answered at one time.
    pub fn most_at_once(&self) -> usize {
        self.log.most_at_once.load(Ordering::SeqCst)
    }

    /// Waits until this many chat requests have arrived.
    pub async fn wait_for_chats(&self, count: usize) {
        let given_up = Instant::now() + PATIENCE;
        while Instant::now() < given_up {
            if self.chat_count() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {} of {count} requests arrived", self.chat_count());
    }

    /// Waits until so many streams have sent all that they had to say before they stall.
    pub async fn wait_for_stalls(&self, count: usize) {
        let given_up = Instant::now() + PATIENCE;
        while self.log.stalls.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < given_up, "fewer than {count} streams stall");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until requests have arrived of which this is true.
    pub async fn wait_until(&self, is_there: impl Fn(&[Seen]) -> bool) {
        let given_up = Instant::now() + PATIENCE;
        while !is_there(&self.seen()) {
            assert!(Instant::now() < given_up, "{:?}", self.seen());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the other side has gone away from chat number `index`, and says when that was.
    pub async fn wait_for_abort(&self, index: usize) -> Instant {
        let given_up = Instant::now() + PATIENCE;
        while Instant::now() < given_up {
            if let Some(at) = self.chats().get(index).and_then(|chat| chat.aborted) {
                return at;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("request {index} was not aborted");
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, log: Arc<Log>, handler: Arc<Handler>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let index = log.arrived(&request);
        let mut busy = request.is_chat().then(|| Busy::begin(&log));
        let mut answer = handler(&request);
        loop {
            let (goes_on, then) = match answer {
                Answer::After(pause, then) => {
                    (waits(&mut stream, tokio::time::sleep(pause)).await, then)
                }
                Answer::Until(gate, then) => (waits(&mut stream, gate.is_open()).await, then),
                _ => break,
            };
            if !goes_on {
                return log.aborted(index);
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
                drop(busy.take());
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
                return log.aborted(index);
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
            Answer::Stream(pieces) => match send_stream(&mut stream, pieces, busy, &log).await {
                Streamed::Whole => {}
                Streamed::Cut => return,
                Streamed::Aborted => return log.aborted(index),
            },
            Answer::After(..) | Answer::Until(..) => unreachable!("unfolded above"),
        }
    }
}

/// How a stream ended.
enum Streamed {
    Whole,
    Cut,
    Aborted,
}

async fn send_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    pieces: Vec<Piece>,
    mut busy: Option<Busy>,
    log: &Log,
) -> Streamed {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return Streamed::Aborted;
    }
    let last = pieces.len().saturating_sub(1);
    for (i, piece) in pieces.into_iter().enumerate() {
        let bytes = match piece {
            Piece::Data(data) => format!("data: {data}\n\n").into_bytes(),
            Piece::Event(name, data) => format!("event: {name}\ndata: {data}\n\n").into_bytes(),
            Piece::Bytes(bytes) => bytes,
            Piece::Wait(pause) => {
                if !waits(stream, tokio::time::sleep(pause)).await {
                    return Streamed::Aborted;
                }
                continue;
            }
            Piece::Until(gate) => {
                if !waits(stream, gate.is_open()).await {
                    return Streamed::Aborted;
                }
                continue;
            }
            Piece::Cut => return Streamed::Cut,
            Piece::Stall => {
                log.stalls.fetch_add(1, Ordering::SeqCst);
                gone(stream).await;
                return Streamed::Aborted;
            }
        };
        if i == last {
            drop(busy.take());
        }
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
        if stream.write_all(&chunk).await.is_err() || stream.flush().await.is_err() {
            return Streamed::Aborted;
        }
    }
    match stream.write_all(b"0\r\n\r\n").await {
        Ok(()) => Streamed::Whole,
        Err(_) => Streamed::Aborted,
    }
}

/// Waits; false if the other side went away meanwhile.
async fn waits<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    end: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        () = end => true,
        () = gone(stream) => false,
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
    let target = first.nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
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
    Some(Seen {
        path,
        query,
        headers,
        body: String::from_utf8(body).ok()?,
        at: Instant::now(),
        aborted: None,
    })
}
