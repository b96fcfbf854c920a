//! What providers say that a call used, and what that costs: whole, streamed, as a job and in
//! Anthropic's form.

use crate::bed::{self, Database, quoted, rows, value};
use crate::fixtures::{add_named, chat_sql, ended, ready, save_key, submit};
use crate::upstream::{Answer, Piece, Seen, Upstream};
use serde_json::{Value, json};
use tokio_postgres::Client;

const PRICES: &str = r#"UPDATE aggregator_models SET pricing = '{"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75}'"#;
const ROW: &str = "SELECT prompt_tokens, completion_tokens, trim_scale(cost_estimate), cost_source
    FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1";

/// A usage, and what its row must say: tokens in and out, cost and where that comes from.
const USAGES: &[(&str, &str)] = &[
    // Gemini's thinking.
    (r#"{"prompt_tokens":9,"completion_tokens":1,"total_tokens":103}"#, "9|94|0.001437|computed"),
    (
        r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":15}"#,
        "10|5|0.000105|computed",
    ),
    (r#"{"prompt_tokens":"10","completion_tokens":"5"}"#, "10|5|0.000105|computed"),
    // xAI's reasoning.
    (
        r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":40}}"#,
        "10|45|0.000705|computed",
    ),
    // LiteLLM in front of Claude.
    (
        r#"{"prompt_tokens":98805,"completion_tokens":5120,"total_tokens":103925,"prompt_tokens_details":{"cached_tokens":66360,"cache_creation_tokens":32435}}"#,
        "98805|5120|0.21836925|computed",
    ),
    // Portkey, New API.
    (
        r#"{"prompt_tokens":10,"completion_tokens":5120,"total_tokens":103925,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435}"#,
        "98805|5120|0.21836925|computed",
    ),
    (
        r#"{"prompt_tokens":98805,"completion_tokens":5120,"prompt_tokens_details":{"cached_tokens":66360,"cached_creation_tokens":32435}}"#,
        "98805|5120|0.21836925|computed",
    ),
    // Costs.
    (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":"0.5"}"#, "10|5|0.5|upstream"),
    (
        r#"{"prompt_tokens":10,"completion_tokens":5,"cost_in_usd_ticks":37756000}"#,
        "10|5|0.0037756|upstream",
    ),
    (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":1e25}"#, "10|5|0.000105|computed"),
    (r#"{"prompt_tokens":10,"completion_tokens":5,"cost":"1e25"}"#, "10|5|0.000105|computed"),
];

/// The number of the case, which a request carries.
fn case(seen: &Seen) -> usize {
    seen.json()["seed"].as_u64().expect("a case") as usize
}

#[tokio::test]
async fn what_a_usage_comes_to_is_the_same_whole_streamed_and_as_a_job() {
    let upstream = Upstream::start(|seen: &Seen| {
        let (usage, _) = USAGES[case(seen)];
        if seen.json()["stream"] == true {
            return Answer::streams(&["he", "llo"], std::time::Duration::ZERO, Some(usage));
        }
        Answer::says("hello", usage)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(PRICES).await.unwrap();
    for (i, (usage, expected)) in USAGES.iter().enumerate() {
        value(&root, &chat_sql(&json!({"seed": i}).to_string())).await.unwrap();
        assert_eq!(rows(&root, ROW).await, [*expected], "whole: {usage}");
        let streamed = json!({"seed": i, "stream_upstream": true}).to_string();
        let answer = bed::json(&root, &chat_sql(&streamed)).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "hello");
        assert_eq!(rows(&root, ROW).await, [*expected], "streamed: {usage}");
        let id = submit(&root, &json!({"seed": i}).to_string(), "").await;
        assert_eq!(ended(&root, &id).await, "succeeded|hello|1");
        assert_eq!(rows(&root, ROW).await, [*expected], "job: {usage}");
        let refused = "SELECT metadata ->> 'refused_cost' FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1";
        let is_refused = usage.contains("1e25");
        assert_eq!(value(&root, refused).await.as_deref(), is_refused.then_some("1e25"), "{usage}");
        // The same rules where somebody asks for the price of a usage.
        let sql = format!("SELECT trim_scale(calculate_cost('m', {}))", quoted(usage));
        let cost = expected.split('|').nth(2);
        assert_eq!(value(&root, &sql).await.as_deref(), cost, "calculate_cost: {usage}");
    }
}

#[tokio::test]
async fn an_output_that_nobody_counts_is_unknown_and_never_free() {
    const UNKNOWN: &[&str] = &[
        r#"{"prompt_tokens":10}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":null}"#,
        r#"{"prompt_tokens":10,"completion_tokens":"many","total_tokens":4}"#,
    ];
    let upstream = Upstream::start(|seen: &Seen| {
        let usage = UNKNOWN[case(seen)];
        if seen.json()["stream"] == true {
            return Answer::streams(&["hello"], std::time::Duration::ZERO, Some(usage));
        }
        Answer::says("hello", usage)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(PRICES).await.unwrap();
    for (i, usage) in UNKNOWN.iter().enumerate() {
        let answer = bed::json(&root, &chat_sql(&json!({"seed": i}).to_string())).await;
        assert_eq!(answer["aggregator"]["cost"], Value::Null, "{usage}");
        assert_eq!(rows(&root, ROW).await, ["10|∅|∅|incomplete"], "{usage}");
        let sql = format!("SELECT calculate_cost('m', {})", quoted(usage));
        assert_eq!(value(&root, &sql).await, None, "{usage}");
        // Of a stream the text itself is here: its tokens are estimated, and the row says so.
        let streamed = json!({"seed": i, "stream_upstream": true}).to_string();
        value(&root, &chat_sql(&streamed)).await.unwrap();
        assert_eq!(rows(&root, ROW).await, ["10|2|0.00006|incomplete"], "{usage}");
    }
}

fn chunk(members: Value) -> Piece {
    let mut chunk = json!({"id": "gen-1", "object": "chat.completion.chunk", "model": "m-served", "choices": []});
    chunk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    Piece::Data(chunk.to_string())
}

/// Streams that say in several ways that 9 tokens went in and 5 came out.
fn nine_and_five() -> Vec<Vec<Piece>> {
    let real = json!({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14});
    let zeros = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
    let nulls = json!({"prompt_tokens": null, "completion_tokens": null, "total_tokens": null});
    let ends =
        |usage: Value| json!([{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]);
    vec![
        vec![Piece::finish("stop"), chunk(json!({"usage": real})), chunk(json!({"usage": zeros}))],
        vec![Piece::finish("stop"), chunk(json!({"usage": real})), chunk(json!({"usage": nulls}))],
        vec![Piece::finish("stop"), chunk(json!({"usage": zeros})), chunk(json!({"usage": real}))],
        vec![
            chunk(json!({"usage": {"prompt_tokens": 9}})),
            Piece::finish("stop"),
            chunk(json!({"usage": {"completion_tokens": 5}})),
        ],
        // Moonshot.
        vec![chunk(json!({"choices": ends(real.clone())}))],
        vec![chunk(json!({"choices": ends(real.clone())})), chunk(json!({"usage": zeros}))],
        // Groq.
        vec![
            Piece::finish("stop"),
            chunk(json!({"x_groq": {"id": "req", "usage": real}, "usage": null})),
        ],
    ]
}

#[tokio::test]
async fn the_usage_of_a_stream_is_all_that_was_said_of_it() {
    let upstream = Upstream::start(|seen: &Seen| {
        let mut pieces = vec![Piece::role(), Piece::text("hello")];
        pieces.extend(nine_and_five().remove(case(seen)));
        pieces.push(Piece::done());
        Answer::Stream(pieces)
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(PRICES).await.unwrap();
    for i in 0..nine_and_five().len() {
        let streamed = json!({"seed": i, "stream_upstream": true}).to_string();
        let answer = bed::json(&root, &chat_sql(&streamed)).await;
        assert_eq!(answer["usage"]["completion_tokens"], 5, "case {i}: {answer}");
        assert_eq!(rows(&root, ROW).await, ["9|5|0.000102|computed"], "case {i}");
    }
    // One that breaks off after that has used as much.
    let broken = Upstream::start(|seen: &Seen| {
        let mut pieces = vec![Piece::role(), Piece::text("hello")];
        pieces.extend(nine_and_five().remove(case(seen)));
        pieces.push(Piece::Cut);
        Answer::Stream(pieces)
    })
    .await;
    let (_database, root) = ready(&broken).await;
    root.batch_execute(PRICES).await.unwrap();
    let streamed = json!({"seed": 0, "stream_upstream": true}).to_string();
    value(&root, &chat_sql(&streamed)).await.unwrap();
    assert_eq!(rows(&root, ROW).await, ["9|5|0.000102|computed"]);
}

#[tokio::test]
async fn a_whole_answer_may_have_its_usage_in_its_choice() {
    let upstream = Upstream::start(|_: &Seen| {
        Answer::json(
            200,
            r#"{"id":"c","model":"m-served","choices":[{"index":0,"finish_reason":"stop",
                "message":{"role":"assistant","content":"hello"},
                "usage":{"prompt_tokens":9,"completion_tokens":5}}],
                "usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#,
        )
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute(PRICES).await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&root, ROW).await, ["9|5|0.000102|computed"]);
}

/// A database whose model `m` is at an Anthropic that streams these usages: at the start, and with
/// each `message_delta`.
async fn claude(
    start: &'static str,
    deltas: &'static [&'static str],
) -> (Database<'static>, Client) {
    let upstream = Upstream::raw(move |seen: &Seen| {
        if seen.path.contains("/models") {
            return Answer::json(200, r#"{"data":[{"id":"m"}]}"#);
        }
        let usage: Value = serde_json::from_str(start).unwrap();
        let event = |name: &str, mut data: Value| {
            data["type"] = name.into();
            Piece::Event(name.to_owned(), data.to_string())
        };
        let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-served",
            "content": [], "stop_reason": null, "usage": usage});
        let mut pieces = vec![
            event("message_start", json!({"message": message})),
            event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
            event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": "hello"}})),
            event("content_block_stop", json!({"index": 0})),
        ];
        for usage in deltas {
            let usage: Value = serde_json::from_str(usage).unwrap();
            pieces.push(event("message_delta", json!({"delta": {"stop_reason": "end_turn"}, "usage": usage})));
        }
        pieces.push(event("message_stop", json!({})));
        Answer::Stream(pieces)
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["m"]).await;
    root.batch_execute(PRICES).await.unwrap();
    save_key(&root, "claude", "sk-ant-good-0123456789abcdef").await;
    // The stand-in answers for as long as the test lives.
    std::mem::forget(upstream);
    (database, root)
}

#[tokio::test]
async fn anthropics_zeros_do_not_wipe_what_was_said_at_the_start() {
    for (start, deltas, expected) in [
        (
            r#"{"input_tokens":10,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435,"output_tokens":1}"#,
            &[
                r#"{"input_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":5120}"#,
            ][..],
            "98805|5120|0.21836925|computed",
        ),
        (
            r#"{"input_tokens":9,"output_tokens":1}"#,
            &[
                r#"{"output_tokens":5}"#,
                r#"{"output_tokens":0}"#,
                r#"{"input_tokens":null,"output_tokens":null}"#,
            ],
            "9|5|0.000102|computed",
        ),
        // Relays that know only at the end.
        (
            r#"{"input_tokens":0,"output_tokens":0}"#,
            &[r#"{"input_tokens":9,"output_tokens":5}"#],
            "9|5|0.000102|computed",
        ),
        (
            r#"{"input_tokens":9,"output_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":100}}"#,
            &[r#"{"output_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":0}}"#],
            "109|5|0.000477|computed",
        ),
    ] {
        let (_database, root) = claude(start, deltas).await;
        let options = r#"{"stream_upstream": true, "max_tokens": 99}"#;
        value(&root, &chat_sql(options)).await.unwrap();
        assert_eq!(rows(&root, ROW).await, [expected], "{start} {deltas:?}");
    }
}
