//! What another tenant, or the owner of a table, tries with views, triggers, casts and names of their own.

use super::{noted, paused, ready, stand_in, view, with_schema};
use crate::bed::{failure, nodes, rows, value};

#[tokio::test]
async fn anothers_column_is_not_written_by_ones_own_triggers_and_views() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let mallory = with_schema(&database, &root, "bob").await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    alice.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a')").await.unwrap();
    mallory
        .batch_execute(&format!(
            "CREATE TABLE mine (id bigint PRIMARY KEY, title text, summary text);
             CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON mine FOR EACH ROW
                 EXECUTE FUNCTION public.aggregator_ai_column_changed('{id}');
             CREATE TRIGGER e AFTER TRUNCATE ON mine FOR EACH STATEMENT
                 EXECUTE FUNCTION public.aggregator_ai_column_changed('{id}')"
        ))
        .await
        .unwrap();
    let insert = "INSERT INTO mine VALUES (7, 'x')";
    assert_eq!(failure(&mallory, insert).await.0, "PT403");
    assert_eq!(failure(&mallory, "TRUNCATE mine").await.0, "PT403");
    // A view of that name, which says that it is this table's.
    mallory
        .batch_execute(&format!(
            "CREATE VIEW {} AS SELECT id AS key_1, summary AS output, title AS input FROM mine",
            view(&id)
        ))
        .await
        .unwrap();
    assert_eq!(failure(&mallory, insert).await.0, "PT403");
    assert_eq!(failure(&mallory, "TRUNCATE mine").await.0, "PT403");
    for function in ["pause", "resume", "retry", "drop"] {
        let sql = format!("SELECT ai_column_{function}('mine', 'summary')");
        assert_eq!(failure(&mallory, &sql).await.0, "PT404", "{function}");
    }
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    // Also once alice's own is gone: it is never taken for hers.
    root.batch_execute("ALTER SCHEMA s_alice RENAME TO aside").await.unwrap();
    alice.batch_execute(&format!("DROP VIEW aside.{}", view(&id))).await.unwrap();
    for function in ["pause", "resume", "retry", "drop"] {
        let sql = format!("SELECT ai_column_{function}('mine', 'summary')");
        assert_eq!(failure(&mallory, &sql).await.0, "PT403", "{function}");
    }
    let told =
        value(&root, &format!("SELECT problem FROM aggregator_ai_place('{id}')")).await.unwrap();
    assert!(told.contains("belongs to bob now, and not to alice"), "{told}");
    // Nothing is seen of it, or written by hand.
    for table in ["aggregator_ai_columns", "aggregator_ai_queue", "ai_column_status"] {
        assert!(rows(&mallory, &format!("SELECT * FROM {table}")).await.is_empty(), "{table}");
    }
    for sql in [
        format!("INSERT INTO aggregator_ai_queue (column_id, key) VALUES ('{id}', '{{9}}')"),
        "UPDATE aggregator_ai_queue SET attempts = 0".to_owned(),
        "DELETE FROM aggregator_ai_queue".to_owned(),
        "UPDATE aggregator_ai_columns SET definer = 'bob'".to_owned(),
        format!("SELECT aggregator_ai_key('{id}', 'pg_class'::regclass)"),
        "SELECT aggregator_ai_find('pg_class', 'summary')".to_owned(),
        "SELECT aggregator_sweep_ai_columns()".to_owned(),
    ] {
        assert_eq!(failure(&mallory, &sql).await.0, "42501", "{sql}");
        assert_eq!(failure(&alice, &sql).await.0, "42501", "{sql}");
    }
    // Not as a function, nor in another kind of trigger.
    assert_ne!(failure(&mallory, "SELECT aggregator_ai_column_changed()").await.0, "XX000");
    for (when, argument) in
        [("BEFORE INSERT", id.as_str()), ("AFTER INSERT", "x"), ("AFTER INSERT", "x', 'y")]
    {
        mallory
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int); CREATE TRIGGER t {when} ON odd FOR EACH ROW
                     EXECUTE FUNCTION public.aggregator_ai_column_changed('{argument}')"
            ))
            .await
            .unwrap();
        assert_eq!(failure(&mallory, "INSERT INTO odd VALUES (1)").await.0, "PT400");
    }
}

