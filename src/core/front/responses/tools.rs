//! Tools: flat in Responses, below `function` in chat. Chat knows functions only, so that a custom tool, whose input
//! is plain text, becomes a function of one text, and the functions of a namespace bear its name.

use crate::core::front::failure::Failure;
use crate::core::front::write::{self, is_null, literal, quoted, said};
use crate::core::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The namespace that means none (Codex).
const NO_NAMESPACE: &str = "functions";
/// The one parameter of a custom tool.
const INPUT: &str = "input";
/// Levels of namespaces.
const DEEPEST: usize = 2;

/// What a function of the chat request is in the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) is_custom: bool,
}

/// The functions that have another name or form in the response.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Origin>);

impl Names {
    /// What a function that is called is in the response.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.0.get(name).cloned().unwrap_or_else(|| Origin {
            name: name.to_owned(),
            namespace: None,
            is_custom: false,
        })
    }
}

/// The tools of a request, in chat's form.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Name in chat, and the tool.
    list: Vec<(String, String)>,
    pub(super) names: Names,
}

/// The name of a function in chat.
pub(super) fn chat_name(namespace: Option<&str>, name: &str) -> String {
    match namespace.filter(|namespace| !matches!(*namespace, "" | NO_NAMESPACE)) {
        None => name.to_owned(),
        Some(namespace) if namespace.ends_with("__") => format!("{namespace}{name}"),
        Some(namespace) => format!("{namespace}__{name}"),
    }
}

/// The arguments of the function that stands for a custom tool, from its input, which is a string of JSON.
pub(super) fn custom_arguments(input: &RawValue) -> String {
    format!("{{\"{INPUT}\":{}}}", input.get())
}

/// The input of a custom tool, from the arguments of its function. A model that writes something else means that.
pub(super) fn custom_input(arguments: &str) -> String {
    match json::pick(arguments, &[INPUT]) {
        Ok([Some(input)]) => {
            serde_json::from_str(input.get()).unwrap_or_else(|_| arguments.to_owned())
        }
        _ => arguments.to_owned(),
    }
}

impl Tools {
    /// Adds a list of tools. Those that OpenAI's own servers run (a web search, a code interpreter, an MCP server)
    /// are left out, as no other server that Codex is pointed to has them: a tool is an offer, and the model does
    /// without.
    pub(super) fn add(&mut self, tools: &RawValue, place: &str) -> Result<(), Failure> {
        self.add_list(tools, None, place, 0)
    }

    fn add_list(
        &mut self,
        tools: &RawValue,
        namespace: Option<&str>,
        place: &str,
        depth: usize,
    ) -> Result<(), Failure> {
        let mut result = Ok(());
        let mut index = 0;
        let is_list = json::each_item(tools.get(), |tool| {
            if result.is_ok() {
                result = self.add_one(tool, namespace, &format!("{place}[{index}]"), depth);
            }
            index += 1;
        });
        match is_list {
            true => result,
            false => Err(wrong(place, "an array of tools")),
        }
    }

