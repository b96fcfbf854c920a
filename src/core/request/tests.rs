use super::*;

const HELLO: &str = r#"[{"role":"user","content":"hi"}]"#;

fn what(body: &str) -> Option<String> {
    outline(body).unwrap().unbounded
}

/// Of one user message with this content.
fn of_content(content: &str) -> Option<String> {
    what(&format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#))
}

/// Of these tools.
fn of_tools(tools: &str) -> Option<String> {
    what(&format!(r#"{{"messages":{HELLO},"tools":{tools}}}"#))
}

#[test]
fn what_a_request_asks_for() {
    let body = format!(r#"{{"messages":{HELLO},"max_tokens":7,"n":3,"stop":["a"],"model":"m"}}"#);
    let found = outline(&body).unwrap();
    assert_eq!((found.max_tokens, found.n, found.unbounded), (Some(7), Some(3), None));
    assert_eq!((found.bytes, found.values, found.prompt_tokens), (body.len(), 10, 1 + 4));
    assert_eq!(outline(r#"{"max_tok\u0065ns":7}"#).unwrap().max_tokens, Some(7));
    assert_eq!(outline(r#"{"max_tokens":null,"n":null,"tools":null}"#).unwrap().max_tokens, None);
    let huge = outline(r#"{"max_tokens":99999999999999999999}"#).unwrap();
    assert_eq!(huge.max_tokens, Some(i64::MAX));
}

#[test]
fn a_parameter_of_the_wrong_type_is_refused() {
    for body in [
        r#"{"n":"128"}"#,
        r#"{"n":0}"#,
        r#"{"n":-1}"#,
        r#"{"n":129}"#,
        r#"{"n":9223372036854775807}"#,
        r#"{"n":2.5}"#,
        r#"{"max_completion_tokens":"1000000"}"#,
        r#"{"max_tokens":-5}"#,
        r#"{"max_tokens":0}"#,
        r#"{"max_tokens":10.5}"#,
        r#"{"max_tokens":1e9}"#,
        r#"{"max_tokens":[7]}"#,
        r#"{"tools":{"type":"web_search"}}"#,
        r#"{"modalities":"audio"}"#,
        r#"{"service_tier":["priority"]}"#,
        r#"{"messages":{"role":"user"}}"#,
        r#"{"messages":[7]}"#,
        r#"{"messages":[null]}"#,
    ] {
        assert!(matches!(outline(body), Err(Unfit::Wrong(_))), "{body}");
    }
    assert!(matches!(outline("[]"), Err(Unfit::Wrong(_))));
    assert!(matches!(outline(r#"{"\ud800":1}"#), Err(Unfit::Wrong(_))));
    let many: String = (0..1000).map(|n| format!("\"k{n}\":1,")).collect();
    assert!(matches!(outline(&format!("{{{many}\"n\":1}}")), Err(Unfit::Wrong(_))));
}

#[test]
fn no_parameter_is_given_twice() {
    for body in [r#"{"n":1,"n":2}"#, r#"{"max_tokens":1,"max_tok\u0065ns":99}"#] {
        assert!(matches!(outline(body), Err(Unfit::Twice(_))), "{body}");
    }
    assert!(matches!(
        outline(r#"{"messages":[],"messages":[{"content":[{"type":"image"}]}]}"#),
        Err(Unfit::Twice(_))
    ));
}

#[test]
fn what_tokens_do_not_bound_is_named() {
    let image = r#"[{"type":"text","text":"x"},{"type":"image_url"}]"#;
    assert_eq!(of_content(image).unwrap(), "image_url");
    assert_eq!(what(r#"{"modalities":["text","audio"]}"#).unwrap(), "modalities");
    assert_eq!(what(r#"{"modalities":["text"]}"#), None);
    for name in ["audio", "web_search_options", "prediction"] {
        assert_eq!(what(&format!(r#"{{"{name}":{{}}}}"#)).unwrap(), name);
        assert_eq!(what(&format!(r#"{{"{name}":null}}"#)), None);
    }
    for tier in ["priority", "PRIORITY", "scale", "Auto"] {
        let named = what(&format!(r#"{{"service_tier":"{tier}"}}"#)).unwrap();
        assert!(named.contains(tier), "{named}");
    }
    for tier in ["auto", "default", "flex", "standard_only"] {
        assert_eq!(what(&format!(r#"{{"service_tier":"{tier}"}}"#)), None, "{tier}");
    }
}

#[test]
fn a_parameter_that_is_not_known_has_no_bound() {
    for name in [
        "speed",
        "inference_geo",
        "plugins",
        "mcp_servers",
        "container",
        "search_parameters",
        "enable_search",
        "best_of",
        "N",
        "Max_Tokens",
        "max_output_tokens",
        "provider",
        "max_tokens ",
        "a\\\"b",
    ] {
        let body = format!(r#"{{"messages":{HELLO},"{name}":1}}"#);
        assert!(what(&body).unwrap().contains("not known"), "{body}");
    }
    // It hides nothing that comes after it.
    let hidden = outline(r#"{"a\"b":1,"max_tokens":1000000}"#).unwrap();
    assert_eq!(hidden.max_tokens, Some(1_000_000));
    assert_eq!(what(r#"{"top_k":4,"reasoning":{"effort":"low"},"min_p":0.1}"#), None);
}

#[test]
fn only_what_leaves_out_of_the_prompt_is_an_edit_with_a_bound() {
    let of = |value: &str| what(&format!(r#"{{"messages":{HELLO},"context_management":{value}}}"#));
    for bounded in [
        "null",
        "{}",
        r#"{"edits":null}"#,
        r#"{"edits":[]}"#,
        // As Claude Code sends it.
        r#"{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}"#,
        r#"{"edits":[{"keep":{"type":"tool_uses","value":3},"type":"clear_tool_uses_20250919",
            "trigger":{"type":"input_tokens","value":30000},"clear_at_least":null,
            "exclude_tools":["f"],"clear_tool_inputs":true}]}"#,
    ] {
        assert_eq!(of(bounded), None, "{bounded}");
    }
    for (unbounded, named) in [
        (r#"{"edits":[{"type":"compact_20260112"}]}"#, "compact_20260112"),
        (r#"{"edits":[{"type":"clear_thinking_20251015"},{"type":"x"}]}"#, "'x'"),
        (r#"{"edits":[{"type":"clear_thinking_20251015","model":"x"}]}"#, "not known"),
        (r#"{"edits":[{"type":"clear_thinking_20251015","type":"compact"}]}"#, "compact"),
        (r#"{"edits":[{"type":"compact","type":"clear_thinking_20251015"}]}"#, "not known"),
        (r#"{"edits":[{"keep":"all"}]}"#, "of no type"),
        (r#"{"edits":[7]}"#, "no object"),
        (r#"{"edits":{}}"#, "'edits'"),
        (r#"{"edits":[],"edits":[{"type":"compact"}]}"#, "compact"),
        (r#"{"edits":[],"more":1}"#, "'more'"),
        (r#"[{"type":"compaction"}]"#, "no object"),
        ("1", "no object"),
    ] {
        let found = of(unbounded).unwrap_or_else(|| panic!("{unbounded} has a bound"));
        assert!(found.contains("context_management") && found.contains(named), "{found}");
    }
}

#[test]
fn a_tool_of_claude_codes_is_text() {
    let of = |tool: &str| what(&format!(r#"{{"messages":{HELLO},"tools":[{tool}]}}"#));
    let tool = r#"{"name":"f","description":"d","input_schema":{"type":"object"},
        "eager_input_streaming":true,"defer_loading":false,"input_examples":[{"a":1}]}"#;
    assert_eq!(of(tool), None);
    let called = r#"{"name":"f","input_schema":{},"allowed_callers":["code_execution_20250825"]}"#;
    assert!(of(called).unwrap().contains("custom"), "{:?}", of(called));
}

#[test]
fn an_image_has_no_bound_whatever_stands_beside_it() {
    let image = r#"{"type":"image_url","image_url":{"url":"https://x.example/a.png"}}"#;
    let deep = format!("{}{}", "[".repeat(130), "]".repeat(130));
    for beside in [r#""x":1e400"#, r#""x":[[1]]"#, r#""metadata":{"a":1e400}"#] {
        let body = format!(r#"{{{beside},"messages":[{{"content":[{image}]}}]}}"#);
        assert!(what(&body).is_some(), "{body}");
        let body = format!(r#"{{"messages":[{{{beside},"content":[{image}]}}]}}"#);
        assert!(what(&body).is_some(), "{body}");
    }
    let body = format!(r#"{{"metadata":{deep},"messages":[{{"content":[{image}]}}]}}"#);
    assert_eq!(outline(&body), Err(Unfit::TooDeep));
    for content in [
        image.to_owned(),
        format!("[{image}]"),
        format!("[[{image}]]"),
        r#"{"type":"text","text":"x"}"#.to_owned(),
        r#"["text"]"#.to_owned(),
        "7".to_owned(),
        "true".to_owned(),
        r#"[{"text":"x"}]"#.to_owned(),
        r#"[{"image_url":{"url":"https://x.example/a.png"}}]"#.to_owned(),
        r#"[{"type":null,"text":"x"}]"#.to_owned(),
        r#"[{"type":["text"],"text":"x"}]"#.to_owned(),
        r#"[{"type":"Text","text":"x"}]"#.to_owned(),
        r#"[{"type":"text","type":"image"}]"#.to_owned(),
        r#"[{"type":"image","type":"text"}]"#.to_owned(),
        r#"[{"type":"text","text":"x","image_url":{"url":"https://x.example/a.png"}}]"#.to_owned(),
        r#"[{"type":"text","text":"x","source":{"type":"url"}}]"#.to_owned(),
        r#"[{"image_url":{},"type":"text","text":"x"}]"#.to_owned(),
        r#"[{"type":"document","source":{"type":"text"}}]"#.to_owned(),
        format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":[{image}]}}]"#),
        r#"[{"type":"tool_result","content":[{"type":"image"}]}]"#.to_owned(),
        r#"[{"content":[{"type":"image"}],"type":"tool_result"}]"#.to_owned(),
        r#"[{"type":"tool_result","content":{"type":"image"}}]"#.to_owned(),
        r#"[{"type":"tool_result","content":[{"type":"tool_result","content":[{"type":"image"}]}]}]"#.to_owned(),
        r#"[{"type":"input_audio"}]"#.to_owned(),
        r#"[{"type":"file","file":{}}]"#.to_owned(),
        r#"[{"typ\u0065":"imag\u0065"}]"#.to_owned(),
    ] {
        assert!(of_content(&content).is_some(), "{content}");
    }
    for member in ["audio", "images", "thinking_blocks", "Content", "cont\\u0065nt"] {
        let body = format!(r#"{{"messages":[{{"role":"assistant","{member}":[{image}]}}]}}"#);
        assert!(what(&body).is_some(), "{body}");
    }
    assert!(what(&format!(r#"{{"system":[{image}]}}"#)).is_some());
}

#[test]
fn text_has_a_bound_in_all_its_forms() {
    for content in [
        "null",
        r#""text""#,
        "[]",
        r#"[{"type":"text","text":"x"}]"#,
        r#"[{"typ\u0065":"t\u0065xt","text":"x"}]"#,
        r#"[{"type":"text","text":"x","annotations":null,"image_url":null}]"#,
        r#"[{"type":"refusal","refusal":"no"}]"#,
        r#"[{"type":"tool_use","id":"t","name":"f","input":{"type":"image"}}]"#,
        r#"[{"type":"tool_result","tool_use_id":"t","content":"done"}]"#,
        r#"[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"done"}]}]"#,
        r#"[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"redacted_thinking","data":"x"}]"#,
    ] {
        assert_eq!(of_content(content), None, "{content}");
    }
    let answer = r#"{"role":"assistant","content":"x","refusal":null,"annotations":[],"audio":null,
        "tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}],
        "reasoning":"hm","reasoning_details":[{"type":"reasoning.text","text":"hm"}],
        "thinking_blocks":[{"type":"thinking","thinking":"hm","signature":"s","index":0}]}"#;
    assert_eq!(what(&format!(r#"{{"messages":[{answer}]}}"#)), None);
    assert_eq!(what(r#"{"system":[{"type":"text","text":"x"}],"messages":[]}"#), None);
}

#[test]
fn only_tools_that_the_caller_runs_have_a_bound() {
    for tools in [
        "[]",
        r#"[{"type":"function"}]"#,
        r#"[{"type":"function","function":{"name":"f","parameters":{"type":"image"}}}]"#,
        r#"[{"type":"custom","custom":{"name":"f"}}]"#,
        r#"[{"name":"f","description":"d","input_schema":{"type":"object"}}]"#,
    ] {
        assert_eq!(of_tools(tools), None, "{tools}");
    }
    for (tools, named) in [
        (r#"[{"type":"web_search"}]"#, "tool 'web_search'"),
        (
            r#"[{"type":"function"},{"type":"web_search_20250305","name":"web_search"}]"#,
            "web_search_20250305",
        ),
        (r#"[{"google_search":{}}]"#, "a tool"),
        (r#"[{"type":"function","google_search":{}}]"#, "members that are not known"),
        (r#"[{"type":"function","type":"web_search"}]"#, "web_search"),
        (r#"[{"type":"web_search","type":"function"}]"#, "function with"),
        (r#"[{"name":"web_search"}]"#, "a tool"),
        (r#"["web_search"]"#, "no object"),
        (r#"[{"type":7}]"#, "of no known type"),
    ] {
        let what = of_tools(tools).unwrap();
        assert!(what.contains(named), "{tools}: {what}");
    }
}

#[test]
fn what_is_to_be_cached_is_noted() {
    for body in [
        r#"{"cache_control":{"type":"ephemeral"}}"#,
        r#"{"messages":[{"content":"x","cache_control":{}}]}"#,
        r#"{"messages":[{"content":[{"type":"text","text":"x","cache_control":{}}]}]}"#,
        r#"{"messages":[{"tool_calls":[{"cache_control":{}}]}]}"#,
        r#"{"messages":[],"tools":[{"type":"function","function":{},"cache_control":{}}]}"#,
        r#"{"messages":[],"tools":[{"type":"function","function":{"cache_control":{}}}]}"#,
        r#"{"messages":[],"tools":[{"type":"function","function":{"cache\u005fcontrol":{}}}]}"#,
    ] {
        assert!(outline(body).unwrap().caches, "{body}");
    }
    assert!(!outline(r#"{"messages":[{"content":"cache_control"}]}"#).unwrap().caches);
}

#[test]
fn millions_of_small_values_are_refused_in_a_moment() {
    let nulls = format!("[{}null]", "null,".repeat(48_000_000 / 10));
    let body = format!(r#"{{"messages":[{{"role":"user","content":{nulls}}}]}}"#);
    let began = std::time::Instant::now();
    assert_eq!(outline(&body), Err(Unfit::TooManyValues));
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_panics(body in "\\PC{0,80}", json in "[{}\\[\\]\":,a-z0-9]{0,60}") {
        let _ = (outline(&body), outline(&json), messages(&body), messages(&json));
    }
}
