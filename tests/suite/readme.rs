//! Every SQL in the README is executed, in order, on a server of its own.

use crate::bed::{Cluster, shown, value};
use crate::upstream::{Answer, Upstream};

const MODELS: &str = r#"{"data":[{"id":"openai/gpt-4o-mini","name":"GPT-4o mini","context_length":128000,
    "architecture":{"input_modalities":["text"],"output_modalities":["text"]},
    "pricing":{"prompt":"0.00000015","completion":"0.0000006"},"supported_parameters":["tools"]}]}"#;

/// The statements of the fenced blocks of SQL.
fn statements(readme: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_sql = false;
    let mut statement = String::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            is_sql = line.starts_with("```sql");
            assert!(statement.trim().is_empty(), "a block ends inside a statement: {statement}");
            continue;
        }
        if is_sql {
            let line = line.split(" --").next().unwrap_or(line);
            statement.push_str(line);
            statement.push('\n');
            if line.trim_end().ends_with(';') {
                found.push(std::mem::take(&mut statement));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_statement_of_the_readme_runs() {
    let upstream = Upstream::raw(|seen| match seen.path.as_str() {
        path if path.ends_with("/models") => Answer::json(200, MODELS),
        path if path.ends_with("/chat/completions") => Answer::hello(),
        _ => Answer::json(200, r#"{"data":{"label":"key"}}"#),
    })
    .await;
    let cluster = Cluster::start("readme", "shared_preload_libraries = 'pg_cron, aggregator'");
    let root = cluster.connect("postgres", "postgres").await;
    root.batch_execute(
        "CREATE EXTENSION pg_cron; CREATE ROLE app_user LOGIN; CREATE ROLE app_admin LOGIN",
    )
    .await
    .unwrap();
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let statements = statements(&readme);
    assert!(statements.len() > 20, "{}", statements.len());
    for statement in &statements {
        if let Err(error) = root.simple_query(statement).await {
            panic!("{statement}{}", shown(&error));
        }
        if statement.contains("CREATE EXTENSION") {
            let base = upstream.base_url();
            root.batch_execute(&format!(
                "UPDATE api_providers SET base_url = '{base}', models_url = NULL, key_check_url = NULL WHERE name IN ('openrouter', 'aihubmix')"
            ))
            .await
            .unwrap();
        }
    }
    assert_eq!(value(&root, "SELECT count(*) FROM cron.job").await.unwrap(), "1");
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'")
            .await
            .unwrap(),
        "2"
    );
}
