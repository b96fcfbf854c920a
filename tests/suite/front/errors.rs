//! What each error becomes in each dialect, over the wire: the contract with the clients' libraries, which send again
//! by themselves what is not told otherwise.

use super::dialects::Both;
use super::keys::{chat, create, owner};
use super::own::{Own, until_status};
use super::{Request, Response, token};
use crate::bed::{PATIENCE, as_server, run, value};
use crate::upstream::{Answer, Seen, Upstream};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::io::AsyncWriteExt;

/// A line of the table.
struct Line {
    what: &'static str,
    /// What the request has more, in whatever dialect.
    more: Value,
    status: u16,
    openai: (&'static str, &'static str),
    anthropic: &'static str,
    should_retry: Option<&'static str>,
    retry_after: Option<&'static str>,
}

fn line(
    what: &'static str,
    status: u16,
    openai: (&'static str, &'static str),
    anthropic: &'static str,
    should_retry: Option<&'static str>,
) -> Line {
    Line { what, more: json!({}), status, openai, anthropic, should_retry, retry_after: None }
}

/// What the upstream does, as the prompt says.
fn upstream(seen: &Seen) -> Answer {
    const REFUSAL: &str = r#"{"error":{"message":"no","code":"said"}}"#;
    let Some((_, what)) = seen.body.split_once("do:") else { return Answer::hello() };
    let what = what.split(['"', '\\']).next().unwrap_or_default();
    let refuses = |status: u16, wait: Option<&str>| {
        let headers = wait.map(|wait| ("retry-after", wait.to_owned())).into_iter().collect();
        Answer::Full(status, headers, REFUSAL.to_owned())
    };
    match what {
        "stall" => Answer::Stall,
        "break" => Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
        "429 soon" => refuses(429, Some("7")),
        "429 late" => refuses(429, Some("90")),
        "too long" => Answer::json(
            400,
            r#"{"error":{"message":"maximum context length is 9 tokens","code":"context_length_exceeded"}}"#,
        ),
        status => refuses(status.parse().expect("a status"), None),
    }
}

/// The same request in each dialect, whole and streamed, with this prompt.
fn requests(prompt: &str, more: &Value) -> Vec<(&'static str, Request)> {
    let messages = json!([{"role": "user", "content": prompt}]);
    let mut requests = Vec::new();
    for stream in [false, true] {
        for (path, mut body) in [
            ("/v1/chat/completions", json!({"model": "m", "messages": messages})),
            ("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": messages})),
            ("/v1/responses", json!({"model": "m", "input": prompt})),
        ] {
            body["stream"] = stream.into();
            body["max_retries"] = 0.into();
            for (name, value) in more.as_object().unwrap() {
                body[name] = value.clone();
            }
            requests.push((path, Request::new("POST", path).json(body.to_string())));
        }
    }
    requests
}

impl Line {
    fn check(&self, path: &str, response: &Response) {
        let Self { what, status, openai, anthropic, should_retry, retry_after, .. } = self;
        assert_eq!(response.status, *status, "{what} {path} {response:?}");
        assert_eq!(response.header("x-should-retry"), *should_retry, "{what} {path} {response:?}");
        assert_eq!(response.header("retry-after"), *retry_after, "{what} {path} {response:?}");
        let ms = retry_after.map(|seconds| format!("{seconds}000"));
        assert_eq!(response.header("retry-after-ms"), ms.as_deref(), "{what} {path}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{what} {path}");
        let body = response.json();
        let error = &body["error"];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{what} {path}");
        match path {
            "/v1/messages" => {
                let told = (&body["type"], &error["type"], body["request_id"].as_str());
                let id = response.header("request-id");
                assert_eq!(told, (&json!("error"), &json!(anthropic), id), "{what}");
            }
            _ => {
                let code = error["code"].as_str().unwrap_or("∅");
                assert_eq!((error["type"].as_str().unwrap(), code), *openai, "{what} {path}");
                assert!(error.get("param").is_some(), "{what} {path}");
            }
        }
    }
}

