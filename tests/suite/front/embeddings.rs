//! Embeddings over HTTP.

use super::{Bed, Request, Response, token};
use crate::bed::{eventually, failure, rows, value};
use crate::embeddings::{add_embedder, embeds, texts, vector_of};
use crate::fixtures::{add_named, user};
use crate::upstream::{Answer, Upstream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

fn asks(more: Value) -> Request {
    let mut body = json!({"model": "e", "input": "hi"});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Request::new("POST", "/v1/embeddings").bearer(&token::of("u-1")).json(body.to_string())
}

/// A database with the provider `standin` and its model `e`, for which u-1 has a key.
async fn ready(upstream: &Upstream) -> Bed {
    let bed = Bed::new().await;
    add_embedder(&bed.root, "standin", "openai", upstream).await;
    user(&bed.database, "u-1").await;
    bed
}

fn embedding(response: &Response, place: usize) -> Value {
    response.json()["data"][place]["embedding"].clone()
}

#[tokio::test]
async fn an_answer_is_openais_with_its_cost() {
    let upstream = Upstream::start(embeds).await;
    let bed = ready(&upstream).await;
    let response = bed.send(&asks(json!({"input": ["hi", "hello"], "user": "x"}))).await;
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("e-served")));
    for (place, text) in ["hi", "hello"].iter().enumerate() {
        let item = &answer["data"][place];
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(place)));
        assert_eq!(item["embedding"], json!(vector_of(text)));
    }
    assert_eq!(answer["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
    assert_eq!(answer["aggregator"]["provider"], "standin");
    assert_eq!(response.header("x-aggregator-provider"), Some("standin"));
    assert_eq!(response.header("x-aggregator-cost"), Some("0.000014"));
    let id = response.header("x-request-id").unwrap();
    assert_eq!(answer["aggregator"]["usage_log_id"], id);
    let logged = format!(
        "SELECT user_id, model_id, status, prompt_tokens, completion_tokens, cost_estimate
         FROM aggregator_usage_logs WHERE call_id = '{id}'"
    );
    assert_eq!(rows(&bed.root, &logged).await, ["u-1|e|success|7|0|0.000014"]);
    // Half of the bytes are asked for, whoever asks in what form.
    let sent = upstream.chats()[0].json();
    assert_eq!((&sent["encoding_format"], &sent["user"]), (&json!("base64"), &json!("x")));
}

#[tokio::test]
async fn vectors_come_as_they_are_asked_for() {
    let upstream = Upstream::start(embeds).await;
    let bed = ready(&upstream).await;
    let base64 = bed.send(&asks(json!({"encoding_format": "base64"}))).await;
    assert_eq!(embedding(&base64, 0), json!("AAAAQAAA0EIAAAA/"));
    let float = bed.send(&asks(json!({"encoding_format": "float", "dimensions": 3}))).await;
    assert_eq!(embedding(&float, 0), json!(vector_of("hi")));
    let sent = upstream.chats()[1].json();
    assert_eq!((&sent["encoding_format"], &sent["dimensions"]), (&json!("float"), &json!(3)));
    // From one who gives lists whatever is asked.
    let list = r#"{"data":[{"embedding":[2,104,0.5]}],"usage":{"prompt_tokens":1}}"#;
    let lists = Upstream::start(move |_| Answer::json(200, list)).await;
    let bed = ready(&lists).await;
    let base64 = bed.send(&asks(json!({"encoding_format": "base64"}))).await;
    assert_eq!(embedding(&base64, 0), json!("AAAAQAAA0EIAAAA/"));
    assert_eq!(base64.json()["model"], "e", "where the upstream says none");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_openais_form() {
    let upstream = Upstream::start(embeds).await;
    let bed = ready(&upstream).await;
    for (more, param) in [
        (json!({"input": [1, 2, 3]}), json!("input")),
        (json!({"input": [[1, 2], [3]]}), json!("input")),
        (json!({"input": []}), json!("input")),
        (json!({"input": ""}), json!("input")),
        (json!({"input": null}), json!("input")),
        (json!({"input": vec!["x"; 2049]}), json!("input")),
        (json!({"dimensions": "many"}), json!("dimensions")),
        (json!({"encoding_format": "int8"}), json!("encoding_format")),
        (json!({"models": ["f"]}), json!("models")),
        (json!({"stream": true}), json!("stream")),
        (json!({"model": null}), json!("model")),
    ] {
        let response = bed.send(&asks(more.clone())).await;
        assert_eq!(response.status, 400, "{more}: {response:?}");
        let error = &response.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{more}");
        assert_eq!(error["param"], param, "{more}: {error}");
    }
    let tokens = bed.send(&asks(json!({"input": [1, 2, 3]}))).await;
    assert!(tokens.body.contains("arrays of them are not taken"), "{tokens:?}");
    let unknown = bed.send(&asks(json!({"model": "nosuch"}))).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
    add_named(&bed.root, "claude", "anthropic", &upstream.base_url(), &["c"]).await;
    let own = bed.database.rest("authenticated", Some("u-1")).await;
    crate::fixtures::save_key(&own, "claude", "sk-good-1").await;
    let response = bed.send(&asks(json!({"model": "c"}))).await;
    assert_eq!((response.status, response.code().as_str()), (501, "unsupported"));
    assert_eq!(response.header("x-should-retry"), Some("false"));
    let stranger = Request::new("POST", "/v1/embeddings").json(r#"{"model":"e","input":"x"}"#);
    assert_eq!(bed.send(&stranger).await.status, 401);
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn failures_budgets_and_limits_are_told_as_of_a_chat() {
    let upstream = Upstream::start(|seen| match texts(seen)[0].as_str() {
        "short" => Answer::json(200, r#"{"data":[]}"#),
        "bad" => Answer::json(400, r#"{"error":{"message":"no good","code":"invalid_value"}}"#),
        _ => embeds(seen),
    })
    .await;
    let bed = ready(&upstream).await;
    let broken = bed.send(&asks(json!({"input": "short", "max_retries": 0}))).await;
    assert_eq!(broken.status, 502, "{broken:?}");
    assert_eq!(broken.header("x-should-retry"), Some("false"), "it may have been paid for");
    let bad = bed.send(&asks(json!({"input": "bad"}))).await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "invalid_value"));
    value(&bed.root, "SELECT set_rate_limit(1, p_user_id => 'u-1')").await.unwrap();
    let fits = bed.send(&asks(json!({"timeout_ms": 20_000}))).await;
    assert_eq!(fits.status, 429, "{fits:?}");
    bed.root.batch_execute("DELETE FROM aggregator_rate_limits").await.unwrap();
    value(&bed.root, "SELECT set_budget(0.0000001, p_user_id => 'u-1')").await.unwrap();
    let sent = upstream.chat_count();
    let over = bed.send(&asks(json!({}))).await;
    assert_eq!((over.status, over.code().as_str()), (402, "budget_exceeded"), "{over:?}");
    assert_eq!(upstream.chat_count(), sent);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let bed = ready(&upstream).await;
    let mut stream = bed.connect().await;
    stream.write_all(&asks(json!({})).bytes(bed.port)).await.unwrap();
    upstream.wait_for_chats(1).await;
    drop(stream);
    upstream.wait_for_abort(0).await;
    eventually(&bed.root, "SELECT status FROM aggregator_usage_logs", "cancelled").await;
}

#[tokio::test]
async fn a_gateway_key_embeds_with_the_models_that_it_is_for() {
    let upstream = Upstream::start(embeds).await;
    let bed = ready(&upstream).await;
    let owner = bed.database.rest("authenticated", Some("u-1")).await;
    let key = |models: &str| format!("SELECT key FROM create_gateway_key('k', {models})");
    let fits = value(&owner, &key("'{e}'")).await.unwrap();
    let other = value(&owner, &key("'{other}'")).await.unwrap();
    let ask = |key: &str| {
        Request::new("POST", "/v1/embeddings").bearer(key).json(r#"{"model":"e","input":"hi"}"#)
    };
    assert_eq!(bed.send(&ask(&fits)).await.status, 200);
    let refused = bed.send(&ask(&other)).await;
    assert_eq!((refused.status, upstream.chat_count()), (403, 1), "{refused:?}");
    assert_eq!(
        rows(&bed.root, "SELECT user_id, gateway_key_id IS NOT NULL FROM aggregator_usage_logs")
            .await,
        ["u-1|t"]
    );
    assert_eq!(failure(&owner, "SELECT embed('x', 'nosuch')").await.0, "PT404");
}
