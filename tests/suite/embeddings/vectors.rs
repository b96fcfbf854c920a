//! Vectors as pgvector has them: stored, indexed, and the nearest found.

use super::{embeds, ready};
use crate::bed::{rows, value};
use crate::upstream::Upstream;

#[tokio::test]
async fn the_nearest_is_found_by_an_index() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(
        "CREATE EXTENSION vector;
         CREATE TABLE notes (id int PRIMARY KEY, body text, near vector(3));
         INSERT INTO notes SELECT i, repeat('x', i) FROM generate_series(1, 300) AS i;
         UPDATE notes SET near = vectors.embedding::vector
         FROM embed_many((SELECT array_agg(body ORDER BY id) FROM notes), 'e') AS vectors
         WHERE id = vectors.ord;
         CREATE INDEX notes_near ON notes USING hnsw (near vector_l2_ops)",
    )
    .await
    .unwrap();
    assert_eq!(value(&root, "SELECT count(near) FROM notes").await.unwrap(), "300");
    assert_eq!(upstream.chat_count(), 3);
    root.batch_execute("SET enable_seqscan = off").await.unwrap();
    let nearest = "SELECT id FROM notes ORDER BY near <-> (SELECT embed(repeat('x', 42), 'e')::vector) LIMIT 3";
    let plan = rows(&root, &format!("EXPLAIN {nearest}")).await.concat();
    assert!(plan.contains("notes_near"), "{plan}");
    let mut found = rows(&root, nearest).await;
    assert_eq!(found[0], "42");
    found.sort();
    assert_eq!(found, ["41", "42", "43"]);
    // The question was sent once, and not for each row.
    assert_eq!(upstream.chat_count(), 4);
}
