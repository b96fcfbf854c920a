//! Jobs over HTTP.

use super::dialects::Both;
use super::{Request, token};
use crate::bed::{PATIENCE, rows, value};
use crate::upstream::Answer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
}

fn submit(key: &str, body: &Value) -> Request {
    Request::new("POST", "/v1/jobs").header("idempotency-key", key).json(body.to_string())
}

#[tokio::test]
async fn a_job_is_submitted_once_and_shown_with_its_answer() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let response = both.send(submit("k-1", &chat())).await;
    assert_eq!((response.status, &response.json()["object"]), (202, &"job".into()), "{response:?}");
    let id = response.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(response.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
    // The same once more, and another one under its key.
    assert_eq!(both.send(submit("k-1", &chat())).await.json()["id"], id.as_str());
    let mut other = chat();
    other["seed"] = 1.into();
    let refused = both.send(submit("k-1", &other)).await;
    assert_eq!((refused.status, refused.header("x-should-retry")), (409, Some("false")));
    let job = both.ended(&id).await;
    assert_eq!(job["response"]["choices"][0]["message"]["content"], "hello", "{job}");
    assert_eq!(job["response"]["aggregator"]["job_id"], id.as_str());
    assert!(job["cost"].is_number() && job["error"].is_null(), "{job}");
    assert_eq!(both.openai.chat_count(), 1);
    // It is the same job as in SQL.
    let user = both.bed.database.rest("authenticated", Some("u-1")).await;
    let sql = format!("SELECT status, content FROM chat_result('{id}')");
    assert_eq!(rows(&user, &sql).await, ["succeeded|hello"]);
}

#[tokio::test]
async fn nobody_sees_or_cancels_the_jobs_of_others() {
    let both = Both::new(|_| Answer::Stall, |_| Answer::hello()).await;
    let id = both.send(submit("k", &chat())).await.json()["id"].as_str().unwrap().to_owned();
    for method in ["GET", "DELETE"] {
        let theirs = Request::new(method, &format!("/v1/jobs/{id}")).bearer(&token::of("u-2"));
        let response = both.bed.send(&theirs).await;
        assert_eq!(
            (response.status, response.code().as_str()),
            (404, "unknown_job"),
            "{response:?}"
        );
    }
    let sql =
        format!("SELECT status IN ('queued', 'running') FROM aggregator_jobs WHERE id = '{id}'");
    assert_eq!(value(&both.bed.root, &sql).await.as_deref(), Some("t"));
    let cancel = async || {
        let request = Request::new("DELETE", &format!("/v1/jobs/{id}"));
        let mut response = both.send(request.clone()).await;
        // The main thread waits for no lock longer than some milliseconds, and a busy machine holds one that long.
        let began = Instant::now();
        while response.header("x-should-retry") == Some("true") && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
            response = both.send(request.clone()).await;
        }
        assert_eq!(response.status, 200, "{response:?}");
        response.json()["cancelled"].clone()
    };
    assert_eq!(cancel().await, true);
    assert_eq!(cancel().await, false);
    let sql = format!("SELECT status FROM aggregator_jobs WHERE id = '{id}'");
    assert_eq!(value(&both.bed.root, &sql).await.as_deref(), Some("cancelled"));
}

#[tokio::test]
async fn what_cannot_be_a_job_is_refused_at_once() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let mut streams = chat();
    streams["stream"] = true.into();
    let mut unknown = chat();
    unknown["model"] = "nobody-has-it".into();
    let long = "k".repeat(256);
    for (request, status) in [
        (submit("k", &streams), 400),
        (submit("k", &unknown), 404),
        (submit(&long, &chat()), 400),
        (submit("", &chat()), 400),
        (Request::new("POST", "/v1/jobs").json("{}"), 400),
    ] {
        let response = both.send(request).await;
        assert_eq!(response.status, status, "{response:?}");
    }
    let id = "0190a6f4-5c2e-7bbb-8ccc-0123456789ab";
    let response = both.send(Request::new("GET", &format!("/v1/jobs/{id}"))).await;
    assert_eq!((response.status, response.code().as_str()), (404, "unknown_job"));
    assert_eq!(
        value(&both.bed.root, "SELECT count(*) FROM aggregator_jobs").await.as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn as_many_jobs_wait_as_may_and_no_lock_of_a_user_holds_the_worker() {
    let both = Both::new(|_| Answer::Stall, |_| Answer::hello()).await;
    let mut user = both.bed.database.rest("authenticated", Some("u-1")).await;
    let open = user.transaction().await.unwrap();
    let sql = "SELECT chat_submit('m', '[{\"role\":\"user\",\"content\":\"x\"}]', p_idempotency_key => 'taken')";
    open.batch_execute(sql).await.unwrap();
    // The key is taken by a transaction that nobody ends.
    let began = Instant::now();
    let response = both.send(submit("taken", &chat())).await;
    assert_eq!((response.status, response.code().as_str()), (409, "locked"), "{response:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    open.rollback().await.unwrap();
    assert_eq!(both.send(submit("taken", &chat())).await.status, 202);
}
