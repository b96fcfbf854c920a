//! Limits of a gateway key, and what is told of them.

use super::calls::ready;
use super::dialects::Both;
use super::keys::{chat, create, owner};
use super::{Bed, Request, Response, token};
use crate::bed::{PATIENCE, eventually, value};
use crate::upstream::{Answer, Gate, Upstream};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends so many calls at once, and counts them by their status. None is answered, and takes less than was set aside for
/// it, before each is refused or has reached the upstream.
async fn at_once(
    (bed, upstream, gate): (&Arc<Bed>, &Upstream, &Gate),
    key: &str,
    calls: usize,
) -> BTreeMap<u16, usize> {
    gate.shut();
    let (began, before, all) = (Instant::now(), upstream.chat_count(), calls);
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let (bed, request) = (bed.clone(), chat(key, json!({"max_tokens": 50})));
            tokio::spawn(async move { bed.send(&request).await.status })
        })
        .collect();
    let refused = || calls.iter().filter(|call| call.is_finished()).count();
    while refused() + upstream.chat_count() - before < all && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.open();
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.await.unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn of_fifty_calls_at_once_as_many_pass_as_a_keys_limits_allow() {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |_| Answer::held(&gate, Answer::hello())
    })
    .await;
    let bed = Arc::new(ready(&upstream).await);
    let at = (&bed, &upstream, &gate);
    let owner = owner(&bed.database).await;
    // What is set aside for one of them.
    let (_, first) = create(&owner, "'first', p_limit_usd => 1").await;
    assert_eq!(at_once(at, &first, 1).await, BTreeMap::from([(200, 1)]));
    let reserved = "SELECT reserved_cost FROM aggregator_usage_logs";
    let reserved = value(&bed.root, reserved).await.unwrap();
    let mut sent = upstream.chat_count();
    let mut expect = |passed: usize, what: &str| {
        sent += passed;
        assert_eq!(upstream.chat_count(), sent, "{what}");
    };
    // Room for ten, to the last digit.
    let limit = value(&bed.root, &format!("SELECT {reserved} * 10")).await.unwrap();
    let (_, budgeted) = create(&owner, &format!("'usd', p_limit_usd => {limit}")).await;
    assert_eq!(at_once(at, &budgeted, 50).await, BTreeMap::from([(200, 10), (402, 40)]));
    expect(10, "a key's budget");
    let (_, limited) = create(&owner, "'rpm', p_requests_per_minute => 7").await;
    // And as many more as the time that it takes gives back.
    let began = Instant::now();
    let given_back = || (began.elapsed().as_secs_f64() * 7.0 / 60.0) as usize;
    let counts = at_once(at, &limited, 50).await;
    let passed = counts[&200];
    assert_eq!(counts, BTreeMap::from([(200, passed), (429, 50 - passed)]));
    assert!((7..=7 + given_back()).contains(&passed), "{passed}");
    expect(passed, "a key's requests per minute");
    // Rotated, it is the same key.
    let sql = "SELECT rotate_gateway_key(id) FROM aggregator_gateway_keys WHERE name = 'rpm'";
    let rotated = value(&owner, sql).await.unwrap();
    let again = at_once(at, &rotated, 10).await;
    let passed = passed + again.get(&200).copied().unwrap_or_default();
    assert!(passed <= 7 + given_back(), "{again:?}");
    sent = upstream.chat_count();
    // Beside what the key may spend stands what its owner may, by whatever way.
    let spent = "SELECT count(*) FROM aggregator_usage_logs WHERE user_id = 'u-1'";
    let spent: usize = value(&bed.root, spent).await.unwrap().parse().unwrap();
    let budget = format!(
        "SELECT set_budget(p_limit_requests => {}, p_user_id => 'u-1', p_period => 'total')",
        spent + 7
    );
    value(&bed.root, &budget).await;
    let (_, free) =
        create(&owner, "'free', p_limit_usd => 100, p_requests_per_minute => 1000").await;
    assert_eq!(at_once(at, &free, 50).await, BTreeMap::from([(200, 7), (402, 43)]));
    assert_eq!(upstream.chat_count(), sent + 7, "the owner's budget");
}

