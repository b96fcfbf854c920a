//! The items of a conversation: from Responses, where each call of a tool is an item of its own, to chat, where calls
//! belong to the message that made them and their outputs follow it at once.

use super::item::{self, Part};
use super::tools::{Tools, chat_name, custom_arguments};
use super::{CARRIED, SEAL};
use crate::core::front::failure::Failure;
use crate::core::front::write::{self, literal, quoted, said};
use crate::core::json;
use serde_json::value::RawValue;
use std::collections::BTreeSet;

/// Traces of tools that OpenAI's own servers ran. What they found is in the answer that follows them.
const TRACES: &[&str] = &[
    "code_interpreter_call",
    "compaction_trigger",
    "file_search_call",
    "image_generation_call",
    "mcp_list_tools",
    "web_search_call",
];

/// Between the texts of two messages or parts that become one.
const PARAGRAPH: &str = "\\n\\n";

/// The messages of a chat request.
#[derive(Debug, Default)]
pub(super) struct Messages<'a> {
    /// What the conversation begins with, as written: one message, since the templates of many open models take no
    /// other one, and no second.
    system: String,
    has_begun: bool,
    written: Vec<String>,
    /// The answer that calls are being added to.
    open: Option<Answer<'a>>,
    /// Calls of the last answer whose outputs have not come: those must follow before anything else.
    awaited: BTreeSet<&'a str>,
    /// What comes after them.
    held: Vec<String>,
}

#[derive(Debug, Default)]
struct Answer<'a> {
    /// As written.
    text: Option<String>,
    calls: Vec<Call<'a>>,
    /// What the provider of the answer wants back of its reasoning: members of the message.
    carried: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Call<'a> {
    /// JSON.
    id: &'a str,
    name: String,
    /// JSON of a string.
    arguments: String,
}

/// Reads `input`.
pub(super) fn read<'a>(
    input: &'a RawValue,
    messages: &mut Messages<'a>,
    tools: &mut Tools,
) -> Result<(), Failure> {
    if literal(input).is_some() {
        messages.push(message("user", input.get()));
        return Ok(());
    }
    let mut result = Ok(());
    let mut index = 0;
    let is_list = json::each_item(input.get(), |item| {
        if result.is_ok() {
            result = messages.item(item, &format!("input[{index}]"), tools);
        }
        index += 1;
    });
    match is_list && index > 0 {
        true => result,
        false => Err(Failure::invalid("input", "input must be a text or a non-empty array")),
    }
}

impl<'a> Messages<'a> {
    pub(super) fn instructions(&mut self, instructions: &'a RawValue) -> Result<(), Failure> {
        let text = literal(instructions)
            .ok_or_else(|| Failure::invalid("instructions", "instructions must be a text"))?;
        self.system.push_str(text);
        Ok(())
    }

    fn item(&mut self, item: &'a RawValue, place: &str, tools: &mut Tools) -> Result<(), Failure> {
        let wrong = |expected: &str| Failure::invalid(place, format!("{place} must be {expected}"));
        let [kind, role, id, list] = json::pick(item.get(), &["type", "role", "id", "tools"])
            .map_err(|_| wrong("an object"))?;
        let kind = match kind {
            Some(kind) => said(kind).ok_or_else(|| wrong("an item with a type"))?,
            None if role.is_some() => "message".to_owned(),
            None => return Err(wrong("an item with a type")),
        };
        match kind.as_str() {
            "message" => {
                let role = role.and_then(said).unwrap_or_default();
                self.message(item, &role, place)
            }
            "function_call" | "custom_tool_call" | "local_shell_call" | "shell_call"
            | "apply_patch_call" => self.call(item, &kind, place),
            "function_call_output"
            | "custom_tool_call_output"
            | "local_shell_call_output"
            | "shell_call_output"
            | "apply_patch_call_output" => self.output(item, &kind, place),
            "reasoning" => {
                self.reasoning(item);
                Ok(())
            }
            "additional_tools" => match list {
                Some(list) => tools.add(list, &format!("{place}.tools")),
                None => Ok(()),
            },
            // Reasoning that nobody kept: the model does without it.
            "item_reference" if id.and_then(said).is_some_and(|id| id.starts_with("rs_")) => Ok(()),
            "item_reference" => Err(wrong(
                "an item itself: nothing is stored here that could be referred to. With \
                 store = false clients send whole items (the AI SDK: providerOptions.openai.store)",
            )),
            other if TRACES.contains(&other) => Ok(()),
            other => {
                let message = format!("{place}: items of type '{other}' are not supported");
                Err(Failure::invalid(place, message))
            }
        }
    }

