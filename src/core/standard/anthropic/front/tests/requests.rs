//! Requests, as Claude Code and Anthropic's libraries send them.

use super::*;

/// Of a session of Claude Code 2.1, shortened: the bill to Anthropic first, cache marks, reminders in the
/// user's turn, a tool round with an error, a system message in the middle, members of betas.
fn claude_code() -> Value {
    let cached = json!({"type": "ephemeral", "ttl": "1h"});
    json!({
        "model": "claude-sonnet-5",
        "max_tokens": 32000,
        "stream": true,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.280.0d9; cch=fa690;"},
            {"type": "text", "text": "You are Claude Code.", "cache_control": cached},
            {"type": "text", "text": "Be concise.", "cache_control": cached},
        ],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>today</system-reminder>"},
                {"type": "text", "text": "fix it", "cache_control": cached}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "EqQB"},
                {"type": "text", "text": "I'll look."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"n": 1.50, "path": "/a"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {}}]},
            {"role": "user", "content": [
                {"tool_use_id": "toolu_1", "type": "tool_result", "content": [
                    {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
                {"tool_use_id": "toolu_2", "type": "tool_result", "is_error": true,
                    "content": "no such file", "cache_control": cached},
                {"type": "text", "text": "go on"}]},
            {"role": "system", "content": "<total_tokens>9 left</total_tokens>"},
        ],
        "tools": [
            {"name": "Read", "description": "Reads", "input_schema": {
                "type": "object", "properties": {"path": {"type": "string"}}, "maximum": 0.30},
                "eager_input_streaming": true},
            {"type": "custom", "name": "Bash", "input_schema": {"type": "object"}, "cache_control": cached},
        ],
        "metadata": {"user_id": format!("user_{}_account__session_{}", "a".repeat(64), "b".repeat(36))},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "xhigh"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "temperature": 1,
    })
}

#[test]
fn a_session_of_claude_code_goes_to_a_provider_of_openais_form() {
    let chat = chat(&claude_code(), OTHERS);
    let user = chat["user"].as_str().unwrap();
    assert!(user.len() == 64 && user.bytes().all(|byte| byte.is_ascii_hexdigit()), "{user}");
    assert_eq!(
        chat,
        json!({
            "model": "claude-sonnet-5",
            "max_tokens": 32000,
            "stream": true,
            "temperature": 1,
            "reasoning_effort": "high",
            "user": user,
            "messages": [
                {"role": "system", "content": "You are Claude Code.\nBe concise."},
                {"role": "user", "content": "<system-reminder>today</system-reminder>\nfix it"},
                {"role": "assistant", "content": "I'll look.", "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function":
                        {"name": "Read", "arguments": "{\"n\":1.5,\"path\":\"/a\"}"}},
                    {"id": "toolu_2", "type": "function", "function":
                        {"name": "Bash", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "one\ntwo"},
                {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no such file"},
                {"role": "user", "content": "go on"},
                {"role": "system", "content": "<total_tokens>9 left</total_tokens>"},
            ],
            "tools": [
                {"type": "function", "function": {"name": "Read", "description": "Reads", "parameters": {
                    "type": "object", "properties": {"path": {"type": "string"}}, "maximum": 0.30}}},
                {"type": "function", "function": {"name": "Bash", "parameters": {"type": "object"}}},
            ],
        })
    );
}

#[test]
fn a_claude_in_openais_form_gets_its_marks_and_its_thinking() {
    let chat = chat(&claude_code(), CLAUDE);
    let cached = json!({"type": "ephemeral", "ttl": "1h"});
    assert_eq!(chat["messages"][0]["content"][1]["cache_control"], cached);
    assert_eq!(chat["messages"][1]["content"][1]["cache_control"], cached);
    assert_eq!(
        chat["messages"][2]["thinking_blocks"],
        json!([{"type": "thinking", "thinking": "hm", "signature": "EqQB"}])
    );
    assert_eq!(chat["messages"][4]["cache_control"], cached);
    assert_eq!(chat["tools"][1]["cache_control"], cached);
    assert!(Takes::of(["anthropic/Claude-x", "claude-y"].into_iter(), false).anthropics_own);
    assert!(!Takes::of(["claude-x", "gpt-x"].into_iter(), false).anthropics_own);
}

/// `client.messages.create` of the libraries for Python and TypeScript; the newer ones leave the sampling
/// out.
#[test]
fn what_the_libraries_send() {
    let python = json!({"max_tokens": 1024, "messages": [{"role": "user", "content": "Hello, Claude"}],
        "model": "claude-opus-5-5"});
    assert_eq!(chat(&python, OTHERS), python);
    let typescript = json!({
        "model": "m", "max_tokens": 9, "stream": true, "system": "Be kind.", "stop_sequences": ["END"],
        "top_k": 5, "top_p": 0.9, "temperature": 0.5, "metadata": {"user_id": "u-1"},
        "service_tier": "standard_only",
        "thinking": {"type": "enabled", "budget_tokens": 10000},
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "strict": true}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
                "data": "JVBERi0x"}, "title": "a.pdf"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
                "title": "T", "citations": {"enabled": true}},
            {"type": "search_result", "source": "https://s.example", "title": "S",
                "content": [{"type": "text", "text": "found"}]},
            {"type": "text", "text": "What is it?"}]}],
    });
    assert_eq!(
        chat(&typescript, OTHERS),
        json!({
            "model": "m", "max_tokens": 9, "stream": true, "stop": ["END"], "top_p": 0.9,
            "temperature": 0.5, "user": "u-1", "service_tier": "default", "reasoning_effort": "medium",
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": false,
            "tools": [{"type": "function", "function":
                {"name": "f", "parameters": {"type": "object"}, "strict": true}}],
            "response_format": {"type": "json_schema", "json_schema":
                {"name": "answer", "schema": {"type": "object"}, "strict": true}},
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
                    {"type": "file", "file": {"filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,JVBERi0x"}},
                    {"type": "text", "text": "T\nplain"},
                    {"type": "text", "text": "S\nhttps://s.example\nfound"},
                    {"type": "text", "text": "What is it?"}]},
            ],
        })
    );
}

