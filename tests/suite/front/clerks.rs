//! The processes that answer the console: as whom they run, whom they hold up, and when they go.

use super::calls::{chat, ready};
use super::console_data::{get, post, told};
use super::own::{Own, drop_by_force, until_down};
use super::{Bed, Request, Response, token};
use crate::bed::{PATIENCE, eventually, eventually_within, rows, value};
use crate::upstream::{Answer, Upstream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_postgres::Client;

const CLERKS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'aggregator clerk' AND datname = current_database()";
/// One that was long at something leaves after it.
const AT_MOST_ONE: &str = "SELECT count(*) < 2 FROM pg_stat_activity
    WHERE backend_type = 'aggregator clerk' AND datname = current_database()";
const AT_WORK: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'aggregator clerk' AND datname = current_database() AND state = 'active'";

/// Makes `limits` take until [`let_go`] for the user `slow`: a superuser may put anything in its way. Its own time, of
/// 15 seconds, may be over before.
async fn slow_down(root: &Client) {
    root.batch_execute(
        "SELECT pg_advisory_lock(7);
         SELECT set_rate_limit(1000, p_each_user => true);
         CREATE FUNCTION public.dawdle() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
         BEGIN
             IF public.aggregator_user_id() LIKE 'slow%' THEN
                 WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP
                     PERFORM pg_sleep(0.1);
                 END LOOP;
             END IF;
             RETURN true;
         END $$;
         CREATE POLICY slow ON aggregator_rate_limits AS RESTRICTIVE FOR SELECT USING (public.dawdle())",
    )
    .await
    .unwrap();
}

async fn hold(root: &Client) {
    value(root, "SELECT pg_advisory_lock(7)").await;
}

async fn let_go(root: &Client) {
    value(root, "SELECT pg_advisory_unlock_all()").await;
}

async fn asked(port: u16, user: &str, request: Request) -> Response {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    super::send(stream, &request.bearer(&token::of(user)).bytes(port)).await
}

/// Asks in the background, and waits until a clerk is at it.
async fn begin(root: &Client, port: u16, user: &'static str) -> tokio::task::JoinHandle<Response> {
    let asking = tokio::spawn(asked(port, user, get("limits")));
    let sleeping = format!("{AT_WORK} AND wait_event = 'PgSleep'");
    eventually(root, &sleeping, "1").await;
    asking
}

#[tokio::test]
async fn one_that_runs_is_its_callers_role_and_nothing_in_it_becomes_another() {
    let bed = Bed::new().await;
    bed.root
        .batch_execute(
            "SELECT set_rate_limit(1000, p_each_user => true);
             CREATE TABLE public.told (line text); GRANT INSERT ON public.told TO PUBLIC;
             CREATE FUNCTION public.tell() RETURNS boolean LANGUAGE plpgsql AS $$
             DECLARE
                 v_escape text;
                 v_told   text;
             BEGIN
                 v_told := concat_ws(' ', current_user, current_setting('transaction_read_only'),
                     current_setting('row_security'), public.aggregator_user_id(), public.aggregator_is_admin());
                 FOREACH v_escape IN ARRAY ARRAY[
                     'SET ROLE postgres', 'SET LOCAL ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres',
                     'RESET SESSION AUTHORIZATION', 'SET TRANSACTION READ WRITE',
                     'SET aggregator.user_id = ''root''', 'SELECT set_config(''role'', ''postgres'', false)',
                     'INSERT INTO public.told VALUES (''x'')', 'CREATE TABLE public.mine ()',
                     'CREATE TEMP TABLE mine ()', 'COPY public.told TO PROGRAM ''true''']
                 LOOP
                     BEGIN
                         EXECUTE v_escape;
                         v_told := v_told || ' ' || v_escape || ' passes';
                     EXCEPTION WHEN OTHERS THEN
                         NULL;
                     END;
                 END LOOP;
                 PERFORM pg_catalog.set_config('request.jwt.claims', '{\"sub\": \"root\"}', true);
                 RAISE EXCEPTION '%', v_told || ' ' || public.aggregator_user_id() USING ERRCODE = 'PT418';
             END $$;
             CREATE POLICY tell ON aggregator_rate_limits AS RESTRICTIVE FOR SELECT USING (public.tell())",
        )
        .await
        .unwrap();
    let answered = asked(bed.port, "u-1", get("limits")).await;
    assert_eq!(answered.status, 418, "{answered:?}");
    let message = &answered.json()["error"]["message"];
    assert_eq!(message, "authenticated on on u-1 f u-1");
    // The next one is somebody else, in the same process.
    let administrator = token::with(token::claims("ops"), json!({"role": "service_role"}));
    let stream = bed.connect().await;
    let answered =
        super::send(stream, &get("me").bearer(&administrator).bytes(bed.port)).await.json();
    assert_eq!(
        (&answered["user_id"], &answered["role"], &answered["is_admin"]),
        (&json!("ops"), &json!("service_role"), &json!(true))
    );
    let answered = asked(bed.port, "u-2", get("me")).await.json();
    assert_eq!(
        (&answered["user_id"], &answered["role"], &answered["is_admin"]),
        (&json!("u-2"), &json!("authenticated"), &json!(false))
    );
    eventually(&bed.root, AT_MOST_ONE, "t").await;
    assert_eq!(value(&bed.root, "SELECT count(*) FROM public.told").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_role_that_loses_its_right_is_refused_at_once() {
    let bed = Bed::new().await;
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 200);
    bed.root.batch_execute("SELECT aggregator_revoke('authenticated', 'user')").await.unwrap();
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 403);
    bed.root.batch_execute("SELECT aggregator_grant('authenticated', 'user')").await.unwrap();
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 200);
}

