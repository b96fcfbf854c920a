//! Old knowledge is not spent on: whatever a transaction, a statement, a batch or a job saw when it
//! began, budgets, keys and providers are those of now when a request leaves.

use crate::bed::{self, Cluster, Database, eventually, json, rows, value};
use crate::fixtures::{HELLO, add_provider, prepare, user};
use crate::upstream::{Answer, Gate, Upstream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const NOTHING_MORE: &str = "SELECT set_budget(p_limit_usd => 0)";
/// How long a call that waits may rely on what it knew, and some more.
const A_WHILE: Duration = Duration::from_millis(400);

/// A database whose platform key serves everybody, and a user without a key of their own.
async fn with_platform_key(upstream: &Upstream) -> (Database<'static>, Client, Client) {
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    value(&root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    let client = database.rest("authenticated", Some("u-1")).await;
    (database, root, client)
}

fn quiet_chat(options: &str) -> String {
    format!("chat_complete('m', '{HELLO}', '{{\"throw_on_error\": false{options}}}')")
}

async fn one_transaction_cannot_keep_it(isolation: &str, writes: bool, change: &str, code: &str) {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let (_database, root, client) = with_platform_key(&upstream).await;
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).await.unwrap();
    if writes {
        value(&client, "SELECT chat_submit('m', '[{\"role\":\"user\",\"content\":\"hi\"}]', p_run_after => now() + interval '1 d')").await;
    }
    let chat = format!("SELECT {}", quiet_chat(""));
    let answer = json(&client, &chat).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    value(&root, change).await;
    let before = upstream.chat_count();
    for _ in 0..26 {
        assert_eq!(json(&client, &chat).await["error"]["code"], code, "{isolation}: {change}");
    }
    assert_eq!(upstream.chat_count(), before, "{isolation}: {change}");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn an_old_snapshot_does_not_keep_an_old_budget() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        for writes in [false, true] {
            one_transaction_cannot_keep_it(isolation, writes, NOTHING_MORE, "budget_exceeded")
                .await;
        }
    }
}

#[tokio::test]
async fn an_old_snapshot_does_not_keep_a_removed_key_or_an_inactive_provider() {
    for change in [
        "SELECT remove_platform_key('standin')",
        "UPDATE api_providers SET is_active = false WHERE name = 'standin'",
        "UPDATE user_api_providers SET is_active = false",
    ] {
        one_transaction_cannot_keep_it("REPEATABLE READ", true, change, "no_key").await;
    }
}

#[tokio::test]
async fn one_statement_with_many_calls_does_not_keep_an_old_budget() {
    let upstream = Upstream::start(|_| Answer::late(50, Answer::hello())).await;
    let (_database, root, client) = with_platform_key(&upstream).await;
    let many = format!(
        "SELECT count(*) FILTER (WHERE answer #>> '{{error,code}}' = 'budget_exceeded')
         FROM (SELECT {} AS answer FROM generate_series(1, 40) OFFSET 0) AS s",
        quiet_chat("")
    );
    let (refused, sent) = tokio::join!(value(&client, &many), async {
        upstream.wait_for_chats(3).await;
        value(&root, NOTHING_MORE).await;
        upstream.chat_count()
    });
    // One may have been on its way.
    let refused: usize = refused.unwrap().parse().unwrap();
    assert!(upstream.chat_count() <= sent + 1, "{} of {sent}", upstream.chat_count());
    assert_eq!(refused, 40 - upstream.chat_count());
}

#[tokio::test]
async fn a_batch_that_runs_on_does_not_keep_an_old_budget() {
    let gate = Gate::default();
    let (held, arrived) = (gate.clone(), AtomicUsize::new(0));
    let upstream = Upstream::start(move |_| match arrived.fetch_add(1, Ordering::SeqCst) {
        0..4 => Answer::hello(),
        _ => Answer::held(&held, Answer::hello()),
    })
    .await;
    let (_database, root, client) = with_platform_key(&upstream).await;
    let many = format!(
        "SELECT count(*) FILTER (WHERE error ->> 'code' = 'budget_exceeded')
         FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'messages', '{HELLO}'::jsonb))
                         FROM generate_series(1, 100)), '{{}}', 2)"
    );
    let (refused, ()) = tokio::join!(value(&client, &many), async {
        // Two are on their way.
        upstream.wait_for_chats(6).await;
        value(&root, NOTHING_MORE).await;
        tokio::time::sleep(A_WHILE).await;
        gate.open();
    });
    assert_eq!(upstream.chat_count(), 6);
    assert_eq!(refused.unwrap(), "94");
}

