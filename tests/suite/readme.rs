//! Every fenced block of the README and of the pages below docs is run, in order, each page in a database of its own,
//! and what a page shows as the result is compared with what comes. One psql per page runs all of it: SQL as it stands,
//! the rest by `\!`, so that a page reads as one session at a terminal.

mod blocks;
pub mod provider;
mod shown;

use crate::bed::{self, Cluster, Database, eventually, pg_bin, quoted, tree, value, var};
use crate::documents::pages;
use crate::front::free_port;
use crate::supabase::{clients, tell};
use blocks::{Block, Fate};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio_postgres::Client;

/// Where the pages say that a database is reached over HTTP.
const ADDRESS: &str = "127.0.0.1:8787";
/// The database that they name there.
const DATABASE: &str = "app";
/// What says in psql's output where a block begins and ends.
const BEGIN: &str = "<<begin>>";
const END: &str = "<<end>>";

/// What is there to run the pages with.
struct Bed {
    cluster: Cluster,
    /// Where providers are, as the pages' are turned to.
    provider: String,
    port: u16,
    with_cron: bool,
    with_vector: bool,
    with_clients: bool,
    /// Blocks that were not run for want of something, by name.
    left_out: Vec<String>,
}

/// Lines that a reader does not see, and that say nothing.
fn unseen(sql: &str) -> String {
    format!("\\o /dev/null\n{sql}\n\\o\n")
}

impl Bed {
    /// Turns the providers of an extension that was just created to the one of the tests, and waits for HTTP.
    fn turned(&self, page_speaks_http: bool) -> String {
        let turn = format!(
            "DO $unseen$
             DECLARE v_table regclass;
             BEGIN
                 SELECT oid INTO STRICT v_table FROM pg_class WHERE relname = 'api_providers' AND relkind = 'r';
                 EXECUTE format('UPDATE %s SET base_url = %L, models_url = NULL, key_check_url = NULL
                     WHERE name IN (''openrouter'', ''aihubmix'')', v_table, {});
             END $unseen$;",
            quoted(&self.provider)
        );
        let wait = "SELECT aggregator_start();
             DO $unseen$
             BEGIN
                 FOR i IN 1..1200 LOOP
                     EXIT WHEN (SELECT http_address IS NOT NULL FROM aggregator_status());
                     PERFORM pg_sleep(0.05);
                 END LOOP;
             END $unseen$;";
        unseen(&turn) + &if page_speaks_http { unseen(wait) } else { String::new() }
    }

    /// What the reader of a page has that does not begin with CREATE EXTENSION.
    fn prepared(&self, page_speaks_http: bool) -> String {
        let made = unseen(
            "SET client_min_messages = error;\nCREATE EXTENSION aggregator;\nRESET client_min_messages;",
        );
        made + &self.turned(page_speaks_http)
            + &unseen(
                "SELECT sync_models('openrouter');
                 SELECT save_provider_key('openrouter', 'sk-or-v1-your-key', p_validate => false);",
            )
    }

    /// Whether a block is run here; says so where it is not.
    fn runs(&mut self, block: &Block) -> bool {
        let runs = match block.fate() {
            Fate::Sql | Fate::SqlFails | Fate::Shell => true,
            Fate::SqlWith("CRON") => self.with_cron,
            Fate::SqlWith("VECTOR") => self.with_vector,
            Fate::SqlWith(_) => false,
            Fate::Python | Fate::JavaScript => self.with_clients,
            Fate::Elsewhere(_) | Fate::SqlParses | Fate::Settings | Fate::NotRun(_) => {
                return false;
            }
        };
        if !runs {
            self.left_out.push(block.place());
        }
        runs
    }

    /// The database of a page. pg_cron lives in one of the server: pages about it take turns there.
    async fn database(&self, is_about_cron: bool) -> Database<'_> {
        if !is_about_cron {
            return self.cluster.empty_database().await;
        }
        let database = Database { cluster: &self.cluster, name: "postgres".to_owned() };
        let root = database.root().await;
        root.batch_execute(
            "DROP EXTENSION IF EXISTS aggregator, pg_cron CASCADE; CREATE EXTENSION pg_cron",
        )
        .await
        .unwrap();
        database
    }

