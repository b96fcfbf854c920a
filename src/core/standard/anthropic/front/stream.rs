//! A streamed answer: from chunks of OpenAI's form to Anthropic's events (page "Streaming messages").
//!
//! Blocks follow each other, each with its start, deltas and stop, though chunks may mix: what a call
//! is still waiting for is held back until the call before it is whole.

use super::super::answer::text;
use super::super::stream::literal;
use super::answer::{own_thinking, stop_reason};
use super::events::{Block, Change, Delta, Empty, Event, Start, fail, write};
use super::usage::{self, MessageUsage};
use super::{Asked, REASONING_CONTENT, UNSIGNED};
use crate::core::estimate::Counter;
use crate::core::json;
use crate::core::stream::calls::{Arguments, Meeting};
use crate::core::stream::{said, text_of};
use crate::core::usage::{HOLDERS, Merged, Usage, held};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a block that is being sent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// With the member that it comes in.
    Thinking(&'static str),
}

/// A call of a tool.
#[derive(Debug, Default)]
struct Call {
    id: Option<String>,
    name: Option<String>,
    arguments: Arguments,
    /// Arguments that are not sent yet, as they are written.
    waiting: String,
    /// Half of a character with which they end so far.
    half: String,
    /// The index of its block, once that has begun.
    block: Option<u32>,
}

/// Writes one stream.
#[derive(Debug)]
pub struct Events {
    id: String,
    model: String,
    prompt_tokens: i32,
    has_begun: bool,
    has_ended: bool,
    /// The index of the next block.
    next: u32,
    /// The block of text or thinking that is being sent.
    open: Option<(u32, Kind)>,
    half: String,
    calls: Vec<Call>,
    /// Where the call of an `index` is.
    places: BTreeMap<u64, usize>,
    /// Calls before this one have been sent, or never said what to call.
    next_call: usize,
    /// How many have been sent.
    sent: usize,
    /// The call whose block is being sent.
    open_call: Option<usize>,
    is_refusal: bool,
    finish_reason: Option<String>,
    usage: Merged,
    output: Counter,
    /// Bytes that are held for the calls.
    held: usize,
}

impl Events {
    pub fn new(asked: &Asked<'_>) -> Self {
        Self {
            id: asked.id.to_owned(),
            model: asked.model.to_owned(),
            prompt_tokens: asked.prompt_tokens,
            has_begun: false,
            has_ended: false,
            next: 0,
            open: None,
            half: String::new(),
            calls: Vec::new(),
            places: BTreeMap::new(),
            next_call: 0,
            sent: 0,
            open_call: None,
            is_refusal: false,
            finish_reason: None,
            usage: Merged::default(),
            output: Counter::default(),
            held: 0,
        }
    }

    /// About how many bytes are held: of calls that wait for those before them to be whole.
    pub fn size(&self) -> usize {
        self.held
    }

    /// Appends the events that a chunk makes. What is not understood of it is passed over.
    pub fn chunk(&mut self, chunk: &str, out: &mut String) {
        if self.has_ended {
            return;
        }
        let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(chunk) else {
            return;
        };
        let get = |name: &str| members.get(name).copied();
        for holder in HOLDERS {
            let held = get(holder).and_then(|holder| held(holder.get()));
            held.iter().for_each(|usage| self.usage.add(usage));
        }
        if let Some(usage) = get("usage") {
            self.usage.add(usage.get());
        }
        if !self.has_begun {
            if let Some(model) = get("model").and_then(text).filter(|model| !model.is_empty()) {
                self.model = model;
            }
            self.begin(get("id").and_then(text), out);
        }
        let Some(choices) = get("choices") else { return };
        // A message has one answer: the first.
        let (mut place, mut first) = (0, None);
        json::each_item(choices.get(), |choice| {
            let index = json::pick(choice.get(), &["index"]).ok().and_then(|[index]| index);
            let index = index.and_then(|index| index.get().parse().ok()).unwrap_or(place);
            if index == 0u64 && first.is_none() {
                first = Some(choice);
            }
            place += 1;
        });
        if let Some(choice) = first {
            self.choice(choice, out);
        }
    }

