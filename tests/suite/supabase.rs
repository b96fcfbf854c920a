//! Databases set up like Supabase projects, with a REST server in front, and scripts on Node that
//! talk to it. The SQL and the scripts are in tests/clients.

use crate::bed::{self, Cluster, Database, PATIENCE, value, var};
use crate::upstream::{Seen, Upstream};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::Client;

const JWT_SECRET: &str = "a secret of tests that has 32 characters";

/// Whether there are real clients; says so where there are none.
pub fn are_there() -> bool {
    let there = !var("AGGREGATOR_NODE").is_empty();
    if !there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI skips nothing");
        skipped("there are no real clients here");
    }
    there
}

/// Says of the test that runs that it has tried nothing, where it is seen whether or not the test passes: on a line of
/// its own, which tools/test.sh counts.
pub fn skipped(why: &str) {
    tell(&format!("\nSKIPPED: {why}\n"));
}

/// Writes where it is seen whether or not the test passes.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

pub fn clients() -> PathBuf {
    Path::new(&var("AGGREGATOR_TREE")).join("tests/clients")
}

async fn run_file(client: &Client, name: &str) {
    let sql = std::fs::read_to_string(clients().join("supabase").join(name)).expect("it is there");
    client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{name}: {}", bed::shown(&e)));
}

/// A cluster with the roles of Supabase, where `postgres` is no superuser.
async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static ROLES: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let cluster = CLUSTER.get_or_init(|| Cluster::start("supabase", ""));
    ROLES
        .get_or_init(async || {
            let client = cluster.connect("postgres", "postgres").await;
            client.batch_execute("CREATE ROLE founder LOGIN SUPERUSER").await.expect("made");
            let client = cluster.connect("founder", "postgres").await;
            let rename = "ALTER ROLE postgres RENAME TO supabase_admin";
            client.batch_execute(rename).await.expect("renamed");
            run_file(&client, "roles.sql").await;
        })
        .await;
    cluster
}

/// How a project holds the extension.
#[derive(Clone, Copy)]
pub struct Setup {
    pub schema: &'static str,
    /// Whether all that is new in public is everybody's.
    pub open_defaults: bool,
}

pub const PUBLIC: Setup = Setup { schema: "public", open_defaults: false };
pub const OPEN: Setup = Setup { schema: "public", open_defaults: true };
pub const OWN_SCHEMA: Setup = Setup { schema: "aggregator", open_defaults: false };

/// A Supabase project with the extension, and its administrator's session.
pub async fn project(setup: Setup) -> (Database<'static>, Client) {
    let (database, root) = new_project(setup).await;
    install(setup, &root).await;
    (database, root)
}

async fn new_project(setup: Setup) -> (Database<'static>, Client) {
    // Supabase has no Citus, and a project's owner could not make it.
    let database = cluster().await.lone_database().await;
    let root = database.user("supabase_admin").await;
    run_file(&root, "project.sql").await;
    if setup.open_defaults {
        run_file(&root, "open_defaults.sql").await;
    }
    (database, root)
}

async fn install(setup: Setup, root: &Client) {
    let schema = setup.schema;
    if schema != "public" {
        root.batch_execute(&format!(
            "CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO anon, authenticated, service_role"
        ))
        .await
        .unwrap();
    }
    root.batch_execute(&format!(
        "CREATE EXTENSION aggregator SCHEMA {schema}; SET search_path = {schema}"
    ))
    .await
    .unwrap();
}

/// A project, its REST server and its provider.
pub struct Rest {
    setup: Setup,
    pub root: Client,
    pub upstream: Upstream,
    server: Child,
    socket: PathBuf,
}

impl Drop for Rest {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Rest {
    /// Starts a project whose provider `standin` is this upstream.
    pub async fn start(setup: Setup, upstream: Upstream) -> Self {
        let (database, root) = new_project(setup).await;
        // An old project's server was there before the extension, and hears of it.
        let server_first = setup.open_defaults;
        if !server_first {
            install(setup, &root).await;
        }
        let (server, socket) = serve(&database, setup.schema);
        let mut rest = Self { setup, root, upstream, server, socket };
        rest.wait_for("/", 200).await;
        if server_first {
            rest.wait_for("/api_providers", 404).await;
            install(setup, &rest.root).await;
        }
        rest.wait_for("/api_providers", 200).await;
        rest.add_providers().await;
        rest
    }

