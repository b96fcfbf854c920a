//! A ledger of ten million rows: what it takes to fill and to sum up, how big it is, and what the
//! reports and the list of a user's models cost, next to the queries that they stand for.

#[path = "../support/bed.rs"]
#[allow(dead_code)]
mod bed;
#[allow(dead_code)]
mod common;
mod filled;
#[path = "written.rs"]
mod written;

use bed::{Cluster, Database, rows, value};
use common::{Times, ms};
use filled::{add_up, execute, fill};
use std::time::Instant;
use tokio_postgres::Client;

const ROWS: usize = 10_000_000;
const USERS: usize = 100_000;
const MODELS: usize = 4_000;
/// With keys at three providers.
const ONE_USER: usize = 50_000;
const COLUMNS: &str = "p.id, p.name, p.display_name, p.provider_type, m.model_id, m.model_name, m.display_name, m.model_type,
    m.capabilities, m.context_window, m.max_output_tokens, m.pricing, p.provider_type = 'aggregator'";

#[tokio::main]
async fn main() {
    let rows = std::env::var("AGGREGATOR_BENCH_ROWS");
    let rows = rows.map_or(ROWS, |text| text.parse().expect("AGGREGATOR_BENCH_ROWS is a number"));
    let cluster = Cluster::start(
        "bench_usage",
        "fsync = off\nshared_buffers = 1GB\nmax_wal_size = 8GB\nmaintenance_work_mem = 256MB\nautovacuum = off",
    );
    let database = cluster.database().await;
    let root = database.root().await;
    execute(&root, "CREATE ROLE bench; SELECT aggregator_grant('bench', 'user'), setseed(0.5)")
        .await;
    println!("usage: {rows} rows over 30 days, 1000 users, 3 providers, 12 models");
    written::print(&root).await;
    fill(&root, rows).await;
    add_up(&root).await;
    sizes(&root, rows).await;
    summaries(&database, &root).await;
    models(&database, &root).await;
}

/// Milliseconds.
async fn median(client: &Client, sql: &str, runs: usize) -> f64 {
    let mut times = vec![];
    for _ in 0..runs {
        let began = Instant::now();
        client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", bed::shown(&e)));
        times.push(began.elapsed());
    }
    Times::new(times).at(50)
}

/// A user's id, as long as a UUID.
fn user_id(user: usize) -> String {
    format!("{user:036}")
}

/// A session of a user who is no administrator.
async fn session(database: &Database<'_>, user: usize) -> Client {
    let client = database.root().await;
    let id = user_id(user);
    execute(&client, &format!("SET aggregator.user_id = '{id}'; SET ROLE bench")).await;
    assert_eq!(value(&client, "SELECT aggregator_user_id()").await, Some(id));
    client
}

async fn sizes(root: &Client, count: usize) {
    let sql = format!(
        "SELECT what, round(sum(bytes) / {count}, 1)
         FROM aggregator_partitions() AS part
         CROSS JOIN LATERAL (
             SELECT 1, 'heap', pg_table_size(part.partition)
             UNION ALL
             SELECT 2, substring(pg_get_indexdef(indexrelid) FROM 'USING (.*)'), pg_relation_size(indexrelid)
             FROM pg_index WHERE indrelid = part.partition
             UNION ALL
             SELECT 3, 'together', pg_total_relation_size(part.partition)
         ) AS sizes (place, what, bytes)
         GROUP BY place, what ORDER BY place, 2 DESC"
    );
    println!("bytes per row, written once:");
    for line in rows(root, &sql).await {
        let (what, bytes) = line.rsplit_once('|').unwrap();
        println!("  {what:<42} {bytes:>8}");
    }
    let sums = "SELECT count(*), pg_size_pretty(pg_total_relation_size('aggregator_usage_hourly')),
        (SELECT count(*) FROM aggregator_usage_totals), pg_size_pretty(pg_total_relation_size('aggregator_usage_totals'))
        FROM aggregator_usage_hourly";
    println!("sums: hourly rows and size, totals rows and size: {}", rows(root, sums).await[0]);
}

