//! Streams with more in them than an answer, or less: what is understood makes the answer, and what was said and used
//! is in the ledger however it ends.

use crate::answers::{fails_but_for_m2, others_are_asked};
use crate::bed::{self, Cluster, Template, rows};
use crate::fallback::{standins, standins_in};
use crate::fixtures::{add_named, chat_sql, ended, save_key, stream_sql, streaming, submit};
use crate::upstream::{Answer, Piece, Seen, USAGE, Upstream};
use crate::wire::Wire;
use serde_json::json;

const STRANGE: &[&str] = &[
    r#"{"type":"ping"}"#,
    "{}",
    r#"{"choices":null,"statistics":{"tokens_per_second":97}}"#,
    r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
    r#"{"choices":{}}"#,
    r#"{"choices":[7]}"#,
    r#"{"choices":[{"index":0,"delta":"x","finish_reason":""}]}"#,
    r#"{"choices":[{"index":0,"delta":null,"finish_reason":"null"}]}"#,
    "[1]",
    "7",
    "null",
];

/// Hello in two pieces, with these events before, between and after.
fn hello_among(strange: &str) -> Vec<Piece> {
    let strange = Piece::Data(strange.to_owned());
    let own = [
        Piece::role(),
        Piece::text("hel"),
        Piece::text("lo"),
        Piece::finish("stop"),
        Piece::usage(USAGE),
    ];
    let mut pieces = vec![strange.clone()];
    pieces.extend(own.into_iter().flat_map(|piece| [piece, strange.clone()]));
    pieces.push(Piece::done());
    pieces
}

