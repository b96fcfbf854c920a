use super::ask::{Unfit, Way};
use super::*;
use serde_json::json;

const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string","minLength":2},
    "age":{"type":"integer"}},"required":["name","age"]}"#;

fn person() -> Schema {
    Schema::read(PERSON).unwrap()
}

fn refused(schema: &str) -> String {
    let error = Schema::read(schema).err().unwrap_or_else(|| panic!("{schema}"));
    assert_eq!(error.sqlstate(), "PT400", "{schema}");
    error.to_string()
}

#[test]
fn json_is_found_where_models_put_it() {
    let good = r#"{"name":"Ann","age":7}"#;
    let other = r#"{"name":"Bob","age":8}"#;
    let thinks = format!("<think>{other} [or {{not}}]</think> {good} is it.");
    for said in [
        good.to_owned(),
        format!("\n {good}\n"),
        format!("```json\n{good}\n```"),
        format!("Sure!\n```\n{good}\n```\nAnything else?"),
        format!("```json\n{other}\n```\nNo, wait:\n```JSON {good}```"),
        format!("The answer is {good}. I hope {{it}} helps [1]."),
        thinks,
        format!("{good} ```"),
        format!("[{{\"x\":[[[[{good}"),
    ] {
        assert_eq!(person().find(&said).as_deref(), Ok(good), "{said}");
    }
    for said in ["", "no", "{", r#"{"name":"Ann","age":7"#, "```json\n```"] {
        let none = vec!["there is no complete JSON in the answer".to_owned()];
        assert_eq!(person().find(said), Err(none), "{said}");
    }
    let numbers = Schema::read(r#"{"type":"number"}"#).unwrap();
    for said in ["12345678901234567890123.50", "```\n12345678901234567890123.50\n```"] {
        assert_eq!(numbers.find(said).as_deref(), Ok("12345678901234567890123.50"));
    }
}

#[test]
fn violations_say_where_and_what() {
    let violations = person().find(r#"{"name":"A","age":"x"}"#).unwrap_err();
    assert_eq!(violations.len(), 2, "{violations:?}");
    let all = violations.join("|");
    assert!(all.contains(r#"at /age: "x" is not of type "integer""#), "{all}");
    assert!(all.contains("at /name: \"A\" is shorter than 2"), "{all}");
    let many = Schema::read(r#"{"type":"array","items":{"type":"integer"}}"#).unwrap();
    let said = format!("[{}\"x\"]", format!("\"{}\",", "é".repeat(1000)).repeat(500));
    let violations = many.find(&said).unwrap_err();
    assert_eq!(violations.len(), MOST_VIOLATIONS);
    assert!(violations.iter().all(|words| words.len() <= LONGEST_VIOLATION + '…'.len_utf8()));
}

#[test]
fn formats_are_checked() {
    let dates = Schema::read(r#"{"type":"string","format":"date"}"#).unwrap();
    assert!(dates.find("\"2026-11-28\"").is_ok() && dates.find("\"28.11.2026\"").is_err());
}

#[test]
fn what_jsonb_cannot_hold_is_replaced_before_it_is_checked() {
    let texts = Schema::read(r#"{"type":"object","properties":{"a":{"type":"string"}}}"#).unwrap();
    assert_eq!(texts.find(r#"{"a":"x\u0000"}"#).as_deref(), Ok(r#"{"a":"x\ufffd"}"#));
    assert!(Schema::read("{}").unwrap().find("[1e999]").is_err());
    assert!(Schema::read("{}").unwrap().find(&"9".repeat(500)).is_err());
}

#[test]
fn a_schema_that_is_none_is_refused() {
    for schema in [
        "",
        "[]",
        "true",
        "null",
        "{",
        r#"{"type":"strnig"}"#,
        r#"{"type":7}"#,
        r#"{"properties":[]}"#,
        r#"{"required":"a"}"#,
        r#"{"type":"string","pattern":"("}"#,
        r#"{"type":"string","pattern":"(?=x)"}"#,
        r#"{"type":"string","pattern":"(a)\\1"}"#,
        r#"{"minLength":-1}"#,
    ] {
        refused(schema);
    }
}

#[test]
fn a_schema_refers_to_nothing_but_itself() {
    for schema in [
        r#"{"$ref":"https://example.com/a.json"}"#,
        r#"{"$ref":"file:///etc/passwd"}"#,
        r#"{"properties":{"a":{"$ref":"other.json#/a"}}}"#,
        r##"{"$ref":"#/nowhere"}"##,
        r##"{"$ref":"#name","$defs":{"a":{"$anchor":"name"}}}"##,
        r#"{"$ref":7}"#,
        r##"{"$dynamicRef":"#a"}"##,
        r##"{"$recursiveRef":"#"}"##,
        r#"{"$schema":"https://example.com/meta","type":"object"}"#,
        r#"{"$defs":{"a":{"$id":"https://example.com/a"}},"type":"object"}"#,
        r#"{"unevaluatedProperties":false}"#,
    ] {
        refused(schema);
    }
    let tree = r##"{"type":"object","properties":{"left":{"$ref":"#"},"right":{"$ref":"#/$defs/t"}},
        "$defs":{"t":{"$ref":"#"}},"required":["n"]}"##;
    let tree = Schema::read(tree).unwrap();
    assert!(tree.find(r#"{"n":1,"left":{"n":2,"right":{"n":3}}}"#).is_ok());
    assert!(tree.find(r#"{"n":1,"left":{"n":2,"right":{}}}"#).is_err());
}

#[test]
fn a_schema_has_a_largest_size() {
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(LARGEST_SCHEMA));
    let deep = format!("{}{{}}{}", r#"{"items":"#.repeat(101), "}".repeat(101));
    let wide = format!(r#"{{"allOf":[{}{{}}]}}"#, "{},".repeat(5000));
    let pattern = r#"{"pattern":"a"},"#;
    let patterns = format!(r#"{{"allOf":[{}{{}}]}}"#, pattern.repeat(65));
    let long_pattern = format!(r#"{{"pattern":"{}"}}"#, "a".repeat(1025));
    let large_pattern = r#"{"pattern":"(\\w{100}){100}"}"#;
    // More digits than a number holds.
    let endless_pattern = r#"{"pattern":"a{99999999999999999999}"}"#;
    for schema in [&long, &deep, &wide, &patterns, &long_pattern, large_pattern, endless_pattern] {
        refused(schema);
    }
    assert!(Schema::read(r#"{"type":"string","pattern":"^\\w{1,20}$"}"#).is_ok());
}

#[test]
fn a_schema_that_never_ends_is_refused() {
    for schema in [
        r##"{"$ref":"#"}"##,
        r##"{"allOf":[{"$ref":"#"}]}"##,
        r##"{"not":{"anyOf":[{"type":"object"},{"$ref":"#"}]}}"##,
        r##"{"items":{"$ref":"#/$defs/a"},"$defs":{"a":{"if":{"$ref":"#/$defs/b"}},"b":{"oneOf":[{"$ref":"#/$defs/a"}]}}}"##,
        r##"{"$defs":{"a":{"$ref":"#/$defs/a"}}}"##,
    ] {
        assert!(refused(schema).contains("without end"), "{schema}");
    }
}

/// Definitions of which each applies the next one twice.
fn doubling(applies: &str, last: &str) -> String {
    let parts: Vec<String> = (0..40)
        .map(|n| {
            let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, n + 1);
            format!(r#""d{n}":{}"#, applies.replace('@', &next))
        })
        .collect();
    format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d40":{last}}}}}"##, parts.join(","))
}

#[test]
fn a_check_that_takes_too_long_is_not_begun() {
    let began = std::time::Instant::now();
    let too_long = Err(vec!["it takes too long to be checked".to_owned()]);
    let here = Schema::read(&doubling(r#"{"allOf":[@,@]}"#, r#"{"type":"integer"}"#)).unwrap();
    assert_eq!(here.find("1"), too_long);
    let twice =
        r##"{"allOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(90), "}".repeat(90));
    assert_eq!(Schema::read(twice).unwrap().find(&deep), too_long);
    let text = format!("\"{}\"", "a".repeat(LARGEST_ANSWER - 2));
    let matched = r#"{"allOf":[{"pattern":"(a|a)*b"},{"pattern":"(a*)*c"}]}"#;
    assert_eq!(Schema::read(matched).unwrap().find(&text), too_long);
    assert!(began.elapsed() < std::time::Duration::from_secs(200), "{:?}", began.elapsed());
}

#[test]
fn what_is_compared_and_matched_is_counted_as_a_whole() {
    let began = std::time::Instant::now();
    let too_long = Err(vec!["it takes too long to be checked".to_owned()]);
    // Two that are the same but for their end.
    let long = "1,".repeat(40_000);
    let pair = format!("[[{long}1],[{long}2]]");
    let unique = r##"{"$ref":"#/$defs/u"}"##;
    let many = format!(
        r##"{{"allOf":[{}{unique}],"$defs":{{"u":{{"uniqueItems":true}}}}}}"##,
        format!("{unique},").repeat(99)
    );
    assert_eq!(Schema::read(&many).unwrap().find(&pair), too_long);
    assert!(Schema::read(r#"{"uniqueItems":true}"#).unwrap().find(&pair).is_ok());
    let value = format!("[{}1]", "1,".repeat(5000));
    let like = r##"{"$ref":"#/$defs/c"}"##;
    for keyword in ["const", "enum"] {
        let wanted = if keyword == "const" { value.clone() } else { format!("[{value}]") };
        let many = format!(
            r##"{{"items":{{"allOf":[{}{like}]}},"$defs":{{"c":{{"{keyword}":{wanted}}}}}}}"##,
            format!("{like},").repeat(39)
        );
        let items = format!("[{}{value}]", format!("{value},").repeat(15));
        assert_eq!(Schema::read(&many).unwrap().find(&items), too_long, "{keyword}");
    }
    let text = format!("\"{}\"", "ab".repeat(50_000));
    for schema in [r#"{"pattern":"^[ab]*a[ab]{300}$"}"#, r#"{"format":"regex"}"#] {
        assert_eq!(Schema::read(schema).unwrap().find(&text), too_long, "{schema}");
    }
    let labels = r#"{"type":"array","items":{"type":"string","pattern":"^[a-z]{2,40}$"}}"#;
    let words = format!("[{}\"word\"]", "\"word\",".repeat(1000));
    assert!(Schema::read(labels).unwrap().find(&words).is_ok());
    assert!(began.elapsed() < std::time::Duration::from_secs(200), "{:?}", began.elapsed());
}

#[test]
fn what_is_wrong_takes_no_more_room_than_it_may() {
    let untold = Err(vec!["it does not fit, and is too large to say where".to_owned()]);
    // Each violation has the name in its place, and a name that is missing in its words.
    let texts = r#"{"additionalProperties":{"items":{"type":"string"}}}"#;
    let name = "n".repeat(200_000);
    let wrong = format!("{{\"{name}\":[{}1]}}", "1,".repeat(40_000));
    assert_eq!(Schema::read(texts).unwrap().find(&wrong), untold);
    let right = format!("{{\"{name}\":[{}\"\"]}}", "\"\",".repeat(40_000));
    assert!(Schema::read(texts).unwrap().find(&right).is_ok());
    let missing = format!(r#"{{"items":{{"required":["{}"]}}}}"#, "n".repeat(60_000));
    let items = format!("[{}{{}}]", "{},".repeat(40_000));
    assert_eq!(Schema::read(&missing).unwrap().find(&items), untold);
    // Names that nobody asked for are repeated, too.
    let none = format!(r#"{{"allOf":[{}{{}}]}}"#, r#"{"additionalProperties":false},"#.repeat(500));
    let one = format!("{{\"{name}\":1}}");
    let violations = Schema::read(&none).unwrap().find(&one).unwrap_err();
    assert_eq!(violations.len(), 1, "{violations:?}");
}

#[test]
fn a_schema_takes_no_more_room_than_it_says() {
    // Each part has its place, with the name in it.
    let name = "n".repeat(30_000);
    let wide = format!(r#"{{"properties":{{"{name}":{{"allOf":[{}{{}}]}}}}}}"#, "{},".repeat(1000));
    assert!(refused(&wide).contains("too long"));
    // Each reference has all that stands where it leads.
    let levels: Vec<String> =
        (1..50).map(|n| format!(r##"{{"$ref":"#/$defs/a{}"}}"##, "/items".repeat(n))).collect();
    let deep = format!(
        r##"{{"properties":{{"x":{{"anyOf":[{}]}}}},"$defs":{{"a":{}{{"allOf":[{}{{}}]}}{}}}}}"##,
        levels.join(","),
        r#"{"items":"#.repeat(50),
        "{},".repeat(100),
        "}".repeat(50)
    );
    assert!(refused(&deep).contains("parts"));
    assert!(person().memory() < 64 << 10, "{}", person().memory());
    let patterns: Vec<String> =
        (0..64).map(|n| format!(r#"{{"pattern":"^[a-z]{{1,{}}}$"}}"#, n + 1)).collect();
    let patterned = Schema::read(&format!(r#"{{"allOf":[{}]}}"#, patterns.join(","))).unwrap();
    assert!(patterned.memory() > 2 << 20, "{}", patterned.memory());
}

#[test]
fn an_answer_that_is_large_is_not_read() {
    let any = Schema::read("{}").unwrap();
    assert!(any.find(&format!("[{}1]", "1,".repeat(MOST_VALUES))).is_err());
    assert!(any.find(&format!("\"{}\"", "a".repeat(LARGEST_ANSWER))).is_err());
    assert!(any.find(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    // Much that is nearly JSON takes no more than its length by some times; else it would be hours.
    let began = std::time::Instant::now();
    for part in ["[1,", "{\"a\":", "[\"", "{\"[", "[[", "```[", "[] "] {
        let _ = any.find(&part.repeat(LARGEST_ANSWER / part.len()));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(200), "{:?}", began.elapsed());
}

#[test]
fn a_deep_schema_and_a_deep_answer_have_room_on_a_small_stack() {
    let chain: Vec<String> = (0..190)
        .map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{}"}}]}}"##, n + 1))
        .collect();
    let schema = move |first: usize| {
        format!(
            r##"{{"$ref":"#/$defs/d{first}","$defs":{{{},"d190":{{"type":"object"}}}}}}"##,
            chain.join(",")
        )
    };
    let tree = r##"{"type":"object","additionalProperties":{"$ref":"#"}}"##.to_owned();
    let deep = format!("{}{{}}{}", r#"{"a":"#.repeat(99), "}".repeat(99));
    let small = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        assert!(refused(&schema(0)).contains("one in the other"));
        assert!(Schema::read(&schema(110)).unwrap().find("{}").is_ok());
        assert!(Schema::read(&tree).unwrap().find(&deep).is_ok());
    });
    small.unwrap().join().unwrap();
}

#[test]
fn a_strict_form_says_all_that_strict_modes_know() {
    let strict: serde_json::Value =
        serde_json::from_str(person().strict.as_deref().unwrap()).unwrap();
    assert_eq!(
        strict,
        json!({
            "type": "object", "additionalProperties": false, "required": ["name", "age"],
            "properties": {
                "name": {"type": "string", "description": "It fits {\"minLength\":2}."},
                "age": {"type": "integer"},
            },
        })
    );
    for none in [
        // A member that may be missing.
        r#"{"type":"object","properties":{"a":{"type":"string"}}}"#,
        r#"{"type":"object"}"#,
        r#"{"type":"object","properties":{"a":{}},"required":["a"]}"#,
        r#"{"type":"object","properties":{"a":{"type":"object"}},"required":["a"]}"#,
        r#"{"type":"object","properties":{"a":{"type":"array"}},"required":["a"]}"#,
        r#"{"type":"object","properties":{"a":{"type":["object","null"]}},"required":["a"]}"#,
        r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
        r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":{}}"#,
        r#"{"type":"object","properties":{"a":{"oneOf":[{"type":"string"}]}},"required":["a"]}"#,
        r#"{"type":"string"}"#,
        "{}",
    ] {
        assert_eq!(Schema::read(none).unwrap().strict, None, "{none}");
    }
}

#[test]
fn the_way_is_the_best_that_model_and_schema_have() {
    let person = person();
    let ways = [(true, true), (true, false), (false, true), (false, false)];
    let of = |schema: &Schema| ways.map(|(schema_, tools)| schema.way(schema_, tools));
    assert_eq!(of(&person), [Way::Strict, Way::Strict, Way::Tool, Way::Words]);
    let loose =
        Schema::read(r#"{"type":"object","additionalProperties":{"type":"number"}}"#).unwrap();
    assert_eq!(of(&loose), [Way::Tool, Way::Words, Way::Tool, Way::Words]);
    assert_eq!(of(&Schema::read(r#"{"type":"string"}"#).unwrap()), [Way::Words; 4]);
}

fn asked(body: &str, way: Way, last: Option<&Unfit>) -> serde_json::Value {
    serde_json::from_str(&person().request(body, way, last).unwrap()).unwrap()
}

#[test]
fn each_way_asks_in_its_form() {
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890123}"#;
    let strict = person().request(body, Way::Strict, None).unwrap();
    assert!(strict.contains(r#""seed":12345678901234567890123"#), "{strict}");
    let strict = asked(body, Way::Strict, None);
    assert_eq!(strict["response_format"]["json_schema"]["strict"], true);
    assert_eq!(strict["response_format"]["json_schema"]["schema"]["additionalProperties"], false);
    assert_eq!(strict["messages"], json!([{"role": "user", "content": "hi"}]));
    let tool = asked(body, Way::Tool, None);
    assert_eq!(tool["tools"][0]["function"]["parameters"]["properties"]["name"]["minLength"], 2);
    assert_eq!(tool["tool_choice"]["function"]["name"], "answer");
    let words = asked(body, Way::Words, None);
    let said = words["messages"][0]["content"].as_str().unwrap();
    assert!(said.starts_with("hi\n\nAnswer with one JSON") && said.contains(PERSON), "{said}");
    assert_eq!(words.as_object().unwrap().len(), 2);
}

#[test]
fn words_come_where_every_model_takes_them() {
    for (messages, count, at) in [
        (
            r#"[{"role":"user","content":[{"type":"text","text":"hi"}]}]"#,
            1,
            "/messages/0/content/1/text",
        ),
        (r#"[{"role":"user","content":[ ]}]"#, 1, "/messages/0/content/0/text"),
        (
            r#"[{"role":"user","content":"hi"},{"role":"assistant","content":"x"}]"#,
            3,
            "/messages/2/content",
        ),
        (r#"[{"role":"user","content":null}]"#, 2, "/messages/1/content"),
        (r#"[{"role":"user","content":"hi","name":"n"}]"#, 1, "/messages/0/content"),
        ("[]", 1, "/messages/0/content"),
    ] {
        let asked = asked(&format!(r#"{{"messages":{messages}}}"#), Way::Words, None);
        assert_eq!(asked["messages"].as_array().unwrap().len(), count, "{messages}");
        let said = asked.pointer(at).and_then(|said| said.as_str()).unwrap();
        assert!(said.contains("JSON Schema"), "{messages}: {said}");
    }
}

#[test]
fn a_correction_repeats_the_answer_and_says_what_is_wrong() {
    let body = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    for (said, repeated) in [("{\"age\":1} ", "{\"age\":1}"), (" \n", "(nothing)")] {
        let last = Unfit { said: said.to_owned(), violations: vec!["a".into(), "b".into()] };
        for way in [Way::Strict, Way::Tool, Way::Words] {
            let asked = asked(body, way, Some(&last));
            assert_eq!(asked["messages"][1], json!({"role": "assistant", "content": repeated}));
            let words = asked["messages"][2]["content"].as_str().unwrap();
            assert!(words.contains("schema") || words.contains("\n- a\n- b\n"), "{words}");
            assert_eq!(words.contains("function"), way == Way::Tool);
        }
    }
}

fn answer(message: serde_json::Value, reason: &str) -> String {
    json!({"choices": [{"message": message, "finish_reason": reason}], "usage": {"n": 1}})
        .to_string()
}

#[test]
fn an_answer_that_fits_says_that_alone() {
    let good = r#"{"name":"Ann","age":7}"#;
    let call = |arguments: serde_json::Value| {
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "x", "function": {"name": "other", "arguments": "{}"}},
            {"id": "y", "function": {"name": "answer", "arguments": arguments}}]})
    };
    for response in [
        answer(json!({"role": "assistant", "content": format!("Sure: {good}")}), "stop"),
        answer(call(good.into()), "tool_calls"),
        answer(call(json!({"name": "Ann", "age": 7})), "tool_calls"),
    ] {
        let read: serde_json::Value =
            serde_json::from_str(&person().answer(&response).unwrap()).unwrap();
        assert_eq!(read["parsed"], json!({"name": "Ann", "age": 7}), "{response}");
        let choice = &read["choices"][0];
        let said: serde_json::Value =
            serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert_eq!(said, read["parsed"]);
        assert_eq!(choice["message"].get("tool_calls"), None);
        assert_eq!((&choice["finish_reason"], &read["usage"]["n"]), (&json!("stop"), &json!(1)));
    }
}

#[test]
fn what_a_model_does_instead_is_told() {
    let refuses = json!({"role": "assistant", "content": null, "refusal": "I will not."});
    let unfit = person().answer(&answer(refuses, "stop")).unwrap_err();
    assert_eq!(unfit.violations[0], "the model refused: I will not.");
    let cut = json!({"role": "assistant", "content": "{\"name\":"});
    let unfit = person().answer(&answer(cut, "length")).unwrap_err();
    assert!(unfit.violations[0].contains("cut off"), "{unfit:?}");
    assert_eq!(unfit.said, "{\"name\":");
    let long = json!({"role": "assistant", "content": "é".repeat(100_000)});
    assert!(person().answer(&answer(long, "stop")).unwrap_err().said.len() < 17_000);
    for none in ["{}", "", "[]", r#"{"choices":[7]}"#] {
        assert_eq!(person().answer(none).unwrap_err().said, "", "{none}");
    }
}

/// Schemas and answers at random: nothing panics, what fits is JSON that PostgreSQL takes, and what is sent is a request.
#[test]
fn fuzz_schemas_and_answers() {
    let count = std::env::var("AGGREGATOR_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(3000);
    let seed = std::env::var("AGGREGATOR_FUZZ_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let mut rng = fastrand::Rng::with_seed(seed);
    let words = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"type\"",
        "\"object\"",
        "\"array\"",
        "\"string\"",
        "\"properties\"",
        "\"items\"",
        "\"$ref\"",
        "\"#\"",
        "\"#/$defs/a\"",
        "\"$defs\"",
        "\"a\"",
        "\"allOf\"",
        "\"anyOf\"",
        "\"not\"",
        "\"enum\"",
        "\"required\"",
        "\"pattern\"",
        "\"^a+$\"",
        "1",
        "-1",
        "null",
        "true",
        "```",
        "json",
        "é",
        "{\"a\":1}",
        "{\"type\":\"object\"}",
        "\"additionalProperties\":false",
        "{\"$ref\":\"#/$defs/a\"}",
    ];
    let mut fitted = 0;
    for _ in 0..count {
        let mut text = |most: usize| -> String {
            (0..rng.usize(0..most)).map(|_| words[rng.usize(0..words.len())]).collect()
        };
        let inner = text(8);
        let schema = match inner.len() % 3 {
            0 => format!("{{{inner}}}"),
            1 => format!(
                r#"{{"$defs":{{"a":{{"type":["object","string"]}}}},"anyOf":[{{"$ref":"{}"}},{{}}]}}"#,
                "#/$defs/a"
            ),
            _ => format!(r#"{{"properties":{{"a":{inner}}}}}"#),
        };
        let said = text(12);
        let Ok(schema) = Schema::read(&schema) else { continue };
        let response = answer(json!({"content": said}), "stop");
        if let Ok(read) = schema.answer(&response) {
            fitted += 1;
            let read: serde_json::Value = serde_json::from_str(&read).unwrap();
            assert!(read.get("parsed").is_some() && schema.validator.is_valid(&read["parsed"]));
        }
        let body = json!({"messages": [{"role": "user", "content": said}]}).to_string();
        for way in [Way::Strict, Way::Tool, Way::Words] {
            let last = Unfit { said: said.clone(), violations: vec![said.clone()] };
            let sent = schema.request(&body, way, Some(&last)).unwrap();
            assert!(crate::core::request::outline(&sent).unwrap().unbounded.is_none(), "{sent}");
        }
    }
    assert!(fitted > 0);
}
