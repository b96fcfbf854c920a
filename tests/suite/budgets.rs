//! Budgets that cannot be overshot, whatever happens at once, and rate limits.

use crate::bed::{self, Cluster, eventually, failure, heard, quoted, rows, value};
use crate::fixtures::{
    HELLO, a_thousand_calls, add_named, chat_sql, ended, prepare, ready, save_key, submit, user,
};
use crate::upstream::{Answer, Gate, Upstream, in_turn};
use std::time::{Duration, Instant};

/// 100 tokens in and 50 out, at 2 and 10 USD per million: 0.0007 USD.
const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#;

fn paid() -> Answer {
    Answer::says("paid", USAGE)
}

const STATUS: &str = "SELECT spent_usd, reserved_usd, left_usd, spent_tokens, spent_requests FROM aggregator_budget_status";

#[tokio::test]
async fn a_thousand_calls_at_once_never_pass_the_cap() {
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(20), Box::new(paid()))).await;
    let (database, root) = ready(&upstream).await;
    // Room for 0.07 / 0.0007 = 100 calls.
    value(&root, "SELECT set_budget(0.07, p_keys => 'all')").await.unwrap();
    let mut clients = vec![];
    for _ in 0..10 {
        clients.push(database.root().await);
    }
    let ok = a_thousand_calls(clients).await;
    assert!(ok > 50 && ok <= 100, "{ok}");
    assert_eq!(upstream.chat_count(), ok, "what was refused was not sent");
    assert_eq!(
        value(&root, "SELECT sum(cost_estimate) <= 0.07 FROM aggregator_usage_logs").await.unwrap(),
        "t"
    );
    // Nothing is set aside any more: what fits goes through until the budget is spent.
    let mut more = 0;
    while let Ok(messages) = root.simple_query(&chat_sql(r#"{"max_tokens": 50}"#)).await {
        assert!(!messages.is_empty());
        more += 1;
        assert!(ok + more <= 100);
    }
    assert!(ok + more >= 99, "{ok} and {more}");
    let left = rows(&root, STATUS).await.concat();
    assert!(left.contains("|0|"), "{left}");
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_and_costs_nothing() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let budget = value(&root, "SELECT set_budget(0.001, p_each_user => true)").await.unwrap();
    value(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    let (code, message) = failure(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await;
    assert_eq!(code, "PT402", "{message}");
    for part in ["month budget of this user", "standin", "'m'", "0.0003"] {
        assert!(message.contains(part), "{message}");
    }
    let error = bed::json(&root, &chat_sql(r#"{"max_tokens": 50, "throw_on_error": false}"#)).await;
    assert_eq!(error["error"]["code"], "budget_exceeded");
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "1");
    assert_eq!(rows(&root, STATUS).await, ["0.0007|0|0.0003000000|150|1"]);
    // Another user has a count of their own; and the same budget set again is the same budget.
    let other = user(&database, "u-b").await;
    value(&other, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    assert_eq!(value(&root, "SELECT set_budget(0.01, p_each_user => true)").await.unwrap(), budget);
    value(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    assert_eq!(value(&root, &format!("SELECT remove_budget('{budget}')")).await.unwrap(), "t");
    assert_eq!(value(&root, &format!("SELECT remove_budget('{budget}')")).await.unwrap(), "f");
}

#[tokio::test]
async fn scopes_periods_and_units() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, 'v/other', 'other', 'Other', '{\"input\": 2, \"output\": 10}' FROM api_providers WHERE name = 'standin'",
    )
    .await
    .unwrap();
    let other_model = chat_sql("{}").replace("'m'", "'other'");
    bed::not_at_the_end_of_an_hour().await;
    // One request of one model each hour; two of everybody in all.
    value(&root, "SELECT set_budget(p_limit_requests => 1, p_period => 'hour', p_model => 'm', p_provider => 'standin', p_keys => 'all')").await;
    value(&root, "SELECT set_budget(p_limit_requests => 3, p_period => 'total', p_keys => 'all')")
        .await;
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT402");
    value(&root, &other_model).await.unwrap();
    let other = user(&database, "u-b").await;
    assert_eq!(failure(&other, &chat_sql("{}")).await.0, "PT402");
    value(&other, &other_model).await.unwrap();
    assert_eq!(failure(&other, &other_model).await.0, "PT402");
    // Tokens, of one user.
    root.batch_execute("DELETE FROM aggregator_budgets").await.unwrap();
    value(&root, "SELECT set_budget(p_limit_tokens => 700, p_user_id => 'u-b', p_period => 'day')")
        .await;
    value(&other, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    assert_eq!(failure(&other, &chat_sql(r#"{"max_tokens": 400}"#)).await.0, "PT402");
    value(&root, &chat_sql(r#"{"max_tokens": 400}"#)).await.unwrap();
    for (bad, code) in [
        ("set_budget()", "PT400"),
        ("set_budget(-1)", "PT400"),
        ("set_budget('NaN')", "PT400"),
        ("set_budget(1, p_period => 'year')", "PT400"),
        ("set_budget(1, p_action => 'shout')", "PT400"),
        ("set_budget(1, p_keys => 'theirs')", "PT400"),
        ("set_budget(1, p_user_id => 'x', p_each_user => true)", "PT400"),
        ("set_budget(1, p_provider => 'nosuch')", "PT404"),
        ("set_rate_limit()", "PT400"),
        ("set_rate_limit(0)", "PT400"),
    ] {
        assert_eq!(failure(&root, &format!("SELECT {bad}")).await.0, code, "{bad}");
    }
}

#[tokio::test]
async fn what_has_no_bound_is_refused_and_what_has_none_of_its_own_is_given_one() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_budget(0.01, p_keys => 'all')").await.unwrap();
    let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.example/a.png"}}]}]"#;
    let (code, message) =
        failure(&root, &format!("SELECT chat_complete('m', '{image}', '{{\"max_tokens\": 1}}')"))
            .await;
    assert_eq!(code, "PT402", "{message}");
    assert!(message.contains("image_url"), "{message}");
    let unpriced = format!("SELECT chat_complete('unlisted', '{HELLO}', provider => 'standin')");
    let (code, message) = failure(&root, &unpriced).await;
    assert_eq!(code, "PT402", "{message}");
    assert!(message.contains("price"), "{message}");
    assert_eq!(upstream.chat_count(), 0);
    // Neither the request nor the model says how long the answer may be: the budget does.
    value(&root, &chat_sql("{}")).await.unwrap();
    let most = upstream.chats()[0].json()["max_tokens"].as_i64().unwrap();
    assert!(most > 500 && most < 1000, "{most}");
    root.batch_execute("UPDATE aggregator_models SET max_output_tokens = 70").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(upstream.chats()[1].json().get("max_tokens"), None);
    // The dearest tier counts.
    root.batch_execute("UPDATE aggregator_models SET pricing = pricing || '{\"tiers\": [{\"min_prompt_tokens\": 9, \"output\": 1000}]}'").await.unwrap();
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT402");
}

#[tokio::test]
async fn what_was_cut_off_counts_in_full_and_what_was_refused_for_nothing() {
    let upstream = Upstream::start(in_turn(vec![
        Answer::json(400, r#"{"error":{"message":"no"}}"#),
        Answer::Stall,
        paid(),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_budget(0.002, p_keys => 'all')").await.unwrap();
    let sql = chat_sql(r#"{"max_tokens": 100, "timeout_ms": 5000, "max_retries": 0}"#);
    assert_eq!(failure(&root, &sql).await.0, "PT400");
    assert_eq!(
        value(&root, "SELECT spent_usd = 0 FROM aggregator_budget_status").await.unwrap(),
        "t"
    );
    assert_eq!(failure(&root, &sql).await.0, "PT504");
    // 0.001 for the answer, something for the prompt.
    assert_eq!(
        value(
            &root,
            "SELECT spent_usd > 0.001 AND spent_usd < 0.0015 FROM aggregator_budget_status"
        )
        .await
        .unwrap(),
        "t"
    );
    assert_eq!(failure(&root, &sql).await.0, "PT402", "the rest does not suffice");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_new_worker_counts_what_the_last_one_spent() {
    let upstream = Upstream::start(|_| paid()).await;
    let cluster = Cluster::start("budgets", "");
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    value(&root, "SELECT set_budget(0.0016, p_keys => 'all')").await.unwrap();
    value(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    eventually(&root, "SELECT status FROM aggregator_usage_logs", "success").await;
    cluster.down("immediate");
    cluster.up();
    let root = cluster.connect("postgres", &database.name).await;
    value(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    assert_eq!(failure(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.0, "PT402");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_budget_counts_what_was_on_its_way_when_it_was_set() {
    let gate = Gate::default();
    let upstream = Upstream::start(in_turn(vec![Answer::held(&gate, paid()), paid()])).await;
    let (database, root) = ready(&upstream).await;
    let other = database.root().await;
    let sql = chat_sql(r#"{"max_tokens": 50}"#);
    let slow = value(&root, &sql);
    let meanwhile = async {
        upstream.wait_for_chats(1).await;
        value(&other, "SELECT set_budget(0.0018, p_keys => 'all')").await.unwrap();
        value(&other, &sql).await.unwrap();
        gate.open();
    };
    let (slow, ()) = tokio::join!(slow, meanwhile);
    assert!(slow.is_some());
    assert_eq!(failure(&other, &sql).await.0, "PT402");
}

#[tokio::test]
async fn who_spends_much_is_told_once() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let (listener, lines) = database.listener().await;
    listener.batch_execute("LISTEN aggregator_budgets").await.unwrap();
    value(&root, "SELECT set_budget(0.0015, p_action => 'warn', p_keys => 'all')").await.unwrap();
    for _ in 0..4 {
        value(&root, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    }
    eventually(
        &root,
        "SELECT string_agg(percent::text, ' ' ORDER BY percent) FROM aggregator_budget_warnings",
        "80 100",
    )
    .await;
    // What is heard is the id of a row, and the row is for those who may see it.
    let lines = heard(&lines, 2).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let ids: Vec<String> = lines
        .iter()
        .map(|line| bed::quoted(line.strip_prefix("aggregator_budgets ").unwrap()))
        .collect();
    let sql = format!(
        "SELECT percent FROM aggregator_budget_warnings WHERE id IN ({}) ORDER BY 1",
        ids.join(", ")
    );
    assert_eq!(rows(&root, &sql).await, ["80", "100"]);
}

#[tokio::test]
async fn users_see_their_own_budgets_and_set_none() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    root.batch_execute(
        "SELECT set_budget(1, p_user_id => 'u-a'), set_budget(2, p_each_user => true), set_budget(3, p_keys => 'all'),
            set_rate_limit(100, p_user_id => 'u-a')",
    )
    .await
    .unwrap();
    value(&a, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    value(&b, &chat_sql(r#"{"max_tokens": 50}"#)).await.unwrap();
    let seen = "SELECT user_id, limit_usd::real, spent_usd FROM aggregator_budget_status ORDER BY limit_usd, user_id";
    assert_eq!(rows(&a, seen).await, ["u-a|1|0.0007", "u-a|2|0.0007"]);
    assert_eq!(rows(&b, seen).await, ["u-b|2|0.0007"]);
    let all = rows(&root, seen).await;
    assert!(
        all.contains(&"∅|3|0.0014".to_owned()) && all.contains(&"u-b|2|0.0007".to_owned()),
        "{all:?}"
    );
    assert_eq!(rows(&b, "SELECT * FROM aggregator_rate_limits").await.len(), 0);
    for sql in [
        "SELECT set_budget(1)",
        "SELECT remove_budget(gen_random_uuid())",
        "SELECT set_rate_limit(1)",
        "SELECT remove_rate_limit(gen_random_uuid())",
        "INSERT INTO aggregator_budgets (period, limit_usd) VALUES ('day', 1)",
        "UPDATE aggregator_budgets SET limit_usd = 1000",
        "DELETE FROM aggregator_rate_limits",
    ] {
        assert_eq!(failure(&a, sql).await.0, "42501", "{sql}");
    }
    root.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO authenticated")
        .await
        .unwrap();
    assert_eq!(failure(&a, "SELECT set_budget(1)").await.0, "PT403");
    let admin = database.rest("service_role", None).await;
    value(&admin, "SELECT set_budget(9, p_user_id => 'u-c')").await.unwrap();
}

#[tokio::test]
async fn rate_limits_refuse_with_the_time_to_wait_and_jobs_wait() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    // One more every fifteen seconds.
    value(&root, "SELECT set_rate_limit(4, p_each_user => true)").await.unwrap();
    let sql = format!(
        "SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE error ->> 'sqlstate' = 'PT429')
         FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'messages', {}::jsonb)) FROM generate_series(1, 14)))",
        quoted(HELLO)
    );
    let began = Instant::now();
    assert_eq!(rows(&root, &sql).await, ["4|10"]);
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT429", "{message}");
    let seconds = message.split("Retry after ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: u32 = seconds.and_then(|n| n.parse().ok()).unwrap_or_default();
    assert!(message.contains("4 requests per minute") && (1..=15).contains(&seconds), "{message}");
    assert_eq!(upstream.chat_count(), 4);
    // Another user is not held up; a job waits for its turn and has run once in the end.
    let other = user(&database, "u-b").await;
    value(&other, &chat_sql("{}")).await.unwrap();
    let job = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &job).await, "succeeded|paid|1");
    let chats = upstream.chats();
    assert_eq!(chats.len(), 6);
    assert!(chats[5].at - began > Duration::from_millis(14_500), "{:?}", chats[5].at - began);
}

#[tokio::test]
async fn tokens_per_minute_are_put_right_by_the_usage() {
    let upstream = Upstream::start(|_| {
        Answer::says("x", r#"{"prompt_tokens":900,"completion_tokens":0,"total_tokens":900}"#)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_rate_limit(p_tokens_per_minute => 1000)").await.unwrap();
    // The prompt looks small when it is sent; what it used is taken afterwards.
    value(&root, &chat_sql("{}")).await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT429", "{message}");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_limit_at_one_provider_sends_the_call_to_the_next() {
    let (first, second) = (Upstream::start(|_| paid()).await, Upstream::start(|_| paid()).await);
    let (_database, root) = ready(&first).await;
    add_named(&root, "second", "openai", &second.base_url(), &["m"]).await;
    save_key(&root, "second", "sk-good-second").await;
    root.batch_execute("UPDATE user_api_providers SET priority = 9 WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'standin')").await.unwrap();
    value(
        &root,
        "SELECT set_budget(p_limit_requests => 1, p_provider => 'standin', p_keys => 'all')",
    )
    .await
    .unwrap();
    for provider in ["standin", "second"] {
        let answer = bed::json(&root, &chat_sql("{}")).await;
        assert_eq!(answer["aggregator"]["provider"], provider);
    }
}