    fn message(&mut self, item: &'a RawValue, role: &str, place: &str) -> Result<(), Failure> {
        let wrong = || Failure::invalid(place, format!("{place} must have content"));
        let [content] = json::pick(item.get(), &["content"]).map_err(|_| wrong())?;
        let parts = item::parts(content.ok_or_else(wrong)?, &format!("{place}.content"))?;
        match role {
            "user" => self.push(message("user", &item::content(&parts, PARAGRAPH))),
            "system" | "developer" => match item::text(&parts, PARAGRAPH) {
                Some(text) if !self.has_begun => {
                    if !self.system.is_empty() {
                        self.system.push_str(PARAGRAPH);
                    }
                    self.system.push_str(&text);
                }
                // Not every server knows the developer's role, and OpenAI's own take the system's for it.
                _ => self.push(message("system", &item::content(&parts, PARAGRAPH))),
            },
            "assistant" => {
                let text = item::text(&parts, "").ok_or_else(|| {
                    Failure::invalid(place, format!("{place}: an answer's content must be text"))
                })?;
                self.has_begun = true;
                // What a model says before, between and after its calls is one answer of it.
                let said = self.open.get_or_insert_default().text.get_or_insert_default();
                if !said.is_empty() && !text.is_empty() {
                    said.push_str(PARAGRAPH);
                }
                said.push_str(&text);
            }
            other => {
                let message = format!("{place}.role must not be '{}'", short(other));
                return Err(Failure::invalid(&format!("{place}.role"), message));
            }
        }
        Ok(())
    }

    fn call(&mut self, item: &'a RawValue, kind: &str, place: &str) -> Result<(), Failure> {
        let wrong = |what: &str| Failure::invalid(place, format!("{place} must have {what}"));
        let names =
            ["call_id", "id", "name", "namespace", "arguments", "input", "action", "operation"];
        let [call_id, id, name, namespace, arguments, input, action, operation] =
            json::pick(item.get(), &names).map_err(|_| wrong("a call_id"))?;
        let id = call_id.or(id).filter(|id| literal(id).is_some());
        let id = id.ok_or_else(|| wrong("a call_id"))?.get();
        let namespace = namespace.and_then(said);
        let named = || name.and_then(said).ok_or_else(|| wrong("a name"));
        let (name, arguments) = match kind {
            "function_call" => {
                let arguments = match arguments {
                    Some(arguments) if literal(arguments).is_some() => arguments.get().to_owned(),
                    Some(arguments) => quoted(arguments.get()),
                    None => quoted("{}"),
                };
                (chat_name(namespace.as_deref(), &named()?), arguments)
            }
            "custom_tool_call" => {
                let input = input.filter(|input| literal(input).is_some());
                let input = input.ok_or_else(|| wrong("an input"))?;
                (chat_name(namespace.as_deref(), &named()?), quoted(&custom_arguments(input)))
            }
            other => {
                let done = action.or(operation).map_or("{}", RawValue::get);
                (other.trim_end_matches("_call").to_owned(), quoted(done))
            }
        };
        self.has_begun = true;
        self.open.get_or_insert_default().calls.push(Call { id, name, arguments });
        Ok(())
    }

