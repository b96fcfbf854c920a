//! chat_stream: rows as they arrive, and what a finished stream leaves behind.

use crate::bed::{self, Cluster, failure, rows, value};
use crate::fixtures::{AT_ONCE, HELLO, chat_sql, prepare, ready, stream_sql, streaming};
use crate::upstream::{Answer, Gate, Piece, USAGE, Upstream, in_turn};
use crate::wire::{Said, Wire};
use serde_json::json;
use std::time::{Duration, Instant};

/// A stream of these texts, none of which comes before the one before it was heard.
fn one_by_one(texts: &[&str]) -> (Vec<Piece>, Vec<Gate>) {
    let gates: Vec<Gate> = texts[1..].iter().map(|_| Gate::default()).collect();
    let mut pieces = vec![Piece::role(), Piece::text(texts[0])];
    for (gate, text) in gates.iter().zip(&texts[1..]) {
        pieces.extend([Piece::Until(gate.clone()), Piece::text(text)]);
    }
    pieces.extend([Piece::finish("stop"), Piece::usage(USAGE), Piece::done()]);
    (pieces, gates)
}

#[tokio::test]
async fn rows_arrive_as_they_are_sent() {
    let (mut pieces, gates) = one_by_one(&["Hel", "lo ", "wor", "ld"]);
    // The last takes its time.
    pieces.insert(pieces.len() - 4, Piece::Wait(Duration::from_millis(1100)));
    let (upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let open = |row: usize| gates.get(row - 1).into_iter().for_each(Gate::open);
    let heard = wire.run_and(&stream_sql(r#"{"temperature": 0.5}"#), open).await;
    assert_eq!(heard.texts(), ["Hel", "lo ", "wor", "ld"], "{:?}", heard.failure);
    // Deltas have nothing but the text; the last row has everything else.
    for (_, row) in &heard.rows[..4] {
        assert_eq!(row[1..], [None, None, None]);
    }
    assert_eq!(heard.rows.len(), 5);
    let response = heard.last(1);
    assert_eq!(response["object"], "chat.completion");
    assert_eq!(response["model"], "m-served");
    let choice = &response["choices"][0];
    assert_eq!(choice["message"]["content"], "Hello world");
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "stop");
    let about = &response["aggregator"];
    assert_eq!(about["provider"], "standin");
    assert_eq!(about["served_model"], "m-served");
    assert_eq!(about["cost_source"], "computed");
    assert_eq!(about["attempts"], 1);
    assert_eq!(about["cost"].as_f64().unwrap(), 0.00007);
    assert!(about["latency_ms"].as_u64().unwrap() >= 1000, "{about}");
    assert_eq!(heard.last(2)["completion_tokens"], 5);
    assert_eq!(heard.last(3).as_f64().unwrap(), 0.00007);
    let row = rows(
        &root,
        &format!(
            "SELECT status, prompt_tokens, completion_tokens, total_tokens, cost_source, finish_reason, served_model,
                request_id, time_to_first_token_ms <= latency_ms - 1000, latency_ms >= 1000, cost_estimate
             FROM aggregator_usage_logs WHERE call_id = '{}'",
            about["usage_log_id"].as_str().unwrap()
        ),
    )
    .await;
    assert_eq!(row.len(), 1);
    assert!(
        row[0].starts_with("success|10|5|15|computed|stop|m-served|gen-1|t|t|0.00007"),
        "{row:?}"
    );
    let sent = upstream.chats()[0].json();
    assert_eq!(sent["stream"], true);
    assert_eq!(sent["stream_options"]["include_usage"], true);
    assert_eq!(sent["temperature"], 0.5);
}

#[tokio::test]
async fn it_streams_through_copy_and_cursors() {
    let (pieces, gates) = one_by_one(&["a", "b", "c"]);
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let open = |row: usize| gates.get(row - 1).into_iter().for_each(Gate::open);
    let copy = format!(
        "COPY (SELECT (t).delta FROM (SELECT chat_stream('m', '{HELLO}') AS t) s) TO STDOUT"
    );
    let heard = wire.run_and(&copy, open).await;
    assert!(heard.failure.is_none(), "{:?}", heard.failure);
    assert_eq!(heard.texts(), ["a", "b", "c", "\\N"]);

    gates.iter().for_each(Gate::shut);
    root.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {}", stream_sql("{}"))).await.unwrap();
    for (i, expected) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(value(&root, "FETCH 1 FROM c").await.as_deref(), Some(*expected));
        open(i + 1);
    }
    let last = rows(&root, "FETCH ALL FROM c").await;
    assert_eq!(last.len(), 1);
    assert!(last[0].starts_with("∅|{"), "{last:?}");
    root.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rows(&root, "SELECT DISTINCT status FROM aggregator_usage_logs").await, ["success"]);
}

