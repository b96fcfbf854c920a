//! What a call over HTTP adds to the same request sent to the upstream directly, by the same client: to its time, to
//! the first text of a stream, in CPU, and in memory for streams that are open.

#[path = "../suite/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod standin;
#[path = "../suite/front/token.rs"]
#[allow(dead_code)]
mod token;

use bed::{Cluster, Database, as_server, eventually, run, value};
use common::{HELLO, Times, number, prepare};
use process::Process;
use standin::{Manner, Standin, Told};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::sleep;
use tokio_postgres::Client;

/// With which access tokens are signed.
const SECRET: &str = "a-secret-of-the-benches-that-is-long-enough";
const WORKER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";
const WARM_UP: Duration = Duration::from_secs(1);
const LOAD: Duration = Duration::from_secs(5);
const STREAMS: usize = 40;
const CHUNKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// Streams that are open at one time, and how long the upstream keeps each open.
const OPEN: usize = 1000;
const OPEN_CHUNKS: usize = 20;
const OPEN_PAUSE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<24} {:>7} | {:>8} {:>8} | {:>8} | {:>8} | {:>8} {:>8} {:>8}",
        "", "clients", "p50 ms", "p99 ms", "added", "calls/s", "client", "main", "gateway"
    );
    for sync in ["on", "off"] {
        let cluster = start(sync);
        cluster.supabase_roles().await;
        let upstream = Standin::start(Manner::Late(Duration::ZERO));
        let front = Front::open(&cluster, &upstream).await;
        for clients in [1, 32] {
            let direct = load(&Target::upstream(&upstream), clients, None).await;
            direct.print("directly", clients, None);
            let over = load(&front.target, clients, Some(&front.worker)).await;
            over.print(&format!("over HTTP, sync {sync}"), clients, Some(&direct));
        }
        front.check().await;
        streams(&cluster, sync).await;
        if sync == "on" {
            open_streams(&cluster).await;
        }
    }
    println!(
        "times in milliseconds; client, main and gateway: microseconds of CPU per call, of the client with the \
         upstream, of the worker's main thread and of its others"
    );
    println!(
        "aims: added p50 of 1 client at most 0.45 with ledger_sync on and 0.25 off; 8000 calls/s of 32 with it on; \
         first text added p50 at most 0.5; {OPEN} streams in at most 150 MB"
    );
}

fn start(sync: &str) -> Cluster {
    let cluster = Cluster::make(
        &format!("bench_front_{sync}"),
        &format!(
            "aggregator.ledger_sync = {sync}\naggregator.jwt_secret_file = 'jwt_secret'\n\
             aggregator.max_in_flight = {all}\naggregator.max_in_flight_per_user = {OPEN}\n\
             aggregator.max_in_flight_per_key = {OPEN}\nshared_buffers = 256MB\nmax_wal_size = 4GB",
            all = 2 * OPEN
        ),
    );
    let script = "umask 077; printf '%s' \"$1\" > \"$2\"";
    let file = cluster.data().join("jwt_secret");
    run(as_server("sh").args(["-c", script, "sh", SECRET]).arg(file));
    cluster.up();
    cluster
}

/// A database that is reached over HTTP, with a stand-in as its provider.
struct Front<'a> {
    _database: Database<'a>,
    root: Client,
    target: Target,
    worker: Worker,
}

impl<'a> Front<'a> {
    async fn open(cluster: &'a Cluster, upstream: &Standin) -> Self {
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
    async fn check(&self) {
        let other = "SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'success'";
        eventually(&self.root, other, "0").await;
    }
}

/// Whom a client asks.
#[derive(Clone)]
struct Target {
    port: u16,
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

    fn upstream(upstream: &Standin) -> Self {
        Self::new(upstream.port(), "sk-good-bench")
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        stream.set_nodelay(true).unwrap();
        stream
    }
}

/// A connection that is kept alive, by a client that costs little.
struct Connection<'a> {
    target: &'a Target,
    stream: TcpStream,
    read: Vec<u8>,
}

impl<'a> Connection<'a> {
    async fn open(target: &'a Target) -> Self {
        Self { target, stream: target.connect().await, read: Vec::with_capacity(16 * 1024) }
    }

