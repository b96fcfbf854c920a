//! JSON text from outside, made safe for `jsonb`, and numbers that keep every digit.

use crate::core::request::MOST_MEMBERS;
use crate::core::scan::Unfit;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

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

/// The members of an object that have these names; of one that is given twice, the last that is not null. What
/// the object has beside takes no memory, and no name of it is refused.
pub fn pick<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
) -> serde_json::Result<[Option<&'a RawValue>; N]> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let picked = deserializer.deserialize_map(Picker(names))?;
    deserializer.end()?;
    Ok(picked)
}

struct Picker<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Picker<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = [None; N];
        while let Some(place) = map.next_key_seed(Place(self.0))? {
            match place.and_then(|place| picked.get_mut(place)) {
                Some(slot) => {
                    let value: &RawValue = map.next_value()?;
                    if value.get() != "null" {
                        *slot = Some(value);
                    }
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(picked)
    }
}

/// Where a name is among these. Read as bytes, which half of a surrogate pair may be in.
struct Place<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == bytes))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.visit_bytes(text.as_bytes())
    }
}

/// Shows the items of an array, one after the other. False: it is none.
pub fn each_item<'a>(text: &'a str, each: impl FnMut(&'a RawValue)) -> bool {
    struct Items<F>(F);
    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Items<F> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                self.0(item);
            }
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_seq(Items(each)).and_then(|()| deserializer.end()).is_ok()
}

/// Replaces what is valid JSON but not valid `jsonb` (`\u0000` and lone surrogates) by U+FFFD.
/// `text` must be valid JSON.
pub fn fit_for_jsonb(text: &str) -> Result<Cow<'_, str>, JsonError> {
    fit(text, |error, _| Err(error))
}

/// The same for an answer, which is paid for: a value that is nested too deeply and a monstrous number become
/// null, since nobody can have asked for them.
pub fn answer_for_jsonb(text: &str) -> Cow<'_, str> {
    fit(text, |_, len| Ok(len)).unwrap_or(Cow::Borrowed(text))
}

/// `beyond` is asked what to do with a value past the limits, of which the length is given: how much of the
/// text to replace by null.
fn fit(
    text: &str,
    beyond: impl Fn(JsonError, usize) -> Result<usize, JsonError>,
) -> Result<Cow<'_, str>, JsonError> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut i, mut copied, mut depth) = (0, 0, 0usize);
    while i < bytes.len() {
        match bytes[i] {
            b'{' | b'[' if depth == MAX_DEPTH => {
                let len = beyond(JsonError::TooDeep, value_len(&bytes[i..]))?;
                replace(&mut out, text, copied..i, "null");
                i += len;
                copied = i;
            }
            b'{' | b'[' => {
                depth += 1;
                i += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                i += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = i + bytes[i..].iter().take_while(|b| is_number_byte(**b)).count();
                if let Err(error) = check_number(&text[i..end]) {
                    beyond(error, end - i)?;
                    replace(&mut out, text, copied..i, "null");
                    copied = end;
                }
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
                        replace(&mut out, text, copied..i, "\\ufffd");
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

/// Copies what is before a value, and what stands for the value.
fn replace(out: &mut Option<String>, text: &str, before: Range<usize>, instead: &str) {
    let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
    out.push_str(&text[before]);
    out.push_str(instead);
}

/// The length of the object or array at the start of `rest`.
fn value_len(rest: &[u8]) -> usize {
    let (mut i, mut depth, mut in_string) = (0, 0usize, false);
    while let Some(byte) = rest.get(i) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => i += 1,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        i += 1;
        if depth == 0 {
            break;
        }
    }
    i.min(rest.len())
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
    fn of_an_answer_only_what_is_past_the_limits_is_lost() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(600), "]".repeat(600));
        let text = format!(
            r#"{{"a":{},"b":[1e999999,"x",{}],"c":"]\u0000"}}"#,
            deep("\"]\\\"\""),
            "9".repeat(500)
        );
        let kept = format!("{}null{}", "[".repeat(511), "]".repeat(511));
        let expected = format!(r#"{{"a":{kept},"b":[null,"x",null],"c":"]\ufffd"}}"#);
        assert_eq!(answer_for_jsonb(&text), expected);
        let good = r#"{"a":[{"b":-1.50}]}"#;
        assert!(matches!(answer_for_jsonb(good), Cow::Borrowed(same) if same == good));
    }

    #[test]
    fn members_are_picked_however_they_are_given() {
        let text = r#"{"a":1,"\ud800":0,"b":null,"\u0061":[2],"a":null,"c":{"a":9}}"#;
        let picked = pick(text, &["a", "b", "c", "d"]).unwrap();
        let picked = picked.map(|value| value.map(RawValue::get));
        assert_eq!(picked, [Some("[2]"), None, Some(r#"{"a":9}"#), None]);
        for bad in ["[]", "null", "", "{\"a\":1}x", "{\"a\":", "{\"a\":tru}"] {
            assert!(pick(bad, &["a"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn items_are_shown_in_their_order() {
        let mut items = Vec::new();
        assert!(each_item(r#" [1,{"a":[2]},"\ud800"] "#, |item| items.push(item.get())));
        assert_eq!(items, ["1", r#"{"a":[2]}"#, r#""\ud800""#]);
        for bad in ["{}", "1", "", "[1", "[1]x"] {
            assert!(!each_item(bad, |_| {}), "{bad}");
        }
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

        #[test]
        fn nothing_from_outside_panics(text in "\\PC{0,40}", json in "[{}\\[\\]\":,\\\\ue0-9-]{0,40}") {
            for text in [text, json] {
                let _ = (answer_for_jsonb(&text), fit_for_jsonb(&text));
                let _ = (pick(&text, &["", "a"]), each_item(&text, |_| {}));
            }
        }
    }
}
