//! The dialects: what clients of each send and get, whoever serves it.

use super::{Bed, Request, Response, token};
use crate::bed::{PATIENCE, eventually, rows, value};
use crate::fixtures::{add_named, add_provider, save_key};
use crate::upstream::{Answer, Piece, Seen, Upstream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Models of OpenAI's form at `standin`, and of Anthropic's at `claude`, with keys of the user `u-1` for both.
pub struct Both {
    pub bed: Bed,
    pub openai: Upstream,
    pub claude: Upstream,
}

impl Both {
    pub async fn new(
        openai: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
        claude: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let bed = Bed::new().await;
        let (openai, claude) = (Upstream::start(openai).await, Upstream::raw(claude).await);
        add_provider(&bed.root, &openai).await;
        bed.root
            .batch_execute(
                "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
                 SELECT id, 'v/m', 'v/m', 'v/m', '{\"input\": 2, \"output\": 10}'
                 FROM api_providers WHERE name = 'standin'",
            )
            .await
            .expect("it is added");
        bed.root
            .batch_execute(
                "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, model_type, pricing)
                 SELECT id, 'e', 'e', 'e', 'embedding', '{\"input\": 2}'
                 FROM api_providers WHERE name = 'standin'",
            )
            .await
            .expect("it is added");
        add_named(&bed.root, "claude", "anthropic", &claude.base_url(), &["claude-x"]).await;
        let user = bed.database.rest("authenticated", Some("u-1")).await;
        save_key(&user, "standin", "sk-good-0123456789abcdef").await;
        save_key(&user, "claude", "sk-ant-0123456789abcdef").await;
        Self { bed, openai, claude }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Request::new("POST", path).json(body.to_string())).await
    }

    /// Posts until the upstream is reached: on a busy machine a short time may be over before.
    pub async fn post_until_sent(&self, path: &str, body: &Value) -> Response {
        let began = Instant::now();
        loop {
            let sent = self.openai.chat_count();
            let response = self.post(path, body).await;
            if self.openai.chat_count() > sent || began.elapsed() > PATIENCE {
                return response;
            }
        }
    }

    pub async fn send(&self, request: Request) -> Response {
        self.bed.send(&request.bearer(&token::of("u-1"))).await
    }

    /// What the ledger has of the call of an answer.
    pub async fn row(&self, response: &Response) -> Vec<String> {
        let id = response.header("x-request-id").expect("it has an id");
        let sql = format!(
            "SELECT status, model_id, prompt_tokens, completion_tokens, cost_source
             FROM aggregator_usage_logs WHERE call_id = '{id}' ORDER BY attempt"
        );
        let began = Instant::now();
        loop {
            let found = rows(&self.bed.root, &sql).await;
            let is_settled =
                !found.is_empty() && !found.iter().any(|row| row.starts_with("pending|"));
            if is_settled || began.elapsed() > PATIENCE {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for a job until it has ended, and gives it back.
    pub async fn ended(&self, job: &str) -> Value {
        let began = Instant::now();
        loop {
            let response = self.send(Request::new("GET", &format!("/v1/jobs/{job}"))).await;
            assert_eq!(response.status, 200, "{response:?}");
            let job = response.json();
            if !job["finished_at"].is_null() || began.elapsed() > PATIENCE {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The events of a stream: their names, and their data.
pub fn events(body: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for event in body.split("\n\n").filter(|event| !event.is_empty()) {
        let mut name = None;
        for line in event.lines() {
            if let Some(said) = line.strip_prefix("event: ") {
                name = Some(said.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                found.push((name.take(), data.to_owned()));
            } else {
                assert!(line.starts_with(':'), "{line} in {body}");
            }
        }
    }
    found
}

fn names(body: &str) -> Vec<String> {
    events(body).into_iter().map(|(name, _)| name.unwrap_or_default()).collect()
}

fn refuses(_: &Seen) -> Answer {
    Answer::json(500, "{}")
}

fn message(text: &str) -> Answer {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "EqQB"}, {"type": "text", "text": text}],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 100, "output_tokens": 50, "server_tool_use": {"web_search_requests": 0}}});
    Answer::json(200, message.to_string())
}

fn named(name: &str, mut data: Value) -> Piece {
    data["type"] = name.into();
    Piece::Event(name.to_owned(), data.to_string())
}

/// A stream of Anthropic's, with what nobody here knows in it.
fn message_stream() -> Answer {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 100, "output_tokens": 1}});
    Answer::Stream(vec![
        named("message_start", json!({"message": message})),
        named("ping", json!({})),
        named(
            "content_block_start",
            json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        named(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "text_delta", "text": "hel"}, "x": 1.50}),
        ),
        named(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "text_delta", "text": "lo"}}),
        ),
        named("content_block_stop", json!({"index": 0})),
        named("something_new", json!({"y": 1})),
        named(
            "message_delta",
            json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 50}}),
        ),
        named("message_stop", json!({})),
    ])
}

