//! No content of a table keeps the worker from starting, or from serving those whom it is not about; a row that
//! cannot be settled is set aside.

use crate::bed::{
    self, Cluster, Database, PATIENCE, eventually, eventually_within, failure, rows, value,
};
use crate::fixtures::{HELLO, chat_sql, ended, prepare, save_key, user};
use crate::upstream::{Answer, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const WORKER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";

/// Ends the worker, and waits until it is gone.
async fn end_worker(root: &Client) {
    let end = format!("SELECT count(pg_terminate_backend(pid)) FROM ({WORKER}) AS worker");
    value(root, &end).await;
    let gone = format!("SELECT count(*) FROM ({WORKER}) AS worker");
    eventually(root, &gone, "0").await;
}

/// The tables that the worker reads or writes, and a row of each that is as it should be: of the user
/// 'u-worst' and, but for the sums and the log, of the provider 'worst'.
const TABLES: &[(&str, &str)] = &[
    (
        "api_providers",
        "jsonb_build_object('id', gen_random_uuid(), 'name', 'w' || left(md5(random()::text), 20), 'display_name', 'x',
            'provider_type', 'direct', 'api_standard', 'openai', 'base_url', 'https://worst.example/v1',
            'catalogue_format', 'auto', 'headers', '{}'::jsonb, 'features', '{}'::jsonb, 'is_active', true,
            'created_at', now(), 'updated_at', now(), 'price_unit', 'auto')",
    ),
    (
        "user_api_providers",
        "jsonb_build_object('id', gen_random_uuid(), 'user_id', 'u-worst' || left(md5(random()::text), 20), 'provider_id', worst,
            'api_key_encrypted', 'x', 'key_hint', 'x', 'is_active', true, 'priority', 0, 'settings', '{}'::jsonb,
            'created_at', now(), 'updated_at', now())",
    ),
    (
        "aggregator_models",
        "jsonb_build_object('id', gen_random_uuid(), 'provider_id', worst, 'model_id', left(md5(random()::text), 20),
            'model_name', 'm', 'display_name', 'x', 'model_type', 'chat', 'capabilities', '{}'::jsonb, 'pricing', '{}'::jsonb,
            'pricing_source', 'sync', 'is_available', true, 'shares_cache', false, 'first_seen_at', now())",
    ),
    (
        "aggregator_model_prices",
        "jsonb_build_object('id', gen_random_uuid(), 'provider_id', worst, 'model_id', left(md5(random()::text), 20),
            'pricing', '{\"input\": 1}'::jsonb, 'valid_from', now(), 'source', 'sync')",
    ),
    (
        "aggregator_usage_logs",
        "jsonb_build_object('call_id', gen_random_uuid(), 'attempt', 1, 'created_at', now(), 'epoch', 1,
            'provider_id', standin, 'user_id', 'u-worst', 'model_id', 'm', 'status', 'pending')",
    ),
    (
        "aggregator_worker_epochs",
        "jsonb_build_object('epoch', (random() * 1000000000)::bigint, 'started_at', now(), 'low_water', now())",
    ),
    (
        "aggregator_jobs",
        "jsonb_build_object('id', gen_random_uuid(), 'user_id', 'u-worst', 'status', 'queued', 'model', 'm',
            'request', '{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}'::jsonb, 'request_bytes', 70,
            'run_after', now(), 'attempts', 0, 'created_at', now())",
    ),
    (
        "aggregator_cooling",
        "jsonb_build_object('id', gen_random_uuid(), 'provider_id', worst, 'user_provider_id', gen_random_uuid(),
            'model_id', 'm', 'cooling_until', now() + interval '1 h', 'key_print', 0, 'failures', 1, 'reason', 'x', 'noted_at', now())",
    ),
    (
        "aggregator_hidden_tokens",
        "jsonb_build_object('provider_id', worst, 'model_id', left(md5(random()::text), 20), 'prompt_tokens', 1,
            'completion_tokens', 1, 'noted_at', now())",
    ),
    (
        "aggregator_budgets",
        "jsonb_build_object('id', gen_random_uuid(), 'user_id', 'u-worst', 'each_user', false, 'period', 'month',
            'model_id', left(md5(random()::text), 20), 'limit_usd', 1, 'limit_tokens', 1, 'limit_requests', 1, 'action', 'block', 'keys', 'all',
            'created_at', now(), 'updated_at', now())",
    ),
    (
        "aggregator_rate_limits",
        "jsonb_build_object('id', gen_random_uuid(), 'user_id', 'u-worst', 'each_user', false,
            'model_id', left(md5(random()::text), 20), 'requests_per_minute', 1, 'tokens_per_minute', 1,
            'created_at', now(), 'updated_at', now())",
    ),
    (
        "aggregator_budget_warnings",
        "jsonb_build_object('id', gen_random_uuid(), 'budget_id', gen_random_uuid(), 'user_id', 'u-worst', 'period_start', now(),
            'percent', 80, 'spent_usd', 1, 'spent_tokens', 1, 'spent_requests', 1, 'created_at', now())",
    ),
    (
        "aggregator_key_checks",
        "jsonb_build_object('id', gen_random_uuid(), 'created_at', now(), 'kind', 'check', 'user_id', 'u-worst', 'provider_id', worst,
            'outcome', 'error', 'error_code', 'x', 'http_status', 500, 'latency_ms', 1)",
    ),
    (
        "aggregator_user_models",
        "jsonb_build_object('user_id', 'u-worst', 'provider_id', worst, 'model_id', left(md5(random()::text), 20), 'model_name', 'm',
            'display_name', 'x', 'model_type', 'chat', 'capabilities', '{}'::jsonb, 'pricing', '{}'::jsonb, 'first_seen_at', now())",
    ),
    (
        "aggregator_usage_hourly",
        "(SELECT to_jsonb(h) || jsonb_build_object('user_id', 'u-worst' || left(md5(random()::text), 20)) FROM aggregator_usage_hourly AS h WHERE user_id = 'u-2')",
    ),
    (
        "aggregator_usage_totals",
        "(SELECT to_jsonb(t) || jsonb_build_object('model_id', left(md5(random()::text), 20)) FROM aggregator_usage_totals AS t WHERE grain = 'hour' AND model_id = 'm')",
    ),
    (
        "aggregator_cache",
        "jsonb_build_object('print', sha256(random()::text::bytea), 'user_id', 'u-worst', 'provider_id', worst, 'model_id', 'm',
            'is_shared', false, 'answer', 'x', 'size', 1, 'created_at', now(), 'expires_at', now() + interval '1 h')",
    ),
    (
        "aggregator_ai_columns",
        "jsonb_build_object('id', gen_random_uuid(), 'user_id', 'u-worst', 'definer', 'postgres', 'kind', 'chat', 'model', 'm',
            'request', '{\"model\": \"m\"}'::jsonb, 'concurrency', 4, 'batch_size', 1, 'status', 'active', 'backfill', 'missing',
            'backfill_status', 'running', 'backfill_seen', 0, 'created_at', now(), 'updated_at', now())",
    ),
    (
        "aggregator_ai_queue",
        "jsonb_build_object('column_id', (SELECT id FROM aggregator_ai_columns LIMIT 1), 'key', ARRAY[random()::text],
            'version', '5', 'status', 'queued', 'attempts', 0, 'run_after', now(), 'queued_at', now())",
    ),
    (
        "aggregator_quarantine",
        "jsonb_build_object('call_id', gen_random_uuid(), 'attempt', 1, 'created_at', now(), 'user_id', 'u-worst',
            'reason', 'x', 'tries', 1, 'settlement', '{}', 'noted_at', now(), 'retry_at', '-infinity')",
    ),
];

