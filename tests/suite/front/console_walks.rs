//! The pages of the console, in a browser: walked through, looked at, and attacked by what providers and users say.

use super::own::Own;
use super::{Bed, free_port, token};
use crate::bed::{eventually, failure, nodes, quoted, value, var};
use crate::supabase::{are_there, clients, skipped};
use crate::upstream::{Answer, Piece, Seen, USAGE, Upstream};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::Client;

/// A name that is code where it is not taken for text.
const HOSTILE: &str = r#"<img src=x onerror="globalThis.ran=1">"#;

/// A provider that lists models, takes keys that begin with sk-good, unless it is told to refuse all of them, and streams.
fn provider(refuses: &AtomicBool, seen: &Seen) -> Answer {
    if let Some((_, it)) = seen.path.split_once("/refuse/") {
        refuses.store(it == "true", Ordering::Relaxed);
        return Answer::json(200, "{}");
    }
    let takes = !refuses.load(Ordering::Relaxed)
        && seen.header("authorization").is_some_and(|key| key.starts_with("Bearer sk-good"));
    if seen.path.ends_with("/models") {
        return Answer::json(200, json!({"data": listed()}).to_string());
    }
    if !takes {
        let message = format!("Incorrect API key {HOSTILE}");
        let error = json!({"error": {"message": message, "code": "invalid_api_key"}});
        return Answer::json(401, error.to_string());
    }
    if seen.path.ends_with("/key") {
        return Answer::json(200, r#"{"data": {}}"#);
    }
    let body = seen.json();
    let last = body["messages"].as_array().and_then(|all| all.last()).cloned();
    let text = last.and_then(|one| one["content"].as_str().map(str::to_owned)).unwrap_or_default();
    let streams = body["stream"] == true;
    match body["model"].as_str() {
        _ if text == "FAIL" => Answer::json(
            400,
            r#"{"error":{"message":"The prompt is too long","code":"context_length_exceeded"}}"#,
        ),
        // For longer than a test lasts.
        Some("local/slow") if streams => {
            let more = || [Piece::text("once more "), Piece::Wait(Duration::from_millis(50))];
            let pieces = (0..2000).flat_map(|_| more());
            Answer::Stream(std::iter::once(Piece::role()).chain(pieces).collect())
        }
        _ if streams => Answer::streams(&["re: ", &text], Duration::from_millis(20), Some(USAGE)),
        _ => Answer::says(&format!("re: {text}"), USAGE),
    }
}

async fn started() -> Upstream {
    let refuses = AtomicBool::new(false);
    Upstream::raw(move |seen| provider(&refuses, seen)).await
}

/// Models, one of them without a price, and one with a name that is code.
fn listed() -> Vec<Value> {
    let model = |id: &str, name: &str, prices: Option<(&str, &str)>| {
        json!({
            "id": id,
            "name": name,
            "context_length": 128_000,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "pricing": prices.map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion})),
            "supported_parameters": ["tools", "temperature"],
        })
    };
    vec![
        model("local/slow", "Slow", Some(("0.000002", "0.00001"))),
        model("local/quick", "Quick", Some(("0.000002", "0.00001"))),
        model("mystery/unpriced", "Without a price", None),
        model("hostile/model", HOSTILE, Some(("0.000001", "0.000001"))),
    ]
}

/// A database with the console, at which OpenRouter is the stand-in and nobody else is reached.
async fn ready(upstream: &Upstream) -> Bed {
    let bed = Bed::new().await;
    let url = upstream.base_url();
    bed.root
        .batch_execute(&format!(
            "UPDATE api_providers SET base_url = 'http://127.0.0.1:9/' || name, models_url = NULL, key_check_url = NULL;
             UPDATE api_providers SET base_url = '{url}', key_check_url = '{url}/key' WHERE name = 'openrouter';
             UPDATE api_providers SET display_name = {}, documentation_url = 'javascript:globalThis.ran=1'
             WHERE name = 'together'",
            quoted(HOSTILE)
        ))
        .await
        .unwrap();
    bed
}

