//! What one user, or one provider, may try with budgets, rate limits and sums, so that others pay or
//! are refused.

use crate::bed::{self, Database, eventually, failure, nodes, quoted, rows, value};
use crate::fixtures::{HELLO, add_named, add_provider, chat_sql, ready, save_key, user};
use crate::upstream::{Answer, Seen, Upstream};
use tokio_postgres::Client;

/// 100 tokens in and 50 out, at 2 and 10 USD per million: 0.0007 USD.
const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#;
const LARGEST: i64 = i64::MAX;

fn paid() -> Answer {
    Answer::says("paid", USAGE)
}

/// Ends the worker of a database in good order: the next call starts another, which knows no more than
/// the tables say.
async fn new_worker(root: &Client) {
    let pid = value(root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    value(root, &format!("SELECT pg_terminate_backend({pid})")).await;
    eventually(root, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"), "0")
        .await;
}

/// A database whose platform key pays for model `m` of `standin`.
async fn platform(upstream: &Upstream) -> (Database<'static>, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    root.batch_execute("SELECT save_platform_key('standin', 'sk-good-platform-0123')")
        .await
        .unwrap();
    (database, root)
}

/// Calls a model by any name.
fn call(model: &str, options: &str) -> String {
    format!("SELECT chat_complete({}, '{HELLO}', {}, 'standin')", quoted(model), quoted(options))
}

async fn spent(root: &Client) -> f64 {
    let sql = "SELECT spent_usd + reserved_usd FROM aggregator_budget_status";
    value(root, sql).await.unwrap().parse().unwrap()
}

// Sums.

#[tokio::test]
async fn endless_answers_leave_the_ledger_open_to_everybody() {
    let upstream = Upstream::start(|seen: &Seen| match seen.json()["model"].as_str() {
        Some("v/hang") => Answer::Stall,
        _ => paid(),
    })
    .await;
    let (database, root) = ready(&upstream).await;
    add_named(&root, "hangs", "openai", &upstream.base_url(), &["v/hang"]).await;
    let (attacker, other) = (user(&database, "u-a").await, user(&database, "u-b").await);
    save_key(&attacker, "hangs", "sk-good-of-attacker").await;
    value(&root, "SELECT set_budget(1, p_action => 'warn', p_keys => 'all')").await.unwrap();
    for _ in 0..3 {
        let options = format!(r#"{{"max_tokens":{LARGEST},"timeout_ms":300,"max_retries":0}}"#);
        let sql = format!("SELECT chat_complete('v/hang', '{HELLO}', {})", quoted(&options));
        assert_eq!(failure(&attacker, &sql).await.0, "PT504");
    }
    value(&other, &chat_sql("{}")).await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
    assert_eq!(rows(&other, "SELECT * FROM aggregator_budget_status").await.len(), 0);
    assert_eq!(rows(&root, "SELECT * FROM aggregator_budget_status").await.len(), 1);
    new_worker(&root).await;
    value(&other, &chat_sql("{}")).await.unwrap();
}

/// A database of version 0.2.0 may hold them: rows that reserve all there is, left by a dead worker,
/// and sums that are full.
#[tokio::test]
async fn rows_and_sums_that_are_full_keep_nobody_from_being_served() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let other = user(&database, "u-b").await;
    value(&root, "SELECT set_budget(1e6, p_limit_tokens => 9223372036854775807, p_keys => 'all')")
        .await
        .unwrap();
    value(&other, &chat_sql("{}")).await.unwrap();
    new_worker(&root).await;
    root.batch_execute(&format!(
        "INSERT INTO aggregator_worker_epochs (epoch, started_at, low_water) VALUES (1, now() - interval '1 day', now() - interval '1 day');
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id,
            reserved_cost, reserved_tokens)
         SELECT gen_random_uuid(), 1, now(), 1, p.id, who, 'm', usd, {LARGEST}
         FROM api_providers AS p, (VALUES ('u-a', 1e30), ('u-a', 0.01), ('u-b', 'NaN'), ('u-b', 'Infinity')) AS r (who, usd)
         WHERE p.name = 'standin'"
    ))
    .await
    .unwrap();
    for sums in ["aggregator_usage_hourly", "aggregator_usage_totals"] {
        root.batch_execute(&format!(
            "UPDATE {sums} SET requests = {LARGEST}, unreachable = {LARGEST}, priced = {LARGEST},
                unpriced = {LARGEST}, prompt_tokens = {LARGEST}, completion_tokens = {LARGEST},
                total_tokens = {LARGEST}, timed = {LARGEST}, latency_ms_sum = {LARGEST},
                budget_requests = {LARGEST}, budget_tokens = {LARGEST}, own_requests = 0, own_tokens = 0,
                latency = array_fill(2147483647, ARRAY[24])"
        ))
        .await
        .unwrap();
    }
    // What is left by the budget's count is nothing; whom it is not about is served, and settled.
    let status = rows(
        &root,
        "SELECT spent_tokens, left_tokens, spent_requests FROM aggregator_budget_status",
    )
    .await;
    assert_eq!(status, [format!("{LARGEST}|0|{LARGEST}")]);
    assert_eq!(failure(&other, &chat_sql("{}")).await.0, "PT402");
    root.batch_execute("DELETE FROM aggregator_budgets").await.unwrap();
    value(&other, &chat_sql("{}")).await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    let log = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&root, log).await, ["success|3", "unknown|4"]);
    // Summed up anew, four absurd rows count as much as four may.
    value(&root, "SELECT aggregator_recount_usage()").await;
    let counted = "SELECT sum(budget_tokens) < 5 * 2147483648, sum(budget_cost) <= 3e12 + 1 FROM aggregator_usage_hourly";
    assert_eq!(rows(&root, counted).await, ["t|t"]);
}