/// What the worker must bear in each column, by its type: the largest, the smallest, the strangest.
const FILL: &str = r#"
CREATE FUNCTION pg_temp.fill(p_table text, p_row text, p_worst uuid, p_standin uuid) RETURNS integer
LANGUAGE plpgsql AS $fill$
DECLARE
    v_column record;
    v_value  jsonb;
    v_row    jsonb;
    v_count  integer := 0;
BEGIN
    FOR v_column IN
        SELECT a.attname, a.atttypid::regtype::text AS type
        FROM pg_attribute AS a
        WHERE a.attrelid = p_table::regclass AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        -- A rule of everybody, or of each, is about others too, and would rightly refuse them.
        CONTINUE WHEN p_table IN ('aggregator_budgets', 'aggregator_rate_limits') AND v_column.attname IN ('user_id', 'each_user');
        FOR v_value IN
            SELECT value FROM jsonb_array_elements(CASE
                WHEN v_column.type IN ('integer', 'bigint', 'smallint') THEN
                    '["9223372036854775807", "-9223372036854775808", "2147483647", "-2147483648", "32767", "-32768", "0", "-1", null]'
                WHEN v_column.type LIKE 'numeric%' THEN
                    jsonb_build_array('NaN', 'Infinity', '-Infinity', '1e130', '-1e130', '1e-16000', repeat('9', 1000), NULL)
                WHEN v_column.type LIKE 'timestamp%' THEN
                    '["infinity", "-infinity", "294276-12-31", "4714-11-24 BC", "1970-01-01", null]'
                WHEN v_column.type = 'text' THEN
                    jsonb_build_array('', repeat('x', 10000000), repeat('[', 100000), E'a\nb', 'NaN',
                        (SELECT string_agg(chr(33 + (random() * 90)::integer), '') FROM generate_series(1, 2600)), NULL)
                WHEN v_column.type = 'jsonb' THEN
                    jsonb_build_array('{}'::jsonb, '[]'::jsonb, '"x"'::jsonb, '1'::jsonb, 'null'::jsonb, NULL,
                        jsonb_build_object('a', repeat('x', 20000000)),
                        '{"model": 1, "messages": {}, "timeout_ms": "x", "models": [1]}'::jsonb,
                        '{"model": "m", "messages": [{"role": "user", "content": 1e1000}], "timeout_ms": 1e100}'::jsonb,
                        '{"x-a": 1, "x-b": null, "x-c": {}}'::jsonb,
                        '{"input": 1e300, "output": 1e-300, "tiers": []}'::jsonb,
                        (repeat('{"a":', 1000) || '1' || repeat('}', 1000))::jsonb)
                WHEN v_column.type = 'boolean' THEN '[true, false, null]'
                WHEN v_column.type = 'uuid' THEN '["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", null]'
                WHEN v_column.type = 'bytea' THEN jsonb_build_array('', repeat('x', 10000000), NULL)
                WHEN v_column.type LIKE '%[]' THEN '["{}", "{NULL}", "{{1,2},{3,4}}", "{2147483647,2147483647}", null]'
            END)
        LOOP
            BEGIN
                EXECUTE 'SELECT ' || p_row INTO v_row USING p_worst, p_standin;
                EXECUTE format('INSERT INTO %I SELECT * FROM jsonb_populate_record(NULL::%I, $1)', p_table, p_table)
                USING v_row || jsonb_build_object(v_column.attname, v_value);
                v_count := v_count + 1;
            EXCEPTION WHEN OTHERS THEN
                -- The table itself does not take it.
                NULL;
            END;
        END LOOP;
    END LOOP;
    RETURN v_count;
