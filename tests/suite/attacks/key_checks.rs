//! Checking keys costs nothing, and so it is limited, and in a log of its own.

use crate::bed::{self, Cluster, Database, eventually, failure, rows, value};
use crate::fixtures::{WORKERS, add_provider};
use crate::upstream::{Answer, Seen, Upstream};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// As many guesses as a user can make in some seconds with some sessions: how many were answered, and the
/// SQLSTATEs of the others.
async fn guess(
    clients: Vec<Client>,
    guesses: usize,
    sql: fn(usize) -> String,
) -> (usize, Vec<String>) {
    let mut tasks = JoinSet::new();
    for (first, client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let (mut answered, mut refused) = (0, vec![]);
            for guess in 0..guesses {
                match client.simple_query(&sql(first * guesses + guess)).await {
                    Ok(_) => answered += 1,
                    Err(error) => refused.push(error.code().unwrap().code().to_owned()),
                }
            }
            (answered, refused)
        });
    }
    let mut all = (0, vec![]);
    for (answered, refused) in tasks.join_all().await {
        all.0 += answered;
        all.1.extend(refused);
    }
    all.1.sort();
    all.1.dedup();
    all
}

async fn sessions(database: &Database<'_>, user: &str, count: usize) -> Vec<Client> {
    let mut clients = vec![];
    for _ in 0..count {
        clients.push(database.rest("authenticated", Some(user)).await);
    }
    clients
}

#[tokio::test]
async fn one_user_cannot_guess_thousands_of_keys() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let began = Instant::now();
    let check = |i| format!("SELECT validate_provider_key('standin', 'sk-guess-{i}')");
    let (answered, refused) = guess(sessions(&database, "u-a", 8).await, 50, check).await;
    let free = 10 + began.elapsed().as_secs() as usize / 6;
    assert!((10..=free + 1).contains(&answered), "{answered} of 400 guesses were answered");
    assert_eq!(refused, ["PT429"]);
    assert_eq!(upstream.seen().len(), answered, "what is refused is not sent");
    // Saving is no way around it.
    let save = |i| format!("SELECT save_provider_key('standin', 'sk-guess-{i}')");
    let (saved, refused) = guess(sessions(&database, "u-a", 1).await, 5, save).await;
    assert_eq!((saved, refused.last().map(String::as_str)), (0, Some("PT429")));
    // Nor is the end of the worker.
    root.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'aggregator worker' AND datname = current_database()").await.unwrap();
    eventually(&root, WORKERS, "0").await;
    let (again, _) = guess(sessions(&database, "u-a", 2).await, 20, check).await;
    let free = began.elapsed().as_secs() as usize / 6;
    assert!(again <= free + 1, "{again} more after a restart");
    // Another user has their own, and each sees theirs in the log.
    let b = database.rest("authenticated", Some("u-b")).await;
    assert_eq!(
        value(&b, "SELECT validate_provider_key('standin', 'sk-good-b')").await.unwrap(),
        "t"
    );
    assert_eq!(
        value(&b, "SELECT validate_provider_key('standin', 'sk-bad-b')").await.unwrap(),
        "f"
    );
    let log = "SELECT kind, user_id, outcome, http_status, error_code, latency_ms >= 0 FROM aggregator_key_checks ORDER BY created_at";
    eventually(&b, "SELECT count(*) FROM aggregator_key_checks", "2").await;
    let seen = ["check|u-b|success|200|∅|t", "check|u-b|refused|401|∅|t"];
    assert_eq!(rows(&b, log).await, seen);
    // One that was to be saved may have been asked about as well.
    let of_a = |seen: &&Seen| seen.header("authorization").is_some_and(|k| k.contains("guess"));
    let asked = upstream.seen().iter().filter(of_a).count();
    assert!((answered + again..=answered + again + 5).contains(&asked), "{asked}");
    let all = "SELECT count(*) FROM aggregator_key_checks WHERE user_id = 'u-a' AND kind = 'check' AND outcome = 'refused'";
    eventually(&root, all, &asked.to_string()).await;
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
    // Nobody changes it, and a forgotten user is not in it.
    assert_eq!(failure(&b, "DELETE FROM aggregator_key_checks").await.0, "42501");
    value(&root, "SELECT forget_user('u-a')").await;
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_key_checks WHERE user_id = 'u-a'")
            .await
            .unwrap(),
        "0"
    );
}

