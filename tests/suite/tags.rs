//! Tags: in the ledger, in sums and reports, and budgets and rate limits by them.

use crate::bed::{self, failure, nodes, quoted, rows, value};
use crate::fixtures::{HELLO, chat_sql, ended, ready, submit, user};
use crate::upstream::{Answer, Upstream};
use std::time::Duration;

fn paid() -> Answer {
    // 100 tokens in and 50 out, at 2 and 10 USD per million: 0.0007 USD.
    Answer::says("paid", r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}"#)
}

const LAST: &str =
    "SELECT tags FROM aggregator_usage_logs ORDER BY created_at DESC, call_id DESC LIMIT 1";
const BY_TAG: &str = "SELECT tag, requests, errors, total_tokens, cost FROM usage_by_tag('day') ORDER BY tag COLLATE \"C\"";

#[tokio::test]
async fn tags_reach_the_ledger_by_every_way_and_are_never_sent() {
    let upstream = Upstream::start(|seen| {
        if seen.json()["stream"] == true {
            return Answer::streams(&["he"], Duration::ZERO, None);
        }
        paid()
    })
    .await;
    let (_database, root) = ready(&upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    assert_eq!(value(&root, LAST).await, None, "a call without tags has none");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_labels").await.unwrap(), "0");
    let tags = r#"{"tags": ["team-a", " a \"b\" {c},\\ ", "team-a", "NULL", "é"]}"#;
    let expected = r#"{team-a,"a \"b\" {c},\\","NULL",é}"#;
    let job = submit(&root, tags, "").await;
    assert_eq!(ended(&root, &job).await, "succeeded|paid|1");
    assert_eq!(value(&root, LAST).await.unwrap(), expected, "job");
    let many = format!(
        "SELECT ok FROM chat_many(jsonb_build_array(jsonb_build_object('model', 'm', 'messages', {}::jsonb)), {})",
        quoted(HELLO),
        quoted(tags)
    );
    let body = format!(
        "SELECT chat_completions({}::jsonb || jsonb_build_object('model', 'm', 'messages', {}::jsonb))",
        quoted(tags),
        quoted(HELLO)
    );
    let stream =
        format!("SELECT count(*) FROM chat_stream('m', {}, {})", quoted(HELLO), quoted(tags));
    let chat = format!("SELECT chat('hi', 'm', {})", quoted(tags));
    for sql in [chat_sql(tags), many, body, stream, chat] {
        value(&root, &sql).await.unwrap();
        assert_eq!(value(&root, LAST).await.unwrap(), expected, "{sql}");
    }
    for seen in upstream.chats() {
        assert_eq!(seen.json().get("tags"), None);
    }
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_usage WHERE tags IS NOT NULL").await.unwrap(),
        "6"
    );
    crate::reports::assert_equal(&root, "after all ways").await;
}

