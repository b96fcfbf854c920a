//! Texts that are nearly JSON. Some upstreams write what JSON has no word for, mostly in places that nobody
//! reads; that must not cost an answer that is paid for, nor a list of models.

use serde::de::IgnoredAny;
use std::borrow::Cow;

/// What a short text may grow by.
const SLACK: usize = 1024;
/// More say nothing new.
const MOST_MARKS: usize = 1000;
const BOM: char = '\u{feff}';

/// What Python, Go and C write for numbers that are none, longest first; each may have a sign.
const NO_NUMBERS: [&str; 3] = ["infinity", "nan", "inf"];

/// A body as text: bytes that are not UTF-8 become U+FFFD, and a byte order mark is left out. `None`: it would
/// be longer than `limit` bytes, since each bad byte becomes three.
pub fn text(body: Vec<u8>, limit: usize) -> Option<String> {
    let text = match String::from_utf8(body) {
        Ok(text) => text,
        Err(bad) => {
            let bytes = bad.as_bytes();
            let len = bytes.utf8_chunks().map(|chunk| {
                chunk.valid().len() + if chunk.invalid().is_empty() { 0 } else { BOM.len_utf8() }
            });
            if len.sum::<usize>() > limit {
                return None;
            }
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    Some(match text.strip_prefix(BOM) {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The text as JSON, where only this stands in the way: a byte order mark, `NaN` and `Infinity`, control
/// characters in a string, backslashes that escape nothing. What is not JSON even so stays as it is.
pub fn json(text: &str) -> Cow<'_, str> {
    marked_json(text).0
}

/// Likewise, and where in it something was replaced, of the first places.
pub fn marked_json(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    let text = text.trim_start_matches(BOM);
    if is_json(text) {
        return (Cow::Borrowed(text), Vec::new());
    }
    match replaced(text) {
        Some((mended, marks)) if is_json(&mended) => (Cow::Owned(mended), marks),
        _ => (Cow::Borrowed(text), Vec::new()),
    }
}

pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// `None`: nothing was replaced, or the text would grow to more than twice its length and a little.
fn replaced(text: &str) -> Option<(String, Vec<usize>)> {
    let bytes = text.as_bytes();
    let (mut out, mut marks) = (String::new(), Vec::new());
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while let Some(&byte) = bytes.get(at) {
        let (len, instead) = match byte {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => escape(&bytes[at..]),
            0..0x20 if in_string => (1, Some(format!("\\u{byte:04x}"))),
            _ if !in_string => match no_number(&bytes[at..]) {
                Some(len) => (len, Some("null".to_owned())),
                // The rest of a word or a number, so that nothing is found in its middle.
                None => (bytes[at..].iter().take_while(|b| is_word(**b)).count().max(1), None),
            },
            _ => (1, None),
        };
        if let Some(instead) = instead {
            out.push_str(&text[copied..at]);
            if marks.len() < MOST_MARKS {
                marks.push(out.len());
            }
            out.push_str(&instead);
            copied = at + len;
            if out.len() > 2 * text.len() + SLACK {
                return None;
            }
        }
        at += len;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    Some((out, marks))
}

/// The length of the escape at the start of `rest`, and what to write where it is none: the backslash as it is.
fn escape(rest: &[u8]) -> (usize, Option<String>) {
    match rest.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => (2, None),
        Some(b'u') if rest.get(2..6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => {
            (6, None)
        }
        _ => (1, Some("\\\\".to_owned())),
    }
}

/// The length of what is no number, with its sign, at the start of `rest`.
fn no_number(rest: &[u8]) -> Option<usize> {
    let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
    NO_NUMBERS.iter().find_map(|word| {
        let end = sign + word.len();
        let is_it = rest.get(sign..end)?.eq_ignore_ascii_case(word.as_bytes());
        (is_it && !rest.get(end).is_some_and(|byte| is_word(*byte))).then_some(end)
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_bad_byte_is_replaced_and_a_byte_order_mark_left_out() {
        assert_eq!(
            text(b"\xEF\xBB\xBF{\"a\":\"x\xFFy\"}".to_vec(), 99).unwrap(),
            "{\"a\":\"x\u{fffd}y\"}"
        );
        assert_eq!(text("né\u{feff}".into(), 1).unwrap(), "né\u{feff}");
        assert_eq!(text(b"\xF0\x9F".to_vec(), 3).unwrap(), "\u{fffd}");
        // Each bad byte takes three, and the limit holds for those.
        assert_eq!(text(vec![0xFF; 10], 30).unwrap().len(), 30);
        assert_eq!(text(vec![0xFF; 10], 29), None);
    }

    #[test]
    fn what_is_json_stays_as_it_is() {
        for good in [r#"{"a":"NaN \\ inf","b":[1e-7,null]}"#, "7", " [] "] {
            assert!(matches!(json(good), Cow::Borrowed(same) if same == good), "{good}");
        }
    }

    #[test]
    fn numbers_that_are_none_become_null() {
        for (bad, mended) in [
            (r#"{"a":NaN,"b":"NaN","c":1}"#, r#"{"a":null,"b":"NaN","c":1}"#),
            ("[-Infinity,Infinity,+inf,-nan,nan]", "[null,null,null,null,null]"),
            ("{\"a\": NaN\n}", "{\"a\": null\n}"),
            ("\u{feff}{}", "{}"),
        ] {
            assert_eq!(json(bad), mended);
        }
    }

    #[test]
    fn strings_keep_what_they_say() {
        for (bad, says) in
            [("\"a\nb\tc\"", "a\nb\tc"), (r#""\d+ \'q\' \u12 \n""#, "\\d+ \\'q\\' \\u12 \n")]
        {
            assert_eq!(serde_json::from_str::<String>(&json(bad)).unwrap(), says);
        }
    }

    #[test]
    fn what_is_no_json_even_so_stays_as_it_is() {
        for bad in
            ["", "NaNny", "[nanobot]", "{\"a\":NaN", "[inf,", "\"x", "<html>", "[1.inf]", "\"\\"]
        {
            assert_eq!(json(bad), bad);
        }
        // It would grow to six times its length.
        let bomb = format!("\"{}\"", "\u{1}".repeat(1000));
        assert_eq!(json(&bomb), bomb);
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
            json_like in "([{}\\[\\]\":,\\\\ue0-9.\\-+ \n\t]|NaN|inf|-Infinity|\"a\"|é){0,20}",
        ) {
            let text = text(bytes, 200).unwrap_or_default();
            for text in [text, json_like] {
                let mended = json(&text);
                let was = serde_json::from_str::<Value>(&text);
                // What was JSON says the same.
                if let Ok(was) = was {
                    proptest::prop_assert_eq!(serde_json::from_str::<Value>(&mended).unwrap(), was);
                }
            }
        }
    }
}
