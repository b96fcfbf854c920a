//! Requests; the events of answers are in a file of their own.

mod events;

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The body of the chat request that a request becomes.
fn chat(body: &Value) -> Value {
    let asked = Asked::read(&body.to_string()).unwrap_or_else(|failure| panic!("{failure:?}"));
    serde_json::from_str(&asked.prepared.body()).unwrap()
}

fn messages(input: Value) -> Value {
    chat(&json!({"model": "m", "input": input}))["messages"].clone()
}

#[track_caller]
fn refused(body: &Value, param: &str) -> String {
    let failure = Asked::read(&body.to_string()).unwrap_err();
    assert_eq!((failure.status, failure.param()), (400, Some(param)), "{failure:?}");
    failure.message().to_owned()
}

/// As the Codex CLI sends it.
fn codex() -> Value {
    json!({
        "model": "m",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox: off"}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "<environment_context>"},
                {"type": "input_text", "text": "fix it"},
            ]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": null, "encrypted_content": "gAAAA"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}], "phase": "commentary"},
            {"type": "function_call", "name": "shell", "arguments": "{\"command\":[\"ls\"]}", "call_id": "c1"},
            {"type": "function_call", "name": "view_image", "arguments": "{}", "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.rs"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "high"}]},
            {"type": "custom_tool_call", "call_id": "c3", "name": "apply_patch", "input": "*** Begin\n\"x\""},
            {"type": "custom_tool_call_output", "call_id": "c3", "output": "Done"},
            {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
        ],
        "tools": [
            {"type": "function", "name": "shell", "description": "Runs.", "strict": false, "parameters": {"type": "object", "properties": {}}},
            {"type": "custom", "name": "apply_patch", "description": "Patches.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
            {"type": "namespace", "name": "mcp__db__", "description": "d", "tools": [{"type": "function", "name": "query", "parameters": {}}]},
            {"type": "namespace", "name": "functions", "description": "d", "tools": [{"type": "function", "name": "plan", "parameters": {}}]},
            {"type": "web_search", "external_web_access": false},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": true,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": false,
        "stream": true,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"x": "y"},
        "text": {"verbosity": "low"},
    })
}

#[test]
fn a_turn_of_codex_becomes_chat() {
    let asked = Asked::read(&codex().to_string()).unwrap();
    assert!(asked.prepared.streams && asked.about.wants_sealed);
    let body: Value = serde_json::from_str(&asked.prepared.body()).unwrap();
    assert_eq!(
        body["messages"],
        json!([
            {"role": "system", "content": "You are a coding agent.\n\nSandbox: off"},
            {"role": "user", "content": "<environment_context>\n\nfix it"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{\"command\":[\"ls\"]}"}},
                {"id": "c2", "type": "function", "function": {"name": "view_image", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "a.rs"},
            {"role": "tool", "tool_call_id": "c2", "content": "The output is in the next message."},
            {"role": "user", "content": [
                {"type": "text", "text": "The output of the tool:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "high"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c3", "type": "function", "function": {"name": "apply_patch", "arguments": "{\"input\":\"*** Begin\\n\\\"x\\\"\"}"}},
            ]},
            {"role": "tool", "tool_call_id": "c3", "content": "Done"},
        ])
    );
    let names: Vec<&str> = body["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["function"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["shell", "apply_patch", "mcp__db__query", "plan"]);
    let patch = &body["tools"][1]["function"];
    assert!(patch["description"].as_str().unwrap().starts_with("Patches."));
    assert!(patch["description"].as_str().unwrap().ends_with("start: x"));
    assert_eq!(patch["parameters"]["required"], json!(["input"]));
    assert_eq!(body["reasoning_effort"], "medium");
    assert_eq!(body["verbosity"], "low");
    assert_eq!(body["prompt_cache_key"], "k");
    assert_eq!(
        (&body["tool_choice"], &body["parallel_tool_calls"]),
        (&json!("auto"), &json!(true))
    );
    for gone in
        ["store", "include", "client_metadata", "input", "instructions", "reasoning", "text"]
    {
        assert!(body.get(gone).is_none(), "{gone}");
    }
}

#[test]
fn a_request_of_the_ai_sdk_becomes_chat() {
    let body = chat(&json!({
        "model": "m",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "https://a.example/x.png"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
            ]},
            {"type": "item_reference", "id": "rs_1"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}], "id": "msg_1"},
        ],
        "max_output_tokens": 7,
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "strict": true, "name": "n", "schema": {"type": "object"}}},
        "timeout_ms": 9,
        "whatever": {"x": 1},
        "metadata": {"a": "b"},
        "user": null,
    }));
    assert_eq!(
        body["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
            ]},
            {"role": "assistant", "content": "ab"},
        ])
    );
    assert_eq!(body["max_completion_tokens"], 7);
    assert_eq!(
        body["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}})
    );
    assert_eq!((&body["temperature"], &body["whatever"]), (&json!(0.5), &json!({"x": 1})));
    for gone in ["metadata", "timeout_ms", "user", "tools", "tool_choice"] {
        assert!(body.get(gone).is_none(), "{gone}");
    }
}

