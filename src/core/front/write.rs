//! JSON that is put together from texts as they came, so that no number and no string is printed anew.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The members of an object, as they came; of one that is given twice, the last.
pub type Members<'a> = BTreeMap<String, &'a RawValue>;

/// An object that is being written.
#[derive(Debug)]
pub struct Object<'o> {
    out: &'o mut String,
    is_empty: bool,
}

impl<'o> Object<'o> {
    pub fn open(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, is_empty: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(',');
        }
        self.out.push_str(&quoted(name));
        self.out.push(':');
    }

    /// A member whose value is this JSON.
    pub fn json(&mut self, name: &str, json: &str) {
        self.name(name);
        self.out.push_str(json);
    }

    pub fn text(&mut self, name: &str, text: &str) {
        self.json(name, &quoted(text));
    }

    /// A string of which this is the inside, as written.
    pub fn literal(&mut self, name: &str, literal: &str) {
        self.name(name);
        self.out.push('"');
        self.out.push_str(literal);
        self.out.push('"');
    }

    pub fn number(&mut self, name: &str, number: i64) {
        self.json(name, &number.to_string());
    }

    /// A member whose value `write` writes.
    pub fn with(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        self.name(name);
        write(self.out);
    }

    /// A member that is an object.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        self.with(name, |out| {
            let mut object = Object::open(out);
            write(&mut object);
            object.close();
        });
    }

    /// A member that is an array.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        write: impl FnMut(T, &mut String),
    ) {
        self.with(name, |out| list(items, out, write));
    }

    pub fn close(self) {
        self.out.push('}');
    }
}

/// Writes an array.
pub fn list<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut String,
    mut write: impl FnMut(T, &mut String),
) {
    out.push('[');
    for (i, item) in items.into_iter().enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        write(item, out);
    }
    out.push(']');
}

/// Writes an object.
pub fn object(out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
    let mut object = Object::open(out);
    write(&mut object);
    object.close();
}

/// A text as JSON.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The inside of a string of JSON, as written.
pub fn literal(value: &RawValue) -> Option<&str> {
    value.get().strip_prefix('"')?.strip_suffix('"')
}

/// What a string of JSON says, unless that is nothing.
pub fn said(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok().filter(|text: &String| !text.is_empty())
}

pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The members of a value; none, if it is no object.
pub fn members(value: &RawValue) -> Members<'_> {
    serde_json::from_str(value.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_written_member_by_member() {
        let mut out = String::new();
        object(&mut out, |object| {
            object.text("a\"b", "x\ny");
            object.literal("c", "\\ud83d");
            object.json("d", "1.50");
            object.number("e", -1);
            object.object("f", |_| {});
            object.list("g", ["1", "2"], |item, out| out.push_str(item));
        });
        assert_eq!(out, r#"{"a\"b":"x\ny","c":"\ud83d","d":1.50,"e":-1,"f":{},"g":[1,2]}"#);
    }

    #[test]
    fn values_are_read_as_what_they_are() {
        let of = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert_eq!(literal(&of(r#""a\n""#)), Some("a\\n"));
        assert_eq!(literal(&of("7")), None);
        assert_eq!(said(&of(r#""a\n""#)).as_deref(), Some("a\n"));
        for nothing in [r#""""#, "7", "null", r#""\ud800""#] {
            assert_eq!(said(&of(nothing)), None, "{nothing}");
        }
        assert!(members(&of("[1]")).is_empty() && is_null(&of("null")));
        assert_eq!(members(&of(r#"{"a":1,"a":2}"#))["a"].get(), "2");
    }
}