#[tokio::test]
async fn each_error_is_what_the_clients_act_on_in_each_dialect() {
    let both = Both::new(upstream, |_| Answer::hello()).await;
    let never = Some("false");
    let with = |line: Line, more: Value| Line { more, ..line };
    let waits = |line: Line, seconds| Line { retry_after: Some(seconds), ..line };
    let invalid = "invalid_request_error";
    let lines = [
        with(
            line("wrong request", 400, (invalid, "∅"), invalid, None),
            json!({"temperature": "hot"}),
        ),
        with(
            line("unknown model", 404, (invalid, "model_not_found"), "not_found_error", None),
            json!({"model": "nobody-has-it"}),
        ),
        line("do:400", 400, (invalid, "said"), invalid, None),
        line("do:401", 424, ("provider_key_refused", "provider_key_refused"), "api_error", never),
        line("do:402", 402, ("insufficient_quota", "insufficient_quota"), "billing_error", None),
        line("do:403", 403, ("permission_error", "said"), "permission_error", None),
        line("do:404", 404, (invalid, "model_not_found"), "not_found_error", None),
        line("do:408", 408, ("timeout", "timeout"), "timeout_error", never),
        line("do:409", 409, ("conflict", "said"), invalid, never),
        line("do:413", 413, (invalid, "context_length_exceeded"), "request_too_large", None),
        line("do:422", 422, (invalid, "said"), invalid, None),
        line("do:too long", 400, (invalid, "context_length_exceeded"), invalid, None),
        waits(
            line(
                "do:429 soon",
                429,
                ("rate_limit_error", "rate_limit_exceeded"),
                "rate_limit_error",
                Some("true"),
            ),
            "7",
        ),
        // Longer than every client waits.
        waits(
            line(
                "do:429 late",
                429,
                ("rate_limit_error", "rate_limit_exceeded"),
                "rate_limit_error",
                never,
            ),
            "90",
        ),
        line("do:500", 502, ("api_error", "upstream_error"), "api_error", never),
        line("do:503", 502, ("api_error", "upstream_error"), "api_error", never),
        line("do:504", 504, ("timeout", "timeout"), "timeout_error", never),
        line("do:break", 502, ("api_error", "upstream_error"), "api_error", never),
        with(
            line("do:stall", 504, ("timeout", "deadline"), "timeout_error", never),
            json!({"timeout_ms": 300}),
        ),
    ];
    for line in &lines {
        for (path, request) in requests(line.what, &line.more) {
            let is_sent = line.what.starts_with("do:");
            let began = Instant::now();
            let (response, sent) = loop {
                let before = both.openai.chat_count();
                let response = both.send(request.clone()).await;
                let sent = both.openai.chat_count() - before;
                // On a busy machine its short time may be over before it is sent.
                if !(line.what == "do:stall" && sent == 0) || began.elapsed() > PATIENCE {
                    break (response, sent);
                }
            };
            line.check(path, &response);
            // Refused or failed: nobody is asked twice for one request.
            assert_eq!(sent, usize::from(is_sent), "{} {path}", line.what);
        }
    }
}

