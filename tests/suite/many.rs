//! chat_many: a batch in one session, one row per request.

use crate::bed::{self, Cluster, eventually, failure, quoted, rows, value};
use crate::fixtures::{prepare, ready, user};
use crate::upstream::{Answer, Gate, Seen, Upstream, echo};
use crate::wire::{Said, Wire};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A request for model `m` with this text.
fn ask(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]})
}

fn many(columns: &str, requests: &[Value], rest: &str) -> String {
    let requests = quoted(&Value::from(requests).to_string());
    format!("SELECT {columns} FROM chat_many({requests}{rest})")
}

/// Answers with the text; a text may ask for more than that.
fn obeys(seen: &Seen) -> Answer {
    let body = seen.json();
    let text = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
    match text.split(' ').next().unwrap_or_default() {
        "stall" => Answer::Stall,
        "bad" => Answer::json(400, r#"{"error":{"message":"no good","code":"invalid_value"}}"#),
        _ => echo(seen),
    }
}

#[tokio::test]
async fn every_request_has_a_row() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    let requests: Vec<Value> = (1..=20).map(|i| ask(&format!("q{i}"))).collect();
    let columns = "ord, ok, content, error, cost = 0.00007, latency_ms >= 0, response -> 'aggregator' ->> 'provider'";
    let mut all = rows(&root, &many(columns, &requests, "")).await;
    all.sort_by_key(|row| row.split('|').next().unwrap().parse::<u32>().unwrap());
    let expected: Vec<_> = (1..=20).map(|i| format!("{i}|t|re: q{i}|∅|t|t|standin")).collect();
    assert_eq!(all, expected);
    assert_eq!(
        rows(
            &root,
            "SELECT status, count(*), count(DISTINCT call_id) FROM aggregator_usage_logs GROUP BY 1"
        )
        .await,
        ["success|20|20"]
    );
    assert_eq!(rows(&root, &many("*", &[], "")).await.len(), 0);
}

#[tokio::test]
async fn a_failure_is_a_row() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    let mut malformed = ask("q");
    malformed["messages"] = json!("not a list");
    let requests = [
        ask("fine"),
        json!({"model": "nosuch", "messages": [{"role": "user", "content": "q"}]}),
        json!("not an object"),
        ask("bad"),
        malformed,
        json!(null),
        ask("fine too"),
    ];
    let all = rows(
        &root,
        &(many(
            "ord, ok, content, error ->> 'sqlstate', error ->> 'code', error ->> 'message' <> '', response IS NULL",
            &requests,
            "",
        ) + " ORDER BY ord"),
    )
    .await;
    assert_eq!(all.len(), 7, "{all:?}");
    assert_eq!(all[0], "1|t|re: fine|∅|∅|∅|f");
    assert_eq!(all[1], "2|f|∅|PT404|unknown_model|t|t");
    assert!(all[2].starts_with("3|f|∅|PT400|bad_request|t"), "{all:?}");
    assert!(all[3].starts_with("4|f|∅|PT400|invalid_value|t"), "{all:?}");
    assert!(all[4].starts_with("5|f|∅|PT400|bad_request|t"), "{all:?}");
    assert!(all[5].starts_with("6|f|∅|PT400|bad_request|t"), "{all:?}");
    assert_eq!(all[6], "7|t|re: fine too|∅|∅|∅|f");
    assert_eq!(upstream.chat_count(), 3);
    let refused = many("error ->> 'upstream_status', error ->> 'message'", &[ask("bad")], "");
    let refused = &rows(&root, &refused).await[0];
    assert!(refused.starts_with("400|") && refused.contains("'standin'"), "{refused}");
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    for sql in [
        "SELECT * FROM chat_many('{}')".to_owned(),
        "SELECT * FROM chat_many('\"text\"')".to_owned(),
        many("*", &[ask("q")], ", '{}', 0"),
        many("*", &[ask("q")], ", '{}', -1"),
        many("*", &[ask("q")], ", '[]'"),
        many("*", &[ask("q")], r#", '{"temprature": 1}'"#),
    ] {
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{sql}");
    }
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn no_more_than_asked_are_in_flight_and_no_fewer() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| Answer::held(&held, echo(seen))).await;
    let (_database, root) = ready(&upstream).await;
    let requests: Vec<Value> = (0..24).map(|i| ask(&format!("q {i}"))).collect();
    // By default sixteen.
    for (rest, at_once) in [(", concurrency => 4", 4), ("", 16)] {
        gate.shut();
        let before = upstream.chat_count();
        let sql = many("ok", &requests, rest);
        let (all, ()) = tokio::join!(rows(&root, &sql), async {
            upstream.wait_for_chats(before + at_once).await;
            gate.open();
        });
        assert_eq!(all, ["t"; 24]);
        assert_eq!(upstream.most_at_once(), at_once);
    }
}

