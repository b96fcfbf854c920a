//! ALTER EXTENSION UPDATE: from every released version it gives what a fresh installation gives, and
//! what was there goes on. The old versions' install scripts are in `tests/upgrades`, kept by
//! `make release-sql`; they run against today's library, as in a server where the package was
//! replaced and the extension not yet updated.

use crate::bed::{self, Cluster, Database, eventually, failure, rows, tree, value};
use crate::fixtures::{
    HELLO, WORKERS, add_provider, chat_sql, dump_and_restore, ended, ready, save_key,
};
use crate::upstream::{Answer, Upstream};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use tokio_postgres::Client;

pub const CURRENT: &str = env!("CARGO_PKG_VERSION");
const OBJECTS: &str = include_str!("../upgrades/objects.sql");

/// Databases hand everything to everybody, and another superuser than the extension's owner updates.
const BEFORE: &str = "
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres, deputy GRANT ALL ON TABLES TO anon, PUBLIC;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres, deputy GRANT ALL ON FUNCTIONS TO anon, authenticated;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres, deputy GRANT ALL ON SEQUENCES TO anon;
    ALTER DEFAULT PRIVILEGES FOR ROLE postgres, deputy GRANT ALL ON TYPES TO anon";
/// What an administrator has granted, taken and edited, and partitions of the next months.
const ADMINISTERED: &str = "
    SELECT aggregator_apply_grants('alice', 'user'), aggregator_apply_grants('bob', 'admin');
    REVOKE EXECUTE ON FUNCTION chat_many(jsonb, jsonb, integer) FROM alice, service_role;
    GRANT SELECT ON aggregator_worker_epochs TO alice;
    UPDATE api_providers SET display_name = 'Edited' WHERE name = 'xai';
    SELECT aggregator_maintain_usage(true, 0)";

pub fn scripts() -> PathBuf {
    let output = bed::run(Command::new(bed::pg_bin("pg_config")).arg("--sharedir"));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("extension")
}

/// A script among those of the server, gone when dropped.
pub struct Script(PathBuf);

impl Script {
    pub fn install(versions: &str, sql: &str) -> Self {
        let path = scripts().join(format!("aggregator--{versions}.sql"));
        std::fs::write(&path, sql).expect("the script is installed");
        Self(path)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Versions that were released, and their install scripts.
pub fn released() -> Vec<(String, String)> {
    let mut found = vec![];
    for file in std::fs::read_dir(tree("tests/upgrades")).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        if let Some(version) =
            name.strip_prefix("aggregator--").and_then(|rest| rest.strip_suffix(".sql"))
        {
            found.push((version.to_owned(), std::fs::read_to_string(file.path()).unwrap()));
        }
    }
    found.sort();
    found
}

async fn cluster(name: &str) -> Cluster {
    let cluster = Cluster::start(name, "");
    cluster.supabase_roles().await;
    let client = cluster.connect("postgres", "postgres").await;
    client.batch_execute("CREATE ROLE deputy LOGIN SUPERUSER").await.unwrap();
    cluster
}

/// A database in which an administrator has been, with the extension of a version. No version before this one can be
/// made on a coordinator, whose CREATE EXTENSION goes to its workers in two phases: they notify PostgREST as they are.
async fn administered<'a>(cluster: &'a Cluster, version: &str) -> (Database<'a>, Client) {
    let database = cluster.lone_database().await;
    let root = database.root().await;
    root.batch_execute(&format!("{BEFORE}; CREATE EXTENSION aggregator VERSION '{version}'"))
        .await
        .unwrap_or_else(|error| panic!("{version}: {}", bed::shown(&error)));
    root.batch_execute(ADMINISTERED).await.unwrap();
    (database, root)
}

/// Fails where two databases do not have the same extension, and says where.
async fn assert_same(what: &str, one: &Client, other: &Client) {
    let one: BTreeSet<_> = rows(one, OBJECTS).await.into_iter().collect();
    let other: BTreeSet<_> = rows(other, OBJECTS).await.into_iter().collect();
    assert!(one.len() > 1000, "{}", one.len());
    let lacks: Vec<_> = other.difference(&one).map(|line| format!("lacks {line}")).collect();
    let has: Vec<_> = one.difference(&other).map(|line| format!("has {line}")).collect();
    assert!(lacks.is_empty() && has.is_empty(), "{what}\n{}", [lacks, has].concat().join("\n"));
}