    /// Runs the blocks of a page; gives back how many it was that ran, and how many results were compared.
    async fn run(&mut self, all: &[Block]) -> (usize, usize) {
        let mut blocks = vec![];
        for block in all {
            if self.runs(block) {
                blocks.push(block);
            }
        }
        if blocks.is_empty() {
            return (0, 0);
        }
        let speaks_http = all.iter().any(|block| block.code.contains(ADDRESS));
        let is_about_cron = blocks.iter().any(|block| block.fate() == Fate::SqlWith("CRON"));
        let database = self.database(is_about_cron).await;
        let name = database.name.clone();
        drop(database);
        if speaks_http {
            self.listen(&name).await;
        }
        let dir = PathBuf::from(var("AGGREGATOR_RUN")).join(format!("page-{name}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("env"), "").unwrap();
        let creates = blocks.iter().any(|block| {
            block.code.contains("\nCREATE EXTENSION aggregator")
                || block.code.starts_with("CREATE EXTENSION aggregator")
        });
        let mut script = "\\set ON_ERROR_STOP on\n".to_owned();
        script += "\\pset pager off\n";
        if !creates {
            script += &self.prepared(speaks_http);
        }
        for (i, block) in blocks.iter().enumerate() {
            let code = block
                .code
                .replace(&format!("{DATABASE}={ADDRESS}"), &format!("{name}={ADDRESS}"))
                .replace(ADDRESS, &format!("127.0.0.1:{}", self.port))
                .replace(&format!("-d {DATABASE} "), &format!("-d {name} "));
            let fails = block.fate() == Fate::SqlFails;
            let is_sql = matches!(block.fate(), Fate::Sql | Fate::SqlWith(_) | Fate::SqlFails);
            writeln!(script, "\\warn {BEGIN}").unwrap();
            if fails {
                script += "\\set ON_ERROR_STOP off\n";
            }
            match is_sql {
                true => script += &self.sql(&code, speaks_http),
                false => script += &by_shell(block, &dir.join(i.to_string()), &code),
            }
            if fails {
                script += "\\set ON_ERROR_STOP on\n";
            }
            writeln!(script, "\\warn {END}").unwrap();
        }
        let came = self.psql(&name, &dir, &script).await;
        let results: Vec<&str> = came.split(BEGIN).skip(1).collect();
        let mut compared = 0;
        for (i, block) in blocks.iter().enumerate() {
            let place = block.place();
            let came = results.get(i).unwrap_or_else(|| panic!("{place} never ran:\n{came}"));
            let Some((came, _)) = came.split_once(END) else {
                panic!("{place} ended psql:\n{came}")
            };
            assert!(!came.contains("<<failed"), "{place} fails:\n{came}");
            let fails = block.fate() == Fate::SqlFails;
            assert_eq!(came.contains("ERROR:"), fails, "{place}:\n{came}");
            assert!(!fails || block.shown.is_some(), "{place} shows no error");
            if let Some(shown) = &block.shown {
                let came = came.replace(&format!("127.0.0.1:{}", self.port), ADDRESS);
                let came =
                    came.replace(&format!("{name}={ADDRESS}"), &format!("{DATABASE}={ADDRESS}"));
                shown::check(block, shown, came.trim_matches('\n'));
                compared += 1;
            }
        }
        (blocks.len(), compared)
    }

    /// SQL as it stands, and what is done unseen once the extension is there.
    fn sql(&self, code: &str, speaks_http: bool) -> String {
        let mut script = String::new();
        for line in code.lines() {
            script += line;
            script.push('\n');
            if line.starts_with("CREATE EXTENSION aggregator") {
                script += &self.turned(speaks_http);
            }
        }
        script
    }

    /// Has the database of a page, alone, be reached over HTTP.
    async fn listen(&self, name: &str) {
        let root = self.cluster.connect("postgres", "postgres").await;
        let list = format!("{name}=127.0.0.1:{}", self.port);
        root.batch_execute(&format!("ALTER SYSTEM SET aggregator.http_listen = '{list}'"))
            .await
            .unwrap();
        root.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually(&root, "SHOW aggregator.http_listen", &list).await;
    }

    /// What psql says to a script, errors and notices in their places.
    async fn psql(&self, database: &str, dir: &Path, script: &str) -> String {
        std::fs::write(dir.join("script"), script).unwrap();
        let came = dir.join("came");
        let to = std::fs::File::create(&came).unwrap();
        let path =
            format!("{}:{}", pg_bin("").display(), std::env::var("PATH").unwrap_or_default());
        let status = Command::new(pg_bin("psql"))
            .args(["-X"])
            .env("PATH", path)
            .env("PGHOST", &self.cluster.dir)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database)
            .env("PYTHONPATH", var("AGGREGATOR_PYTHON"))
            .env("PGOPTIONS", bed::nodes::options_to_stay_here())
            .current_dir(dir)
            .stdin(std::fs::File::open(dir.join("script")).unwrap())
            .stdout(to.try_clone().unwrap())
            .stderr(Stdio::from(to))
            .kill_on_drop(true)
            .status();
        let status = tokio::time::timeout(Duration::from_secs(300), status).await;
        let came = std::fs::read_to_string(&came).unwrap();
        let status = status.unwrap_or_else(|_| panic!("psql does not end:\n{came}")).unwrap();
        assert!(status.success() || came.contains(BEGIN), "{status}:\n{came}");
        came
    }
}

/// A block for the shell, Python or Node, as a line of psql. What one sets in its environment, the next one has.
fn by_shell(block: &Block, file: &Path, code: &str) -> String {
    let program = match block.fate() {
        Fate::Python => {
            std::fs::write(file, code).unwrap();
            format!("python3 {}", file.display())
        }
        Fate::JavaScript => {
            std::fs::write(file, code).unwrap();
            let node = var("AGGREGATOR_NODE");
            // Packages are looked for from where it is run.
            let packages = clients().join("http");
            format!("cd {} && {node} --input-type=module < {}", packages.display(), file.display())
        }
        _ => code.to_owned(),
    };
    let environment = file.with_file_name("env");
    let environment = environment.display();
    let script = file.with_extension("sh");
    let text =
        format!("set -aeuo pipefail\n. {environment}\n{program}\nexport -p > {environment}\n");
    std::fs::write(&script, text).unwrap();
    format!("\\! bash {} < /dev/null 2>&1 || echo '<<failed>>'\n", script.display())
}

/// Whether the server knows each setting that a block sets.
async fn settings_exist(root: &Client, block: &Block) {
    let lines = block.code.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, _) = line.split_once('=').unwrap_or_else(|| panic!("{}: {line}", block.place()));
        let known =
            format!("SELECT count(*) FROM pg_settings WHERE name = {}", quoted(name.trim()));
        assert_eq!(value(root, &known).await.as_deref(), Some("1"), "{}: {line}", block.place());
    }
}

