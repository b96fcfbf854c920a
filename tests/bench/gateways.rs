//! One, two and three gateways that keep one budget, all on this machine: what a call costs on them, and what it costs
//! to lease.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
mod pgbench;
#[allow(dead_code)]
mod process;
#[allow(dead_code)]
mod standin;

use bed::{Cluster, Database, eventually, value};
use common::{Times, number, prepare};
use pgbench::load;
use standin::{Manner, Standin};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_postgres::Client;

/// Of all gateways together.
const CLIENTS: usize = 33;
const CALLERS: usize = 300;
const CHAT: &str =
    r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]', '{"max_tokens": 50}');"#;
const NAME: &str = "fleet";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "gateways: {CLIENTS} clients call, shared out among them; times in ms, CPU in microseconds per call"
    );
    println!(
        "{:<34} | {:>8} {:>8} | {:>8} {:>8} {:>8}",
        "", "calls/s", "p50", "backend", "main", "gateway"
    );
    let upstream = Standin::start(Manner::Late(Duration::ZERO));
    let fleet = fleet(&upstream).await;
    measure("one, no budget", &fleet[..1], CLIENTS).await;
    for (_, root) in &fleet {
        budget(root, 1, "limit_usd", "1000000").await;
    }
    measure("the hub, one budget of all", &fleet[..1], CLIENTS).await;
    measure("another, which leases it", &fleet[1..2], CLIENTS).await;
    measure("the hub and another", &fleet[..2], CLIENTS).await;
    measure("the hub and two others", &fleet, CLIENTS).await;
    // Fewer clients are fewer calls in a batch, also where there is one gateway.
    measure("the hub, half of the clients", &fleet[..1], CLIENTS / 2).await;
    measure("the hub, a third of the clients", &fleet[..1], CLIENTS / 3).await;
    // Each call is the first one of its user, and leases.
    for (_, root) in &fleet {
        budget(root, 2, "each_user, limit_usd", "true, 1000").await;
    }
    for (label, (_, root)) in [("the hub", &fleet[0]), ("another", &fleet[1])] {
        let mut times = [vec![], vec![]];
        for caller in 0..CALLERS {
            value(root, &format!("SELECT set_config('aggregator.user_id', 'u-{caller}', false)"))
                .await;
            for times in &mut times {
                let began = Instant::now();
                value(root, CHAT.trim_end_matches(';')).await;
                times.push(began.elapsed());
            }
        }
        let [first, next] = times.map(Times::new);
        println!(
            "{label}: a user's first call p50 {:.2} p99 {:.2}, the next one p50 {:.2} p99 {:.2}",
            first.at(50),
            first.at(99),
            next.at(50),
            next.at(99)
        );
    }
    let leases = "SELECT count(*) FROM aggregator_leases WHERE user_id IS NOT NULL";
    assert_eq!(number(&fleet[0].1, leases).await, CALLERS, "each was leased");
}

/// The hub and two others, with the master keys of one file.
async fn fleet(upstream: &Standin) -> Vec<(Cluster, Client)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its number").port();
    drop(listener);
    let own = "shared_preload_libraries = 'aggregator'\nshared_buffers = 128MB\nmax_wal_size = 2GB\nfsync = on";
    let hub = Cluster::start(
        "bench_hub",
        &format!(
            "{own}\naggregator.gateway = 'hub'\naggregator.http_listen = '{NAME}=127.0.0.1:{port}'"
        ),
    );
    let keyring = hub.data().join("aggregator.keyring");
    let other = |name: &str| {
        let lines = format!(
            "{own}\naggregator.gateway = '{name}'\naggregator.hub = 'http://127.0.0.1:{port}'\n\
             aggregator.keyring_file = '{}'",
            keyring.display()
        );
        Cluster::start(&format!("bench_{name}"), &lines)
    };
    let others = [other("b"), other("c")];
    let mut fleet = vec![];
    for cluster in [hub].into_iter().chain(others) {
        let client = cluster.connect("postgres", "postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {NAME}")).await.expect("a database");
        // What each is given here comes to the others otherwise, from their hub; so may a restore write it.
        let restoring = "ALTER ROLE postgres SET row_security = off";
        client.batch_execute(restoring).await.expect("the role is changed");
        let client = cluster.connect("postgres", NAME).await;
        client.batch_execute("CREATE EXTENSION aggregator").await.expect("the extension");
        let database = Database { cluster: &cluster, name: NAME.to_owned() };
        let root = prepare(&database, &upstream.base_url()).await;
        drop(database);
        root.batch_execute(
            "INSERT INTO aggregator_gateways (name) VALUES ('b'), ('c');
             SELECT save_platform_key('standin', 'sk-good-bench')",
        )
        .await
        .expect("it is prepared");
        fleet.push((cluster, root));
    }
    value(&fleet[0].1, "SELECT aggregator_start()").await;
    let address = format!("http://127.0.0.1:{port}");
    eventually(&fleet[0].1, "SELECT http_address FROM aggregator_status()", &address).await;
    fleet
}

async fn budget(root: &Client, id: u8, columns: &str, values: &str) {
    let sql = format!(
        "INSERT INTO aggregator_budgets (id, period, keys, {columns})
         VALUES ('00000000-0000-4000-8000-{id:012}', 'total', 'all', {values})"
    );
    root.batch_execute(&sql).await.expect("the budget is set");
}

/// Calls on all of these at the same time.
async fn measure(label: &str, fleet: &[(Cluster, Client)], clients: usize) {
    for (_, root) in fleet {
        value(root, CHAT.trim_end_matches(';')).await;
    }
    let calls = async |index: usize| {
        let (cluster, root) = fleet.get(index)?;
        Some(load(cluster, NAME, root, CHAT, clients / fleet.len()).await)
    };
    let (one, two, three) = tokio::join!(calls(0), calls(1), calls(2));
    let loads: Vec<_> = [one, two, three].into_iter().flatten().collect();
    let per_second: f64 = loads.iter().map(|load| load.per_second).sum();
    let mean = |of: fn(&pgbench::Load) -> f64| {
        loads.iter().map(|load| of(load) * load.per_second).sum::<f64>() / per_second
    };
    println!(
        "{label:<34} | {per_second:>8.0} {:>8.2} | {:>8.0} {:>8.0} {:>8.0}",
        mean(|load| load.times.at(50)),
        mean(|load| load.cpu.backend),
        mean(|load| load.cpu.main),
        mean(|load| load.cpu.gateway)
    );
    for (_, root) in fleet {
        let lost = "SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'success'";
        eventually(root, lost, "0").await;
    }
}