fn asks(model: &str) -> Value {
    json!({"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn a_message_is_answered_by_a_provider_of_openais_form() {
    let both = Both::new(|_| Answer::hello(), refuses).await;
    let mut body = asks("m");
    body["system"] = json!([{"type": "text", "text": "be brief"}]);
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 2000});
    let response = both.post("/v1/messages?beta=true", &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    let message = response.json();
    assert_eq!(message["type"], "message");
    assert_eq!(message["content"], json!([{"type": "text", "text": "hello"}]));
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(message["usage"]["output_tokens"], 5);
    assert_eq!(message["aggregator"]["usage_log_id"].as_str(), response.header("x-request-id"));
    assert_eq!(response.header("request-id"), response.header("x-request-id"));
    assert_eq!(response.header("x-aggregator-provider"), Some("standin"));
    let sent = both.openai.chats()[0].json();
    assert_eq!(sent["messages"][0]["content"], "be brief");
    assert!(sent.get("thinking").is_none() && sent.get("system").is_none(), "{sent}");
    assert_eq!(both.row(&response).await, ["success|m|10|5|computed"]);
}

#[tokio::test]
async fn a_stream_of_openais_form_becomes_events_of_a_message() {
    let usage = crate::upstream::USAGE;
    let stream = || Answer::streams(&["hel", "lo"], Duration::from_millis(5), Some(usage));
    let both = Both::new(move |_| stream(), refuses).await;
    let mut body = asks("m");
    body["stream"] = true.into();
    let response = both.post("/v1/messages", &body).await;
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(
        names(&response.body),
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    for (name, data) in events(&response.body) {
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(data["type"].as_str(), name.as_deref());
    }
    assert_eq!(both.row(&response).await, ["success|m|10|5|computed"]);
}

#[tokio::test]
async fn who_speaks_anthropic_gets_the_body_as_it_came() {
    let both = Both::new(refuses, |_| message("hello")).await;
    let mut body = asks("claude-x");
    body["system"] =
        json!([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 2000, "display": "summarized"});
    body["top_k"] = 5.into();
    body["tools"] = json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]);
    body["timeout_ms"] = 600_000.into();
    body["tags"] = json!(["t"]);
    let request = Request::new("POST", "/v1/messages")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "a-1,b-2")
        .json(body.to_string());
    let response = both.send(request).await;
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    // Members that no other form has.
    assert_eq!(answer["content"][0]["signature"], "EqQB");
    assert_eq!(answer["usage"]["server_tool_use"]["web_search_requests"], 0);
    assert_eq!(answer["model"], "claude-served");
    assert_eq!(answer["aggregator"]["provider"], "claude");
    let seen = &both.claude.chats()[0];
    let sent = seen.json();
    for name in ["system", "thinking", "top_k", "tools", "messages", "max_tokens"] {
        assert_eq!(sent[name], body[name], "{name}");
    }
    for ours in ["timeout_ms", "tags", "stream"] {
        assert!(sent.get(ours).is_none(), "{sent}");
    }
    assert_eq!(seen.header("anthropic-beta"), Some("a-1,b-2"));
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert!(seen.header("authorization").is_none());
    // 100 in at 2 and 50 out at 10 USD per million.
    let cost = answer["aggregator"]["cost"].as_f64().unwrap();
    assert!((cost - 0.0007).abs() < 1e-12, "{cost}");
    assert_eq!(both.row(&response).await, ["success|claude-x|100|50|computed"]);
}

