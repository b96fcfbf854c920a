//! What ai_column() makes, and what it refuses.

use super::{noted, paused, ready, stand_in, view};
use crate::bed::{failure, rows, value};
use crate::fixtures::save_key;

/// Arguments after the table, the SQLSTATE and words of the refusal.
const REFUSED: &[(&str, &str, &str)] = &[
    ("'docs', 'nope', 'chat', 'title', 'm'", "PT404", "has no column 'nope'"),
    ("'docs', 'summary', 'image', 'title', 'm'", "PT400", "p_kind must be"),
    ("'docs', 'summary', 'embed', 'title', 'm'", "PT400", "cannot take what kind 'embed' gives"),
    ("'docs', 'near', 'chat', 'title', 'm'", "PT400", "must be text or varchar"),
    (
        "'docs', 'summary', 'json', 'title', 'm', '{\"schema\": {}}'",
        "PT400",
        "must be jsonb or json",
    ),
    ("'docs', 'facts', 'json', 'title', 'm'", "PT400", "options.schema"),
    ("'docs', 'summary', 'chat', 'title', 'm', '{\"bakfill\": false}'", "PT400", "unknown option"),
    ("'docs', 'summary', 'chat', 'title', 'm', '{\"concurrency\": 65}'", "PT400", "from 1 to 64"),
    ("'docs', 'summary', 'chat', 'title', 'no-such-model'", "PT404", "no-such-model"),
    ("'docs', 'summary', 'chat', 'title', 'm', '{}', 'no-such'", "PT404", "no-such"),
    ("'docs', 'summary', 'chat', 'title', 'm', p_user_id => 'role:bob'", "PT403", "may not chat"),
    ("'docs', 'summary', 'chat', NULL, 'm'", "PT400", "p_input must not be NULL"),
    ("'docs', NULL, 'chat', 'title', 'm'", "PT400", "p_column must not be NULL"),
    ("NULL, 'summary', 'chat', 'title', 'm'", "PT400", "p_table must not be NULL"),
    ("'docs', 'summary', 'chat', 'title', NULL", "PT400", "model"),
    ("'docs', 'summary', 'chat', repeat('x', 70000), 'm'", "PT400", "longer than 65536 bytes"),
    // What goes in.
    ("'docs', 'summary', 'chat', '', 'm'", "PT400", "expression"),
    ("'docs', 'summary', 'chat', 'nope', 'm'", "PT400", "nope"),
    ("'docs', 'summary', 'chat', 'title ||', 'm'", "PT400", "expression"),
    ("'docs', 'summary', 'chat', 'title, body', 'm'", "PT400", "one SQL expression"),
    ("'docs', 'summary', 'chat', 'title AS x', 'm'", "PT400", "one SQL expression"),
    ("'docs', 'summary', 'chat', 'title FROM docs', 'm'", "PT400", "one SQL expression"),
    (
        "'docs', 'summary', 'chat', 'title) FROM docs; DROP TABLE docs; --', 'm'",
        "PT400",
        "expression",
    ),
    ("'docs', 'summary', 'chat', 'title; DROP TABLE docs', 'm'", "PT400", "expression"),
    ("'docs', 'summary', 'chat', '/* title', 'm'", "PT400", "expression"),
    ("'docs', 'summary', 'chat', $$'x'$$, 'm'", "PT400", "must name a column"),
    ("'docs', 'summary', 'chat', 'docs::text', 'm'", "PT400", "whole rows"),
    ("'docs', 'summary', 'chat', 'docs.*', 'm'", "PT400", "whole rows"),
    ("'docs', 'summary', 'chat', 'ctid::text || title', 'm'", "PT400", "system columns"),
    (
        "'docs', 'summary', 'chat', 'title || summary', 'm'",
        "PT400",
        "must not name column 'summary'",
    ),
    ("'docs', 'summary', 'chat', '(SELECT max(title) FROM docs)', 'm'", "PT400", "subquery"),
    ("'docs', 'summary', 'chat', 'max(title)', 'm'", "PT400", "expression"),
    (
        "'docs', 'summary', 'chat', 'unnest(string_to_array(title, $$ $$))', 'm'",
        "PT400",
        "one value for each row",
    ),
    (
        "'docs', 'summary', 'chat', 'rank() OVER (ORDER BY title)', 'm'",
        "PT400",
        "one value for each row",
    ),
    ("'docs', 'summary', 'chat', '{title} {nope}', 'm'", "PT400", "{nope}"),
    ("'docs', 'summary', 'chat', '{title} }', 'm'", "PT400", "alone"),
    // Tables.
    ("'keyless', 'summary', 'chat', 'title', 'm'", "PT400", "no primary key"),
    ("'fractions', 'summary', 'chat', 'title', 'm'", "PT400", "double precision"),
    ("'kept', 'summary', 'chat', 'title', 'm'", "PT400", "generated"),
    ("'docs', 'id', 'chat', 'title', 'm'", "PT400", "cannot take"),
    ("'named', 'name', 'chat', 'title', 'm'", "PT400", "primary key"),
    ("'passing', 'summary', 'chat', 'title', 'm'", "PT400", "temporary"),
    ("'seen', 'summary', 'chat', 'title', 'm'", "PT400", "no table"),
    ("'parts_1', 'summary', 'chat', 'title', 'm'", "PT400", "partition"),
    ("'pg_catalog.pg_class', 'relname', 'chat', 'relname', 'm'", "PT400", "system"),
    ("'public.aggregator_jobs', 'model', 'chat', 'provider', 'm'", "PT400", "system"),
    ("'public.roots', 'summary', 'chat', 'title', 'm'", "PT403", "does not own"),
    ("1::regclass, 'summary', 'chat', 'title', 'm'", "PT400", "no table"),
];

