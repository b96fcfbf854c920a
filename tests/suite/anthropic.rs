//! A provider that speaks Anthropic's Messages: the caller cannot tell the difference.

use crate::bed::{self, Database, failure, quoted, rows, value};
use crate::fixtures::{HELLO, add_named, chat_sql, save_key, stream_sql};
use crate::upstream::{Answer, Gate, Piece, Seen, Upstream, in_turn};
use crate::wire::Wire;
use serde_json::{Value, json};
use tokio_postgres::Client;

const KEY: &str = "sk-ant-good-0123456789abcdef";
/// 100 fresh, 200 written to the cache, 1000 read from it, 50 out.
const USAGE: &str = r#"{"input_tokens":100,"cache_creation_input_tokens":200,"cache_read_input_tokens":1000,"output_tokens":50}"#;
/// At 3 in, 15 out, 0.3 and 3.75 for the cache, USD per million.
const COST: f64 = 0.0021;

fn message(content: Value, stop: &str) -> Answer {
    let usage: Value = serde_json::from_str(USAGE).unwrap();
    Answer::json(
        200,
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
            "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
        })
        .to_string(),
    )
}

fn hello() -> Answer {
    message(json!([{"type": "text", "text": "hello"}]), "end_turn")
}

fn event(name: &str, mut data: Value) -> Piece {
    data["type"] = name.into();
    Piece::Event(name.into(), data.to_string())
}

/// The events around the blocks of a stream.
fn stream_of(blocks: Vec<Piece>, stop: &str) -> Vec<Piece> {
    let mut start: Value = serde_json::from_str(USAGE).unwrap();
    start["output_tokens"] = 1.into();
    let mut pieces = vec![
        event(
            "message_start",
            json!({"message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
                "content": [], "stop_reason": null, "usage": start}}),
        ),
        event("ping", json!({})),
    ];
    pieces.extend(blocks);
    // Cumulative: the last one counts, and only that.
    pieces.extend([
        event("message_delta", json!({"delta": {}, "usage": {"output_tokens": 20}})),
        event(
            "message_delta",
            json!({"delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": 50}}),
        ),
        event("message_stop", json!({})),
    ]);
    pieces
}

fn text_delta(text: &str) -> Piece {
    event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": text}}))
}

fn text_block(first: &str, gate: &Gate, second: &str) -> Vec<Piece> {
    let mut pieces = vec![event(
        "content_block_start",
        json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
    )];
    pieces.extend([text_delta(first), Piece::Until(gate.clone()), text_delta(second)]);
    pieces.push(event("content_block_stop", json!({"index": 0})));
    pieces
}

/// A database whose model `m` is at an Anthropic.
async fn claude(
    handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
) -> (Upstream, Database<'static>, Client) {
    let upstream = Upstream::raw(move |seen| {
        if seen.header("x-api-key") != Some(KEY) {
            return Answer::json(
                401,
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
            );
        }
        if seen.path.contains("/models") {
            return Answer::json(
                200,
                r#"{"data":[{"id":"claude-x","type":"model","display_name":"Claude X","created_at":"2026-01-01T00:00:00Z",
                    "max_input_tokens":200000,"max_tokens":64000}],"has_more":false,"first_id":"claude-x","last_id":"claude-x"}"#,
            );
        }
        handler(seen)
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["m"]).await;
    root.batch_execute(
        "UPDATE aggregator_models SET max_output_tokens = 4096, context_window = 200000,
            pricing = '{\"input\": 3, \"output\": 15, \"cache_read\": 0.3, \"cache_write\": 3.75}'
         WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'claude')",
    )
    .await
    .unwrap();
    save_key(&root, "claude", KEY).await;
    (upstream, database, root)
}

fn chat_with(messages: &Value, options: &Value) -> String {
    format!(
        "SELECT chat_complete('m', {}, {})",
        quoted(&messages.to_string()),
        quoted(&options.to_string())
    )
}

/// The text of content that is a string or a list of parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

