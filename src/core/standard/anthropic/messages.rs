//! The messages of a request: from OpenAI's roles and parts to Anthropic's turns and blocks.

use super::blank;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// JSON that is passed on as it was given, or that was made here.
pub(super) type Raw<'a> = Cow<'a, RawValue>;

/// A content block comes of two values at the least, and the list that it is in may have room for
/// as many again.
pub(super) const BYTES_PER_VALUE: usize = 256;
const _: () = assert!(size_of::<Block>() + size_of::<Turn>() + 32 <= BYTES_PER_VALUE);

/// What becomes of `messages`.
#[derive(Debug, Default)]
pub(super) struct Conversation<'a> {
    system: Vec<Text<'a>>,
    turns: Vec<Turn<'a>>,
}

#[derive(Debug, Serialize)]
struct Turn<'a> {
    role: Role,
    content: Vec<Block<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    User,
    Assistant,
}

/// A content block (page "Messages").
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Image(Media<'a>),
    Document(Media<'a>),
    ToolUse(ToolUse<'a>),
    ToolResult(ToolResult<'a>),
    #[serde(untagged)]
    Text(Text<'a>),
    #[serde(untagged)]
    Native(Native<'a>),
}

/// The one block that a system prompt holds too, so it carries its type itself.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "text")]
struct Text<'a> {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    citations: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct Media<'a> {
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source {
    Url { url: String },
    Base64 { media_type: String, data: String },
}

#[derive(Debug, Serialize)]
struct ToolUse<'a> {
    id: String,
    name: String,
    input: Raw<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct ToolResult<'a> {
    tool_use_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    content: Vec<Block<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
}

/// A block that is in Anthropic's form already.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Native<'a> {
    block: Raw<'a>,
    #[serde(skip)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    ToolResult,
    Other,
}

#[derive(Deserialize)]
struct Message<'a> {
    role: String,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    tool_call_id: Option<String>,
    #[serde(borrow)]
    thinking_blocks: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    id: String,
    #[serde(borrow)]
    function: Option<Function<'a>>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    file: Option<File>,
    #[serde(borrow)]
    citations: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct File {
    filename: Option<String>,
    file_data: Option<String>,
}

impl<'a> Conversation<'a> {
    /// Reads `messages`.
    pub(super) fn read(messages: &'a RawValue) -> Result<Self, Error> {
        let messages: Vec<&RawValue> = serde_json::from_str(messages.get())
            .map_err(|_| Error::bad_request("messages must be an array of objects"))?;
        let mut conversation = Self::default();
        for (index, message) in messages.into_iter().enumerate() {
            let place = format!("messages[{index}]");
            let message: Message = serde_json::from_str(message.get())
                .map_err(|_| Error::bad_request(format!("{place} is not a chat message")))?;
            conversation.add(message, &place)?;
        }
        for turn in &mut conversation.turns {
            // "Handle tool calls": results come before everything else of their turn.
            turn.content.sort_by_key(|block| !block.is_tool_result());
        }
        if conversation.turns.is_empty() {
            return Err(Error::bad_request(
                "messages must hold a user or assistant message that is not empty",
            ));
        }
        conversation.trim_end();
        Ok(conversation)
    }

    /// A last turn of the assistant's is continued. Anthropic refuses one that ends in white space: "final
    /// assistant content cannot end with trailing whitespace".
    fn trim_end(&mut self) {
        if let Some(Turn { role: Role::Assistant, content }) = self.turns.last_mut()
            && let Some(Block::Text(last)) = content.last_mut()
        {
            last.text.truncate(last.text.trim_end_matches(blank::is_white).len());
        }
    }

    /// Adds a line to the system prompt.
    pub(super) fn instruct(&mut self, line: &str) {
        self.system.push(Text { text: line.to_owned(), citations: None, cache_control: None });
    }

    /// The turns, in JSON.
    pub(super) fn messages(&self) -> Result<Raw<'a>, Error> {
        json(&self.turns)
    }

    /// The system prompt, in JSON: one text ("OpenAI SDK compatibility": joined by a line feed),
    /// or blocks where one of them is to be cached.
    pub(super) fn system(&self) -> Result<Option<Raw<'a>>, Error> {
        if self.system.is_empty() {
            return Ok(None);
        }
        if self.system.iter().all(|text| text.cache_control.is_none()) {
            let texts: Vec<&str> = self.system.iter().map(|text| text.text.as_str()).collect();
            return json(&texts.join("\n")).map(Some);
        }
        json(&self.system).map(Some)
    }

    fn add(&mut self, message: Message<'a>, place: &str) -> Result<(), Error> {
        if message.function_call.is_some() {
            return Err(outdated(place, "function_call"));
        }
        let mut blocks = match message.content {
            Some(content) => blocks(content, place)?,
            None => Vec::new(),
        };
        match message.role.as_str() {
            "system" | "developer" => {
                cache(&mut blocks, message.cache_control);
                for block in blocks {
                    let Block::Text(text) = block else {
                        let error = format!("{place}: a {} message holds only text", message.role);
                        return Err(Error::bad_request(error));
                    };
                    self.system.push(text);
                }
            }
            "user" => {
                cache(&mut blocks, message.cache_control);
                self.turn(Role::User, blocks);
            }
            "assistant" => {
                // "Extended thinking": thinking goes back unchanged, and first.
                let mut all = Vec::new();
                if !blocks.iter().any(Block::is_thinking) {
                    for block in message.thinking_blocks.into_iter().flatten() {
                        all.push(thinking(block, place)?);
                    }
                }
                all.append(&mut blocks);
                for (index, call) in message.tool_calls.into_iter().flatten().enumerate() {
                    all.push(tool_use(call, &format!("{place}.tool_calls[{index}]"))?);
                }
                cache(&mut all, message.cache_control);
                self.turn(Role::Assistant, all);
            }
            "tool" => {
                let tool_use_id = message.tool_call_id.ok_or_else(|| {
                    Error::bad_request(format!("{place}: a tool message needs its tool_call_id"))
                })?;
                let cache_control = message.cache_control;
                let result = ToolResult { tool_use_id, content: blocks, cache_control };
                self.turn(Role::User, vec![Block::ToolResult(result)]);
            }
            "function" => return Err(outdated(place, "the role 'function'")),
            _ => return Err(Error::bad_request(format!("{place}: unknown role"))),
        }
        Ok(())
    }

    /// Adds blocks to the last turn where its role is the same, else as a new turn.
    fn turn(&mut self, role: Role, blocks: Vec<Block<'a>>) {
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(blocks),
            // A turn without content is refused by Anthropic, but not by OpenAI.
            _ if blocks.is_empty() => {}
            _ => self.turns.push(Turn { role, content: blocks }),
        }
    }
}

impl<'a> Block<'a> {
    fn text(text: String) -> Self {
        Self::Text(Text { text, citations: None, cache_control: None })
    }

    fn is_tool_result(&self) -> bool {
        matches!(self, Self::ToolResult(_) | Self::Native(Native { kind: Kind::ToolResult, .. }))
    }

    fn is_thinking(&self) -> bool {
        matches!(self, Self::Native(Native { kind: Kind::Thinking, .. }))
    }

    /// Where the block says that the prompt is to be cached up to it.
    fn cache_control(&mut self) -> Option<&mut Option<&'a RawValue>> {
        match self {
            Self::Text(Text { cache_control, .. })
            | Self::Image(Media { cache_control, .. })
            | Self::Document(Media { cache_control, .. })
            | Self::ToolUse(ToolUse { cache_control, .. })
            | Self::ToolResult(ToolResult { cache_control, .. }) => Some(cache_control),
            Self::Native(_) => None,
        }
    }
}

