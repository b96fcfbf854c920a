//! The sums that the reports read, and the reports.

use crate::bed::{self, Cluster, Database, eventually, nodes, rows, value};
use crate::fixtures::{HELLO, add_named, save_key};
use crate::upstream::{Answer, Gate, Piece, Upstream};
use std::time::Duration;
use tokio_postgres::Client;

/// Every sum of the rollup, and what the ledger gives for it: two lists that must be the same.
async fn sums(root: &Client) -> (Vec<String>, Vec<String>) {
    let kept = "SELECT hour, user_id, provider_id, model_id, status, requests, unreachable, priced, unpriced,
            prompt_tokens, completion_tokens, total_tokens, cache_read_tokens, cache_write_tokens,
            cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens,
            timed, latency_ms_sum, first_tokens, first_token_ms_sum,
            budget_requests, budget_tokens, trim_scale(cost), trim_scale(budget_cost), latency, own_requests
        FROM aggregator_usage_hourly ORDER BY 1, 2, 3, 4, 5";
    // Written down once more, by other means where there are any.
    let raw = "SELECT date_bin('1 hour', created_at, '2000-01-01 00:00+00'), user_id, provider_id,
            CASE WHEN is_listed OR is_listed IS NULL THEN model_id ELSE '(unlisted)' END, status,
            count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            count(*) FILTER (WHERE error_code = 'unreachable'),
            count(cost_estimate) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            count(*) FILTER (WHERE cost_estimate IS NULL AND error_code IS DISTINCT FROM 'unreachable'),
            coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0),
            coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
            coalesce(sum(cache_write_1h_tokens), 0), coalesce(sum(audio_input_tokens), 0),
            coalesce(sum(reasoning_tokens), 0), coalesce(sum(audio_output_tokens), 0),
            count(latency_ms), coalesce(sum(latency_ms), 0),
            count(time_to_first_token_ms), coalesce(sum(time_to_first_token_ms), 0),
            count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            coalesce(sum(CASE
                WHEN total_tokens IS NULL THEN CASE WHEN cost_source = 'computed' THEN 0 ELSE coalesce(reserved_tokens, 0) END
                WHEN metadata IS NULL THEN total_tokens
                WHEN reserved_tokens > total_tokens THEN reserved_tokens
                ELSE total_tokens END), 0),
            trim_scale(coalesce(sum(cost_estimate), 0)),
            trim_scale(coalesce(sum(CASE
                WHEN cost_source IN ('upstream', 'computed') THEN cost_estimate
                WHEN reserved_cost IS NULL OR cost_estimate > reserved_cost THEN coalesce(cost_estimate, 0)
                ELSE reserved_cost END), 0)),
            (SELECT array_agg(coalesce(n, 0)::int ORDER BY i)
             FROM generate_series(0, 23) AS i
             LEFT JOIN (
                 SELECT width_bucket(l, aggregator_latency_bounds()) AS i, count(*) AS n
                 FROM unnest(array_agg(log.latency_ms)) AS l WHERE l IS NOT NULL GROUP BY 1
             ) AS counted USING (i)),
            count(*) FILTER (WHERE NOT is_platform_key AND error_code IS DISTINCT FROM 'unreachable')
        FROM aggregator_usage_logs AS log WHERE status <> 'pending'
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5";
    (rows(root, kept).await, rows(root, raw).await)
}