#[tokio::test]
async fn from_it_is_a_table_like_any_other() {
    let (_upstream, _database, root, _wire) =
        streaming(Answer::streams(&["a", "b"], AT_ONCE, Some(USAGE))).await;
    let all = rows(
        &root,
        &format!(
            "SELECT t.delta, t.response -> 'choices' -> 0 -> 'message' ->> 'content', t.usage ->> 'total_tokens', t.cost IS NOT NULL
             FROM chat_stream('m', '{HELLO}', '{{\"stream\": true}}') WITH ORDINALITY AS t ORDER BY ordinality"
        ),
    )
    .await;
    assert_eq!(all, ["a|∅|∅|f", "b|∅|∅|f", "∅|ab|15|t"]);
    let whole = format!("SELECT string_agg(t.delta, '') FROM chat_stream('m', '{HELLO}') AS t");
    assert_eq!(value(&root, &whole).await.unwrap(), "ab");
    let (code, _) = failure(&root, &stream_sql(r#"{"temprature": 1}"#)).await;
    assert_eq!(code, "PT400");
    let unknown = format!("SELECT * FROM chat_stream('nosuch', '{HELLO}')");
    assert_eq!(failure(&root, &unknown).await.0, "PT404");
}

#[tokio::test]
async fn without_a_usage_chunk_the_cost_is_an_estimate() {
    // As many words as that, so that any way of counting gives some tokens.
    let (_upstream, _database, root, mut wire) =
        streaming(Answer::streams(&["one two three ", "four five six"], AT_ONCE, None)).await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.last(1)["aggregator"]["cost_source"], "incomplete");
    assert!(heard.last(3).as_f64().unwrap() > 0.0);
    assert_eq!(
        rows(
            &root,
            "SELECT status, cost_source, cost_estimate > 0, completion_tokens BETWEEN 2 AND 30, prompt_tokens >= 1 FROM aggregator_usage_logs"
        )
        .await,
        ["success|incomplete|t|t|t"]
    );
}

#[tokio::test]
async fn a_missing_done_after_a_finish_reason_is_success() {
    for end in [vec![], vec![Piece::Cut]] {
        let mut pieces =
            vec![Piece::role(), Piece::text("hello"), Piece::finish("stop"), Piece::usage(USAGE)];
        pieces.extend(end);
        let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
        let heard = wire.run(&stream_sql("{}")).await;
        assert_eq!(heard.last(1)["choices"][0]["message"]["content"], "hello");
        assert_eq!(
            rows(&root, "SELECT status, cost_source, total_tokens FROM aggregator_usage_logs")
                .await,
            ["success|computed|15"]
        );
    }
}

#[tokio::test]
async fn comments_crlf_and_split_characters_are_read() {
    let event = |text: &str| {
        let json = json!({"id": "gen-1", "model": "m-served", "choices": [{"index": 0, "delta": {"content": text}}]});
        format!("data: {json}\r\n\r\n").into_bytes()
    };
    let smile = event("héé 🙂");
    // In the middle of the four bytes of the face.
    let face = smile.windows(4).position(|w| w == "🙂".as_bytes()).unwrap() + 2;
    let mut pieces = vec![
        Piece::Bytes(b"\xef\xbb\xbf: OPENROUTER PROCESSING\r\n\r\n".to_vec()),
        Piece::Bytes(b": OPENROUTER PROCESSING\n\n".to_vec()),
        Piece::Bytes(smile[..face].to_vec()),
        Piece::Wait(Duration::from_millis(50)),
        Piece::Bytes(smile[face..].to_vec()),
        // Fields that mean nothing here, data in two lines, and no space after the colon.
        Piece::Bytes(
            b"id: 7\r\nretry: 5\r\ndata:{\"choices\":[{\"index\":0,\r\ndata:\"delta\":{\"content\":\"two\"}}]}\r\n\r\n"
                .to_vec(),
        ),
        Piece::Bytes(b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r".to_vec()),
        Piece::Wait(Duration::from_millis(50)),
        Piece::Bytes(b"\ndata: [DO".to_vec()),
        Piece::Wait(Duration::from_millis(50)),
        Piece::Bytes(b"NE]\r\n\r\n".to_vec()),
    ];
    pieces.insert(6, Piece::usage(USAGE));
    let (_upstream, _database, root, mut wire) = streaming(Answer::Stream(pieces)).await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["héé 🙂", "two"], "{:?}", heard.failure);
    assert_eq!(heard.last(1)["choices"][0]["message"]["content"], "héé 🙂two");
    assert_eq!(
        rows(&root, "SELECT status, total_tokens FROM aggregator_usage_logs").await,
        ["success|15"]
    );
}

#[tokio::test]
async fn tool_calls_are_put_together_in_the_last_row() {
    let call = |index: u32, delta: serde_json::Value| {
        let mut delta = delta;
        delta["index"] = index.into();
        Piece::chunk(json!({"tool_calls": [delta]}), None)
    };
    let begin = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}});
    let more = |arguments: &str| json!({"function": {"arguments": arguments}});
    let (_upstream, _database, _root, mut wire) = streaming(Answer::Stream(vec![
        Piece::chunk(json!({"role": "assistant", "content": null}), None),
        call(0, begin("call_1", "weather")),
        call(0, more("{\"city\":")),
        call(1, begin("call_2", "time")),
        call(0, more("\"Paris\"}")),
        call(1, more("{\"zone\":\"CET\"}")),
        Piece::finish("tool_calls"),
        Piece::usage(USAGE),
        Piece::done(),
    ]))
    .await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.rows.len(), 1, "no text, no deltas");
    let choice = &heard.last(1)["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let calls = &choice["message"]["tool_calls"];
    assert_eq!(calls.as_array().unwrap().len(), 2);
    assert_eq!(calls[0]["id"], "call_1");
    assert_eq!(calls[0]["type"], "function");
    assert_eq!(
        calls[0]["function"],
        json!({"name": "weather", "arguments": "{\"city\":\"Paris\"}"})
    );
    assert_eq!(calls[1]["id"], "call_2");
    assert_eq!(calls[1]["function"]["arguments"], "{\"zone\":\"CET\"}");
}

