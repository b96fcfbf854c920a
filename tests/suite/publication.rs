//! Logical replication: every table of the extension can be published, updates and deletes included.

use crate::bed::{eventually, failure, rows, value};
use crate::fixtures::{chat_sql, ready};
use crate::upstream::{Answer, Upstream, in_turn};

#[tokio::test]
async fn a_publication_of_all_tables_stops_nothing() {
    let upstream = Upstream::start(in_turn(vec![
        Answer::hello(),
        Answer::json(500, "{}"),
        Answer::json(500, "{}"),
        Answer::hello(),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").await.unwrap();
    // Without a replica identity, PostgreSQL refuses to update or delete what is published.
    let keyless = "SELECT c.relname FROM pg_publication_tables AS t
        JOIN pg_class AS c ON c.oid = format('%I.%I', t.schemaname, t.tablename)::regclass
        JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'aggregator'
        WHERE NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)";
    assert_eq!(rows(&root, keyless).await, [""; 0]);
    let published = "SELECT count(*) > 10 FROM pg_publication_tables WHERE tablename ~ '^(aggregator_|api_|user_api_)'";
    assert_eq!(value(&root, published).await.unwrap(), "t");
    value(&root, &chat_sql("{}")).await.unwrap();
    // What fails again and again is one row that is updated, and gone when it works again.
    for failures in ["1", "2"] {
        assert_eq!(failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await.0, "PT502");
        eventually(&root, "SELECT max(failures) FROM aggregator_cooling", failures).await;
    }
    value(&root, &chat_sql("{}")).await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_cooling", "0").await;
    let log = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&root, log).await, ["error|2", "success|2"]);
}
