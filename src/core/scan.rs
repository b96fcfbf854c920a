//! JSON text in one pass and without values: its time is that of its bytes, and it holds nothing,
//! whatever the text is made of.
//!
//! The grammar is that of RFC 8259, as serde reads it. Two limits hold for all that is scanned: its
//! values and its depth.

use std::borrow::Cow;

/// Most values that a request may hold, whatever they are: each of them can become something that
/// takes many times its bytes.
pub const MAX_VALUES: usize = 500_000;
/// Deepest nesting of a request. Readers of JSON commonly stop at 128.
pub const MAX_DEPTH: usize = 100;

/// An unescaped character takes up to this many bytes of JSON.
const ESCAPED: usize = 6;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("is not JSON, at byte {0}")]
    NotJson(usize),
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("has more than {MAX_VALUES} values")]
    TooManyValues,
    #[error("gives '{0}' twice")]
    Twice(String),
    /// The text says what it should be instead.
    #[error("{0}")]
    Wrong(String),
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    True,
    False,
    Number,
    Text,
    List,
    Object,
}

/// A string of JSON, not unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    quoted: &'a str,
    is_escaped: bool,
}

impl<'a> Text<'a> {
    /// What stands between the quotes.
    pub fn raw(&self) -> &'a str {
        &self.quoted[1..self.quoted.len() - 1]
    }

    pub fn is_escaped(&self) -> bool {
        self.is_escaped
    }

    /// What it says. `None`: half of a surrogate pair, which is no text.
    pub fn said(&self) -> Option<Cow<'a, str>> {
        match self.is_escaped {
            false => Some(Cow::Borrowed(self.raw())),
            true => serde_json::from_str(self.quoted).ok().map(Cow::Owned),
        }
    }

    /// What it says, if that is at most `most` bytes long.
    pub fn said_within(&self, most: usize) -> Option<Cow<'a, str>> {
        let may_fit = self.raw().len() <= if self.is_escaped { ESCAPED * most } else { most };
        if may_fit { self.said() } else { None }
    }
}

/// A place in a JSON text.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, values: 0 }
    }

    /// One for the value of a member of an object that is read elsewhere.
    pub fn within_object(text: &'a str) -> Self {
        Self { depth: 1, ..Self::new(text) }
    }

    /// Values so far.
    pub fn values(&self) -> usize {
        self.values
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// What comes next.
    pub fn kind(&mut self) -> Result<Kind, Unfit> {
        Ok(match self.next() {
            Some(b'n') => Kind::Null,
            Some(b't') => Kind::True,
            Some(b'f') => Kind::False,
            Some(b'"') => Kind::Text,
            Some(b'[') => Kind::List,
            Some(b'{') => Kind::Object,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => return Err(self.wrong()),
        })
    }

    /// Reads a string, if one comes next.
    pub fn string(&mut self) -> Result<Text<'a>, Unfit> {
        self.next();
        self.count()?;
        self.read_string()
    }

    /// Reads the members of an object, if one comes next. `each` reads the value of its key.
    pub fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, Text<'a>) -> Result<(), Unfit>,
    ) -> Result<(), Unfit> {
        self.next();
        self.count()?;
        self.open(b'{')?;
        if self.next() == Some(b'}') {
            return self.close(b'}');
        }
        loop {
            let key = self.read_key()?;
            each(self, key)?;
            match self.next() {
                Some(b',') => self.at += 1,
                _ => return self.close(b'}'),
            }
        }
    }

    /// Reads the items of an array, if one comes next. `each` reads one.
    pub fn items(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), Unfit>,
    ) -> Result<(), Unfit> {
        self.next();
        self.count()?;
        self.open(b'[')?;
        if self.next() == Some(b']') {
            return self.close(b']');
        }
        loop {
            each(self)?;
            match self.next() {
                Some(b',') => self.at += 1,
                _ => return self.close(b']'),
            }
        }
    }

    /// Reads any value and gives its text.
    pub fn skip(&mut self) -> Result<&'a str, Unfit> {
        self.next();
        let (start, outside) = (self.at, self.depth);
        // Of each open container, the innermost last: whether it is an object.
        let mut objects = 0u128;
        loop {
            self.count()?;
            match self.next() {
                Some(open @ (b'{' | b'[')) => {
                    self.open(open)?;
                    objects = objects << 1 | u128::from(open == b'{');
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.next() != Some(close) {
                        if open == b'{' {
                            self.read_key()?;
                        }
                        continue;
                    }
                    self.close(close)?;
                    objects >>= 1;
                }
                Some(b'"') => {
                    self.read_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.read_number()?,
                Some(b'n') => self.read_word("null")?,
                Some(b't') => self.read_word("true")?,
                Some(b'f') => self.read_word("false")?,
                _ => return Err(self.wrong()),
            }
            loop {
                if self.depth == outside {
                    return Ok(&self.text[start..self.at]);
                }
                let is_object = objects & 1 == 1;
                if self.next() == Some(b',') {
                    self.at += 1;
                    if is_object {
                        self.read_key()?;
                    }
                    break;
                }
                self.close(if is_object { b'}' } else { b']' })?;
                objects >>= 1;
            }
        }
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<(), Unfit> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> Unfit {
        Unfit::NotJson(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space.
    fn next(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn count(&mut self) -> Result<(), Unfit> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(Unfit::TooManyValues) } else { Ok(()) }
    }

    fn open(&mut self, byte: u8) -> Result<(), Unfit> {
        if self.peek() != Some(byte) {
            return Err(self.wrong());
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unfit::TooDeep);
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self, byte: u8) -> Result<(), Unfit> {
        if self.next() != Some(byte) {
            return Err(self.wrong());
        }
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// A key and its colon.
    fn read_key(&mut self) -> Result<Text<'a>, Unfit> {
        self.next();
        let key = self.read_string()?;
        if self.next() != Some(b':') {
            return Err(self.wrong());
        }
        self.at += 1;
        Ok(key)
    }

    fn read_string(&mut self) -> Result<Text<'a>, Unfit> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong());
        }
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut is_escaped = false;
        self.at += 1;
        loop {
            self.at += plain(&bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text { quoted: &self.text[start..self.at], is_escaped });
                }
                Some(b'\\') => {
                    is_escaped = true;
                    self.at += match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') if is_hex(bytes.get(self.at + 2..self.at + 6)) => ESCAPED,
                        _ => return Err(self.wrong()),
                    };
                }
                _ => return Err(self.wrong()),
            }
        }
    }

    fn read_number(&mut self) -> Result<(), Unfit> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.read_digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.read_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.read_digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    fn read_digits(&mut self) -> Result<(), Unfit> {
        let digits = self.text.as_bytes()[self.at..].iter().take_while(|b| b.is_ascii_digit());
        match digits.count() {
            0 => Err(self.wrong()),
            count => {
                self.at += count;
                Ok(())
            }
        }
    }

    fn read_word(&mut self, word: &str) -> Result<(), Unfit> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong());
        }
        self.at += word.len();
        Ok(())
    }
}