    /// Appends what ends a stream that is complete.
    pub fn finish(&mut self, out: &mut String) {
        if self.has_ended {
            return;
        }
        self.begin(None, out);
        self.close_said(out);
        self.send_calls(true, out);
        self.close_call(out);
        let reason = self.finish_reason.as_deref();
        let delta = Change {
            stop_reason: stop_reason(reason, self.sent > 0, self.is_refusal),
            stop_sequence: None,
        };
        // Cumulative, and with all that the start could not know.
        let usage = self.used(self.output.tokens());
        write(&Event::MessageDelta { delta, usage }, out);
        write(&Event::MessageStop, out);
        self.has_ended = true;
    }

    /// Appends what ends a stream that broke: clients raise it, and expect nothing after it. `body`: the
    /// error in Anthropic's form.
    pub fn fail(&mut self, body: &str, out: &mut String) {
        if !self.has_ended {
            fail(body, out);
            self.has_ended = true;
        }
    }

    /// Appends the message's start, where that has not been sent. `id`: the upstream's.
    fn begin(&mut self, id: Option<String>, out: &mut String) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = Start {
            id: self.asked().message_id(id),
            r#type: "message",
            role: "assistant",
            model: &self.model,
            content: [],
            stop_reason: None,
            stop_sequence: None,
            // Claude Code shows by this how full its context is, and takes 0 for it
            // (sgl-project/sglang #20678): what nobody has counted yet is estimated.
            usage: self.used(0),
        };
        write(&Event::MessageStart { message }, out);
    }

    fn asked(&self) -> Asked<'_> {
        Asked { id: &self.id, model: &self.model, prompt_tokens: self.prompt_tokens }
    }

    fn used(&self, output: i32) -> MessageUsage {
        usage::of(&Usage::of(&self.usage), self.prompt_tokens, output)
    }

    fn choice(&mut self, choice: &RawValue, out: &mut String) {
        let names = ["delta", "message", "usage", "finish_reason"];
        let Ok([delta, message, usage, reason]) = json::pick(choice.get(), &names) else { return };
        if let Some(usage) = usage {
            self.usage.add(usage.get());
        }
        // A few upstreams put a whole message into a stream; others repeat it beside the deltas.
        let message = message.filter(|_| self.next == 0 && self.calls.is_empty());
        if let Some(delta) = delta.or(message) {
            self.delta(delta, out);
        }
        // Some servers write a text instead of null.
        let reason = reason.and_then(text).filter(|said| !said.is_empty() && said != "null");
        self.finish_reason = reason.or(self.finish_reason.take());
    }

    fn delta(&mut self, delta: &RawValue, out: &mut String) {
        let names = [
            "reasoning_content",
            "reasoning",
            "thinking_blocks",
            "content",
            "refusal",
            "tool_calls",
            "function_call",
        ];
        let Ok([reasoning_content, reasoning, thinking, content, refusal, calls, older]) =
            json::pick(delta.get(), &names)
        else {
            return;
        };
        // The same comes under two names from some: once is enough.
        let written = |member: Option<&RawValue>| {
            member.and_then(literal).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let thought = written(reasoning_content).map(|thought| (thought, REASONING_CONTENT));
        let thought = thought.or_else(|| written(reasoning).map(|thought| (thought, "reasoning")));
        if let Some((thought, member)) = thought {
            self.say(Kind::Thinking(member), thought, out);
        }
        if let Some(blocks) = thinking {
            json::each_item(blocks.get(), |block| self.own_thinking(block, out));
        }
        if let Some(content) = content {
            self.say(Kind::Text, text_of(content), out);
        }
        if let Some(refusal) = written(refusal) {
            self.is_refusal = true;
            self.say(Kind::Text, refusal, out);
        }
        if let Some(calls) = calls {
            json::each_item(calls.get(), |call| {
                let names = ["index", "id", "function"];
                let Ok([index, id, function]) = json::pick(call.get(), &names) else { return };
                let index = index.and_then(|index| index.get().parse().ok());
                self.call(index, id.and_then(text), function, out);
            });
        }
        if older.is_some() {
            self.call(Some(0), None, older, out);
        }
    }

    /// Sends text or thinking, as it is written, in a block of its kind.
    fn say(&mut self, kind: Kind, written: String, out: &mut String) {
        if written.is_empty() {
            return;
        }
        let index = self.open(kind, out);
        let text = said(&mut self.half, written);
        self.output.add(&text);
        send(index, kind, &text, out);
    }

    fn open(&mut self, kind: Kind, out: &mut String) -> u32 {
        if let Some((index, open)) = self.open
            && open == kind
        {
            return index;
        }
        self.make_room(out);
        let content_block = match kind {
            Kind::Text => Block::Text { text: "" },
            Kind::Thinking(_) => Block::Thinking { thinking: "", signature: "" },
        };
        let index = self.begin_block(content_block, out);
        self.open = Some((index, kind));
        index
    }

    /// Ends the blocks that another kind of block ends. A call that is not whole stays open beside it, for
    /// its arguments will go on.
    fn make_room(&mut self, out: &mut String) {
        self.close_said(out);
        self.send_calls(false, out);
        if self.call_is_whole() {
            self.close_call(out);
        }
    }

    fn begin_block(&mut self, content_block: Block<'_>, out: &mut String) -> u32 {
        let index = self.next;
        self.next = index.saturating_add(1);
        write(&Event::ContentBlockStart { index, content_block }, out);
        index
    }

    fn close_said(&mut self, out: &mut String) {
        let Some((index, kind)) = self.open.take() else { return };
        send(index, kind, lone(&mut self.half), out);
        if let Kind::Thinking(member) = kind {
            let signature = format!("{UNSIGNED}{member}");
            let delta = Delta::Signature { signature: &signature };
            write(&Event::ContentBlockDelta { index, delta }, out);
        }
        write(&Event::ContentBlockStop { index }, out);
    }

    /// A Claude's whole block. Its text has been sent by now, and its signature comes last.
    fn own_thinking(&mut self, block: &RawValue, out: &mut String) {
        let Some(own) = own_thinking(block) else { return };
        let names = ["thinking", "signature", "data"];
        let Ok([thought, signature, data]) = json::pick(own.get(), &names) else { return };
        if let Some(data) = data {
            self.make_room(out);
            let index = self.begin_block(Block::RedactedThinking { data }, out);
            write(&Event::ContentBlockStop { index }, out);
            return;
        }
        let index = match self.open {
            Some((index, kind @ Kind::Thinking(_))) => {
                send(index, kind, lone(&mut self.half), out);
                index
            }
            _ => {
                let kind = Kind::Thinking(REASONING_CONTENT);
                let index = self.open(kind, out);
                let thought = thought.and_then(text).unwrap_or_default();
                self.output.add(&thought);
                send(index, kind, &thought, out);
                index
            }
        };
        self.open = None;
        if let Some(signature) = signature.and_then(text) {
            let delta = Delta::Signature { signature: &signature };
            write(&Event::ContentBlockDelta { index, delta }, out);
        }
        write(&Event::ContentBlockStop { index }, out);
    }

    /// Adds to a call, or begins another.
    fn call(
        &mut self,
        index: Option<u64>,
        id: Option<String>,
        function: Option<&RawValue>,
        out: &mut String,
    ) {
        let picked = function.map(|function| json::pick(function.get(), &["name", "arguments"]));
        let Some(Ok([name, arguments])) = picked else { return };
        let id = id.filter(|id| !id.is_empty());
        let name = name.and_then(text).filter(|name| !name.is_empty());
        let piece = match arguments {
            Some(arguments) if arguments.get().starts_with('"') => {
                literal(arguments).unwrap_or_default().to_owned()
            }
            // The object itself.
            Some(object) => {
                let quoted = serde_json::to_string(object.get()).unwrap_or_default();
                quoted.trim_matches('"').to_owned()
            }
            None => String::new(),
        };
        let place = self.place(index, id.as_deref(), name.as_deref(), !piece.is_empty());
        if let Some(call) = self.calls.get_mut(place) {
            for (known, new) in [(&mut call.id, id), (&mut call.name, name)] {
                if let (None, Some(new)) = (&known, new) {
                    self.held += new.len();
                    *known = Some(new);
                }
            }
            self.held += piece.len();
            call.arguments.add(&piece);
            call.waiting.push_str(&piece);
        }
        self.send_calls(false, out);
    }

    /// The call that a delta belongs to, by the rules by which the whole answer is put together.
    fn place(
        &mut self,
        index: Option<u64>,
        id: Option<&str>,
        name: Option<&str>,
        has_arguments: bool,
    ) -> usize {
        let known = match index {
            Some(index) => self.places.get(&index).copied(),
            None => self.calls.len().checked_sub(1),
        };
        let goes_on = known.and_then(|place| self.calls.get(place)).is_some_and(|call| {
            !Meeting {
                has_index: index.is_some(),
                id,
                name,
                has_arguments,
                known_id: call.id.as_deref(),
                known_name: call.name.as_deref(),
                known_is_whole: call.arguments.are_whole(),
            }
            .is_another()
        });
        if let (Some(place), true) = (known, goes_on) {
            return place;
        }
        let place = self.calls.len();
        // In the list, and its place in the map.
        self.held += size_of::<Call>() + 64;
        self.calls.push(Call::default());
        if let Some(index) = index {
            self.places.insert(index, place);
        }
        place
    }

    /// Sends what can be sent of the calls, one after the other. `all`: nothing more comes, so that none
    /// is waited for.
    fn send_calls(&mut self, all: bool, out: &mut String) {
        self.send_arguments(out);
        while all || self.open_call.is_none() || self.call_is_whole() {
            let place = self.next_call;
            let Some(call) = self.calls.get(place) else { return };
            let (id, name) = (call.id.clone(), call.name.clone());
            if name.is_none() && !all {
                return;
            }
            self.next_call += 1;
            let Some(name) = name else { continue };
            let id = id.unwrap_or_else(|| self.asked().call_id(place));
            self.close_said(out);
            self.close_call(out);
            let begun = Block::ToolUse { id: &id, name: &name, input: Empty {} };
            let index = self.begin_block(begun, out);
            if let Some(call) = self.calls.get_mut(place) {
                call.block = Some(index);
            }
            self.sent += 1;
            self.open_call = Some(place);
            self.send_arguments(out);
        }
    }

    /// The call whose block is open.
    fn current(&mut self) -> Option<&mut Call> {
        self.calls.get_mut(self.open_call?)
    }

    fn call_is_whole(&mut self) -> bool {
        self.current().is_some_and(|call| call.arguments.are_whole())
    }

    fn send_arguments(&mut self, out: &mut String) {
        let Some(call) = self.current() else { return };
        let (Some(index), waiting) = (call.block, std::mem::take(&mut call.waiting)) else {
            return;
        };
        let waited = waiting.len();
        let text = said(&mut call.half, waiting);
        self.held = self.held.saturating_sub(waited);
        self.output.add(&text);
        send_input(index, &text, out);
    }

    fn close_call(&mut self, out: &mut String) {
        self.send_arguments(out);
        if let Some(call) = self.current()
            && let Some(index) = call.block
        {
            send_input(index, lone(&mut call.half), out);
            write(&Event::ContentBlockStop { index }, out);
        }
        self.open_call = None;
    }
}

/// What half a character becomes without its other half.
fn lone(half: &mut String) -> &'static str {
    if std::mem::take(half).is_empty() { "" } else { "\u{fffd}" }
}

fn send(index: u32, kind: Kind, text: &str, out: &mut String) {
    let delta = match kind {
        _ if text.is_empty() => return,
        Kind::Text => Delta::Text { text },
        Kind::Thinking(_) => Delta::Thinking { thinking: text },
    };
    write(&Event::ContentBlockDelta { index, delta }, out);
}

fn send_input(index: u32, partial_json: &str, out: &mut String) {
    if !partial_json.is_empty() {
        let delta = Delta::Input { partial_json };
        write(&Event::ContentBlockDelta { index, delta }, out);
    }
}