#[tokio::test]
async fn requests_go_out_in_its_form_and_answers_come_back_in_ours() {
    let (upstream, _database, root) = claude(|_| hello()).await;
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]);
    let options = json!({"temperature": 0.5, "stop": ["END", "FIN"], "user": "u-1"});
    let answer = bed::json(&root, &chat_with(&messages, &options)).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "claude-served");
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["role"], &choice["message"]["content"], &choice["finish_reason"]),
        (&json!("assistant"), &json!("hello"), &json!("stop"))
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 1300);
    assert_eq!(answer["usage"]["completion_tokens"], 50);
    assert_eq!(answer["usage"]["total_tokens"], 1350);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 1000);
    assert_eq!(answer["aggregator"]["provider"], "claude");
    assert_eq!(answer["aggregator"]["cost"].as_f64().unwrap(), COST);
    assert_eq!(
        rows(
            &root,
            "SELECT status, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens, cost_estimate = 0.0021,
                cost_source, finish_reason, served_model FROM aggregator_usage_logs"
        )
        .await,
        ["success|1300|50|1000|200|t|computed|stop|claude-served"]
    );
    let seen = &upstream.chats()[0];
    assert!(seen.path.ends_with("/v1/messages"), "{}", seen.path);
    assert_eq!(seen.header("x-api-key"), Some(KEY));
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(seen.header("authorization"), None);
    let sent = seen.json();
    assert_eq!(text_of(&sent["system"]), "Be brief.");
    assert_eq!(sent["messages"].as_array().unwrap().len(), 1);
    assert_eq!(sent["messages"][0]["role"], "user");
    assert_eq!(text_of(&sent["messages"][0]["content"]), "hi");
    assert_eq!(sent["max_tokens"], 4096);
    assert_eq!(sent["stop_sequences"], json!(["END", "FIN"]));
    assert_eq!(sent["temperature"], 0.5);
    assert_eq!(sent["model"], "m");
    for foreign in ["stop", "max_completion_tokens", "stream_options", "user"] {
        assert_eq!(sent.get(foreign), None, "{sent}");
    }
    // The caller's own limit, by either name.
    for name in ["max_tokens", "max_completion_tokens"] {
        let before = upstream.chat_count();
        value(&root, &chat_with(&json!([{"role": "user", "content": "hi"}]), &json!({name: 7})))
            .await;
        assert_eq!(upstream.chats()[before].json()["max_tokens"], 7);
    }
    assert_eq!(value(&root, "SELECT chat('hi', 'm')").await.unwrap(), "hello");
}

#[tokio::test]
async fn other_ends_have_their_names() {
    for (stop, finish) in [
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ] {
        let (_upstream, _database, root) =
            claude(move |_| message(json!([{"type": "text", "text": "x"}]), stop)).await;
        let answer = bed::json(&root, &chat_sql("{}")).await;
        assert_eq!(answer["choices"][0]["finish_reason"], finish, "{stop}");
    }
}

#[tokio::test]
async fn its_stream_is_like_any_other() {
    // Nothing more comes before the first row is here.
    let gate = Gate::default();
    let pieces = stream_of(text_block("Hel", &gate, "lo"), "end_turn");
    let (upstream, database, root) = claude(move |_| Answer::Stream(pieces.clone())).await;
    let mut wire = Wire::connect(&database).await;
    let heard = wire.run_and(&stream_sql("{}"), |_| gate.open()).await;
    assert_eq!(heard.texts(), ["Hel", "lo"], "{:?}", heard.failure);
    let response = heard.last(1);
    assert_eq!(response["object"], "chat.completion");
    assert_eq!(response["model"], "claude-served");
    assert_eq!(response["choices"][0]["message"]["content"], "Hello");
    assert_eq!(response["choices"][0]["finish_reason"], "stop");
    assert_eq!(heard.last(2)["completion_tokens"], 50);
    assert_eq!(heard.last(2)["prompt_tokens"], 1300);
    assert_eq!(heard.last(3).as_f64().unwrap(), COST);
    assert_eq!(
        rows(&root, "SELECT status, prompt_tokens, completion_tokens, cost_source FROM aggregator_usage_logs").await,
        ["success|1300|50|computed"]
    );
    assert_eq!(upstream.chats()[0].json()["stream"], true);
    assert_eq!(upstream.chats()[0].json().get("stream_options"), None);
}

