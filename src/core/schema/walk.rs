//! The way of a validator through a schema, and through a schema and an answer: without it, to know before what it
//! will take.

use serde_json::{Map, Value};
use std::collections::HashSet;

/// Schemas in a schema, and expressions.
const MOST_SCHEMAS: usize = 4096;
const MOST_PATTERNS: usize = 64;
const LONGEST_PATTERN: usize = 1024;
/// Schemas that apply one in the other.
const DEEPEST: usize = 200;
/// Steps of a check, of which each takes less than a microsecond.
const MOST_STEPS: usize = 500_000;

/// Keywords that change what a reference means, or that a validator goes a way for that is not counted here.
const REFUSED: &[&str] = &[
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// To which part of a value a schema within a schema applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At<'a> {
    Here,
    Member(&'a str),
    /// Each of them.
    Members,
    Names,
    Items,
}

/// Shows each schema that stands directly in this one.
fn each<'a>(
    schema: &'a Map<String, Value>,
    show: &mut dyn FnMut(At<'a>, &'a Value) -> Result<(), String>,
) -> Result<(), String> {
    for (keyword, value) in schema {
        match (keyword.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => {
                all.iter().try_for_each(|schema| show(At::Here, schema))?;
            }
            ("not" | "if" | "then" | "else" | "contentSchema", schema) => show(At::Here, schema)?,
            ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                let schemas = all.values().filter(|value| !value.is_array());
                schemas.into_iter().try_for_each(|schema| show(At::Here, schema))?;
            }
            ("properties", Value::Object(all)) => {
                all.iter().try_for_each(|(name, schema)| show(At::Member(name), schema))?;
            }
            ("patternProperties", Value::Object(all)) => {
                all.values().try_for_each(|schema| show(At::Members, schema))?;
            }
            ("additionalProperties", schema) => show(At::Members, schema)?,
            ("propertyNames", schema) => show(At::Names, schema)?,
            ("items" | "prefixItems", Value::Array(all)) => {
                all.iter().try_for_each(|schema| show(At::Items, schema))?;
            }
            ("items" | "additionalItems" | "contains", schema) => show(At::Items, schema)?,
            _ => {}
        }
    }
    Ok(())
}

/// What a reference of this schema means.
fn target<'a>(
    root: &'a Value,
    schema: &'a Map<String, Value>,
) -> Result<Option<&'a Value>, String> {
    let Some(reference) = schema.get("$ref") else { return Ok(None) };
    let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
    let is_plain =
        |pointer: &&str| (pointer.is_empty() || pointer.starts_with('/')) && !pointer.contains('%');
    let found = pointer.filter(is_plain).and_then(|pointer| root.pointer(pointer));
    match found {
        Some(found) => Ok(Some(found)),
        None => Err(format!("refers to {}, which is no part of it", shortened(reference))),
    }
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

/// Refuses a schema that is too large, refers to others, or to itself without end.
pub(super) fn survey(root: &Value) -> Result<(), String> {
    let mut surveyor = Surveyor { root, ..Surveyor::default() };
    surveyor.visit(root, true)?;
    surveyor.look_for_circles()
}

#[derive(Default)]
struct Surveyor<'a> {
    root: &'a Value,
    seen: HashSet<*const Value>,
    all: Vec<&'a Value>,
    patterns: usize,
}

impl<'a> Surveyor<'a> {
    /// Each schema once, also those that only a reference leads to.
    fn visit(&mut self, first: &'a Value, is_root: bool) -> Result<(), String> {
        let mut waiting = vec![(first, is_root)];
        while let Some((schema, is_root)) = waiting.pop() {
            if !self.seen.insert(schema) {
                continue;
            }
            if self.seen.len() > MOST_SCHEMAS {
                return Err(format!("has more than {MOST_SCHEMAS} parts"));
            }
            let Value::Object(members) = schema else { continue };
            self.all.push(schema);
            self.keywords(members, is_root)?;
            if let Some(target) = target(self.root, members)? {
                waiting.push((target, std::ptr::eq(target, self.root)));
            }
            // Definitions are read by a validator, whether something refers to them or not.
            for name in ["$defs", "definitions"] {
                if let Some(Value::Object(all)) = members.get(name) {
                    waiting.extend(all.values().map(|schema| (schema, false)));
                }
            }
            each(members, &mut |_, schema| {
                waiting.push((schema, false));
                Ok(())
            })?;
        }
        Ok(())
    }

