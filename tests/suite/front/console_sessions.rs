//! Signing in to the console: links, codes, tokens, and who is kept out.

use super::calls::{body, ready};
use super::console_data::{get, post, told};
use super::keys::create;
use super::{Bed, Request, Response, send, token};
use crate::bed::{eventually, failure, rows, value};
use crate::fixtures::user;
use crate::upstream::{Answer, Upstream};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// The code of a link that this session is given.
pub async fn code(client: &Client) -> String {
    let url = value(client, "SELECT console_url()").await.unwrap();
    url.split_once("/console/#code=").expect("a link").1.to_owned()
}

async fn exchange(bed: &Bed, code: &str) -> Response {
    bed.send(&post("session", json!({ "code": code }))).await
}

/// Signs somebody in.
pub async fn sign_in(bed: &Bed, client: &Client) -> String {
    let answered = exchange(bed, &code(client).await).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    answered.json()["token"].as_str().unwrap().to_owned()
}

fn refused() -> (u16, String) {
    (401, "invalid_api_key".to_owned())
}

async fn me(bed: &Bed, credential: &str) -> Response {
    bed.send(&get("me").bearer(credential)).await
}

fn chat(credential: &str) -> Request {
    Request::new("POST", "/v1/chat/completions").bearer(credential).json(body(json!({})))
}

async fn bed() -> Bed {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    ready(&upstream).await
}

#[tokio::test]
async fn a_link_signs_in_once_as_its_user_and_role() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let url = value(&ann, "SELECT console_url()").await.unwrap();
    let (base, code) = url.split_once("/console/#code=").unwrap();
    assert_eq!(base, format!("http://127.0.0.1:{}", bed.port));
    assert!(code.starts_with("agc_") && code.len() == 53, "{code}");
    let answered = exchange(&bed, code).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    assert_eq!(answered.header("cache-control"), Some("no-store"));
    let made = answered.json();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("ags_") && token.len() == 53, "{made}");
    let left = format!(
        "SELECT '{}'::timestamptz - now() BETWEEN '11:59' AND '12:00:01'",
        made["expires_at"].as_str().unwrap()
    );
    assert_eq!(value(&bed.root, &left).await.as_deref(), Some("t"));
    // It is good for one.
    assert_eq!(told(&exchange(&bed, code).await), refused());
    let known = me(&bed, token).await.json();
    for (name, expected) in [
        ("user_id", json!("ann")),
        ("role", json!("authenticated")),
        ("kind", json!("session")),
        ("is_admin", json!(false)),
        ("is_anonymous", json!(false)),
        ("can_write", json!(true)),
        ("expires_at", made["expires_at"].clone()),
    ] {
        assert_eq!(known[name], expected, "{name} of {known}");
    }
    // The playground chats with it, and it may write.
    let answered = bed.send(&chat(token)).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    let logged = "SELECT user_id, gateway_key_id FROM aggregator_usage_logs";
    assert_eq!(rows(&bed.root, logged).await, ["ann|∅"]);
    let made = bed.send(&post("create-gateway-key", json!({"name": "mine"})).bearer(token)).await;
    assert_eq!(made.status, 200, "{made:?}");
    // A key that is made there is its owner's by the role of the session.
    let owner = "SELECT user_id, role FROM aggregator_gateway_keys";
    assert_eq!(rows(&bed.root, owner).await, ["ann|authenticated"]);
    // Nothing but hashes is kept.
    let kept = "SELECT s::text FROM aggregator_console_sessions AS s";
    let kept = value(&bed.root, kept).await.unwrap();
    assert!(!kept.contains(&token[4..]) && !kept.contains(&code[4..]), "{kept}");
    let hashed = format!(
        "SELECT code_hash = sha256('{code}') AND token_hash = sha256('{token}') FROM aggregator_console_sessions"
    );
    assert_eq!(value(&bed.root, &hashed).await.as_deref(), Some("t"));
}

#[tokio::test]
async fn of_two_who_show_a_code_one_is_signed_in() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    for _ in 0..5 {
        let code = code(&ann).await;
        let bytes = post("session", json!({ "code": code })).bytes(bed.port);
        let mut racing = JoinSet::new();
        for _ in 0..8 {
            let (stream, bytes) = (bed.connect().await, bytes.clone());
            racing.spawn(async move { send(stream, &bytes).await });
        }
        let answers = racing.join_all().await;
        let won = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(won, 1, "{answers:?}");
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 401)), "{answers:?}");
    }
}

