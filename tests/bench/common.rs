//! What the benches share: a database with a provider, a client that asks the provider directly,
//! and figures.

use crate::bed::{Database, value};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

pub const HELLO: &str = r#"[{"role":"user","content":"hi"}]"#;
const KEY: &str = "sk-good-bench";

/// Makes the upstream a provider with a model `m` and a key.
pub async fn prepare(database: &Database<'_>, base_url: &str) -> Client {
    let root = database.root().await;
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, base_url, last_synced_at)
         VALUES ('standin', 'Stand-in', 'direct', '{base_url}', now());
         INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, 'm', 'm', 'M', '{{\"input\": 2, \"output\": 10}}' FROM api_providers WHERE name = 'standin';
         SELECT save_provider_key('standin', '{KEY}', p_validate => false)"
    ))
    .await
    .expect("the provider is added");
    root
}

/// Asks the upstream without a database between.
#[derive(Clone)]
pub struct Direct {
    client: reqwest::Client,
    url: String,
}

impl Direct {
    pub fn to(base_url: &str) -> Self {
        // The library has no ring provider installed in this process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
        Self { client, url: format!("{base_url}/chat/completions") }
    }

    pub async fn ask(&self, stream: bool) -> reqwest::Response {
        let body = format!(r#"{{"model":"m","messages":{HELLO},"stream":{stream}}}"#);
        self.client.post(&self.url).bearer_auth(KEY).body(body).send().await.expect("an answer")
    }

    /// Asks so many times, with so many requests in flight.
    pub async fn ask_many(&self, requests: usize, concurrency: usize) -> Duration {
        let left = Rc::new(Cell::new(requests));
        let began = Instant::now();
        let tasks = tokio::task::LocalSet::new();
        for _ in 0..concurrency {
            let (direct, left) = (self.clone(), left.clone());
            tasks.spawn_local(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let answer = direct.ask(false).await.text().await.expect("a whole answer");
                    assert!(answer.contains("hello"), "{answer}");
                }
            });
        }
        tasks.await;
        began.elapsed()
    }
}

/// The first column of the first row, as a number.
pub async fn number(client: &Client, sql: &str) -> usize {
    value(client, sql).await.and_then(|text| text.parse().ok()).expect("a number")
}

/// Durations, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    /// A percentile in milliseconds.
    pub fn at(&self, percent: usize) -> f64 {
        ms(self.0[(self.0.len() - 1) * percent / 100])
    }
}

/// What it takes to flush a page of a file to the disk that the clusters are on, after so long a silence each time.
pub fn flushes(count: usize, silence: Duration) -> Times {
    let path = std::path::Path::new(&crate::bed::var("AGGREGATOR_RUN")).join("flushed");
    let mut file = File::create(&path).expect("a file beside the clusters");
    let times = (0..count).map(|_| {
        std::thread::sleep(silence);
        let began = Instant::now();
        file.rewind().and_then(|()| file.write_all(&[1; 8192])).expect("it is written");
        file.sync_data().expect("it is flushed");
        began.elapsed()
    });
    let times = Times::new(times.collect());
    std::fs::remove_file(path).expect("it is removed");
    times
}

/// What it takes a byte to wake somebody who waits for it, and its answer to come back, after so long a silence each
/// time: what a step from one thread to another costs, twice.
pub fn wakes(count: usize, silence: Duration) -> Times {
    let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
    let answering = std::thread::spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).and_then(|()| there.write_all(&byte)).is_ok() {}
    });
    let times = (0..count).map(|_| {
        std::thread::sleep(silence);
        let began = Instant::now();
        let mut byte = [1];
        here.write_all(&byte).and_then(|()| here.read_exact(&mut byte)).expect("it answers");
        began.elapsed()
    });
    let times = Times::new(times.collect());
    drop(here);
    answering.join().expect("it ends");
    times
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