#[tokio::test]
async fn a_plain_answer_to_a_stream_request_is_taken() {
    let (_upstream, _database, root, mut wire) = streaming(Answer::hello()).await;
    let heard = wire.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["hello"], "{:?}", heard.failure);
    assert_eq!(heard.rows.len(), 2);
    assert_eq!(heard.last(1)["choices"][0]["message"]["content"], "hello");
    assert_eq!(
        rows(&root, "SELECT status, cost_source, total_tokens FROM aggregator_usage_logs").await,
        ["success|computed|15"]
    );
}

#[tokio::test]
async fn before_the_first_token_it_is_tried_again() {
    let upstream = Upstream::start(in_turn(vec![
        Answer::Full(
            429,
            vec![("retry-after", "1".into())],
            r#"{"error":{"message":"slow","code":"rate_limit_exceeded"}}"#.into(),
        ),
        Answer::streams(&["a", "b"], AT_ONCE, Some(USAGE)),
    ]))
    .await;
    let (database, root) = ready(&upstream).await;
    let heard = Wire::connect(&database).await.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["a", "b"], "{:?}", heard.failure);
    assert_eq!(heard.last(1)["aggregator"]["attempts"], 2);
    let chats = upstream.chats();
    let pause = chats[1].at - chats[0].at;
    assert!(pause > Duration::from_millis(900), "Retry-After was obeyed: {pause:?}");
    assert_eq!(
        rows(
            &root,
            "SELECT attempt, status, http_status FROM aggregator_usage_logs ORDER BY attempt"
        )
        .await,
        ["1|error|429", "2|success|200"]
    );
}

