//! The content of an item: a text, or a list of parts.

use crate::core::front::failure::Failure;
use crate::core::front::write::{self, literal, said};
use crate::core::json;
use serde_json::value::RawValue;

/// A part of a content, in chat's form.
#[derive(Debug)]
pub(super) enum Part {
    /// As written.
    Text(String),
    /// JSON.
    Other(String),
}

impl Part {
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// Whether this is a content, and not a JSON value that has to be told as text.
pub(super) fn is_content(value: &RawValue) -> bool {
    if literal(value).is_some() {
        return true;
    }
    let mut are_parts = true;
    let is_list = json::each_item(value.get(), |part| {
        let kind = json::pick(part.get(), &["type"]);
        are_parts &= matches!(kind, Ok([Some(_)]));
    });
    is_list && are_parts
}

/// What stands between the quotes.
pub(super) fn inside(quoted: &str) -> String {
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted).to_owned()
}

/// Reads a content.
pub(super) fn parts(content: &RawValue, place: &str) -> Result<Vec<Part>, Failure> {
    if let Some(text) = literal(content) {
        return Ok(vec![Part::Text(text.to_owned())]);
    }
    let mut parts = Vec::new();
    let mut result = Ok(());
    let mut index = 0;
    let is_list = json::each_item(content.get(), |part| {
        if result.is_ok() {
            match read(part, &format!("{place}[{index}]")) {
                Ok(part) => parts.push(part),
                Err(failure) => result = Err(failure),
            }
        }
        index += 1;
    });
    match is_list {
        true => result.map(|()| parts),
        false => Err(Failure::invalid(place, format!("{place} must be a text or an array"))),
    }
}

fn read(part: &RawValue, place: &str) -> Result<Part, Failure> {
    let wrong = |expected: &str| Failure::invalid(place, format!("{place} must {expected}"));
    let names =
        ["type", "text", "refusal", "image_url", "detail", "filename", "file_data", "input_audio"];
    let [kind, text, refusal, image_url, detail, filename, file_data, input_audio] =
        json::pick(part.get(), &names).map_err(|_| wrong("be an object"))?;
    let kind = kind.and_then(said).ok_or_else(|| wrong("have a type"))?;
    let mut out = String::new();
    match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
            let text = text.and_then(literal).ok_or_else(|| wrong("have a text"))?;
            return Ok(Part::Text(text.to_owned()));
        }
        "refusal" => {
            let text = refusal.and_then(literal).ok_or_else(|| wrong("have a refusal"))?;
            return Ok(Part::Text(text.to_owned()));
        }
        "input_image" => {
            let url =
                image_url.ok_or_else(|| wrong("have an image_url: no file is stored here"))?;
            write::object(&mut out, |object| {
                object.text("type", "image_url");
                match literal(url) {
                    Some(_) => object.object("image_url", |object| {
                        object.json("url", url.get());
                        if let Some(detail) = detail {
                            object.json("detail", detail.get());
                        }
                    }),
                    // In chat's form already.
                    None => object.json("image_url", url.get()),
                }
            });
        }
        "input_file" => {
            let data = file_data.ok_or_else(|| wrong("have file_data: no file is stored here"))?;
            write::object(&mut out, |object| {
                object.text("type", "file");
                object.object("file", |object| {
                    if let Some(filename) = filename {
                        object.json("filename", filename.get());
                    }
                    object.json("file_data", data.get());
                });
            });
        }
        "input_audio" => {
            let audio = input_audio.ok_or_else(|| wrong("have input_audio"))?;
            write::object(&mut out, |object| {
                object.text("type", "input_audio");
                object.json("input_audio", audio.get());
            });
        }
        // In chat's form already.
        "image_url" | "file" => out.push_str(part.get()),
        _ => return Err(wrong("be a text, an image, a file or audio")),
    }
    Ok(Part::Other(out))
}

/// The text of parts that are nothing else, as written. `None`: they are something else, too.
pub(super) fn text(parts: &[Part], between: &str) -> Option<String> {
    let texts: Option<Vec<&str>> = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Other(_) => None,
        })
        .collect();
    Some(texts?.join(between))
}

/// A content in chat's form: a text where that is all there is, which not every server takes as parts.
pub(super) fn content(parts: &[Part], between: &str) -> String {
    let mut out = String::new();
    match text(parts, between) {
        Some(text) => out.extend(["\"", &text, "\""]),
        None => write::list(parts, &mut out, |part, out| match part {
            Part::Other(part) => out.push_str(part),
            Part::Text(text) => write::object(out, |object| {
                object.text("type", "text");
                object.literal("text", text);
            }),
        }),
    }
    out
}