#[test]
fn what_needs_a_memory_is_refused_by_its_name() {
    let with = |name: &str, value: Value| {
        let mut body = json!({"model": "m", "input": "hi"});
        body[name] = value;
        body
    };
    let message = refused(&with("previous_response_id", json!("resp_1")), "previous_response_id");
    assert!(message.contains("no response is stored here"), "{message}");
    refused(&with("conversation", json!("conv_1")), "conversation");
    refused(&with("prompt", json!({"id": "p"})), "prompt");
    refused(&with("background", json!(true)), "background");
    let reference = json!([{"type": "item_reference", "id": "msg_1"}]);
    let message = refused(&with("input", reference), "input[0]");
    assert!(message.contains("store = false"), "{message}");
    // Nothing that is not there.
    for (name, value) in [
        ("previous_response_id", Value::Null),
        ("background", json!(false)),
        ("store", json!(true)),
        ("truncation", json!("auto")),
    ] {
        assert_eq!(
            chat(&with(name, value))["messages"],
            json!([{"role": "user", "content": "hi"}])
        );
    }
}

#[test]
fn what_cannot_be_understood_is_refused_with_its_place() {
    for (input, param) in [
        (json!(null), "input"),
        (json!([]), "input"),
        (json!(7), "input"),
        (json!([7]), "input[0]"),
        (json!([{}]), "input[0]"),
        (
            json!([{"role": "user", "content": "a"}, {"role": "king", "content": "a"}]),
            "input[1].role",
        ),
        (json!([{"role": "user"}]), "input[0]"),
        (json!([{"role": "user", "content": 7}]), "input[0].content"),
        (json!([{"role": "user", "content": [{"type": "input_text"}]}]), "input[0].content[0]"),
        (
            json!([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]),
            "input[0].content[0]",
        ),
        (
            json!([{"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]}]),
            "input[0]",
        ),
        (json!([{"type": "function_call", "name": "f"}]), "input[0]"),
        (json!([{"type": "function_call_output", "output": "x"}]), "input[0]"),
        (json!([{"type": "mcp_call", "id": "x"}]), "input[0]"),
    ] {
        refused(&json!({"model": "m", "input": input}), param);
    }
    for (tools, param) in [
        (json!(7), "tools"),
        (json!([7]), "tools[0]"),
        (json!([{"type": "function"}]), "tools[0]"),
        (json!([{"type": "namespace", "name": "a", "tools": [{}]}]), "tools[0].tools[0]"),
    ] {
        refused(&json!({"model": "m", "input": "x", "tools": tools}), param);
    }
    let choice = json!({"type": "web_search"});
    refused(&json!({"model": "m", "input": "x", "tool_choice": choice}), "tool_choice");
    refused(&json!({"model": "m", "input": "x", "text": 7}), "text");
    let twice = r#"{"model":"m","input":"a","input":"b"}"#;
    assert_eq!(Asked::read(twice).unwrap_err().status, 400);
    let large = format!(r#"{{"model":"m","input":[{}7]}}"#, "7,".repeat(600_000));
    assert_eq!(Asked::read(&large).unwrap_err().status, 413);
}

#[test]
fn outputs_follow_their_calls_whatever_came_between() {
    let call =
        |id: &str| json!({"type": "function_call", "name": "f", "arguments": "{}", "call_id": id});
    let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": id});
    let roles = |input: Value| -> Vec<String> {
        let messages = messages(input);
        let role = |message: &Value| message["role"].as_str().unwrap().to_owned();
        messages.as_array().unwrap().iter().map(role).collect()
    };
    let user = json!({"role": "user", "content": "x"});
    assert_eq!(
        roles(json!([call("a"), call("b"), user, output("a"), output("b"), user])),
        ["assistant", "tool", "tool", "user", "user"]
    );
    assert_eq!(
        roles(json!([call("a"), output("a"), call("b"), output("b")])),
        ["assistant", "tool", "assistant", "tool"]
    );
    // An output that never comes holds nothing up.
    assert_eq!(
        roles(json!([call("a"), user, call("b"), output("b")])),
        ["assistant", "user", "assistant", "tool"]
    );
    assert_eq!(roles(json!([call("a"), user])), ["assistant", "user"]);
    let says = json!({"role": "assistant", "content": "x"});
    assert_eq!(roles(json!([says, call("a"), says, output("a")])), ["assistant", "tool"]);
    assert_eq!(messages(json!([says, says])), json!([{"role": "assistant", "content": "x\n\nx"}]));
    assert_eq!(
        roles(json!([call("a"), user, says, output("a"), user])),
        ["assistant", "tool", "user", "assistant", "user"]
    );
    let shell = messages(json!([
        {"type": "local_shell_call", "call_id": "s", "status": "completed", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "s", "output": "a"},
        {"type": "shell_call_output", "call_id": "t", "output": [{"stdout": "b"}]},
    ]));
    assert_eq!(shell[0]["tool_calls"][0]["function"]["name"], "local_shell");
    assert_eq!(shell[1], json!({"role": "tool", "tool_call_id": "s", "content": "a"}));
    assert_eq!(shell[2]["content"], r#"[{"stdout":"b"}]"#);
}

#[test]
fn later_instructions_stay_where_they_are() {
    let developer = json!({"role": "developer", "content": "d"});
    let user = json!({"role": "user", "content": "u"});
    assert_eq!(
        messages(json!([developer, developer, user, developer])),
        json!([
            {"role": "system", "content": "d\n\nd"},
            {"role": "user", "content": "u"},
            {"role": "system", "content": "d"},
        ])
    );
}

#[test]
fn a_choice_of_tools_names_them_as_chat_does() {
    let tools = json!([
        {"type": "function", "name": "f"},
        {"type": "custom", "name": "p"},
        {"type": "function", "function": {"name": "nested"}},
    ]);
    let of = |choice: Value| {
        chat(&json!({"model": "m", "input": "x", "tools": tools, "tool_choice": choice}))
    };
    for (choice, expected) in [
        (json!("required"), json!("required")),
        (
            json!({"type": "function", "name": "f"}),
            json!({"type": "function", "function": {"name": "f"}}),
        ),
        (
            json!({"type": "custom", "name": "p"}),
            json!({"type": "function", "function": {"name": "p"}}),
        ),
    ] {
        let body = of(choice);
        assert_eq!(body["tool_choice"], expected);
        assert_eq!(body["tools"].as_array().map(Vec::len), Some(3));
    }
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "nested"}]});
    let body = of(allowed);
    assert_eq!(body["tool_choice"], "required");
    assert_eq!(body["tools"], json!([{"type": "function", "function": {"name": "nested"}}]));
    // Without tools nothing is said of them.
    let body = chat(
        &json!({"model": "m", "input": "x", "tools": [{"type": "web_search"}], "tool_choice": "auto", "parallel_tool_calls": false}),
    );
    for gone in ["tools", "tool_choice", "parallel_tool_calls"] {
        assert!(body.get(gone).is_none(), "{gone}");
    }
}

/// Items that are nearly right.
fn items() -> impl Strategy<Value = Value> {
    let item = proptest::sample::select(vec![
        json!({"role": "user", "content": "u"}),
        json!({"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}),
        json!({"role": "developer", "content": "d"}),
        json!({"type": "function_call", "name": "f", "arguments": {}, "call_id": "a"}),
        json!({"type": "function_call", "name": "f", "namespace": "n", "arguments": "", "call_id": "b"}),
        json!({"type": "custom_tool_call", "name": "p", "input": "x", "call_id": "c"}),
        json!({"type": "function_call_output", "call_id": "a", "output": {"x": 1}}),
        json!({"type": "function_call_output", "call_id": "b", "output": [{"type": "input_image", "image_url": "u"}]}),
        json!({"type": "custom_tool_call_output", "call_id": "c", "output": ""}),
        json!({"type": "reasoning", "encrypted_content": "aggregator.1:{\"thinking_blocks\":[]}"}),
        json!({"type": "web_search_call"}),
    ]);
    proptest::collection::vec(item, 1..12).prop_map(Value::from)
}

proptest! {
    #[test]
    fn outputs_stand_behind_their_calls(input in items()) {
        let body = json!({"model": "m", "input": input});
        let Ok(asked) = Asked::read(&body.to_string()) else { return Ok(()) };
        let body: Value = serde_json::from_str(&asked.prepared.body()).unwrap();
        // Calls of the last answer without an output so far, and whether something else has come.
        let (mut awaited, mut is_over) = (Vec::new(), false);
        for message in body["messages"].as_array().unwrap() {
            let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
            match message["role"].as_str().unwrap() {
                "assistant" => {
                    awaited = calls.iter().map(|call| call["id"].clone()).collect();
                    is_over = false;
                }
                "tool" if awaited.contains(&message["tool_call_id"]) => {
                    prop_assert!(!is_over, "{}", body);
                    awaited.retain(|id| id != &message["tool_call_id"]);
                }
                "tool" => {}
                _ => is_over = true,
            }
        }
    }

    #[test]
    fn no_request_from_outside_panics(
        text in "\\PC{0,60}",
        like in "([{}\\[\\]:,]|\"(type|role|content|input|tools|name|call_id|id)\"|\"[a-z]{0,9}\"|[0-9]){0,40}",
    ) {
        for text in [text, like] {
            for body in [
                text.clone(),
                format!(r#"{{"model":"m","input":{text}}}"#),
                format!(r#"{{"model":"m","input":"x","tools":{text}}}"#),
            ] {
                let _ = Asked::read(&body);
            }
        }
    }
}