#[tokio::test]
async fn a_stream_of_anthropics_own_goes_as_it_came() {
    let both = Both::new(refuses, |_| message_stream()).await;
    let mut body = asks("claude-x");
    body["stream"] = true.into();
    let response = both.post("/v1/messages", &body).await;
    let found = events(&response.body);
    let Answer::Stream(pieces) = message_stream() else { panic!() };
    let sent: Vec<(Option<String>, String)> = pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Event(name, data) => (Some(name), data),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, sent);
    assert_eq!(both.claude.chats()[0].json()["stream"], true);
    assert_eq!(both.row(&response).await, ["success|claude-x|100|50|computed"]);
}

#[tokio::test]
async fn a_fallback_to_another_form_gets_the_translated_body() {
    for streams in [false, true] {
        let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
        let both = Both::new(
            move |_| match streams {
                true => Answer::streams(&["hello"], Duration::ZERO, Some(crate::upstream::USAGE)),
                false => Answer::hello(),
            },
            move |_| Answer::json(529, overloaded),
        )
        .await;
        let mut body = asks("claude-x");
        body["models"] = json!(["m"]);
        body["max_retries"] = 0.into();
        body["stream"] = streams.into();
        body["thinking"] = json!({"type": "adaptive"});
        let response = both.post("/v1/messages", &body).await;
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.body.contains("hello"), "{response:?}");
        assert_eq!(both.claude.chats()[0].json()["thinking"]["type"], "adaptive");
        assert!(both.openai.chats()[0].json().get("thinking").is_none());
        let rows = both.row(&response).await;
        assert_eq!(rows.last().map(String::as_str), Some("success|m|10|5|computed"), "{rows:?}");
    }
}

#[tokio::test]
async fn what_only_anthropic_knows_is_told_to_nobody_else() {
    let both = Both::new(
        |_| Answer::hello(),
        |_| {
            Answer::json(
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#,
            )
        },
    )
    .await;
    let mut body = asks("m");
    body["tools"] = json!([{"type": "web_search_20250305", "name": "web_search"}]);
    let response = both.post("/v1/messages", &body).await;
    assert_eq!(response.status, 400, "{response:?}");
    let error = response.json();
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert_eq!(error["request_id"].as_str(), response.header("request-id"));
    // Behind one that knows it, too.
    body["model"] = "claude-x".into();
    body["models"] = json!(["m"]);
    both.post("/v1/messages", &body).await;
    assert_eq!((both.claude.chat_count(), both.openai.chat_count()), (1, 0));
}

#[tokio::test]
async fn each_version_of_the_api_refuses_what_it_does_not_have() {
    let both = Both::new(|_| Answer::hello(), refuses).await;
    let mut body = asks("m");
    body["temperature"] = 1.into();
    for (version, status) in [("2023-06-01", 200), ("2026-10-21", 400), ("2024-01-01", 400)] {
        let request = Request::new("POST", "/v1/messages")
            .header("anthropic-version", version)
            .json(body.to_string());
        let response = both.send(request).await;
        assert_eq!(response.status, status, "{version} {response:?}");
    }
    let request = Request::new("POST", "/v1/messages")
        .header("anthropic-beta", &"x,".repeat(100).replace('x', "abc"))
        .json(asks("m").to_string());
    assert_eq!(both.send(request).await.status, 200);
    let many: Vec<String> = (0..65).map(|beta| format!("b{beta}")).collect();
    let request = Request::new("POST", "/v1/messages")
        .header("anthropic-beta", &many.join(","))
        .json(asks("m").to_string());
    assert_eq!(both.send(request).await.status, 400);
}

