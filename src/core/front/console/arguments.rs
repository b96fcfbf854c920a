//! The arguments of a statement: what a query or a body says, as the text of one JSON object with none but the
//! statement's parameters.

use crate::core::front::console::statements::Statement;
use crate::core::json;
use crate::error::Error;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Most bytes of a body.
pub const LONGEST_BODY: usize = 64 * 1024;
/// Most bytes of one value, and most values of a list.
const LONGEST_TEXT: usize = 16 * 1024;
const MOST_TEXTS: usize = 256;
/// Most characters of a number: what PostgreSQL counts with has no more.
const LONGEST_NUMBER: usize = 40;
/// Most characters that are repeated of a stranger's name.
const MOST_REPEATED: usize = 64;

/// Of a query: each parameter at most once, all of them texts. One that is empty is as good as not given.
pub fn of_query(statement: &Statement, query: Option<&str>) -> Result<String, Error> {
    let mut arguments = Map::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = known(statement, &unescaped(name)?)?;
        let value = text(name, unescaped(value)?)?;
        if arguments.insert(name.to_owned(), value).is_some() {
            return Err(Error::bad_request(format!("{name} is given twice")));
        }
    }
    arguments.retain(|_, value| *value != "");
    Ok(Value::Object(arguments).to_string())
}

/// Of a body: texts, numbers, true, false, null and lists of texts.
pub fn of_body(statement: &Statement, body: &str) -> Result<String, Error> {
    if body.len() > LONGEST_BODY {
        let unit = "bytes".to_owned();
        return Err(Error::RequestBeyond { limit: LONGEST_BODY as u64, unit });
    }
    let members = json::members(body).map_err(Error::unfit)?;
    let mut arguments = Map::new();
    for (name, value) in members {
        let name = known(statement, &name)?;
        arguments.insert(name.to_owned(), checked(name, value)?);
    }
    Ok(Value::Object(arguments).to_string())
}

/// The parameter of this name.
fn known(statement: &Statement, name: &str) -> Result<&'static str, Error> {
    let parameters = statement.parameters;
    parameters.iter().find(|known| **known == name).copied().ok_or_else(|| {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(MOST_REPEATED).collect();
        let hint = match parameters {
            [] => format!("{} takes none.", statement.name),
            _ => format!("{} takes {}.", statement.name, parameters.join(", ")),
        };
        Error::bad_request_hint(format!("there is no parameter '{shown}'"), hint)
    })
}

/// What a part of a query says (application/x-www-form-urlencoded).
fn unescaped(part: &str) -> Result<String, Error> {
    let wrong = || Error::bad_request("the query is not escaped as one");
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(wrong()) };
                let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or_else(wrong);
                bytes.push((digit(high)? << 4 | digit(low)?) as u8);
                rest = after;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A value, if it is of a kind that statements take.
fn checked(name: &str, value: &RawValue) -> Result<Value, Error> {
    let raw = value.get();
    let wrong = || {
        Error::bad_request(format!(
            "{name} must be a text, a number, true, false, null or a list of texts"
        ))
    };
    match raw.as_bytes().first() {
        Some(b'"') => text(name, serde_json::from_str(raw).map_err(|_| wrong())?),
        Some(b'[') => {
            let texts: Vec<String> = serde_json::from_str(raw).map_err(|_| wrong())?;
            if texts.len() > MOST_TEXTS {
                let message = format!("{name} has more than {MOST_TEXTS} texts");
                return Err(Error::bad_request(message));
            }
            texts.into_iter().map(|one| text(name, one)).collect::<Result<_, _>>().map(Value::Array)
        }
        Some(b'{') | None => Err(wrong()),
        Some(b't' | b'f' | b'n') => serde_json::from_str(raw).map_err(|_| wrong()),
        // Its digits as they came: as a float it could be another number.
        Some(_) => match is_plain(raw) {
            true => Ok(Value::String(raw.to_owned())),
            false => Err(Error::bad_request(format!(
                "{name} must be a number of at most {LONGEST_NUMBER} digits, without an exponent"
            ))),
        },
    }
}

/// Whether a JSON number is short and has no exponent.
fn is_plain(number: &str) -> bool {
    number.len() <= LONGEST_NUMBER && !number.contains(['e', 'E'])
}