/// The rows of what pg_dump carries, per table. Seeds count once they were edited.
async fn data(client: &Client, tables: &[String]) -> BTreeMap<String, Vec<Value>> {
    let mut found = BTreeMap::new();
    for table in tables {
        let of = match table.as_str() {
            "api_providers" => {
                "api_providers AS t WHERE id::text NOT LIKE 'a9920000-%' OR updated_at <> created_at"
            }
            "aggregator_usage_logs_default" => "aggregator_usage_logs AS t",
            _ => &format!("{table} AS t"),
        };
        let rows = rows(client, &format!("SELECT to_jsonb(t) FROM {of}")).await;
        let rows = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        found.insert(table.clone(), rows);
    }
    found
}

/// Every row is as it was; what later versions have added to it does not count.
fn assert_kept(before: &BTreeMap<String, Vec<Value>>, after: &BTreeMap<String, Vec<Value>>) {
    for (table, rows) in before {
        assert!(!rows.is_empty(), "{table} was empty: nothing is proved for it");
        let old = |row: &Value| {
            let known = rows[0].as_object().unwrap();
            let kept =
                row.as_object().unwrap().iter().filter(|(name, _)| known.contains_key(*name));
            kept.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let (was, is): (BTreeSet<_>, BTreeSet<_>) =
            (rows.iter().map(old).collect(), after[table].iter().map(old).collect());
        assert_eq!(is, was, "{table}");
    }
}

/// A provider with its model, price and keys, as rows for a database of an older version, where today's library
/// does no more than say that it must be upgraded. Keys are encrypted by the cluster's one keyring.
async fn provider_rows(cluster: &Cluster, upstream: &Upstream) -> Vec<(&'static str, String)> {
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    save_key(&root, "standin", "sk-good-of-root").await;
    let user = database.rest("authenticated", Some("u-1")).await;
    save_key(&user, "standin", "sk-good-of-user").await;
    root.batch_execute(
        "SELECT save_platform_key('standin', 'sk-good-of-platform');
         SELECT set_model_price('m', '{\"input\": 3, \"output\": 10}', 'standin')",
    )
    .await
    .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let mut found = vec![];
    for (table, filter) in [
        ("api_providers", "name = 'standin'"),
        ("user_api_providers", "true"),
        ("aggregator_models", "true"),
        ("aggregator_model_prices", "true"),
    ] {
        let sql = format!("SELECT json_agg(t) FROM {table} AS t WHERE {filter}");
        found.push((table, value(&root, &sql).await.unwrap()));
    }
    found
}

/// Something of every kind: keys, models, prices, budgets, logs, jobs. Returns a job that waits to be run.
async fn fill(root: &Client, provider: &[(&str, String)]) -> String {
    root.batch_execute("SET session_replication_role = replica").await.unwrap();
    for (table, rows) in provider {
        let rows = bed::quoted(rows);
        let sql = format!(
            "INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, {rows})"
        );
        root.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    }
    root.batch_execute("RESET session_replication_role").await.unwrap();
    root.batch_execute(
        "SELECT set_budget(50, p_period => 'total'), set_budget(p_limit_tokens => 1000000, p_each_user => true);
         SELECT set_rate_limit(6000, p_each_user => true);
         INSERT INTO aggregator_budget_warnings (budget_id, period_start, percent, spent_usd, spent_tokens, spent_requests)
         SELECT id, now(), 80, 40, 1000, 10 FROM aggregator_budgets WHERE limit_usd IS NOT NULL;
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, prompt_tokens, completion_tokens,
             total_tokens, cost_estimate, cost_computed, cost_source, latency_ms)
         SELECT gen_random_uuid(), 1, now() - i * interval '20 days', 1, id, 'u-' || i % 3, 'm', 'success', 10, i, 10 + i, 0.001 * i, 0.001 * i, 'computed', 100 * i
         FROM api_providers, generate_series(0, 5) AS i WHERE name = 'standin';
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
         SELECT gen_random_uuid(), 1, now(), 1, id, 'u-1', 'm' FROM api_providers WHERE name = 'standin';
         CREATE SCHEMA app;
         CREATE VIEW app.spent AS SELECT user_id, sum(cost_estimate) AS usd FROM aggregator_usage_logs GROUP BY 1;
         CREATE VIEW app.health AS SELECT * FROM aggregator_provider_health;
         CREATE VIEW app.keys AS SELECT * FROM user_api_providers;
         CREATE VIEW app.jobs AS SELECT * FROM aggregator_jobs;
         CREATE VIEW app.models AS SELECT * FROM aggregator_models;
         CREATE VIEW app.budgets AS SELECT * FROM aggregator_budgets;
         ANALYZE",
    )
    .await
    .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let job = |run_after: &str| {
        format!(
            "INSERT INTO aggregator_jobs (user_id, model, request, request_bytes, run_after)
             SELECT aggregator_user_id(), 'm', request, octet_length(request::text), {run_after}
             FROM jsonb_build_object('model', 'm', 'messages', '{HELLO}'::jsonb, 'timeout_ms', 60000, 'max_retries', 2) AS request
             RETURNING id"
        )
    };
    value(root, &job("now() + interval '1 h'")).await.unwrap();
    value(root, &job("now()")).await.unwrap()
}