/// The link by which this user signs in, in this role.
async fn link(bed: &Bed, role: &str, user: &str) -> String {
    let client = bed.database.rest(role, Some(user)).await;
    value(&client, "SELECT console_url()").await.unwrap()
}

fn chromium() -> Option<String> {
    let there = var("AGGREGATOR_CHROMIUM");
    if !there.is_empty() {
        return are_there().then_some(there);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI skips nothing");
    skipped("there is no chromium here");
    None
}

/// Runs a script, each check of which has to pass, and gives back how many there were.
async fn run(port: u16, chromium: &str, script: &str, variables: &[(&str, &str)]) -> usize {
    let mut command = Command::new(var("AGGREGATOR_NODE"));
    command
        .args(["--test-reporter=tap", script])
        .current_dir(clients().join("console"))
        .env("CONSOLE_URL", format!("http://127.0.0.1:{port}/console/"))
        .env("AGGREGATOR_CHROMIUM", chromium)
        .envs(variables.iter().copied())
        .kill_on_drop(true);
    let ended = timeout(Duration::from_secs(400), command.output()).await;
    let output = ended.expect("it ends").expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("\nnot ok "), "{text}");
    text.lines().filter(|line| line.starts_with("ok ")).count()
}

#[tokio::test]
async fn a_user_and_an_administrator_walk_through_it() {
    let Some(chromium) = chromium() else { return };
    let upstream = started().await;
    let bed = ready(&upstream).await;
    bed.root
        .batch_execute(
            r#"INSERT INTO aggregator_jobs (user_id, status, model, request, run_after, attempts, started_at, finished_at,
                   provider_name, served_model, response, cost, cost_source)
               VALUES
                   ('u-walk', 'succeeded', 'local/quick', '{}', now(), 1, now(), now(), 'openrouter', 'local/quick',
                    '{"choices": [{"message": {"content": "re: a job <i>"}}]}', 0.00007, 'computed'),
                   ('u-walk', 'queued', 'local/quick', '{"messages": []}', now() + interval '8 hours', 0, NULL, NULL,
                    NULL, NULL, NULL, NULL, NULL)"#,
        )
        .await
        .unwrap();
    let user = link(&bed, "authenticated", "u-walk").await;
    let admin = link(&bed, "service_role", "u-boss").await;
    // A code passes for a minute, and on a busy machine it takes the browser longer to come up.
    let longer =
        "UPDATE aggregator_console_sessions SET code_expires_at = now() + interval '10 minutes'";
    bed.root.batch_execute(longer).await.unwrap();
    let provider = upstream.base_url();
    let links = [
        ("CONSOLE_USER", user.as_str()),
        ("CONSOLE_ADMIN", admin.as_str()),
        ("CONSOLE_PROVIDER", provider.as_str()),
    ];
    assert_eq!(run(bed.port, &chromium, "walk.mjs", &links).await, 18);
    // What was stopped was cut off at the provider, too.
    let calls = "SELECT string_agg(status, ' ' ORDER BY status) FROM aggregator_usage_logs WHERE user_id = 'u-walk'";
    eventually(&bed.root, calls, "cancelled error success success").await;
    // Prompts are nowhere but at the provider, and the key is nowhere in the clear.
    let sealed = "SELECT count(*) FROM user_api_providers WHERE user_id = 'u-walk' AND position('sk-good' IN encode(api_key_encrypted, 'escape')) = 0";
    assert_eq!(value(&bed.root, sealed).await.as_deref(), Some("1"));
}

