//! Whose an AI column is: the table's owner's, and theirs who pay for it.

use super::{noted, paused, ready, stand_in, view, with_schema};
use crate::bed::{failure, rows, value};

#[tokio::test]
async fn a_new_owner_of_the_table_takes_the_column_over() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let bob = with_schema(&database, &root, "bob").await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    root.batch_execute(
        "GRANT USAGE, CREATE ON SCHEMA s_alice TO bob; ALTER TABLE s_alice.docs OWNER TO bob",
    )
    .await
    .unwrap();
    // Rows are written, and noted, and nothing is done about them.
    bob.batch_execute("INSERT INTO s_alice.docs (id, title) VALUES (1, 'a')").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    let problem = "SELECT problem FROM ai_column_status";
    let told = value(&alice, problem).await.unwrap();
    assert!(told.contains("belongs to bob now, and not to alice"), "{told}");
    let resume = "SELECT ai_column_resume('s_alice.docs', 'summary')";
    // Alice pays, and has not said that it may go on as bob.
    assert_eq!(failure(&bob, resume).await.0, "PT403");
    assert_eq!(failure(&alice, resume).await.0, "PT403");
    root.batch_execute("SELECT aggregator_grant('bob', 'admin')").await.unwrap();
    let (code, message) = failure(&bob, resume).await;
    assert_eq!(code, "PT409", "{message}");
    assert!(
        message.contains(&format!("ALTER VIEW s_alice.{} OWNER TO bob", view(&id))),
        "{message}"
    );
    root.batch_execute(&format!("ALTER VIEW s_alice.{} OWNER TO bob", view(&id))).await.unwrap();
    value(&bob, resume).await;
    let kept = "SELECT definer, user_id, status FROM aggregator_ai_columns";
    assert_eq!(rows(&root, kept).await, ["bob|role:alice|active"]);
    assert_eq!(value(&root, problem).await, None);
    // A superuser's table is nobody's to write.
    value(&bob, "SELECT ai_column_pause('s_alice.docs', 'summary')").await;
    root.batch_execute(&format!(
        "ALTER TABLE s_alice.docs OWNER TO postgres; ALTER VIEW s_alice.{} OWNER TO postgres",
        view(&id)
    ))
    .await
    .unwrap();
    assert_eq!(failure(&root, resume).await.0, "PT403");
    assert_eq!(rows(&root, kept).await, ["bob|role:alice|paused"]);
    value(&root, "SELECT ai_column_drop('s_alice.docs', 'summary')").await;
    assert!(rows(&root, kept).await.is_empty());
}

#[tokio::test]
async fn who_pays_and_who_owns_the_table_may_stop_it() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let bob = with_schema(&database, &root, "bob").await;
    let make = "SELECT ai_column('docs', 'summary', 'chat', 'title', 'm', '{\"backfill\": false}', p_user_id => 'role:bob')";
    assert_eq!(failure(&alice, make).await.0, "PT403");
    root.batch_execute("SELECT aggregator_grant('alice', 'admin')").await.unwrap();
    value(&alice, make).await.unwrap();
    root.batch_execute("SELECT aggregator_revoke('alice', 'admin'), aggregator_grant('alice', 'user'); GRANT USAGE ON SCHEMA s_alice TO bob")
        .await
        .unwrap();
    let status = "SELECT status FROM ai_column_status";
    for client in [&alice, &bob] {
        value(client, "SELECT ai_column_pause('s_alice.docs', 'summary')").await;
        assert_eq!(rows(client, status).await, ["paused"]);
        value(client, "SELECT ai_column_resume('s_alice.docs', 'summary')").await;
        assert_eq!(rows(client, status).await, ["active"]);
    }
    // The view is alice's.
    assert_eq!(failure(&bob, "SELECT ai_column_drop('s_alice.docs', 'summary')").await.0, "42501");
    assert_eq!(rows(&alice, status).await, ["active"]);
    root.batch_execute("DROP ROLE IF EXISTS ai_mallory; CREATE ROLE ai_mallory LOGIN; SELECT aggregator_grant('ai_mallory', 'user'); GRANT USAGE ON SCHEMA s_alice TO ai_mallory").await.unwrap();
    let mallory = database.user("ai_mallory").await;
    for function in ["pause", "resume", "retry", "drop"] {
        let sql = format!("SELECT ai_column_{function}('s_alice.docs', 'summary')");
        assert_eq!(failure(&mallory, &sql).await.0, "PT403");
    }
    root.batch_execute("DROP OWNED BY ai_mallory; DROP ROLE ai_mallory").await.unwrap();
}

#[tokio::test]
async fn a_user_who_is_forgotten_leaves_a_table_that_can_be_written() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    alice.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a')").await.unwrap();
    value(&root, "SELECT forget_user('role:alice')").await;
    assert!(rows(&root, "SELECT id FROM aggregator_ai_columns").await.is_empty());
    assert!(noted(&root, &id).await.is_empty());
    alice.batch_execute("INSERT INTO docs (id, title) VALUES (2, 'a')").await.unwrap();
    assert!(noted(&root, &id).await.is_empty());
    value(&alice, "SELECT ai_column_drop('docs', 'summary')").await;
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'aggregator\\_ai\\_%'";
    assert_eq!(value(&root, left).await.unwrap(), "0");
}
