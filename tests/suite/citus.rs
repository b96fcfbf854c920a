//! The ledger on several machines: a coordinator of Citus and its workers. `tools/test.sh` leaves these out, and says
//! so, where PostgreSQL has no Citus.

mod ends;
mod gateways;

use crate::bed::{Cluster, Database, eventually, failure, nodes, pg_bin, rows, run, value, var};
use crate::fixtures::{chat_sql, dump_and_restore, prepare};
use crate::upstream::{Answer, Upstream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_postgres::Client;

/// A node, which reaches itself and others by their sockets.
fn node(name: &str) -> Cluster {
    let name = format!("citus-{name}");
    let socket = PathBuf::from(var("AGGREGATOR_RUN")).join(&name);
    let own = "fsync = off";
    match nodes::wanted() {
        true => Cluster::start(&name, own),
        false => Cluster::start(&name, &nodes::configuration(&socket, own)),
    }
}

/// A coordinator, and workers that it reaches by their sockets.
struct Nodes {
    coordinator: Cluster,
    workers: Vec<Cluster>,
    database: String,
}

impl Nodes {
    async fn start(name: &str) -> Self {
        let start = |which: &str| node(&format!("{name}-{which}"));
        let coordinator = start("c");
        let workers = vec![start("w1"), start("w2")];
        coordinator.supabase_roles().await;
        let database = "spread".to_owned();
        let client = coordinator.connect("postgres", "postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let nodes = Self { coordinator, workers, database };
        nodes::coordinate(&nodes.database()).await;
        for worker in &nodes.workers {
            nodes.add(worker).await;
        }
        nodes
    }

    /// With the extension, and with usage of three users: five hundred rows each in two months that are over, none
    /// pending, some without a price.
    async fn filled(name: &str, upstream: &Upstream) -> (Self, Client) {
        let nodes = Self::start(name).await;
        let root = nodes.root().await;
        root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
        prepare(&nodes.database(), upstream).await;
        root.batch_execute(
            &format!("INSERT INTO aggregator_usage_logs (call_id, created_at, epoch, provider_id, attempt, user_id, model_id, status,
                cost_estimate, cost_source, prompt_tokens, completion_tokens, total_tokens, latency_ms, tags)
             SELECT gen_random_uuid(), {OVER} - age + n * interval '40 minutes', 1, p.id, 1,
                'u-' || who, 'm', 'success',
                CASE WHEN n % 10 > 0 THEN 0.001 END, CASE WHEN n % 10 > 0 THEN 'computed' ELSE 'unpriced' END,
                4, 6, 10, 100, ARRAY['team-' || who]
             FROM api_providers AS p, unnest('{{a,b,c}}'::text[]) AS who, generate_series(1, 500) AS n,
                unnest('{{60 days,25 days}}'::interval[]) AS age
             WHERE p.name = 'standin'"),
        )
        .await
        .unwrap();
        (nodes, root)
    }

    fn database(&self) -> Database<'_> {
        Database { cluster: &self.coordinator, name: self.database.clone() }
    }

    async fn root(&self) -> Client {
        self.coordinator.connect("postgres", &self.database).await
    }

    async fn add(&self, worker: &Cluster) {
        worker.supabase_roles().await;
        nodes::add(&self.root().await, worker, &self.database).await;
    }
}

/// Up to when usage is over: the beginning of this month, and on its first day, of the one before.
const OVER: &str = "date_trunc('month', now() - interval '24 hours', 'UTC')";
const LEDGER: &str = "SELECT count(*), md5(string_agg(log::text, ',' ORDER BY log.call_id)) FROM aggregator_usage_logs AS log";
const SUMS: &str = "
    SELECT (SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) FROM aggregator_usage_hourly AS s),
        (SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) FROM aggregator_usage_totals AS s),
        (SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) FROM aggregator_usage_labels AS s)";
