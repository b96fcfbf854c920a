//! What many tests begin with: providers, keys, chats, jobs, the worker.

use super::bed::{self, Cluster, Database, PATIENCE, nodes, quoted, rows, value};
use super::upstream::{Answer, Upstream};
use super::wire::Wire;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

pub const HELLO: &str = r#"[{"role":"user","content":"hi"}]"#;

/// Makes the upstream a provider called `standin`, with prices for model `m`.
pub async fn add_provider(root: &Client, upstream: &Upstream) {
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, api_standard, base_url)
         VALUES ('standin', 'Stand-in', 'direct', 'openai', '{}');
         INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, 'm', 'm', 'M', '{{\"input\": 2, \"output\": 10}}' FROM api_providers WHERE name = 'standin'",
        upstream.base_url()
    ))
    .await
    .expect("the provider is added");
}

/// Makes a provider with these models, all at the same price. Its list is not fetched.
pub async fn add_named(root: &Client, name: &str, standard: &str, base_url: &str, models: &[&str]) {
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, api_standard, base_url, last_synced_at)
         VALUES ('{name}', '{name}', 'direct', '{standard}', '{base_url}', now())"
    ))
    .await
    .expect("the provider is added");
    for model in models {
        root.batch_execute(&format!(
            "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
             SELECT id, '{model}', '{model}', '{model}', '{{\"input\": 2, \"output\": 10}}'
             FROM api_providers WHERE name = '{name}'"
        ))
        .await
        .expect("the model is added");
    }
}

/// Saves a key for the session's own user.
pub async fn save_key(client: &Client, provider: &str, key: &str) {
    let sql = format!("SELECT save_provider_key('{provider}', '{key}', p_validate => false)");
    value(client, &sql).await;
}

/// Makes the provider `standin` in a database, with a key for the superuser's own user id.
pub async fn prepare(database: &Database<'_>, upstream: &Upstream) -> Client {
    let root = database.root().await;
    add_provider(&root, upstream).await;
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    root
}

/// A database, the provider `standin`, and a key for the superuser's own user id.
pub async fn ready(upstream: &Upstream) -> (Database<'static>, Client) {
    let database = bed::database().await;
    let root = prepare(&database, upstream).await;
    (database, root)
}

/// A session of an end user, who has a key of their own for `standin`.
pub async fn user(database: &Database<'_>, name: &str) -> Client {
    let client = database.rest("authenticated", Some(name)).await;
    save_key(&client, "standin", &format!("sk-good-{name}-0123456789")).await;
    client
}

pub fn chat_sql(options: &str) -> String {
    format!("SELECT chat_complete('m', '{HELLO}', {})", quoted(options))
}

/// The form that streams: delta, response, usage, cost.
pub fn stream_sql(options: &str) -> String {
    format!(
        "SELECT (t).delta, (t).response, (t).usage, (t).cost FROM (SELECT chat_stream('m', '{HELLO}', {}) AS t) s",
        quoted(options)
    )
}

/// A database with an upstream that gives this answer, and a client that sees rows arrive.
pub async fn streaming(
    answer: Answer,
) -> (Upstream, Database<'static>, tokio_postgres::Client, Wire) {
    let upstream = Upstream::start(move |_| answer.clone()).await;
    let (database, root) = ready(&upstream).await;
    let wire = Wire::connect(&database).await;
    (upstream, database, root, wire)
}

pub const AT_ONCE: Duration = Duration::ZERO;

/// Submits a job; `rest` are further arguments.
pub async fn submit(client: &Client, options: &str, rest: &str) -> String {
    value(client, &submit_sql(options, rest)).await.expect("a job has an id")
}

pub fn submit_sql(options: &str, rest: &str) -> String {
    format!("SELECT chat_submit('m', '{HELLO}', {}{rest})", quoted(options))
}

/// A hundred calls on each of ten sessions at once, of 50 tokens at the most: how many passed. A budget has refused all
/// others.
pub async fn a_thousand_calls(clients: Vec<Client>) -> usize {
    let mut sessions = tokio::task::JoinSet::new();
    for client in clients {
        sessions.spawn(async move {
            let sql = format!(
                "SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE error ->> 'sqlstate' = 'PT402'), count(*)
                 FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'max_tokens', 50, 'messages', {}::jsonb))
                    FROM generate_series(1, 100)), '{{}}', 100)",
                quoted(HELLO)
            );
            let counted = rows(&client, &sql).await.concat();
            let counts: Vec<usize> = counted.split('|').map(|n| n.parse().unwrap()).collect();
            (counts[0], counts[1], counts[2])
        });
    }
    let results = sessions.join_all().await;
    let (ok, refused, all) = results
        .into_iter()
        .fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    assert_eq!(all, 1000);
    assert_eq!(ok + refused, 1000, "whatever was not paid for was refused");
    ok
}

/// Waits for a job: status, text and attempts.
pub async fn ended(client: &Client, id: &str) -> String {
    let sql = format!("SELECT status, content, attempts FROM chat_wait('{id}', 60000)");
    rows(client, &sql).await.concat()
}

pub const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";

pub const WORKER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()";

/// Kills the worker once it is there, which restarts the whole server, and waits for that.
pub async fn kill_worker(cluster: &Cluster, database: &str, client: Client) -> Client {
    let given_up = Instant::now() + PATIENCE;
    let pid = loop {
        if let Some(pid) = value(&client, WORKER).await {
            break pid;
        }
        assert!(Instant::now() < given_up, "there is no worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    bed::run(bed::as_server("kill").args(["-9", &pid]));
    // The server has noticed when it has ended our session.
    while client.simple_query("SELECT 1").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.again(database).await
}

pub fn dump_and_restore(from: &Cluster, to: &Cluster, database: &str) {
    restore(&dump(from, database), to, database);
}

/// The dump that this version's pg_dump makes, whichever version the cluster is.
pub fn dump(cluster: &Cluster, database: &str) -> PathBuf {
    let file = cluster.dir.join(format!("{database}.sql"));
    bed::run(
        bed::as_server(bed::pg_bin("pg_dump"))
            .args(["-h", cluster.dir.to_str().unwrap(), "-U", "postgres", "-d", database, "-f"])
            .arg(&file),
    );
    // Some builds of PostgreSQL stamp every column with when it was made, which no other version knows.
    let stamps = r"/ ALTER COLUMN .* SET \(pg_attver=[0-9]+\);$/d";
    bed::run(bed::as_server("sed").args(["-i", "-E", stamps]).arg(&file));
    file
}

/// As SCALING.md says where months are with Citus: the role before, and the way back after.
pub fn restore(file: &Path, cluster: &Cluster, database: &str) {
    let mut psql = bed::as_server(bed::pg_bin("psql"));
    psql.args(["-h", cluster.dir.to_str().unwrap(), "-U", "postgres", "-d", database]);
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
    if nodes::wanted() {
        psql.args(["-c", nodes::BEFORE_RESTORE]);
    }
    psql.arg("-f").arg(file);
    if nodes::wanted() {
        psql.args(["-c", "RESET search_path", "-c", "SELECT * FROM aggregator_undistribute()"]);
    }
    bed::run(psql.stdout(std::process::Stdio::piped()));
}
