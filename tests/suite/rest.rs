//! Real clients against the real thing: supabase-js and OpenAI's client on Node, through a REST
//! server, to a database set up like a Supabase project. The scripts are in tests/clients.

use crate::bed::{as_server, failure, pg_bin, rows, run, value};
use crate::readme::provider::MODELS;
use crate::supabase::{
    ANN, BEN, OPEN, OWN_SCHEMA, PUBLIC, Rest, Setup, are_there, clients, project,
};
use crate::upstream::{Answer, Seen, USAGE, Upstream, echo};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A provider that repeats the last message, unless that says how else to answer.
async fn provider() -> Upstream {
    let broken = AtomicUsize::new(0);
    Upstream::start(move |seen| {
        let body = seen.json();
        let text =
            body["messages"].as_array().and_then(|m| m.last()).and_then(|m| m["content"].as_str());
        let error = |status, code: &str| {
            Answer::json(
                status,
                json!({"error": {"message": "as you asked", "code": code}}).to_string(),
            )
        };
        match text.unwrap_or("") {
            "answer 402" => error(402, "no_credit"),
            "answer 429" => error(429, "rate_limit_exceeded"),
            "answer 500" => error(500, "server_error"),
            "answer late" => Answer::late(60_000, echo(seen)),
            "raises" | "gives a value" => Answer::late(60_000, echo(seen)),
            "is queued" => Answer::late(15_000, echo(seen)),
            "broken at first" if broken.fetch_add(1, Ordering::SeqCst) < 3 => {
                error(500, "server_error")
            }
            "answer as JSON" => Answer::says(r#"{"n":1}"#, USAGE),
            "call a tool" => Answer::json(
                200,
                json!({
                    "id": "gen-1", "object": "chat.completion", "created": 1, "model": "m-served",
                    "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                        "role": "assistant", "content": null, "tool_calls": [{
                            "id": "call_1", "type": "function",
                            "function": {"name": "weather", "arguments": r#"{"city":"Paris"}"#},
                        }],
                    }}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                })
                .to_string(),
            ),
            _ => echo(seen),
        }
    })
    .await
}

/// The pages of an application, in a project of this kind.
async fn product(setup: Setup) {
    if !are_there() {
        return;
    }
    let rest = Rest::start(setup, provider().await).await;
    rest.run("product.mjs", 13).await;
    assert_eq!(rest.asked(), ["hi", "ho", "hi"]);
    let keys = |seen: &Seen| seen.header("authorization").unwrap_or("").to_owned();
    let keys: Vec<_> = rest.upstream.chats().iter().map(keys).collect();
    let (ann, ben) = ("Bearer sk-good-ann-0123456789", "Bearer sk-good-ben-0123456789");
    assert_eq!(keys, [ann, ben, ben]);
}

#[tokio::test]
async fn supabase_js_runs_the_product() {
    product(PUBLIC).await;
}

#[tokio::test]
async fn supabase_js_runs_the_product_where_new_tables_are_everybodys() {
    product(OPEN).await;
}

#[tokio::test]
async fn supabase_js_runs_the_product_in_a_schema_of_its_own() {
    product(OWN_SCHEMA).await;
}

#[tokio::test]
async fn errors_have_the_http_status_that_they_name() {
    if !are_there() {
        return;
    }
    let rest = Rest::start(PUBLIC, provider().await).await;
    rest.save_key(ANN, "sk-good-ann-0123456789").await;
    rest.save_key(BEN, "sk-good-ben-0123456789").await;
    rest.run("errors.mjs", 11).await;
    // What is refused here never left.
    assert_eq!(
        rest.asked(),
        [
            "hi",
            "answer 402",
            "answer 429",
            "within the limit",
            "answer 500",
            "answer late",
            "answer 402"
        ]
    );
}

#[tokio::test]
async fn supabase_js_reads_reports_budgets_and_jobs() {
    if !are_there() {
        return;
    }
    let rest = Rest::start(PUBLIC, provider().await).await;
    rest.save_key(ANN, "sk-good-ann-0123456789").await;
    rest.save_key(BEN, "sk-good-ben-0123456789").await;
    rest.run("reports.mjs", 7).await;
    assert_eq!(rest.asked(), ["hi"; 4]);
}

#[tokio::test]
async fn a_program_for_openai_runs_unchanged() {
    if !are_there() {
        return;
    }
    let rest = Rest::start(PUBLIC, provider().await).await;
    rest.save_key(ANN, "sk-good-ann-0123456789").await;
    rest.run("openai.mjs", 7).await;
    // Three times within the first request, and once more when the client asks again.
    assert_eq!(rest.asked().iter().filter(|text| *text == "broken at first").count(), 4);
    let first = &rest.upstream.chats()[0].json();
    assert_eq!((&first["temperature"], &first["seed"]), (&json!(0.5), &json!(7)));
}