END
$fill$"#;

/// Fills every column with the worst that it takes, past every trigger. Says how many rows each table has taken.
async fn fill(root: &Client) -> Vec<(String, usize)> {
    root.batch_execute(
        "INSERT INTO api_providers (name, display_name, provider_type, base_url) VALUES ('worst', 'x', 'direct', 'https://worst.example/v1')",
    )
    .await
    .unwrap();
    root.batch_execute(FILL).await.unwrap();
    let mut filled = vec![];
    for (table, row) in TABLES {
        // Triggers of whatever kind.
        let table_of_rows =
            if *table == "aggregator_usage_logs" { "aggregator_usage_logs_default" } else { table };
        root.batch_execute(&format!("ALTER TABLE {table} DISABLE TRIGGER ALL; ALTER TABLE {table_of_rows} DISABLE TRIGGER ALL"))
            .await
            .unwrap();
        let row = row.replace("worst,", "$1,").replace("standin,", "$2,");
        let count = value(
            root,
            &format!(
                "SELECT pg_temp.fill('{table}', {}, (SELECT id FROM api_providers WHERE name = 'worst'),
                    (SELECT id FROM api_providers WHERE name = 'standin'))",
                bed::quoted(&row)
            ),
        )
        .await;
        filled.push(((*table).to_owned(), count.unwrap().parse().unwrap()));
    }
    // The very sums to which others' calls are added.
    for table in ["aggregator_usage_hourly", "aggregator_usage_totals"] {
        let columns = format!(
            "SELECT string_agg(format('%I = %L', attname, CASE atttypid WHEN 'numeric'::regtype THEN 'NaN' ELSE '9223372036854775807' END), ', ')
             FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND atttypid IN ('bigint'::regtype, 'numeric'::regtype)"
        );
        let set = value(root, &columns).await.unwrap();
        root.batch_execute(&format!("UPDATE {table} SET {set} WHERE model_id = 'm'"))
            .await
            .unwrap();
    }
    filled
}

