//! What a browser is told about the pages of other origins.

use crate::core::front::cors;
use crate::front::reply::{self, Body};
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, ORIGIN};
use http::{Response, StatusCode};

/// The answer to what a browser asks before it sends a request: it needs no credential.
pub fn preflight(headers: &HeaderMap) -> Response<Body> {
    let mut response = reply::empty(StatusCode::NO_CONTENT);
    reply::add(&mut response, "allow", cors::METHODS);
    reply::add(&mut response, "access-control-allow-methods", cors::METHODS);
    reply::add(&mut response, "access-control-max-age", cors::MAX_AGE);
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
    let names = cors::names(asked.unwrap_or_default());
    if !names.is_empty() {
        reply::add(&mut response, "access-control-allow-headers", &names);
    }
    response
}

/// Lets a page of a listed origin read the answer, errors too. For any other there is nothing in it that a
/// browser would let it read.
pub fn finish(response: &mut Response<Body>, request: &Asked, origins: &[String]) {
    if !origins.is_empty() {
        reply::add(response, "vary", cors::VARY);
    }
    let allowed = request.origin.as_deref().and_then(|origin| cors::allowed(origins, origin));
    match allowed {
        Some(origin) => {
            reply::add(response, "access-control-allow-origin", origin);
            reply::add(response, "access-control-expose-headers", cors::EXPOSED);
        }
        None => {
            for name in [
                "access-control-allow-methods",
                "access-control-allow-headers",
                "access-control-max-age",
            ] {
                response.headers_mut().remove(name);
            }
        }
    }
}

/// What of a request decides what a browser is told.
pub struct Asked {
    origin: Option<String>,
}

impl Asked {
    pub fn of(headers: &HeaderMap) -> Self {
        let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
        Self { origin: origin.map(str::to_owned) }
    }
}
