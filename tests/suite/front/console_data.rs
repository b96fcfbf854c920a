//! What the console reads and does: for whom, and nothing else.

use super::calls::{chat, ready};
use super::keys::create;
use super::{Bed, Request, Response, token};
use crate::bed::{eventually, tree, value};
use crate::fixtures::user;
use crate::upstream::{Answer, Upstream};
use serde_json::{Value, json};
use tokio_postgres::types::Type;

/// The statements, each with its method and its parameters.
pub struct Statement {
    pub name: String,
    pub method: String,
    pub parameters: Vec<String>,
    pub sql: String,
}

/// As their files say.
pub fn statements() -> Vec<Statement> {
    let folder = tree("sql/console");
    let mut found: Vec<Statement> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let sql = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let declared = sql.lines().next().unwrap().strip_prefix("-- ").unwrap();
            let (what, parameters) = declared.split_once(": ").unwrap_or((declared, ""));
            let (method, name) = what.split_once(' ').unwrap();
            Statement {
                name: name.to_owned(),
                method: method.to_owned(),
                parameters: parameters.split(", ").map(str::to_owned).collect(),
                sql: sql.clone(),
            }
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(found.len() > 20, "{}", found.len());
    found
}

pub fn get(path: &str) -> Request {
    Request::new("GET", &format!("/console/api/{path}"))
}

pub fn post(name: &str, body: Value) -> Request {
    Request::new("POST", &format!("/console/api/{name}")).json(body.to_string())
}

impl Statement {
    /// A request for it that says nothing more.
    pub fn request(&self) -> Request {
        match self.method.as_str() {
            "GET" => get(&self.name),
            _ => post(&self.name, json!({})),
        }
    }
}

/// Status and code of an answer.
pub fn told(response: &Response) -> (u16, String) {
    (response.status, response.code())
}

async fn asked(bed: &Bed, user: &str, request: Request) -> Response {
    bed.send(&request.bearer(&token::of(user))).await
}

#[tokio::test]
async fn every_statement_takes_one_jsonb_and_gives_one() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let schema = value(
        &root,
        "SELECT quote_ident(nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
         WHERE extname = 'aggregator'",
    )
    .await
    .unwrap();
    root.batch_execute("SET search_path = pg_catalog, pg_temp").await.unwrap();
    for Statement { name, sql, .. } in statements() {
        let prepared =
            root.prepare_typed(&sql.replace("@extschema@", &schema), &[Type::JSONB]).await;
        let prepared = prepared.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(prepared.params(), [Type::JSONB], "{name}");
        let columns: Vec<&Type> = prepared.columns().iter().map(|column| column.type_()).collect();
        assert_eq!(columns, [&Type::JSONB], "{name}");
    }
}

#[tokio::test]
async fn each_report_of_a_page_is_made_once() {
    let database = crate::bed::database().await;
    let root = database.root().await;
    let usage = statements().into_iter().find(|statement| statement.name == "usage").unwrap().sql;
    let usage = usage.replace("@extschema@", "public").replace("$1", "'{}'::jsonb");
    root.batch_execute(&format!("BEGIN; SET LOCAL track_functions = 'all'; {usage}"))
        .await
        .unwrap();
    let calls = "SELECT string_agg(funcname || ' ' || calls, ', ' ORDER BY funcname) FROM pg_stat_xact_user_functions
        WHERE funcname IN ('usage_by_model', 'usage_by_key', 'usage_by_tag')";
    assert_eq!(
        value(&root, calls).await.unwrap(),
        "usage_by_key 1, usage_by_model 1, usage_by_tag 1"
    );
}