#[tokio::test]
async fn what_is_not_understood_is_passed_over() {
    for strange in STRANGE {
        let (_upstream, _database, root, mut wire) =
            streaming(Answer::Stream(hello_among(strange))).await;
        let heard = wire.run(&stream_sql(r#"{"max_retries": 0}"#)).await;
        assert_eq!(heard.texts().concat(), "hello", "{strange}: {:?}", heard.failure);
        let response = heard.last(1);
        assert_eq!(response["choices"][0]["message"]["content"], "hello", "{strange}");
        assert_eq!(response["choices"][0]["finish_reason"], "stop", "{strange}");
        let whole = bed::json(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
        assert_eq!(whole["choices"][0]["message"]["content"], "hello", "{strange}");
        let id = submit(&root, "{}", "").await;
        assert_eq!(ended(&root, &id).await, "succeeded|hello|1", "{strange}");
        let log = "SELECT DISTINCT status, total_tokens, cost_source, finish_reason FROM aggregator_usage_logs";
        assert_eq!(rows(&root, log).await, ["success|15|computed|stop"], "{strange}");
    }
}

#[tokio::test]
async fn a_stream_of_nothing_but_strange_events_is_no_answer() {
    let pieces = STRANGE.iter().map(|strange| Piece::Data((*strange).to_owned())).collect();
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let heard = wire.run(&stream_sql(r#"{"max_retries": 0}"#)).await;
    assert_eq!(heard.failure.expect("it fails").0, "PT502");
    assert_eq!(rows(&root, "SELECT DISTINCT status FROM aggregator_usage_logs").await, ["error"]);
}

#[tokio::test]
async fn whatever_comes_after_the_end_the_answer_is_delivered() {
    for after in [
        Piece::Data("ping".into()),
        Piece::Data("{\"choices\":[{\"delta\"".into()),
        Piece::Data(r#"{"error":{"message":"the statistics failed"}}"#.into()),
        Piece::Event("error".into(), "the statistics failed".into()),
        Piece::Bytes(b"{\"error\":{\"message\":\"the statistics failed\"}}\n\n".to_vec()),
    ] {
        let shown = format!("{after:?}");
        // Before the usage, which still counts, and as the last.
        let start = [Piece::role(), Piece::text("hello"), Piece::finish("stop")];
        let before = [&start[..], &[after.clone(), Piece::usage(USAGE), Piece::done()]].concat();
        let last = [&start[..], &[Piece::usage(USAGE), after]].concat();
        for pieces in [before, last] {
            let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
            let heard = wire.run(&stream_sql(r#"{"max_retries": 0}"#)).await;
            assert_eq!(heard.texts(), ["hello"], "{shown}: {:?}", heard.failure);
            assert_eq!(heard.last(3).as_f64(), Some(0.00007), "{shown}");
            let log = "SELECT status, total_tokens, cost_source FROM aggregator_usage_logs";
            assert_eq!(rows(&root, log).await, ["success|15|computed"], "{shown}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_parsed_before_the_end_is_an_error_that_keeps_what_was_said() {
    let pieces = vec![
        Piece::role(),
        // In one piece with what follows: what comes before it is read first.
        Piece::Bytes(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one two three\"}}]}\n\ndata: {\"choices\":[{\n\n".to_vec()),
        Piece::done(),
    ];
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let heard = wire.run(&stream_sql(r#"{"max_retries": 0}"#)).await;
    assert_eq!(heard.texts(), ["one two three"]);
    assert_eq!(heard.failure.expect("it fails").0, "PT502");
    let log = "SELECT status, error_code, completion_tokens >= 1, cost_estimate > 0, served_model FROM aggregator_usage_logs";
    assert_eq!(rows(&root, log).await, ["error|broken_answer|t|t|m-served"]);
}

/// Ends of a stream that are errors, and words that are kept.
fn errors() -> Vec<(Piece, &'static str)> {
    let chunk = |text: &str| Piece::Data(text.to_owned());
    vec![
        (
            chunk(
                r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"code":502,"message":"upstream died"}}]}"#,
            ),
            "upstream died",
        ),
        (Piece::finish("error"), "the choice ends with the reason 'error'"),
        (
            chunk(
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","native_finish_reason":"network_error"}]}"#,
            ),
            "network_error",
        ),
        (Piece::finish("insufficient_system_resource"), "insufficient_system_resource"),
        (Piece::Event("error".into(), r#"{"message":"upstream died"}"#.into()), "upstream died"),
        (Piece::Event("error".into(), r#"{"detail":"upstream died"}"#.into()), "upstream died"),
        (Piece::Event("error".into(), "upstream died".into()), "upstream died"),
        (
            chunk(r#"{"base_resp":{"status_code":1000,"status_msg":"upstream died"}}"#),
            "upstream died",
        ),
        (chunk(r#"{"object":"error","message":"upstream died","code":500}"#), "upstream died"),
        (Piece::Bytes(b"{\"error\":{\"message\":\"upstream died\"}}\n".to_vec()), "upstream died"),
    ]
}

#[tokio::test]
async fn an_error_in_a_stream_is_an_error_like_any_other() {
    let cluster = Cluster::start("strange", "aggregator.job_max_attempts = 1");
    let template = Template::new();
    for (error, words) in errors() {
        let shown = format!("{error:?}");
        for start in [vec![Piece::role()], vec![Piece::role(), Piece::text("so far")]] {
            let has_begun = start.len() > 1;
            let pieces = [start, vec![error.clone(), Piece::done()]].concat();
            let upstream = fails_but_for_m2(Answer::Stream(pieces)).await;
            let (database, root) = standins_in(cluster.copy(&template).await, &[&upstream]).await;
            let mut wire = Wire::connect(&database).await;
            // Another model is asked as long as the caller has seen nothing.
            let options = r#"{"max_retries": 0, "models": ["m2"]}"#;
            let heard = wire.run(&stream_sql(options)).await;
            match has_begun {
                true => assert_eq!(heard.failure.expect("it fails").0, "PT502", "{shown}"),
                false => assert_eq!(heard.texts(), ["hello"], "{shown}: {:?}", heard.failure),
            }
            assert_eq!(upstream.chat_count(), if has_begun { 1 } else { 2 }, "{shown}");
            let log =
                "SELECT status, cost_estimate > 0 FROM aggregator_usage_logs WHERE model_id = 'm'";
            assert_eq!(rows(&root, log).await, ["error|t"], "{shown}");
            others_are_asked(&root, &upstream, &shown).await;
            let (code, message) = bed::failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
            assert_eq!(code, "PT502", "{shown} {message}");
            assert!(message.contains(words), "{shown}: {message}");
        }
    }
}

#[tokio::test]
async fn what_is_paid_for_is_not_asked_for_again_where_it_failed() {
    let pieces = vec![Piece::role(), Piece::text("so far"), Piece::finish("error"), Piece::done()];
    let whole = format!(
        r#"{{"choices":[{{"finish_reason":"error","message":{{"content":"so far"}}}}],"usage":{USAGE}}}"#
    );
    for answer in [Answer::Stream(pieces), Answer::json(200, whole)] {
        let upstream = Upstream::start(move |_| answer.clone()).await;
        let (_database, root) = standins(&[&upstream]).await;
        let (code, _) = bed::failure(&root, &chat_sql(r#"{"max_retries": 3}"#)).await;
        assert_eq!((code.as_str(), upstream.chat_count()), ("PT502", 1));
    }
}

#[tokio::test]
async fn the_usage_beside_an_error_in_a_stream_is_in_the_ledger() {
    let error = format!(r#"{{"error":{{"message":"upstream died"}},"usage":{USAGE}}}"#);
    let pieces = vec![Piece::role(), Piece::text("x"), Piece::Data(error)];
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    assert!(wire.run(&stream_sql("{}")).await.failure.is_some());
    let log = "SELECT status, prompt_tokens, completion_tokens FROM aggregator_usage_logs";
    assert_eq!(rows(&root, log).await, ["error|10|5"]);
}

#[tokio::test]
async fn calls_that_share_an_index_are_two() {
    let call = |name: &str, arguments: &str| {
        Piece::chunk(
            json!({"tool_calls": [{"index": 0, "function": {"name": name, "arguments": arguments}}]}),
            None,
        )
    };
    let pieces = vec![
        call("rd", r#"{"a":1}"#),
        call("wr", r#"{"b":2}"#),
        Piece::finish("tool_calls"),
        Piece::usage(USAGE),
        Piece::done(),
    ];
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let expected = json!([
        {"function": {"name": "rd", "arguments": r#"{"a":1}"#}},
        {"function": {"name": "wr", "arguments": r#"{"b":2}"#}},
    ]);
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.last(1)["choices"][0]["message"]["tool_calls"], expected);
    let whole = bed::json(&root, &chat_sql("{}")).await;
    assert_eq!(whole["choices"][0]["message"]["tool_calls"], expected);
}

#[tokio::test]
async fn a_character_that_is_split_between_chunks_is_whole_in_the_deltas() {
    let chunk = |text: &str| {
        Piece::Data(format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#))
    };
    let end = [Piece::finish("stop"), Piece::usage(USAGE), Piece::done()];
    for (texts, expected) in [
        (vec![r"a\ud83d", r"\ude00b"], vec!["a", "😀b"]),
        (vec![r"a\ud83d", "b"], vec!["a", "\u{fffd}b"]),
        (vec![r"a\ud83d"], vec!["a", "\u{fffd}"]),
    ] {
        let mut pieces: Vec<Piece> = texts.iter().map(|text| chunk(text)).collect();
        pieces.extend(end.clone());
        let (_upstream, _database, _root, mut wire) = streaming(Answer::Stream(pieces)).await;
        let heard = wire.run(&stream_sql("{}")).await;
        assert_eq!(heard.texts(), expected, "{:?}", heard.failure);
        let whole = &heard.last(1)["choices"][0]["message"]["content"];
        assert_eq!(whole, &expected.concat());
    }
}

#[tokio::test]
async fn streams_of_anthropics_are_read_so_too() {
    let event = |name: &str, data: serde_json::Value| Piece::Event(name.into(), data.to_string());
    let delta = |text: &str| {
        Piece::Data(format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#
        ))
    };
    let start = || {
        event(
            "message_start",
            json!({"type": "message_start", "message": {"id": "msg_1", "model": "c",
                "usage": {"input_tokens": 10, "output_tokens": 1}}}),
        )
    };
    let end = event(
        "message_delta",
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
    );
    let strange = [
        Piece::Data("7".into()),
        event("content_block_delta", json!({"type": "content_block_delta", "delta": 7})),
        event("message_start", json!({"type": "message_start"})),
        Piece::Data(r#"{"type":"statistics"}"#.into()),
    ];
    let good = [
        vec![start()],
        strange.to_vec(),
        vec![delta(r"a\ud83d"), delta(r"\ude00b")],
        strange.to_vec(),
        vec![end, Piece::Data("nonsense".into())],
        strange.to_vec(),
        vec![Piece::done()],
    ]
    .concat();
    let bad = vec![start(), event("error", json!({"message": "upstream died"}))];
    let upstream = Upstream::raw(move |seen: &Seen| {
        Answer::Stream(if seen.json()["model"] == "m" { good.clone() } else { bad.clone() })
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["m", "m2"]).await;
    save_key(&root, "claude", "sk-ant-good-0123456789").await;
    let mut wire = Wire::connect(&database).await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["a", "😀b"], "{:?}", heard.failure);
    assert_eq!(heard.last(1)["choices"][0]["message"]["content"], "a😀b");
    let log = "SELECT status, prompt_tokens, completion_tokens FROM aggregator_usage_logs";
    assert_eq!(rows(&root, log).await, ["success|10|5"]);
    let sql = chat_sql(r#"{"max_retries": 0}"#).replace("'m'", "'m2'");
    let (code, message) = bed::failure(&root, &sql).await;
    assert!(code == "PT502" && message.contains("upstream died"), "{code} {message}");
}
