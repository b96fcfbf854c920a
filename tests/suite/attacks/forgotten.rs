//! A user who was forgotten stays forgotten, whatever was in flight, in a transaction, or in the planner's
//! memory.

use crate::bed::{self, Database, eventually, failure, rows, value};
use crate::fixtures::{HELLO, WORKERS, add_provider, ended, save_key};
use crate::upstream::{Answer, Upstream};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The one who goes. No other text of these tests holds this.
const GONE: &str = "u-gone-9f3c";
const PENDING: &str = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
/// In every prompt of theirs.
const SECRET: &str = "dEaR-dIaRy";

fn prompt() -> String {
    HELLO.replace("hi", SECRET)
}

async fn prepared(upstream: &Upstream) -> (Database<'static>, Client, Client, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    let service = database.rest("service_role", None).await;
    let user = database.rest("authenticated", Some(GONE)).await;
    save_key(&user, "standin", "sk-good-1").await;
    (database, root, service, user)
}

/// Every table of the extension, and what planners know of them, in which this text stands.
async fn traces(root: &Client, text: &str) -> Vec<String> {
    let tables = rows(
        root,
        "SELECT c.oid::regclass FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid
         WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'p')
           AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator') ORDER BY 1",
    )
    .await;
    assert!(tables.len() > 10, "{tables:?}");
    let mut found = vec![];
    for table in tables {
        let sql = format!("SELECT * FROM {table} AS t WHERE t::text LIKE '%{text}%'");
        found.extend(rows(root, &sql).await.into_iter().map(|row| format!("{table}: {row}")));
    }
    let sql = format!(
        "SELECT tablename, attname FROM pg_stats
         WHERE schemaname = 'public'
           AND coalesce(most_common_vals::text, '') || coalesce(histogram_bounds::text, '') LIKE '%{text}%'"
    );
    found.extend(rows(root, &sql).await.into_iter().map(|row| format!("statistics: {row}")));
    found
}

