//! A user's key changes what that user sees of a provider's models, and nothing for anybody else.

use crate::bed::{self, eventually, failure, rows, value};
use crate::fixtures::HELLO;
use crate::upstream::{Answer, Seen, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_postgres::Client;

/// To each key its own list.
fn lists(seen: &Seen) -> Answer {
    let key = seen.header("authorization").unwrap_or("").trim_start_matches("Bearer ");
    if !seen.path.ends_with("/models") {
        return Answer::hello();
    }
    let ids: &[&str] = match key {
        "sk-alice" => &["gpt-big", "ft:alice-secret-project"],
        "sk-mallory" => &["mallory-only"],
        "sk-platform" => &["gpt-big", "gpt-small"],
        _ => return Answer::json(401, r#"{"error":{"message":"no key"}}"#),
    };
    let data: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
    Answer::json(200, serde_json::json!({"data": data}).to_string())
}

async fn provider(root: &Client, upstream: &Upstream) {
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, base_url) VALUES ('list', 'list', 'direct', '{}')",
        upstream.base_url()
    ))
    .await
    .unwrap();
}

const SEES: &str =
    "SELECT string_agg(model_id, ',' ORDER BY model_id) FROM get_user_available_models()";

async fn with_key(database: &bed::Database<'_>, user: &str, key: &str, models: &str) -> Client {
    let client = database.rest("authenticated", Some(user)).await;
    value(&client, &format!("SELECT save_provider_key('list', '{key}')")).await.unwrap();
    eventually(&client, SEES, models).await;
    client
}

#[tokio::test]
async fn a_private_models_name_stays_private() {
    let upstream = Upstream::raw(lists).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    let alice = with_key(&database, "alice", "sk-alice", "ft:alice-secret-project,gpt-big").await;
    let mallory = with_key(&database, "mallory", "sk-mallory", "mallory-only").await;
    // An administrator syncs, and pg_cron does.
    let synced =
        rows(&root, "SELECT total, error LIKE 'no active key%' FROM sync_models('list')").await;
    assert_eq!(synced, ["∅|t"]);
    for sql in [
        SEES,
        "SELECT string_agg(model_id, ',') FROM aggregator_models",
        "SELECT string_agg(model_id, ',') FROM aggregator_user_models",
        "SELECT string_agg(model_id, ',') FROM aggregator_model_prices JOIN aggregator_models USING (id)",
        "SELECT model_id FROM get_model_provider_config('ft:alice-secret-project')",
        "SELECT model_id FROM get_model_provider_config('alice-secret-project')",
    ] {
        let Ok(messages) = mallory.simple_query(sql).await else { continue };
        assert!(!format!("{messages:?}").contains("secret"), "{sql}");
    }
    assert_eq!(
        rows(&mallory, "SELECT model_id FROM aggregator_user_models").await,
        ["mallory-only"]
    );
    // Neither by a message that says what was meant.
    let (code, message) =
        failure(&mallory, &format!("SELECT chat_complete('ft:alice-secret-projec', '{HELLO}')"))
            .await;
    assert_eq!(code, "PT404");
    assert!(!message.contains("alice-secret-project"), "{message}");
    let (code, _) = failure(&mallory, "SELECT * FROM get_user_available_models('alice')").await;
    assert_eq!(code, "PT403");
    assert_eq!(failure(&mallory, "INSERT INTO aggregator_user_models (user_id, provider_id, model_id, model_name, display_name) SELECT 'alice', id, 'x', 'x', 'x' FROM api_providers WHERE name = 'list'").await.0, "42501");
    // Its owner uses it, by name alone.
    value(&alice, &format!("SELECT chat_complete('ft:alice-secret-project', '{HELLO}')"))
        .await
        .unwrap();
    assert_eq!(upstream.chats()[0].header("authorization"), Some("Bearer sk-alice"));
    assert_eq!(upstream.chats()[0].json()["model"], "ft:alice-secret-project");
    assert_eq!(
        rows(&root, "SELECT model_id FROM get_user_available_models('alice') ORDER BY 1").await,
        ["ft:alice-secret-project", "gpt-big"]
    );
}