/// Whoever may make a view may name it as they like, and name another's table in it.
#[tokio::test]
async fn views_of_strangers_stand_in_the_way_of_nothing() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let mallory = with_schema(&database, &root, "bob").await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    // Of the name of alice's, and more than can be searched.
    let decoy = format!(
        "CREATE TABLE mine (id bigint PRIMARY KEY, o text, x text);
         DO $$ BEGIN EXECUTE format('CREATE VIEW {} AS SELECT t.id AS key_1, t.o AS output, t.x || %L AS input FROM mine AS t',
             repeat('x', 8000000)); END $$",
        view(&id)
    );
    mallory.batch_execute(&decoy).await.unwrap();
    alice.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'a')").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued"]);
    let place = format!("SELECT table_name FROM aggregator_ai_place('{id}')");
    assert_eq!(rows(&root, &place).await, ["s_alice.docs"]);
    // One of hers over alice's table, for the same column, with a definition of her own.
    let own = paused(&mallory, "mine", "o", "chat", "x").await;
    root.batch_execute("GRANT USAGE ON SCHEMA s_alice TO bob").await.unwrap();
    mallory
        .batch_execute(&format!(
            "DROP VIEW {own}; CREATE VIEW {own} AS SELECT d.id AS key_1, d.summary AS output, d.title AS input FROM s_alice.docs AS d",
            own = view(&own)
        ))
        .await
        .unwrap();
    value(&mallory, &format!("SELECT ai_column_drop('{own}'::uuid)")).await;
    mallory
        .batch_execute(&format!(
            "CREATE OR REPLACE VIEW {} AS SELECT d.id AS key_1, d.summary AS output, d.title AS input FROM s_alice.docs AS d",
            view(&own)
        ))
        .await
        .unwrap();
    let status = format!("SELECT status FROM aggregator_ai_columns WHERE id = '{id}'");
    value(&alice, "SELECT ai_column_resume('docs', 'summary')").await;
    assert_eq!(value(&root, &status).await.as_deref(), Some("active"));
    value(&alice, "SELECT ai_column_pause('docs', 'summary')").await;
    assert_eq!(value(&root, &status).await.as_deref(), Some("paused"));
    // By its id too it is the one that is named.
    assert_eq!(
        value(&alice, &format!("SELECT ai_column_drop('{id}'::uuid)")).await.as_deref(),
        Some("t")
    );
    let left = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 's_alice.docs'::regclass";
    assert_eq!(value(&root, left).await.as_deref(), Some("0"));
    assert_eq!(failure(&alice, "SELECT ai_column_pause('docs', 'summary')").await.0, "PT404");
}