#[tokio::test]
async fn nothing_of_a_forgotten_user_is_left_in_any_table_or_statistic() {
    let upstream = Upstream::start(|seen| {
        // The key cools down.
        if seen.body.contains("refuse") { Answer::json(401, "{}") } else { Answer::hello() }
    })
    .await;
    let (database, root, service, user) = prepared(&upstream).await;
    root.batch_execute(
        "SELECT set_budget(0.00001, p_each_user => true, p_action => 'warn'),
             set_budget(5, p_user_id => 'u-gone-9f3c'), set_rate_limit(500, p_user_id => 'u-gone-9f3c')",
    )
    .await
    .unwrap();
    let prompt = prompt();
    for _ in 0..20 {
        value(&user, &format!("SELECT chat_complete('m', '{prompt}')")).await.unwrap();
    }
    value(&user, "SELECT validate_provider_key('standin')").await.unwrap();
    let checked = format!(
        "SELECT count(*) FROM aggregator_key_checks WHERE user_id = '{GONE}' AND kind = 'check'"
    );
    eventually(&root, &checked, "1").await;
    let other = crate::fixtures::user(&database, "u-stays").await;
    value(&other, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    let job = format!("SELECT chat_submit('m', '{prompt}', p_idempotency_key => '{GONE}')");
    let job = value(&user, &job).await.unwrap();
    assert_eq!(ended(&user, &job).await, "succeeded|hello|1");
    let refused = prompt.replace(SECRET, &format!("refuse {SECRET}"));
    failure(&user, &format!("SELECT chat_complete('m', '{refused}')")).await;
    let cooling = format!("SELECT count(*) > 0 FROM aggregator_cooling WHERE user_id = '{GONE}'");
    eventually(&root, &cooling, "t").await;
    let warned =
        format!("SELECT count(*) FROM aggregator_budget_warnings WHERE user_id = '{GONE}'");
    eventually(&root, &warned, "1").await;
    root.batch_execute("ANALYZE").await.unwrap();
    let before = traces(&root, GONE).await;
    for place in ["statistics: aggregator_usage_logs", "aggregator_key_checks: "] {
        assert!(before.iter().any(|trace| trace.starts_with(place)), "{place}: {before:?}");
    }
    // Prompts and answers are in no statistic in the first place.
    let prompts = traces(&root, SECRET).await;
    assert!(prompts.iter().all(|trace| trace.starts_with("aggregator_jobs: ")), "{prompts:?}");
    assert_eq!(value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap(), "22");
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    assert_eq!(traces(&root, SECRET).await, Vec::<String>::new());
    // The money is still there, and the others.
    assert_eq!(
        rows(
            &root,
            "SELECT starts_with(user_id, 'forgotten:'), count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1"
        )
        .await,
        ["f|1", "t|22"]
    );
    assert_eq!(value(&other, "SELECT count(*) FROM user_api_providers").await.unwrap(), "1");
    assert_eq!(
        value(&root, "SELECT sum(requests) FROM aggregator_usage_hourly WHERE starts_with(user_id, 'forgotten:')")
            .await
            .unwrap(),
        "22"
    );
}

#[tokio::test]
async fn the_words_of_a_forgotten_user_go_with_their_keys_and_tags() {
    let upstream = Upstream::start(|seen| match &seen.body {
        body if body.contains("hang") => Answer::Stall,
        _ => Answer::hello(),
    })
    .await;
    let (database, root, service, user) = prepared(&upstream).await;
    let make = format!(
        "SELECT create_gateway_key('{SECRET}', p_tags => '{{{SECRET}}}', p_limit_usd => 5)"
    );
    for _ in 0..30 {
        value(&user, &make).await.unwrap();
    }
    let chat = |content: &str| {
        let messages = HELLO.replace("hi", content);
        format!(
            "SELECT chat_complete('m', '{messages}', '{{\"tags\": [\"{SECRET}\", \"{GONE}\"]}}')"
        )
    };
    for _ in 0..30 {
        value(&user, &chat("hi")).await.unwrap();
    }
    root.batch_execute("UPDATE aggregator_usage_logs SET gateway_key_id = (SELECT id FROM aggregator_gateway_keys LIMIT 1)
         WHERE created_at >= aggregator_archived_until(); ANALYZE")
        .await
        .unwrap();
    let words = traces(&root, SECRET).await;
    for table in ["aggregator_usage_labels", "aggregator_usage_logs", "aggregator_gateway_keys"] {
        assert!(words.iter().any(|trace| trace.starts_with(table)), "{table}");
    }
    assert!(!words.iter().any(|trace| trace.starts_with("statistics")), "{words:?}");
    // One that is on its way.
    let hanging = database.rest("authenticated", Some(GONE)).await;
    let call = tokio::spawn(async move {
        let _ = hanging.simple_query(&chat("hang")).await;
    });
    upstream.wait_for_chats(31).await;
    assert_eq!(value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap(), "31");
    call.await.unwrap();
    // What is still to be settled is, before anything is counted.
    let ended = "SELECT pg_terminate_backend(worker_pid, 60000) FROM aggregator_status()";
    assert_eq!(value(&root, ended).await.unwrap(), "t");
    root.batch_execute("ANALYZE").await.unwrap();
    assert_eq!(traces(&root, SECRET).await, Vec::<String>::new());
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    // Of the sums those of the key are left, whose id says nothing.
    assert_eq!(
        rows(&root, "SELECT kind, bool_and(starts_with(user_id, 'forgotten:')), sum(requests) FROM aggregator_usage_labels GROUP BY 1").await,
        ["key|t|30"]
    );
    crate::reports::assert_equal(&root, "after forgetting").await;
}

#[tokio::test]
async fn calls_in_flight_end_and_bring_nothing_back() {
    let upstream = Upstream::start(|seen| match &seen.body {
        body if body.contains("again") => Answer::json(503, "{}"),
        body if body.contains("hang") => Answer::Stall,
        _ => Answer::hello(),
    })
    .await;
    let (database, root, service, user) = prepared(&upstream).await;
    root.batch_execute("SELECT set_budget(0.00001, p_each_user => true, p_action => 'warn')")
        .await
        .unwrap();
    // One of each kind: a call, a stream, a batch, a call that comes again and again, a job, a call that
    // is to become a job.
    let hang = HELLO.replace("hi", "hang");
    let again = HELLO.replace("hi", "again");
    let job = value(&user, &format!("SELECT chat_submit('m', '{hang}')")).await.unwrap();
    let mut calls = vec![];
    for sql in [
        format!("SELECT chat_complete('m', '{hang}')"),
        format!("SELECT (t).delta FROM (SELECT chat_stream('m', '{hang}') AS t) AS s"),
        format!(
            "SELECT ok FROM chat_many('[{{\"model\": \"m\", \"messages\": {hang}}}, {{\"model\": \"m\", \"messages\": {hang}}}]', concurrency => 1)"
        ),
        format!("SELECT chat_complete('m', '{again}', '{{\"max_retries\": 10}}')"),
    ] {
        let client = database.rest("authenticated", Some(GONE)).await;
        calls.push(tokio::spawn(async move {
            let result = client.simple_query(&sql).await;
            let result = result.map(|messages| {
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                rows.collect::<Vec<_>>()
            });
            (sql, result.map_err(|error| bed::shown(&error)))
        }));
    }
    // One of each hangs, and the one that comes again has been refused at least once.
    upstream
        .wait_until(|seen| {
            let of = |word: &str| seen.iter().filter(|seen| seen.body.contains(word)).count();
            of("hang") >= 4 && of("again") >= 2
        })
        .await;
    let kept = value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap();
    assert!(kept.parse::<i64>().unwrap() >= 5, "{kept}");
    for call in calls {
        let (sql, result) = call.await.unwrap();
        match result {
            Err(message) => assert!(message.starts_with("PT409"), "{sql}: {message}"),
            // Each request of a batch fails by itself.
            Ok(rows) => {
                assert!(sql.contains("chat_many") && rows == ["f", "f"], "{sql}: {rows:?}")
            }
        }
    }
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    let sent = upstream.chats().len();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(upstream.chats().len(), sent, "something was sent for a forgotten user");
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    assert!(
        rows(&root, &format!("SELECT * FROM aggregator_jobs WHERE id = '{job}'")).await.is_empty()
    );
    // Nothing stays pending, and the worker leaves as ever.
    eventually(&root, PENDING, "0").await;
    drop(user);
    eventually(&root, WORKERS, "0").await;
}

#[tokio::test]
async fn what_an_open_transaction_of_theirs_writes_goes_too() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root, service, user) = prepared(&upstream).await;
    root.batch_execute(
        "INSERT INTO api_providers (name, display_name, provider_type, base_url, last_synced_at)
         VALUES ('second', 'Second', 'direct', 'http://127.0.0.1:9/v1', now())",
    )
    .await
    .unwrap();
    let prompt = prompt();
    user.batch_execute("BEGIN").await.unwrap();
    save_key(&user, "second", "sk-good-2").await;
    value(&user, &format!("SELECT chat_submit('m', '{prompt}')")).await.unwrap();
    // One that has only looked so far.
    let late = database.rest("authenticated", Some(GONE)).await;
    late.batch_execute("BEGIN; SELECT aggregator_user_id()").await.unwrap();
    value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap();
    // The next worker knows of it, too.
    value(&root, "SELECT pg_terminate_backend(worker_pid, 60000) FROM aggregator_status()").await;
    user.batch_execute("COMMIT").await.unwrap();
    save_key(&late, "second", "sk-good-4").await;
    late.batch_execute("COMMIT").await.unwrap();
    value(&root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let left = format!(
        "SELECT (SELECT count(*) FROM aggregator_jobs WHERE user_id = '{GONE}')
              + (SELECT count(*) FROM user_api_providers WHERE user_id = '{GONE}')"
    );
    eventually(&root, &left, "0").await;
    assert_eq!(upstream.chats().len(), 0, "the job was run");
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    assert_eq!(traces(&root, SECRET).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_only_user_there_ever_was_is_forgotten_by_the_planner_as_well() {
    // Its key cools down, and its key was checked.
    let upstream = Upstream::start(|seen| match seen.body.contains("refuse") {
        true => Answer::json(401, "{}"),
        false => Answer::hello(),
    })
    .await;
    let (database, root, service, user) = prepared(&upstream).await;
    value(&user, &format!("SELECT chat_complete('m', '{HELLO}')")).await.unwrap();
    let submit = format!("SELECT chat_submit('m', '{HELLO}') FROM generate_series(1, 5)");
    for job in rows(&user, &submit).await {
        assert_eq!(ended(&user, &job).await, "succeeded|hello|1");
    }
    let refused = HELLO.replace("hi", "refuse");
    assert_eq!(failure(&user, &format!("SELECT chat_complete('m', '{refused}')")).await.0, "PT401");
    value(&user, "SELECT create_gateway_key('x', p_limit_usd => 5, p_requests_per_minute => 9)")
        .await;
    value(&user, "SELECT validate_provider_key('standin', 'sk-good-0123456789')").await;
    root.batch_execute("SELECT set_budget(5, p_user_id => 'u-gone-9f3c', p_tag => 'x')")
        .await
        .unwrap();
    // By an administrator, who analyses all of it, and looks at every column.
    root.batch_execute("SET default_statistics_target = 100; ANALYZE").await.unwrap();
    let keys = "SELECT count(*) FROM user_api_providers";
    assert_eq!(value(&root, keys).await.unwrap(), "1", "there is nobody else");
    value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap();
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    root.batch_execute("ANALYZE").await.unwrap();
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    drop(database);
}

#[tokio::test]
async fn where_rows_have_gone_to_their_months_planners_forget_as_well() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, service, _user) = prepared(&upstream).await;
    root.batch_execute(&format!(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status)
         SELECT gen_random_uuid(), 1, now(), 1, id, '{GONE}', 'm', 'success'
         FROM api_providers, generate_series(1, 100) WHERE name = 'standin';
         ANALYZE aggregator_usage_logs_default"
    ))
    .await
    .unwrap();
    let made = "SELECT created FROM maintain_usage()";
    eventually(&root, made, "0").await;
    let left = "SELECT count(*) FROM aggregator_usage_logs_default";
    assert_eq!(value(&root, left).await.unwrap(), "0");
    let remembered = "statistics: aggregator_usage_logs_default|user_id".to_owned();
    assert!(traces(&root, GONE).await.contains(&remembered));
    assert_eq!(value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap(), "100");
    assert_eq!(traces(&root, GONE).await, Vec::<String>::new());
    assert_eq!(value(&root, left).await.unwrap(), "0");
}

