//! A streamed answer as events of OpenAI's chat completions.

use super::Stamp;
use super::repair::{CallDelta, Choice, Repair, Repaired};
use crate::core::front::event::{self, OfChunks};
use crate::core::front::failure::Failure;
use crate::core::front::write::{self, Object, literal};
use crate::core::json;

/// Writes the events of one answer.
#[derive(Debug)]
pub struct Stream {
    stamp: Stamp,
    repair: Repair,
    /// The client asked for a last chunk with the usage.
    with_usage: bool,
    has_begun: bool,
}

impl OfChunks for Stream {
    /// Writes a chunk. One without choices is held back: it has the usage, or Azure's filters, and clients that did
    /// not ask for the usage read the first choice of each.
    fn chunk(&mut self, chunk: &str, out: &mut String) {
        let Some(repaired) = self.repair.read(chunk) else { return };
        if repaired.choices.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.stamp.take(&repaired);
        }
        let Repaired { choices, rest, .. } = repaired;
        self.write(out, |object| {
            object.list("choices", choices, write_choice);
            for (name, value) in rest {
                object.json(&name, value.get());
            }
        });
    }

    fn finish(&mut self, answer: &str, out: &mut String) {
        let names = ["usage", "aggregator"];
        let [usage, aggregator] = json::pick(answer, &names).unwrap_or_default();
        if !self.has_begun {
            self.whole(answer, out);
        }
        let unfinished = self.repair.unfinished();
        if !unfinished.is_empty() {
            self.write(out, |object| object.list("choices", unfinished, write_end));
        }
        if self.with_usage
            && let Some(usage) = usage.filter(|usage| usage.get().starts_with('{'))
        {
            self.frame(out, |object| {
                object.json("choices", "[]");
                object.json("usage", usage.get());
                if let Some(aggregator) = aggregator {
                    object.json("aggregator", aggregator.get());
                }
            });
        }
        out.push_str(event::DONE);
    }

    /// Writes that the answer ends here: without `[DONE]`, which would say that it is complete.
    fn fail(&mut self, failure: &Failure, out: &mut String) {
        event::write(&failure.openai(), out);
    }

    fn size(&self) -> usize {
        self.repair.size()
    }
}

impl Stream {
    pub fn new(stamp: Stamp, with_usage: bool) -> Self {
        let repair = Repair::new(&stamp.call_id);
        Self { stamp, repair, with_usage, has_begun: false }
    }

    /// An answer that came whole is one chunk without what the last one has.
    fn whole(&mut self, answer: &str, out: &mut String) {
        let Ok(mut members) = serde_json::from_str::<write::Members>(answer) else { return };
        members.remove("aggregator");
        let mut chunk = String::new();
        write::object(&mut chunk, |object| {
            for (name, value) in members {
                object.json(&name, value.get());
            }
        });
        self.chunk(&chunk, out);
    }

    /// A chunk of which the usage is null, if the client asked for one with the usage (OpenAI's reference,
    /// `stream_options.include_usage`).
    fn write(&self, out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
        self.frame(out, |object| {
            write(object);
            if self.with_usage {
                object.json("usage", "null");
            }
        });
    }

    fn frame(&self, out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
        let mut chunk = String::new();
        write::object(&mut chunk, |object| {
            self.stamp.write("chat.completion.chunk", object);
            write(object);
        });
        event::write(&chunk, out);
    }
}

fn write_choice(choice: Choice<'_>, out: &mut String) {
    let Choice { index, is_first, delta, calls, finish_reason, rest } = choice;
    write::object(out, |object| {
        object.json("index", &index.to_string());
        object.object("delta", |object| {
            if is_first {
                object.text("role", "assistant");
            }
            for (name, value) in delta {
                object.json(&name, value.get());
            }
            if !calls.is_empty() {
                object.list("tool_calls", calls, |call, out| {
                    write::object(out, |object| {
                        object.number("index", call.index as i64);
                        write_call(call, "", object);
                    });
                });
            }
        });
        object.json("finish_reason", finish_reason.map_or("null", |reason| reason.get()));
        for (name, value) in rest {
            object.json(&name, value.get());
        }
    });
}

/// `no_arguments` stands for arguments of which nothing came, where all there are have come.
pub(super) fn write_call(call: CallDelta<'_>, no_arguments: &str, object: &mut Object<'_>) {
    let CallDelta { begins, name, arguments, rest, .. } = call;
    let is_function = begins.as_ref().is_none_or(|begins| begins.name.is_some());
    let says = begins.is_some() || name.is_some() || !arguments.is_empty();
    let name = match begins {
        Some(begins) => {
            object.text("id", &begins.id);
            object.text("type", &begins.kind);
            begins.name
        }
        None => name,
    };
    if is_function && says {
        object.object("function", |object| {
            if let Some(name) = &name {
                object.text("name", name);
            }
            let is_nothing = !no_arguments.is_empty() && arguments.trim().is_empty();
            object.literal("arguments", if is_nothing { no_arguments } else { &arguments });
        });
    }
    for (name, value) in rest {
        object.json(&name, value.get());
    }
}

fn write_end((index, reason): (u64, &'static str), out: &mut String) {
    write::object(out, |object| {
        object.json("index", &index.to_string());
        object.json("delta", "{}");
        object.text("finish_reason", reason);
    });
}

impl Stamp {
    /// Takes what the upstream says of itself: it stays the same from the first chunk to the last.
    pub(super) fn take(&mut self, repaired: &Repaired<'_>) {
        if let Some(id) = repaired.id.and_then(write::said) {
            self.id = id;
        }
        if let Some(model) = repaired.model.and_then(write::said) {
            self.model = model;
        }
        let created = repaired.created.filter(|created| literal(created).is_none());
        // Anthropic does not say when, which is a 0 by here.
        let created = created.and_then(|created| created.get().parse().ok());
        self.created = created.filter(|created| *created > 0).unwrap_or(self.created);
    }

    pub(super) fn write(&self, object_kind: &str, object: &mut Object<'_>) {
        object.text("id", &self.id);
        object.text("object", object_kind);
        object.number("created", self.created);
        object.text("model", &self.model);
    }
}
