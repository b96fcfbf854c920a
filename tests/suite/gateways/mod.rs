//! Several servers as one gateway: a hub, and others that follow it by logical replication, as docs/operate/gateways.md
//! sets them up.

mod configuration;
mod console;
mod standby;
mod usage;

use crate::bed::{Cluster, Database, as_server, eventually, rows, run, shown, value};
use crate::fixtures::{add_provider, save_key};
use crate::upstream::Upstream;
use tokio_postgres::Client;

/// The database of each.
const DATABASE: &str = "app";
/// Where the others are told that the hub is. Nothing here leases of it.
const HUB: &str = "http://hub.test:8787";
/// As whom servers subscribe to each other.
const REPLICATOR: &str = "
    CREATE ROLE gateways LOGIN REPLICATION BYPASSRLS;
    GRANT SELECT ON api_providers, user_api_providers, aggregator_models, aggregator_model_prices, aggregator_user_models,
        aggregator_budgets, aggregator_rate_limits, aggregator_gateway_keys, aggregator_gateways, aggregator_usage_hourly,
        aggregator_usage_totals, aggregator_usage_labels TO gateways";

/// A server that is a gateway, with the extension.
struct Node {
    name: String,
    cluster: Cluster,
}

impl Node {
    fn configuration(name: &str, hub: Option<&str>) -> String {
        format!(
            "wal_level = logical\nmax_logical_replication_workers = 20\nwal_retrieve_retry_interval = '500ms'\n\
             aggregator.gateway = '{name}'\naggregator.hub = '{}'",
            hub.unwrap_or_default()
        )
    }

    /// `of`: the test's name.
    async fn start(of: &str, name: &str, hub: Option<&str>) -> Self {
        let node = Self::make(of, name, hub);
        node.up().await;
        node
    }

    /// One that is not started yet.
    fn make(of: &str, name: &str, hub: Option<&str>) -> Self {
        let cluster =
            Cluster::make(&format!("gateways-{of}-{name}"), &Self::configuration(name, hub));
        Self { name: name.to_owned(), cluster }
    }

    async fn up(&self) {
        self.cluster.up();
        self.cluster.supabase_roles().await;
        let first = self.cluster.connect("postgres", "postgres").await;
        first.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
        let root = self.root().await;
        root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
        root.batch_execute(REPLICATOR).await.unwrap();
    }

    fn database(&self) -> Database<'_> {
        Database { cluster: &self.cluster, name: DATABASE.to_owned() }
    }

    async fn root(&self) -> Client {
        self.cluster.connect("postgres", DATABASE).await
    }

    /// Gives the other server this one's master keys.
    fn copy_keyring(&self, to: &Self) {
        let keyring = self.cluster.data().join("aggregator.keyring");
        run(as_server("cp").arg("-a").arg(keyring).arg(to.cluster.data()));
    }

    /// Follows the hub, by the statements that the function gives; the hub subscribes to what this one counts.
    async fn follow(&self, hub: &Self) {
        hub.copy_keyring(self);
        assert_eq!(self.subscribe(hub, &["this server", "the hub"]).await, 3);
    }

    /// Runs the statements that the function gives for these servers; how many.
    async fn subscribe(&self, hub: &Self, on: &[&str]) -> usize {
        let (root, at_hub) = (self.root().await, hub.root().await);
        let mut subscribed = 0;
        for row in rows(&root, "SELECT * FROM aggregator_follow()").await {
            let (run_on, statement) = row.split_once('|').expect("two columns");
            if !on.contains(&run_on) {
                continue;
            }
            let statement = statement
                .replace("host=HUB", &format!("host={}", hub.cluster.dir.display()))
                .replace("host=THIS_SERVER", &format!("host={}", self.cluster.dir.display()));
            let client = if run_on == "the hub" { &at_hub } else { &root };
            client
                .batch_execute(&statement)
                .await
                .unwrap_or_else(|e| panic!("{statement}: {}", shown(&e)));
            subscribed += 1;
        }
        copied(&root).await;
        copied(&at_hub).await;
        subscribed
    }
}

/// A hub with the provider `standin` and a key for the superuser's own user id, and others that follow it.
async fn gateways(of: &str, names: &[&str], upstream: &Upstream) -> (Node, Vec<Node>) {
    let hub = Node::start(of, "hub", None).await;
    let root = hub.root().await;
    add_provider(&root, upstream).await;
    // Nobody fetches its list, or it would be stored while a test compares.
    root.batch_execute("UPDATE api_providers SET last_synced_at = now() WHERE name = 'standin'")
        .await
        .unwrap();
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    let published = rows(&root, "SELECT aggregator_publish()").await;
    assert_eq!(published, ["aggregator_configuration", "aggregator_usage"]);
    let mut others = vec![];
    for name in names {
        let node = Node::start(of, name, Some(HUB)).await;
        node.follow(&hub).await;
        others.push(node);
    }
    (hub, others)
}

/// Waits until what was there when a server subscribed is here.
async fn copied(client: &Client) {
    let not_yet = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
    eventually(client, not_yet, "0").await;
}

/// Waits until whoever has subscribed to a server has what it has written until now.
async fn told(client: &Client) {
    let until = value(client, "SELECT pg_current_wal_insert_lsn()").await.unwrap();
    let behind = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND slot_type = 'logical'
         AND confirmed_flush_lsn < '{until}'"
    );
    eventually(client, &behind, "0").await;
}

/// What a server has of the tables that a hub publishes, but for what each writes for itself.
async fn configured(client: &Client) -> Vec<String> {
    let mut all = vec![];
    for table in [
        "api_providers",
        "user_api_providers",
        "aggregator_models",
        "aggregator_model_prices",
        "aggregator_user_models",
        "aggregator_budgets",
        "aggregator_rate_limits",
        "aggregator_gateway_keys",
        "aggregator_gateways",
    ] {
        let sql = format!(
            "SELECT '{table}', to_jsonb(t) - '{{last_used_at,last_validated_at}}'::text[] FROM {table} AS t ORDER BY 2"
        );
        all.extend(rows(client, &sql).await);
    }
    all
}
