//! Answers as clients need them. Upstreams leave out what OpenAI's form has, or say it more often: the stream helpers
//! of OpenAI's libraries throw on a first delta without a role, a tool call without an index, id, type or name, and a
//! choice without an end, and they join what is repeated ("assistantassistant").

use crate::core::front::write::{Members, is_null, literal, members, said};
use crate::core::json;
use crate::core::stream::calls::{Arguments, Meeting};
use crate::core::stream::half_at_end;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Members of an answer or a chunk that every one has, which are written anew.
const OWN: [&str; 6] = ["id", "object", "created", "model", "usage", "error"];

/// Follows one answer: a whole one, or the chunks of a stream.
#[derive(Debug)]
pub struct Repair {
    /// For ids that have to be made.
    call_id: String,
    choices: BTreeMap<u64, Known>,
    made: Made,
}

/// Of all choices.
#[derive(Debug, Default)]
struct Made {
    /// So that no id is made twice.
    ids: u64,
    /// Bytes that are held.
    held: usize,
}

/// What an entry of a list or a map takes beside its value.
const ENTRY: usize = 64;

/// What has been said of a choice.
#[derive(Debug, Default)]
struct Known {
    has_begun: bool,
    has_output: bool,
    is_finished: bool,
    calls: Vec<Call>,
    /// Ids of the calls that have begun: no two have the same for clients.
    ids: BTreeSet<String>,
    /// Where the call of an upstream's index is.
    places: BTreeMap<u64, usize>,
    /// The first halves of surrogate pairs with which strings end so far: alone they are no characters, and Rust's
    /// clients refuse the whole chunk.
    halves: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Call {
    /// The upstream's.
    id: Option<String>,
    name: String,
    arguments: Arguments,
    /// Arguments that came before the name, as written.
    pending: String,
    half: String,
    /// Its index for clients, once it has begun.
    index: Option<usize>,
}

/// What an answer or a chunk says, repaired.
#[derive(Debug)]
pub struct Repaired<'a> {
    pub id: Option<&'a RawValue>,
    pub created: Option<&'a RawValue>,
    pub model: Option<&'a RawValue>,
    pub usage: Option<&'a RawValue>,
    pub choices: Vec<Choice<'a>>,
    /// Whatever else it says.
    pub rest: Members<'a>,
}

#[derive(Debug)]
pub struct Choice<'a> {
    pub index: u64,
    /// Nothing has been said of it before.
    pub is_first: bool,
    /// Without the role and the calls of tools.
    pub delta: Vec<(String, Cow<'a, RawValue>)>,
    pub calls: Vec<CallDelta<'a>>,
    pub finish_reason: Option<&'a RawValue>,
    pub rest: Members<'a>,
}

/// What is added to a call of a tool.
#[derive(Debug)]
pub struct CallDelta<'a> {
    pub index: usize,
    /// It begins here.
    pub begins: Option<Begins>,
    /// A piece of a name that has begun.
    pub name: Option<String>,
    /// A piece of a function's arguments, as written.
    pub arguments: String,
    /// Whatever else is said of it: Gemini's signatures, the input of a custom tool.
    pub rest: Members<'a>,
}

#[derive(Debug)]
pub struct Begins {
    pub id: String,
    pub kind: String,
    /// `None`: it is no function.
    pub name: Option<String>,
}

impl Repair {
    pub fn new(call_id: &str) -> Self {
        Self { call_id: call_id.to_owned(), choices: BTreeMap::new(), made: Made::default() }
    }

    /// About how many bytes are held. Upstreams say how many choices and calls there are.
    pub fn size(&self) -> usize {
        self.made.held
    }