/// What the ledger has and what the sums have: requests, requests without a price, USD, of each user.
const BOTH: &str = "
    SELECT log.user_id, log.requests = sums.requests AND log.unpriced = sums.unpriced AND log.cost = sums.cost AND log.tagged = sums.tagged
    FROM (SELECT user_id, count(*) AS requests, count(*) FILTER (WHERE cost_estimate IS NULL) AS unpriced, sum(cost_estimate) AS cost,
            count(tags) AS tagged
          FROM aggregator_usage_logs GROUP BY 1) AS log
    FULL JOIN (SELECT user_id, sum(requests) AS requests, sum(unpriced) AS unpriced, sum(cost) AS cost,
            (SELECT coalesce(sum(l.requests), 0) FROM aggregator_usage_labels AS l WHERE l.user_id = h.user_id) AS tagged
          FROM aggregator_usage_hourly AS h GROUP BY 1 HAVING sum(requests) > 0) AS sums USING (user_id)
    ORDER BY 1";
const MOVED: &str = "SELECT action, sum(moved_rows) FROM aggregator_distribute() GROUP BY 1";

#[tokio::test]
async fn the_extension_goes_to_the_workers_and_postgrest_is_told() {
    let nodes = Nodes::start("create").await;
    let database = nodes.database();
    let (root, heard) = database.listener().await;
    let installed = async || {
        let mut found = vec![];
        for worker in &nodes.workers {
            let client = worker.connect("postgres", &nodes.database).await;
            let count = "SELECT count(*) FROM pg_extension WHERE extname = 'aggregator'";
            found.push(value(&client, count).await.unwrap());
        }
        found
    };
    root.batch_execute("LISTEN pgrst; CREATE EXTENSION aggregator").await.unwrap();
    assert_eq!(installed().await, ["1", "1"]);
    root.batch_execute("ALTER EXTENSION aggregator UPDATE").await.unwrap();
    // A node that comes later has it too.
    let third = node("create-w3");
    nodes.add(&third).await;
    let client = third.connect("postgres", &nodes.database).await;
    assert_eq!(
        rows(&client, "SELECT extname FROM pg_extension WHERE extname = 'aggregator'").await,
        ["aggregator"]
    );
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    assert_eq!(installed().await, ["0", "0"]);
    root.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(*heard.lock().unwrap(), ["pgrst reload schema"; 3]);
}

