//! Tokens at random, signed by whom they should be and by others, and damaged: none may pass that another reading
//! of it would not let pass, and none may make anything panic. As [`crate::core::fuzz`], which says how to try
//! more of them.

use super::cache::Verifier;
use super::tests::{NOW, base64, minted_by};
use super::*;
use crate::core::front::credential::{self, Credential, Refusal};
use crate::core::fuzz::count_and_seed;
use fastrand::Rng;
use ring::hmac;

const SECRET: [u8; 64] = [7; 64];
const OTHER: [u8; 32] = [8; 32];
/// RFC 7515, A.3: its private half is public, and nothing here uses it.
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

/// One secret with an id, another one without, and a public key.
fn keys() -> Keys {
    let set = format!(
        r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{}"}},{{"kty":"oct","k":"{}"}},{}]}}"#,
        base64(SECRET),
        base64(OTHER),
        public_key()
    );
    Keys::parse(set.as_bytes()).expect("a set of keys")
}

fn public_key() -> String {
    format!(r#"{{"kty":"EC","crv":"P-256","kid":"ec","x":"{X}","y":"{Y}"}}"#)
}

/// Writes tokens.
struct Writer {
    rng: Rng,
}

impl Writer {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(0..of.len())]
    }

    /// Members, each with a value that is mostly the first one of its list.
    fn object(&mut self, members: &[(&str, &[&str])]) -> String {
        let mut out = String::from("{");
        for (name, values) in members {
            let mut times = u32::from(!self.one_in(12));
            if self.one_in(40) {
                times += 1;
            }
            for _ in 0..times {
                let value = if self.one_in(8) { self.any(values) } else { values[0] };
                if value.is_empty() {
                    continue;
                }
                if out.len() > 1 {
                    out.push(',');
                }
                // The first letter of a name may be escaped.
                match self.one_in(30) {
                    true => {
                        out.push_str(&format!("\"\\u{:04x}{}\":", name.as_bytes()[0], &name[1..]))
                    }
                    false => out.push_str(&format!("\"{name}\":")),
                }
                out.push_str(value);
            }
        }
        out.push('}');
        out
    }

    fn header(&mut self) -> String {
        let strange = [
            "\"HS256\"",
            "\"HS384\"",
            "\"HS512\"",
            "\"ES256\"",
            "\"RS256\"",
            "\"EdDSA\"",
            "\"none\"",
            "\"None\"",
            "\"hs256\"",
            "null",
            "[\"HS256\"]",
            "1",
        ];
        let ids = ["", "\"a\"", "\"ec\"", "\"b\"", "\"\"", "null", "1"];
        self.object(&[
            ("alg", &strange),
            ("typ", &["\"JWT\"", "\"at+jwt\"", "1"]),
            ("kid", &ids),
            ("crit", &["", "", "", "[\"b64\"]", "[]", "null"]),
        ])
    }

    fn payload(&mut self) -> String {
        let dates = [
            "1900003600",
            "1899999971",
            "1899999970",
            "1899999970.5",
            "0",
            "-1",
            "1e10",
            "1e400",
            "\"1900003600\"",
            "null",
            "true",
            "1900003600000",
            "1900000030",
            "1900000031",
        ];
        let early: Vec<&str> = ["1899999000"].into_iter().chain(dates).collect();
        let none: Vec<&str> = [""].into_iter().chain(dates).collect();
        let subjects = [
            "\"u-1\"",
            "17",
            "\"\"",
            "\"role:postgres\"",
            "1.5",
            "null",
            "\"u\\u200b\"",
            "\"\\ud800\"",
            "{\"a\":1}",
            "\" u\"",
            "\"ключ\"",
        ];
        self.object(&[
            ("sub", &subjects),
            ("role", &["\"authenticated\"", "\"anon\"", "\"\"", "null", "1", "\"a\\u0000\""]),
            ("exp", &dates),
            ("iat", &early),
            ("nbf", &none),
            ("aud", &["\"authenticated\"", "[\"a\"]", "[1]", "1", "null"]),
            ("is_anonymous", &["false", "true", "null", "1", "\"true\""]),
            ("app_metadata", &["{}", "{\"a\":1,\"a\":2}", "[[[[]]]]", "\"\\ud800\""]),
        ])
    }

    fn token(&mut self) -> String {
        let (header, payload) = (self.header(), self.payload());
        let public = public_key();
        let (hash, secret): (_, &[u8]) = match self.rng.u32(0..20) {
            0 => (hmac::HMAC_SHA384, &SECRET),
            1 => (hmac::HMAC_SHA512, &SECRET),
            2 => (hmac::HMAC_SHA384, &OTHER),
            3 => (hmac::HMAC_SHA256, b""),
            4 => (hmac::HMAC_SHA256, public.as_bytes()),
            5 => (hmac::HMAC_SHA256, X.as_bytes()),
            6..=9 => (hmac::HMAC_SHA256, &OTHER),
            _ => (hmac::HMAC_SHA256, &SECRET),
        };
        let mut token = minted_by(hash, secret, &header, payload.as_bytes()).into_bytes();
        while self.one_in(5) {
            self.damage(&mut token);
        }
        String::from_utf8_lossy(&token).into_owned()
    }

    fn damage(&mut self, token: &mut Vec<u8>) {
        let place = self.rng.usize(0..=token.len());
        let digits = b"AZaz09-_.=+/ \n\0\xff";
        match self.rng.u32(0..6) {
            0 => token.truncate(place),
            1 => drop(token.drain(..place)),
            2 => token.insert(place, digits[self.rng.usize(0..digits.len())]),
            3 => {
                if let Some(byte) = token.get_mut(place) {
                    *byte = digits[self.rng.usize(0..digits.len())];
                }
            }
            4 => token.extend_from_within(place..),
            _ => {
                if let Some(byte) = token.get_mut(place) {
                    *byte ^= 1 << self.rng.u32(0..7);
                }
            }
        }
    }
}

