//! Answers that are paid for: none is lost for a form that its provider gives it, and an error inside one is an error.

use crate::bed::{self, Cluster, Template, eventually, failure, rows, value};
use crate::fallback::standins_in;
use crate::fixtures::{
    HELLO, add_named, add_provider, chat_sql, ended, ready, save_key, stream_sql, submit,
    submit_sql,
};
use crate::upstream::{Answer, Piece, Seen, USAGE, Upstream};
use crate::wire::Wire;
use serde_json::Value;
use tokio_postgres::Client;

/// A body with this content type, or none.
fn body(status: u16, content_type: Option<&str>, body: &[u8]) -> Answer {
    let kind = content_type.map(|kind| format!("content-type: {kind}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{kind}connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Answer::Raw([head.as_bytes(), body].concat())
}

/// The bytes of a stream of events that says hello.
fn events() -> Vec<u8> {
    let chunks = [
        r#"{"id":"gen-1","model":"m-served","choices":[{"index":0,"delta":{"role":"assistant","content":"hel"}}]}"#.to_owned(),
        r#"{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}"#.to_owned(),
        format!(r#"{{"choices":[],"usage":{USAGE}}}"#),
        "[DONE]".to_owned(),
    ];
    chunks.map(|chunk| format!("data: {chunk}\n\n")).concat().into_bytes()
}

/// An answer that says hello, with this beside.
fn hello_with(beside: &str) -> String {
    format!(
        r#"{{{beside}"id":"gen-1","model":"m-served","choices":[{{"index":0,"finish_reason":"stop",
            "message":{{"role":"assistant","content":"hello"}}}}],"usage":{USAGE}}}"#
    )
}

