//! Unchanged clients of OpenAI's and Anthropic's APIs, on Node and in Python, and curl.

use super::dialects::Both;
use super::{Bed, token};
use crate::bed::{rows, var};
use crate::embeddings::embeds;
use crate::fixtures::{add_named, save_key};
use crate::supabase::{are_there, clients};
use crate::upstream::{Answer, Piece, Seen, USAGE};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// The text of the last message.
fn asked(seen: &Seen) -> String {
    let last = seen.json()["messages"].as_array().and_then(|all| all.last()).cloned();
    match last.map(|message| message["content"].clone()) {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// OpenAI's form, with as little in it as upstreams send.
pub fn openai(seen: &Seen) -> Answer {
    if seen.path.ends_with("/embeddings") {
        return embeds(seen);
    }
    let (text, streams) = (asked(seen), seen.json()["stream"] == true);
    let call = |index: bool| {
        let mut call = json!({"id": "call_1", "function": {"name": "weather", "arguments": r#"{"city":"Paris"}"#}});
        if !index {
            call["type"] = "function".into();
        }
        call
    };
    match (text.as_str(), streams) {
        ("break off", false) => Answer::Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
                .to_vec(),
        ),
        ("break off", true) => Answer::Stream(vec![Piece::role(), Piece::text("hel"), Piece::Cut]),
        ("fail with 400", _) => Answer::json(400, r#"{"error":{"message":"wrong"}}"#),
        ("fail with 500", _) => Answer::json(500, "{}"),
        ("call a tool", false) => {
            let message =
                json!({"role": "assistant", "content": null, "tool_calls": [call(false)]});
            Answer::json(
                200,
                json!({"id": "gen-1", "object": "chat.completion", "created": 1, "model": "m-served",
                    "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
                    "usage": serde_json::from_str::<Value>(USAGE).unwrap()})
                .to_string(),
            )
        }
        // Without index, type and end.
        ("call a tool", true) => Answer::Stream(vec![
            Piece::Data(json!({"choices": [{"delta": {"tool_calls": [call(true)]}}]}).to_string()),
            Piece::Data(
                json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}).to_string(),
            ),
            Piece::done(),
        ]),
        (_, false) => Answer::says(&format!("re: {text}"), USAGE),
        (_, true) => Answer::streams(&["re: ", &text], Duration::from_millis(2), Some(USAGE)),
    }
}

pub fn anthropic(seen: &Seen) -> Answer {
    let text = format!("re: {}", asked(seen));
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 5}});
    if seen.json()["stream"] != true {
        return Answer::json(200, message.to_string());
    }
    let event = |name: &str, mut data: Value| {
        data["type"] = name.into();
        Piece::Event(name.to_owned(), data.to_string())
    };
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    Answer::Stream(vec![
        event("message_start", json!({"message": start})),
        event(
            "content_block_start",
            json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        event(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "text_delta", "text": text}}),
        ),
        event("content_block_stop", json!({"index": 0})),
        event(
            "message_delta",
            json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 5}}),
        ),
        event("message_stop", json!({})),
    ])
}

