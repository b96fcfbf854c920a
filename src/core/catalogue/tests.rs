//! What lists of all kinds read as.

use super::*;

fn one(body: &str) -> Model {
    read(body, Dialect::Auto, None).unwrap().models.remove(0)
}

fn price<'a>(model: &'a Model, key: &str) -> Option<&'a str> {
    model.pricing.as_ref().unwrap().get(key).map(|raw| raw.get())
}

#[test]
fn reads_openrouter() {
    let m = one(r#"{"data":[{"id":"openai/gpt-4o","name":"OpenAI: GPT-4o","context_length":128000,
              "architecture":{"input_modalities":["text","image"],"output_modalities":["text"]},
              "pricing":{"prompt":"0.0000025","completion":"0.00001","internal_reasoning":"0",
                "input_cache_read":"0.00000125","request":"0","overrides":[
                {"min_prompt_tokens":200000,"prompt":"0.000005"}]},
              "top_provider":{"max_completion_tokens":16384,"is_moderated":true},
              "supported_parameters":["tools","temperature"]}]}"#);
    assert_eq!((m.model_name.as_str(), m.model_type), ("gpt-4o", "chat"));
    assert_eq!((m.context_window, m.max_output_tokens), (Some(128000), Some(16384)));
    assert_eq!((price(&m, "input"), price(&m, "output")), (Some("2.5"), Some("10")));
    assert_eq!((price(&m, "cache_read"), price(&m, "reasoning")), (Some("1.25"), None));
    assert_eq!(price(&m, "tiers"), Some(r#"[{"input":5,"min_prompt_tokens":200000}]"#));
    assert!(m.capabilities["vision"] && m.capabilities["functions"]);
}

#[test]
fn a_price_that_varies_is_unknown_and_free_is_zero() {
    let m =
        one(r#"{"data":[{"id":"openrouter/auto","pricing":{"prompt":"-1","completion":"-1"}}]}"#);
    assert!(m.pricing.unwrap().is_empty());
    let m = one(r#"{"data":[{"id":"x/y:free","pricing":{"prompt":"0","completion":"0"}}]}"#);
    assert_eq!((price(&m, "input"), price(&m, "output")), (Some("0"), Some("0")));
}

#[test]
fn overrides_are_understood_or_left_out() {
    let read_one = |overrides: &str| {
        let body = format!(
            r#"{{"data":[{{"id":"a/b","pricing":{{"prompt":"0.000001","completion":"0.000002",
                    "overrides":[{overrides}]}}}}]}}"#
        );
        let mut read = read(&body, Dialect::OpenRouter, None).unwrap();
        let model = read.models.remove(0);
        (price(&model, "tiers").map(str::to_owned), read.warnings.len())
    };
    for (theirs, ours) in [
        (
            r#"{"min_prompt_tokens":"200000","prompt":"0.000002"}"#,
            r#"[{"input":2,"min_prompt_tokens":200000}]"#,
        ),
        (
            r#"{"utc_start":"1630","utc_end":"0030","completion":"0.000001"}"#,
            r#"[{"output":1,"utc_end":30,"utc_start":1630}]"#,
        ),
        // It varies while this holds: unknown, not what it is otherwise.
        (r#"{"min_prompt_tokens":1,"prompt":"-1"}"#, r#"[{"input":null,"min_prompt_tokens":1}]"#),
    ] {
        assert_eq!(read_one(theirs), (Some(ours.to_owned()), 0), "{theirs}");
    }
    for odd in [
        r#"{"min_prompt_tokens":-5,"prompt":"0.000002"}"#,
        r#"{"utc_start":"soon","prompt":"0.000002"}"#,
        r#"{"weekday":6,"prompt":"0.000002"}"#,
    ] {
        assert_eq!(read_one(odd), (None, 1), "{odd}");
    }
}

#[test]
fn reads_aihubmix_with_lists_and_numbers_either_way() {
    let m = one(
        r#"{"success":true,"data":[{"model_id":"gpt-5","types":"llm","features":"thinking,tools",
              "input_modalities":["text","image"],"max_output":"128000","context_length":400000,
              "pricing":{"input":1.25,"output":10,"cache_read":0.125}}]}"#,
    );
    assert_eq!((m.context_window, m.max_output_tokens), (Some(400000), Some(128000)));
    assert_eq!((price(&m, "input"), price(&m, "cache_read")), (Some("1.25"), Some("0.125")));
    assert!(m.capabilities["functions"] && m.capabilities["vision"]);
    let c = read(
            r#"{"data":[{"model_id":"e","types":["embedding"],"features":[],"pricing":{"input":20000}}]}"#,
            Dialect::Auto, None,
        )
        .unwrap();
    assert_eq!(c.models[0].model_type, "embedding");
    assert!(c.models[0].pricing.as_ref().unwrap().is_empty());
    assert_eq!(c.warnings.len(), 1);
}

