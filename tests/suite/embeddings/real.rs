//! A real model of sentences, on this machine.

use crate::bed::{self, failure, rows, value, var};
use crate::fixtures::{add_named, save_key};
use crate::supabase::are_there;

const MODEL: &str = "all-minilm-l6-v2";

#[tokio::test]
async fn a_real_model_finds_the_nearest_of_ten_sentences() {
    if !are_there() {
        return;
    }
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "sentences", "openai", &var("AGGREGATOR_EMBEDDER_URL"), &[MODEL]).await;
    save_key(&root, "sentences", &var("AGGREGATOR_EMBEDDER_KEY")).await;
    root.batch_execute(&format!(
        "UPDATE aggregator_models SET model_type = 'embedding', pricing = '{{\"input\": 1}}';
         CREATE TABLE sentences AS
         SELECT given.bodies[vectors.ord] AS body, vectors.embedding, vectors.error
         FROM (SELECT ARRAY['A dog barks at the postman.', 'The bread is in the oven.',
                 'Interest rates rose again in March.', 'The river flooded two villages.',
                 'Her violin needs new strings.', 'The index made the query fast.',
                 'They painted the kitchen yellow.', 'The goalkeeper saved a penalty.',
                 'Snow closed the mountain pass.', 'The surgeon washed her hands.'] AS bodies) AS given
         CROSS JOIN embed_many(given.bodies, '{MODEL}', '{{\"batch_size\": 4}}') AS vectors"
    ))
    .await
    .unwrap();
    let of_all = "SELECT count(*), count(error), min(cardinality(embedding)), max(cardinality(embedding)) FROM sentences";
    assert_eq!(rows(&root, of_all).await, ["10|0|384|384"]);
    for (question, nearest) in [
        ("How do I speed up my database?", "The index made the query fast."),
        ("a puppy makes noise", "A dog barks at the postman."),
        ("inflation and the central bank", "Interest rates rose again in March."),
    ] {
        let found = format!(
            "WITH question AS (SELECT embed('{question}', '{MODEL}') AS vector)
             SELECT body FROM sentences CROSS JOIN question
             ORDER BY (SELECT sum(a::float8 * b) FROM unnest(embedding, question.vector) AS pair (a, b)) DESC LIMIT 1"
        );
        assert_eq!(value(&root, &found).await.unwrap(), nearest, "{question}");
    }
    // The same numbers, however they come.
    let same = format!(
        "SELECT embed('one', '{MODEL}') = embed('one', '{MODEL}', '{{\"encoding_format\": \"float\"}}')"
    );
    assert_eq!(value(&root, &same).await.unwrap(), "t");
    let sql = format!("SELECT embed('one', '{MODEL}', '{{\"dimensions\": 128}}')");
    assert_eq!(failure(&root, &sql).await.0, "PT400");
    let calls = "SELECT status, count(*), bool_and(cost_estimate > 0) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&root, calls).await, ["error|1|f", "success|8|t"]);
}
