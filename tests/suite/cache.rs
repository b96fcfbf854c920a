//! The response cache: who asks the same again is answered by what was kept, and nobody else is.

use crate::bed::{self, Cluster, Database, eventually, failure, json, quoted, rows, value};
use crate::chat::{HELLO, add_named, chat_sql, prepare, ready, save_key, user};
use crate::jobs::{ended, submit};
use crate::upstream::{Answer, Piece, Seen, USAGE, Upstream, echo, in_turn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
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
         DELETE FROM aggregator_usage_logs; INSERT INTO aggregator_usage_logs SELECT * FROM kept; COMMIT",
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
async fn users_never_share_an_answer_unless_an_administrator_says_so() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    assert_eq!(says(&ann, MINUTE).await, FIRST);
    assert_eq!(says(&ben, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&ann, MINUTE).await, HIT);
    // In a batch and as a job neither.
    let many = format!(
        "SELECT content FROM chat_many('[{{\"model\": \"m\", \"messages\": {HELLO}}}]', '{MINUTE}')"
    );
    assert_eq!(value(&ann, &many).await.unwrap(), "answer 1");
    assert_eq!(value(&ben, &many).await.unwrap(), "answer 2");
    for (client, expected) in [(&ann, "answer 1"), (&ben, "answer 2")] {
        let id = submit(client, MINUTE, "").await;
        assert_eq!(ended(client, &id).await, format!("succeeded|{expected}|1"));
        assert_eq!(
            rows(client, &format!("SELECT cost, response #>> '{{aggregator,cost_source}}' FROM chat_result('{id}')")).await,
            ["0|cached"]
        );
    }
    assert_eq!(upstream.chat_count(), 2);
    // Each sees that they have an entry, not what is in it, and nothing of others'.
    let seen = "SELECT user_id, model_id, is_shared, size > 100, expires_at > created_at FROM aggregator_cache";
    assert_eq!(rows(&ann, seen).await, ["ann|m|f|t|t"]);
    assert_eq!(rows(&ben, seen).await, ["ben|m|f|t|t"]);
    for hidden in ["answer", "print", "*"] {
        assert_eq!(
            failure(&ann, &format!("SELECT {hidden} FROM aggregator_cache")).await.0,
            "42501"
        );
    }
    assert_eq!(failure(&ann, "DELETE FROM aggregator_cache").await.0, "42501");
    let sealed =
        "SELECT count(*) FROM aggregator_cache WHERE position('answer'::bytea IN answer) > 0";
    assert_eq!(rows(&root, sealed).await, ["0"]);

    // Where the platform pays, and an administrator says so, they do.
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    for client in [&ann, &ben] {
        value(client, "SELECT remove_provider_key('standin')").await;
    }
    assert_eq!(says(&ann, MINUTE).await, "answer 3|computed|0.00007");
    assert_eq!(says(&ben, MINUTE).await, "answer 4|computed|0.00007");
    root.batch_execute("UPDATE aggregator_models SET shares_cache = true").await.unwrap();
    assert_eq!(says(&ann, MINUTE).await, "answer 5|computed|0.00007");
    assert_eq!(says(&ben, MINUTE).await, "answer 5|cached|0");
    assert_eq!(
        rows(&root, "SELECT user_id, is_platform_key, cost_source FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1").await,
        ["ben|t|cached"]
    );
    // Who pays themselves shares nothing all the same.
    save_key(&ben, "standin", "sk-good-ben-0123456789").await;
    assert_eq!(says(&ben, MINUTE).await, "answer 6|computed|0.00007");
    assert_eq!(says(&ann, MINUTE).await, "answer 5|cached|0");
    root.batch_execute("UPDATE aggregator_models SET shares_cache = false").await.unwrap();
    value(&ben, "SELECT remove_provider_key('standin')").await;
    assert_eq!(says(&ben, MINUTE).await, "answer 4|cached|0", "his own, from before");
    assert_eq!(failure(&ann, "UPDATE aggregator_models SET shares_cache = true").await.0, "42501");
}

