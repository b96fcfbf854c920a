//! Cooling down: what keeps failing is asked last, by all sessions, and shown in a view.

use crate::bed::{PATIENCE, eventually, failure, rows, value};
use crate::fallback::{fails, in_order, served, standins};
use crate::fixtures::{add_named, chat_sql, save_key};
use crate::upstream::{Answer, Seen, Upstream, in_turn};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

async fn good() -> Upstream {
    Upstream::start(|_| Answer::hello()).await
}

/// p1 of a test whose key `old` fails with this status; any other is fine.
async fn dislikes_old_keys(status: u16) -> Upstream {
    Upstream::raw(move |seen: &Seen| {
        let is_old = seen.header("authorization").is_some_and(|key| key.contains("-p1-"));
        if seen.path.ends_with("/models") {
            Answer::json(200, r#"{"data":[{"id":"m"},{"id":"m2"},{"id":"m3"}]}"#)
        } else if is_old {
            fails(status)
        } else {
            Answer::hello()
        }
    })
    .await
}

/// A pause of a second grows with each failure: after these p1 cools for a minute.
async fn cool(root: &Client) {
    let sql = chat_sql(r#"{"max_retries": 0}"#).replace("'m'", "'p1:m'");
    for _ in 0..7 {
        assert_eq!(failure(root, &sql).await.0, "PT502");
    }
}

/// A refusal of a call that may be made again after so many seconds.
fn limited(seconds: u32) -> Answer {
    Answer::Full(
        429,
        vec![("retry-after", seconds.to_string())],
        r#"{"error":{"message":"slow","code":"rate_limit_exceeded"}}"#.into(),
    )
}

#[tokio::test]
async fn what_failed_is_asked_last_by_every_session() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = good().await;
    let (database, root) = standins(&[&first, &second]).await;
    assert_eq!(served(&root, "{}").await, "p2");
    cool(&root).await;
    let before = first.chat_count();
    let another = database.root().await;
    assert_eq!(served(&another, "{}").await, "p2");
    assert_eq!(first.chat_count(), before, "it is cooling");
    // The worker forgets nothing when the session ends, and says so.
    let health = rows(
        &root,
        "SELECT model_id, calls >= errors, errors >= 1, rate_limited, cooling_until > now(), last_error <> '', last_error_at > now() - interval '10 min'
         FROM aggregator_provider_health WHERE provider_name = 'p1'",
    )
    .await;
    assert_eq!(health, ["m|t|t|0|t|t|t"]);
    let health = rows(
        &root,
        "SELECT model_id, calls, errors, rate_limited, p50_latency_ms >= 0, p95_latency_ms >= p50_latency_ms, cooling_until, last_error
         FROM aggregator_provider_health WHERE provider_name = 'p2'",
    )
    .await;
    assert_eq!(health, ["m|2|0|0|t|t|∅|∅"]);
}

#[tokio::test]
async fn an_error_of_one_model_cools_that_model_only() {
    let first = Upstream::start(|seen| match seen.json()["model"] == "m" {
        true => fails(503),
        false => Answer::hello(),
    })
    .await;
    let second = good().await;
    let (_database, root) = standins(&[&first, &second]).await;
    cool(&root).await;
    assert_eq!(served(&root, "{}").await, "p2");
    let other = chat_sql("{}").replace("'m'", "'m2'");
    let by = format!("SELECT r -> 'aggregator' ->> 'provider' FROM ({other}) AS x(r)");
    assert_eq!(value(&root, &by).await.unwrap(), "p1");
}

#[tokio::test]
async fn one_users_trouble_with_a_key_is_not_anothers() {
    let first = dislikes_old_keys(503).await;
    let second = good().await;
    let (database, root) = standins(&[&first, &second]).await;
    cool(&root).await;
    assert_eq!(served(&root, "{}").await, "p2");
    let a = database.rest("authenticated", Some("u-a")).await;
    for provider in ["p1", "p2"] {
        save_key(&a, provider, "sk-good-fine-0123456789").await;
    }
    in_order(&a).await;
    assert_eq!(served(&a, "{}").await, "p1");
    // Everybody sees their own.
    let names = "SELECT provider_name, calls, errors FROM aggregator_provider_health ORDER BY 1";
    assert_eq!(rows(&a, names).await, ["p1|1|0"]);
    let b = database.rest("authenticated", Some("u-b")).await;
    assert_eq!(rows(&b, names).await.len(), 0);
    let invoker =
        "SELECT reloptions::text FROM pg_class WHERE relname = 'aggregator_provider_health'";
    assert!(value(&root, invoker).await.unwrap().contains("security_invoker"));
}

#[tokio::test]
async fn a_key_that_is_refused_cools_until_it_changes() {
    let first = dislikes_old_keys(401).await;
    let second = good().await;
    let (_database, root) = standins(&[&first, &second]).await;
    assert_eq!(failure(&root, &chat_sql("{}")).await.0, "PT401");
    assert_eq!(served(&root, "{}").await, "p2");
    // Every model of it.
    let other = chat_sql("{}").replace("'m'", "'m2'");
    let by = format!("SELECT r -> 'aggregator' ->> 'provider' FROM ({other}) AS x(r)");
    assert_eq!(value(&root, &by).await.unwrap(), "p2");
    assert_eq!(first.chat_count(), 1);
    save_key(&root, "p1", "sk-good-new-0123456789").await;
    in_order(&root).await;
    assert_eq!(served(&root, "{}").await, "p1");
}

#[tokio::test]
async fn an_account_without_credit_cools_and_a_refusal_does_not() {
    for (status, code, next) in [(402, "PT402", "p2"), (403, "PT403", "p1")] {
        let first = Upstream::start(in_turn(vec![fails(status), Answer::hello()])).await;
        let second = good().await;
        let (_database, root) = standins(&[&first, &second]).await;
        assert_eq!(failure(&root, &chat_sql("{}")).await.0, code);
        assert_eq!(served(&root, "{}").await, next, "{status}");
        let until = "SELECT coalesce(max(cooling_until) BETWEEN now() + interval '5 s' AND now() + interval '70 s', false)
                     FROM aggregator_provider_health WHERE provider_name = 'p1'";
        let expected = if status == 402 { "t" } else { "f" };
        assert_eq!(value(&root, until).await.unwrap(), expected, "{status}");
    }
}

#[tokio::test]
async fn a_rate_limit_cools_for_as_long_as_the_upstream_says() {
    let first = Upstream::start(in_turn(vec![limited(1000), Answer::hello()])).await;
    let second = good().await;
    let (_database, root) = standins(&[&first, &second]).await;
    let began = Instant::now();
    assert_eq!(served(&root, "{}").await, "p2");
    assert!(began.elapsed() < PATIENCE, "nobody waited: {:?}", began.elapsed());
    assert_eq!(served(&root, "{}").await, "p2");
    let health =
        "SELECT calls, rate_limited FROM aggregator_provider_health WHERE provider_name = 'p1'";
    assert_eq!(rows(&root, health).await, ["1|1"]);
    // No longer than it says, and no less.
    let first = Upstream::start(in_turn(vec![limited(4), Answer::hello()])).await;
    let (_database, root) = standins(&[&first, &second]).await;
    let began = Instant::now();
    assert_eq!(served(&root, "{}").await, "p2");
    let until = "SELECT coalesce(max(cooling_until) <= now() + interval '4 s', true) FROM aggregator_provider_health";
    assert_eq!(value(&root, until).await.unwrap(), "t");
    while served(&root, "{}").await != "p1" {
        assert!(began.elapsed() < PATIENCE, "it is cool still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(3900), "{:?}", began.elapsed());
    let cooling = "SELECT count(*) FROM aggregator_provider_health WHERE cooling_until > now()";
    eventually(&root, cooling, "0").await;
}

#[tokio::test]
async fn who_is_alone_is_always_tried() {
    let upstream = Upstream::start(in_turn(vec![
        fails(503),
        fails(503),
        fails(401),
        fails(402),
        Answer::Full(429, vec![("retry-after", "60".into())], "{}".into()),
        Answer::hello(),
    ]))
    .await;
    let (_database, root) = standins(&[&upstream]).await;
    for (i, code) in ["PT502", "PT502", "PT401", "PT402", "PT429"].iter().enumerate() {
        let began = Instant::now();
        let (state, message) = failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
        assert_eq!(state, *code, "{message}");
        assert_eq!(upstream.chat_count(), i + 1);
        // The last two are cool for a minute.
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    assert_eq!(served(&root, "{}").await, "p1");
}

#[tokio::test]
async fn when_all_are_cooling_all_are_tried() {
    let first = Upstream::start(in_turn(vec![fails(503), Answer::hello()])).await;
    let second = Upstream::start(in_turn(vec![fails(503), Answer::hello()])).await;
    let (_database, root) = standins(&[&first, &second]).await;
    for provider in ["p1", "p2"] {
        let sql = chat_sql(r#"{"max_retries": 0}"#).replace("'m'", &format!("'{provider}:m'"));
        assert_eq!(failure(&root, &sql).await.0, "PT502");
    }
    served(&root, "{}").await;
    assert_eq!(first.chat_count() + second.chat_count(), 3);
}

#[tokio::test]
async fn a_provider_that_is_new_is_not_cooling() {
    let first = Upstream::start(|_| fails(503)).await;
    let second = good().await;
    let (_database, root) = standins(&[&first, &second]).await;
    assert_eq!(served(&root, "{}").await, "p2");
    // A provider that is added later, before both, is asked first.
    let third = good().await;
    add_named(&root, "p0", "openai", &third.base_url(), &["m"]).await;
    save_key(&root, "p0", "sk-good-p0-0123456789").await;
    in_order(&root).await;
    assert_eq!(served(&root, "{}").await, "p0");
}