/// Each notes as whom it was run.
#[tokio::test]
async fn nothing_of_the_users_runs_as_the_owner_of_the_extension() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    // Citus looks for a new function by its bare name, and takes replace() for PostgreSQL's own.
    nodes::stay_here(&alice).await;
    alice
        .batch_execute(
            "CREATE TABLE ran (what text, who text);
             CREATE TYPE mood AS ENUM ('well', 'ill');
             CREATE FUNCTION to_words(mood) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO s_alice.ran VALUES ('cast', current_user); RETURN 'words'; END$$;
             CREATE CAST (mood AS text) WITH FUNCTION to_words(mood) AS IMPLICIT;
             CREATE FUNCTION same(mood, mood) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO s_alice.ran VALUES ('operator', current_user); RETURN false; END$$;
             CREATE OPERATOR = (LEFTARG = mood, RIGHTARG = mood, FUNCTION = same);
             CREATE FUNCTION same_text(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO s_alice.ran VALUES ('text', current_user); RETURN true; END$$;
             CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = same_text);
             CREATE FUNCTION noisy(text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO s_alice.ran VALUES ('expression', current_user); RAISE 'it is bad'; END$$;
             CREATE FUNCTION replace(text, text, text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO s_alice.ran VALUES ('replace', current_user); RETURN 'x'; END$$;
             CREATE TABLE feelings (how mood PRIMARY KEY, title text, summary text);
             SET search_path = s_alice, pg_catalog, public",
        )
        .await
        .unwrap();
    let id = paused(&alice, "feelings", "summary", "chat", "noisy(title || how::text)").await;
    // The expression fails for every row, and nobody's INSERT does.
    alice
        .batch_execute(
            "INSERT INTO feelings VALUES ('well', 'a'), ('ill', 'b'); UPDATE feelings SET title = 'c' WHERE ctid = '(0,1)';
             DELETE FROM feelings WHERE ctid = '(0,2)'",
        )
        .await
        .unwrap();
    // Under its own name, whatever a cast says.
    assert!(noted(&root, &id).await.iter().any(|entry| entry == "well|queued"));
    let ran = rows(&root, "SELECT DISTINCT who FROM s_alice.ran WHERE who <> 'alice'").await;
    assert!(ran.is_empty(), "{ran:?}");
    let expression = "SELECT count(*) FROM s_alice.ran WHERE what = 'expression'";
    assert_eq!(value(&root, expression).await.unwrap(), "0");
}

#[tokio::test]
async fn an_owner_who_replaces_the_view_harms_only_that_column() {
    let upstream = stand_in().await;
    let (_database, root, alice) = ready(&upstream).await;
    // A view of no table goes to the workers, and may name no local table after that.
    nodes::stay_here(&alice).await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    alice
        .batch_execute("CREATE TABLE secrets (id bigint PRIMARY KEY, title text, summary text)")
        .await
        .unwrap();
    let status = "SELECT table_name, status FROM ai_column_status";
    let replace = format!("CREATE OR REPLACE VIEW {} AS SELECT", view(&id));
    for rest in [
        "1::bigint AS key_1, 'x'::text AS output, 'y'::text AS input",
        "id AS key_1, summary || 'x' AS output, title AS input FROM docs WHERE (SELECT true)",
        "d.id AS key_1, s.summary AS output, d.title AS input FROM docs AS d, secrets AS s",
    ] {
        alice.batch_execute(&format!("{replace} {rest}")).await.unwrap();
        assert_eq!(rows(&alice, status).await, ["∅|detached"], "{rest}");
        alice.batch_execute("INSERT INTO docs (id) SELECT count(*) FROM docs").await.unwrap();
        assert!(noted(&root, &id).await.is_empty());
    }
    // Another table of the same owner: then the triggers of this one are strangers.
    alice
        .batch_execute(&format!(
            "{replace} id AS key_1, summary AS output, title AS input FROM secrets"
        ))
        .await
        .unwrap();
    assert_eq!(rows(&alice, status).await, ["s_alice.secrets|paused"]);
    assert_eq!(failure(&alice, "INSERT INTO docs (id) VALUES (100)").await.0, "PT403");
    alice
        .batch_execute(&format!(
            "{replace} id AS key_1, summary AS output, title AS input FROM docs"
        ))
        .await
        .unwrap();
    alice.batch_execute("INSERT INTO docs (id) VALUES (100)").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["100|queued"]);
}

#[tokio::test]
async fn row_level_security_of_the_table_holds() {
    let upstream = stand_in().await;
    let (database, root, alice) = ready(&upstream).await;
    let bob = with_schema(&database, &root, "bob").await;
    let id = paused(&alice, "docs", "summary", "chat", "title").await;
    alice
        .batch_execute(
            "INSERT INTO docs (id, title) VALUES (1, 'open'), (2, 'secret');
             ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
             CREATE POLICY p ON docs USING (title <> 'secret');
             GRANT USAGE ON SCHEMA s_alice TO bob; GRANT INSERT ON docs TO bob",
        )
        .await
        .unwrap();
    let through = format!("SELECT key_1, input FROM s_alice.{}", view(&id));
    assert_eq!(rows(&alice, &through).await, ["1|open"]);
    // Bob may write rows, and neither read them, nor what goes in, nor what is noted.
    bob.batch_execute("INSERT INTO s_alice.docs (id, title) VALUES (3, 'x')").await.unwrap();
    assert_eq!(noted(&root, &id).await, ["1|queued", "2|queued", "3|queued"]);
    assert_eq!(failure(&bob, &through).await.0, "42501");
    assert!(noted(&bob, &id).await.is_empty());
}
