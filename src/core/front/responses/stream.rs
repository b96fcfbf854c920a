//! An answer of chat as the events of a response, and as a whole response.
//!
//! The order is what openai for Python and Node check (`lib/streaming/responses`, `ResponseStream`): `created` first,
//! each item at an index of its own and done before `completed`, ids that stay. Codex acts on `output_item.done`.

use super::output::{Call, Item, Kind, Message, text_of};
use super::{About, CARRIED, code, message};
use crate::core::front::event::{self, OfChunks};
use crate::core::front::failure::Failure;
use crate::core::front::openai::repair::{CallDelta, Repair, Repaired};
use crate::core::front::write::{self, Object, literal, said};
use crate::core::json;
use crate::core::usage::Usage;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Names under which reasoning comes as text; an upstream that sends both says the same twice.
const REASONING: [&str; 2] = ["reasoning_content", "reasoning"];

/// Writes the events of one response.
#[derive(Debug)]
pub struct Stream {
    about: About,
    /// The id of the call, from which all others are made.
    call_id: String,
    /// Seconds since 1970.
    created: i64,
    model: String,
    repair: Repair,
    items: Vec<Item>,
    /// Where the item of each call is.
    calls: Vec<usize>,
    /// Bytes of the items.
    held: usize,
    finish_reason: Option<String>,
    has_begun: bool,
    sequence: i64,
    /// The response is wanted whole: no event is written.
    is_silent: bool,
}

/// A whole response, from a whole answer.
pub fn whole(answer: &str, about: About, call_id: Uuid, created: i64, model: &str) -> String {
    let mut stream = Stream::new(about, call_id, created, model);
    stream.is_silent = true;
    let mut nothing = String::new();
    stream.chunk(answer, &mut nothing);
    stream.close_all(&mut nothing);
    let response = stream.response(stream.status(), Some(answer), None);
    event::readable(&response).into_owned()
}

impl OfChunks for Stream {
    fn chunk(&mut self, chunk: &str, out: &mut String) {
        let Some(repaired) = self.repair.read(chunk) else { return };
        let Repaired { model, choices, .. } = repaired;
        if choices.is_empty() {
            return;
        }
        if !self.has_begun
            && let Some(model) = model.and_then(said)
        {
            self.model = model;
        }
        self.begin(out);
        // A response has one answer.
        for choice in choices.into_iter().filter(|choice| choice.index == 0) {
            let find = |name: &str| {
                let found = choice.delta.iter().find(|(given, _)| given == name);
                found.map(|(_, value)| &**value)
            };
            let text_of_one = |name: &&str| literal(find(name)?).filter(|text| !text.is_empty());
            if let Some(text) = REASONING.iter().find_map(text_of_one) {
                self.reasoning(text, out);
            }
            if self.about.wants_sealed {
                for name in CARRIED {
                    let value =
                        find(name).filter(|value| !matches!(value.get(), "null" | "[]" | "\"\""));
                    if let Some(value) = value {
                        self.carry(name, value, out);
                    }
                }
            }
            let text = find("content").map(text_of).unwrap_or_default();
            if !text.is_empty() {
                self.text(&text, false, out);
            }
            if let Some(refusal) = find("refusal").and_then(literal).filter(|said| !said.is_empty())
            {
                self.text(refusal, true, out);
            }
            for call in choice.calls {
                self.call(call, out);
            }
            if let Some(reason) = choice.finish_reason.and_then(said) {
                self.finish_reason = Some(reason);
            }
        }
    }

    fn finish(&mut self, answer: &str, out: &mut String) {
        if !self.has_begun {
            self.chunk(answer, out);
        }
        self.begin(out);
        self.close_all(out);
        let status = self.status();
        let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
        let response = self.response(status, Some(answer), None);
        self.event(name, out, |object| object.json("response", &response));
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        self.begin(out);
        let response = self.response("failed", None, Some(failure));
        self.event("response.failed", out, |object| object.json("response", &response));
    }

    /// The response that ends a stream has all of it once more.
    fn size(&self) -> usize {
        self.held + self.items.len() * size_of::<Item>() + self.repair.size()
    }
}

