//! What a kept answer takes, next to a call that is asked upstream each time, in one run.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[path = "common.rs"]
#[allow(dead_code)]
mod common;
#[path = "pgbench.rs"]
#[allow(dead_code)]
mod pgbench;
#[path = "process.rs"]
#[allow(dead_code)]
mod process;
#[path = "standin.rs"]
#[allow(dead_code)]
mod standin;

use bed::{Cluster, value};
use common::prepare;
use pgbench::load;
use standin::{Manner, Standin};
use std::time::Duration;

const CALL: &str = r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]');"#;
const HIT: &str = r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]', '{"cache": {"ttl": 86400}}');"#;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{:<10} {:>7} | {:>8} {:>8} | {:>8}", "", "clients", "p50 ms", "p99 ms", "calls/s");
    let cluster = Cluster::start("bench_cache", "shared_buffers = 256MB\nmax_wal_size = 4GB");
    let upstream = Standin::start(Manner::Late(Duration::ZERO));
    let database = cluster.database().await;
    let root = prepare(&database, &upstream.base_url()).await;
    value(&root, &HIT.replace(';', "")).await;
    for clients in [1, 8, 32] {
        let mut p50 = vec![];
        for (what, sql) in [("call", CALL), ("hit", HIT)] {
            let load = load(&cluster, &database.name, &root, sql, clients).await;
            println!(
                "{what:<10} {clients:>7} | {:>8.3} {:>8.3} | {:>8.0}",
                load.times.at(50),
                load.times.at(99),
                load.per_second
            );
            p50.push(load.times.at(50));
        }
        println!("{:<10} {clients:>7} | {:.2} of a call's median", "ratio", p50[1] / p50[0]);
    }
    let misses =
        "SELECT count(*) FROM aggregator_usage_logs WHERE cost_source <> 'cached' AND call_id IN
        (SELECT call_id FROM aggregator_usage_logs WHERE cost_source = 'cached')";
    assert_eq!(value(&root, misses).await.unwrap(), "0");
    println!(
        "call: asked of a provider that answers at once; hit: the same, answered by the cache"
    );
}