#[tokio::test]
async fn no_code_passes_that_is_old_uncommitted_revoked_or_none() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    // In a transaction that is not over, or came to nothing.
    ann.batch_execute("BEGIN").await.unwrap();
    let early = code(&ann).await;
    assert_eq!(told(&exchange(&bed, &early).await), refused());
    ann.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(told(&exchange(&bed, &early).await), refused());
    let old = code(&ann).await;
    let lasts = "SELECT code_expires_at - created_at <= '60 s' FROM aggregator_console_sessions";
    assert_eq!(value(&bed.root, lasts).await.as_deref(), Some("t"));
    bed.root
        .batch_execute("UPDATE aggregator_console_sessions SET code_expires_at = now()")
        .await
        .unwrap();
    assert_eq!(told(&exchange(&bed, &old).await), refused());
    let revoked = code(&ann).await;
    assert_eq!(value(&ann, "SELECT revoke_console_sessions()").await.as_deref(), Some("1"));
    assert_eq!(told(&exchange(&bed, &revoked).await), refused());
    // What is no code, and a token is none.
    let token = sign_in(&bed, &ann).await;
    let other = code(&ann).await;
    for text in ["", "agc_", "x", &other[..52], &other.to_uppercase(), &token, "agc_é\0"] {
        assert_eq!(told(&exchange(&bed, text).await), refused(), "{text}");
    }
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "\"x\"",
        "{\"code\":1}",
        "{\"code\":null}",
        "{\"code\":\"x\",\"user_id\":\"ben\"}",
    ] {
        let asking = Request::new("POST", "/console/api/session").json(body);
        let answered = bed.send(&asking).await;
        assert_eq!(answered.status, 400, "{body} {answered:?}");
    }
    let long = post("session", json!({"code": "x".repeat(2000)}));
    assert_eq!(bed.send(&long).await.status, 413);
    let form = Request::new("POST", "/console/api/session")
        .header("content-type", "text/plain")
        .header("content-length", "0");
    assert_eq!(bed.send(&form).await.status, 415);
    assert_eq!(bed.send(&get("session")).await.header("allow"), Some("POST, DELETE"));
    // A page of another site asks for nothing, and the code is good still.
    for site in ["cross-site", "same-site"] {
        let foreign = post("session", json!({ "code": other })).header("sec-fetch-site", site);
        assert_eq!(bed.send(&foreign).await.status, 403);
    }
    let own = post("session", json!({ "code": other })).header("sec-fetch-site", "same-origin");
    assert_eq!(bed.send(&own).await.status, 200);
}

#[tokio::test]
async fn a_session_that_is_ended_or_over_passes_nothing() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let ben = user(&bed.database, "ben").await;
    let tokens = [sign_in(&bed, &ann).await, sign_in(&bed, &ann).await, sign_in(&bed, &ann).await];
    let bens = sign_in(&bed, &ben).await;
    let dead = async |token: &str| {
        assert_eq!(told(&me(&bed, token).await), refused());
        assert_eq!(told(&bed.send(&chat(token)).await), refused());
    };
    let alive = async |token: &str| {
        assert_eq!(me(&bed, token).await.status, 200);
        assert_eq!(bed.send(&chat(token)).await.status, 200);
    };
    for token in tokens.iter().chain([&bens]) {
        alive(token).await;
    }
    // Given back.
    let back = Request::new("DELETE", "/console/api/session").bearer(&tokens[0]);
    let answered = bed.send(&back).await;
    assert_eq!((answered.status, answered.body.as_str()), (204, ""));
    dead(&tokens[0]).await;
    assert_eq!(told(&bed.send(&back).await), refused());
    alive(&tokens[1]).await;
    // Over.
    bed.root
        .batch_execute(&format!(
            "UPDATE aggregator_console_sessions SET expires_at = now() WHERE token_hash = sha256('{}')",
            tokens[1]
        ))
        .await
        .unwrap();
    dead(&tokens[1]).await;
    // Ended by its user: once that is committed, and not before.
    ann.batch_execute("BEGIN").await.unwrap();
    assert_eq!(value(&ann, "SELECT revoke_console_sessions()").await.as_deref(), Some("1"));
    alive(&tokens[2]).await;
    // Meanwhile nobody waits for that transaction.
    let back = Request::new("DELETE", "/console/api/session").bearer(&tokens[2]);
    assert_eq!(told(&bed.send(&back).await), (409, "locked".to_owned()));
    alive(&bens).await;
    ann.batch_execute("COMMIT").await.unwrap();
    dead(&tokens[2]).await;
    // Others end none of them, and administrators all.
    let refused = failure(&ann, "SELECT revoke_console_sessions('ben')").await;
    assert_eq!(refused.0, "PT403");
    alive(&bens).await;
    assert_eq!(
        value(&bed.root, "SELECT revoke_console_sessions('ben')").await.as_deref(),
        Some("1")
    );
    dead(&bens).await;
    // What is no session has none to end.
    let (_, key) = create(&ann, "'x'").await;
    for credential in [token::of("ann"), key] {
        let back = Request::new("DELETE", "/console/api/session").bearer(&credential);
        assert_eq!(bed.send(&back).await.status, 400);
    }
    let nobodys = bed.send(&Request::new("DELETE", "/console/api/session")).await;
    assert_eq!(nobodys.status, 401);
}

