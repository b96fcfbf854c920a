//! `embed`: a text and its vector.

use super::{add_embedder, embeds, ready, shown};
use crate::bed::{self, failure, rows, value};
use crate::fixtures::{add_named, save_key};
use crate::upstream::{Answer, Upstream, in_turn};

#[tokio::test]
async fn a_text_has_a_vector_a_row_and_its_exact_cost() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(value(&root, "SELECT embed('hello', 'e')").await, Some(shown("hello")));
    assert_eq!(value(&root, "SELECT pg_typeof(embed('hello', 'e'))").await.unwrap(), "real[]");
    let options = r#"{"dimensions": 3, "user": "u-1", "tags": ["t-1"], "timeout_ms": 5000,
        "extra_body": {"input_type": "query"}, "max_retries": 0}"#;
    let sql = format!("SELECT embed('hi', 'e', '{options}', 'standin')");
    assert_eq!(value(&root, &sql).await, Some(shown("hi")));
    let sent = upstream.chats();
    assert_eq!(sent[0].body, r#"{"encoding_format":"base64","input":["hello"],"model":"e"}"#);
    assert_eq!(
        sent[2].body,
        r#"{"dimensions":3,"encoding_format":"base64","input":["hi"],"input_type":"query","model":"e","user":"u-1"}"#
    );
    assert_eq!(sent[0].header("authorization"), Some("Bearer sk-good-0123456789abcdef"));
    // 5 tokens at 2 USD per million.
    let all = rows(
        &root,
        "SELECT user_id, model_id, served_model, status, prompt_tokens, completion_tokens, total_tokens,
            cost_estimate, cost_source, http_status, tags FROM aggregator_usage_logs ORDER BY created_at",
    )
    .await;
    assert_eq!(all[0], "role:postgres|e|e-served|success|5|0|5|0.00001|computed|200|∅");
    assert_eq!(all[2], "role:postgres|e|e-served|success|2|0|2|0.000004|computed|200|{t-1}");
    assert_eq!(
        value(&root, "SELECT calculate_cost('e', '{\"prompt_tokens\": 5, \"total_tokens\": 5}')")
            .await
            .unwrap(),
        "0.00001"
    );
}

