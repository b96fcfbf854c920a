//! What Prometheus reads.

use super::Request;
use super::dialects::Both;
use crate::upstream::Answer;
use serde_json::json;

#[tokio::test]
async fn what_is_counted_is_told_on_this_machine_and_to_no_proxy() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(both.post("/v1/chat/completions", &body).await.status, 200);
    both.bed.get("/v1/models/a-secret-name").await;
    let response = both.bed.get("/metrics").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for line in [
        r#"aggregator_http_requests_total{route="chat_completions",status="2xx"} 1"#,
        r#"aggregator_http_calls_total{provider="standin",outcome="success"} 1"#,
        "aggregator_http_attempts_total ",
        "aggregator_in_flight 0",
    ] {
        assert!(response.body.contains(line), "{line} in {}", response.body);
    }
    for private in ["u-1", "a-secret-name", "sk-good"] {
        assert!(!response.body.contains(private), "{}", response.body);
    }
    for name in ["x-forwarded-for", "forwarded", "via", "x-real-ip"] {
        let response =
            both.bed.send(&Request::new("GET", "/metrics").header(name, "1.2.3.4")).await;
        assert_eq!(response.status, 401, "{name}");
        assert!(!response.body.contains("aggregator_http"));
    }
}
