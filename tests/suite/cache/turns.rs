//! Of those who ask the same at one time one asks upstream, and the others wait for it.

use super::{FIRST, HIT, MINUTE, counting, says, slowly};
use crate::bed::{eventually, failure, rows};
use crate::fixtures::{HELLO, chat_sql, ready};
use crate::upstream::{Answer, Upstream};
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test]
async fn of_many_that_ask_the_same_one_asks_upstream() {
    let upstream = Upstream::start(slowly(400)).await;
    let (database, root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..20 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    let mut answers = vec![];
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    assert_eq!(answers[19], FIRST);
    assert_eq!(answers[..19], vec![HIT.to_owned(); 19][..]);
    assert_eq!(upstream.chat_count(), 1);
    assert_eq!(
        rows(
            &root,
            "SELECT cost_source, count(*) FROM aggregator_usage_logs GROUP BY 1 ORDER BY 2"
        )
        .await,
        ["computed|1", "cached|19"]
    );
    // In one batch as well.
    let one = format!(r#"{{"model": "m", "temperature": 1, "messages": {HELLO}}}"#);
    let requests = format!("[{}]", vec![one; 20].join(","));
    let many = format!(
        "SELECT count(DISTINCT content), count(*) FILTER (WHERE cost = 0) FROM chat_many('{requests}', '{MINUTE}', 20)"
    );
    assert_eq!(rows(&root, &many).await, ["1|19"]);
    assert_eq!(upstream.chat_count(), 2);
}

#[tokio::test]
async fn whoever_asks_and_goes_away_leaves_the_turn_to_the_next() {
    let upstream = Upstream::start({
        let answers = counting();
        let stalls = AtomicUsize::new(0);
        move |seen| match stalls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Stall,
            _ => answers(seen),
        }
    })
    .await;
    let (database, root) = ready(&upstream).await;
    let leader = database.root().await;
    let canceller = database.canceller(&leader).await;
    let leads = tokio::spawn(async move { failure(&leader, &chat_sql(MINUTE)).await.0 });
    upstream.wait_for_chats(1).await;
    let mut waiting = vec![];
    for _ in 0..5 {
        let client = database.root().await;
        waiting.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    // A waiting call keeps its own deadline.
    let (code, message) =
        failure(&root, &chat_sql(r#"{"cache": {"ttl": 60}, "timeout_ms": 300}"#)).await;
    assert_eq!(code, "PT504", "{message}");
    eventually(&root, "SELECT in_flight FROM aggregator_status()", "6").await;
    assert_eq!(upstream.chat_count(), 1);
    canceller.cancel().await;
    assert_eq!(leads.await.unwrap(), "57014");
    let mut answers = vec![];
    for one in waiting {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    assert_eq!((answers[0].as_str(), answers[4].as_str()), (HIT, FIRST));
    assert_eq!(upstream.chat_count(), 2, "one of them asked");
}

#[tokio::test]
async fn failures_are_not_kept_and_hand_over_one_by_one() {
    let bad = r#"{"error":{"message":"no good","code":"invalid_value"}}"#;
    let upstream = Upstream::start({
        let turn = AtomicUsize::new(0);
        let answers = counting();
        move |seen| match turn.fetch_add(1, Ordering::SeqCst) {
            0..=2 => Answer::late(200, Answer::json(400, bad)),
            _ => answers(seen),
        }
    })
    .await;
    let (database, _root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..8 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move {
            let r = r#"{"cache": {"ttl": 60}, "throw_on_error": false, "max_retries": 0}"#;
            says(&client, r).await
        }));
    }
    let mut answers = vec![];
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers.sort();
    let failed = "∅|∅|∅".to_owned();
    assert_eq!(answers[..4], vec![HIT.to_owned(); 4][..], "{answers:?}");
    assert_eq!(answers[4], FIRST);
    assert_eq!(answers[5..], vec![failed; 3][..]);
    assert_eq!(upstream.chat_count(), 4);
    assert_eq!(upstream.most_at_once(), 1, "never all at once");
}

#[tokio::test]
async fn those_who_ask_for_what_is_not_kept_wait_for_nobody() {
    let cut = r#"{"id":"g","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"so f"},"finish_reason":"length"}]}"#;
    let upstream = Upstream::start(move |_| Answer::late(1500, Answer::json(200, cut))).await;
    let (database, _root) = ready(&upstream).await;
    let mut asking = vec![];
    for _ in 0..6 {
        let client = database.root().await;
        asking.push(tokio::spawn(async move { says(&client, MINUTE).await }));
    }
    for one in asking {
        one.await.unwrap();
    }
    assert_eq!(upstream.chat_count(), 6);
    // The first alone, and then the others together.
    assert!(upstream.most_at_once() >= 2);
}
