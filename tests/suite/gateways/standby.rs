//! A physical standby for each server: it takes over, under the same name, when its server is gone. As the section "A
//! standby for each" of docs/operate/gateways.md says.

use super::{DATABASE, Node, configured, copied, told};
use crate::bed::{Cluster, PATIENCE, as_server, eventually, failure, rows, run, shown, value};
use crate::fixtures::{add_provider, chat_sql, save_key, submit};
use crate::front::free_port;
use crate::upstream::{Answer, Gate, Seen, Upstream};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CAP: usize = 60;
const TOTALS: &str = "SELECT to_jsonb(t) FROM aggregator_usage_totals AS t ORDER BY 1";

/// What a test has: a hub that others lease of, and one that follows it.
struct Pair {
    hub: Node,
    b: Node,
}

impl Pair {
    async fn start(of: &str, upstream: &Upstream) -> Self {
        let port = free_port().await;
        let address = format!("http://127.0.0.1:{port}");
        let preloaded =
            format!("shared_preload_libraries = 'aggregator'\naggregator.databases = '{DATABASE}'");
        let hub = Node::make(of, "hub", None);
        hub.cluster.configure(&format!(
            "{preloaded}\naggregator.http_listen = '{DATABASE}=127.0.0.1:{port}'"
        ));
        hub.up().await;
        let root = hub.root().await;
        add_provider(&root, upstream).await;
        root.batch_execute(
            "UPDATE api_providers SET last_synced_at = now() WHERE name = 'standin'",
        )
        .await
        .unwrap();
        save_key(&root, "standin", "sk-good-0123456789abcdef").await;
        value(
            &root,
            &format!(
                "SELECT set_budget(p_limit_requests => {CAP}, p_period => 'total', p_keys => 'all')"
            ),
        )
        .await;
        value(&root, "SELECT aggregator_publish()").await;
        let b = Node::make(of, "b", Some(&address));
        b.cluster.configure(&preloaded);
        b.up().await;
        b.follow(&hub).await;
        value(&root, "SELECT add_gateway('b')").await;
        told(&root).await;
        eventually(&root, "SELECT http_address FROM aggregator_status()", &address).await;
        Self { hub, b }
    }
}

impl Node {
    /// A standby for which this server waits, and not for who has subscribed to it.
    async fn standby(&self) -> Self {
        let dir = self.cluster.dir.with_file_name(format!(
            "{}-standby",
            self.cluster.dir.file_name().unwrap().to_str().unwrap()
        ));
        let standby = Self {
            name: self.name.clone(),
            cluster: Cluster { dir, bin: self.cluster.bin.clone() },
        };
        run(as_server("mkdir").arg("-p").arg(&standby.cluster.dir));
        let from =
            format!("host={} user=postgres application_name=standby", self.cluster.dir.display());
        run(as_server(self.cluster.bin.join("pg_basebackup"))
            .args(["-d", &from, "-c", "fast", "-R", "-X", "stream", "-D"])
            .arg(standby.cluster.data()));
        // What it has written there is for a library of its own version, and the server's may be another.
        let auto = standby.cluster.data().join("postgresql.auto.conf");
        run(as_server("sh")
            .args(["-c", "printf '%s\\n' \"$1\" >> \"$2\"", "sh"])
            .arg(format!("primary_conninfo = '{from}'"))
            .arg(auto));
        let socket = format!("unix_socket_directories = '{}'", standby.cluster.dir.display());
        standby.cluster.configure(&socket);
        standby.cluster.up();
        let root = self.root().await;
        root.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'").await.unwrap();
        root.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let waits = "SELECT string_agg(application_name, ',') FROM pg_stat_replication WHERE sync_state = 'sync'";
        eventually(&root, waits, "standby").await;
        // What it says that it has must be on the standby, or nobody sends it again.
        for name in subscriptions(&root).await {
            let alter = format!("ALTER SUBSCRIPTION {name} SET (synchronous_commit = on)");
            root.batch_execute(&alter).await.unwrap();
        }
        standby
    }

    /// Takes the place of its server, which is gone.
    async fn promote(&self) -> Client {
        let root = self.root().await;
        assert_eq!(value(&root, "SELECT pg_promote()").await.as_deref(), Some("t"));
        root
    }
}

async fn subscriptions(client: &Client) -> Vec<String> {
    rows(client, "SELECT subname FROM pg_subscription ORDER BY 1").await
}

