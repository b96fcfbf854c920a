//! Ten thousand jobs, a thousand in flight: how long, in how much memory, and what they leave of
//! the machine for other sessions.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
mod process;
#[allow(dead_code)]
mod standin;

use bed::{Cluster, Database, as_server, pg_bin, run};
use common::{Direct, HELLO, number};
use process::Process;
use standin::{Manner, Standin};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const JOBS: usize = 10_000;
const IN_FLIGHT: usize = 1000;
/// One user takes half of the places that the others leave.
const ALL: usize = 2 * IN_FLIGHT;
const DELAY: Duration = Duration::from_millis(500);
/// No longer than the jobs run, so that they are beside all of it.
const PGBENCH_SECONDS: &str = "5";

const WORKER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::make(
        "bench_jobs",
        &format!(
            "aggregator.max_in_flight = {ALL}\naggregator.max_in_flight_per_user = {IN_FLIGHT}\n\
             aggregator.max_in_flight_per_key = {IN_FLIGHT}\nshared_buffers = 256MB\nmax_wal_size = 4GB"
        ),
    );
    cluster.up();
    let upstream = Standin::start(Manner::Late(DELAY));
    let database = cluster.database().await;
    common::prepare(&database, &upstream.base_url()).await;
    preload(&cluster, &database);
    run(pgbench(&database).args(["-i", "-q", "-s", "10"]));
    let direct = Direct::to(&upstream.base_url());
    let jobs = Jobs::connect(&database).await;

    let ideal = DELAY.as_secs_f64() * (JOBS / IN_FLIGHT) as f64;
    println!(
        "jobs: {JOBS} of {} ms each, {IN_FLIGHT} in flight: ideal {ideal:.2} s",
        DELAY.as_millis()
    );
    let mine = Process::own();
    let before = mine.cpu();
    let took = direct.ask_many(JOBS, IN_FLIGHT).await.as_secs_f64();
    println!(
        "{:<9} {took:>6.2} s, ratio {:.3}; client and upstream: {:.2} s of CPU",
        "directly:",
        took / ideal,
        mine.cpu() - before
    );
    let before = (jobs.cpu(), jobs.worker.memory(), mine.cpu());
    let (took, peak) = jobs.run().await;
    let took = took.as_secs_f64();
    let (main, others) = (jobs.cpu().0 - before.0.0, jobs.cpu().1 - before.0.1);
    println!(
        "{:<9} {took:>6.2} s, ratio {:.3} (aim 1.10); worker: {:.2} s of CPU (aim 1.5), its main thread {main:.2}, its others {others:.2}; upstream and listener: {:.2} s",
        "jobs:",
        took / ideal,
        main + others,
        mine.cpu() - before.2
    );
    println!(
        "worker's memory, MB: resident {:.0} at the peak (VmRSS; of this {:.0} its own, RssAnon), VmHWM {:.0}; idle {:.0} (its own {:.0})",
        peak.resident, peak.own, peak.most, before.1.resident, before.1.own
    );

    let alone = transactions(&database).await;
    let (beside_direct, _) =
        tokio::join!(transactions(&database), direct.ask_many(JOBS, IN_FLIGHT));
    let before = (jobs.worker.cpu(), mine.cpu());
    let (beside_jobs, (took, _)) = tokio::join!(transactions(&database), jobs.run());
    let cpu = (jobs.worker.cpu() - before.0, mine.cpu() - before.1);
    let again = transactions(&database).await;
    let base = f64::midpoint(alone, again);
    let loss = |beside: f64| (1.0 - beside / base) * 100.0;
    println!("pgbench -S, 2 clients: {alone:.0} and {again:.0} transactions/s alone");
    println!(
        "  beside {JOBS} requests made directly: {beside_direct:.0}, {:.1} % less",
        loss(beside_direct)
    );
    println!(
        "  beside {JOBS} jobs: {beside_jobs:.0}, {:.1} % less (aim 20 %); jobs {:.2} s, ratio {:.3}; CPU: worker {:.2} s, upstream and listener {:.2} s",
        loss(beside_jobs),
        took.as_secs_f64(),
        took.as_secs_f64() / ideal,
        cpu.0,
        cpu.1
    );
    assert_eq!(number(&jobs.client, SUCCEEDED).await, 2 * JOBS);
}

const SUCCEEDED: &str = "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'";

/// Restarts the cluster with a worker that stays.
fn preload(cluster: &Cluster, database: &Database<'_>) {
    cluster.down("fast");
    cluster.configure(&format!(
        "shared_preload_libraries = 'aggregator'\naggregator.databases = '{}'",
        database.name
    ));
    cluster.up();
}

/// A session that submits jobs and hears when they end.
struct Jobs {
    client: Client,
    heard: Arc<Mutex<Vec<String>>>,
    worker: Process,
    /// Its thread that speaks to PostgreSQL.
    main: Process,
}

impl Jobs {
    async fn connect(database: &Database<'_>) -> Self {
        let (client, heard) = database.listener().await;
        client.batch_execute("LISTEN aggregator_jobs").await.unwrap();
        bed::eventually(&client, &format!("SELECT count(*) FROM ({WORKER}) AS w"), "1").await;
        let pid = number(&client, WORKER).await;
        let (worker, main) = (Process::new(pid), process::thread(pid, pid));
        Self { client, heard, worker, main }
    }

    /// Seconds of CPU of the worker's main thread and of its others up to now.
    fn cpu(&self) -> (f64, f64) {
        let main = self.main.cpu();
        (main, self.worker.cpu() - main)
    }

    /// Submits them in one transaction. Says how long it took from its commit until the end of the
    /// last one was told, and what the worker's memory was when it was most.
    async fn run(&self) -> (Duration, process::Memory) {
        self.heard.lock().unwrap().clear();
        let submit = format!(
            "BEGIN; SELECT count(chat_submit('m', '{HELLO}')) FROM generate_series(1, {JOBS})"
        );
        self.client.batch_execute(&submit).await.unwrap();
        let began = Instant::now();
        self.client.batch_execute("COMMIT").await.unwrap();
        let mut peak = self.worker.memory();
        while self.heard.lock().unwrap().len() < JOBS {
            assert!(began.elapsed() < Duration::from_secs(120), "the jobs do not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.worker.memory();
            if now.resident > peak.resident {
                peak = now;
            }
        }
        (began.elapsed(), peak)
    }
}

fn pgbench(database: &Database<'_>) -> std::process::Command {
    let mut command = as_server(pg_bin("pgbench"));
    command.arg("-h").arg(&database.cluster.dir).args(["-U", "postgres", &database.name]);
    command
}

/// Transactions per second of pgbench -S.
async fn transactions(database: &Database<'_>) -> f64 {
    let mut command = pgbench(database);
    command.args(["-n", "-S", "-c", "2", "-T", PGBENCH_SECONDS]);
    let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rate| rate.split(' ').next()).and_then(|rate| rate.parse().ok());
    rate.unwrap_or_else(|| panic!("{text}"))
}