#[tokio::test]
async fn what_is_refused_here_is_told_in_each_dialect_and_nothing_is_sent() {
    let both = Both::new(upstream, |_| Answer::hello()).await;
    let bed = &both.bed;
    let invalid = "invalid_request_error";
    let no_key =
        line("no credential", 401, (invalid, "invalid_api_key"), "authentication_error", None);
    for (path, request) in requests("hi", &json!({})) {
        no_key.check(path, &bed.send(&request).await);
    }
    let theirs =
        line("a provider's key", 401, (invalid, "invalid_api_key"), "authentication_error", None);
    for (path, request) in requests("hi", &json!({})) {
        theirs.check(path, &bed.send(&request.bearer("sk-proj-0123456789")).await);
    }
    let large = line("too large", 413, (invalid, "request_too_large"), "request_too_large", None);
    for (path, request) in requests(&"x".repeat(1 << 20), &json!({})) {
        large.check(path, &both.send(request).await);
    }
    let no_one = line("nobody's keys", 404, (invalid, "no_key"), "not_found_error", None);
    for (path, request) in requests("hi", &json!({})) {
        no_one.check(path, &bed.send(&request.bearer(&token::of("u-2"))).await);
    }
    let forbidden =
        line("no user's role", 403, ("permission_error", "forbidden"), "permission_error", None);
    let stranger = token::with(token::claims("u-1"), json!({"role": "anon"}));
    for (path, request) in requests("hi", &json!({})) {
        forbidden.check(path, &bed.send(&request.bearer(&stranger)).await);
    }
    // A budget of this gateway key, and a limit of another.
    let owner = owner(&bed.database).await;
    let (_, poor) = create(&owner, "'poor', p_limit_usd => 0").await;
    let broke =
        line("budget", 402, ("insufficient_quota", "budget_exceeded"), "billing_error", None);
    for (path, request) in requests("hi", &json!({})) {
        broke.check(path, &bed.send(&request.bearer(&poor)).await);
    }
    let (_, slow) = create(&owner, "'slow', p_requests_per_minute => 1").await;
    assert_eq!(bed.send(&chat(&slow, json!({}))).await.status, 200);
    let sent = both.openai.chat_count();
    for (path, request) in requests("hi", &json!({})) {
        let response = bed.send(&request.bearer(&slow)).await;
        let told = (response.status, response.header("x-should-retry"));
        assert_eq!(told, (429, Some("true")), "{path} {response:?}");
        let ms: u64 = response.header("retry-after-ms").unwrap().parse().unwrap();
        let seconds = response.header("retry-after").unwrap();
        assert_eq!(seconds, ms.div_ceil(1000).to_string(), "{path}");
    }
    // What cannot be written is not sent.
    bed.root
        .batch_execute("ALTER TABLE aggregator_usage_logs ADD CHECK (user_id <> 'u-1') NOT VALID")
        .await
        .unwrap();
    let unwritten = line("no ledger", 503, ("server_error", "ledger"), "api_error", Some("false"));
    for (path, request) in requests("hi", &json!({})) {
        unwritten.check(path, &both.send(request).await);
    }
    value(&bed.root, "UPDATE user_api_providers SET api_key_encrypted = '\\x00' RETURNING 1").await;
    let unread =
        line("no key to open", 409, ("conflict", "key_unreadable"), invalid, Some("false"));
    for (path, request) in requests("hi", &json!({})) {
        unread.check(path, &both.send(request).await);
    }
    assert_eq!(both.openai.chat_count(), sent);
}