#[tokio::test]
async fn every_released_version_becomes_this_one() {
    let cluster = cluster("upgrade").await;
    let restored = self::cluster("restored").await;
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_fresh, fresh) = administered(&cluster, CURRENT).await;
    let provider = provider_rows(&cluster, &upstream).await;
    let mut tried = 0;
    for (version, script) in released() {
        if version == CURRENT {
            let now = scripts().join(format!("aggregator--{CURRENT}.sql"));
            assert!(
                std::fs::read_to_string(now).unwrap() == script,
                "{CURRENT} was released with another script: raise the version in Cargo.toml"
            );
            continue;
        }
        let _script = Script::install(&version, &script);
        let (database, root) = administered(&cluster, &version).await;
        let user = database.rest("authenticated", Some("u-1")).await;
        let job = fill(&root, &provider).await;
        let tables = rows(
            &root,
            "SELECT unnest(extconfig)::regclass FROM pg_extension WHERE extname = 'aggregator'",
        )
        .await;
        let before = data(&root, &tables).await;

        // Until then the library says what is to be done.
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT503", "{message}");
        assert!(message.contains(&format!("version {version}")), "{message}");
        assert!(message.contains("ALTER EXTENSION aggregator UPDATE"), "{message}");

        let deputy = database.user("deputy").await;
        deputy
            .batch_execute(
                "BEGIN; SAVEPOINT s; ALTER EXTENSION aggregator UPDATE; RELEASE s; COMMIT",
            )
            .await
            .unwrap_or_else(|error| panic!("{version}: {}", bed::shown(&error)));
        assert_kept(&before, &data(&root, &tables).await);
        assert_same(&format!("upgraded from {version}, the extension"), &root, &fresh).await;

        // The old keys open, the old prices hold, the old job is run, by the new version. First the job: while
        // it runs, it may need all that is left of the budget.
        assert_eq!(ended(&root, &job).await, "succeeded|hello|1");
        let reply: Value = bed::json(&root, &chat_sql("{}")).await;
        assert_eq!(reply["aggregator"]["cost_source"], "computed");
        value(&user, &chat_sql("{}")).await.unwrap();
        let keys: Vec<_> = upstream
            .chats()
            .iter()
            .rev()
            .map(|chat| chat.header("authorization").unwrap().to_owned())
            .collect();
        assert!(keys.contains(&"Bearer sk-good-of-root".to_owned()), "{keys:?}");
        assert!(keys.contains(&"Bearer sk-good-of-user".to_owned()), "{keys:?}");
        assert_eq!(value(&root, "SELECT version FROM aggregator_status()").await.unwrap(), CURRENT);
        assert_eq!(
            rows(&root, "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1")
                .await,
            ["success|9", "unknown|1"]
        );
        let summed = "SELECT sum(requests) FROM aggregator_usage_hourly";
        assert_eq!(value(&root, summed).await.unwrap(), "10");
        assert_eq!(value(&root, "SELECT count(*) FROM app.spent").await.unwrap(), "4");
        let alice = database.user("alice").await;
        value(&alice, "SELECT * FROM usage_summary('month')").await.unwrap();
        assert_eq!(failure(&alice, "SELECT * FROM chat_many('[]')").await.0, "42501");

        // A dump restores the same, which shows that pg_dump knows the administrator's grants.
        drop(deputy);
        let target = restored.connect("postgres", "postgres").await;
        target.batch_execute(&format!("CREATE DATABASE {}", database.name)).await.unwrap();
        dump_and_restore(&cluster, &restored, &database.name);
        let copy = restored.connect("postgres", &database.name).await;
        assert_same(&format!("restored after {version}, the extension"), &copy, &root).await;
        tried += 1;
    }
    assert!(tried > 0);
}