/// Providers of both forms. What is to `be busy once` is refused the first time.
async fn both() -> Both {
    let refusals = AtomicUsize::new(0);
    let openai = move |seen: &Seen| match asked(seen).as_str() {
        "be busy once" if refusals.fetch_add(1, Ordering::Relaxed) == 0 => {
            Answer::json(429, r#"{"error":{"message":"too many requests"}}"#)
        }
        _ => openai(seen),
    };
    Both::new(openai, anthropic).await
}

/// Runs a program; gives back what it says.
async fn run(bed: &Bed, mut command: Command) -> String {
    let command = command
        .current_dir(clients().join("http"))
        .env("HTTP_URL", format!("http://127.0.0.1:{}/v1", bed.port))
        .env("HTTP_TOKEN", token::of("u-1"))
        .kill_on_drop(true)
        .output();
    let ended = timeout(Duration::from_secs(400), command).await;
    let output = ended.expect("it ends").expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a script on Node or in Python, each check of which has to pass.
async fn run_script(bed: &Bed, script: &str, expected: usize) {
    let mut command = match script.ends_with(".py") {
        true => Command::new("python3"),
        false => Command::new(var("AGGREGATOR_NODE")),
    };
    match script.ends_with(".py") {
        true => command.env("PYTHONPATH", var("AGGREGATOR_PYTHON")),
        false => command.arg("--test-reporter=tap"),
    };
    command.arg(script);
    let text = run(bed, command).await;
    assert!(!text.contains("\nnot ok "), "{text}");
    let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(passed, expected, "{text}");
}

/// How often the upstream was asked this.
fn times(both: &Both, text: &str) -> usize {
    both.openai.chats().iter().filter(|seen| asked(seen) == text).count()
}

#[tokio::test]
async fn openais_library_for_node_works_unchanged_and_buys_nothing_twice() {
    if !are_there() {
        return;
    }
    let both = both().await;
    run_script(&both.bed, "openai.mjs", 13).await;
    // One whole and one stream.
    assert_eq!((times(&both, "break off"), times(&both, "fail with 500")), (2, 1));
    assert_eq!(times(&both, "be busy once"), 2);
}

#[tokio::test]
async fn anthropics_library_for_node_works_unchanged_in_both_versions() {
    if !are_there() {
        return;
    }
    let both = both().await;
    run_script(&both.bed, "anthropic.mjs", 18).await;
    // In each version one whole and one stream.
    assert_eq!(times(&both, "break off"), 4);
    assert_eq!(times(&both, "be busy once"), 2);
}

#[tokio::test]
async fn vercels_ai_sdk_works_unchanged() {
    if are_there() {
        run_script(&both().await.bed, "aisdk.mjs", 10).await;
    }
}

#[tokio::test]
async fn the_libraries_for_python_work_unchanged_and_buy_nothing_twice() {
    if !are_there() {
        return;
    }
    let both = both().await;
    run_script(&both.bed, "clients.py", 40).await;
    // One whole and one stream.
    assert_eq!(times(&both, "break off"), 2);
    assert_eq!(times(&both, "be busy once"), 2);
}

/// What curl gets of a stream.
async fn curl(bed: &Bed, body: Value) -> String {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-N", "--fail-with-body", "-H", "Content-Type: application/json", "-d"])
        .arg(body.to_string())
        .args(["-H", &format!("Authorization: Bearer {}", token::of("u-1"))])
        .arg(format!("http://127.0.0.1:{}/v1/chat/completions", bed.port));
    run(bed, command).await
}

#[tokio::test]
async fn curl_reads_a_stream() {
    let both = both().await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    let text = curl(&both.bed, json!({"model": "m", "stream": true, "messages": messages})).await;
    assert!(text.ends_with("data: [DONE]\n\n") && text.contains(r#""content":"hi""#), "{text}");
}

#[tokio::test]
async fn a_real_model_answers_every_client() {
    if !are_there() {
        return;
    }
    let bed = Bed::new().await;
    let (name, url) = ("smollm2-135m", var("AGGREGATOR_MODEL_URL"));
    add_named(&bed.root, "local", "openai", &url, &[name]).await;
    let user = bed.database.rest("authenticated", Some("u-1")).await;
    save_key(&user, "local", &var("AGGREGATOR_MODEL_KEY")).await;
    run_script(&bed, "model.mjs", 4).await;
    run_script(&bed, "model.py", 2).await;
    let messages = json!([{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]);
    let body = json!({"model": name, "stream": true, "temperature": 0, "max_tokens": 24, "messages": messages});
    let text = curl(&bed, body).await;
    assert!(text.contains("Paris") && text.ends_with("data: [DONE]\n\n"), "{text}");
    // Of Node openai asks twice.
    let calls = "SELECT status, count(*), bool_and(cost_estimate > 0) FROM aggregator_usage_logs GROUP BY status";
    assert_eq!(rows(&bed.root, calls).await, ["success|8|t"]);
}
