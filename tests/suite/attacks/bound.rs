//! Requests that are made to be understood wrongly, or to take long to be understood: what they can
//! cost has a bound or they are not sent, and nobody waits for them but who wrote them.

use crate::bed::{Cluster, eventually, failure, json, quoted, rows, shown, value};
use crate::fixtures::{HELLO, add_named, add_provider, chat_sql, ended, ready, save_key, user};
use crate::upstream::{Answer, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const IMAGE: &str =
    r#"{"type":"image_url","image_url":{"url":"https://x.example/a.png","detail":"high"}}"#;

/// The longest that anything has held the gateway's thread lately, in milliseconds of its own work.
async fn stall_ms(root: &Client) -> u64 {
    let sql = "SELECT gateway_stall_ms FROM aggregator_status()";
    value(root, sql).await.unwrap().parse().unwrap()
}

/// The most memory that the worker has ever held, in MB.
async fn peak_mb(root: &Client) -> u64 {
    let pid = value(root, "SELECT worker_pid FROM aggregator_status()").await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Chats one after the other until told to stop: how long each has taken.
fn chats_meanwhile(
    client: Client,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<Duration>> {
    tokio::spawn(async move {
        let mut took = vec![];
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            value(&client, &chat_sql("{}")).await.unwrap();
            took.push(began.elapsed());
        }
        took
    })
}

/// Nobody was held up: version 0.2.0 took seconds for each of the requests on any machine. One that is busy may hold
/// up a call or two.
fn assert_went_on(took: &[Duration]) {
    let slow: Vec<_> = took.iter().filter(|took| **took > Duration::from_millis(1500)).collect();
    assert!(took.len() > 20 && slow.len() <= 2, "{slow:?} of {}", took.len());
}

/// A provider of Anthropic's form with the model `claude`, and everybody's key for it.
async fn add_claude(root: &Client, upstream: &Upstream) {
    add_named(root, "claude-like", "anthropic", &upstream.base_url(), &["claude"]).await;
    root.batch_execute(
        "UPDATE aggregator_models SET max_output_tokens = 64000 WHERE model_id = 'claude'",
    )
    .await
    .unwrap();
    value(root, "SELECT save_platform_key('claude-like', 'sk-good-platform-0123')").await.unwrap();
}

fn hello_of_claude() -> Answer {
    Answer::json(
        200,
        r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hello"}],
            "stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":5}}"#,
    )
}

/// One that answers in the form of either standard.
async fn upstream() -> Upstream {
    Upstream::raw(|seen| {
        if seen.path.ends_with("/messages") { hello_of_claude() } else { Answer::hello() }
    })
    .await
}

/// Version 0.2.0 held the thread for seconds; a busy machine takes it away for a tenth of one.
const MOST_STALL_MS: u64 = 500;

