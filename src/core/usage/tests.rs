//! What providers send, and what it comes to.

use super::*;

fn parts(text: &str) -> Parts {
    Usage::parse(text).parts.unwrap()
}

#[test]
fn openai_subsets_become_disjoint() {
    let p = parts(
        r#"{"prompt_tokens":1000,"completion_tokens":500,"total_tokens":1500,
            "prompt_tokens_details":{"cached_tokens":600,"audio_tokens":50,"cache_write_tokens":100},
            "completion_tokens_details":{"reasoning_tokens":300,"audio_tokens":20}}"#,
    );
    assert_eq!((p.input, p.cache_read, p.cache_write, p.audio_input), (250, 600, 100, 50));
    assert_eq!((p.output, p.reasoning, p.audio_output), (180, 300, 20));
    assert_eq!((p.prompt(), p.completion()), (1000, 500));
}

#[test]
fn anthropic_counts_are_disjoint_already() {
    let p = parts(
        r#"{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,
            "cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},
            "output_tokens":7}"#,
    );
    assert_eq!((p.input, p.cache_read, p.cache_write, p.cache_write_1h), (10, 1000, 60, 40));
    assert_eq!((p.prompt(), p.completion()), (1110, 7));
}

#[test]
fn a_translated_usage_has_the_parts_of_the_native_one() {
    for (one_hour, written) in [(40, 60), (0, 100), (100, 0), (999, 0)] {
        let creation = format!(r#"{{"ephemeral_1h_input_tokens":{one_hour}}}"#);
        let native = parts(&format!(
            r#"{{"input_tokens":10,"cache_creation_input_tokens":100,
                "cache_read_input_tokens":1000,"cache_creation":{creation},
                "output_tokens":7}}"#
        ));
        let translated = parts(&format!(
            r#"{{"prompt_tokens":1110,"completion_tokens":7,"total_tokens":1117,
                "prompt_tokens_details":{{"cached_tokens":1000,"cache_write_tokens":100}},
                "cache_creation":{creation}}}"#
        ));
        assert_eq!(translated, native);
        assert_eq!((native.cache_write, native.prompt()), (written, 1110));
    }
}

#[test]
fn pieces_are_counted_in_either_form() {
    let tools = r#""server_tool_use":{"web_search_requests":3},"images":2"#;
    for tokens in
        [r#""prompt_tokens":7,"completion_tokens":0"#, r#""input_tokens":7,"output_tokens":0"#]
    {
        let p = parts(&format!("{{{tokens},{tools}}}"));
        assert_eq!((p.input, p.web_search, p.image, p.prompt()), (7, 3, 2, 7));
    }
    for odd in ["null", "{}", "[]", r#"{"web_search_requests":-1}"#] {
        let p = parts(&format!(
            r#"{{"prompt_tokens":7,"completion_tokens":0,"server_tool_use":{odd}}}"#
        ));
        assert_eq!(p.web_search, 0, "{odd}");
    }
}

#[test]
fn a_subset_larger_than_its_total_is_trimmed_or_stands_outside() {
    let p = parts(
        r#"{"prompt_tokens":10,"completion_tokens":5,
            "prompt_tokens_details":{"cached_tokens":99},
            "completion_tokens_details":{"reasoning_tokens":99}}"#,
    );
    assert_eq!((p.input, p.cache_read, p.output, p.reasoning), (0, 10, 5, 99));
    // Claude's counts, under OpenAI's totals.
    let p = parts(r#"{"prompt_tokens":10,"completion_tokens":5,"cache_read_input_tokens":99}"#);
    assert_eq!((p.input, p.cache_read), (10, 99));
    // Audio has no other place to stand.
    let p = parts(
        r#"{"prompt_tokens":10,"completion_tokens":5,
            "prompt_tokens_details":{"audio_tokens":99},
            "completion_tokens_details":{"audio_tokens":99}}"#,
    );
    assert_eq!((p.input, p.audio_input, p.output, p.audio_output), (0, 10, 0, 5));
}