/// Whether PostgreSQL can parse SQL that is not run: PL/pgSQL reads all of a block before it runs any of it.
async fn parses(root: &Client, block: &Block) {
    let unrun = format!("DO $unrun$ BEGIN IF false THEN {} END IF; END $unrun$", block.code);
    root.batch_execute(&unrun)
        .await
        .unwrap_or_else(|e| panic!("{}: {}", block.place(), bed::shown(&e)));
}

/// Whether what cannot be run is well formed at least.
fn syntax_holds(block: &Block, with_clients: bool) {
    let place = block.place();
    let checked_by = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let output =
            command.args(arguments).arg(&block.code).env("PYTHONPATH", var("AGGREGATOR_PYTHON"));
        let output = output.output().expect("it starts");
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    };
    match block.kind.as_str() {
        "sh" => {
            checked_by("bash", &["-n", "-c"]);
            let makefile = std::fs::read_to_string(tree("Makefile")).unwrap();
            let lines = block.code.lines().flat_map(|line| line.split("&&"));
            for target in lines.filter_map(|line| line.trim().strip_prefix("make ")) {
                let target = target.split(' ').next().unwrap_or_default();
                assert!(makefile.contains(&format!("\n{target}: ")), "{place}: make {target}");
            }
        }
        "yaml" if with_clients => {
            checked_by("python3", &["-c", "import sys, yaml; yaml.safe_load(sys.argv[1])"]);
        }
        "nginx" | "html" | "text" | "yaml" => {
            let count = |c: char| block.code.matches(c).count();
            for (open, close) in [('{', '}'), ('(', ')'), ('[', ']')] {
                assert_eq!(count(open), count(close), "{place}: {open}{close}");
            }
        }
        other => panic!("{place}: nobody checks the syntax of {other}"),
    }
}