impl Stream {
    /// `model` is the one that was asked for.
    pub fn new(about: About, call_id: Uuid, created: i64, model: &str) -> Self {
        let call_id = call_id.simple().to_string();
        Self {
            about,
            repair: Repair::new(&call_id),
            call_id,
            created,
            model: model.to_owned(),
            items: Vec::new(),
            calls: Vec::new(),
            held: 0,
            finish_reason: None,
            has_begun: false,
            sequence: 0,
            is_silent: false,
        }
    }

    /// Writes the first events, once.
    pub fn begin(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        if self.is_silent {
            return;
        }
        let response = self.response("in_progress", None, None);
        for name in ["response.created", "response.in_progress"] {
            self.event(name, out, |object| object.json("response", &response));
        }
    }

    fn status(&self) -> &'static str {
        match self.finish_reason.as_deref() {
            Some("length" | "content_filter") => "incomplete",
            _ => "completed",
        }
    }

    /// The index of the item that text of its kind is added to, if it is the last one.
    fn last(&self, is_it: impl Fn(&Kind) -> bool) -> Option<usize> {
        let last = self.items.len().checked_sub(1)?;
        self.items.get(last).filter(|item| !item.is_done && is_it(&item.kind)).map(|_| last)
    }

    fn open(&mut self, prefix: &str, kind: Kind, out: &mut String) -> usize {
        // Calls stay open, since pieces of several may come by turns; so no other item but the last one is.
        if let Some(last) = self.last(|kind| !matches!(kind, Kind::Call(_))) {
            self.close(last, out);
        }
        let index = self.items.len();
        let id = format!("{prefix}_{}_{index}", self.call_id);
        self.held += id.len();
        let item = Item { id, kind, is_done: false };
        let begun = if self.is_silent { String::new() } else { item.begun() };
        self.items.push(item);
        self.event("response.output_item.added", out, |object| {
            object.number("output_index", index as i64);
            object.json("item", &begun);
        });
        index
    }

    fn reasoning_item(&mut self, out: &mut String) -> usize {
        let last = self.last(|kind| matches!(kind, Kind::Reasoning(_)));
        last.unwrap_or_else(|| self.open("rs", Kind::Reasoning(Box::default()), out))
    }

    fn reasoning(&mut self, text: &str, out: &mut String) {
        let index = self.reasoning_item(out);
        let Some(Item { id, kind: Kind::Reasoning(reasoning), .. }) = self.items.get_mut(index)
        else {
            return;
        };
        self.held += text.len();
        reasoning.text.push_str(text);
        let is_first = !std::mem::replace(&mut reasoning.has_part, true);
        let id = id.clone();
        let place = |object: &mut Object<'_>| {
            object.text("item_id", &id);
            object.number("output_index", index as i64);
            object.number("summary_index", 0);
        };
        if is_first {
            self.event("response.reasoning_summary_part.added", out, |object| {
                place(object);
                object.json("part", r#"{"type":"summary_text","text":""}"#);
            });
        }
        self.event("response.reasoning_summary_text.delta", out, |object| {
            place(object);
            object.literal("delta", text);
        });
    }

    fn carry(&mut self, name: &str, value: &RawValue, out: &mut String) {
        let index = self.reasoning_item(out);
        if let Some(Item { kind: Kind::Reasoning(reasoning), .. }) = self.items.get_mut(index) {
            self.held += value.get().len();
            reasoning.carry(name, value);
        }
    }

    fn text(&mut self, text: &str, is_refusal: bool, out: &mut String) {
        let is_same = |kind: &Kind| matches!(kind, Kind::Message(m) if m.is_refusal == is_refusal);
        let (index, is_first) = match self.last(is_same) {
            Some(index) => (index, false),
            None => {
                let message = Message { text: String::new(), is_refusal };
                (self.open("msg", Kind::Message(message), out), true)
            }
        };
        let Some(Item { id, kind: Kind::Message(message), .. }) = self.items.get_mut(index) else {
            return;
        };
        self.held += text.len();
        message.text.push_str(text);
        let (id, part) = (id.clone(), message.part(""));
        let place = |object: &mut Object<'_>| place(&id, index, object);
        if is_first {
            self.event("response.content_part.added", out, |object| {
                place(object);
                object.json("part", &part);
            });
        }
        let name = if is_refusal { "response.refusal.delta" } else { "response.output_text.delta" };
        self.event(name, out, |object| {
            place(object);
            object.literal("delta", text);
            if !is_refusal {
                object.json("logprobs", "[]");
            }
        });
    }

    fn call(&mut self, delta: CallDelta<'_>, out: &mut String) {
        let CallDelta { index: place, begins, name, arguments, .. } = delta;
        let index = match (self.calls.get(place), begins) {
            (Some(index), _) => *index,
            (None, Some(begins)) => {
                let name = begins.name.unwrap_or_default();
                let call = Call {
                    call_id: begins.id,
                    origin: self.about.names.origin(&name),
                    arguments: String::new(),
                };
                let prefix = if call.origin.is_custom { "ctc" } else { "fc" };
                let index = self.open(prefix, Kind::Call(call), out);
                self.calls.push(index);
                index
            }
            (None, None) => return,
        };
        let Some(Item { id, kind: Kind::Call(call), .. }) = self.items.get_mut(index) else {
            return;
        };
        call.origin.name.extend(name.as_deref());
        self.held += arguments.len();
        call.arguments.push_str(&arguments);
        // The input of a custom tool is inside of the arguments, and is told once they are whole.
        if arguments.is_empty() || call.origin.is_custom {
            return;
        }
        let id = id.clone();
        self.event("response.function_call_arguments.delta", out, |object| {
            object.text("item_id", &id);
            object.number("output_index", index as i64);
            object.literal("delta", &arguments);
        });
    }

    /// Ends the items that are open, in their order.
    fn close_all(&mut self, out: &mut String) {
        for index in 0..self.items.len() {
            self.close(index, out);
        }
    }

    fn close(&mut self, index: usize, out: &mut String) {
        let Some(item) = self.items.get_mut(index).filter(|item| !item.is_done) else { return };
        item.is_done = true;
        if let Kind::Reasoning(reasoning) = &mut item.kind {
            reasoning.seal();
        }
        if self.is_silent {
            return;
        }
        self.close_parts(index, out);
        let status = self.item_status(index);
        let Some(item) = self.items.get(index) else { return };
        let whole = item.whole(status);
        self.event("response.output_item.done", out, |object| {
            object.number("output_index", index as i64);
            object.json("item", &whole);
        });
    }

    /// Writes that the parts of an item are complete.
    fn close_parts(&mut self, index: usize, out: &mut String) {
        let Some(Item { id, kind, .. }) = self.items.get(index) else { return };
        let id = id.clone();
        match kind {
            Kind::Reasoning(reasoning) if reasoning.has_part => {
                let text = reasoning.text.clone();
                let place = |object: &mut Object<'_>| {
                    object.text("item_id", &id);
                    object.number("output_index", index as i64);
                    object.number("summary_index", 0);
                };
                self.event("response.reasoning_summary_text.done", out, |object| {
                    place(object);
                    object.literal("text", &text);
                });
                self.event("response.reasoning_summary_part.done", out, |object| {
                    place(object);
                    object.object("part", |object| {
                        object.text("type", "summary_text");
                        object.literal("text", &text);
                    });
                });
            }
            Kind::Reasoning(_) => {}
            Kind::Message(message) => {
                let (text, part) = (message.text.clone(), message.part(&message.text));
                let (name, member) = match message.is_refusal {
                    true => ("response.refusal.done", "refusal"),
                    false => ("response.output_text.done", "text"),
                };
                let is_refusal = message.is_refusal;
                self.event(name, out, |object| {
                    place(&id, index, object);
                    object.literal(member, &text);
                    if !is_refusal {
                        object.json("logprobs", "[]");
                    }
                });
                self.event("response.content_part.done", out, |object| {
                    place(&id, index, object);
                    object.json("part", &part);
                });
            }
            Kind::Call(call) if call.origin.is_custom => {
                let input = call.input();
                for (name, member) in [
                    ("response.custom_tool_call_input.delta", "delta"),
                    ("response.custom_tool_call_input.done", "input"),
                ] {
                    self.event(name, out, |object| {
                        object.text("item_id", &id);
                        object.number("output_index", index as i64);
                        object.json(member, &input);
                    });
                }
            }
            Kind::Call(call) => {
                let name = call.origin.name.clone();
                let arguments = call.whole_arguments().to_owned();
                self.event("response.function_call_arguments.done", out, |object| {
                    object.text("item_id", &id);
                    object.number("output_index", index as i64);
                    object.text("name", &name);
                    object.literal("arguments", &arguments);
                });
            }
        }
    }

    /// The last item of a response that was cut is cut, too.
    fn item_status(&self, index: usize) -> &'static str {
        let is_last = index + 1 == self.items.len();
        if is_last { self.status() } else { "completed" }
    }

    fn event(&mut self, name: &'static str, out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
        if self.is_silent {
            return;
        }
        let mut data = String::new();
        write::object(&mut data, |object| {
            object.text("type", name);
            object.number("sequence_number", self.sequence);
            write(object);
        });
        self.sequence += 1;
        event::write_named(name, &data, out);
    }

    /// The response, with what has come of it.
    fn response(&self, status: &str, answer: Option<&str>, failure: Option<&Failure>) -> String {
        let names = ["usage", "aggregator", "service_tier"];
        let [usage, aggregator, service_tier] =
            answer.and_then(|answer| json::pick(answer, &names).ok()).unwrap_or_default();
        let has_ended = status != "in_progress";
        let mut out = String::new();
        write::object(&mut out, |object| {
            object.text("id", &format!("resp_{}", self.call_id));
            object.text("object", "response");
            object.number("created_at", self.created);
            object.text("status", status);
            match failure {
                Some(failure) => object.object("error", |object| {
                    object.text("code", code(failure));
                    object.text("message", &message(failure));
                }),
                None => object.json("error", "null"),
            }
            match self.finish_reason.as_deref().filter(|_| status == "incomplete") {
                Some("length") => {
                    object.json("incomplete_details", r#"{"reason":"max_output_tokens"}"#);
                }
                Some(_) => object.json("incomplete_details", r#"{"reason":"content_filter"}"#),
                None => object.json("incomplete_details", "null"),
            }
            object.text("model", &self.model);
            let items = self.items.iter().enumerate().filter(|_| has_ended);
            object.list("output", items, |(index, item), out| {
                let status = match failure {
                    Some(_) if !item.is_done => "incomplete",
                    _ => self.item_status(index),
                };
                out.push_str(&item.whole(status));
            });
            object.json("previous_response_id", "null");
            object.json("store", "false");
            // What was asked for is known to whoever asked; the end has it, for those who keep the response.
            if has_ended {
                for (name, value) in &self.about.echo {
                    object.json(name, value.get());
                }
            }
            if let Some(tier) = service_tier {
                object.json("service_tier", tier.get());
            }
            match usage.and_then(usage_of) {
                Some(usage) => object.json("usage", &usage),
                None => object.json("usage", "null"),
            }
            if let Some(aggregator) = aggregator {
                object.json("aggregator", aggregator.get());
            }
        });
        out
    }
}

/// Where a part of a message is.
fn place(id: &str, index: usize, object: &mut Object<'_>) {
    object.text("item_id", id);
    object.number("output_index", index as i64);
    object.number("content_index", 0);
}

/// The usage in the names of Responses. `None`: the counts make no sense, and missing is not 0.
fn usage_of(usage: &RawValue) -> Option<String> {
    let parts = Usage::parse(usage.get()).parts?;
    let (input, output) = (i64::from(parts.prompt()), i64::from(parts.completion()));
    let written = parts.cache_write.saturating_add(parts.cache_write_1h);
    let mut out = String::new();
    write::object(&mut out, |object| {
        object.number("input_tokens", input);
        object.object("input_tokens_details", |object| {
            object.number("cached_tokens", parts.cache_read.into());
            object.number("cache_write_tokens", written.into());
        });
        object.number("output_tokens", output);
        object.object("output_tokens_details", |object| {
            object.number("reasoning_tokens", parts.reasoning.into());
        });
        object.number("total_tokens", input + output);
    });
    Some(out)
}
