//! Embeddings: one text, many in one statement, jobs, and over HTTP, against stand-ins that count.

mod failures;
mod jobs;
mod many;
mod money;
mod one;
mod real;
mod vectors;

use crate::bed::{self, Database, quoted};
use crate::fixtures::{add_named, save_key};
use crate::upstream::{Answer, Seen, Upstream};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// What the stand-in makes of a text: its length and its first byte, so that each text has another.
pub fn vector_of(text: &str) -> [f32; 3] {
    [text.len() as f32, f32::from(text.as_bytes()[0]), 0.5]
}

/// The same as `real[]` prints.
pub fn shown(text: &str) -> String {
    let [length, first, half] = vector_of(text);
    format!("{{{length},{first},{half}}}")
}

/// The texts of a request.
pub fn texts(seen: &Seen) -> Vec<String> {
    let input = seen.json()["input"].clone();
    input.as_array().expect("a list").iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Answers as OpenAI does, in the form that was asked for; each input is as many tokens as it has bytes.
pub fn embeds(seen: &Seen) -> Answer {
    assert!(seen.path.ends_with("/embeddings"), "{}", seen.path);
    let texts = texts(seen);
    let in_base64 = seen.json()["encoding_format"] == "base64";
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector_of(text);
            let embedding = match in_base64 {
                true => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|n| n.to_le_bytes()).collect();
                    Value::from(BASE64_STANDARD.encode(bytes))
                }
                false => json!(vector),
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens: usize = texts.iter().map(String::len).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    let answer = json!({"object": "list", "data": data, "model": "e-served", "usage": usage});
    Answer::json(200, answer.to_string())
}

/// Makes a provider with the embedding model `e`, at 2 USD per million tokens.
pub async fn add_embedder(root: &Client, name: &str, standard: &str, upstream: &Upstream) {
    add_named(root, name, standard, &upstream.base_url(), &["e"]).await;
    root.batch_execute(&format!(
        "UPDATE aggregator_models SET model_type = 'embedding', pricing = '{{\"input\": 2}}'
         WHERE provider_id = (SELECT id FROM api_providers WHERE name = '{name}')"
    ))
    .await
    .expect("the model is one of embeddings");
}

/// A database with the provider `standin`, its model `e`, and a key for the superuser's own user id.
pub async fn ready(upstream: &Upstream) -> (Database<'static>, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_embedder(&root, "standin", "openai", upstream).await;
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    (database, root)
}

/// `embed_many` of these texts, where "∅" is NULL.
pub fn many(columns: &str, inputs: &[&str], options: &str) -> String {
    let inputs: Vec<String> = inputs
        .iter()
        .map(|text| if *text == "∅" { "NULL".to_owned() } else { quoted(text) })
        .collect();
    format!(
        "SELECT {columns} FROM embed_many(ARRAY[{}]::text[], 'e', {})",
        inputs.join(", "),
        quoted(options)
    )
}
