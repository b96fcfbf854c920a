//! JSON text from outside, made safe for `jsonb`, and numbers that keep every digit.

use crate::core::request::MOST_MEMBERS;
use crate::core::scan::Unfit;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Deepest nesting that is passed on; PostgreSQL's own parser would stop at its stack limit.
const MAX_DEPTH: usize = 512;
/// Most digits and largest exponent of a number that is passed on: a short text such as
/// `1e999999` would otherwise grow to a megabyte of digits, or fail, inside `numeric`.
const MAX_NUMBER_LEN: usize = 400;
const MAX_EXPONENT: u32 = 400;

/// Why JSON that parsed cannot become `jsonb`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("JSON nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a number of {0} bytes or with an exponent past {MAX_EXPONENT}")]
    Number(usize),
}

/// The members of an object, under what their names say: a name may be written with escapes, and
/// whoever reads it next would see the plain one. None is given twice, or two readers could each
/// believe another one.
pub fn members(text: &str) -> Result<BTreeMap<String, &RawValue>, Unfit> {
    let wrong = || Unfit::Wrong("must be a JSON object".to_owned());
    let Pairs(pairs) = serde_json::from_str(text).map_err(|_| wrong())?;
    if pairs.len() > MOST_MEMBERS {
        return Err(Unfit::Wrong(format!("has more than {MOST_MEMBERS} members")));
    }
    let mut members = BTreeMap::new();
    for (name, value) in pairs {
        if let Some((name, _)) = members.get_key_value(&name) {
            let name: &String = name;
            return Err(Unfit::Twice(name.chars().take(64).collect()));
        }
        members.insert(name, value);
    }
    Ok(members)
}

/// The members of an object as they come, or one too many of them.
pub struct Pairs<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a, 'de: 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    if pairs.len() <= MOST_MEMBERS {
                        pairs.push(pair);
                    }
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Reader).map(Pairs)
    }
}

/// Replaces what is valid JSON but not valid `jsonb` (`\u0000` and lone surrogates) by U+FFFD.
/// `text` must be valid JSON.
pub fn fit_for_jsonb(text: &str) -> Result<Cow<'_, str>, JsonError> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut i, mut copied, mut depth) = (0, 0, 0usize);
    while i < bytes.len() {
        match bytes[i] {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonError::TooDeep);
                }
                i += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                i += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = i + bytes[i..].iter().take_while(|b| is_number_byte(**b)).count();
                check_number(&text[i..end])?;
                i = end;
            }
            b'"' => {
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    if bytes[i] != b'\\' {
                        i += 1;
                        continue;
                    }
                    let (len, bad) = escape(&bytes[i..]);
                    if bad {
                        let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
                        out.push_str(&text[copied..i]);
                        out.push_str("\\ufffd");
                        copied = i + len;
                    }
                    i += len;
                }
                i += 1;
            }
            _ => i += 1,
        }
    }
    Ok(match out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
    })
}

fn is_number_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

/// The length of the escape at the start of `rest`, and whether `jsonb` would refuse it.
fn escape(rest: &[u8]) -> (usize, bool) {
    if rest.get(1) != Some(&b'u') {
        return (2, false);
    }
    match code_unit(rest) {
        Some(0xD800..=0xDBFF) => match rest.get(6..).and_then(code_unit) {
            Some(0xDC00..=0xDFFF) => (12, false),
            _ => (6, true),
        },
        Some(0 | 0xDC00..=0xDFFF) => (6, true),
        _ => (6, false),
    }
}

/// The value of a `\uXXXX` at the start of `rest`.
fn code_unit(rest: &[u8]) -> Option<u16> {
    let hex = rest.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

fn check_number(number: &str) -> Result<(), JsonError> {
    let exponent = number
        .split_once(['e', 'E'])
        .map(|(_, e)| e.trim_start_matches(['+', '-']).parse().unwrap_or(u32::MAX));
    if number.len() > MAX_NUMBER_LEN || exponent.is_some_and(|e| e > MAX_EXPONENT) {
        return Err(JsonError::Number(number.len()));
    }
    Ok(())
}

/// The text of a JSON number that is a sane, non-negative amount, ready for `numeric`.
pub fn amount(number: &str) -> Option<String> {
    let number = number.trim();
    let starts_right = number.starts_with(|c: char| c.is_ascii_digit());
    let is_number = number.bytes().all(is_number_byte) && number.parse::<f64>().is_ok();
    let exponent: i32 = match number.split_once(['e', 'E']) {
        Some((_, e)) => e.parse().ok()?,
        None => 0,
    };
    (starts_right && is_number && number.len() <= 64 && exponent.abs() <= 30)
        .then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_the_names_that_they_say() {
        let found = members(r#"{"max_tok\u0065ns":1,"a\"b":[2]}"#).unwrap();
        let names: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.get())).collect();
        assert_eq!(names, [("a\"b", "[2]"), ("max_tokens", "1")]);
        let twice = members(r#"{"max_tok\u0065ns":1,"max_tokens":2}"#).unwrap_err();
        assert_eq!(twice, Unfit::Twice("max_tokens".into()));
        let many: String = (0..1000).map(|n| format!("\"{n}\":0,")).collect();
        assert!(members(&format!("{{{many}\"x\":1}}")).is_err());
        for bad in ["[]", "null", "", r#"{"a":1}x"#, r#"{"\ud800":1}"#] {
            assert!(members(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn leaves_good_text_alone() {
        let text = r#"{"a":"\u00e9 \ud83d\ude00 \\u0000","n":[1,-2.5e10,0.1]}"#;
        assert!(matches!(fit_for_jsonb(text).unwrap(), Cow::Borrowed(t) if t == text));
    }

    #[test]
    fn replaces_what_jsonb_refuses() {
        assert_eq!(fit_for_jsonb(r#"{"a":"x\u0000y"}"#).unwrap(), r#"{"a":"x\ufffdy"}"#);
        assert_eq!(fit_for_jsonb(r#"["\ud800"]"#).unwrap(), r#"["\ufffd"]"#);
        assert_eq!(
            fit_for_jsonb(r#"["\udc00\ud83d\ude00"]"#).unwrap(),
            r#"["\ufffd\ud83d\ude00"]"#
        );
        assert_eq!(
            fit_for_jsonb(r#"["\ud800\ud83d\ude00"]"#).unwrap(),
            r#"["\ufffd\ud83d\ude00"]"#
        );
    }

    #[test]
    fn refuses_depth_and_monstrous_numbers() {
        let deep = format!("{}{}", "[".repeat(600), "]".repeat(600));
        assert_eq!(fit_for_jsonb(&deep), Err(JsonError::TooDeep));
        assert!(fit_for_jsonb("[1e999999]").is_err());
        assert!(fit_for_jsonb(&"9".repeat(500)).is_err());
        assert!(fit_for_jsonb(r#"["1e999999"]"#).is_ok());
    }

    #[test]
    fn amounts_keep_every_digit() {
        assert_eq!(amount("0.000123456789012345678901").unwrap(), "0.000123456789012345678901");
        assert_eq!(amount("1e-7").unwrap(), "1e-7");
        for bad in ["-1", "NaN", "1e99", "\"1\"", "null", "", "1e400000", "0x10", "1-1"] {
            assert_eq!(amount(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_serde_accepts_stays_json(text in "\\PC{0,40}") {
            let json = serde_json::to_string(&text).unwrap();
            let fit = fit_for_jsonb(&json).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&fit).unwrap(), text);
        }
    }
}
