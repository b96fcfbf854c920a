//! The keys that access tokens are checked with: the secret as PostgREST takes it, read once.
//!
//! Which algorithms a key may be used with is decided here, by what the key is. A token only says which of
//! them it was signed by. What everybody may know (a public key, the address of a key set) is never taken
//! for a secret, in whatever form it is given: PostgREST takes any text that is not a JWK for one.

use crate::core::json;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::{agreement, hmac, signature};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Most bytes of the configured secret: sixteen RSA keys of 8192 bits with room to spare.
pub const LONGEST_SECRET: usize = 64 * 1024;
/// Fewest bytes of a secret that is shared: RFC 7518, 3.2, for HS256, and PostgREST's own bound.
pub const SHORTEST_SECRET: usize = 32;
/// Most keys of a set. A token without `kid` may be tried with each of them.
pub const MOST_KEYS: usize = 16;
/// The secrets of Supabase's CLI and of its example for those who host it themselves: good for a machine of one's
/// own, but whoever has read the documentation can sign tokens with them.
const EXAMPLES: [&str; 2] = [
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
];
/// Bits of an RSA modulus. RFC 7518, 3.3, has the least.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Most bits of an RSA exponent that is verified with.
const MOST_EXPONENT_BITS: usize = 33;
/// Bytes of a coordinate of P-256, and of a key of Ed25519.
const COORDINATE: usize = 32;

/// Why a secret cannot be used. Says nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is longer than {LONGEST_SECRET} bytes")]
    TooLong,
    #[error("is shorter than {SHORTEST_SECRET} bytes")]
    TooShort,
    #[error(
        "begins or ends with white space, or holds control characters or bytes that are no UTF-8; \
         a secret with such bytes can be given as a JWK of type oct"
    )]
    NotText,
    #[error(
        "looks like a public key, a certificate, a key file or an address, which others may know; \
         it cannot be a shared secret. Give public keys as a JWK or a JWKS"
    )]
    Public,
    #[error("begins like JSON, but is not a JWK or a JWKS: {0}")]
    NotJwk(&'static str),
    #[error("holds more than {MOST_KEYS} keys")]
    TooMany,
    /// The number counts from one.
    #[error("key {number} {what}")]
    Key { number: usize, what: &'static str },
    #[error("holds no key that access tokens can be checked with")]
    NoneUsable,
}

/// What a token can be signed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Es256,
    Rs256,
    Ps256,
    EdDsa,
}

impl Algorithm {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "ES256" => Self::Es256,
            "RS256" => Self::Rs256,
            "PS256" => Self::Ps256,
            // RFC 8037, and the name that RFC 9864 gives it.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// Why no key vouches for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// No key has the id that the token names.
    UnknownKey,
    /// There are keys, but none that this algorithm is for.
    WrongAlgorithm,
    /// Keys of that kind were tried, and none of them signed it.
    WrongSignature,
}

enum Material {
    /// One prepared key for each algorithm that the secret is long enough for.
    Secret(Vec<(Algorithm, hmac::Key)>),
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
    Rsa(signature::RsaPublicKeyComponents<Vec<u8>>),
}

struct Key {
    id: Option<String>,
    /// The only algorithm that it may be used with, if it says so.
    only: Option<Algorithm>,
    is_example: bool,
    material: Material,
}

impl Key {
    fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match &self.material {
            Material::Secret(keys) => keys.iter().any(|(one, _)| *one == algorithm),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
            Material::Rsa(_) => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        let verified = match &self.material {
            Material::Secret(keys) => {
                let key = keys.iter().find(|(one, _)| *one == algorithm);
                return key.is_some_and(|(_, key)| hmac::verify(key, message, signature).is_ok());
            }
            Material::P256(point) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            Material::Ed25519(key) => signature::UnparsedPublicKey::new(&signature::ED25519, key)
                .verify(message, signature),
            Material::Rsa(key) => {
                let scheme = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                key.verify(scheme, message, signature)
            }
        };
        verified.is_ok()
    }
}

/// The configured keys: at least one, at most [`MOST_KEYS`].
pub struct Keys {
    keys: Vec<Key>,
    skipped: Vec<(usize, &'static str)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({}, {} skipped)", self.keys.len(), self.skipped.len())
    }
}

impl Keys {
    /// Of a secret as PostgREST's `jwt-secret` has it: text of 32 bytes or more, which is the secret of
    /// HS256; or a JWK; or a JWKS. One newline at its end is not part of it, as in PostgREST's files.
    pub fn parse(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() > LONGEST_SECRET {
            return Err(KeyError::TooLong);
        }
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let text = std::str::from_utf8(secret).map_err(|_| KeyError::NotText)?;
        if text.trim_start().starts_with(['{', '[', '"']) {
            return Self::from_json(text);
        }
        // A byte order mark too: it would hide what begins behind it.
        if text.trim() != text
            || text.starts_with('\u{feff}')
            || text.chars().any(|c| c.is_control())
        {
            // Key files have lines, and are worth a word of their own.
            return Err(if is_public(secret) { KeyError::Public } else { KeyError::NotText });
        }
        if is_public(secret) {
            return Err(KeyError::Public);
        }
        if secret.len() < SHORTEST_SECRET {
            return Err(KeyError::TooShort);
        }
        let key = Key {
            id: None,
            only: Some(Algorithm::Hs256),
            is_example: is_example(secret),
            material: Material::Secret(secrets(secret)),
        };
        Ok(Self { keys: vec![key], skipped: Vec::new() })
    }

