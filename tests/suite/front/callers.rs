//! Who is believed to be whom.

use super::calls::{body, chat, ready};
use super::{Request, SECRET, token};
use crate::bed::{rows, value};
use crate::fixtures::user;
use crate::upstream::{Answer, Upstream};
use serde_json::json;

#[tokio::test]
async fn tokens_that_nobody_vouches_for_are_refused_before_anything_is_read() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let claims = token::claims("u-1");
    let payload = claims.to_string();
    let good = token::of("u-1");
    let twice = payload.replace(r#""sub":"u-1""#, r#""sub":"u-2","sub":"u-1""#);
    assert_ne!(twice, payload);
    let hs256 = r#"{"alg":"HS256"}"#;
    for (why, bad) in [
        ("forged", token::signed(&claims, "another-secret-of-thirty-two-bytes!")),
        ("empty secret", token::raw(hs256, &payload, b"")),
        (
            "none",
            format!(
                "{}.",
                token::raw(r#"{"alg":"none"}"#, &payload, b"").rsplit_once('.').unwrap().0
            ),
        ),
        ("None", token::raw(r#"{"alg":"None"}"#, &payload, SECRET.as_bytes())),
        ("another algorithm", token::raw(r#"{"alg":"RS256"}"#, &payload, SECRET.as_bytes())),
        ("HS512 signed as HS256", token::raw(r#"{"alg":"HS512"}"#, &payload, SECRET.as_bytes())),
        ("crit", token::raw(r#"{"alg":"HS256","crit":["x"],"x":1}"#, &payload, SECRET.as_bytes())),
        ("unknown kid", token::raw(r#"{"alg":"HS256","kid":"k"}"#, &payload, SECRET.as_bytes())),
        ("sub twice", token::raw(hs256, &twice, SECRET.as_bytes())),
        ("no JSON", token::raw(hs256, "sub=u-1", SECRET.as_bytes())),
        ("cut off", good[..good.len() - 1].to_owned()),
        ("changed", good.replacen('.', ".e", 1)),
        ("expired", token::with(claims.clone(), json!({"exp": token::now() - 60}))),
        ("never expires", token::with(claims.clone(), json!({"exp": null}))),
        ("exp is a text", token::with(claims.clone(), json!({"exp": "9999999999"}))),
        ("not yet", token::with(claims.clone(), json!({"nbf": token::now() + 600}))),
        ("issued later", token::with(claims.clone(), json!({"iat": token::now() + 600}))),
        ("no sub", token::with(claims.clone(), json!({"sub": null}))),
        ("sub is a role's", token::with(claims.clone(), json!({"sub": "role:postgres"}))),
        ("sub is empty", token::with(claims.clone(), json!({"sub": ""}))),
        ("sub is an object", token::with(claims.clone(), json!({"sub": {}}))),
        ("no role", token::with(claims.clone(), json!({"role": null}))),
        ("anon key", token::with(claims.clone(), json!({"sub": null, "role": "anon"}))),
        ("service key", token::with(claims.clone(), json!({"sub": null, "role": "service_role"}))),
        ("a provider's key", "sk-good-0123456789abcdef".to_owned()),
        ("a gateway key of nobody", "agk_0123456789".to_owned()),
        ("a project's key", "sb_secret_0123456789".to_owned()),
        ("nothing", String::new()),
        ("too long", "e".repeat(9000)),
    ] {
        let request = Request::new("POST", "/v1/chat/completions").bearer(&bad);
        // The body never comes: it is not waited for.
        let request = request.header("content-type", "application/json");
        let response = bed.send(&request.header("content-length", "100")).await;
        let told = (response.status, response.code());
        assert_eq!(told, (401, "invalid_api_key".to_owned()), "{why}: {}", response.body);
        assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"), "{why}");
        assert!(!response.body.contains("u-1") && !response.body.contains("postgres"), "{why}");
    }
    // Two that differ.
    let two = chat("u-1", json!({})).header("x-api-key", &token::of("u-2"));
    assert_eq!(bed.send(&two).await.status, 401);
    assert_eq!(upstream.chat_count(), 0);
    assert_eq!(value(&bed.root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "0");
    assert_eq!(bed.send(&chat("u-1", json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_role_must_be_one_that_the_authenticator_may_become_and_a_users() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    bed.root.batch_execute("SELECT aggregator_grant('alice', 'user')").await.unwrap();
    let as_role = |role: &str| {
        let token = token::with(token::claims("u-1"), json!({"role": role}));
        Request::new("POST", "/v1/chat/completions").bearer(&token).json(body(json!({})))
    };
    for role in [
        "postgres",
        // A user, whom the authenticator cannot become.
        "alice",
        // May be become, and was granted nothing.
        "anon",
        "authenticator",
        "aggregator_owner",
        "pg_read_all_data",
        "no_such_role",
        "authenticated ",
        "\"authenticated\"",
        "AUTHENTICATED",
        "authenticated'; DROP TABLE aggregator_usage_logs; --",
    ] {
        let response = bed.send(&as_role(role)).await;
        assert_eq!((response.status, response.code().as_str()), (403, "forbidden"), "{role}");
    }
    assert_eq!(bed.send(&as_role("authenticated")).await.status, 200);
    assert_eq!(upstream.chat_count(), 1);
}

#[tokio::test]
async fn nobody_spends_anothers_keys() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let response = bed.send(&chat("u-2", json!({}))).await;
    assert_eq!((response.status, response.code().as_str()), (404, "no_key"));
    // Whatever the body says of it.
    for more in [json!({"user": "u-1"}), json!({"p_user_id": "u-1"}), json!({"user_id": "u-1"})] {
        assert_eq!(bed.send(&chat("u-2", more)).await.status, 404);
    }
    assert_eq!(upstream.chat_count(), 0);
    user(&bed.database, "u-2").await;
    assert_eq!(bed.send(&chat("u-2", json!({}))).await.status, 200);
    let key = upstream.chats()[0].header("authorization").map(str::to_owned);
    assert_eq!(key.as_deref(), Some("Bearer sk-good-u-2-0123456789"));
    let logged = "SELECT user_id, status FROM aggregator_usage_logs";
    assert_eq!(rows(&bed.root, logged).await, ["u-2|success"]);
}

#[tokio::test]
async fn whoever_has_not_signed_in_spends_no_key_of_the_platforms() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    value(&bed.root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    let anonymous = |user: &str| {
        let token = token::with(token::claims(user), json!({"is_anonymous": true}));
        Request::new("POST", "/v1/chat/completions").bearer(&token).json(body(json!({})))
    };
    assert_eq!(bed.send(&chat("u-3", json!({}))).await.status, 200);
    let response = bed.send(&anonymous("u-3")).await;
    assert_eq!((response.status, response.code().as_str()), (403, "no_user"));
    assert_eq!(bed.send(&anonymous("u-1")).await.status, 200);
    assert_eq!(upstream.chat_count(), 2);
}