/// A month of usage, by names of all kinds.
async fn fill(root: &Client) {
    nodes::bring_back(root).await;
    root.batch_execute(&format!(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
             http_status, error_code, prompt_tokens, completion_tokens, total_tokens, cost_estimate, cost_source,
             latency_ms, time_to_first_token_ms, finish_reason, is_platform_key, is_listed, tags, gateway_key_id)
         SELECT gen_random_uuid(), 1, now() - n * n * interval '5 seconds', 1, p.id,
             CASE n % 4 WHEN 0 THEN 'u-other' ELSE 'u-walk' END,
             (ARRAY['openai/gpt-4o-mini', 'anthropic/claude-sonnet-4.5', 'google/gemini-2.5-flash', 'mystery/unpriced', {hostile}])[1 + n % 5 * n % 7 % 5],
             CASE WHEN n % 17 = 0 THEN 'error' WHEN n % 29 = 0 THEN 'cancelled' ELSE 'success' END,
             CASE WHEN n % 17 = 0 THEN 429 ELSE 200 END, CASE WHEN n % 17 = 0 THEN 'rate_limit_exceeded' END,
             200 + n % 900, 100 + n % 400, 300 + n % 900 + n % 400,
             CASE WHEN n % 11 > 0 THEN 0.0001317 * (1 + n % 80) END, CASE WHEN n % 11 > 0 THEN 'computed' ELSE 'unpriced' END,
             300 + n % 37 * 90, 90 + n % 19 * 20, 'stop', n % 2 = 0, true,
             CASE WHEN n % 5 = 0 THEN ARRAY['nightly', {hostile}] WHEN n % 7 = 0 THEN ARRAY['support'] END, k.id
         FROM generate_series(1, 700) AS n
         JOIN api_providers AS p ON p.name = 'openrouter'
         LEFT JOIN aggregator_gateway_keys AS k ON k.user_id = 'u-walk' AND n % 6 = 0",
        hostile = quoted(HOSTILE)
    ))
    .await
    .unwrap();
}

#[tokio::test]
async fn every_page_is_fit_to_be_seen_by_everybody_and_runs_nothing_of_strangers() {
    let Some(chromium) = chromium() else { return };
    let upstream = started().await;
    let bed = ready(&upstream).await;
    let user = bed.database.rest("authenticated", Some("u-walk")).await;
    let admin = bed.database.rest("service_role", Some("u-boss")).await;
    let hostile = quoted(HOSTILE);
    for sql in [
        "SELECT save_provider_key('openrouter', 'sk-good-0123456789')",
        &format!(
            "SELECT create_gateway_key({hostile}, '{{openai/*, anthropic/*}}', p_limit_usd => 5, p_tags => ARRAY[{hostile}])"
        ),
    ] {
        value(&user, sql).await.unwrap();
    }
    for sql in [
        "SELECT count(*) FROM sync_models('openrouter')",
        "SELECT set_budget(2, p_period => 'week', p_each_user => true)",
        "SELECT set_budget(40, p_action => 'warn')",
        "SELECT set_rate_limit(600, 100000, p_each_user => true)",
    ] {
        value(&admin, sql).await;
    }
    fill(&bed.root).await;
    bed.root
        .batch_execute(&format!(
            "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
             SELECT id, {hostile}, {hostile}, {hostile}, '{{\"input\": 1, \"output\": 2}}' FROM api_providers WHERE name = 'openrouter';
             INSERT INTO aggregator_jobs (user_id, status, model, request, created_at, run_after, attempts, started_at, finished_at, error)
             SELECT CASE n % 3 WHEN 0 THEN 'u-other' ELSE 'u-walk' END, (ARRAY['succeeded', 'failed', 'cancelled'])[1 + n % 3],
                 {hostile}, '{{}}', now() - n * interval '1 hour', now(), 1, now(), now(),
                 CASE WHEN n % 3 = 1 THEN jsonb_build_object('code', 'bad_request', 'message', {hostile}) END
             FROM generate_series(1, 60) AS n;
             INSERT INTO aggregator_budget_warnings (budget_id, user_id, period_start, percent, spent_usd, spent_tokens, spent_requests)
             SELECT id, 'u-walk', now(), 80, 1.61, 1000, 10 FROM aggregator_budgets WHERE each_user"
        ))
        .await
        .unwrap();
    let mut links: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut looks = 0;
    for (who, role, id) in [
        ("user", "authenticated", "u-walk"),
        ("administrator", "service_role", "u-boss"),
        ("newcomer", "authenticated", "u-new"),
    ] {
        // A code passes for a minute, which is over before the last picture: an access token in its place.
        for _ in 0..4 {
            let claims = token::with(token::claims(id), json!({"role": role}));
            let base = format!("http://127.0.0.1:{}/console/", bed.port);
            links.entry(who).or_default().push(format!("{base}#access_token={claims}"));
            looks += 1;
        }
    }
    let links = serde_json::to_string(&links).unwrap();
    let pictures = PathBuf::from(var("AGGREGATOR_TREE")).join(".build/screenshots");
    let variables =
        [("CONSOLE_LINKS", links.as_str()), ("CONSOLE_PICTURES", pictures.to_str().unwrap())];
    assert_eq!(run(bed.port, &chromium, "pictures.mjs", &variables).await, looks);
}

