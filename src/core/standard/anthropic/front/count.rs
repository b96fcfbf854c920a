//! About how many tokens a request has (`POST /v1/messages/count_tokens`), for whichever model: what
//! Claude Code shows of its context, and by which it decides to compact it.

use super::super::answer::text;
use super::request::Incoming;
use crate::core::estimate::Counter;
use crate::core::json;
use crate::core::scan::Scanner;
use serde_json::value::RawValue;

/// The role and the marks around a message.
const MESSAGE: usize = 4;
/// What Anthropic tells a model of how to call tools (page "Tool use": 290 to 804).
const TOOLS: usize = 350;
/// Of an image, whose size no byte tells: one of a megapixel (page "Vision": width * height / 750).
const IMAGE: usize = 1_600;
/// Of a page of a PDF file (page "PDF support": 1,500 to 3,000), and the base64 of a usual one.
const PAGE: usize = 2_000;
const BYTES_OF_PAGE: usize = 80_000;

/// Blocks in blocks: a message's, a tool result's, a document's in that.
const DEEPEST: usize = 4;

/// About how many tokens a request has; at least 1.
pub fn tokens(request: &Incoming<'_>) -> i32 {
    let mut count = Count::default();
    if let Some(system) = request.get("system") {
        count.content(system, DEEPEST);
    }
    for message in &request.messages {
        count.more += MESSAGE;
        if let Ok([Some(content)]) = json::pick(message.get(), &["content"]) {
            count.content(content, DEEPEST);
        }
    }
    if let Some(tools) = request.get("tools") {
        let mut has_tools = false;
        json::each_item(tools.get(), |tool| {
            has_tools = true;
            count.counter.add(tool.get());
        });
        count.more += if has_tools { TOOLS } else { 0 };
    }
    count.counter.tokens_and(count.more).max(1)
}

/// The body of the answer.
pub fn body(tokens: i32) -> String {
    format!(r#"{{"input_tokens":{tokens}}}"#)
}

#[derive(Default)]
struct Count {
    counter: Counter,
    more: usize,
}

impl Count {
    fn content(&mut self, content: &RawValue, depth: usize) {
        if content.get().starts_with('"') {
            return self.said(Some(content));
        }
        let Some(depth) = depth.checked_sub(1) else { return };
        json::each_item(content.get(), |block| self.block(block, depth));
    }

    fn block(&mut self, block: &RawValue, depth: usize) {
        let names = ["type", "text", "thinking", "source", "content"];
        let Ok([kind, said, thought, source, content]) = json::pick(block.get(), &names) else {
            return;
        };
        match kind.and_then(text).as_deref() {
            Some("text") => self.said(said),
            Some("thinking") => self.said(thought),
            // Encrypted, and about as long.
            Some("redacted_thinking") => self.counter.add(block.get()),
            Some("image") => self.more += IMAGE,
            Some("document") => self.document(source, depth),
            Some("tool_result" | "search_result") => {
                if let Some(content) = content {
                    self.content(content, depth);
                }
            }
            _ => self.counter.add(block.get()),
        }
    }

    fn document(&mut self, source: Option<&RawValue>, depth: usize) {
        let names = ["type", "data", "content"];
        let picked = source.and_then(|source| json::pick(source.get(), &names).ok());
        let Some([kind, data, content]) = picked else { return };
        match (kind.and_then(text).as_deref(), data, content) {
            (Some("text"), data, _) => self.said(data),
            (Some("content"), _, Some(content)) => self.content(content, depth),
            (Some("base64"), Some(data), _) => {
                self.more += data.get().len().div_ceil(BYTES_OF_PAGE) * PAGE;
            }
            // One that is not here has a page at the least.
            _ => self.more += PAGE,
        }
    }

    /// Counts a text, if it is one.
    fn said(&mut self, value: Option<&RawValue>) {
        if let Some(value) = value
            && let Ok(text) = Scanner::new(value.get()).string()
        {
            self.counter.add_json(text);
        }
    }
}
