//! Whatever a database is moved with, and in whatever order its tables come, everything arrives.

use crate::bed::{self, Database, as_server, failure, nodes, pg_bin, rows, shared, value};
use std::path::PathBuf;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// What a restore can trip over: seeds that were edited, renamed, deleted, and others under their names; rows that
/// point at providers, in tables that are larger than theirs; partitions beside the first.
const FILLED: &str = r#"
    UPDATE api_providers SET display_name = 'Edited', is_active = false WHERE name = 'deepseek';
    DELETE FROM api_providers WHERE name = 'groq';
    UPDATE api_providers SET name = 'xai-old' WHERE name = 'xai';
    INSERT INTO api_providers (name, display_name, provider_type, base_url)
    VALUES ('groq', 'Mine', 'direct', 'https://groq.example/v1'), ('xai', 'Mine', 'direct', 'https://xai.example/v1'),
        ('own', 'Mine', 'direct', 'https://own.example/v1');
    INSERT INTO user_api_providers (user_id, provider_id, api_key_encrypted, key_hint)
    SELECT 'u' || i, id, 'x', 'h' FROM api_providers, generate_series(1, 300) AS i
    WHERE name IN ('groq', 'xai', 'xai-old', 'own', 'openai', 'deepseek');
    INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
    SELECT id, 'm' || i, 'm' || i, 'M', '{"input": 1, "output": 2}' FROM api_providers, generate_series(1, 500) AS i
    WHERE name IN ('groq', 'xai', 'xai-old', 'own', 'openai');
    INSERT INTO aggregator_user_models (user_id, provider_id, model_id, model_name, display_name)
    SELECT 'u1', id, 'p' || i, 'p' || i, 'P' FROM api_providers, generate_series(1, 50) AS i WHERE name IN ('own', 'xai');
    INSERT INTO aggregator_jobs (user_id, model, request, run_after)
    SELECT 'u' || i, 'm1', '{}', now() + interval '1 day' FROM generate_series(1, 10) AS i;
    SELECT set_budget(50), set_budget(5, p_user_id => 'u1', p_provider => 'own'), set_rate_limit(10, p_user_id => 'u2'),
        aggregator_make_partition(now()), aggregator_make_partition(now() - interval '65 days');
    INSERT INTO aggregator_gateway_keys (user_id, name, key_hash, key_hint, models, tags, old_key_hash, old_valid_until, revoked_at)
    SELECT 'u' || i, 'k', sha256(i::text::bytea), 'hint', '{m*}', '{a}', sha256(('old' || i)::bytea), now(), CASE WHEN i = 1 THEN now() END
    FROM generate_series(1, 20) AS i;
    SELECT set_budget(1, p_tag => 'a b'), set_budget(1, p_gateway_key => id), set_rate_limit(10, p_gateway_key => id)
    FROM aggregator_gateway_keys WHERE user_id = 'u2';
    INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, cost_estimate,
        gateway_key_id, tags)
    SELECT gen_random_uuid(), 1, now() - i * interval '1 day', 1, id, 'u1', 'm1', 'success', 0.25,
        CASE WHEN i % 2 = 0 THEN gen_random_uuid() END, CASE WHEN i % 3 = 0 THEN '{a,b c}'::text[] END
    FROM api_providers, generate_series(0, 120) AS i WHERE name IN ('own', 'openai');
    INSERT INTO aggregator_key_checks (created_at, kind, user_id, provider_id, outcome)
    SELECT now(), 'check', 'u1', id, 'success' FROM api_providers WHERE name = 'own'"#;

/// Each month that is over has a partition of its own then, as what is restored has.
const TO_CITUS_AND_BACK: &str = "SELECT aggregator_distribute(); SELECT aggregator_undistribute()";

/// Every table that a dump carries, as a count and a hash; and what guards them.
async fn contents(client: &Client) -> Vec<String> {
    let tables = rows(
        client,
        "SELECT config::regclass::text FROM pg_extension, unnest(extconfig) AS config WHERE extname = 'aggregator'
         UNION SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'aggregator_usage_logs'::regclass
         ORDER BY 1",
    )
    .await;
    let mut all = vec![];
    for table in tables {
        // Seeds that nobody edited are each database's own.
        let row = if table == "api_providers" {
            "CASE WHEN id::text LIKE 'a9920000-%' AND updated_at = created_at
                THEN (to_jsonb(t) - 'created_at' - 'updated_at')::text ELSE t::text END"
        } else {
            "t::text"
        };
        let sql = format!(
            "SELECT '{table}', count(*), md5(string_agg(row, ';' ORDER BY row)) FROM (SELECT {row} AS row FROM {table} AS t) AS t"
        );
        all.extend(rows(client, &sql).await);
    }
    assert!(all.len() >= 16, "{all:?}");
    all.extend(
        rows(
            client,
            "SELECT t.tgrelid::regclass::text, coalesce(p.proname, ''), t.tgisinternal, t.tgenabled, t.tgtype
             FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid ORDER BY 1, 2, 3, 4, 5",
        )
        .await,
    );
    all
}

