//! Who else is asked when a provider fails, and when nobody is.

use crate::bed::{self, Database, failure, quoted, rows, value};
use crate::fixtures::{AT_ONCE, HELLO, add_named, chat_sql, save_key, stream_sql};
use crate::upstream::{Answer, Piece, Seen, USAGE, Upstream};
use crate::wire::Wire;
use serde_json::Value;
use tokio_postgres::Client;

/// A database with providers p1, p2, ... in the order in which they are asked for model `m`; each
/// also has the models `m2` and `m3`.
pub async fn standins(upstreams: &[&Upstream]) -> (Database<'static>, Client) {
    standins_in(bed::database().await, upstreams).await
}

pub async fn standins_in<'a>(
    database: Database<'a>,
    upstreams: &[&Upstream],
) -> (Database<'a>, Client) {
    let root = database.root().await;
    for (i, upstream) in upstreams.iter().enumerate() {
        let name = format!("p{}", i + 1);
        add_named(&root, &name, "openai", &upstream.base_url(), &["m", "m2", "m3"]).await;
        save_key(&root, &name, &format!("sk-good-{name}-0123456789")).await;
    }
    in_order(&root).await;
    (database, root)
}

/// Gives the caller's keys the order of their providers' names.
pub async fn in_order(client: &Client) {
    client
        .batch_execute(
            "UPDATE user_api_providers SET priority = -substr(p.name, 2)::int FROM api_providers AS p
             WHERE p.id = provider_id AND p.name ~ '^p[0-9]$'",
        )
        .await
        .expect("the order is set");
}