#[tokio::test]
async fn what_one_waits_for_holds_up_nobody_else() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    slow_down(&bed.root).await;
    let mut slow = begin(&bed.root, bed.port, "slow-1").await;
    let (began, mut passed) = (Instant::now(), 0);
    while passed < 10 {
        assert!(began.elapsed() < PATIENCE, "{passed} were not held up");
        assert_eq!(bed.send(&chat("u-1", json!({}))).await.status, 200);
        assert_eq!(asked(bed.port, "u-1", get("limits")).await.status, 200);
        match slow.is_finished() {
            false => passed += 1,
            true => slow = begin(&bed.root, bed.port, "slow-1").await,
        }
    }
    let_go(&bed.root).await;
    let _ = slow.await;
    // Of the same user, few wait, and one more is refused.
    hold(&bed.root).await;
    let slow = begin(&bed.root, bed.port, "slow-1").await;
    let mut waiting = vec![];
    for _ in 0..8 {
        waiting.push(tokio::spawn(asked(bed.port, "slow-1", get("me"))));
    }
    eventually(&bed.root, "SELECT in_flight FROM aggregator_status()", "9").await;
    let refused = asked(bed.port, "slow-1", get("me")).await;
    assert_eq!(told(&refused), (429, "console_busy".to_owned()), "{refused:?}");
    assert!(!slow.is_finished());
    let_go(&bed.root).await;
    assert_eq!(slow.await.unwrap().status, 200);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().status, 200);
    }
    let clerks: u32 = value(&bed.root, CLERKS).await.unwrap().parse().unwrap();
    assert!((1..=4).contains(&clerks), "{clerks}");
    // When nobody asks, they go.
    eventually_within(2 * PATIENCE, &bed.root, CLERKS, "0").await;
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 200);
}