/// The headers of a response that say how limits stand.
fn told(response: &Response, prefix: &str) -> Vec<(String, String)> {
    let mut told: Vec<_> = response
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, value)| (name[prefix.len()..].to_owned(), value.clone()))
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn limits_are_told_in_each_dialects_headers_where_there_are_any() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let bed = &both.bed;
    let owner = owner(&bed.database).await;
    let (_, free) = create(&owner, "'y'").await;
    let message =
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let message = |key: &str| {
        Request::new("POST", "/v1/messages").header("x-api-key", key).json(message.to_string())
    };
    let mut tries = 0;
    // One of four is given back after 15 seconds: on a busy machine before all is asked.
    let (passed, refused, resets_in) = loop {
        tries += 1;
        let limits = "'x', p_requests_per_minute => 4, p_tokens_per_minute => 6000";
        let (_, key) = create(&owner, limits).await;
        let began = Instant::now();
        let first = bed.send(&chat(&key, json!({"max_tokens": 100}))).await;
        let second = bed.send(&chat(&key, json!({"stream": true}))).await;
        let third = bed.send(&message(&key)).await;
        let reset = third.header("anthropic-ratelimit-requests-reset").unwrap_or("infinity");
        let resets_in = format!(
            "SELECT '{reset}'::timestamptz - now() BETWEEN interval '30s' AND interval '50s'"
        );
        let resets_in = value(&bed.root, &resets_in).await;
        let fourth = bed.send(&chat(&key, json!({}))).await;
        let refused = [bed.send(&chat(&key, json!({}))).await, bed.send(&message(&key)).await];
        if began.elapsed() < Duration::from_secs(14) || tries == 10 {
            break ([first, second, third, fourth], refused, resets_in);
        }
    };
    let [first, second, third, fourth] = passed;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("4"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("3"));
    assert_eq!(first.header("x-ratelimit-reset-requests"), Some("15s"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("6000"));
    let left: i64 = first.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    assert!((5850..=5900).contains(&left), "{left}");
    // Streamed, and in Anthropic's names.
    assert_eq!((second.status, second.header("x-ratelimit-remaining-requests")), (200, Some("2")));
    let requests = told(&third, "anthropic-ratelimit-requests-");
    assert_eq!(requests[..2], [("limit".into(), "4".into()), ("remaining".into(), "1".into())]);
    assert_eq!(requests[2].0, "reset");
    assert_eq!(resets_in.as_deref(), Some("t"), "{requests:?}");
    assert_eq!(told(&third, "x-ratelimit-").len(), 0);
    assert_eq!(told(&third, "anthropic-ratelimit-tokens-").len(), 3);
    assert_eq!(fourth.status, 200);
    // And when they are reached: how long to wait, in both forms.
    for (refused, prefix) in refused.into_iter().zip(["x-ratelimit-", "anthropic-ratelimit-"]) {
        assert_eq!(refused.status, 429, "{refused:?}");
        assert_eq!(told(&refused, prefix).len(), 6, "{refused:?}");
        let remaining = told(&refused, prefix)
            .into_iter()
            .find(|(name, _)| name == "remaining-requests" || name == "requests-remaining");
        assert_eq!(remaining.unwrap().1, "0");
        let ms: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=15_000).contains(&ms) && seconds == ms.div_ceil(1000), "{refused:?}");
        assert_eq!(refused.header("x-should-retry"), Some("true"));
    }
    // Where nothing is limited, nothing is told.
    let unlimited = bed.send(&chat(&free, json!({}))).await;
    assert_eq!((unlimited.status, told(&unlimited, "x-ratelimit-").len()), (200, 0));
    // Nor what all users have used together; what each may have is told.
    value(&bed.root, "SELECT set_rate_limit(1000)").await;
    let plain = Request::new("POST", "/v1/chat/completions")
        .bearer(&token::of("u-1"))
        .json(super::calls::body(json!({})));
    assert_eq!(told(&bed.send(&plain).await, "x-ratelimit-").len(), 0);
    value(&bed.root, "SELECT set_rate_limit(500, p_each_user => true)").await;
    let each = bed.send(&plain).await;
    assert_eq!(each.header("x-ratelimit-limit-requests"), Some("500"));
    // Pages may read them.
    let page = bed.send(&plain.clone().header("origin", "https://app.example")).await;
    let exposed = page.header("access-control-expose-headers").unwrap();
    for (name, _) in told(&page, "") {
        let is_limit = name.contains("ratelimit");
        assert!(!is_limit || exposed.contains(&name), "{name}");
    }
    let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&bed.root, pending, "0").await;
}
