//! What a call over HTTP adds to the same request sent to the upstream directly, by the same client: to its time, to
//! the first text of a stream, in CPU, and in memory for streams that are open.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
mod caller;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod standin;
#[path = "../suite/front/token.rs"]
#[allow(dead_code)]
mod token;

use bed::Cluster;
use caller::{Connection, Front, SECRET, Target, load, write_secret};
use common::Times;
use process::Process;
use standin::{Manner, Standin, Told};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use tokio::time::sleep;

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
    write_secret(&cluster);
    cluster.up();
    cluster
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
