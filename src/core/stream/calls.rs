//! Tool calls: where one ends and the next begins, and what a finished one must have.

use super::merge::{Node, inside, quoted, unescaped};
use std::collections::BTreeMap;

/// Follows the arguments of a call, which come in pieces, to the brace that closes them. Each piece costs its own
/// length only.
#[derive(Debug, Default)]
pub(in crate::core) struct Arguments {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    is_closed: bool,
}

impl Arguments {
    /// Reads a piece: the inside of a JSON string, as written.
    pub(in crate::core) fn add(&mut self, literal: &str) {
        for c in unescaped(literal).chars() {
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' if self.in_string => self.is_escaped = true,
                '"' => self.in_string = !self.in_string,
                '{' | '[' if !self.in_string => {
                    self.depth = self.depth.saturating_add(1);
                    self.is_closed = false;
                }
                '}' | ']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_closed = self.depth == 0;
                }
                _ => {}
            }
        }
    }

    /// They came as an object, and not in pieces.
    pub(in crate::core) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(in crate::core) fn are_whole(&self) -> bool {
        self.is_closed
    }
}

/// A delta of a call, and the call that its place has now.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Meeting<'a> {
    pub(in crate::core) has_index: bool,
    pub(in crate::core) id: Option<&'a str>,
    pub(in crate::core) name: Option<&'a str>,
    pub(in crate::core) has_arguments: bool,
    pub(in crate::core) known_id: Option<&'a str>,
    pub(in crate::core) known_name: Option<&'a str>,
    pub(in crate::core) known_is_whole: bool,
}

impl Meeting<'_> {
    /// Whether the delta begins another call. Servers give each call the same `index` (Ollama), or none at all; and
    /// some give no ids. A call begins with a name, but some upstreams repeat the name of a call, and others send it
    /// in pieces.
    pub(in crate::core) fn is_another(&self) -> bool {
        let has_new_id = self.id.is_some() && self.known_id.is_some() && self.id != self.known_id;
        let Some(name) = self.name else { return has_new_id && !self.has_index };
        // Another name, or the arguments once more.
        let differs = self.known_name.is_some_and(|known| known != name);
        let goes_beyond = self.known_is_whole && (differs || self.has_arguments);
        match (self.id, self.known_id) {
            (Some(_), Some(_)) => has_new_id,
            (Some(_), None) => differs || goes_beyond,
            (None, _) if !self.has_index => true,
            (None, None) => differs || goes_beyond,
            (None, Some(_)) => goes_beyond,
        }
    }
}

/// Gives every call of a message `arguments` that are the JSON of an object, as a text: a call whose arguments never
/// came has none.
pub(super) fn complete(message: &mut BTreeMap<String, Node>) {
    if let Some(Node::List(calls)) = message.get_mut("tool_calls") {
        for call in calls.nodes() {
            if let Node::Object(call) = call
                && let Some(Node::Object(function)) = call.get_mut("function")
            {
                complete_function(function);
            }
        }
    }
    if let Some(Node::Object(function)) = message.get_mut("function_call") {
        complete_function(function);
    }
}

fn complete_function(function: &mut BTreeMap<String, Node>) {
    let arguments = function.entry("arguments".to_owned()).or_default();
    let text = match &*arguments {
        Node::Text(text) if !text.trim().is_empty() => return,
        Node::Text(_) | Node::Null => "{}".to_owned(),
        other => {
            let mut object = String::new();
            other.write(&mut object);
            inside(&quoted(&object)).to_owned()
        }
    };
    *arguments = Node::Text(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_whole_at_the_brace_that_closes_them() {
        for (pieces, whole) in [
            (&[r#"{}"#][..], true),
            (&[r#"{\"a\":"#, r#"\"}\"}"#], true),
            (&[r#"{\"a\":\"\\\\"#, r#"\"}"#], true),
            (&[r#"{\"a\":\"\\"#, r#"\"}"#], false),
            (&[r#"{\"a\":{}"#], false),
            (&[r#"\u007b\u007d"#], true),
            (&[r#"{} {"#], false),
            (&[], false),
            (&[""], false),
        ] {
            let mut arguments = Arguments::default();
            pieces.iter().for_each(|piece| arguments.add(piece));
            assert_eq!(arguments.are_whole(), whole, "{pieces:?}");
        }
    }
}