/// Version 0.2.0 counted whatever a request asked for and a provider said, until its sums were full.
#[tokio::test]
async fn absurd_rows_of_an_older_version_count_as_much_as_a_row_may() {
    let cluster = cluster("absurd").await;
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let provider = provider_rows(&cluster, &upstream).await;
    // Under another name, beside the test that installs it under its own.
    let update = scripts().join(format!("aggregator--0.2.0--{CURRENT}.sql"));
    let update = std::fs::read_to_string(update).unwrap();
    let _update = Script::install(&format!("0.2.0absurd--{CURRENT}"), &update);
    let (_, script) = released().into_iter().find(|(version, _)| version == "0.2.0").unwrap();
    let _script = Script::install("0.2.0absurd", &script);
    let (_database, root) = administered(&cluster, "0.2.0absurd").await;
    let job = fill(&root, &provider).await;
    root.batch_execute(
        "INSERT INTO aggregator_worker_epochs (epoch, low_water) VALUES (1, now() - interval '1 day');
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
             cost_estimate, cost_source, reserved_cost, reserved_tokens)
         SELECT gen_random_uuid(), 1, now(), 1, id, who, 'm', status, cost, source, 0.1, tokens
         FROM api_providers, (VALUES ('u-8', 'success', 1e30, 'upstream', 900),
             ('u-9', 'unknown', NULL, 'incomplete', 9223372036854775807),
             ('u-9', 'pending', NULL, NULL, 9223372036854775807),
             ('u-9', 'pending', NULL, NULL, 9223372036854775807)) AS r (who, status, cost, source, tokens)
         WHERE name = 'standin'",
    )
    .await
    .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    assert_eq!(failure(&root, "SELECT * FROM aggregator_budget_status").await.0, "22003");
    root.batch_execute("ALTER EXTENSION aggregator UPDATE")
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let counted = "SELECT user_id, sum(budget_tokens), sum(budget_cost)::integer, sum(own_requests)
        FROM aggregator_usage_hourly WHERE user_id IN ('u-8', 'u-9') GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&root, counted).await, ["u-8|900|1000|0", "u-9|2147483647|0|0"]);
    // Budgets count what they did, also when they are set anew.
    let status = "SELECT each_user, keys, spent_usd > 1000 FROM aggregator_budget_status WHERE NOT each_user";
    assert_eq!(rows(&root, status).await, ["f|all|t"]);
    value(&root, "SELECT set_budget(5000, p_period => 'total')").await.unwrap();
    assert_eq!(rows(&root, status).await, ["f|all|t"]);
    // The worker opens the ledger, and everybody is served, once the job has let go of what it may need.
    ended(&root, &job).await;
    bed::json(&root, &chat_sql(r#"{"max_tokens": 10}"#)).await;
    let log = "SELECT status, count(*) FROM aggregator_usage_logs WHERE user_id = 'u-9' GROUP BY 1";
    assert_eq!(rows(&root, log).await, ["unknown|3"]);
    assert_eq!(
        rows(&root, counted).await,
        ["u-8|900|1000|0".to_owned(), format!("u-9|{}|0|0", 3 * i64::from(i32::MAX))]
    );
    let before = rows(&root, counted).await;
    value(&root, "SELECT aggregator_recount_usage()").await;
    assert_eq!(rows(&root, counted).await, before);
}

/// Version 0.2.0 let a header hold a key, for everybody to read, and planners keep prompts.
#[tokio::test]
async fn an_upgrade_takes_secrets_from_where_they_do_not_belong() {
    let cluster = cluster("telling").await;
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let provider = provider_rows(&cluster, &upstream).await;
    let update = scripts().join(format!("aggregator--0.2.0--{CURRENT}.sql"));
    let update = std::fs::read_to_string(update).unwrap();
    let _update = Script::install(&format!("0.2.0telling--{CURRENT}"), &update);
    let (_, script) = released().into_iter().find(|(version, _)| version == "0.2.0").unwrap();
    let _script = Script::install("0.2.0telling", &script);
    let (database, root) = administered(&cluster, "0.2.0telling").await;
    let job = fill(&root, &provider).await;
    root.batch_execute(
        "UPDATE api_providers SET headers = '{\"api-key\": \"s3cr3t\", \"X-Title\": \"t\"}' WHERE name = 'standin';
         INSERT INTO aggregator_jobs (user_id, model, request, run_after)
         SELECT 'u-1', 'm', '{\"messages\": \"dEaR-dIaRy\"}', now() + interval '1 day' FROM generate_series(1, 50);
         ANALYZE aggregator_jobs",
    )
    .await
    .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let known = "SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND most_common_vals::text LIKE '%dEaR-dIaRy%'";
    assert_eq!(value(&root, known).await.unwrap(), "1");
    root.batch_execute("ALTER EXTENSION aggregator UPDATE")
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let headers = "SELECT headers FROM api_providers WHERE name = 'standin'";
    assert_eq!(value(&root, headers).await.unwrap(), r#"{"X-Title": "t"}"#);
    assert_eq!(value(&root, known).await.unwrap(), "0");
    root.batch_execute("ANALYZE aggregator_jobs").await.unwrap();
    assert_eq!(value(&root, known).await.unwrap(), "0");
    // Nothing else of the rows has changed.
    let jobs = "SELECT count(*) FROM aggregator_jobs WHERE request::text LIKE '%dEaR-dIaRy%'";
    assert_eq!(value(&root, jobs).await.unwrap(), "50");
    ended(&root, &job).await;
    bed::json(&root, &chat_sql("{}")).await;
    // The authenticator that was there is believed as before.
    let user = database.rest("authenticated", Some("u-1")).await;
    assert_eq!(value(&user, "SELECT aggregator_user_id()").await.unwrap(), "u-1");
}

/// Partitions that are there, of months and the default one, lose the index that nobody needs any more and fill
/// their new pages, without a row being written anew; what an administrator has made or set stays.
#[tokio::test]
async fn an_upgrade_makes_partitions_smaller_and_rewrites_no_row() {
    let cluster = cluster("smaller").await;
    let update = scripts().join(format!("aggregator--0.2.0--{CURRENT}.sql"));
    let update = std::fs::read_to_string(update).unwrap();
    let _update = Script::install(&format!("0.2.0smaller--{CURRENT}"), &update);
    let (_, script) = released().into_iter().find(|(version, _)| version == "0.2.0").unwrap();
    let _script = Script::install("0.2.0smaller", &script);
    let (_database, root) = administered(&cluster, "0.2.0smaller").await;
    let months = rows(&root, "SELECT partition FROM aggregator_partitions() ORDER BY since").await;
    let [first, second, third] = &months[..] else { panic!("{months:?}") };
    root.batch_execute(&format!(
        "CREATE INDEX mine ON {first} (provider_id, created_at);
         ALTER TABLE {second} SET (fillfactor = 70);
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status)
         SELECT gen_random_uuid(), 1, at, 1, id, 'u', 'm', 'success'
         FROM api_providers, unnest(ARRAY[now(), now() - interval '90 days']) AS at WHERE name = 'openai'"
    ))
    .await
    .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    let files = "SELECT relname, relfilenode FROM pg_class
        WHERE relname LIKE 'aggregator_usage_logs_%' AND relkind = 'r' ORDER BY 1";
    let before = rows(&root, files).await;
    assert_eq!(before.len(), 4);
    root.batch_execute("ALTER EXTENSION aggregator UPDATE")
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    assert_eq!(rows(&root, files).await, before);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs").await, ["2"]);
    let ours = "fillfactor=95,autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=10000";
    for (partition, storage_of, mine) in [
        ("aggregator_usage_logs_default", ours, 0),
        (first.as_str(), ours, 1),
        (second, "fillfactor=70", 0),
        (third, ours, 0),
    ] {
        let storage = format!(
            "SELECT reloptions,
                (SELECT string_agg(substring(pg_get_indexdef(indexrelid) FROM 'USING (.*)'), ', ' ORDER BY indnatts)
                 FROM pg_index WHERE indrelid = c.oid AND indexrelid::regclass::text <> 'mine'),
                (SELECT count(*) FROM pg_index WHERE indrelid = c.oid AND indexrelid::regclass::text = 'mine')
             FROM pg_class AS c WHERE c.oid = '{partition}'::regclass"
        );
        assert_eq!(
            rows(&root, &storage).await,
            [format!(
                "{{{storage_of}}}|brin (created_at) WITH (autosummarize='on'), btree (user_id, created_at), \
                 btree (call_id, attempt, created_at)|{mine}"
            )],
            "{partition}"
        );
    }
}

/// Objects that a made-up version lacks.
const LATER: [&str; 4] = [
    "FUNCTION usage_dashboard(text, text, text)",
    "FUNCTION usage_by_user(text, text, text)",
    "VIEW aggregator_provider_health",
    "FUNCTION aggregator_user_id()",
];

#[tokio::test]
async fn new_objects_are_granted_to_whom_the_old_ones_are() {
    let cluster = cluster("granted").await;
    let (database, root) = administered(&cluster, CURRENT).await;
    let (_same, same) = administered(&cluster, CURRENT).await;
    // Authenticated has been shut out, and bob been made a mere user.
    const TAKEN: &str = "
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM authenticated;
        REVOKE UPDATE (is_active, priority, settings) ON user_api_providers FROM authenticated;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM authenticated;
        REVOKE USAGE ON TYPE aggregator_admin FROM bob;
        REVOKE EXECUTE ON FUNCTION usage_by_user(text, text, text) FROM bob";
    for client in [&root, &same] {
        client.batch_execute(TAKEN).await.unwrap();
    }
    // The functions and the view as they are, with what belongs to them.
    let mut create = String::from("SET LOCAL check_function_bodies = off;");
    let mut drop = String::new();
    for object in LATER.iter().rev() {
        let (kind, name) = object.split_once(' ').unwrap();
        let (oid, catalog) = match kind {
            "VIEW" => (format!("'{name}'::regclass"), "pg_class"),
            _ => (format!("'{name}'::regprocedure"), "pg_proc"),
        };
        let definition = match kind {
            "VIEW" => format!(
                "SELECT format('CREATE VIEW %s WITH (security_invoker = true) AS %s', {oid}, pg_get_viewdef({oid}))"
            ),
            _ => format!("SELECT pg_get_functiondef({oid}) || ';'"),
        };
        create += &value(&root, &definition).await.unwrap();
        let comments = format!(
            "SELECT format('COMMENT ON %s IS %L;', CASE objsubid WHEN 0 THEN '{object}'
                 ELSE (SELECT format('COLUMN {name}.%I', attname) FROM pg_attribute WHERE attrelid = objoid AND attnum = objsubid) END, description)
             FROM pg_description WHERE classoid = '{catalog}'::regclass AND objoid = {oid}"
        );
        create += &rows(&root, &comments).await.concat();
    }
    // Policies ask for the user's id.
    let policies = rows(
        &root,
        "SELECT format('CREATE POLICY %s ON %s FOR %s USING (%s)%s;', polname, polrelid::regclass,
             CASE polcmd WHEN 'r' THEN 'SELECT' ELSE 'UPDATE' END, pg_get_expr(polqual, polrelid),
             ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
         FROM pg_policy WHERE pg_get_expr(polqual, polrelid) LIKE '%aggregator_user_id()%'",
    )
    .await;
    create += &policies.concat();
    for object in LATER {
        drop += &format!("DROP {object} CASCADE;");
    }
    create += "SELECT aggregator_finish_script()";
    let _scripts = [
        Script::install(&format!("{CURRENT}--0.0.1"), &drop),
        Script::install(&format!("0.0.1--{CURRENT}"), &create),
    ];
    root.batch_execute("ALTER EXTENSION aggregator UPDATE TO '0.0.1'").await.unwrap();
    assert_eq!(failure(&root, "SELECT usage_dashboard('day')").await.0, "42883");
    let deputy = database.user("deputy").await;
    deputy
        .batch_execute("ALTER EXTENSION aggregator UPDATE")
        .await
        .unwrap_or_else(|error| panic!("{}", bed::shown(&error)));
    assert_same("after the update, the extension", &root, &same).await;
    let may = "SELECT string_agg(role, ' ' ORDER BY role) FROM unnest(ARRAY['alice', 'anon', 'authenticated', 'bob', 'service_role']) AS role
               WHERE has_function_privilege(role, 'usage_dashboard(text, text, text)', 'EXECUTE')";
    assert_eq!(value(&root, may).await.unwrap(), "alice bob service_role");
    let (code, message) = failure(&root, "SELECT aggregator_finish_script()").await;
    assert_eq!(code, "PT400", "{message}");
}

