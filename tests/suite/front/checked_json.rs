//! Answers that are checked, over HTTP.

use super::Request;
use super::dialects::Both;
use crate::bed::rows;
use crate::checked_json::{GOOD, PERSON, calls};
use crate::upstream::{Answer, USAGE, in_turn};
use serde_json::{Value, json};

const BAD: &str = r#"{"name":"Ann"}"#;

fn asks(check: Value) -> Value {
    let schema: Value = serde_json::from_str(PERSON).unwrap();
    json!({
        "model": "m", "messages": [{"role": "user", "content": "who?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}, "check": check},
    })
}

fn says(text: &str) -> Answer {
    Answer::says(text, USAGE)
}

#[tokio::test]
async fn a_format_with_check_is_checked_and_repaired() {
    let both = Both::new(in_turn(vec![says(BAD), says(&format!("So: {GOOD}")), says(BAD)]), |_| {
        Answer::hello()
    })
    .await;
    let response = both.post("/v1/chat/completions", &asks(true.into())).await;
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    assert_eq!(answer["choices"][0]["message"]["content"], GOOD);
    assert_eq!(answer["parsed"], json!({"name": "Ann", "age": 7}));
    assert_eq!(response.header("x-aggregator-cost"), Some("0.00014"));
    assert_eq!(both.openai.chat_count(), 2);
    // As it is without it: for the provider alone.
    let response = both.post("/v1/chat/completions", &asks(false.into())).await;
    assert_eq!((response.status, response.json().get("parsed")), (200, None));
    let sent = both.openai.chats().pop().unwrap().json();
    assert_eq!(
        sent["response_format"],
        json!({"type": "json_schema",
        "json_schema": {"name": "person", "schema": serde_json::from_str::<Value>(PERSON).unwrap()}})
    );
}

#[tokio::test]
async fn one_that_never_fits_is_422_and_not_sent_again() {
    let both = Both::new(|_| says(BAD), |_| Answer::hello()).await;
    let mut body = asks(true.into());
    body["max_repairs"] = 1.into();
    let response = both.post("/v1/chat/completions", &body).await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (422, "schema_violation"),
        "{response:?}"
    );
    assert_eq!(response.header("x-should-retry"), Some("false"));
    let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("\"age\" is a required property") && message.contains(BAD),
        "{message}"
    );
    assert_eq!(both.openai.chat_count(), 2);
}

#[tokio::test]
async fn what_was_paid_for_is_not_bought_again_because_a_repair_would_wait() {
    let both = Both::new(|_| says(BAD), |_| Answer::hello()).await;
    both.bed.root.batch_execute("SELECT set_rate_limit(1)").await.unwrap();
    let response = both.post("/v1/chat/completions", &asks(true.into())).await;
    assert_eq!((response.status, response.header("x-should-retry")), (429, Some("false")));
    assert_eq!(both.openai.chat_count(), 1);
}

#[tokio::test]
async fn what_cannot_be_checked_is_400_before_anything_is_sent() {
    let both = Both::new(|_| says(GOOD), |_| Answer::hello()).await;
    let mut streamed = asks(true.into());
    streamed["stream"] = true.into();
    let mut remote = asks(true.into());
    remote["response_format"]["json_schema"]["schema"] = json!({"$ref": "https://example.com/s"});
    let mut with_tools = asks(true.into());
    with_tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    for body in [streamed, remote, with_tools, asks("yes".into())] {
        for path in ["/v1/chat/completions", "/v1/jobs"] {
            let response = both.post(path, &body).await;
            assert_eq!(response.status, 400, "{path} {body}: {response:?}");
        }
    }
    let message = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "schema": {}});
    assert_eq!(both.post("/v1/messages", &message).await.status, 400);
    let cached =
        Request::new("POST", "/v1/chat/completions").header("x-aggregator-cache", "ttl=60");
    assert_eq!(both.send(cached.json(asks(true.into()).to_string())).await.status, 400);
    assert_eq!(both.openai.chat_count(), 0);
    assert_eq!(rows(&both.bed.root, "SELECT count(*) FROM aggregator_jobs").await, ["0"]);
}

#[tokio::test]
async fn a_job_and_a_model_with_functions_are_checked_too() {
    let both = Both::new(in_turn(vec![calls(BAD), calls(GOOD)]), |_| Answer::hello()).await;
    let can =
        "UPDATE aggregator_models SET capabilities = '{\"functions\": true}' WHERE model_id = 'm'";
    both.bed.root.batch_execute(can).await.unwrap();
    let response = both.post("/v1/jobs", &asks(true.into())).await;
    assert_eq!(response.status, 202, "{response:?}");
    let job = both.ended(response.json()["id"].as_str().unwrap()).await;
    assert_eq!(job["response"]["parsed"], json!({"name": "Ann", "age": 7}), "{job}");
    assert_eq!(job["response"]["choices"][0]["message"]["content"], GOOD);
    assert_eq!(job["cost"].to_string(), "0.00014");
    assert_eq!(both.openai.chat_count(), 2);
}
