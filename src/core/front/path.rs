//! Which endpoint a request is for, by its method and its path.
//!
//! Clients are told a base URL by people, who write it with `/v1`, without it, or get it twice: OpenAI's SDKs
//! append `/chat/completions` to what they are given, Anthropic's append `/v1/messages`. All of it is understood.

use crate::core::model;
use std::borrow::Cow;
use uuid::Uuid;

/// Most bytes of a path. The longest that is served has the name of a model, each byte of it escaped.
pub const LONGEST: usize = 1024;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    ChatCompletions,
    Responses,
    Messages,
    CountTokens,
    Embeddings,
    Models,
    /// By its name, unescaped.
    Model(String),
    /// `/console`: its pages are below it.
    ConsoleRoot,
    /// A file of the console by its name, which may not be there. Without a name: its page.
    Console(String),
    /// What the console reads or does, by its name, which may not be there.
    ConsoleApi(String),
    /// What other gateways ask of their hub.
    Leases,
    SubmitJob,
    Job(Uuid),
    CancelJob(Uuid),
    Health,
    Ready,
    Metrics,
    /// `OPTIONS` of anything: what a browser asks before it sends a request.
    Preflight,
}

/// Why a request is for no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrouted {
    NotFound,
    /// The path is there; these are its methods, as the header `allow` has them.
    Method(&'static str),
}

/// The endpoint of a request. `HEAD` is a `GET` whose answer has no body.
pub fn route(method: &str, path: &str) -> Result<Route, Unrouted> {
    if path.len() > LONGEST && method != "OPTIONS" {
        return Err(Unrouted::NotFound);
    }
    if is_console(path) {
        return console(method, path);
    }
    if method == "OPTIONS" {
        return Ok(Route::Preflight);
    }
    let path = without_version(path.split(['?', '#']).next().unwrap_or_default());
    let gets = matches!(method, "GET" | "HEAD");
    let post = |route| if method == "POST" { Ok(route) } else { Err(Unrouted::Method("POST")) };
    let get = |route| if gets { Ok(route) } else { Err(Unrouted::Method("GET, HEAD")) };
    match path {
        "chat/completions" => post(Route::ChatCompletions),
        "responses" => post(Route::Responses),
        "messages" => post(Route::Messages),
        "messages/count_tokens" => post(Route::CountTokens),
        "embeddings" => post(Route::Embeddings),
        "models" => get(Route::Models),
        "jobs" => post(Route::SubmitJob),
        "gateways/lease" => post(Route::Leases),
        "health" | "healthz" => get(Route::Health),
        "ready" | "readyz" => get(Route::Ready),
        "metrics" => get(Route::Metrics),
        other => {
            if let Some(name) = other.strip_prefix("models/") {
                return get(Route::Model(model_name(name).ok_or(Unrouted::NotFound)?));
            }
            let id = other.strip_prefix("jobs/").ok_or(Unrouted::NotFound)?;
            let id = Uuid::try_parse(id).map_err(|_| Unrouted::NotFound)?;
            match method {
                "DELETE" => Ok(Route::CancelJob(id)),
                _ if gets => Ok(Route::Job(id)),
                _ => Err(Unrouted::Method("GET, HEAD, DELETE")),
            }
        }
    }
}

/// Whether a path is the console's, which knows no other origins and no versions.
pub fn is_console(path: &str) -> bool {
    path == "/console" || path.starts_with("/console/")
}

/// In exactly this spelling: no escapes, no second slash, nothing after a name.
fn console(method: &str, path: &str) -> Result<Route, Unrouted> {
    let get = |route| match method {
        "GET" | "HEAD" => Ok(route),
        _ => Err(Unrouted::Method("GET, HEAD")),
    };
    let Some(name) = path.strip_prefix("/console/") else { return get(Route::ConsoleRoot) };
    let is_name = |name: &str, more: &[u8]| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || more.contains(&byte))
    };
    match name.strip_prefix("api/") {
        Some(name) if !name.is_empty() && is_name(name, b"-") => {
            Ok(Route::ConsoleApi(name.to_owned()))
        }
        None if is_name(name, b"-.") => get(Route::Console(name.to_owned())),
        _ => Err(Unrouted::NotFound),
    }
}