#[tokio::test]
async fn a_stream_that_is_left_is_priced_by_what_is_known() {
    let mut pieces = stream_of(vec![], "end_turn");
    pieces.truncate(2);
    pieces.push(event(
        "content_block_start",
        json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
    ));
    pieces.push(text_delta("one two three four five six seven eight"));
    pieces.push(Piece::Stall);
    let (upstream, database, root) = claude(move |_| Answer::Stream(pieces.clone())).await;
    let heard = Wire::connect(&database).await.run(&format!("{} LIMIT 1", stream_sql("{}"))).await;
    assert_eq!(heard.rows.len(), 1, "{:?}", heard.failure);
    upstream.wait_for_abort(0).await;
    bed::eventually(&root, "SELECT status FROM aggregator_usage_logs", "cancelled").await;
    // The prompt's usage came first; the answer's is an estimate, not the placeholder's 1.
    assert_eq!(
        rows(&root, "SELECT cost_source, prompt_tokens, completion_tokens > 1, cost_estimate > 0.00135 FROM aggregator_usage_logs").await,
        ["incomplete|1300|t|t"]
    );
}

#[tokio::test]
async fn errors_are_told_in_our_terms() {
    let error = |status: u16, kind: &str| {
        Answer::Full(
            status,
            vec![("request-id", "req_9".into())],
            json!({"type": "error", "error": {"type": kind, "message": "so it is"}, "request_id": "req_9"})
                .to_string(),
        )
    };
    let (upstream, _database, root) =
        claude(in_turn(vec![error(529, "overloaded_error"), hello()])).await;
    let answer = bed::json(&root, &chat_sql("{}")).await;
    assert_eq!(answer["aggregator"]["attempts"], 2);
    assert_eq!(
        rows(&root, "SELECT attempt, status, http_status, error_code, request_id FROM aggregator_usage_logs ORDER BY attempt LIMIT 1").await,
        ["1|error|529|overloaded_error|req_9"]
    );
    assert_eq!(upstream.chat_count(), 2);
    for (status, kind, code) in [
        (400, "invalid_request_error", "PT400"),
        (401, "authentication_error", "PT401"),
        (402, "billing_error", "PT402"),
        (403, "permission_error", "PT403"),
        (404, "not_found_error", "PT404"),
    ] {
        let (upstream, _database, root) = claude(in_turn(vec![error(status, kind)])).await;
        let (state, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(state, code, "{message}");
        for part in ["'claude'", "'m'", kind, "req_9", "so it is"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(upstream.chat_count(), 1);
    }
    // In the middle of a stream.
    let mut pieces = stream_of(vec![], "end_turn");
    pieces.truncate(2);
    pieces.push(event(
        "content_block_start",
        json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
    ));
    pieces.push(text_delta("Hel"));
    pieces.push(event(
        "error",
        json!({"error": {"type": "overloaded_error", "message": "so it is"}}),
    ));
    let (upstream, database, root) = claude(move |_| Answer::Stream(pieces.clone())).await;
    let heard = Wire::connect(&database).await.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["Hel"]);
    assert_eq!(heard.failure.expect("it fails").0, "PT502");
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(
        rows(&root, "SELECT status, error_code, cost_estimate > 0 FROM aggregator_usage_logs")
            .await,
        ["error|overloaded_error|t"]
    );
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])
}