async fn rearm(root: &Client) {
    for (table, _) in TABLES {
        root.batch_execute(&format!("ALTER TABLE {table} ENABLE TRIGGER ALL")).await.unwrap();
    }
    root.batch_execute("ALTER TABLE aggregator_usage_logs_default ENABLE TRIGGER ALL")
        .await
        .unwrap();
}

#[tokio::test]
async fn no_content_of_a_table_keeps_the_worker_from_starting_and_serving_others() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("worst", "aggregator.job_max_attempts = 2");
    cluster.supabase_roles().await;
    let database: Database<'_> = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    // Rows of the distant past, too.
    bed::nodes::bring_back(&root).await;
    let other = user(&database, "u-2").await;
    value(&other, &chat_sql("{}")).await.unwrap();
    // The same user has a key, so that their jobs are resolved.
    user(&database, "u-worst").await;
    end_worker(&root).await;
    let filled = fill(&root).await;
    for (table, count) in &filled {
        assert!(*count >= 12, "{filled:?}: {table}");
    }
    rearm(&root).await;
    let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let answer = bed::json(&other, &chat_sql("{}")).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    let job = value(&other, &format!("SELECT chat_submit('m', '{HELLO}')")).await.unwrap();
    assert_eq!(ended(&other, &job).await, "succeeded|hello|1");
    let streamed = format!("SELECT count(*) FROM chat_stream('m', '{HELLO}')");
    value(&other, &streamed).await.unwrap();
    let own =
        "SELECT count(*) FROM aggregator_usage_logs WHERE user_id = 'u-2' AND status = 'success'";
    eventually(&root, own, "4").await;
    // Nothing of the past is pending, but for what is set aside.
    let pending = "SELECT count(*) FROM aggregator_usage_logs AS log
         WHERE status = 'pending' AND epoch <> (SELECT max(epoch) FROM aggregator_worker_epochs)
           AND NOT EXISTS (SELECT FROM aggregator_quarantine AS q WHERE (q.call_id, q.attempt, q.created_at) = (log.call_id, log.attempt, log.created_at))";
    assert_eq!(value(&root, pending).await.unwrap(), "0");
    // Every job that is due has been taken, or has failed.
    let due = "SELECT count(*) FROM aggregator_jobs WHERE status = 'queued' AND run_after <= now() AND attempts < 1";
    eventually_within(5 * PATIENCE, &root, due, "0").await;
    // Through the rounds that come every ten seconds.
    tokio::time::sleep(Duration::from_secs(12)).await;
    value(&other, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap(), pid);
}

