//! Which credential a request bears, and what it is by its form.

use super::failure::{Failure, Refused};
use super::gateway_key::{self, KeyHash};
use super::opaque::Hash;
use super::session;
use super::token::{self, TokenError};

/// Most bytes of a credential: the longest one is a token.
pub const LONGEST: usize = token::LONGEST;

/// What the keys of providers begin with: those who send one have mistaken the gateway for the provider.
const PROVIDERS: [&str; 6] = ["sk-", "sk_", "gsk_", "xai-", "AIza", "key-"];

/// What a request shows, not verified yet. A token is never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A gateway key that may have been made. Whether it was, and is still good, the database knows.
    Key(KeyHash),
    /// A token of the console that may have been made, likewise.
    Session(Hash),
    /// What has the form of an access token.
    Token(&'a str),
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Session(_) => "Session",
            Self::Token(_) => "Token",
        })
    }
}

/// Why a request is answered with 401. Its words say nothing of what was sent, and fit between the quotes of a
/// `WWW-Authenticate` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no credential")]
    Missing,
    /// Rather than a guess whose money it is: two headers with two users in them.
    #[error("two credentials that differ: send one of Authorization, x-api-key and api-key")]
    Differ,
    #[error("the Authorization header is not Bearer: send a gateway key or an access token so")]
    Scheme,
    #[error("the credential is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the credential holds a space or a byte that no credential has")]
    NotText,
    #[error(
        "this is no gateway key: its checksum is wrong, so a part of it is missing or mistyped"
    )]
    MistypedKey,
    /// One answer for all of them: who does not hold a key learns nothing about it.
    #[error("this gateway key is unknown, has expired or was revoked")]
    DeadKey,
    #[error("this is no token of the console: its checksum is wrong, so a part of it is missing")]
    MistypedSession,
    #[error("this session of the console is unknown, is over or was ended: sign in again")]
    DeadSession,
    /// One answer for all of them, likewise.
    #[error(
        "this link is unknown, older than a minute or was used: SELECT console_url() makes one"
    )]
    DeadCode,
    #[error("this is a Supabase project key: send a user's access token or a gateway key")]
    ProjectKey,
    #[error(
        "this looks like a provider's own key: send a gateway key (agk_...) or an access token"
    )]
    ProviderKey,
    #[error("this is neither a gateway key (agk_...) nor an access token (JWT)")]
    Unknown,
    /// No secret is configured.
    #[error("access tokens are not accepted here: send a gateway key (agk_...)")]
    NoTokens,
    #[error("{0}")]
    Token(#[from] TokenError),
}

/// The answer to it: what the message says before it comes to advice is enough for the header.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let description = message.split(": ").next().unwrap_or(&message);
        Self::refused(&match refusal {
            Refusal::Missing => Refused::NoCredential,
            _ => Refused::BadCredential { message: &message, description },
        })
    }
}

/// The credential of a request with these headers, which are names and values as they came.
///
/// It is in `Authorization` (as OpenAI's SDKs send it, and Anthropic's since API version 2026-10-21), in
/// `x-api-key` (Anthropic's older ones) or in `api-key` (Azure's). Some clients send it in two of them, which
/// must then be the same. `apikey` is read if none of those is there: supabase-js sends the project's key in it
/// beside the user's token.
pub fn find<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Credential<'a>, Refusal> {
    let (mut shown, mut project) = (Shown::default(), Shown::default());
    for (name, value) in headers {
        let is = |header: &str| name.eq_ignore_ascii_case(header);
        if is("authorization") {
            shown.add(bearer(value)?);
        } else if is("x-api-key") || is("api-key") {
            shown.add(value.trim_ascii());
        } else if is("apikey") {
            project.add(value.trim_ascii());
        }
    }
    let shown = if shown.credential.is_some() { shown } else { project };
    if shown.differ {
        return Err(Refusal::Differ);
    }
    by_form(shown.credential.ok_or(Refusal::Missing)?)
}

/// What some headers show together.
#[derive(Default)]
struct Shown<'a> {
    credential: Option<&'a [u8]>,
    differ: bool,
}

impl<'a> Shown<'a> {
    fn add(&mut self, credential: &'a [u8]) {
        // SDKs without a key send an empty one.
        if credential.is_empty() {
            return;
        }
        self.differ |= self.credential.is_some_and(|earlier| earlier != credential);
        self.credential = Some(credential);
    }
}

/// What follows the scheme, which must be Bearer in any case.
fn bearer(value: &[u8]) -> Result<&[u8], Refusal> {
    const SCHEME: &[u8] = b"bearer";
    let value = value.trim_ascii();
    if value.is_empty() {
        return Ok(value);
    }
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(SCHEME)
                && rest.first().is_none_or(u8::is_ascii_whitespace) =>
        {
            Ok(rest.trim_ascii())
        }
        _ => Err(Refusal::Scheme),
    }
}