#[tokio::test]
async fn the_worker_of_another_version_leaves_its_work_to_the_right_one() {
    let upstream =
        Upstream::start(
            |seen| if seen.body.contains("stall") { Answer::Stall } else { Answer::hello() },
        )
        .await;
    let (database, root) = ready(&upstream).await;
    let _scripts = [
        Script::install(&format!("{CURRENT}--0.0.2"), "SELECT 1"),
        Script::install(&format!("0.0.2--{CURRENT}"), "SELECT aggregator_finish_script()"),
    ];
    let other = database.root().await;
    let update = async {
        upstream.wait_for_chats(1).await;
        other.batch_execute("ALTER EXTENSION aggregator UPDATE TO '0.0.2'").await.unwrap();
    };
    // It would wait two minutes for this answer.
    let sql = chat_sql(r#"{"user": "stall"}"#);
    let ((code, message), ()) = tokio::join!(failure(&root, &sql), update);
    assert_eq!(code, "PT502", "{message}");
    eventually(&other, WORKERS, "0").await;
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT503", "{message}");
    assert!(message.contains("ALTER EXTENSION aggregator UPDATE"), "{message}");
    other.batch_execute("ALTER EXTENSION aggregator UPDATE").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, "SELECT version FROM aggregator_status()").await.unwrap(), CURRENT);
}

#[tokio::test]
async fn an_old_library_says_so() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let _scripts = [
        Script::install(&format!("{CURRENT}--998.0.0"), "SELECT aggregator_finish_script()"),
        Script::install(&format!("{CURRENT}--999.0.0"), "SELECT 1"),
    ];
    let (code, message) = failure(&root, "ALTER EXTENSION aggregator UPDATE TO '998.0.0'").await;
    assert_eq!(code, "PT503", "{message}");
    assert!(message.contains("new session") && message.contains("998.0.0"), "{message}");
    value(&root, &chat_sql("{}")).await.unwrap();
    root.batch_execute("ALTER EXTENSION aggregator UPDATE TO '999.0.0'").await.unwrap();
    eventually(&root, WORKERS, "0").await;
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT503", "{message}");
    assert!(message.contains("restart the server") && message.contains("999.0.0"), "{message}");
}