#[tokio::test]
async fn one_users_key_cannot_make_models_vanish_for_others() {
    let upstream = Upstream::raw(lists).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    value(&root, "SELECT save_platform_key('list', 'sk-platform')").await.unwrap();
    eventually(
        &root,
        "SELECT string_agg(model_id, ',' ORDER BY model_id) FROM aggregator_models",
        "gpt-big,gpt-small",
    )
    .await;
    // The platform's key goes, and users come with theirs, each later than the other.
    value(&root, "SELECT remove_platform_key('list')").await;
    let alice = database.rest("authenticated", Some("alice")).await;
    value(&alice, "SELECT save_provider_key('list', 'sk-alice')").await.unwrap();
    let mallory = database.rest("authenticated", Some("mallory")).await;
    value(&mallory, "SELECT save_provider_key('list', 'sk-mallory')").await.unwrap();
    root.batch_execute(
        "UPDATE user_api_providers SET last_used_at = now() WHERE user_id = 'mallory'",
    )
    .await
    .unwrap();
    rows(&root, "SELECT sync_models('list')").await;
    for user in [&alice, &mallory] {
        assert_eq!(value(user, SEES).await.unwrap(), "gpt-big,gpt-small");
    }
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_models WHERE NOT is_available")
            .await
            .unwrap(),
        "0"
    );
}

#[tokio::test]
async fn what_a_users_key_showed_goes_with_the_key() {
    let upstream = Upstream::raw(lists).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    let alice = with_key(&database, "alice", "sk-alice", "ft:alice-secret-project,gpt-big").await;
    // Another key, another list.
    value(&alice, "SELECT save_provider_key('list', 'sk-mallory')").await.unwrap();
    eventually(&alice, SEES, "mallory-only").await;
    root.batch_execute("UPDATE user_api_providers SET is_active = false WHERE user_id = 'alice'")
        .await
        .unwrap();
    assert_eq!(value(&alice, SEES).await, None);
    assert_eq!(
        failure(&alice, &format!("SELECT chat_complete('mallory-only', '{HELLO}')")).await.0,
        "PT404"
    );
    value(&alice, "SELECT remove_provider_key('list')").await.unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_user_models").await.unwrap(), "0");
    // Nor does the platform's key pay for what only a user's was shown.
    with_key(&database, "bob", "sk-alice", "ft:alice-secret-project,gpt-big").await;
    value(&root, "SELECT save_platform_key('list', 'sk-platform')").await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_models", "2").await;
    let bob = database.rest("authenticated", Some("bob")).await;
    let route = "SELECT api_key_encrypted IS NULL FROM get_model_provider_config('ft:alice-secret-project')";
    assert_eq!(rows(&bob, route).await, ["f"]);
    root.batch_execute("UPDATE user_api_providers SET is_active = false WHERE user_id = 'bob'")
        .await
        .unwrap();
    assert_eq!(rows(&bob, route).await.len(), 0);
    assert_eq!(value(&bob, SEES).await.unwrap(), "gpt-big,gpt-small");
    value(&root, "SELECT forget_user('bob')").await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_user_models").await.unwrap(), "0");
    // A provider's end is theirs.
    root.batch_execute(
        "INSERT INTO aggregator_user_models (user_id, provider_id, model_id, model_name, display_name)
         SELECT 'carol', id, 'x', 'x', 'x' FROM api_providers WHERE name = 'list'",
    )
    .await
    .unwrap();
    root.batch_execute("DELETE FROM api_providers WHERE name = 'list'").await.unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_user_models").await.unwrap(), "0");
}

