//! The page for whoever has followed a link below `/console/` that leads to nothing.

use crate::front::reply::{self, Body};
use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Response, StatusCode};

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Not found · aggregator</title>
<link rel="icon" href="{UP}icon.svg">
<link rel="stylesheet" href="{UP}app.css">
<main class="bare-main">
<div class="alone">
<h1>There is no such page</h1>
<p>The address may have been shortened on its way.</p>
<p><a class="button main" href="{UP}">To the console</a></p>
</div>
</main>
</html>
"#;

/// `None`: a page is not what is asked for, or it is not missing.
pub fn page(status: u16, parts: &Parts) -> Option<Response<Body>> {
    let below = parts.uri.path().strip_prefix("/console/")?;
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    if status != 404 || !reads || is_api(below) || !wants_page(parts) {
        return None;
    }
    // As seen from the path itself, so that a proxy may have it elsewhere.
    let up = match below.matches('/').count() {
        0 => "./".to_owned(),
        deep => "../".repeat(deep),
    };
    let mut response = reply::text("text/html; charset=utf-8", PAGE.replace("{UP}", &up));
    *response.status_mut() = StatusCode::NOT_FOUND;
    Some(response)
}

fn is_api(below: &str) -> bool {
    below == "api" || below.starts_with("api/")
}

/// Whether a browser asks, which shows what it gets: scripts and programs do not name HTML.
fn wants_page(parts: &Parts) -> bool {
    let accepted = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|one| one.trim().starts_with("text/html"))
}