struct Source {
    database: Database<'static>,
    contents: Vec<String>,
}

async fn source() -> &'static Source {
    static SOURCE: OnceCell<Source> = OnceCell::const_new();
    SOURCE
        .get_or_init(async || {
            let database = bed::database().await;
            let root = database.root().await;
            nodes::bring_back(&root).await;
            root.batch_execute(FILLED).await.unwrap_or_else(|e| panic!("{}", bed::shown(&e)));
            // Another list of prices, in a transaction of its own.
            let dearer =
                "UPDATE aggregator_models SET pricing = '{\"input\": 3}' WHERE model_id = 'm7'";
            root.batch_execute(dearer).await.unwrap();
            if nodes::wanted() {
                root.batch_execute(TO_CITUS_AND_BACK).await.unwrap();
            }
            let contents = contents(&root).await;
            if nodes::wanted() {
                root.batch_execute("SELECT aggregator_distribute()").await.unwrap();
            }
            assert_eq!(
                value(&root, "SELECT count(*) FROM aggregator_model_prices").await.unwrap(),
                "2505"
            );
            Source { database, contents }
        })
        .await
}

/// A file or folder of this test's own, which the server's user may write.
async fn place(name: &str) -> PathBuf {
    shared().await.dir.join(name)
}

async fn run(program: &str, database: &str, arguments: &[&str]) {
    let cluster = shared().await;
    let mut command = as_server(pg_bin(program));
    command.args(["-h", cluster.dir.to_str().unwrap(), "-U", "postgres", "-d", database]);
    let command = command.args(arguments);
    let done = tokio::task::block_in_place(|| bed::run(command));
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(!told.contains("error") && !told.contains("ERROR"), "{arguments:?}: {told}");
}

async fn dump(file: &str, arguments: &[&str]) -> String {
    let file = place(file).await.to_str().unwrap().to_owned();
    let mut all = arguments.to_vec();
    all.extend(["-f", &file]);
    run("pg_dump", &source().await.database.name, &all).await;
    file
}

async fn target() -> Database<'static> {
    source().await;
    shared().await.empty_database().await
}

async fn psql(database: &Database<'_>, arguments: &[&str]) {
    let mut all = vec!["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"];
    all.extend(arguments);
    run("psql", &database.name, &all).await;
}

