//! chat_many next to the same requests sent directly with the same concurrency, and to the ideal.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod standin;

use bed::{Cluster, quoted};
use common::{Direct, HELLO, Times, number};
use standin::{Manner, Standin};
use std::time::{Duration, Instant};

const REQUESTS: usize = 64;
const DELAY: Duration = Duration::from_millis(200);
const RUNS: usize = 9;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cluster = Cluster::start("bench_many", "");
    let upstream = Standin::start(Manner::Late(DELAY));
    let database = cluster.database().await;
    let root = common::prepare(&database, &upstream.base_url()).await;
    let direct = Direct::to(&upstream.base_url());
    let request = format!(r#"{{"model":"m","messages":{HELLO}}}"#);
    let requests = quoted(&format!("[{}]", vec![request; REQUESTS].join(",")));

    println!("chat_many: {REQUESTS} requests of {} ms each, {RUNS} runs", DELAY.as_millis());
    println!(
        "{:>11} {:>6} | {:>10} {:>10} {:>6} | {:>10} {:>10} {:>6} | {:>9}",
        "concurrency",
        "ideal",
        "many-best",
        "many-50",
        "ratio",
        "direct-best",
        "direct-50",
        "ratio",
        "many/dir."
    );
    for concurrency in [64, 16] {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE ok) FROM chat_many({requests}, concurrency => {concurrency})"
        );
        let (mut many, mut directly) = (vec![], vec![]);
        // The first run opens the connections.
        for run in 0..=RUNS {
            let began = Instant::now();
            assert_eq!(number(&root, &sql).await, REQUESTS);
            let took = (began.elapsed(), direct.ask_many(REQUESTS, concurrency).await);
            if run > 0 {
                many.push(took.0);
                directly.push(took.1);
            }
        }
        let (many, directly) = (Times::new(many), Times::new(directly));
        let ideal = common::ms(DELAY) * (REQUESTS / concurrency) as f64;
        println!(
            "{concurrency:>11} {ideal:>6.0} | {:>10.1} {:>10.1} {:>6.3} | {:>11.1} {:>10.1} {:>6.3} | {:>9.3}",
            many.at(0),
            many.at(50),
            many.at(50) / ideal,
            directly.at(0),
            directly.at(50),
            directly.at(50) / ideal,
            many.at(50) / directly.at(50),
        );
    }
    println!("times in milliseconds; ratio: the median to the ideal; aim: 1.15");
}
