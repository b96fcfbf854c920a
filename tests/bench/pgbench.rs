//! One statement again and again by pgbench, and what that costs.

use crate::bed::{Cluster, as_server, pg_bin, rows, run};
use crate::common::Times;
use crate::process;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_postgres::Client;

const SECONDS: u64 = 6;

/// Microseconds of CPU per call.
pub struct Cpu {
    /// Of the processes that the clients are connected to.
    pub backend: f64,
    /// Of the worker's main thread.
    pub main: f64,
    /// Of its other threads.
    pub gateway: f64,
}

pub struct Load {
    pub times: Times,
    pub per_second: f64,
    pub cpu: Cpu,
}

/// Has so many clients execute a prepared statement for some seconds.
pub async fn load(
    cluster: &Cluster,
    database: &str,
    root: &Client,
    sql: &str,
    clients: usize,
) -> Load {
    let dir = cluster.dir.join("pgbench");
    run(as_server("mkdir").arg("-p").arg(&dir));
    let script = dir.join("script.sql");
    run(as_server("sh").args(["-c", "printf '%s\\n' \"$1\" > \"$2\"", "sh", sql]).arg(&script));
    let log = dir.join(format!("log_{clients}_{}", sql.len()));
    let mut child = as_server(pg_bin("pgbench"))
        .args(["-M", "prepared", "-n", "-j", "1", "-l", "-U", "postgres"])
        .args(["-c", &clients.to_string(), "-T", &SECONDS.to_string()])
        .arg("-h")
        .arg(&cluster.dir)
        .arg("-f")
        .arg(&script)
        .arg(format!("--log-prefix={}", log.display()))
        .arg(database)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("pgbench starts");
    sleep(Duration::from_secs(1)).await;
    let backends = pids(root, "application_name = 'pgbench'").await;
    // A worker with nothing to do leaves.
    let worker = match sql.contains("chat") {
        true => pids(root, "backend_type = 'aggregator worker'").await,
        false => Vec::new(),
    };
    let (before, began) = (spent(&backends, &worker), Instant::now());
    sleep(Duration::from_secs(SECONDS - 2)).await;
    let (after, elapsed) = (spent(&backends, &worker), began.elapsed().as_secs_f64());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap();
    assert!(status.expect("pgbench ran").success());
    let text = run(as_server("sh").args(["-c", "cat \"$1\".*; rm \"$1\".*", "sh"]).arg(&log));
    // Client, number, microseconds, ...
    let times: Vec<Duration> = String::from_utf8_lossy(&text.stdout)
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse().ok().map(Duration::from_micros))
        .collect();
    let per_second = times.len() as f64 / SECONDS as f64;
    let per_call = |i: usize| (after[i] - before[i]) * 1e6 / (per_second * elapsed);
    let cpu = Cpu { backend: per_call(0), main: per_call(1), gateway: per_call(2) };
    Load { times: Times::new(times), per_second, cpu }
}

async fn pids(root: &Client, which: &str) -> Vec<usize> {
    let sql =
        format!("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {which}");
    rows(root, &sql).await.iter().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Seconds of CPU of the backends, of the worker's main thread, and of its others.
fn spent(backends: &[usize], worker: &[usize]) -> [f64; 3] {
    let of_backends = backends.iter().map(|pid| process::Process::new(*pid).cpu()).sum();
    let main: f64 = worker.iter().map(|pid| process::thread(*pid, *pid).cpu()).sum();
    let all: f64 = worker.iter().map(|pid| process::Process::new(*pid).cpu()).sum();
    [of_backends, main, all - main]
}
