//! What is kept, where, and until when: whole answers only, the oldest go first, and a crash takes all.

use super::{FIRST, HIT, MINUTE, alone, counting, kept, says, set};
use crate::bed::{self, Database, eventually, json, quoted, rows, value};
use crate::fixtures::{HELLO, add_named, chat_sql, ready, save_key, user};
use crate::upstream::{Answer, Piece, USAGE, Upstream, echo, in_turn};
use std::time::Duration;
use tokio_postgres::Client;

#[tokio::test]
async fn only_whole_answers_are_kept() {
    let cut = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"so f"},"finish_reason":"length"}]}"#;
    let upstream = Upstream::start(in_turn(vec![
        Answer::json(200, cut),
        Answer::Stream(vec![Piece::role(), Piece::text("a"), Piece::Cut]),
        Answer::json(200, r#"{"error":{"message":"inside","code":400}}"#),
        Answer::says(&"x".repeat(300 * 1024), USAGE),
        Answer::hello(),
    ]))
    .await;
    let (_database, root) = ready(&upstream).await;
    let once = r#"{"cache": {"ttl": 60}, "throw_on_error": false, "max_retries": 0}"#;
    for asked in 1..=4 {
        assert!(!says(&root, once).await.contains("cached"));
        assert_eq!(upstream.chat_count(), asked);
        assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    }
    assert_eq!(says(&root, once).await, "hello|computed|0.00007");
    assert_eq!(says(&root, once).await, "hello|cached|0");
}

