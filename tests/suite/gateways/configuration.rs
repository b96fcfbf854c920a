//! What is configured on the hub holds on each, and is changed there alone.

use super::{HUB, configured, gateways, told};
use crate::bed::{eventually, failure, rows, shown, value};
use crate::fixtures::{chat_sql, save_key, user};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// What one that follows refuses, whichever door it comes by.
const REFUSED: &[&str] = &[
    "SELECT save_provider_key('standin', 'sk-other-0123456789', p_validate => false)",
    "SELECT save_platform_key('standin', 'sk-other-0123456789')",
    "SELECT remove_provider_key('standin')",
    "SELECT remove_platform_key('standin')",
    "SELECT set_platform_models('standin', ARRAY['m'])",
    "SELECT rotate_master_key()",
    "SELECT sync_models('standin')",
    "SELECT sync_own_models('standin')",
    "SELECT set_model_price('m', '{\"input\": 1, \"output\": 1}', 'standin')",
    "SELECT set_budget(1)",
    "SELECT remove_budget((SELECT id FROM aggregator_budgets LIMIT 1))",
    "SELECT set_rate_limit(1000)",
    "SELECT remove_rate_limit((SELECT id FROM aggregator_rate_limits LIMIT 1))",
    "SELECT create_gateway_key('mine')",
    "SELECT rotate_gateway_key((SELECT id FROM aggregator_gateway_keys LIMIT 1))",
    "SELECT revoke_gateway_key((SELECT id FROM aggregator_gateway_keys LIMIT 1))",
    "INSERT INTO api_providers (name, display_name, provider_type, base_url) VALUES ('p', 'P', 'direct', 'https://p.test')",
    "UPDATE api_providers SET is_active = false",
    "DELETE FROM api_providers",
    "UPDATE user_api_providers SET is_active = false",
    "DELETE FROM user_api_providers",
    "UPDATE aggregator_models SET pricing = '{}'",
    "DELETE FROM aggregator_models",
    "UPDATE aggregator_model_prices SET valid_to = now()",
    "UPDATE aggregator_budgets SET limit_usd = 7",
    "DELETE FROM aggregator_budgets",
    "UPDATE aggregator_rate_limits SET requests_per_minute = 7",
    "DELETE FROM aggregator_rate_limits",
    "SELECT add_gateway('another')",
    "SELECT remove_gateway('b')",
    "SELECT * FROM settle_gateway('b')",
    "UPDATE aggregator_gateway_keys SET expires_at = now()",
    "DELETE FROM aggregator_gateway_keys",
    "SELECT forget_user('ann')",
];

