//! Coordinators of Citus and their workers. With AGGREGATOR_CITUS=1 every database that the bed makes belongs to one,
//! and the months before this one are distributed in it.

use super::{Client, Cluster, Database, as_server, shown, value};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock};

/// What a dump of a distributed database wants to be there.
pub const BEFORE_RESTORE: &str = "DO $$ BEGIN
    IF to_regrole('aggregator_archive') IS NULL THEN CREATE ROLE aggregator_archive LOGIN; END IF;
END $$";
/// Deletes all usage but that of months that are with Citus, where a DELETE that does not name when fails.
pub const DELETE_USAGE: &str =
    "DELETE FROM aggregator_usage_logs WHERE created_at >= aggregator_archived_until()";
const PRELOAD: &str = "shared_preload_libraries = '";

/// Whether each database is to be spread over two workers.
pub fn wanted() -> bool {
    std::env::var("AGGREGATOR_CITUS").is_ok_and(|set| set == "1")
}

/// The configuration of a node, with lines of a test's own. Nodes reach each other by their sockets.
pub fn configuration(dir: &Path, own: &str) -> String {
    let own = match own.contains(PRELOAD) {
        true => preloading(own),
        false => format!("{PRELOAD}citus'\n{own}"),
    };
    // What the maintenance daemon of each database would ask again and again of hundreds of them, no test needs.
    format!(
        "max_connections = 600\nmax_worker_processes = 300\nmax_prepared_transactions = 100\nwal_level = logical\n\
         citus.shard_count = 4\ncitus.local_hostname = '{}'\ncitus.recover_2pc_interval = -1\n\
         citus.distributed_deadlock_detection_factor = -1\n{own}",
        dir.display()
    )
}

/// Lines of a configuration, in which Citus is the first library that is loaded, as it wants to be.
pub fn preloading(lines: &str) -> String {
    match lines.contains(&format!("{PRELOAD}citus")) {
        true => lines.to_owned(),
        false => lines.replacen(PRELOAD, &format!("{PRELOAD}citus,"), 1),
    }
}

/// Makes a database one of a coordinator, without workers yet.
pub async fn coordinate(database: &Database<'_>) {
    let root = database.root().await;
    execute(&root, "CREATE EXTENSION citus").await;
    let address = database.cluster.dir.display();
    value(&root, &format!("SELECT citus_set_coordinator_host('{address}', 5432)")).await;
}

/// Whoever brings roles to the workers, which several coordinators have: two at one time would fail.
static ROLES_THERE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Adds a worker, with a database of that name.
pub async fn add(coordinator: &Client, worker: &Cluster, name: &str) {
    let client = worker.connect("postgres", "postgres").await;
    execute(&client, &format!("CREATE DATABASE {name}")).await;
    execute(&worker.connect("postgres", name).await, "CREATE EXTENSION citus").await;
    let _alone = ROLES_THERE.lock().await;
    let add = format!("SELECT citus_add_node('{}', 5432)", worker.dir.display());
    value(coordinator, &add).await.expect("the node is added");
}

/// The workers of all coordinators: a database there for each of theirs.
static WORKERS: OnceLock<[Cluster; 2]> = OnceLock::new();
/// The databases on them that were not dropped yet, with the folders of their coordinators.
static THERE: Mutex<Vec<(std::path::PathBuf, String)>> = Mutex::new(vec![]);

async fn workers() -> &'static [Cluster; 2] {
    static ROLES: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let workers = WORKERS.get_or_init(|| {
        ["shared-w1", "shared-w2"]
            .map(|name| Cluster::start(name, "fsync = off\nmax_wal_size = 256MB"))
    });
    let roles = async || {
        for worker in workers {
            worker.supabase_roles().await;
        }
    };
    ROLES.get_or_init(roles).await;
    workers
}

/// Remembers that a database is on the workers.
fn note(database: &Database<'_>) {
    let there = (database.cluster.dir.clone(), database.name.clone());
    THERE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(there);
}

