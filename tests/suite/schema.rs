//! The extension as an object: complete, documented, and gone without a trace.

use crate::bed::{self, failure, rows, shared, value};

const OBJECTS: &str = "
    SELECT 'class ' || oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL
    SELECT 'proc ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL
    SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace = 'public'::regnamespace UNION ALL
    SELECT 'event trigger ' || evtname FROM pg_event_trigger UNION ALL
    SELECT 'policy ' || polname FROM pg_policy UNION ALL
    SELECT 'setting ' || setdatabase FROM pg_db_role_setting UNION ALL
    SELECT 'namespace ' || nspname || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)' ORDER BY 1";

#[tokio::test]
async fn dropping_the_extension_leaves_nothing_but_its_owner() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    let before = rows(&root, OBJECTS).await;
    root.batch_execute("CREATE EXTENSION aggregator; SELECT aggregator_grant('alice', 'admin')")
        .await
        .unwrap();
    value(&root, "SELECT version FROM aggregator_status()").await.unwrap();
    assert!(rows(&root, OBJECTS).await.len() > before.len() + 50);
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    // The role is the cluster's: other databases may use it. What is left of it here, the README names.
    root.batch_execute("DROP OWNED BY aggregator_owner").await.unwrap();
    assert_eq!(rows(&root, OBJECTS).await, before);
}

#[tokio::test]
async fn postgrest_is_told_of_every_change() {
    let database = shared().await.empty_database().await;
    let (client, heard) = database.listener().await;
    client.batch_execute("LISTEN pgrst; CREATE EXTENSION aggregator").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), 1);
    client.batch_execute("ALTER EXTENSION aggregator UPDATE").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), 2);
    client.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(*heard.lock().unwrap(), ["pgrst reload schema"; 3]);
}

#[tokio::test]
async fn every_object_has_a_comment_and_no_function_a_mutable_search_path() {
    let database = bed::database().await;
    let root = database.root().await;
    let bare = rows(
        &root,
        "WITH members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator'))
         SELECT 'table ' || objid::regclass FROM members WHERE classid = 'pg_class'::regclass AND obj_description(objid, 'pg_class') IS NULL
           AND (SELECT relkind FROM pg_class WHERE oid = objid) IN ('r', 'p', 'v')
         UNION ALL SELECT 'column ' || objid::regclass || '.' || attname FROM members JOIN pg_attribute ON attrelid = objid
           WHERE classid = 'pg_class'::regclass AND attnum > 0 AND NOT attisdropped AND col_description(objid, attnum) IS NULL
           AND (SELECT relkind FROM pg_class WHERE oid = objid) IN ('r', 'p', 'v') AND NOT (SELECT relispartition FROM pg_class WHERE oid = objid)
         UNION ALL SELECT 'function ' || objid::regprocedure FROM members WHERE classid = 'pg_proc'::regclass AND obj_description(objid, 'pg_proc') IS NULL",
    )
    .await;
    assert_eq!(bare, Vec::<String>::new());
    let mutable = rows(
        &root,
        "SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_language l ON l.oid = p.prolang
         WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
           AND l.lanname <> 'c' AND p.prokind <> 'a' AND NOT coalesce(p.proconfig::text LIKE '%search_path%', false)",
    )
    .await;
    assert_eq!(mutable, Vec::<String>::new());
    assert_eq!(value(&root, "SELECT count(*) FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid WHERE d.deptype = 'e' AND p.prosecdef AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')").await.unwrap(), "0");
}

#[tokio::test]
async fn it_lives_in_the_schema_of_ones_choice() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    root.batch_execute(
        "CREATE SCHEMA \"Odd schema\"; CREATE EXTENSION aggregator SCHEMA \"Odd schema\"",
    )
    .await
    .unwrap();
    assert_eq!(
        rows(&root, "SELECT * FROM \"Odd schema\".get_user_available_models('test-user-id')")
            .await
            .len(),
        0
    );
    assert_eq!(
        rows(
            &root,
            "SELECT * FROM \"Odd schema\".get_model_provider_config('gpt-4', 'test-user-id')"
        )
        .await
        .len(),
        0
    );
    assert_eq!(value(&root, "SELECT \"Odd schema\".calculate_cost('gpt-4', '{}')").await, None);
    assert!(root.batch_execute("ALTER EXTENSION aggregator SET SCHEMA public").await.is_err());
    assert_eq!(
        value(&root, "SELECT version FROM \"Odd schema\".aggregator_status()").await.unwrap(),
        env!("CARGO_PKG_VERSION")
    );
}

/// Also those whose rules for bytes the script would break, were it not plain ASCII.
#[tokio::test]
async fn other_encodings_are_refused() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    for encoding in [
        "LATIN1",
        "WIN1252",
        "KOI8R",
        "SQL_ASCII",
        "EUC_JP",
        "EUC_JIS_2004",
        "EUC_KR",
        "EUC_CN",
        "EUC_TW",
        "MULE_INTERNAL",
    ] {
        let name = format!("{}_{}", database.name, encoding.to_lowercase());
        root.batch_execute(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ))
        .await
        .unwrap();
        // With the database's own encoding: from some of them there is no conversion.
        let url = format!("options='-c client_encoding={encoding}' dbname={name}");
        let output = bed::as_server(bed::pg_bin("psql"))
            .args([
                "-h",
                database.cluster.dir.to_str().unwrap(),
                "-U",
                "postgres",
                "-X",
                "-d",
                &url,
            ])
            .args(["-v", "VERBOSITY=verbose", "-c", "CREATE EXTENSION aggregator"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let refusal = format!(
            "ERROR:  0A000: aggregator needs a database with encoding UTF8, this one has {encoding}"
        );
        assert!(told.starts_with(&refusal), "{told}");
        root.batch_execute(&format!("DROP DATABASE {name}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_before_the_extension_is_committed_says_so() {
    let database = shared().await.empty_database().await;
    let root = database.root().await;
    root.batch_execute("BEGIN; CREATE EXTENSION aggregator").await.unwrap();
    let (code, message) = failure(&root, "SELECT * FROM aggregator_status()").await;
    assert_eq!(code, "PT503");
    assert!(message.contains("committed"), "{message}");
    root.batch_execute("ROLLBACK").await.unwrap();
}