#[tokio::test]
async fn streams_are_answered_by_whole_answers_and_the_other_way_round() {
    let long = "Grüße 😀, ".repeat(40);
    let text = long.clone();
    let upstream = Upstream::start(move |seen| match seen.json()["stream"].as_bool() {
        Some(true) => Answer::streams(&["stream", "ed ", &text], Duration::ZERO, Some(USAGE)),
        _ => Answer::says(&text, USAGE),
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    let stream = |options: &str| {
        format!("SELECT delta, response #>> '{{choices,0,message,content}}', response #>> '{{aggregator,cost_source}}', cost
            FROM chat_stream('m', '{HELLO}', {})", quoted(options))
    };
    // From a whole answer.
    value(&root, &chat_sql(MINUTE)).await.unwrap();
    let told = rows(&root, &stream(MINUTE)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|{long}|cached|0"));
    let deltas: Vec<&str> =
        told[..told.len() - 1].iter().map(|row| row.strip_suffix("|∅|∅|∅").unwrap()).collect();
    assert!(deltas.len() > 3, "in pieces");
    assert_eq!(deltas.concat(), long);
    assert_eq!(upstream.chat_count(), 1);
    // From a stream.
    let other = r#"{"cache": {"ttl": 60}, "temperature": 1}"#;
    let told = rows(&root, &stream(other)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|streamed {long}|computed|0.00007"));
    assert_eq!(says(&root, other).await, format!("streamed {long}|cached|0"));
    let told = rows(&root, &stream(other)).await;
    assert_eq!(told.last().unwrap(), &format!("∅|streamed {long}|cached|0"));
    assert_eq!(upstream.chat_count(), 2);
    // Whoever stops reading has all of it in the ledger, for nothing.
    let first = format!(
        "SELECT (t).delta FROM (SELECT chat_stream('m', '{HELLO}', '{MINUTE}') AS t) AS s LIMIT 1"
    );
    assert!(long.starts_with(&value(&root, &first).await.unwrap()));
    eventually(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE cost_source = 'cached' AND status = 'success'", "4").await;
}

#[tokio::test]
async fn calls_of_tools_are_kept() {
    let calls = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,
        "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":10,"completion_tokens":5}}"#;
    let upstream = Upstream::start(move |_| Answer::json(200, calls)).await;
    let (_database, root) = ready(&upstream).await;
    let options = r#"{"cache": {"ttl": 60}, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]}"#;
    let reordered = r#"{"tools": [{"function": {"parameters": {"properties": {}, "type": "object"}, "name": "f"}, "type": "function"}], "cache": {"ttl": 60}}"#;
    let ask = |options: &str| format!("SELECT ({}) - 'aggregator'", chat_sql(options));
    let first = json(&root, &ask(options)).await;
    assert_eq!(json(&root, &ask(reordered)).await, first);
    assert_eq!(first["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn the_oldest_go_first() {
    let upstream = Upstream::start(|seen| {
        let asked = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        Answer::says(&format!("{asked} {}", "x".repeat(9000)), USAGE)
    })
    .await;
    let (cluster, name, root) =
        alone("cachesize", "aggregator.cache_size = 100kB", &upstream).await;
    let ask = |n: usize| {
        format!(
            r#"SELECT chat_complete('m', '[{{"role": "user", "content": "q{n}"}}]', '{MINUTE}') #>> '{{aggregator,cost_source}}'"#
        )
    };
    for n in 0..30 {
        assert_eq!(value(&root, &ask(n)).await.unwrap(), "computed");
        // Those go that must, and not the newest.
        if n >= 4 {
            assert_eq!(value(&root, &ask(n - 4)).await.unwrap(), "cached", "{n}");
        }
        assert_eq!(
            rows(&root, "SELECT coalesce(sum(size), 0) <= 102400, coalesce(sum(octet_length(answer)) <= sum(size), true) FROM aggregator_cache").await,
            ["t|t"]
        );
    }
    let left: usize =
        value(&root, "SELECT count(*) FROM aggregator_cache").await.unwrap().parse().unwrap();
    assert!((8..=11).contains(&left), "{left}");
    assert_eq!(value(&root, &ask(29)).await.unwrap(), "cached");
    assert_eq!(value(&root, &ask(0)).await.unwrap(), "computed");
    // One that would take more than a part of it is not kept.
    let large = "SELECT count(*) FROM aggregator_cache WHERE size > 25600";
    let sql = format!("SELECT chat('{}', 'm', '{MINUTE}') IS NOT NULL", "y".repeat(20_000));
    value(&root, &sql).await.unwrap();
    assert_eq!(rows(&root, large).await, ["0"]);
    drop((cluster, name));
}

#[tokio::test]
async fn what_takes_the_place_of_another_counts_once() {
    let upstream = Upstream::start(|_| Answer::says(&"x".repeat(9000), USAGE)).await;
    let (cluster, name, root) =
        alone("cachesizeagain", "aggregator.cache_size = 100kB", &upstream).await;
    let other = r#"{"cache": {"ttl": 600}, "temperature": 1}"#;
    assert!(says(&root, other).await.contains("computed"));
    for _ in 0..30 {
        let refresh = r#"{"cache": {"ttl": 600, "refresh": true}}"#;
        assert!(says(&root, refresh).await.contains("computed"));
    }
    assert!(says(&root, other).await.contains("cached"), "it was dropped for nothing");
    // Without room what an earlier worker has kept goes as well, at the latest when the next one ends.
    drop(root);
    cluster.down("fast");
    cluster.up();
    let root = cluster.again(&name).await;
    kept(&root, 2).await;
    set(&root, "aggregator.cache_size", "0").await;
    value(&root, &chat_sql("{}")).await.unwrap();
    drop(root);
    cluster.down("fast");
    cluster.up();
    let root = cluster.again(&name).await;
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    drop((cluster, name));
}

#[tokio::test]
async fn who_is_forgotten_leaves_no_answer() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    for client in [&ann, &ben] {
        says(client, MINUTE).await;
    }
    assert_eq!(says(&ann, MINUTE).await, HIT);
    kept(&root, 2).await;
    value(&root, "SELECT forget_user('ann')").await.unwrap();
    assert_eq!(rows(&root, "SELECT user_id FROM aggregator_cache").await, ["ben"]);
    save_key(&ann, "standin", "sk-good-ann-0123456789").await;
    assert_eq!(says(&ann, MINUTE).await, "answer 3|computed|0.00007");
}

#[tokio::test]
async fn a_clean_stop_keeps_answers_and_a_crash_empties_them() {
    let upstream = Upstream::start(counting()).await;
    let (cluster, name, root) = alone("cachecrash", "", &upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    kept(&root, 1).await;
    drop(root);
    cluster.down("fast");
    cluster.up();
    let root = cluster.again(&name).await;
    assert_eq!(says(&root, MINUTE).await, HIT);
    cluster.down("immediate");
    cluster.up();
    let root = cluster.again(&name).await;
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_cache").await, ["0"]);
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 2|cached|0");
    // A dump has the table's name at the most, and nothing of what is in it.
    let dump = bed::run(
        bed::as_server(bed::pg_bin("pg_dump"))
            .args(["-U", "postgres", "-h"])
            .arg(&cluster.dir)
            .arg(&name),
    );
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(
        dump.contains("aggregator_usage_logs") && !dump.contains("COPY public.aggregator_cache"),
        "{dump}"
    );
    // Nor what another master key has sealed.
    value(&root, "SELECT rotate_master_key()").await.unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 3|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 3|cached|0");
}

#[tokio::test]
async fn what_cannot_be_read_or_kept_is_asked_for() {
    let upstream = Upstream::start(counting()).await;
    let (database, root) = ready(&upstream).await;
    assert_eq!(says(&root, MINUTE).await, FIRST);
    kept(&root, 1).await;
    // Somebody has put one answer into the place of another.
    root.batch_execute(
        "UPDATE aggregator_cache SET answer = set_byte(answer, 30, 255 - get_byte(answer, 30))",
    )
    .await
    .unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 2|computed|0.00007");
    assert_eq!(says(&root, MINUTE).await, "answer 2|cached|0");
    // A lock on the table holds nobody up for long.
    let locker = database.root().await;
    locker.batch_execute("BEGIN; LOCK TABLE aggregator_cache").await.unwrap();
    assert_eq!(says(&root, MINUTE).await, "answer 3|computed|0.00007");
    locker.batch_execute("ROLLBACK").await.unwrap();
    // It may have been kept when the lock was gone.
    assert!(says(&root, MINUTE).await.ends_with("|cached|0"));
    assert_eq!(entries_after_other_calls(&database, &root).await, "1");
}

/// A call that is passed by leaves no entry.
async fn entries_after_other_calls(database: &Database<'_>, root: &Client) -> String {
    let other = Upstream::start(echo).await;
    add_named(root, "echoes", "openai", &other.base_url(), &["e"]).await;
    save_key(root, "echoes", "sk-good-echoes-0123456789").await;
    let asking = database.root().await;
    for _ in 0..2 {
        assert_eq!(value(&asking, "SELECT chat('x', 'e')").await.unwrap(), "re: x");
    }
    assert_eq!(other.chat_count(), 2);
    value(root, "SELECT count(*) FROM aggregator_cache").await.unwrap()
}
