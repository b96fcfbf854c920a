//! Answers in JSON that fit a schema: how a model is asked, how often, and what that costs.

use crate::bed::{self, eventually, failure, quoted, rows, value};
use crate::fixtures::{HELLO, add_named, ended, ready, save_key, submit};
use crate::upstream::{Answer, Gate, Seen, USAGE, Upstream, in_turn};
use serde_json::{Value, json};
use tokio_postgres::Client;

pub const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"]}"#;
pub const GOOD: &str = r#"{"name":"Ann","age":7}"#;
const BAD: &str = r#"{"name":"Ann","age":"seven"}"#;

/// A call of our function.
pub fn calls(arguments: &str) -> Answer {
    let message = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "answer", "arguments": arguments}}]});
    let usage: Value = serde_json::from_str(USAGE).unwrap();
    let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
    Answer::json(
        200,
        json!({"id": "g", "model": "m-served", "choices": [choice], "usage": usage}).to_string(),
    )
}

fn says(text: &str) -> Answer {
    Answer::says(text, USAGE)
}

/// What the catalogue says that model `m` can.
async fn can(root: &Client, structured_outputs: bool, functions: bool) {
    let capabilities = json!({"structured_outputs": structured_outputs, "functions": functions});
    root.batch_execute(&format!(
        "UPDATE aggregator_models SET capabilities = '{capabilities}' WHERE model_id = 'm'"
    ))
    .await
    .unwrap();
}

fn json_sql(schema: &str, options: &str) -> String {
    format!("SELECT chat_json('who?', 'm', {}, {})", quoted(schema), quoted(options))
}

fn complete_sql(options: Value) -> String {
    format!("SELECT chat_complete('m', '{HELLO}', {})", quoted(&options.to_string()))
}

fn person() -> Value {
    serde_json::from_str(PERSON).unwrap()
}

fn with(option: &str, value: Value) -> Value {
    let mut options = json!({"schema": person()});
    options[option] = value;
    options
}