#[tokio::test]
async fn nobody_is_told_anything_without_a_credential_that_holds() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let nobodys = token::with(token::claims("u-1"), json!({"role": "postgres"}));
    for (index, statement) in statements().into_iter().enumerate() {
        // A bad one that is shown again and again would have to wait.
        let claims = token::claims(&format!("u-{index}"));
        let expired = token::with(claims.clone(), json!({"exp": token::now() - 3600}));
        let forged = token::signed(&claims, "another-secret-that-is-long-enough-too");
        let key = format!("agk_{index:049}");
        let answered = bed.send(&statement.request()).await;
        assert_eq!(answered.status, 401, "{} {answered:?}", statement.name);
        assert_eq!(answered.json()["error"]["sqlstate"], "PT401");
        for (what, credential, expected) in [
            ("expired", expired.as_str(), 401),
            ("forged", &forged, 401),
            ("of a role that nobody may become", &nobodys, 403),
            ("none", &format!("x{index}"), 401),
            ("no key", &key, 401),
        ] {
            let answered = bed.send(&statement.request().bearer(credential)).await;
            assert_eq!(answered.status, expected, "{} {what}: {answered:?}", statement.name);
        }
    }
    // None of them came as far as a clerk.
    let clerks = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aggregator clerk' AND datname = current_database()";
    assert_eq!(value(&bed.root, clerks).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn two_users_never_see_each_others_rows() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    for name in ["ada-of-one", "ben-of-two"] {
        let client = user(&bed.database, name).await;
        create(&client, &format!("'key of {name}', p_tags => '{{tag of {name}}}'")).await;
        let asking = chat(name, json!({"options": {"tags": [format!("tag of {name}")]}}));
        assert_eq!(bed.send(&asking).await.status, 200);
        let job = Request::new("POST", "/v1/jobs")
            .bearer(&token::of(name))
            .json(super::calls::body(json!({})));
        assert_eq!(bed.send(&job).await.status, 202);
        bed.root
            .batch_execute(&format!(
                "SELECT set_budget(100, p_user_id => '{name}'); SELECT set_rate_limit(1000, p_user_id => '{name}')"
            ))
            .await
            .unwrap();
    }
    eventually(&bed.root, "SELECT count(*) FROM aggregator_jobs WHERE status = 'succeeded'", "2")
        .await;
    let text = async |user: &str, request: Request| {
        let answered = asked(&bed, user, request).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        answered.body
    };
    let ids = async |column: &str, table: &str, user: &str| {
        let sql = format!("SELECT {column} FROM {table} WHERE user_id = '{user}' LIMIT 1");
        value(&bed.root, &sql).await.unwrap()
    };
    for (own, other) in [("ada-of-one", "ben-of-two"), ("ben-of-two", "ada-of-one")] {
        let others = [
            other.to_owned(),
            ids("id", "aggregator_gateway_keys", other).await,
            ids("id", "aggregator_jobs", other).await,
            ids("call_id", "aggregator_usage_logs", other).await,
            ids("id", "aggregator_budgets", other).await,
        ];
        let reads: Vec<Statement> =
            statements().into_iter().filter(|statement| statement.method == "GET").collect();
        let mut said = String::new();
        for statement in &reads {
            if matches!(statement.name.as_str(), "usage-by-user" | "job" | "request") {
                continue;
            }
            said.push_str(&text(own, get(&statement.name)).await);
        }
        assert!(said.contains(own) && said.contains(&format!("key of {own}")), "{said}");
        for others in &others {
            assert!(!said.contains(others.as_str()), "{own} sees {others} in {said}");
        }
        // Whatever they ask for by name.
        let [_, key, job, call, budget] = &others;
        let parameters = [
            ("user_id", other),
            ("id", call),
            ("id", job),
            ("key", key),
            ("tag", &format!("tag+of+{other}")),
            ("provider", "standin"),
        ];
        for statement in &reads {
            for (name, value) in parameters {
                if !statement.parameters.iter().any(|known| known == name) {
                    continue;
                }
                let answered =
                    asked(&bed, own, get(&format!("{}?{name}={value}", statement.name))).await;
                if name == "user_id" {
                    assert!(matches!(answered.status, 200 | 403), "{answered:?}");
                }
                let body = &answered.body;
                assert!(!body.contains(&format!("key of {other}")), "{}: {body}", statement.name);
                // What they asked with may come back, and nothing more of it.
                let echoes = body.matches(other).count();
                assert!(echoes <= 1, "{} {name}: {body}", statement.name);
                assert!(!body.contains("standin") || name != "user_id" || echoes == 0, "{body}");
            }
        }
        for (name, body) in [
            ("revoke-gateway-key", json!({"id": key})),
            ("rotate-gateway-key", json!({"id": key})),
            ("cancel-job", json!({"id": job})),
            ("remove-budget", json!({"id": budget})),
        ] {
            let answered = asked(&bed, own, post(name, body)).await;
            let refused = answered.status >= 400 || answered.body.contains("false");
            assert!(refused, "{name}: {answered:?}");
        }
        let live = format!(
            "SELECT count(*) FROM aggregator_gateway_keys WHERE user_id = '{other}' AND revoked_at IS NULL AND rotated_at IS NULL"
        );
        assert_eq!(value(&bed.root, &live).await.as_deref(), Some("1"));
    }
    let budgets = "SELECT count(*) FROM aggregator_budgets";
    assert_eq!(value(&bed.root, budgets).await.as_deref(), Some("2"));
}

