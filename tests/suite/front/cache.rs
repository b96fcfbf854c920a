//! The response cache over HTTP: in every dialect, whole and as streams.

use super::calls::{body, chat, events, ready};
use super::dialects::{self, Both};
use super::keys::{self, create, owner};
use super::{Request, Response, token};
use crate::bed::{eventually, value};
use crate::fixtures::user;
use crate::upstream::{Answer, Piece, USAGE, Upstream};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts its answers, which come whole or as streams, as they are asked for.
fn counting() -> impl Fn(&crate::upstream::Seen) -> Answer + Send + Sync + 'static {
    let next = AtomicUsize::new(1);
    move |seen| {
        let n = next.fetch_add(1, Ordering::SeqCst).to_string();
        match seen.json()["stream"] == true {
            true => Answer::streams(&["answer ", &n], Duration::ZERO, Some(USAGE)),
            false => Answer::says(&format!("answer {n}"), USAGE),
        }
    }
}

fn kept(more: Value) -> Value {
    let mut all = json!({"cache": {"ttl": 3600}});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// What a whole answer says, and where its cost comes from.
fn said(response: &Response) -> (String, String) {
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    let text = |value: &Value| value.as_str().unwrap_or("∅").to_owned();
    (text(&answer["choices"][0]["message"]["content"]), text(&answer["aggregator"]["cost_source"]))
}

fn pair(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// What the chunks of a stream say together.
fn streamed(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    let events = events(response);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{response:?}");
    events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_call_is_answered_by_what_was_kept_in_its_body_and_by_its_header() {
    let upstream = Upstream::start(counting()).await;
    let bed = ready(&upstream).await;
    user(&bed.database, "u-2").await;
    let first = bed.send(&chat("u-1", kept(json!({})))).await;
    assert_eq!(said(&first), pair("answer 1", "computed"));
    let again = bed.send(&chat("u-1", kept(json!({})))).await;
    assert_eq!(said(&again), pair("answer 1", "cached"));
    assert_eq!(again.header("x-aggregator-cost"), Some("0"));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    // The header goes before the body.
    let with = |header: &str, more: Value| chat("u-1", more).header("x-aggregator-cache", header);
    assert_eq!(said(&bed.send(&with("ttl=3600", json!({}))).await), pair("answer 1", "cached"));
    assert_eq!(said(&bed.send(&with("off", kept(json!({})))).await), pair("answer 2", "computed"));
    let refresh = with("ttl=3600, refresh", json!({}));
    assert_eq!(said(&bed.send(&refresh).await), pair("answer 3", "computed"));
    let no_store = with("ttl=3600, no-store", json!({"seed": 1}));
    assert_eq!(said(&bed.send(&no_store).await), pair("answer 4", "computed"));
    assert_eq!(said(&bed.send(&no_store).await), pair("answer 5", "computed"));
    for wrong in ["", "on", "ttl=0", "ttl=3600,ttl=3600", "max-age=60"] {
        assert_eq!(bed.send(&with(wrong, json!({}))).await.status, 400, "{wrong}");
    }
    // In two lines it is one list.
    let lines = with("off", json!({})).header("x-aggregator-cache", "ttl=3600");
    assert_eq!(bed.send(&lines).await.status, 400);
    // Nobody else's.
    assert_eq!(said(&bed.send(&chat("u-2", kept(json!({})))).await), pair("answer 6", "computed"));
    // In SQL it is the same call.
    let sql = bed.database.rest("authenticated", Some("u-1")).await;
    let chat_sql = r#"SELECT chat('hi', 'm', '{"cache": {"ttl": 3600}}')"#;
    assert_eq!(value(&sql, chat_sql).await.unwrap(), "answer 3");
    assert_eq!(upstream.chat_count(), 6);
    let metrics = bed.get("/metrics").await.body;
    for line in ["aggregator_cache_hits_total 3", "aggregator_cache_misses_total 4"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(bed.get("/metrics").await.body.contains("aggregator_cache_hits_total 3"));
}

#[tokio::test]
async fn streams_are_kept_and_played_again() {
    let upstream = Upstream::start(counting()).await;
    let bed = ready(&upstream).await;
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    // A stream from a whole answer.
    bed.send(&chat("u-1", kept(json!({})))).await;
    let played = bed.send(&chat("u-1", kept(stream.clone()))).await;
    assert_eq!(streamed(&played), "answer 1");
    let chunks: Vec<Value> =
        events(&played).iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk["id"] == "gen-1" && chunk["model"] == "m-served"));
    let ends: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"])
        .filter(|end| !end.is_null())
        .collect();
    assert_eq!(ends, ["stop"]);
    let last = chunks.last().unwrap();
    assert_eq!(
        (&last["usage"]["total_tokens"], &last["aggregator"]["cost_source"]),
        (&json!(15), &json!("cached"))
    );
    // A whole answer, and a stream, from a stream.
    let other = |stream: bool| kept(json!({"stream": stream, "seed": 1}));
    assert_eq!(streamed(&bed.send(&chat("u-1", other(true))).await), "answer 2");
    assert_eq!(said(&bed.send(&chat("u-1", other(false))).await), pair("answer 2", "cached"));
    assert_eq!(streamed(&bed.send(&chat("u-1", other(true))).await), "answer 2");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_not_kept() {
    let cut = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| match cut.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::Stream(vec![Piece::role(), Piece::text("so f"), Piece::Cut]),
        _ => Answer::streams(&["so far"], Duration::ZERO, Some(USAGE)),
    })
    .await;
    let bed = ready(&upstream).await;
    let ask = || chat("u-1", kept(json!({"stream": true})));
    assert!(!bed.send(&ask()).await.body.contains("[DONE]"));
    assert_eq!(streamed(&bed.send(&ask()).await), "so far");
    assert_eq!(streamed(&bed.send(&ask()).await), "so far");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn every_dialect_has_it() {
    let both = Both::new(counting(), |_| Answer::json(500, "{}")).await;
    let with = |path: &str, body: Value| {
        Request::new("POST", path).header("x-aggregator-cache", "ttl=3600").json(body.to_string())
    };
    let messages = |stream: bool| {
        with(
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}),
        )
    };
    let responses = |stream: bool| {
        with("/v1/responses", json!({"model": "m", "input": "hi", "stream": stream}))
    };
    let text = |response: &Response, pointer: &str| {
        assert_eq!(response.status, 200, "{response:?}");
        response.json().pointer(pointer).and_then(Value::as_str).unwrap_or("∅").to_owned()
    };
    for _ in 0..2 {
        let whole = both.send(messages(false)).await;
        assert_eq!(text(&whole, "/content/0/text"), "answer 1");
        let whole = both.send(responses(false)).await;
        assert_eq!(text(&whole, "/output/0/content/0/text"), "answer 2");
    }
    assert_eq!(both.openai.chat_count(), 2);
    for (request, end) in
        [(messages(true), "message_stop"), (responses(true), "response.completed")]
    {
        let response = both.send(request).await;
        let told = dialects::events(&response.body);
        assert_eq!(told.last().unwrap().0.as_deref(), Some(end), "{response:?}");
    }
    assert_eq!(both.openai.chat_count(), 2, "streams too");
    let sources = "SELECT count(*) FILTER (WHERE cost_source = 'cached') || ' of ' || count(*) FROM aggregator_usage_logs";
    eventually(&both.bed.root, sources, "4 of 6").await;
    let computed = "SELECT count(*) FROM aggregator_usage_logs WHERE cost_source = 'computed'";
    eventually(&both.bed.root, computed, "2").await;
}