#[tokio::test]
async fn a_slow_model_is_answered_before_the_statement_is_killed() {
    if !are_there() {
        return;
    }
    let rest = Rest::start(PUBLIC, provider().await).await;
    rest.save_key(ANN, "sk-good-ann-0123456789").await;
    rest.run("deadline.mjs", 5).await;
    let mut asked = rest.asked();
    asked.sort();
    assert_eq!(asked, ["gives a value", "is queued", "raises"]);
    for chat in rest.upstream.chats() {
        assert_eq!(chat.aborted.is_none(), chat.body.contains("is queued"), "{}", chat.body);
    }
    let statuses = "SELECT status, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&rest.root, statuses).await, ["error|2", "success|1"]);
}

#[tokio::test]
async fn a_projects_owner_is_an_administrator_and_no_superuser() {
    let (database, root) = project(PUBLIC).await;
    let upstream = Upstream::start(echo).await;
    let owner = database.root().await;
    assert_eq!(
        rows(&owner, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").await,
        ["f"]
    );
    owner
        .batch_execute(&format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url)
             VALUES ('standin', 'Stand-in', 'direct', '{}');
             SELECT save_platform_key('standin', 'sk-good-platform-0123');
             SELECT set_budget(5, p_each_user => true); SELECT * FROM maintain_usage();
             CREATE ROLE helper; SELECT aggregator_grant('helper', 'user')",
            upstream.base_url()
        ))
        .await
        .unwrap();
    assert_eq!(rows(&owner, "SELECT total, error FROM sync_models('standin')").await, ["2|∅"]);
    value(&owner, r#"SELECT set_model_price('m', '{"input": 2, "output": 10}', 'standin')"#).await;
    let user = database.rest("authenticated", Some(ANN)).await;
    assert_eq!(
        value(&user, "SELECT chat('hi', 'm', '{\"max_tokens\": 5}')").await.unwrap(),
        "re: hi"
    );
    assert_eq!(failure(&owner, "SELECT rotate_master_key()").await.0, "42501");
    // Its dump is the project's backup.
    let dump = run(as_server(pg_bin("pg_dump"))
        .args(["-U", "postgres", "-h"])
        .arg(&database.cluster.dir)
        .arg(&database.name));
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    for table in ["user_api_providers", "aggregator_usage_logs_", "aggregator_budgets"] {
        assert!(dump.contains(&format!("COPY public.{table}")), "{table}");
    }
    root.batch_execute("DROP OWNED BY helper; DROP ROLE helper").await.unwrap();
}

/// A project whose OpenRouter repeats what it is told.
async fn with_openrouter() -> Rest {
    let upstream = Upstream::raw(|seen| match seen.path.as_str() {
        path if path.ends_with("/models") => Answer::json(200, MODELS),
        path if path.ends_with("/chat/completions") && seen.body.contains("is queued") => {
            Answer::late(15_000, echo(seen))
        }
        path if path.ends_with("/chat/completions") => echo(seen),
        _ => Answer::json(200, r#"{"data":{"label":"key"}}"#),
    })
    .await;
    let rest = Rest::start(PUBLIC, upstream).await;
    rest.root
        .batch_execute(&format!(
            "UPDATE api_providers SET base_url = '{0}', key_check_url = '{0}/key' WHERE name = 'openrouter'",
            rest.upstream.base_url()
        ))
        .await
        .unwrap();
    rest
}

#[tokio::test]
async fn the_page_of_the_tutorial_chats() {
    if !are_there() {
        return;
    }
    let rest = with_openrouter().await;
    rest.run("tutorial.mjs", 3).await;
    assert_eq!(rest.asked(), ["Hello", "is queued"]);
    let jobs = "SELECT status, count(*) FROM aggregator_jobs GROUP BY 1";
    assert_eq!(rows(&rest.root, jobs).await, ["succeeded|1"]);
}

#[tokio::test]
async fn the_examples_in_javascript_run() {
    if !are_there() {
        return;
    }
    let page = std::fs::read_to_string(clients().join("../../docs/guides/supabase.md")).unwrap();
    let examples = page.matches("\n```js\n").count();
    assert!(examples > 0);
    let rest = with_openrouter().await;
    rest.run("readme.mjs", examples).await;
    let chats = page.matches("content: 'Hello'").count();
    assert!(chats > 1);
    assert_eq!(rest.asked(), vec!["Hello"; chats]);
}