    fn from_json(text: &str) -> Result<Self, KeyError> {
        let members = json::members(text)
            .map_err(|_| KeyError::NotJwk("it must be one object that gives nothing twice"))?;
        let mut texts = Vec::new();
        match members.get("keys") {
            None => texts.push(text),
            Some(keys) => {
                let is_array = json::each_item(keys.get(), |key| {
                    if texts.len() <= MOST_KEYS {
                        texts.push(key.get());
                    }
                });
                if !is_array {
                    return Err(KeyError::NotJwk("'keys' must be an array"));
                }
            }
        }
        if texts.len() > MOST_KEYS {
            return Err(KeyError::TooMany);
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, text) in texts.into_iter().enumerate() {
            let number = index + 1;
            match jwk(text) {
                Ok(key) => keys.push(key),
                Err(Unread::Skip(why)) => skipped.push((number, why)),
                Err(Unread::Wrong(what)) => return Err(KeyError::Key { number, what }),
            }
        }
        if keys.is_empty() {
            return Err(KeyError::NoneUsable);
        }
        Ok(Self { keys, skipped })
    }

    /// Keys of the set that are not for signatures of tokens, or of a kind that is not known here, with their
    /// number from one and why: for the log. RFC 7517, 5, has them ignored.
    pub fn skipped(&self) -> &[(usize, &'static str)] {
        &self.skipped
    }

    /// Whether one of them is a secret that everybody knows from Supabase's documentation: worth a warning.
    pub fn has_example(&self) -> bool {
        self.keys.iter().any(|key| key.is_example)
    }

    /// Whether one of the keys has signed the message. With an id, only keys of that id are asked; without
    /// one all of them, as PostgREST does.
    pub fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unverified> {
        let mut why = Unverified::UnknownKey;
        for key in self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id) {
            if key.has_signed(algorithm, message, signature) {
                return Ok(());
            }
            if key.is_for(algorithm) {
                why = Unverified::WrongSignature;
            } else if why == Unverified::UnknownKey {
                why = Unverified::WrongAlgorithm;
            }
        }
        Err(why)
    }
}

