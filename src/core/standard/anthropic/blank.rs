//! Blank texts. Anthropic refuses a block of text that is empty or white space only ("text content blocks must be
//! non-empty", "text content blocks must contain non-whitespace text"), where OpenAI takes it; models write `"\n\n"`
//! beside a tool call, and tools give back `" "`. Nothing is said in it, so it is left out wherever it stands.

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// White space as Python's `strip` has it, by which Anthropic and its own clients trim: Unicode's, and the four
/// separators of ASCII.
pub(super) fn is_white(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(is_white)
}

/// A block in Anthropic's form whose `content` has no blank text any more. `None`: it has none as it is, or cannot
/// be read, and Anthropic will say what is wrong.
pub(super) fn without_blank_content(raw: &RawValue) -> Option<Box<RawValue>> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).ok()?;
    let rest = match without_blanks(members.get("content")?) {
        Without::Same => return None,
        Without::Nothing => None,
        Without::Some(rest) => Some(rest),
    };
    match &rest {
        Some(rest) => members.insert("content".to_owned(), rest),
        None => members.remove("content"),
    };
    to_raw_value(&members).ok()
}

/// What is left of a content without its blank texts.
pub(super) enum Without {
    /// It has none, or is not of a form that has.
    Same,
    Nothing,
    Some(Box<RawValue>),
}

/// Of a text or a list of blocks in Anthropic's form.
pub(super) fn without_blanks(content: &RawValue) -> Without {
    if content.get().starts_with('"') {
        let text: Option<String> = serde_json::from_str(content.get()).ok();
        return if text.is_some_and(|text| is_blank(&text)) {
            Without::Nothing
        } else {
            Without::Same
        };
    }
    let Ok(mut blocks) = serde_json::from_str::<Vec<&RawValue>>(content.get()) else {
        return Without::Same;
    };
    let before = blocks.len();
    blocks.retain(|block| !is_blank_block(block));
    match blocks.len() {
        0 if before > 0 => Without::Nothing,
        after if after == before => Without::Same,
        _ => to_raw_value(&blocks).map_or(Without::Same, Without::Some),
    }
}

fn is_blank_block(block: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Block {
        #[serde(rename = "type")]
        kind: String,
        text: String,
    }
    serde_json::from_str::<Block>(block.get())
        .is_ok_and(|block| block.kind == "text" && is_blank(&block.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_alone_is_blank() {
        for blank in ["", " ", "\n\n", "\t\r\n", "\u{a0}\u{2003}\u{3000}", "\u{1c}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        // A zero-width space is a character.
        for text in ["x", " . ", "\u{200b}"] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn only_blank_texts_are_left_out_of_a_native_block() {
        for (block, left) in [
            (r#"{"type":"tool_result","content":" "}"#, Some(r#"{"type":"tool_result"}"#)),
            (r#"{"content":[{"type":"text","text":"\n"}],"a":1.50}"#, Some(r#"{"a":1.50}"#)),
            (
                r#"{"content":[{"type":"text","text":"\n"},{"type":"image"},{"type":"text","text":"x"}]}"#,
                Some(r#"{"content":[{"type":"image"},{"type":"text","text":"x"}]}"#),
            ),
            (r#"{"content":"x"}"#, None),
            (r#"{"content":[]}"#, None),
            (r#"{"content":7}"#, None),
            (r#"{"is_error":true}"#, None),
        ] {
            let raw = RawValue::from_string(block.to_owned()).unwrap();
            let kept = without_blank_content(&raw);
            assert_eq!(kept.as_deref().map(RawValue::get), left, "{block}");
        }
    }
}
