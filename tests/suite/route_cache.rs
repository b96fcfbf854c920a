//! Sessions keep what a call looks up. What changes is known to the next call, wherever it is made; what is
//! rolled back was never there.

use crate::bed::{PATIENCE, json, rows, value};
use crate::fixtures::{HELLO, ready};
use crate::upstream::{Answer, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

fn quiet_chat() -> String {
    format!("SELECT chat_complete('m', '{HELLO}', '{{\"throw_on_error\": false}}')")
}

/// A call: when it was sent, when it was answered, its error and its cost.
type Call = (Instant, Instant, Option<String>, Option<String>);

/// From when until when something held, and no longer than that.
struct Held {
    from: Instant,
    until: Instant,
    code: Option<&'static str>,
    cost: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_uses_what_a_commit_took_away_before_it_began() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    value(&root, &quiet_chat()).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for _ in 0..3 {
        let (session, is_over) = (database.root().await, is_over.clone());
        let ended = ended.clone();
        callers.push(tokio::spawn(async move {
            let mut calls: Vec<Call> = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = json(&session, &quiet_chat()).await;
                let code = answer["error"]["code"].as_str().map(str::to_owned);
                let cost = answer["aggregator"].get("cost").map(ToString::to_string);
                calls.push((began, Instant::now(), code, cost));
                ended.fetch_add(1, Ordering::SeqCst);
            }
            calls
        }));
    }
    // 10 tokens in and 5 out.
    const DEAR: Option<&str> = Some("0.00015");
    const CHEAP: Option<&str> = Some("0.00007");
    let price = |input: u8| {
        format!(
            "UPDATE aggregator_models SET pricing = '{{\"input\": {input}, \"output\": 10}}' WHERE model_id = 'm'"
        )
    };
    let changes = [
        ("UPDATE user_api_providers SET is_active = false".to_owned(), Some("no_key"), None),
        ("UPDATE user_api_providers SET is_active = true".to_owned(), None, CHEAP),
        (
            "UPDATE api_providers SET is_active = false WHERE name = 'standin'".to_owned(),
            Some("no_key"),
            None,
        ),
        (
            "UPDATE api_providers SET is_active = true WHERE name = 'standin'".to_owned(),
            None,
            CHEAP,
        ),
        (
            "SELECT set_budget(p_limit_usd => 0, p_keys => 'all')".to_owned(),
            Some("budget_exceeded"),
            None,
        ),
        ("DELETE FROM aggregator_budgets".to_owned(), None, CHEAP),
        (price(10), None, DEAR),
        (price(2), None, CHEAP),
    ];
    let mut held: Vec<Held> = Vec::new();
    for (sql, code, cost) in changes.iter().cycle().take(20 * changes.len()) {
        if let Some(last) = held.last_mut() {
            last.until = Instant::now();
        }
        root.batch_execute(sql).await.unwrap();
        let from = Instant::now();
        held.push(Held { from, until: from, code: *code, cost: *cost });
        // Of these at most three had begun before.
        let enough = ended.load(Ordering::SeqCst) + 9;
        while ended.load(Ordering::SeqCst) < enough {
            assert!(from.elapsed() < PATIENCE, "nobody is answered");
            sleep(Duration::from_millis(5)).await;
        }
    }
    if let Some(last) = held.last_mut() {
        last.until = Instant::now();
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut judged, mut refused) = (0, 0);
    for caller in callers {
        for (began, ended, code, cost) in caller.await.unwrap() {
            let Some(held) = held.iter().find(|held| held.from <= began && ended <= held.until)
            else {
                continue;
            };
            judged += 1;
            refused += usize::from(code.is_some());
            // Why there is no route differs with what was taken away.
            match (held.code, &code) {
                (Some("no_key"), Some(code)) => assert!(
                    ["no_key", "unknown_model", "unknown_provider"].contains(&code.as_str()),
                    "{code}"
                ),
                (expected, code) => assert_eq!(code.as_deref(), expected),
            }
            if held.cost.is_some() {
                assert_eq!(cost.as_deref(), held.cost);
            }
        }
    }
    assert!(judged > 100 && refused > 20, "{judged} calls, {refused} of them refused");
}

#[tokio::test]
async fn what_is_rolled_back_was_never_known() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let code =
        async || json(&root, &quiet_chat()).await["error"]["code"].as_str().map(str::to_owned);
    assert_eq!(code().await, None);
    root.batch_execute("BEGIN; SELECT set_budget(p_limit_usd => 0, p_keys => 'all')")
        .await
        .unwrap();
    assert_eq!(code().await.as_deref(), Some("budget_exceeded"));
    root.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(code().await, None);
    root.batch_execute("BEGIN; SAVEPOINT a; SELECT set_budget(p_limit_usd => 0, p_keys => 'all')")
        .await
        .unwrap();
    assert_eq!(code().await.as_deref(), Some("budget_exceeded"));
    root.batch_execute("ROLLBACK TO SAVEPOINT a").await.unwrap();
    assert_eq!(code().await, None);
    root.batch_execute("SELECT set_budget(p_limit_usd => 0, p_keys => 'all'); COMMIT")
        .await
        .unwrap();
    assert_eq!(code().await.as_deref(), Some("budget_exceeded"));
}

#[tokio::test]
async fn a_session_keeps_no_more_routes_than_it_may() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    // Each provider and spelling is another route: more than are kept, twice.
    for _ in 0..2 {
        let models = "SELECT count(*) FROM (SELECT chat_complete('standin:m' || i, '[{\"role\":\"user\",\"content\":\"hi\"}]') FROM generate_series(1, 300) AS i OFFSET 0) AS s";
        assert_eq!(value(&root, models).await.as_deref(), Some("300"));
    }
    assert_eq!(upstream.chat_count(), 600);
    assert_eq!(rows(&root, "SELECT DISTINCT status FROM aggregator_usage_logs").await, ["success"]);
}

#[tokio::test]
async fn what_disarmed_triggers_let_through_is_known_once_they_are_armed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let session = database.root().await;
    let code =
        async || json(&session, &quiet_chat()).await["error"]["code"].as_str().map(str::to_owned);
    assert_eq!(code().await, None);
    // As pg_restore --disable-triggers does.
    root.batch_execute(
        "BEGIN;
         ALTER TABLE user_api_providers DISABLE TRIGGER ALL;
         DELETE FROM user_api_providers;
         ALTER TABLE user_api_providers ENABLE TRIGGER ALL;
         COMMIT",
    )
    .await
    .unwrap();
    assert_eq!(code().await.as_deref(), Some("no_key"));
}
