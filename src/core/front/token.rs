//! Access tokens (JWT, RFC 7519): whom a token names, if a configured key vouches for it.
//!
//! What PostgREST takes is taken, with stricter rules where a token that can spend money needs them: it
//! expires, it names a user and a role, and it says nothing twice.

pub mod cache;
#[cfg(test)]
mod fuzz;
pub mod keys;
#[cfg(test)]
mod tests;

use crate::core::scan::Unfit;
use crate::core::{identity, json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Algorithm, Keys, Unverified};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Most bytes of a token.
pub const LONGEST: usize = 8 * 1024;
/// How far clocks may differ, in seconds: PostgREST's allowance.
pub const LEEWAY: i64 = 30;
/// The last second of the year 9999. A later date is one in milliseconds.
const LAST_DATE: f64 = 253_402_300_799.0;
/// Most bytes of a role's name: PostgreSQL would cut a longer one off, and it could become another.
const LONGEST_ROLE: usize = 63;
/// Roles of the keys that Supabase makes for a project, which are tokens without a user.
const PROJECT_ROLES: [&str; 2] = ["anon", "service_role"];

/// Why a token is refused. Its words say nothing that the token says, and fit between the quotes of a
/// `WWW-Authenticate` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("JWT longer than {LONGEST} bytes")]
    TooLong,
    #[error("JWT must have three parts")]
    Parts,
    #[error("JWT {0} is not base64url without padding")]
    Base64(Part),
    #[error("JWT {0} is not a JSON object")]
    Json(Part),
    #[error("JWT {0} gives a member twice")]
    Twice(Part),
    #[error("JWT header has no alg")]
    NoAlgorithm,
    #[error("JWT is not signed")]
    Unsigned,
    #[error("JWT algorithm is not supported")]
    Algorithm,
    #[error("JWT header has a crit member, and no extension is supported")]
    Critical,
    #[error("JWT kid must be a text")]
    KeyId,
    #[error("JWT kid names no key that is configured")]
    UnknownKey,
    #[error("JWT algorithm fits no key that is configured")]
    WrongAlgorithm,
    #[error("JWT signature is wrong")]
    Signature,
    #[error("JWT claim {0} is not what it must be")]
    Claim(&'static str),
    #[error("JWT has no exp")]
    NoExpiry,
    #[error("JWT expired")]
    Expired,
    #[error("JWT not yet valid")]
    NotYetValid,
    #[error("JWT issued at future")]
    IssuedInFuture,
    #[error("JWT not in audience")]
    Audience,
    #[error("JWT not from the issuer that is configured")]
    Issuer,
    #[error(
        "this is the {0} key of a Supabase project, which names no user: \
         send a user's access token or a gateway key"
    )]
    ProjectKey(&'static str),
    #[error("JWT has no sub: send a user's access token or a gateway key")]
    NoSubject,
    #[error("JWT has no role")]
    NoRole,
}

/// The part of a token that something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Header,
    Payload,
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// What a token must say besides, if it is configured. Stricter than PostgREST's `jwt-aud`, which lets pass
/// a token that says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub audience: Option<String>,
    pub issuer: Option<String>,
}

/// What a token says that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// By the rule that SQL has: [`identity::subject_of`].
    pub user_id: String,
    /// The role that it claims. Whether there is such a role and what it may do is for the database to say.
    pub role: String,
    /// Of Supabase: a user who signed in without saying who they are.
    pub is_anonymous: bool,
    /// Seconds since 1970, as the two others.
    pub expires_at: i64,
    pub not_before: Option<i64>,
    pub issued_at: Option<i64>,
}

impl Claims {
    /// Whether they hold now. Asked at every use.
    pub fn check_time(&self, now: i64) -> Result<(), TokenError> {
        // RFC 7519, 4.1.4: from that second on it is not accepted.
        if now.saturating_sub(LEEWAY) >= self.expires_at {
            return Err(TokenError::Expired);
        }
        let latest = now.saturating_add(LEEWAY);
        if self.not_before.is_some_and(|date| date > latest) {
            return Err(TokenError::NotYetValid);
        }
        if self.issued_at.is_some_and(|date| date > latest) {
            return Err(TokenError::IssuedInFuture);
        }
        Ok(())
    }
}

/// The claims of a token that one of the keys has signed and that holds at `now`, in seconds since 1970.
pub fn verify(keys: &Keys, rules: &Rules, token: &str, now: i64) -> Result<Claims, TokenError> {
    if token.len() > LONGEST {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Parts)?;
    if payload.contains('.') {
        return Err(TokenError::Parts);
    }
    let (id, algorithm) = read_header(&decode(header, Part::Header)?)?;
    let signature = decode(signature, Part::Signature)?;
    keys.verify(id.as_deref(), algorithm, message.as_bytes(), &signature).map_err(
        |why| match why {
            Unverified::UnknownKey => TokenError::UnknownKey,
            Unverified::WrongAlgorithm => TokenError::WrongAlgorithm,
            Unverified::WrongSignature => TokenError::Signature,
        },
    )?;
    read_claims(&decode(payload, Part::Payload)?, rules, now)
}