#[tokio::test]
async fn who_comes_back_is_a_new_user() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, service, user) = prepared(&upstream).await;
    let spend = "SELECT set_budget(p_limit_requests => 2, p_each_user => true)";
    root.batch_execute(spend).await.unwrap();
    let chat = format!("SELECT chat_complete('m', '{HELLO}')");
    for _ in 0..2 {
        value(&user, &chat).await.unwrap();
    }
    assert_eq!(failure(&user, &chat).await.0, "PT402");
    // Rolled back, nothing was forgotten.
    service.batch_execute(&format!("BEGIN; SELECT forget_user('{GONE}'); ROLLBACK")).await.unwrap();
    assert_eq!(value(&user, "SELECT count(*) FROM user_api_providers").await.unwrap(), "1");
    assert_eq!(value(&user, "SELECT requests FROM usage_summary()").await.unwrap(), "2");
    assert_eq!(failure(&user, &chat).await.0, "PT402");
    value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap();
    assert_eq!(failure(&user, &chat).await.0, "PT404");
    for round in 0..2 {
        save_key(&user, "standin", "sk-good-3").await;
        value(&user, &chat).await.unwrap();
        let job = value(&user, &format!("SELECT chat_submit('m', '{HELLO}')")).await;
        if round == 0 {
            assert_eq!(ended(&user, &job.unwrap()).await, "succeeded|hello|1");
            assert_eq!(value(&user, "SELECT requests FROM usage_summary()").await.unwrap(), "2");
            // Also for the next worker.
            root.batch_execute("DELETE FROM aggregator_budgets").await.unwrap();
            value(&root, "SELECT pg_terminate_backend(worker_pid, 60000) FROM aggregator_status()")
                .await;
        }
    }
    assert_eq!(
        failure(&service, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT forget_user('x')").await.0,
        "PT400"
    );
    service.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn what_waits_to_be_settled_is_settled_as_whose_row_it_is_by_then() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    for (end, row) in [("COMMIT", "t|success|15|∅"), ("ROLLBACK", "f|success|15|{diary}")] {
        let (database, root, service, user) = prepared(&upstream).await;
        // Nobody can write the sums, and so nothing is settled.
        let locker = database.root().await;
        locker
            .batch_execute("BEGIN; LOCK TABLE aggregator_usage_hourly IN EXCLUSIVE MODE")
            .await
            .unwrap();
        let call = format!("SELECT chat_complete('m', '{HELLO}', '{{\"tags\": [\"diary\"]}}')");
        assert!(value(&user, &call).await.is_some());
        service.batch_execute("BEGIN").await.unwrap();
        assert_eq!(value(&service, &format!("SELECT forget_user('{GONE}')")).await.unwrap(), "1");
        locker.batch_execute("ROLLBACK").await.unwrap();
        // The worker comes to the row while nobody knows whose it will be.
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'aggregator worker' AND datname = current_database() AND wait_event_type = 'Lock'";
        eventually(&root, waits, "1").await;
        service.batch_execute(end).await.unwrap();
        eventually(&root, PENDING, "0").await;
        let sql = "SELECT starts_with(user_id, 'forgotten:'), status, total_tokens, tags FROM aggregator_usage_logs";
        assert_eq!(rows(&root, sql).await, [row], "{end}");
        assert_eq!(crate::reports::assert_equal(&root, end).await, 1);
    }
}