#[tokio::test]
async fn a_user_syncs_what_their_own_key_is_shown_and_not_without_end() {
    let has_grown = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::raw({
        let has_grown = has_grown.clone();
        move |seen: &Seen| {
            if seen.header("authorization") != Some("Bearer sk-alice") {
                return Answer::json(401, r#"{"error":{"message":"no key"}}"#);
            }
            let ids: &[&str] = match has_grown.load(Ordering::Relaxed) {
                false => &["gpt-big", "gpt-old"],
                true => &["gpt-big", "gpt-new", "gpt-newer"],
            };
            let data: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
            Answer::json(200, serde_json::json!({"data": data}).to_string())
        }
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    let alice = with_key(&database, "alice", "sk-alice", "gpt-big,gpt-old").await;
    let sync = "SELECT provider_name, total, added, removed, error FROM sync_own_models()";
    has_grown.store(true, Ordering::Relaxed);
    assert_eq!(rows(&alice, sync).await, ["list|3|2|1|∅"]);
    assert_eq!(value(&alice, SEES).await.unwrap(), "gpt-big,gpt-new,gpt-newer");
    assert_eq!(rows(&alice, sync).await, ["list|3|0|0|∅"]);
    // It is theirs, and nobody else's.
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_models").await.unwrap(), "0");
    let bob = database.rest("authenticated", Some("bob")).await;
    assert!(rows(&bob, sync).await.is_empty());
    for (provider, code) in [("list", "PT404"), ("nosuch", "PT404")] {
        let named = format!("SELECT * FROM sync_own_models('{provider}')");
        assert_eq!(failure(&bob, &named).await.0, code, "{provider}");
    }
    // As often as keys are checked, and no more often.
    let asked = || upstream.seen().len();
    let mut last = String::new();
    for _ in 0..40 {
        let before = asked();
        last = rows(&alice, sync).await.remove(0);
        if last.starts_with("list|∅") {
            assert_eq!(asked(), before);
            break;
        }
    }
    assert!(last.contains("key checks"), "{last}");
}

#[tokio::test]
async fn what_everybody_sees_is_fetched_without_a_users_key_and_once_an_hour() {
    let has_grown = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::raw({
        let has_grown = has_grown.clone();
        move |_: &Seen| match has_grown.load(Ordering::Relaxed) {
            false => Answer::json(200, r#"{"data": [{"id": "one"}]}"#),
            true => Answer::json(200, r#"{"data": [{"id": "one"}, {"id": "two"}]}"#),
        }
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    rows(&root, "SELECT sync_models('list')").await;
    let alice = with_key(&database, "alice", "sk-alice", "one").await;
    has_grown.store(true, Ordering::Relaxed);
    let before = upstream.seen().len();
    let sync = "SELECT provider_name, total, added, removed, error FROM sync_own_models('list')";
    assert_eq!(rows(&alice, sync).await, ["list|1|0|0|∅"]);
    assert_eq!(upstream.seen().len(), before);
    root.batch_execute("UPDATE api_providers SET last_synced_at = now() - interval '2 hours'")
        .await
        .unwrap();
    assert_eq!(rows(&alice, sync).await, ["list|2|1|0|∅"]);
    let seen = upstream.seen();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(seen[before].header("authorization"), None);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_models").await.unwrap(), "2");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_user_models").await.unwrap(), "0");
}

#[tokio::test]
async fn whoever_asks_and_goes_away_again_and_again_has_the_provider_asked_once() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::raw({
        let is_slow = is_slow.clone();
        move |_: &Seen| {
            let list = Answer::json(200, r#"{"data": [{"id": "one"}]}"#);
            if is_slow.load(Ordering::Relaxed) { Answer::late(2000, list) } else { list }
        }
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, &upstream).await;
    rows(&root, "SELECT sync_models('list')").await;
    let alice = with_key(&database, "alice", "sk-alice", "one").await;
    root.batch_execute("UPDATE api_providers SET last_synced_at = now() - interval '2 hours'")
        .await
        .unwrap();
    let before = upstream.seen().len();
    is_slow.store(true, Ordering::Relaxed);
    let sync = "SELECT total, added, error FROM sync_own_models('list')";
    alice.batch_execute("SET statement_timeout = '300ms'").await.unwrap();
    while upstream.seen().len() < before + 1 {
        let _ = alice.batch_execute(sync).await;
    }
    for _ in 0..5 {
        let _ = alice.batch_execute(sync).await;
    }
    alice.batch_execute("RESET statement_timeout").await.unwrap();
    assert_eq!(rows(&alice, sync).await, ["1|0|∅"]);
    assert_eq!(upstream.seen().len(), before + 1);
}
