//! The response cache: who asks the same again is answered by what was kept, and nobody else is.

mod kept;
mod shared;
mod turns;

use crate::bed::{Cluster, eventually, failure, rows, value};
use crate::fixtures::{chat_sql, prepare, ready};
use crate::upstream::{Answer, Seen, USAGE, Upstream};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_postgres::Client;

/// Keeps for a minute.
const MINUTE: &str = r#"{"cache": {"ttl": 60}}"#;

/// Counts its answers: each says which one it is.
fn counting() -> impl Fn(&Seen) -> Answer + Send + Sync + 'static {
    let next = AtomicUsize::new(1);
    move |_| Answer::says(&format!("answer {}", next.fetch_add(1, Ordering::SeqCst)), USAGE)
}

/// The same, after so many milliseconds.
fn slowly(ms: u64) -> impl Fn(&Seen) -> Answer + Send + Sync + 'static {
    let counts = counting();
    move |seen| Answer::late(ms, counts(seen))
}

/// A chat with these options: what it says, and where its cost comes from.
async fn says(client: &Client, options: &str) -> String {
    let sql = format!(
        "SELECT r #>> '{{choices,0,message,content}}', r #>> '{{aggregator,cost_source}}', r #>> '{{aggregator,cost}}'
         FROM ({}) AS asked (r)",
        chat_sql(options)
    );
    rows(client, &sql).await.concat()
}

/// So many answers are kept. It is told nobody when they are.
async fn kept(root: &Client, count: usize) {
    eventually(root, "SELECT count(*) FROM aggregator_cache", &count.to_string()).await;
}

/// Sets what the server keeps, for one test whose cluster it is.
async fn set(root: &Client, name: &str, setting: &str) {
    root.batch_execute("LOAD 'aggregator'").await.unwrap();
    root.batch_execute(&format!("ALTER SYSTEM SET {name} = '{setting}'")).await.unwrap();
    root.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually(root, &format!("SELECT setting FROM pg_settings WHERE name = '{name}'"), setting)
        .await;
}

/// A cluster with these lines, its database and the provider `standin`.
async fn alone(name: &str, lines: &str, upstream: &Upstream) -> (Cluster, String, Client) {
    let cluster = Cluster::start(name, lines);
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = prepare(&database, upstream).await;
    let name = database.name.clone();
    drop(database);
    (cluster, name, root)
}

const FIRST: &str = "answer 1|computed|0.00007";
const HIT: &str = "answer 1|cached|0";

#[tokio::test]
async fn the_same_call_is_answered_once_and_each_time_in_the_ledger() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    assert_eq!(says(&root, MINUTE).await, HIT);
    // White space, the order of names and what is ours make no other request.
    let same = r#"{"tags": ["x"], "timeout_ms": 9000,  "cache":{"ttl":50, "no_store": false}, "max_retries": 1}"#;
    assert_eq!(says(&root, same).await, HIT);
    let messages = r#"[{"content" : "h\u0069", "role": "user"}]"#;
    let sql = format!(
        "SELECT chat_complete('m', '{messages}', '{MINUTE}') #>> '{{aggregator,cost_source}}'"
    );
    assert_eq!(value(&root, &sql).await.unwrap(), "cached");
    assert_eq!(upstream.chat_count(), 1);
    // A parameter does.
    let other = r#"{"cache": {"ttl": 60}, "temperature": 0.5}"#;
    assert_eq!(says(&root, other).await, "answer 2|computed|0.00007");
    let number = r#"{"cache": {"ttl": 60}, "temperature": 0.50}"#;
    let numeric = says(&root, number).await;
    assert_eq!(numeric, "answer 3|computed|0.00007", "a number as it is written");
    assert_eq!(
        rows(
            &root,
            "SELECT status, cost_source, cost_estimate, cost_computed, prompt_tokens, completion_tokens, total_tokens,
                attempt, finish_reason, served_model, http_status, metadata - 'age_s', (metadata ->> 'age_s')::integer BETWEEN 0 AND 60,
                tags
             FROM aggregator_usage_logs WHERE cost_source = 'cached' ORDER BY created_at LIMIT 2"
        )
        .await,
        [
            r#"success|cached|0|0|0|0|0|1|stop|m-served|∅|{"saved_cost": "0.00007", "saved_tokens": 15}|t|∅"#,
            r#"success|cached|0|0|0|0|0|1|stop|m-served|∅|{"saved_cost": "0.00007", "saved_tokens": 15}|t|{x}"#,
        ]
    );
    assert_eq!(
        rows(&root, "SELECT provider_name, model_id, hits, saved_cost, saved_tokens, unpriced_hits FROM usage_cache('day')").await,
        ["standin|m|3|0.00021|45|0"]
    );
    assert_eq!(
        rows(
            &root,
            "SELECT requests, total_cost, total_tokens, unpriced_requests FROM usage_summary('day')"
        )
        .await,
        ["6|0.00021|45|0"]
    );
    assert_eq!(rows(&root, "SELECT calls, errors FROM aggregator_provider_health").await, ["3|0"]);
    // What was asked of the provider counts against budgets, and no more.
    assert_eq!(
        rows(&root, "SELECT sum(requests), sum(budget_requests), sum(own_requests) FROM aggregator_usage_hourly").await,
        ["6|3|3"]
    );
    assert_eq!(
        rows(&root, "SELECT label, requests, budget_requests FROM aggregator_usage_labels").await,
        ["x|1|0"]
    );
    // The sums are those of the rows, also as SQL adds them up.
    let sums = "SELECT hour, user_id, status, requests, budget_requests, own_requests, cost, budget_cost, total_tokens, latency_ms_sum
        FROM aggregator_usage_hourly ORDER BY 1, 2, 3";
    let before = rows(&root, sums).await;
    root.batch_execute(
        "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM aggregator_usage_logs;
         DELETE FROM aggregator_usage_logs WHERE created_at >= aggregator_archived_until(); INSERT INTO aggregator_usage_logs SELECT * FROM kept; COMMIT",
    )
    .await
    .unwrap();
    assert_eq!(rows(&root, sums).await, before);
}

