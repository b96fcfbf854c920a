//! The way of a validator through a schema, and through a schema and an answer: without it, to know before what it
//! will take.

use super::LARGEST_PATTERN;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Schemas in a schema, each as often as it is compiled: where it stands, and once more for each reference to it or to
/// one around it.
const MOST_SCHEMAS: usize = 4096;
/// Bytes of the places of all of them: each keyword knows its own, written out.
const MOST_PLACES: usize = 4 << 20;
/// Expressions.
const MOST_PATTERNS: usize = 64;
const LONGEST_PATTERN: usize = 1024;
/// What a schema and an expression take, compiled, at about.
const SCHEMA: usize = 1 << 10;
const PATTERN: usize = 16 << 10;
/// Schemas that apply one in the other.
const DEEPEST: usize = 200;
/// Steps of a check, of which each takes less than a microsecond or so.
const MOST_STEPS: usize = 500_000;
/// Steps of a byte that an expression looks at: in the worst case it is in thousands of states at one time.
const MATCHED: usize = 8;
/// Bytes of what a validator finds wrong: it collects all of that, each with its place written out, before anybody can
/// say that some of it would do.
const MOST_TOLD: usize = 32 << 20;
/// Of one violation, without its place and the names that it repeats.
const VIOLATION: usize = 256;
/// Arrays that are this short are looked through for equal items in pairs.
const IN_PAIRS: usize = 16;

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

/// Shows each schema that stands directly in this one, and how many bytes its place is longer.
fn each<'a>(
    schema: &'a Map<String, Value>,
    show: &mut dyn FnMut(At<'a>, usize, &'a Value) -> Result<(), String>,
) -> Result<(), String> {
    for (keyword, value) in schema {
        // With the place in a list.
        let far = keyword.len() + 8;
        match (keyword.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => {
                all.iter().try_for_each(|schema| show(At::Here, far, schema))?;
            }
            ("not" | "if" | "then" | "else" | "contentSchema", schema) => {
                show(At::Here, far, schema)?;
            }
            ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                let mut schemas = all.iter().filter(|(_, value)| !value.is_array());
                schemas
                    .try_for_each(|(name, schema)| show(At::Here, far + written(name), schema))?;
            }
            ("properties", Value::Object(all)) => {
                all.iter().try_for_each(|(name, schema)| {
                    show(At::Member(name), far + written(name), schema)
                })?;
            }
            ("patternProperties", Value::Object(all)) => {
                all.iter().try_for_each(|(name, schema)| {
                    show(At::Members, far + written(name), schema)
                })?;
            }
            ("additionalProperties", schema) => show(At::Members, far, schema)?,
            ("propertyNames", schema) => show(At::Names, far, schema)?,
            ("items" | "prefixItems", Value::Array(all)) => {
                all.iter().try_for_each(|schema| show(At::Items, far, schema))?;
            }
            ("items" | "additionalItems" | "contains", schema) => show(At::Items, far, schema)?,
            _ => {}
        }
    }
    Ok(())
}

/// Bytes of a name in a place at the most: some characters are escaped there.
fn written(name: &str) -> usize {
    name.len().saturating_mul(2)
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

/// Refuses a schema that is too large, refers to others, or to itself without end. Says how many bytes it takes,
/// compiled, at about.
pub(super) fn survey(root: &Value) -> Result<usize, String> {
    let mut surveyor = Surveyor { root, ..Surveyor::default() };
    surveyor.visit_all()?;
    surveyor.look_for_circles()?;
    Ok(surveyor.compiled * SCHEMA + surveyor.places + surveyor.patterns_take)
}

#[derive(Default)]
struct Surveyor<'a> {
    root: &'a Value,
    seen: HashSet<*const Value>,
    all: Vec<&'a Value>,
    /// To which references lead.
    targets: HashSet<*const Value>,
    compiled: usize,
    places: usize,
    patterns: usize,
    patterns_take: usize,
}

impl<'a> Surveyor<'a> {
    /// The whole, and what references lead to, each with all that stands in it: a validator has all of that each time.
    fn visit_all(&mut self) -> Result<(), String> {
        self.targets.insert(self.root);
        let mut waiting = vec![(self.root, 0)];
        while let Some((first, place)) = waiting.pop() {
            self.visit(first, place, &mut waiting)?;
        }
        Ok(())
    }

