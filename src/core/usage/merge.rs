//! A usage that comes in parts: a count in one chunk, another in the next, the same again with zeros.
//!
//! Counts are cumulative, so the later of two wins; but what is no count, a zero above all, does not
//! undo one. Members that come twice in one object are read the same way.

use crate::core::json::Pairs;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Levels of a usage that are read. Those of providers have three.
const MAX_DEPTH: usize = 4;
/// About what a member takes beside its text.
const NODE_SIZE: usize = 96;

/// The members of a usage, as they stand by now.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    members: BTreeMap<String, Node>,
    size: usize,
}

#[derive(Debug, Clone)]
enum Node {
    Object(BTreeMap<String, Node>),
    /// As it was written.
    Leaf(Box<RawValue>),
}

impl Merged {
    /// Of one usage. What is no object says nothing.
    pub fn of(text: &str) -> Self {
        let mut merged = Self::default();
        merged.add(text);
        merged
    }

    /// Adds a usage, or a part of one.
    pub fn add(&mut self, text: &str) {
        if let Ok(Pairs(pairs)) = serde_json::from_str(text) {
            add_pairs(&mut self.members, pairs, 1, &mut self.size);
        }
    }

    /// Adds what has been merged of another one.
    pub fn add_merged(&mut self, other: &Self) {
        self.add(&other.to_json());
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The text of a value, by the names of the members that lead to it.
    pub(super) fn find(&self, path: &[&str]) -> Option<&str> {
        let (last, holders) = path.split_last()?;
        let mut members = &self.members;
        for name in holders {
            let Node::Object(inner) = members.get(*name)? else { return None };
            members = inner;
        }
        let Node::Leaf(raw) = members.get(*last)? else { return None };
        Some(raw.get())
    }

    /// Whether there is an object under this name.
    pub(super) fn has_object(&self, path: &[&str]) -> bool {
        matches!(path, [name] if matches!(self.members.get(*name), Some(Node::Object(_))))
    }

    /// The JSON of all of it.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        write(&self.members, &mut out);
        out
    }
}

fn add_pairs(
    known: &mut BTreeMap<String, Node>,
    pairs: Vec<(String, &RawValue)>,
    depth: usize,
    size: &mut usize,
) {
    for (name, raw) in pairs {
        if raw.get() == "null" {
            continue;
        }
        let inner = if depth < MAX_DEPTH { serde_json::from_str(raw.get()).ok() } else { None };
        match (known.get_mut(&name), inner) {
            (Some(Node::Object(members)), Some(Pairs(inner))) => {
                add_pairs(members, inner, depth + 1, size);
            }
            // What was an object stays one.
            (Some(Node::Object(_)), None) => {}
            (Some(Node::Leaf(old)), _) if is_count(old) && !is_count(raw) => {}
            (Some(old), inner) => {
                let Node::Leaf(gone) = &*old else { continue };
                *size = size.saturating_sub(gone.get().len());
                *old = node(raw, inner, depth, size);
            }
            (None, inner) => {
                *size += name.len() + NODE_SIZE;
                known.insert(name, node(raw, inner, depth, size));
            }
        }
    }
}

fn node(raw: &RawValue, inner: Option<Pairs<'_>>, depth: usize, size: &mut usize) -> Node {
    let Some(Pairs(inner)) = inner else {
        *size += raw.get().len();
        return Node::Leaf(raw.to_owned());
    };
    let mut members = BTreeMap::new();
    add_pairs(&mut members, inner, depth + 1, size);
    Node::Object(members)
}

/// A number more than 0, written as one or as text.
fn is_count(raw: &RawValue) -> bool {
    let number = raw.get().trim_matches('"').trim().parse::<f64>();
    number.is_ok_and(|number| number > 0.0)
}

fn write(members: &BTreeMap<String, Node>, out: &mut String) {
    out.push('{');
    for (i, (name, node)) in members.iter().enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        out.push_str(&serde_json::Value::from(name.as_str()).to_string());
        out.push(':');
        match node {
            Node::Object(members) => write(members, out),
            Node::Leaf(raw) => out.push_str(raw.get()),
        }
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_nulls_do_not_undo_counts() {
        for (parts, expected) in [
            (vec![r#"{"a":9,"b":5}"#, r#"{"a":0,"b":0}"#], r#"{"a":9,"b":5}"#),
            (vec![r#"{"a":9,"b":5}"#, r#"{"a":null,"b":-1}"#], r#"{"a":9,"b":5}"#),
            (vec![r#"{"a":9}"#, "null", "7", "[]", "{}"], r#"{"a":9}"#),
            (vec![r#"{"a":"9"}"#, r#"{"a":"0"}"#, r#"{"a":""}"#], r#"{"a":"9"}"#),
            (vec![r#"{"a":1}"#, r#"{"a":20}"#, r#"{"a":50}"#], r#"{"a":50}"#),
            (vec![r#"{"a":9}"#, r#"{"b":5}"#], r#"{"a":9,"b":5}"#),
            (vec![r#"{"a":0}"#, r#"{"a":7}"#], r#"{"a":7}"#),
            (vec![r#"{"d":{"a":3,"b":0}}"#, r#"{"d":{"b":4}}"#], r#"{"d":{"a":3,"b":4}}"#),
            (vec![r#"{"d":{"a":3}}"#, r#"{"d":0}"#, r#"{"d":{}}"#], r#"{"d":{"a":3}}"#),
            (vec![r#"{"d":0}"#, r#"{"d":{"a":3}}"#], r#"{"d":{"a":3}}"#),
            // Twice in one object.
            (vec![r#"{"a":9,"a":0,"d":{"x":1},"d":{"y":2}}"#], r#"{"a":9,"d":{"x":1,"y":2}}"#),
            (vec![r#"{"t":"standard"}"#, r#"{"t":"priority"}"#], r#"{"t":"priority"}"#),
        ] {
            let mut merged = Merged::default();
            parts.iter().for_each(|part| merged.add(part));
            assert_eq!(merged.to_json(), expected, "{parts:?}");
        }
    }

    #[test]
    fn digits_stay_and_depth_ends() {
        let deep = r#"{"a":{"b":{"c":{"d":{"e":1}}}},"cost":0.00012345678901234567890123}"#;
        assert_eq!(Merged::of(deep).to_json(), deep);
        assert_eq!(Merged::of(deep).find(&["cost"]), Some("0.00012345678901234567890123"));
        assert_eq!(Merged::of(deep).find(&["a", "b", "c", "d", "e"]), None);
        let bomb = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        assert_eq!(Merged::of(&bomb).find(&["a", "a"]), None);
    }

    proptest::proptest! {
        #[test]
        fn what_was_merged_is_json(parts in proptest::collection::vec("[{}\\[\\]\":,a-c0-9]{0,30}", 0..6)) {
            let mut merged = Merged::default();
            parts.iter().for_each(|part| merged.add(part));
            let json = merged.to_json();
            proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        }
    }
}
