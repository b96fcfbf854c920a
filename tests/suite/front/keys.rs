//! Gateway keys over HTTP: whose they are, what they may, and when they are over.

use super::calls::{body, ready};
use super::dialects::Both;
use super::own::Own;
use super::{Bed, Request, Response, token};
use crate::bed::{Database, PATIENCE, eventually, rows, value};
use crate::fixtures::{add_named, save_key};
use crate::upstream::{Answer, Gate, Upstream};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Makes a key of a user's: its id, and the key.
pub async fn create(owner: &Client, arguments: &str) -> (String, String) {
    let made = rows(owner, &format!("SELECT * FROM create_gateway_key({arguments})")).await;
    let (id, key) = made[0].split_once('|').unwrap();
    (id.to_owned(), key.to_owned())
}

/// The user who makes keys, in SQL.
pub async fn owner(database: &Database<'_>) -> Client {
    database.rest("authenticated", Some("u-1")).await
}

pub fn chat(key: &str, more: Value) -> Request {
    Request::new("POST", "/v1/chat/completions").bearer(key).json(body(more))
}

fn told(response: &Response) -> (u16, String) {
    (response.status, response.code())
}

fn dead() -> (u16, String) {
    (401, "invalid_api_key".to_owned())
}

#[tokio::test]
async fn a_key_spends_as_its_owner_and_is_found_again_in_every_dialect() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let bed = &both.bed;
    let owner = owner(&bed.database).await;
    let (id, key) = create(&owner, "'agent', p_tags => '{of the key}'").await;
    let message =
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let requests = [
        Request::new("POST", "/v1/chat/completions").bearer(&key).json(body(json!({}))),
        Request::new("POST", "/v1/chat/completions")
            .header("api-key", &key)
            .json(body(json!({"stream": true}))),
        Request::new("POST", "/v1/messages").header("x-api-key", &key).json(message.to_string()),
        Request::new("POST", "/v1/responses")
            .bearer(&key)
            .json(json!({"model": "m", "input": "hi"}).to_string()),
    ];
    for (index, request) in requests.iter().enumerate() {
        let response = bed.send(request).await;
        assert_eq!(response.status, 200, "{response:?}");
        let logged = format!(
            "SELECT user_id, gateway_key_id, tags FROM aggregator_usage_logs WHERE call_id = '{}'",
            response.header("x-request-id").unwrap()
        );
        let expected = [format!(r#"u-1|{id}|{{"of the key"}}"#)];
        assert_eq!(rows(&bed.root, &logged).await, expected, "{index}");
    }
    let used = "SELECT name, requests, errors FROM usage_by_key('day')";
    eventually(
        &owner,
        &format!("SELECT string_agg(t::text, ' ') FROM ({used}) AS t"),
        "(agent,4,0)",
    )
    .await;
    eventually(
        &bed.root,
        "SELECT count(*) FROM aggregator_gateway_keys WHERE last_used_at > created_at",
        "1",
    )
    .await;
    // Nobody's keys but the owner's pay for it.
    let ben = bed.database.rest("authenticated", Some("ben")).await;
    let (_, bens) = create(&ben, "'x'").await;
    assert_eq!(told(&bed.send(&chat(&bens, json!({"user": "u-1"}))).await), (404, "no_key".into()));
    // A role's key is good for as long as the role may chat.
    bed.root
        .batch_execute(
            "CREATE ROLE gatekeeper LOGIN; SELECT aggregator_grant('gatekeeper', 'user');
             SELECT save_platform_key('standin', 'sk-good-platform-0123456789')",
        )
        .await
        .unwrap();
    let gatekeeper = bed.database.user("gatekeeper").await;
    let (_, gatekeepers) = create(&gatekeeper, "'x'").await;
    assert_eq!(bed.send(&chat(&gatekeepers, json!({}))).await.status, 200);
    bed.root.batch_execute("SELECT aggregator_revoke('gatekeeper', 'user')").await.unwrap();
    let sent = both.openai.chat_count();
    assert_eq!(told(&bed.send(&chat(&gatekeepers, json!({}))).await), dead());
    assert_eq!(both.openai.chat_count(), sent);
    bed.root.batch_execute("SELECT aggregator_grant('gatekeeper', 'user')").await.unwrap();
    assert_eq!(bed.send(&chat(&gatekeepers, json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_key_calls_and_lists_the_models_that_it_is_for_and_no_other() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    // Before `standin`, which is asked for the same models.
    add_named(&bed.root, "alt", "openai", &upstream.base_url(), &["m", "x/one", "w"]).await;
    let owner = owner(&bed.database).await;
    save_key(&owner, "alt", "sk-good-alt-0123456789").await;
    let served = async |key: &str, more: Value| {
        let before = upstream.chat_count();
        let response = bed.send(&chat(key, more)).await;
        let after = upstream.chat_count();
        match response.status {
            200 => {
                assert_eq!(after, before + 1);
                let answer = &response.json()["aggregator"];
                let model = &upstream.chats()[before].json()["model"];
                format!("{}:{}", answer["provider"].as_str().unwrap(), model.as_str().unwrap())
            }
            status => {
                assert_eq!(after, before, "{response:?}");
                format!("{status} {}", response.code())
            }
        }
    };
    let listed = async |key: &str| {
        let list = bed.send(&Request::new("GET", "/v1/models").bearer(key)).await;
        assert_eq!(list.status, 200);
        let list = list.json();
        let ids = list["data"].as_array().unwrap().iter();
        ids.map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let refused = "403 model_not_allowed";
    let (_, none) = create(&owner, "'none', '{}'").await;
    assert_eq!((served(&none, json!({})).await, listed(&none).await), (refused.into(), "".into()));
    let (_, at_one) = create(&owner, "'at one', '{standin:*}'").await;
    assert_eq!(listed(&at_one).await, "m v/plain");
    let (id, some) = create(&owner, "'some', '{x/*, standin:m}'").await;
    assert_eq!(listed(&some).await, "m x/one");
    for (more, expected) in [
        (json!({}), "standin:m"),
        (json!({"model": "alt:m"}), refused),
        (json!({"model": "standin:m"}), "standin:m"),
        (json!({"model": "x/one"}), "alt:x/one"),
        (json!({"model": "w"}), refused),
        (json!({"model": "nothing"}), "404 model_not_found"),
        // What it falls back on is for the key as well, or is not asked.
        (json!({"model": "w", "models": ["x/one"]}), "alt:x/one"),
        (json!({"model": "w", "models": ["alt:m", "m"]}), "standin:m"),
        (json!({"model": "w", "models": ["alt:m"]}), refused),
    ] {
        assert_eq!(served(&some, more.clone()).await, expected, "{more}");
    }
    for path in ["/v1/models/w", "/v1/models/alt:m"] {
        assert_eq!(bed.send(&Request::new("GET", path).bearer(&some)).await.status, 404, "{path}");
    }
    let refused_job =
        bed.send(&Request::new("POST", "/v1/jobs").bearer(&none).json(body(json!({})))).await;
    assert_eq!(told(&refused_job), (403, "model_not_allowed".into()));
    // As of the commit that changes them.
    for (models, expected) in
        [("'{w}'", refused), ("NULL", "alt:m"), ("'{}'", refused), ("'{m*}'", "alt:m")]
    {
        let sql = format!("UPDATE aggregator_gateway_keys SET models = {models} WHERE id = '{id}'");
        bed.root.batch_execute(&sql).await.unwrap();
        assert_eq!(served(&some, json!({})).await, expected, "{models}");
    }
}

#[tokio::test]
async fn a_key_that_is_over_passes_nothing() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let owner = owner(&bed.database).await;
    let status = async |key: &str| told(&bed.send(&chat(key, json!({}))).await);
    let fine = (200, "∅".to_owned());
    // Its end changes nothing that anybody could be told of. On a busy machine it may come before the first call.
    for seconds in [2, 4, 8, 16, 32] {
        let ends = format!("'x', p_expires_at => now() + interval '{seconds} seconds'");
        let (id, ends) = create(&owner, &ends).await;
        let before = status(&ends).await;
        let is_over = format!(
            "SELECT clock_timestamp() > expires_at FROM aggregator_gateway_keys WHERE id = '{id}'"
        );
        if before != fine && value(&bed.root, &is_over).await.as_deref() == Some("t") {
            assert!(seconds < 32, "{before:?}");
            continue;
        }
        assert_eq!(before, fine);
        eventually(&bed.root, &is_over, "t").await;
        assert_eq!(status(&ends).await, dead());
        break;
    }
    // Rotated: at once, or when the grace is over.
    let (id, first) = create(&owner, "'x'").await;
    assert_eq!(status(&first).await, fine);
    let rotate = |grace: &str| format!("SELECT rotate_gateway_key('{id}'{grace})");
    let second = value(&owner, &rotate("")).await.unwrap();
    assert_eq!((status(&first).await, status(&second).await), (dead(), fine.clone()));
    let (mut second, mut third) = (second.clone(), second);
    for seconds in [2, 4, 8, 16, 32] {
        second = third;
        third = value(&owner, &rotate(&format!(", '{seconds} seconds'"))).await.unwrap();
        let before = status(&second).await;
        let is_over = format!(
            "SELECT clock_timestamp() > old_valid_until FROM aggregator_gateway_keys WHERE id = '{id}'"
        );
        if before != fine && value(&bed.root, &is_over).await.as_deref() == Some("t") {
            assert!(seconds < 32, "{before:?}");
            continue;
        }
        assert_eq!((before, status(&third).await), (fine.clone(), fine.clone()));
        eventually(&bed.root, &is_over, "t").await;
        break;
    }
    assert_eq!((status(&second).await, status(&third).await), (dead(), fine.clone()));
    // Revoked: for everything, though it was good a moment ago.
    let jobs = Request::new("POST", "/v1/jobs").bearer(&third).json(body(json!({})));
    let job = bed.send(&jobs).await.json()["id"].as_str().unwrap().to_owned();
    // It came in time, and reaches the upstream before what is sent there is counted.
    let status_of = format!("SELECT status FROM aggregator_jobs WHERE id = '{job}'");
    eventually(&bed.root, &status_of, "succeeded").await;
    value(&owner, &format!("SELECT revoke_gateway_key('{id}')")).await;
    let sent = upstream.chat_count();
    for request in [
        Request::new("GET", "/v1/models"),
        Request::new("GET", &format!("/v1/jobs/{job}")),
        Request::new("DELETE", &format!("/v1/jobs/{job}")),
        Request::new("POST", "/v1/jobs").json(body(json!({}))),
        Request::new("POST", "/v1/messages/count_tokens").json("{}"),
        Request::new("POST", "/v1/embeddings").json("{}"),
        Request::new("POST", "/v1/chat/completions").json(body(json!({"stream": true}))),
        Request::new("POST", "/v1/responses").json(r#"{"model":"m","input":"hi"}"#),
    ] {
        let response = bed.send(&request.bearer(&third)).await;
        assert_eq!(response.status, 401, "{response:?}");
        let challenge = response.header("www-authenticate").unwrap();
        assert!(challenge.starts_with(r#"Bearer error="invalid_token""#), "{challenge}");
        assert!(!response.body.contains("u-1") && !response.body.contains(&id), "{response:?}");
    }
    assert_eq!(upstream.chat_count(), sent);
    // Nobody's, nearly somebody's, and one whose owner was forgotten.
    let (_, gone) = create(&owner, "'x'").await;
    assert_eq!(status(&gone).await, fine);
    let made_up = "agk_0000000000000000000000000000000000000000000";
    let made_up = format!("{made_up}{}", checksum(made_up));
    for key in [made_up.as_str(), &gone[..52], &gone.replace("agk_", "AGK_")] {
        assert_eq!(status(key).await, dead(), "{key}");
    }
    value(&bed.root, "SELECT forget_user('u-1')").await;
    assert_eq!(status(&gone).await, dead());
}

/// As a stranger who knows how keys are made writes it: CRC-32 in six digits of base 62.
fn checksum(text: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = !0_u32;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    String::from_utf8_lossy(&digits).into_owned()
}

#[tokio::test]
async fn jobs_are_seen_with_the_key_that_submitted_them_and_by_administrators() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let bed = &both.bed;
    let owner = owner(&bed.database).await;
    let (id, one) = create(&owner, "'one', p_tags => '{night}'").await;
    let (_, other) = create(&owner, "'other'").await;
    let submit = |key: &str| {
        let request = Request::new("POST", "/v1/jobs").bearer(key);
        request.header("idempotency-key", "k").json(body(json!({})))
    };
    let job = bed.send(&submit(&one)).await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(bed.send(&submit(&one)).await.json()["id"], job.as_str());
    let reused = bed.send(&submit(&other)).await;
    assert_eq!(told(&reused), (409, "idempotency_key_reused".into()));
    let ended = format!("SELECT status FROM aggregator_jobs WHERE id = '{job}'");
    eventually(&bed.root, &ended, "succeeded").await;
    let logged = "SELECT gateway_key_id, tags FROM aggregator_usage_logs";
    assert_eq!(rows(&bed.root, logged).await, [format!("{id}|{{night}}")]);
    bed.root
        .batch_execute(
            "CREATE ROLE overseer NOLOGIN; GRANT overseer TO authenticator;
             SELECT aggregator_grant('overseer', 'admin')",
        )
        .await
        .unwrap();
    let overseer = token::with(token::claims("chief"), json!({"role": "overseer"}));
    // A key of an administrator's administers nothing.
    let chief = bed.database.rest("overseer", Some("chief")).await;
    let (_, chiefs) = create(&chief, "'x'").await;
    for (credential, expected) in [
        (one.as_str(), 200),
        (&other, 404),
        (&token::of("u-1"), 200),
        (&token::of("u-2"), 404),
        (&overseer, 200),
        (&chiefs, 404),
    ] {
        for method in ["GET", "DELETE"] {
            let look = Request::new(method, &format!("/v1/jobs/{job}")).bearer(credential);
            assert_eq!(bed.send(&look).await.status, expected, "{method} {credential}");
        }
    }
    // As in SQL.
    let sql = format!("SELECT status FROM chat_result('{job}')");
    assert_eq!(rows(&chief, &sql).await, ["succeeded"]);
    // Once it administers no longer, it sees none.
    bed.root
        .batch_execute(
            "SELECT aggregator_revoke('overseer', 'admin'), aggregator_grant('overseer', 'user')",
        )
        .await
        .unwrap();
    let look = Request::new("GET", &format!("/v1/jobs/{job}")).bearer(&overseer);
    assert_eq!(bed.send(&look).await.status, 404);
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_is_not_sent_once_its_key_is_over() {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |_| Answer::held(&gate, Answer::hello())
    })
    .await;
    let setting = "aggregator.max_in_flight_per_key = 1";
    let own = Own::ready("keyturns", setting, &upstream).await;
    let owner = owner(&own.database()).await;
    for ending in [
        "SELECT revoke_gateway_key('{id}')",
        "UPDATE aggregator_gateway_keys SET models = '{}' WHERE id = '{id}'",
        "SELECT forget_user('u-1')",
    ] {
        let (id, key) = create(&owner, "'x'").await;
        let sent = upstream.chat_count();
        gate.shut();
        let send =
            async |stream: bool| own.send(&chat(&key, json!({"stream": stream}))).await.status;
        let end = async {
            upstream.wait_for_chats(sent + 1).await;
            eventually(&own.root, "SELECT waiting FROM aggregator_status()", "2").await;
            own.root.batch_execute(&ending.replace("{id}", &id)).await.unwrap();
            // What was known of it when it began to wait counts for a quarter of a second.
            tokio::time::sleep(Duration::from_millis(400)).await;
            gate.open();
        };
        let (first, second, third, ()) = tokio::join!(send(false), send(true), send(false), end);
        let mut statuses = [first, second, third];
        statuses.sort_unstable();
        // What was sent before ends, where its user was not forgotten.
        let expected = if ending.contains("forget") { 409 } else { 200 };
        let answered = statuses.iter().filter(|status| **status == expected).count();
        assert!(answered >= 1, "{ending}: {statuses:?}");
        assert_eq!(
            upstream.chat_count(),
            sent + 1,
            "{ending}: nothing was sent after: {statuses:?}"
        );
    }
}

/// A client that calls without a pause, until a call is refused that began after `over` was set: when each call began,
/// and its status.
async fn calls_on(bed: Arc<Bed>, key: String, over: Arc<OnceLock<Instant>>) -> Vec<(Instant, u16)> {
    let request = chat(&key, json!({}));
    let mut calls = Vec::new();
    loop {
        let began = Instant::now();
        let status = bed.send(&request).await.status;
        calls.push((began, status));
        // One that is never refused passes late, which is found in what is returned.
        if over
            .get()
            .is_some_and(|over| *over < began && (status != 200 || over.elapsed() > PATIENCE))
        {
            return calls;
        }
    }
}

#[tokio::test]
async fn no_call_that_begins_after_a_key_was_taken_away_passes() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = Arc::new(ready(&upstream).await);
    let owner = owner(&bed.database).await;
    for take_away in [
        "SELECT revoke_gateway_key('{id}')",
        "SELECT rotate_gateway_key('{id}')",
        "DELETE FROM aggregator_gateway_keys WHERE id = '{id}' AND current_user = 'postgres'",
        "UPDATE aggregator_gateway_keys SET expires_at = now() WHERE id = '{id}'",
        "UPDATE aggregator_gateway_keys SET models = '{}' WHERE id = '{id}'",
    ] {
        let (id, key) = create(&owner, "'x'").await;
        let sent_before = upstream.chat_count();
        let over = Arc::new(OnceLock::new());
        let clients: Vec<_> = (0..20)
            .map(|_| tokio::spawn(calls_on(bed.clone(), key.clone(), over.clone())))
            .collect();
        upstream.wait_for_chats(sent_before + 40).await;
        let who = if take_away.starts_with("SELECT") { &owner } else { &bed.root };
        who.batch_execute(&take_away.replace("{id}", &id)).await.unwrap();
        let committed = Instant::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        over.set(Instant::now()).unwrap();
        let (mut passed, mut refused) = (0, 0);
        for client in clients {
            for (began, status) in client.await.unwrap() {
                match status {
                    200 => {
                        assert!(began < committed, "{take_away}: {:?} late", began - committed);
                        passed += 1;
                    }
                    // The last of them is told to those who go on asking.
                    401 | 403 | 429 => refused += 1,
                    other => panic!("{take_away}: {other}"),
                }
            }
        }
        assert!(passed > 0 && refused > 0, "{take_away}: {passed} and {refused}");
        // What was refused was not sent.
        assert_eq!(upstream.chat_count() - sent_before, passed, "{take_away}");
    }
}