#[tokio::test]
async fn what_cannot_be_one_is_refused_and_leaves_nothing() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    root.batch_execute("CREATE TABLE public.roots (id int PRIMARY KEY, title text, summary text)")
        .await
        .unwrap();
    alice
        .batch_execute(
            "CREATE TABLE keyless (title text, summary text);
             CREATE TABLE fractions (id float8 PRIMARY KEY, title text, summary text);
             CREATE TABLE kept (id int PRIMARY KEY, title text, summary text GENERATED ALWAYS AS (upper(title)) STORED);
             CREATE TABLE named (name text PRIMARY KEY, title text);
             CREATE TEMP TABLE passing (id int PRIMARY KEY, title text, summary text);
             CREATE VIEW seen AS SELECT * FROM docs;
             CREATE TABLE parts (id int PRIMARY KEY, title text, summary text) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        )
        .await
        .unwrap();
    for (arguments, code, words) in REFUSED {
        let (found, message) = failure(&alice, &format!("SELECT ai_column({arguments})")).await;
        assert_eq!(&found, code, "{arguments}: {message}");
        assert!(message.contains(words), "{arguments}: {message}");
    }
    // A superuser's own table: nothing runs as one.
    save_key(&root, "standin", "sk-good-root-0123456789").await;
    let (code, message) =
        failure(&root, "SELECT ai_column('roots', 'summary', 'chat', 'title', 'm')").await;
    assert_eq!(code, "PT403", "{message}");
    assert!(message.contains("superuser"), "{message}");
    let left = "SELECT (SELECT count(*) FROM aggregator_ai_columns),
        (SELECT count(*) FROM pg_class WHERE relname LIKE 'aggregator\\_ai\\_%' AND relnamespace = 's_alice'::regnamespace),
        (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'aggregator\\_ai\\_%'), to_regclass('s_alice.docs') IS NOT NULL";
    assert_eq!(rows(&root, left).await, ["0|0|0|t"]);
}

#[tokio::test]
async fn columns_may_follow_one_another_but_not_in_a_circle() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    let first = paused(&alice, "docs", "summary", "chat", "body").await;
    let second = paused(&alice, "docs", "near", "embed", "{summary}").await;
    alice
        .batch_execute("CREATE TABLE loops (id int PRIMARY KEY, a text, b text, c text)")
        .await
        .unwrap();
    paused(&alice, "loops", "a", "chat", "b").await;
    paused(&alice, "loops", "b", "chat", "c").await;
    let (code, message) = failure(&alice, "SELECT ai_column('loops', 'c', 'chat', 'a', 'm')").await;
    assert_eq!(code, "PT400");
    assert!(message.contains("from itself"), "{message}");
    let (code, message) =
        failure(&alice, "SELECT ai_column('docs', 'summary', 'chat', 'title', 'm')").await;
    assert_eq!(code, "PT409");
    assert!(message.contains("ai_column_drop"), "{message}");
    // What the first one writes is noted for the second.
    alice.batch_execute("INSERT INTO docs (id, body) VALUES (1, 'b')").await.unwrap();
    super::emptied(&root, &second).await;
    super::emptied(&root, &first).await;
    let write = format!("UPDATE {} SET output = 'short' WHERE key_1 = 1", view(&first));
    alice.batch_execute(&write).await.unwrap();
    assert!(noted(&root, &first).await.is_empty());
    assert_eq!(noted(&root, &second).await, ["1|queued"]);
}

