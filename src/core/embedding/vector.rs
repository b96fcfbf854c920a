//! Vectors of numbers of 32 bits, as they come and go: base64 of their bytes, little endian, which takes half of what
//! a list of numbers does, or such a list.

use super::MOST_DIMENSIONS;
use crate::core::json;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Padding is left out by some.
const READER: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a vector, a text of base64 or a list of numbers, into its bytes. The error says what it is instead.
pub fn read(value: &RawValue, bytes: &mut Vec<u8>) -> Result<(), &'static str> {
    bytes.clear();
    match value.get().as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> =
                serde_json::from_str(value.get()).map_err(|_| "an embedding that is no text")?;
            if text.len() > 2 * 4 * MOST_DIMENSIONS {
                return Err("an embedding with more numbers than any has");
            }
            READER
                .decode_vec(text.as_bytes(), bytes)
                .map_err(|_| "an embedding that is not base64")?;
        }
        Some(b'[') => {
            let mut wrong = None;
            let is_list = json::each_item(value.get(), |item| {
                if wrong.is_some() {
                    return;
                }
                if bytes.len() == 4 * MOST_DIMENSIONS {
                    wrong = Some("an embedding with more numbers than any has");
                    return;
                }
                match number(item.get()) {
                    Some(number) => bytes.extend(number.to_le_bytes()),
                    None => wrong = Some("an embedding with something that is no number"),
                }
            });
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
            if !is_list {
                return Err("an embedding that is no list");
            }
        }
        _ => return Err("an embedding that is neither base64 nor a list of numbers"),
    }
    if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
        return Err("an embedding that is cut off");
    }
    if bytes.len() > 4 * MOST_DIMENSIONS {
        return Err("an embedding with more numbers than any has");
    }
    match numbers(bytes).all(f32::is_finite) {
        true => Ok(()),
        false => Err("an embedding with a number that is not finite"),
    }
}

/// A number of JSON; one that a float of 32 bits does not hold is infinite.
fn number(text: &str) -> Option<f32> {
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The numbers that bytes are.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// The base64 of a vector that was read into these bytes: as it stands, where it is that already.
pub fn as_base64<'a>(value: &'a RawValue, bytes: &[u8]) -> Cow<'a, str> {
    let text = value.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let whole = bytes.len().div_ceil(3) * 4;
    match text.filter(|text| text.len() == whole && !text.contains('\\')) {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(BASE64_STANDARD.encode(bytes)),
    }
}

/// Writes bytes as a list of numbers, each in the fewest digits that mean it.
pub fn write_list(bytes: &[u8], out: &mut String) {
    out.push('[');
    for (place, number) in numbers(bytes).enumerate() {
        if place > 0 {
            out.push(',');
        }
        // One that is not finite would be null, and `read` lets none pass.
        out.push_str(&serde_json::to_string(&number).unwrap_or_default());
    }
    out.push(']');
}
