//! A usage log of many rows.

use crate::bed::{self, rows, value};
use crate::common;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

pub async fn execute(client: &Client, sql: &str) -> Duration {
    let began = Instant::now();
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", bed::shown(&e)));
    began.elapsed()
}

/// Rows in the order in which they were made, past the triggers of the ledger.
pub async fn fill(root: &Client, count: usize) {
    let first = value(root, "SELECT now() - interval '720 hours'").await.unwrap();
    let months = format!(
        "SELECT aggregator_make_partition(day) FROM generate_series('{first}', now(), '12 hours') AS day;
         SELECT aggregator_make_partition(now())"
    );
    execute(root, &months).await;
    let mut took = Duration::ZERO;
    for part in rows(root, "SELECT * FROM aggregator_partitions()").await {
        let [partition, since, until] = part.split('|').collect::<Vec<_>>()[..] else {
            panic!("{part}");
        };
        took += execute(root, &insert(count, &first, partition, since, until)).await;
    }
    let found = common::number(root, "SELECT count(*) FROM aggregator_usage_logs").await;
    assert_eq!(found, count, "every row is in a partition");
    println!(
        "{:<44} {:>8.1} s, {:.0} rows/s",
        "filling the partitions",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
    analyze(root).await;
}

/// The sums of those rows.
pub async fn add_up(root: &Client) {
    let took = execute(root, "SELECT aggregator_recount_usage()").await;
    println!("{:<44} {:>8.1} s", "aggregator_recount_usage()", took.as_secs_f64());
    analyze(root).await;
}

async fn analyze(root: &Client) {
    let took = execute(
        root,
        "VACUUM ANALYZE aggregator_usage_logs, aggregator_usage_hourly, aggregator_usage_totals",
    )
    .await;
    println!("{:<44} {:>8.1} s", "VACUUM ANALYZE", took.as_secs_f64());
}

/// The rows of a partition: as the worker leaves them, with version 7 UUIDs. A user sticks to three
/// models, and the first users do the most.
pub fn insert(count: usize, first: &str, partition: &str, since: &str, until: &str) -> String {
    format!(
        "INSERT INTO {partition}
            (call_id, attempt, created_at, epoch, provider_id, user_provider_id, user_id, model_id, served_model,
             status, http_status, error_code, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens,
             reasoning_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, audio_output_tokens, latency_ms, time_to_first_token_ms, cost_estimate, cost_computed, cost_source,
             request_id, finish_reason)
         SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0')
                 || '7' || left(hash, 3) || '8' || substr(hash, 4, 15))::uuid,
             1, at, 1, ('a9920000-0000-4000-8000-00000000000' || model / 4 + 1)::uuid, md5(who::text)::uuid,
             lpad(who::text, 36, '0'), 'vendor/model-' || model, CASE WHEN ok THEN 'vendor/model-' || model END,
             CASE WHEN ok THEN 'success' WHEN luck < 0.99 THEN 'error' ELSE 'cancelled' END,
             CASE WHEN ok THEN 200 WHEN luck < 0.99 THEN 429 END,
             CASE WHEN NOT ok AND luck < 0.99 THEN 'rate_limited' END,
             prompt, completion, prompt + completion,
             CASE WHEN luck < 0.3 THEN prompt / 2 WHEN ok THEN 0 END, CASE WHEN luck < 0.2 THEN completion / 2 WHEN ok THEN 0 END,
             CASE WHEN ok THEN 0 END, CASE WHEN ok THEN 0 END, CASE WHEN ok THEN 0 END, CASE WHEN ok THEN 0 END,
             200 + coalesce(completion, 0) * 8, CASE WHEN luck < 0.5 THEN 200 + prompt / 20 END,
             cost, cost, CASE WHEN cost IS NULL THEN 'unpriced' ELSE 'computed' END,
             'chatcmpl-' || left(hash, 29), CASE WHEN ok THEN 'stop' END
         FROM (
             SELECT *, CASE WHEN NOT ok THEN 0
                 WHEN model > 0 THEN trim_scale((prompt * 0.25 + completion) * model * 0.000001) END AS cost
             FROM (
                 SELECT *, CASE WHEN ok THEN (100 * exp(4 * long_in))::integer END AS prompt,
                     CASE WHEN ok THEN (20 * exp(4 * long_out))::integer END AS completion,
                     (who + taste) % 12 AS model
                 FROM (
                     SELECT *, luck < 0.96 AS ok
                     FROM (
                         SELECT at, md5(n::text) AS hash, floor(1000 * random() ^ 2)::integer AS who,
                             floor(3 * random() ^ 2)::integer AS taste, random() AS luck,
                             random() AS long_in, random() AS long_out
                         FROM (
                             SELECT n, '{first}'::timestamptz + interval '720 hours' * (n / {count}.0)::float8 AS at
                             FROM (SELECT generate_series(1, {count}) AS n) AS numbers
                         ) AS moments
                         WHERE at >= '{since}' AND at < '{until}'
                     ) AS drawn
                 ) AS fated
             ) AS sized
         ) AS priced"
    )
}