/// The text, however it is asked for: whole, in deltas, by a job.
async fn says_hello(answer: Answer, what: &str) {
    let upstream = Upstream::start(move |_| answer.clone()).await;
    let (database, root) = ready(&upstream).await;
    let whole = bed::json(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
    assert_eq!(whole["choices"][0]["message"]["content"], "hello", "{what}");
    assert_eq!(whole["aggregator"]["cost"].as_f64(), Some(0.00007), "{what}: {whole}");
    let mut wire = Wire::connect(&database).await;
    let heard = wire.run(&stream_sql(r#"{"max_retries": 0}"#)).await;
    assert_eq!(heard.texts().concat(), "hello", "{what}: {:?}", heard.failure);
    assert_eq!(heard.last(3).as_f64(), Some(0.00007), "{what}");
    let id = submit(&root, "{}", "").await;
    assert_eq!(ended(&root, &id).await, "succeeded|hello|1", "{what}");
    let log = "SELECT DISTINCT status, total_tokens, cost_source, served_model FROM aggregator_usage_logs";
    assert_eq!(rows(&root, log).await, ["success|15|computed|m-served"], "{what}");
}

#[tokio::test]
async fn events_under_any_content_type_are_a_stream() {
    for content_type in [Some("application/json"), Some("text/plain; charset=utf-8"), None] {
        says_hello(body(200, content_type, &events()), &format!("{content_type:?}")).await;
    }
    let late = [b"\xEF\xBB\xBF\r\n\r\n: keep-alive\n\n".to_vec(), events()].concat();
    says_hello(body(200, Some("application/json"), &late), "after a byte order mark").await;
}

#[tokio::test]
async fn a_whole_answer_under_the_content_type_of_events_is_whole() {
    for start in ["", "\n\n", "\u{feff}"] {
        let answer = [start, &hello_with("")].concat();
        let what = format!("after {start:?}");
        says_hello(body(200, Some("text/event-stream"), answer.as_bytes()), &what).await;
    }
}

#[tokio::test]
async fn what_stands_where_nobody_reads_does_not_cost_the_answer() {
    for beside in [
        r#""x":NaN,"#,
        r#""x":[-Infinity,{"y":Infinity}],"#,
        r#""x":1e999999,"#,
        "\"x\":\"a\tb\",",
        r#""x":"\d","#,
        r#""x":"\ud800","#,
        r#""usage":{"prompt_tokens":1},"#,
        r#""usage":null,"model":7,"id":null,"#,
        r#""error":{},"#,
    ] {
        says_hello(Answer::json(200, hello_with(beside)), beside).await;
    }
    let usage = hello_with("").replace(USAGE, &format!(r#"{USAGE},"usage":{USAGE}"#));
    says_hello(Answer::json(200, usage), "a second usage").await;
    says_hello(Answer::json(200, format!("\u{feff}{}", hello_with(""))), "a byte order mark").await;
    let bad = [&b"{\"x\":\"\xFF\","[..], &hello_with("").as_bytes()[1..]].concat();
    says_hello(body(200, Some("application/json"), &bad), "a byte that is not UTF-8").await;
    let bad = [&b"data: {\"choices\":[],\"x\":[\"\xFF\",NaN]}\n\n"[..], &events()].concat();
    says_hello(body(200, Some("text/event-stream"), &bad), "the same in a stream").await;
}

#[tokio::test]
async fn what_is_nested_too_deeply_for_jsonb_is_null() {
    let deep = format!("\"x\":{}{},", "[".repeat(2000), "]".repeat(2000));
    let answer = Answer::json(200, hello_with(&deep));
    let upstream = Upstream::start(move |_| answer.clone()).await;
    let (_database, root) = ready(&upstream).await;
    let sql = format!(
        "SELECT r #>> '{{choices,0,message,content}}', r #>> '{{aggregator,cost}}', r::text LIKE '%[[[[null]]]]%'
         FROM ({}) AS x(r)",
        chat_sql("{}")
    );
    assert_eq!(rows(&root, &sql).await, ["hello|0.00007|t"]);
}

#[tokio::test]
async fn a_bad_byte_in_the_text_is_one_character_of_it() {
    let answer = hello_with("").into_bytes();
    let at = answer.windows(5).position(|part| part == b"hello").unwrap();
    let answer = [&answer[..at], b"h\xFFllo", &answer[at + 5..]].concat();
    let upstream = Upstream::start(move |_| body(200, Some("application/json"), &answer)).await;
    let (_database, root) = ready(&upstream).await;
    let whole = bed::json(&root, &chat_sql("{}")).await;
    assert_eq!(whole["choices"][0]["message"]["content"], "h\u{fffd}llo");
}

#[tokio::test]
async fn an_error_body_with_a_byte_order_mark_or_a_bad_byte_keeps_its_words() {
    for text in [
        "\u{feff}{\"error\":{\"message\":\"no such thing\"}}".as_bytes(),
        b"{\"error\":{\"message\":\"no such thing\",\"x\":\"\xFF\",\"y\":NaN}}",
        b"data: {\"error\":{\"message\":\"no such thing\"}}\n\n",
    ] {
        let answer = body(400, Some("application/json"), text);
        let upstream = Upstream::start(move |_| answer.clone()).await;
        let (_database, root) = ready(&upstream).await;
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT400", "{message}");
        assert!(message.contains("no such thing"), "{message}");
    }
}

#[tokio::test]
async fn a_key_check_takes_the_answer_in_any_form() {
    for list in [
        "\u{feff}{\"data\":[{\"id\":\"m\"}]}".as_bytes(),
        b"{\"data\":[{\"id\":\"m\",\"x\":NaN}]}",
        b"{\"data\":[{\"id\":\"m\",\"x\":\"\xFF\"}]}",
    ] {
        let answer = body(200, Some("application/json"), list);
        let upstream = Upstream::raw(move |_| answer.clone()).await;
        let database = bed::database().await;
        let root = database.root().await;
        add_provider(&root, &upstream).await;
        let check = "SELECT validate_provider_key('standin', 'sk-good-0123456789')";
        assert_eq!(
            value(&root, check).await.as_deref(),
            Some("t"),
            "{}",
            String::from_utf8_lossy(list)
        );
    }
}

/// Errors inside a 200: the body, the SQLSTATE, and words that are kept.
const INSIDE: &[(&str, &str, &str)] = &[
    (
        r#"{"choices":[{"finish_reason":"error","error":{"code":502,"message":"upstream died"},"message":{"content":""}}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#,
        "PT502",
        "upstream died",
    ),
    (
        r#"{"choices":[{"finish_reason":"error","message":{"content":"so far"}}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#,
        "PT502",
        "the choice ends with the reason 'error'",
    ),
    (
        r#"{"choices":[{"finish_reason":"stop","native_finish_reason":"network_error","message":{"content":""}}]}"#,
        "PT502",
        "network_error",
    ),
    (
        r#"{"choices":[{"finish_reason":"insufficient_system_resource","message":{"content":"so"}}]}"#,
        "PT502",
        "insufficient_system_resource",
    ),
    (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, "PT502", "the answer has no choice"),
    (
        r#"{"error":{"message":"upstream died"},"choices":[{"finish_reason":null,"message":{"content":""}}]}"#,
        "PT502",
        "upstream died",
    ),
    (
        r#"{"choices":null,"base_resp":{"status_code":1002,"status_msg":"rate limit, retry later"}}"#,
        "PT429",
        "rate limit",
    ),
    (r#"[{"error":{"code":503,"message":"upstream died"}}]"#, "PT502", "upstream died"),
    (r#"{"success":false,"message":"upstream died"}"#, "PT502", "upstream died"),
];

/// An upstream that answers so for every model but `m2`, for which it says hello.
pub async fn fails_but_for_m2(answer: Answer) -> Upstream {
    Upstream::start(move |seen: &Seen| match seen.json()["model"] == "m2" {
        true => Answer::hello(),
        false => answer.clone(),
    })
    .await
}

/// Where a model fails another is asked, whole and in a job; alone, the job fails. Each with a model that has not
/// cooled yet.
pub async fn others_are_asked(root: &Client, upstream: &Upstream, what: &str) {
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT provider_id, 'm4', 'm4', 'm4', pricing FROM aggregator_models WHERE model_id = 'm'",
    )
    .await
    .unwrap();
    let options = r#"{"max_retries": 0, "models": ["m2"]}"#;
    let before = upstream.chat_count();
    let sql = chat_sql(options).replace("'m'", "'m3'");
    let answer = bed::json(root, &sql).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{what}");
    assert_eq!(upstream.chat_count(), before + 2, "{what}");
    for (options, ending, asked) in
        [(options, "succeeded|hello|", 4), (r#"{"max_retries": 0}"#, "failed|∅|", 5)]
    {
        let sql = submit_sql(options, "").replace("'m'", "'m4'");
        let id = value(root, &sql).await.expect("a job has an id");
        let end = ended(root, &id).await;
        assert!(end.starts_with(ending), "{what}: {end}");
        assert_eq!(upstream.chat_count(), before + asked, "{what}");
    }
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error_like_any_other() {
    let cluster = Cluster::start("answers", "aggregator.job_max_attempts = 1");
    let template = Template::new();
    for (inside, code, words) in INSIDE {
        let upstream = fails_but_for_m2(Answer::json(200, *inside)).await;
        let (_database, root) = standins_in(cluster.copy(&template).await, &[&upstream]).await;
        let (state, message) = failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
        assert_eq!(state, *code, "{inside} {message}");
        assert!(message.contains(words), "{inside}: {message}");
        let log = "SELECT DISTINCT status FROM aggregator_usage_logs";
        assert_eq!(rows(&root, log).await, ["error"], "{inside}");
        // It counts for the health of the model.
        let health = "SELECT errors FROM aggregator_provider_health WHERE model_id = 'm'";
        eventually(&root, health, "1").await;
        others_are_asked(&root, &upstream, inside).await;
    }
}

#[tokio::test]
async fn what_an_error_inside_a_200_has_used_is_in_the_ledger() {
    for (inside, ..) in &INSIDE[..2] {
        let upstream = Upstream::start(|_| Answer::json(200, *inside)).await;
        let (_database, root) = ready(&upstream).await;
        failure(&root, &chat_sql(r#"{"max_retries": 0}"#)).await;
        let log = "SELECT status, total_tokens, cost_estimate = 0.00007, cost_source FROM aggregator_usage_logs";
        assert_eq!(rows(&root, log).await, ["error|15|t|computed"], "{inside}");
    }
}

#[tokio::test]
async fn an_error_beside_a_choice_that_ended_well_does_not_cost_the_answer() {
    let beside = r#""error":{"message":"the statistics failed"},"#;
    says_hello(Answer::json(200, hello_with(beside)), beside).await;
    let beside = r#""base_resp":{"status_code":0,"status_msg":""},"#;
    says_hello(Answer::json(200, hello_with(beside)), beside).await;
}

#[tokio::test]
async fn every_call_has_arguments() {
    for function in
        [r#"{"name":"f"}"#, r#"{"name":"f","arguments":null}"#, r#"{"name":"f","arguments":""}"#]
    {
        let call = format!(r#"{{"index":0,"id":"a","type":"function","function":{function}}}"#);
        let whole = hello_with("")
            .replace(r#""content":"hello""#, &format!(r#""content":null,"tool_calls":[{call}]"#));
        let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#);
        let stream = vec![
            Piece::Data(chunk),
            Piece::finish("tool_calls"),
            Piece::usage(USAGE),
            Piece::done(),
        ];
        for answer in [Answer::json(200, whole), Answer::Stream(stream)] {
            let upstream = Upstream::start(move |_| answer.clone()).await;
            let (_database, root) = ready(&upstream).await;
            let answer = bed::json(&root, &chat_sql("{}")).await;
            let calls = &answer["choices"][0]["message"]["tool_calls"];
            assert_eq!(calls[0]["function"]["arguments"], "{}", "{function}");
        }
    }
}

#[tokio::test]
async fn blank_texts_are_not_sent_to_anthropic() {
    // As Anthropic does.
    fn problem(sent: &Value) -> Option<&'static str> {
        let is_blank = |text: &Value| text.as_str().is_some_and(|text| text.trim().is_empty());
        fn texts<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
                Value::Object(members) => {
                    found.extend(members.get("text"));
                    members.get("content").iter().for_each(|content| texts(content, found));
                }
                text => found.push(text),
            }
        }
        let mut found = vec![];
        texts(&sent["messages"], &mut found);
        found.extend(sent.get("system").filter(|system| system.is_string()));
        if found.into_iter().any(is_blank) {
            return Some("text content blocks must contain non-whitespace text");
        }
        let last = sent["messages"].as_array()?.last()?;
        let text = last["content"].as_array()?.last()?["text"].as_str()?;
        (last["role"] == "assistant" && text.trim_end() != text)
            .then_some("final assistant content cannot end with trailing whitespace")
    }
    let upstream = Upstream::raw(|seen| match problem(&seen.json()) {
        Some(problem) => Answer::json(
            400,
            serde_json::json!({"type": "error", "error": {"type": "invalid_request_error", "message": problem}}).to_string(),
        ),
        None => Answer::json(
            200,
            r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn"}"#,
        ),
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["m"]).await;
    save_key(&root, "claude", "sk-ant-good-0123456789").await;
    let call = r#"[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]"#;
    for messages in [
        format!(
            r#"[{{"role":"system","content":" "}},{{"role":"user","content":"hi"}},{{"role":"assistant","content":"\n\n","tool_calls":{call}}},
                {{"role":"tool","tool_call_id":"t","content":" "}}]"#
        ),
        HELLO.replace("}]", r#"},{"role":"assistant","content":"Sure: \n"}]"#),
        r#"[{"role":"user","content":[{"type":"text","text":"\t"},{"type":"text","text":"hi"}]}]"#
            .to_owned(),
    ] {
        let sql = format!("SELECT chat_complete('m', '{messages}')");
        let answer = bed::json(&root, &sql).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{messages}");
    }
}
