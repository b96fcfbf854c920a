//! A request as what it says, so that two texts that say the same are one: without white space, members in the
//! order of their names, strings with one spelling of each character. Numbers stay as they are written: `1.0` is
//! another than `1`.

use crate::core::front::write::quoted;
use crate::core::scan::{Kind, Scanner, Text, Unfit};

/// What says how the answer is brought, and nothing of what it is.
const ABOUT_DELIVERY: &[&str] = &["stream_options"];

/// The canonical text of a request in OpenAI's form, an object.
pub fn request(body: &str) -> Result<String, Unfit> {
    let mut scanner = Scanner::new(body);
    let mut out = String::with_capacity(body.len());
    if scanner.kind()? != Kind::Object {
        return Err(Unfit::Wrong("must be a JSON object".to_owned()));
    }
    object(&mut scanner, &mut out, ABOUT_DELIVERY)?;
    scanner.end()?;
    Ok(out)
}

fn value(scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), Unfit> {
    match scanner.kind()? {
        Kind::Object => object(scanner, out, &[]),
        Kind::List => {
            out.push('[');
            let mut is_first = true;
            scanner.items(|scanner| {
                if !std::mem::take(&mut is_first) {
                    out.push(',');
                }
                value(scanner, out)
            })?;
            out.push(']');
            Ok(())
        }
        Kind::Text => {
            out.push_str(&spelled(scanner.string()?));
            Ok(())
        }
        Kind::Null | Kind::True | Kind::False | Kind::Number => {
            out.push_str(scanner.skip()?);
            Ok(())
        }
    }
}

/// A member that is given twice stays so, in the order of its text: which of them holds is not for us to say.
fn object(scanner: &mut Scanner<'_>, out: &mut String, but: &[&str]) -> Result<(), Unfit> {
    let start = out.len();
    // The name of each member, and where its text begins.
    let mut members: Vec<(String, usize)> = Vec::new();
    scanner.members(|scanner, key| {
        if key.said().is_some_and(|said| but.contains(&&*said)) {
            return scanner.skip().map(drop);
        }
        let name = spelled(key);
        members.push((name.clone(), out.len()));
        out.push_str(&name);
        out.push(':');
        value(scanner, out)
    })?;
    let written = out[start..].to_owned();
    let ends = members.iter().skip(1).map(|(_, at)| at - start).chain([written.len()]);
    let mut pieces: Vec<(&str, &str)> = members
        .iter()
        .zip(ends)
        .map(|((name, at), end)| (name.as_str(), &written[at - start..end]))
        .collect();
    pieces.sort_by(|one, other| one.0.cmp(other.0));
    out.truncate(start);
    out.push('{');
    for (place, (_, piece)) in pieces.into_iter().enumerate() {
        out.push_str(if place > 0 { "," } else { "" });
        out.push_str(piece);
    }
    out.push('}');
    Ok(())
}

/// A string in the one spelling of what it says. Half of a surrogate pair says nothing, and stays as written.
fn spelled(text: Text<'_>) -> String {
    match text.said() {
        Some(said) => quoted(&said),
        None => format!("\"{}\"", text.raw()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        request(one).unwrap() == request(other).unwrap()
    }

    #[test]
    fn order_and_white_space_and_escapes_do_not_matter() {
        assert_eq!(
            request(" {\"b\" : [ 1 , {\"d\":null,\"c\":true} ],\n\"a\":\"x\" } ").unwrap(),
            r#"{"a":"x","b":[1,{"c":true,"d":null}]}"#
        );
        assert!(same(r#"{"a":"\u0041\/\u00e9","b":2}"#, r#"{"b":2,"\u0061":"A/é"}"#));
        assert!(same("{}", " { } "));
        assert!(same(r#"{"a":1,"stream_options":{"include_usage":true}}"#, r#"{"a":1}"#));
    }

    #[test]
    fn what_says_something_else_stays_apart() {
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":{"stream_options":1}}"#, r#"{"a":{}}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":"\ud800"}"#, r#"{"a":"\ud801"}"#),
            (r#"{"a":"b","c":"d"}"#, r#"{"a":"b\",\"c\":\"d"}"#),
            (r#"{"ab":"c"}"#, r#"{"a":"bc"}"#),
            (r#"{"a":" x"}"#, r#"{"a":"x"}"#),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "{", r#"{"a":}"#, "{} {}", &"[".repeat(200)] {
            assert!(request(text).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(request(&deep), Err(Unfit::TooDeep));
    }

    proptest::proptest! {
        #[test]
        fn it_says_what_the_text_says(json in "([{}\\[\\]\":,\\\\ue0-9.\\-+ \n]|null|\"a\"|\\{\"k\":|\\[){0,16}") {
            let text = format!("{{\"x\":{json}}}");
            if let Ok(canonical) = request(&text) {
                // Once more changes nothing, and it is JSON of the same value.
                proptest::prop_assert_eq!(request(&canonical).unwrap(), canonical.clone());
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                    proptest::prop_assert_eq!(
                        serde_json::from_str::<serde_json::Value>(&canonical).unwrap(), value);
                }
            }
        }
    }
}