#[tokio::test]
async fn tokens_are_counted_without_a_provider() {
    let both = Both::new(refuses, refuses).await;
    let response = both.post("/v1/messages/count_tokens", &asks("claude-x")).await;
    assert_eq!(response.status, 200);
    assert!(
        response.json()["input_tokens"].as_i64().is_some_and(|tokens| (1..50).contains(&tokens))
    );
    let response = both.post("/v1/messages/count_tokens", &json!({"model": "m"})).await;
    assert_eq!(
        (response.status, response.json()["error"]["type"].clone()),
        (400, "invalid_request_error".into())
    );
    assert_eq!(both.claude.chat_count() + both.openai.chat_count(), 0);
}

#[tokio::test]
async fn a_budget_takes_edits_of_the_context_and_names_what_has_no_bound() {
    let both = Both::new(refuses, |_| message("hello")).await;
    value(&both.bed.root, "SELECT set_budget(1, p_user_id => 'u-1', p_keys => 'all')").await;
    let mut body = asks("claude-x");
    body["context_management"] =
        json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]});
    let response = both.post("/v1/messages", &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(both.claude.chats()[0].json()["context_management"], body["context_management"]);
    body["context_management"] = json!({"edits": [{"type": "compact_20260112"}]});
    let response = both.post("/v1/messages", &body).await;
    assert_eq!(
        (response.status, response.json()["error"]["type"].clone()),
        (402, "billing_error".into())
    );
    assert!(response.body.contains("compact_20260112"), "{response:?}");
    assert_eq!(response.header("x-should-retry"), None);
    assert_eq!(both.claude.chat_count(), 1);
}

#[tokio::test]
async fn a_response_is_a_chat_in_other_words() {
    let both = Both::new(|_| Answer::hello(), refuses).await;
    let body =
        json!({"model": "m", "instructions": "be brief", "input": "hi", "max_output_tokens": 50});
    let response = both.post("/v1/responses", &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    let found = response.json();
    assert_eq!(
        (found["object"].as_str(), found["status"].as_str()),
        (Some("response"), Some("completed"))
    );
    assert_eq!(found["output"][0]["content"][0]["text"], "hello");
    assert_eq!(found["usage"]["output_tokens"], 5);
    assert_eq!(found["aggregator"]["provider"], "standin");
    let sent = both.openai.chats()[0].json();
    assert_eq!(sent["max_completion_tokens"], 50);
    assert_eq!(sent["messages"][0]["content"], "be brief");
    let mut stored = body.clone();
    stored["previous_response_id"] = "resp_1".into();
    let response = both.post("/v1/responses", &stored).await;
    assert_eq!(
        (response.status, response.json()["error"]["param"].clone()),
        (400, "previous_response_id".into())
    );
    assert_eq!(both.openai.chat_count(), 1);
}

#[tokio::test]
async fn a_response_is_streamed_in_the_order_that_clients_check() {
    let usage = crate::upstream::USAGE;
    let stream = || Answer::streams(&["hel", "lo"], Duration::from_millis(5), Some(usage));
    let both = Both::new(move |_| stream(), refuses).await;
    let body = json!({"model": "m", "input": [{"role": "user", "content": "hi"}], "stream": true});
    let response = both.post("/v1/responses", &body).await;
    let found = names(&response.body);
    assert_eq!(found.first().map(String::as_str), Some("response.created"), "{response:?}");
    assert_eq!(found.last().map(String::as_str), Some("response.completed"));
    for (place, (_, data)) in events(&response.body).iter().enumerate() {
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["sequence_number"], place);
    }
    assert_eq!(both.row(&response).await, ["success|m|10|5|computed"]);
}

