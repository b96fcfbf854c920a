//! What the triggers note: which rows have changed, under one text of their key, in the row's own transaction.

use super::{emptied, noted, paused, ready, stand_in};
use crate::bed::{eventually, failure, rows, value};

#[tokio::test]
async fn changes_of_what_goes_in_are_noted_and_nothing_else() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    let id = paused(&alice, "docs", "near", "embed", "{title} {price}").await;
    alice
        .batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued", "2|queued", "3|queued"]);
    emptied(&root, &id).await;
    // Neither the output, nor what the expression does not name, nor what stays as it is.
    alice
        .batch_execute("UPDATE docs SET near = '{1}', body = 'x', title = title, price = price")
        .await
        .unwrap();
    assert!(noted(&root, &id).await.is_empty());
    alice.batch_execute("UPDATE docs SET title = 'A' WHERE id = 1").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    // Equal, and another text.
    alice.batch_execute("UPDATE docs SET price = 1.0 WHERE id = 2").await.unwrap();
    emptied(&root, &id).await;
    alice.batch_execute("UPDATE docs SET price = 1.00 WHERE id = 2").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["2|queued"]);
    // Another key: the old one goes.
    alice.batch_execute("UPDATE docs SET id = 20 WHERE id = 2").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["20|queued"]);
    alice.batch_execute("DELETE FROM docs WHERE id = 20").await.unwrap();
    assert!(noted(&root, &id).await.is_empty());
    // What is rolled back was never noted; also of a part of a transaction.
    alice
        .batch_execute(
            "BEGIN; UPDATE docs SET title = 'x'; ROLLBACK;
             BEGIN; UPDATE docs SET title = 'y' WHERE id = 1; SAVEPOINT s; UPDATE docs SET title = 'z' WHERE id = 3; ROLLBACK TO s; COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    alice.batch_execute("TRUNCATE docs").await.unwrap();
    assert!(noted(&root, &id).await.is_empty());
    // As ordinary triggers do, they rest where rows are replicated.
    root.batch_execute(
        "SET session_replication_role = replica; INSERT INTO s_alice.docs (id, title) VALUES (9, 'x')",
    )
    .await
    .unwrap();
    assert!(noted(&root, &id).await.is_empty());
}

#[tokio::test]
async fn changes_of_one_row_are_one_entry_with_the_last_ones_version() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    let entry = "SELECT ctid, version, attempts, status, epoch, error FROM aggregator_ai_queue";
    alice.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a')").await.unwrap();
    // In one transaction, only the first change writes.
    alice.batch_execute("BEGIN; UPDATE docs SET title = 'b'").await.unwrap();
    let before = rows(&alice, entry).await;
    let own = value(&alice, "SELECT pg_current_xact_id()").await.unwrap();
    assert_eq!(before.len(), 1);
    assert!(before[0].contains(&format!("|{own}|0|queued|∅|∅")), "{before:?}");
    alice.batch_execute("UPDATE docs SET title = 'c'; UPDATE docs SET title = 'd'").await.unwrap();
    assert_eq!(rows(&alice, entry).await, before);
    alice.batch_execute("COMMIT").await.unwrap();
    // One that runs, or has failed, is queued afresh.
    for status in ["running", "failed"] {
        root.batch_execute(&format!(
            "UPDATE aggregator_ai_queue SET status = '{status}', attempts = 4, epoch = 7, error = '{{}}'"
        ))
        .await
        .unwrap();
        alice.batch_execute("UPDATE docs SET title = title || 'x'").await.unwrap();
        let after = rows(&alice, entry).await;
        assert!(after[0].ends_with("|0|queued|∅|∅"), "{after:?}");
        assert!(!after[0].contains(&format!("|{own}|")), "{after:?}");
    }
    assert_eq!(noted(&root, &id).await.len(), 1);
}

#[tokio::test]
async fn a_key_has_one_text_whatever_the_settings() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('so so', 'well');
             CREATE DOMAIN code AS char(4);
             CREATE TABLE keys (at timestamptz, on_day date, raw bytea, is_on boolean, how mood, c code, n numeric, u uuid,
                 title text, summary text, PRIMARY KEY (at, on_day, raw, is_on, how, c, n, u))",
        )
        .await
        .unwrap();
    let id = paused(&alice, "keys", "summary", "chat", "title").await;
    let insert = "INSERT INTO keys VALUES ('2026-01-02 03:04:05.6+00', '2026-02-01', '\\x00ff', true, 'so so', 'a', 1.50,
        '00000000-0000-0000-0000-0000000000ab', 'x')";
    alice.batch_execute(insert).await.unwrap();
    let plain = noted(&root, &id).await;
    assert_eq!(
        plain,
        [
            "2026-01-02 03:04:05.6+00,2026-02-01,\\x00ff,true,so so,a,1.50,00000000-0000-0000-0000-0000000000ab|queued"
        ]
    );
    // That a cast gives.
    let cast = rows(
        &root,
        "SET TimeZone = 'UTC'; SELECT array_to_string(ARRAY[at::text, on_day::text, raw::text, is_on::text, how::text, c::text, n::text, u::text], ',')
         FROM s_alice.keys; RESET TimeZone",
    )
    .await;
    assert_eq!(format!("{}|queued", cast[0]), plain[0]);
    alice
        .batch_execute(
            "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'; SET bytea_output = 'escape';
             UPDATE keys SET title = 'y'",
        )
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, plain);
    // The session has its own settings still.
    assert_eq!(value(&alice, "SELECT at FROM keys").await.unwrap(), "02/01/2026 08:34:05.6 IST");
    alice.batch_execute("DELETE FROM keys").await.unwrap();
    assert!(noted(&root, &id).await.is_empty());
}