#[tokio::test]
async fn another_key_or_provider_answers_for_itself() {
    let upstream = Upstream::start(counting()).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    save_key(&root, "standin", "sk-good-another-0123456789").await;
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    add_named(&root, "second", "openai", &upstream.base_url(), &["m"]).await;
    save_key(&root, "second", "sk-good-second-0123456789").await;
    let second = format!(
        "SELECT chat_complete('m', '{HELLO}', '{MINUTE}', 'second') #>> '{{choices,0,message,content}}'"
    );
    assert_eq!(value(&root, &second).await.unwrap(), "answer 3");
    assert_eq!(value(&root, &second).await.unwrap(), "answer 3");
    // By whoever of those who may answer has.
    value(&root, "SELECT remove_provider_key('standin')").await;
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
    // Who may not call is not answered.
    value(&root, "SELECT remove_provider_key('second')").await;
    assert_eq!(failure(&root, &chat_sql(MINUTE)).await.0, "PT404");
    save_key(&root, "second", "sk-good-second-0123456789").await;
    root.batch_execute("UPDATE aggregator_models SET is_available = false").await.unwrap();
    assert_eq!(failure(&root, &chat_sql(MINUTE)).await.0, "PT404");
    assert_eq!(upstream.chat_count(), 3);
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

#[tokio::test]
async fn of_many_that_ask_the_same_one_asks_upstream() {
    let upstream = Upstream::start(slowly(400)).await;
    let (database, root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..20 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    let mut answers = vec![];
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    assert_eq!(answers[19], FIRST);
    assert_eq!(answers[..19], vec![HIT.to_owned(); 19][..]);
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(
        rows(
            &root,
            "SELECT cost_source, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 2"
        )
        .await,
        ["computed|1", "cached|19"]
    );
    // In one batch as well.
    let one = format!(r#"{{"model": "m", "temperature": 1, "messages": {HELLO}}}"#);
    let requests = format!("[{}]", vec![one; 20].join(","));
    let many = format!(
        "SELECT count(DISTINCT content), count(*) FILTER (WHERE cost = 0) FROM chat_many('{requests}', '{MINUTE}', 20)"
    );
    assert_eq!(rows(&root, &many).await, ["1|19"]);
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn whoever_asks_and_goes_away_leaves_the_turn_to_the_next() {
    let upstream = Upstream::start({
        let answers = counting();
        let stalls = AtomicUsize::new(0);
        move |seen| match stalls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Stall,
            _ => answers(seen),
        }
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let leader = database.root().await;
    let cancel = leader.cancel_token();
    let leads = tokio::spawn(async move { failure(&leader, &chat_sql(MINUTE)).await.0 });
    upstream.wait_for_chats(1).await;
    let mut waiting = vec![];
    for _ in 0..5 {
        let client = database.root().await;
        waiting.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    // A waiting call keeps its own deadline.
    let (code, message) =
        failure(&root, &chat_sql(r#"{"cache": {"ttl": 60}, "timeout_ms": 300}"#)).await;
    assert_eq!(code, "PT504", "{message}");
    eventually(&root, "SELECT in_flight FROM aggregator_status()", "6").await;
    assert_eq!(upstream.chat_count(), 1);
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert_eq!(leads.await.unwrap(), "57014");
    let mut answers = vec![];
    for one in waiting {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    assert_eq!((answers[0].as_str(), answers[4].as_str()), (HIT, FIRST));
    assert_eq!(upstream.chat_count(), 2, "one of them asked");
}

#[tokio::test]
async fn failures_are_not_kept_and_hand_over_one_by_one() {
    let bad = r#"{"error":{"message":"no good","code":"invalid_value"}}"#;
    let upstream = Upstream::start({
        let turn = AtomicUsize::new(0);
        let answers = counting();
        move |seen| match turn.fetch_add(1, Ordering::SeqCst) {
            0..=2 => Answer::late(200, Answer::json(400, bad)),
            _ => answers(seen),
        }
    })
    .await;
    let (database, _root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..8 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move {
            let r = r#"{"cache": {"ttl": 60}, "throw_on_error": false, "max_retries": 0}"#;
            says(&client, r).await
        }));
    }
    let mut answers = vec![];
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    let failed = "∅|∅|∅".to_owned();
    assert_eq!(answers[..4], vec![HIT.to_owned(); 4][..], "{answers:?}");
    assert_eq!(answers[4], FIRST);
    assert_eq!(answers[5..], vec![failed; 3][..]);
    assert_eq!(upstream.chat_count(), 4);
    assert_eq!(upstream.most_at_once(), 1, "never all at once");
}

#[tokio::test]
async fn only_whole_answers_are_kept() {
    let cut = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"so f"},"finish_reason":"length"}]}"#;
    let upstream = Upstream::start(in_turn(vec![
        Answer::json(200, cut),
        Answer::Stream(vec![Piece::role(), Piece::text("a"), Piece::Cut]),
        Answer::json(200, r#"{"error":{"message":"inside","code":400}}"#),
        Answer::says(&"x".repeat(300 * 1024), USAGE),
        Answer::hello(),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    let once = r#"{"cache": {"ttl": 60}, "throw_on_error": false, "max_retries": 0}"#;
    for asked in 1..=4 {
        assert!(!says(&root, once).await.contains("cached"));
        assert_eq!(upstream.chat_count(), asked);
        assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    }
    assert_eq!(says(&root, once).await, "hello|computed|0.00007");
    assert_eq!(says(&root, once).await, "hello|cached|0");
}

#[tokio::test]
async fn those_who_ask_for_what_is_not_kept_wait_for_nobody() {
    let cut = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"so f"},"finish_reason":"length"}]}"#;
    let upstream = Upstream::start(move |_| Answer::late(300, Answer::json(200, cut))).await;
    let (database, _root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..6 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    for one in asking {
        one.await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 6);
    // The first alone, and then the others together.
    assert!(upstream.most_at_once() >= 2);
}

#[tokio::test]
async fn streams_are_answered_by_whole_answers_and_the_other_way_round() {
    let long = "Grüße 😀, ".repeat(40);
    let text = long.clone();
    let upstream = Upstream::start(move |seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::streams(&["stream", "ed ", &text], Duration::ZERO, Some(USAGE)),
        _ => Answer::says(&text, USAGE),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let stream = |options: &str| {
        format!("SELECT delta, response #>> '{{choices,0,message,content}}', response #>> '{{aggregator,cost_source}}', cost
            FROM chat_stream('m', '{HELLO}', {})", quoted(options))
    };
    // From a whole answer.
    value(&root, &chat_sql(MINUTE)).await.unwrap();
    let told = rows(&root, &stream(MINUTE)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|{long}|cached|0"));
    let deltas: Vec<&str> =
        told[..told.len() - 1].iter().map(|row| row.strip_suffix("|∅|∅|∅").unwrap()).collect();
    assert!(deltas.len() > 3, "in pieces");
    assert_eq!(deltas.concat(), long);
    assert_eq!(upstream.chat_count(), 1);
    // From a stream.
    let other = r#"{"cache": {"ttl": 60}, "temperature": 1}"#;
    let told = rows(&root, &stream(other)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|streamed {long}|computed|0.00007"));
    assert_eq!(says(&root, other).await, format!("streamed {long}|cached|0"));
    let told = rows(&root, &stream(other)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|streamed {long}|cached|0"));
    assert_eq!(upstream.chat_count(), 2);
    // Whoever stops reading has all of it in the ledger, for nothing.
    let first = format!(
        "SELECT (t).delta FROM (SELECT chat_stream('m', '{HELLO}', '{MINUTE}') AS t) AS s LIMIT 1"
    );
    assert!(long.starts_with(&value(&root, &first).await.unwrap()));
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE cost_source = 'cached' AND status = 'success'", "4").await;
}

#[tokio::test]
async fn calls_of_tools_are_kept() {
    let calls = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,
        "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":10,"completion_tokens":5}}"#;
    let upstream = Upstream::start(move |_| Answer::json(200, calls)).await;
    let (_database, root) = ready(&upstream).await;
    let options = r#"{"cache": {"ttl": 60}, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]}"#;
    let reordered = r#"{"tools": [{"function": {"parameters": {"properties": {}, "type": "object"}, "name": "f"}, "type": "function"}], "cache": {"ttl": 60}}"#;
    let ask = |options: &str| format!("SELECT ({}) - 'aggregator'", chat_sql(options));
    let first = json(&root, &ask(options)).await;
    assert_eq!(json(&root, &ask(reordered)).await, first);
    assert_eq!(first["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn the_oldest_go_first() {
    let upstream = Upstream::start(|seen| {
        let asked = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        Answer::says(&format!("{asked} {}", "x".repeat(9000)), USAGE)
    })
    .await;
    let (cluster, name, root) =
        alone("cachesize", "aggregator.cache_size = 100kB", &upstream).await;
    let ask = |n: usize| {
        format!(
            r#"SELECT chat_complete('m', '[{{"role": "user", "content": "q{n}"}}]', '{MINUTE}') #>> '{{aggregator,cost_source}}'"#
        )
    };
    for n in 0..30 {
        assert_eq!(value(&root, &ask(n)).await.unwrap(), "computed");
        assert_eq!(
            rows(&root, "SELECT coalesce(sum(size), 0) <= 102400, coalesce(sum(octet_length(answer)) <= sum(size), true) FROM aggregator_cache").await,
            ["t|t"]
        );
    }
    let left: usize =
        value(&root, "SELECT count(*) FROM aggregator_cache").await.unwrap().parse().unwrap();
    assert!((5..=11).contains(&left), "{left}");
    assert_eq!(value(&root, &ask(29)).await.unwrap(), "cached");
    assert_eq!(value(&root, &ask(0)).await.unwrap(), "computed");
    // One that would take more than a part of it is not kept.
    let large = "SELECT count(*) FROM aggregator_cache WHERE size > 25600";
    let sql = format!("SELECT chat('{}', 'm', '{MINUTE}') IS NOT NULL", "y".repeat(20_000));
    value(&root, &sql).await.unwrap();
    assert_eq!(rows(&root, large).await, ["0"]);
    drop((cluster, name));
}

#[tokio::test]
async fn who_is_forgotten_leaves_no_answer() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    for client in [&ann, &ben] {
        says(client, MINUTE).await;
    }
    assert_eq!(says(&ann, MINUTE).await, HIT);
    kept(&root, 2).await;
    value(&root, "SELECT forget_user('ann')").await.unwrap();
    assert_eq!(rows(&root, "SELECT user_id FROM aggregator_cache").await, ["ben"]);
    save_key(&ann, "standin", "sk-good-ann-0123456789").await;
    assert_eq!(says(&ann, MINUTE).await, "answer 3|computed|0.00007");
}

#[tokio::test]
async fn a_clean_stop_keeps_answers_and_a_crash_empties_them() {
    let upstream = Upstream::start(counting()).await;
    let (cluster, name, root) = alone("cachecrash", "", &upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    kept(&root, 1).await;
    drop(root);
    cluster.down("fast");
    cluster.up();
    let root = cluster.again(&name).await;
    assert_eq!(says(&root, MINUTE).await, HIT);
    cluster.down("immediate");
    cluster.up();
    let root = cluster.again(&name).await;
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 2|cached|0");
    // A dump has the table's name at the most, and nothing of what is in it.
    let dump = bed::run(
        bed::as_server(bed::pg_bin("pg_dump"))
            .args(["-U", "postgres", "-h"])
            .arg(&cluster.dir)
            .arg(&name),
    );
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(
        dump.contains("aggregator_usage_logs") && !dump.contains("COPY public.aggregator_cache"),
        "{dump}"
    );
    // Nor what another master key has sealed.
    value(&root, "SELECT rotate_master_key()").await.unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 3|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
}

#[tokio::test]
async fn what_cannot_be_read_or_kept_is_asked_for() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    kept(&root, 1).await;
    // Somebody has put one answer into the place of another.
    root.batch_execute(
        "UPDATE aggregator_cache SET answer = set_byte(answer, 30, 255 - get_byte(answer, 30))",
    )
    .await
    .unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 2|cached|0");
    // A lock on the table holds nobody up for long.
    let locker = database.root().await;
    locker.batch_execute("BEGIN; LOCK TABLE aggregator_cache").await.unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 3|computed|0.00007");
    locker.batch_execute("ROLLBACK").await.unwrap();
    // It may have been kept when the lock was gone.
    assert!(says(&root, MINUTE).await.ends_with("|cached|0"));
    assert_eq!(echo_count(&database, &root).await, "1");
}

/// A call that is passed by leaves no entry.
async fn echo_count(database: &Database<'_>, root: &Client) -> String {
    let other = Upstream::start(echo).await;
    add_named(root, "echoes", "openai", &other.base_url(), &["e"]).await;
    save_key(root, "echoes", "sk-good-echoes-0123456789").await;
    let asking = database.root().await;
    for _ in 0..2 {
        assert_eq!(value(&asking, "SELECT chat('x', 'e')").await.unwrap(), "re: x");
    }
    assert_eq!(other.chat_count(), 2);
    value(root, "SELECT count(*) FROM aggregator_cache").await.unwrap()
}