/// A message's own `cache_control` is that of its last block.
fn cache<'a>(blocks: &mut [Block<'a>], cache_control: Option<&'a RawValue>) {
    if let Some(slot) = blocks.last_mut().and_then(Block::cache_control) {
        *slot = slot.or(cache_control);
    }
}

/// The blocks of a `content`: a text or an array of parts. Blank texts are left out: Anthropic refuses them.
fn blocks<'a>(content: &'a RawValue, place: &str) -> Result<Vec<Block<'a>>, Error> {
    let wrong = || {
        Error::bad_request(format!("{place}.content must be a text or an array of content parts"))
    };
    if content.get().starts_with('"') {
        let text: String = serde_json::from_str(content.get()).map_err(|_| wrong())?;
        return Ok(if blank::is_blank(&text) { Vec::new() } else { vec![Block::text(text)] });
    }
    let parts: Vec<&RawValue> = serde_json::from_str(content.get()).map_err(|_| wrong())?;
    let mut blocks = Vec::with_capacity(parts.len());
    for (index, raw) in parts.into_iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        match block(raw, &place)? {
            Block::Text(blank) if blank::is_blank(&blank.text) => {
                // The prompt up to here is to be cached all the same.
                cache(&mut blocks, blank.cache_control);
            }
            block => blocks.push(block),
        }
    }
    Ok(blocks)
}

fn block<'a>(raw: &'a RawValue, place: &str) -> Result<Block<'a>, Error> {
    let wrong = || Error::bad_request(format!("{place} is not a content part"));
    let native = |kind| Block::Native(Native { block: Cow::Borrowed(raw), kind });
    let part: Part = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    let (citations, cache_control) = (part.citations, part.cache_control);
    let block = match part.kind.as_str() {
        "text" | "refusal" => {
            let text = part.text.or(part.refusal).ok_or_else(wrong)?;
            Block::Text(Text { text, citations, cache_control })
        }
        "image_url" => {
            let source = image(part.image_url.ok_or_else(wrong)?, place)?;
            Block::Image(Media { source, title: None, cache_control })
        }
        "file" => {
            let File { filename, file_data } = part.file.ok_or_else(wrong)?;
            let source = pdf(file_data, place)?;
            Block::Document(Media { source, title: filename, cache_control })
        }
        "image" | "document" | "search_result" | "tool_use" => native(Kind::Other),
        "thinking" | "redacted_thinking" => native(Kind::Thinking),
        "tool_result" => {
            let block = blank::without_blank_content(raw).map_or(Cow::Borrowed(raw), Cow::Owned);
            Block::Native(Native { block, kind: Kind::ToolResult })
        }
        _ => {
            return Err(Error::bad_request_hint(
                format!("{place}: Anthropic takes no content part of this type"),
                "Text, images and PDF files can be sent.",
            ));
        }
    };
    Ok(block)
}

