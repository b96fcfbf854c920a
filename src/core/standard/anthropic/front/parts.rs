//! Content that a user sends: from Anthropic's blocks to OpenAI's parts.

use super::super::answer::text;
use crate::core::json;
use crate::error::Error;
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part<'a> {
    Text {
        text: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    ImageUrl {
        image_url: ImageUrl,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
    File {
        file: File,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<&'a RawValue>,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct ImageUrl {
    url: String,
}

#[derive(Debug, Serialize)]
pub(super) struct File {
    filename: String,
    file_data: String,
}

/// Blocks of a content, or a text that stands for one.
pub(super) enum Given<'a> {
    Text(String),
    Blocks(Vec<&'a RawValue>),
}

impl Part<'_> {
    pub(super) fn text(text: String) -> Self {
        Self::Text { text, cache_control: None }
    }
}

pub(super) fn given<'a>(content: &'a RawValue, place: &str) -> Result<Given<'a>, Error> {
    let wrong = || Error::bad_request(format!("{place}: must be a text or an array of blocks"));
    if content.get().starts_with('"') {
        return text(content).map(Given::Text).ok_or_else(wrong);
    }
    serde_json::from_str(content.get()).map(Given::Blocks).map_err(|_| wrong())
}

/// A member that is a text.
pub(super) fn member(object: &RawValue, name: &str, place: &str) -> Result<String, Error> {
    let [value] = json::pick(object.get(), &[name]).unwrap_or_default();
    value
        .and_then(text)
        .ok_or_else(|| Error::bad_request(format!("{place}.{name}: must be a text")))
}

/// Adds what becomes of a block that a user may send.
pub(super) fn part<'a>(
    kind: &str,
    block: &'a RawValue,
    cache_control: Option<&'a RawValue>,
    parts: &mut Vec<Part<'a>>,
    place: &str,
) -> Result<(), Error> {
    match kind {
        "text" => parts.push(Part::Text { text: member(block, "text", place)?, cache_control }),
        "image" => {
            let url = match source(block, place)? {
                Source::Url(url) => url,
                Source::Base64 { media_type, data } => data_url(&media_type, &data),
                _ => return Err(elsewhere(place)),
            };
            parts.push(Part::ImageUrl { image_url: ImageUrl { url }, cache_control });
        }
        "document" => document(block, cache_control, parts, place)?,
        "search_result" => {
            let [title, source, content] =
                json::pick(block.get(), &["title", "source", "content"]).unwrap_or_default();
            let mut lines: Vec<String> =
                [title, source].into_iter().flatten().filter_map(text).collect();
            lines.extend(texts(content, &format!("{place}.content"))?);
            parts.push(Part::Text { text: lines.join("\n"), cache_control });
        }
        _ => {
            let hint = "Text, images, documents and results of tools can be sent.";
            return Err(unknown(place, kind, hint));
        }
    }
    Ok(())
}

fn document<'a>(
    block: &'a RawValue,
    cache_control: Option<&'a RawValue>,
    parts: &mut Vec<Part<'a>>,
    place: &str,
) -> Result<(), Error> {
    let [title, context] = json::pick(block.get(), &["title", "context"]).unwrap_or_default();
    let title = title.and_then(text).filter(|title| !title.is_empty());
    let about = title.clone().into_iter().chain(context.and_then(text));
    match source(block, place)? {
        Source::Base64 { media_type, data } => {
            let filename = title.unwrap_or_else(|| "document.pdf".to_owned());
            let file = File { filename, file_data: data_url(&media_type, &data) };
            parts.push(Part::File { file, cache_control });
        }
        Source::Text(text) => {
            let lines: Vec<String> = about.chain([text]).collect();
            parts.push(Part::Text { text: lines.join("\n"), cache_control });
        }
        Source::Content(content) => {
            let place = format!("{place}.source.content");
            parts.extend(about.map(Part::text));
            match given(content, &place)? {
                Given::Text(text) => parts.push(Part::text(text)),
                Given::Blocks(blocks) => {
                    for (index, block) in blocks.into_iter().enumerate() {
                        let place = format!("{place}.{index}");
                        let kind = member(block, "type", &place)?;
                        // No document in a document: this ends.
                        if kind == "document" {
                            return Err(unknown(&place, &kind, "It holds text and images."));
                        }
                        part(&kind, block, None, parts, &place)?;
                    }
                }
            }
        }
        Source::Url(_) | Source::Other => return Err(elsewhere(place)),
    }
    Ok(())
}

/// Where the bytes of an image or document are.
enum Source<'a> {
    Base64 { media_type: String, data: String },
    Url(String),
    Text(String),
    Content(&'a RawValue),
    Other,
}

fn source<'a>(block: &'a RawValue, place: &str) -> Result<Source<'a>, Error> {
    let wrong = || Error::bad_request(format!("{place}.source: must say where the content is"));
    let [source] = json::pick(block.get(), &["source"]).unwrap_or_default();
    let source = source.ok_or_else(wrong)?;
    let names = ["type", "media_type", "data", "url", "content"];
    let [kind, media_type, data, url, content] =
        json::pick(source.get(), &names).map_err(|_| wrong())?;
    let source = match kind.and_then(text).as_deref() {
        Some("base64") => {
            let (media_type, data) = (media_type.and_then(text), data.and_then(text));
            media_type.zip(data).map(|(media_type, data)| Source::Base64 { media_type, data })
        }
        Some("url") => url.and_then(text).map(Source::Url),
        Some("text") => data.and_then(text).map(Source::Text),
        Some("content") => content.map(Source::Content),
        Some(_) => Some(Source::Other),
        None => None,
    };
    source.ok_or_else(wrong)
}

/// The texts of a list of blocks.
fn texts(content: Option<&RawValue>, place: &str) -> Result<Vec<String>, Error> {
    let Some(content) = content else { return Ok(Vec::new()) };
    match given(content, place)? {
        Given::Text(text) => Ok(vec![text]),
        Given::Blocks(blocks) => blocks
            .into_iter()
            .enumerate()
            .map(|(index, block)| member(block, "text", &format!("{place}.{index}")))
            .collect(),
    }
}

fn data_url(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

fn elsewhere(place: &str) -> Error {
    Error::bad_request_hint(
        format!("{place}.source: this provider cannot be shown what lies elsewhere"),
        "Send it in base64, or choose a model of a provider that speaks Anthropic's API.",
    )
}

pub(super) fn unknown(place: &str, kind: &str, hint: &str) -> Error {
    let kind: String = kind.chars().filter(|c| !c.is_control()).take(64).collect();
    Error::bad_request_hint(format!("{place}: a block of type '{kind}' cannot be sent here"), hint)
}
