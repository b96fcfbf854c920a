//! What a provider refuses, and what people can do about it: its words, the key, the region, the
//! length of the prompt, and where the attempt is found.

use crate::bed::{self, Database, eventually, failure, quoted, rows, value};
use crate::fallback::{served, standins};
use crate::fixtures::{HELLO, add_named, chat_sql, save_key, stream_sql};
use crate::upstream::{Answer, Piece, Seen, Upstream};
use tokio_postgres::Client;

const GEMINI_KEY: &str = r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}]"#;
const XAI_KEY: &str = r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: na***ys. You can obtain an API key from https://console.x.ai."}"#;
const DISABLED: &str = r#"[{"error":{"code":403,"message":"Generative Language API has not been used in project 1234 before or it is disabled.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"SERVICE_DISABLED"}]}}]"#;
const REGION: &str = r#"{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}"#;
const GEMINI_REGION: &str = r#"[{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}]"#;

/// A provider of this standard, with a key that was never checked.
async fn refusing(standard: &str, answer: Answer) -> (Upstream, Database<'static>, Client) {
    let upstream = Upstream::raw(move |_| answer.clone()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "p1", standard, &upstream.base_url(), &["m"]).await;
    save_key(&root, "p1", "sk-good-p1-0123456789").await;
    (upstream, database, root)
}