#[test]
fn digits_and_our_own_options_go_on_as_they_are() {
    let body = r#"{"model":"m","max_tokens":1e3,"temperature":0.10000000000000000001,"timeout_ms":5,
        "models":["n"],"tags":["t"],"extra_body":{"seed":12345678901234567890123},"unknown":1,
        "messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f",
            "input":{"n": 12345678901234567890.10}}]}],
        "tools":[{"name":"f","input_schema":{"maximum":0.30000000000000000004}}]}"#;
    let chat = Incoming::read(body, Version::June2023).unwrap().chat(OTHERS).unwrap();
    for kept in [
        r#""max_tokens":1e3"#,
        r#""temperature":0.10000000000000000001"#,
        r#""timeout_ms":5"#,
        r#""models":["n"]"#,
        r#""tags":["t"]"#,
        r#""extra_body":{"seed":12345678901234567890123}"#,
        r#"{\"n\": 12345678901234567890.10}"#,
        r#""maximum":0.30000000000000000004"#,
    ] {
        assert!(chat.contains(kept), "{kept} in {chat}");
    }
    assert!(!chat.contains("unknown"));
}

#[test]
fn what_a_tool_shows_is_shown_as_the_users() {
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png",
        "data": "AAAA"}});
    let sent = messages(
        json!([{"role": "user", "content": [
            {"type": "text", "text": "see"},
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "shot"}, image]},
            {"type": "tool_result", "tool_use_id": "b"},
            {"type": "tool_result", "tool_use_id": "c", "content": [
                {"tool_name": "x", "type": "tool_reference"}]},
        ]}]),
        OTHERS,
    );
    assert_eq!(
        sent,
        json!([
            {"role": "tool", "tool_call_id": "a",
                "content": "shot\n(More of this result is in the next message.)"},
            {"role": "tool", "tool_call_id": "b", "content": ""},
            {"role": "tool", "tool_call_id": "c",
                "content": "{\"tool_name\":\"x\",\"type\":\"tool_reference\"}"},
            {"role": "user", "content": [
                {"type": "text", "text": "From the result of tool call a:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "see"}]},
        ])
    );
}

#[test]
fn an_error_says_so_once() {
    for (content, sent) in [
        ("no such file", "Error: no such file"),
        ("Error: no", "Error: no"),
        ("<tool_use_error>no</tool_use_error>", "<tool_use_error>no</tool_use_error>"),
        ("", "Error: "),
    ] {
        let result = json!({"type": "tool_result", "tool_use_id": "a", "is_error": true,
            "content": content});
        let sent_messages = messages(json!([{"role": "user", "content": [result]}]), OTHERS);
        assert_eq!(sent_messages[0]["content"], sent);
    }
}

#[test]
fn thinking_goes_back_to_whom_it_came_from() {
    let turn = |signature: Value| {
        json!([{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": signature},
            {"type": "redacted_thinking", "data": "zz"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}}]}])
    };
    let claudes = messages(turn(json!("EqQB")), OTHERS);
    assert!(claudes[0].get("reasoning_content").is_none(), "{claudes}");
    assert!(claudes[0].get("thinking_blocks").is_none(), "{claudes}");
    let back = messages(turn(json!("aggregator/reasoning_content")), OTHERS);
    assert_eq!(back[0]["reasoning_content"], "hm");
    // A Claude refuses what it has not signed.
    let to_claude = messages(turn(json!("aggregator/reasoning_content")), CLAUDE);
    assert_eq!(
        to_claude[0]["thinking_blocks"],
        json!([{"type": "redacted_thinking", "data": "zz"}])
    );
    for unknown in [json!("aggregator/reasoning"), json!(""), Value::Null] {
        let sent = messages(turn(unknown), OTHERS);
        assert!(sent[0].get("reasoning_content").is_none(), "{sent}");
    }
    // Where no tool was called nobody asks for it.
    let without_call = json!([{"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "aggregator/reasoning_content"},
        {"type": "text", "text": "x"}]}]);
    let sent = messages(without_call, OTHERS);
    assert_eq!(sent, json!([{"role": "assistant", "content": "x"}]));
}

