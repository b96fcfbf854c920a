//! Every SQL in the README, and then in the pages below docs, is executed, in order, on a server of its own.

use crate::bed::{Cluster, quoted, shown, tree, value, var};
use crate::checked_json::calls;
use crate::documents::pages;
use crate::upstream::{Answer, Seen, Upstream};
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;

pub const MODELS: &str = r#"{"data":[{"id":"openai/text-embedding-3-small","name":"Embedding 3 small","context_length":8192,
    "architecture":{"input_modalities":["text"],"output_modalities":["embeddings"]},
    "pricing":{"prompt":"0.00000002","completion":"0"}},
    {"id":"openai/gpt-4o-mini","name":"GPT-4o mini","context_length":128000,
    "architecture":{"input_modalities":["text"],"output_modalities":["text"]},
    "pricing":{"prompt":"0.00000015","completion":"0.0000006"},"supported_parameters":["tools"]}]}"#;

/// What each page begins with.
const NEXT_PAGE: [&str; 3] = [
    "DELETE FROM aggregator_budgets",
    "DELETE FROM aggregator_rate_limits",
    "SELECT save_provider_key('openrouter', 'sk-or-v1-your-key', p_validate => false)",
];

/// psql's way to keep the columns of a row as variables.
const GSET: &str = "\\gset";

/// An answer with the members that the schema of a request wants.
fn fitting(asked: &Value) -> Answer {
    let known = json!({"city": "Paris", "country": "France", "name": "Ann", "born": "2019-01-31", "answer": true});
    let members = asked["tools"][0]["function"]["parameters"]["properties"].as_object().unwrap();
    let answer: Value = members
        .iter()
        .map(|(name, schema)| match known.get(name) {
            Some(value) => (name.clone(), value.clone()),
            None => (name.clone(), schema["anyOf"][0]["enum"][0].clone()),
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    calls(&answer.to_string())
}

/// Vectors of as many numbers as were asked for.
fn embeds(seen: &Seen) -> Answer {
    let body = seen.json();
    let dimensions = body["dimensions"].as_u64().unwrap_or(3) as usize;
    let texts = body["input"].as_array().expect("a list");
    let data: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut vector = vec![0.5; dimensions];
            vector[0] = text.as_str().unwrap().len() as f32;
            json!({"embedding": vector})
        })
        .collect();
    Answer::json(200, json!({"data": data, "usage": {"prompt_tokens": 3}}).to_string())
}

/// The statements of the fenced blocks of SQL; those of blocks for an extension that is not there are left out.
fn statements(page: &str, with_cron: bool, with_vector: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_sql = false;
    let mut statement = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            is_sql = line.starts_with("```sql")
                && (with_cron || line != "```sql cron")
                && (with_vector || line != "```sql vector");
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
async fn every_statement_of_the_readme_and_the_pages_runs() {
    let upstream = Upstream::raw(|seen| match seen.path.as_str() {
        path if path.ends_with("/models") => Answer::json(200, MODELS),
        path if path.ends_with("/chat/completions") => match seen.json().get("tools") {
            Some(_) => fitting(&seen.json()),
            None => Answer::hello(),
        },
        path if path.ends_with("/embeddings") => embeds(seen),
        _ => Answer::json(200, r#"{"data":{"label":"key"}}"#),
    })
    .await;
    let is_there = |name: &str| match var(name).as_str() {
        "1" => true,
        "0" => false,
        other => panic!("{name} is {other}"),
    };
    let with_cron = is_there("AGGREGATOR_WITH_CRON");
    let with_vector = is_there("AGGREGATOR_WITH_VECTOR");
    let cron = if with_cron { "pg_cron, " } else { "" };
    let preload = format!("shared_preload_libraries = '{cron}aggregator'");
    let cluster = Cluster::start("readme", &preload);
    let root = cluster.connect("postgres", "postgres").await;
    if with_cron {
        root.batch_execute("CREATE EXTENSION pg_cron").await.unwrap();
    }
    root.batch_execute("CREATE ROLE app_user LOGIN; CREATE ROLE app_admin LOGIN").await.unwrap();
    let mut statements = vec![];
    for page in std::iter::once("README.md".into()).chain(pages()) {
        let text = std::fs::read_to_string(tree(&page)).unwrap();
        statements.extend(self::statements(&text, with_cron, with_vector));
        // No page is held up by the rules of another, after as many calls, or lacks the key that it removed.
        statements.extend(NEXT_PAGE.map(str::to_owned));
    }
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
        // Those of the AI column of app_user come when the worker comes to them.
        value(
            &root,
            "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success' AND user_id <> 'role:app_user'"
        )
        .await
        .unwrap(),
        // chat, chat_complete, chat_stream twice, chat_many's, those with a schema and a summary, two for the cache, a job,
        // and one with tags; embed and embed_many, and once more of the 200 texts with pgvector.
        (4 + 200 + 5 + 20 + 2 + 1 + 1 + 2 + if with_vector { 3 } else { 0 }).to_string()
    );
    assert_eq!(
        value(&root, "SELECT count(*) FROM articles WHERE summary = 'hello'").await.unwrap(),
        "200"
    );
}
