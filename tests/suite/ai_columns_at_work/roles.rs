//! As whom what a user has written runs, and what it leaves behind.

use super::{RIGHT, add, becomes, define, echoes, owner, ready, until_done};
use crate::bed::{rows, value};
use crate::upstream::Upstream;

#[tokio::test]
async fn what_a_definer_has_written_runs_as_them_and_leaves_nothing_behind() {
    let upstream = Upstream::start(echoes).await;
    let (database, root, alice) = ready(&upstream).await;
    root.batch_execute(
        "SELECT aggregator_grant('bob', 'user'); CREATE SCHEMA bob AUTHORIZATION bob;
         CREATE TABLE public.told (line text); GRANT INSERT, SELECT ON public.told TO PUBLIC",
    )
    .await
    .unwrap();
    let bob = owner(&database, "bob").await;
    // An expression that tries to write, and a trigger that tries to become somebody, to stay, and to be called by
    // whoever comes next; once at once, and once at the end of the transaction.
    alice
        .batch_execute(
            "CREATE FUNCTION whoami(body text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN
                     INSERT INTO public.told VALUES ('an expression writes');
                 EXCEPTION WHEN read_only_sql_transaction THEN
                     NULL;
                 END;
                 RETURN pg_catalog.concat_ws(' ', body, current_user, public.aggregator_user_id(),
                     public.aggregator_is_admin());
             END $$;
             CREATE FUNCTION evil(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.told VALUES ('an operator is called by ' || current_user);
                 RETURN true;
             END $$;
             CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = evil);
             CREATE FUNCTION escape() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 v_escape text;
             BEGIN
                 INSERT INTO public.told VALUES (TG_NAME || ' ' || current_user);
                 FOREACH v_escape IN ARRAY ARRAY['SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres',
                     'RESET SESSION AUTHORIZATION', 'SET LOCAL ROLE postgres', 'CREATE TEMP TABLE mine ()',
                     'DECLARE c CURSOR WITH HOLD FOR SELECT alice.whoami(''x'')'] LOOP
                     BEGIN
                         EXECUTE v_escape;
                         INSERT INTO public.told VALUES (v_escape || ' passes');
                     EXCEPTION WHEN OTHERS THEN
                         NULL;
                     END;
                 END LOOP;
                 SET CONSTRAINTS ALL DEFERRED;
                 PERFORM pg_catalog.set_config('search_path', 'alice, pg_catalog', false),
                     pg_catalog.set_config('request.jwt.claims', '{\"sub\": \"root\"}', false);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER atonce AFTER UPDATE OF answer ON docs FOR EACH ROW EXECUTE FUNCTION escape();
             CREATE CONSTRAINT TRIGGER late AFTER UPDATE OF answer ON docs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION escape()",
        )
        .await
        .unwrap();
    define(&alice, "answer", "chat", "alice.whoami(body)", "{}").await;
    define(&bob, "answer", "chat", "body", "{}").await;
    for i in 1..=3 {
        alice.batch_execute(&format!("INSERT INTO docs (body) VALUES ('{i}')")).await.unwrap();
        becomes(
            &root,
            &format!("SELECT answer FROM alice.docs WHERE body = '{i}'"),
            &format!("re: {i} alice role:alice f"),
        )
        .await;
        add(&bob, 2).await;
        until_done(&root).await;
    }
    assert_eq!(value(&bob, RIGHT).await.unwrap(), "6");
    assert_eq!(
        rows(&root, "SELECT line, count(*) FROM public.told GROUP BY line ORDER BY line").await,
        ["atonce alice|3", "late alice|3"]
    );
}

#[tokio::test]
async fn a_table_that_changes_hands_is_left_alone_and_says_so() {
    let upstream = Upstream::start(echoes).await;
    let (_database, root, alice) = ready(&upstream).await;
    define(&alice, "answer", "chat", "body", "{}").await;
    root.batch_execute(
        "GRANT USAGE, CREATE ON SCHEMA alice TO bob; ALTER TABLE alice.docs OWNER TO bob",
    )
    .await
    .unwrap();
    root.batch_execute("INSERT INTO alice.docs (body) VALUES ('x')").await.unwrap();
    let paused = "SELECT status, paused_for ->> 'sqlstate' FROM aggregator_ai_columns";
    becomes(&root, "SELECT status FROM aggregator_ai_columns", "paused").await;
    assert_eq!(rows(&root, paused).await, ["paused|PT403"]);
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&root, "SELECT status FROM aggregator_ai_queue").await.unwrap(), "queued");
}