/// Two rows that a dead worker left pending, of which one cannot be added to the sums.
async fn leave_pending(root: &Client) {
    root.batch_execute(
        "ALTER TABLE aggregator_usage_logs DISABLE TRIGGER ALL;
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
         SELECT gen_random_uuid(), 1, now(), 1, id, user_id, model_id
         FROM api_providers, (VALUES
             ('u-1', 'm'),
             -- Fits the log, and not the index of the sums.
             ((SELECT string_agg(chr(33 + (random() * 90)::integer), '') FROM generate_series(1, 2670)),
              (SELECT string_agg(chr(33 + (random() * 90)::integer), '') FROM generate_series(1, 500)))) AS call (user_id, model_id)
         WHERE name = 'standin';
         INSERT INTO aggregator_worker_epochs (epoch, low_water) VALUES (1, '2020-01-01');
         ALTER TABLE aggregator_usage_logs ENABLE TRIGGER ALL",
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_summed_is_set_aside_and_tried_again_when_somebody_asks() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = prepare(&database, &upstream).await;
    end_worker(&root).await;
    leave_pending(&root).await;
    assert_eq!(rows(&root, "SELECT quarantined FROM aggregator_status()").await, ["1"]);
    let log = "SELECT left(user_id, 3), status FROM aggregator_usage_logs ORDER BY status, 1";
    let all = rows(&root, log).await;
    assert!(all.len() == 2 && all[0].ends_with("|pending") && all[1] == "u-1|unknown", "{all:?}");
    let kept = rows(
        &root,
        "SELECT tries, reason ~ 'index', settlement, retry_at FROM aggregator_quarantine",
    )
    .await;
    assert_eq!(kept, ["1|t|∅|∅"]);
    value(&root, &chat_sql("{}")).await.unwrap();
    // In vain, as long as nothing is mended.
    assert_eq!(value(&root, "SELECT aggregator_retry_quarantined()").await.unwrap(), "1");
    eventually(&root, "SELECT tries FROM aggregator_quarantine", "2").await;
    // The next worker does not stumble over it, either.
    end_worker(&root).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    root.batch_execute(
        "UPDATE aggregator_usage_logs SET user_id = 'u-mended' WHERE length(user_id) > 1000 AND created_at >= aggregator_archived_until()",
    )
    .await
    .unwrap();
    value(&root, "SELECT aggregator_retry_quarantined()").await;
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "0").await;
    assert_eq!(
        rows(
            &root,
            "SELECT status, requests FROM aggregator_usage_hourly WHERE user_id = 'u-mended'"
        )
        .await,
        ["unknown|1"]
    );
    // Others neither see such rows nor ask for them.
    let stranger = database.rest("authenticated", Some("u-1")).await;
    assert_eq!(failure(&stranger, "SELECT * FROM aggregator_quarantine").await.0, "42501");
    assert_eq!(failure(&stranger, "SELECT aggregator_retry_quarantined()").await.0, "42501");
}

#[tokio::test]
async fn a_settlement_that_cannot_be_written_is_set_aside_with_what_is_known_and_holds_up_nobody() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = prepare(&database, &upstream).await;
    let (one, other) = (user(&database, "u-1").await, user(&database, "u-2").await);
    // Something about one user's sums that no settlement can pass.
    root.batch_execute(
        "ALTER TABLE aggregator_usage_hourly ADD CONSTRAINT broken CHECK (user_id <> 'u-1')",
    )
    .await
    .unwrap();
    // The answer was paid for, and arrives.
    let answer = bed::json(&one, &chat_sql("{}")).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "1").await;
    // One that waits for its settlement in vain takes three seconds, each time.
    let mut took = vec![];
    while took.last().is_none_or(|took| *took >= Duration::from_secs(2)) {
        assert!(took.len() < 5, "{took:?}");
        let began = Instant::now();
        value(&other, &chat_sql("{}")).await.unwrap();
        took.push(began.elapsed());
    }
    let kept = "SELECT user_id, tries, settlement::jsonb ->> 'outcome', settlement::jsonb #>> '{usage,parts,output}' FROM aggregator_quarantine";
    assert_eq!(rows(&root, kept).await, ["u-1|5|Success|5"]);
    // The worker may leave, and another one has it tried again.
    end_worker(&root).await;
    root.batch_execute("ALTER TABLE aggregator_usage_hourly DROP CONSTRAINT broken").await.unwrap();
    assert_eq!(value(&root, "SELECT aggregator_retry_quarantined()").await.unwrap(), "1");
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "0").await;
    let settled = "SELECT status, total_tokens, cost_estimate FROM aggregator_usage_logs WHERE user_id = 'u-1'";
    assert_eq!(rows(&root, settled).await, ["success|15|0.00007"]);
    assert_eq!(
        value(&root, "SELECT requests FROM aggregator_usage_hourly WHERE user_id = 'u-1'")
            .await
            .unwrap(),
        "1"
    );
}