/// How the system shares the processor out to a process, as sched_setscheduler(2) counts it.
fn scheduling(pid: &str) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, which may hold anything, ends with the last bracket.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(38).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_long_report_leaves_the_processor_to_everything_else() {
    const IDLE: u32 = 5;
    const PIDS: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator clerk' AND datname = current_database()";
    let bed = Bed::new().await;
    // One that takes nothing of it is not long, whatever it waits for.
    slow_down(&bed.root).await;
    let waits = begin(&bed.root, bed.port, "slow-1").await;
    let pid = rows(&bed.root, PIDS).await.remove(0);
    let_go(&bed.root).await;
    assert_eq!(waits.await.unwrap().status, 200);
    assert_ne!(scheduling(&pid), IDLE);
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 200);
    assert_eq!(rows(&bed.root, PIDS).await, [pid.as_str()]);
    bed.root
        .batch_execute(
            "CREATE OR REPLACE FUNCTION public.dawdle() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
             BEGIN
                 WHILE public.aggregator_user_id() LIKE 'slow%' AND NOT pg_try_advisory_xact_lock_shared(7) LOOP
                 END LOOP;
                 RETURN true;
             END $$;
             SELECT pg_advisory_lock(7)",
        )
        .await
        .unwrap();
    let works = tokio::spawn(asked(bed.port, "slow-1", get("limits")));
    while scheduling(&pid) != IDLE {
        assert!(!works.is_finished());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let_go(&bed.root).await;
    // Where everything else leaves it nothing, its time is over before it ends.
    assert!(matches!(works.await.unwrap().status, 200 | 504));
    // It would be slow with the next question too: that has a process of its own.
    assert_eq!(asked(bed.port, "u-1", get("me")).await.status, 200);
    eventually(&bed.root, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"), "0")
        .await;
}

#[tokio::test]
async fn what_takes_too_long_or_is_waited_for_no_longer_is_cancelled() {
    let bed = Bed::new().await;
    slow_down(&bed.root).await;
    // Whoever goes away.
    let mut stream = bed.connect().await;
    let request = get("limits").bearer(&token::of("slow-1"));
    stream.write_all(&request.bytes(bed.port)).await.unwrap();
    eventually(&bed.root, AT_WORK, "1").await;
    drop(stream);
    // Before its own time is over.
    eventually_within(Duration::from_secs(12), &bed.root, AT_WORK, "0").await;
    assert_eq!(asked(bed.port, "slow-1", get("me")).await.status, 200);
    eventually(&bed.root, AT_MOST_ONE, "t").await;
    // Whoever waits.
    let began = Instant::now();
    let answered = asked(bed.port, "slow-1", get("limits")).await;
    assert_eq!(told(&answered), (504, "timeout".to_owned()), "{answered:?}");
    assert_eq!(answered.json()["error"]["sqlstate"], "57014");
    assert!((14..60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    eventually(&bed.root, AT_WORK, "0").await;
    // What comes next has all of its time.
    assert_eq!(asked(bed.port, "slow-1", get("me")).await.status, 200);
}

#[tokio::test]
async fn one_that_is_killed_is_an_error_and_the_next_one_answers() {
    let own = Own::start("killed_clerk", "").await;
    slow_down(&own.root).await;
    for (signal, ends_all) in [("TERM", false), ("KILL", true)] {
        let slow = begin(&own.root, own.port, "slow-1").await;
        let pid = rows(
            &own.root,
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aggregator clerk' AND state = 'active'",
        )
        .await;
        crate::bed::run(crate::bed::as_server("kill").args(["-s", signal, &pid[0]]));
        match ends_all {
            false => {
                let answered = slow.await.unwrap();
                assert_eq!(told(&answered), (503, "clerk_down".to_owned()), "{answered:?}");
                assert_eq!(asked(own.port, "slow-1", get("me")).await.status, 200);
            }
            // A process that dies takes the others along, as any of PostgreSQL's.
            true => {
                let _ = slow.await;
                // The server may not have noticed yet, and end whatever it has answered until it does.
                let given_up = Instant::now() + Duration::from_secs(60);
                let mut status = 0;
                while status != 200 {
                    assert!(Instant::now() < given_up, "{status}");
                    let root = own.cluster.again("app").await;
                    if root.simple_query("SELECT aggregator_start()").await.is_err() {
                        continue;
                    }
                    if let Ok(stream) = TcpStream::connect(("127.0.0.1", own.port)).await {
                        let request = get("me").bearer(&token::of("slow-1"));
                        status = super::send(stream, &request.bytes(own.port)).await.status;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn an_extension_or_a_database_that_is_dropped_waits_for_none() {
    let own = Own::start("dropped_clerk", "").await;
    slow_down(&own.root).await;
    let slow = begin(&own.root, own.port, "slow-1").await;
    // Its statement has locks; whoever wants them more ends it as any session.
    own.root
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'aggregator clerk';
             DROP POLICY slow ON aggregator_rate_limits; DROP EXTENSION aggregator CASCADE",
        )
        .await
        .unwrap();
    // 504 would be the end of its own time.
    let status = slow.await.unwrap().status;
    assert!(status >= 500 && status != 504, "{status}");
    until_down(own.port).await;
    eventually(&own.root, CLERKS, "0").await;
    for sql in ["CREATE EXTENSION aggregator; DROP FUNCTION dawdle", "SELECT aggregator_start()"] {
        own.root.batch_execute(sql).await.unwrap();
    }
    own.is_up().await;
    slow_down(&own.root).await;
    let slow = begin(&own.root, own.port, "slow-1").await;
    let Own { cluster, name, .. } = &own;
    let other = cluster.connect("postgres", "postgres").await;
    drop_by_force(&other, name).await;
    let status = slow.await.unwrap().status;
    assert!(matches!(status, 0 | 500..) && status != 504, "{status}");
}

#[tokio::test]
async fn a_worker_that_ends_takes_its_clerks_along_in_the_middle_of_their_work() {
    let own = Own::start("orphaned_clerk", "").await;
    slow_down(&own.root).await;
    let _slow = begin(&own.root, own.port, "slow-1").await;
    assert_eq!(asked(own.port, "u-1", get("me")).await.status, 200);
    assert_eq!(value(&own.root, CLERKS).await.as_deref(), Some("2"));
    // Where nobody listens any more, nobody needs them.
    own.set("aggregator.http_listen = ''");
    let other = own.cluster.connect("postgres", "app").await;
    own.root
        .batch_execute("SELECT pg_terminate_backend(worker_pid) FROM aggregator_status();")
        .await
        .unwrap();
    // Before its own time is over.
    eventually_within(Duration::from_secs(12), &other, CLERKS, "0").await;
}

#[tokio::test]
async fn without_a_free_place_the_console_says_so_and_calls_go_on() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    // For the worker alone, beside that of logical replication.
    let own = Own::ready("no_clerk", "max_worker_processes = 2", &upstream).await;
    let answered = asked(own.port, "u-1", get("me")).await;
    assert_eq!(told(&answered), (503, "clerk_down".to_owned()), "{answered:?}");
    assert!(answered.body.contains("max_worker_processes"));
    assert_eq!(own.send(&chat("u-1", json!({}))).await.status, 200);
}

#[tokio::test]
async fn what_the_console_did_is_committed_when_it_says_so() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let made = asked(
        bed.port,
        "u-1",
        post("create-gateway-key", json!({"name": "x", "limit_usd": "1.50"})),
    )
    .await;
    assert_eq!(made.status, 200, "{made:?}");
    let made = made.json();
    let key = made["key"].as_str().unwrap();
    let calls = Request::new("POST", "/v1/chat/completions")
        .bearer(key)
        .json(super::calls::body(json!({})));
    assert_eq!(bed.send(&calls).await.status, 200);
    let budget = "SELECT limit_usd, period FROM aggregator_budgets";
    assert_eq!(rows(&bed.root, budget).await, ["1.5000000000|month"]);
    let revoked =
        asked(bed.port, "u-1", post("revoke-gateway-key", json!({"id": made["id"]}))).await;
    assert_eq!(revoked.json(), json!({"revoked": true}));
    assert_eq!(bed.send(&calls).await.status, 401);
}

#[tokio::test]
async fn every_statement_that_writes_does_what_its_function_does() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let done = async |user: &str, name: &str, body: Value| {
        let mut claims = token::claims(user);
        if user == "ops" {
            claims["role"] = json!("service_role");
        }
        let bearer = token::with(claims, json!({}));
        let answered = bed.send(&post(name, body).bearer(&bearer)).await;
        assert_eq!(answered.status, 200, "{name}: {answered:?}");
        answered.json()
    };
    let told = async |sql: &str| value(&bed.root, sql).await.unwrap_or_default();
    // Keys of providers.
    let key = json!({"provider": "standin", "key": "sk-good-new-0123456789"});
    assert!(done("u-2", "save-key", key.clone()).await["id"].is_string());
    let valid = json!({"provider": "standin", "key": "sk-bad-0123456789"});
    assert_eq!(done("u-2", "check-key", valid).await["status"], "refused");
    let change = json!({"provider": "standin", "priority": 7, "is_active": false});
    assert_eq!(done("u-2", "change-key", change).await, json!({"changed": true}));
    let changed =
        "SELECT priority || ' ' || is_active FROM user_api_providers WHERE user_id = 'u-2'";
    assert_eq!(told(changed).await, "7 false");
    assert_eq!(done("u-2", "remove-key", json!({"provider": "standin"})).await["removed"], true);
    assert_eq!(told(changed).await, "");
    done("ops", "save-platform-key", key).await;
    let synced = done("ops", "sync", json!({"provider": "standin"})).await;
    let synced = &synced["providers"][0];
    assert_eq!((&synced["provider"], &synced["error"]), (&json!("standin"), &Value::Null));
    done("ops", "remove-platform-key", json!({"provider": "standin"})).await;
    assert_eq!(told("SELECT count(*) FROM user_api_providers").await, "1");
    // Gateway keys.
    let made = done(
        "u-1",
        "create-gateway-key",
        json!({"name": "x", "models": ["m"], "tags": ["a", "b"], "requests_per_minute": 100,
            "expires_at": "2099-01-01T00:00:00Z"}),
    )
    .await;
    let rotated =
        done("u-1", "rotate-gateway-key", json!({"id": made["id"], "grace": "1 hour"})).await;
    assert!(rotated["key"] != made["key"] && rotated["key"].is_string());
    let kept = "SELECT models::text || tags::text || expires_at FROM aggregator_gateway_keys";
    assert_eq!(told(kept).await, "{m}{a,b}2099-01-01 00:00:00+00");
    // Limits.
    let set = json!({"limit_usd": "12.345", "period": "day", "user_id": "u-1"});
    let budget = done("ops", "set-budget", set).await;
    let set = json!({"requests_per_minute": 50, "each_user": true});
    let rate = done("ops", "set-rate-limit", set).await;
    assert_eq!(done("ops", "remove-budget", json!({"id": budget["id"]})).await["removed"], true);
    assert_eq!(done("ops", "remove-rate-limit", json!({"id": rate["id"]})).await["removed"], true);
    // A job that waits.
    let owner = bed.database.rest("authenticated", Some("u-1")).await;
    let submit = "SELECT chat_submit('m', '[{\"role\":\"user\",\"content\":\"hi\"}]', p_run_after => now() + interval '1 day')";
    let job = value(&owner, submit).await.unwrap();
    assert_eq!(done("u-1", "cancel-job", json!({"id": job})).await, json!({"cancelled": true}));
    eventually(&bed.root, "SELECT string_agg(status, ' ') FROM aggregator_jobs", "cancelled").await;
}
