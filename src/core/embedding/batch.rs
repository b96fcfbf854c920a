//! How many inputs go into one request, and which refusals fewer of them may pass.

use crate::core::refusal::{About, Refusal};

/// Inputs of one request where nobody says, and bytes of them: what providers allow at one time is some 300,000
/// tokens (OpenAI), 2,048 inputs (OpenAI), 96 (Cohere) or 32 (text-embeddings-inference).
pub const USUAL: usize = 128;
pub const MOST_BYTES: usize = 512 * 1024;

/// Ranges of inputs that go together, in their order, by the bytes of each.
pub fn ranges(bytes: &[usize], most: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut sum) = (0, 0usize);
    for (place, own) in bytes.iter().enumerate() {
        let is_full = place - start == most.max(1) || sum.saturating_add(*own) > MOST_BYTES;
        if is_full && place > start {
            ranges.push(start..place);
            (start, sum) = (place, 0);
        }
        sum = sum.saturating_add(*own);
    }
    if start < bytes.len() {
        ranges.push(start..bytes.len());
    }
    ranges
}

/// Codes that say that a request has too many inputs, or too much in them.
const CODES: &[&str] = &["array_above_max_length", "max_tokens_per_request"];

/// Words that say it, all of a line in their order, as users of these providers report them.
const WORDS: &[(&str, &[&str])] = &[
    ("OpenAI", &["array too long"]),
    ("OpenAI", &["tokens per request"]),
    ("text-embeddings-inference", &["batch size", "maximum allowed batch size"]),
    ("Gemini", &["requests can be in one batch"]),
    ("Cohere", &["total number of texts must be at most"]),
    ("Mistral", &["too many inputs in request"]),
    ("Mistral", &["too many tokens in batch"]),
    ("Voyage", &["batch size limit"]),
    ("Voyage", &["max allowed tokens per submitted batch"]),
    ("Qwen", &["batch size is invalid"]),
    ("others", &["request too large"]),
    ("others", &["payload too large"]),
    ("others", &["too many inputs"]),
];

/// Whether the same request may pass with fewer inputs.
pub fn is_too_large(refusal: &Refusal) -> bool {
    if refusal.about == About::TooLong || refusal.status == 413 {
        return true;
    }
    if !matches!(refusal.status, 400 | 422) || refusal.about != About::Other {
        return false;
    }
    let code = refusal.code.as_deref().unwrap_or_default().to_lowercase();
    let words = refusal.message.as_deref().unwrap_or_default().to_lowercase();
    let says = |parts: &[&str]| {
        let mut rest = words.as_str();
        parts.iter().all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    };
    CODES.contains(&code.as_str()) || WORDS.iter().any(|(_, parts)| says(parts))
}