/// usage_summary next to the scan that gives the same figures.
async fn summaries(database: &Database<'_>, root: &Client) {
    for (whose, user) in [
        ("of the busiest user", Some(0)),
        ("of a middling user", Some(500)),
        ("of all users", None),
    ] {
        let (argument, filter) = user.map_or(("NULL".to_owned(), String::new()), |user| {
            let id = user_id(user);
            (format!("'{id}'"), format!("AND user_id = '{id}'"))
        });
        let scan = format!(
            "SELECT coalesce(sum(total_tokens), 0)::bigint AS total_tokens, coalesce(sum(cost_estimate), 0) AS total_cost,
                count(*) AS requests, count(*) FILTER (WHERE status = 'error') AS errors,
                round(avg(latency_ms) FILTER (WHERE status = 'success'), 1) AS avg_latency_ms,
                percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'success') AS p95_latency_ms,
                count(*) FILTER (WHERE cost_estimate IS NULL) AS unpriced_requests
             FROM aggregator_usage_logs
             WHERE created_at >= date_trunc('hour', now() - interval '720 hours', 'UTC') AND status <> 'pending' {filter}"
        );
        // The 95th percentile of the summary comes from a histogram.
        let differ = format!(
            "SELECT count(DISTINCT (total_tokens, trim_scale(total_cost), requests, errors, avg_latency_ms, unpriced_requests)),
                string_agg(figures::text, ' ')
             FROM (SELECT * FROM usage_summary('month', NULL, {argument}) UNION ALL SELECT * FROM ({scan}) AS scan) AS figures"
        );
        let found = rows(root, &differ).await;
        assert!(found[0].starts_with("1|"), "{whose}: {found:?}");

        let client = match user {
            Some(user) => session(database, user).await,
            None => database.root().await,
        };
        let summary = median(&client, "SELECT * FROM usage_summary('month')", 20).await;
        let scanned = median(root, &scan, 3).await;
        println!(
            "{:<44} {summary:>8.2} ms (aim 20); scan {scanned:.1} ms, {:.0} times (aim 100)",
            format!("usage_summary('month') {whose}"),
            scanned / summary
        );
    }
}

/// get_user_available_models next to the join that it needs.
async fn models(database: &Database<'_>, root: &Client) {
    let took = execute(
        root,
        &format!(
            "CREATE TEMP TABLE places AS SELECT id, row_number() OVER (ORDER BY name) - 1 AS place FROM api_providers;
             INSERT INTO aggregator_models
                 (provider_id, model_id, model_name, display_name, capabilities, context_window, max_output_tokens, pricing)
             SELECT id, format('vendor-%s/model-%s', n % 50, n), 'model-' || n, 'Model ' || n,
                 '{{\"vision\": true, \"functions\": true}}', 128000, 16384, '{{\"input\": 2, \"output\": 10}}'
             FROM generate_series(1, {MODELS}) AS n JOIN places ON place = n % (SELECT count(*) FROM places);
             INSERT INTO user_api_providers (user_id, provider_id, api_key_encrypted, key_hint)
             SELECT lpad(n::text, 36, '0'), id, sha512(n::text::bytea), '1234'
             FROM generate_series(1, {USERS}) AS n
             JOIN places ON (place + n) % (SELECT count(*) FROM places) <= n % 3"
        ),
    )
    .await;
    execute(root, "VACUUM ANALYZE aggregator_models, user_api_providers, api_providers").await;
    println!("models: {MODELS}, keys of {USERS} users, made in {:.0} ms", ms(took));

    let join = format!(
        "SELECT {COLUMNS}
         FROM user_api_providers AS k
         JOIN api_providers AS p ON p.id = k.provider_id
         JOIN aggregator_models AS m ON m.provider_id = p.id
         WHERE k.user_id = '{}' AND k.is_active AND p.is_active AND m.is_available
         ORDER BY p.name, m.model_id",
        user_id(ONE_USER)
    );
    let listed = "SELECT * FROM get_user_available_models()";
    let client = session(database, ONE_USER).await;
    let found = rows(&client, listed).await;
    assert_eq!(found, rows(root, &join).await);
    let listing = median(&client, listed, 30).await;
    let joining = median(root, &join, 30).await;
    println!(
        "{:<44} {listing:>8.2} ms, {} models; join {joining:.2} ms, ratio {:.2} (aim 3)",
        "get_user_available_models()",
        found.len(),
        listing / joining
    );
}