#[tokio::test]
async fn what_has_had_no_turn_may_be_sent_again_and_what_has_no_room_is_told_so() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let settings = "aggregator.max_in_flight_per_key = 1\naggregator.max_memory = 4MB\n\
        aggregator.max_response_size = 64kB";
    let own = Own::ready("noturn", settings, &upstream).await;
    // It holds the only place.
    let first = super::calls::chat("u-1", json!({"timeout_ms": 600_000}));
    let mut held = own.connect().await;
    held.write_all(&first.bytes(own.port)).await.unwrap();
    upstream.wait_for_chats(1).await;
    let no_turn = line("no turn", 504, ("timeout", "no_turn"), "timeout_error", Some("true"));
    for (path, request) in requests("hi", &json!({"timeout_ms": 300})) {
        let response = own.send(&request.bearer(&token::of("u-1"))).await;
        no_turn.check(path, &response);
    }
    for (path, request) in requests(&"x".repeat(6 << 20), &json!({})) {
        let response = own.send(&request.bearer(&token::of("u-1"))).await;
        assert_eq!(response.status, 503, "{path} {response:?}");
        assert!(response.header("x-should-retry").is_some(), "{path} {response:?}");
        let error = &response.json()["error"];
        let kind = if path == "/v1/messages" { "overloaded_error" } else { "overloaded" };
        assert_eq!(error["type"], kind, "{path} {response:?}");
    }
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn without_the_keys_of_keys_nothing_is_sent_and_each_dialect_is_told() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let own = Own::ready("keyring_gone", "", &upstream).await;
    let file = own.cluster.data().join("aggregator.keyring");
    let all = async |line: Line| {
        for (path, request) in requests("hi", &json!({})) {
            line.check(path, &own.send(&request.bearer(&token::of("u-1"))).await);
        }
    };
    let chat = super::calls::chat("u-1", json!({}));
    assert_eq!(own.send(&chat).await.status, 200);
    let of = |code| line("keyring", 503, ("server_error", code), "api_error", Some("false"));
    let away = own.cluster.dir.join("away");
    run(as_server("mv").arg(&file).arg(&away));
    all(of("missing_master_key")).await;
    assert!(!as_server("test").arg("-e").arg(&file).status().unwrap().success());
    // Another file in its place is none.
    run(as_server("sh").args(["-c", "umask 077; echo nonsense > \"$1\"", "sh"]).arg(&file));
    all(of("keyring")).await;
    run(as_server("mv").arg(&away).arg(&file));
    run(as_server("chmod").arg("640").arg(&file));
    all(of("keyring")).await;
    assert_eq!(upstream.chat_count(), 1);
    run(as_server("chmod").arg("600").arg(&file));
    assert_eq!(own.send(&chat).await.status, 200);
    // What was refused costs nothing.
    let refused =
        "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'error' AND cost_estimate > 0";
    assert_eq!(value(&own.root, refused).await.unwrap(), "0");
}

#[tokio::test]
async fn memory_that_others_hold_is_worth_waiting_for_and_what_never_fits_is_not() {
    let upstream = Upstream::start(|_| Answer::Stall).await;
    let settings = "aggregator.max_memory = 4MB\naggregator.max_response_size = 64kB";
    let own = Own::ready("noroom", settings, &upstream).await;
    let prompt = "x".repeat(300 << 10);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
    let chat = Request::new("POST", "/v1/chat/completions").json(body.to_string());
    let chat = chat.bearer(&token::of("u-1")).bytes(own.port);
    // As many as there is room for.
    let mut held = Vec::new();
    loop {
        let (sent, mut connection) = (upstream.chat_count(), own.connect().await);
        connection.write_all(&chat).await.unwrap();
        let refused = async {
            connection.readable().await.unwrap();
        };
        let is_held = tokio::select! {
            () = refused => false,
            () = upstream.wait_for_chats(sent + 1) => true,
        };
        if !is_held {
            break;
        }
        held.push(connection);
    }
    assert!((1..20).contains(&held.len()), "{}", held.len());
    let overloaded = ("overloaded", "out_of_memory");
    let later = line("no room now", 503, overloaded, "overloaded_error", Some("true"));
    let later = Line { retry_after: Some("1"), ..later };
    for (path, request) in requests(&prompt, &json!({})) {
        later.check(path, &own.send(&request.bearer(&token::of("u-1"))).await);
    }
    let never = line("no room ever", 503, overloaded, "overloaded_error", Some("false"));
    for (path, request) in requests(&"x".repeat(6 << 20), &json!({})) {
        never.check(path, &own.send(&request.bearer(&token::of("u-1"))).await);
    }
    assert_eq!(upstream.chat_count(), held.len());
    // Once it is free, there is room.
    drop(held);
    upstream.wait_for_abort(0).await;
    let (_, again) = requests(&prompt, &json!({"timeout_ms": 300})).swap_remove(0);
    let again = again.bearer(&token::of("u-1"));
    until_status(own.port, &again, 504).await;
}
