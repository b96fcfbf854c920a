//! Token counts for calls whose usage never came: a stream that broke before its last chunk, say.
//!
//! Deliberately simple: no tokenizer is right for every model, and none is needed for a number
//! that is marked as an estimate. English text and code have about four bytes a token; other
//! scripts have about one character a token.

use crate::core::request;
use crate::core::scan::Text;
use serde::Serialize;

const ASCII_BYTES_PER_TOKEN: usize = 4;

/// Counts text that comes in pieces, without rounding each piece up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    ascii: usize,
    others: usize,
}

impl Counter {
    /// Counts a piece of text.
    pub fn add(&mut self, text: &str) {
        let ascii = text.bytes().filter(u8::is_ascii).count();
        self.ascii += ascii;
        // Each character has one byte that does not continue another.
        self.others += text.bytes().filter(|byte| *byte >= 0xC0).count();
    }

    /// Counts what a string of JSON says.
    pub fn add_json(&mut self, text: Text<'_>) {
        if !text.is_escaped() {
            return self.add(text.raw());
        }
        let mut rest = text.raw();
        while let Some((plain, escape)) = rest.split_once('\\') {
            self.add(plain);
            // The backslash is gone: one letter follows, or `u` and four digits.
            rest = match escape.strip_prefix('u').and_then(|digits| digits.split_at_checked(4)) {
                Some((digits, rest)) => {
                    match u16::from_str_radix(digits, 16) {
                        Ok(..0x80) => self.ascii += 1,
                        // The second half of a pair belongs to the first.
                        Ok(0xDC00..0xE000) => {}
                        _ => self.others += 1,
                    }
                    rest
                }
                None => {
                    self.ascii += 1;
                    &escape[1..]
                }
            };
        }
        self.add(rest);
    }

    /// Counts what another counter has counted.
    pub fn add_all(&mut self, other: Self) {
        self.ascii += other.ascii;
        self.others += other.others;
    }

    /// The estimate for all text so far; at least 1 unless there was none.
    pub fn tokens(&self) -> i32 {
        to_i32(self.exact())
    }

    /// The estimate for all text so far, and tokens beside it.
    pub fn tokens_and(&self, more: usize) -> i32 {
        to_i32(self.exact().saturating_add(more))
    }

    fn exact(&self) -> usize {
        self.ascii.div_ceil(ASCII_BYTES_PER_TOKEN).saturating_add(self.others)
    }
}

/// How large messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptSize {
    /// About how many tokens their texts have.
    pub tokens: i32,
    /// No tokenizer makes more tokens than this of their texts and of the marks around them.
    pub bytes: usize,
    /// Nothing but text: no image, audio or file, of which the bytes say nothing.
    pub is_text: bool,
}

/// How large the `messages` of a request in OpenAI's form are; `None` for what is not a list of
/// messages.
pub fn prompt_size(messages: &str) -> Option<PromptSize> {
    let found = request::messages(messages).ok()?;
    Some(PromptSize { tokens: found.tokens, bytes: messages.len(), is_text: found.is_text })
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::scan::Scanner;

    fn tokens(text: &str) -> i32 {
        let mut counter = Counter::default();
        counter.add(text);
        counter.tokens()
    }

    #[test]
    fn four_ascii_bytes_or_one_other_character_a_token() {
        for (text, expected) in [("", 0), ("a", 1), ("four", 1), ("fours", 2), ("漢字", 2)] {
            assert_eq!(tokens(text), expected, "{text}");
        }
        assert_eq!(tokens("naïve 😀"), 4);
    }

    #[test]
    fn pieces_are_not_rounded_up() {
        let mut counter = Counter::default();
        "a text in pieces".chars().for_each(|c| counter.add(&c.to_string()));
        assert_eq!(counter.tokens(), tokens("a text in pieces"));
    }

    fn prompt_tokens(body: &str) -> i32 {
        request::outline(body).unwrap().prompt_tokens
    }

    #[test]
    fn a_prompt_is_its_texts() {
        let text = r#"{"model":"m","messages":[{"role":"user","content":"12345678"}]}"#;
        assert_eq!(prompt_tokens(text), 2 + 4);
        let parts = format!(
            r#"{{"messages":[{{"role":"system","content":"1234"}},{{"content":[
                {{"type":"text","text":"12345678"}},
                {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
            "A".repeat(10_000)
        );
        assert_eq!(prompt_tokens(&parts), 3 + 8);
    }

    #[test]
    fn tools_and_their_calls_are_part_of_a_prompt() {
        let calls = r#"{"messages":[{"content":null,"tool_calls":[1,2]}],"tools":[{"n":12345}]}"#;
        assert_eq!(prompt_tokens(calls), 5 + 4);
    }

    #[test]
    fn what_is_no_request_has_no_size() {
        let bomb = format!(r#"{{"messages":[{{"content":{}]}}"#, "[".repeat(100_000));
        for body in ["", "[]", r#"{"messages":7}"#, r#"{"messages":[1]}"#, &bomb] {
            assert!(request::outline(body).is_err(), "{}", &body[..body.len().min(40)]);
        }
    }

    #[test]
    fn the_size_of_messages() {
        let text = r#"[{"role":"user","content":"12345678"}]"#;
        let size = prompt_size(text).unwrap();
        assert_eq!((size.tokens, size.bytes, size.is_text), (2 + 4, text.len(), true));
        for (message, is_text) in [
            (r#"{"content":null}"#, true),
            (r#"{"content":[{"type":"text","text":"a"}]}"#, true),
            (r#"{"content":[{"type":"image_url"}]}"#, false),
            (r#"{"content":[{"type":"text","text":"a"},{"type":"input_audio"}]}"#, false),
            (r#"{"content":[7]}"#, false),
            (r#"{"content":{}}"#, false),
            (r#"{"content":"a","audio":{"id":"x"}}"#, false),
        ] {
            assert_eq!(prompt_size(&format!("[{message}]")).unwrap().is_text, is_text, "{message}");
        }
        for odd in ["", "{}", "7", "[1]", "[null]"] {
            assert_eq!(prompt_size(odd), None, "{odd}");
        }
    }

    proptest::proptest! {
        #[test]
        fn escapes_count_as_what_they_say(text in "(\\PC|[\"\\\\\n\u{0}-\u{1f}/é😀]){0,40}") {
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = serde_json::to_string(&text).unwrap();
            for json in [json, format!("\"{escaped}\"")] {
                let mut counter = Counter::default();
                counter.add_json(Scanner::new(&json).string().unwrap());
                proptest::prop_assert_eq!(counter.tokens(), tokens(&text));
            }
        }

        #[test]
        fn an_estimate_is_within_its_bound(text in "\\PC{0,60}") {
            let messages = serde_json::json!([{"role": "user", "content": text}]).to_string();
            let size = prompt_size(&messages).unwrap();
            proptest::prop_assert!(size.tokens as usize <= size.bytes);
        }

        #[test]
        fn text_always_counts(text in "\\PC{1,60}") {
            proptest::prop_assert!((1..=60).contains(&tokens(&text)));
        }
    }
}