#[tokio::test]
async fn rows_come_as_they_complete() {
    let (slow, soon) = (Gate::default(), Gate::default());
    let gates = [("slow", slow.clone()), ("soon", soon.clone())];
    let upstream = Upstream::start(move |seen| {
        match gates.iter().find(|(text, _)| seen.body.contains(text)) {
            Some((_, gate)) => Answer::held(gate, echo(seen)),
            None => echo(seen),
        }
    })
    .await;
    let (database, _root) = ready(&upstream).await;
    let mut wire = Wire::connect(&database).await;
    let ask_many = |requests: &[Value], rest: &str| {
        let list = quoted(&Value::from(requests).to_string());
        format!("SELECT (t).ord FROM (SELECT chat_many({list}{rest}) AS t) s")
    };
    wire.ask(&ask_many(&[ask("slow"), ask("soon"), ask("at once")], "")).await;
    assert_eq!(wire.row().await.as_deref(), Some("3"));
    soon.open();
    assert_eq!(wire.row().await.as_deref(), Some("2"));
    slow.open();
    assert_eq!(wire.row().await.as_deref(), Some("1"));
    assert!(matches!(wire.next().await, Said::Ready));
    // A slow one holds up nobody: with two at a time the others pass it by.
    slow.shut();
    let requests = [ask("slow"), ask("q"), ask("q"), ask("soon"), ask("q")];
    wire.ask(&ask_many(&requests, ", '{}', 2")).await;
    for expected in ["2", "3", "4", "5"] {
        assert_eq!(wire.row().await.as_deref(), Some(expected));
    }
    slow.open();
    assert_eq!(wire.row().await.as_deref(), Some("1"));
}

#[tokio::test]
async fn identical_requests_may_be_sent_once() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    let requests = [ask("a"), ask("b"), ask("a"), ask("a"), ask("b")];
    for (options, sent) in [
        (r#"{"temperature": 0, "dedupe": true}"#, 2),
        (r#"{"temperature": 0}"#, 5),
        (r#"{"temperature": 0, "dedupe": false}"#, 5),
        (r#"{"temperature": 1, "dedupe": true}"#, 5),
        // The provider's own default is not 0.
        (r#"{"dedupe": true}"#, 5),
    ] {
        let before = upstream.chat_count();
        let all = rows(
            &root,
            &(many("ord, ok, content, cost = 0", &requests, &format!(", '{options}'"))
                + " ORDER BY ord"),
        )
        .await;
        assert_eq!(upstream.chat_count() - before, sent, "{options}");
        let contents: Vec<_> = all.iter().map(|row| row.split('|').nth(2).unwrap()).collect();
        assert_eq!(contents, ["re: a", "re: b", "re: a", "re: a", "re: b"], "{options}");
        assert!(all.iter().all(|row| row.contains("|t|")), "{all:?}");
        let free = all.iter().filter(|row| row.ends_with("|t")).count();
        assert_eq!(free, 5 - sent, "{options}: {all:?}");
        for seen in &upstream.chats()[before..] {
            assert_eq!(seen.json().get("dedupe"), None);
        }
    }
    // What was paid is what was sent.
    let logged = value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap();
    assert_eq!(logged, upstream.chat_count().to_string());
    // Not quite identical: what they ask of the response cache differs.
    let before = upstream.chat_count();
    let mut uncached = ask("z");
    uncached["cache"] = json!(false);
    let mut fresh = ask("z");
    fresh["cache"] = json!({"refresh": true, "no_store": true});
    let options = r#", '{"temperature": 0, "dedupe": true}'"#;
    rows(&root, &many("ord", &[uncached.clone(), fresh.clone(), uncached, fresh], options)).await;
    assert_eq!(upstream.chat_count() - before, 2);
    let before = upstream.chat_count();
    let mut other = ask("a");
    other["max_tokens"] = 5.into();
    let options = r#", '{"temperature": 0, "dedupe": true}'"#;
    rows(&root, &many("ord", &[ask("a"), other], options)).await;
    assert_eq!(upstream.chat_count() - before, 2);
}

#[tokio::test]
async fn a_requests_own_fields_go_before_the_options() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    let mut own = ask("own");
    own["temperature"] = json!(0.25);
    let options = r#", '{"temperature": 0.75, "max_tokens": 9}'"#;
    rows(&root, &many("ok", &[own, ask("common")], options)).await;
    for seen in upstream.chats() {
        let body = seen.json();
        let expected = if seen.body.contains("own") { 0.25 } else { 0.75 };
        assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(expected), &json!(9)));
    }
}

#[tokio::test]
async fn cancel_aborts_all_that_are_in_flight() {
    let upstream = Upstream::start(obeys).await;
    let (database, root) = ready(&upstream).await;
    let requests: Vec<Value> = (0..20).map(|i| ask(&format!("stall {i}"))).collect();
    let sql = many("ok", &requests, ", concurrency => 8");
    let canceller = database.canceller(&root).await;
    let cancel = async {
        upstream.wait_for_chats(8).await;
        let at = Instant::now();
        canceller.cancel().await;
        at
    };
    let ((code, _), at) = tokio::join!(failure(&root, &sql), cancel);
    assert_eq!(code, "57014");
    for index in 0..8 {
        let took = upstream.wait_for_abort(index).await.saturating_duration_since(at);
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    let cancelled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled'";
    eventually(&root, cancelled, "8").await;
    assert_eq!(upstream.chat_count(), 8, "nothing is sent after the cancel");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "8");
}

#[tokio::test]
async fn a_limit_aborts_the_rest() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    let list = quoted(&json!([ask("stall"), ask("stall"), ask("q")]).to_string());
    let first = format!("SELECT (t).content FROM (SELECT chat_many({list}) AS t) s LIMIT 1");
    assert_eq!(value(&root, &first).await.unwrap(), "re: q");
    let counts = "SELECT string_agg(status, ' ' ORDER BY status) FROM aggregator_usage_logs";
    eventually(&root, counts, "cancelled cancelled success").await;
    let chats = upstream.chats();
    let stalled: Vec<usize> =
        (0..chats.len()).filter(|index| chats[*index].body.contains("stall")).collect();
    assert_eq!(stalled.len(), 2);
    for index in stalled {
        upstream.wait_for_abort(index).await;
    }
}