    /// Reads a chunk, or a whole answer, whose messages are one delta each. `None`: it is no object.
    pub fn read<'a>(&mut self, text: &'a str) -> Option<Repaired<'a>> {
        let mut rest: Members<'a> = serde_json::from_str(text).ok()?;
        let [id, _, created, model, usage, _] = OWN.map(|name| rest.remove(name));
        let usage = usage.filter(|usage| usage.get().starts_with('{'));
        let mut choices = Vec::new();
        if let Some(list) = rest.remove("choices") {
            let mut place = 0;
            json::each_item(list.get(), |choice| {
                if let Ok(choice) = serde_json::from_str(choice.get()) {
                    choices.push(self.choice(place, choice));
                }
                place += 1;
            });
        }
        Some(Repaired { id, created, model, usage, choices, rest })
    }

    fn choice<'a>(&mut self, place: u64, mut rest: Members<'a>) -> Choice<'a> {
        let index = rest.remove("index").and_then(number).unwrap_or(place);
        let known = self.choices.entry(index).or_insert_with(|| {
            self.made.held += size_of::<Known>() + ENTRY;
            Known::default()
        });
        let is_first = !std::mem::replace(&mut known.has_begun, true);
        let delta = rest.remove("delta").filter(|delta| !is_null(delta));
        // A few upstreams put a whole message into a stream; others repeat it beside the deltas.
        let message = rest.remove("message").filter(|_| !known.has_output);
        let mut said = delta.or(message).map(members).unwrap_or_default();
        said.remove("role");
        let mut calls = Vec::new();
        if let Some(list) = said.remove("tool_calls") {
            json::each_item(list.get(), |call| {
                if let Ok(call) = serde_json::from_str(call.get()) {
                    calls.extend(known.call(call, &self.call_id, &mut self.made));
                }
            });
        }
        let mut delta = Vec::new();
        for (name, value) in said {
            if let Some(value) = known.whole_characters(&name, value, &mut self.made) {
                delta.push((name, value));
            }
        }
        let says = |value: &RawValue| !matches!(value.get(), "null" | r#""""# | "[]");
        known.has_output |= !calls.is_empty() || delta.iter().any(|(_, value)| says(value));
        let finish_reason = rest.remove("finish_reason").filter(|reason| is_reason(reason));
        known.is_finished |= finish_reason.is_some();
        Choice { index, is_first, delta, calls, finish_reason, rest }
    }

    /// The choices that never said that they end, in their order, with the reason that they must have. They have
    /// ended then.
    pub fn unfinished(&mut self) -> Vec<(u64, &'static str)> {
        let open = self.choices.iter_mut().filter(|(_, known)| !known.is_finished);
        open.map(|(index, known)| {
            known.is_finished = true;
            (*index, if known.ids.is_empty() { "stop" } else { "tool_calls" })
        })
        .collect()
    }
}