#[tokio::test]
async fn a_session_has_the_rights_that_its_role_has_now() {
    let bed = bed().await;
    bed.root
        .batch_execute(
            "CREATE ROLE console_visitor LOGIN; CREATE ROLE console_boss LOGIN;
             SELECT aggregator_grant('console_visitor', 'user'), aggregator_grant('console_boss', 'admin')",
        )
        .await
        .unwrap();
    let visitor = bed.database.user("console_visitor").await;
    let boss = bed.database.user("console_boss").await;
    let (token, boss_token) = (sign_in(&bed, &visitor).await, sign_in(&bed, &boss).await);
    let known = me(&bed, &token).await.json();
    assert_eq!(
        (&known["user_id"], &known["role"]),
        (&json!("role:console_visitor"), &json!("console_visitor"))
    );
    assert_eq!(me(&bed, &boss_token).await.json()["is_admin"], json!(true));
    assert_eq!(bed.send(&get("users").bearer(&boss_token)).await.status, 200);
    // A user is told of nobody else.
    let own = bed.send(&get("users").bearer(&token)).await;
    assert_eq!((own.status, own.json()), (200, json!({"users": []})));
    // Whoever is no administrator any more is none at once.
    bed.root.batch_execute("SELECT aggregator_revoke('console_boss', 'admin')").await.unwrap();
    let answered = me(&bed, &boss_token).await;
    assert_eq!(answered.status, 403, "{answered:?}");
    bed.root.batch_execute("SELECT aggregator_grant('console_boss', 'user')").await.unwrap();
    assert_eq!(me(&bed, &boss_token).await.json()["is_admin"], json!(false));
    let own = bed.send(&get("users").bearer(&boss_token)).await;
    assert_eq!((own.status, own.json()), (200, json!({"users": []})));
    // And nobody at all.
    bed.root.batch_execute("SELECT aggregator_revoke('console_visitor', 'user')").await.unwrap();
    assert_eq!(me(&bed, &token).await.status, 403);
    assert_eq!(bed.send(&chat(&token)).await.status, 403);
    let url = failure(&visitor, "SELECT console_url()").await;
    assert_eq!(url.0, "42501");
    // A role that gets the name of another is not it.
    drop((visitor, boss));
    eventually(
        &bed.root,
        "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('console_visitor', 'console_boss')",
        "0",
    )
    .await;
    bed.root
        .batch_execute(
            "SELECT aggregator_revoke('console_boss', 'user'); DROP ROLE console_boss; CREATE ROLE console_boss LOGIN;
             SELECT aggregator_grant('console_boss', 'user')",
        )
        .await
        .unwrap();
    assert_eq!(told(&me(&bed, &boss_token).await), refused());
    bed.root
        .batch_execute(
            "SELECT aggregator_revoke('console_boss', 'user'); DROP ROLE console_boss; DROP ROLE console_visitor",
        )
        .await
        .unwrap();
    assert_eq!(told(&me(&bed, &token).await), refused());
}