#[test]
fn what_ran_at_anthropic_leaves_its_texts() {
    let sent = messages(
        json!([{"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "text", "text": "It is "},
            {"type": "text", "text": "so.", "citations": [{"type": "web_search_result_location"}]},
            {"type": "brand_new"}]},
            {"role": "assistant", "content": [{"type": "compaction", "content": "before"}]},
            {"role": "assistant", "content": []}]),
        OTHERS,
    );
    assert_eq!(
        sent,
        json!([{"role": "assistant", "content": "It is so."},
            {"role": "assistant", "content": "before"}])
    );
}

#[test]
fn efforts_are_the_nearest_that_all_know() {
    let effort = |thinking: Value, config: Value, takes: Takes| {
        let body =
            json!({"model": "m", "messages": [], "thinking": thinking, "output_config": config});
        chat(&body, takes).get("reasoning_effort").cloned().unwrap_or_default()
    };
    let enabled = |budget: i64| json!({"type": "enabled", "budget_tokens": budget});
    for (thinking, config, expected) in [
        (enabled(1024), Value::Null, json!("low")),
        (enabled(4000), Value::Null, json!("low")),
        (enabled(10_000), Value::Null, json!("medium")),
        (enabled(31_999), Value::Null, json!("high")),
        (enabled(31_999), json!({"effort": "low"}), json!("low")),
        (json!({"type": "adaptive"}), json!({"effort": "medium"}), json!("medium")),
        (Value::Null, json!({"effort": "max"}), json!("high")),
        (json!({"type": "adaptive"}), Value::Null, Value::Null),
        (json!({"type": "disabled"}), Value::Null, Value::Null),
        (enabled(-1), Value::Null, Value::Null),
        (Value::Null, json!({"effort": "brand new"}), Value::Null),
    ] {
        assert_eq!(
            effort(thinking.clone(), config.clone(), OTHERS),
            expected,
            "{thinking} {config}"
        );
    }
    let silent = Takes { reasoning_effort: false, ..OTHERS };
    assert_eq!(effort(enabled(9000), json!({"effort": "low"}), silent), Value::Null);
}