#[tokio::test]
async fn a_stream_that_says_nothing_yet_goes_on_with_another_provider() {
    let cut = || Answer::Stream(vec![Piece::role(), Piece::Cut]);
    let both = Both::new(move |_| cut(), |_| message_stream()).await;
    let body = json!({"model": "m", "models": ["claude-x"], "stream": true, "max_retries": 0,
        "messages": [{"role": "user", "content": "hi"}]});
    let response = both.post("/v1/chat/completions", &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    let found = events(&response.body);
    assert_eq!(found.last().map(|(_, data)| data.as_str()), Some("[DONE]"));
    let roles = response.body.matches(r#""role":"assistant""#).count();
    assert_eq!(roles, 1, "{response:?}");
    let rows = both.row(&response).await;
    assert!(rows.last().is_some_and(|row| row.starts_with("success|claude-x")), "{rows:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so_in_each_dialect_and_is_not_sent_again() {
    let cut = || Answer::Stream(vec![Piece::role(), Piece::text("hel"), Piece::Cut]);
    let both = Both::new(move |_| cut(), refuses).await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "m", "stream": true, "messages": messages})),
        (
            "/v1/messages",
            json!({"model": "m", "stream": true, "max_tokens": 9, "messages": messages}),
        ),
        ("/v1/responses", json!({"model": "m", "stream": true, "input": "hi"})),
    ] {
        let before = both.openai.chat_count();
        let response = both.post(path, &body).await;
        assert_eq!(response.status, 200, "{response:?}");
        assert!(!response.body.contains("[DONE]") && response.body.contains("hel"), "{response:?}");
        let (name, data) = events(&response.body).pop().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        match path {
            "/v1/chat/completions" => assert_eq!(data["error"]["type"], "api_error"),
            "/v1/messages" => {
                assert_eq!(
                    (name.as_deref(), &data["error"]["type"]),
                    (Some("error"), &"api_error".into())
                );
            }
            _ => {
                assert_eq!(name.as_deref(), Some("response.failed"));
                assert_eq!(data["response"]["error"]["code"], "server_error");
            }
        }
        assert_eq!(both.openai.chat_count(), before + 1);
        let rows = both.row(&response).await;
        assert!(rows.len() == 1 && rows[0].starts_with("error|m|"), "{rows:?}");
    }
}

#[tokio::test]
async fn whether_to_send_again_follows_from_what_may_have_been_paid() {
    let both = Both::new(
        |seen| match seen.json()["seed"].as_i64() {
            Some(1) => Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
            Some(2) => Answer::Full(429, vec![("retry-after", "7".to_owned())], "{}".to_owned()),
            Some(3) => Answer::json(400, r#"{"error":{"message":"wrong"}}"#),
            Some(4) => Answer::Stall,
            _ => Answer::json(500, "{}"),
        },
        refuses,
    )
    .await;
    for (seed, timeout_ms, status, again) in [
        (1, 600_000, 502, Some("false")),
        (2, 600_000, 429, Some("true")),
        (3, 600_000, 400, None),
        (4, 300, 504, Some("false")),
        (5, 600_000, 502, Some("false")),
    ] {
        for path in ["/v1/chat/completions", "/v1/messages"] {
            for streams in [false, true] {
                let body = json!({"model": "m", "max_retries": 0, "timeout_ms": timeout_ms, "stream": streams,
                    "extra_body": {"seed": seed}, "max_tokens": 9,
                    "messages": [{"role": "user", "content": "hi"}]});
                let response = both.post_until_sent(path, &body).await;
                assert_eq!(response.status, status, "{seed} {path} {response:?}");
                assert_eq!(response.header("x-should-retry"), again, "{seed} {path} {response:?}");
                if seed == 2 {
                    assert_eq!(response.header("retry-after"), Some("7"));
                    assert_eq!(response.header("retry-after-ms"), Some("7000"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_call() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stalls = || Answer::Stream(vec![Piece::role(), Piece::text("hel"), Piece::Stall]);
    let both = Both::new(move |_| stalls(), refuses).await;
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        let body = json!({"model": "m", "stream": true, "max_tokens": 9, "input": "hi",
            "messages": [{"role": "user", "content": "hi"}]});
        let request = Request::new("POST", path).json(body.to_string()).bearer(&token::of("u-1"));
        let mut stream = both.bed.connect().await;
        stream.write_all(&request.bytes(both.bed.port)).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("hel") {
            let mut portion = [0; 4096];
            let count = stream.read(&mut portion).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&portion[..count]);
        }
        drop(stream);
        let sql = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'";
        eventually(&both.bed.root, sql, "0").await;
    }
    let sql = "SELECT count(*) FROM aggregator_usage_logs
               WHERE status = 'cancelled' AND cost_source = 'incomplete' AND completion_tokens > 0";
    eventually(&both.bed.root, sql, "3").await;
}