#[tokio::test]
async fn an_answer_is_good_for_its_time_and_for_the_callers() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(says(&root, r#"{"cache": {"ttl": 1000}}"#).await, FIRST);
    kept(&root, 1).await;
    root.batch_execute("UPDATE aggregator_cache SET created_at = created_at - interval '30 s'")
        .await
        .unwrap();
    assert_eq!(says(&root, MINUTE).await, HIT);
    // Too old for this caller, who takes its place.
    assert_eq!(says(&root, r#"{"cache": {"ttl": 20}}"#).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, r#"{"cache": {"ttl": 20}}"#).await, "answer 2|cached|0");
    root.batch_execute("UPDATE aggregator_cache SET expires_at = clock_timestamp()").await.unwrap();
    assert_eq!(says(&root, r#"{"cache": {"ttl": 1000}}"#).await, "answer 3|computed|0.00007");
    kept(&root, 1).await;
    // A real second.
    let short = r#"{"cache": {"ttl": 1}, "temperature": 1}"#;
    assert_eq!(says(&root, short).await, "answer 4|computed|0.00007");
    kept(&root, 2).await;
    let good = "SELECT count(*) FROM aggregator_cache WHERE expires_at > clock_timestamp()";
    eventually(&root, good, "1").await;
    assert_eq!(says(&root, short).await, "answer 5|computed|0.00007");
}

#[tokio::test]
async fn refresh_asks_again_and_no_store_keeps_nothing() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    let no_store = r#"{"cache": {"ttl": 60, "no_store": true}}"#;
    let refresh = r#"{"cache": {"ttl": 60, "refresh": true}}"#;
    assert_eq!(says(&root, no_store).await, FIRST);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, no_store).await, "answer 2|cached|0");
    assert_eq!(says(&root, refresh).await, "answer 3|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
    let neither = r#"{"cache": {"ttl": 60, "refresh": true, "no_store": true}}"#;
    assert_eq!(says(&root, neither).await, "answer 4|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
    for off in ["{}", r#"{"cache": false}"#, r#"{"cache": null}"#, r#"{"cache": {}}"#] {
        assert!(says(&root, off).await.ends_with("computed|0.00007"), "{off}");
    }
    for wrong in [
        "true",
        "60",
        "{\"ttl\": 0}",
        "{\"ttl\": 2592001}",
        "{\"ttl\": 1.5}",
        "{\"tll\": 60}",
        "[]",
    ] {
        let (code, message) = failure(&root, &chat_sql(&format!(r#"{{"cache": {wrong}}}"#))).await;
        assert_eq!(code, "PT400", "{message}");
        assert!(message.contains("options.cache must be"), "{message}");
    }
    assert!(upstream.chats().iter().all(|chat| chat.json().get("cache").is_none()));
}

#[tokio::test]
async fn the_servers_own_time_is_for_temperature_0() {
    let upstream = Upstream::start(counting()).await;
    let (cluster, name, root) = alone("cachettl", "aggregator.cache_ttl = 60", &upstream).await;
    let cold = r#"{"temperature": 0}"#;
    assert_eq!(says(&root, cold).await, FIRST);
    assert_eq!(says(&root, r#"{"temperature": 0, "cache": {}}"#).await, HIT);
    assert_eq!(
        says(&root, r#"{"temperature": 0, "cache": {"refresh": true}}"#).await,
        "answer 2|computed|0.00007"
    );
    for warm in [
        "{}",
        r#"{"temperature": 1}"#,
        r#"{"temperature": 0, "cache": false}"#,
        r#"{"cache": {"refresh": true}}"#,
    ] {
        assert!(says(&root, warm).await.ends_with("computed|0.00007"), "{warm}");
        assert!(says(&root, warm).await.ends_with("computed|0.00007"), "{warm}");
    }
    // Without room, nothing is kept, whatever calls ask for.
    set(&root, "aggregator.cache_size", "0").await;
    let asked = upstream.chat_count();
    eventually(
        &root,
        &format!("SELECT ({}) #>> '{{aggregator,cost_source}}'", chat_sql(cold)),
        "computed",
    )
    .await;
    assert!(says(&root, cold).await.ends_with("computed|0.00007"));
    assert!(says(&root, MINUTE).await.ends_with("computed|0.00007"));
    assert!(upstream.chat_count() >= asked + 3);
    drop((cluster, name));
}

#[tokio::test]
async fn budgets_and_limits_ask_nothing_of_a_hit() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    value(&root, "SELECT set_budget(0.0000001, p_user_id => 'role:postgres', p_keys => 'all')")
        .await;
    value(&root, "SELECT set_rate_limit(1, p_user_id => 'role:postgres')").await;
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT429");
    for _ in 0..3 {
        assert_eq!(says(&root, MINUTE).await, HIT);
    }
    assert_eq!(
        rows(&root, "SELECT spent_usd, spent_requests FROM aggregator_budget_status").await,
        ["0.00007|1"]
    );
}
