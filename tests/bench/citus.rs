//! The months that are over on none, one and two further nodes of Citus, all on this machine: what the move takes, what a
//! row takes there, what reading them takes, and whether a call costs any more than before.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod filled;
mod pgbench;
#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod standin;

use bed::{Cluster, Database, nodes, rows, value, var};
use common::{Times, number, prepare};
use filled::{execute, insert};
use pgbench::load;
use standin::{Manner, Standin};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const ROWS: usize = 200_000;
const CLIENTS: usize = 32;
const CHAT: &str = r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]');"#;
const NAME: &str = "spread";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("citus: a month of {ROWS} rows, 1000 users; times in ms, {CLIENTS} clients call");
    println!(
        "{:<14} | {:>9} {:>9} | {:>9} {:>9} {:>9} | {:>8} {:>8} | {:>8} {:>8} {:>8}",
        "",
        "rows/s",
        "bytes/row",
        "user",
        "hour",
        "month",
        "calls/s",
        "p50",
        "backend",
        "main",
        "gateway"
    );
    measure("without Citus", None).await;
    for workers in 0..=2 {
        measure(&format!("{workers} workers"), Some(workers)).await;
    }
    println!(
        "backend, main, gateway: microseconds of CPU per call; rows/s: of aggregator_distribute()"
    );
}

async fn measure(label: &str, workers: Option<usize>) {
    let start = |name: String| {
        let own = "shared_buffers = 256MB\nmax_wal_size = 4GB\nautovacuum_naptime = 5s";
        let dir = PathBuf::from(var("AGGREGATOR_RUN")).join(&name);
        match workers {
            Some(_) => Cluster::start(&name, &nodes::configuration(&dir, own)),
            None => Cluster::start(&name, own),
        }
    };
    let kind = workers.map_or("plain".to_owned(), |count| count.to_string());
    let coordinator = start(format!("bench_{kind}"));
    let others: Vec<_> =
        (0..workers.unwrap_or(0)).map(|n| start(format!("bench_{kind}_{n}"))).collect();
    let client = coordinator.connect("postgres", "postgres").await;
    execute(&client, &format!("CREATE DATABASE {NAME}")).await;
    let database = Database { cluster: &coordinator, name: NAME.to_owned() };
    if workers.is_some() {
        nodes::coordinate(&database).await;
        for worker in &others {
            nodes::add(&database.root().await, worker, NAME).await;
        }
    }
    let root = database.root().await;
    execute(&root, "SET timezone = 'UTC'; CREATE EXTENSION aggregator; SELECT setseed(0.5)").await;
    let upstream = Standin::start(Manner::Late(Duration::ZERO));
    prepare(&database, &upstream.base_url()).await;

    let since =
        "SELECT date_trunc('month', now() - interval '24 hours', 'UTC') - interval '1 month'";
    let since = value(&root, since).await.expect("a month");
    let until = format!("SELECT '{since}'::timestamptz + interval '1 month'");
    let until = value(&root, &until).await.expect("its end");
    execute(&root, &format!("SELECT aggregator_make_partition('{since}')")).await;
    let partition =
        format!("SELECT partition FROM aggregator_partitions() WHERE since = '{since}'");
    let partition = value(&root, &partition).await.expect("its partition");
    execute(&root, &insert(ROWS, &since, &partition, &since, &until)).await;
    execute(&root, &format!("VACUUM ANALYZE {partition}")).await;
    let bytes = |size: &str| format!("SELECT {size} / {ROWS}");
    let mut size = bytes(&format!("pg_total_relation_size('{partition}')"));
    let mut moved = "-".to_owned();
    if !others.is_empty() {
        let began = Instant::now();
        execute(&root, "SELECT * FROM aggregator_distribute()").await;
        moved = format!("{:.0}", ROWS as f64 / began.elapsed().as_secs_f64());
        size = bytes(
            "(SELECT sum(citus_total_relation_size(archive)) FROM aggregator_archives())::bigint",
        );
    }
    let size = number(&root, &size).await;
    let found = format!("SELECT count(*) FROM aggregator_usage_logs WHERE created_at < '{until}'");
    assert_eq!(number(&root, &found).await, ROWS, "all of it is there");
    let [user, hour, month] = reads(&root, &since, &until).await;

    value(&root, &CHAT.replace(';', "")).await;
    let load = load(&coordinator, NAME, &root, CHAT, CLIENTS).await;
    println!(
        "{label:<14} | {moved:>9} {size:>9} | {user:>9.2} {hour:>9.2} {month:>9.2} | {:>8.0} {:>8.2} | {:>8.0} {:>8.0} {:>8.0}",
        load.per_second,
        load.times.at(50),
        load.cpu.backend,
        load.cpu.main,
        load.cpu.gateway
    );
    let lost = "SELECT count(*) FROM aggregator_usage_logs WHERE created_at > now() - interval '1 hour' AND status <> 'success'";
    assert_eq!(rows(&root, lost).await, ["0"], "every call succeeded");
}

/// A user's month, an hour of everybody's, and the month of everybody: what the log says of them, in the median.
async fn reads(root: &Client, since: &str, until: &str) -> [f64; 3] {
    let of = |filter: String| {
        format!(
            "SELECT count(*), sum(cost_estimate), sum(total_tokens) FROM aggregator_usage_logs WHERE {filter}"
        )
    };
    let user =
        format!("user_id = '{:036}' AND created_at >= '{since}' AND created_at < '{until}'", 500);
    let hour = format!(
        "created_at >= '{since}'::timestamptz + interval '100 hours' AND created_at < '{since}'::timestamptz + interval '101 hours'"
    );
    let month = format!("created_at >= '{since}' AND created_at < '{until}'");
    let mut found = [0.0; 3];
    for (i, sql) in [user, hour, month].into_iter().map(of).enumerate() {
        let mut times = vec![];
        for _ in 0..9 {
            let began = Instant::now();
            rows(root, &sql).await;
            times.push(began.elapsed());
        }
        found[i] = Times::new(times).at(50);
    }
    found
}