    fn keywords(&mut self, members: &Map<String, Value>, is_root: bool) -> Result<(), String> {
        if let Some(refused) = REFUSED.iter().find(|keyword| members.contains_key(**keyword)) {
            return Err(format!("must not use {refused}"));
        }
        let has_name =
            ["$id", "id"].iter().any(|id| members.get(*id).is_some_and(Value::is_string));
        if has_name && !is_root {
            return Err("must not have $id in a part of it".to_owned());
        }
        let own = members.get("pattern").and_then(Value::as_str);
        let of_names = members.get("patternProperties").and_then(Value::as_object);
        let of_names = of_names.into_iter().flat_map(|all| all.keys().map(String::as_str));
        for pattern in own.into_iter().chain(of_names) {
            self.patterns += 1;
            if self.patterns > MOST_PATTERNS || pattern.len() > LONGEST_PATTERN {
                return Err(format!(
                    "may have {MOST_PATTERNS} patterns of {LONGEST_PATTERN} bytes at the most"
                ));
            }
        }
        Ok(())
    }

    /// A schema that applies to a value by way of itself never ends.
    fn look_for_circles(&self) -> Result<(), String> {
        let mut done = HashSet::new();
        for schema in &self.all {
            self.follow(schema, &mut Vec::new(), &mut done)?;
        }
        Ok(())
    }

    fn follow(
        &self,
        schema: &'a Value,
        path: &mut Vec<*const Value>,
        done: &mut HashSet<*const Value>,
    ) -> Result<(), String> {
        let place: *const Value = schema;
        if path.contains(&place) {
            return Err("refers to itself without end".to_owned());
        }
        let Value::Object(members) = schema else { return Ok(()) };
        if done.contains(&place) {
            return Ok(());
        }
        if path.len() == DEEPEST {
            return Err(format!("has more than {DEEPEST} parts one in the other"));
        }
        path.push(place);
        if let Some(target) = target(self.root, members)? {
            self.follow(target, path, done)?;
        }
        each(members, &mut |at, schema| match at {
            At::Here => self.follow(schema, path, done),
            _ => Ok(()),
        })?;
        path.pop();
        done.insert(place);
        Ok(())
    }
}

/// Whether the check of an answer takes more than it may.
pub(super) fn is_too_much(root: &Value, instance: &Value) -> bool {
    Walker { root, left: MOST_STEPS }.walk(root, instance, 0).is_err()
}

struct Walker<'a> {
    root: &'a Value,
    left: usize,
}

impl<'a> Walker<'a> {
    fn take(&mut self, steps: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(steps).ok_or_else(String::new)?;
        Ok(())
    }

    fn walk(&mut self, schema: &'a Value, instance: &Value, depth: usize) -> Result<(), String> {
        let Value::Object(members) = schema else { return self.take(1) };
        if depth == DEEPEST {
            return Err(String::new());
        }
        self.take(1 + members.len() + own_steps(members, instance))?;
        if let Some(target) = target(self.root, members)? {
            self.walk(target, instance, depth + 1)?;
        }
        each(members, &mut |at, schema| {
            let mut walk = |instance: &Value| self.walk(schema, instance, depth + 1);
            match (at, instance) {
                (At::Here, instance) => walk(instance),
                (At::Member(name), Value::Object(all)) => all.get(name).map_or(Ok(()), walk),
                (At::Members, Value::Object(all)) => all.values().try_for_each(walk),
                (At::Names, Value::Object(all)) => {
                    all.keys().try_for_each(|name| walk(&Value::String(name.clone())))
                }
                (At::Items, Value::Array(all)) => all.iter().try_for_each(walk),
                _ => self.take(1),
            }
        })
    }
}

/// What the keywords of a schema take that look at the value themselves.
fn own_steps(schema: &Map<String, Value>, instance: &Value) -> usize {
    let items = |name: &str| schema.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let choices = items("enum") + items("required");
    let own = match instance {
        Value::String(text) => {
            let is_matched = schema.contains_key("pattern") || schema.contains_key("format");
            if is_matched { text.len() } else { text.len() / 64 }
        }
        Value::Array(all) => all.len(),
        Value::Object(all) => {
            let patterns = schema.get("patternProperties").and_then(Value::as_object);
            let bytes: usize = all.keys().map(String::len).sum();
            all.len() + patterns.map_or(0, |all| all.len() * bytes)
        }
        _ => 0,
    };
    choices + own
}