    fn visit(
        &mut self,
        first: &'a Value,
        place: usize,
        targets: &mut Vec<(&'a Value, usize)>,
    ) -> Result<(), String> {
        let mut waiting = vec![(first, place)];
        while let Some((schema, place)) = waiting.pop() {
            self.compiled += 1;
            if self.compiled > MOST_SCHEMAS {
                return Err(format!("has more than {MOST_SCHEMAS} parts"));
            }
            let Value::Object(members) = schema else { continue };
            // Of the schema, and of each of its keywords.
            self.places = self.places.saturating_add((1 + members.len()).saturating_mul(place));
            if self.places > MOST_PLACES {
                return Err("has names that are too long for so many parts".to_owned());
            }
            if self.seen.insert(schema) {
                self.all.push(schema);
                self.keywords(members, std::ptr::eq(schema, self.root))?;
            }
            if let Some(target) = target(self.root, members)?
                && self.targets.insert(target)
            {
                let reference = members.get("$ref").and_then(Value::as_str).unwrap_or_default();
                targets.push((target, written(reference)));
            }
            // Definitions are read by a validator, whether something refers to them or not.
            for name in ["$defs", "definitions"] {
                if let Some(Value::Object(all)) = members.get(name) {
                    let far = |name: &String| place + 16 + written(name);
                    waiting.extend(all.iter().map(|(name, schema)| (schema, far(name))));
                }
            }
            each(members, &mut |_, far, schema| {
                waiting.push((schema, place + far));
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
            self.patterns_take += pattern_size(pattern);
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
        each(members, &mut |at, _, schema| match at {
            At::Here => self.follow(schema, path, done),
            _ => Ok(()),
        })?;
        path.pop();
        done.insert(place);
        Ok(())
    }
}

/// What an expression takes, compiled twice, from either end, with what it is matched by: by its text, and what is
/// repeated in that.
fn pattern_size(pattern: &str) -> usize {
    let has_letters = ["\\p", "\\P"].iter().any(|class| pattern.contains(class));
    let times = pattern.split('{').skip(1).map(|rest| {
        let counts = rest.split('}').next().unwrap_or_default().split(',');
        // What is no number repeats nothing; one that is too large to be read repeats more than anybody may.
        let is_number =
            |count: &&str| !count.is_empty() && count.bytes().all(|c| c.is_ascii_digit());
        let counts = counts.map(str::trim).filter(is_number);
        counts.map(|count| count.parse().unwrap_or(usize::MAX)).max().unwrap_or(1).max(1)
    });
    let times = times.fold(if has_letters { 256 } else { 1 }, usize::saturating_mul);
    let size = pattern.len().saturating_mul(128).saturating_mul(times).saturating_add(PATTERN);
    size.min(4 * LARGEST_PATTERN)
}

/// What may be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Its check takes more than it may.
    TooMuch,
    /// It can be checked, but all that is wrong with it may take too much room.
    Check,
    Tell,
}

pub(super) fn effort(root: &Value, instance: &Value) -> Effort {
    let mut walker = Walker { root, left: MOST_STEPS, told: 0, word: longest_word(root) };
    match walker.walk(root, instance, 0, 0) {
        Err(_) => Effort::TooMuch,
        Ok(()) if walker.told > MOST_TOLD => Effort::Check,
        Ok(()) => Effort::Tell,
    }
}

/// Of the texts and names of a schema, which a violation may repeat.
fn longest_word(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(longest_word).max().unwrap_or(0),
        Value::Object(all) => {
            all.iter().map(|(name, value)| name.len().max(longest_word(value))).max().unwrap_or(0)
        }
        _ => 0,
    }
}

struct Walker<'a> {
    root: &'a Value,
    left: usize,
    /// Bytes of violations at the most.
    told: usize,
    word: usize,
}

impl<'a> Walker<'a> {
    fn take(&mut self, steps: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(steps).ok_or_else(String::new)?;
        Ok(())
    }

    /// So many violations at a place of so many bytes.
    fn tell(&mut self, violations: usize, place: usize) {
        let each = VIOLATION.saturating_add(place).saturating_add(self.word);
        self.told = self.told.saturating_add(violations.saturating_mul(each));
    }

