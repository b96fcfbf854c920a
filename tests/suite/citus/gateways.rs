//! Every node as a gateway of its own: what a node of Citus does with the extension that came to it.

use super::{BOTH, LEDGER, MOVED, Nodes};
use crate::bed::{Database, failure, rows, value};
use crate::fixtures::{chat_sql, ended, prepare, submit};
use crate::upstream::{Answer, Upstream};

#[tokio::test]
async fn each_node_calls_by_itself_and_outlives_the_others() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("gateways", &upstream).await;
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    let before = rows(&root, LEDGER).await;
    // Its own providers, keys, budgets and ledger.
    let mut others = vec![];
    for (worker, calls) in nodes.workers.iter().zip([2, 3]) {
        let database = Database { cluster: worker, name: nodes.database.clone() };
        let client = prepare(&database, &upstream).await;
        value(&client, "SELECT set_rate_limit(1000), set_budget(1)").await;
        for _ in 0..calls {
            value(&client, &chat_sql("{}")).await.unwrap();
        }
        let job = submit(&client, "{}", "").await;
        assert_eq!(ended(&client, &job).await, "succeeded|hello|1");
        let own = "SELECT count(*), count(DISTINCT user_id) FROM aggregator_usage_logs";
        assert_eq!(rows(&client, own).await, [format!("{}|1", calls + 1)]);
        assert!(rows(&client, BOTH).await.iter().all(|row| row.ends_with("|t")));
        // The one archive is the coordinator's.
        let (code, message) = failure(&client, MOVED).await;
        assert_eq!(code, "PT409");
        assert!(message.contains("worker of Citus"), "{message}");
        others.push(client);
    }
    assert_eq!(rows(&root, LEDGER).await, before);
    // A node that dies takes the months with it that have a shard there, and nothing else.
    nodes.workers[0].down("immediate");
    value(&root, &chat_sql("{}")).await.unwrap();
    value(&others[1], &chat_sql("{}")).await.unwrap();
    assert_ne!(failure(&root, LEDGER).await.0, "");
    let recent =
        "SELECT count(*) FROM aggregator_usage_logs WHERE created_at > now() - interval '1 hour'";
    assert_eq!(value(&root, recent).await.unwrap(), "1");
    nodes.coordinator.down("immediate");
    value(&others[1], &chat_sql("{}")).await.unwrap();
    nodes.coordinator.up();
    nodes.workers[0].up();
    let root = nodes.coordinator.again(&nodes.database).await;
    let old =
        "SELECT count(*) FROM aggregator_usage_logs WHERE created_at < now() - interval '1 hour'";
    assert_eq!(value(&root, old).await.unwrap(), "3000");
    let back = nodes.workers[0].again(&nodes.database).await;
    let kept = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1";
    assert_eq!(rows(&back, kept).await, ["success|3"]);
}