#[tokio::test]
async fn inputs_are_expressions_and_templates() {
    let upstream = stand_in().await;
    let (_database, _root, alice) = ready(&upstream).await;
    alice
        .batch_execute(
            "CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT upper($1)$$;
             CREATE TABLE odd (\"the Id\" int PRIMARY KEY, \"A \"\"b\"\"\" text, price numeric, is_on boolean, out text);
             INSERT INTO odd VALUES (1, 'x''y\\', 1.50, true), (2, NULL, NULL, NULL), (3, '', 2, false)",
        )
        .await
        .unwrap();
    for (input, expected) in [
        ("price", ["1.50", "∅", "2"]),
        ("odd.price + 1 -- more", ["2.50", "∅", "3"]),
        // By the caller's search_path.
        ("shout(\"A \"\"b\"\"\")", ["X'Y\\", "∅", ""]),
        (
            "{A \"b\"}: {price} {{x}} it's \\ {is_on}",
            ["x'y\\: 1.50 {x} it's \\ true", "∅", ": 2 {x} it's \\ false"],
        ),
        ("CASE WHEN is_on THEN '{\"a\": 1}' END", ["{\"a\": 1}", "∅", "∅"]),
    ] {
        let id = paused(&alice, "odd", "out", "chat", input).await;
        let found = rows(&alice, &format!("SELECT input FROM {} ORDER BY key_1", view(&id))).await;
        assert_eq!(found, expected, "{input}");
        value(&alice, "SELECT ai_column_drop('odd', 'out')").await;
    }
}

#[tokio::test]
async fn what_is_made_is_the_owners_alone_and_goes_with_the_column() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    // As databases of Supabase do.
    alice
        .batch_execute(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, anon;
             INSERT INTO docs (id, title) VALUES (1, 'a'); ANALYZE docs",
        )
        .await
        .unwrap();
    alice.batch_execute("BEGIN").await.unwrap();
    let id = value(
        &alice,
        "SELECT ai_column('docs', 'facts', 'json', '{title}', 'm', '{\"schema\": {\"type\": \"object\"}, \"batch_size\": 5, \"temperature\": 0}')",
    )
    .await
    .unwrap();
    value(&alice, "SELECT ai_column_pause('docs', 'facts')").await;
    alice.batch_execute("COMMIT").await.unwrap();
    // From PostgreSQL 17 on the owner has MAINTAIN as well.
    let acl = format!(
        "SELECT replace(relacl::text, 'm', ''), obj_description(oid) LIKE '%ai_column_drop%' FROM pg_class WHERE relname = '{}'",
        view(&id)
    );
    assert_eq!(rows(&alice, &acl).await, ["{alice=arwdDxt/alice}|t"]);
    let kept = "SELECT user_id, definer, kind, model, request -> 'schema' ->> 'type', request ? 'messages', concurrency, batch_size,
            backfill, backfill_total FROM aggregator_ai_columns";
    assert_eq!(rows(&alice, kept).await, ["role:alice|alice|json|m|object|f|4|5|missing|1"]);
    let status = "SELECT table_name, column_name, kind, model, user_id, status, problem FROM ai_column_status";
    let told = ["s_alice.docs|facts|json|m|role:alice|paused|∅"];
    assert_eq!(rows(&alice, status).await, told);
    assert_eq!(rows(&root, status).await, told);
    root.batch_execute("SELECT aggregator_grant('bob', 'user')").await.unwrap();
    let bob = database.user("bob").await;
    assert!(rows(&bob, status).await.is_empty());
    // Failed rows are queued again, those alone.
    alice.batch_execute("INSERT INTO docs (id) VALUES (2), (3)").await.unwrap();
    root.batch_execute(
        "UPDATE aggregator_ai_queue SET status = 'failed', attempts = 3, error = '{\"message\": \"x\"}' WHERE key = '{2}'",
    )
    .await
    .unwrap();
    let counts = "SELECT queued, failed FROM ai_column_status";
    let before = rows(&alice, counts).await;
    assert!(before[0].ends_with("|1"), "{before:?}");
    assert_eq!(value(&alice, "SELECT ai_column_retry('docs', 'facts')").await.unwrap(), "1");
    assert!(noted(&alice, &id).await.contains(&"2|queued".to_owned()));
    // It goes without a trace, and leaves its values.
    alice.batch_execute("UPDATE docs SET facts = '{}' WHERE id = 1").await.unwrap();
    value(&alice, "SELECT ai_column_drop('docs', 'facts')").await;
    let left = "SELECT (SELECT count(*) FROM aggregator_ai_columns), (SELECT count(*) FROM aggregator_ai_queue),
        (SELECT count(*) FROM pg_trigger WHERE tgrelid = 's_alice.docs'::regclass),
        (SELECT count(*) FROM pg_class WHERE relname LIKE 'aggregator\\_ai\\_%' AND relnamespace = 's_alice'::regnamespace),
        (SELECT facts FROM s_alice.docs WHERE id = 1)";
    assert_eq!(rows(&root, left).await, ["0|0|0|0|{}"]);
    for function in ["pause", "resume", "retry", "drop"] {
        let (code, message) =
            failure(&alice, &format!("SELECT ai_column_{function}('docs', 'facts')")).await;
        assert_eq!(code, "PT404", "{message}");
    }
}