#[tokio::test]
async fn a_request_that_goes_as_it_came_is_asked_each_time() {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "c",
        "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 5}});
    let both = Both::new(counting(), move |_| Answer::json(200, message.to_string())).await;
    let body = json!({"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    for asked in 1..=2 {
        let request = Request::new("POST", "/v1/messages")
            .header("x-aggregator-cache", "ttl=3600")
            .json(body.to_string());
        assert_eq!(both.send(request).await.status, 200);
        assert_eq!(both.claude.chat_count(), asked);
    }
    // In OpenAI's form it is kept like any other.
    for _ in 0..2 {
        let chat = json!({"model": "claude-x", "cache": {"ttl": 3600}, "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(both.post("/v1/chat/completions", &chat).await.status, 200);
    }
    assert_eq!(both.claude.chat_count(), 3);
}

#[tokio::test]
async fn embeddings_are_not_kept() {
    let upstream = Upstream::start(counting()).await;
    let bed = ready(&upstream).await;
    let embed = |body: Value| {
        Request::new("POST", "/v1/embeddings").bearer(&token::of("u-1")).json(body.to_string())
    };
    let body = json!({"model": "m", "input": "x"});
    let asked = bed.send(&embed(body.clone()).header("x-aggregator-cache", "ttl=3600")).await;
    assert_eq!(asked.status, 400, "{asked:?}");
    let asked = bed.send(&embed(kept(body))).await;
    assert_eq!(asked.status, 400, "{asked:?}");
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn a_key_that_is_revoked_or_not_for_the_model_is_answered_nothing() {
    let upstream = Upstream::start(counting()).await;
    let bed = ready(&upstream).await;
    let owner = owner(&bed.database).await;
    let (id, key) = create(&owner, "'agent'").await;
    let (_, narrow) = create(&owner, "'narrow', '{other}'").await;
    let ask = |key: &str| keys::chat(key, kept(json!({})));
    assert_eq!(said(&bed.send(&ask(&key)).await), pair("answer 1", "computed"));
    assert_eq!(said(&bed.send(&ask(&key)).await), pair("answer 1", "cached"));
    // The owner's own call is the same call.
    let own = Request::new("POST", "/v1/chat/completions")
        .bearer(&token::of("u-1"))
        .json(body(kept(json!({}))));
    assert_eq!(said(&bed.send(&own).await), pair("answer 1", "cached"));
    assert_eq!(bed.send(&ask(&narrow)).await.status, 403);
    value(&owner, &format!("SELECT revoke_gateway_key('{id}')")).await;
    assert_eq!(bed.send(&ask(&key)).await.status, 401);
    // Nor is whoever has no key for the provider any more.
    value(&owner, "SELECT remove_provider_key('standin')").await;
    assert_eq!(bed.send(&own).await.status, 404);
    assert_eq!(upstream.chat_count(), 1);
    eventually(
        &bed.root,
        &format!("SELECT count(*) FROM aggregator_usage_logs WHERE cost_source = 'cached' AND gateway_key_id = '{id}'"),
        "1",
    )
    .await;
}

#[tokio::test]
async fn of_many_over_http_one_asks() {
    let answers = counting();
    let upstream = Upstream::start(move |seen| Answer::late(400, answers(seen))).await;
    let bed = ready(&upstream).await;
    let asking = (0..20).map(|_| {
        let request = chat("u-1", kept(json!({})));
        let (port, bytes) = (bed.port, request.bytes(bed.port));
        tokio::spawn(async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            super::send(stream, &bytes).await
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut cached = 0;
    for one in asking {
        let (text, source) = said(&one.await.unwrap());
        assert_eq!(text, "answer 1");
        cached += usize::from(source == "cached");
    }
    assert_eq!((cached, upstream.chat_count()), (19, 1));
}
