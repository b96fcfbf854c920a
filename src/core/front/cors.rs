//! What pages of other origins may do: nothing, unless their origin is listed.
//!
//! There are no cookies here and no other credential that a browser adds by itself, so credentials are never
//! allowed, and neither is any origin answered with its own name unless it is listed.

/// Most names of headers that are answered, and their bytes: SDKs send more of them with each release, so
/// those that are asked for are allowed.
const MOST_NAMES: usize = 64;
const MOST_BYTES: usize = 2048;

/// What a page may read of an answer beside its body: SDKs wait and try again by these.
pub const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, \
    x-aggregator-provider, x-aggregator-cost, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, \
    x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, \
    x-ratelimit-reset-tokens, anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, \
    anthropic-ratelimit-requests-reset, anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, \
    anthropic-ratelimit-tokens-reset";
pub const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";
/// Seconds for which a browser need not ask again: Chrome's most.
pub const MAX_AGE: &str = "7200";
pub const VARY: &str = "origin, access-control-request-headers";

/// What `access-control-allow-origin` says to this origin. `None`: it may do nothing.
pub fn allowed<'a>(origins: &[String], origin: &'a str) -> Option<&'a str> {
    if origins.iter().any(|listed| listed == "*") {
        return Some("*");
    }
    // Scheme and host are in small letters in what browsers send.
    origins
        .iter()
        .any(|listed| listed.trim_end_matches('/').eq_ignore_ascii_case(origin))
        .then_some(origin)
}

/// The names of headers that a browser asks for, as far as they are such names.
pub fn names(asked: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let mut allowed = String::new();
    let names = asked.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty() && name.chars().all(is_token));
    for name in names.take(MOST_NAMES) {
        if allowed.len() + name.len() + 2 > MOST_BYTES {
            break;
        }
        if !allowed.is_empty() {
            allowed.push_str(", ");
        }
        allowed.push_str(name);
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_allowed() {
        let origins = ["https://app.example".to_owned(), "http://localhost:3000/".to_owned()];
        for origin in ["https://app.example", "http://localhost:3000"] {
            assert_eq!(allowed(&origins, origin), Some(origin));
        }
        for origin in [
            "",
            "null",
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.example",
            "https://evil.example/https://app.example",
            "http://localhost",
        ] {
            assert_eq!(allowed(&origins, origin), None, "{origin}");
            assert_eq!(allowed(&[], origin), None, "{origin}");
        }
        assert_eq!(allowed(&["*".to_owned()], "https://any.example"), Some("*"));
    }

    #[test]
    fn names_are_answered_if_they_are_names() {
        assert_eq!(
            names("authorization, X-Stainless-OS ,,a b,x\r\ny,\"q\",é"),
            "authorization, X-Stainless-OS"
        );
        assert_eq!(names(&"x,".repeat(100)).split(", ").count(), MOST_NAMES);
        assert_eq!(names(&"y".repeat(MOST_BYTES)), "");
        assert!(names(&format!("{},", "z".repeat(90)).repeat(50)).len() <= MOST_BYTES);
    }
}