    fn add_one(
        &mut self,
        tool: &RawValue,
        namespace: Option<&str>,
        place: &str,
        depth: usize,
    ) -> Result<(), Failure> {
        let names =
            ["type", "name", "description", "parameters", "strict", "format", "tools", "function"];
        let [kind, name, description, parameters, strict, format, tools, function] =
            json::pick(tool.get(), &names).map_err(|_| wrong(place, "an object"))?;
        let kind = kind.and_then(said).ok_or_else(|| wrong(place, "a tool with a type"))?;
        let name = || name.and_then(said).ok_or_else(|| wrong(place, "a tool with a name"));
        match kind.as_str() {
            // In chat's form, as Cursor and others send it.
            "function" if function.is_some_and(|function| function.get().starts_with('{')) => {
                let inner =
                    function.and_then(|function| json::pick(function.get(), &["name"]).ok());
                let name = inner.and_then(|[name]| name.and_then(said)).unwrap_or_default();
                self.list.push((name, tool.get().to_owned()));
            }
            "function" => {
                let origin =
                    Origin { name: name()?, namespace: owned(namespace), is_custom: false };
                let mut inner = Vec::new();
                inner.extend(description.map(|value| ("description", value.get())));
                inner.extend(parameters.map(|value| ("parameters", value.get())));
                inner.extend(strict.map(|value| ("strict", value.get())));
                self.push(origin, &inner);
            }
            "custom" => {
                let origin = Origin { name: name()?, namespace: owned(namespace), is_custom: true };
                let description = custom_description(description, format);
                let parameters = format!(
                    r#"{{"type":"object","properties":{{"{INPUT}":{{"type":"string"}}}},"required":["{INPUT}"],"additionalProperties":false}}"#
                );
                self.push(
                    origin,
                    &[("description", description.as_str()), ("parameters", parameters.as_str())],
                );
            }
            "namespace" if depth < DEEPEST => {
                let name = chat_name(namespace, &name()?);
                if let Some(tools) = tools {
                    self.add_list(tools, Some(&name), &format!("{place}.tools"), depth + 1)?;
                }
            }
            "namespace" => return Err(wrong(place, "a tool in no more than two namespaces")),
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, origin: Origin, inner: &[(&str, &str)]) {
        let name = chat_name(origin.namespace.as_deref(), &origin.name);
        let mut tool = String::new();
        write::object(&mut tool, |object| {
            object.text("type", "function");
            object.object("function", |object| {
                object.text("name", &name);
                for (member, value) in inner {
                    object.json(member, value);
                }
            });
        });
        if origin.is_custom || name != origin.name {
            self.names.0.insert(name.clone(), origin);
        }
        self.list.push((name, tool));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn to_json(&self) -> String {
        let mut out = String::new();
        write::list(&self.list, &mut out, |(_, tool), out| out.push_str(tool));
        out
    }

    /// `tool_choice` in chat's form; `None`: it says nothing.
    pub(super) fn choice(&mut self, choice: &RawValue) -> Result<Option<String>, Failure> {
        if is_null(choice) {
            return Ok(None);
        }
        if literal(choice).is_some() {
            return Ok(Some(choice.get().to_owned()));
        }
        let unfit = || wrong("tool_choice", "a text or an object with a type");
        let [kind, name, mode, tools, function] =
            json::pick(choice.get(), &["type", "name", "mode", "tools", "function"])
                .map_err(|_| unfit())?;
        match kind.and_then(said).ok_or_else(unfit)?.as_str() {
            "function" if function.is_some() => Ok(Some(choice.get().to_owned())),
            "function" | "custom" => {
                let name = name.and_then(said).ok_or_else(unfit)?;
                Ok(Some(format!(
                    r#"{{"type":"function","function":{{"name":{}}}}}"#,
                    quoted(&name)
                )))
            }
            "allowed_tools" => {
                let mut allowed = Vec::new();
                json::each_item(tools.map_or("[]", |tools| tools.get()), |tool| {
                    if let Ok([Some(name)]) = json::pick(tool.get(), &["name"]) {
                        allowed.extend(said(name));
                    }
                });
                self.list.retain(|(name, _)| allowed.contains(name));
                Ok(mode.map(|mode| mode.get().to_owned()))
            }
            // The answer must use it, and it is not there.
            other => {
                let message = format!("tool_choice: a tool of type '{other}' is not offered here");
                Err(Failure::invalid("tool_choice", message))
            }
        }
    }
}

/// What a custom tool is for, and the form that its input must have.
fn custom_description(description: Option<&RawValue>, format: Option<&RawValue>) -> String {
    let mut text = description.and_then(said).unwrap_or_default();
    let names = ["syntax", "definition"];
    if let Some(Ok([syntax, Some(definition)])) =
        format.map(|format| json::pick(format.get(), &names))
        && let Some(definition) = said(definition)
    {
        let syntax = syntax.and_then(said).unwrap_or_else(|| "following".to_owned());
        text.push_str(&format!("\n\nThe input must match this {syntax} grammar:\n{definition}"));
    }
    quoted(text.trim_start())
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn wrong(place: &str, expected: &str) -> Failure {
    Failure::invalid(place, format!("{place} must be {expected}"))
}
