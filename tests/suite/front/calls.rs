//! Chats over HTTP.

use super::own::Own;
use super::{Bed, Request, Response, read_to_end, token, until_read};
use crate::bed::{PATIENCE, eventually, rows, value};
use crate::fixtures::{add_named, add_provider, user};
use crate::upstream::{Answer, Gate, Piece, USAGE, Upstream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub fn body(more: Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

pub fn chat(user: &str, more: Value) -> Request {
    Request::new("POST", "/v1/chat/completions").bearer(&token::of(user)).json(body(more))
}

/// A database with the provider `standin`, for which u-1 has a key.
pub async fn ready(upstream: &Upstream) -> Bed {
    let bed = Bed::new().await;
    add_provider(&bed.root, upstream).await;
    user(&bed.database, "u-1").await;
    bed
}

/// The data of each event of a stream.
pub fn events(response: &Response) -> Vec<String> {
    response
        .body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_whole_answer_is_openais_with_its_cost() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let response = bed.send(&chat("u-1", json!({"temperature": 0.25, "vendor_field": [1]}))).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let answer = response.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["usage"]["total_tokens"], 15);
    assert_eq!(answer["aggregator"]["provider"], "standin");
    assert_eq!(response.header("x-aggregator-provider"), Some("standin"));
    assert_eq!(response.header("x-aggregator-cost"), Some("0.00007"));
    let id = response.header("x-request-id").unwrap();
    assert_eq!(answer["aggregator"]["usage_log_id"], id);
    let logged = format!(
        "SELECT user_id, model_id, status, cost_estimate FROM aggregator_usage_logs WHERE call_id = '{id}'"
    );
    assert_eq!(rows(&bed.root, &logged).await, ["u-1|m|success|0.00007"]);
    let sent = upstream.chats()[0].json();
    assert_eq!((&sent["temperature"], &sent["vendor_field"]), (&json!(0.25), &json!([1])));
    // The same, without and with more of /v1.
    for path in ["/chat/completions", "/v1/v1/chat/completions?x=1"] {
        let request = Request::new("POST", path).bearer(&token::of("u-1")).json(body(json!({})));
        assert_eq!(bed.send(&request).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_stream_arrives_as_it_comes_and_ends_with_done() {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |_| {
            Answer::Stream(vec![
                Piece::role(),
                Piece::text("a"),
                Piece::Until(gate.clone()),
                Piece::text("b"),
                Piece::text("c"),
                Piece::finish("stop"),
                Piece::usage(USAGE),
                Piece::done(),
            ])
        }
    })
    .await;
    let bed = ready(&upstream).await;
    let mut stream = bed.connect().await;
    stream.write_all(&chat("u-1", json!({"stream": true})).bytes(bed.port)).await.unwrap();
    // The rest is not sent before the first piece has come.
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(r#""content":"a""#) {
        let mut portion = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut portion)).await;
        let count = read.expect("the first piece comes").unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&portion[..count]);
    }
    gate.open();
    bytes.extend(read_to_end(&mut stream).await);
    let response = Response::read(&bytes);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    let said = events(&response);
    assert_eq!(said.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        said[..said.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "abc");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"
        && chunk["id"] == chunks[0]["id"]
        && !chunk["choices"].as_array().unwrap().is_empty()));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    // The usage only where it is asked for.
    let asked = chat("u-1", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let said = events(&bed.send(&asked).await);
    let usage: Value = serde_json::from_str(&said[said.len() - 2]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(15)));
    assert_eq!(usage["aggregator"]["provider"], "standin");
    eventually(
        &bed.root,
        "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success' AND cost_estimate = 0.00007",
        "2",
    )
    .await;
}