#[test]
fn choices_need_tools() {
    let body = |choice: Value, tools: Value| {
        let body = json!({"model": "m", "messages": [], "tools": tools, "tool_choice": choice});
        let chat = chat(&body, OTHERS);
        (
            chat.get("tool_choice").cloned().unwrap_or_default(),
            chat.get("parallel_tool_calls").is_some(),
        )
    };
    let tools = json!([{"name": "f", "input_schema": {}}]);
    assert_eq!(body(json!({"type": "any"}), tools.clone()), (json!("required"), false));
    assert_eq!(body(json!({"type": "none"}), tools.clone()), (json!("none"), false));
    let one = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(body(one.clone(), tools), (json!("auto"), true));
    assert_eq!(body(one, json!([])), (Value::Null, false));
}

#[test]
fn what_cannot_be_sent_is_named() {
    for (member, value, named) in [
        ("tools", json!([{"type": "web_search_20250305", "name": "web_search"}]), "tools.0"),
        ("tools", json!([{"input_schema": {}}]), "tools.0"),
        ("tools", json!({}), "tools"),
        ("tool_choice", json!({"type": "some"}), "tool_choice"),
        ("output_config", json!({"format": {"type": "grammar"}}), "output_config.format"),
        ("system", json!([{"type": "image"}]), "system.0"),
        ("system", json!(7), "system"),
        ("stream", json!("yes"), "stream"),
        ("model", json!(""), "model"),
        ("model", Value::Null, "model"),
        ("messages", json!({}), "messages"),
    ] {
        let mut body = json!({"model": "m", "messages": []});
        body[member] = value;
        if member == "tool_choice" {
            body["tools"] = json!([{"name": "f"}]);
        }
        let words = refusal(&body, Version::June2023);
        assert!(words.contains(named), "{words}");
    }
    for (message, named) in [
        (json!(7), "messages.0"),
        (json!({"role": "bard", "content": "x"}), "messages.0.role"),
        (json!({"role": "user"}), "messages.0.content"),
        (json!({"role": "user", "content": 7}), "messages.0.content"),
        (json!({"role": "user", "content": [7]}), "messages.0.content.0"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages.0.content.0.text"),
        (json!({"role": "user", "content": [{"type": "container_upload"}]}), "container_upload"),
        (json!({"role": "user", "content": [{"type": "image"}]}), "messages.0.content.0.source"),
        (
            json!({"role": "user", "content": [{"type": "image", "source":
                {"type": "file", "file_id": "f"}}]}),
            "elsewhere",
        ),
        (
            json!({"role": "user", "content": [{"type": "document", "source":
                {"type": "url", "url": "https://a.example/x.pdf"}}]}),
            "elsewhere",
        ),
        (json!({"role": "user", "content": [{"type": "tool_result"}]}), "tool_use_id"),
        (
            json!({"role": "assistant", "content": [{"type": "image", "source":
                {"type": "url", "url": "https://a.example"}}]}),
            "image",
        ),
        (
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f",
                "input": "x"}]}),
            "messages.0.content.0.input",
        ),
        (
            json!({"role": "assistant", "content": [{"type": "tool_use"}]}),
            "messages.0.content.0.id",
        ),
    ] {
        let words = refusal(&json!({"model": "m", "messages": [message]}), Version::June2023);
        assert!(words.contains(named), "{named}: {words}");
    }
    let twice = r#"{"model":"m","messages":[],"model":"n"}"#;
    assert!(Incoming::read(twice, Version::June2023).unwrap_err().to_string().contains("twice"));
}

#[test]
fn what_steers_a_call_is_known_before_its_conversation() {
    use crate::core::options::Prepared;
    let body =
        json!({"model": "a/b", "messages": [{"role": "user", "content": [{"type": "document"}]}],
        "stream": true, "models": ["c"], "tags": ["t"], "timeout_ms": 7, "max_tokens": 5,
        "extra_body": {"messages": 1}, "tools": [{"type": "web_search_20250305"}]})
        .to_string();
    let request = Incoming::read(&body, Version::June2023).unwrap();
    assert!(request.chat(OTHERS).is_err());
    let steering = Prepared::from_http(&request.steering().unwrap()).unwrap();
    assert_eq!(steering.models().collect::<Vec<_>>(), ["a/b", "c"]);
    assert!(steering.streams && steering.timeout_ms == 7 && steering.tags == ["t"]);
    let wrong = body.replace("[\"c\"]", "7");
    let request = Incoming::read(&wrong, Version::June2023).unwrap();
    assert!(Prepared::from_http(&request.steering().unwrap()).is_err());
}