#[tokio::test]
async fn millions_of_small_values_hold_up_nobody_else() {
    // A worker of its own, whose memory is measured.
    let cluster = Cluster::start("small_values", "");
    cluster.supabase_roles().await;
    let upstream = upstream().await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    value(&root, "SELECT set_budget(1000, p_each_user => true)").await.unwrap();
    add_claude(&root, &upstream).await;
    let victim = user(&database, "victim").await;
    value(&victim, &chat_sql("{}")).await.unwrap();
    let before = upstream.chat_count();
    let stop = Arc::new(AtomicBool::new(false));
    let meanwhile = chats_meanwhile(victim, stop.clone());
    let mallory = user(&database, "mallory").await;
    let nulls = |count: usize| {
        format!(
            "('[{{\"role\":\"user\",\"content\":[' || repeat('null,', {count}) || 'null]}}]')::jsonb"
        )
    };
    // What is refused, and what is just not: messages, parts and tools by the hundred thousand.
    for model in ["m", "claude"] {
        let sql = format!("SELECT chat_complete('{model}', {})", nulls(10_000_000));
        let (code, message) = failure(&mallory, &sql).await;
        assert_eq!(code, "PT413", "{message}");
        let sql = format!("SELECT chat_complete('{model}', {})", nulls(450_000));
        let (code, message) = failure(&mallory, &sql).await;
        assert_eq!(code, "PT402", "{message}");
        let many = r#"('[' || repeat('{"role":"user","content":"x"},', 160000) || '{"role":"user","content":"x"}]')::jsonb"#;
        let sql =
            format!("SELECT chat_complete('{model}', {many}, '{{\"max_tokens\":5}}') IS NOT NULL");
        assert_eq!(value(&mallory, &sql).await.unwrap(), "t", "{model}");
        let parts = r#"('[{"role":"user","content":[' || repeat('{"type":"text","text":"x"},', 160000) || '{"type":"text","text":"x"}]}]')::jsonb"#;
        let sql =
            format!("SELECT chat_complete('{model}', {parts}, '{{\"max_tokens\":5}}') IS NOT NULL");
        assert_eq!(value(&mallory, &sql).await.unwrap(), "t", "{model}");
        let tools = r#"('{"max_tokens":5,"tools":[' || repeat('{"name":"x","input_schema":{}},', 160000) || '{"name":"x","input_schema":{}}]}')::jsonb"#;
        let sql = format!("SELECT chat_complete('{model}', '{HELLO}', {tools}) IS NOT NULL");
        assert_eq!(value(&mallory, &sql).await.unwrap(), "t", "{model}");
    }
    stop.store(true, Ordering::Relaxed);
    assert_went_on(&meanwhile.await.unwrap());
    assert!(upstream.chat_count() > before + 20);
    let stall = stall_ms(&root).await;
    assert!(stall < MOST_STALL_MS, "the gateway's thread was held for {stall} ms");
    let peak = peak_mb(&root).await;
    assert!(peak < 512, "the worker has held {peak} MB");
}