#[tokio::test]
async fn chat_complete_may_stream_upstream() {
    let cluster = Cluster::start("idle_whole", "aggregator.stream_idle_timeout = '4s'");
    let upstream = Upstream::start(|seen| match seen.body.contains("stall") {
        true => Answer::Stream(vec![Piece::role(), Piece::text("Hel"), Piece::Stall]),
        // Slower in all than the limit, never silent for as long.
        false => {
            let letters = ["a", "b", "c", "d", "e", "f"];
            Answer::streams(&letters, Duration::from_secs(1), Some(USAGE))
        }
    })
    .await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let answer = bed::json(&root, &chat_sql(r#"{"stream_upstream": true}"#)).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "abcdef");
    assert_eq!(answer["usage"]["total_tokens"], 15);
    let sent = upstream.chats()[0].json();
    assert_eq!(sent["stream"], true);
    assert_eq!(sent.get("stream_upstream"), None);
    let began = Instant::now();
    let stalled = chat_sql(r#"{"stream_upstream": true, "user": "stall", "max_retries": 0}"#);
    let (code, message) = failure(&root, &stalled).await;
    assert_eq!(code, "PT504", "{message}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    upstream.wait_for_abort(1).await;
    // Without it the upstream is asked for a whole answer.
    value(&root, &chat_sql("{}")).await;
    assert_ne!(upstream.chats()[2].json()["stream"], true);
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_left() {
    let cluster = Cluster::start("idle", "aggregator.stream_idle_timeout = '4s'");
    let upstream = Upstream::start(|seen| match seen.body.contains("stall") {
        true => Answer::Stream(vec![Piece::role(), Piece::text("Hel"), Piece::Stall]),
        // Slower in all than the limit, never silent for as long.
        false => {
            let letters = ["a", "b", "c", "d", "e", "f"];
            Answer::streams(&letters, Duration::from_secs(1), Some(USAGE))
        }
    })
    .await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let mut wire = Wire::connect(&database).await;
    assert_eq!(wire.run(&stream_sql("{}")).await.texts().concat(), "abcdef");
    let heard = wire.run(&stream_sql(r#"{"user": "stall"}"#)).await;
    assert_eq!(heard.texts(), ["Hel"]);
    let (code, message) = heard.failure.expect("it fails");
    assert_eq!(code, "PT504", "{message}");
    assert!(message.contains("'standin'") && message.contains("'m'"), "{message}");
    let took = heard.ended - heard.began;
    assert!(took > Duration::from_millis(3900) && took < Duration::from_secs(30), "{took:?}");
    upstream.wait_for_abort(1).await;
    assert_eq!(upstream.chat_count(), 2, "what the caller has seen is not sent again");
    assert_eq!(
        rows(&root, "SELECT status, cost_source, cost_estimate > 0 FROM aggregator_usage_logs ORDER BY created_at DESC LIMIT 1").await,
        ["error|incomplete|t"]
    );
}

#[tokio::test]
async fn it_is_for_those_who_were_granted_it() {
    let (upstream, database, root, _wire) =
        streaming(Answer::streams(&["a"], AT_ONCE, Some(USAGE))).await;
    let alice = database.user("alice").await;
    assert_eq!(failure(&alice, &stream_sql("{}")).await.0, "42501");
    root.batch_execute("SELECT aggregator_grant('alice', 'user')").await.unwrap();
    // The superuser's key is not hers.
    assert_eq!(failure(&alice, &stream_sql("{}")).await.0, "PT404");
    let for_another = format!("SELECT chat_stream('m', '{HELLO}', p_user_id => 'role:postgres')");
    assert_eq!(failure(&alice, &for_another).await.0, "PT403");
    assert_eq!(upstream.chat_count(), 0);
    let mut wire = Wire::connect(&database).await;
    wire.ask(&format!("SELECT chat_stream('m', '{HELLO}', provider => 'standin')")).await;
    assert!(matches!(wire.next().await, Said::Row(_)));
}

#[tokio::test]
async fn a_done_without_a_finish_reason_is_an_end() {
    let upstream = Upstream::start(|_| {
        Answer::Stream(vec![
            Piece::Data(r#"{"id":"g","model":"m-served","choices":[{"index":0,"delta":{"content":"all"}}]}"#.into()),
            Piece::Data("[DONE]".into()),
        ])
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let heard = Wire::connect(&database).await.run(&stream_sql("{}")).await;
    assert_eq!(heard.texts(), ["all"]);
    assert!(heard.failure.is_none(), "{:?}", heard.failure);
    assert_eq!(
        rows(&root, "SELECT status, cost_source FROM aggregator_usage_logs").await,
        ["success|incomplete"]
    );
}
