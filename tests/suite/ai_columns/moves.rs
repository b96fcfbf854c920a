//! AI columns keep no names: tables, columns and whole databases move, and they go along.

use super::{emptied, noted, paused, ready, stand_in, view, with_schema};
use crate::bed::{self, Cluster, failure, nodes, rows, value};
use crate::fixtures::prepare;

const STATUS: &str = "SELECT table_name, column_name, status FROM ai_column_status ORDER BY 1, 2";

#[tokio::test]
async fn tables_schemas_and_columns_are_renamed() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE TABLE moved (gone int, id int PRIMARY KEY, gone_too text, title text, summary text);
             ALTER TABLE moved DROP COLUMN gone, DROP COLUMN gone_too",
        )
        .await
        .unwrap();
    let id = paused(&alice, "moved", "summary", "chat", "{title}").await;
    alice.batch_execute("INSERT INTO moved VALUES (1, 'a')").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    root.batch_execute(
        "ALTER SCHEMA s_alice RENAME TO \"S a\"; CREATE SCHEMA other AUTHORIZATION alice",
    )
    .await
    .unwrap();
    alice
        .batch_execute(
            "SET search_path = \"S a\", public;
             ALTER TABLE moved RENAME TO \"Moved on\"; ALTER TABLE \"Moved on\" RENAME COLUMN id TO \"the Id\";
             ALTER TABLE \"Moved on\" RENAME title TO headline; ALTER TABLE \"Moved on\" RENAME summary TO brief;
             ALTER TABLE \"Moved on\" SET SCHEMA other; SET search_path = other, public;
             INSERT INTO \"Moved on\" VALUES (2, 'b'); UPDATE \"Moved on\" SET \"the Id\" = 10 WHERE \"the Id\" = 1",
        )
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, ["10|queued", "2|queued"]);
    assert_eq!(rows(&alice, STATUS).await, ["other.\"Moved on\"|brief|paused"]);
    let place = format!(
        "SELECT output_name, key_names, key_types, input_names, owner, problem FROM aggregator_ai_place('{id}')"
    );
    assert_eq!(rows(&alice, &place).await, ["brief|{\"the Id\"}|{integer}|{headline}|alice|∅"]);
    let write = format!("UPDATE \"S a\".{} SET output = 's' WHERE key_1 = 10", view(&id));
    alice.batch_execute(&write).await.unwrap();
    assert_eq!(
        value(&alice, "SELECT brief FROM \"Moved on\" WHERE \"the Id\" = 10").await.unwrap(),
        "s"
    );
    value(&alice, "SELECT ai_column_drop('\"Moved on\"', 'brief')").await;
    assert!(rows(&alice, STATUS).await.is_empty());
}

#[tokio::test]
async fn a_table_that_is_dropped_leaves_its_column_detached_and_a_week_later_nothing() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    let (code, message) = failure(&alice, "DROP TABLE docs").await;
    assert_eq!(code, "2BP01", "{message}");
    // A column that goes takes the view along, and what is left of the triggers does nothing.
    alice
        .batch_execute("INSERT INTO docs (id) VALUES (1); ALTER TABLE docs DROP COLUMN title CASCADE; INSERT INTO docs (id) VALUES (2)")
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    assert_eq!(rows(&alice, STATUS).await, ["∅|∅|detached"]);
    alice.batch_execute("DROP TABLE docs CASCADE").await.unwrap();
    let sweep = "SELECT aggregator_sweep_ai_columns()";
    // The worker sweeps as well, now and then.
    let at = "SELECT detached_at IS NULL FROM aggregator_ai_columns";
    value(&root, sweep).await;
    assert_eq!(rows(&root, at).await, ["f"]);
    root.batch_execute("UPDATE aggregator_ai_columns SET detached_at = now() - interval '6 days'")
        .await
        .unwrap();
    value(&root, sweep).await;
    assert_eq!(rows(&root, at).await, ["f"]);
    root.batch_execute("UPDATE aggregator_ai_columns SET detached_at = now() - interval '8 days'")
        .await
        .unwrap();
    value(&root, sweep).await;
    assert!(rows(&root, at).await.is_empty());
    assert!(noted(&root, &id).await.is_empty());
    // At once, by its id: by whose it is.
    alice
        .batch_execute("CREATE TABLE docs (id int PRIMARY KEY, title text, summary text)")
        .await
        .unwrap();
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    alice.batch_execute("INSERT INTO docs VALUES (1, 'x'); DROP TABLE docs CASCADE").await.unwrap();
    root.batch_execute("SELECT aggregator_grant('bob', 'user')").await.unwrap();
    let bob = database.user("bob").await;
    let drop = format!("SELECT ai_column_drop('{id}')");
    assert_eq!(failure(&bob, &drop).await.0, "PT403");
    assert_eq!(value(&alice, &drop).await.unwrap(), "t");
    assert_eq!(value(&alice, &drop).await.unwrap(), "f");
    assert!(noted(&root, &id).await.is_empty());
}

