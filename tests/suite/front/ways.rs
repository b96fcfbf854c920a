//! Settings that change who may spend, and what is waited for.

use super::calls::{body, chat};
use super::own::Own;
use super::{Request, token};
use crate::bed::{eventually, rows, value};
use crate::chat::{add_provider, user};
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
            assert!(began.elapsed() < Duration::from_secs(10), "{setting}: {told:?}");
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
    upstream.wait_for_chats(paid + 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    drop(connection);
    let cancelled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled' AND cost_estimate > 0";
    eventually(&own.root, cancelled, "1").await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let open = "SELECT status FROM aggregator_usage_logs WHERE status = 'pending'";
    assert_eq!(rows(&own.root, open).await, Vec::<String>::new());
}
