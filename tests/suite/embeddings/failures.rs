//! What goes wrong with embeddings, and what is left of it.

use super::{add_embedder, embeds, many, ready, shown, texts};
use crate::bed::{Cluster, eventually, failure, rows, value};
use crate::fixtures::{save_key, user};
use crate::upstream::{Answer, Upstream};
use crate::wire::Wire;

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_broken() {
    for (answer, words) in [
        (r#"{"data":[{"embedding":[1,2,3]},{"embedding":[1,2,3]}]}"#, "nobody sent"),
        (r#"{"data":[]}"#, "0 embeddings of 1 inputs"),
        (r#"{"data":[{"index":7,"embedding":[1]}]}"#, "nobody sent"),
        (r#"{"data":[{"embedding":[1,NaN]}]}"#, "no number"),
        (r#"{"data":[{"embedding":"AADAfw=="}]}"#, "not finite"),
        (r#"{"data":[{"embedding":[1,2]}]}"#, "2 numbers where 3 were asked for"),
        (r#"{"choices":[{"message":{"content":"hello"}}]}"#, "no embeddings"),
        ("<html>sk-good-0123456789abcdef</html>", "HTML"),
    ] {
        let upstream = Upstream::start(move |_| Answer::json(200, answer)).await;
        let (_database, root) = ready(&upstream).await;
        let sql = r#"SELECT embed('x', 'e', '{"dimensions": 3, "max_retries": 0}')"#;
        let (code, message) = failure(&root, sql).await;
        assert_eq!(code, "PT502", "{answer}: {message}");
        assert!(message.contains(words), "{answer}: {message}");
        assert!(!message.contains("sk-good"), "{message}");
        assert_eq!(
            rows(&root, "SELECT status, http_status FROM aggregator_usage_logs").await,
            ["error|200"]
        );
    }
}

#[tokio::test]
async fn what_a_broken_answer_has_used_is_in_the_log() {
    // A server that passes over `dimensions`, and one that counts as Voyage does.
    for usage in [r#"{"prompt_tokens":7,"total_tokens":7}"#, r#"{"total_tokens":7}"#] {
        let answer = format!(r#"{{"data":[{{"embedding":[1,2]}}],"usage":{usage}}}"#);
        let upstream = Upstream::start(move |_| Answer::json(200, answer.clone())).await;
        let (_database, root) = ready(&upstream).await;
        let sql = r#"SELECT embed('x', 'e', '{"dimensions": 3}')"#;
        assert_eq!(failure(&root, sql).await.0, "PT502");
        assert_eq!(value(&root, "SELECT embed('x', 'e')").await.unwrap(), "{1,2}");
        assert_eq!(
            rows(&root, "SELECT status, prompt_tokens, cost_estimate, cost_source FROM aggregator_usage_logs ORDER BY created_at").await,
            ["error|7|0.000014|computed", "success|7|0.000014|computed"]
        );
    }
}

#[tokio::test]
async fn a_failure_is_in_the_rows_of_its_request_alone() {
    let upstream = Upstream::start(|seen| match texts(seen)[0].as_str() {
        "bad" => Answer::json(400, r#"{"error":{"message":"no good","code":"invalid_value"}}"#),
        "short" => Answer::json(200, r#"{"data":[{"embedding":[1]}]}"#),
        _ => embeds(seen),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let inputs = ["a", "bb", "bad", "worse", "short", "one", "dd"];
    let options = r#"{"batch_size": 2, "max_retries": 0}"#;
    let all = rows(
        &root,
        &many("ord, embedding, error ->> 'sqlstate', error ->> 'code'", &inputs, options),
    )
    .await;
    assert_eq!(
        all,
        [
            format!("1|{}|∅|∅", shown("a")),
            format!("2|{}|∅|∅", shown("bb")),
            "3|∅|PT400|invalid_value".to_owned(),
            "4|∅|PT400|invalid_value".to_owned(),
            "5|∅|PT502|broken_answer".to_owned(),
            "6|∅|PT502|broken_answer".to_owned(),
            format!("7|{}|∅|∅", shown("dd")),
        ]
    );
    assert_eq!(upstream.chat_count(), 4);
}

#[tokio::test]
async fn a_statement_that_ends_takes_its_requests_along() {
    let upstream = Upstream::start(|seen| match texts(seen)[0].as_str() {
        "stall" => Answer::Stall,
        _ => embeds(seen),
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let mut wire = Wire::connect(&database).await;
    wire.ask(&many("*", &["stall", "stall"], r#"{"batch_size": 1}"#)).await;
    upstream.wait_for_chats(2).await;
    value(&root, &format!("SELECT pg_cancel_backend({})", wire.pid)).await;
    upstream.wait_for_abort(0).await;
    upstream.wait_for_abort(1).await;
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'cancelled'", "2")
        .await;
    // A statement's own time, of which the caller is told in a clear error.
    root.batch_execute("SET statement_timeout = '700ms'").await.unwrap();
    // A tenth of it is for that, which a machine that does something else may use up now and then.
    let mut codes = vec![];
    while codes.last().is_none_or(|code| code == "57014") {
        assert!(codes.len() < 5, "{codes:?}");
        codes.push(failure(&root, "SELECT embed('stall', 'e')").await.0);
    }
    assert_eq!(codes.last().unwrap(), "PT504");
    root.batch_execute("RESET statement_timeout").await.unwrap();
    // And that of an option.
    let sql = r#"SELECT embed('stall', 'e', '{"timeout_ms": 100}')"#;
    assert_eq!(failure(&root, sql).await.0, "PT504");
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
}

#[tokio::test]
async fn what_was_in_flight_when_the_worker_is_killed_is_unknown() {
    let upstream = Upstream::start(|seen| match texts(seen)[0].as_str() {
        "stall" => Answer::Stall,
        _ => embeds(seen),
    })
    .await;
    let cluster = Cluster::start("embedkill", "");
    let database = cluster.database().await;
    let root = database.root().await;
    add_embedder(&root, "standin", "openai", &upstream).await;
    save_key(&root, "standin", "sk-good-1").await;
    value(&root, "SELECT embed('x', 'e')").await;
    let mut wire = Wire::connect(&database).await;
    wire.ask("SELECT embed('stall', 'e')").await;
    upstream.wait_for_chats(2).await;
    let root = crate::fixtures::kill_worker(&cluster, &database.name, root).await;
    assert_eq!(value(&root, "SELECT embed('x', 'e')").await, Some(shown("x")));
    let status = "SELECT string_agg(status, ' ' ORDER BY created_at) FROM aggregator_usage_logs";
    eventually(&root, status, "success unknown success").await;
}

#[tokio::test]
async fn two_users_have_their_own_keys_and_rows() {
    let upstream = Upstream::start(embeds).await;
    let (database, root) = ready(&upstream).await;
    let (a, b) = (user(&database, "u-a").await, user(&database, "u-b").await);
    assert_eq!(value(&a, "SELECT embed('aa', 'e')").await, Some(shown("aa")));
    assert_eq!(rows(&b, &many("embedding", &["b"], "{}")).await, [shown("b")]);
    let keys: Vec<String> =
        upstream.chats().iter().map(|s| s.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(keys, ["Bearer sk-good-u-a-0123456789", "Bearer sk-good-u-b-0123456789"]);
    let own = "SELECT user_id, prompt_tokens FROM aggregator_usage_logs";
    assert_eq!(rows(&a, own).await, ["u-a|2"]);
    assert_eq!(rows(&b, own).await, ["u-b|1"]);
    // Nobody embeds as another, but an administrator may.
    assert_eq!(failure(&a, "SELECT embed('x', 'e', p_user_id => 'u-b')").await.0, "PT403");
    assert_eq!(
        failure(&a, "SELECT * FROM embed_many('{x}', 'e', p_user_id => 'u-b')").await.0,
        "PT403"
    );
    value(&root, "SELECT embed('xyz', 'e', p_user_id => 'u-b')").await;
    assert_eq!(rows(&b, &format!("{own} ORDER BY created_at")).await, ["u-b|1", "u-b|3"]);
    let stranger = database.rest("anon", None).await;
    assert_eq!(failure(&stranger, "SELECT embed('x', 'e')").await.0, "42501");
    assert_eq!(upstream.chat_count(), 3);
}
