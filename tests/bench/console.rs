//! What reports of the console that take seconds do to calls over HTTP meanwhile: the time of calls beside none, beside
//! one report after the other, and beside as many as are worked on at one time; for callers who leave some of the
//! processor, and for those who take all of it. A report is a search of the whole usage log, of which no index knows
//! anything. What the system itself does to calls shows beside an endless loop of the lowest priority, which asks
//! nothing of anybody. All of them take turns, because a machine is not equally fast all the time.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod caller;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod filled;
#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod standin;
#[path = "../suite/front/token.rs"]
#[allow(dead_code)]
mod token;

use bed::Cluster;
use caller::{Front, SECRET, Target, load_each, write_secret};
use common::{Times, number};
use serde_json::json;
use standin::{Manner, Standin};
use std::cell::{Cell, RefCell};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::sleep;

const ROWS: usize = 10_000_000;
const CALLERS: usize = 8;
/// How often each of them calls; zero: again at once.
const PACES: [Duration; 2] = [Duration::from_millis(10), Duration::ZERO];
const ROUNDS: usize = 5;
const BESIDE: [Beside; 4] = [Beside::Nothing, Beside::Loop, Beside::Reports(1), Beside::Reports(4)];

/// What else the machine does.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Loop,
    /// So many read them at one time: of each, one is worked on.
    Reports(usize),
}

impl Beside {
    fn told(self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Loop => "an idle loop".to_owned(),
            Self::Reports(1) => "1 report".to_owned(),
            Self::Reports(count) => format!("{count} reports"),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rows = std::env::var("AGGREGATOR_BENCH_ROWS");
    let rows = rows.map_or(ROWS, |text| text.parse().expect("AGGREGATOR_BENCH_ROWS is a number"));
    let cluster = Cluster::make(
        "bench_console",
        "fsync = off\naggregator.jwt_secret_file = 'jwt_secret'\nshared_buffers = 1GB\nmax_wal_size = 8GB\n\
         maintenance_work_mem = 256MB\nautovacuum = off",
    );
    write_secret(&cluster);
    cluster.up();
    cluster.supabase_roles().await;
    let upstream = Standin::start(Manner::Late(Duration::ZERO));
    let front = Front::open(&cluster, &upstream).await;
    println!("console: calls of {CALLERS} clients beside reports of {rows} rows");
    filled::fill(&front.root, rows).await;
    for pace in PACES {
        match pace.is_zero() {
            true => println!("calls as soon as the last is answered"),
            false => println!("{:.0} calls/s", CALLERS as f64 / pace.as_secs_f64()),
        }
        let mut measured: [Vec<Measured>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (measured, beside) in measured.iter_mut().zip(BESIDE) {
                measured.push(calls(&front.target, pace, beside).await);
            }
        }
        let alone = median(measured[0].iter().map(|one| one.last));
        for (measured, beside) in measured.iter().zip(BESIDE) {
            let (half, last) = (
                median(measured.iter().map(|one| one.median)),
                median(measured.iter().map(|one| one.last)),
            );
            let all: Vec<String> = measured.iter().map(|one| format!("{:.1}", one.last)).collect();
            let reports: Vec<f64> = measured.iter().filter_map(|one| one.report).collect();
            let told = match reports.len() {
                0 => String::new(),
                _ => format!(", {:.2} s a report", median(reports.into_iter())),
            };
            println!(
                "{:12} p50 {half:>7.3} ms, p99 {last:>7.3} ms ({}), {:.2} times that beside nothing{told}",
                beside.told(),
                all.join(", "),
                last / alone
            );
        }
    }
    let found = number(&front.root, "SELECT count(*) FROM aggregator_usage_logs").await;
    assert!(found > rows, "every call is in the log");
}

/// What came of one turn, in milliseconds; the time of a report in seconds.
struct Measured {
    median: f64,
    last: f64,
    report: Option<f64>,
}

/// An endless loop that takes the processor when nobody else wants it.
struct Loop(Child);

impl Loop {
    fn start() -> Self {
        let spin = ["--idle", "0", "sh", "-c", "while :; do :; done"];
        Self(Command::new("chrt").args(spin).spawn().expect("util-linux is there"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The times of calls beside what else the machine does.
async fn calls(target: &Target, pace: Duration, beside: Beside) -> Measured {
    let readers = if let Beside::Reports(count) = beside { count } else { 0 };
    let spin = matches!(beside, Beside::Loop).then(Loop::start);
    let is_over = Rc::new(Cell::new(false));
    let took = Rc::new(RefCell::new(Vec::new()));
    let tasks = LocalSet::new();
    for reader in 0..readers {
        let (is_over, took, port) = (is_over.clone(), took.clone(), target.port);
        tasks.spawn_local(async move {
            while !is_over.get() {
                let began = Instant::now();
                report(port, &format!("reader-{reader}")).await;
                took.borrow_mut().push(began.elapsed());
            }
        });
    }
    let loaded = tasks
        .run_until(async {
            // Until all of them are at it.
            sleep(Duration::from_millis(500)).await;
            let loaded = load_each(pace, target, CALLERS, None).await;
            is_over.set(true);
            loaded
        })
        .await;
    drop(spin);
    tasks.await;
    let took = took.take();
    let report = (!took.is_empty()).then(|| Times::new(took).at(50) / 1000.0);
    Measured { median: loaded.times.at(50), last: loaded.times.at(99), report }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = figures.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Reads one report.
async fn report(port: u16, reader: &str) {
    let mut claims = token::claims(reader);
    claims["role"] = json!("service_role");
    let bearer = token::signed(&claims, SECRET);
    let request = format!(
        "GET /console/api/requests?model=there-is-none HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
         authorization: Bearer {bearer}\r\nconnection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    // One that takes too long is an answer as well.
    let is_answer = answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 504 ");
    assert!(is_answer, "{answer}");
}