#[tokio::test]
async fn a_key_that_is_too_long_says_so() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute("CREATE TABLE named (name text PRIMARY KEY, title text, summary text)")
        .await
        .unwrap();
    let id = paused(&alice, "named", "summary", "chat", "title").await;
    let long =
        "INSERT INTO named SELECT string_agg(md5(i::text), '') FROM generate_series(1, 63) AS i";
    let (code, message) = failure(&alice, long).await;
    assert_eq!(code, "PT400", "{message}");
    assert!(message.contains("2000 bytes"), "{message}");
    alice.batch_execute(&long.replace("63", "62")).await.unwrap();
    assert_eq!(noted(&root, &id).await.len(), 1);
}

#[tokio::test]
async fn partitions_are_parts_of_their_table() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE TABLE parts (id int, region text, title text, summary text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
             CREATE TABLE parts_b (gone int, summary text, title text, region text NOT NULL, id int NOT NULL);
             ALTER TABLE parts_b DROP COLUMN gone;
             ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES IN ('b')",
        )
        .await
        .unwrap();
    let id = paused(&alice, "parts", "summary", "chat", "title").await;
    alice
        .batch_execute(
            "CREATE TABLE parts_c PARTITION OF parts FOR VALUES IN ('c');
             INSERT INTO parts VALUES (1, 'a', 'x'), (2, 'b', 'x'); INSERT INTO parts_c VALUES (3, 'c', 'x')",
        )
        .await
        .unwrap();
    assert_eq!(noted(&root, &id).await, ["1,a|queued", "2,b|queued", "3,c|queued"]);
    alice.batch_execute("UPDATE parts SET region = 'b' WHERE id = 1").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1,b|queued", "2,b|queued", "3,c|queued"]);
    alice
        .batch_execute("DELETE FROM parts WHERE id = 1; ALTER TABLE parts DETACH PARTITION parts_c")
        .await
        .unwrap();
    // It is a table of its own again, and has no such trigger.
    alice.batch_execute("INSERT INTO parts_c VALUES (4, 'c', 'x')").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["2,b|queued", "3,c|queued"]);
    value(&alice, "SELECT ai_column_drop('parts', 'summary')").await;
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'aggregator\\_ai\\_%'";
    assert_eq!(value(&root, left).await.unwrap(), "0");
}

#[tokio::test]
async fn without_a_worker_rows_are_written_all_the_same() {
    let upstream = stand_in().await;
    let cluster = crate::bed::Cluster::start("ai-columns-alone", "max_worker_processes = 0");
    cluster.supabase_roles().await;
    let database = cluster.database().await;
    let root = crate::fixtures::prepare(&database, &upstream).await;
    let alice = super::with_schema(&database, &root, "alice").await;
    alice
        .batch_execute("CREATE TABLE docs (id int PRIMARY KEY, title text, summary text)")
        .await
        .unwrap();
    // Whoever makes a column is told.
    let make = "SELECT ai_column('docs', 'summary', 'chat', 'title', 'm')";
    let (code, message) = failure(&alice, make).await;
    assert_eq!(code, "PT503", "{message}");
    // As a restore would bring it.
    let id = "0b8f5d3c-0000-4000-8000-000000000001";
    root.batch_execute(&format!(
        "INSERT INTO aggregator_ai_columns (id, user_id, definer, kind, model, request, batch_size)
         VALUES ('{id}', 'role:alice', 'alice', 'chat', 'm', '{{\"model\": \"m\"}}', 1)"
    ))
    .await
    .unwrap();
    alice
        .batch_execute(&format!(
            "SELECT public.aggregator_ai_make('{id}', 'docs', 'summary', 'chat', 'title', 's_alice');
             INSERT INTO docs SELECT i, 'x' FROM generate_series(1, 100) AS i"
        ))
        .await
        .unwrap();
    assert_eq!(noted(&root, id).await.len(), 100);
}

/// A snapshot that is older than the column, and a session in which backslashes are escapes.
#[tokio::test]
async fn what_a_session_saw_before_or_reads_otherwise_loses_no_row() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let early = database.user("alice").await;
    early
        .batch_execute(
            "SET search_path = s_alice, public; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
        )
        .await
        .unwrap();
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    early.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a'); COMMIT").await.unwrap();
    early.batch_execute("INSERT INTO docs (id, title) VALUES (2, 'b')").await.unwrap();
    let old = database.user("alice").await;
    old.batch_execute(
        "SET standard_conforming_strings = off; SET search_path = s_alice, public; INSERT INTO docs (id, title) VALUES (3, 'c')",
    )
    .await
    .unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued", "2|queued", "3|queued"]);
    // Likewise what makes and drops them.
    value(&old, "SELECT ai_column_drop('docs', 'summary')").await;
    let make = "SELECT ai_column('docs', 'summary', 'chat', 'Say {title}', 'm')";
    assert!(value(&old, make).await.is_some());
    old.batch_execute("BEGIN; INSERT INTO docs (id, title) VALUES (4, 'd')").await.unwrap();
    old.batch_execute("COMMIT").await.unwrap();
    eventually(&root, "SELECT count(*) FROM s_alice.docs WHERE summary IS NULL", "0").await;
    eventually(&root, "SELECT count(*) FROM aggregator_ai_queue", "0").await;
}
