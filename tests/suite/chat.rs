//! The main job: a key, a chat, its usage row and cost.

use crate::bed::{self, eventually, failure, quoted, rows, value};
use crate::fixtures::{HELLO, add_provider, chat_sql, ready};
use crate::upstream::{Answer, Gate, Upstream};
use std::time::{Duration, Instant};

#[tokio::test]
async fn from_key_to_cost() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-0123456789abcdef')").await.unwrap();
    // The first key has the provider's own list fetched meanwhile, with other models in it.
    let models = rows(
        &root,
        "SELECT provider_name, model_id, pricing, is_aggregator FROM get_user_available_models() WHERE model_id = 'm'",
    )
    .await;
    assert_eq!(models, [r#"standin|m|{"input": 2, "output": 10}|f"#]);
    let answer =
        value(&root, &chat_sql(r#"{"temperature": 0.25, "max_tokens": 7}"#)).await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    let about = &answer["aggregator"];
    assert_eq!(about["provider"], "standin");
    assert_eq!(about["served_model"], "m-served");
    assert_eq!(about["cost_source"], "computed");
    assert_eq!(about["attempts"], 1);
    // 10 x 2 + 5 x 10 USD per million.
    assert_eq!(about["cost"].as_f64().unwrap(), 0.00007);
    let row = rows(
        &root,
        &format!(
            "SELECT user_id, model_id, served_model, status, prompt_tokens, completion_tokens, total_tokens,
                cost_estimate, cost_source, http_status, finish_reason, request_id
             FROM aggregator_usage_logs WHERE call_id = '{}'",
            about["usage_log_id"].as_str().unwrap()
        ),
    )
    .await;
    assert_eq!(row, ["role:postgres|m|m-served|success|10|5|15|0.00007|computed|200|stop|gen-1"]);
    let sent = &upstream.chats()[0];
    assert_eq!(sent.json()["temperature"], 0.25);
    assert_eq!(sent.json()["model"], "m");
    assert_eq!(sent.header("authorization"), Some("Bearer sk-good-0123456789abcdef"));
    assert_eq!(value(&root, "SELECT chat('hi', 'm')").await.unwrap(), "hello");
    let costs = rows(&root, "SELECT * FROM calculate_provider_costs('role:postgres')").await;
    assert!(costs[0].starts_with("standin|m|2|20|10|30|0.00014"), "{costs:?}");
    eventually(
        &root,
        "SELECT count(*) FROM user_api_providers WHERE last_used_at IS NOT NULL",
        "1",
    )
    .await;
}

#[tokio::test]
async fn the_row_is_durable_before_the_request_leaves_and_outlives_a_rollback() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let (database, root) = ready(&upstream).await;
    let watcher = database.root().await;
    let call = async {
        root.batch_execute("BEGIN").await.unwrap();
        value(&root, &chat_sql("{}")).await.unwrap();
        // Settled rows are there for the caller's next statement.
        assert_eq!(
            value(&root, "SELECT status FROM aggregator_usage_logs").await.unwrap(),
            "success"
        );
        root.batch_execute("ROLLBACK").await.unwrap();
    };
    let watch = async {
        upstream.wait_for_chats(1).await;
        assert_eq!(rows(&watcher, "SELECT status FROM aggregator_usage_logs").await, ["pending"]);
        gate.open();
    };
    tokio::join!(call, watch);
    assert_eq!(
        rows(&root, "SELECT status, cost_source FROM aggregator_usage_logs").await,
        ["success|computed"]
    );
}

#[tokio::test]
async fn without_ledger_sync_rows_are_written_all_the_same() {
    let cluster = bed::Cluster::start("nosync", "aggregator.ledger_sync = off");
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-1', p_validate => false)").await;
    for _ in 0..20 {
        root.batch_execute(&format!("BEGIN; {}; ROLLBACK", chat_sql("{}"))).await.unwrap();
    }
    let count = rows(
        &root,
        "SELECT status, count(*), sum(cost_estimate) FROM aggregator_usage_logs GROUP BY 1",
    )
    .await;
    assert!(count[0].starts_with("success|20|0.0014"), "{count:?}");
}

#[tokio::test]
async fn cancel_and_timeout_abort_the_upstream_call_at_once() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (database, root) = ready(&upstream).await;

    let canceller = database.canceller(&root).await;
    let cancel = async {
        upstream.wait_for_chats(1).await;
        let at = Instant::now();
        canceller.cancel().await;
        at
    };
    let sql = chat_sql("{}");
    let ((code, _), cancelled_at) = tokio::join!(failure(&root, &sql), cancel);
    assert_eq!(code, "57014");
    aborted_within(&upstream, 0, cancelled_at).await;
    eventually(
        &root,
        "SELECT status || ' ' || error_code FROM aggregator_usage_logs",
        "cancelled cancelled",
    )
    .await;

    // statement_timeout: the caller gets our error half a second before the server would cancel.
    let at = Instant::now();
    root.batch_execute("SET statement_timeout = 5000").await.unwrap();
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT504", "{message}");
    aborted_within(&upstream, 1, at + Duration::from_millis(5000)).await;
    let error = value(&root, &chat_sql(r#"{"throw_on_error": false}"#)).await.unwrap();
    let error: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["sqlstate"], "PT504");
    root.batch_execute("RESET statement_timeout").await.unwrap();

    // timeout_ms.
    let (code, _) = failure(&root, &chat_sql(r#"{"timeout_ms": 3000, "max_retries": 0}"#)).await;
    assert_eq!(code, "PT504");
    let statuses = rows(&root, "SELECT status, error_code, cost_estimate, cost_source FROM aggregator_usage_logs ORDER BY created_at").await;
    assert_eq!(statuses[0], "cancelled|cancelled|∅|incomplete");
    assert_eq!(statuses[1], "error|deadline|∅|incomplete");
    assert_eq!(statuses.len(), 4);
}

/// Of its own accord the call would wait for two minutes.
async fn aborted_within(upstream: &Upstream, index: usize, since: Instant) {
    let took = upstream.wait_for_abort(index).await.saturating_duration_since(since);
    assert!(took < Duration::from_secs(20), "aborted after {took:?}");
}

#[tokio::test]
async fn a_killed_session_and_a_lost_client_abort_the_call() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let (database, root) = ready(&upstream).await;
    let victim = database.root().await;
    let pid = value(&victim, "SELECT pg_backend_pid()").await.unwrap();
    let killer = async {
        upstream.wait_for_chats(1).await;
        value(&root, &format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let sql = chat_sql("{}");
    let (result, ()) = tokio::join!(victim.simple_query(&sql), killer);
    assert!(result.is_err());
    eventually(&root, "SELECT status FROM aggregator_usage_logs", "cancelled").await;

    // A client that just goes away.
    let mut lost = tokio::process::Command::new(bed::pg_bin("psql"))
        .args([
            "-h",
            database.cluster.dir.to_str().unwrap(),
            "-U",
            "postgres",
            "-d",
            &database.name,
            "-c",
            &sql,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    upstream.wait_for_chats(2).await;
    lost.kill().await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled'", "2")
        .await;
    upstream.wait_for_abort(1).await;
}

#[tokio::test]
async fn retries_are_rows_and_obey_the_upstream() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let upstream =
        Upstream::start(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Answer::json(503, r#"{"error":{"message":"busy"}}"#),
            1 => Answer::Full(
                429,
                vec![("retry-after", "1".into())],
                r#"{"error":{"message":"slow","code":"rate_limit_exceeded"}}"#.into(),
            ),
            _ => Answer::hello(),
        })
        .await;
    let (_database, root) = ready(&upstream).await;
    let began = Instant::now();
    let answer = value(&root, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
    assert!(answer.contains(r#""attempts": 3"#), "{answer}");
    let log = rows(&root, "SELECT attempt, status, http_status, error_code, cost_estimate FROM aggregator_usage_logs ORDER BY attempt").await;
    assert_eq!(log[0], "1|error|503|http_503|0");
    assert_eq!(log[1], "2|error|429|rate_limit_exceeded|0");
    assert!(log[2].starts_with("3|success|200|∅|0.00007"), "{log:?}");
    assert_eq!(
        value(&root, "SELECT requests FROM calculate_provider_costs(NULL)").await.unwrap(),
        "3"
    );
}

#[tokio::test]
async fn what_cannot_pass_is_not_sent_twice() {
    for (status, body, code) in [
        (400, r#"{"error":{"message":"bad","code":"invalid_value"}}"#, "PT400"),
        (402, r#"{"error":{"message":"pay"}}"#, "PT402"),
        (403, r#"{"error":{"message":"no"}}"#, "PT403"),
        (404, r#"{"error":{"message":"gone"}}"#, "PT404"),
        (429, r#"{"error":{"message":"quota","code":"insufficient_quota"}}"#, "PT402"),
    ] {
        let upstream = Upstream::start(move |_| {
            Answer::Full(status, vec![("x-request-id", "req-7".into())], body.into())
        })
        .await;
        let (_database, root) = ready(&upstream).await;
        let (state, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(state, code, "{message}");
        for part in ["standin", "'m'", &status.to_string(), "req-7"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(upstream.chats().len(), 1);
        let log =
            rows(&root, "SELECT status, http_status, request_id FROM aggregator_usage_logs").await;
        assert_eq!(log, [format!("error|{status}|req-7")]);
    }
}

#[tokio::test]
async fn upstream_costs_are_preferred_to_the_digit() {
    let upstream = Upstream::start(|_| {
        Answer::says(
            "x",
            r#"{"prompt_tokens":10,"completion_tokens":5,"cost":0.00012345678901234567890123}"#,
        )
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let cost = value(
        &root,
        &format!("SELECT r -> 'aggregator' ->> 'cost' FROM ({}) AS x(r)", chat_sql("{}")),
    )
    .await;
    assert_eq!(cost.unwrap(), "0.00012345678901234567890123");
    let log = rows(
        &root,
        "SELECT cost_estimate, cost_source, cost_computed::float FROM aggregator_usage_logs",
    )
    .await;
    assert_eq!(log, ["0.00012345678901234567890123|upstream|7e-05"]);
}

#[tokio::test]
async fn an_openai_body_is_taken_as_it_is() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let body = format!(
        r#"{{"model":"standin:m","messages":{HELLO},"top_k":40,"provider":{{"sort":"price"}}}}"#
    );
    let answer =
        value(&root, &format!("SELECT chat_completions({})", quoted(&body))).await.unwrap();
    assert!(answer.contains("hello"));
    let sent = upstream.chats()[0].json();
    assert_eq!(
        (&sent["model"], &sent["top_k"], &sent["provider"]["sort"]),
        (&"m".into(), &40.into(), &"price".into())
    );
    assert_eq!(
        value(&root, "SELECT proargnames IS NULL FROM pg_proc WHERE proname = 'chat_completions'")
            .await
            .unwrap(),
        "t"
    );
}

#[tokio::test]
async fn numbers_survive_both_ways() {
    let upstream = Upstream::start(|_| {
        Answer::json(200, r#"{"model":"m","x":12345678901234567890123.456789012345678901,"choices":[{"message":{"content":"a\u0000b\ud800"}}]}"#)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let answer = value(&root, &chat_sql(r#"{"seed": 98765432109876543210987, "temperature": 0.1000000000000000055511151231257827}"#)).await.unwrap();
    assert!(answer.contains("12345678901234567890123.456789012345678901"), "{answer}");
    assert!(answer.contains("a\u{fffd}b\u{fffd}"), "{answer}");
    let sent = &upstream.chats()[0].body;
    assert!(
        sent.contains("98765432109876543210987")
            && sent.contains("0.1000000000000000055511151231257827"),
        "{sent}"
    );
    // No usage at all: unknown, not free.
    assert_eq!(
        rows(&root, "SELECT cost_estimate, cost_source, total_tokens FROM aggregator_usage_logs")
            .await,
        ["∅|incomplete|∅"]
    );
}

#[tokio::test]
async fn many_sessions_share_the_gateway() {
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(50), Box::new(Answer::hello())))
            .await;
    let (database, root) = ready(&upstream).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = database.root().await;
        tasks.spawn(async move {
            for _ in 0..10 {
                value(&client, &chat_sql("{}")).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(
        rows(
            &root,
            "SELECT status, count(*), count(DISTINCT call_id) FROM aggregator_usage_logs GROUP BY 1"
        )
        .await,
        ["success|200|200"]
    );
    assert_eq!(upstream.chats().len(), 200);
}

#[tokio::test]
async fn headers_of_a_provider_are_sent_and_may_not_replace_ours() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("UPDATE api_providers SET headers = '{\"X-Provider\": \"aihubmix\"}' WHERE name = 'standin'").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(upstream.chats()[0].header("x-provider"), Some("aihubmix"));
    for headers in [r#"{"Authorization": "x"}"#, r#"{"bad name": "x"}"#, r#"{"x": "a\nb"}"#] {
        let sql = format!("UPDATE api_providers SET headers = '{headers}' WHERE name = 'standin'");
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{headers}");
    }
    assert_eq!(upstream.chats().len(), 1);
    let seeded = rows(
        &root,
        "SELECT headers FROM api_providers WHERE name IN ('aihubmix', 'openrouter') ORDER BY name",
    )
    .await;
    assert!(seeded[0].contains("X-Provider") && seeded[1].contains("HTTP-Referer"), "{seeded:?}");
}