#[tokio::test]
async fn an_application_that_is_listed_signs_its_user_in_and_no_other_does() {
    let Some(chromium) = chromium() else { return };
    let app = free_port().await;
    let listed = format!("aggregator.console_origins = 'http://127.0.0.1:{app}'");
    let own = Own::start("console_embed", &listed).await;
    let token = token::of("u-1");
    let next = token::with(token::claims("u-1"), json!({"jti": "another"}));
    let other = token::of("u-2");
    let app = app.to_string();
    let variables = [
        ("CONSOLE_APP", app.as_str()),
        ("CONSOLE_TOKEN", token.as_str()),
        ("CONSOLE_NEXT_TOKEN", next.as_str()),
        ("CONSOLE_OTHER_TOKEN", other.as_str()),
    ];
    assert_eq!(run(own.port, &chromium, "embed.mjs", &variables).await, 6);
}

#[tokio::test]
async fn the_pages_say_what_the_reports_say() {
    let upstream = started().await;
    let bed = ready(&upstream).await;
    fill(&bed.root).await;
    let user = bed.database.rest("authenticated", Some("u-walk")).await;
    let admin = bed.database.rest("service_role", Some("u-boss")).await;
    for (client, role, id) in
        [(&user, "authenticated", "u-walk"), (&admin, "service_role", "u-boss")]
    {
        let claims = token::with(token::claims(id), json!({"role": role}));
        for range in ["day", "week", "month"] {
            // Each sum of the page against the one of the report, in the database, which computes exactly.
            let sum = "sum(requests)::text || '|' || coalesce(sum(cost), 0)::text || '|' || sum(unpriced_requests)::text";
            // They begin with an hour: all are made in the same.
            let hour = "SELECT date_trunc('hour', now())";
            let (told, said, cost) = loop {
                let began = value(&bed.root, hour).await;
                let usage = super::console_data::get(&format!("usage?range={range}"));
                let told = bed.send(&usage.bearer(&claims)).await;
                let mut said = Vec::new();
                for name in ["over_time", "by_status", "by_model", "by_tag"] {
                    let report = format!("SELECT {sum} FROM usage_{name}('{range}')");
                    said.push((name, value(client, &report).await));
                }
                let cost = format!("SELECT total_cost FROM usage_summary('{range}')");
                let cost = value(client, &cost).await;
                if value(&bed.root, hour).await == began {
                    break (told, said, cost);
                }
            };
            assert_eq!(told.status, 200, "{told:?}");
            for (name, said) in said {
                let shown = match &told.json()[name] {
                    Value::Object(list) => list["rows"].clone(),
                    list => list.clone(),
                };
                let page = value(client, &format!("SELECT {sum} FROM jsonb_to_recordset({}::jsonb) AS x (requests bigint, cost numeric, unpriced_requests bigint)", quoted(&shown.to_string()))).await;
                assert_eq!(page, said, "{range} {name}");
            }
            assert_eq!(told.json()["summary"]["total_cost"].as_str().map(str::to_owned), cost);
        }
    }
    // Whoever is no reader may not even name the report by user.
    assert_eq!(failure(&user, "SELECT usage_by_user('day')").await.0, "42501");
}