#[tokio::test]
async fn a_provider_that_was_never_synced_is_not_asked_once_per_save() {
    let upstream = Upstream::raw(|_| Answer::late(200, Answer::json(500, ""))).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let save =
        |i| format!("SELECT save_provider_key('standin', 'sk-guess-{i}', p_validate => false)");
    let mut clients = vec![];
    for user in ["u-a", "u-b", "u-c", "u-d"] {
        clients.extend(sessions(&database, user, 2).await);
    }
    let (saved, refused) = guess(clients, 100, save).await;
    assert_eq!((saved, refused.len()), (800, 0), "a key can be saved without asking anybody");
    eventually(&root, "SELECT count(*) > 0 FROM aggregator_key_checks", "t").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(upstream.seen().len(), 1, "one sync at a time, and what it said holds for a minute");
    let log = "SELECT kind, user_id, outcome, http_status FROM aggregator_key_checks";
    assert_eq!(rows(&root, log).await, ["sync|∅|error|500"]);
}

#[tokio::test]
async fn the_lists_of_users_keys_are_not_asked_for_once_per_save_either() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_provider(&root, &upstream).await;
    let save =
        |i| format!("SELECT save_provider_key('standin', 'sk-good-{i}', p_validate => false)");
    let began = Instant::now();
    let (saved, _) = guess(sessions(&database, "u-a", 4).await, 100, save).await;
    assert_eq!(saved, 400);
    // One without a key, and one with.
    upstream.wait_until(|seen| seen.len() >= 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = upstream.seen().len();
    let most = 12 + began.elapsed().as_secs() as usize / 6;
    assert!((2..=most).contains(&asked), "{asked} requests for 400 saves");
    let one = database.rest("authenticated", Some("u-b")).await;
    value(&one, "SELECT save_provider_key('standin', 'sk-good-b', p_validate => false)").await;
    eventually(
        &one,
        "SELECT count(*) FROM get_user_available_models() WHERE model_id = 'v/plain'",
        "1",
    )
    .await;
    let by = |key: Option<&str>| {
        upstream.seen().iter().filter(|s| s.header("authorization") == key).count()
    };
    assert_eq!((by(None), by(Some("Bearer sk-good-b"))), (1, 1), "that it needs a key is known");
}

#[tokio::test]
async fn key_checks_that_hang_leave_places_for_other_users() {
    let cluster = Cluster::start(
        "check_places",
        "aggregator.max_in_flight_per_key = 8\naggregator.max_key_checks_per_minute = 1000",
    );
    cluster.supabase_roles().await;
    let upstream = Upstream::raw(|seen| match seen.header("authorization") {
        Some("Bearer sk-hang") => Answer::Stall,
        _ => Answer::json(200, "{}"),
    })
    .await;
    let database = cluster.database().await;
    add_provider(&database.root().await, &upstream).await;
    let mut hanging = JoinSet::new();
    for user in ["u-a", "u-b"] {
        for client in sessions(&database, user, 8).await {
            hanging.spawn(async move {
                let _ =
                    client.simple_query("SELECT validate_provider_key('standin', 'sk-hang')").await;
            });
        }
    }
    upstream.wait_until(|seen| seen.len() >= 6).await;
    assert_eq!(upstream.seen().len(), 6, "half of eight, and half of the rest");
    let c = database.rest("authenticated", Some("u-c")).await;
    let began = Instant::now();
    assert_eq!(value(&c, "SELECT validate_provider_key('standin', 'sk-c')").await.unwrap(), "t");
    // Those that hang give up after a minute.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    hanging.abort_all();
}