fn is_hex(digits: Option<&[u8]>) -> bool {
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// How many bytes at the start are part of a string as they are: before the first quote, backslash
/// or control character. Eight at a time, by the arithmetic of "Bit Twiddling Hacks": a byte's high
/// bit is set where the byte is the one that is looked for, and the lowest of them is exact.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let special = below(word, 0x20) | is(b'"') | is(b'\\');
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
    words.len() * 8 + rest.iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn scan(text: &str) -> Result<usize, Unfit> {
        let mut scanner = Scanner::new(text);
        scanner.skip()?;
        scanner.end()?;
        Ok(scanner.values())
    }

    #[test]
    fn values_are_counted_and_not_keys() {
        for (text, values) in [
            ("null", 1),
            (" [ ] ", 1),
            (r#"{"a":[1,{"b":"x"},true],"c":-0.5e+7}"#, 7),
            (r#"["\u00e9\"\\\/\b\f\n\r\t", {}, false]"#, 4),
        ] {
            assert_eq!(scan(text), Ok(values), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "nul",
            "nulll",
            "01",
            "1.",
            ".1",
            "1e",
            "+1",
            "-",
            "[1,]",
            "[1 2]",
            "[1",
            "]",
            "{",
            "{1:2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1]"#,
            r#"[1}"#,
            "\"",
            "\"a\nb\"",
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u12"#,
            "1 1",
            "NaN",
            "'a'",
            "\u{feff}1",
        ] {
            assert!(matches!(scan(text), Err(Unfit::NotJson(_))), "{text}");
        }
    }

    #[test]
    fn depth_and_values_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(scan(&nested(MAX_DEPTH)), Ok(MAX_DEPTH));
        assert_eq!(scan(&nested(MAX_DEPTH + 1)), Err(Unfit::TooDeep));
        assert_eq!(scan(&"[".repeat(10_000_000)), Err(Unfit::TooDeep));
        let list = |values: usize| format!("[{}1]", "1,".repeat(values - 2));
        assert_eq!(scan(&list(MAX_VALUES)), Ok(MAX_VALUES));
        assert_eq!(scan(&list(MAX_VALUES + 1)), Err(Unfit::TooManyValues));
    }

    #[test]
    fn a_string_says_what_its_escapes_mean() {
        let said = |text: &str| Scanner::new(text).string().unwrap().said().map(Cow::into_owned);
        assert_eq!(said(r#""max_tok\u0065ns""#).unwrap(), "max_tokens");
        assert_eq!(said(r#""plain""#).unwrap(), "plain");
        assert_eq!(said(r#""\ud800""#), None);
        let long = format!("\"{}\\u0065\"", "x".repeat(100));
        assert_eq!(Scanner::new(&long).string().unwrap().said_within(10), None);
    }

    #[test]
    fn a_long_string_ends_where_it_ends() {
        for len in 0..40 {
            for special in ['"', '\\', '\n', '\u{1f}', ' ', 'é', '\u{7f}', '😀'] {
                let text = format!("{}{special}{}", "x".repeat(len), "y".repeat(40 - len));
                let expected = text.bytes().take_while(|b| !matches!(b, b'"' | b'\\' | 0..0x20));
                assert_eq!(plain(text.as_bytes()), expected.count(), "{text:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn it_takes_what_serde_takes(
            text in "\\PC{0,40}",
            json in "([{}\\[\\]\":,\\\\ue0-9.\\-+ \n]|null|true|\"a\"|\\{\"k\":|\\[){0,16}",
        ) {
            for text in [text, json] {
                let by_serde = serde_json::from_str::<&RawValue>(&text).is_ok();
                proptest::prop_assert_eq!(scan(&text).is_ok(), by_serde, "{}", text);
            }
        }
    }
}
