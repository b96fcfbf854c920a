//! A schema as strict modes take it. OpenAI's page "Structured outputs" and Anthropic's of the same name: every object
//! names all its members and requires them. What both know no word for stands in the description instead: the answer is
//! checked by the whole schema all the same.

use serde_json::{Map, Value};

/// Deepest nesting, which is OpenAI's limit.
const DEEPEST: usize = 10;

/// Keywords that go as they are.
const KEPT: &[&str] = &["type", "enum", "const", "title", "description", "required"];
/// Keywords that say nothing of the answer.
const DROPPED: &[&str] = &[
    "$schema",
    "$id",
    "id",
    "$comment",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$defs",
    "definitions",
];
/// Keywords that are told in words.
const TOLD: &[&str] = &[
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
];

/// `None`: strict modes have no form for it.
pub(super) fn form(schema: &Value) -> Option<Value> {
    at(schema, DEEPEST)
}

fn at(schema: &Value, depth: usize) -> Option<Value> {
    let members = schema.as_object()?;
    let depth = depth.checked_sub(1)?;
    let mut out = Map::new();
    let mut told = Map::new();
    for (keyword, value) in members {
        let value = match keyword.as_str() {
            name if KEPT.contains(&name) => value.clone(),
            name if DROPPED.contains(&name) => continue,
            name if TOLD.contains(&name) => {
                told.insert(keyword.clone(), value.clone());
                continue;
            }
            "properties" => {
                let all = value.as_object()?.iter();
                all.map(|(name, schema)| Some((name.clone(), at(schema, depth)?)))
                    .collect::<Option<Map<_, _>>>()?
                    .into()
            }
            "items" => at(value, depth)?,
            "anyOf" => value
                .as_array()?
                .iter()
                .map(|schema| at(schema, depth))
                .collect::<Option<Vec<_>>>()?
                .into(),
            "additionalProperties" if *value == false => continue,
            _ => return None,
        };
        out.insert(keyword.clone(), value);
    }
    let kind = out.get("type");
    if kind.is_some_and(|kind| kind == "object") {
        let properties = out.get("properties")?.as_object()?;
        let required = out.get("required").and_then(Value::as_array);
        let is_required =
            |name: &String| required.is_some_and(|all| all.iter().any(|other| other == name));
        if properties.is_empty() || !properties.keys().all(is_required) {
            return None;
        }
        out.insert("additionalProperties".to_owned(), false.into());
    } else if out.contains_key("properties")
        || kind.is_some_and(|kind| kind.is_array() && holds(kind, "object"))
        || kind.is_none() && !["enum", "const", "anyOf"].iter().any(|word| out.contains_key(*word))
    {
        // It may be an object that names no members.
        return None;
    } else if kind.is_some_and(|kind| kind == "array" || holds(kind, "array"))
        && !out.contains_key("items")
    {
        return None;
    }
    if !told.is_empty() {
        let own = out.get("description").and_then(Value::as_str).unwrap_or_default();
        let words = format!("{own} It fits {}.", Value::Object(told));
        out.insert("description".to_owned(), words.trim().into());
    }
    Some(out.into())
}

fn holds(kinds: &Value, kind: &str) -> bool {
    kinds.as_array().is_some_and(|kinds| kinds.iter().any(|other| other == kind))
}
