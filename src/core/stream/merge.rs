//! Values that grow: the rules by which a delta continues what came before it.

use super::calls::{Arguments, Meeting};
use crate::core::estimate;
use crate::core::json;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Levels of a delta that are merged. Deltas have five; what lies deeper is kept unread.
const MAX_DEPTH: usize = 8;
/// About what a value takes beside its text.
pub(super) const NODE_SIZE: usize = 96;
/// Texts that a chunk repeats rather than continues: the first that is not empty stays.
const LABELS: [&str; 5] = ["role", "id", "type", "format", "signature"];
/// Texts whose length says nothing about their tokens.
const BLOBS: [&str; 2] = ["data", "url"];
/// Content parts that continue the last part of their type.
const TEXT_PARTS: [&str; 2] = ["text", "thinking"];

pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// A value that grows.
#[derive(Debug, Default)]
pub(super) enum Node {
    #[default]
    Null,
    /// The inside of a JSON string, as written.
    Text(String),
    Object(BTreeMap<String, Node>),
    List(List),
    /// Anything else.
    Other(Box<RawValue>),
}

impl Node {
    pub(super) fn add(&mut self, key: &str, value: &RawValue, depth: usize, tally: &mut Tally) {
        if is_null(value) {
            return;
        }
        if let Some(text) = literal(value) {
            return self.add_text(key, text, depth, tally);
        }
        if depth < MAX_DEPTH {
            if let Ok(members) = serde_json::from_str::<Members>(value.get()) {
                return self.add_members(members, depth, tally);
            }
            if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value.get()) {
                return self.add_items(key, &items, depth, tally);
            }
        }
        let old = if let Self::Other(old) = self { old.get().len() } else { 0 };
        tally.replaced(old, value.get().len());
        *self = Self::Other(value.to_owned());
    }

    fn add_text(&mut self, key: &str, text: &str, depth: usize, tally: &mut Tally) {
        let is_label = LABELS.contains(&key) || key.ends_with("_id");
        match self {
            Self::Text(known) if is_label && !known.is_empty() => return,
            // A function's name: some upstreams repeat it, others send it in pieces.
            Self::Text(known) if key == "name" && known == text => return,
            Self::Text(known) => known.push_str(text),
            // Text after content parts is one more part.
            Self::List(list) if !text.is_empty() && depth < MAX_DEPTH => {
                return list.add_text_part(key, text, depth, tally);
            }
            Self::List(_) => return,
            _ => *self = Self::Text(text.to_owned()),
        }
        tally.size += text.len();
        if !is_label && !text.is_empty() {
            tally.has_output = true;
            if !BLOBS.contains(&key) {
                tally.output.add(&unescaped(text));
            }
        }
    }

    fn add_members(&mut self, members: Members<'_>, depth: usize, tally: &mut Tally) {
        if !matches!(self, Self::Object(_)) {
            *self = Self::Object(BTreeMap::new());
        }
        if let Self::Object(known) = self {
            for (key, value) in members {
                add_member(known, &key, value, depth + 1, tally);
            }
        }
    }

    fn add_items(&mut self, key: &str, items: &[&RawValue], depth: usize, tally: &mut Tally) {
        // An empty list says nothing; as `tool_calls` of a message it would even be refused.
        if items.is_empty() {
            return;
        }
        if !matches!(self, Self::List(_)) {
            let mut list = List::default();
            if let Self::Text(text) = &self
                && !text.is_empty()
            {
                // Its text has been counted already.
                list.add_text_part(key, text, depth, &mut Tally::default());
            }
            *self = Self::List(list);
        }
        if let Self::List(list) = self {
            items.iter().for_each(|item| list.add(key, item, depth, tally));
        }
    }

    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Text(text) => out.extend(["\"", text, "\""]),
            Self::Object(members) => {
                out.push('{');
                write_members(members, out);
                out.push('}');
            }
            Self::List(list) => list.write(out),
            Self::Other(value) => out.push_str(value.get()),
        }
    }
}

/// An array: items with the same `index` are one item, others follow each other.
#[derive(Debug, Default)]
pub(super) struct List {
    items: Vec<(Option<u64>, Node)>,
    /// Where the item of an `index` is.
    places: BTreeMap<u64, usize>,
    /// Of tool calls: how far their arguments are.
    arguments: BTreeMap<usize, Arguments>,
}

impl List {
    fn add(&mut self, key: &str, item: &RawValue, depth: usize, tally: &mut Tally) {
        let Ok(mut members) = serde_json::from_str::<Members>(item.get()) else {
            return self.push_other(item, tally);
        };
        let index = members.get("index").and_then(|index| number(index));
        if key == "tool_calls" {
            // It belongs to the stream's form only.
            members.remove("index");
            return self.add_call(index, members, depth, tally);
        }
        let place = if let Some(index) = index {
            self.places.get(&index).copied()
        } else if let Some(kind) = members.get("type").and_then(|kind| literal(kind))
            && TEXT_PARTS.contains(&kind)
        {
            self.place_of_part(kind)
        } else {
            // Log probabilities, citations: nothing will be added to it.
            return self.push_other(item, tally);
        };
        let place = place.unwrap_or_else(|| self.push(index, Node::Null, tally));
        if let Some((_, node)) = self.items.get_mut(place) {
            node.add_members(members, depth + 1, tally);
        }
    }

    fn push(&mut self, index: Option<u64>, node: Node, tally: &mut Tally) -> usize {
        tally.size += NODE_SIZE;
        self.items.push((index, node));
        let place = self.items.len() - 1;
        if let Some(index) = index {
            self.places.insert(index, place);
        }
        place
    }