    /// Asks for a whole answer.
    async fn ask(&mut self) {
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
    async fn ask_for_stream(&mut self) -> Vec<Instant> {
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
struct Worker(usize);

impl Worker {
    /// Seconds of CPU of its main thread, and of its others.
    fn cpu(&self) -> [f64; 2] {
        let main = process::thread(self.0, self.0).cpu();
        [main, Process::new(self.0).cpu() - main]
    }
}

/// What came of asking for a while.
struct Load {
    times: Times,
    per_second: f64,
    /// Microseconds per call: of this process, which is client and upstream, and of the worker's threads.
    cpu: [f64; 3],
}

/// Asks on so many connections, on each again as soon as it has answered.
async fn load(target: &Target, connections: usize, worker: Option<&Worker>) -> Load {
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
            loop {
                let asked = Instant::now();
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
    fn print(&self, what: &str, clients: usize, direct: Option<&Load>) {
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

/// When the first text of a stream comes, and each, beside the same from the upstream.
async fn streams(cluster: &Cluster, sync: &str) {
    let mut upstream = Standin::start(Manner::Drip(CHUNKS, PAUSE));
    let front = Front::open(cluster, &upstream).await;
    let direct = Target::upstream(&upstream);
    let (mut directly, mut over) = (Seen::default(), Seen::default());
    let mut connections = [Connection::open(&direct).await, Connection::open(&front.target).await];
    // The first of each opens connections.
    for round in 0..=STREAMS {
        for (connection, seen) in connections.iter_mut().zip([&mut directly, &mut over]) {
            let began = Instant::now();
            let arrived = connection.ask_for_stream().await;
            let sent = upstream.so_far().into_iter().filter_map(|told| match told {
                Told::Sent(at) => Some(at),
                _ => None,
            });
            let sent: Vec<Instant> = sent.collect();
            assert_eq!((sent.len(), arrived.len()), (CHUNKS, CHUNKS));
            if round > 0 {
                seen.first.push(arrived[0] - began);
                seen.each.extend(arrived.iter().zip(&sent).map(|(arrived, sent)| *arrived - *sent));
            }
        }
    }
    for (what, direct, over) in [
        ("asking to first text", directly.first, over.first),
        ("sending to arrival, each", directly.each, over.each),
    ] {
        let (direct, over) = (Times::new(direct), Times::new(over));
        println!(
            "{what:<24} sync {sync:<3}: directly {:.3} (p99 {:.3}), over HTTP {:.3} (p99 {:.3}), added {:.3}",
            direct.at(50),
            direct.at(99),
            over.at(50),
            over.at(99),
            over.at(50) - direct.at(50)
        );
    }
}

/// What was seen of some streams.
#[derive(Default)]
struct Seen {
    first: Vec<Duration>,
    each: Vec<Duration>,
}

/// What the worker's memory is while many streams are open.
async fn open_streams(cluster: &Cluster) {
    let upstream = Standin::start(Manner::Drip(OPEN_CHUNKS, OPEN_PAUSE));
    let front = Front::open(cluster, &upstream).await;
    let worker = Process::new(front.worker.0);
    Connection::open(&front.target).await.ask_for_stream().await;
    let before = worker.memory();
    let tasks = LocalSet::new();
    let ended = Rc::new(RefCell::new(0));
    for _ in 0..OPEN {
        let (target, ended) = (front.target.clone(), ended.clone());
        tasks.spawn_local(async move {
            let texts = Connection::open(&target).await.ask_for_stream().await.len();
            assert_eq!(texts, OPEN_CHUNKS);
            *ended.borrow_mut() += 1;
        });
    }
    let mut most = 0.0_f64;
    tasks
        .run_until(async {
            while *ended.borrow() == 0 {
                sleep(Duration::from_millis(100)).await;
                most = most.max(worker.memory().own);
            }
        })
        .await;
    tasks.await;
    println!(
        "{OPEN} open streams: {most:.1} MB of its own in the worker, {:.1} before",
        before.own
    );
    front.check().await;
}
