//! Access tokens, good and bad ones.

use super::SECRET;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Of a user, as Supabase makes them.
pub fn of(user: &str) -> String {
    signed(&claims(user), SECRET)
}

pub fn claims(user: &str) -> Value {
    json!({"sub": user, "role": "authenticated", "aud": "authenticated", "exp": now() + 3600, "iat": now()})
}

/// Claims with members set, or taken away where they are null.
pub fn with(mut claims: Value, changes: Value) -> String {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    signed(&claims, SECRET)
}

pub fn signed(claims: &Value, secret: &str) -> String {
    raw(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), secret.as_bytes())
}

/// Signed by HMAC, whatever the header says.
pub fn raw(header: &str, payload: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}