    fn push_other(&mut self, item: &RawValue, tally: &mut Tally) {
        tally.size += item.get().len();
        tally.has_output = true;
        self.push(None, Node::Other(item.to_owned()), tally);
    }

    fn add_text_part(&mut self, key: &str, text: &str, depth: usize, tally: &mut Tally) {
        let part = format!(r#"{{"type":"text","text":"{text}"}}"#);
        if let Ok(part) = RawValue::from_string(part) {
            self.add(key, &part, depth, tally);
        }
    }

    fn place_of_part(&self, kind: &str) -> Option<usize> {
        let place = self.items.len().checked_sub(1)?;
        (self.text_at(place, "type") == Some(kind)).then_some(place)
    }

    fn add_call(&mut self, index: Option<u64>, call: Members<'_>, depth: usize, tally: &mut Tally) {
        let function = call.get("function").map_or("null", |function| function.get());
        let function: Members = serde_json::from_str(function).unwrap_or_default();
        let arguments = function.get("arguments").copied().filter(|arguments| !is_null(arguments));
        let place = self
            .place_of_call(index, &call, &function)
            .unwrap_or_else(|| self.push(index, Node::Null, tally));
        if let Some(arguments) = arguments {
            let known = self.arguments.entry(place).or_default();
            match literal(arguments) {
                Some(piece) => known.add(piece),
                None => known.close(),
            }
        }
        if let Some((_, node)) = self.items.get_mut(place) {
            node.add_members(call, depth + 1, tally);
        }
    }

    /// The call that a delta continues.
    fn place_of_call(
        &self,
        index: Option<u64>,
        call: &Members<'_>,
        function: &Members<'_>,
    ) -> Option<usize> {
        let place = match index {
            Some(index) => *self.places.get(&index)?,
            None => self.items.len().checked_sub(1)?,
        };
        let said = |value: Option<&&'_ RawValue>| {
            value
                .and_then(|value| literal(value))
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let (id, name) = (said(call.get("id")), said(function.get("name")));
        let arguments = function.get("arguments").filter(|arguments| !is_null(arguments));
        let meeting = Meeting {
            has_index: index.is_some(),
            id: id.as_deref(),
            name: name.as_deref(),
            has_arguments: arguments.is_some_and(|arguments| literal(arguments) != Some("")),
            known_id: self.text_at(place, "id"),
            known_name: self.name_at(place),
            known_is_whole: self.arguments.get(&place).is_some_and(Arguments::are_whole),
        };
        (!meeting.is_another()).then_some(place)
    }

    fn name_at(&self, place: usize) -> Option<&str> {
        let (_, Node::Object(call)) = self.items.get(place)? else { return None };
        let Node::Object(function) = call.get("function")? else { return None };
        let Node::Text(name) = function.get("name")? else { return None };
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    pub(super) fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.items.iter_mut().map(|(_, node)| node)
    }

    fn text_at(&self, place: usize, key: &str) -> Option<&str> {
        let (_, Node::Object(members)) = self.items.get(place)? else { return None };
        let Node::Text(text) = members.get(key)? else { return None };
        Some(text.as_str()).filter(|text| !text.is_empty())
    }

    fn write(&self, out: &mut String) {
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_by_key(|(index, _)| index.unwrap_or(u64::MAX));
        out.push('[');
        for (i, (_, item)) in items.into_iter().enumerate() {
            out.push_str(if i > 0 { "," } else { "" });
            item.write(out);
        }
        out.push(']');
    }
}

/// What has been added.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) size: usize,
    pub(super) has_output: bool,
    pub(super) output: estimate::Counter,
}

impl Tally {
    pub(super) fn add_all(&mut self, other: Self) {
        self.size += other.size;
        self.has_output |= other.has_output;
        self.output.add_all(other.output);
    }

    pub(super) fn replaced(&mut self, old: usize, new: usize) {
        self.size = (self.size + new).saturating_sub(old);
    }
}

pub(super) fn add_member(
    known: &mut BTreeMap<String, Node>,
    key: &str,
    value: &RawValue,
    depth: usize,
    tally: &mut Tally,
) {
    if let Some(node) = known.get_mut(key) {
        return node.add(key, value, depth, tally);
    }
    tally.size += key.len() + NODE_SIZE;
    let mut node = Node::default();
    node.add(key, value, depth, tally);
    known.insert(key.to_owned(), node);
}

pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

pub(super) fn number(value: &RawValue) -> Option<u64> {
    value.get().parse().ok()
}

pub(super) fn string(value: &RawValue) -> Option<String> {
    literal(value).map(|text| unescaped(text).into_owned())
}

/// The inside of a JSON string, as written.
pub(super) fn literal(value: &RawValue) -> Option<&str> {
    value.get().strip_prefix('"')?.strip_suffix('"')
}

/// What the inside of a JSON string says; U+FFFD for what no text of PostgreSQL can hold.
pub(super) fn unescaped(literal: &str) -> Cow<'_, str> {
    if !literal.contains('\\') {
        return Cow::Borrowed(literal);
    }
    let quoted = format!("\"{literal}\"");
    let fit = json::fit_for_jsonb(&quoted).unwrap_or(Cow::Borrowed(&quoted));
    Cow::Owned(serde_json::from_str(&fit).unwrap_or_default())
}

/// What stands between the quotes.
pub(super) fn inside(quoted: &str) -> &str {
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted)
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned())
}

pub(super) fn write_key(key: &str, out: &mut String) {
    out.push_str(if out.ends_with('{') { "" } else { "," });
    out.push_str(&quoted(key));
    out.push(':');
}

pub(super) fn write_members(members: &BTreeMap<String, Node>, out: &mut String) {
    for (key, node) in members.iter().filter(|(_, node)| !matches!(node, Node::Null)) {
        write_key(key, out);
        node.write(out);
    }
}
