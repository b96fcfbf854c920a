//! What the benches over HTTP share: a database that is reached over it, and a client that costs little.

use crate::bed::{Cluster, Database, as_server, eventually, run, value};
use crate::common::{HELLO, Times, number, prepare};
use crate::process::{self, Process};
use crate::standin::Standin;
use crate::token;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, sleep_until};
use tokio_postgres::Client;

/// With which access tokens are signed.
pub const SECRET: &str = "a-secret-of-the-benches-that-is-long-enough";
const WORKER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";
const WARM_UP: Duration = Duration::from_secs(1);
const LOAD: Duration = Duration::from_secs(5);

/// Writes the secret where the server reads it.
pub fn write_secret(cluster: &Cluster) {
    let script = "umask 077; printf '%s' \"$1\" > \"$2\"";
    let file = cluster.data().join("jwt_secret");
    run(as_server("sh").args(["-c", script, "sh", SECRET]).arg(file));
}

/// A database that is reached over HTTP, with a stand-in as its provider.
pub struct Front<'a> {
    _database: Database<'a>,
    pub root: Client,
    pub target: Target,
    pub worker: Worker,
}

impl<'a> Front<'a> {
    pub async fn open(cluster: &'a Cluster, upstream: &Standin) -> Self {
        let database = cluster.database().await;
        let root = prepare(&database, &upstream.base_url()).await;
        let user = database.rest("authenticated", Some("u-1")).await;
        value(&user, "SELECT save_provider_key('standin', 'sk-good-bench', p_validate => false)")
            .await;
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let place = format!("{}=127.0.0.1:{port}", database.name);
        root.batch_execute(&format!("ALTER SYSTEM SET aggregator.http_listen = '{place}'"))
            .await
            .expect("it is set");
        root.batch_execute("SELECT pg_reload_conf()").await.expect("it is read");
        eventually(&root, "SHOW aggregator.http_listen", &place).await;
        value(&root, "SELECT aggregator_start()").await;
        let address = format!("http://127.0.0.1:{port}");
        eventually(&root, "SELECT http_address FROM aggregator_status()", &address).await;
        let pid = number(&root, WORKER).await;
        let target = Target::new(port, &token::of("u-1"));
        Self { _database: database, root, target, worker: Worker(pid) }
    }

    /// Every call has been settled, and none has failed.
    pub async fn check(&self) {
        let other = "SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'success'";
        eventually(&self.root, other, "0").await;
    }
}

/// Whom a client asks.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    whole: String,
    streamed: String,
}

impl Target {
    fn new(port: u16, bearer: &str) -> Self {
        let request = |stream: bool| {
            let body = format!(r#"{{"model":"m","messages":{HELLO},"stream":{stream}}}"#);
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {bearer}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        Self { port, whole: request(false), streamed: request(true) }
    }

    pub fn upstream(upstream: &Standin) -> Self {
        Self::new(upstream.port(), "sk-good-bench")
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        stream.set_nodelay(true).unwrap();
        stream
    }
}

/// A connection that is kept alive, by a client that costs little.
pub struct Connection<'a> {
    target: &'a Target,
    stream: TcpStream,
    read: Vec<u8>,
}

impl<'a> Connection<'a> {
    pub async fn open(target: &'a Target) -> Self {
        Self { target, stream: target.connect().await, read: Vec::with_capacity(16 * 1024) }
    }

    /// Asks for a whole answer.
    pub async fn ask(&mut self) {
        self.stream.write_all(self.target.whole.as_bytes()).await.expect("it is sent");
        self.read.clear();
        let (head, end) = loop {
            self.more().await;
            let Some(head) = find(&self.read, b"\r\n\r\n") else { continue };
            let text = str::from_utf8(&self.read[..head]).expect("a head");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
            break (head, head + 4 + length);
        };
        while self.read.len() < end {
            self.more().await;
        }
        let text = String::from_utf8_lossy(&self.read);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("hello"), "{text}");
        // A server may serve only so many requests on one.
        if text[..head].contains("connection: close") {
            self.stream = self.target.connect().await;
        }
    }