pub fn fails(status: u16) -> Answer {
    Answer::json(status, r#"{"error":{"message":"trouble"}}"#)
}

/// Who served a call, by the answer.
pub async fn served(client: &Client, options: &str) -> String {
    let answer = bed::json(client, &chat_sql(options)).await;
    answer["aggregator"]["provider"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_same_model_is_asked_for_elsewhere() {
    for status in [408, 429, 500, 502, 503, 529] {
        let first = Upstream::start(move |_| fails(status)).await;
        let second = Upstream::start(|_| Answer::hello()).await;
        let (_database, root) = standins(&[&first, &second]).await;
        let answer = bed::json(&root, &chat_sql("{}")).await;
        assert_eq!(answer["aggregator"]["provider"], "p2", "{status}");
        let attempts = first.chat_count() + 1;
        assert!(attempts >= 2, "{status}: the first was not asked");
        assert_eq!(answer["aggregator"]["attempts"], attempts, "{status}");
        assert_eq!(second.chat_count(), 1);
        // Each attempt is a row that says whose it was.
        let log = rows(
            &root,
            "SELECT l.attempt, p.name, l.status, l.http_status, count(*) OVER (PARTITION BY call_id)
             FROM aggregator_usage_logs AS l JOIN api_providers AS p ON p.id = l.provider_id ORDER BY l.attempt",
        )
        .await;
        assert_eq!(log.len(), attempts, "{log:?}");
        assert_eq!(log[0], format!("1|p1|error|{status}|{attempts}"));
        assert_eq!(*log.last().unwrap(), format!("{attempts}|p2|success|200|{attempts}"));
        assert_eq!(second.chats()[0].header("authorization"), Some("Bearer sk-good-p2-0123456789"));
    }
}

#[tokio::test]
async fn what_is_the_callers_fault_is_asked_of_nobody_else() {
    for (status, code) in
        [(400, "PT400"), (401, "PT401"), (402, "PT402"), (403, "PT403"), (404, "PT404")]
    {
        let first = Upstream::start(move |_| fails(status)).await;
        let second = Upstream::start(|_| Answer::hello()).await;
        let (_database, root) = standins(&[&first, &second]).await;
        let (state, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(state, code, "{message}");
        assert!(message.contains("'p1'"), "{message}");
        assert_eq!((first.chat_count(), second.chat_count()), (1, 0), "{status}");
    }
}

#[tokio::test]
async fn who_cannot_be_reached_or_hangs_up_is_passed_by() {
    let broken = Upstream::start(|_| Answer::Raw(vec![])).await;
    let good = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = standins(&[&broken, &broken, &good]).await;
    // Nothing listens there.
    root.batch_execute(
        "UPDATE api_providers SET base_url = 'http://127.0.0.1:1/v1' WHERE name = 'p1'",
    )
    .await
    .unwrap();
    save_key(&root, "p1", "sk-good-p1-0123456789").await;
    assert_eq!(served(&root, "{}").await, "p3");
    let names = rows(
        &root,
        "SELECT DISTINCT p.name, l.status FROM aggregator_usage_logs AS l JOIN api_providers AS p ON p.id = l.provider_id ORDER BY 1",
    )
    .await;
    assert_eq!(names, ["p1|error", "p2|error", "p3|success"]);
}

#[tokio::test]
async fn when_all_fail_the_error_says_so() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = Upstream::start(|_| fails(500)).await;
    let (_database, root) = standins(&[&first, &second]).await;
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT502", "{message}");
    assert!(first.chat_count() >= 1 && second.chat_count() >= 1);
    let sent = first.chat_count() + second.chat_count();
    let logged = value(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'error'");
    assert_eq!(logged.await.unwrap(), sent.to_string());
}

#[tokio::test]
async fn a_provider_that_is_named_is_the_only_one() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = standins(&[&first, &second]).await;
    for sql in [
        format!("SELECT chat_complete('m', '{HELLO}', '{{\"max_retries\": 0}}', 'p1')"),
        format!("SELECT chat_complete('p1:m', '{HELLO}', '{{\"max_retries\": 0}}')"),
    ] {
        assert_eq!(failure(&root, &sql).await.0, "PT502", "{sql}");
    }
    assert_eq!(second.chat_count(), 0);
}

fn by_model(bad: &'static [&'static str]) -> impl Fn(&Seen) -> Answer + Send + Sync + 'static {
    move |seen| {
        let body: Value = seen.json();
        match bad.contains(&body["model"].as_str().unwrap()) {
            true => fails(503),
            false => Answer::hello(),
        }
    }
}

fn models_of(upstream: &Upstream) -> Vec<String> {
    let mut models: Vec<_> = upstream
        .chats()
        .iter()
        .map(|chat| chat.json()["model"].as_str().unwrap().to_owned())
        .collect();
    models.dedup();
    models
}

#[tokio::test]
async fn models_are_asked_in_the_callers_order() {
    let first = Upstream::start(by_model(&["m", "m2"])).await;
    let second = Upstream::start(by_model(&["m", "m2"])).await;
    let (_database, root) = standins(&[&first, &second]).await;
    let answer =
        bed::json(&root, &chat_sql(r#"{"models": ["m2", "p2:m3"], "temperature": 0.5}"#)).await;
    assert_eq!(answer["aggregator"]["provider"], "p2");
    assert_eq!(models_of(&first).first().map(String::as_str), Some("m"));
    assert_eq!(models_of(&second).last().map(String::as_str), Some("m3"));
    assert!(!models_of(&first).contains(&"m3".to_owned()), "that one was to go to p2");
    // The models in their order, whoever was asked.
    let mut order =
        rows(&root, "SELECT model_id FROM aggregator_usage_logs ORDER BY attempt").await;
    order.dedup();
    assert_eq!(order, ["m", "m2", "m3"]);
    for chat in first.chats().iter().chain(&second.chats()) {
        assert_eq!(chat.json().get("models"), None, "the list is ours");
        assert_eq!(chat.json()["temperature"], 0.5);
    }
    // One that works asks nobody else.
    let (before_first, before_second) = (first.chat_count(), second.chat_count());
    let fine =
        format!("SELECT chat_complete('m3', '{HELLO}', {})", quoted(r#"{"models": ["m", "m2"]}"#));
    value(&root, &fine).await.unwrap();
    assert_eq!(first.chat_count() + second.chat_count(), before_first + before_second + 1);
    for bad in [r#"{"models": "m2"}"#, r#"{"models": [1]}"#] {
        assert_eq!(failure(&root, &chat_sql(bad)).await.0, "PT400", "{bad}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_to_a_longer_model_only() {
    let upstream = Upstream::start(|seen| match seen.json()["model"].as_str().unwrap() {
        "m3" => Answer::hello(),
        _ => Answer::json(
            400,
            r#"{"error":{"message":"This model's maximum context length is 8000 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
        ),
    })
    .await;
    let (_database, root) = standins(&[&upstream]).await;
    root.batch_execute(
        "UPDATE aggregator_models SET context_window = CASE model_id WHEN 'm' THEN 8000 WHEN 'm2' THEN 4000 ELSE 128000 END
         WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'p1')",
    )
    .await
    .unwrap();
    let answer = bed::json(&root, &chat_sql(r#"{"models": ["m2", "m3"]}"#)).await;
    assert_eq!(answer["aggregator"]["provider"], "p1");
    assert_eq!(models_of(&upstream), ["m", "m3"], "a shorter one would fail too");
    let before = upstream.chat_count();
    let (code, message) = failure(&root, &chat_sql(r#"{"models": ["m2"]}"#)).await;
    assert_eq!(code, "PT400", "{message}");
    assert!(message.contains("context_length_exceeded"), "{message}");
    assert_eq!(upstream.chat_count(), before + 1);
}

#[tokio::test]
async fn a_stream_falls_back_before_its_first_token_only() {
    let first = Upstream::start(|seen| match seen.body.contains("begins") {
        true => Answer::Stream(vec![Piece::role(), Piece::text("Hel"), Piece::Cut]),
        false => fails(503),
    })
    .await;
    let second = Upstream::start(|_| Answer::streams(&["a", "b"], AT_ONCE, Some(USAGE))).await;
    let (database, _root) = standins(&[&first, &second]).await;
    let mut wire = Wire::connect(&database).await;
    let heard = wire.run(&stream_sql(r#"{"user": "begins"}"#)).await;
    assert_eq!(heard.texts(), ["Hel"]);
    assert_eq!(heard.failure.expect("it fails").0, "PT502");
    assert_eq!((first.chat_count(), second.chat_count()), (1, 0));

    let (database, root) = standins(&[&first, &second]).await;
    let heard = Wire::connect(&database).await.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["a", "b"], "{:?}", heard.failure);
    assert_eq!(heard.last(1)["aggregator"]["provider"], "p2");
    assert_eq!(second.chat_count(), 1);
    let last = "SELECT p.name, l.status FROM aggregator_usage_logs AS l JOIN api_providers AS p ON p.id = l.provider_id ORDER BY l.attempt DESC LIMIT 1";
    assert_eq!(rows(&root, last).await, ["p2|success"]);
}

#[tokio::test]
async fn batches_and_jobs_fall_back_too() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = standins(&[&first, &second]).await;
    let many = format!(
        "SELECT ok, response -> 'aggregator' ->> 'provider' FROM chat_many('[{{\"model\": \"m\", \"messages\": {HELLO}}}]')"
    );
    assert_eq!(rows(&root, &many).await, ["t|p2"]);
    let id = crate::fixtures::submit(&root, "{}", "").await;
    assert!(crate::fixtures::ended(&root, &id).await.starts_with("succeeded|hello|"));
    let by = format!("SELECT provider_name FROM aggregator_jobs WHERE id = '{id}'");
    assert_eq!(value(&root, &by).await.unwrap(), "p2");
}

#[tokio::test]
async fn nobody_falls_back_on_anothers_key() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = Upstream::start(|_| Answer::hello()).await;
    let (database, _root) = standins(&[&first, &second]).await;
    let a = database.rest("authenticated", Some("u-a")).await;
    save_key(&a, "p1", "sk-good-a-0123456789").await;
    assert_eq!(failure(&a, &chat_sql(r#"{"max_retries": 0}"#)).await.0, "PT502");
    let elsewhere = chat_sql(r#"{"max_retries": 0, "models": ["p2:m"]}"#);
    assert!(["PT404", "PT502"].contains(&failure(&a, &elsewhere).await.0.as_str()));
    assert_eq!(second.chat_count(), 0);
    let keys: Vec<_> =
        first.chats().iter().map(|c| c.header("authorization").unwrap().to_owned()).collect();
    assert!(keys.iter().all(|key| key == "Bearer sk-good-a-0123456789"), "{keys:?}");
}