/// With the view before the data, and the triggers after them, in several processes.
#[tokio::test]
async fn dumps_are_restored_with_what_waits() {
    let upstream = stand_in().await;
    let (old, new) = (Cluster::start("ai-old", ""), Cluster::start("ai-new", ""));
    old.supabase_roles().await;
    new.supabase_roles().await;
    let database = old.database().await;
    let root = prepare(&database, &upstream).await;
    let alice = with_schema(&database, &root, "alice").await;
    alice
        .batch_execute("CREATE TABLE docs (gone int, id int PRIMARY KEY, title text, summary text, near real[]); ALTER TABLE docs DROP COLUMN gone")
        .await
        .unwrap();
    let id = paused(&alice, "docs", "summary", "chat", "{title}").await;
    let other = paused(&alice, "docs", "near", "embed", "title || summary").await;
    alice
        .batch_execute("INSERT INTO docs SELECT i, 'x' FROM generate_series(1, 3) AS i")
        .await
        .unwrap();
    root.batch_execute(
        "UPDATE aggregator_ai_queue SET status = 'failed', error = '{\"message\": \"x\"}', attempts = 2 WHERE key = '{2}'",
    )
    .await
    .unwrap();
    const ALL: [&str; 3] = [
        "SELECT * FROM aggregator_ai_columns ORDER BY id",
        "SELECT * FROM aggregator_ai_queue ORDER BY column_id, key",
        "SELECT id, table_name, column_name, status, queued, failed, problem FROM ai_column_status ORDER BY id",
    ];
    let mut before = vec![];
    for sql in ALL {
        before.push(rows(&alice, sql).await);
    }
    assert_eq!(before[1].len(), 6);
    new.connect("postgres", "postgres")
        .await
        .batch_execute(&format!("CREATE DATABASE {}", database.name))
        .await
        .unwrap();
    if nodes::wanted() {
        new.connect("postgres", "postgres")
            .await
            .batch_execute(nodes::BEFORE_RESTORE)
            .await
            .unwrap();
    }
    let file = old.dir.join("all.dump");
    let run = |program: &str, cluster: &Cluster, arguments: &[&str]| {
        bed::run(
            bed::as_server(bed::pg_bin(program))
                .args(["-h", cluster.dir.to_str().unwrap(), "-U", "postgres", "-d", &database.name])
                .args(arguments),
        );
    };
    run("pg_dump", &old, &["-Fc", "-f", file.to_str().unwrap()]);
    run("pg_restore", &new, &["-j", "3", "--exit-on-error", file.to_str().unwrap()]);
    let root = new.connect("postgres", &database.name).await;
    let alice = new.connect("alice", &database.name).await;
    for (sql, before) in ALL.iter().zip(&before) {
        assert_eq!(&rows(&alice, sql).await, before, "{sql}");
    }
    alice.batch_execute("SET search_path = s_alice, public; UPDATE docs SET title = 'y' WHERE id = 2; DELETE FROM docs WHERE id = 1; INSERT INTO docs VALUES (4, 'z')").await.unwrap();
    for id in [&id, &other] {
        assert_eq!(noted(&root, id).await, ["2|queued", "3|queued", "4|queued"]);
    }
    emptied(&root, &id).await;
    value(&alice, "SELECT ai_column_drop('docs', 'summary')").await;
    assert_eq!(rows(&root, STATUS).await, ["s_alice.docs|near|paused"]);
}
