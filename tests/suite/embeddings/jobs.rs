//! Embeddings as durable jobs.

use super::{embeds, ready, shown, texts};
use crate::bed::{eventually, failure, rows, value};
use crate::fixtures::user;
use crate::upstream::{Answer, Upstream};
use serde_json::json;

#[tokio::test]
async fn a_job_gives_its_vectors_in_their_order() {
    let upstream = Upstream::start(embeds).await;
    let (database, root) = ready(&upstream).await;
    let options = r#"{"dimensions": 3, "tags": ["t-1"]}"#;
    let submit =
        format!("SELECT embed_submit('{{a,bb,ccc}}', 'e', '{options}', p_idempotency_key => 'k')");
    let job = value(&root, &submit).await.unwrap();
    assert_eq!(value(&root, &submit).await.unwrap(), job, "the same key is the same job");
    let waited =
        rows(&root, &format!("SELECT status, content, cost FROM chat_wait('{job}', 60000)")).await;
    assert_eq!(waited, ["succeeded|∅|0.000012"]);
    let vectors = rows(&root, &format!("SELECT * FROM embed_result('{job}')")).await;
    let expected: Vec<String> = ["a", "bb", "ccc"]
        .iter()
        .enumerate()
        .map(|(i, text)| format!("{}|{}", i + 1, shown(text)))
        .collect();
    assert_eq!(vectors, expected);
    assert_eq!(upstream.chat_count(), 1);
    let body = json!({"dimensions": 3, "encoding_format": "base64", "input": ["a", "bb", "ccc"], "model": "e"});
    assert_eq!(upstream.chats()[0].json(), body);
    assert_eq!(
        rows(&root, "SELECT call_id, status, prompt_tokens, tags FROM aggregator_usage_logs").await,
        [format!("{job}|success|6|{{t-1}}")]
    );
    // Another user sees nothing of it.
    let other = user(&database, "u-b").await;
    let result = format!("SELECT * FROM embed_result('{job}')");
    assert_eq!(rows(&other, &result).await.len(), 0);
    assert_eq!(rows(&root, "SELECT * FROM embed_result(gen_random_uuid())").await.len(), 0);
}

#[tokio::test]
async fn a_job_that_fails_has_no_vectors() {
    let upstream = Upstream::start(|seen| match texts(seen)[0].as_str() {
        "bad" => Answer::json(400, r#"{"error":{"message":"no good"}}"#),
        "stall" => Answer::Stall,
        _ => embeds(seen),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let job = value(&root, "SELECT embed_submit('{bad}', 'e')").await.unwrap();
    let waited =
        rows(&root, &format!("SELECT status, error ->> 'sqlstate' FROM chat_wait('{job}', 60000)"))
            .await;
    assert_eq!(waited, ["failed|PT400"]);
    assert_eq!(rows(&root, &format!("SELECT * FROM embed_result('{job}')")).await.len(), 0);
    let job = value(&root, "SELECT embed_submit('{stall}', 'e')").await.unwrap();
    upstream.wait_for_chats(2).await;
    assert_eq!(value(&root, &format!("SELECT chat_cancel('{job}')")).await.unwrap(), "t");
    upstream.wait_for_abort(1).await;
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled'", "1")
        .await;
    // What is rolled back never runs.
    root.batch_execute("BEGIN; SELECT embed_submit('{x}', 'e'); ROLLBACK").await.unwrap();
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "2");
    for (sql, code) in [
        ("SELECT embed_submit(NULL, 'e')", "PT400"),
        ("SELECT embed_submit('{}', 'e')", "PT400"),
        ("SELECT embed_submit('{a,NULL}', 'e')", "PT400"),
        ("SELECT embed_submit('{a,\"\"}', 'e')", "PT400"),
        ("SELECT embed_submit(array_fill('x'::text, ARRAY[2049]), 'e')", "PT400"),
        ("SELECT embed_submit('{a}', 'e', '{\"nosuch\": 1}')", "PT400"),
        ("SELECT embed_submit('{a}', 'nosuch')", "PT404"),
    ] {
        assert_eq!(failure(&root, sql).await.0, code, "{sql}");
    }
}
