//! Settings that change who may spend, and what is waited for.

use super::calls::{body, chat};
use super::own::Own;
use super::{Request, keys, token, until_read};
use crate::bed::{PATIENCE, eventually, failure, rows, value};
use crate::fixtures::{HELLO, add_provider, user};
use crate::upstream::{Answer, Piece, Upstream};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn whoever_has_not_signed_in_may_spend_what_the_setting_says() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let own = Own::start("anonymous", "").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    value(&own.root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    let chat_of = |user: &str, is_anonymous: bool| {
        let token = token::with(token::claims(user), json!({"is_anonymous": is_anonymous}));
        Request::new("POST", "/v1/chat/completions").bearer(&token).json(body(json!({})))
    };
    // Of their own key, and of the platform's: u-2 has none of their own.
    let mut asked = 0;
    for (setting, own_key, platform_key) in
        [("own_keys", 200, 403), ("allow", 200, 200), ("refuse", 403, 403), ("own_keys", 200, 403)]
    {
        own.set(&format!("aggregator.anonymous_users = '{setting}'"));
        let began = Instant::now();
        loop {
            let mut told = Vec::new();
            for who in ["u-1", "u-2"] {
                told.push(own.send(&chat_of(who, true)).await.status);
            }
            asked += told.iter().filter(|status| **status == 200).count();
            // The worker reads it a moment later.
            if told == [own_key, platform_key] && began.elapsed() > Duration::from_millis(100) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{setting}: {told:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Who has signed in is not concerned.
        for who in ["u-1", "u-2"] {
            assert_eq!(own.send(&chat_of(who, false)).await.status, 200, "{setting} {who}");
            asked += 1;
        }
    }
    assert_eq!(upstream.chat_count(), asked);
}

#[tokio::test]
async fn without_waiting_for_the_disk_a_commit_still_takes_away_and_every_row_is_settled() {
    let upstream = Upstream::start(|seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::Stream(vec![Piece::role(), Piece::text("abc"), Piece::Stall]),
        _ => Answer::hello(),
    })
    .await;
    let own = Own::start("unsynced", "aggregator.ledger_sync = off").await;
    add_provider(&own.root, &upstream).await;
    user(&own.database(), "u-1").await;
    own.root
        .batch_execute(
            "CREATE ROLE visitor NOLOGIN; GRANT visitor TO authenticator;
             SELECT aggregator_grant('visitor', 'user')",
        )
        .await
        .unwrap();
    let bearer = token::with(token::claims("u-1"), json!({"role": "visitor"}));
    let request =
        Request::new("POST", "/v1/chat/completions").bearer(&bearer).json(body(json!({})));
    let status = async || own.send(&request).await.status;
    let mut paid = 0;
    for (off, on, refused) in [
        (
            "UPDATE user_api_providers SET is_active = false",
            "UPDATE user_api_providers SET is_active = true",
            404,
        ),
        (
            "SELECT set_budget(p_limit_usd => 0, p_keys => 'all')",
            "DELETE FROM aggregator_budgets",
            402,
        ),
        (
            "SELECT aggregator_revoke('visitor', 'user')",
            "SELECT aggregator_grant('visitor', 'user')",
            403,
        ),
        ("REVOKE visitor FROM authenticator", "GRANT visitor TO authenticator", 403),
    ] {
        // Warm, then taken away: the very next one is refused, and so are those after it.
        for _ in 0..3 {
            assert_eq!(status().await, 200, "{off}");
            paid += 1;
        }
        own.root.batch_execute(off).await.unwrap();
        for _ in 0..3 {
            assert_eq!(status().await, refused, "{off}");
        }
        own.root.batch_execute(on).await.unwrap();
        assert_eq!(status().await, 200, "{on}");
        paid += 1;
    }
    assert_eq!(upstream.chat_count(), paid);
    let settled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success' AND cost_estimate = 0.00007";
    eventually(&own.root, settled, &paid.to_string()).await;
    // And who goes away in the middle.
    let mut connection = own.connect().await;
    let streamed = chat("u-1", json!({"stream": true})).bytes(own.port);
    connection.write_all(&streamed).await.unwrap();
    until_read(&upstream, 1, own.port).await;
    drop(connection);
    let cancelled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled' AND cost_estimate > 0";
    eventually(&own.root, cancelled, "1").await;
    let open = "SELECT status FROM aggregator_usage_logs WHERE status = 'pending'";
    assert_eq!(rows(&own.root, open).await, Vec::<String>::new());
}

/// A gateway key says nothing of its owner: what is known of them when it is made stays with it.
#[tokio::test]
async fn a_gateway_key_of_whoever_had_not_signed_in_may_what_the_setting_says() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let own = Own::start("anonymous_key", "aggregator.anonymous_users = 'allow'").await;
    add_provider(&own.root, &upstream).await;
    value(&own.root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    let signed_in = own.database().rest("authenticated", Some("u-2")).await;
    let nobody = own.database().rest("authenticated", Some("u-2")).await;
    nobody
        .batch_execute(
            r#"SET request.jwt.claims = '{"sub":"u-2","role":"authenticated","is_anonymous":true}'"#,
        )
        .await
        .unwrap();
    let (id, key) = keys::create(&nobody, "'before'").await;
    let (_, sure) = keys::create(&signed_in, "'sure'").await;
    let (given, gift) = keys::create(&own.root, "'given', p_user_id => 'u-2'").await;
    let marks = "SELECT name, is_anonymous FROM aggregator_gateway_keys ORDER BY name";
    assert_eq!(rows(&nobody, marks).await, ["before|t", "given|f", "sure|f"]);
    let hi = json!([{"role": "user", "content": "hi"}]);
    let of = |key: &str| {
        let post = |path: &str, body: serde_json::Value| {
            Request::new("POST", path).bearer(key).json(body.to_string())
        };
        [
            post("/v1/chat/completions", json!({"model": "m", "messages": hi})),
            post("/v1/chat/completions", json!({"model": "m", "messages": hi, "stream": true})),
            post("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": hi})),
            post("/v1/messages/count_tokens", json!({"model": "m", "messages": hi})),
            post("/v1/responses", json!({"model": "m", "input": "hi"})),
            post("/v1/jobs", json!({"model": "m", "messages": hi})),
            Request::new("GET", "/v1/models").bearer(key),
        ]
    };
    let all = async |key: &str, is_allowed: bool| {
        for (index, request) in of(key).iter().enumerate() {
            let response = own.send(request).await;
            if is_allowed {
                assert!(matches!(response.status, 200 | 202), "{index}: {response:?}");
            } else {
                assert_eq!(response.status, 403, "{index}: {response:?}");
                let message = response.json()["error"]["message"].to_string();
                assert!(message.contains("has not signed in"), "{index}: {message}");
            }
        }
    };
    let set = async |setting: &str| {
        own.set(&format!("aggregator.anonymous_users = '{setting}'"));
        for client in [&nobody, &signed_in] {
            eventually(client, "SHOW aggregator.anonymous_users", setting).await;
        }
        // The worker reads it a moment later, and jobs that it has claimed by then end.
        let expected = if setting == "allow" { 200 } else { 403 };
        let began = Instant::now();
        while own.send(&keys::chat(&key, json!({}))).await.status != expected {
            assert!(began.elapsed() < PATIENCE, "{setting}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    all(&key, true).await;
    let unfinished = "SELECT count(*) FROM aggregator_jobs WHERE finished_at IS NULL";
    eventually(&own.root, unfinished, "0").await;
    for setting in ["own_keys", "refuse"] {
        set(setting).await;
        all(&key, false).await;
        // What somebody else has vouched for is not concerned.
        all(&sure, true).await;
        all(&gift, true).await;
        eventually(&own.root, unfinished, "0").await;
        // A job that waited is not sent.
        let sent = upstream.chat_count();
        own.root
            .batch_execute(&format!(
                "BEGIN;
                 SELECT chat_submit('m', '{HELLO}', p_user_id => 'u-2');
                 UPDATE aggregator_jobs SET gateway_key_id = '{id}' WHERE finished_at IS NULL;
                 COMMIT"
            ))
            .await
            .unwrap();
        eventually(&own.root, unfinished, "0").await;
        let last =
            "SELECT status, error ->> 'code' FROM aggregator_jobs ORDER BY created_at DESC LIMIT 1";
        assert_eq!(rows(&own.root, last).await, ["failed|no_user"], "{setting}");
        assert_eq!(upstream.chat_count(), sent, "{setting}");
        // Neither is another secret to be had, of one's own or of what an administrator has given.
        for id in [&id, &given] {
            let (code, message) =
                failure(&nobody, &format!("SELECT rotate_gateway_key('{id}')")).await;
            assert_eq!(code, "PT403", "{setting}: {message}");
        }
    }
    set("allow").await;
    all(&key, true).await;
    // Another secret is known to whoever has asked for it.
    let rotate = format!("SELECT rotate_gateway_key('{given}')");
    let rotated = value(&nobody, &rotate).await.unwrap();
    set("own_keys").await;
    all(&rotated, false).await;
    // An administrator's word changes nothing of that, and the owner's does.
    let rotated = value(&own.root, &rotate).await.unwrap();
    all(&rotated, false).await;
    let rotated = value(&signed_in, &rotate).await.unwrap();
    all(&rotated, true).await;
    assert!(value(&nobody, &format!("SELECT revoke_gateway_key('{id}')")).await.is_some());
    assert_eq!(own.send(&keys::chat(&key, json!({}))).await.status, 401);
}
