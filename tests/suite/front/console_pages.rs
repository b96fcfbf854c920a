//! The pages of the console, as a browser gets them.

use super::own::{Own, until_status};
use super::{Bed, Request};
use crate::bed::{eventually, failure, tree, value};

/// What stands on every answer below `/console`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'";
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];

fn file(name: &str) -> String {
    let folder = tree("console");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn every_answer_has_the_strict_headers_and_none_is_for_another_origin() {
    let bed = Bed::new().await;
    let names = std::fs::read_dir(tree("console")).unwrap();
    let mut paths: Vec<(String, u16)> = names
        .map(|entry| (format!("/console/{}", entry.unwrap().file_name().display()), 200))
        .collect();
    assert!(paths.len() > 5, "{paths:?}");
    for (path, status) in [
        ("/console", 308),
        ("/console/", 200),
        ("/console/nothing.js", 404),
        ("/console/../console/", 404),
        ("/console/%61pp.js", 404),
        ("/console/api", 404),
        ("/console/api/me", 401),
        ("/console/api/nothing", 401),
        ("/console/api/session", 405),
        ("/console/api/ME", 404),
    ] {
        paths.push((path.to_owned(), status));
    }
    for (path, status) in &paths {
        // The origin is one of those that may call the endpoint itself.
        let asking = Request::new("GET", path).header("origin", "https://app.example");
        let answered = bed.send(&asking).await;
        assert_eq!(answered.status, *status, "{path} {answered:?}");
        for (name, expected) in HEADERS {
            assert_eq!(answered.header(name), Some(expected), "{name} of {path}");
        }
        for name in ["access-control-allow-origin", "access-control-expose-headers", "vary"] {
            assert_eq!(answered.header(name), None, "{name} of {path}");
        }
        let cached = if path.contains("/api/") || *status == 404 { "no-store" } else { "no-cache" };
        assert_eq!(answered.header("cache-control"), Some(cached), "{path}");
        let before = Request::new("OPTIONS", path)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET");
        let answered = bed.send(&before).await;
        assert!((400..500).contains(&answered.status), "{path} {answered:?}");
        assert_eq!(answered.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(answered.header("access-control-allow-methods"), None, "{path}");
    }
    // What is not the console's is for that origin as before.
    let models = Request::new("GET", "/v1/models").header("origin", "https://app.example");
    let answered = bed.send(&models).await;
    assert_eq!(answered.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(answered.header("content-security-policy"), None);
}

#[tokio::test]
async fn a_file_is_sent_whole_and_not_again_to_whoever_has_it() {
    let bed = Bed::new().await;
    for (path, name, kind) in [
        ("/console/", "index.html", "text/html; charset=utf-8"),
        ("/console/index.html", "index.html", "text/html; charset=utf-8"),
        ("/console/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/console/app.css", "app.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "icon.svg", "image/svg+xml"),
    ] {
        let answered = bed.get(path).await;
        assert_eq!(answered.body, file(name), "{path}");
        assert_eq!(answered.header("content-type"), Some(kind));
        let length = file(name).len().to_string();
        assert_eq!(answered.header("content-length"), Some(length.as_str()));
        let tag = answered.header("etag").unwrap().to_owned();
        let again = bed.send(&Request::new("GET", path).header("if-none-match", &tag)).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{again:?}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
        let other = Request::new("GET", path).header("if-none-match", "\"another\"");
        assert_eq!(bed.send(&other).await.body, file(name));
        let head = bed.send(&Request::new("HEAD", path)).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
        assert_eq!(head.header("content-length"), Some(length.as_str()));
        assert_eq!(head.header("etag"), Some(tag.as_str()));
        for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
            let answered = bed.send(&Request::new(method, path)).await;
            assert_eq!((answered.status, answered.header("allow")), (405, Some("GET, HEAD")));
        }
    }
    let answered = bed.get("/console").await;
    assert_eq!((answered.status, answered.header("location")), (308, Some("console/")));
    // A query is none of its business, and a Host of a stranger is.
    assert_eq!(bed.get("/console/?x=1").await.status, 200);
    let rebound = Request::new("GET", "/console/").header("host", "evil.example");
    assert_eq!(bed.send(&rebound).await.status, 421);
}

#[tokio::test]
async fn nothing_of_a_page_is_anybody_elses() {
    let bed = Bed::new().await;
    let page = bed.get("/console/").await.body;
    // What the policy would not run is not there.
    for inline in ["style=", "onclick", "onload", "javascript:", "<style", "http://", "https://"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for script in page.split("<script").skip(1) {
        assert!(script.contains(" src=\""), "{script}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_page_for_a_browser_and_json_for_others() {
    let bed = Bed::new().await;
    for (path, up) in [
        ("/console/nosuch", "./"),
        ("/console/nosuch.js", "./"),
        ("/console/no/such", "../"),
        ("/console/a/b/", "../../"),
        ("/console/%2e%2e/", "../"),
    ] {
        let request = Request::new("GET", path).header("accept", "text/html,*/*;q=0.8");
        let answered = bed.send(&request).await;
        let kind = answered.header("content-type");
        assert_eq!((answered.status, kind), (404, Some("text/html; charset=utf-8")), "{path}");
        assert!(answered.body.contains(&format!("href=\"{up}app.css\"")), "{answered:?}");
        assert!(!answered.body.contains("nosuch"), "{answered:?}");
        assert_eq!(answered.header("content-security-policy"), Some(POLICY));
        assert_eq!(answered.header("cache-control"), Some("no-store"));
    }
    // Whoever asks for data is told in the form of the console's own.
    for (method, path, accept) in [
        ("GET", "/console/nosuch", "*/*"),
        ("GET", "/console/api/nosuch/x", "text/html"),
        ("GET", "/console/api", "text/html"),
        ("GET", "/console/api/", "text/html"),
    ] {
        let answered = bed.send(&Request::new(method, path).header("accept", accept)).await;
        assert_eq!((answered.status, answered.code().as_str()), (404, "unknown_path"), "{path}");
        assert_eq!(answered.json()["error"]["sqlstate"], "PT404", "{answered:?}");
    }
}

#[tokio::test]
async fn switched_off_it_is_not_there() {
    let own = Own::start("console_off", "aggregator.console = off").await;
    let address = format!("http://127.0.0.1:{}", own.port);
    let refused = failure(&own.root, "SELECT console_url()").await;
    assert_eq!(refused.0, "PT503");
    assert!(refused.1.contains("aggregator.console = on"), "{refused:?}");
    let get = async |path: &str| own.send(&Request::new("GET", path)).await;
    for path in
        ["/console", "/console/", "/console/app.js", "/console/api/me", "/console/api/session"]
    {
        let answered = get(path).await;
        assert_eq!((answered.status, answered.code().as_str()), (404, "unknown_path"), "{path}");
        assert_eq!(answered.header("content-security-policy"), Some(POLICY));
    }
    assert_eq!(get("/health").await.status, 200);
    // From the reload on.
    let set = async |lines: &str, sql: &str, expected: &str| {
        own.set(lines);
        eventually(&own.root, sql, expected).await;
    };
    set("aggregator.console = on", "SHOW aggregator.console", "on").await;
    until_status(own.port, &Request::new("GET", "/console/"), 200).await;
    let url = value(&own.root, "SELECT console_url()").await.unwrap();
    assert!(url.starts_with(&format!("{address}/console/#code=agc_")), "{url}");
    let base = "SHOW aggregator.console_base_url";
    let elsewhere = "https://llm.example.org";
    set(&format!("aggregator.console_base_url = '{elsewhere}'"), base, elsewhere).await;
    let url = value(&own.root, "SELECT console_url()").await.unwrap();
    assert!(url.starts_with(&format!("{elsewhere}/console/#code=agc_")), "{url}");
    set("aggregator.console_base_url = 'llm.example.org'", base, "llm.example.org").await;
    assert_eq!(failure(&own.root, "SELECT console_url()").await.0, "PT503");
    // A database that is not reached over HTTP has no link, and is told what to set.
    own.root.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    let root = own.cluster.connect("postgres", "elsewhere").await;
    root.batch_execute("CREATE EXTENSION aggregator").await.unwrap();
    let refused = failure(&root, "SELECT console_url()").await;
    assert_eq!(refused.0, "PT503");
    assert!(refused.1.contains("aggregator.http_listen"), "{refused:?}");
}