#[tokio::test]
async fn no_parameter_changes_who_asks_or_what_is_run() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let me = async |query: &str| told(&asked(&bed, "u-1", get(&format!("me{query}"))).await);
    let refused = (400, "bad_request".to_owned());
    for query in
        ["?user_id=postgres", "?role=postgres", "?sql=SELECT+1", "?x", "?%00=1", "?user_id=%ff"]
    {
        assert_eq!(me(query).await, refused, "{query}");
    }
    let sent = async |name: &str, body: &str| {
        let request = Request::new("POST", &format!("/console/api/{name}"));
        told(&asked(&bed, "u-1", request.json(body)).await)
    };
    for body in [
        "",
        "null",
        "[]",
        "1",
        r#""x""#,
        "{",
        r#"{"id": {}}"#,
        r#"{"id": [1]}"#,
        r#"{"id": 1e9}"#,
        r#"{"id": "a", "id": "b"}"#,
        r#"{"user_id": "u-2"}"#,
        r#"{"id": "\u0000"}"#,
        r#"{"id": "\ud800"}"#,
        r#"{"id": "x'; DROP TABLE api_providers; --"}"#,
        r#"{"id": true}"#,
    ] {
        assert_eq!(sent("revoke-gateway-key", body).await, refused, "{body}");
    }
    // What is no list is not as good as none, which is a key for every model.
    for body in [
        r#"{"name": "x", "models": "m"}"#,
        r#"{"name": "x", "models": true}"#,
        r#"{"name": "x", "tags": "t"}"#,
    ] {
        assert_eq!(sent("create-gateway-key", body).await, refused, "{body}");
    }
    for query in
        ["before=x", "before=x%7Ey%7Ez", "limit=many", "limit=99999999999999", "key=1%20OR%201=1"]
    {
        let answered = asked(&bed, "u-1", get(&format!("requests?{query}"))).await;
        assert_eq!(told(&answered), refused, "{query}: {answered:?}");
    }
    let large = format!(r#"{{"id": "{}"}}"#, "x".repeat(1 << 20));
    let answered = sent("revoke-gateway-key", &large).await;
    assert_eq!(answered.0, 413, "{answered:?}");
    let form = Request::new("POST", "/console/api/cancel-job")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("content-length", "4");
    assert_eq!(asked(&bed, "u-1", form).await.status, 415);
    // A name is one of the table, in this spelling, and has its method.
    for path in ["", "ME", "me/", "me.sql", "../me", "%6de", "me%00", "check_key", "nothing"] {
        assert_eq!(asked(&bed, "u-1", get(path)).await.status, 404, "{path}");
    }
    for request in
        [post("me", json!({})), get("cancel-job?id=x"), Request::new("DELETE", "/console/api/me")]
    {
        let answered = asked(&bed, "u-1", request).await;
        assert_eq!(answered.status, 405, "{answered:?}");
        assert!(answered.header("allow").is_some());
    }
    for site in ["cross-site", "same-site"] {
        let answered = asked(&bed, "u-1", get("me").header("sec-fetch-site", site)).await;
        assert_eq!(told(&answered), (403, "forbidden".to_owned()), "{site}");
    }
    let mine = asked(&bed, "u-1", get("me").header("sec-fetch-site", "same-origin")).await;
    assert_eq!(mine.status, 200, "{mine:?}");
    let mine = mine.json();
    assert_eq!((&mine["user_id"], &mine["role"]), (&json!("u-1"), &json!("authenticated")));
    assert_eq!((&mine["kind"], &mine["can_write"]), (&json!("token"), &json!(true)));
    assert_eq!(
        value(&bed.root, "SELECT count(*) > 0 FROM api_providers").await.as_deref(),
        Some("t")
    );
}

#[tokio::test]
async fn what_is_for_administrators_is_refused_to_others() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let administrator = token::with(token::claims("root"), json!({"role": "service_role"}));
    for (name, body) in [
        ("set-budget", json!({"limit_usd": "5"})),
        ("set-rate-limit", json!({"requests_per_minute": 5})),
        ("save-platform-key", json!({"provider": "standin", "key": "sk-good-platform-0123456789"})),
        ("remove-platform-key", json!({"provider": "standin"})),
        ("sync", json!({"provider": "standin"})),
    ] {
        let answered = asked(&bed, "u-1", post(name, body.clone())).await;
        assert_eq!(answered.status, 403, "{name}: {answered:?}");
        assert!(!answered.body.contains("sk-good"), "{answered:?}");
        let answered = bed.send(&post(name, body).bearer(&administrator)).await;
        assert_eq!(answered.status, 200, "{name}: {answered:?}");
    }
    assert_eq!(asked(&bed, "u-1", get("usage-by-user")).await.status, 403);
    let all = bed.send(&get("usage-by-user").bearer(&administrator)).await;
    assert_eq!(all.status, 200, "{all:?}");
}

#[tokio::test]
async fn an_error_says_what_it_is_and_what_to_do() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let bed = ready(&upstream).await;
    let refused = asked(
        &bed,
        "u-1",
        post("save-key", json!({"provider": "standin", "key": "sk-bad-0123456789abcdefgh"})),
    )
    .await;
    // 401 would say that the caller's own credential is none.
    assert_eq!(told(&refused), (424, "key_refused".to_owned()));
    let error = &refused.json()["error"];
    assert_eq!(error["sqlstate"], "PT401");
    assert!(error["message"].as_str().unwrap().contains("Incorrect API key"), "{error}");
    assert!(!refused.body.contains("sk-bad"), "{error}");
    let unknown =
        asked(&bed, "u-1", post("check-key", json!({"provider": "nobody", "key": "sk-x"}))).await;
    assert_eq!(told(&unknown), (404, "unknown_provider".to_owned()));
    assert!(unknown.json()["error"]["hint"].is_string());
    let good = asked(&bed, "u-1", post("check-key", json!({"provider": "standin"}))).await;
    assert_eq!(good.status, 200, "{good:?}");
    assert_eq!(good.json()["status"], "valid");
    // No key is in the server's log, whatever becomes of it.
    let log = bed.database.cluster.log();
    assert!(!log.contains("sk-bad-0123456789") && !log.contains("sk-good-u-1"), "a key is logged");
}
