//! What each has counted, told to the others: reports are the same everywhere.

use super::{DATABASE, HUB, Node, configured, copied, gateways, told};
use crate::bed::{eventually, failure, not_at_the_end_of_an_hour, rows, value};
use crate::fixtures::{chat_sql, dump, restore, user};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// Every report and view that reads rollups.
const REPORTS: &[&str] = &[
    "SELECT * FROM usage_summary('day')",
    "SELECT * FROM usage_summary('month', 'standin')",
    "SELECT * FROM usage_summary('week', p_user_id => 'ann')",
    "SELECT * FROM usage_over_time('day')",
    "SELECT * FROM usage_over_time('week', p_bucket => 'day')",
    "SELECT * FROM usage_by_model('day')",
    "SELECT * FROM usage_by_status('day')",
    "SELECT * FROM usage_by_user('day')",
    "SELECT * FROM usage_by_key('day')",
    "SELECT * FROM usage_by_tag('day')",
    // But for the minute in which it was asked.
    "SELECT regexp_replace(usage_dashboard('day'), '[0-9]{2}:[0-9]{2}', '', 'g')",
    "SELECT * FROM aggregator_usage_by_hour ORDER BY user_id, hour, model_id, status, gateway",
    "SELECT * FROM aggregator_usage_by_day ORDER BY day, model_id, status, gateway",
    "SELECT to_jsonb(s) FROM aggregator_budget_status AS s ORDER BY budget_id",
];
/// Of each gateway, how many requests it has counted, and whether the sums of users, labels and all are one.
const BY_GATEWAY: &str = "
    SELECT h.gateway, sum(h.requests),
        sum(h.requests) = (SELECT sum(t.requests) FROM aggregator_usage_totals AS t WHERE t.gateway = h.gateway AND grain = 'day'),
        (SELECT sum(l.requests) FROM aggregator_usage_labels AS l WHERE l.gateway = h.gateway AND l.kind = 'tag')
    FROM aggregator_usage_hourly AS h
    GROUP BY 1
    ORDER BY 1";

async fn reported(client: &Client) -> Vec<(&'static str, Vec<String>)> {
    let mut all = vec![];
    for sql in REPORTS {
        all.push((*sql, rows(client, sql).await));
    }
    all
}

/// Waits until all know what each has written, and finds the same reports on all of them.
async fn the_same(clients: &[&Client]) {
    for client in clients {
        told(client).await;
    }
    let first = reported(clients[0]).await;
    for client in &clients[1..] {
        for (there, here) in reported(client).await.iter().zip(&first) {
            assert_eq!(there, here);
        }
    }
}

async fn subscribe(at: &Node, to: &Node) {
    let statement = format!(
        "CREATE SUBSCRIPTION aggregator_usage_of_{0} CONNECTION 'host={1} dbname={DATABASE} user=gateways'
         PUBLICATION aggregator_usage WITH (slot_name = aggregator_usage_for_{2})",
        to.name,
        to.cluster.dir.display(),
        at.name
    );
    let client = at.root().await;
    client.batch_execute(&statement).await.unwrap();
    copied(&client).await;
}