/// A text that `jsonb` can hold and that is not too long.
fn text(name: &str, text: String) -> Result<Value, Error> {
    if text.len() > LONGEST_TEXT {
        return Err(Error::bad_request(format!("{name} has more than {LONGEST_TEXT} bytes")));
    }
    if text.contains('\0') {
        return Err(Error::bad_request(format!("{name} holds a character that cannot be stored")));
    }
    Ok(Value::String(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::front::console::statements::Method;
    use proptest::prelude::*;
    use serde_json::json;

    const STATEMENT: Statement = Statement {
        name: "x",
        method: Method::Get,
        parameters: &["a", "user_id", "list"],
        sql: "",
        asks_providers: false,
    };

    fn query(query: &str) -> Result<Value, String> {
        read(of_query(&STATEMENT, Some(query)))
    }

    fn body(body: &str) -> Result<Value, String> {
        read(of_body(&STATEMENT, body))
    }

    fn read(arguments: Result<String, Error>) -> Result<Value, String> {
        let text = arguments.map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_query_is_an_object_of_texts() {
        for (given, expected) in [
            ("", json!({})),
            ("&&", json!({})),
            ("a=1", json!({"a": "1"})),
            ("a=x+y%20z%2B&user_id=%C3%A9", json!({"a": "x y z+", "user_id": "é"})),
            ("a=", json!({})),
            ("a", json!({})),
            ("a==", json!({"a": "="})),
            ("%61=1", json!({"a": "1"})),
            (r#"a=","role":"postgres"#, json!({"a": r#"","role":"postgres"#})),
        ] {
            assert_eq!(query(given), Ok(expected), "{given}");
        }
        assert_eq!(read(of_query(&STATEMENT, None)), Ok(json!({})));
    }

    #[test]
    fn a_query_that_says_something_else_is_refused() {
        let long = format!("a={}", "x".repeat(LONGEST_TEXT + 1));
        for (given, expected) in [
            ("b=1", "there is no parameter 'b'"),
            ("role=postgres", "there is no parameter 'role'"),
            ("a%00=1", "there is no parameter 'a'"),
            ("A=1", "there is no parameter 'A'"),
            ("a=1&a=2", "a is given twice"),
            ("a=&a=2", "a is given twice"),
            ("a=%", "the query is not escaped as one"),
            ("a=%4", "the query is not escaped as one"),
            ("a=%zz", "the query is not escaped as one"),
            ("a=%+1", "the query is not escaped as one"),
            ("a=%ff", "the query is not escaped as one"),
            ("a=%00", "a holds a character that cannot be stored"),
            (&long, "a has more than 16384 bytes"),
        ] {
            assert_eq!(query(given), Err(expected.to_owned()), "{given}");
        }
    }

    #[test]
    fn a_body_is_an_object_of_plain_values() {
        let given = r#"{"a": "\u00e9\n", "user_id": null, "list": ["x", ""]}"#;
        assert_eq!(body(given), Ok(json!({"a": "é\n", "user_id": null, "list": ["x", ""]})));
        for (given, expected) in [
            ("{}", json!({})),
            (r#"{"a": true, "list": []}"#, json!({"a": true, "list": []})),
            (r#"{"\u0061": false}"#, json!({"a": false})),
            // Every digit is kept.
            (
                r#"{"a": 12345678901234567890.10, "list": -0.1}"#,
                json!({"a": "12345678901234567890.10", "list": "-0.1"}),
            ),
        ] {
            assert_eq!(body(given), Ok(expected), "{given}");
        }
    }

    #[test]
    fn a_body_that_says_something_else_is_refused() {
        let kinds = "a must be a text, a number, true, false, null or a list of texts";
        let number = "a must be a number of at most 40 digits, without an exponent";
        let digits = format!(r#"{{"a": {}}}"#, "1".repeat(LONGEST_NUMBER + 1));
        let many = format!(r#"{{"a": [{}""]}}"#, r#""","#.repeat(MOST_TEXTS));
        let large = format!(r#"{{"a": [{}""]}}"#, r#""","#.repeat(LONGEST_BODY));
        let deep = format!(r#"{{"a": {}"#, "[".repeat(LONGEST_BODY - 10));
        for (given, expected) in [
            ("", "the request must be a JSON object"),
            ("[]", "the request must be a JSON object"),
            ("null", "the request must be a JSON object"),
            (r#""a""#, "the request must be a JSON object"),
            (r#"{"a": 1"#, "the request must be a JSON object"),
            (r#"{"a": 1} {}"#, "the request must be a JSON object"),
            (r#"{"a": nul}"#, "the request must be a JSON object"),
            (r#"{"a": 01}"#, "the request must be a JSON object"),
            (r#"{"a": 1, "role": "postgres"}"#, "there is no parameter 'role'"),
            (r#"{"a": {}}"#, kinds),
            (r#"{"a": [1]}"#, kinds),
            (r#"{"a": [["x"]]}"#, kinds),
            (r#"{"a": [null]}"#, kinds),
            (r#"{"a": 1e5}"#, number),
            (r#"{"a": 1E400000}"#, number),
            (&digits, number),
            (&many, "a has more than 256 texts"),
            (r#"{"a": "\u0000"}"#, "a holds a character that cannot be stored"),
            (r#"{"a": ["\u0000"]}"#, "a holds a character that cannot be stored"),
            (&large, "the request has more than 65536 bytes"),
        ] {
            assert_eq!(body(given), Err(expected.to_owned()), "{given:.100}");
        }
        assert!(body(&deep).is_err());
        let twice = body(r#"{"a": 1, "\u0061": 2}"#).unwrap_err();
        assert!(twice.contains("'a'"), "{twice}");
        assert!(body(r#"{"a": "\ud800"}"#).is_err());
    }

    proptest! {
        #[test]
        fn what_is_taken_has_no_other_members_and_says_what_was_said(
            name in "a|user_id|list|role|\\PC{0,8}",
            value in "\\PC{0,40}",
        ) {
            let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let from_query = query(&format!("{}={}", escape(&name), escape(&value)));
            let from_body = body(&json!({&name: &value}).to_string());
            if STATEMENT.parameters.contains(&name.as_str()) {
                prop_assert_eq!(from_body, Ok(json!({&name: &value})));
                let expected = if value.is_empty() { json!({}) } else { json!({&name: &value}) };
                prop_assert_eq!(from_query, Ok(expected));
            } else {
                prop_assert!(from_body.is_err());
                // Nothing at all is no name.
                prop_assert!(from_query.is_err() || name.is_empty() && value.is_empty());
            }
        }

        #[test]
        fn nothing_from_outside_panics(
            query_text in "(a|user_id|=|&|%|%2|%41|\\+|\\PC){0,20}",
            body_text in "(\\{|\\}|\\[|\\]|,|:|\"a\"|\"|1|e|-|null|\\\\u0000|\\PC){0,20}",
        ) {
            let _ = (query(&query_text), body(&body_text));
        }
    }
}