/// Lets go of a subscription whose slot is gone with its server.
async fn unsubscribe(client: &Client, name: &str) {
    for statement in [
        format!("ALTER SUBSCRIPTION {name} DISABLE"),
        format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
        format!("DROP SUBSCRIPTION {name}"),
    ] {
        client
            .batch_execute(&statement)
            .await
            .unwrap_or_else(|e| panic!("{statement}: {}", shown(&e)));
    }
}

/// The hub subscribes anew to what `b` has counted, and gets all of it.
async fn subscribe_anew(at_hub: &Client, to: &Node) {
    unsubscribe(at_hub, "aggregator_usage_of_b").await;
    value(at_hub, "SELECT aggregator_drop_usage('b')").await;
    let statement = format!(
        "CREATE SUBSCRIPTION aggregator_usage_of_b CONNECTION 'host={} dbname={DATABASE} user=gateways'
         PUBLICATION aggregator_usage WITH (slot_name = aggregator_usage_for_hub)",
        to.cluster.dir.display()
    );
    at_hub.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{}", shown(&e)));
    copied(at_hub).await;
}

/// Calls on all until the budget of all is spent: what one has leased and does not need comes back.
async fn spend_all(clients: &[&Client], upstream: &Upstream) {
    let began = Instant::now();
    let counted = "SELECT count(*) FROM aggregator_usage_logs WHERE status <> 'pending'";
    let mut sum = 0;
    while sum < CAP && began.elapsed() < PATIENCE {
        sum = 0;
        for client in clients {
            while client.simple_query(&chat_sql("{}")).await.is_ok() {}
            sum += value(client, counted).await.unwrap().parse::<usize>().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(sum, CAP, "as many rows as the budget has requests");
    for client in clients {
        let (code, message) = failure(client, &chat_sql("{}")).await;
        assert_eq!(code, "PT402", "{message}");
    }
    assert!(upstream.chat_count() <= CAP, "{}", upstream.chat_count());
}

fn held(gate: &Gate) -> impl Fn(&Seen) -> Answer + Send + Sync + 'static {
    let gate = gate.clone();
    move |seen| match seen.body.contains("held") {
        true => Answer::held(&gate, Answer::hello()),
        false => Answer::hello(),
    }
}

#[tokio::test]
async fn a_standby_takes_over_from_one_that_follows() {
    let gate = Gate::default();
    let upstream = Upstream::start(held(&gate)).await;
    let Pair { hub, b } = Pair::start("follower", &upstream).await;
    let (root, at_b) = (hub.root().await, b.root().await);
    let standby = b.standby().await;
    for _ in 0..3 {
        value(&at_b, &chat_sql("{}")).await.unwrap();
    }
    let number = "SELECT number FROM aggregator_gateway_messages WHERE gateway = 'b'";
    let before = value(&root, number).await.unwrap();
    // A job that runs, one that is queued, and a call.
    let running = submit(&at_b, r#"{"user": "held"}"#, "").await;
    upstream.wait_for_chats(4).await;
    let caller = b.root().await;
    let call = tokio::spawn(async move {
        caller.simple_query(&chat_sql(r#"{"user": "held"}"#)).await.is_err()
    });
    upstream.wait_for_chats(5).await;
    let later = ", p_run_after => now() + interval '10 s'";
    let queued = submit(&at_b, "{}", later).await;
    b.cluster.down("immediate");
    assert!(call.await.unwrap());
    gate.open();

    let at_standby = standby.root().await;
    let jobs = "SELECT string_agg(status, ' ' ORDER BY status) FROM aggregator_jobs";
    eventually(&at_standby, jobs, "queued running").await;
    let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&at_standby, pending, "2").await;
    drop(at_standby);
    // Nobody calls there: its worker begins with its promotion.
    let at_b = standby.promote().await;
    for job in [&running, &queued] {
        let sql = format!("SELECT status FROM aggregator_jobs WHERE id = '{job}'");
        eventually(&at_b, &sql, "succeeded").await;
    }
    eventually(&at_b, pending, "0").await;
    let statuses = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&at_b, statuses).await, ["success|5", "unknown|2"]);
    // The same lease under the same name, and messages that the hub takes.
    eventually(&root, &format!("SELECT ({number}) > {before}"), "t").await;
    let used = "SELECT gateway, used_requests FROM aggregator_leases";
    eventually(&root, "SELECT used_requests FROM aggregator_leases", "7").await;
    assert_eq!(rows(&root, used).await, ["b|7"]);

    // What it has subscribed to goes on by itself: the slots are the hub's.
    value(&root, "SELECT set_model_price('m', '{\"input\": 3, \"output\": 3}', 'standin')").await;
    value(&root, &chat_sql("{}")).await.unwrap();
    let told_by_hub =
        "SELECT sum(requests) FROM aggregator_usage_totals WHERE gateway = 'hub' AND grain = 'day'";
    eventually(&at_b, told_by_hub, "1").await;
    let configuration = configured(&root).await;
    eventually(&at_b, "SELECT count(*) FROM aggregator_model_prices WHERE valid_to IS NULL AND pricing @> '{\"input\": 3}'", "1").await;
    assert_eq!(configured(&at_b).await, configuration);
    // Its own slots are not there: the hub subscribes anew, and has what it has missed.
    subscribe_anew(&root, &standby).await;
    told(&at_b).await;
    assert_eq!(rows(&root, TOTALS).await, rows(&at_b, TOTALS).await);
    spend_all(&[&root, &at_b], &upstream).await;
    told(&at_b).await;
    told(&root).await;
    assert_eq!(rows(&root, TOTALS).await, rows(&at_b, TOTALS).await);

    // Of a standby that nobody waits for it is not known what the hub has sent and it has not got: it follows anew.
    for name in subscriptions(&at_b).await {
        at_b.batch_execute(&format!("DROP SUBSCRIPTION {name}")).await.unwrap();
    }
    value(&at_b, "SELECT aggregator_drop_usage('hub')").await;
    assert_eq!(standby.subscribe(&hub, &["this server"]).await, 2);
    assert_eq!(configured(&at_b).await, configured(&root).await);
    assert_eq!(rows(&root, TOTALS).await, rows(&at_b, TOTALS).await);
    for name in ["b", ""] {
        let (code, message) =
            failure(&at_b, &format!("SELECT aggregator_drop_usage('{name}')")).await;
        assert!(code == "PT400" && message.contains("its own"), "{message}");
    }
}

#[tokio::test]
async fn a_standby_takes_over_from_the_hub() {
    let gate = Gate::default();
    let upstream = Upstream::start(held(&gate)).await;
    let Pair { hub, b } = Pair::start("hub", &upstream).await;
    let (root, at_b) = (hub.root().await, b.root().await);
    let standby = hub.standby().await;
    for client in [&root, &at_b] {
        for _ in 0..3 {
            value(client, &chat_sql("{}")).await.unwrap();
        }
    }
    let caller = hub.root().await;
    let call = tokio::spawn(async move {
        caller.simple_query(&chat_sql(r#"{"user": "held"}"#)).await.is_err()
    });
    upstream.wait_for_chats(7).await;
    value(&root, "SELECT set_model_price('m', '{\"input\": 3, \"output\": 3}', 'standin')").await;
    let leased = "SELECT gateway, granted_requests > 0 FROM aggregator_leases";
    assert_eq!(rows(&root, leased).await, ["b|t"]);
    hub.cluster.down("immediate");
    assert!(call.await.unwrap());
    gate.open();
    // It goes on with what it has leased.
    value(&at_b, &chat_sql("{}")).await.unwrap();
    let root = standby.promote().await;
    let pending = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
    eventually(&root, pending, "0").await;
    assert_eq!(rows(&root, leased).await, ["b|t"]);
    // What b has counted comes by itself: the slot is there. What the hub publishes has no slots any more.
    let told_by_b =
        "SELECT sum(requests) FROM aggregator_usage_totals WHERE gateway = 'b' AND grain = 'day'";
    eventually(&root, told_by_b, "4").await;
    for name in subscriptions(&at_b).await {
        unsubscribe(&at_b, &name).await;
    }
    value(&at_b, "SELECT aggregator_drop_usage('hub')").await;
    assert_eq!(b.subscribe(&standby, &["this server"]).await, 2);
    assert_eq!(configured(&at_b).await, configured(&root).await);
    spend_all(&[&root, &at_b], &upstream).await;
    told(&at_b).await;
    told(&root).await;
    assert_eq!(rows(&root, TOTALS).await, rows(&at_b, TOTALS).await);
}