#[tokio::test]
async fn every_block_of_the_readme_and_the_pages_runs_and_gives_what_it_shows() {
    let is_there = |name: &str| match var(name).as_str() {
        "1" => true,
        "0" => false,
        other => panic!("{name} is {other}"),
    };
    let with_cron = is_there("AGGREGATOR_WITH_CRON");
    let cron = if with_cron { "pg_cron, " } else { "" };
    let preload = format!("fsync = off\nshared_preload_libraries = '{cron}aggregator'");
    let upstream = provider::start().await;
    let mut bed = Bed {
        cluster: Cluster::start("readme", &preload),
        provider: upstream.base_url(),
        port: free_port().await,
        with_cron,
        with_vector: is_there("AGGREGATOR_WITH_VECTOR"),
        with_clients: !var("AGGREGATOR_NODE").is_empty(),
        left_out: vec![],
    };
    let root = bed.cluster.connect("postgres", "postgres").await;
    root.batch_execute("CREATE ROLE app_user LOGIN; CREATE ROLE app_admin LOGIN").await.unwrap();
    // For whoever writes a page: the others are not run.
    let only = std::env::var("AGGREGATOR_PAGE").ok();
    let (mut every, mut done, mut compared) = (vec![], 0, 0);
    for page in std::iter::once("README.md".into()).chain(pages()) {
        let text = std::fs::read_to_string(tree(&page)).unwrap();
        let found = blocks::blocks(&page, &text);
        // None is hidden from the parser: each has two fences.
        let fences = text.lines().filter(|line| line.trim_start().starts_with("```")).count();
        let shown = found.iter().filter(|block| block.shown.is_some()).count();
        assert_eq!(fences, 2 * (found.len() + shown), "{page}");
        for block in &found {
            match block.fate() {
                Fate::Settings => settings_exist(&root, block).await,
                Fate::SqlParses => parses(&root, block).await,
                Fate::NotRun(_) => syntax_holds(block, bed.with_clients),
                Fate::Elsewhere(_) => {}
                _ => continue,
            }
            done += 1;
        }
        if only.as_ref().is_none_or(|only| page.contains(only)) {
            let (ran, results) = bed.run(&found).await;
            (done, compared) = (done + ran, compared + results);
        }
        every.extend(found);
    }
    blocks::all_are_meant(&every);
    // tools/test.sh sees to it that CI has the clients; not each PostgreSQL has each extension.
    for block in &bed.left_out {
        tell(&format!("    NOT RUN, for want of what it takes: {block}\n"));
    }
    if only.is_none() {
        // Each has been run, checked, or named as left out.
        assert_eq!(done + bed.left_out.len(), every.len());
        assert!(compared > 25, "{compared}");
    }
}
