//! Token counts for calls whose usage never came: a stream that broke before its last chunk, say.
//!
//! Deliberately simple: no tokenizer is right for every model, and none is needed for a number
//! that is marked as an estimate. English text and code have about four bytes a token; other
//! scripts have about one character a token.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

const ASCII_BYTES_PER_TOKEN: usize = 4;
/// What the role and the marks around a message take.
const TOKENS_PER_MESSAGE: usize = 4;

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

    /// Counts what another counter has counted.
    pub fn add_all(&mut self, other: Self) {
        self.ascii += other.ascii;
        self.others += other.others;
    }

    /// The estimate for all text so far; at least 1 unless there was none.
    pub fn tokens(&self) -> i32 {
        to_i32(self.exact())
    }

    fn exact(&self) -> usize {
        self.ascii.div_ceil(ASCII_BYTES_PER_TOKEN).saturating_add(self.others)
    }
}

/// About how many tokens the `messages` of a request in OpenAI's form have, and its `tools`.
/// Images, audio and files are left out: their base64 has nothing to do with their tokens. 0 for
/// what is no request.
pub fn prompt_tokens(body: &str) -> i32 {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
        #[serde(borrow)]
        tools: Option<&'a RawValue>,
    }
    let Ok(request) = serde_json::from_str::<Request>(body) else { return 0 };
    let mut counter = Counter::default();
    counter.add(request.tools.map_or("", RawValue::get));
    tokens_of(&request.messages, counter)
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
    let list: Vec<&RawValue> = serde_json::from_str(messages).ok()?;
    let mut is_text = true;
    for message in &list {
        is_text &= is_text_only(serde_json::from_str(message.get()).ok()?);
    }
    let tokens = tokens_of(&list, Counter::default());
    Some(PromptSize { tokens, bytes: messages.len(), is_text })
}

fn is_text_only(message: Map<String, Value>) -> bool {
    let is_text = |part: &Value| matches!(part["type"].as_str(), Some("text" | "refusal"));
    let content = match message.get("content") {
        Some(Value::Array(parts)) => parts.iter().all(is_text),
        Some(Value::Object(_)) => false,
        _ => true,
    };
    // An earlier answer in sound is named by its id alone.
    content && message.get("audio").is_none_or(Value::is_null)
}

fn tokens_of(messages: &[&RawValue], mut counter: Counter) -> i32 {
    for message in messages {
        count_message(message.get(), &mut counter);
    }
    let overhead = messages.len().saturating_mul(TOKENS_PER_MESSAGE);
    to_i32(counter.exact().saturating_add(overhead))
}

fn count_message(message: &str, counter: &mut Counter) {
    #[derive(Deserialize)]
    struct Message<'a> {
        content: Option<Value>,
        #[serde(borrow)]
        tool_calls: Option<&'a RawValue>,
    }
    let Ok(message) = serde_json::from_str::<Message>(message) else { return };
    counter.add(message.tool_calls.map_or("", RawValue::get));
    match message.content {
        Some(Value::String(text)) => counter.add(&text),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part["text"].as_str()).for_each(|text| counter.add(text))
        }
        _ => {}
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_no_request_counts_nothing() {
        let bomb = format!(r#"{{"messages":[{{"content":{}]}}"#, "[".repeat(100_000));
        for body in ["", "[]", "{}", r#"{"messages":7}"#, &bomb] {
            assert_eq!(prompt_tokens(body), 0);
        }
        let odd = r#"{"messages":[1,null,{"content":1e999},{"content":[3,{"text":4}]}]}"#;
        assert_eq!(prompt_tokens(odd), 16);
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