fn by_form(credential: &[u8]) -> Result<Credential<'_>, Refusal> {
    if credential.len() > LONGEST {
        return Err(Refusal::TooLong);
    }
    if !credential.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::NotText);
    }
    let text = std::str::from_utf8(credential).map_err(|_| Refusal::NotText)?;
    if text.starts_with(gateway_key::PREFIX) {
        return gateway_key::read(credential).map(Credential::Key).ok_or(Refusal::MistypedKey);
    }
    if text.starts_with(session::PREFIX) {
        let token = session::read_token(credential);
        return token.map(Credential::Session).ok_or(Refusal::MistypedSession);
    }
    if text.starts_with("sb_") {
        return Err(Refusal::ProjectKey);
    }
    if PROVIDERS.iter().any(|start| text.starts_with(start)) {
        return Err(Refusal::ProviderKey);
    }
    // A token begins with a JSON object, and `{"` is "ey" in base64. One with a space in it has its dots.
    if text.starts_with("ey") || text.contains('.') {
        return Ok(Credential::Token(text));
    }
    Err(Refusal::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA";

    fn key() -> (String, KeyHash) {
        let key = gateway_key::make(&[5; 32]);
        (key.text.to_string(), key.hash)
    }

    fn found<'a>(headers: &[(&'a str, &'a str)]) -> Result<Credential<'a>, Refusal> {
        find(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn each_header_is_read() {
        let (key, hash) = key();
        let bearer = format!("Bearer {key}");
        for headers in [
            [("authorization", bearer.as_str())],
            [("Authorization", &format!("bEARER \t {key} "))],
            [("x-api-key", &key)],
            [("X-Api-Key", &format!(" {key}"))],
            [("api-key", &key)],
            [("apikey", &key)],
        ] {
            assert_eq!(found(&headers), Ok(Credential::Key(hash)), "{headers:?}");
        }
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(found(&[("authorization", &bearer)]), Ok(Credential::Token(TOKEN)));
        assert_eq!(found(&[("x-api-key", TOKEN)]), Ok(Credential::Token(TOKEN)));
        let session = session::make_token(&[5; 32]);
        let bearer = format!("Bearer {}", *session.text);
        assert_eq!(found(&[("authorization", &bearer)]), Ok(Credential::Session(session.hash)));
        // What a link bears is no credential.
        let code = session::make_code(&[5; 32]);
        assert_eq!(found(&[("x-api-key", &code.text)]), Err(Refusal::Unknown));
        let mistyped = &session.text[..session.text.len() - 1];
        assert_eq!(found(&[("x-api-key", mistyped)]), Err(Refusal::MistypedSession));
    }

    #[test]
    fn two_credentials_must_be_one() {
        let (key, hash) = key();
        let other = gateway_key::make(&[6; 32]).text.to_string();
        let (bearer, token) = (format!("Bearer {key}"), format!("Bearer {TOKEN}"));
        // Continue sends it twice.
        let twice = [("authorization", bearer.as_str()), ("x-api-key", &key), ("api-key", &key)];
        assert_eq!(found(&twice), Ok(Credential::Key(hash)));
        for headers in [
            [("authorization", bearer.as_str()), ("x-api-key", other.as_str())],
            [("x-api-key", &other), ("authorization", &bearer)],
            [("authorization", &token), ("api-key", &key)],
            [("authorization", &bearer), ("authorization", &token)],
            [("x-api-key", &key), ("x-api-key", &other)],
            [("x-api-key", &key), ("api-key", &key[..key.len() - 1])],
            [("apikey", &key), ("apikey", &other)],
        ] {
            assert_eq!(found(&headers), Err(Refusal::Differ), "{headers:?}");
        }
        // What another scheme says is a credential too.
        let basic = [("x-api-key", key.as_str()), ("authorization", "Basic dTpw")];
        assert_eq!(found(&basic), Err(Refusal::Scheme));
        // The key of the project stands beside the token of the user.
        let long = "x".repeat(LONGEST + 1);
        for project in ["sb_publishable_0123456789", "anything at all", TOKEN, &long] {
            for headers in [
                [("apikey", project), ("authorization", bearer.as_str()), ("apikey", "x")],
                [("apikey", "x"), ("x-api-key", key.as_str()), ("apikey", project)],
            ] {
                assert_eq!(found(&headers), Ok(Credential::Key(hash)));
            }
        }
    }

    #[test]
    fn nothing_is_not_a_credential() {
        for headers in [
            &[][..],
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer  ")],
            &[("x-api-key", " "), ("api-key", "")],
            &[("apikey", "")],
            &[("cookie", "token=x"), ("x-authorization", "Bearer x"), ("proxy-authorization", "x")],
        ] {
            assert_eq!(found(headers), Err(Refusal::Missing), "{headers:?}");
        }
        let (key, hash) = key();
        let empty = [("authorization", "Bearer "), ("x-api-key", key.as_str()), ("api-key", "")];
        assert_eq!(found(&empty), Ok(Credential::Key(hash)));
    }

    #[test]
    fn what_it_is_not_is_said() {
        let (key, _) = key();
        let mistyped = key.replace('0', "1").replace("agk_", "agk_x");
        for (text, expected) in [
            (mistyped.as_str(), Refusal::MistypedKey),
            ("agk_", Refusal::MistypedKey),
            (&key[..key.len() - 1], Refusal::MistypedKey),
            ("agk_eyJ.a.b", Refusal::MistypedKey),
            ("sb_secret_0123456789012345678901_01234567", Refusal::ProjectKey),
            ("sb_publishable_0123456789012345678901_01234567", Refusal::ProjectKey),
            ("sk-ant-api03-0123456789", Refusal::ProviderKey),
            ("sk-proj-0123.4567", Refusal::ProviderKey),
            ("undefined", Refusal::Unknown),
            ("null", Refusal::Unknown),
            ("dummy", Refusal::Unknown),
            ("AGK_0", Refusal::Unknown),
            ("a b", Refusal::NotText),
            ("Bearer x", Refusal::NotText),
            ("é", Refusal::NotText),
            ("a\0b", Refusal::NotText),
            ("a\x7f", Refusal::NotText),
        ] {
            assert_eq!(found(&[("x-api-key", text)]), Err(expected), "{text}");
            let bearer = format!("Bearer {text}");
            assert_eq!(found(&[("authorization", &bearer)]), Err(expected), "{text}");
        }
        for value in ["agk_x", "Basic dTpw", "Bearerx", "Token x", "Bearer,x", "B", "é"] {
            assert_eq!(found(&[("authorization", value)]), Err(Refusal::Scheme), "{value}");
        }
        assert_eq!(find([("x-api-key", &b"\xff\xfe"[..])]), Err(Refusal::NotText));
        assert_eq!(found(&[("x-api-key", &"x".repeat(LONGEST + 1))]), Err(Refusal::TooLong));
        let longest = "ey".repeat(LONGEST / 2);
        assert_eq!(found(&[("x-api-key", &longest)]), Ok(Credential::Token(&longest)));
    }

    #[test]
    fn every_refusal_fits_into_its_header() {
        for refusal in [
            Refusal::Differ,
            Refusal::Scheme,
            Refusal::TooLong,
            Refusal::NotText,
            Refusal::MistypedKey,
            Refusal::DeadKey,
            Refusal::MistypedSession,
            Refusal::DeadSession,
            Refusal::DeadCode,
            Refusal::ProjectKey,
            Refusal::ProviderKey,
            Refusal::Unknown,
            Refusal::NoTokens,
            Refusal::Token(TokenError::Expired),
            Refusal::Token(TokenError::ProjectKey("service_role")),
        ] {
            let failure = Failure::from(refusal);
            assert_eq!((failure.status, failure.code()), (401, Some("invalid_api_key")));
            assert_eq!(failure.message(), refusal.to_string());
            let description = challenge(&failure)
                .strip_prefix(r#"Bearer error="invalid_token", error_description=""#)
                .and_then(|rest| rest.strip_suffix('"').map(str::to_owned))
                .unwrap_or_else(|| panic!("{}", challenge(&failure)));
            // Whole, and not cut off in the middle.
            let next = refusal.to_string().strip_prefix(&description).map(str::to_owned);
            assert!(
                next.is_some_and(|next| next.is_empty() || next.starts_with(": ")),
                "{refusal}"
            );
        }
        assert_eq!(challenge(&Failure::from(Refusal::Missing)), "Bearer");
        assert_eq!(
            challenge(&Failure::from(Refusal::from(TokenError::Expired))),
            r#"Bearer error="invalid_token", error_description="JWT expired""#
        );
    }

    fn challenge(failure: &Failure) -> String {
        let challenge = failure.headers().into_iter().find(|(name, _)| *name == "www-authenticate");
        challenge.unwrap().1
    }

    #[test]
    fn credentials_are_not_printed() {
        assert_eq!(format!("{:?}", Credential::Token(TOKEN)), "Token");
        assert_eq!(format!("{:?}", Credential::Key(key().1)), "Key");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_found_was_sent(
            names in proptest::collection::vec("(authorization|x-api-key|api-key|apikey|accept)", 0..4),
            values in proptest::collection::vec(
                "(Bearer |bearer\t|Basic |)(agk_[0-9A-Za-z]{0,4}|ey[A-Za-z.]{0,4}|sb_|\\PC{0,4})", 4),
            bytes in proptest::collection::vec(0u8.., 0..40),
        ) {
            let headers = || {
                names.iter().map(String::as_str).zip(values.iter().map(String::as_bytes))
            };
            if let Ok(Credential::Token(token)) = find(headers()) {
                proptest::prop_assert!(values.iter().any(|value| value.contains(token)));
                proptest::prop_assert!(token.starts_with("ey") || token.contains('.'));
            }
            for name in ["authorization", "x-api-key"] {
                let alone = find([(name, &bytes[..])]);
                proptest::prop_assert!(!matches!(alone, Ok(Credential::Key(_) | Credential::Session(_))));
            }
        }
    }
}
