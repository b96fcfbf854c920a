//! What the headers of every answer say.

use super::clients::{anthropic, openai};
use super::dialects::Both;
use super::{Bed, Request, calls, send, token};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The same question in each dialect: where it goes, and as what.
fn asked(model: &str, text: &str, more: &Value) -> [(&'static str, Value); 3] {
    let messages = json!([{"role": "user", "content": text}]);
    let mut bodies = [
        ("/v1/chat/completions", json!({"model": model, "messages": messages})),
        ("/v1/messages", json!({"model": model, "messages": messages, "max_tokens": 100})),
        ("/v1/responses", json!({"model": model, "input": text})),
    ];
    for (_, body) in &mut bodies {
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
    }
    bodies
}

#[tokio::test]
async fn a_stream_says_who_answers_in_each_dialect() {
    let both = Both::new(openai, anthropic).await;
    let elsewhere = json!({"stream": true, "max_retries": 0, "models": ["claude-x"]});
    for (model, text, more, provider) in [
        ("m", "hi", json!({"stream": true}), "standin"),
        ("claude-x", "hi", json!({"stream": true}), "claude"),
        // The first one that is asked has nothing to say.
        ("m", "fail with 500", elsewhere, "claude"),
    ] {
        for (path, body) in asked(model, text, &more) {
            let response = both.post(path, &body).await;
            assert_eq!(response.status, 200, "{path} {body}: {response:?}");
            assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
            assert_eq!(response.header("x-aggregator-provider"), Some(provider), "{path} {body}");
            let logged = both.row(&response).await;
            assert!(logged.last().is_some_and(|row| row.starts_with("success|")), "{logged:?}");
        }
    }
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let bed = Bed::new().await;
    let get = |path: &str| Request::new("GET", path);
    let known = |request: Request| request.bearer(&token::of("u-1"));
    let mut seen = HashSet::new();
    for (status, request) in [
        (200, get("/health")),
        (200, get("/ready")),
        (200, get("/metrics")),
        (200, known(get("/v1/models"))),
        (204, Request::new("OPTIONS", "/v1/chat/completions")),
        (400, known(Request::new("POST", "/v1/chat/completions").json("{"))),
        (400, known(Request::new("POST", "/v1/messages").json("{"))),
        (401, get("/v1/models")),
        (401, Request::new("POST", "/v1/messages").json("{}")),
        (404, get("/nothing")),
        (404, known(get("/v1/models/nobody-has-it"))),
        (404, calls::chat("u-1", json!({"stream": true}))),
        (405, get("/v1/chat/completions")),
        (413, known(Request::new("POST", "/v1/responses").json(vec![b' '; (1 << 20) + 1]))),
        (415, known(Request::new("POST", "/v1/responses"))),
        (400, known(Request::new("POST", "/v1/embeddings").json("{}"))),
    ] {
        let response = bed.send(&request).await;
        assert_eq!(response.status, status, "{response:?}");
        let id = response.header("x-request-id").expect("it has one").to_owned();
        assert_eq!(response.header("request-id"), Some(id.as_str()));
        assert!(id.parse::<uuid::Uuid>().is_ok() && seen.insert(id), "{response:?}");
    }
    // One is not taken from whoever asks.
    let request = get("/health").header("x-request-id", "theirs").bytes(bed.port);
    let response = send(bed.connect().await, &request).await;
    assert_ne!(response.header("x-request-id"), Some("theirs"));
}
