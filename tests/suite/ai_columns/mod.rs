//! AI columns: what makes them, what their triggers note, how they move, and who may do what.

mod attacks;
mod define;
mod moves;
mod owners;
mod triggers;

use crate::bed::{self, Database, quoted, rows, value};
use crate::fixtures::{prepare, save_key};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// A database, its superuser, and alice, who may chat and has a schema of her own with a table.
pub async fn ready(upstream: &Upstream) -> (Database<'static>, Client, Client) {
    let database = bed::database().await;
    let root = prepare(&database, upstream).await;
    let alice = with_schema(&database, &root, "alice").await;
    alice
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, price numeric, near real[], summary text, facts jsonb)",
        )
        .await
        .unwrap();
    (database, root, alice)
}

/// A login that may chat, with a key and a schema.
pub async fn with_schema(database: &Database<'_>, root: &Client, name: &str) -> Client {
    root.batch_execute(&format!(
        "SELECT aggregator_grant('{name}', 'user'); CREATE SCHEMA s_{name} AUTHORIZATION {name}"
    ))
    .await
    .unwrap();
    let client = database.user(name).await;
    client.batch_execute(&format!("SET search_path = s_{name}, public")).await.unwrap();
    save_key(&client, "standin", &format!("sk-good-{name}-0123456789")).await;
    client
}

pub async fn stand_in() -> Upstream {
    Upstream::start(|_| Answer::hello()).await
}

/// Makes an AI column that the worker leaves alone, so that what is noted can be looked at.
pub async fn paused(client: &Client, table: &str, column: &str, kind: &str, input: &str) -> String {
    let make = format!(
        "SELECT ai_column('{table}', '{column}', '{kind}', {}, 'm', '{{\"backfill\": false}}')",
        quoted(input)
    );
    client.batch_execute("BEGIN").await.unwrap();
    let id = value(client, &make).await.unwrap();
    value(client, &format!("SELECT ai_column_pause('{table}', '{column}')")).await;
    client.batch_execute("COMMIT").await.unwrap();
    id
}

/// What is noted of a column.
pub async fn noted(client: &Client, id: &str) -> Vec<String> {
    let sql = format!(
        "SELECT array_to_string(key, ','), status FROM aggregator_ai_queue WHERE column_id = '{id}' ORDER BY 1"
    );
    rows(client, &sql).await
}

/// Forgets what is noted.
pub async fn emptied(root: &Client, id: &str) {
    let sql = format!("DELETE FROM aggregator_ai_queue WHERE column_id = '{id}'");
    root.batch_execute(&sql).await.unwrap();
}

pub fn view(id: &str) -> String {
    format!("aggregator_ai_{}", id.replace('-', ""))
}