#[tokio::test]
async fn nothing_is_sent_for_nothing() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    for nothing in ["NULL", "''"] {
        assert_eq!(value(&root, &format!("SELECT embed({nothing}, 'e')")).await, None);
    }
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn lists_of_numbers_do_as_well() {
    // As many servers answer, who pass over what was asked for.
    let list = r#"{"data":[{"embedding":[0.1,-2e-3,7]}],"usage":{"prompt_tokens":1}}"#;
    let upstream = Upstream::start(move |_| Answer::json(200, list)).await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(value(&root, "SELECT embed('x', 'e')").await.unwrap(), "{0.1,-0.002,7}");
    value(&root, r#"SELECT embed('x', 'e', '{"encoding_format": "float"}')"#).await;
    assert_eq!(upstream.chats()[1].json()["encoding_format"], "float");
    assert_eq!(
        rows(&root, "SELECT status, prompt_tokens, cost_source FROM aggregator_usage_logs").await,
        ["success|1|computed"; 2]
    );
}

#[tokio::test]
async fn what_is_not_understood_is_refused_before_anything_is_sent() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    for (options, words) in [
        (r#"{"dimensons": 3}"#, "'dimensions'"),
        (r#"{"fallbacks": ["f"]}"#, "fallbacks"),
        (r#"{"models": ["f"]}"#, "another model"),
        (r#"{"dimensions": 0}"#, "dimensions"),
        (r#"{"dimensions": 1000000}"#, "dimensions"),
        (r#"{"dimensions": "3"}"#, "dimensions"),
        (r#"{"encoding_format": "int8"}"#, "encoding_format"),
        (r#"{"batch_size": 0}"#, "batch_size"),
        (r#"{"batch_size": 2049}"#, "batch_size"),
        (r#"{"concurrency": 0}"#, "concurrency"),
        (r#"{"timeout_ms": 0}"#, "timeout_ms"),
        (r#"{"tags": [""]}"#, "tags"),
        (r#"{"temperature": 1}"#, "temperature"),
        (r#"{"stream": true}"#, "stream"),
        (r#"{"input": "x"}"#, "input"),
        (r#"{"extra_body": {"model": "x"}}"#, "model"),
        ("[]", "object"),
    ] {
        let (code, message) = failure(&root, &format!("SELECT embed('x', 'e', '{options}')")).await;
        assert_eq!(code, "PT400", "{options}");
        assert!(message.contains(words), "{options}: {message}");
    }
    assert_eq!(
        value(&root, r#"SELECT embed('x', 'e', '{"models": ["e"]}')"#).await,
        Some(shown("x"))
    );
    for (sql, code) in [
        ("SELECT embed('x', '')", "PT400"),
        ("SELECT embed('x', NULL)", "PT400"),
        ("SELECT embed('x', 'nosuch')", "PT404"),
        ("SELECT embed('x', 'e', '{}', 'nosuch')", "PT404"),
        ("SELECT embed(repeat('x', 1048577), 'e')", "PT400"),
    ] {
        assert_eq!(failure(&root, sql).await.0, code, "{sql}");
    }
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn who_has_no_embeddings_is_not_asked() {
    let upstream = Upstream::start(embeds).await;
    let (_database, root) = ready(&upstream).await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["c"]).await;
    save_key(&root, "claude", "sk-good-1").await;
    let (code, message) = failure(&root, "SELECT embed('x', 'c')").await;
    assert_eq!(code, "PT501");
    assert!(message.contains("'claude'"), "{message}");
    // A model that is known to be another one, and one of which only a name is known.
    add_named(&root, "other", "openai", &upstream.base_url(), &["chats", "unpriced", "paints"])
        .await;
    save_key(&root, "other", "sk-good-2").await;
    root.batch_execute(
        "UPDATE aggregator_models SET model_type = 'image' WHERE model_id = 'paints';
         UPDATE aggregator_models SET pricing = '{}' WHERE model_id = 'unpriced'",
    )
    .await
    .unwrap();
    for model in ["chats", "paints"] {
        let (code, message) = failure(&root, &format!("SELECT embed('x', '{model}')")).await;
        assert_eq!(code, "PT400");
        assert!(message.contains("gives no embeddings"), "{message}");
    }
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
    assert_eq!(value(&root, "SELECT embed('x', 'unpriced')").await, Some(shown("x")));
    assert_eq!(
        value(&root, "SELECT embed('x', 'mine', provider => 'other')").await,
        Some(shown("x"))
    );
}

#[tokio::test]
async fn another_provider_of_the_same_model_is_asked_and_no_other_model() {
    let broken = Upstream::start(|_| Answer::json(503, r#"{"error":{"message":"down"}}"#)).await;
    let sound = Upstream::start(embeds).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_embedder(&root, "first", "openai", &broken).await;
    add_embedder(&root, "second", "openai", &sound).await;
    for provider in ["first", "second"] {
        save_key(&root, provider, "sk-good-1").await;
    }
    let sql = "UPDATE user_api_providers SET priority = 9 WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'first')";
    root.batch_execute(sql).await.unwrap();
    assert_eq!(value(&root, "SELECT embed('x', 'e')").await, Some(shown("x")));
    assert_eq!((broken.chat_count(), sound.chat_count()), (1, 1));
    assert_eq!(
        rows(
            &root,
            "SELECT p.name, log.attempt, log.status FROM aggregator_usage_logs AS log
             JOIN api_providers AS p ON p.id = log.provider_id ORDER BY log.attempt"
        )
        .await,
        ["first|1|error", "second|2|success"]
    );
}

#[tokio::test]
async fn what_may_pass_is_sent_again() {
    let once = |_: &_| Answer::json(503, r#"{"error":{"message":"down"}}"#);
    let list = r#"{"data":[{"embedding":[1]}],"usage":{"prompt_tokens":1}}"#;
    let upstream = Upstream::start(in_turn(vec![
        once(&()),
        Answer::json(429, r#"{"error":{"message":"slow down"}}"#),
        Answer::json(200, list),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    assert_eq!(value(&root, "SELECT embed('x', 'e')").await.unwrap(), "{1}");
    assert_eq!(upstream.chat_count(), 3);
    assert_eq!(
        rows(&root, "SELECT attempt, status, cost_estimate FROM aggregator_usage_logs ORDER BY 1")
            .await,
        ["1|error|0", "2|error|0", "3|success|0.000002"]
    );
}