/// The DETAIL of what is raised.
async fn detail(client: &Client, sql: &str) -> String {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql} succeeds"));
    error.as_db_error().unwrap().detail().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn each_model_is_asked_in_the_best_way_that_it_has() {
    let upstream = Upstream::start(|seen| match seen.json().get("tools") {
        Some(_) => calls(GOOD),
        None => says(GOOD),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    for (structured, functions) in [(true, true), (false, true), (false, false)] {
        can(&root, structured, functions).await;
        let parsed = bed::json(&root, &json_sql(PERSON, r#"{"temperature": 0.5}"#)).await;
        assert_eq!(parsed, json!({"name": "Ann", "age": 7}));
    }
    let sent: Vec<Value> = upstream.chats().iter().map(Seen::json).collect();
    assert_eq!(sent.len(), 3);
    let format = &sent[0]["response_format"];
    assert_eq!(
        (&format["type"], &format["json_schema"]["strict"]),
        (&json!("json_schema"), &json!(true))
    );
    assert_eq!(format["json_schema"]["schema"]["additionalProperties"], false);
    assert_eq!(sent[1]["tool_choice"], json!({"type": "function", "function": {"name": "answer"}}));
    assert_eq!(sent[1]["tools"][0]["function"]["parameters"], person());
    let said = sent[2]["messages"][0]["content"].as_str().unwrap();
    assert!(
        said.starts_with("who?") && said.contains("JSON Schema") && said.contains("\"age\""),
        "{said}"
    );
    for (sent, members) in sent.iter().zip([4, 5, 3]) {
        assert_eq!(sent.as_object().unwrap().len(), members, "{sent}");
        assert_eq!(sent["temperature"], 0.5);
    }
    // One that no strict mode takes.
    can(&root, true, true).await;
    let loose = r#"{"type":"object","additionalProperties":{"type":["string","integer"]}}"#;
    bed::json(&root, &json_sql(loose, "{}")).await;
    assert!(upstream.chats()[3].json().get("tools").is_some());
    // An answer says the same whatever way it came.
    let answer = bed::json(&root, &complete_sql(with("max_repairs", 0.into()))).await;
    let said: Value =
        serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!((&said, &answer["parsed"]), (&json!({"name": "Ann", "age": 7}), &said));
}

#[tokio::test]
async fn anthropics_wire_has_all_ways_too() {
    let upstream = Upstream::raw(|seen| {
        let sent = seen.json();
        let content = match sent.get("tools") {
            Some(_) => json!([{"type": "tool_use", "id": "t", "name": "answer", "input": {"name": "Ann", "age": 7}}]),
            None => json!([{"type": "text", "text": format!("```json\n{GOOD}\n```")}]),
        };
        let answer = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": content,
            "stop_reason": "tool_use", "usage": {"input_tokens": 10, "output_tokens": 5}});
        Answer::json(200, answer.to_string())
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "claude", "anthropic", &upstream.base_url(), &["m"]).await;
    save_key(&root, "claude", "sk-ant-0123456789abcdef").await;
    for (structured, functions) in [(true, true), (false, true), (false, false)] {
        can(&root, structured, functions).await;
        let answer = bed::json(&root, &complete_sql(with("max_tokens", 99.into()))).await;
        assert_eq!(answer["parsed"], json!({"name": "Ann", "age": 7}), "{answer}");
    }
    let sent: Vec<Value> = upstream.chats().iter().map(Seen::json).collect();
    assert_eq!(sent[0]["output_config"]["format"]["type"], "json_schema");
    assert_eq!(sent[0]["output_config"]["format"]["schema"]["additionalProperties"], false);
    assert_eq!(sent[1]["tool_choice"], json!({"type": "tool", "name": "answer"}));
    assert_eq!(sent[1]["tools"][0]["input_schema"], person());
    assert!(sent[2]["messages"].to_string().contains("JSON Schema"));
    assert_eq!(sent.len(), 3);
}

#[tokio::test]
async fn json_is_taken_out_of_fences_and_words() {
    let upstream = Upstream::start(in_turn(vec![
        says(&format!("Sure!\n```json\n{GOOD}\n```\nAnything else?")),
        says(&format!("Perhaps {BAD}? No: {GOOD}. Done.")),
        says(&format!("```\n{GOOD}```")),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    for _ in 0..3 {
        let parsed = bed::json(&root, &json_sql(PERSON, r#"{"max_repairs": 0}"#)).await;
        assert_eq!(parsed, json!({"name": "Ann", "age": 7}));
    }
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_asked_for_again_with_what_is_wrong() {
    let upstream = Upstream::start(in_turn(vec![says(BAD), says("I cannot."), says(GOOD)])).await;
    let (_database, root) = ready(&upstream).await;
    let answer = bed::json(&root, &complete_sql(json!({"schema": person()}))).await;
    assert_eq!(answer["parsed"], json!({"name": "Ann", "age": 7}));
    assert_eq!(answer["aggregator"]["attempts"], 3);
    // Three times 0.00007 USD.
    let id = answer["aggregator"]["usage_log_id"].as_str().unwrap();
    assert_eq!(answer["aggregator"]["cost"].to_string(), "0.00021");
    let logged = format!(
        "SELECT count(*), count(DISTINCT attempt), sum(cost_estimate), min(status), max(status)
         FROM aggregator_usage_logs WHERE call_id = '{id}'"
    );
    assert_eq!(rows(&root, &logged).await, ["3|3|0.00021|success|success"]);
    let sent: Vec<Value> = upstream.chats().iter().map(Seen::json).collect();
    assert_eq!(sent[0]["messages"].as_array().unwrap().len(), 1);
    let second = sent[1]["messages"].as_array().unwrap();
    assert_eq!((second.len(), &second[1]), (3, &json!({"role": "assistant", "content": BAD})));
    let words = second[2]["content"].as_str().unwrap();
    assert!(words.contains(r#"at /age: "seven" is not of type "integer""#), "{words}");
    let third = sent[2]["messages"].as_array().unwrap();
    assert_eq!((third.len(), &third[1]["content"]), (3, &json!("I cannot.")));
    assert!(third[2]["content"].as_str().unwrap().contains("no complete JSON"));
}

#[tokio::test]
async fn what_never_fits_is_told_with_the_answer() {
    let upstream = Upstream::start(|_| says(BAD)).await;
    let (_database, root) = ready(&upstream).await;
    for (options, asked) in [
        (r#"{"max_repairs": 0}"#, 1),
        ("{}", 3),
        (r#"{"max_repairs": 5}"#, 6),
        (r#"{"max_repairs": null}"#, 3),
    ] {
        let before = upstream.chat_count();
        let (code, message) = failure(&root, &json_sql(PERSON, options)).await;
        assert_eq!(code, "PT422", "{message}");
        assert!(message.contains("'standin', model 'm' does not fit the schema"), "{message}");
        assert_eq!(upstream.chat_count() - before, asked, "{options}");
    }
    let detail = detail(&root, &json_sql(PERSON, r#"{"max_repairs": 0}"#)).await;
    assert!(detail.starts_with("schema_violation: at /age:") && detail.ends_with(BAD), "{detail}");
    let told = bed::json(&root, &complete_sql(with("throw_on_error", false.into()))).await;
    assert_eq!(
        (&told["parsed"], &told["error"]["code"]),
        (&Value::Null, &json!("schema_violation"))
    );
    assert!(told.as_object().unwrap().contains_key("parsed"));
    assert_eq!(told["violations"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(
        (&told["error"]["sqlstate"], &told["aggregator"]["attempts"]),
        (&json!("PT422"), &json!(3))
    );
    assert_eq!(told["aggregator"]["cost"].to_string(), "0.00021");
    let sql =
        format!("SELECT chat('hi', 'm', {})", quoted(&with("max_repairs", 0.into()).to_string()));
    assert_eq!(failure(&root, &sql).await.0, "PT422");
}

#[tokio::test]
async fn what_is_no_schema_is_refused_before_anything_is_sent() {
    let upstream = Upstream::start(|_| says(GOOD)).await;
    let (_database, root) = ready(&upstream).await;
    let huge = json!({"description": "x".repeat(70_000)}).to_string();
    let endless = r##"{"allOf":[{"$ref":"#"}]}"##;
    let deep = format!("{}{{}}{}", r#"{"items":"#.repeat(150), "}".repeat(150));
    for schema in [
        "7",
        "[]",
        "\"text\"",
        "null",
        r#"{"type":"strnig"}"#,
        r#"{"pattern":"("}"#,
        r#"{"$ref":"https://example.com/schema.json"}"#,
        r#"{"properties":{"a":{"$ref":"file:///etc/passwd"}}}"#,
        r##"{"$ref":"#/$defs/none"}"##,
        endless,
        &huge,
        &deep,
    ] {
        assert_eq!(failure(&root, &json_sql(schema, "{}")).await.0, "PT400", "{schema:.80}");
        let submit = format!(
            "SELECT chat_submit('m', '{HELLO}', jsonb_build_object('schema', {}::jsonb))",
            quoted(schema)
        );
        if schema != "null" {
            assert_eq!(failure(&root, &submit).await.0, "PT400", "{schema:.80}");
        }
    }
    for options in [
        r#"{"max_repairs": 6}"#,
        r#"{"max_repairs": -1}"#,
        r#"{"max_repairs": "2"}"#,
        r#"{"schema": {}}"#,
        r#"{"tools": []}"#,
        r#"{"tool_choice": "auto"}"#,
        r#"{"response_format": {"type": "json_object"}}"#,
        r#"{"n": 2}"#,
        r#"{"cache": {"ttl": 60}}"#,
        r#"{"stream": true}"#,
        r#"{"throw_on_error": false}"#,
        r#"{"on_deadline": "queue"}"#,
        r#"{"extra_body": {"schema": {}}}"#,
    ] {
        assert_eq!(failure(&root, &json_sql(PERSON, options)).await.0, "PT400", "{options}");
    }
    for sql in [
        format!("SELECT chat_json(NULL, 'm', '{PERSON}')"),
        "SELECT chat_json('who?', 'm', NULL)".to_owned(),
        format!("SELECT * FROM chat_stream('m', '{HELLO}', '{{\"schema\": {PERSON}}}')"),
        complete_sql(json!({"max_repairs": 1})),
        complete_sql(
            json!({"response_format": {"type": "json_schema", "json_schema": {}, "check": true}}),
        ),
        complete_sql(json!({"response_format": {"type": "json_object", "check": true}})),
        complete_sql(json!({"response_format": {"type": "text", "check": 1}})),
    ] {
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{sql}");
    }
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
}

#[tokio::test]
async fn a_format_is_checked_only_if_that_is_asked_for() {
    let upstream = Upstream::start(|_| says(BAD)).await;
    let (_database, root) = ready(&upstream).await;
    let format = |check: Value| {
        let format = json!({"name": "person", "schema": person()});
        let mut format = json!({"type": "json_schema", "json_schema": format});
        if !check.is_null() {
            format["check"] = check;
        }
        complete_sql(json!({"response_format": format}))
    };
    assert_eq!(failure(&root, &format(true.into())).await.0, "PT422");
    assert_eq!(upstream.chat_count(), 3);
    for check in [false.into(), Value::Null] {
        let answer = bed::json(&root, &format(check)).await;
        assert_eq!(answer.get("parsed"), None);
        let sent = upstream.chats().pop().unwrap().json();
        assert_eq!(sent["response_format"]["json_schema"]["name"], "person");
        assert_eq!(sent["response_format"].get("check"), None);
    }
}

#[tokio::test]
async fn a_batch_has_a_schema_for_all_or_for_each() {
    let upstream = Upstream::start(|seen| {
        let text = seen.json()["messages"].to_string();
        if text.contains("bad") { says(BAD) } else { says(GOOD) }
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let ask = |text: &str| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let mut own = ask("bad");
    own["schema"] = json!({"type": "object"});
    let requests = json!([ask("good"), ask("bad"), own]);
    let options = json!({"schema": person(), "max_repairs": 1});
    let sql = format!(
        "SELECT ord, ok, response -> 'parsed' ->> 'age', content::jsonb ->> 'name', error ->> 'sqlstate', cost
         FROM chat_many({}, {}) ORDER BY ord",
        quoted(&requests.to_string()),
        quoted(&options.to_string())
    );
    assert_eq!(
        rows(&root, &sql).await,
        ["1|t|7|Ann|∅|0.00007", "2|f|∅|∅|PT422|0.00014", "3|t|seven|Ann|∅|0.00007"]
    );
    assert_eq!(upstream.chat_count(), 4);
    // Identical requests with another schema are others.
    let mut other = ask("good");
    other["schema"] = json!({"type": "object"});
    let requests = json!([ask("good"), ask("good"), other]);
    let options = json!({"schema": person(), "dedupe": true, "temperature": 0});
    let sql = format!(
        "SELECT count(*) FILTER (WHERE ok) FROM chat_many({}, {})",
        quoted(&requests.to_string()),
        quoted(&options.to_string())
    );
    assert_eq!(rows(&root, &sql).await, ["3"]);
    assert_eq!(upstream.chat_count(), 6);
}

#[tokio::test]
async fn a_budget_that_runs_out_between_two_answers_ends_the_call() {
    let upstream = Upstream::start(|_| says(BAD)).await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_budget(p_limit_requests => 2, p_keys => 'all')").await.unwrap();
    let told = bed::json(&root, &complete_sql(with("throw_on_error", false.into()))).await;
    assert_eq!(told["error"]["sqlstate"], "PT402", "{told}");
    assert_eq!(told["aggregator"]["attempts"], 2);
    assert_eq!(upstream.chat_count(), 2);
    assert_eq!(
        rows(&root, "SELECT status, cost_estimate FROM aggregator_usage_logs ORDER BY attempt")
            .await,
        ["success|0.00007", "success|0.00007"]
    );
}

#[tokio::test]
async fn a_call_that_is_cancelled_asks_no_more() {
    let upstream = Upstream::start(in_turn(vec![says(BAD), Answer::Stall])).await;
    let (database, root) = ready(&upstream).await;
    let caller = database.root().await;
    let pid = value(&caller, "SELECT pg_backend_pid()").await.unwrap();
    let call = tokio::spawn(async move { failure(&caller, &json_sql(PERSON, "{}")).await });
    upstream.wait_for_chats(2).await;
    value(&root, &format!("SELECT pg_cancel_backend({pid})")).await.unwrap();
    assert_eq!(call.await.unwrap().0, "57014");
    upstream.wait_for_abort(1).await;
    let logged = "SELECT string_agg(status, ' ' ORDER BY attempt) FROM aggregator_usage_logs";
    eventually(&root, logged, "success cancelled").await;
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn all_requests_of_a_call_share_its_time() {
    let upstream = Upstream::start(in_turn(vec![says(BAD), Answer::Stall])).await;
    let (_database, root) = ready(&upstream).await;
    let (code, _) = failure(&root, &json_sql(PERSON, r#"{"timeout_ms": 8000}"#)).await;
    assert_eq!(code, "PT504");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_job_is_checked_as_well() {
    let upstream = Upstream::start(in_turn(vec![says(BAD), says(GOOD), says(BAD)])).await;
    let (_database, root) = ready(&upstream).await;
    let options = with("max_repairs", 1.into()).to_string();
    let id = submit(&root, &options, "").await;
    assert_eq!(ended(&root, &id).await, format!("succeeded|{GOOD}|1"));
    let seen = format!(
        "SELECT job.response -> 'parsed' ->> 'age', job.cost, job.cost_source, count(log.*)
         FROM aggregator_jobs AS job JOIN aggregator_usage_logs AS log ON log.call_id = job.id
         WHERE job.id = '{id}' GROUP BY 1, 2, 3"
    );
    assert_eq!(rows(&root, &seen).await, ["7|0.00014|computed|2"]);
    let id = submit(&root, &options, "").await;
    assert_eq!(ended(&root, &id).await, "failed|∅|1");
    let error = bed::json(&root, &format!("SELECT error FROM chat_result('{id}')")).await;
    assert_eq!(error["code"], "schema_violation");
    assert!(error["detail"].as_str().unwrap().ends_with(BAD), "{error}");
    assert_eq!(upstream.chat_count(), 4);
    // What does not fit was paid for all the same.
    let cost = format!("SELECT cost, cost_source FROM aggregator_jobs WHERE id = '{id}'");
    assert_eq!(rows(&root, &cost).await, ["0.00014|computed"]);
}

#[tokio::test]
async fn a_job_whose_repair_fails_does_not_pay_anew() {
    let down = r#"{"error":{"message":"overloaded"}}"#;
    let upstream =
        Upstream::start(in_turn(vec![says(BAD), Answer::json(503, down), says(GOOD)])).await;
    let (_database, root) = ready(&upstream).await;
    let id = submit(&root, &with("max_retries", 0.into()).to_string(), "").await;
    assert_eq!(ended(&root, &id).await, "failed|∅|1");
    let told = format!("SELECT error ->> 'code', cost FROM chat_result('{id}')");
    assert_eq!(rows(&root, &told).await, ["schema_violation|0.00007"]);
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_job_whose_repair_would_wait_does_not_begin_anew() {
    let upstream = Upstream::start(|_| says(BAD)).await;
    let (_database, root) = ready(&upstream).await;
    value(&root, "SELECT set_rate_limit(1)").await.unwrap();
    let id = submit(&root, &json!({"schema": person()}).to_string(), "").await;
    assert_eq!(ended(&root, &id).await, "failed|∅|1");
    let error = bed::json(&root, &format!("SELECT error FROM chat_result('{id}')")).await;
    assert_eq!(error["code"], "schema_violation");
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn what_is_checked_passes_the_response_cache_by() {
    let upstream = Upstream::start(|_| says(GOOD)).await;
    let (_database, root) = ready(&upstream).await;
    let plain = r#"{"temperature": 0, "cache": {"ttl": 600}}"#;
    value(&root, &crate::fixtures::chat_sql(plain)).await.unwrap();
    let checked = complete_sql(with("temperature", 0.into()));
    for _ in 0..2 {
        let answer = bed::json(&root, &checked).await;
        assert_eq!(answer["parsed"], json!({"name": "Ann", "age": 7}));
    }
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn a_call_that_becomes_a_job_is_checked_there() {
    let gate = Gate::default();
    let upstream = Upstream::start(in_turn(vec![says(BAD), Answer::held(&gate, says(GOOD))])).await;
    let (_database, root) = ready(&upstream).await;
    root.batch_execute("SET statement_timeout = '5s'").await.unwrap();
    let queued = bed::json(&root, &complete_sql(with("on_deadline", "queue".into()))).await;
    let id = queued["aggregator"]["job_id"].as_str().unwrap_or_else(|| panic!("{queued}"));
    root.batch_execute("RESET statement_timeout").await.unwrap();
    gate.open();
    assert_eq!(ended(&root, id).await, format!("succeeded|{GOOD}|1"));
    assert_eq!(upstream.chat_count(), 2);
}
