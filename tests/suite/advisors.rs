//! Supabase's database linter finds nothing about the extension but what tests/clients/lints.txt
//! knows and gives a reason for.

use crate::bed::{rows, var};
use crate::supabase::{OWN_SCHEMA, PUBLIC, Setup, are_there, clients, project};
use std::collections::BTreeSet;
use std::path::Path;
use tokio::net::{TcpListener, UnixStream};
use tokio_postgres::Client;

/// A port that leads to the server, whose socket the linter cannot take.
async fn port_to(socket: std::path::PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let mut inside = UnixStream::connect(&socket).await.expect("the server listens");
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

/// What the linter says, as `lint object`; nothing of it may be an error. That indexes of a fresh
/// database are unused means nothing. What it says of functions is one line for all those in C.
async fn lints(root: &Client, database: &str, port: u16) -> BTreeSet<String> {
    let dir = Path::new(&var("AGGREGATOR_RUN")).join(format!("advisors-{database}"));
    std::fs::create_dir_all(dir.join("supabase")).unwrap();
    std::fs::copy(clients().join("supabase/config.toml"), dir.join("supabase/config.toml"))
        .unwrap();
    let node = var("AGGREGATOR_NODE");
    let path = Path::new(&node).parent().unwrap().display().to_string();
    let output = tokio::process::Command::new(&node)
        .arg(clients().join("node_modules/supabase/dist/supabase.js"))
        .args(["db", "advisors", "--type", "all", "--level", "info", "--fail-on", "none"])
        .args(["--output-format", "json", "--workdir"])
        .arg(&dir)
        .arg(format!(
            "--remote=postgresql://supabase_admin@127.0.0.1:{port}/{database}?sslmode=disable"
        ))
        .env("PATH", format!("{path}:{}", var("PATH")))
        .env("SUPABASE_HOME", dir.join("home"))
        .envs([("SUPABASE_TELEMETRY_DISABLED", "1"), ("DO_NOT_TRACK", "1")])
        .output()
        .await
        .expect("the linter runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let results = said["results"].as_array().unwrap_or_else(|| panic!("{said}"));
    let in_c = "SELECT proname FROM pg_proc WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
        OR prokind = 'a'";
    let in_c = rows(root, in_c).await;
    let mut found = BTreeSet::new();
    for lint in results {
        assert_ne!(lint["level"], "ERROR", "{lint}");
        let (name, object) =
            (lint["name"].as_str().unwrap(), lint["metadata"]["name"].as_str().unwrap());
        let object = match name {
            "unused_index" => continue,
            "function_search_path_mutable" if in_c.iter().any(|f| f == object) => {
                "(functions in C)"
            }
            _ => object,
        };
        found.insert(format!("{name} {object}"));
    }
    found
}

/// The lints that are known: of the extension itself, and of its objects.
fn known() -> (BTreeSet<String>, BTreeSet<String>) {
    let file = std::fs::read_to_string(clients().join("lints.txt")).expect("the list is there");
    let line = |line: &str| {
        let (lint, reason) = line.split_once('#')?;
        let lint = lint.split_whitespace().collect::<Vec<_>>().join(" ");
        (!lint.is_empty() && !reason.trim().is_empty()).then_some(lint)
    };
    file.lines().filter_map(line).partition(|lint| lint.starts_with("extension_"))
}

async fn lint(setup: Setup) {
    if !are_there() {
        return;
    }
    let (database, root) = project(setup).await;
    let port = port_to(database.cluster.dir.join(".s.PGSQL.5432")).await;
    let (of_extension, of_objects) = known();
    let of_extension = if setup.schema == "public" { of_extension } else { BTreeSet::new() };
    assert_eq!(lints(&root, &database.name, port).await, of_extension);
    let loose = std::fs::read_to_string(clients().join("supabase/loose.sql")).unwrap();
    root.batch_execute(&loose).await.unwrap();
    let expected = of_extension.union(&of_objects).cloned().collect::<BTreeSet<_>>();
    assert_eq!(lints(&root, &database.name, port).await, expected);
}

#[tokio::test]
async fn the_linter_knows_no_more_in_public() {
    lint(PUBLIC).await;
}

#[tokio::test]
async fn the_linter_knows_no_more_in_a_schema_of_its_own() {
    lint(OWN_SCHEMA).await;
}