#[tokio::test]
async fn reports_are_the_same_from_every_gateway() {
    not_at_the_end_of_an_hour().await;
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (hub, others) = gateways("usage", &["b", "c"], &upstream).await;
    let [b, c] = &others[..] else { panic!("two follow") };
    subscribe(b, c).await;
    subscribe(c, b).await;
    let (root, at_b, at_c) = (hub.root().await, b.root().await, c.root().await);
    user(&hub.database(), "ann").await;
    user(&hub.database(), "bob").await;
    value(
        &root,
        "SELECT set_budget(1000, p_user_id => 'zoe'), set_budget(1000, p_tag => 'elsewhere')",
    )
    .await;
    told(&root).await;
    for (node, calls) in [(&hub, 1), (b, 2), (c, 3)] {
        for (name, tag) in [("ann", "red"), ("bob", "blue")] {
            let client = node.database().rest("authenticated", Some(name)).await;
            for _ in 0..calls {
                value(&client, &chat_sql(&format!(r#"{{"tags": ["{tag}"]}}"#))).await.unwrap();
            }
        }
    }
    assert_eq!(upstream.chat_count(), 12);
    the_same(&[&root, &at_b, &at_c]).await;
    let all = ["b|4|t|4", "c|6|t|6", "hub|2|t|2"];
    assert_eq!(rows(&at_b, BY_GATEWAY).await, all);
    assert_eq!(value(&at_c, "SELECT requests FROM usage_summary('day')").await.unwrap(), "12");
    // Its own log has its own rows alone.
    assert_eq!(value(&at_b, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "4");
    // What is summed up again is its own.
    at_b.batch_execute("SELECT aggregator_recount_usage()").await.unwrap();
    the_same(&[&root, &at_b, &at_c]).await;
    assert_eq!(rows(&root, BY_GATEWAY).await, all);

    // A dump has the rows of all, and another server with it goes on where this one was.
    let file = dump(&b.cluster, DATABASE);
    let d = Node::start("usage", "d", Some(HUB)).await;
    let first = d.cluster.connect("postgres", "postgres").await;
    let drop_it = format!("DROP DATABASE {DATABASE} WITH (FORCE)");
    first.batch_execute(&drop_it).await.unwrap();
    first.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
    restore(&file, &d.cluster, DATABASE);
    let at_d = d.root().await;
    assert_eq!(rows(&at_d, BY_GATEWAY).await, all);
    // Providers that everybody starts with are not in a dump.
    let added = |rows: Vec<String>| {
        rows.into_iter().filter(|row| !row.contains("a9920000-")).collect::<Vec<_>>()
    };
    assert_eq!(added(configured(&at_d).await), added(configured(&root).await));
    // It has the subscriptions, not connected.
    let subscribed = "SELECT subname FROM pg_subscription WHERE NOT subenabled ORDER BY 1";
    let subscriptions = rows(&at_d, subscribed).await;
    assert_eq!(subscriptions.len(), 3, "{subscriptions:?}");
    for name in subscriptions {
        at_d.batch_execute(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"))
            .await
            .unwrap();
        at_d.batch_execute(&format!("DROP SUBSCRIPTION {name}")).await.unwrap();
    }
    hub.copy_keyring(&d);
    let ann_at_d = d.database().rest("authenticated", Some("ann")).await;
    value(&ann_at_d, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&at_d, BY_GATEWAY).await[2], "d|1|t|∅");
    drop((at_d, ann_at_d, first, d));

    // A user is forgotten on the hub, and then on each that has rows.
    assert_eq!(failure(&at_b, "SELECT forget_user('ann')").await.0, "PT409");
    assert_eq!(value(&root, "SELECT forget_user('ann')").await.unwrap(), "1");
    told(&root).await;
    assert_eq!(value(&at_b, "SELECT forget_user('ann')").await.unwrap(), "2");
    assert_eq!(value(&at_c, "SELECT forget_user('ann')").await.unwrap(), "3");
    the_same(&[&root, &at_b, &at_c]).await;
    let known = "SELECT count(*) FROM aggregator_usage_hourly WHERE user_id = 'ann'";
    for client in [&root, &at_b, &at_c] {
        assert_eq!(value(client, known).await.unwrap(), "0");
    }
    assert_eq!(
        rows(&root, "SELECT gateway, sum(requests) FROM aggregator_usage_hourly WHERE user_id LIKE 'forgotten:%' GROUP BY 1 ORDER BY 1").await,
        ["b|2", "c|3", "hub|1"]
    );

    // A gateway that is emptied takes what it counted away everywhere, and no other's.
    c.cluster.down("immediate");
    value(&b.database().rest("authenticated", Some("bob")).await, &chat_sql("{}")).await.unwrap();
    c.cluster.up();
    let at_c = c.cluster.again(DATABASE).await;
    the_same(&[&root, &at_b, &at_c]).await;
    at_c.batch_execute("TRUNCATE aggregator_usage_logs").await.unwrap();
    the_same(&[&root, &at_b, &at_c]).await;
    let left = "SELECT gateway, sum(requests) FROM aggregator_usage_totals WHERE grain = 'day' GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&at_c, left).await, ["b|5", "hub|2"]);

    // By itself the hub counts what it has spent, and its reports have what all have.
    value(&root, "SELECT set_budget(p_limit_requests => 2, p_user_id => 'bob')").await;
    let bob = hub.database().rest("authenticated", Some("bob")).await;
    value(&bob, &chat_sql("{}")).await.unwrap();
    assert_eq!(failure(&bob, &chat_sql("{}")).await.0, "PT402");
    let spent = "SELECT spent_requests FROM aggregator_budget_status WHERE user_id = 'bob'";
    assert_eq!(value(&root, spent).await.unwrap(), "5");
}

#[tokio::test]
async fn usage_from_before_a_name_is_adopted() {
    not_at_the_end_of_an_hour().await;
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let node = Node::start("name", "", None).await;
    let root = crate::fixtures::prepare(&node.database(), &upstream).await;
    let (code, message) = failure(&root, "SELECT aggregator_publish()").await;
    assert_eq!(code, "PT409");
    assert!(message.contains("aggregator.gateway"), "{message}");
    let tagged = chat_sql(r#"{"tags": ["red"]}"#);
    value(&root, &tagged).await.unwrap();
    value(&user(&node.database(), "ann").await, &tagged).await.unwrap();
    assert_eq!(rows(&root, BY_GATEWAY).await, ["|2|t|2"]);
    node.cluster.configure("aggregator.gateway = 'first'");
    node.cluster.reload();
    eventually(&root, "SHOW aggregator.gateway", "first").await;
    // The worker may take a moment longer to have read it.
    let named =
        "SELECT count(*) FROM aggregator_usage_totals WHERE gateway = 'first' AND grain = 'day'";
    let mut calls = 2;
    while value(&root, named).await.unwrap() == "0" {
        assert!(calls < 1000, "the worker does not take its new name");
        value(&root, &tagged).await.unwrap();
        calls += 1;
    }
    // Whoever is forgotten now is so under both.
    assert_eq!(value(&root, "SELECT forget_user('ann')").await.unwrap(), "1");
    let forgotten = "SELECT gateway, requests, user_id LIKE 'forgotten:%' FROM aggregator_usage_hourly WHERE user_id <> 'role:postgres'";
    assert_eq!(rows(&root, forgotten).await, ["first|1|t"]);
    // Tags are words of theirs, and gone.
    let all = |name: &str| [format!("{name}|{calls}|t|{}", calls - 1)];
    assert_eq!(rows(&root, BY_GATEWAY).await, all("first"));
    assert_eq!(value(&root, "SELECT aggregator_adopt_usage()").await.unwrap(), "0");
    value(&root, "SELECT aggregator_publish()").await;
    let filtered =
        "SELECT DISTINCT rowfilter FROM pg_publication_tables WHERE pubname = 'aggregator_usage'";
    assert_eq!(rows(&root, filtered).await, ["(gateway = 'first'::text)"]);
    // And again, after another name.
    node.cluster.configure("aggregator.gateway = 'second'");
    node.cluster.reload();
    eventually(&root, "SHOW aggregator.gateway", "second").await;
    // The hour of each of two users, the hour and the day of all, and a tag.
    assert_eq!(value(&root, "SELECT aggregator_adopt_usage('first')").await.unwrap(), "5");
    value(&root, "SELECT aggregator_publish()").await;
    assert_eq!(rows(&root, filtered).await, ["(gateway = 'second'::text)"]);
    assert_eq!(rows(&root, BY_GATEWAY).await, all("second"));
}