#[tokio::test]
async fn a_budget_whose_limit_is_no_number_refuses_and_harms_no_other() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let other = user(&database, "u-b").await;
    for action in ["block", "warn"] {
        root.batch_execute(&format!(
            "DELETE FROM aggregator_budgets;
             INSERT INTO aggregator_budgets (user_id, period, limit_usd, action) VALUES ('role:postgres', 'day', 'NaN', '{action}')"
        ))
        .await
        .unwrap();
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT503", "{message}");
        assert!(message.contains("no number"), "{message}");
    }
    assert_eq!(upstream.chat_count(), 0);
    value(&other, &chat_sql("{}")).await.unwrap();
}

// What is counted.

#[tokio::test]
async fn what_was_not_written_to_the_upstream_costs_nothing() {
    // It takes connections and never says a word: TLS does not come about.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = platform(&upstream).await;
    add_named(&root, "silent", "openai", &format!("https://127.0.0.1:{port}/v1"), &["v/silent"])
        .await;
    root.batch_execute(
        "SELECT save_platform_key('silent', 'sk-good-platform-0123');
         UPDATE aggregator_models SET max_output_tokens = 8192;
         SELECT set_budget(0.2), set_budget(0.2, p_each_user => true, p_limit_requests => 100), set_rate_limit(p_tokens_per_minute => 20000)",
    )
    .await
    .unwrap();
    let attacker = database.rest("authenticated", Some("u-a")).await;
    let sql = format!(
        r#"SELECT chat_complete('v/silent', '{HELLO}', '{{"max_tokens":6660000,"timeout_ms":300,"max_retries":0}}')"#
    );
    // Four times what would use the budget up, and the minute's tokens. One whose time is over before it has begun
    // leaves no row.
    let begun = "SELECT count(*) >= 10 FROM aggregator_usage_logs WHERE status <> 'pending'";
    while value(&root, begun).await.unwrap() == "f" {
        let (code, message) = failure(&attacker, &sql).await;
        assert_eq!(code, "PT504", "{message}");
    }
    // Cancelled while it waits for the connection.
    let patient = sql.replace("\"timeout_ms\":300", "\"timeout_ms\":60000");
    let canceller = database.canceller(&attacker).await;
    let cancel = async {
        let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
        eventually(&root, pending, "1").await;
        canceller.cancel().await;
    };
    let ((code, _), ()) = tokio::join!(failure(&attacker, &patient), cancel);
    assert_eq!(code, "57014");
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
    let log = "SELECT status, error_code, cost_estimate, cost_source, CASE status WHEN 'error' THEN count(*) >= 10 ELSE count(*) = 1 END
        FROM aggregator_usage_logs GROUP BY 1, 2, 3, 4 ORDER BY 1";
    assert_eq!(
        rows(&root, log).await,
        ["cancelled|unreachable|0|computed|t", "error|unreachable|0|computed|t"]
    );
    let status = "SELECT DISTINCT spent_usd::real, reserved_usd::real, spent_requests, spent_tokens FROM aggregator_budget_status";
    assert_eq!(rows(&root, status).await, ["0|0|0|0"]);
    // Another user is served, by this worker and the next.
    let other = database.rest("authenticated", Some("u-b")).await;
    value(&other, &chat_sql(r#"{"max_tokens": 8192}"#)).await.unwrap();
    new_worker(&root).await;
    value(&other, &chat_sql(r#"{"max_tokens": 8192}"#)).await.unwrap();
}

#[tokio::test]
async fn a_made_up_key_of_ones_own_burns_no_budget_of_the_platform() {
    let upstream = Upstream::raw(|seen: &Seen| {
        match seen.header("authorization").is_some_and(|key| key.contains("made-up")) {
            true => Answer::Stall,
            false => paid(),
        }
    })
    .await;
    let (database, root) = platform(&upstream).await;
    value(&root, "SELECT set_budget(0.01)").await.unwrap();
    value(&root, "SELECT set_budget(0.05, p_each_user => true)").await.unwrap();
    let attacker = database.rest("authenticated", Some("u-a")).await;
    save_key(&attacker, "standin", "sk-made-up-0123456789").await;
    // Each reserves 0.01 USD, and is sent: one whose time is over before it was costs nothing.
    let sql = chat_sql(r#"{"max_tokens": 1000, "timeout_ms": 300, "max_retries": 0}"#);
    let is_sent = "SELECT count(*) FILTER (WHERE error_code IS DISTINCT FROM 'unreachable') FROM aggregator_usage_logs";
    while value(&root, is_sent).await.unwrap() != "4" {
        let (code, message) = failure(&attacker, &sql).await;
        assert_eq!(code, "PT504", "{message}");
        let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
        eventually(&root, pending, "0").await;
    }
    let status = "SELECT keys, user_id, spent_usd > 0.04, spent_requests FROM aggregator_budget_status ORDER BY keys, user_id";
    // The attacker's own count is the attacker's.
    assert_eq!(failure(&attacker, &sql).await.0, "PT402");
    let counted = rows(&root, status).await;
    assert!(counted.contains(&"all|u-a|t|4".to_owned()), "{counted:?}");
    assert!(counted.contains(&"platform|∅|f|0".to_owned()), "{counted:?}");
    let other = database.rest("authenticated", Some("u-b")).await;
    value(&other, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    new_worker(&root).await;
    value(&other, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    assert_eq!(failure(&attacker, &sql).await.0, "PT402", "a new worker counts the same");
    assert!(rows(&root, status).await.contains(&"platform|∅|f|2".to_owned()));
}

#[tokio::test]
async fn a_budget_counts_the_keys_whose_money_it_protects_and_a_new_worker_counts_the_same() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = platform(&upstream).await;
    let own = user(&database, "u-own").await;
    let guest = database.rest("authenticated", Some("u-guest")).await;
    for keys in ["platform", "own", "all"] {
        value(&root, &format!("SELECT set_budget(p_limit_requests => 3, p_keys => '{keys}')"))
            .await;
    }
    let sql = chat_sql(r#"{"max_tokens": 50}"#);
    for client in [&own, &guest, &own] {
        value(client, &sql).await.unwrap();
    }
    let status = "SELECT keys, spent_requests, spent_tokens, spent_usd::real, left_requests FROM aggregator_budget_status ORDER BY keys";
    assert_eq!(
        rows(&root, status).await,
        ["all|3|450|0.0021|0", "own|2|300|0.0014|1", "platform|1|150|0.0007|2"]
    );
    value(&root, "DELETE FROM aggregator_budgets WHERE keys = 'all'").await;
    new_worker(&root).await;
    value(&own, &sql).await.unwrap();
    assert_eq!(failure(&own, &sql).await.0, "PT402");
    value(&guest, &sql).await.unwrap();
    value(&guest, &sql).await.unwrap();
    assert_eq!(failure(&guest, &sql).await.0, "PT402");
    assert_eq!(upstream.chat_count(), 6);
    // Whoever is forgotten takes nothing out of the budgets of all.
    value(&root, "SELECT forget_user('u-own')").await;
    let counted = "SELECT keys, spent_requests FROM aggregator_budget_status ORDER BY keys";
    assert_eq!(rows(&root, counted).await, ["own|3", "platform|3"]);
    // Whose money: for all users the platform's, else that of all keys; set anew, the same as before.
    let keys = async |arguments: &str| {
        let id = value(&root, &format!("SELECT set_budget({arguments})")).await.unwrap();
        value(&root, &format!("SELECT keys FROM aggregator_budgets WHERE id = '{id}'"))
            .await
            .unwrap()
    };
    root.batch_execute("DELETE FROM aggregator_budgets").await.unwrap();
    assert_eq!(keys("1").await, "platform");
    assert_eq!(keys("1, p_each_user => true").await, "all");
    assert_eq!(keys("1, p_user_id => 'u'").await, "all");
    assert_eq!(keys("1, p_period => 'day', p_keys => 'own'").await, "own");
    assert_eq!(keys("2, p_period => 'day'").await, "own");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_budgets").await.unwrap(), "4");
}

// Names of models.

#[tokio::test]
async fn a_rule_for_a_model_is_not_passed_by_another_spelling() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, m, split_part(m, '/', 2), m, '{\"input\": 2, \"output\": 10}'
         FROM api_providers, unnest('{v/ok,v/ok:free,v/other}'::text[]) AS m WHERE name = 'standin'",
    )
    .await
    .unwrap();
    let attacker = user(&database, "u-a").await;
    let spellings = [
        "v/ok",
        "V/OK",
        "v/ok/",
        "/v/ok",
        "v/ok:floor",
        "v/ok:free",
        "ok:nitro",
        "standin:v/ok:nitro",
        "standin:V/Ok",
        "v//ok",
        "v/оk",
        "made-up",
    ];
    for (rule, code) in [
        ("set_budget(p_limit_requests => 1, p_model => 'v/ok', p_keys => 'all')", "PT402"),
        ("set_budget(p_limit_tokens => 500, p_model => 'ok', p_each_user => true)", "PT402"),
        ("set_rate_limit(1, p_model => 'v/ok', p_each_user => true)", "PT429"),
    ] {
        root.batch_execute("DELETE FROM aggregator_budgets; DELETE FROM aggregator_rate_limits")
            .await
            .unwrap();
        root.batch_execute(nodes::DELETE_USAGE).await.unwrap();
        new_worker(&root).await;
        value(&root, &format!("SELECT {rule}")).await.unwrap();
        let before = upstream.chat_count();
        value(&attacker, &call("v/ok", r#"{"max_tokens": 50}"#)).await.unwrap();
        for spelling in spellings {
            let (found, message) =
                failure(&attacker, &call(spelling, r#"{"max_tokens": 400}"#)).await;
            assert_eq!(found, code, "{rule}, {spelling}: {message}");
        }
        // Nor does a new worker forget it.
        new_worker(&root).await;
        assert_eq!(
            failure(&attacker, &call("V/OK", r#"{"max_tokens": 400}"#)).await.0,
            code,
            "{rule}"
        );
        // Another model of the catalogue is another model.
        value(&attacker, &call("v/other", r#"{"max_tokens": 50}"#)).await.unwrap();
        assert_eq!(upstream.chat_count() - before, 2, "{rule}");
    }
}

#[tokio::test]
async fn names_that_hide_a_character_are_no_models() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    let before = value(&root, "SELECT count(*) FROM aggregator_usage_logs").await;
    for hidden in [
        "v/o\u{200b}k",
        "v/ok\u{feff}",
        "v/\u{ad}ok",
        "v/o k",
        "v/ok\u{a0}x",
        "v/\u{202e}ko",
        "v/o\tk",
        "v\u{e0041}/ok",
    ] {
        let name = quoted(hidden);
        let body =
            serde_json::json!({"model": hidden, "messages": [{"role": "user", "content": "hi"}]});
        let body = quoted(&body.to_string());
        for sql in [
            call(hidden, "{}"),
            format!(
                "SELECT chat_complete('m', '{HELLO}', {})",
                quoted(&serde_json::json!({"models": [hidden]}).to_string())
            ),
            format!("SELECT chat('hi', {name})"),
            format!("SELECT chat_completions({body}::jsonb)"),
            format!("SELECT * FROM chat_stream({name}, '{HELLO}')"),
            format!("SELECT chat_submit({name}, '{HELLO}')"),
            format!("SELECT set_budget(1, p_model => {name})"),
            format!("SELECT set_rate_limit(1, p_model => {name})"),
            format!(
                "SELECT * FROM set_model_price({name}, '{{\"input\": 1, \"output\": 1}}', 'standin')"
            ),
            format!("SELECT set_platform_models('standin', ARRAY[{name}])"),
        ] {
            let (code, message) = failure(&root, &sql).await;
            assert_eq!(code, "PT400", "{hidden:?} {sql}: {message}");
        }
        let many =
            format!("SELECT error ->> 'sqlstate' FROM chat_many(jsonb_build_array({body}::jsonb))");
        assert_eq!(value(&root, &many).await.unwrap(), "PT400", "{hidden:?}");
    }
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await, before);
}

#[tokio::test]
async fn the_platforms_key_pays_for_what_is_listed_and_for_nothing_else() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = platform(&upstream).await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, m, split_part(m, '/', 2), m, '{\"input\": 2, \"output\": 10}'
         FROM api_providers, unnest('{v/ok,v/dear}'::text[]) AS m WHERE name = 'standin'",
    )
    .await
    .unwrap();
    let guest = database.rest("authenticated", Some("u-a")).await;
    let models = "SELECT string_agg(model_id, ' ' ORDER BY model_id) FROM get_user_available_models() WHERE model_id IN ('m', 'v/dear', 'v/ok')";
    assert_eq!(value(&guest, models).await.unwrap(), "m v/dear v/ok");
    for unlisted in ["made-up", "V/OK", "v/ok:online", "standin:v/ok:nitro"] {
        let (code, message) = failure(&guest, &call(unlisted, "{}")).await;
        assert_eq!(code, "PT403", "{unlisted}: {message}");
        assert!(message.contains("the platform's key"), "{message}");
    }
    assert_eq!(
        failure(&guest, &format!("SELECT chat_complete('standin:made-up', '{HELLO}')")).await.0,
        "PT403"
    );
    value(&guest, &call("v/dear", "{}")).await.unwrap();
    // An administrator's list.
    assert_eq!(
        failure(&guest, "SELECT set_platform_models('standin', '{v/dear}')").await.0,
        "42501"
    );
    let admin = database.rest("service_role", None).await;
    value(&admin, "SELECT set_platform_models('standin', '{v/ok}')").await;
    assert_eq!(value(&guest, models).await.unwrap(), "v/ok");
    value(&guest, &call("v/ok", "{}")).await.unwrap();
    value(&guest, &format!("SELECT chat_complete('ok', '{HELLO}')")).await.unwrap();
    assert_eq!(failure(&guest, &call("v/dear", "{}")).await.0, "PT403");
    assert_eq!(
        failure(&guest, &format!("SELECT chat_complete('v/dear', '{HELLO}')")).await.0,
        "PT404"
    );
    let fallback =
        format!(r#"SELECT chat_complete('v/dear', '{HELLO}', '{{"models": ["m", "dear"]}}')"#);
    assert_eq!(failure(&guest, &fallback).await.0, "PT404");
    assert_eq!(
        failure(&guest, &format!("SELECT chat_submit('v/dear', '{HELLO}')")).await.0,
        "PT404"
    );
    // Who pays for it gets it.
    let owner = user(&database, "u-b").await;
    value(&owner, &call("v/dear", "{}")).await.unwrap();
    value(&owner, &call("made-up", "{}")).await.unwrap();
    assert_eq!(value(&owner, models).await.unwrap(), "m v/dear v/ok");
    // What is no list has nothing on it.
    for nothing in ["7", "\"v/ok\"", "{\"v/ok\": 1}", "null", "[]"] {
        root.batch_execute(&format!(
            "UPDATE user_api_providers SET settings = '{{\"models\": {nothing}}}' WHERE user_id IS NULL"
        ))
        .await
        .unwrap();
        assert_eq!(failure(&guest, &call("v/ok", "{}")).await.0, "PT403", "{nothing}");
        assert_eq!(value(&guest, models).await, None, "{nothing}");
    }
    value(&admin, "SELECT set_platform_models('standin', NULL)").await;
    value(&guest, &call("v/dear", "{}")).await.unwrap();
    for (bad, code) in [
        ("'nosuch', '{v/ok}'", "PT404"),
        ("'openai', '{v/ok}'", "PT404"),
        ("'standin', '{v/ok,NULL}'", "PT400"),
        ("'standin', array_fill('v/ok'::text, ARRAY[101])", "PT400"),
    ] {
        assert_eq!(
            failure(&admin, &format!("SELECT set_platform_models({bad})")).await.0,
            code,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn names_that_somebody_makes_up_are_one_row_of_the_sums() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let attacker = user(&database, "u-a").await;
    let requests: Vec<_> = (0..300)
        .map(|n| format!(r#"{{"model":"standin:made-up-{n}","messages":{HELLO},"max_tokens":5}}"#))
        .collect();
    let many = format!(
        "SELECT count(*) FILTER (WHERE ok) FROM chat_many({})",
        quoted(&format!("[{}]", requests.join(",")))
    );
    assert_eq!(value(&attacker, &many).await.unwrap(), "300");
    value(&root, &chat_sql("{}")).await.unwrap();
    let names = "SELECT count(DISTINCT model_id), bool_and(NOT is_listed) FROM aggregator_usage_logs WHERE user_id = 'u-a'";
    assert_eq!(rows(&root, names).await, ["300|t"]);
    let sums = "SELECT DISTINCT user_id, model_id FROM aggregator_usage_hourly ORDER BY 1";
    assert_eq!(rows(&root, sums).await, ["role:postgres|m", "u-a|(unlisted)"]);
    let totals = "SELECT grain, model_id, sum(requests) FROM aggregator_usage_totals GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(
        rows(&root, totals).await,
        ["day|(unlisted)|300", "day|m|1", "hour|(unlisted)|300", "hour|m|1"]
    );
    let report = "SELECT model_id, requests FROM usage_by_model() ORDER BY requests";
    assert_eq!(rows(&root, report).await, ["m|1", "(unlisted)|300"]);
    // A model that is listed later was not when it was asked: what is taken away goes where it was added.
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name)
         SELECT id, 'made-up-7', 'made-up-7', 'Seven' FROM api_providers WHERE name = 'standin'",
    )
    .await
    .unwrap();
    value(&root, "SELECT forget_user('u-a')").await;
    assert_eq!(rows(&root, totals).await.len(), 4);
    let kept = "SELECT model_id, sum(requests), sum(budget_tokens), sum(own_requests), sum(own_tokens), trim_scale(sum(own_cost))
        FROM aggregator_usage_hourly GROUP BY 1 ORDER BY 1";
    let before = rows(&root, kept).await;
    value(&root, "SELECT aggregator_recount_usage()").await;
    assert_eq!(rows(&root, kept).await, before);
    root.batch_execute(nodes::DELETE_USAGE).await.unwrap();
    assert_eq!(rows(&root, "SELECT model_id FROM aggregator_usage_hourly UNION SELECT model_id FROM aggregator_usage_totals").await.len(), 0);
}

// A provider's word.

#[tokio::test]
async fn what_a_provider_says_beyond_the_bound_of_the_request_counts_as_the_bound() {
    for (lie, logged, marked) in [
        (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":1000}"#, "1000", r#"["cost"]"#),
        // What no call costs is not believed, and what no amount can be is none: the prices say.
        (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":1e25}"#, "0.00007", "∅"),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"cost":99999999999999999999999999999999999999999999999999999999.5}"#,
            "0.00007",
            "∅",
        ),
        (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":1e399}"#, "0.00007", "∅"),
        (
            r#"{"prompt_tokens":10,"completion_tokens":2147483648}"#,
            "21474.83649",
            r#"["cost", "tokens"]"#,
        ),
        (
            r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1e15}"#,
            "25769.803764",
            r#"["cost", "tokens"]"#,
        ),
        (r#"{"prompt_tokens":10,"completion_tokens":100000,"cost":0}"#, "0", r#"["tokens"]"#),
    ] {
        let upstream = Upstream::start(move |_| Answer::says("x", lie)).await;
        let (_database, root) = platform(&upstream).await;
        root.batch_execute("SELECT set_budget(0.01, 10000, p_period => 'total'), set_rate_limit(p_tokens_per_minute => 2000)").await.unwrap();
        for _ in 0..3 {
            value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
        }
        let log = "SELECT DISTINCT cost_estimate = {logged}, metadata ->> 'beyond_bound', total_tokens <= 2147483647 FROM aggregator_usage_logs".replace("{logged}", logged);
        assert_eq!(rows(&root, &log).await, [format!("t|{marked}|t")], "{lie}");
        let before = spent(&root).await;
        assert!(before < 0.003, "{lie}: {before}");
        new_worker(&root).await;
        value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
        let after = spent(&root).await;
        assert!(after >= before && after < 0.004, "{lie}: {after}");
        assert_eq!(upstream.chat_count(), 4);
    }
}

#[tokio::test]
async fn where_no_rule_held_a_providers_word_blocks_no_later_budget() {
    let upstream = Upstream::start(|_| {
        Answer::says("x", r#"{"prompt_tokens":10,"completion_tokens":2147483647,"cost":1e30}"#)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    // With a bound by its request, and without: no price is known, nor how long the answer may be.
    value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
    value(&root, &call("made-up", "{}")).await.unwrap();
    let log = "SELECT log.model_id, trim_scale(cost_estimate), metadata ->> 'refused_cost', metadata ->> 'beyond_bound',
            reserved_cost < 0.01, c.cost <= 1000, c.tokens <= 10000000
        FROM aggregator_usage_logs AS log, aggregator_counted(log) AS c ORDER BY 1 DESC";
    assert_eq!(
        rows(&root, log).await,
        [r#"made-up|∅|1e30|["tokens"]|∅|t|t"#, r#"m|21474.83649|1e30|["cost", "tokens"]|t|t|t"#]
    );
    value(&root, "SELECT set_budget(2000, 20000000, p_keys => 'all')").await.unwrap();
    value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
    new_worker(&root).await;
    value(&root, &chat_sql(r#"{"max_tokens": 5}"#)).await.unwrap();
    assert!(spent(&root).await <= 1000.01);
}

// Tokens per minute.

#[tokio::test]
async fn many_calls_at_once_use_no_more_tokens_than_a_minute_has() {
    let usage = r#"{"prompt_tokens":10,"completion_tokens":1490,"total_tokens":1500}"#;
    let upstream = Upstream::start(move |_| Answer::late(500, Answer::says("x", usage))).await;
    let (database, root) = ready(&upstream).await;
    let count = |options: &str| {
        format!(
            "SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE error ->> 'sqlstate' = 'PT429')
             FROM chat_many((SELECT jsonb_agg({}::jsonb || jsonb_build_object('model', 'm', 'messages', {}::jsonb))
                FROM generate_series(1, 100)), '{{\"max_retries\": 0}}', 100)",
            quoted(options),
            quoted(HELLO)
        )
    };
    value(&root, "SELECT set_rate_limit(p_tokens_per_minute => 2000, p_each_user => true)").await;
    // As long as the request says; as the model says; as nobody says.
    for (name, options, limit) in
        [("u-a", r#"{"max_tokens": 1490}"#, "NULL"), ("u-b", "{}", "1490"), ("u-c", "{}", "NULL")]
    {
        root.batch_execute(&format!("UPDATE aggregator_models SET max_output_tokens = {limit}"))
            .await
            .unwrap();
        let client = user(&database, name).await;
        assert_eq!(rows(&client, &count(options)).await, ["1|99"], "{name}");
    }
    assert_eq!(upstream.chat_count(), 3);
    // What a short answer did not use comes back.
    let short = Upstream::start(|_| paid()).await;
    root.batch_execute(&format!(
        "UPDATE api_providers SET base_url = '{}' WHERE name = 'standin'",
        short.base_url()
    ))
    .await
    .unwrap();
    let client = user(&database, "u-d").await;
    for _ in 0..5 {
        value(&client, &chat_sql(r#"{"max_tokens": 1000}"#)).await.unwrap();
    }
    for _ in 0..7 {
        value(&client, &chat_sql(r#"{"max_tokens": 60}"#)).await.unwrap();
    }
    // A new worker knows what the last minute has used: most of it.
    new_worker(&root).await;
    let (code, message) = failure(&client, &chat_sql(r#"{"max_tokens": 1900}"#)).await;
    assert_eq!(code, "PT429", "{message}");
}