#[tokio::test]
async fn a_forgotten_user_is_forgotten_among_what_is_set_aside() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = prepare(&database, &upstream).await;
    let one = user(&database, "u-1").await;
    root.batch_execute(
        "ALTER TABLE aggregator_usage_hourly ADD CONSTRAINT broken CHECK (user_id <> 'u-1')",
    )
    .await
    .unwrap();
    value(&one, &chat_sql("{}")).await.unwrap();
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "1").await;
    root.batch_execute("ALTER TABLE aggregator_usage_hourly DROP CONSTRAINT broken").await.unwrap();
    value(&root, "SELECT forget_user('u-1')").await;
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_quarantine AS q WHERE q::text ~ 'u-1'")
            .await
            .unwrap(),
        "0"
    );
    // What is set aside only now, of a call from before, and a reason that names whom it is about.
    root.batch_execute(
        "SELECT aggregator_set_aside(call_id, attempt, created_at, 'u-1', 'no row of u-1', 1, '{\"user\": \"u-1\"}')
         FROM aggregator_usage_logs WHERE status = 'pending'",
    )
    .await
    .unwrap();
    let left = "SELECT count(*), count(*) FILTER (WHERE q::text ~ 'u-1'), bool_and(q.reason ~ '^no row of forgotten:'),
        bool_and(log.user_id = q.user_id)
        FROM aggregator_quarantine AS q JOIN aggregator_usage_logs AS log USING (call_id, attempt, created_at)";
    assert_eq!(rows(&root, left).await, ["1|0|t|t"]);
    value(&root, "SELECT aggregator_retry_quarantined()").await;
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "0").await;
    assert_eq!(
        value(
            &root,
            "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending' OR user_id = 'u-1'"
        )
        .await
        .unwrap(),
        "0"
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_removed_does_not_keep_all_others() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("worstold", "aggregator.usage_retention = '1h'");
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    let copy = |user: &str| {
        format!(
            "INSERT INTO aggregator_usage_logs
             SELECT (jsonb_populate_record(NULL::aggregator_usage_logs, to_jsonb(log)
                 || jsonb_build_object('call_id', gen_random_uuid(), 'created_at', now() - interval '2 days', 'user_id', '{user}'))).*
             FROM aggregator_usage_logs AS log WHERE user_id = 'role:postgres'"
        )
    };
    root.batch_execute(&copy("u-1")).await.unwrap();
    root.batch_execute(&copy("u-2")).await.unwrap();
    root.batch_execute(
        "ALTER TABLE aggregator_usage_hourly ADD CONSTRAINT broken CHECK (user_id <> 'u-1' OR requests > 0)",
    )
    .await
    .unwrap();
    value(&root, "SELECT deleted FROM maintain_usage()").await;
    let left = "SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM aggregator_usage_logs";
    assert_eq!(value(&root, left).await.unwrap(), "role:postgres u-1");
    let kept = "SELECT user_id, reason ~ '^it cannot be removed' FROM aggregator_quarantine";
    assert_eq!(rows(&root, kept).await, ["u-1|t"]);
    root.batch_execute("ALTER TABLE aggregator_usage_hourly DROP CONSTRAINT broken").await.unwrap();
    value(&root, "SELECT aggregator_retry_quarantined()").await;
    eventually(&root, "SELECT quarantined FROM aggregator_status()", "0").await;
    value(&root, "SELECT deleted FROM maintain_usage()").await;
    assert_eq!(value(&root, left).await.unwrap(), "role:postgres");
}

#[tokio::test]
async fn one_user_cannot_have_a_name_that_fits_no_index() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = prepare(&database, &upstream).await;
    let long = "x".repeat(2300);
    let client = database.rest("authenticated", Some(&long)).await;
    for sql in [
        chat_sql("{}"),
        "SELECT save_provider_key('standin', 'sk-good', p_validate => false)".to_owned(),
    ] {
        let (code, text) = failure(&client, &sql).await;
        assert!(matches!(code.as_str(), "PT400" | "PT403") && text.len() < 600, "{code} {text}");
    }
    // Nor an administrator in their name, nor a model.
    for sql in [
        format!("SELECT chat_complete('m', '{HELLO}', p_user_id => repeat('x', 256))"),
        format!("SELECT chat_complete(repeat('x', 256), '{HELLO}', provider => 'standin')"),
        "SELECT save_provider_key('standin', 'sk-good', repeat('x', 256), false)".to_owned(),
    ] {
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{sql}");
    }
    let fits = database.rest("authenticated", Some(&"é".repeat(127))).await;
    save_key(&fits, "standin", "sk-good-0123456789abcdef").await;
    value(
        &fits,
        &format!("SELECT chat_complete(repeat('x', 255), '{HELLO}', provider => 'standin')"),
    )
    .await
    .unwrap();
    let settled = "SELECT count(*) FROM aggregator_usage_hourly WHERE octet_length(user_id) = 254";
    eventually(&root, settled, "1").await;
}