    /// `place`: the bytes of where the instance is.
    fn walk(
        &mut self,
        schema: &'a Value,
        instance: &Value,
        place: usize,
        depth: usize,
    ) -> Result<(), String> {
        let Value::Object(members) = schema else {
            self.tell(1, place);
            return self.take(1);
        };
        if depth == DEEPEST {
            return Err(String::new());
        }
        // Each of its keywords may tell one, and those that list names one for each.
        let violations = members.len() + listed_names(members);
        self.take(own_steps(members, instance).saturating_add(1 + violations))?;
        self.tell(violations, place);
        if let Value::Object(all) = instance {
            // Names that nobody asked for are told as well.
            let names: usize = all.keys().map(String::len).sum();
            self.take(names / 64)?;
            self.told = self.told.saturating_add(names);
        }
        if let Some(target) = target(self.root, members)? {
            self.walk(target, instance, place, depth + 1)?;
        }
        each(members, &mut |at, _, schema| {
            let mut walk =
                |instance: &Value, far: usize| self.walk(schema, instance, place + far, depth + 1);
            match (at, instance) {
                (At::Here, instance) => walk(instance, 0),
                (At::Member(name), Value::Object(all)) => {
                    all.get(name).map_or(Ok(()), |value| walk(value, 1 + written(name)))
                }
                (At::Members, Value::Object(all)) => {
                    all.iter().try_for_each(|(name, value)| walk(value, 1 + written(name)))
                }
                (At::Names, Value::Object(all)) => {
                    all.keys().try_for_each(|name| walk(&Value::String(name.clone()), 0))
                }
                (At::Items, Value::Array(all)) => all.iter().try_for_each(|item| walk(item, 8)),
                _ => self.take(1),
            }
        })
    }
}

/// Names that a schema lists, of which each may be missing.
fn listed_names(schema: &Map<String, Value>) -> usize {
    let items = |value: Option<&Value>| value.and_then(Value::as_array).map_or(0, Vec::len);
    let depending = |name: &str| {
        let all = schema.get(name).and_then(Value::as_object);
        all.map_or(0, |all| all.values().map(|value| 1 + items(Some(value))).sum::<usize>())
    };
    items(schema.get("required")) + depending("dependentRequired") + depending("dependencies")
}

/// What the keywords of a schema take that look at the value themselves.
fn own_steps(schema: &Map<String, Value>, instance: &Value) -> usize {
    let own = match instance {
        Value::String(text) => {
            let bytes = text.len();
            let mut steps = bytes / 64;
            if schema.contains_key("pattern") {
                steps = steps.saturating_add(bytes.saturating_mul(MATCHED));
            }
            if schema.contains_key("format") {
                // Some look at what they have seen once more, from the beginning.
                steps =
                    steps.saturating_add(bytes).saturating_add(bytes.saturating_mul(bytes) / 4096);
            }
            steps
        }
        Value::Array(all) => all.len(),
        Value::Object(all) => {
            let patterns = schema.get("patternProperties").and_then(Value::as_object);
            let bytes = || -> usize { all.keys().map(String::len).sum() };
            let matched = patterns.map_or(0, |all| all.len().saturating_mul(bytes()));
            all.len().saturating_add(matched.saturating_mul(MATCHED))
        }
        _ => 0,
    };
    own.saturating_add(compared(schema, instance))
}

/// What it takes to compare a value, with all that is in it, to those that it may be, or its items with each other.
fn compared(schema: &Map<String, Value>, instance: &Value) -> usize {
    let choices = schema.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
    let mut times = choices + usize::from(schema.contains_key("const"));
    if let (Some(Value::Bool(true)), Value::Array(all)) = (schema.get("uniqueItems"), instance) {
        // Each with half of the others, or each in a table.
        times += if all.len() <= IN_PAIRS { all.len() / 2 + 1 } else { 4 };
    }
    match times {
        0 => 0,
        times => times.saturating_mul(size(instance)),
    }
}

/// Of a value with all that is in it.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 64,
        Value::Array(all) => 1 + all.iter().map(size).sum::<usize>(),
        Value::Object(all) => {
            1 + all.iter().map(|(name, value)| name.len() / 64 + size(value)).sum::<usize>()
        }
        _ => 1,
    }
}