#[tokio::test]
async fn tools_make_the_round_trip() {
    let (upstream, _database, root) = claude(in_turn(vec![
        message(
            json!([{"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}]),
            "tool_use",
        ),
        hello(),
    ]))
    .await;
    let question = json!({"role": "user", "content": "Weather in Paris?"});
    let options = json!({"tools": weather(), "tool_choice": "required"});
    let answer = bed::json(&root, &chat_with(&json!([question]), &options)).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "Let me see.");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["id"], &call["type"], &call["function"]["name"]),
        (&json!("toolu_1"), &json!("function"), &json!("weather"))
    );
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris"}));
    let sent = upstream.chats()[0].json();
    assert_eq!(sent["tools"][0]["name"], "weather");
    assert_eq!(sent["tools"][0]["description"], "of a city");
    assert_eq!(sent["tools"][0]["input_schema"]["required"], json!(["city"]));
    assert_eq!(sent["tool_choice"]["type"], "any");

    // The answer goes back as it came, with the tool's result.
    let conversation = json!([
        question,
        choice["message"],
        {"role": "tool", "tool_call_id": "toolu_1", "content": "21 degrees"},
    ]);
    let again = chat_with(&conversation, &json!({"tools": weather()}));
    assert_eq!(bed::json(&root, &again).await["choices"][0]["message"]["content"], "hello");
    let sent = upstream.chats()[1].json();
    let messages = sent["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 3, "{sent}");
    assert_eq!(messages[1]["role"], "assistant");
    let used = messages[1]["content"].as_array().unwrap();
    assert_eq!(text_of(&messages[1]["content"]), "Let me see.");
    let used = used.iter().find(|part| part["type"] == "tool_use").expect("the call is there");
    assert_eq!(
        (&used["id"], &used["name"], &used["input"]),
        (&json!("toolu_1"), &json!("weather"), &json!({"city": "Paris"}))
    );
    assert_eq!(messages[2]["role"], "user");
    let result = &messages[2]["content"][0];
    assert_eq!(
        (&result["type"], &result["tool_use_id"]),
        (&json!("tool_result"), &json!("toolu_1"))
    );
    assert!(result["content"].to_string().contains("21 degrees"), "{result}");
}

#[tokio::test]
async fn tools_come_out_of_a_stream_too() {
    let part = |json: &str| {
        event(
            "content_block_delta",
            json!({"index": 0, "delta": {"type": "input_json_delta", "partial_json": json}}),
        )
    };
    let blocks = vec![
        event(
            "content_block_start",
            json!({"index": 0, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}}),
        ),
        part(""),
        part("{\"city\": \"Pa"),
        part("ris\"}"),
        event("content_block_stop", json!({"index": 0})),
    ];
    let pieces = stream_of(blocks, "tool_use");
    let (_upstream, database, _root) = claude(move |_| Answer::Stream(pieces.clone())).await;
    let options = json!({"tools": weather()}).to_string();
    let heard = Wire::connect(&database).await.run(&stream_sql(&options)).await;
    assert_eq!(heard.rows.len(), 1, "{:?}", heard.failure);
    let choice = &heard.last(1)["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["id"], &call["function"]["name"]), (&json!("toolu_1"), &json!("weather")));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris"}));
}

#[tokio::test]
async fn images_and_thinking_pass() {
    let (upstream, _database, root) = claude(|_| {
        message(
            json!([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "hello"}]),
            "end_turn",
        )
    })
    .await;
    let messages = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]}]);
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    let answer =
        bed::json(&root, &chat_with(&messages, &json!({"extra_body": {"thinking": thinking}})))
            .await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    let sent = upstream.chats()[0].json();
    assert_eq!(sent["thinking"], thinking);
    let parts = &sent["messages"][0]["content"];
    assert_eq!(parts[0], json!({"type": "text", "text": "What is this?"}));
    assert_eq!(
        parts[1]["source"],
        json!({"type": "url", "url": "https://pictures.example/cat.png"})
    );
    assert_eq!(
        parts[2]["source"],
        json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="})
    );
}

#[tokio::test]
async fn batches_jobs_keys_and_catalogue_work_with_it() {
    let (upstream, _database, root) = claude(|_| hello()).await;
    let request = format!("{{\"model\": \"m\", \"messages\": {HELLO}}}");
    let many = format!("SELECT ok, content, cost FROM chat_many('[{request}, {request}]')");
    assert_eq!(rows(&root, &many).await.len(), 2);
    assert!(rows(&root, &many).await.iter().all(|row| row.starts_with("t|hello|0.0021")));
    let id = crate::fixtures::submit(&root, "{}", "").await;
    assert_eq!(crate::fixtures::ended(&root, &id).await, "succeeded|hello|1");
    assert!(upstream.chats().iter().all(|chat| chat.path.ends_with("/messages")));
    assert_eq!(value(&root, "SELECT validate_provider_key('claude')").await.unwrap(), "t");
    let wrong = "SELECT validate_provider_key('claude', 'sk-ant-wrong')";
    assert_eq!(value(&root, wrong).await.unwrap(), "f");
    // What everybody sees is asked for with the platform's key.
    value(&root, &format!("SELECT save_platform_key('claude', '{KEY}')")).await;
    assert_eq!(rows(&root, "SELECT total, error FROM sync_models('claude')").await, ["1|∅"]);
    assert_eq!(
        rows(&root, "SELECT display_name, context_window, max_output_tokens, is_available FROM aggregator_models WHERE model_id = 'claude-x'").await,
        ["Claude X|200000|64000|t"]
    );
}
