//! Throw-away clusters with the extension installed, driven over real connections.
//!
//! `tools/test.sh` says where PostgreSQL is and as whom it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

/// How long what must happen is waited for: so long that a machine with other work on it is no reason to fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[path = "nodes.rs"]
pub mod nodes;

pub fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// A file or folder of the repository.
pub fn tree(name: &str) -> PathBuf {
    Path::new(&var("AGGREGATOR_TREE")).join(name)
}

/// A command as the user under whom the server runs.
pub fn as_server(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let user = var("AGGREGATOR_SERVER_USER");
    let mut command;
    if std::env::var("USER").is_ok_and(|me| me == user) || var("AGGREGATOR_AS_ROOT") != "1" {
        command = Command::new(program);
    } else {
        command = Command::new("runuser");
        command.args(["-u", &user, "--"]).arg(program);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

pub fn pg_bin(program: &str) -> PathBuf {
    Path::new(&var("AGGREGATOR_PG_BIN")).join(program)
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the command starts");
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A cluster of its own, gone when dropped.
pub struct Cluster {
    pub dir: PathBuf,
    /// The programs of its PostgreSQL.
    pub bin: PathBuf,
}

/// What initdb makes, once in this process for each PostgreSQL: copying it takes a tenth of the time.
fn new_cluster(bin: &Path) -> PathBuf {
    static NEW: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);
    let mut made = NEW.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let name = bin.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let new = PathBuf::from(var("AGGREGATOR_RUN")).join(format!("new{}{name}", std::process::id()));
    if !made.contains(&new) {
        run(as_server(bin.join("initdb")).arg("-D").arg(&new).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
            "--no-sync",
        ]));
        made.push(new.clone());
    }
    new
}

impl Cluster {
    /// Makes and starts a cluster with these lines added to its configuration.
    pub fn start(name: &str, configuration: &str) -> Self {
        let cluster = Self::make(name, configuration);
        cluster.up();
        cluster
    }

    /// Makes a cluster without starting it.
    pub fn make(name: &str, configuration: &str) -> Self {
        Self::make_of(pg_bin(""), name, configuration)
    }

    /// Makes a cluster of the PostgreSQL whose programs are in `bin`. It flushes nothing, which may take seconds: what
    /// the tests kill is PostgreSQL, never the machine.
    pub fn make_of(bin: PathBuf, name: &str, configuration: &str) -> Self {
        let dir = PathBuf::from(var("AGGREGATOR_RUN")).join(name);
        run(as_server("mkdir").arg("-p").arg(&dir));
        let cluster = Self { dir, bin };
        let new = new_cluster(&cluster.bin);
        run(as_server("cp").args(["-a", "--reflink=auto"]).arg(new).arg(cluster.data()));
        let spread = match nodes::wanted() {
            true => nodes::configuration(&cluster.dir, configuration),
            false => configuration.to_owned(),
        };
        cluster.configure(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nmax_connections = 300\n\
             max_worker_processes = 150\naggregator.allow_private_networks = on\nfsync = off\n\
             log_line_prefix = '%m [%p] %d '\nshared_buffers = 64MB\njit = off\n{spread}\n",
            cluster.dir.display()
        ));
        cluster
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Adds lines to the configuration.
    pub fn configure(&self, lines: &str) {
        let lines = match nodes::wanted() {
            true => nodes::preloading(lines),
            false => lines.to_owned(),
        };
        let file = self.data().join("postgresql.conf");
        run(as_server("sh")
            .args(["-c", "printf '%s\\n' \"$1\" >> \"$2\"", "sh", &lines])
            .arg(file));
    }

    pub fn up(&self) {
        self.up_with(&[]);
    }

    /// Starts the server with environment variables.
    pub fn up_with(&self, environment: &[(&str, &str)]) {
        let mut command = as_server("env");
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(self.bin.join("pg_ctl")).arg("-D").arg(self.data());
        command.arg("-l").arg(self.dir.join("log")).args(["-w", "-t", "180", "start"]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("pg_ctl runs").success(), "{}", self.log());
    }

    pub fn down(&self, mode: &str) {
        let _ = as_server(self.bin.join("pg_ctl"))
            .arg("-D")
            .arg(self.data())
            .args(["-w", "-t", "180", "-m", mode, "stop"])
            .output();
    }

    pub fn reload(&self) {
        run(as_server(self.bin.join("pg_ctl")).arg("-D").arg(self.data()).arg("reload"));
    }