#[test]
fn output_that_only_the_total_counts_is_output() {
    for (usage, prompt, completion, reasoning) in [
        // Gemini's thinking.
        (r#"{"prompt_tokens":9,"completion_tokens":1,"total_tokens":103}"#, 9, 94, 0),
        (r#"{"prompt_tokens":758,"completion_tokens":102,"total_tokens":1725}"#, 758, 967, 0),
        // A relay in front of it.
        (
            r#"{"prompt_tokens":7,"completion_tokens":124,"total_tokens":1228,"completion_tokens_details":{"reasoning_tokens":1097}}"#,
            7,
            1221,
            1097,
        ),
        (r#"{"prompt_tokens":9,"completion_tokens":0,"total_tokens":103}"#, 9, 94, 0),
        (r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":15}"#, 10, 5, 0),
        (r#"{"prompt_tokens":10,"total_tokens":15}"#, 10, 5, 0),
        (r#"{"prompt_tokens":"10","total_tokens":"15"}"#, 10, 5, 0),
        (r#"{"prompt_tokens":10,"completion_tokens":-1,"total_tokens":15}"#, 10, 5, 0),
        (r#"{"prompt_tokens":null,"completion_tokens":5,"total_tokens":15}"#, 10, 5, 0),
        // An embedding.
        (r#"{"prompt_tokens":8,"total_tokens":8}"#, 8, 0, 0),
        // xAI: reasoning beside the completion, by its total, by its size, or both.
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":19,"completion_tokens_details":{"reasoning_tokens":4}}"#,
            10,
            9,
            4,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":40}}"#,
            10,
            45,
            40,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"completion_tokens_details":{"reasoning_tokens":40}}"#,
            10,
            45,
            40,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":55,"completion_tokens_details":{"reasoning_tokens":40}}"#,
            10,
            45,
            40,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":60,"reasoning_tokens":40}"#,
            10,
            50,
            40,
        ),
        // Inside, and the total agrees.
        (
            r#"{"prompt_tokens":10,"completion_tokens":50,"total_tokens":60,"reasoning_tokens":40}"#,
            10,
            50,
            40,
        ),
        // A total that says less says nothing.
        (r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":9}"#, 10, 5, 0),
        (
            r#"{"input_tokens":10,"output_tokens":50,"output_tokens_details":{"thinking_tokens":30}}"#,
            10,
            50,
            30,
        ),
    ] {
        let p = parts(usage);
        assert_eq!(
            (p.prompt(), p.completion(), p.reasoning),
            (prompt, completion, reasoning),
            "{usage}"
        );
    }
}

#[test]
fn an_output_that_nobody_counts_is_unknown() {
    for usage in [
        r#"{"prompt_tokens":10}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null}"#,
        r#"{"prompt_tokens":10,"completion_tokens":"many"}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":null}"#,
        r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":3}"#,
        r#"{"input_tokens":10}"#,
        r#"{"input_tokens":7,"cache_read_input_tokens":3,"output_tokens":null}"#,
    ] {
        let found = Usage::parse(usage);
        assert_eq!(found.parts, None, "{usage}");
        assert_eq!(found.input().map(|input| input.prompt()), Some(10), "{usage}");
    }
    assert_eq!(Usage::parse(r#"{"completion_tokens":10}"#), Usage::default());
    assert_eq!(Usage::parse(r#"{"total_tokens":10}"#), Usage::default());
}

#[test]
fn the_cache_has_many_names() {
    // Of 98,805 tokens of the prompt 66,360 were read and 32,435 written.
    let inside = [
        // LiteLLM, with and without Anthropic's names beside its own.
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_creation_tokens":32435}"#,
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_creation_tokens":32435},"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435"#,
        r#""cache_read_input_tokens":66360,"cache_creation_input_tokens":32435"#,
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_creation_tokens":0},"cache_creation_input_tokens":32435"#,
        // OpenRouter.
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_write_tokens":32435}"#,
        // New API.
        r#""prompt_tokens_details":{"cached_tokens":66360,"cached_creation_tokens":32435},"input_tokens":0,"output_tokens":0"#,
        r#""prompt_tokens_details":{"cached_tokens":66360},"claude_cache_creation_5_m_tokens":32435,"claude_cache_creation_1_h_tokens":0"#,
        // Qwen.
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_creation_input_tokens":32435,"cache_type":"ephemeral"}"#,
        r#""prompt_tokens_details":{"cached_tokens":66360,"cache_creation":{"ephemeral_5m_input_tokens":32435}}"#,
        // Numbers as text.
        r#""prompt_tokens_details":{"cached_tokens":"66360","cache_write_tokens":"32435"}"#,
    ];
    for names in inside {
        for total in ["", r#","total_tokens":103925"#] {
            let p = parts(&format!(
                r#"{{"prompt_tokens":98805,"completion_tokens":5120,{names}{total}}}"#
            ));
            let found = (p.input, p.cache_read, p.cache_write, p.output);
            assert_eq!(found, (10, 66360, 32435, 5120), "{names}{total}");
        }
    }
    let outside = [
        // Portkey: the cache is in the total only.
        r#"{"prompt_tokens":10,"completion_tokens":5120,"total_tokens":103925,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435}"#,
        // New API of old: it does not fit in the prompt.
        r#"{"prompt_tokens":10,"completion_tokens":5120,"total_tokens":5130,"prompt_tokens_details":{"cached_tokens":66360,"cached_creation_tokens":32435}}"#,
        // Anthropic, also through relays that give a total or OpenAI's names with zeros.
        r#"{"input_tokens":10,"output_tokens":5120,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435}"#,
        r#"{"input_tokens":10,"output_tokens":5120,"total_tokens":5130,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435}"#,
        r#"{"input_tokens":10,"output_tokens":5120,"total_tokens":103925,"cache_read_input_tokens":66360,"cache_creation":{"ephemeral_5m_input_tokens":32435,"ephemeral_1h_input_tokens":0}}"#,
        r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"input_tokens":10,"output_tokens":5120,"cache_read_input_tokens":66360,"cache_creation_input_tokens":32435}"#,
        // Amazon Bedrock.
        r#"{"inputTokens":10,"outputTokens":5120,"totalTokens":103925,"cacheReadInputTokens":66360,"cacheWriteInputTokens":32435}"#,
    ];
    for usage in outside {
        let p = parts(usage);
        let found = (p.input, p.cache_read, p.cache_write, p.output);
        assert_eq!(found, (10, 66360, 32435, 5120), "{usage}");
    }
    // Reads alone.
    for names in [
        r#""prompt_tokens_details":{"cached_tokens":60}"#,
        r#""prompt_cache_hit_tokens":60,"prompt_cache_miss_tokens":40"#,
        r#""cached_tokens":60"#,
        r#""num_cached_tokens":60"#,
        r#""cached_prompt_text_tokens":60"#,
    ] {
        let p = parts(&format!(
            r#"{{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,{names}}}"#
        ));
        assert_eq!((p.input, p.cache_read, p.output), (40, 60, 5), "{names}");
    }
    let p = parts(
        r#"{"prompt_cache_hit_tokens":60,"prompt_cache_miss_tokens":40,"completion_tokens":5}"#,
    );
    assert_eq!((p.input, p.cache_read, p.output), (40, 60, 5));
    // OpenAI's Responses: Anthropic's names for the totals, and the cache inside.
    let p = parts(
        r#"{"input_tokens":100,"output_tokens":5,"total_tokens":105,"input_tokens_details":{"cached_tokens":60}}"#,
    );
    assert_eq!((p.input, p.cache_read, p.output), (40, 60, 5));
    // Gemini and Vertex AI: thoughts beside the candidates.
    let p = parts(
        r#"{"promptTokenCount":100,"candidatesTokenCount":5,"thoughtsTokenCount":90,"toolUsePromptTokenCount":20,"cachedContentTokenCount":60,"totalTokenCount":215}"#,
    );
    assert_eq!((p.input, p.cache_read, p.output, p.reasoning), (60, 60, 5, 90));
    // LiteLLM tells five minutes from an hour.
    let p = parts(
        r#"{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":20,"cache_creation_tokens":30,"cache_creation_token_details":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20}}}"#,
    );
    assert_eq!((p.input, p.cache_read, p.cache_write, p.cache_write_1h), (50, 20, 10, 20));
}

#[test]
fn what_was_heard_is_not_said() {
    // Mistral's Voxtral counts what it hears in the total only.
    let p = parts(
        r#"{"prompt_audio_seconds":5,"prompt_tokens":5,"total_tokens":404,"completion_tokens":24}"#,
    );
    assert_eq!((p.input, p.audio_input, p.output), (5, 375, 24));
    // Cached audio is in the counts of both.
    let p = parts(
        r#"{"prompt_tokens":200,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":80,"cached_audio_tokens":40,"audio_tokens":100}}"#,
    );
    assert_eq!((p.input, p.cache_read, p.audio_input), (60, 80, 60));
}

#[test]
fn reasoning_outside_the_completion_is_added_when_the_total_says_so() {
    let text = |total| {
        format!(
            r#"{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":{total},
                "completion_tokens_details":{{"reasoning_tokens":4}}}}"#
        )
    };
    assert_eq!(parts(&text(15)).completion(), 5);
    assert_eq!(parts(&text(19)).completion(), 9);
}

#[test]
fn negatives_and_nonsense_are_missing_not_zero() {
    for text in [
        "null",
        "[]",
        "{}",
        "7",
        r#"{"prompt_tokens":-1,"completion_tokens":5}"#,
        r#"{"prompt_tokens":"many"}"#,
        r#"{"prompt_tokens":1e300}"#,
        "{",
    ] {
        assert_eq!(Usage::parse(text).parts, None, "{text}");
    }
    assert_eq!(parts(r#"{"prompt_tokens":0,"completion_tokens":0}"#), Parts::default());
    assert_eq!(parts(r#"{"prompt_tokens":3.0,"completion_tokens":0}"#).input, 3);
}

#[test]
fn an_absurd_count_is_the_largest_and_does_not_wrap() {
    for count in ["2147483648", "4294967297", "18446744073709551615", "1e15"] {
        let p = parts(&format!(r#"{{"prompt_tokens":{count},"completion_tokens":{count}}}"#));
        assert_eq!((p.prompt(), p.completion()), (i32::MAX, i32::MAX), "{count}");
        let names =
            r#""cache_read_input_tokens":C,"cache_creation_input_tokens":C,"total_tokens":C"#;
        let names = names.replace('C', count);
        let p = parts(&format!(r#"{{"input_tokens":{count},"output_tokens":{count},{names}}}"#));
        assert_eq!((p.prompt(), p.completion()), (i32::MAX, i32::MAX), "{count}");
    }
}

#[test]
fn a_cost_that_no_call_has_is_not_believed() {
    let reported =
        |cost: &str| Usage::parse(&format!(r#"{{"prompt_tokens":1,"cost":{cost}}}"#)).reported_cost;
    for (cost, read) in [
        ("0.5", Some("0.5")),
        (r#""0.5""#, Some("0.5")),
        (r#"" 0.0001 ""#, Some("0.0001")),
        ("0", Some("0")),
        ("1000", Some("1000")),
        ("1e-7", Some("1e-7")),
        (r#"{"input_tokens_cost":0.1,"total_cost":0.3}"#, Some("0.3")),
        ("1000.01", None),
        ("1e25", None),
        (r#""1e25""#, None),
        ("7e28", None),
        ("1e400", None),
        ("-0.5", None),
        (r#""-1""#, None),
        (r#""NaN""#, None),
        (r#""half""#, None),
        (r#""""#, None),
        ("true", None),
        ("[1]", None),
        ("{}", None),
    ] {
        assert_eq!(reported(cost).as_deref(), read, "{cost}");
    }
    for (own, upstream, read) in [
        ("1", "1e30", None),
        ("7e28", "7e28", None),
        ("600", "600", None),
        (r#""0.05""#, r#""1.2""#, Some("1.25")),
    ] {
        let text = format!(
            r#"{{"cost":{own},"is_byok":true,"cost_details":{{"upstream_inference_cost":{upstream}}}}}"#
        );
        assert_eq!(Usage::parse(&text).reported_cost.as_deref(), read, "{text}");
    }
    // xAI.
    for (ticks, read) in [
        ("37756000", Some("0.0037756")),
        (r#""1""#, Some("0.0000000001")),
        ("0", Some("0")),
        ("10000000000001", None),
        ("-1", None),
        ("1.5", None),
    ] {
        let text = format!(r#"{{"prompt_tokens":1,"cost_in_usd_ticks":{ticks}}}"#);
        assert_eq!(Usage::parse(&text).reported_cost.as_deref(), read, "{text}");
    }
}

#[test]
fn reported_cost_keeps_its_digits() {
    let usage = Usage::parse(r#"{"prompt_tokens":1,"cost":0.00012345678901234567890123}"#);
    assert_eq!(usage.reported_cost.unwrap(), "0.00012345678901234567890123");
    assert_eq!(Usage::parse(r#"{"cost":{"total":1}}"#).reported_cost, None);
    assert_eq!(Usage::parse(r#"{"cost":-1}"#).reported_cost, None);
}

#[test]
fn byok_adds_the_upstream_cost_and_only_then() {
    let own = r#"{"cost":0.05,"is_byok":true,"cost_details":{"upstream_inference_cost":1.2}}"#;
    assert_eq!(Usage::parse(own).reported_cost.unwrap(), "1.25");
    let not = r#"{"cost":0.05,"is_byok":false,"cost_details":{"upstream_inference_cost":1.2}}"#;
    assert_eq!(Usage::parse(not).reported_cost.unwrap(), "0.05");
    let unknown = r#"{"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}"#;
    assert_eq!(Usage::parse(unknown).reported_cost, None);
}

proptest::proptest! {
    #[test]
    fn parts_always_add_up_to_the_totals(
        prompt in 0..i32::MAX, completion in 0..i32::MAX,
        cached in 0..i32::MAX, written in 0..i32::MAX, reasoning in 0..i32::MAX,
    ) {
        let p = parts(&serde_json::json!({
            "prompt_tokens": prompt, "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }).to_string());
        proptest::prop_assert_eq!(p.prompt(), prompt);
        let said = if reasoning > completion { completion.saturating_add(reasoning) } else { completion };
        proptest::prop_assert_eq!(p.completion(), said);
    }

    #[test]
    fn no_usage_has_a_part_less_than_nothing(
        names in proptest::collection::vec((0..NAMES.len(), -1..2_000_000_000_i64), 0..8),
    ) {
        let members: Vec<String> =
            names.iter().map(|(name, count)| NAMES[*name].replace('N', &count.to_string())).collect();
        let usage = Usage::parse(&format!("{{{}}}", members.join(",")));
        if let Some(p) = usage.parts {
            let all = [p.input, p.cache_read, p.cache_write, p.cache_write_1h, p.audio_input,
                p.output, p.reasoning, p.audio_output];
            proptest::prop_assert!(all.iter().all(|part| *part >= 0));
        }
    }
}

const NAMES: &[&str] = &[
    r#""prompt_tokens":N"#,
    r#""completion_tokens":N"#,
    r#""total_tokens":N"#,
    r#""input_tokens":N"#,
    r#""output_tokens":"N"#,
    r#""prompt_tokens_details":{"cached_tokens":N}"#,
    r#""prompt_tokens_details":{"cache_write_tokens":N,"audio_tokens":N}"#,
    r#""cache_creation":{"ephemeral_1h_input_tokens":N}"#,
    r#""cache_read_input_tokens":N"#,
    r#""reasoning_tokens":N"#,
    r#""prompt_audio_seconds":N"#,
    r#""thoughtsTokenCount":N"#,
    r#""promptTokenCount":N"#,
];
