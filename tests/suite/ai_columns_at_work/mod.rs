//! AI columns at work, against stand-ins that count: what is asked for, written, tried again and given up.

mod crash;
mod failing;
mod filling;
mod roles;
mod stale;
mod waiting;

use crate::bed::{self, Database, eventually, quoted, value};
use crate::fixtures::{add_named, save_key};
use crate::upstream::{Answer, Seen, USAGE, Upstream};
use tokio_postgres::Client;

/// What has come out of the texts of a chat.
fn prompt(seen: &Seen) -> String {
    let body = seen.json();
    let content = &body["messages"].as_array().unwrap().last().unwrap()["content"];
    content.as_str().unwrap().to_owned()
}

/// Answers with the prompt, so that each row's value is known.
fn echoes(seen: &Seen) -> Answer {
    Answer::says(&format!("re: {}", prompt(seen)), USAGE)
}

/// A database with the provider `standin`, its chat model `m` and its embedding model `e`, and the login `alice`, who
/// may chat, has a key of her own and a table of documents.
async fn ready(upstream: &Upstream) -> (Database<'static>, Client, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m", "e"]).await;
    root.batch_execute(
        "UPDATE aggregator_models SET model_type = 'embedding' WHERE model_id = 'e';
         SELECT aggregator_grant('alice', 'user');
         CREATE SCHEMA alice AUTHORIZATION alice",
    )
    .await
    .unwrap();
    let alice = owner(&database, "alice").await;
    (database, root, alice)
}

/// A session of a login that may chat, with a key of its own, and its table of documents.
async fn owner(database: &Database<'_>, name: &str) -> Client {
    let client = database.user(name).await;
    save_key(&client, "standin", &format!("sk-good-{name}-0123456789")).await;
    client
        .batch_execute(&format!(
            "SET search_path = {name}, public;
             CREATE TABLE docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text, n integer, answer text,
                vector real[], facts jsonb)"
        ))
        .await
        .unwrap();
    client
}

/// Makes a column of `docs` an AI column.
async fn define(client: &Client, column: &str, kind: &str, input: &str, options: &str) -> String {
    let model = if kind == "embed" { "e" } else { "m" };
    let sql = format!(
        "SELECT ai_column('docs', '{column}', '{kind}', {}, '{model}', {})",
        quoted(input),
        quoted(options)
    );
    value(client, &sql).await.unwrap()
}

/// Adds so many documents, with the bodies `doc 1` and so on.
async fn add(client: &Client, count: usize) {
    let sql = format!(
        "INSERT INTO docs (body, n) SELECT 'doc ' || i, i FROM generate_series(1, {count}) AS i"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Waits until a query gives this value.
async fn becomes(client: &Client, sql: &str, expected: &str) {
    eventually(client, sql, expected).await;
}

/// Waits until no row waits or runs, and all is in the ledger.
async fn until_done(root: &Client) {
    const LEFT: &str = "SELECT (SELECT count(*) FROM aggregator_ai_queue WHERE status <> 'failed')
        + (SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending')";
    becomes(root, LEFT, "0").await;
}

/// How many rows have the value that the stand-in gives for them.
const RIGHT: &str = "SELECT count(*) FROM docs WHERE answer = 're: ' || body";