#[tokio::test]
async fn a_session_lasts_while_its_login_may_log_in_and_become_its_role() {
    let bed = bed().await;
    bed.root
        .batch_execute(
            "CREATE ROLE console_login LOGIN; CREATE ROLE console_hat NOLOGIN; GRANT console_hat TO console_login;
             SELECT aggregator_grant('console_login', 'user'), aggregator_grant('console_hat', 'user')",
        )
        .await
        .unwrap();
    let login = bed.database.user("console_login").await;
    let plain = sign_in(&bed, &login).await;
    let (_, plain_key) = create(&login, "'plain'").await;
    login.batch_execute("SET ROLE console_hat").await.unwrap();
    let hatted = sign_in(&bed, &login).await;
    let (_, hatted_key) = create(&login, "'hatted'").await;
    // A superuser may become anything, and what they opened so is theirs.
    bed.root.batch_execute("SET ROLE console_hat").await.unwrap();
    let of_root = sign_in(&bed, &bed.root).await;
    bed.root.batch_execute("RESET ROLE").await.unwrap();
    let statuses = async || {
        let mut statuses = Vec::new();
        for credential in [&plain, &plain_key, &hatted, &hatted_key, &of_root] {
            statuses.push(me(&bed, credential).await.status);
        }
        statuses
    };
    assert_eq!(statuses().await, [200; 5]);
    for (off, on, expected) in [
        (
            "ALTER ROLE console_login NOLOGIN",
            "ALTER ROLE console_login LOGIN",
            [401, 401, 401, 401, 200],
        ),
        (
            "REVOKE console_hat FROM console_login",
            "GRANT console_hat TO console_login",
            [200, 200, 401, 401, 200],
        ),
    ] {
        bed.root.batch_execute(off).await.unwrap();
        assert_eq!(statuses().await, expected, "{off}");
        // Nor does it chat.
        assert_eq!(bed.send(&chat(&hatted)).await.status, 401, "{off}");
        bed.root.batch_execute(on).await.unwrap();
        assert_eq!(statuses().await, [200; 5], "{on}");
    }
    // A link that nobody has opened yet is good for nothing more than the session would be.
    let unopened = code(&login).await;
    bed.root.batch_execute("REVOKE console_hat FROM console_login").await.unwrap();
    assert_eq!(told(&exchange(&bed, &unopened).await), refused());
    drop(login);
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'console_login'";
    eventually(&bed.root, gone, "0").await;
    bed.root
        .batch_execute("SELECT aggregator_revoke('console_login', 'user'); DROP ROLE console_login")
        .await
        .unwrap();
    assert_eq!(statuses().await, [401, 401, 401, 401, 200]);
    bed.root
        .batch_execute("SELECT aggregator_revoke('console_hat', 'user'); DROP ROLE console_hat")
        .await
        .unwrap();
    assert_eq!(statuses().await, [401; 5]);
}