/// Another reading of a token, slow and by other means: whom it names, if it is good.
fn slowly(token: &str) -> Option<String> {
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let decode = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        // There is one way to write them.
        (base64(&bytes) == part).then_some(bytes)
    };
    let object = |part: &str| {
        let bytes = decode(part)?;
        let value: Value = serde_json::from_slice(&without_surrogates(&bytes)).ok()?;
        let members = value.as_object()?.clone();
        // Written anew it has as many members as it had, or one was there twice.
        let colons = top_level_members(&bytes);
        (members.len() == colons).then_some(members)
    };
    let (header_members, claims) = (object(header)?, object(payload)?);
    if header_members.contains_key("crit") {
        return None;
    }
    let hash = match header_members.get("alg")?.as_str()? {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => return None,
    };
    let secrets: &[&[u8]] = match header_members.get("kid") {
        None | Some(Value::Null) => &[&SECRET, &OTHER],
        Some(Value::String(id)) if id == "a" => &[&SECRET],
        Some(_) => return None,
    };
    let message = format!("{header}.{payload}");
    let tag = decode(signature)?;
    let is_signed = secrets.iter().any(|secret| {
        let is_long_enough = hash == hmac::HMAC_SHA256 || secret.len() == 64;
        let own = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
        is_long_enough && own.as_ref() == tag
    });
    let date = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => {
            let date = value.as_f64()?;
            (0.0..253_402_300_800.0).contains(&date).then_some(Some(date))
        }
    };
    let holds = date("exp")?? > (NOW - LEEWAY) as f64
        && [date("nbf")?, date("iat")?].into_iter().flatten().all(|d| d <= (NOW + LEEWAY) as f64);
    // 1899999970.5 is the second that 1899999970 is.
    let holds = holds && date("exp")??.floor() > (NOW - LEEWAY) as f64;
    let is_text = |value: &Value| value.is_string();
    let aud = claims.get("aud").unwrap_or(&Value::Null);
    let aud_fits =
        aud.is_null() || is_text(aud) || aud.as_array().is_some_and(|all| all.iter().all(is_text));
    let role = claims.get("role")?.as_str()?;
    let anonymous = claims.get("is_anonymous").unwrap_or(&Value::Null);
    let fits = aud_fits
        && !role.is_empty()
        && !role.contains('\0')
        && (anonymous.is_null() || anonymous.is_boolean());
    let user = match claims.get("sub")? {
        Value::String(sub) if sub == "u-1" || sub == "ключ" => sub.clone(),
        Value::Number(sub) if sub.is_u64() => sub.to_string(),
        _ => return None,
    };
    (is_signed && holds && fits).then_some(user)
}

/// Half of a surrogate pair is valid in a member that nobody reads. In `sub` it makes an id that is nobody's.
fn without_surrogates(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace("\\ud800", "\\u0000").into_bytes()
}

/// Counts the members of an object.
fn top_level_members(bytes: &[u8]) -> usize {
    let (mut depth, mut in_string, mut count) = (0, false, 0);
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => drop(bytes.next()),
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            b':' if !in_string && depth == 1 => count += 1,
            _ => {}
        }
    }
    count
}

fn check(keys: &Keys, verifier: &mut Verifier, token: &str) -> bool {
    let read = verify(keys, &Rules::default(), token, NOW);
    let expected = slowly(token);
    assert_eq!(read.as_ref().ok().map(|claims| &claims.user_id), expected.as_ref(), "{read:?}");
    // From the cache it is the same, the second time too.
    for _ in 0..2 {
        let kept = verifier.see(token, NOW);
        assert_eq!(kept.as_deref().map_err(|error| *error), read.as_ref().map_err(|error| *error));
    }
    // In whatever header it comes, a good token is the credential, and no token is a key.
    let bearer = format!("Bearer {token}");
    for (name, value) in [("authorization", &bearer), ("x-api-key", &token.to_owned())] {
        match credential::find([(name, value.as_bytes())]) {
            Ok(Credential::Token(found)) => assert_eq!(found, token.trim_ascii()),
            Ok(Credential::Key(_) | Credential::Session(_)) => panic!("no token"),
            Err(refusal) => {
                assert!(read.is_err() && refusal != Refusal::DeadKey, "{refusal}");
            }
        }
    }
    read.is_ok()
}

#[test]
fn no_token_is_understood_in_two_ways() {
    let (count, seed) = count_and_seed();
    let keys = keys();
    let mut verifier = Verifier::new(self::keys(), Rules::default());
    let (mut good, mut bad) = (0, 0);
    for index in 0..count {
        let mut writer = Writer { rng: Rng::with_seed(seed.wrapping_add(index)) };
        let token = writer.token();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&keys, &mut verifier, &token)
        }));
        match checked {
            Ok(true) => good += 1,
            Ok(false) => bad += 1,
            Err(_) => panic!("token {index} of seed {seed}: {token}"),
        }
    }
    println!("{count} tokens: {good} good, {bad} bad");
    // Or nothing would have been tried.
    assert!(good > count / 50 && bad > count / 4, "{good} good, {bad} bad");
}
