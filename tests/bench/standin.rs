//! A stand-in upstream that costs little beside what is measured: it does not look at requests and
//! keeps nothing. What becomes of a request it tells as it happens.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

/// How every request is answered.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Whole, after so long.
    Late(Duration),
    /// With a stream of so many chunks, and a pause before each but the first.
    Drip(usize, Duration),
    /// With an embedding of so many numbers for each input, after so long.
    Embeds(Duration, usize),
    /// Never.
    Stall,
}

#[derive(Debug)]
pub enum Told {
    Arrived(Instant),
    /// A chunk of a stream is about to be sent.
    Sent(Instant),
    /// The other side went away without an answer.
    Gone(Instant),
}

pub struct Standin {
    port: u16,
    told: UnboundedReceiver<Told>,
}

impl Standin {
    pub fn start(manner: Manner) -> Self {
        // Room for a thousand that connect at once.
        let socket = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let (tell, told) = unbounded_channel();
        let (say_port, port) = std::sync::mpsc::channel();
        // A thread of its own: the clients that are measured have another.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = listen(socket).expect("a port is free");
                say_port.send(listener.local_addr().unwrap().port()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, manner, tell.clone()));
                }
            });
        });
        Self { port: port.recv().expect("it listens"), told }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// What happens next.
    pub async fn next(&mut self) -> Told {
        let next = tokio::time::timeout(Duration::from_secs(60), self.told.recv());
        next.await.expect("something happens").expect("it lives")
    }

    /// What has happened since the last question.
    pub fn so_far(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

fn listen(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(address)?;
    socket.listen(4096)
}

async fn serve(
    mut stream: TcpStream,
    manner: Manner,
    tell: UnboundedSender<Told>,
) -> io::Result<()> {
    let answer = answer();
    let mut request = Vec::with_capacity(4096);
    loop {
        request.clear();
        while !is_whole(&request) {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        // Nobody may be listening.
        let tell = |told| drop(tell.send(told));
        tell(Told::Arrived(Instant::now()));
        match manner {
            Manner::Late(pause) => {
                // The shortest sleep is a millisecond.
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                stream.write_all(answer.as_bytes()).await?;
            }
            Manner::Embeds(pause, dimensions) => {
                let due = tokio::time::Instant::now() + pause;
                let answer = embeddings(&request, dimensions);
                tokio::time::sleep_until(due).await;
                stream.write_all(answer.as_bytes()).await?;
            }
            Manner::Drip(chunks, pause) => {
                stream.write_all(STREAM.as_bytes()).await?;
                for i in 0..chunks {
                    if i > 0 {
                        sleep(pause).await;
                    }
                    let event = event(&format!(
                        r#"{{"index":0,"delta":{{"content":"{i} "}},"finish_reason":null}}"#
                    ));
                    tell(Told::Sent(Instant::now()));
                    stream.write_all(chunk(&event).as_bytes()).await?;
                }
                let end = event(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#);
                let end = format!("{}0\r\n\r\n", chunk(&(end + "data: [DONE]\n\n")));
                stream.write_all(end.as_bytes()).await?;
            }
            Manner::Stall => {
                let _ = stream.read_buf(&mut request).await;
                tell(Told::Gone(Instant::now()));
                return Ok(());
            }
        }
    }
}

/// Whether a request is there up to the end of its body.
fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else {
        return false;
    };
    let text = str::from_utf8(&request[..head]).unwrap_or_default();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    request.len() >= head + 4 + length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn answer() -> String {
    let body = r#"{"id":"gen-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// As many embeddings as the request has inputs: numbers that are all the same, as base64.
fn embeddings(request: &[u8], dimensions: usize) -> String {
    let head = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&request[head + 4..]).expect("JSON");
    let inputs = body["input"].as_array().map_or(1, Vec::len);
    let vector = BASE64_STANDARD.encode(0.5_f32.to_le_bytes().repeat(dimensions));
    let items: Vec<String> = (0..inputs)
        .map(|index| format!(r#"{{"object":"embedding","index":{index},"embedding":"{vector}"}}"#))
        .collect();
    let usage = format!(r#"{{"prompt_tokens":{0},"total_tokens":{0}}}"#, 3 * inputs);
    let body =
        format!(r#"{{"object":"list","model":"e","data":[{}],"usage":{usage}}}"#, items.join(","));
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn event(choice: &str) -> String {
    format!(
        "data: {{\"id\":\"gen-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{choice}]}}\n\n"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