#[tokio::test]
async fn months_that_are_over_go_to_citus_and_come_back() {
    let upstream = Upstream::start(|seen| match seen.body.contains("be slow") {
        true => Answer::late(600_000, Answer::hello()),
        false => Answer::hello(),
    })
    .await;
    let (nodes, root) = Nodes::filled("move", &upstream).await;
    let before = (rows(&root, LEDGER).await, rows(&root, SUMS).await);
    let months = format!(
        "SELECT count(DISTINCT date_trunc('month', created_at, 'UTC')) FROM aggregator_usage_logs WHERE created_at < {OVER}"
    );
    let months = months.as_str();
    let over = value(&root, months).await.unwrap();
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    assert_eq!((rows(&root, LEDGER).await, rows(&root, SUMS).await), before);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_archives()").await.unwrap(), over);
    assert_eq!(
        rows(&root, "SELECT DISTINCT distribution_column FROM citus_tables").await,
        ["user_id"]
    );
    assert_eq!(rows(&root, MOVED).await, Vec::<String>::new());

    // By a snapshot from before the locks what was committed in between would be lost.
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for function in ["aggregator_distribute", "aggregator_undistribute"] {
            let sql = format!("BEGIN ISOLATION LEVEL {level}; SELECT * FROM {function}()");
            let (code, message) = failure(&root, &sql).await;
            root.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(code, "PT409", "{sql}");
            assert!(message.contains("READ COMMITTED"), "{message}");
        }
    }

    // What is on its way when the server dies, the next worker closes; without a word to Citus.
    let slow = chat_sql(r#"{"user": "be slow"}"#);
    let call = root.simple_query(&slow);
    let crash = async {
        upstream.wait_for_chats(1).await;
        nodes.coordinator.down("immediate");
    };
    assert!(tokio::join!(call, crash).0.is_err());
    for worker in &nodes.workers {
        worker.down("immediate");
    }
    nodes.coordinator.up();
    let root = nodes.coordinator.again(&nodes.database).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    let latest = "SELECT string_agg(status, ' ' ORDER BY created_at) FROM aggregator_usage_logs WHERE created_at > now() - interval '1 hour'";
    eventually(&root, latest, "unknown success").await;
    for worker in &nodes.workers {
        worker.up();
    }
    let reports = "SELECT requests, (SELECT count(DISTINCT user_id) FROM aggregator_usage_by_hour),
        (SELECT count(DISTINCT user_id) FROM aggregator_usage) FROM usage_summary('day')";
    assert_eq!(rows(&root, reports).await, ["2|4|4"]);
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));

    // Another cost, for rows that are with Citus, and for one of a month before those that is here: it came later.
    root.batch_execute(&format!(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
            cost_source, prompt_tokens, completion_tokens, total_tokens)
         SELECT gen_random_uuid(), 1, {OVER} - interval '400 days', 1, id, 'u-b', 'm', 'success', 'unpriced', 4, 6, 10
         FROM api_providers WHERE name = 'standin'"
    ))
    .await
    .unwrap();
    let recosted = "SELECT count(*), trim_scale(sum(new_cost)) FROM recost_usage(now() - interval '500 days', now())";
    assert_eq!(rows(&root, recosted).await, ["301|0.020468"]);
    assert_eq!(rows(&root, recosted).await, ["0|∅"]);
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));

    // A user is forgotten, there too.
    assert_eq!(value(&root, "SELECT forget_user('u-b')").await.unwrap(), "1001");
    let users = "SELECT DISTINCT left(user_id, 10), count(tags) > 0 FROM aggregator_usage_logs GROUP BY user_id ORDER BY 1";
    assert_eq!(rows(&root, users).await, ["forgotten:|f", "role:postg|f", "u-a|t", "u-c|t"]);
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));
    for worker in &nodes.workers {
        let client = worker.connect("postgres", &nodes.database).await;
        // Of shards no node but their own makes statistics.
        client.batch_execute("SET citus.override_table_visibility = off").await.unwrap();
        let shards = "SELECT oid::regclass FROM pg_class
            WHERE relnamespace = 'aggregator_archive'::regnamespace AND relkind = 'r' AND relname ~ '_[0-9]{6,}$'";
        for shard in rows(&client, shards).await {
            client.batch_execute(&format!("ANALYZE {shard}")).await.unwrap();
        }
        let known = "SELECT count(*) FILTER (WHERE attname IN ('user_id', 'tags')), count(*) FILTER (WHERE attname = 'created_at') > 0
            FROM pg_stats WHERE schemaname = 'aggregator_archive'";
        assert_eq!(rows(&client, known).await, ["0|t"]);
    }

    // The way back, with all that was changed.
    let before = (rows(&root, LEDGER).await, rows(&root, SUMS).await);
    let back = "SELECT action, sum(moved_rows) FROM aggregator_undistribute() GROUP BY 1";
    assert_eq!(rows(&root, back).await, ["here again|3000"]);
    assert_eq!((rows(&root, LEDGER).await, rows(&root, SUMS).await), before);
    assert_eq!(rows(&root, "SELECT table_name FROM citus_tables").await, Vec::<String>::new());
    assert_eq!(rows(&root, back).await, Vec::<String>::new());
    assert_eq!(value(&root, "SELECT forget_user('u-c')").await.unwrap(), "1000");
    assert_eq!(rows(&root, MOVED).await, ["distributed|3001"]);
}