#[tokio::test]
async fn when_the_statement_runs_out_of_time_what_is_unfinished_is_an_error() {
    let upstream = Upstream::start(obeys).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("SET statement_timeout = 5000").await.unwrap();
    // The last of them never gets its turn.
    let requests = [ask("q"), ask("stall 1"), ask("q"), ask("stall 2"), ask("q 3"), ask("q 4")];
    let all = rows(
        &root,
        &(many("ord, ok, error ->> 'sqlstate'", &requests, ", '{}', 2") + " ORDER BY ord"),
    )
    .await;
    assert_eq!(all, ["1|t|∅", "2|f|PT504", "3|t|∅", "4|f|PT504", "5|f|PT504", "6|f|PT504"]);
    for (index, chat) in upstream.chats().iter().enumerate() {
        if chat.body.contains("stall") {
            upstream.wait_for_abort(index).await;
        }
    }
}

#[tokio::test]
async fn two_hundred_rows_are_summarised_in_one_statement() {
    let cluster = Cluster::start("many", "");
    // One after the other takes 40 seconds.
    let upstream = Upstream::start(|seen| Answer::late(200, echo(seen))).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    root.batch_execute(
        "CREATE TABLE articles (id int PRIMARY KEY, body text, summary text);
         INSERT INTO articles SELECT i * 7, 'article ' || i FROM generate_series(1, 200) AS i",
    )
    .await
    .unwrap();
    let began = Instant::now();
    let updated = root
        .execute(
            "WITH asked AS (
                 SELECT id, row_number() OVER (ORDER BY id) AS ord, jsonb_build_object('model', 'm', 'messages',
                     jsonb_build_array(jsonb_build_object('role', 'user', 'content', body))) AS request
                 FROM articles
             )
             UPDATE articles AS a SET summary = r.content
             FROM chat_many((SELECT jsonb_agg(request ORDER BY ord) FROM asked), '{\"temperature\": 0}', 32) AS r
             JOIN asked USING (ord)
             WHERE a.id = asked.id AND r.ok",
            &[],
        )
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    assert_eq!(updated, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let right = "SELECT count(*) FROM articles WHERE summary = 're: ' || body";
    assert_eq!(value(&root, right).await.unwrap(), "200");
    assert_eq!(upstream.chat_count(), 200);
}

#[tokio::test]
async fn everybody_spends_their_own_key() {
    let upstream = Upstream::start(obeys).await;
    let (database, root) = ready(&upstream).await;
    let a = user(&database, "u-a").await;
    let before = upstream.chat_count();
    assert_eq!(rows(&a, &many("ok", &[ask("q"), ask("r")], "")).await, ["t", "t"]);
    for seen in &upstream.chats()[before..] {
        assert_eq!(seen.header("authorization"), Some("Bearer sk-good-u-a-0123456789"));
    }
    let users = "SELECT DISTINCT user_id FROM aggregator_usage_logs";
    assert_eq!(rows(&root, users).await, ["u-a"]);
    let anon = database.rest("anon", None).await;
    assert_eq!(failure(&anon, &many("*", &[ask("q")], "")).await.0, "42501");
}