#[tokio::test]
async fn a_large_text_holds_up_nobody_else() {
    let upstream = upstream().await;
    let (database, root) = ready(&upstream).await;
    add_claude(&root, &upstream).await;
    value(&root, "SELECT set_budget(1000, p_each_user => true)").await.unwrap();
    let victim = user(&database, "victim").await;
    let stop = Arc::new(AtomicBool::new(false));
    let meanwhile = chats_meanwhile(victim, stop.clone());
    let mallory = user(&database, "mallory").await;
    for model in ["m", "claude"] {
        // Escapes take the longest to read.
        for text in ["x", r"\\u0001\\n"] {
            let size = 24 * 1024 * 1024 / text.len();
            let sql = format!(
                "SELECT chat_complete('{model}', ('[{{\"role\":\"user\",\"content\":\"' || repeat(E'{text}', {size}) || '\"}}]')::jsonb,
                    '{{\"max_tokens\":5}}') IS NOT NULL"
            );
            assert_eq!(value(&mallory, &sql).await.unwrap(), "t", "{model}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert_went_on(&meanwhile.await.unwrap());
    let stall = stall_ms(&root).await;
    assert!(stall < MOST_STALL_MS, "the gateway's thread was held for {stall} ms");
}

#[tokio::test]
async fn a_request_has_a_largest_size_and_an_administrator_sets_it() {
    let cluster = Cluster::start("request_size", "aggregator.max_request_size = 100kB");
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    save_key(&root, "standin", "sk-good-0123456789abcdef").await;
    let of = |kilobytes: usize| {
        format!(
            "jsonb_build_array(jsonb_build_object('role', 'user', 'content', repeat('x', 1024 * {kilobytes})))"
        )
    };
    let (code, message) = failure(&root, &format!("SELECT chat_complete('m', {})", of(100))).await;
    assert!(code == "PT413" && message.contains("max_request_size"), "{message}");
    let (code, _) = failure(&root, &format!("SELECT chat_submit('m', {})", of(100))).await;
    assert_eq!(code, "PT413");
    let (code, _) = failure(&root, &format!("SELECT * FROM chat_stream('m', {})", of(100))).await;
    assert_eq!(code, "PT413");
    let many = format!(
        "SELECT error ->> 'sqlstate' FROM chat_many(jsonb_build_array(
            jsonb_build_object('model', 'm', 'messages', {}), jsonb_build_object('model', 'm', 'messages', {}))) ORDER BY ord",
        of(100),
        of(1)
    );
    assert_eq!(rows(&root, &many).await, ["PT413", "∅"]);
    value(&root, &format!("SELECT chat_complete('m', {})", of(99))).await.unwrap();
    assert_eq!(upstream.chat_count(), 2);
    // A job that was accepted under a larger one.
    let id = value(
        &root,
        &format!("SELECT chat_submit('m', {}, p_run_after => now() + interval '1 h')", of(99)),
    )
    .await
    .unwrap();
    cluster.configure("aggregator.max_request_size = 50kB");
    cluster.reload();
    // Every process is told at the same time.
    eventually(&root, "SHOW aggregator.max_request_size", "50kB").await;
    root.batch_execute("UPDATE aggregator_jobs SET run_after = now()").await.unwrap();
    assert!(ended(&root, &id).await.starts_with("failed"), "the gateway looks again");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn a_request_that_a_superuser_writes_as_a_job_is_bounded_all_the_same() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root) = ready(&upstream).await;
    let insert = |request: &str| {
        format!(
            "INSERT INTO aggregator_jobs (id, user_id, model, request, request_bytes)
             SELECT gen_random_uuid(), 'role:postgres', 'm', r, octet_length(r::text)
             FROM (SELECT ({request})::jsonb AS r) AS s RETURNING id"
        )
    };
    // Started, so that the worker finds what no session tells it of.
    value(&root, &chat_sql("{}")).await.unwrap();
    let many = r#"'{"model":"m","messages":[{"role":"user","content":[' || repeat('null,', 600000) || 'null]}]}'"#;
    let deep = r#"'{"model":"m","metadata":' || repeat('[', 130) || repeat(']', 130) || ',"messages":[{"role":"user","content":"hi"}]}'"#;
    let wrong = r#"'{"model":"m","n":"128","messages":[{"role":"user","content":"hi"}]}'"#;
    for (request, code) in [(many, "PT413"), (deep, "PT400"), (wrong, "PT400")] {
        let id = value(&root, &insert(request)).await.unwrap();
        // The worker is kept there meanwhile.
        let found = format!(
            "SELECT status || ' ' || (error ->> 'sqlstate') FROM aggregator_jobs, (SELECT FROM aggregator_status()) AS kept WHERE id = '{id}'"
        );
        eventually(&root, &found, &format!("failed {code}")).await;
    }
    assert_eq!(upstream.chat_count(), 1);
    value(&root, &chat_sql("{}")).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_for_is_what_the_model_can_write() {
    let upstream =
        Upstream::start(
            |seen| {
                if seen.body.contains("hang") { Answer::Stall } else { Answer::hello() }
            },
        )
        .await;
    let (database, root) = ready(&upstream).await;
    root.batch_execute("UPDATE aggregator_models SET max_output_tokens = 8192").await.unwrap();
    // A warning is enough to reserve.
    value(&root, "SELECT set_budget(100, p_action => 'warn', p_keys => 'all')").await.unwrap();
    let mallory = user(&database, "mallory").await;
    let canceller = database.canceller(&mallory).await;
    // One that is sent, and never answered.
    let hang = async |max: &str| {
        let sql = format!(
            "SELECT chat_complete('m', '[{{\"role\":\"user\",\"content\":\"hang\"}}]',
                '{{\"max_tokens\":{max},\"max_retries\":0}}')"
        );
        let sent = upstream.chat_count();
        let ((code, message), ()) = tokio::join!(failure(&mallory, &sql), async {
            upstream.wait_for_chats(sent + 1).await;
            canceller.cancel().await;
        });
        assert_eq!(code, "57014", "{message}");
    };
    for max in ["9223372036854775807", "9223372036854775807", "99999999999999999999999", "6660000"]
    {
        hang(max).await;
    }
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
    // Of each: 8,192 tokens, and the bytes of the prompt.
    let reserved = rows(
        &root,
        "SELECT reserved_tokens, status FROM aggregator_usage_logs WHERE user_id = 'mallory'",
    )
    .await;
    let is_bounded = |row: &String| row.starts_with("8") && row.len() == "8192|cancelled".len();
    assert!(reserved.len() == 4 && reserved.iter().all(is_bounded), "{reserved:?}");
    let asked: Vec<_> =
        upstream.chats().iter().map(|chat| chat.json()["max_tokens"].clone()).collect();
    assert_eq!(asked, [8192, 8192, 8192, 8192], "and no more is asked for than was reserved");
    // Everybody goes on, and so does the status.
    assert_eq!(rows(&root, "SELECT spent_requests FROM aggregator_budget_status").await.len(), 1);
    let other = user(&database, "other").await;
    let began = Instant::now();
    value(&other, &chat_sql("{}")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'pending'", "0")
        .await;
    // Where the catalogue does not know, no model writes more than a million.
    root.batch_execute(
        "UPDATE aggregator_models SET max_output_tokens = NULL, context_window = NULL",
    )
    .await
    .unwrap();
    hang("9223372036854775807").await;
    assert_eq!(upstream.chats().last().unwrap().json()["max_tokens"], 1_000_000);
    root.batch_execute("UPDATE aggregator_models SET context_window = 5000").await.unwrap();
    hang("9223372036854775807").await;
    assert_eq!(upstream.chats().last().unwrap().json()["max_tokens"], 5000);
    // Without a rule nothing is reserved, and what is asked for is the provider's business.
    root.batch_execute("DELETE FROM aggregator_budgets").await.unwrap();
    value(&other, &chat_sql(r#"{"max_tokens":9000}"#)).await.unwrap();
    assert_eq!(upstream.chats().last().unwrap().json()["max_tokens"], 9000);
}

#[tokio::test]
async fn a_bound_that_overflows_reserves_nothing_and_sends_nothing() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    value(&root, "SELECT set_budget(0.02, p_keys => 'all')").await.unwrap();
    let mallory = user(&database, "mallory").await;
    let huge = i64::MAX;
    for _ in 0..5 {
        for (options, code) in [
            (format!(r#"{{"max_tokens":{huge},"n":{huge}}}"#), "PT400"),
            (format!(r#"{{"max_tokens":{huge}}}"#), "PT402"),
            (format!(r#"{{"max_completion_tokens":{huge},"n":128}}"#), "PT402"),
            (format!(r#"{{"max_tokens":1,"n":{huge}}}"#), "PT400"),
        ] {
            let (state, message) = failure(&mallory, &chat_sql(&options)).await;
            assert_eq!(state, code, "{options}: {message}");
        }
    }
    // A price that nobody can read is no price.
    for pricing in [
        r#"{"input": 2, "output": "x"}"#,
        r#"{"input": 2, "output": 10, "tiers": [{"min_prompt_tokens": 0, "output": "x"}]}"#,
        r#"{"input": 2, "output": 10, "tiers": [{"min_prompt_tokens": 0, "output": null}]}"#,
        r#"{"input": 2, "output": 10, "cache_write": 1e30}"#,
    ] {
        root.batch_execute("SET session_replication_role = replica").await.unwrap();
        let set = format!(
            "UPDATE aggregator_models SET pricing = {} WHERE model_id = 'm'",
            quoted(pricing)
        );
        if let Err(refused) = root.batch_execute(&set).await {
            // A constraint is in the way: as good.
            assert!(shown(&refused).contains("23514"), "{}", shown(&refused));
            continue;
        }
        let (state, message) = failure(&mallory, &chat_sql(r#"{"max_tokens":1}"#)).await;
        assert_eq!(state, "PT402", "{pricing}: {message}");
    }
    assert_eq!(upstream.chat_count(), 0);
}

#[tokio::test]
async fn what_is_not_understood_is_not_sent_under_a_budget() {
    let upstream = upstream().await;
    let (database, root) = ready(&upstream).await;
    add_claude(&root, &upstream).await;
    value(&root, "SELECT set_budget(5, p_each_user => true)").await.unwrap();
    let mallory = user(&database, "mallory").await;
    let deep = format!("{}{}", "[".repeat(130), "]".repeat(130));
    let deep = deep.as_str();
    let image = |extra: &str| format!(r#"[{{"role":"user",{extra}"content":[{IMAGE}]}}]"#);
    let content = |content: &str| format!(r#"[{{"role":"user","content":{content}}}]"#);
    let mut bodies: Vec<String> = Vec::new();
    for messages in [
        image(""),
        image(r#""x":1e400,"#),
        image(&format!(r#""x":{deep},"#)),
        content(IMAGE),
        content(&format!("[[{IMAGE}]]")),
        content("7"),
        content(r#"[{"text":"x"}]"#),
        content(r#"[{"image_url":{"url":"https://x.example/a.png"}}]"#),
        content(r#"[{"type":"text","text":"x","image_url":{"url":"https://x.example/a.png"}}]"#),
        content(r#"[{"type":"Image_Url","image_url":{"url":"https://x.example/a.png"}}]"#),
        content(&format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":[{IMAGE}]}}]"#)),
        content(
            r#"[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"https://x.example/a.png"}}]}]"#,
        ),
        content(r#"[{"type":"tool_result","tool_use_id":"t","content":{"type":"image"}}]"#),
        format!(
            r#"[{{"role":"assistant","content":"x","thinking_blocks":[{IMAGE}]}},{{"role":"user","content":"x"}}]"#
        ),
        format!(r#"[{{"role":"user","content":"x","images":[{IMAGE}]}}]"#),
        r#"[{"role":"assistant","audio":{"id":"audio-1"}},{"role":"user","content":"x"}]"#
            .to_owned(),
    ] {
        bodies.push(format!(r#"{{"max_tokens":1,"messages":{messages}}}"#));
        bodies.push(format!(r#"{{"max_tokens":1,"x":1e400,"messages":{messages}}}"#));
        bodies.push(format!(r#"{{"max_tokens":1,"x":{deep},"messages":{messages}}}"#));
    }
    for member in [
        r#""tools":[{"type":"web_search"}]"#,
        r#""tools":{"0":{"type":"web_search"}}"#,
        r#""tools":[{"google_search":{}}]"#,
        r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"web_search_20250305","name":"web_search"}]"#,
        r#""service_tier":"priority""#,
        r#""speed":"fast""#,
        r#""inference_geo":"us""#,
        r#""modalities":["audio"]"#,
        r#""web_search_options":{}"#,
        r#""plugins":[{"id":"web"}]"#,
        r#""prediction":{"type":"content","content":"x"}"#,
        r#""best_of":20"#,
        r#""N":128"#,
        r#""Max_Tokens":1000000"#,
        r#""max_output_tokens":1000000"#,
        r#""a\"b":1"#,
        r#""a\\u0065b":1"#,
        r#""n":"128""#,
        r#""max_completion_tokens":"1000000""#,
        r#""max_completion_tokens":1000000.5"#,
        r#""max_completion_tokens":-1"#,
        r#""n":-1"#,
        r#""n":1.5"#,
        r#""n":[128]"#,
    ] {
        bodies.push(format!(r#"{{"max_tokens":1,{member},"messages":{HELLO}}}"#));
    }
    for body in &bodies {
        for model in ["m", "claude"] {
            let whole = body.replacen('{', &format!(r#"{{"model":"{model}","#), 1);
            let (code, message) =
                failure(&mallory, &format!("SELECT chat_completions({})", quoted(&whole))).await;
            assert!(matches!(code.as_str(), "PT400" | "PT402"), "{whole}: {code} {message}");
        }
    }
    // A key with an escape hides nothing from a provider of Anthropic's form, nor from the bound.
    let hidden =
        format!(r#"{{"model":"claude","a\"b":null,"max_tokens":1000000,"messages":{HELLO}}}"#);
    value(&root, "SELECT set_budget(0.5, p_each_user => true)").await.unwrap();
    let (code, message) =
        failure(&mallory, &format!("SELECT chat_completions({})", quoted(&hidden))).await;
    assert_eq!(code, "PT402", "64,000 tokens are 0.64 USD: {message}");
    assert_eq!(upstream.chat_count(), 0, "nothing was sent");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
    // The same through the other doors.
    for sql in [
        format!("SELECT chat_complete('m', {}, '{{\"max_tokens\":1}}')", quoted(&image(""))),
        chat_sql(r#"{"max_tokens":1,"extra_body":{"Max_Tokens":1000000}}"#),
        chat_sql(r#"{"max_tokens":1,"service_tier":"priority"}"#),
        format!("SELECT * FROM chat_stream('m', {}, '{{\"max_tokens\":1}}')", quoted(&image(""))),
    ] {
        assert_eq!(failure(&mallory, &sql).await.0, "PT402", "{sql}");
    }
    let many = format!(
        "SELECT error ->> 'sqlstate' FROM chat_many({})",
        quoted(&format!(r#"[{{"model":"m","max_tokens":1,"messages":{}}}]"#, image("")))
    );
    assert_eq!(rows(&mallory, &many).await, ["PT402"]);
    let job =
        value(&mallory, &format!("SELECT chat_submit('m', {})", quoted(&image("")))).await.unwrap();
    assert!(ended(&mallory, &job).await.starts_with("failed"));
    assert_eq!(upstream.chat_count(), 0, "nothing was sent");
    // What is understood is.
    for body in [
        format!(
            r#"{{"model":"m","max_tokens":1,"messages":{}}}"#,
            content(r#"[{"type":"text","text":"x"}]"#)
        ),
        format!(
            r#"{{"model":"claude","max_tokens":1,"top_k":4,"service_tier":"auto","messages":{HELLO}}}"#
        ),
        format!(
            r#"{{"model":"m","max_tokens":1,"tools":[{{"type":"function","function":{{"name":"f"}}}}],"messages":{HELLO}}}"#
        ),
    ] {
        value(&mallory, &format!("SELECT chat_completions({})", quoted(&body))).await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 3);
}

#[tokio::test]
async fn a_parameter_of_the_wrong_type_is_refused_without_any_budget() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (database, root) = ready(&upstream).await;
    let anybody = user(&database, "anybody").await;
    for options in [
        r#"{"n":"128"}"#,
        r#"{"n":0}"#,
        r#"{"n":129}"#,
        r#"{"max_tokens":"7"}"#,
        r#"{"max_tokens":0}"#,
        r#"{"max_completion_tokens":1.5}"#,
        r#"{"service_tier":1}"#,
        r#"{"temperature":"hot"}"#,
        r#"{"tools":{}}"#,
        r#"{"stop":7}"#,
        r#"{"extra_body":{"n":"128"}}"#,
    ] {
        let (code, message) = failure(&anybody, &chat_sql(options)).await;
        assert!(code == "PT400" && message.contains("must be"), "{options}: {message}");
        let many = format!(
            "SELECT error FROM chat_many('[{{\"model\":\"m\",\"messages\":{HELLO}}}]', {})",
            quoted(options)
        );
        assert_eq!(json(&anybody, &many).await["sqlstate"], "PT400", "{options}");
    }
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
    // JSON null is the default of each.
    value(&anybody, &chat_sql(r#"{"n":null,"max_tokens":null,"tools":null}"#)).await.unwrap();
}