#[tokio::test]
async fn reports_by_tag_are_those_of_the_ledger_and_of_ones_own_calls() {
    let upstream = Upstream::start(|seen| {
        if seen.body.contains("broken") {
            return Answer::json(400, r#"{"error":{"message":"no"}}"#);
        }
        paid()
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    value(&ann, &chat_sql(r#"{"tags": ["a", "b"]}"#)).await.unwrap();
    value(&ann, &chat_sql(r#"{"tags": ["b"]}"#)).await.unwrap();
    value(&ben, &chat_sql(r#"{"tags": ["b"]}"#)).await.unwrap();
    failure(&ben, &chat_sql(r#"{"tags": ["B"]}"#).replace("hi", "broken")).await;
    value(&ben, &chat_sql("{}")).await.unwrap();
    assert_eq!(rows(&ann, BY_TAG).await, ["a|1|0|150|0.0007", "b|2|0|300|0.0014"]);
    assert_eq!(rows(&ben, BY_TAG).await, ["B|1|1|0|0", "b|1|0|150|0.0007"]);
    assert_eq!(rows(&root, BY_TAG).await, ["B|1|1|0|0", "a|1|0|150|0.0007", "b|3|0|450|0.0021"]);
    assert_eq!(
        rows(&root, "SELECT tag, requests FROM usage_by_tag('month', 'standin', 'ann') ORDER BY 1")
            .await,
        ["a|1", "b|2"]
    );
    assert_eq!(
        failure(&ann, "SELECT * FROM usage_by_tag('day', p_user_id => 'ben')").await.0,
        "PT403"
    );
    for bad in ["usage_by_tag('year')", "usage_by_tag(NULL)", "usage_by_key('year')"] {
        assert_eq!(failure(&root, &format!("SELECT * FROM {bad}")).await.0, "PT400", "{bad}");
    }
    assert_eq!(failure(&root, "SELECT * FROM usage_by_tag('day', 'nosuch')").await.0, "PT404");
    let anon = database.rest("anon", None).await;
    assert_eq!(failure(&anon, "SELECT * FROM usage_by_tag('day')").await.0, "42501");
    // Tags are words of a user's own: they are forgotten with the user.
    value(&root, "SELECT forget_user('ann')").await.unwrap();
    assert_eq!(rows(&root, BY_TAG).await, ["B|1|1|0|0", "b|1|0|150|0.0007"]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs WHERE user_id LIKE 'forgotten:%' AND tags IS NULL").await.unwrap(), "2");
    crate::reports::assert_equal(&root, "after forgetting").await;
}

#[tokio::test]
async fn fifty_calls_at_once_never_pass_the_budget_of_a_tag() {
    let upstream =
        Upstream::start(|_| Answer::After(Duration::from_millis(20), Box::new(paid()))).await;
    let (database, root) = ready(&upstream).await;
    let ann = user(&database, "ann").await;
    // Room for ten calls of all users together.
    value(&root, "SELECT set_budget(0.007, p_tag => 'night run', p_keys => 'all')").await.unwrap();
    let many = |tags: &str| {
        format!(
            "SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE error ->> 'code' = 'budget_exceeded')
             FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'max_tokens', 50, 'messages', {}::jsonb,
                'tags', {}::jsonb)) FROM generate_series(1, 25)), '{{}}', 25)",
            quoted(HELLO),
            quoted(tags)
        )
    };
    let sql = many(r#"["x", "night run"]"#);
    let (one, other) = tokio::join!(rows(&root, &sql), rows(&ann, &sql));
    let counts: Vec<usize> = [one, other]
        .concat()
        .iter()
        .flat_map(|row| row.split('|').map(|n| n.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let (ok, refused) = (counts[0] + counts[2], counts[1] + counts[3]);
    assert_eq!((ok + refused, upstream.chat_count()), (50, ok));
    assert!(ok > 5 && ok <= 10, "{ok}");
    // Other tags, another spelling, and none, are not held up; and the message says what is used up.
    for tags in [r#"["x"]"#, r#"["Night run"]"#, "[]"] {
        assert_eq!(rows(&root, &many(tags)).await, ["25|0"], "{tags}");
    }
    while root.simple_query(&chat_sql(r#"{"max_tokens": 50, "tags": ["night run"]}"#)).await.is_ok()
    {
    }
    let (code, message) =
        failure(&ann, &chat_sql(r#"{"max_tokens": 50, "tags": ["night run"]}"#)).await;
    assert_eq!(code, "PT402");
    assert!(message.contains("of all users with tag 'night run'"), "{message}");
    assert_eq!(
        rows(&root, "SELECT tag, spent_usd <= 0.007, spent_requests BETWEEN 9 AND 10 FROM aggregator_budget_status")
            .await,
        ["night run|t|t"]
    );
}

#[tokio::test]
async fn a_budget_of_a_tag_counts_what_was_spent_before_and_for_each_user() {
    let upstream = Upstream::start(|_| paid()).await;
    let (database, root) = ready(&upstream).await;
    let (ann, ben) = (user(&database, "ann").await, user(&database, "ben").await);
    let tagged = chat_sql(r#"{"max_tokens": 50, "tags": ["t"]}"#);
    value(&ann, &tagged).await.unwrap();
    value(&ann, &chat_sql("{}")).await.unwrap();
    value(&root, "SELECT set_budget(p_limit_requests => 2, p_tag => 't', p_each_user => true)")
        .await
        .unwrap();
    value(&ann, &tagged).await.unwrap();
    let (code, message) = failure(&ann, &tagged).await;
    assert_eq!(code, "PT402");
    assert!(message.contains("of this user with tag 't'"), "{message}");
    value(&ann, &chat_sql("{}")).await.unwrap();
    value(&ben, &tagged).await.unwrap();
    assert_eq!(
        rows(&root, "SELECT user_id, tag, spent_requests FROM aggregator_budget_status WHERE user_id <> 'role:postgres' ORDER BY 1").await,
        ["ann|t|2", "ben|t|1"]
    );
    assert_eq!(
        rows(&ann, "SELECT user_id, spent_requests FROM aggregator_budget_status").await,
        ["ann|2"]
    );
}

#[tokio::test]
async fn a_rate_limit_of_a_tag_counts_the_calls_that_have_it() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    let tagged = chat_sql(r#"{"tags": ["t"]}"#);
    for _ in 0..2 {
        value(&root, &tagged).await.unwrap();
        value(&root, &chat_sql("{}")).await.unwrap();
    }
    // The two of the last minute count, and no others.
    value(&root, "SELECT set_rate_limit(3, p_tag => 't')").await.unwrap();
    value(&root, &tagged).await.unwrap();
    assert_eq!(failure(&root, &tagged).await.0, "PT429");
    value(&root, &chat_sql(r#"{"tags": ["u"]}"#)).await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
}

#[tokio::test]
async fn what_is_no_tag_is_refused() {
    let upstream = Upstream::start(|_| paid()).await;
    let (_database, root) = ready(&upstream).await;
    let long = "x".repeat(65);
    for bad in [
        r#"["1","2","3","4","5","6","7","8","9"]"#,
        r#"[""]"#,
        r#"[1]"#,
        r#"[null]"#,
        r#"[["a"]]"#,
        r#""a""#,
        r#"{"a": 1}"#,
        r#"["a\nb"]"#,
        r#"["a\u200bb"]"#,
        &format!("[\"{long}\"]"),
    ] {
        let sql = chat_sql(&format!("{{\"tags\": {bad}}}"));
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{bad}");
    }
    let huge = format!(
        "SELECT chat_complete('m', '{HELLO}', jsonb_build_object('tags', jsonb_build_array(repeat('x', 10000000))))"
    );
    assert_eq!(failure(&root, &huge).await.0, "PT400");
    for bad in [
        "''",
        "' a'",
        "'a '",
        "repeat('x', 65)",
        "repeat('x', 100000000)",
        "E'a\\nb'",
        "U&'a\\200b'",
    ] {
        for set in ["set_budget(1, p_tag => ", "set_rate_limit(1, p_tag => "] {
            let (code, message) = failure(&root, &format!("SELECT {set}{bad})")).await;
            assert_eq!(code, "PT400", "{set}{bad}");
            assert!(message.contains("p_tag"), "{message}");
        }
    }
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(bed::value(&root, "SELECT count(*) FROM aggregator_budgets").await.unwrap(), "0");
}

#[tokio::test]
async fn calls_with_tags_and_without_are_told_apart_in_one_batch() {
    let upstream = Upstream::start(|_| paid()).await;
    for sync in ["on", "off"] {
        let cluster = bed::Cluster::start(
            &format!("tagsync{sync}"),
            &format!("aggregator.ledger_sync = {sync}"),
        );
        let database = cluster.database().await;
        let root = crate::fixtures::prepare(&database, &upstream).await;
        let sql = format!(
            "SELECT count(*) FILTER (WHERE ok)
             FROM chat_many((SELECT jsonb_agg(jsonb_build_object('model', 'm', 'messages', {}::jsonb,
                'tags', CASE i % 3 WHEN 0 THEN '[]' WHEN 1 THEN '[\"a\"]' ELSE '[\"a\", \"b\"]' END::jsonb))
                FROM generate_series(0, 299) AS i), '{{}}', 100)",
            quoted(HELLO)
        );
        assert_eq!(rows(&root, &sql).await, ["300"]);
        bed::eventually(
            &root,
            "SELECT count(*) FROM aggregator_usage_logs WHERE status = 'success'",
            "300",
        )
        .await;
        assert_eq!(
            rows(&root, "SELECT tags, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 1")
                .await,
            ["{a}|100", "{a,b}|100", "∅|100"],
            "{sync}"
        );
        assert_eq!(rows(&root, BY_TAG).await, ["a|200|0|30000|0.14", "b|100|0|15000|0.07"]);
        crate::reports::assert_equal(&root, sync).await;
    }
}

#[tokio::test]
async fn the_sums_of_a_partition_go_with_it() {
    let database = bed::database().await;
    let root = database.root().await;
    nodes::bring_back(&root).await;
    root.batch_execute(
        "SELECT aggregator_make_partition('2020-01-15'), aggregator_make_partition('2020-02-15');
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status,
            cost_estimate, tags, gateway_key_id)
         SELECT gen_random_uuid(), 1, '2020-01-15'::timestamptz + i * interval '1 day', 1, gen_random_uuid(), 'u', 'm',
            'success', 1, '{a,b}', gen_random_uuid() FROM generate_series(0, 29) AS i",
    )
    .await
    .unwrap();
    let sums = "SELECT kind, count(*), min(hour) >= '2020-02-01 UTC' FROM aggregator_usage_labels GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&root, sums).await, ["key|30|f", "tag|60|f"]);
    value(
        &root,
        "SELECT aggregator_drop_partition(partition, since, until) FROM aggregator_partitions() LIMIT 1",
    )
    .await
    .unwrap();
    let left = rows(&root, sums).await;
    assert!(left.len() == 2 && left.iter().all(|row| row.ends_with("|t")), "{left:?}");
    crate::reports::assert_equal(&root, "after a partition is gone").await;
    root.batch_execute("DELETE FROM aggregator_usage_logs").await.unwrap();
    assert_eq!(rows(&root, sums).await.len(), 0);
}