#[test]
fn infers_from_bare_ids() {
    let types = |id: &str| {
        let m = one(&format!(r#"{{"object":"list","data":[{{"id":"{id}","object":"model"}}]}}"#));
        (m.model_type, m.capabilities["vision"], m.capabilities["functions"], m.context_window)
    };
    assert_eq!(types("text-embedding-3-small"), ("embedding", false, true, None));
    assert_eq!(types("tts-1"), ("audio", false, true, None));
    assert_eq!(types("dall-e-3"), ("image", false, true, None));
    assert_eq!(types("gpt-image-1"), ("image", false, true, None));
    assert_eq!(types("gpt-4o"), ("chat", true, true, None));
    assert_eq!(types("gpt-3.5-turbo-instruct"), ("chat", false, false, None));
    assert_eq!(types("llama-vision"), ("chat", true, true, None));
}

#[test]
fn odd_lists() {
    assert_eq!(one(r#"[{"id":"a/b","type":"chat"}]"#).model_name, "b");
    assert_eq!(one(r#"{"data":[{"id":"models/gemini-2"}]}"#).model_id, "gemini-2");
    let c = read(
        r#"{"data":[{"id":"a"},{"id":"a"},7,{"id":""},{"x":1},{"id":"b\u0000"}]}"#,
        Dialect::Auto,
        None,
    );
    assert_eq!(c.unwrap().models.len(), 1);
    for body in ["", "<html>", "{}", r#"{"data":[]}"#, r#"{"data":7}"#, r#"{"data":[{}]}"#] {
        assert!(read(body, Dialect::Auto, None).is_err(), "{body}");
    }
}

#[test]
fn a_fixed_dialect_is_obeyed() {
    let body = r#"{"data":[{"id":"m","pricing":{"prompt":"1"}}]}"#;
    assert!(read(body, Dialect::OpenAi, None).unwrap().models[0].pricing.is_none());
}

#[test]
fn one_bad_entry_costs_no_other_one_and_is_named() {
    let list = |bad: &str| {
        format!(
            "\u{feff}{{\"data\":[{{\"id\":\"a\",\"pricing\":{{\"prompt\":\"0.000001\"}}}},{bad},{{\"id\":\"z\"}}]}}"
        )
    };
    for (bad, ids, named) in [
        (r#"{"id":"b","pricing":{"prompt":NaN}}"#, "a b z", "model 'b'"),
        (r#"{"id":"b","created":Infinity}"#, "a b z", "model 'b'"),
        ("{\"id\":\"b\",\"name\":\"B \u{fffd}\"}", "a b z", "model 'b'"),
        ("{\"id\":\"b\u{fffd}\"}", "a z", "entry 2"),
        (r#"{"id":NaN}"#, "a z", "entry 2"),
        (r#"{"id":""}"#, "a z", "entry 2"),
        ("NaN", "a z", "entry 2"),
        ("7", "a z", "entry 2"),
        (r#"{"name":"B"}"#, "a z", "entry 2"),
    ] {
        let catalogue = read(&list(bad), Dialect::Auto, None).unwrap();
        let read: Vec<&str> = catalogue.models.iter().map(|m| m.model_id.as_str()).collect();
        assert_eq!(read.join(" "), ids, "{bad}");
        assert!(
            catalogue.warnings.len() == 1 && catalogue.warnings[0].starts_with(named),
            "{bad}: {:?}",
            catalogue.warnings
        );
        assert_eq!(price(&catalogue.models[0], "input"), Some("1"), "{bad}");
    }
    assert!(read(&list("\u{7}{\"id\":\"b\"}"), Dialect::Auto, None).is_err());
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_panics(body in "[{}\\[\\]\":,a-z0-9.-]{0,80}") {
        let _ = read(&body, Dialect::Auto, None);
        let _ = read(&format!(r#"{{"data":[{{"id":"x","pricing":{{"prompt":{body}}}}}]}}"#), Dialect::OpenRouter, None);
    }
}