impl Known {
    /// A value without the half of a character at its end, and with the one that came before.
    fn whole_characters<'a>(
        &mut self,
        name: &str,
        value: &'a RawValue,
        made: &mut Made,
    ) -> Option<Cow<'a, RawValue>> {
        let Some(text) = literal(value) else { return Some(Cow::Borrowed(value)) };
        if half_at_end(text).is_none() && !self.halves.contains_key(name) {
            return Some(Cow::Borrowed(value));
        }
        let half = self.halves.entry(name.to_owned()).or_insert_with(|| {
            made.held += name.len() + ENTRY;
            String::new()
        });
        let whole = with_half(half, text);
        if half.is_empty() {
            made.held -= name.len() + ENTRY;
            self.halves.remove(name);
        }
        RawValue::from_string(format!("\"{whole}\"")).ok().map(Cow::Owned)
    }

    /// `None`: it adds nothing, or the call has no name yet.
    fn call<'a>(
        &mut self,
        mut rest: Members<'a>,
        call_id: &str,
        made: &mut Made,
    ) -> Option<CallDelta<'a>> {
        let index = rest.remove("index").and_then(number);
        let id = rest.remove("id").and_then(said);
        let kind = rest.remove("type").and_then(said);
        let function = rest.remove("function").map(members);
        let is_function =
            function.is_some() || kind.as_deref().is_none_or(|kind| kind == "function");
        let function = function.unwrap_or_default();
        let name = function.get("name").and_then(|name| said(name));
        let arguments = function.get("arguments").filter(|arguments| !is_null(arguments));
        let has_arguments = arguments.is_some_and(|arguments| literal(arguments) != Some(""));
        let calls = self.calls.len();
        let place = self.place(index, id.as_deref(), name.as_deref(), has_arguments);
        made.held += (self.calls.len() - calls) * (size_of::<Call>() + 2 * ENTRY);
        let call = self.calls.get_mut(place)?;
        let mut piece = match arguments {
            Some(arguments) => call.take_arguments(arguments),
            None => String::new(),
        };
        if call.id.is_none() {
            // Once more among those of all.
            made.held += 2 * id.as_ref().map_or(0, String::len);
            call.id = id;
        }
        // Some repeat the name of a call, others send it in pieces.
        let name = name.filter(|name| *name != call.name);
        call.name.extend(name.as_deref());
        made.held += name.as_ref().map_or(0, String::len);
        if let Some(index) = call.index {
            let says_nothing = piece.is_empty() && name.is_none() && rest.is_empty();
            let delta = CallDelta { index, begins: None, name, arguments: piece, rest };
            return (!says_nothing).then_some(delta);
        }
        if is_function && call.name.is_empty() {
            made.held += piece.len();
            call.pending.push_str(&piece);
            return None;
        }
        let index = self.ids.len();
        call.index = Some(index);
        if !call.pending.is_empty() {
            made.held -= call.pending.len();
            piece = std::mem::take(&mut call.pending) + &piece;
        }
        let mut id = call.id.clone().unwrap_or_default();
        while id.is_empty() || self.ids.contains(&id) {
            made.ids += 1;
            id = format!("call_{call_id}_{}", made.ids);
            made.held += id.len();
        }
        self.ids.insert(id.clone());
        let begins = Begins {
            id,
            kind: kind.unwrap_or_else(|| "function".to_owned()),
            name: is_function.then(|| call.name.clone()),
        };
        Some(CallDelta { index, begins: Some(begins), name: None, arguments: piece, rest })
    }

    /// Where the call is that a delta continues or begins.
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
        if let Some(place) = known
            && let Some(call) = self.calls.get(place)
        {
            let meeting = Meeting {
                has_index: index.is_some(),
                id,
                name,
                has_arguments,
                known_id: call.id.as_deref(),
                known_name: Some(call.name.as_str()).filter(|name| !name.is_empty()),
                known_is_whole: call.arguments.are_whole(),
            };
            if !meeting.is_another() {
                return place;
            }
        }
        let place = self.calls.len();
        self.calls.push(Call::default());
        if let Some(index) = index {
            self.places.insert(index, place);
        }
        place
    }
}

impl Call {
    /// A piece of arguments, as written in a string.
    fn take_arguments(&mut self, arguments: &RawValue) -> String {
        match literal(arguments) {
            Some(piece) => {
                self.arguments.add(piece);
                with_half(&mut self.half, piece)
            }
            // An object where its text should be.
            None => {
                self.arguments.close();
                let text = to_raw_value(arguments.get()).ok();
                text.as_deref().and_then(literal).unwrap_or_default().to_owned()
            }
        }
    }
}

/// A text, as written, after the half that came before and without the half that it ends with.
fn with_half(half: &mut String, text: &str) -> String {
    let mut whole = std::mem::take(half) + text;
    if let Some(at) = half_at_end(&whole) {
        *half = whole.split_off(at);
    }
    whole
}

fn number(value: &RawValue) -> Option<u64> {
    value.get().parse().ok()
}

/// Some servers write a text instead of null before the end.
fn is_reason(reason: &RawValue) -> bool {
    literal(reason).is_some_and(|reason| !matches!(reason, "" | "null"))
}