/// A path without its first slashes, its version, once or twice, and one slash at its end.
fn without_version(path: &str) -> &str {
    let mut path = path.trim_start_matches('/');
    for _ in 0..2 {
        match path.strip_prefix("v1/") {
            Some(rest) => path = rest.trim_start_matches('/'),
            None => break,
        }
    }
    path.strip_suffix('/').unwrap_or(path)
}

/// The name of a model, as SDKs escape it (`openai%2Fgpt-4o`) or as it is. `None`: no model has such a name.
fn model_name(escaped: &str) -> Option<String> {
    let name = unescaped(escaped)?;
    model::problem(&name).is_none().then(|| name.into_owned())
}

/// What a part of a path says. `None`: an escape is none, or the bytes are no UTF-8.
fn unescaped(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(Cow::Borrowed(part));
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                bytes.push(nibble(*high)? << 4 | nibble(*low)?);
                rest = after;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_endpoint_has_its_path_with_and_without_a_version() {
        for (method, path, route_of) in [
            ("POST", "chat/completions", Route::ChatCompletions),
            ("POST", "responses", Route::Responses),
            ("POST", "messages", Route::Messages),
            ("POST", "messages/count_tokens", Route::CountTokens),
            ("POST", "embeddings", Route::Embeddings),
            ("GET", "models", Route::Models),
            ("HEAD", "models", Route::Models),
            ("POST", "jobs", Route::SubmitJob),
            ("POST", "gateways/lease", Route::Leases),
            ("GET", "health", Route::Health),
            ("GET", "healthz", Route::Health),
            ("GET", "ready", Route::Ready),
            ("GET", "metrics", Route::Metrics),
        ] {
            for before in ["/", "/v1/", "/v1/v1/", "//v1//", "/v1/v1//"] {
                for after in ["", "/", "?beta=true", "?limit=1000&after_id=x"] {
                    let path = format!("{before}{path}{after}");
                    assert_eq!(route(method, &path), Ok(route_of.clone()), "{path}");
                }
            }
        }
    }

    #[test]
    fn a_model_is_named_with_its_slashes_raw_or_escaped() {
        for (path, name) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/models/openai/gpt-4o", "openai/gpt-4o"),
            ("/v1/models/openai%2Fgpt-4o", "openai/gpt-4o"),
            ("/v1/v1/models/openai%2fgpt-4o:free", "openai/gpt-4o:free"),
            ("/v1/models/openrouter:openai/gpt-4o@x", "openrouter:openai/gpt-4o@x"),
            ("/v1/models/%E6%BC%A2", "漢"),
            ("/v1/models/a+b", "a+b"),
        ] {
            assert_eq!(route("GET", path), Ok(Route::Model(name.to_owned())), "{path}");
        }
        let longest = "%41".repeat(model::LONGEST);
        assert_eq!(
            route("GET", &format!("/v1/models/{longest}")),
            Ok(Route::Model("A".repeat(model::LONGEST)))
        );
        for path in [
            "/v1/models/%",
            "/v1/models/a%2",
            "/v1/models/a%zz",
            "/v1/models/%ff",
            "/v1/models/a%00b",
            "/v1/models/a%20b",
            &format!("/v1/models/{longest}%41"),
            &format!("/v1/models/{}", "a".repeat(LONGEST)),
        ] {
            assert_eq!(route("GET", path), Err(Unrouted::NotFound), "{path}");
        }
    }

    #[test]
    fn a_job_is_named_by_its_id() {
        let id = "0190a6f4-5c2e-7bbb-8ccc-0123456789ab";
        let uuid = Uuid::try_parse(id).unwrap();
        assert_eq!(route("GET", &format!("/v1/jobs/{id}")), Ok(Route::Job(uuid)));
        assert_eq!(route("DELETE", &format!("/jobs/{id}")), Ok(Route::CancelJob(uuid)));
        assert_eq!(
            route("POST", &format!("/jobs/{id}")),
            Err(Unrouted::Method("GET, HEAD, DELETE"))
        );
        assert_eq!(route("GET", "/v1/jobs/7"), Err(Unrouted::NotFound));
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        assert_eq!(route("GET", "/v1/chat/completions"), Err(Unrouted::Method("POST")));
        assert_eq!(route("POST", "/v1/models"), Err(Unrouted::Method("GET, HEAD")));
        assert_eq!(route("DELETE", "/v1/models/gpt-4o"), Err(Unrouted::Method("GET, HEAD")));
        assert_eq!(route("get", "/v1/models"), Err(Unrouted::Method("GET, HEAD")));
        assert_eq!(route("OPTIONS", "/v1/whatever"), Ok(Route::Preflight));
        assert_eq!(route("OPTIONS", "*"), Ok(Route::Preflight));
    }

    #[test]
    fn anything_else_is_not_found() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/v1/v1/models",
            "/v2/models",
            "/V1/models",
            "/v1/completions",
            "/v1/responses/resp_1",
            "/v1/chat/completions/x",
            "/v1/../models",
            "/v1/%6dodels",
            "/openai/deployments/gpt-4o/chat/completions",
            "models\0",
            "/v1/models//",
        ] {
            assert_eq!(route("POST", path), Err(Unrouted::NotFound), "{path}");
        }
    }

    #[test]
    fn the_console_has_one_spelling() {
        let page = |name: &str| Ok(Route::Console(name.to_owned()));
        let api = |name: &str| Ok(Route::ConsoleApi(name.to_owned()));
        for method in ["GET", "HEAD"] {
            assert_eq!(route(method, "/console"), Ok(Route::ConsoleRoot));
            assert_eq!(route(method, "/console/"), page(""));
            assert_eq!(route(method, "/console/app.js"), page("app.js"));
        }
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            assert_eq!(route(method, "/console/api/gateway-keys"), api("gateway-keys"));
        }
        for path in ["/console", "/console/", "/console/app.js"] {
            for method in ["POST", "DELETE", "OPTIONS", "get"] {
                assert_eq!(route(method, path), Err(Unrouted::Method("GET, HEAD")), "{path}");
            }
        }
        for path in [
            "/v1/console",
            "/v1/console/",
            "//console/",
            "/console//",
            "/Console/",
            "/console/api/",
            "/console/api/me/",
            "/console/api/%6de",
            "/console/api/a/b",
            "/console/api/ME",
            "/console/../v1/models",
            "/console/%61pp.js",
            "/console/app.js/",
            "/console/app.js?x",
            "/console/..%2fapp.js",
            "/console/\0",
            "/consoles",
        ] {
            assert_eq!(route("GET", path), Err(Unrouted::NotFound), "{path}");
        }
        assert_eq!(route("OPTIONS", "/consoles"), Ok(Route::Preflight));
    }

    proptest! {
        #[test]
        fn a_name_survives_its_escapes(name in "[a-zA-Z0-9/:._é漢-]{0,20}[a-z]", escapes in any::<u64>()) {
            let escaped: String = name.bytes().enumerate().map(|(i, byte)| {
                let must = !byte.is_ascii();
                match must || escapes >> (i % 64) & 1 == 1 {
                    true => format!("%{byte:02x}"),
                    false => char::from(byte).to_string(),
                }
            }).collect();
            let found = route("GET", &format!("/v1/models/{escaped}"));
            prop_assert_eq!(found, Ok(Route::Model(name)));
        }

        #[test]
        fn nothing_from_outside_panics(
            method in "GET|POST|DELETE|HEAD|\\PC{0,8}",
            path in "\\PC{0,40}",
            like in "(/|v1|console/|api/|models|jobs|%2f|%|%e6%bc|chat/completions|\\?|#|é){0,12}",
        ) {
            let _ = (route(&method, &path), route(&method, &like));
        }
    }
}