    async fn add_providers(&self) {
        self.root
            .batch_execute(&format!(
                "INSERT INTO api_providers (name, display_name, provider_type, base_url, is_active) VALUES
                     ('standin', 'Stand-in', 'direct', '{0}', true),
                     ('refusing', 'Refuses every key', 'direct', '{0}', true),
                     ('sleeping', 'Not in use', 'direct', '{0}', false);
                 INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
                 SELECT id, 'm', 'm', 'M', '{{\"input\": 2, \"output\": 10}}'
                 FROM api_providers WHERE name = 'standin'",
                self.upstream.base_url()
            ))
            .await
            .unwrap();
    }

    /// Waits until anybody's GET of this path has this status.
    async fn wait_for(&mut self, path: &str, status: u16) {
        let mut last = String::new();
        let given_up = Instant::now() + PATIENCE;
        while Instant::now() < given_up {
            assert!(self.server.try_wait().unwrap().is_none(), "the REST server ends");
            last = get(&self.socket, path).await.unwrap_or_default();
            if last.starts_with(&format!("HTTP/1.1 {status} ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} is never {status}: {last}");
    }

    /// Runs a script. Every check in it has to pass, and none may be missing.
    pub async fn run(&self, script: &str, expected: usize) {
        let command = tokio::process::Command::new(var("AGGREGATOR_NODE"))
            .args(["--test-reporter=tap", script])
            .current_dir(clients())
            .env("PROJECT_REST_SOCKET", &self.socket)
            .env("PROJECT_JWT_SECRET", JWT_SECRET)
            .env("PROJECT_SCHEMA", self.setup.schema)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(4 * PATIENCE, command)
            .await
            .expect("the script ends")
            .expect("Node runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let checks: Vec<_> = text.lines().filter_map(|line| line.split_once(" - ")).collect();
        let passed: Vec<_> = checks.iter().filter(|(head, _)| is_result(head, "ok ")).collect();
        tell(
            &passed
                .iter()
                .map(|(_, name)| format!("    {script} ({}): {name}\n", self.setup.schema))
                .collect::<String>(),
        );
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!checks.iter().any(|(head, _)| is_result(head, "not ok ")), "{text}");
        assert_eq!(passed.len(), expected, "{text}");
    }

    /// Saves a key for a user.
    pub async fn save_key(&self, user: &str, key: &str) {
        value(
            &self.root,
            &format!("SELECT save_provider_key('standin', '{key}', '{user}', false)"),
        )
        .await;
    }

    /// The texts that the provider was asked.
    pub fn asked(&self) -> Vec<String> {
        let last = |seen: &Seen| {
            let messages = seen.json()["messages"].as_array().cloned().unwrap_or_default();
            messages
                .last()
                .map(|m| m["content"].as_str().unwrap_or("").to_owned())
                .unwrap_or_default()
        };
        self.upstream.chats().iter().map(last).collect()
    }
}

/// Starts a REST server for a database; it listens at a socket.
fn serve(database: &Database<'_>, schema: &str) -> (Child, PathBuf) {
    let run = PathBuf::from(var("AGGREGATOR_RUN"));
    let socket = run.join(format!("rest-{}", database.name));
    let log =
        std::fs::File::create(run.join(format!("rest-{}.log", database.name))).expect("a log");
    let dir = database.cluster.dir.display();
    let uri = format!("postgres://authenticator@localhost/{}?host={dir}", database.name);
    // It does not read ALTER ROLE ... SET itself.
    let timeouts =
        r#"{"anon":{"statement_timeout":3000},"authenticated":{"statement_timeout":8000}}"#;
    let server = Command::new(var("AGGREGATOR_POSTRUST"))
        .env_clear()
        .env("PGRST_COMPAT_MODE", "true")
        .env("PGRST_DB_URI", uri)
        .env("PGRST_DB_SCHEMAS", schema)
        .env("PGRST_DB_ANON_ROLE", "anon")
        .env("PGRST_DB_CHANNEL_ENABLED", "true")
        .env("PGRST_JWT_SECRET", JWT_SECRET)
        .env("PGRST_ROLE_SETTINGS", timeouts)
        .env("PGRST_SERVER_UNIX_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the REST server starts");
    (server, socket)
}

/// The answer to a GET, head and body.
async fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: rest\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn is_result(head: &str, kind: &str) -> bool {
    head.strip_prefix(kind).is_some_and(|number| number.parse::<u32>().is_ok())
}

pub const ANN: &str = "11111111-1111-4111-8111-111111111111";
pub const BEN: &str = "22222222-2222-4222-8222-222222222222";
