//! Sessions of the console: the code that a link bears for a minute, and the token that it is exchanged for.

use super::opaque::{self, Form, Hash, Made, RANDOM_BYTES};
use serde::Deserialize;
use uuid::Uuid;

/// What a token begins with.
pub const PREFIX: &str = TOKEN.prefix;
const TOKEN: Form = Form { prefix: "ags_" };
const CODE: Form = Form { prefix: "agc_" };

/// Most bytes of a base URL.
const LONGEST_BASE: usize = 1024;

/// The code that these random bytes make.
pub fn make_code(random: &[u8; RANDOM_BYTES]) -> Made {
    opaque::make(CODE, random)
}

/// The token that these random bytes make.
pub fn make_token(random: &[u8; RANDOM_BYTES]) -> Made {
    opaque::make(TOKEN, random)
}

/// What a code is looked up by, if it can be one.
pub fn read_code(text: &[u8]) -> Option<Hash> {
    opaque::read(CODE, text)
}

/// What a token is looked up by, if it can be one.
pub fn read_token(text: &[u8]) -> Option<Hash> {
    opaque::read(TOKEN, text)
}

/// The body of a sign-in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    pub code: String,
}

/// Somebody who has signed in to the console, at the moment at which they were looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: Uuid,
    pub user_id: String,
    /// As which they act.
    pub role: String,
    pub is_anonymous: bool,
    /// Microseconds since 1970.
    pub expires_at: i64,
}

impl Session {
    /// Whether it is not over, at this moment (microseconds since 1970).
    pub fn lasts(&self, now: i64) -> bool {
        now < self.expires_at
    }
}

/// The link of a code. What is after the `#` no browser sends to anybody.
pub fn link(base: &str, code: &str) -> String {
    format!("{}/console/#code={code}", base.trim_end_matches('/'))
}

/// What is wrong with a base URL: the code goes wherever it leads.
pub fn base_problem(base: &str) -> Option<&'static str> {
    if base.len() > LONGEST_BASE {
        return Some("is longer than 1024 bytes");
    }
    let Some(rest) = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")) else {
        return Some("must begin with https:// or http://");
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]/%".contains(&byte);
    let host = rest.split('/').next().unwrap_or_default();
    match !host.is_empty() && rest.bytes().all(is_plain) {
        true => None,
        false => Some("must be a host, a port and a path at the most"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_no_token_and_none_of_them_a_gateway_key() {
        let (code, token) = (make_code(&[7; 32]), make_token(&[7; 32]));
        assert_eq!(read_code(code.text.as_bytes()), Some(code.hash));
        assert_eq!(read_token(token.text.as_bytes()), Some(token.hash));
        assert_ne!(code.hash, token.hash);
        assert_eq!(read_token(code.text.as_bytes()), None);
        assert_eq!(read_code(token.text.as_bytes()), None);
        for text in [&code.text, &token.text] {
            assert_eq!(super::super::gateway_key::read(text.as_bytes()), None);
        }
    }

    #[test]
    fn a_link_has_one_slash_and_its_code_where_no_server_sees_it() {
        for base in ["http://127.0.0.1:8787", "http://127.0.0.1:8787/"] {
            assert_eq!(link(base, "agc_x"), "http://127.0.0.1:8787/console/#code=agc_x");
        }
        assert_eq!(
            link("https://a.example/llm/", "agc_x"),
            "https://a.example/llm/console/#code=agc_x"
        );
    }

    #[test]
    fn a_base_is_where_a_page_can_be() {
        for base in [
            "http://localhost",
            "https://a.example:8443/llm",
            "http://[::1]:8787/",
            "https://a-b.c/~d%20",
        ] {
            assert_eq!(base_problem(base), None, "{base}");
        }
        for base in [
            "",
            "a.example",
            "//a.example",
            "ftp://a",
            "javascript:alert(1)",
            "https://",
            "https:///x",
            "https://a b",
            "https://a?x=",
            "https://a#x",
            "https://u@a",
            "https://a\n",
            "https://a\\b",
            "https://é",
            "HTTPS://a",
            "https://a\"",
        ] {
            assert!(base_problem(base).is_some(), "{base}");
        }
        assert!(base_problem(&format!("https://{}", "a".repeat(1024))).is_some());
    }

    #[test]
    fn a_session_lasts_until_its_end() {
        let session = Session {
            id: Uuid::nil(),
            user_id: "u".to_owned(),
            role: "r".to_owned(),
            is_anonymous: false,
            expires_at: 10,
        };
        assert!(session.lasts(9) && !session.lasts(10) && !session.lasts(i64::MAX));
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(bytes in proptest::collection::vec(0u8.., 0..70), text in "(agc_|ags_|https?://)\\PC{0,60}") {
            proptest::prop_assert_eq!((read_code(&bytes), read_token(&bytes)), (None, None));
            let _ = (read_code(text.as_bytes()), read_token(text.as_bytes()), base_problem(&text));
        }
    }
}
