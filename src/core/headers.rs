//! Which extra headers a provider's row may have. The row is readable by everybody, so none of them may
//! carry a secret; and none may take over what the gateway or the connection decides.

/// These belong to the gateway or to the connection.
const FORBIDDEN: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Parts of names that say that the value is a secret: `authorization`, `x-api-key`, `cookie`,
/// `x-amz-security-token`, `ocp-apim-subscription-key`, `x-vault-token`, ...
const SECRET_PARTS: &[&str] = &[
    "auth",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "key",
    "passw",
    "passphrase",
    "secret",
    "session",
    "signature",
    "token",
    "x-csrf",
    "x-xsrf",
];
/// What provider keys and tokens begin with.
const SECRET_STARTS: &[&str] = &[
    "AIza",
    "AKIA",
    "ASIA",
    "eyJ",
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "gsk_",
    "hf_",
    "key-",
    "pplx-",
    "r8_",
    "sk-",
    "sk_",
    "xai-",
    "xoxb-",
    "xoxp-",
    "ya29.",
];
/// Schemes of the header Authorization.
const SCHEMES: &[&str] = &["apikey", "basic", "bearer", "token"];
/// A run of letters and digits that is longer than this, with both in it, is no word of a language.
const LONGEST_WORD: usize = 31;
const LONGEST_VALUE: usize = 1024;

/// Why a provider may not have this header. `None`: it may.
pub fn problem(name: &str, value: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if !is_token(&name) {
        return Some("is not the name of a header");
    }
    if FORBIDDEN.contains(&name.as_str()) || name.starts_with("proxy-") {
        return Some("belongs to the gateway");
    }
    if SECRET_PARTS.iter().any(|part| name.contains(part)) {
        return Some("is one that carries a secret, and the row is readable by everybody");
    }
    if value.len() > LONGEST_VALUE
        || !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Some("has a value that is longer than 1024 bytes or not printable ASCII");
    }
    if may_be_secret(value) {
        return Some("has a value that looks like a secret, and the row is readable by everybody");
    }
    None
}

/// Whether a text looks like a key or a token.
pub fn may_be_secret(text: &str) -> bool {
    let words = || text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let has_digit = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    let is_marked = |word: &str| {
        SECRET_STARTS.iter().any(|start| word.starts_with(start) && word.len() > start.len())
            && (has_digit(word) || word.len() >= 16)
    };
    let is_random = |run: &str| {
        run.len() > LONGEST_WORD
            && has_digit(run)
            && run.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    let scheme = text.trim().split_once(' ').filter(|(_, rest)| !rest.trim().contains(' '));
    scheme.is_some_and(|(first, _)| SCHEMES.contains(&first.to_ascii_lowercase().as_str()))
        || words().any(is_marked)
        || text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_random)
}

/// Whether the name of a parameter in a URL says that its value is a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| name.contains(part))
        || matches!(name.as_str(), "sig" | "code" | "pwd")
}

fn is_token(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_header_can_carry_a_secret() {
        for name in [
            "Authorization",
            "authorization",
            "Proxy-Authorization",
            "X-Api-Key",
            "api-key",
            "x-goog-api-key",
            "Ocp-Apim-Subscription-Key",
            "Cookie",
            "Set-Cookie",
            "X-Auth",
            "x-amz-security-token",
            "X-Secret",
            "x-session-id",
            "x-signature",
            "x-password",
            "Host",
            "content-length",
            "",
            "a b",
            "a\r\nb",
            "x:y",
        ] {
            assert!(problem(name, "1").is_some(), "{name}");
        }
        for value in [
            "sk-live-1",
            "Bearer abc",
            "bearer abc",
            "a=sk_live1",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "0123456789abcdef0123456789abcdef",
            "a\nb",
            "a\0b",
        ] {
            assert!(problem("x-note", value).is_some(), "{value}");
        }
    }

    #[test]
    fn headers_that_say_who_asks_are_fine() {
        for (name, value) in [
            ("HTTP-Referer", "https://example.com/my-app"),
            ("X-Title", "My application"),
            ("anthropic-beta", "prompt-caching-2024-07-31,output-128k-2025-02-19"),
            ("anthropic-version", "2023-06-01"),
            ("OpenAI-Organization", "org-abcdefghijklmnopqrstuvwx"),
            ("OpenAI-Project", "proj_123"),
            ("X-Note", "a basically good token of esteem"),
            ("User-Agent", "product/1.0 (+https://example.com)"),
        ] {
            assert_eq!(problem(name, value), None, "{name}: {value}");
        }
    }
}
