//! embed_many of many short texts next to the ideal at its concurrency.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod standin;

use bed::Cluster;
use common::{Times, number};
use standin::{Manner, Standin};
use std::time::{Duration, Instant};

const TEXTS: usize = 10_000;
const BATCH: usize = 128;
const DIMENSIONS: usize = 384;
const DELAY: Duration = Duration::from_millis(200);
const RUNS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::start("bench_embed", "");
    let upstream = Standin::start(Manner::Embeds(DELAY, DIMENSIONS));
    let database = cluster.database().await;
    let root = common::prepare(&database, &upstream.base_url()).await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, model_type, pricing)
         SELECT id, 'e', 'e', 'E', 'embedding', '{\"input\": 2}' FROM api_providers WHERE name = 'standin';
         CREATE TABLE texts AS SELECT 'text number ' || i AS body FROM generate_series(1, 10000) AS i",
    )
    .await
    .expect("it is made");

    println!(
        "embed_many: {TEXTS} texts, {BATCH} in a request of {} ms, {DIMENSIONS} dimensions, {RUNS} runs",
        DELAY.as_millis()
    );
    println!("{:>11} {:>7} | {:>9} {:>9} {:>6}", "concurrency", "ideal", "best", "median", "ratio");
    for concurrency in [16, 4] {
        let sql = format!(
            "SELECT count(embedding) FROM embed_many((SELECT array_agg(body) FROM texts), 'e',
                '{{\"concurrency\": {concurrency}, \"batch_size\": {BATCH}}}')"
        );
        let mut took = vec![];
        // The first run opens the connections.
        for run in 0..=RUNS {
            let began = Instant::now();
            assert_eq!(number(&root, &sql).await, TEXTS);
            if run > 0 {
                took.push(began.elapsed());
            }
        }
        let took = Times::new(took);
        let rounds = TEXTS.div_ceil(BATCH).div_ceil(concurrency);
        let ideal = common::ms(DELAY) * rounds as f64;
        println!(
            "{concurrency:>11} {ideal:>7.0} | {:>9.1} {:>9.1} {:>6.3}",
            took.at(0),
            took.at(50),
            took.at(50) / ideal
        );
    }
    println!("times in milliseconds; ratio: the median to the ideal; aim: 1.2");
}
