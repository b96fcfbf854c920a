//! The console of a server that follows refuses configuration, to administrators too.

use super::{DATABASE, HUB, Node, told};
use crate::bed::{eventually, value};
use crate::fixtures::add_provider;
use crate::front::console_data::{get, post, statements};
use crate::front::{SECRET, free_port, send, token, write_secret};
use crate::upstream::{Answer, Upstream};
use serde_json::json;
use tokio::net::TcpStream;

#[tokio::test]
async fn the_console_of_one_that_follows_refuses_configuration() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let hub = Node::start("console", "hub", None).await;
    let root = hub.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    value(&root, "SELECT aggregator_publish()").await;
    let at_hub = hub.database().rest("service_role", Some("admin")).await;
    let made = async |sql: &str| value(&at_hub, sql).await.unwrap();
    made("SELECT save_provider_key('standin', 'sk-good-0123456789abcdef', p_validate => false)")
        .await;
    let budget = made("SELECT set_budget(1000)").await;
    let limit = made("SELECT set_rate_limit(1000)").await;
    let key = made("SELECT id FROM create_gateway_key('program')").await;

    let port = free_port().await;
    let b = Node::make("console", "b", Some(HUB));
    write_secret(&b.cluster.data().join("jwt_secret"), SECRET);
    b.cluster.configure(&format!(
        "aggregator.jwt_secret_file = 'jwt_secret'\naggregator.http_listen = '{DATABASE}=127.0.0.1:{port}'"
    ));
    b.up().await;
    b.follow(&hub).await;
    told(&root).await;
    let at_b = b.root().await;
    value(&at_b, "SELECT aggregator_start()").await;
    let address = format!("http://127.0.0.1:{port}");
    eventually(&at_b, "SELECT http_address FROM aggregator_status()", &address).await;

    let administrator = token::with(token::claims("admin"), json!({"role": "service_role"}));
    let asked = async |request: crate::front::Request| {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        send(stream, &request.bearer(&administrator).bytes(port)).await
    };
    let configures = [
        ("change-key", json!({"provider": "standin", "priority": 3})),
        ("create-gateway-key", json!({"name": "another"})),
        ("remove-budget", json!({"id": budget})),
        ("remove-key", json!({"provider": "standin"})),
        ("remove-platform-key", json!({"provider": "standin"})),
        ("remove-rate-limit", json!({"id": limit})),
        ("revoke-gateway-key", json!({"id": key})),
        ("rotate-gateway-key", json!({"id": key})),
        (
            "save-key",
            json!({"provider": "standin", "key": "sk-good-another-0123456789", "unchecked": true}),
        ),
        ("save-platform-key", json!({"provider": "standin", "key": "sk-good-another-0123456789"})),
        ("set-budget", json!({"limit_usd": "5"})),
        ("set-rate-limit", json!({"requests_per_minute": 5})),
        ("sync", json!({"provider": "standin"})),
        ("sync-own", json!({"provider": "standin"})),
    ];
    for (name, body) in &configures {
        let answered = asked(post(name, body.clone())).await;
        assert_eq!(
            (answered.status, answered.code()),
            (409, "follows_hub".to_owned()),
            "{name}: {answered:?}"
        );
        assert!(answered.body.contains(HUB), "{name}: {answered:?}");
        assert!(!answered.body.contains("sk-good"), "{name}: {answered:?}");
    }
    // What else it does is no configuration, or is a read; and it goes on with that.
    for statement in statements().iter().filter(|statement| statement.method == "POST") {
        let is_known = configures.iter().any(|(name, _)| *name == statement.name);
        assert!(
            is_known || matches!(statement.name.as_str(), "cancel-job" | "check-key"),
            "{}",
            statement.name
        );
    }
    for name in ["me", "limits", "providers", "gateway-keys", "usage"] {
        let answered = asked(get(name)).await;
        assert_eq!(answered.status, 200, "{name}: {answered:?}");
    }
}
