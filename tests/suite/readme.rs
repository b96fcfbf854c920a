//! Every SQL in the README is executed, in order, on a server of its own.

use crate::bed::{Cluster, quoted, shown, value, var};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::SimpleQueryMessage;

pub const MODELS: &str = r#"{"data":[{"id":"openai/gpt-4o-mini","name":"GPT-4o mini","context_length":128000,
    "architecture":{"input_modalities":["text"],"output_modalities":["text"]},
    "pricing":{"prompt":"0.00000015","completion":"0.0000006"},"supported_parameters":["tools"]}]}"#;

/// psql's way to keep the columns of a row as variables.
const GSET: &str = "\\gset";

/// The statements of the fenced blocks of SQL; without pg_cron, those of the blocks for it are left out.
fn statements(readme: &str, with_cron: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_sql = false;
    let mut statement = String::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            is_sql = line.starts_with("```sql") && (with_cron || line != "```sql cron");
            assert!(statement.trim().is_empty(), "a block ends inside a statement: {statement}");
            continue;
        }
        if is_sql {
            let line = line.split(" --").next().unwrap_or(line);
            statement.push_str(line);
            statement.push('\n');
            if line.trim_end().ends_with(';') || line.trim_end().ends_with(GSET) {
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
    let with_cron = match var("AGGREGATOR_WITH_CRON").as_str() {
        "1" => true,
        "0" => false,
        other => panic!("AGGREGATOR_WITH_CRON is {other}"),
    };
    let cron = if with_cron { "pg_cron, " } else { "" };
    let preload = format!("shared_preload_libraries = '{cron}aggregator'");
    let cluster = Cluster::start("readme", &preload);
    let root = cluster.connect("postgres", "postgres").await;
    if with_cron {
        root.batch_execute("CREATE EXTENSION pg_cron").await.unwrap();
    }
    root.batch_execute("CREATE ROLE app_user LOGIN; CREATE ROLE app_admin LOGIN").await.unwrap();
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let statements = statements(&readme, with_cron);
    assert!(statements.len() > 20, "{}", statements.len());
    let mut variables: Vec<(String, String)> = vec![];
    for statement in &statements {
        let mut sql = statement.replace(GSET, "");
        for (name, value) in &variables {
            sql = sql.replace(&format!(":'{name}'"), &quoted(value));
        }
        let messages = match root.simple_query(&sql).await {
            Ok(messages) => messages,
            Err(error) => panic!("{statement}{}", shown(&error)),
        };
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message
                && statement.contains(GSET)
            {
                let value = row.get(0).expect("it is not NULL").to_owned();
                variables.push((row.columns()[0].name().to_owned(), value));
            }
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
    if with_cron {
        assert_eq!(value(&root, "SELECT count(*) FROM cron.job").await.unwrap(), "2");
    }
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'")
            .await
            .unwrap(),
        // chat, chat_complete, chat_stream, chat_many's, a job, and one with tags.
        (3 + 200 + 1 + 1).to_string()
    );
    assert_eq!(
        value(&root, "SELECT count(*) FROM articles WHERE summary = 'hello'").await.unwrap(),
        "200"
    );
}