    pub fn log(&self) -> String {
        let output = run(as_server("cat").arg(self.dir.join("log")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the server, which is restarting, answers a superuser.
    pub async fn again(&self, database: &str) -> Client {
        let given_up = Instant::now() + PATIENCE;
        while Instant::now() < given_up {
            if let Ok(client) = self.try_connect("postgres", database).await
                && client.simple_query("SELECT 1").await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not come back: {}", self.log());
    }

    pub async fn connect(&self, user: &str, database: &str) -> Client {
        self.try_connect(user, database).await.expect("the server answers")
    }

    pub async fn try_connect(
        &self,
        user: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.dir)
            .user(user)
            .dbname(database)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The roles of Supabase.
    pub async fn supabase_roles(&self) {
        let client = self.connect("postgres", "postgres").await;
        client
            .batch_execute(
                "CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN;
                 CREATE ROLE service_role NOLOGIN BYPASSRLS;
                 CREATE ROLE authenticator LOGIN NOINHERIT;
                 GRANT anon, authenticated, service_role TO authenticator;
                 CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;",
            )
            .await
            .expect("the roles are made");
    }

    /// A database with the extension, dropped with the cluster.
    pub async fn database(&self) -> Database<'_> {
        let database = self.empty_database().await;
        let root = database.root().await;
        nodes::create_extension(&root).await;
        if nodes::wanted() {
            nodes::distribute(&root).await;
        }
        database
    }

    pub async fn empty_database(&self) -> Database<'_> {
        let database = self.lone_database().await;
        if nodes::wanted() {
            nodes::spread(&database).await;
        }
        database
    }

    /// An empty database that is no coordinator's in any case.
    pub async fn lone_database(&self) -> Database<'_> {
        self.database_like(None).await
    }

    /// A database with the extension, copied from one that is made for the first: creating the extension takes longer.
    pub async fn copy<'a>(&'a self, template: &Template<'a>) -> Database<'a> {
        let make = async || {
            let template = self.database().await;
            if nodes::wanted() {
                nodes::close(&template).await;
            }
            template
        };
        let template = template.get_or_init(make).await;
        let database = self.database_like(Some(template)).await;
        if nodes::wanted() {
            nodes::copied(&database, &template.name).await;
        }
        database
    }

    async fn database_like(&self, template: Option<&Database<'_>>) -> Database<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.connect("postgres", "postgres").await;
        let template = template.map_or("template1", |template| template.name.as_str());
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        client.batch_execute(&create).await.expect("created");
        Database { cluster: self, name }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.down("immediate");
        for mut dropping in nodes::gone(&self.dir, None) {
            let _ = dropping.wait();
        }
        // Hundreds of clusters of a run would take a disk of their own.
        let _ = as_server("rm").arg("-rf").arg(&self.dir).status();
    }
}

/// From which databases of a cluster are copied.
pub type Template<'a> = tokio::sync::OnceCell<Database<'a>>;

const SHARED: &str = "shared";

/// The cluster that the tests of HTTP share.
pub const FRONT: &str = "front";

/// Those that many tests share.
const LASTING: [&str; 2] = [SHARED, FRONT];

/// The cluster that most tests share, each with a database of its own.
pub async fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static ROLES: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    // Its databases are gone before anybody would vacuum them.
    let cluster =
        CLUSTER.get_or_init(|| Cluster::start(SHARED, "max_wal_size = 256MB\nautovacuum = off"));
    ROLES.get_or_init(|| cluster.supabase_roles()).await;
    cluster
}

/// A database with the extension on the shared cluster.
pub async fn database() -> Database<'static> {
    static TEMPLATE: Template = Template::const_new();
    shared().await.copy(&TEMPLATE).await
}

pub struct Database<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Drop for Database<'_> {
    /// Or the databases of all tests would be there at one time, with their workers, which all read each change of the
    /// configuration. Those of other clusters go with them.
    fn drop(&mut self) {
        let is_shared = LASTING.iter().any(|name| self.cluster.dir.ends_with(name));
        if !is_shared || std::thread::panicking() {
            return;
        }
        let mut dropping = nodes::gone(&self.cluster.dir, Some(&self.name));
        dropping.extend(nodes::drop_databases(self.cluster, std::slice::from_ref(&self.name)));
        for mut dropping in dropping {
            let _ = dropping.wait();
        }
    }
}

