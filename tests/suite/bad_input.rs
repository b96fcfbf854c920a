//! What must not break anything: each a clear error, one usage row where a request left, and the
//! session goes on.

use crate::bed::{Cluster, failure, quoted, rows, value};
use crate::fixtures::{HELLO, add_provider, chat_sql, ready};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

async fn goes_on(client: &Client) {
    assert_eq!(value(client, "SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn bad_arguments() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    for (sql, code) in [
        ("SELECT chat_complete(NULL, NULL)".to_owned(), "PT400"),
        (format!("SELECT chat_complete(NULL, '{HELLO}')"), "PT400"),
        (format!("SELECT chat_complete('', '{HELLO}')"), "PT400"),
        ("SELECT chat_complete('m', NULL)".into(), "PT400"),
        ("SELECT chat_complete('m', 'null')".into(), "PT400"),
        ("SELECT chat_complete('m', '[]')".into(), "PT400"),
        ("SELECT chat_complete('m', '{}')".into(), "PT400"),
        ("SELECT chat_complete('m', '[\"hi\"]')".into(), "PT400"),
        ("SELECT chat_complete('m', 'not json')".into(), "22P02"),
        (chat_sql(r#"{"temprature": 1}"#), "PT400"),
        (chat_sql(r#"{"stream": true}"#), "PT400"),
        (chat_sql(r#"[]"#), "PT400"),
        (chat_sql(r#"{"timeout_ms": -1}"#), "PT400"),
        (format!("SELECT chat_complete('m', '{HELLO}', p_user_id => '')"), "PT400"),
        (format!("SELECT chat_complete('nosuch', '{HELLO}')"), "PT404"),
        (format!("SELECT chat_complete('m', '{HELLO}', provider => 'nosuch')"), "PT404"),
        (format!("SELECT chat_complete('openai:gpt-4o', '{HELLO}')"), "PT404"),
        (format!("SELECT chat_complete('claude', '{HELLO}', provider => 'openrouter')"), "PT404"),
        ("SELECT chat(NULL, 'm')".into(), "PT400"),
        ("SELECT chat('hi', 'm', '{\"throw_on_error\": false}')".into(), "PT400"),
        ("SELECT chat_completions(NULL)".into(), "PT400"),
        ("SELECT chat_completions('[]')".into(), "PT400"),
        ("SELECT save_provider_key('standin', '')".into(), "PT400"),
        ("SELECT save_provider_key('standin', NULL)".into(), "PT400"),
        ("SELECT save_provider_key('standin', 'with space')".into(), "PT400"),
        ("SELECT save_provider_key('nosuch', 'sk-good')".into(), "PT404"),
        ("SELECT save_provider_key(NULL, 'sk-good')".into(), "PT400"),
        ("SELECT save_provider_key('standin', 'sk-wrong')".into(), "PT401"),
        ("SELECT aggregator_grant('alice', 'king')".into(), "PT400"),
        ("SELECT * FROM sync_models('nosuch')".into(), "PT404"),
    ] {
        let (state, message) = failure(&root, &sql).await;
        assert_eq!(state, code, "{sql}: {message}");
        goes_on(&root).await;
    }
    let (_, message) = failure(&root, &chat_sql(r#"{"temprature": 1}"#)).await;
    assert!(message.contains("temperature"), "{message}");
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name)
         SELECT id, 'x/gpt-4o-mini', 'gpt-4o-mini', '' FROM api_providers WHERE name = 'openrouter'",
    )
    .await
    .unwrap();
    let (_, message) =
        failure(&root, &format!("SELECT chat_complete('gpt-4o-mni', '{HELLO}')")).await;
    assert!(message.contains("Did you mean x/gpt-4o-mini"), "{message}");
    let (code, message) =
        failure(&root, &format!("SELECT chat_complete('gpt-4o-mini', '{HELLO}')")).await;
    assert!(code == "PT404" && message.contains("offered by: openrouter"), "{message}");
    assert_eq!(upstream.chats().len(), 0);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs").await, ["0"]);
    // With throw_on_error off, what goes wrong once the request is understood is a value.
    let error = value(&root, &format!("SELECT chat_complete('nosuch', '{HELLO}', '{{\"throw_on_error\": false}}') #>> '{{error,sqlstate}}'")).await;
    assert_eq!(error.unwrap(), "PT404");
    assert_eq!(
        value(&root, "SELECT validate_provider_key('standin', 'sk-wrong')").await.unwrap(),
        "f"
    );
    assert_eq!(value(&root, "SELECT validate_provider_key('standin')").await.unwrap(), "t");
}

#[tokio::test]
async fn sixteen_megabytes_of_messages() {
    let upstream = Upstream::start(|seen| Answer::says(&seen.body.len().to_string(), "{}")).await;
    let (_database, root) = ready(&upstream).await;
    let sql = "SELECT chat_complete('m', jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('x', 16 * 1024 * 1024)))) #>> '{choices,0,message,content}'";
    let length: usize = value(&root, sql).await.unwrap().parse().unwrap();
    assert!(length > 16 * 1024 * 1024);
}

#[tokio::test]
async fn broken_answers() {
    let hundred_megabytes = 100 * 1024 * 1024;
    let truncated = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\":[{\"mess".to_vec();
    let not_utf8 =
        b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 4\r\n\r\n\"\xff\xfe\"".to_vec();
    let nested = format!("{{\"choices\":[],\"x\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    for (answer, code, part) in [
        (Answer::json(200, "<html>hi</html>"), "PT502", "HTML"),
        (Answer::json(200, r#"{"choices":[{"mess"#), "PT502", "too early"),
        (Answer::Raw(truncated), "PT502", "broke"),
        (Answer::Raw(not_utf8), "PT502", "not a completion"),
        (Answer::json(200, ""), "PT502", "empty"),
        (Answer::json(200, "[1]"), "PT502", "not a completion"),
        (Answer::json(200, r#"{"choices":[],"x":1e999999}"#), "PT502", "no choice"),
        (Answer::json(200, nested), "PT502", "no choice"),
        (Answer::json(200, r#"{"error":{"code":402,"message":"no credit"}}"#), "PT402", "402"),
        (Answer::json(200, r#"{"error":{"message":"boom"},"choices":[]}"#), "PT502", "502"),
        (Answer::Endless(hundred_megabytes), "PT502", "larger than"),
        (Answer::Raw(vec![]), "PT502", "broke"),
        (Answer::Raw(b"garbage\r\n\r\n".to_vec()), "PT502", "broke"),
        (Answer::json(500, "<html>"), "PT502", "500"),
        (
            Answer::Full(302, vec![("location", "/v1/elsewhere".into())], String::new()),
            "PT502",
            "redirect",
        ),
    ] {
        let shown = format!("{answer:?}");
        let upstream = Upstream::start(move |_| answer.clone()).await;
        let (_database, root) = ready(&upstream).await;
        let (state, message) = failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
        assert_eq!(state, code, "{} {message}", &shown[..shown.len().min(90)]);
        assert!(message.contains(part) && message.contains("standin"), "{message}");
        goes_on(&root).await;
        assert_eq!(upstream.chats().len(), 1);
        assert_eq!(upstream.seen().iter().filter(|s| s.path.contains("elsewhere")).count(), 0);
        let log = rows(
            &root,
            "SELECT status, cost_estimate IS NULL OR http_status >= 400 FROM aggregator_usage_logs",
        )
        .await;
        assert_eq!(log, ["error|t"], "{message}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    // A port that is taken, so that nobody else gets it, and at which nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    root.batch_execute(&format!(
        "UPDATE api_providers SET base_url = 'http://127.0.0.1:{port}/v1' WHERE name = 'standin';
         SELECT save_provider_key('standin', 'sk-good-4', p_validate => false)"
    ))
    .await
    .unwrap();
    let (code, message) = failure(&root, &chat_sql(r#"{"max_retries": 1}"#)).await;
    assert_eq!(code, "PT502");
    assert!(message.contains("could not be reached"), "{message}");
    assert_eq!(
        rows(
            &root,
            "SELECT attempt, error_code, cost_estimate FROM aggregator_usage_logs ORDER BY 1"
        )
        .await,
        ["1|unreachable|0", "2|unreachable|0"]
    );
    // Nothing left: no request.
    assert_eq!(rows(&root, "SELECT requests FROM calculate_provider_costs(NULL)").await, ["0"]);
}

#[tokio::test]
async fn a_wrong_key_is_an_error_that_does_not_name_it() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    value(
        &root,
        "SELECT save_provider_key('standin', 'zz-wrong-key-0123456789', p_validate => false)",
    )
    .await;
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT401");
    assert!(!message.contains("zz-wrong-key") && message.contains("invalid_api_key"), "{message}");
    assert_eq!(
        rows(&root, "SELECT http_status, error_code FROM aggregator_usage_logs").await,
        ["401|invalid_api_key"]
    );
}

#[tokio::test]
async fn memory_is_bounded_over_all_calls() {
    let cluster = Cluster::start(
        "memory",
        "aggregator.max_memory = 4MB\naggregator.max_response_size = 64MB",
    );
    let upstream = Upstream::start(|seen| {
        if seen.body.len() > 1000 { Answer::hello() } else { Answer::Endless(32 * 1024 * 1024) }
    })
    .await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT save_provider_key('standin', 'sk-good-5', p_validate => false)")
        .await
        .unwrap();
    let big = format!("[{{\"role\":\"user\",\"content\":\"{}\"}}]", "x".repeat(5_000_000));
    let (code, message) =
        failure(&root, &format!("SELECT chat_complete('m', {})", quoted(&big))).await;
    assert_eq!(code, "PT503", "{message}");
    assert_eq!(upstream.chats().len(), 0);
    // An answer that grows too large is cut off; the attempt is in the log.
    let (code, _) = failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
    assert_eq!(code, "PT503");
    assert_eq!(
        rows(&root, "SELECT status, error_code FROM aggregator_usage_logs").await,
        ["error|out_of_memory"]
    );
    // And what was held is given back.
    let fits = format!("[{{\"role\":\"user\",\"content\":\"{}\"}}]", "x".repeat(500_000));
    value(&root, &format!("SELECT chat_complete('m', {})", quoted(&fits))).await.unwrap();
}
