//! The console: its pages, and what they ask for.

mod api;
mod caller;
mod pages;
mod sessions;

use crate::core::front::failure::{Failure, Refused};
use crate::core::front::path::Route;
use crate::front::Front;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body};
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use std::sync::Arc;

/// What a browser lets a page of ours do: run and show what is ours, and ask us; nothing of it is made from text. No
/// other page has it in a frame, or opens it and keeps a hold of it.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
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
    if !front.shared.settings().http.console {
        return Err(not_found());
    }
    match route {
        Route::ConsoleRoot => Ok(pages::redirect()),
        Route::Console(name) => pages::answer(name, &parts.headers).ok_or_else(not_found),
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

/// The headers of every answer below `/console`, errors too. Pages of other origins are told nothing.
pub fn finish(response: &mut Response<Body>) {
    for (name, value) in HEADERS {
        reply::add(response, name, value);
    }
}

/// Whether no page of another site asks: browsers say so (`Sec-Fetch-Site`), and nobody else has to.
fn is_of_this_site(headers: &HeaderMap) -> bool {
    headers
        .get_all("sec-fetch-site")
        .iter()
        .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}
