//! Jobs that end together: what becomes of one is nothing to the others.

use crate::bed::{Cluster, eventually, rows, value};
use crate::fixtures::{HELLO, prepare, ready, submit_sql};
use crate::upstream::{Answer, Gate, USAGE, Upstream, echo};
use tokio_postgres::Client;

const JOBS: usize = 60;

/// Submits so many jobs in one transaction, each with a text of its own: `text 1`, `text 2`, ...
async fn submit_many(client: &Client) {
    let submit = format!(
        "SELECT count(chat_submit('m', jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'text ' || i))))
         FROM generate_series(1, {JOBS}) AS i"
    );
    assert_eq!(value(client, &submit).await.unwrap(), JOBS.to_string());
}

/// Their answers, which come together: once all have been asked for and the gate is open.
async fn echoes() -> (Upstream, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    (Upstream::start(move |seen| Answer::held(&held, echo(seen))).await, gate)
}

#[tokio::test]
async fn each_of_many_jobs_has_its_own_answer_and_cost() {
    let (upstream, gate) = echoes().await;
    let (_database, root) = ready(&upstream).await;
    submit_many(&root).await;
    upstream.wait_for_chats(JOBS).await;
    gate.open();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "60")
        .await;
    assert_eq!(
        rows(
            &root,
            "SELECT count(*), bool_and(r.content = 're: ' || (j.request #>> '{messages,0,content}')),
                bool_and(j.cost = log.cost_estimate AND j.cost > 0 AND j.cost_source = log.cost_source),
                bool_and(j.attempts = 1 AND j.error IS NULL AND j.provider_name = 'standin')
             FROM aggregator_jobs AS j
             JOIN aggregator_usage_logs AS log ON log.call_id = j.id AND log.status = 'success'
             CROSS JOIN LATERAL chat_result(j.id) AS r"
        )
        .await,
        ["60|t|t|t"]
    );
    assert_eq!(upstream.chat_count(), JOBS);
}

#[tokio::test]
async fn one_result_that_cannot_be_written_harms_no_other() {
    let (upstream, gate) = echoes().await;
    let (_database, root) = ready(&upstream).await;
    // An administrator's own check, of a kind that no other try passes.
    root.batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.response::text LIKE '%text 7\"%' THEN RAISE check_violation USING MESSAGE = 'not this one'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON aggregator_jobs FOR EACH ROW EXECUTE FUNCTION refuse();
         ALTER TABLE aggregator_jobs ENABLE ALWAYS TRIGGER refuse",
    )
    .await
    .unwrap();
    submit_many(&root).await;
    upstream.wait_for_chats(JOBS).await;
    gate.open();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "59")
        .await;
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'failed'", "1").await;
    assert_eq!(
        rows(
            &root,
            "SELECT request #>> '{messages,0,content}', attempts, error ->> 'message' LIKE '%not this one%'
             FROM aggregator_jobs WHERE status = 'failed'"
        )
        .await,
        ["text 7|1|t"]
    );
    // All of them were paid for, once each.
    let paid = "SELECT count(*), count(DISTINCT call_id), bool_and(status = 'success') FROM aggregator_usage_logs";
    assert_eq!(rows(&root, paid).await, ["60|60|t"]);
    assert_eq!(
        value(&root, "SELECT sum(requests) FROM aggregator_usage_totals WHERE grain = 'day'").await,
        Some("60".to_owned())
    );
    assert_eq!(upstream.chat_count(), JOBS);
}

#[tokio::test]
async fn whoever_locks_one_of_many_holds_up_that_one_alone() {
    let (upstream, gate) = echoes().await;
    let (database, root) = ready(&upstream).await;
    let locker = database.root().await;
    submit_many(&root).await;
    upstream.wait_for_chats(JOBS).await;
    locker
        .batch_execute(
            "BEGIN; SELECT FROM aggregator_jobs WHERE request #>> '{messages,0,content}' = 'text 9' FOR UPDATE",
        )
        .await
        .unwrap();
    gate.open();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "59")
        .await;
    let locked = "SELECT status || ' ' || (request #>> '{messages,0,content}') FROM aggregator_jobs WHERE status <> 'succeeded'";
    assert_eq!(value(&root, locked).await.unwrap(), "running text 9");
    locker.batch_execute("ROLLBACK").await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "60")
        .await;
    // Written late, it costs what the ledger says.
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_jobs AS j JOIN aggregator_usage_logs AS log ON log.call_id = j.id WHERE j.cost = log.cost_estimate AND j.cost_source = 'computed'").await.unwrap(),
        "60"
    );
    assert_eq!(upstream.chat_count(), JOBS);
}

#[tokio::test]
async fn failures_and_answers_that_come_together_end_as_they_are() {
    // A third each: an answer, a refusal for good, and one that passes.
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let body = seen.json();
        let text = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        let number: usize = text.trim_start_matches("text ").parse().unwrap_or_default();
        let refusal = |status| Answer::Full(status, vec![], r#"{"error":{"message":"no"}}"#.into());
        Answer::held(
            &held,
            match number % 3 {
                0 => Answer::says("yes", USAGE),
                1 => refusal(400),
                _ => refusal(503),
            },
        )
    })
    .await;
    let cluster = Cluster::start("jobmixed", "aggregator.job_max_attempts = 2");
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    root.batch_execute(&format!(
        "SELECT count(chat_submit('m', jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'text ' || i)), '{{\"max_retries\": 0}}'))
         FROM generate_series(1, {JOBS}) AS i"
    ))
    .await
    .unwrap();
    upstream.wait_for_chats(JOBS).await;
    gate.open();
    let open = "SELECT count(*) FROM aggregator_jobs WHERE finished_at IS NULL";
    eventually(&root, open, "0").await;
    assert_eq!(
        rows(
            &root,
            "SELECT substr(request #>> '{messages,0,content}', 6)::integer % 3 AS third, status, min(attempts), max(attempts),
                count(*), count(response), count(error), count(cost)
             FROM aggregator_jobs GROUP BY 1, 2 ORDER BY 1"
        )
        .await,
        ["0|succeeded|1|1|20|20|0|20", "1|failed|1|1|20|0|20|0", "2|failed|2|2|20|0|20|0"]
    );
}

#[tokio::test]
async fn more_are_claimed_of_a_user_than_may_be_in_flight_and_no_more_are_sent() {
    let cluster = Cluster::start("jobspare", "aggregator.max_in_flight_per_user = 8");
    let (upstream, gate) = echoes().await;
    let database = cluster.database().await;
    let root = prepare(&database, &upstream).await;
    let one = submit_sql("{}", "").trim_start_matches("SELECT ").to_owned();
    let submit = format!("SELECT count({one}) FROM generate_series(1, {JOBS})");
    assert!(submit.contains(HELLO));
    assert_eq!(value(&root, &submit).await.unwrap(), JOBS.to_string());
    upstream.wait_for_chats(8).await;
    let claimed = "SELECT count(*) FROM aggregator_jobs WHERE status = 'running'";
    eventually(&root, &format!("SELECT n > 8 FROM ({claimed}) AS c (n)"), "t").await;
    let claimed: usize = value(&root, claimed).await.unwrap().parse().unwrap();
    assert!(claimed <= 10, "{claimed}");
    gate.open();
    eventually(&root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "60")
        .await;
    assert_eq!(upstream.most_at_once(), 8);
    assert_eq!(upstream.chat_count(), JOBS);
}
