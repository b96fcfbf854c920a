//! From a request to who answers it.

use crate::core::front::failure::{Failure, Refused, Sent};
use crate::core::front::path::{self, Route, Unrouted};
use crate::core::front::place;
use crate::core::front::proxies::{self, Proxies};
use crate::error::Error;
use crate::front::addresses::Counting;
use crate::front::connection::Peer;
use crate::front::cors::{self, Asked};
use crate::front::reply::{self, Body, Dialect};
use crate::front::{Front, console, endpoints, leases, metrics, models};
use crate::gateway::Http;
use crate::gateway::task::Task;
use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use uuid::Uuid;

/// Most bytes of the head of a request.
const LONGEST_HEAD: usize = 32 * 1024;
/// Most bytes of what stands between the method and the version.
const LONGEST_TARGET: usize = 8 * 1024;

/// For the main thread to answer whether it is there.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// Answers a request, whatever it is.
pub async fn answer(
    front: &Arc<Front>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Counting<Body>> {
    let id = Uuid::now_v7();
    let is_console = path::is_console(request.uri().path());
    let settings = front.shared.settings();
    let http = &settings.http;
    let peer = Peer { address: client(peer, request.headers(), http), ..peer };
    // Of others, the connections are counted.
    let asked_for = peer.address.filter(|_| front.trusts(peer.from) && peer.address != peer.from);
    let counted = front.addresses.count(asked_for);
    let asked = Asked::of(request.headers());
    let (parts, body) = request.into_parts();
    let found = match counted {
        Some(_) => find(&parts, peer, http),
        None => Err(Failure::refused(&Refused::Busy)),
    };
    let dialect = match is_console {
        true => Dialect::Console,
        false => dialect(found.as_ref().ok(), &parts.headers),
    };
    let (began, route) = (Instant::now(), found.as_ref().ok().cloned());
    let answered = match found {
        Ok(route) => serve(front, route, &parts, peer, body, id, dialect).await,
        Err(failure) => Err(failure),
    };
    let mut response = answered.unwrap_or_else(|failure| match is_console {
        true => console::failure(&failure, &parts, http, id),
        false => reply::failure(&failure, dialect, id),
    });
    front.metrics.answered(route.as_ref(), response.status().as_u16(), began.elapsed());
    let id = id.to_string();
    for name in ["x-request-id", "request-id"] {
        if !response.headers().contains_key(name) {
            reply::add(&mut response, name, &id);
        }
    }
    reply::add(&mut response, "x-content-type-options", "nosniff");
    match is_console {
        true => console::finish(&mut response, http),
        false => cors::finish(&mut response, &asked, &http.origins),
    }
    response.map(|body| Counting::new(body, counted))
}

/// Who asks.
fn client(peer: Peer, headers: &HeaderMap, http: &Http) -> Option<IpAddr> {
    let forwarded: Vec<&[u8]> =
        headers.get_all(proxies::HEADER).iter().map(|value| value.as_bytes()).collect();
    let nobody = Proxies::default();
    http.proxies.as_ref().unwrap_or(&nobody).client(peer.from, forwarded.into_iter())
}

/// The endpoint of a request that is meant for us.
fn find(parts: &Parts, peer: Peer, http: &Http) -> Result<Route, Failure> {
    check_head(parts)?;
    check_host(parts, peer, http)?;
    let (method, uri) = (parts.method.as_str(), &parts.uri);
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > LONGEST_TARGET {
        return Err(Failure::refused(&Refused::LongTarget { limit: LONGEST_TARGET }));
    }
    path::route(method, uri.path()).map_err(|unrouted| {
        let path = uri.path();
        Failure::refused(&match unrouted {
            Unrouted::NotFound => Refused::NotFound { method, path },
            Unrouted::Method(allow) => Refused::Method { method, path, allow },
        })
    })
}

/// Refuses a head that is too large, of which more is read at once than it may have.
fn check_head(parts: &Parts) -> Result<(), Failure> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    // "GET / HTTP/1.1", its fields like "name: value", and the empty line, each with its end.
    let line = parts.method.as_str().len() + target + " ".len() + " HTTP/1.1\r\n".len();
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    match line + fields.sum::<usize>() + 2 <= LONGEST_HEAD {
        true => Ok(()),
        false => Err(Failure::refused(&Refused::LargeHead { limit: LONGEST_HEAD })),
    }
}

/// Refuses what is for another host, or for a proxy, which this is not.
fn check_host(parts: &Parts, peer: Peer, http: &Http) -> Result<(), Failure> {
    let bad = |message: &str| Failure::of(&Error::bad_request(message), Sent::Nothing);
    if parts.method == Method::CONNECT || parts.uri.authority().is_some() {
        return Err(bad("the target of the request must be a path"));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (Some(_), Some(_)) => return Err(bad("the request has two headers Host")),
        // No browser sends such a request; checks of load balancers are.
        (None, _) if parts.version < Version::HTTP_11 => return Ok(()),
        (None, _) => return Err(bad("the request has no header Host")),
    };
    let is_own = host
        .to_str()
        .is_ok_and(|host| place::is_own_host(host, peer.reached, peer.is_encrypted, &http.hosts));
    if is_own { Ok(()) } else { Err(Failure::refused(&Refused::Host)) }
}

/// In whose form errors are told. Both have a list of models at the same path.
fn dialect(route: Option<&Route>, headers: &HeaderMap) -> Dialect {
    match route {
        Some(Route::Messages | Route::CountTokens) => Dialect::Anthropic,
        Some(Route::Models | Route::Model(_)) | None
            if headers.contains_key("anthropic-version") =>
        {
            Dialect::Anthropic
        }
        _ => Dialect::OpenAi,
    }
}

async fn serve(
    front: &Arc<Front>,
    route: Route,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
    id: Uuid,
    dialect: Dialect,
) -> Result<Response<Body>, Failure> {
    match route {
        Route::Preflight => Ok(cors::preflight(&parts.headers)),
        Route::Health => Ok(reply::json(StatusCode::OK, r#"{"status":"ok"}"#)),
        Route::Ready => ready(front).await,
        Route::Leases => leases::answer(front, parts, body).await,
        Route::Metrics => metrics::tell(front, parts, peer).await,
        Route::Models => models::models(front, parts, peer, None, dialect).await,
        Route::ConsoleRoot | Route::Console(_) | Route::ConsoleApi(_) => {
            console::serve(front, &route, parts, peer, body).await
        }
        Route::Model(name) => models::models(front, parts, peer, Some(&name), dialect).await,
        route => endpoints::serve(front, &route, parts, peer, body, id).await,
    }
}

/// Whether calls can be made: the main thread, which has the ledger, answers.
async fn ready(front: &Front) -> Result<Response<Body>, Failure> {
    match timeout(READY_PATIENCE, front.shared.ledger.ask(Task::Ready)).await {
        Ok(Ok(true)) => Ok(reply::json(StatusCode::OK, r#"{"status":"ready"}"#)),
        _ => Err(Failure::refused(&Refused::Busy)),
    }
}