    fn output(&mut self, item: &'a RawValue, kind: &str, place: &str) -> Result<(), Failure> {
        let wrong = || Failure::invalid(place, format!("{place} must have a call_id"));
        let [call_id, id, output] =
            json::pick(item.get(), &["call_id", "id", "output"]).map_err(|_| wrong())?;
        let id = call_id.or(id).filter(|id| literal(id).is_some()).ok_or_else(wrong)?.get();
        let mut parts = match output {
            None => Vec::new(),
            // Of a shell: what it wrote and how it ended, for each command.
            Some(output) if kind == "shell_call_output" || !item::is_content(output) => {
                vec![Part::Text(item::inside(&quoted(output.get())))]
            }
            Some(output) => item::parts(output, &format!("{place}.output"))?,
        };
        let others: Vec<Part> = parts.extract_if(.., |part| !part.is_text()).collect();
        let text = match (item::text(&parts, "\\n"), others.is_empty()) {
            (Some(text), _) if !text.is_empty() => text,
            (_, true) => String::new(),
            (_, false) => "The output is in the next message.".to_owned(),
        };
        self.close();
        self.has_begun = true;
        let mut written = String::new();
        write::object(&mut written, |object| {
            object.text("role", "tool");
            object.json("tool_call_id", id);
            object.literal("content", &text);
        });
        self.written.push(written);
        self.awaited.remove(id);
        if !others.is_empty() {
            // Chat's tool messages are text only; images go where every provider takes them.
            let mut parts = vec![Part::Text("The output of the tool:".to_owned())];
            parts.extend(others);
            self.held.push(message("user", &item::content(&parts, PARAGRAPH)));
        }
        if self.awaited.is_empty() {
            self.release();
        }
        Ok(())
    }

    /// What is not ours is another server's, and of no use here.
    fn reasoning(&mut self, item: &'a RawValue) {
        let Ok([Some(sealed)]) = json::pick(item.get(), &["encrypted_content"]) else { return };
        let Some(sealed) = said(sealed) else { return };
        let Some(sealed) = sealed.strip_prefix(SEAL) else { return };
        let Ok(members) = json::pick(sealed, &CARRIED) else { return };
        let carried = CARRIED.iter().zip(members);
        let carried: Vec<_> =
            carried.filter_map(|(name, value)| Some((*name, value?.get().to_owned()))).collect();
        if self.open.as_ref().is_some_and(|open| !open.carried.is_empty()) {
            self.close();
        }
        self.has_begun = true;
        self.open.get_or_insert_default().carried = carried;
    }

    fn push(&mut self, message: String) {
        self.close();
        self.has_begun = true;
        match self.awaited.is_empty() {
            true => self.written.push(message),
            false => self.held.push(message),
        }
    }

    /// The answer is complete.
    fn close(&mut self) {
        let Some(answer) = self.open.take() else { return };
        // Reasoning alone is no message.
        if answer.text.is_none() && answer.calls.is_empty() {
            return;
        }
        if answer.calls.is_empty() && !self.awaited.is_empty() {
            self.held.push(answer.write());
            return;
        }
        self.release();
        self.awaited = answer.calls.iter().map(|call| call.id).collect();
        self.written.push(answer.write());
    }

    /// Nothing is waited for any more.
    fn release(&mut self) {
        self.awaited.clear();
        self.written.append(&mut self.held);
    }

    /// Writes them all.
    pub(super) fn write(mut self, out: &mut String) {
        self.close();
        self.release();
        if !self.system.is_empty() {
            self.written.insert(0, message("system", &format!("\"{}\"", self.system)));
        }
        write::list(self.written, out, |message, out| out.push_str(&message));
    }
}

impl Answer<'_> {
    fn write(self) -> String {
        let mut out = String::new();
        write::object(&mut out, |object| {
            object.text("role", "assistant");
            match &self.text {
                Some(text) => object.literal("content", text),
                None => object.json("content", "null"),
            }
            for (name, value) in &self.carried {
                object.json(name, value);
            }
            if self.calls.is_empty() {
                return;
            }
            object.list("tool_calls", &self.calls, |call, out| {
                write::object(out, |object| {
                    object.json("id", call.id);
                    object.text("type", "function");
                    object.object("function", |object| {
                        object.text("name", &call.name);
                        object.json("arguments", &call.arguments);
                    });
                });
            });
        });
        out
    }
}

/// A message of this content, which is JSON.
fn message(role: &str, content: &str) -> String {
    let mut out = String::new();
    write::object(&mut out, |object| {
        object.text("role", role);
        object.json("content", content);
    });
    out
}

/// What a stranger wrote, for a message.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(32).collect()
}
