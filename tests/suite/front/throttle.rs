//! Whoever goes on showing bad credentials is told to wait, and nobody else is.

use super::calls::ready;
use super::keys::{chat, create, owner};
use super::{Request, Response, cluster, listen, over_socket, token};
use crate::bed::{eventually, value};
use crate::upstream::{Answer, Upstream};
use serde_json::json;

/// The answer to the next of those who have failed as often as they may. On a busy machine some of what has failed is
/// forgotten by then.
async fn refused_in_the_end(ask: impl AsyncFn() -> Response) -> Response {
    let mut response = ask().await;
    for _ in 0..30 {
        if response.status != 401 {
            break;
        }
        response = ask().await;
    }
    response
}

#[tokio::test]
async fn a_bad_credential_that_is_shown_again_and_again_has_to_wait() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let owner = owner(&bed.database).await;
    let (id, revoked) = create(&owner, "'x'").await;
    value(&owner, &format!("SELECT revoke_gateway_key('{id}')")).await;
    let (_, good) = create(&owner, "'y'").await;
    let forged = token::signed(&token::claims("u-1"), "another-secret-of-thirty-two-bytes!");
    for bad in [&revoked, &forged] {
        for attempt in 0..20 {
            let response = bed.send(&chat(bad, json!({}))).await;
            assert_eq!(response.status, 401, "{attempt}: {response:?}");
        }
        let refused = refused_in_the_end(async || bed.send(&chat(bad, json!({}))).await).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_failures"));
        let ms: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
        assert!((1..=6000).contains(&ms), "{ms}");
        assert!((1..=6).contains(&refused.header("retry-after").unwrap().parse::<u64>().unwrap()));
        // Everybody has this machine's address, as behind a proxy that says not for whom it asks.
        for good in [good.as_str(), &token::of("u-1")] {
            assert_eq!(bed.send(&chat(good, json!({}))).await.status, 200);
        }
    }
    // Others that are bad are looked at as before, however alike they begin.
    let other = token::signed(&token::claims("u-2"), "another-secret-of-thirty-two-bytes!");
    assert_eq!(bed.send(&chat(&other, json!({}))).await.status, 401);
    assert_eq!(bed.send(&Request::new("GET", "/v1/models")).await.status, 401);
    assert_eq!(upstream.chat_count(), 4);
}

#[tokio::test]
async fn of_an_address_that_a_proxy_tells_all_that_fails_counts_together() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = cluster().await;
    let database = cluster.database().await;
    let root = database.root().await;
    crate::fixtures::add_provider(&root, &upstream).await;
    crate::fixtures::user(&database, "u-1").await;
    // What comes over a Unix socket comes from a proxy that is trusted.
    let path = cluster.dir.join(format!("{}.http", database.name));
    listen(&root, &format!("{}=unix:{}", database.name, path.display())).await;
    value(&root, "SELECT aggregator_start()").await;
    let address = format!("unix:{}", path.display());
    eventually(&root, "SELECT http_address FROM aggregator_status()", &address).await;
    let send = async |credential: &str, from: &str| {
        let request = chat(credential, json!({})).header("host", "any.example");
        over_socket(&path, &request.header("x-forwarded-for", from)).await
    };
    let forged = |n: u32| {
        token::signed(&token::claims(&format!("u-{n}")), "another-secret-of-thirty-two-bytes!")
    };
    let known = token::of("u-1");
    assert_eq!(send(&known, "203.0.113.9").await.status, 200);
    for n in 0..20 {
        // Whatever else stands before the address, and whatever is bad.
        let bad = if n % 2 == 0 { forged(n) } else { "agk_nothing".to_owned() };
        assert_eq!(send(&bad, &format!("198.51.100.{n}, 203.0.113.9")).await.status, 401, "{n}");
    }
    let refused = refused_in_the_end(async || send(&forged(99), "203.0.113.9").await).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_many_failures"));
    assert!(refused.header("retry-after").is_some() && refused.header("retry-after-ms").is_some());
    // Who was known before still is, from the same address; and from others nothing has failed.
    assert_eq!(send(&known, "203.0.113.9").await.status, 200);
    assert_eq!(send(&forged(99), "203.0.113.10").await.status, 401);
    assert_eq!(
        send(&token::with(token::claims("u-1"), json!({"x": 1})), "203.0.113.10").await.status,
        200
    );
    // Without an address each credential counts for itself.
    let request = chat(&forged(99), json!({})).header("host", "any.example");
    assert_eq!(over_socket(&path, &request).await.status, 401);
}