#[tokio::test]
async fn nobody_gets_a_link_as_somebody_else() {
    let bed = bed().await;
    bed.root
        .batch_execute(
            "CREATE ROLE plain_one LOGIN; SELECT aggregator_grant('plain_one', 'user');
             CREATE FUNCTION public.as_root() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT public.console_url()';
             GRANT EXECUTE ON FUNCTION public.as_root() TO plain_one, authenticated",
        )
        .await
        .unwrap();
    // Claims of a login that nobody believes, and a function that runs as a superuser.
    let plain = bed.database.user("plain_one").await;
    plain
        .batch_execute(r#"SET request.jwt.claims = '{"sub":"ann","role":"service_role"}'"#)
        .await
        .unwrap();
    for sql in ["SELECT console_url()", "SELECT public.as_root()"] {
        let url = value(&plain, sql).await.unwrap();
        let answered = exchange(&bed, url.split_once("#code=").unwrap().1).await;
        let known = me(&bed, answered.json()["token"].as_str().unwrap()).await.json();
        assert_eq!(known["user_id"], json!("role:plain_one"), "{sql}");
        assert_eq!((&known["role"], &known["is_admin"]), (&json!("plain_one"), &json!(false)));
    }
    // Without a user id, a right, or on what is none of a base.
    let nobody = bed.database.rest("authenticated", None).await;
    assert_eq!(failure(&nobody, "SELECT console_url()").await.0, "PT403");
    let anon = bed.database.rest("anon", None).await;
    assert_eq!(failure(&anon, "SELECT console_url()").await.0, "42501");
    let ann = user(&bed.database, "ann").await;
    for base in ["javascript:alert(1)", "//evil", "https://a b", "", "https://u@a", "https://a?b"] {
        let refused = failure(&ann, &format!("SELECT console_url('{base}')")).await;
        assert_eq!(refused.0, "PT400", "{base}");
    }
    let url = value(&ann, "SELECT console_url('https://llm.example.org/x/')").await.unwrap();
    assert!(url.starts_with("https://llm.example.org/x/console/#code=agc_"), "{url}");
    // Nobody reads the hashes, sees the sessions of others or writes any.
    let seen = "SELECT DISTINCT user_id FROM aggregator_console_sessions";
    assert_eq!(rows(&ann, seen).await, ["ann"]);
    let all = "SELECT count(DISTINCT user_id) FROM aggregator_console_sessions";
    assert_eq!(value(&bed.root, all).await.as_deref(), Some("2"));
    for sql in [
        "SELECT code_hash FROM aggregator_console_sessions",
        "SELECT token_hash FROM aggregator_console_sessions",
        "SELECT * FROM aggregator_console_sessions",
        "UPDATE aggregator_console_sessions SET user_id = 'ben'",
        "DELETE FROM aggregator_console_sessions",
        "INSERT INTO aggregator_console_sessions (user_id, role, role_oid, is_anonymous, code_hash, code_expires_at)
         VALUES ('ben', 'authenticated', 'authenticated'::regrole, false, sha256('x'), now())",
        "SELECT id FROM aggregator_console_sessions FOR UPDATE",
        "SELECT aggregator_store_console_code('ben', 10, 10, false, sha256('x'), '1 min', 100)",
    ] {
        assert_eq!(failure(&ann, sql).await.0, "42501", "{sql}");
    }
}

#[tokio::test]
async fn sessions_are_bounded_and_a_forgotten_user_has_none() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let token = sign_in(&bed, &ann).await;
    rows(&ann, "SELECT console_url() FROM generate_series(1, 120)").await;
    let count = "SELECT count(*) FROM aggregator_console_sessions WHERE user_id = 'ann'";
    assert_eq!(value(&bed.root, count).await.as_deref(), Some("100"));
    // The oldest has made room.
    assert_eq!(told(&me(&bed, &token).await), refused());
    // Those that are over go before those that are not.
    let token = sign_in(&bed, &ann).await;
    bed.root
        .batch_execute(
            "UPDATE aggregator_console_sessions SET code_expires_at = now() WHERE token_hash IS NULL;
             UPDATE aggregator_console_sessions SET created_at = created_at - interval '1 hour' WHERE token_hash IS NOT NULL",
        )
        .await
        .unwrap();
    rows(&ann, "SELECT console_url() FROM generate_series(1, 50)").await;
    assert_eq!(me(&bed, &token).await.status, 200);
    let (ben, code) = (user(&bed.database, "ben").await, code(&ann).await);
    let bens = sign_in(&bed, &ben).await;
    value(&bed.root, "SELECT forget_user('ann')").await;
    assert_eq!(told(&me(&bed, &token).await), refused());
    assert_eq!(told(&exchange(&bed, &code).await), refused());
    assert_eq!(value(&bed.root, count).await.as_deref(), Some("0"));
    assert_eq!(me(&bed, &bens).await.status, 200);
}

#[tokio::test]
async fn what_is_long_over_is_swept() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let token = sign_in(&bed, &ann).await;
    code(&ann).await;
    sign_in(&bed, &ann).await;
    bed.root
        .batch_execute(&format!(
            "UPDATE aggregator_console_sessions
             SET code_expires_at = now() - interval '2 days', expires_at = expires_at - interval '2 days'
             WHERE token_hash IS DISTINCT FROM sha256('{token}')"
        ))
        .await
        .unwrap();
    // With the next sign-in of anybody, which waits for nobody who holds a row.
    bed.root
        .batch_execute(
            "BEGIN; SELECT FROM aggregator_console_sessions WHERE token_hash IS NULL FOR UPDATE",
        )
        .await
        .unwrap();
    let ben = user(&bed.database, "ben").await;
    sign_in(&bed, &ben).await;
    bed.root.batch_execute("COMMIT").await.unwrap();
    let count = "SELECT count(*) FROM aggregator_console_sessions";
    assert_eq!(value(&bed.root, count).await.as_deref(), Some("3"));
    sign_in(&bed, &ben).await;
    let left = format!(
        "SELECT user_id, token_hash = sha256('{token}') FROM aggregator_console_sessions ORDER BY user_id"
    );
    assert_eq!(rows(&bed.root, &left).await, ["ann|t", "ben|f", "ben|f"]);
    assert_eq!(me(&bed, &token).await.status, 200);
}

