//! What reports of the console that take seconds do to calls over HTTP meanwhile: the time of calls beside none, beside
//! one report after the other, and beside as many as are worked on at one time; for callers who leave some of the
//! processor, and for those who take all of it. A report is a search of the whole usage log, of which no index knows
//! anything.

#[path = "../suite/bed.rs"]
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
/// Who reads reports at one time: of each, one is worked on.
const READERS: [usize; 3] = [0, 1, 4];

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
        let mut alone = None;
        for readers in READERS {
            let (times, reports) = beside(&front.target, pace, readers).await;
            let (median, last) = (times.at(50), times.at(99));
            let ratio = last / *alone.get_or_insert(last);
            println!(
                "{readers} readers: p50 {median:>7.3} ms, p99 {last:>7.3} ms, {ratio:.2} times that without; {reports}"
            );
        }
    }
    let found = number(&front.root, "SELECT count(*) FROM aggregator_usage_logs").await;
    assert!(found > rows, "every call is in the log");
}

/// The times of calls while so many administrators read reports, and what came of those.
async fn beside(target: &Target, pace: Duration, readers: usize) -> (Times, String) {
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
    tasks.await;
    let took = took.take();
    let told = match took.len() {
        0 => "no reports".to_owned(),
        count => format!("{count} reports, of {:.2} s", Times::new(took).at(50) / 1000.0),
    };
    (loaded.times, told)
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
