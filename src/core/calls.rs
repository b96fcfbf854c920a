//! The tool calls of a whole answer in OpenAI's form: each has `arguments`, the JSON of an object as a text. Servers
//! leave them out where a function takes none, or give the object itself; a client that reads what it was promised
//! would fail on an answer that is paid for.

use crate::core::json;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The answer, each of its calls with arguments.
pub fn completed(answer: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    for function in functions(answer) {
        let Some(mended) = with_arguments(function) else { continue };
        // Each is a part of the text, and they come in its order.
        let start = function.get().as_ptr() as usize - answer.as_ptr() as usize;
        let Some(between) = answer.get(copied..start) else { return Cow::Borrowed(answer) };
        out.push_str(between);
        out.push_str(&mended);
        copied = start + function.get().len();
    }
    if copied == 0 {
        return Cow::Borrowed(answer);
    }
    out.push_str(&answer[copied..]);
    Cow::Owned(out)
}

/// What is called: of each choice, in their order.
fn functions(answer: &str) -> Vec<&RawValue> {
    let mut functions = Vec::new();
    let Ok([Some(choices)]) = json::pick(answer, &["choices"]) else { return functions };
    json::each_item(choices.get(), |choice| {
        let Ok([Some(message)]) = json::pick(choice.get(), &["message"]) else { return };
        let names = ["tool_calls", "function_call"];
        let Ok([calls, older]) = json::pick(message.get(), &names) else { return };
        let before = functions.len();
        if let Some(calls) = calls {
            json::each_item(calls.get(), |call| {
                let function = json::pick(call.get(), &["function"]);
                functions.extend(function.ok().and_then(|[function]| function));
            });
        }
        functions.extend(older);
        functions[before..].sort_by_key(|function| function.get().as_ptr() as usize);
    });
    functions
}

/// A function as it should be. `None`: it is.
fn with_arguments(function: &RawValue) -> Option<String> {
    let [arguments] = json::pick(function.get(), &["arguments"]).ok()?;
    let text = match arguments.map(RawValue::get) {
        None => "{}",
        Some(text) if text.starts_with('"') => match text[1..text.len() - 1].trim().is_empty() {
            true => "{}",
            false => return None,
        },
        Some(object) => object,
    };
    let arguments = to_raw_value(text).ok()?;
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(function.get()).ok()?;
    members.insert("arguments".to_owned(), &arguments);
    serde_json::to_string(&members).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_call_has_arguments() {
        let text = r#"{"n":0.10,"choices":[{"message":{"function_call":{"name":"o"},"tool_calls":[
            {"id":"a","function":{"name":"f"}},
            {"id":"b","function":{"name":"g","arguments":null}},
            {"id":"c","function":{"name":"h","arguments":""}},
            {"id":"d","function":{"name":"i","arguments":{"n":1.50}}},
            {"id":"e","function":{"name":"j","arguments":"{\"x\":1}"}}]}},
            {"message":{"tool_calls":[{"function":{"name":"k"}}]}}]}"#;
        let completed = completed(text);
        assert!(completed.starts_with(r#"{"n":0.10,"choices""#), "{completed}");
        let answer: Value = serde_json::from_str(&completed).unwrap();
        let message = &answer["choices"][0]["message"];
        let arguments: Vec<&Value> = message["tool_calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| &call["function"]["arguments"])
            .collect();
        assert_eq!(json!(arguments), json!(["{}", "{}", "{}", r#"{"n":1.50}"#, r#"{"x":1}"#]));
        assert_eq!(message["function_call"], json!({"name": "o", "arguments": "{}"}));
        let last = &answer["choices"][1]["message"]["tool_calls"][0];
        assert_eq!(last["function"], json!({"name": "k", "arguments": "{}"}));
    }

    #[test]
    fn what_needs_nothing_stays_as_it_is() {
        for text in [
            "",
            "7",
            r#"{"choices":[{"message":{"content":"x"}}]}"#,
            r#"{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"message":{"tool_calls":[{"type":"custom","custom":{}}]}}]}"#,
            r#"{"choices":[{"message":{"tool_calls":7}},{"message":[]}]}"#,
        ] {
            assert!(matches!(completed(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
