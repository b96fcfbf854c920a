//! The console: its pages, and what they ask for.

mod api;
mod caller;
mod missing;
mod pages;
mod sessions;

use crate::core::front::console::origins;
use crate::core::front::console::told::Told;
use crate::core::front::failure::{Failure, Refused};
use crate::core::front::path::Route;
use crate::front::Front;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body, Dialect};
use crate::gateway::Http;
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use std::sync::Arc;
use uuid::Uuid;

/// What a browser lets a page of ours do: run and show what is ours, and ask us; nothing of it is made from text. No
/// other page has it in a frame, or opens it and keeps a hold of it, but those of the origins that are listed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {ANCESTORS}; \
    require-trusted-types-for 'script'";
const HEADERS: [(&str, &str); 3] = [
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];

/// Answers a request below `/console`.
pub async fn serve(
    front: &Arc<Front>,
    route: &Route,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let not_found = || Failure::refused(&Refused::NotFound { method, path });
    let settings = front.shared.settings();
    if !settings.http.console {
        return Err(not_found());
    }
    match route {
        Route::ConsoleRoot => Ok(pages::redirect()),
        Route::Console(name) => {
            let (origins, _) = origins::read(&settings.http.console_origins);
            pages::answer(name, &parts.headers, &origins).ok_or_else(not_found)
        }
        Route::ConsoleApi(name) if name == sessions::NAME => {
            sessions::answer(front, parts, peer, body).await
        }
        Route::ConsoleApi(name) => {
            let caller = caller::identify(front, parts, peer).await;
            match caller? {
                Ok(caller) => api::answer(front, parts, body, &caller, name).await,
                Err(told) => Ok(api::response(told)),
            }
        }
        _ => Err(not_found()),
    }
}

/// An error below `/console`: for somebody who looks for a page that is not there, a page; JSON for everybody else.
pub fn failure(failure: &Failure, parts: &Parts, http: &Http, id: Uuid) -> Response<Body> {
    let page = http.console.then(|| missing::page(failure.status, parts)).flatten();
    page.unwrap_or_else(|| reply::failure(failure, Dialect::Console, id))
}

/// The headers of every answer below `/console`, errors too. Pages of other origins are told nothing.
pub fn finish(response: &mut Response<Body>, http: &Http) {
    let (origins, _) = origins::read(&http.console_origins);
    // A page that opens it can only post to it where both are let into one group of windows.
    let (ancestors, opener) = match origins.is_empty() {
        true => ("'none'".to_owned(), "same-origin"),
        false => (origins.join(" "), "unsafe-none"),
    };
    reply::add(response, "content-security-policy", &POLICY.replace("{ANCESTORS}", &ancestors));
    reply::add(response, "cross-origin-opener-policy", opener);
    for (name, value) in HEADERS {
        reply::add(response, name, value);
    }
}

/// What such a page is told.
fn other_site() -> Told {
    Told::forbidden("a page of another site may not use the console", None)
}

/// Whether no page of another site asks: browsers say so (`Sec-Fetch-Site`), and nobody else has to.
fn is_of_this_site(headers: &HeaderMap) -> bool {
    headers
        .get_all("sec-fetch-site")
        .iter()
        .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}