#[tokio::test]
async fn an_anonymous_user_is_one_in_the_console_too() {
    let bed = bed().await;
    let anonymous = bed.database.rest("authenticated", None).await;
    anonymous
        .batch_execute(
            r#"SET request.jwt.claims = '{"sub":"guest","role":"authenticated","is_anonymous":true}'"#,
        )
        .await
        .unwrap();
    value(&bed.root, "SELECT save_platform_key('standin', 'sk-good-platform-0123456789')").await;
    let token = sign_in(&bed, &anonymous).await;
    assert_eq!(me(&bed, &token).await.json()["is_anonymous"], json!(true));
    // As over HTTP: with keys of their own, and they have none; and no gateway keys.
    assert_eq!(told(&bed.send(&chat(&token)).await), (403, "no_user".to_owned()));
    let making = post("create-gateway-key", json!({"name": "x"})).bearer(&token);
    assert_eq!(bed.send(&making).await.status, 403);
}

#[tokio::test]
async fn a_gateway_key_looks_as_its_owner_and_changes_nothing() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let (id, key) = create(&ann, "'agent'").await;
    let known = me(&bed, &key).await;
    assert_eq!(known.status, 200, "{known:?}");
    let known = known.json();
    assert_eq!((&known["user_id"], &known["role"]), (&json!("ann"), &json!("authenticated")));
    assert_eq!((&known["kind"], &known["can_write"]), (&json!("gateway_key"), &json!(false)));
    let seen = bed.send(&get("gateway-keys").bearer(&key)).await;
    assert!(seen.status == 200 && seen.body.contains(&id), "{seen:?}");
    for (name, body) in [
        ("create-gateway-key", json!({"name": "more"})),
        ("rotate-gateway-key", json!({ "id": id })),
        ("revoke-gateway-key", json!({ "id": id })),
        ("save-key", json!({"provider": "standin", "key": "sk-good-other-0123456789"})),
    ] {
        let answered = bed.send(&post(name, body).bearer(&key)).await;
        assert_eq!(answered.status, 403, "{name} {answered:?}");
    }
    // One that an administrator has made, for another user or for themselves.
    let (_, theirs) = create(&bed.root, "'x', p_user_id => 'ann'").await;
    let (_, own) = create(&bed.root, "'x'").await;
    bed.root
        .batch_execute("UPDATE aggregator_gateway_keys SET role = NULL WHERE name = 'none'")
        .await
        .unwrap();
    for key in [theirs, own] {
        let answered = me(&bed, &key).await;
        assert_eq!(answered.status, 403, "{answered:?}");
        assert!(answered.body.contains("console_url()"), "{answered:?}");
    }
    let made = "SELECT user_id, role FROM aggregator_gateway_keys ORDER BY created_at";
    assert_eq!(
        rows(&bed.root, made).await,
        ["ann|authenticated", "ann|∅", "role:postgres|postgres"]
    );
    // Revoked, it opens nothing.
    value(&ann, &format!("SELECT revoke_gateway_key('{id}')")).await;
    assert_eq!(told(&me(&bed, &key).await), refused());
}

#[tokio::test]
async fn strangers_who_guess_codes_and_tokens_wait() {
    let bed = bed().await;
    let ann = user(&bed.database, "ann").await;
    let token = sign_in(&bed, &ann).await;
    let code = code(&ann).await;
    // One bad credential, shown again and again, has to wait; what is good passes.
    let last = code.chars().last().unwrap();
    let guess = format!("{}{}", &code[..52], if last == '0' { '1' } else { '0' });
    assert_eq!(told(&exchange(&bed, &guess).await), refused());
    value(&ann, "SELECT revoke_console_sessions()").await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(me(&bed, &token).await.status);
    }
    assert!(statuses.starts_with(&[401; 20]) && statuses.contains(&429), "{statuses:?}");
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(exchange(&bed, &code).await.status);
    }
    assert!(statuses.starts_with(&[401; 20]) && statuses.contains(&429), "{statuses:?}");
    let fresh = sign_in(&bed, &ann).await;
    assert_eq!(me(&bed, &fresh).await.status, 200);
}