#[tokio::test]
async fn jobs_and_calls_that_wait_for_their_turn_do_not_keep_old_rules() {
    let cluster = Cluster::start("fresh", "aggregator.max_in_flight = 1");
    cluster.supabase_roles().await;
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, Answer::hello())).await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let client = user(&database, "u-1").await;
    let submit = format!("SELECT count(chat_submit('m', '{HELLO}')) FROM generate_series(1, 8)");
    assert_eq!(value(&client, &submit).await.unwrap(), "8");
    let streamed = database.rest("authenticated", Some("u-1")).await;
    let stream = format!(
        "SELECT string_agg(response #>> '{{error,code}}', '')
         FROM chat_stream('m', '{HELLO}', '{{\"throw_on_error\": false}}')"
    );
    upstream.wait_for_chats(1).await;
    let (answer, ()) = tokio::join!(value(&streamed, &stream), async {
        // It waits behind the jobs by now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        value(&root, "SELECT set_budget(p_limit_usd => 0, p_keys => 'all')").await;
        tokio::time::sleep(A_WHILE).await;
        gate.open();
    });
    assert_eq!(answer.unwrap(), "budget_exceeded");
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE finished_at IS NULL", "0").await;
    let failed = "SELECT count(*) FROM aggregator_jobs WHERE error ->> 'code' = 'budget_exceeded'";
    let sent = upstream.chat_count();
    assert!(sent <= 2, "{sent}");
    assert_eq!(value(&root, failed).await.unwrap(), (8 - sent).to_string());
}

/// A failure after which a call comes again a second later.
fn in_a_second() -> Answer {
    Answer::Full(503, vec![("retry-after", "1".into())], "{}".into())
}

#[tokio::test]
async fn a_retry_after_a_pause_does_not_keep_a_key_that_is_gone() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Answer::held(&held, in_a_second())).await;
    let (_database, root, client) = with_platform_key(&upstream).await;
    let chat = format!("SELECT {}", quiet_chat(", \"max_retries\": 5"));
    let (answer, _) = tokio::join!(json(&client, &chat), async {
        upstream.wait_for_chats(1).await;
        value(&root, "SELECT remove_platform_key('standin')").await;
        gate.open();
    });
    assert_eq!(answer["error"]["code"], "no_route", "{answer}");
    assert_eq!(answer["error"]["sqlstate"], "PT404");
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn a_retry_takes_the_key_that_was_saved_meanwhile() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::raw(move |seen| {
        if seen.header("authorization") == Some("Bearer sk-good-second-0123456789") {
            return Answer::hello();
        }
        Answer::held(&held, in_a_second())
    })
    .await;
    let database = bed::database().await;
    prepare(&database, &upstream).await;
    let (client, other) =
        (user(&database, "u-1").await, database.rest("authenticated", Some("u-1")).await);
    let chat = format!("SELECT {}", quiet_chat(""));
    let (answer, _) = tokio::join!(json(&client, &chat), async {
        upstream.wait_for_chats(1).await;
        value(
            &other,
            "SELECT save_provider_key('standin', 'sk-good-second-0123456789', p_validate => false)",
        )
        .await;
        gate.open();
    });
    assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{answer}");
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn what_the_transaction_itself_has_changed_counts_at_once() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let client = database.rest("authenticated", Some("u-1")).await;
    let chat = format!("SELECT {}", quiet_chat(""));
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).await.unwrap();
        assert_eq!(json(&client, &chat).await["error"]["code"], "no_key");
        crate::fixtures::save_key(&client, "standin", "sk-good-own-0123456789").await;
        let answer = json(&client, &chat).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "hello", "{isolation}: {answer}");
        client.batch_execute("UPDATE user_api_providers SET is_active = false").await.unwrap();
        assert_eq!(json(&client, &chat).await["error"]["code"], "no_key");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 3);
    // In one statement, too.
    let both = format!(
        "WITH saved AS MATERIALIZED (
             SELECT save_provider_key('standin', 'sk-good-own-0123456789', p_validate => false) AS id)
         SELECT CASE WHEN id IS NOT NULL THEN {} #>> '{{choices,0,message,content}}' END FROM saved",
        quiet_chat("")
    );
    assert_eq!(rows(&client, &both).await, ["hello"]);
}
