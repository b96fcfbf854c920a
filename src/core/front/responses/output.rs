//! The items of an answer, as they grow.

use super::tools::{Origin, custom_input};
use super::{CARRIED, SEAL};
use crate::core::front::write::{self, Object, literal, quoted};
use crate::core::json;
use crate::core::stream::Assembler;
use serde_json::value::RawValue;

/// An item of the output.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) is_done: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Reasoning(Box<Reasoning>),
    Message(Message),
    Call(Call),
}

#[derive(Debug, Default)]
pub(super) struct Reasoning {
    /// As written.
    pub(super) text: String,
    /// Its part has been announced.
    pub(super) has_part: bool,
    /// What the provider wants back.
    pub(super) carried: Assembler,
    pub(super) has_carried: bool,
    /// `encrypted_content`, once it is done.
    pub(super) sealed: Option<String>,
}

#[derive(Debug)]
pub(super) struct Message {
    /// As written.
    pub(super) text: String,
    pub(super) is_refusal: bool,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) call_id: String,
    pub(super) origin: Origin,
    /// As written.
    pub(super) arguments: String,
}

impl Reasoning {
    /// Adds members of a delta that carry reasoning with its signatures.
    pub(super) fn carry(&mut self, name: &str, value: &RawValue) {
        self.has_carried = true;
        let mut chunk = String::new();
        write::object(&mut chunk, |object| {
            object.list("choices", [()], |(), out| {
                write::object(out, |object| {
                    object.object("delta", |object| object.json(name, value.get()));
                });
            });
        });
        self.carried.add(&chunk);
    }

    /// Nothing more is added to it.
    pub(super) fn seal(&mut self) {
        if !self.has_carried {
            return;
        }
        let answer = std::mem::take(&mut self.carried).finish();
        let mut carried = carried_of(&answer).unwrap_or_default();
        if carried.len() > 1 {
            // The others have the text in them.
            carried.retain(|(name, _)| *name != "reasoning_content");
        }
        if carried.is_empty() {
            return;
        }
        let mut sealed = SEAL.to_owned();
        write::object(&mut sealed, |object| {
            for (name, value) in &carried {
                object.json(name, value);
            }
        });
        self.sealed = Some(sealed);
    }
}

/// What the message of an answer carries, as JSON.
fn carried_of(answer: &str) -> Option<Vec<(&'static str, String)>> {
    let [choices] = json::pick(answer, &["choices"]).ok()?;
    let mut first = None;
    json::each_item(choices?.get(), |choice| first = first.or(Some(choice)));
    let [message] = json::pick(first?.get(), &["message"]).ok()?;
    let members = json::pick(message?.get(), &CARRIED).ok()?;
    let carried = CARRIED.iter().zip(members);
    Some(carried.filter_map(|(name, value)| Some((*name, value?.get().to_owned()))).collect())
}

impl Message {
    /// The part that it consists of, with this much of its text.
    pub(super) fn part(&self, text: &str) -> String {
        let mut out = String::new();
        write::object(&mut out, |object| match self.is_refusal {
            true => {
                object.text("type", "refusal");
                object.literal("refusal", text);
            }
            false => {
                object.text("type", "output_text");
                object.literal("text", text);
                object.json("annotations", "[]");
                object.json("logprobs", "[]");
            }
        });
        out
    }
}

impl Call {
    /// All that came of the arguments: those of a function without any are an empty object.
    pub(super) fn whole_arguments(&self) -> &str {
        if self.arguments.trim().is_empty() { "{}" } else { &self.arguments }
    }

    /// The input of a custom tool, as JSON.
    pub(super) fn input(&self) -> String {
        let arguments = format!("\"{}\"", self.arguments);
        // Without half characters, so that it is a text.
        let arguments = json::answer_for_jsonb(&arguments);
        let arguments: String = serde_json::from_str(&arguments).unwrap_or_default();
        quoted(&custom_input(&arguments))
    }
}

impl Item {
    /// The item as it begins.
    pub(super) fn begun(&self) -> String {
        self.written("in_progress", false)
    }

    /// The item with all that has come of it.
    pub(super) fn whole(&self, status: &str) -> String {
        self.written(status, true)
    }

    fn written(&self, status: &str, is_whole: bool) -> String {
        let mut out = String::new();
        write::object(&mut out, |object| {
            object.text("id", &self.id);
            match &self.kind {
                Kind::Reasoning(reasoning) => reasoning.write(is_whole, object),
                Kind::Message(message) => {
                    object.text("type", "message");
                    object.text("status", status);
                    object.text("role", "assistant");
                    let part = is_whole.then(|| message.part(&message.text));
                    object.list("content", part, |part, out| out.push_str(&part));
                }
                Kind::Call(call) => {
                    object.text("status", status);
                    call.write(is_whole, object);
                }
            }
        });
        out
    }
}

impl Reasoning {
    fn write(&self, is_whole: bool, object: &mut Object<'_>) {
        object.text("type", "reasoning");
        let text = (is_whole && !self.text.is_empty()).then_some(&self.text);
        object.list("summary", text, |text, out| {
            write::object(out, |object| {
                object.text("type", "summary_text");
                object.literal("text", text);
            });
        });
        match &self.sealed {
            Some(sealed) if is_whole => object.text("encrypted_content", sealed),
            _ => object.json("encrypted_content", "null"),
        }
    }
}

impl Call {
    fn write(&self, is_whole: bool, object: &mut Object<'_>) {
        let Origin { name, namespace, is_custom } = &self.origin;
        object.text("type", if *is_custom { "custom_tool_call" } else { "function_call" });
        object.text("call_id", &self.call_id);
        object.text("name", name);
        if let Some(namespace) = namespace {
            object.text("namespace", namespace);
        }
        match (*is_custom, is_whole) {
            (true, true) => object.json("input", &self.input()),
            (true, false) => object.text("input", ""),
            (false, true) => object.literal("arguments", self.whole_arguments()),
            (false, false) => object.text("arguments", ""),
        }
    }
}

/// What a text or a list of parts says, as written.
pub(super) fn text_of(content: &RawValue) -> String {
    if let Some(text) = literal(content) {
        return text.to_owned();
    }
    let mut texts = String::new();
    json::each_item(content.get(), |part| {
        if let Ok([Some(kind), Some(text)]) = json::pick(part.get(), &["type", "text"])
            && literal(kind) == Some("text")
        {
            texts.push_str(literal(text).unwrap_or_default());
        }
    });
    texts
}
