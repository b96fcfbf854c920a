//! Where it listens, and where not.

use super::own::until_logged;
use super::{Bed, Request, cluster, free_port, listen, over_socket, send};
use crate::bed::{PATIENCE, eventually, rows, value};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn health_needs_no_credential_and_gives_no_detail() {
    let bed = Bed::new().await;
    for path in ["/health", "/v1/health", "/healthz?x=1"] {
        let response = bed.get(path).await;
        assert_eq!((response.status, response.body.as_str()), (200, r#"{"status":"ok"}"#));
        assert!(response.header("x-request-id").is_some());
        assert_eq!(response.header("server"), None);
    }
    let ready = bed.get("/ready").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"status":"ready"}"#));
    let head = bed.send(&Request::new("HEAD", "/health")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some("15"));
}

#[tokio::test]
async fn another_path_or_method_is_refused_in_openais_form() {
    let bed = Bed::new().await;
    let response = bed.get("/v1/completions").await;
    assert_eq!((response.status, response.code().as_str()), (404, "unknown_path"));
    let error = &response.json()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["message"], "There is no endpoint GET /v1/completions");
    let response = bed.get("/v1/chat/completions").await;
    assert_eq!((response.status, response.header("allow")), (405, Some("POST")));
    let theirs = Request::new("GET", "/v1/nothing").header("anthropic-version", "2023-06-01");
    let response = bed.send(&theirs).await;
    assert_eq!(response.json()["error"]["type"], "not_found_error");
    assert_eq!(response.json()["request_id"].as_str(), response.header("request-id"));
}

#[tokio::test]
async fn a_browser_is_told_what_pages_may_do_and_pages_of_strangers_may_do_nothing() {
    let bed = Bed::new().await;
    let asks = |origin: &str| {
        Request::new("OPTIONS", "/v1/chat/completions")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-stainless-os,a b")
    };
    let own = bed.send(&asks("https://app.example")).await;
    assert_eq!((own.status, own.body.as_str()), (204, ""));
    assert_eq!(own.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(own.header("access-control-allow-headers"), Some("authorization, x-stainless-os"));
    assert_eq!(own.header("access-control-allow-credentials"), None);
    // Errors are read as well.
    let wrong = bed.send(&Request::new("GET", "/x").header("origin", "https://app.example")).await;
    assert_eq!(wrong.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(wrong.header("access-control-expose-headers").unwrap().contains("x-should-retry"));
    for origin in ["https://evil.example", "null", "https://app.example.evil.example"] {
        let response = bed.send(&asks(origin)).await;
        assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
        assert_eq!(response.header("access-control-allow-headers"), None, "{origin}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_there_for_as_long_as_it_is_wanted() {
    let cluster = cluster().await;
    let database = cluster.database().await;
    let root = database.root().await;
    let path = cluster.dir.join(format!("{}.http", database.name));
    listen(&root, &format!("{}=unix:{}", database.name, path.display())).await;
    value(&root, "SELECT aggregator_start()").await;
    eventually(
        &root,
        "SELECT http_address FROM aggregator_status()",
        &format!("unix:{}", path.display()),
    )
    .await;
    let health = Request::new("GET", "/health").header("host", "any.example");
    assert_eq!(over_socket(&path, &health).await.status, 200);
    // It stays, where one that is not named would have left.
    let pid = value(&root, "SELECT worker_pid FROM aggregator_status()").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(over_socket(&path, &health).await.status, 200);
    assert_eq!(value(&root, "SELECT worker_pid FROM aggregator_status()").await, pid);
    root.batch_execute("DROP EXTENSION aggregator").await.unwrap();
    let began = Instant::now();
    while path.exists() {
        assert!(began.elapsed() < PATIENCE, "the socket is left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_said_and_tried_again() {
    let cluster = cluster().await;
    let database = cluster.database().await;
    let root = database.root().await;
    let port = free_port().await;
    let taken = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    listen(&root, &format!("{}=127.0.0.1:{port}", database.name)).await;
    let status = "SELECT coalesce(http_address, 'none') || ' ' || coalesce(http_error, 'none') FROM aggregator_status()";
    value(&root, "SELECT aggregator_start()").await;
    let in_use = format!("none http://127.0.0.1:{port}: Address already in use (os error 98)");
    eventually(&root, status, &in_use).await;
    drop(taken);
    eventually(&root, status, &format!("http://127.0.0.1:{port} none")).await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let response = send(stream, &Request::new("GET", "/health").bytes(port)).await;
    assert_eq!(response.status, 200);
    // A second database cannot have the same address.
    let other = cluster.database().await;
    let others = other.root().await;
    listen(&others, &format!("{}=127.0.0.1:{port}", other.name)).await;
    value(&others, "SELECT aggregator_start()").await;
    let refused = format!(
        "none http://127.0.0.1:{port} is the address of database '{}' already",
        database.name
    );
    eventually(&others, status, &refused).await;
    until_logged(cluster, &format!("no HTTP requests are taken: {}", &refused[5..])).await;
    // Nor is one that other machines reach.
    let remote = cluster.database().await;
    let root = remote.root().await;
    let port = free_port().await;
    listen(&root, &format!("{}=0.0.0.0:{port}", remote.name)).await;
    value(&root, "SELECT aggregator_start()").await;
    eventually(
        &root,
        "SELECT http_address IS NULL AND http_error LIKE '%needs aggregator.http_allow_remote' FROM aggregator_status()",
        "t",
    )
    .await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn the_settings_are_the_administrators() {
    let bed = Bed::new().await;
    let alice = bed.database.user("alice").await;
    assert_eq!(
        rows(
            &bed.root,
            "SELECT name, context FROM pg_settings
             WHERE (name LIKE 'aggregator.http%' OR name LIKE 'aggregator.jwt%' OR name = 'aggregator.anonymous_users')
               AND context <> 'sighup'"
        )
        .await,
        Vec::<String>::new()
    );
    let start = alice.simple_query("SELECT aggregator_start()").await;
    assert_eq!(start.unwrap_err().code().map(|code| code.code()), Some("42501"));
}
