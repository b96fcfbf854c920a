//! What a call through the database adds to the same request made directly over a kept-alive
//! connection, measured in one run.

#[path = "../suite/bed.rs"]
#[allow(dead_code)]
mod bed;
#[path = "../suite/upstream.rs"]
#[allow(dead_code)]
mod upstream;

use bed::{Cluster, value};
use std::time::{Duration, Instant};
use upstream::{Answer, Upstream};

const CHAT: &str = r#"SELECT chat_complete('m', '[{"role":"user","content":"hi"}]')"#;
const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const CALLS: usize = 4000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // The library has no ring provider installed in this process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!(
        "{:<6} {:>7} | {:>9} {:>9} | {:>9} {:>9} | {:>9} {:>9} | {:>8} {:>6}",
        "ledger",
        "clients",
        "direct50",
        "direct99",
        "chat50",
        "chat99",
        "added50",
        "added99",
        "calls/s",
        "ratio"
    );
    for sync in ["on", "off"] {
        let cluster = Cluster::start(
            &format!("bench_{sync}"),
            &format!("aggregator.ledger_sync = {sync}\nshared_buffers = 256MB\nmax_wal_size = 4GB"),
        );
        let upstream = Upstream::start(|_| Answer::hello()).await;
        let database = cluster.database().await;
        let root = database.root().await;
        root.batch_execute(&format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url, last_synced_at)
             VALUES ('standin', 'Stand-in', 'direct', '{}', now());
             INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
             SELECT id, 'm', 'm', 'M', '{{\"input\": 2, \"output\": 10}}' FROM api_providers WHERE name = 'standin'",
            upstream.base_url()
        ))
        .await
        .unwrap();
        value(&root, "SELECT save_provider_key('standin', 'sk-good-bench')").await.unwrap();
        for clients in [1, 8, 32] {
            let direct = direct(&upstream, clients).await;
            let chat = chat(&database, clients).await;
            let added = |p| ms(percentile(&chat.0, p)) - ms(percentile(&direct.0, p));
            println!(
                "{sync:<6} {clients:>7} | {:>9.3} {:>9.3} | {:>9.3} {:>9.3} | {:>9.3} {:>9.3} | {:>8.0} {:>6.2}",
                ms(percentile(&direct.0, 50)),
                ms(percentile(&direct.0, 99)),
                ms(percentile(&chat.0, 50)),
                ms(percentile(&chat.0, 99)),
                added(50),
                added(99),
                chat.1,
                direct.1 / chat.1,
            );
        }
        let rows = value(&root, "SELECT count(*) FILTER (WHERE status = 'success') || ' of ' || count(*) FROM aggregator_usage_logs").await.unwrap();
        println!(
            "ledger {sync}: {rows} rows settled as success, {} requests seen",
            upstream.chats().len()
        );
    }
    println!(
        "times in milliseconds; ratio: requests per second directly, per call per second through SQL"
    );
}

/// Latencies, sorted, and calls per second.
type Measured = (Vec<Duration>, f64);

async fn direct(upstream: &Upstream, clients: usize) -> Measured {
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
    let url = format!("{}/chat/completions", upstream.base_url());
    measure(clients, move |_| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let request = client.post(&url).bearer_auth("sk-good-bench").body(BODY);
            assert!(request.send().await.unwrap().text().await.unwrap().contains("hello"));
        }
    })
    .await
}

async fn chat(database: &bed::Database<'_>, clients: usize) -> Measured {
    let mut sessions = Vec::new();
    for _ in 0..clients {
        let session = std::rc::Rc::new(database.root().await);
        let statement = session.prepare(&format!("SELECT ({CHAT}) IS NOT NULL")).await.unwrap();
        session.query_one(&statement, &[]).await.unwrap();
        sessions.push((session, statement));
    }
    measure(clients, move |i| {
        let (session, statement) = sessions[i].clone();
        async move {
            assert!(session.query_one(&statement, &[]).await.unwrap().get::<_, bool>(0));
        }
    })
    .await
}

async fn measure<F: Future<Output = ()> + 'static>(
    clients: usize,
    call: impl Fn(usize) -> F + 'static,
) -> Measured {
    let call = std::rc::Rc::new(call);
    let began = Instant::now();
    let tasks = tokio::task::LocalSet::new();
    let running: Vec<_> = (0..clients)
        .map(|i| {
            let call = call.clone();
            tasks.spawn_local(async move {
                let mut times = Vec::with_capacity(CALLS / clients);
                for _ in 0..CALLS / clients {
                    let began = Instant::now();
                    call(i).await;
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    tasks.await;
    let mut all = Vec::new();
    for task in running {
        all.extend(task.await.unwrap());
    }
    let per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    all.sort();
    (all, per_second)
}

fn percentile(sorted: &[Duration], p: usize) -> Duration {
    sorted[(sorted.len() - 1) * p / 100]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