#[tokio::test]
async fn each_sees_what_is_theirs_and_nobody_gets_past_the_ledger() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("rls", &upstream).await;
    root.batch_execute(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, authenticated;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, authenticated",
    )
    .await
    .unwrap();
    // Somebody has a server by that name, to which the months would be asked.
    root.batch_execute(
        "CREATE EXTENSION postgres_fdw;
         SET citus.enable_ddl_propagation = off;
         GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO alice;
         CREATE SERVER aggregator_archive FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h', port '1', dbname 'd');
         ALTER SERVER aggregator_archive OWNER TO alice",
    )
    .await
    .unwrap();
    let (code, message) = failure(&root, MOVED).await;
    assert_eq!(code, "PT409");
    assert!(message.contains("belongs to alice"), "{message}");
    root.batch_execute(
        "DROP SERVER aggregator_archive;
         REVOKE USAGE ON FOREIGN DATA WRAPPER postgres_fdw FROM alice;
         RESET citus.enable_ddl_propagation",
    )
    .await
    .unwrap();
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    // Another mapping; and without any, the one that is needed comes back.
    let mapping = "USER MAPPING FOR PUBLIC SERVER aggregator_archive";
    root.batch_execute(&format!("ALTER {mapping} OPTIONS (SET user 'alice')")).await.unwrap();
    let (code, message) = failure(&root, MOVED).await;
    assert_eq!(code, "PT409");
    assert!(message.contains("user mapping for PUBLIC"), "{message}");
    root.batch_execute(&format!("DROP {mapping}")).await.unwrap();
    assert_eq!(rows(&root, MOVED).await, Vec::<String>::new());
    // Whoever may become the owner is told of.
    for (change, is_told) in
        [("GRANT aggregator_archive TO", true), ("REVOKE aggregator_archive FROM", false)]
    {
        root.batch_execute(&format!("{change} alice")).await.unwrap();
        let mut psql = Command::new(pg_bin("psql"));
        psql.args(["-h", nodes.coordinator.dir.to_str().unwrap(), "-U", "postgres", "-X", "-d"]);
        psql.args([&nodes.database, "-c", "SELECT * FROM aggregator_distribute()"]);
        let told = String::from_utf8_lossy(&run(&mut psql).stderr).into_owned();
        let warning = "WARNING:  members of aggregator_archive own everybody's usage that is with Citus: alice";
        assert_eq!(told.contains(warning), is_told, "{told}");
    }
    root.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated, alice; SELECT aggregator_grant('alice', 'user')")
        .await
        .unwrap();
    let database = nodes.database();
    let count = "SELECT count(*), count(DISTINCT user_id), min(user_id) FROM aggregator_usage_logs";
    let a = database.rest("authenticated", Some("u-a")).await;
    assert_eq!(rows(&a, count).await, ["1000|1|u-a"]);
    assert_eq!(
        rows(&a, "SELECT count(*) FROM aggregator_usage WHERE user_id <> 'u-a'").await,
        ["0"]
    );
    // A condition that would tell of each row that it is asked about is asked about one's own alone.
    a.batch_execute(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
        $$ BEGIN IF $1 <> 'u-a' THEN RAISE 'leaked %', $1; END IF; RETURN true; END $$",
    )
    .await
    .unwrap();
    assert_eq!(
        rows(&a, "SELECT count(*) FROM aggregator_usage_logs WHERE pg_temp.leak(user_id)").await,
        ["1000"]
    );
    assert_eq!(rows(&database.rest("authenticated", Some("u-z")).await, count).await, ["0|0|∅"]);
    assert_eq!(rows(&database.rest("service_role", Some("s")).await, count).await, ["3000|3|u-a"]);

    let month =
        "SELECT to_char(since AT TIME ZONE 'UTC', 'YYYY_MM') FROM aggregator_archives() LIMIT 1";
    let month = value(&root, month).await.unwrap();
    let [ledger, table] =
        ["ledger", "usage"].map(|kind| format!("aggregator_archive.{kind}_{month}"));
    let alice = database.user("alice").await;
    for client in [&a, &alice] {
        for sql in [
            format!("SELECT * FROM {ledger}"),
            format!("SELECT * FROM {table}"),
            format!("DELETE FROM {ledger}"),
            format!("TRUNCATE {ledger}"),
            format!("INSERT INTO {table} SELECT * FROM aggregator_usage_logs"),
            "CREATE FOREIGN TABLE pg_temp.mine (user_id text) SERVER aggregator_archive".to_owned(),
            "CREATE USER MAPPING FOR CURRENT_USER SERVER aggregator_archive".to_owned(),
        ] {
            assert_eq!(failure(client, &sql).await.0, "42501", "{sql}");
        }
        for function in ["aggregator_distribute", "aggregator_undistribute"] {
            assert_eq!(failure(client, &format!("SELECT {function}()")).await.0, "42501");
        }
    }
    root.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO alice").await.unwrap();
    for function in ["aggregator_distribute", "aggregator_undistribute"] {
        assert_eq!(failure(&alice, &format!("SELECT {function}()")).await.0, "PT403");
    }
    // On the workers: what is there by its name, and the shards by theirs, also through the coordinator.
    let shards = "SELECT result FROM run_command_on_shards($$TABLE$$, 'SELECT count(*) FROM %s')";
    assert_ne!(failure(&alice, &shards.replace("TABLE", &table)).await.0, "");
    let everywhere = format!(
        "SELECT DISTINCT success FROM run_command_on_workers($$SELECT count(*) FROM {table}$$)"
    );
    assert_eq!(rows(&alice, &everywhere).await, ["f"]);
    let mut seen = 0;
    for worker in &nodes.workers {
        let by_root = worker.connect("postgres", &nodes.database).await;
        let shards = rows(
            &by_root,
            "SET citus.override_table_visibility = off;
             SELECT c.oid::regclass FROM pg_class AS c
             WHERE c.relnamespace = 'aggregator_archive'::regnamespace AND c.relkind = 'r'",
        )
        .await;
        let client = worker.connect("alice", &nodes.database).await;
        for shard in shards.iter().chain([&table]) {
            assert_eq!(
                failure(&client, &format!("SELECT * FROM {shard}")).await.0,
                "42501",
                "{shard}"
            );
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen}");
}