fn image(image_url: &RawValue, place: &str) -> Result<Source, Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ImageUrl {
        Object { url: String },
        Plain(String),
    }
    let wrong = || {
        Error::bad_request(format!("{place}: an image needs an https URL or base64 in a data URL"))
    };
    let (ImageUrl::Object { url } | ImageUrl::Plain(url)) =
        serde_json::from_str(image_url.get()).map_err(|_| wrong())?;
    if has_prefix(&url, "https://") {
        return Ok(Source::Url { url });
    }
    let (media_type, data) = data_url(&url).ok_or_else(wrong)?;
    if !media_type.starts_with("image/") {
        return Err(wrong());
    }
    Ok(Source::Base64 { media_type, data })
}

fn pdf(file_data: Option<String>, place: &str) -> Result<Source, Error> {
    const PDF: &str = "application/pdf";
    let wrong = || Error::bad_request(format!("{place}: a file needs file_data, a PDF in base64"));
    let file_data = file_data.ok_or_else(wrong)?;
    // "%PDF-" in base64: the data without a URL around it.
    if file_data.starts_with("JVBERi0") {
        return Ok(Source::Base64 { media_type: PDF.to_owned(), data: file_data });
    }
    let (media_type, data) = data_url(&file_data).ok_or_else(wrong)?;
    if media_type != PDF {
        return Err(wrong());
    }
    Ok(Source::Base64 { media_type, data })
}

/// Media type and data of a `data:` URL in base64.
fn data_url(url: &str) -> Option<(String, String)> {
    if !has_prefix(url, "data:") {
        return None;
    }
    let (head, data) = url["data:".len()..].split_once(',')?;
    let (media_type, encoding) = head.rsplit_once(';')?;
    let media_type = media_type.split(';').next().unwrap_or(media_type).to_ascii_lowercase();
    encoding.eq_ignore_ascii_case("base64").then(|| (media_type, data.to_owned()))
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// A block of an earlier answer's `thinking_blocks`. The `index` is a stream's, not the block's.
fn thinking<'a>(raw: &'a RawValue, place: &str) -> Result<Block<'a>, Error> {
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| Error::bad_request(format!("{place}.thinking_blocks must hold objects")))?;
    let kind: Option<String> =
        fields.get("type").and_then(|kind| serde_json::from_str(kind.get()).ok());
    if !matches!(kind.as_deref(), Some("thinking" | "redacted_thinking")) {
        // It would be sent as it is, whatever it is.
        return Err(Error::bad_request(format!("{place}.thinking_blocks must hold thinking")));
    }
    let block = match fields.remove("index") {
        Some(_) => json(&fields)?,
        None => Cow::Borrowed(raw),
    };
    Ok(Block::Native(Native { block, kind: Kind::Thinking }))
}

fn tool_use<'a>(call: ToolCall<'a>, place: &str) -> Result<Block<'a>, Error> {
    let ToolCall { id, function, cache_control } = call;
    let Some(Function { name, arguments }) = function else {
        return Err(Error::bad_request(format!("{place}: only functions can be called")));
    };
    let input = input(arguments).ok_or_else(|| {
        Error::bad_request(format!("{place} ({name}): arguments must be the JSON of an object"))
    })?;
    Ok(Block::ToolUse(ToolUse { id, name, input, cache_control }))
}

/// The object in an `arguments` text, digit for digit.
fn input(arguments: Option<&RawValue>) -> Option<Raw<'_>> {
    let Some(arguments) = arguments else { return empty_object() };
    if arguments.get().starts_with('{') {
        return Some(Cow::Borrowed(arguments));
    }
    let text: String = serde_json::from_str(arguments.get()).ok()?;
    if text.trim().is_empty() {
        return empty_object();
    }
    let input: Box<RawValue> = serde_json::from_str(&text).ok()?;
    input.get().starts_with('{').then_some(Cow::Owned(input))
}

fn empty_object<'a>() -> Option<Raw<'a>> {
    RawValue::from_string("{}".to_owned()).ok().map(Cow::Owned)
}

fn outdated(place: &str, what: &str) -> Error {
    Error::bad_request_hint(
        format!("{place}: {what} cannot be sent to Anthropic"),
        "Use tools, tool_calls and the role 'tool'.",
    )
}

/// What was made here, in JSON.
pub(super) fn json<'a>(value: &impl Serialize) -> Result<Raw<'a>, Error> {
    to_raw_value(value).map(Cow::Owned).map_err(Error::internal)
}