impl Database<'_> {
    pub async fn root(&self) -> Client {
        self.user("postgres").await
    }

    pub async fn user(&self, role: &str) -> Client {
        self.cluster.connect(role, &self.name).await
    }

    /// What cancels this session's statement.
    pub async fn canceller(&self, client: &Client) -> Canceller {
        let pid = value(client, "SELECT pg_backend_pid()").await.expect("a session has a process");
        Canceller { root: self.root().await, pid }
    }

    /// A superuser's session, and the notifications that it hears, as `channel payload`.
    pub async fn listener(&self) -> (Client, Arc<Mutex<Vec<String>>>) {
        let (client, mut connection) = tokio_postgres::Config::new()
            .host_path(&self.cluster.dir)
            .user("postgres")
            .dbname(&self.name)
            .connect(NoTls)
            .await
            .expect("the server answers");
        let heard = Arc::new(Mutex::new(vec![]));
        let hearing = heard.clone();
        tokio::spawn(async move {
            let mut next = async || std::future::poll_fn(|cx| connection.poll_message(cx)).await;
            while let Some(Ok(message)) = next().await {
                if let AsyncMessage::Notification(n) = message {
                    hearing.lock().unwrap().push(format!("{} {}", n.channel(), n.payload()));
                }
            }
        });
        (client, heard)
    }

    /// A session as PostgREST makes them: the authenticator, switched to `role` with the claims
    /// of `sub`.
    pub async fn rest(&self, role: &str, sub: Option<&str>) -> Client {
        let client = self.user("authenticator").await;
        let claims = match sub {
            Some(sub) => serde_json::json!({"sub": sub, "role": role}),
            None => serde_json::json!({"role": role}),
        };
        client
            .batch_execute(&format!("SET ROLE {role}; SET request.jwt.claims = '{claims}'"))
            .await
            .expect("the role is taken");
        client
    }
}

/// What a listener has heard, once that is so many lines.
pub async fn heard(lines: &Mutex<Vec<String>>, count: usize) -> Vec<String> {
    let given_up = Instant::now() + PATIENCE;
    while lines.lock().unwrap().len() < count && Instant::now() < given_up {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lines.lock().unwrap().clone()
}

/// What a process has had of the processor, which is no more where others keep the machine busy.
pub fn processor_time(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Waits where an hour, and perhaps a day or a month, is about to end: what a test counts by them stays in one.
pub async fn not_at_the_end_of_an_hour() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = 3600 - now.as_secs() % 3600;
    if left < 60 {
        tokio::time::sleep(Duration::from_secs(left + 1)).await;
    }
}

/// Cancels by one signal. A cancel request of the protocol is sent as two, to the process and to its group, and the
/// second may come so late that it ends the session's next statement.
pub struct Canceller {
    root: Client,
    pid: String,
}

impl Canceller {
    pub async fn cancel(&self) {
        value(&self.root, &format!("SELECT pg_cancel_backend({})", self.pid)).await;
    }
}

/// The first column of the first row, as text.
pub async fn value(client: &Client, sql: &str) -> Option<String> {
    for message in client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", shown(&e)))
    {
        if let SimpleQueryMessage::Row(row) = message {
            return row.get(0).map(str::to_owned);
        }
    }
    None
}

/// Every row, columns joined by `|`, NULL as `∅`.
pub async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages =
        client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", shown(&e)));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len()).map(|i| row.get(i).unwrap_or("∅")).collect::<Vec<_>>().join("|"),
            ),
            _ => None,
        })
        .collect()
}

/// The SQLSTATE, message, detail and hint with which a statement fails.
pub async fn failure(client: &Client, sql: &str) -> (String, String) {
    match client.simple_query(sql).await {
        Ok(_) => panic!("this should have failed: {}", &sql[..sql.len().min(200)]),
        Err(error) => {
            let code = error.code().map(|c| c.code().to_owned()).unwrap_or_default();
            (code, shown(&error))
        }
    }
}

pub fn shown(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!(
            "{}: {} {} {}",
            db.code().code(),
            db.message(),
            db.detail().unwrap_or(""),
            db.hint().unwrap_or("")
        ),
        None => error.to_string(),
    }
}

/// The first column of the first row, which is JSON.
pub async fn json(client: &Client, sql: &str) -> serde_json::Value {
    let text = value(client, sql).await.unwrap_or_else(|| panic!("{sql} gives nothing"));
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{sql} gives {text}"))
}

/// Waits until a query gives this value, within a generous time.
pub async fn eventually(client: &Client, sql: &str, expected: &str) {
    eventually_within(PATIENCE, client, sql, expected).await;
}

/// Waits until a query gives this value.
pub async fn eventually_within(limit: Duration, client: &Client, sql: &str, expected: &str) {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < limit {
        last = value(client, sql).await;
        if last.as_deref() == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{sql} stays {last:?}, expected {expected:?}");
}

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