fn decode(text: &str, part: Part) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Base64(part))
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The members of an object. None may be given twice, and that is more than `sub`, `role` and `exp` need: two
/// readers could each believe another one.
fn members(bytes: &[u8], part: Part) -> Result<Members<'_>, TokenError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenError::Json(part))?;
    json::members(text).map_err(|unfit| match unfit {
        Unfit::Twice(_) => TokenError::Twice(part),
        _ => TokenError::Json(part),
    })
}

/// The id of the key, if one is named, and the algorithm.
fn read_header(bytes: &[u8]) -> Result<(Option<String>, Algorithm), TokenError> {
    let members = members(bytes, Part::Header)?;
    let text = |name: &str, wrong: TokenError| -> Result<Option<String>, TokenError> {
        let value = members.get(name).map_or("null", |value| value.get());
        serde_json::from_str(value).map_err(|_| wrong)
    };
    // RFC 7515, 4.1.11: what is critical must be understood, and here nothing is.
    if members.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    let algorithm = match text("alg", TokenError::Algorithm)? {
        None => return Err(TokenError::NoAlgorithm),
        Some(name) if name.eq_ignore_ascii_case("none") => return Err(TokenError::Unsigned),
        Some(name) => Algorithm::named(&name).ok_or(TokenError::Algorithm)?,
    };
    Ok((text("kid", TokenError::KeyId)?, algorithm))
}

fn read_claims(bytes: &[u8], rules: &Rules, now: i64) -> Result<Claims, TokenError> {
    let members = members(bytes, Part::Payload)?;
    let given = |name: &str| members.get(name).copied().filter(|value| value.get() != "null");
    let date = |name: &'static str, round: fn(f64) -> f64| -> Result<Option<i64>, TokenError> {
        given(name).map(|value| read_date(value, round).ok_or(TokenError::Claim(name))).transpose()
    };
    let mut claims = Claims {
        user_id: String::new(),
        role: String::new(),
        is_anonymous: false,
        expires_at: date("exp", f64::floor)?.ok_or(TokenError::NoExpiry)?,
        not_before: date("nbf", f64::ceil)?,
        issued_at: date("iat", f64::ceil)?,
    };
    claims.check_time(now)?;
    check_audience(given("aud"), rules.audience.as_deref())?;
    if let Some(issuer) = &rules.issuer {
        let issued_by = given("iss").map(|value| serde_json::from_str::<String>(value.get()));
        match issued_by {
            Some(Ok(by)) if by == *issuer => {}
            Some(Err(_)) => return Err(TokenError::Claim("iss")),
            _ => return Err(TokenError::Issuer),
        }
    }
    let role = given("role").map(|value| serde_json::from_str::<String>(value.get()));
    let role = role.transpose().map_err(|_| TokenError::Claim("role"))?;
    let Some(subject) = given("sub") else {
        let project = PROJECT_ROLES.into_iter().find(|name| role.as_deref() == Some(*name));
        return Err(project.map_or(TokenError::NoSubject, TokenError::ProjectKey));
    };
    claims.user_id = serde_json::from_str::<Value>(subject.get())
        .ok()
        .and_then(|subject| identity::subject_of(&subject))
        .ok_or(TokenError::Claim("sub"))?;
    claims.role = role.ok_or(TokenError::NoRole)?;
    if claims.role.is_empty()
        || claims.role.len() > LONGEST_ROLE
        || claims.role.chars().any(char::is_control)
    {
        return Err(TokenError::Claim("role"));
    }
    claims.is_anonymous = match given("is_anonymous").map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(TokenError::Claim("is_anonymous")),
    };
    Ok(claims)
}

/// A date: a number of seconds, which may have a fraction.
fn read_date(value: &RawValue, round: fn(f64) -> f64) -> Option<i64> {
    let text = value.get();
    // It is JSON: what begins like this is a number. Rust itself would also take "inf".
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let seconds = round(text.parse::<f64>().ok()?);
    // Within the range nothing is lost.
    (0.0..=LAST_DATE).contains(&seconds).then_some(seconds as i64)
}

/// A text or an array of texts, and one of them the configured one.
fn check_audience(value: Option<&RawValue>, audience: Option<&str>) -> Result<(), TokenError> {
    let named = match value.map(RawValue::get) {
        None => Vec::new(),
        Some(text) if text.starts_with('"') => {
            vec![serde_json::from_str(text).map_err(|_| TokenError::Claim("aud"))?]
        }
        Some(text) => {
            serde_json::from_str::<Vec<String>>(text).map_err(|_| TokenError::Claim("aud"))?
        }
    };
    match audience {
        Some(audience) if !named.iter().any(|name| name == audience) => Err(TokenError::Audience),
        _ => Ok(()),
    }
}