/// The error of a job that fails.
async fn job_error(client: &Client) -> serde_json::Value {
    let id = crate::fixtures::submit(client, r#"{"max_retries": 0}"#, "").await;
    bed::json(client, &format!("SELECT error FROM chat_wait('{id}', 60000)")).await
}

#[tokio::test]
async fn a_providers_words_reach_the_caller_whatever_their_form() {
    for body in [
        r#"[{"error":{"code":400,"message":"the third turn is wrong","status":"INVALID_ARGUMENT"}}]"#,
        r#"{"detail":"the third turn is wrong"}"#,
        r#"{"detail":[{"loc":["body","messages"],"msg":"the third turn is wrong","input":{"content":"private"}}]}"#,
        r#"{"errors":[{"code":7003,"message":"the third turn is wrong"}],"success":false}"#,
        "the third turn is wrong",
        "<html><head><title>400</title></head><body>the third turn is wrong</body></html>",
        r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"the third turn is wrong\"}}"}}}"#,
    ] {
        let (_upstream, _database, root) = refusing("openai", Answer::json(400, body)).await;
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT400");
        assert!(message.contains("the third turn is wrong"), "{body}: {message}");
        assert!(!message.contains("private"), "{message}");
        let (code, message) = failure(&root, &stream_sql("{}")).await;
        assert_eq!(code, "PT400");
        assert!(message.contains("the third turn is wrong"), "{body}: {message}");
        let error = job_error(&root).await;
        assert!(error["detail"].as_str().unwrap().contains("the third turn is wrong"), "{error}");
    }
    let body = r#"{"detail":"the third turn is wrong"}"#;
    let (_upstream, _database, root) = refusing("anthropic", Answer::json(400, body)).await;
    let (code, message) = failure(&root, &chat_sql("{}")).await;
    assert_eq!(code, "PT400");
    assert!(message.contains("the third turn is wrong"), "{message}");
    let answer = bed::json(&root, &chat_sql(r#"{"throw_on_error": false}"#)).await;
    assert_eq!(answer["error"]["detail"], "the third turn is wrong", "{answer}");
}

#[tokio::test]
async fn a_providers_words_never_hold_the_key_and_have_an_end() {
    for body in [
        "the key sk-good-p1-0123456789 is odd".to_owned(),
        r#"{"detail":"the key sk-good-p1-0123456789 is odd"}"#.to_owned(),
        r#"{"odd":{"key":"sk-good-p1-0123456789"}}"#.to_owned(),
        format!("odd {}", "x".repeat(100_000)),
    ] {
        let (_upstream, _database, root) = refusing("openai", Answer::json(400, body)).await;
        for sql in [chat_sql("{}"), stream_sql("{}"), "SELECT validate_provider_key('p1')".into()] {
            let (_, message) = failure(&root, &sql).await;
            assert!(message.contains("odd") && !message.contains("0123456789"), "{message}");
            assert!(message.len() < 2000, "{} bytes", message.len());
        }
    }
}

/// Refuses every key but good ones with this answer, as Gemini and xAI do.
async fn choosy(refusal: Answer) -> Upstream {
    Upstream::raw(move |seen: &Seen| {
        let key = seen.header("authorization").unwrap_or("");
        match (key.starts_with("Bearer sk-good"), seen.path.ends_with("/models")) {
            (false, _) => refusal.clone(),
            (true, true) => Answer::json(200, r#"{"data":[{"id":"m"}]}"#),
            (true, false) => Answer::hello(),
        }
    })
    .await
}

#[tokio::test]
async fn a_bad_key_is_one_whatever_the_status_that_says_so() {
    for (status, body, words) in [
        (400, GEMINI_KEY, "API key not valid"),
        (400, XAI_KEY, "Incorrect API key provided"),
        (401, r#"{"detail":"Unauthorized"}"#, "Unauthorized"),
        (200, r#"{"error":{"code":401,"message":"Invalid API Key"}}"#, "Invalid API Key"),
        (
            200,
            r#"{"base_resp":{"status_code":2049,"status_msg":"invalid api key"}}"#,
            "invalid api key",
        ),
        (200, r#"{"success":false,"message":"无效的令牌"}"#, "无效的令牌"),
    ] {
        let upstream = choosy(Answer::json(status, body)).await;
        let database = bed::database().await;
        let root = database.root().await;
        add_named(&root, "p1", "openai", &upstream.base_url(), &["m"]).await;
        let validate = |key| format!("SELECT validate_provider_key('p1', '{key}')");
        assert_eq!(value(&root, &validate("bad-1")).await.unwrap(), "f", "{body}");
        assert_eq!(value(&root, &validate("sk-good-1")).await.unwrap(), "t", "{body}");
        let check = |key| format!("SELECT is_valid, reason FROM check_provider_key('p1', '{key}')");
        assert_eq!(rows(&root, &check("sk-good-1")).await, ["t|∅"], "{body}");
        let told = rows(&root, &check("bad-1")).await.remove(0);
        assert!(told.starts_with("f|") && told.contains(words), "{told}");
        let (code, message) = failure(&root, "SELECT save_provider_key('p1', 'bad-1')").await;
        assert_eq!(code, "PT401", "{body}: {message}");
        assert!(message.contains(words) && message.contains("Nothing was saved"), "{message}");
        assert_eq!(value(&root, "SELECT count(*) FROM user_api_providers").await.unwrap(), "0");
        eventually(
            &root,
            "SELECT string_agg(DISTINCT outcome || ' ' || http_status, ',' ORDER BY outcome || ' ' || http_status)
             FROM aggregator_key_checks WHERE kind = 'check'",
            &format!("refused {status},success 200"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_bad_key_that_is_no_401_is_pt401_in_calls_and_jobs_and_cools() {
    for body in [GEMINI_KEY, XAI_KEY] {
        let first = Upstream::raw(move |_| Answer::json(400, body)).await;
        let second = Upstream::start(|_| Answer::hello()).await;
        let (_database, root) = standins(&[&first, &second]).await;
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT401", "{message}");
        assert!(message.contains("save_provider_key"), "{message}");
        // It goes last until it is changed, for its other models too.
        assert_eq!(served(&root, "{}").await, "p2");
        let other = chat_sql("{}").replace("'m'", "'m2'");
        assert_eq!(bed::json(&root, &other).await["aggregator"]["provider"], "p2");
        assert_eq!(first.chat_count(), 1);
        let cooling = "SELECT cooling_until, model_id FROM aggregator_cooling";
        eventually(
            &root,
            &format!("SELECT concat_ws('|', cooling_until, model_id) FROM ({cooling}) AS c"),
            "infinity",
        )
        .await;
        // The other key is gone, and a job and a stream say the same.
        value(&root, "SELECT remove_provider_key('p2')").await;
        assert_eq!(job_error(&root).await["sqlstate"], "PT401");
        assert_eq!(failure(&root, &stream_sql("{}")).await.0, "PT401");
    }
}

#[tokio::test]
async fn a_region_or_a_disabled_service_is_not_the_key() {
    for (status, body, words) in [
        (403, DISABLED, "has not been used in project"),
        (403, REGION, "Country, region, or territory not supported"),
        (400, GEMINI_REGION, "User location is not supported"),
        (
            401,
            r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.model.read."}}"#,
            "Missing scopes",
        ),
        (
            200,
            r#"{"error":{"code":403,"message":"Country, region, or territory not supported"}}"#,
            "region",
        ),
    ] {
        let (_upstream, _database, root) = refusing("openai", Answer::json(status, body)).await;
        for sql in [
            "SELECT validate_provider_key('p1')".to_owned(),
            "SELECT validate_provider_key('p1', 'sk-new')".to_owned(),
            "SELECT save_provider_key('p1', 'sk-new')".to_owned(),
            chat_sql("{}"),
        ] {
            let (code, message) = failure(&root, &sql).await;
            assert_eq!(code, "PT403", "{sql}: {message}");
            assert!(message.contains(words), "{sql}: {message}");
            assert!(message.contains("The key itself was not refused"), "{sql}: {message}");
        }
        assert_eq!(job_error(&root).await["sqlstate"], "PT403");
        assert_eq!(rows(&root, "SELECT key_hint FROM user_api_providers").await, ["sk-…6789"]);
        let checks = "SELECT string_agg(DISTINCT outcome, ',') FROM aggregator_key_checks WHERE kind = 'check'";
        eventually(&root, checks, "error").await;
        assert_eq!(value(&root, "SELECT count(*) FROM aggregator_cooling").await.unwrap(), "0");
    }
    // One that says nothing is not taken for a refused key either.
    let (_upstream, _database, root) = refusing("openai", Answer::json(403, "")).await;
    let (code, message) = failure(&root, "SELECT validate_provider_key('p1')").await;
    assert_eq!(code, "PT403", "{message}");
}

#[tokio::test]
async fn no_credit_is_pt402_whatever_the_status_that_says_so() {
    for (status, body) in [
        (
            400,
            r#"{"error":{"message":"Your credit balance is too low to access the Anthropic API.","type":"invalid_request_error"}}"#,
        ),
        (403, r#"{"error":{"message":"no","code":"insufficient_user_quota"}}"#),
        (429, r#"{"error":{"message":"no","code":"insufficient_quota"}}"#),
        (429, r#"{"error":{"code":"1113","message":"您的账户已欠费，请充值后重试"}}"#),
    ] {
        let (upstream, _database, root) = refusing("openai", Answer::json(status, body)).await;
        let (code, message) = failure(&root, &chat_sql("{}")).await;
        assert_eq!(code, "PT402", "{message}");
        assert!(message.contains("no credit left"), "{message}");
        assert_eq!(upstream.chat_count(), 1, "it is of no use to try again");
    }
}

#[tokio::test]
async fn a_sync_says_whose_key_is_missing_or_refused_and_in_which_words() {
    let sync = "SELECT error FROM sync_models('p1')";
    // Without a key Gemini answers 400.
    let keyless = r#"[{"error":{"code":400,"message":"Missing or invalid Authorization header.","status":"INVALID_ARGUMENT"}}]"#;
    let upstream = choosy(Answer::json(400, keyless)).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "p1", "openai", &upstream.base_url(), &[]).await;
    let error = value(&root, sync).await.unwrap();
    assert!(error.starts_with("no active key for provider 'p1'"), "{error}");
    assert!(error.contains("save_platform_key"), "{error}");
    value(&root, "SELECT save_platform_key('p1', 'bad-1')").await;
    let error = value(&root, sync).await.unwrap();
    assert!(error.contains("Missing or invalid Authorization header"), "{error}");
    assert!(error.contains("save_platform_key"), "{error}");
    assert!(!error.contains("aggregator_usage_logs"), "{error}");
    // A user's own key brings the list where everybody's cannot be had.
    let user = database.rest("authenticated", Some("u-1")).await;
    root.batch_execute("SELECT remove_platform_key('p1'); UPDATE api_providers SET last_synced_at = NULL WHERE name = 'p1'").await.unwrap();
    save_key(&user, "p1", "sk-good-1").await;
    eventually(&user, "SELECT count(*) FROM get_user_available_models()", "1").await;
    for (status, body, words) in [
        (403, DISABLED, "has not been used in project"),
        (403, REGION, "Country, region, or territory not supported"),
        (200, r#"{"error":{"message":"the list is being made"}}"#, "the list is being made"),
        (200, r#"{"base_resp":{"status_code":1033,"status_msg":"system error"}}"#, "system error"),
        (500, "the backend is down", "the backend is down"),
    ] {
        let (_upstream, _database, root) = refusing("openai", Answer::json(status, body)).await;
        let error = value(&root, sync).await.unwrap();
        assert!(error.contains(words), "{body}: {error}");
        assert!(!error.contains("aggregator_usage_logs"), "{error}");
    }
}

/// p1 with model `m` and a longer `m3`; `m` answers this.
async fn short_and_long(answer: Answer) -> (Upstream, Database<'static>, Client) {
    let upstream = Upstream::start(move |seen| match seen.json()["model"].as_str().unwrap() {
        "m3" if seen.json()["stream"] == true => {
            Answer::streams(&["hel", "lo"], crate::fixtures::AT_ONCE, None)
        }
        "m3" => Answer::hello(),
        _ => answer.clone(),
    })
    .await;
    let (database, root) = standins(&[&upstream]).await;
    windows(&root, "8000", "128000").await;
    (upstream, database, root)
}

/// The context windows of `m` and `m3`; `m2` is the shortest.
async fn windows(root: &Client, m: &str, m3: &str) {
    root.batch_execute(&format!(
        "UPDATE aggregator_models SET context_window = CASE model_id WHEN 'm' THEN {m} WHEN 'm2' THEN 4000 ELSE {m3} END
         WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'p1')"
    ))
    .await
    .unwrap();
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_on_to_a_longer_model_in_every_way() {
    let longer = r#"{"models": ["m2", "m3"]}"#;
    for (status, body) in [
        (
            400,
            r#"[{"error":{"code":400,"message":"The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]"#,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}}"#,
        ),
        (
            422,
            r#"{"error":"Input validation error: `inputs` must have less than 4095 tokens. Given: 5000","error_type":"validation"}"#,
        ),
        (413, "<html><title>413 Request Entity Too Large</title></html>"),
        (200, r#"{"error":{"message":"prompt is too long"},"choices":[]}"#),
    ] {
        let (upstream, _database, root) = short_and_long(Answer::json(status, body)).await;
        let answer = bed::json(&root, &chat_sql(longer)).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{body}");
        let id = crate::fixtures::submit(&root, longer, "").await;
        assert!(crate::fixtures::ended(&root, &id).await.starts_with("succeeded|hello|"), "{body}");
        let streamed = rows(&root, &stream_sql(longer)).await;
        assert!(streamed[0].starts_with("hel|"), "{body}: {streamed:?}");
        let asked: Vec<_> =
            upstream.chats().iter().map(|c| c.json()["model"].to_string()).collect();
        assert_eq!(asked, ["\"m\"", "\"m3\"", "\"m\"", "\"m3\"", "\"m\"", "\"m3\""], "{body}");
        // Where nobody longer is named, people are told what to do.
        let (_, message) = failure(&root, &chat_sql("{}")).await;
        assert!(message.contains("options.models"), "{message}");
    }
    // In the stream, before its first word.
    let event =
        r#"{"error":{"message":"Reached context length of 4096 tokens with current model."}}"#;
    let stream = Answer::Stream(vec![Piece::role(), Piece::Data(event.to_owned())]);
    let (_upstream, _database, root) = short_and_long(stream).await;
    let streamed = rows(&root, &stream_sql(longer)).await;
    assert!(streamed[0].starts_with("hel|"), "{streamed:?}");
}

#[tokio::test]
async fn what_the_caller_lists_is_tried_where_nobody_knows_its_context() {
    let too_long = || Answer::json(400, r#"{"error":{"message":"prompt is too long"}}"#);
    for (m, m3) in [("8000", "NULL"), ("NULL", "128000"), ("NULL", "NULL")] {
        let (upstream, _database, root) = short_and_long(too_long()).await;
        windows(&root, m, m3).await;
        let answer = bed::json(&root, &chat_sql(r#"{"models": ["m3"]}"#)).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{m} {m3}");
        assert_eq!(upstream.chat_count(), 2, "{m} {m3}");
        let id = crate::fixtures::submit(&root, r#"{"models": ["m3"]}"#, "").await;
        assert!(
            crate::fixtures::ended(&root, &id).await.starts_with("succeeded|hello|"),
            "{m} {m3}"
        );
    }
    // One that is in no catalogue, by the provider's name.
    let (_upstream, _database, root) = short_and_long(too_long()).await;
    root.batch_execute("DELETE FROM aggregator_models WHERE model_id = 'm3'").await.unwrap();
    let answer = bed::json(&root, &chat_sql(r#"{"models": ["p1:m3"]}"#)).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    // What is known to be shorter is not, and an unknown one between does not make it forgotten.
    let (upstream, _database, root) = short_and_long(too_long()).await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, 'm4', 'm4', 'm4', '{\"input\": 2, \"output\": 10}' FROM api_providers WHERE name = 'p1'",
    )
    .await
    .unwrap();
    bed::json(&root, &chat_sql(r#"{"models": ["m4", "m2", "m3"]}"#)).await;
    let asked: Vec<_> = upstream.chats().iter().map(|c| c.json()["model"].to_string()).collect();
    assert_eq!(asked, ["\"m\"", "\"m4\"", "\"m3\""]);
}

#[tokio::test]
async fn what_is_too_short_is_not_asked_again_in_a_later_round() {
    let busy = Upstream::start(|_| Answer::json(503, "busy")).await;
    let long =
        Upstream::start(|_| Answer::json(400, r#"{"error":{"message":"prompt is too long"}}"#))
            .await;
    let (_database, root) = standins(&[&busy, &long]).await;
    root.batch_execute(
        "UPDATE aggregator_models SET context_window = CASE p.name WHEN 'p1' THEN 8000 ELSE 16000 END
         FROM api_providers AS p WHERE p.id = provider_id",
    )
    .await
    .unwrap();
    let (code, message) = failure(&root, &chat_sql(r#"{"max_retries": 3}"#)).await;
    assert_eq!(code, "PT400", "{message}");
    assert_eq!((busy.chat_count(), long.chat_count()), (1, 1));
}

#[tokio::test]
async fn a_limit_of_tokens_per_minute_is_not_the_length_of_the_prompt() {
    let groq = r#"{"error":{"message":"Request too large for model `m` in organization `o` on tokens per minute (TPM): Limit 6000, Requested 14137, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let (upstream, _database, root) = short_and_long(Answer::json(413, groq)).await;
    // A shorter model of another account may take it.
    failure(&root, &chat_sql(r#"{"models": ["m2"]}"#)).await;
    assert_eq!(upstream.chat_count(), 2);
    let alone = r#"{"error":{"message":"max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000."}}"#;
    let (upstream, _database, root) = short_and_long(Answer::json(400, alone)).await;
    failure(&root, &chat_sql(r#"{"models": ["m3"]}"#)).await;
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn errors_of_syncs_and_key_checks_point_to_their_own_log() {
    for (answer, code) in [
        (Answer::Raw(vec![]), "disconnected"),
        (Answer::json(200, "<html>"), "broken_answer"),
        (Answer::Endless(17 << 20), "answer_too_large"),
        (Answer::json(500, "down"), "upstream_error"),
        (Answer::Full(302, vec![("location", "/".to_owned())], String::new()), "broken_answer"),
        (Answer::json(404, "<html>nothing here</html>"), "upstream_error"),
    ] {
        let (_upstream, _database, root) = refusing("openai", answer).await;
        let check = failure(&root, "SELECT validate_provider_key('p1')").await.1;
        let sync = value(&root, "SELECT error FROM sync_models('p1')").await.unwrap();
        for message in [check, sync] {
            for wrong in ["aggregator_usage_logs", "options.timeout_ms", "been paid for"] {
                assert!(!message.contains(wrong), "{code}: {message}");
            }
            assert!(
                !message.contains("nothing here") || message.contains("models_url"),
                "{message}"
            );
            if ["disconnected", "broken_answer"].contains(&code) {
                assert!(message.contains("aggregator_key_checks"), "{message}");
            }
        }
        for kind in ["check", "sync"] {
            let row = format!(
                "SELECT error_code FROM aggregator_key_checks WHERE kind = {}",
                quoted(kind)
            );
            eventually(&root, &row, code).await;
        }
    }
    // A call's stay where they were. The words of a page say which proxy it is.
    let page = Answer::json(200, "<html><title>Just a moment...</title></html>");
    let (_upstream, _database, root) = refusing("openai", page).await;
    let (_, message) = failure(&root, &chat_sql("{}")).await;
    assert!(message.contains("aggregator_usage_logs"), "{message}");
    assert!(message.contains("HTML instead of JSON: Just a moment..."), "{message}");
    let (_, message) = failure(&root, "SELECT validate_provider_key('p1')").await;
    assert!(message.contains("Just a moment..."), "{message}");
}

#[tokio::test]
async fn a_call_of_a_batch_that_never_had_its_turn_is_in_no_log_and_says_so() {
    let (upstream, _database, root) = refusing("openai", Answer::Stall).await;
    root.batch_execute("SET statement_timeout = 5000").await.unwrap();
    let one = format!("{{\"model\": \"m\", \"messages\": {HELLO}}}");
    let many = format!(
        "SELECT error ->> 'sqlstate', error ->> 'code', error ->> 'hint' FROM chat_many('[{one}, {one}]', '{{}}', 1) ORDER BY ord"
    );
    let errors = rows(&root, &many).await;
    assert!(errors[0].starts_with("PT504|deadline|"), "{errors:?}");
    assert!(errors[0].contains("aggregator_usage_logs"), "{errors:?}");
    assert!(errors[1].starts_with("PT504|no_turn|Nothing was sent"), "{errors:?}");
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "1");
}