/// Everything is there, and what keeps it whole is at work.
async fn has_arrived(database: &Database<'_>, how: &str) {
    let root = database.root().await;
    if nodes::wanted() {
        root.batch_execute("SELECT aggregator_undistribute()").await.unwrap();
    }
    let arrived = contents(&root).await;
    assert_eq!(arrived.len(), source().await.contents.len(), "{how}");
    for (after, before) in arrived.iter().zip(&source().await.contents) {
        assert_eq!(after, before, "{how}");
    }
    let (code, message) = failure(
        &root,
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name)
         VALUES (gen_random_uuid(), 'm', 'm', 'M')",
    )
    .await;
    assert_eq!(code, "23503", "{how}: {message}");
    root.batch_execute("DELETE FROM api_providers WHERE name = 'own'").await.unwrap();
    let left = "SELECT (SELECT count(*) FROM user_api_providers), (SELECT count(*) FROM aggregator_models),
        (SELECT count(*) FROM aggregator_model_prices), (SELECT count(*) FROM aggregator_user_models)";
    assert_eq!(rows(&root, left).await, ["1500|2000|2004|50"], "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_restore_keeps_everything() {
    let file = dump("parallel.fc", &["-Fc"]).await;
    for arguments in [&["-j2"][..], &["-j4"], &["-j4", "--clean", "--if-exists"]] {
        let to = target().await;
        run("pg_restore", &to.name, &[arguments, &[&file]].concat()).await;
        has_arrived(&to, &format!("{arguments:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_restore_of_a_folder_keeps_everything() {
    let folder = dump("parallel.d", &["-Fd", "-j2"]).await;
    let to = target().await;
    run("pg_restore", &to.name, &["-j4", "--no-owner", &folder]).await;
    has_arrived(&to, "-Fd -j4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_section_by_section_keeps_everything() {
    let file = dump("sections.fc", &["-Fc"]).await;
    let to = target().await;
    for section in ["pre-data", "data", "post-data"] {
        run("pg_restore", &to.name, &[&format!("--section={section}"), "-j2", &file]).await;
    }
    has_arrived(&to, "--section").await;
}

/// What a parallel restore does by chance, this does each time: providers come last.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_tables_does_not_matter() {
    let file = dump("order.fc", &["-Fc"]).await;
    for (how, disable) in [("in order", &[][..]), ("without triggers", &["--disable-triggers"])] {
        let to = target().await;
        run("pg_restore", &to.name, &["--section=pre-data", &file]).await;
        let list = bed::run(as_server(pg_bin("pg_restore")).args(["-l", &file]));
        let list = String::from_utf8(list.stdout).unwrap();
        let mut data: Vec<&str> = list.lines().filter(|l| l.contains(" TABLE DATA ")).collect();
        let at = |data: &[&str], table: &str| data.iter().position(|l| l.contains(table)).unwrap();
        assert!(at(&data, " api_providers ") < at(&data, " user_api_providers "), "{list}");
        data.reverse();
        assert!(at(&data, " aggregator_models ") < at(&data, " api_providers "), "{list}");
        let reversed = place("reversed.list").await;
        bed::run(
            as_server("sh")
                .args(["-c", "printf '%s' \"$1\" > \"$2\"", "sh", &data.join("\n")])
                .arg(&reversed),
        );
        let list = reversed.to_str().unwrap();
        run("pg_restore", &to.name, &[&["-a", "-L", list, &file], disable].concat()).await;
        run("pg_restore", &to.name, &["--section=post-data", &file]).await;
        has_arrived(&to, how).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_data_alone_keeps_everything_with_triggers_or_without() {
    let file = dump("data.fc", &["-Fc"]).await;
    for arguments in
        [&["-a"][..], &["-a", "--disable-triggers"], &["-a", "--disable-triggers", "-j4"]]
    {
        let to = target().await;
        run("pg_restore", &to.name, &["-s", &file]).await;
        run("pg_restore", &to.name, &[arguments, &[&file]].concat()).await;
        has_arrived(&to, &format!("{arguments:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_dump_keeps_everything_in_one_transaction_or_in_many() {
    let file = dump("plain.sql", &[]).await;
    for arguments in [&[][..], &["-1"]] {
        let to = target().await;
        psql(&to, &[arguments, &["-f", &file]].concat()).await;
        has_arrived(&to, &format!("{arguments:?}")).await;
    }
    let schema = dump("plain.schema.sql", &["-s"]).await;
    for (i, arguments) in
        [&["-a", "--disable-triggers"][..], &["-a", "--inserts"]].iter().enumerate()
    {
        let data = dump(&format!("plain.data{i}.sql"), arguments).await;
        let to = target().await;
        psql(&to, &["-f", &schema, "-f", &data]).await;
        has_arrived(&to, &format!("{arguments:?}")).await;
    }
}

/// Rows of partitions that come through the ledger are in the sums, which come too, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_through_the_partitions_root_counts_no_row_twice() {
    let file = dump("root.sql", &["--load-via-partition-root"]).await;
    let to = target().await;
    psql(&to, &["-f", &file]).await;
    has_arrived(&to, "--load-via-partition-root").await;
    // Months that are with Citus are tables of their own, which data alone do not bring.
    if nodes::wanted() {
        return;
    }
    // Where somebody made the extension by hand, its partitions of the past are missing.
    let data = dump("root.data.sql", &["-a", "--load-via-partition-root"]).await;
    let to = shared().await.database().await;
    psql(&to, &["-f", &data]).await;
    let root = to.root().await;
    const SUMS: &str = "SELECT count(*), (SELECT sum(requests) FROM aggregator_usage_hourly),
        (SELECT sum(cost) FROM aggregator_usage_totals WHERE grain = 'day') FROM aggregator_usage_logs";
    assert_eq!(rows(&root, SUMS).await, ["242|242|60.50"]);
    let keys = "SELECT count(*), count(DISTINCT provider_id) FROM user_api_providers";
    assert_eq!(rows(&root, keys).await, ["1800|6"]);
}

/// `supabase db dump`, its schema, then its data with and without --use-copy, restored as its guide says. That
/// pg_dump 15 is given no --schema, which the command gives it for the data: with any extension that has a
/// partition to dump, it crashes then.
#[tokio::test(flavor = "multi_thread")]
async fn supabases_order_keeps_everything() {
    let version = bed::run(as_server(pg_bin("pg_dump")).arg("--version"));
    let chosen: &[&str] = if String::from_utf8_lossy(&version.stdout).contains(") 15.") {
        &[]
    } else {
        &["--schema", "*", "--exclude-schema", "information_schema|pg_*"]
    };
    let common = ["--quote-all-identifiers", "--role", "postgres"];
    let schema = dump("supabase.schema.sql", &[&["-s"], &common[..]].concat()).await;
    for (i, form) in
        [&["--column-inserts", "--rows-per-insert", "100000"][..], &[]].iter().enumerate()
    {
        let data = format!("supabase.data{i}.sql");
        let data = dump(&data, &[&["-a"], &common[..], chosen, form].concat()).await;
        let to = target().await;
        let replica = "SET session_replication_role = replica";
        let arguments = ["-1", "-f", &schema, "-c", "RESET ALL", "-c", replica, "-f", &data];
        psql(&to, &arguments).await;
        has_arrived(&to, &format!("{form:?}")).await;
    }
}
