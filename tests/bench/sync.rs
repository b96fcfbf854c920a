//! sync_models of a list of 5,000 models, first and unchanged, next to fetching the list alone.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;

use bed::{Cluster, rows, value};
use common::{Times, ms};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MODELS: usize = 5_000;
/// How long an unchanged sync of so many models may take right after the first, without anybody's ANALYZE.
const AT_ONCE: [(usize, f64); 2] = [(5_000, 150.0), (10_000, 300.0)];
const RUNS: usize = 15;
/// Every version of every tuple that a sync may write.
const TUPLES: &str = "
    SELECT md5(string_agg(t, ',' ORDER BY t)) FROM (
        SELECT concat(ctid, xmin, xmax) FROM aggregator_models UNION ALL
        SELECT concat(ctid, xmin, xmax) FROM aggregator_model_prices UNION ALL
        SELECT concat(ctid, xmin, xmax) FROM api_providers) AS all_tuples (t)";
const SYNC: &str = "SELECT added, updated, removed, unchanged FROM sync_models('list')";

/// A list as OpenRouter's is, about 1.5 kB a model.
fn list(models: usize) -> String {
    let models: Vec<String> = (0..models)
        .map(|i| {
            format!(
                r#"{{"id":"vendor-{}/model-{i}","canonical_slug":"vendor/model-{i}","name":"Vendor: Model {i}","created":1700000000,
                "description":"{}","context_length":128000,
                "architecture":{{"modality":"text+image->text","input_modalities":["text","image"],"output_modalities":["text"],"tokenizer":"GPT"}},
                "pricing":{{"prompt":"0.00000{:03}","completion":"0.0000{:03}","input_cache_read":"0.0000001","request":"0","image":"0",
                    "overrides":[{{"min_prompt_tokens":200000,"prompt":"0.000009"}}]}},
                "top_provider":{{"context_length":128000,"max_completion_tokens":16384,"is_moderated":true}},
                "supported_parameters":["max_tokens","temperature","tools","tool_choice","structured_outputs"]}}"#,
                i % 50,
                "What a model is good at. ".repeat(20),
                i % 997 + 1,
                i % 991 + 1,
            )
        })
        .collect();
    format!(r#"{{"data":[{}]}}"#, models.join(","))
}

/// Answers every request with the list.
async fn serve(listener: TcpListener, body: String) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer: std::sync::Arc<str> = answer.into();
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = vec![];
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut piece).await {
                request.extend_from_slice(&piece[..read]);
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

#[tokio::main]
async fn main() {
    let cluster = Cluster::start("bench_sync", "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    for (models, limit) in AT_ONCE {
        at_once(&cluster, models, limit).await;
    }
    let body = list(MODELS);
    let size = body.len();
    tokio::spawn(serve(listener, body));
    let database = cluster.database().await;
    let root = database.root().await;
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, base_url)
         VALUES ('list', 'List', 'aggregator', '{base_url}')"
    ))
    .await
    .expect("the provider is added");
    // The worker is there.
    value(&root, "SELECT version FROM aggregator_status()").await.expect("it starts");

    let sync = async |expected: String| {
        let began = Instant::now();
        assert_eq!(rows(&root, SYNC).await, [expected]);
        began.elapsed()
    };
    let first = sync(format!("{MODELS}|0|0|0")).await;
    let noted = value(&root, "SELECT count(*) FROM aggregator_model_prices").await.unwrap();
    root.batch_execute("VACUUM ANALYZE aggregator_models, aggregator_model_prices").await.unwrap();
    let before = value(&root, TUPLES).await;
    let (mut unchanged, mut fetched) = (vec![], vec![]);
    for _ in 0..RUNS {
        unchanged.push(sync(format!("0|0|0|{MODELS}")).await);
        fetched.push(fetch(&base_url).await);
    }
    let written = if value(&root, TUPLES).await == before { 0 } else { 1 };
    assert_eq!(written, 0, "a sync that changes nothing writes nothing");

    let (unchanged, fetched) = (Times::new(unchanged), Times::new(fetched));
    println!("sync_models: {MODELS} models, {:.1} MB, {RUNS} unchanged runs", size as f64 / 1e6);
    println!("{:<44} {:>8.1} ms, {noted} prices noted", "first", ms(first));
    for (what, times) in [("unchanged", &unchanged), ("fetching the list alone", &fetched)] {
        println!("{what:<44} {:>8.1} ms p50, {:.1} ms most", times.at(50), times.at(100));
    }
    println!(
        "{:<44} {:>8.1} ms p50, {written} tuples written",
        "unchanged, besides fetching",
        unchanged.at(50) - fetched.at(50)
    );
}

/// An unchanged sync right after the first one, in a session of its own and in the same one.
async fn at_once(cluster: &Cluster, models: usize, limit: f64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, list(models)));
    let database = cluster.database().await;
    let root = database.root().await;
    root.batch_execute(&format!(
        "ALTER TABLE aggregator_models SET (autovacuum_enabled = off);
         INSERT INTO api_providers (name, display_name, provider_type, base_url)
         VALUES ('list', 'List', 'aggregator', '{base_url}')"
    ))
    .await
    .expect("the provider is added");
    value(&root, "SELECT version FROM aggregator_status()").await.expect("it starts");
    assert_eq!(rows(&root, SYNC).await, [format!("{models}|0|0|0")]);
    for (client, whose) in [(&root, "its session"), (&database.root().await, "another session")] {
        let began = Instant::now();
        assert_eq!(rows(client, SYNC).await, [format!("0|0|0|{models}")]);
        let took = ms(began.elapsed());
        println!(
            "{:<44} {took:>8.1} ms (at most {limit:.0} ms)",
            format!("{models} unchanged right after, {whose}")
        );
    }
    server.abort();
}

/// Fetches the list and does nothing with it.
async fn fetch(base_url: &str) -> Duration {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let began = Instant::now();
    let answer = client.get(format!("{base_url}/models")).send().await.expect("an answer");
    answer.bytes().await.expect("a whole answer");
    began.elapsed()
}