/// The sums of all users, from the sums of each, must be those that are kept.
async fn totals(root: &Client) -> (Vec<String>, Vec<String>) {
    let measures = "sum(requests), sum(unreachable), sum(priced), sum(unpriced), sum(prompt_tokens), sum(completion_tokens),
        sum(total_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(cache_write_1h_tokens),
        sum(audio_input_tokens), sum(reasoning_tokens), sum(audio_output_tokens), sum(timed), sum(latency_ms_sum),
        sum(first_tokens), sum(first_token_ms_sum), sum(budget_requests), sum(budget_tokens),
        trim_scale(sum(cost)), trim_scale(sum(budget_cost)), aggregator_sum_histograms(latency),
        sum(own_requests), sum(own_tokens), trim_scale(sum(own_cost))";
    let kept = format!(
        "SELECT grain, start, provider_id, model_id, status, {measures} FROM aggregator_usage_totals GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    );
    let summed = format!(
        "SELECT grain, date_trunc(grain, hour, 'UTC'), provider_id, model_id, status, {measures}
         FROM aggregator_usage_hourly CROSS JOIN unnest('{{hour,day}}'::text[]) AS grain
         GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    );
    (rows(root, &kept).await, rows(root, &summed).await)
}

/// The sums of gateway keys and tags, and what the ledger gives for them.
async fn labels(root: &Client) -> (Vec<String>, Vec<String>) {
    let kept = "SELECT kind, label, hour, user_id, provider_id, model_id, status, requests, unreachable, priced, unpriced,
            prompt_tokens, completion_tokens, total_tokens, budget_requests, budget_tokens, trim_scale(cost),
            trim_scale(budget_cost), own_requests, own_tokens, trim_scale(own_cost)
        FROM aggregator_usage_labels ORDER BY 1, 2, 3, 4, 5, 6, 7";
    let raw = "SELECT kind, label, date_bin('1 hour', created_at, '2000-01-01 00:00+00'), user_id, log.provider_id,
            CASE WHEN is_listed OR is_listed IS NULL THEN log.model_id ELSE '(unlisted)' END, status,
            count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            count(*) FILTER (WHERE error_code = 'unreachable'),
            count(cost_estimate) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            count(*) FILTER (WHERE cost_estimate IS NULL AND error_code IS DISTINCT FROM 'unreachable'),
            coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0),
            count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            sum(counted.tokens), trim_scale(coalesce(sum(cost_estimate), 0)), trim_scale(sum(counted.cost)),
            count(*) FILTER (WHERE NOT is_platform_key AND error_code IS DISTINCT FROM 'unreachable'),
            coalesce(sum(counted.tokens) FILTER (WHERE NOT is_platform_key), 0),
            trim_scale(coalesce(sum(counted.cost) FILTER (WHERE NOT is_platform_key), 0))
        FROM aggregator_usage_logs AS log, aggregator_counted(log) AS counted,
            (VALUES ('key'), ('tag')) AS kinds (kind),
            LATERAL (SELECT DISTINCT unnest(CASE kind WHEN 'key' THEN ARRAY[gateway_key_id::text] ELSE tags END)) AS l (label)
        WHERE status <> 'pending' AND label IS NOT NULL
        GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7";
    (rows(root, kept).await, rows(root, raw).await)
}

/// The sums equal the ledger, at one moment of both. Returns how many there are.
pub async fn assert_equal(root: &Client, when: &str) -> usize {
    root.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.unwrap();
    let (kept, raw) = sums(root).await;
    assert_eq!(kept, raw, "{when}");
    let (kept_labels, raw) = labels(root).await;
    assert_eq!(kept_labels, raw, "{when}: keys and tags");
    let (kept_totals, summed) = totals(root).await;
    assert_eq!(kept_totals, summed, "{when}");
    root.batch_execute("COMMIT").await.unwrap();
    kept.len()
}

const SILENT: &str = r#"{"id":"x","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}"#;
const DETAILED: &str = r#"{"prompt_tokens":1000,"completion_tokens":500,"total_tokens":1500,"cost":0.0123,"prompt_tokens_details":{"cached_tokens":800},"completion_tokens_details":{"reasoning_tokens":100}}"#;

/// An upstream whose answer depends on the prompt.
async fn moody() -> Upstream {
    Upstream::start(|seen| {
        let body = &seen.body;
        match () {
            () if body.contains("slow") => Answer::Stall,
            () if body.contains("broken") => {
                Answer::json(400, r#"{"error":{"message":"no","code":"bad"}}"#)
            }
            () if body.contains("silent") => Answer::json(200, SILENT),
            () if body.contains("detailed") => Answer::says("hello", DETAILED),
            () if body.contains("counted") => {
                Answer::streams(&["he", "llo"], Duration::from_millis(1), Some(DETAILED))
            }
            () if body.contains("uncounted") => {
                Answer::streams(&["he", "llo"], Duration::from_millis(1), None)
            }
            () if body.contains("stalled") => {
                Answer::Stream(vec![Piece::role(), Piece::text("he"), Piece::Stall])
            }
            () => Answer::hello(),
        }
    })
    .await
}

/// One call of a random kind; whether it fails does not matter.
async fn call(client: &Client, random: &mut fastrand::Rng) {
    let model = random.choice(["m", "m", "other", "standin:unheard-of"]).unwrap();
    let mood = random
        .choice([
            "plain",
            "plain",
            "slow",
            "broken",
            "silent",
            "detailed",
            "counted",
            "uncounted",
            "stalled",
            "nowhere",
        ])
        .unwrap();
    let messages = format!(r#"[{{"role":"user","content":"{mood}"}}]"#);
    let tags = random.choice(["[]", r#"["a"]"#, r#"["a", "b c", "a"]"#]).unwrap();
    let sql = match mood {
        // Cancelled by the server, and by the deadline.
        "slow" if random.bool() => format!(
            "SET statement_timeout = 150; SELECT chat_complete('{model}', '{messages}', '{{\"timeout_ms\": 100000, \"tags\": {tags}}}')"
        ),
        "slow" => {
            format!(
                "SELECT chat_complete('{model}', '{messages}', '{{\"timeout_ms\": 50, \"tags\": {tags}}}')"
            )
        }
        "counted" | "uncounted" => {
            format!(
                "SELECT count(*) FROM chat_stream('{model}', '{messages}', '{{\"tags\": {tags}}}')"
            )
        }
        // A stream that is left after its first piece.
        "stalled" => format!(
            "SELECT (t).delta FROM (SELECT chat_stream('{model}', '{messages}', '{{\"tags\": {tags}}}') AS t) AS s LIMIT 1"
        ),
        "nowhere" => {
            format!(
                "SELECT chat_complete('nowhere:m', '{messages}', '{{\"max_retries\": 0, \"tags\": {tags}}}')"
            )
        }
        _ => {
            format!("SELECT chat_complete('{model}', '{messages}', '{{\"tags\": {tags}}}')")
        }
    };
    let _ = client.simple_query(&sql).await;
    client.simple_query("RESET statement_timeout").await.expect("the session goes on");
}

/// Providers, and a session for each of some users with their keys.
async fn sessions(database: &Database<'_>, upstream: &Upstream) -> (Client, Vec<Client>) {
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m", "other"]).await;
    add_named(&root, "nowhere", "openai", "http://127.0.0.1:9", &["m"]).await;
    root.batch_execute("UPDATE aggregator_models SET pricing = '{}' WHERE model_id = 'other'")
        .await
        .unwrap();
    let mut users = vec![];
    for name in ["ann", "ben", "cat", "dan"] {
        let user = database.root().await;
        user.batch_execute(&format!("SET aggregator.user_id = '{name}'")).await.unwrap();
        save_key(&user, "standin", "sk-good-reports").await;
        save_key(&user, "nowhere", "sk-good-reports").await;
        users.push(user);
    }
    (root, users)
}

/// So many random calls of each user, all users at once.
async fn traffic(users: &[Client], calls: usize, seed: u64) {
    let running = users.iter().enumerate().map(|(i, user)| async move {
        let mut random = fastrand::Rng::with_seed(seed + i as u64);
        for _ in 0..calls {
            call(user, &mut random).await;
        }
    });
    futures(running).await;
}

/// Runs futures side by side.
async fn futures(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

const PENDING: &str = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";

#[tokio::test]
async fn the_sums_equal_the_ledger_after_random_traffic() {
    let upstream = moody().await;
    let cluster = Cluster::start("sums", "");
    let database = cluster.database().await;
    let (root, users) = sessions(&database, &upstream).await;
    nodes::bring_back(&root).await;
    traffic(&users, 60, 7).await;
    eventually(&root, PENDING, "0").await;
    assert!(assert_equal(&root, "after traffic").await > 20);
    // It was traffic of every kind.
    assert_eq!(
        rows(&root, "SELECT status, bool_or(unreachable > 0), bool_or(unpriced > 0), bool_or(first_tokens > 0), sum(requests) > 3
                     FROM aggregator_usage_hourly GROUP BY 1 ORDER BY 1").await,
        ["cancelled|f|t|t|t", "error|t|t|f|t", "success|f|t|t|t"]
    );

    // A user is forgotten, while others go on.
    let (_, forgotten) =
        tokio::join!(traffic(&users[1..], 15, 70), value(&root, "SELECT forget_user('ann') > 0"));
    assert_eq!(forgotten.as_deref(), Some("t"));
    eventually(&root, PENDING, "0").await;
    assert_equal(&root, "after forgetting").await;
    assert_eq!(
        rows(&root, "SELECT count(*) FILTER (WHERE user_id = 'ann'), count(*) FILTER (WHERE user_id LIKE 'forgotten:%') > 5 FROM aggregator_usage_hourly").await,
        ["0|t"]
    );

    // Rows that are changed, written and deleted by hand, many at once.
    for sql in [
        "UPDATE aggregator_usage_logs SET cost_estimate = 0.5, cost_source = 'computed' WHERE cost_estimate IS NULL AND user_id = 'ben'",
        "UPDATE aggregator_usage_logs SET reserved_cost = 1.25, reserved_tokens = 5000",
        "UPDATE aggregator_usage_logs SET model_id = 'renamed', latency_ms = latency_ms * 10 WHERE user_id = 'cat'",
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, latency_ms, total_tokens)
         SELECT gen_random_uuid(), 1, now() - i * interval '7 minutes', 1, gen_random_uuid(), 'u' || i % 3, 'm', 'success', i, i FROM generate_series(1, 9000) AS i",
        "DELETE FROM aggregator_usage_logs WHERE user_id IN ('u1', 'dan')",
        "UPDATE aggregator_usage_logs SET gateway_key_id = ('00000000-0000-4000-8000-00000000000' || latency_ms % 2)::uuid,
            tags = tags || '{z,z,NULL}' WHERE latency_ms % 3 = 0",
        "UPDATE aggregator_usage_logs SET tags = NULL WHERE latency_ms % 4 = 0",
        "UPDATE aggregator_usage_logs SET gateway_key_id = NULL WHERE latency_ms % 5 = 0",
        "SELECT aggregator_recount_usage()",
        "SELECT aggregator_recount_usage(now() - interval '3 days', now() - interval '1 day')",
    ] {
        root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", bed::shown(&e)));
        assert!(assert_equal(&root, sql).await > 10);
    }
    // Undone with the statement that did it.
    root.batch_execute("BEGIN; DELETE FROM aggregator_usage_logs; ROLLBACK").await.unwrap();
    assert!(assert_equal(&root, "after a rollback").await > 10);
    root.batch_execute("TRUNCATE aggregator_usage_logs").await.unwrap();
    assert_eq!(assert_equal(&root, "after TRUNCATE").await, 0);
    traffic(&users[1..2], 10, 700).await;
    eventually(&root, PENDING, "0").await;
    assert!(assert_equal(&root, "after all").await > 0);
}

#[tokio::test]
async fn the_sums_equal_the_ledger_after_a_crash() {
    let upstream = moody().await;
    let cluster = Cluster::start("sumscrash", "");
    let database = cluster.database().await;
    let (root, users) = sessions(&database, &upstream).await;
    traffic(&users, 5, 3).await;
    let stuck = cluster.connect("postgres", &database.name).await;
    stuck.batch_execute("SET aggregator.user_id = 'ann'").await.unwrap();
    let call = tokio::spawn(async move {
        let _ = stuck
            .simple_query(r#"SELECT chat_complete('m', '[{"role":"user","content":"slow"}]', '{"tags": ["x"]}')"#)
            .await;
    });
    eventually(&root, PENDING, "1").await;
    // As a budget will have it.
    root.batch_execute(
        "UPDATE aggregator_usage_logs SET reserved_cost = 0.75, reserved_tokens = 900
         WHERE status = 'pending' AND created_at >= aggregator_archived_until()",
    )
    .await
    .unwrap();
    assert_equal(&root, "while one is pending").await;
    // The worker first: it might see its session go, and settle the call as cancelled.
    let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    bed::run(bed::as_server("kill").args(["-9", &pid]));
    cluster.down("immediate");
    call.await.unwrap();
    cluster.up();
    let root = cluster.connect("postgres", &database.name).await;
    value(&root, "SELECT version FROM aggregator_status()").await.unwrap();
    eventually(&root, PENDING, "0").await;
    assert_equal(&root, "after the crash").await;
    assert_eq!(
        rows(&root, "SELECT requests, unpriced, cost, budget_cost, budget_tokens, timed FROM aggregator_usage_hourly WHERE status = 'unknown'").await,
        ["1|1|0|0.75|900|0"]
    );
    assert_eq!(
        rows(&root, "SELECT label, requests, budget_cost, budget_tokens FROM aggregator_usage_labels WHERE status = 'unknown'").await,
        ["x|1|0.75|900"]
    );
}

#[tokio::test]
async fn the_sums_equal_the_ledger_when_rows_are_settled_late() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let cluster = Cluster::start("sumslate", "aggregator.ledger_sync = off");
    let database = cluster.database().await;
    let (root, users) = sessions(&database, &upstream).await;
    // Nobody can write the sums while the answers arrive.
    let locker = database.root().await;
    let (locked, ()) = tokio::join!(
        async {
            eventually(&root, PENDING, "4").await;
            locker
                .batch_execute("BEGIN; LOCK TABLE aggregator_usage_hourly IN EXCLUSIVE MODE")
                .await
                .unwrap();
            gate.open();
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let pending = value(&root, PENDING).await;
            locker.batch_execute("COMMIT").await.unwrap();
            pending
        },
        futures(users.iter().map(|user| async {
            let sql = format!("SELECT chat_complete('standin:m', '{HELLO}')");
            assert!(value(user, &sql).await.is_some());
        }))
    );
    assert_eq!(locked.as_deref(), Some("4"), "a row was settled without its sums");
    eventually(&root, PENDING, "0").await;
    assert_eq!(assert_equal(&root, "after the lock").await, 4);
    traffic(&users, 15, 11).await;
    eventually(&root, PENDING, "0").await;
    assert_equal(&root, "without ledger_sync").await;
}

#[tokio::test]
async fn what_counts_against_a_budget() {
    let database = bed::database().await;
    let root = database.root().await;
    for (row, expected) in [
        // What is certain counts, whatever was reserved.
        ("'success', 'computed', 0.2, 15, 1, 900, NULL, NULL", "0.2|15|1"),
        ("'success', 'upstream', 0.2, NULL, 1, 900, NULL, NULL", "0.2|900|1"),
        // What is not counts the greater.
        ("'success', 'incomplete', 0.2, 15, 1, 900, NULL, '{\"estimated\": true}'", "1|900|1"),
        ("'success', 'incomplete', 2, 1500, 1, 900, NULL, '{\"estimated\": true}'", "2|1500|1"),
        ("'success', 'unpriced', NULL, 15, 1, 900, NULL, NULL", "1|15|1"),
        ("'cancelled', 'incomplete', NULL, NULL, 1, 900, 'cancelled', NULL", "1|900|1"),
        ("'unknown', 'incomplete', NULL, NULL, 1, 900, NULL, NULL", "1|900|1"),
        ("'pending', NULL, NULL, NULL, 1, 900, NULL, NULL", "1|900|1"),
        // Nothing was reserved.
        ("'unknown', 'incomplete', NULL, NULL, NULL, NULL, NULL, NULL", "0|0|1"),
        ("'success', 'incomplete', 0.2, 15, NULL, NULL, NULL, '{\"estimated\": true}'", "0.2|15|1"),
        // What was refused costs nothing, and what never left is no request.
        ("'error', 'computed', 0, NULL, 1, 900, 'bad', NULL", "0|0|1"),
        ("'error', 'computed', 0, NULL, 1, 900, 'unreachable', NULL", "0|0|0"),
    ] {
        let sql = format!(
            "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id,
                status, cost_source, cost_estimate, total_tokens, reserved_cost, reserved_tokens, error_code, metadata)
             VALUES (gen_random_uuid(), 1, now(), 1, gen_random_uuid(), 'u', 'm', {row})
             RETURNING (SELECT concat_ws('|', c.cost, c.tokens, c.requests) FROM aggregator_counted(aggregator_usage_logs) AS c)"
        );
        assert_eq!(value(&root, &sql).await.as_deref(), Some(expected), "{row}");
    }
    assert_equal(&root, "all").await;
}

/// Rows of two users, one at each of some ages.
async fn aged(root: &Client) {
    nodes::bring_back(root).await;
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
            latency_ms, prompt_tokens, completion_tokens, total_tokens, cost_estimate, cost_source, error_code)
         SELECT gen_random_uuid(), 1, now() - age::interval, 1, p.id, who, 'm' || price, status, 100 * n, n, n, CASE WHEN code = 'unreachable' THEN 0 ELSE 2 * n END,
            CASE price WHEN '-' THEN NULL ELSE price::numeric END, CASE price WHEN '-' THEN 'unpriced' ELSE 'computed' END, code
         FROM (VALUES
            (1, '1 minute',   'u-a', '0.25', 'success', NULL, 'openrouter'),
            (2, '23.9 hours', 'u-a', '0.5',  'success', NULL, 'openai'),
            (3, '25 hours',   'u-a', '1',    'success', NULL, 'openai'),
            (4, '167.9 hours','u-a', '-',    'success', NULL, 'openai'),
            (5, '169 hours',  'u-a', '2',    'error', 'bad',  'openai'),
            (6, '719 hours',  'u-a', '4',    'success', NULL, 'openai'),
            (7, '721 hours',  'u-a', '8',    'success', NULL, 'openai'),
            (8, '2 hours',    'u-b', '-',    'success', NULL, 'openai'),
            (9, '2 hours',    'u-b', '0',    'error', 'unreachable', 'openai')
         ) AS v (n, age, who, price, status, code, provider)
         JOIN api_providers AS p ON p.name = v.provider",
    )
    .await
    .unwrap();
    if nodes::wanted() {
        nodes::distribute(root).await;
    }
}

#[tokio::test]
async fn reports_say_what_the_ledger_says() {
    let database = bed::database().await;
    let root = database.root().await;
    aged(&root).await;
    const COLUMNS: &str =
        "total_tokens, total_cost, requests, errors, trim_scale(avg_latency_ms), unpriced_requests";
    for (arguments, expected) in [
        ("'day', NULL, 'u-a'", "6|0.75|2|0|150|0"),
        ("'week', NULL, 'u-a'", "20|1.75|4|0|250|1"),
        ("'month', NULL, 'u-a'", "42|7.75|6|1|320|1"),
        ("'month', 'openrouter', 'u-a'", "2|0.25|1|0|100|0"),
        // Only unpriced requests: the cost is unknown. Unreachable: not a request.
        ("'day', NULL, 'u-b'", "16|∅|1|0|800|1"),
        ("'day', NULL, 'nobody'", "0|0|0|0|∅|0"),
        // All users.
        ("'day'", "22|0.75|3|0|366.7|1"),
        ("'week'", "36|1.75|5|0|360|2"),
        ("'month', 'openai'", "56|7.5|6|1|460|2"),
    ] {
        let sql = format!("SELECT {COLUMNS} FROM usage_summary({arguments})");
        assert_eq!(rows(&root, &sql).await, [expected], "{arguments}");
        // The parts give the whole, however they are cut.
        for (function, sum) in [
            ("usage_over_time", "sum(tokens), sum(cost), sum(requests), sum(unpriced_requests)"),
            (
                "usage_by_model",
                "coalesce(sum(total_tokens), 0), sum(cost), coalesce(sum(requests), 0), coalesce(sum(unpriced_requests), 0)",
            ),
        ] {
            let whole = value(&root, &format!("SELECT concat_ws('|', total_tokens, coalesce(total_cost, 0), requests, unpriced_requests) FROM usage_summary({arguments})")).await;
            let parts = format!(
                "SELECT concat_ws('|', a, trim_scale(coalesce(b, 0)), c, d) FROM (SELECT {sum} FROM {function}({arguments})) AS s (a, b, c, d)"
            );
            let parts = value(&root, &parts).await;
            assert_eq!(parts, whole, "{function}({arguments})");
        }
    }
    assert_eq!(
        rows(&root, "SELECT count(*), min(extract(epoch FROM now() - bucket)) < 3600, sum(requests), count(*) FILTER (WHERE cost = 0) FROM usage_over_time('day', NULL, 'u-a')").await,
        ["25|t|2|23"]
    );
    assert_eq!(rows(&root, "SELECT count(*), count(DISTINCT bucket - date_trunc('day', bucket, 'UTC')) FROM usage_over_time('month')").await, ["31|1"]);
    assert_eq!(
        rows(&root, "SELECT count(*) > 160 FROM usage_over_time('week', NULL, NULL, 'hour')").await,
        ["t"]
    );
    assert_eq!(
        rows(
            &root,
            "SELECT model_id, cost, unpriced_requests FROM usage_by_model('week', NULL, 'u-a')"
        )
        .await,
        ["m1|1|0", "m0.5|0.5|0", "m0.25|0.25|0", "m-|∅|1"]
    );
    assert_eq!(
        rows(&root, "SELECT status, requests, cost FROM usage_by_status('day')").await,
        ["success|3|0.75", "unreachable|1|0"]
    );
    assert_eq!(
        rows(&root, "SELECT user_id, requests, total_tokens, cost, unpriced_requests FROM usage_by_user('day')").await,
        ["u-a|2|6|0.75|0", "u-b|1|16|∅|1"]
    );
    // The histogram's percentile is near the exact one.
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, latency_ms)
         SELECT gen_random_uuid(), 1, now(), 1, gen_random_uuid(), 'slow', 'm', 'success', n FROM generate_series(1, 4000) AS n",
    )
    .await
    .unwrap();
    assert_eq!(
        rows(
            &root,
            "SELECT p95_latency_ms BETWEEN 3700 AND 3900 FROM usage_summary('day', NULL, 'slow')"
        )
        .await,
        ["t"]
    );
    for (sql, code) in [
        ("SELECT usage_summary('year')", "PT400"),
        ("SELECT usage_summary(NULL)", "PT400"),
        ("SELECT usage_over_time('day', NULL, NULL, 'minute')", "PT400"),
        ("SELECT usage_dashboard('1 day')", "PT400"),
        ("SELECT usage_summary('day', 'no-such')", "PT404"),
        ("SELECT usage_summary('day', NULL, '')", "PT400"),
    ] {
        assert_eq!(bed::failure(&root, sql).await.0, code, "{sql}");
    }
}

#[tokio::test]
async fn views_for_charts_say_what_the_ledger_says() {
    let database = bed::database().await;
    let root = database.root().await;
    aged(&root).await;
    let ledger = "SELECT coalesce(p.name, log.provider_id::text), model_id, status, count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable'),
            coalesce(sum(total_tokens), 0), trim_scale(sum(cost_estimate)), round(avg(latency_ms), 1)
        FROM aggregator_usage_logs AS log LEFT JOIN api_providers AS p ON p.id = log.provider_id
        WHERE status <> 'pending' GROUP BY 1, 2, 3, date_trunc('day', log.created_at, 'UTC') ORDER BY 1, 2, 3, 4, 5, 6, 7";
    let days =
        "SELECT provider_name, model_id, status, requests, total_tokens, cost, avg_latency_ms
        FROM aggregator_usage_by_day ORDER BY 1, 2, 3, 4, 5, 6, 7";
    let kept = rows(&root, days).await;
    assert!(kept.len() > 5, "{kept:?}");
    assert_eq!(kept, rows(&root, ledger).await);
    assert_eq!(
        rows(&root, "SELECT sum(requests), sum(total_tokens), sum(cost), sum(unpriced_requests) FROM aggregator_usage_by_hour").await,
        rows(&root, "SELECT sum(requests), sum(total_tokens), sum(cost), sum(unpriced_requests) FROM aggregator_usage_by_day").await
    );
    assert_eq!(
        rows(&root, "SELECT count(*), sum(cost), count(provider_name) FROM aggregator_usage").await,
        rows(&root, "SELECT count(*), sum(cost_estimate), count(*) FROM aggregator_usage_logs")
            .await
    );
    let ann = database.rest("authenticated", Some("u-a")).await;
    for (view, expected) in [("aggregator_usage", "u-a"), ("aggregator_usage_by_hour", "u-a")] {
        assert_eq!(rows(&ann, &format!("SELECT DISTINCT user_id FROM {view}")).await, [expected]);
    }
    assert_eq!(rows(&ann, "SELECT * FROM aggregator_usage_by_day").await.len(), 0);
}

#[tokio::test]
async fn reports_show_users_their_own() {
    let database = bed::database().await;
    let root = database.root().await;
    aged(&root).await;
    let a = database.rest("authenticated", Some("u-a")).await;
    for function in
        ["usage_summary", "usage_over_time", "usage_by_model", "usage_by_status", "usage_dashboard"]
    {
        let mine = format!("SELECT * FROM {function}('month')");
        let as_root = format!("SELECT * FROM {function}('month', NULL, 'u-a')");
        // A page says when it was made, to the minute.
        let (mut own, mut theirs) = (rows(&a, &mine).await, rows(&root, &as_root).await);
        for _ in 0..2 {
            if own == theirs {
                break;
            }
            (own, theirs) = (rows(&a, &mine).await, rows(&root, &as_root).await);
        }
        assert_eq!(own, theirs, "{function}");
        assert_ne!(
            own,
            rows(&root, &format!("SELECT * FROM {function}('month')")).await,
            "{function}"
        );
        assert_eq!(
            bed::failure(&a, &format!("SELECT * FROM {function}('month', NULL, 'u-b')")).await.0,
            "PT403"
        );
        let anon = database.rest("anon", None).await;
        assert_eq!(
            bed::failure(&anon, &format!("SELECT * FROM {function}('month')")).await.0,
            "42501"
        );
    }
    assert_eq!(bed::failure(&a, "SELECT * FROM usage_by_user()").await.0, "42501");
    root.batch_execute("GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO authenticated; GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated").await.unwrap();
    assert_eq!(bed::failure(&a, "SELECT * FROM usage_by_user()").await.0, "PT403");
    assert_eq!(rows(&a, "SELECT DISTINCT user_id FROM aggregator_usage_hourly").await, ["u-a"]);
    assert_eq!(rows(&a, "SELECT DISTINCT user_id FROM aggregator_usage_sums").await, ["u-a"]);
    assert_eq!(rows(&a, "SELECT count(*) FROM aggregator_usage_totals").await, ["0"]);
    for table in ["aggregator_usage_hourly", "aggregator_usage_totals"] {
        assert_eq!(a.execute(&format!("DELETE FROM {table}"), &[]).await.unwrap(), 0);
        assert_eq!(a.execute(&format!("UPDATE {table} SET cost = 0"), &[]).await.unwrap(), 0);
    }
    for sql in [
        "SELECT aggregator_recount_usage()",
        "SELECT aggregator_roll_up(array_agg(l), '{}') FROM aggregator_usage_logs AS l",
    ] {
        assert_eq!(bed::failure(&a, sql).await.0, "42501", "{sql}");
    }
    // An administrator sees all, and each.
    let admin = database.rest("service_role", None).await;
    assert_eq!(rows(&admin, "SELECT requests FROM usage_summary('month')").await, ["7"]);
    assert_eq!(
        rows(&admin, "SELECT requests FROM usage_summary('month', NULL, 'u-b')").await,
        ["1"]
    );
    assert_eq!(rows(&admin, "SELECT user_id FROM usage_by_user('month')").await, ["u-a", "u-b"]);
}

#[tokio::test]
async fn a_day_of_usage_is_the_same_date_in_every_time_zone() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status)
         SELECT gen_random_uuid(), 1, at::timestamptz, 1, id, 'u', 'm', 'success'
         FROM api_providers, unnest('{2026-03-01 00:30+00,2026-03-01 23:30+00}'::text[]) AS at WHERE name = 'openai'",
    )
    .await
    .unwrap();
    for zone in ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"] {
        root.batch_execute(&format!("SET TimeZone = '{zone}'")).await.unwrap();
        let days = "SELECT utc_date, pg_typeof(utc_date), requests, utc_date = (day AT TIME ZONE 'UTC')::date
            FROM aggregator_usage_by_day";
        assert_eq!(rows(&root, days).await, ["2026-03-01|date|2|t"], "{zone}");
    }
}