#[tokio::test]
async fn a_node_comes_and_shards_move_while_everybody_works() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("grow", &upstream).await;
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    let third = node("grow-w3");
    let is_over = AtomicBool::new(false);
    let (caller, reader) =
        (nodes.root().await, nodes.database().rest("authenticated", Some("u-a")).await);
    let calls = async {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) || count == 0 {
            value(&caller, &chat_sql("{}")).await.unwrap();
            count += 1;
        }
        count
    };
    let reads = async {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) || count == 0 {
            let found = "SELECT count(*) FROM aggregator_usage_logs";
            assert_eq!(value(&reader, found).await.unwrap(), "1000");
            count += 1;
        }
        count
    };
    let grows = async {
        nodes.add(&third).await;
        value(&root, "SELECT rebalance_table_shards()").await;
        is_over.store(true, Ordering::Relaxed);
    };
    let (calls, reads, ()) = tokio::join!(calls, reads, grows);
    let there = "SELECT count(*) > 0 FROM pg_dist_shard_placement WHERE nodename LIKE '%-w3'";
    assert_eq!(value(&root, there).await.unwrap(), "t");
    assert!(reads > 0);
    assert_eq!(upstream.chat_count(), calls);
    let called = "SELECT count(*) FROM aggregator_usage_logs WHERE user_id = 'role:postgres' AND status = 'success'";
    assert_eq!(value(&root, called).await.unwrap(), calls.to_string());
    assert!(rows(&root, BOTH).await.iter().all(|row| row.ends_with("|t")));
}

#[tokio::test]
async fn a_dump_has_the_months_that_are_with_citus() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (nodes, root) = Nodes::filled("dump", &upstream).await;
    assert_eq!(rows(&root, MOVED).await, ["distributed|3000"]);
    let before = (rows(&root, LEDGER).await, rows(&root, SUMS).await);
    let other = node("dump-to");
    other.supabase_roles().await;
    let roles = format!("CREATE ROLE aggregator_archive LOGIN; CREATE DATABASE {}", nodes.database);
    for statement in roles.split("; ") {
        other.connect("postgres", "postgres").await.batch_execute(statement).await.unwrap();
    }
    dump_and_restore(&nodes.coordinator, &other, &nodes.database);
    let new = other.connect("postgres", &nodes.database).await;
    // Until then it would ask the old server.
    nodes.coordinator.down("immediate");
    let back = "SELECT action, sum(moved_rows) FROM aggregator_undistribute() GROUP BY 1";
    assert_eq!(rows(&new, back).await, ["here again|3000"]);
    assert_eq!((rows(&new, LEDGER).await, rows(&new, SUMS).await), before);
}