    /// Asks for a stream. Gives back when each text of it has come.
    pub async fn ask_for_stream(&mut self) -> Vec<Instant> {
        self.stream.write_all(self.target.streamed.as_bytes()).await.expect("it is sent");
        self.read.clear();
        let mut arrived = Vec::new();
        while !self.read.ends_with(b"\r\n0\r\n\r\n") {
            let seen = self.read.len();
            self.more().await;
            let now = Instant::now();
            // One may have come in two parts.
            let new = String::from_utf8_lossy(&self.read[seen.saturating_sub(8)..]);
            arrived.extend(new.matches("\"content\"").map(|_| now));
        }
        assert!(self.read.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.read));
        arrived
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.read).await.expect("it answers");
        assert!(read > 0, "it hangs up: {}", String::from_utf8_lossy(&self.read));
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The worker of a database.
pub struct Worker(pub usize);

impl Worker {
    /// Seconds of CPU of its main thread, and of its others.
    fn cpu(&self) -> [f64; 2] {
        let main = process::thread(self.0, self.0).cpu();
        [main, Process::new(self.0).cpu() - main]
    }
}

/// What came of asking for a while.
pub struct Load {
    pub times: Times,
    per_second: f64,
    /// Microseconds per call: of this process, which is client and upstream, and of the worker's threads.
    cpu: [f64; 3],
}

/// Asks on so many connections, on each again as soon as it has answered.
pub async fn load(target: &Target, connections: usize, worker: Option<&Worker>) -> Load {
    load_each(Duration::ZERO, target, connections, worker).await
}

/// Likewise, on each connection once in so long. A call's time is that since it was due: one that had to wait for the
/// last one has waited.
pub async fn load_each(
    every: Duration,
    target: &Target,
    connections: usize,
    worker: Option<&Worker>,
) -> Load {
    let spent = || {
        let [main, gateway] = worker.map_or([0.0; 2], Worker::cpu);
        [Process::own().cpu(), main, gateway]
    };
    let times = Rc::new(RefCell::new(Vec::new()));
    let began = Instant::now() + WARM_UP;
    let ends = began + LOAD;
    let tasks = LocalSet::new();
    for _ in 0..connections {
        let (target, times) = (target.clone(), times.clone());
        tasks.spawn_local(async move {
            let mut connection = Connection::open(&target).await;
            let mut due = Instant::now();
            loop {
                due += every;
                let is_late = due < Instant::now();
                if !is_late {
                    sleep_until(due.into()).await;
                }
                let asked = if is_late && !every.is_zero() { due } else { Instant::now() };
                if asked >= ends {
                    return;
                }
                connection.ask().await;
                if asked >= began {
                    times.borrow_mut().push(asked.elapsed());
                }
            }
        });
    }
    let warmed_up = tasks.run_until(async {
        sleep(WARM_UP).await;
        spent()
    });
    let before = warmed_up.await;
    tasks.await;
    let after = spent();
    let times = times.take();
    let calls = times.len() as f64;
    let cpu = std::array::from_fn(|i| (after[i] - before[i]) * 1e6 / calls);
    Load { times: Times::new(times), per_second: calls / LOAD.as_secs_f64(), cpu }
}

impl Load {
    pub fn print(&self, what: &str, clients: usize, direct: Option<&Load>) {
        let added = direct.map(|direct| self.times.at(50) - direct.times.at(50));
        let added = added.map_or(String::new(), |added| format!("{added:.3}"));
        let [client, main, gateway] = self.cpu;
        println!(
            "{what:<24} {clients:>7} | {:>8.3} {:>8.3} | {added:>8} | {:>8.0} | {client:>8.0} {main:>8.0} {gateway:>8.0}",
            self.times.at(50),
            self.times.at(99),
            self.per_second,
        );
    }
}