enum Unread {
    /// It is none of ours.
    Skip(&'static str),
    /// It should be one of ours, and is broken.
    Wrong(&'static str),
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

fn jwk(text: &str) -> Result<Key, Unread> {
    let members = json::members(text)
        .map_err(|_| Unread::Wrong("must be an object that gives nothing twice"))?;
    let kind = member(&members, "kty")?.ok_or(Unread::Wrong("has no 'kty'"))?;
    if member(&members, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(Unread::Skip("has a 'use' other than sig"));
    }
    if let Some(operations) = members.get("key_ops").filter(|value| value.get() != "null") {
        let operations: Vec<String> = serde_json::from_str(operations.get())
            .map_err(|_| Unread::Wrong("has 'key_ops' that are no array of texts"))?;
        if !operations.iter().any(|operation| operation == "verify") {
            return Err(Unread::Skip("has 'key_ops' without verify"));
        }
    }
    let only = match member(&members, "alg")? {
        None => None,
        Some(name) => match Algorithm::named(&name) {
            None => return Err(Unread::Skip("is for an algorithm that is not supported")),
            known => known,
        },
    };
    let id = member(&members, "kid")?;
    let mut is_example = false;
    let material = match kind.as_str() {
        "oct" => {
            let secret = bytes(&members, "k")?;
            if is_public(&secret) {
                return Err(Unread::Wrong("has a public key, a key file or an address as its 'k'"));
            }
            if secret.len() < SHORTEST_SECRET {
                return Err(Unread::Wrong("has a 'k' of less than 32 bytes"));
            }
            is_example = self::is_example(&secret);
            Material::Secret(secrets(&secret))
        }
        "EC" => match member(&members, "crv")?.as_deref() {
            Some("P-256") => Material::P256(p256(&members)?),
            _ => return Err(Unread::Skip("is of a curve that is not supported")),
        },
        "OKP" => match member(&members, "crv")?.as_deref() {
            Some("Ed25519") => Material::Ed25519(coordinate(&members, "x")?),
            _ => return Err(Unread::Skip("is of a curve that is not supported")),
        },
        "RSA" => Material::Rsa(rsa(&members)?),
        _ => return Err(Unread::Skip("is of a type that is not supported")),
    };
    let key = Key { id, only, is_example, material };
    if only.is_some_and(|only| !key.is_for(only)) {
        return Err(Unread::Wrong("has an 'alg' that its type or its length is not for"));
    }
    Ok(key)
}

/// A member that is text, if it is there.
fn member(members: &Members<'_>, name: &str) -> Result<Option<String>, Unread> {
    match members.get(name) {
        None => Ok(None),
        Some(value) => serde_json::from_str(value.get())
            .map_err(|_| Unread::Wrong("has a member that must be a text and is none")),
    }
}

/// A member that is bytes. They may be a secret, and are wiped.
fn bytes(members: &Members<'_>, name: &str) -> Result<Zeroizing<Vec<u8>>, Unread> {
    let text = member(members, name)?.ok_or(Unread::Wrong("lacks a member that its type needs"))?;
    URL_SAFE_NO_PAD
        .decode(Zeroizing::new(text).as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| Unread::Wrong("has a member that is not base64url without padding"))
}

fn coordinate(members: &Members<'_>, name: &str) -> Result<Vec<u8>, Unread> {
    let bytes = bytes(members, name)?;
    match bytes.len() {
        COORDINATE => Ok(bytes.to_vec()),
        _ => Err(Unread::Wrong("has a coordinate that is not 32 bytes long")),
    }
}

/// A point of P-256 in its uncompressed form. That it is on the curve is checked by agreeing on a secret with
/// it, which is the one use that says so before there is a signature.
fn p256(members: &Members<'_>) -> Result<Vec<u8>, Unread> {
    let mut point = vec![4];
    point.extend(coordinate(members, "x")?);
    point.extend(coordinate(members, "y")?);
    let scratch =
        agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new())
            .map_err(|_| Unread::Wrong("cannot be checked: the system's random source failed"))?;
    let other = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, &point);
    agreement::agree_ephemeral(scratch, &other, |_| ())
        .map_err(|_| Unread::Wrong("is not a point of P-256"))?;
    Ok(point)
}

fn rsa(members: &Members<'_>) -> Result<signature::RsaPublicKeyComponents<Vec<u8>>, Unread> {
    // RFC 7518, 6.3.1.1: some write a zero in front.
    let number = |name| {
        let bytes = bytes(members, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, Unread>(bytes.get(zeros..).unwrap_or_default().to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    if !RSA_BITS.contains(&bits(&n)) {
        return Err(Unread::Wrong("has a modulus of less than 2048 or more than 8192 bits"));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !is_odd(&n) || !is_odd(&e) || bits(&e) < 2 || bits(&e) > MOST_EXPONENT_BITS {
        return Err(Unread::Wrong("has a modulus or an exponent that no RSA key has"));
    }
    Ok(signature::RsaPublicKeyComponents { n, e })
}

/// The length of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    match number.first() {
        None => 0,
        Some(first) => number.len() * 8 - first.leading_zeros() as usize,
    }
}

/// The secret, ready for each algorithm that it is long enough for: RFC 7518, 3.2.
fn secrets(secret: &[u8]) -> Vec<(Algorithm, hmac::Key)> {
    [
        (Algorithm::Hs256, hmac::HMAC_SHA256, 32),
        (Algorithm::Hs384, hmac::HMAC_SHA384, 48),
        (Algorithm::Hs512, hmac::HMAC_SHA512, 64),
    ]
    .into_iter()
    .filter(|(_, _, least)| secret.len() >= *least)
    .map(|(algorithm, hash, _)| (algorithm, hmac::Key::new(hash, secret)))
    .collect()
}

fn is_example(secret: &[u8]) -> bool {
    EXAMPLES.iter().any(|example| example.as_bytes() == secret)
}

/// Whether these bytes are what somebody may have published: a key or a certificate in any usual form, or the
/// address of a key set. The same once more in base64.
fn is_public(bytes: &[u8]) -> bool {
    if is_published(bytes) {
        return true;
    }
    let digits: Zeroizing<Vec<u8>> = bytes
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace() && **byte != b'=')
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect::<Vec<u8>>()
        .into();
    STANDARD_NO_PAD.decode(&*digits).is_ok_and(|bytes| is_published(&Zeroizing::new(bytes)))
}

fn is_published(bytes: &[u8]) -> bool {
    let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    let begins =
        |word: &[u8]| bytes.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
    holds(b"-----BEGIN")
        || holds(b"\"kty\"")
        || begins(b"ssh-")
        || begins(b"ecdsa-sha2-")
        || begins(b"http://")
        || begins(b"https://")
        || is_der(bytes)
}

/// A DER sequence that begins with another one or a number, and ends where the bytes do: X.509, PKCS #1 and #8.
fn is_der(bytes: &[u8]) -> bool {
    let (len, inner) = match bytes {
        [0x30, 0x82, high, low, inner @ ..] => (usize::from(*high) << 8 | usize::from(*low), inner),
        [0x30, 0x81, len, inner @ ..] => (usize::from(*len), inner),
        [0x30, len @ 0..=0x7f, inner @ ..] => (usize::from(*len), inner),
        _ => return false,
    };
    len == inner.len() && matches!(inner.first(), Some(0x30 | 0x02))
}

#[cfg(test)]
mod tests;