#[tokio::test]
async fn a_refusal_has_its_own_status_also_of_a_stream() {
    let upstream = Upstream::start(|seen| {
        let status = if seen.body.contains("slow down") { 429 } else { 503 };
        Answer::json(status, r#"{"error":{"message":"not now","code":"x"}}"#)
    })
    .await;
    let bed = ready(&upstream).await;
    for stream in [false, true] {
        let response = bed.send(&chat("u-1", json!({"stream": stream, "max_retries": 0}))).await;
        assert_eq!((response.status, response.code().as_str()), (502, "upstream_error"));
        assert_eq!(response.header("x-should-retry"), Some("false"));
        let limited = json!({"stream": stream, "max_retries": 0, "user": "slow down"});
        let response = bed.send(&chat("u-1", limited)).await;
        assert_eq!((response.status, response.code().as_str()), (429, "rate_limit_exceeded"));
        let response = bed.send(&chat("u-1", json!({"stream": stream, "model": "none"}))).await;
        assert_eq!((response.status, response.code().as_str()), (404, "model_not_found"));
        let response = bed.send(&chat("u-1", json!({"stream": stream, "temperature": "x"}))).await;
        assert_eq!(response.status, 400);
        assert_eq!(response.json()["error"]["param"], "temperature");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_and_without_done() {
    let upstream = Upstream::start(|_| {
        Answer::Stream(vec![
            Piece::role(),
            Piece::text("a"),
            Piece::Wait(Duration::from_millis(100)),
            Piece::Cut,
        ])
    })
    .await;
    let bed = ready(&upstream).await;
    let response = bed.send(&chat("u-1", json!({"stream": true}))).await;
    assert_eq!(response.status, 200);
    let said = events(&response);
    let last: Value = serde_json::from_str(said.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_error", "{said:?}");
    assert!(!response.body.contains("[DONE]"));
}

/// Of a whole answer, the provider's own stream says how far it had come.
#[tokio::test]
async fn who_goes_away_before_the_answer_has_what_was_made_of_it_on_the_row() {
    let upstream = Upstream::start(|_| {
        Answer::Stream(vec![Piece::role(), Piece::text("some words"), Piece::Stall])
    })
    .await;
    let bed = ready(&upstream).await;
    let hi = json!([{"role": "user", "content": "hi"}]);
    let post = |path: &str, mut body: Value| {
        body["stream_upstream"] = true.into();
        Request::new("POST", path).bearer(&token::of("u-1")).json(body.to_string())
    };
    let requests = [
        post("/v1/chat/completions", json!({"model": "m", "messages": hi})),
        post("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": hi})),
        post("/v1/responses", json!({"model": "m", "input": "hi"})),
    ];
    for (index, request) in requests.iter().enumerate() {
        let mut connection = bed.connect().await;
        connection.write_all(&request.bytes(bed.port)).await.unwrap();
        until_read(&upstream, index + 1, bed.port).await;
        // Nobody has been told anything.
        let mut portion = [0; 16];
        assert!(connection.try_read(&mut portion).is_err());
        drop(connection);
        let told = "SELECT count(*) FROM aggregator_usage_logs
            WHERE status = 'cancelled' AND completion_tokens > 0 AND cost_estimate > 0
              AND cost_source = 'incomplete' AND metadata -> 'estimated' IS NOT NULL";
        let expected = (index + 1).to_string();
        eventually(&bed.root, told, &expected).await;
        upstream.wait_for_abort(index).await;
    }
    assert_eq!(value(&bed.root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "3");
}

#[tokio::test]
async fn who_goes_away_cancels_the_call_and_its_row_is_priced() {
    let upstream = Upstream::start(|seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::Stream(vec![Piece::role(), Piece::text("a"), Piece::Stall]),
        _ => Answer::Stall,
    })
    .await;
    let bed = ready(&upstream).await;
    for (index, stream) in [true, false].into_iter().enumerate() {
        let mut connection = bed.connect().await;
        let request = chat("u-1", json!({"stream": stream})).bytes(bed.port);
        connection.write_all(&request).await.unwrap();
        upstream.wait_for_chats(index + 1).await;
        // The first is the stream.
        until_read(&upstream, 1, bed.port).await;
        drop(connection);
        let count = "SELECT count(*) FROM aggregator_usage_logs
            WHERE status = 'cancelled' AND (cost_estimate IS NOT NULL OR prompt_tokens IS NULL)";
        let expected = (index + 1).to_string();
        eventually(&bed.root, count, &expected).await;
        upstream.wait_for_abort(index).await;
    }
    let priced = "SELECT count(*) FROM aggregator_usage_logs WHERE cost_estimate > 0";
    assert_eq!(value(&bed.root, priced).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn bodies_are_bounded_and_json() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let good = token::of("u-1");
    let post = || Request::new("POST", "/v1/chat/completions").bearer(&good);
    let large = body(json!({"x": "y".repeat(1 << 20)}));
    let response = bed.send(&post().json(large.clone())).await;
    assert_eq!((response.status, response.code().as_str()), (413, "request_too_large"));
    // One that does not say how long it is.
    let mut chunked = post()
        .header("transfer-encoding", "chunked")
        .header("content-type", "application/json")
        .bytes(bed.port);
    for part in large.as_bytes().chunks(60_000) {
        chunked.extend(format!("{:x}\r\n", part.len()).bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(super::send(bed.connect().await, &chunked).await.status, 413);
    assert_eq!(bed.send(&post().json(b"{\"model\":\"\xff\"}".to_vec())).await.status, 400);
    for bad in ["", "[]", "{", "null", r#"{"model":"m"}"#, r#"{"model":"m","messages":[]}"#] {
        assert_eq!(bed.send(&post().json(bad)).await.status, 400, "{bad}");
    }
    for (name, text) in [("content-encoding", "gzip"), ("content-encoding", "zstd")] {
        let response = bed.send(&post().header(name, text).json(body(json!({})))).await;
        assert_eq!(response.status, 415, "{text}");
    }
    let form = post().header("content-type", "text/plain").header("content-length", "2");
    assert_eq!(bed.send(&form).await.status, 415);
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn models_are_those_that_the_caller_can_call() {
    let bed = Bed::new().await;
    let url = "https://other.example/v1";
    add_named(&bed.root, "standin", "openai", url, &["m", "v/plain"]).await;
    add_named(&bed.root, "other", "openai", url, &["m", "v/w"]).await;
    user(&bed.database, "u-1").await;
    let list = async |path: &str, user: &str| {
        bed.send(&Request::new("GET", path).bearer(&token::of(user))).await
    };
    let ids = |response: &Response| -> Vec<String> {
        let list = response.json();
        let data = list["data"].as_array().unwrap().clone();
        data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    let own = list("/v1/models", "u-1").await;
    assert_eq!((own.status, ids(&own)), (200, vec!["m".to_owned(), "v/plain".to_owned()]));
    assert_eq!(own.json()["data"][0]["owned_by"], "standin");
    assert_eq!(own.json()["data"][0]["pricing"]["prompt"], "0.000002");
    assert_eq!(ids(&list("/v1/models", "u-2").await), Vec::<String>::new());
    value(&bed.root, "SELECT save_platform_key('other', 'sk-good-platform-0123456789')").await;
    assert_eq!(ids(&list("/v1/models", "u-2").await), ["m", "v/w"]);
    assert_eq!(ids(&list("/models", "u-1").await), ["other:m", "standin:m", "v/plain", "v/w"]);
    for path in ["/v1/models/v%2Fw", "/v1/models/v/w"] {
        let one = list(path, "u-1").await;
        assert_eq!((one.status, one.json()["id"].as_str()), (200, Some("v/w")), "{path}");
    }
    assert_eq!(list("/v1/models/m", "u-1").await.json()["owned_by"], "other");
    assert_eq!(list("/v1/models/standin:m", "u-1").await.json()["owned_by"], "standin");
    let none = list("/v1/models/nothing", "u-1").await;
    assert_eq!((none.status, none.code().as_str()), (404, "model_not_found"));
    assert_eq!(bed.get("/v1/models").await.status, 401);
    let theirs = Request::new("GET", "/v1/models?limit=1")
        .header("anthropic-version", "2023-06-01")
        .header("x-api-key", &token::of("u-1"));
    let page = bed.send(&theirs).await.json();
    assert_eq!((&page["has_more"], &page["data"][0]["type"]), (&json!(true), &json!("model")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_commit_took_away_serves_no_later_request() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = Arc::new(ready(&upstream).await);
    // A role of its own: others of the cluster take the usual ones meanwhile.
    bed.root
        .batch_execute(
            "CREATE ROLE visitor NOLOGIN; GRANT visitor TO authenticator;
             SELECT aggregator_grant('visitor', 'user')",
        )
        .await
        .unwrap();
    let bearer = token::with(token::claims("u-1"), json!({"role": "visitor"}));
    let chat = Request::new("POST", "/v1/chat/completions").bearer(&bearer).json(body(json!({})));
    assert_eq!(bed.send(&chat).await.status, 200);
    let is_over = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicUsize::new(0));
    let calling = tokio::spawn({
        let (bed, is_over, made) = (bed.clone(), is_over.clone(), made.clone());
        async move {
            let mut calls = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let status = bed.send(&chat).await.status;
                calls.push((began, Instant::now(), status));
                made.fetch_add(1, Ordering::Relaxed);
            }
            calls
        }
    });
    // However slow the machine is: the first of them may have begun before.
    let more = async || {
        let enough = made.load(Ordering::Relaxed) + 5;
        while made.load(Ordering::Relaxed) < enough && !calling.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let mut held = Vec::new();
    for (off, on, status) in [
        (
            "UPDATE user_api_providers SET is_active = false",
            "UPDATE user_api_providers SET is_active = true",
            404,
        ),
        (
            "SELECT set_budget(p_limit_usd => 0, p_keys => 'all')",
            "DELETE FROM aggregator_budgets",
            402,
        ),
        (
            "SELECT aggregator_revoke('visitor', 'user')",
            "SELECT aggregator_grant('visitor', 'user')",
            403,
        ),
        ("REVOKE visitor FROM authenticator", "GRANT visitor TO authenticator", 403),
        // By hand, and not by our functions.
        (
            "REVOKE EXECUTE ON FUNCTION chat_completions(jsonb) FROM visitor",
            "GRANT EXECUTE ON FUNCTION chat_completions(jsonb) TO visitor",
            403,
        ),
        ("ALTER ROLE visitor RENAME TO guest", "ALTER ROLE guest RENAME TO visitor", 403),
    ]
    .into_iter()
    .cycle()
    .take(18)
    {
        bed.root.batch_execute(off).await.unwrap();
        let from = Instant::now();
        more().await;
        let until = Instant::now();
        bed.root.batch_execute(on).await.unwrap();
        held.push((from, until, status));
        more().await;
    }
    is_over.store(true, Ordering::Relaxed);
    let calls = calling.await.unwrap();
    let mut seen = 0;
    for (began, ended, status) in &calls {
        for (from, until, expected) in &held {
            if began >= from && ended <= until {
                assert_eq!(status, expected);
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen} of {} calls were made while something was gone", calls.len());
    assert!(calls.iter().any(|(.., status)| *status == 200));
}

#[tokio::test]
async fn a_call_like_the_last_one_asks_the_database_for_nothing_but_the_ledger() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    // Alone: a role that some other test makes is looked at by everybody.
    let own = Own::ready("warm", "", &upstream).await;
    let owner = super::keys::owner(&own.database()).await;
    let (_, key) = super::keys::create(&owner, "'x', p_limit_usd => 5, p_models => '{m}'").await;
    let requests = || {
        let tokens = [json!({}), json!({"stream": true})].map(|more| chat("u-1", more));
        tokens.into_iter().chain([super::keys::chat(&key, json!({}))])
    };
    for request in requests() {
        assert_eq!(own.send(&request).await.status, 200);
    }
    // What it was routed by is no longer new.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let keeper = own.database().root().await;
    keeper
        .batch_execute(
            "BEGIN; LOCK TABLE api_providers, user_api_providers, aggregator_models, aggregator_budgets,
                 aggregator_rate_limits, aggregator_gateway_keys IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .unwrap();
    for request in requests() {
        let response = own.send(&request).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    keeper.batch_execute("ROLLBACK").await.unwrap();
    let settled = "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'";
    eventually(&own.root, settled, "6").await;
}