#[tokio::test]
async fn configuration_comes_from_the_hub_and_is_changed_there_alone() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (hub, others) = gateways("conf", &["b"], &upstream).await;
    let b = &others[0];
    let (root, at_b) = (hub.root().await, b.root().await);
    let ann = user(&hub.database(), "ann").await;
    value(&ann, "SELECT key FROM create_gateway_key('program', p_requests_per_minute => 1000)")
        .await;
    value(&root, "SELECT set_budget(1000, p_user_id => 'nobody')").await;
    value(&root, "SELECT add_gateway('b')").await;
    told(&root).await;
    let configuration = configured(&root).await;
    assert!(configuration.len() > 10, "{configuration:?}");
    assert_eq!(configured(&at_b).await, configuration);

    // It calls by itself, and notes for itself when a key was used.
    value(&at_b, &chat_sql("{}")).await.unwrap();
    let used = "SELECT count(last_used_at) FROM user_api_providers WHERE user_id = 'role:postgres'";
    eventually(&at_b, used, "1").await;
    assert_eq!(value(&root, used).await.unwrap(), "0");
    // What the hub notes for itself changes nothing here.
    let row = "SELECT xmin, last_used_at FROM user_api_providers WHERE user_id = 'role:postgres'";
    let before = rows(&at_b, row).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    eventually(&root, used, "1").await;
    told(&root).await;
    assert_eq!(rows(&at_b, row).await, before);

    // The first call after a key has gone is refused, though its route was kept.
    value(&at_b, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT remove_provider_key('standin')").await.unwrap(), "t");
    told(&root).await;
    is_refused(&at_b, "a key is removed").await;
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    told(&root).await;
    value(&at_b, &chat_sql("{}")).await.unwrap();
    // So is one at a provider that is not active, and with a key that is not.
    for (change, back) in [
        (
            "UPDATE api_providers SET is_active = false WHERE name = 'standin'",
            "UPDATE api_providers SET is_active = true WHERE name = 'standin'",
        ),
        (
            "UPDATE user_api_providers SET is_active = false",
            "UPDATE user_api_providers SET is_active = true",
        ),
    ] {
        root.batch_execute(change).await.unwrap();
        told(&root).await;
        is_refused(&at_b, change).await;
        root.batch_execute(back).await.unwrap();
        told(&root).await;
        value(&at_b, &chat_sql("{}")).await.unwrap();
    }
    // Prices have their history from there, and no other.
    value(&root, "SELECT set_model_price('m', '{\"input\": 3, \"output\": 3}', 'standin')").await;
    told(&root).await;
    assert_eq!(configured(&at_b).await, configured(&root).await);

    // What is written here is refused, and says where it is to be written.
    for sql in REFUSED {
        let (code, message) = failure(&at_b, sql).await;
        assert_eq!(code, "PT409", "{sql}: {message}");
        assert!(message.contains("follows"), "{sql}: {message}");
        assert!(message.contains(HUB), "{sql}: {message}");
    }
    let ann_at_b = b.database().rest("authenticated", Some("ann")).await;
    for sql in [
        "SELECT save_provider_key('standin', 'sk-other-0123456789', p_validate => false)",
        "UPDATE user_api_providers SET priority = 5",
        "SELECT create_gateway_key('mine')",
    ] {
        assert_eq!(failure(&ann_at_b, sql).await.0, "PT409", "{sql}");
        // Nor does row_security = off help whoever is no superuser.
        ann_at_b.batch_execute("SET row_security = off").await.unwrap();
        assert_ne!(failure(&ann_at_b, sql).await.0, "", "{sql}");
        ann_at_b.batch_execute("RESET row_security").await.unwrap();
    }
    assert_eq!(configured(&at_b).await, configured(&root).await);

    // It publishes what it counts, alone.
    assert_eq!(rows(&at_b, "SELECT aggregator_publish()").await, ["aggregator_usage"]);

    // Emptied under a subscription, nothing would come again; and only a superuser shares.
    let (code, message) = failure(&at_b, "SELECT aggregator_follow()").await;
    assert_eq!(code, "PT409");
    assert!(message.contains("DROP SUBSCRIPTION"), "{message}");
    let (code, message) = failure(&root, "SELECT aggregator_follow()").await;
    assert_eq!(code, "PT409");
    assert!(message.contains("aggregator.hub"), "{message}");
    root.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO alice").await.unwrap();
    let alice = hub.database().user("alice").await;
    for sql in ["SELECT aggregator_publish()", "SELECT aggregator_adopt_usage()"] {
        assert_eq!(failure(&alice, sql).await.0, "PT403", "{sql}");
    }

    // Without the hub it goes on calling; what was written while it was away itself, it gets when it is back.
    hub.cluster.down("immediate");
    value(&at_b, &chat_sql("{}")).await.unwrap();
    hub.cluster.up();
    let root = hub.cluster.again(super::DATABASE).await;
    b.cluster.down("fast");
    value(&root, "SELECT set_model_price('m', '{\"input\": 4, \"output\": 4}', 'standin')").await;
    root.batch_execute("DELETE FROM aggregator_gateway_keys").await.unwrap();
    b.cluster.up();
    let at_b = b.cluster.again(super::DATABASE).await;
    told(&root).await;
    assert_eq!(configured(&at_b).await, configured(&root).await);
    value(&at_b, &chat_sql("{}")).await.unwrap();
    // A provider that goes takes what belongs to it along, there too.
    root.batch_execute("DELETE FROM api_providers WHERE name = 'standin'").await.unwrap();
    told(&root).await;
    assert_eq!(configured(&at_b).await, configured(&root).await);
    is_refused(&at_b, "the provider is gone").await;
}

/// A call finds nobody to ask, after a change that has come.
async fn is_refused(client: &Client, change: &str) {
    match client.simple_query(&chat_sql("{}")).await {
        Ok(_) => panic!("a call goes on after this: {change}"),
        Err(error) => assert!(shown(&error).starts_with("PT404"), "{change}: {}", shown(&error)),
    }
}
