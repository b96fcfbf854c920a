//! What Prometheus reads.

use super::dialects::Both;
use super::{Request, token};
use crate::bed::PATIENCE;
use crate::upstream::Answer;
use serde_json::json;
use std::time::Instant;

#[tokio::test]
async fn what_is_counted_is_told_on_this_machine_and_to_no_proxy() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(both.post("/v1/chat/completions", &body).await.status, 200);
    both.bed.get("/v1/models/a-secret-name").await;
    let began = Instant::now();
    let mut response = both.bed.get("/metrics").await;
    // A call is in flight for a moment longer than its answer.
    while !response.body.contains("aggregator_in_flight 0") && began.elapsed() < PATIENCE {
        response = both.bed.get("/metrics").await;
    }
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

#[tokio::test]
async fn readers_are_told_from_anywhere_and_users_are_not() {
    let bed = super::Bed::new().await;
    bed.root
        .batch_execute(
            "CREATE ROLE m_charts NOLOGIN; CREATE ROLE m_keeper NOLOGIN; CREATE ROLE m_stranger NOLOGIN;
             GRANT m_charts, m_keeper TO authenticator;
             SELECT aggregator_grant('m_charts', 'reader'), aggregator_grant('m_keeper', 'admin'),
                 aggregator_grant('m_stranger', 'reader')",
        )
        .await
        .unwrap();
    let through_a_proxy = || Request::new("GET", "/metrics").header("x-forwarded-for", "1.2.3.4");
    let of = |role: &str| token::with(token::claims("u-1"), json!({"role": role}));
    for (role, expected) in [
        ("m_charts", 200),
        ("m_keeper", 200),
        ("authenticated", 403),
        ("anon", 403),
        // Nobody whose claims are believed may become it.
        ("m_stranger", 403),
        ("postgres", 403),
        ("nobody", 403),
    ] {
        let response = bed.send(&through_a_proxy().bearer(&of(role))).await;
        assert_eq!(response.status, expected, "{role}: {}", response.body);
        assert_eq!(response.body.contains("aggregator_in_flight"), expected == 200, "{role}");
    }
    for bad in [
        "agk_0123456789",
        "x",
        &token::signed(&token::claims("u-1"), "another-secret-of-thirty-two-bytes!"),
    ] {
        assert_eq!(bed.send(&through_a_proxy().bearer(bad)).await.status, 401, "{bad}");
    }
    // What is taken away holds at once.
    let charts = through_a_proxy().bearer(&of("m_charts"));
    bed.root.batch_execute("SELECT aggregator_revoke('m_charts', 'reader')").await.unwrap();
    assert_eq!(bed.send(&charts).await.status, 403);
    bed.root.batch_execute("SELECT aggregator_grant('m_charts', 'reader')").await.unwrap();
    assert_eq!(bed.send(&charts).await.status, 200);
    bed.root.batch_execute("REVOKE m_charts FROM authenticator").await.unwrap();
    assert_eq!(bed.send(&charts).await.status, 403);
    // Readers read, and spend nothing.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let chat = Request::new("POST", "/v1/chat/completions").bearer(&of("m_charts"));
    assert_eq!(bed.send(&chat.json(body.to_string())).await.status, 403);
}