/// Spreads a new database over the workers of all.
pub async fn spread(database: &Database<'_>) {
    coordinate(database).await;
    note(database);
    let root = database.root().await;
    for worker in workers().await {
        add(&root, worker, &database.name).await;
    }
    // CREATE EXTENSION would bring its owner to the workers, who is a row of all databases there.
    let _alone = ROLES_THERE.lock().await;
    if is_owner_there(&root).await {
        // With what is theirs; each in a transaction of its own.
        for bring in [
            "CREATE TYPE brought AS ENUM ()",
            "ALTER TYPE brought OWNER TO aggregator_owner",
            "DROP TYPE brought",
        ] {
            execute(&root, bring).await;
        }
    }
}

async fn is_owner_there(root: &Client) -> bool {
    value(root, "SELECT to_regrole('aggregator_owner')").await.is_some()
}

/// Creates the extension, alone where its owner is yet to be made.
pub async fn create_extension(root: &Client) {
    let _alone = match wanted() && !is_owner_there(root).await {
        true => Some(ROLES_THERE.lock().await),
        false => None,
    };
    execute(root, "CREATE EXTENSION aggregator").await;
}

/// Distributes the two months before this one, which are empty.
pub async fn distribute(root: &Client) {
    let _alone = ROLES_THERE.lock().await;
    execute(
        root,
        "SELECT aggregator_make_partition(date_trunc('month', now(), 'UTC') - n * interval '1 month')
         FROM generate_series(1, 2) AS n;
         SELECT * FROM aggregator_distribute()",
    )
    .await;
    let months = "SELECT count(*) > 0 FROM aggregator_archives()";
    assert_eq!(value(root, months).await.as_deref(), Some("t"), "no month is distributed");
}

/// Leaves a coordinator without months that are over, as a new database is, for a test that writes usage of such
/// months, changes usage without saying of when, or counts the months: none of it can be done with what is with Citus.
pub async fn bring_back(root: &Client) {
    if wanted() {
        execute(
            root,
            "SELECT * FROM aggregator_undistribute();
             SELECT aggregator_drop_partition(partition, since, until) FROM aggregator_partitions()
             WHERE until <= now() - interval '24 hours'",
        )
        .await;
    }
}

/// Has what a session makes, changes and drops not carried to the workers, for a test whose objects cannot be there.
pub async fn stay_here(client: &Client) {
    if wanted() {
        execute(client, "SET citus.enable_ddl_propagation = off").await;
    }
}

/// The same for sessions of psql, by their environment: roles of the server that pages name are not on the workers.
pub fn options_to_stay_here() -> &'static str {
    match wanted() {
        true => "-c citus.enable_ddl_propagation=off",
        false => "",
    }
}

/// Keeps everybody out of a database, so that it can be copied: Citus watches each that it is in.
pub async fn close(template: &Database<'_>) {
    for cluster in workers().await.iter().chain([template.cluster]) {
        let client = cluster.connect("postgres", "postgres").await;
        let name = &template.name;
        execute(
            &client,
            &format!(
                "UPDATE pg_database SET datallowconn = false WHERE datname = '{name}';
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            ),
        )
        .await;
    }
}

/// The rest of a copy of a database that is spread: on the workers, and by which name this server asks itself.
pub async fn copied(database: &Database<'_>, template: &str) {
    note(database);
    let name = &database.name;
    for worker in workers().await {
        let client = worker.connect("postgres", "postgres").await;
        execute(&client, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    }
    let server = format!("ALTER SERVER aggregator_archive OPTIONS (SET dbname '{name}')");
    execute(&database.root().await, &server).await;
}

/// Drops databases of a coordinator on the workers: one, or all. Whoever waits for these processes has them gone.
pub fn gone(coordinator: &Path, name: Option<&str>) -> Vec<Child> {
    let mut names = vec![];
    THERE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).retain(|(of, there)| {
        let goes = of == coordinator && name.is_none_or(|name| name == there);
        if goes {
            names.push(there.clone());
        }
        !goes
    });
    let Some(workers) = WORKERS.get().filter(|_| !names.is_empty()) else { return vec![] };
    workers.iter().filter_map(|worker| drop_databases(worker, &names)).collect()
}

/// Starts to drop databases.
pub fn drop_databases(cluster: &Cluster, names: &[String]) -> Option<Child> {
    let mut psql = as_server("timeout");
    psql.arg("60").arg(cluster.bin.join("psql")).arg("-h").arg(&cluster.dir);
    psql.args(["-U", "postgres", "-d", "postgres"]);
    for name in names {
        psql.args(["-c", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")]);
    }
    psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

async fn execute(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", shown(&error)));
}
