//! Answers as providers, servers and relays send them, whole, with what they are about.

mod keys;
mod long_prompts;

use super::sayings::{CREDIT, KEY, PERMISSION, Saying, TOO_LONG, TOO_LONG_CODES};
use super::*;
use About::{Other, TooLong};
use keys::KEYS;
use long_prompts::LONG_PROMPTS;

/// Who, the status (0: inside a 200), the body, and what it is about.
type Sample = (&'static str, u16, &'static str, About);

fn read_sample((who, status, body, _): &Sample) -> Refusal {
    match status {
        0 => inside_success(body, None).unwrap_or_else(|| panic!("{who}: {body} is no error")),
        status => read(*status, body, None),
    }
}

fn check(samples: &[Sample]) {
    for sample in samples {
        let refusal = read_sample(sample);
        let (who, status, body, about) = sample;
        assert_eq!(refusal.about, *about, "{who} {status}: {body}\n{refusal:?}");
    }
}

#[test]
fn a_prompt_that_is_too_long_is_seen_in_every_providers_words() {
    check(LONG_PROMPTS);
    for (who, status, body, _) in LONG_PROMPTS {
        let refusal = read_sample(&(who, *status, body, TooLong));
        assert_eq!(crate::core::retry::after(&refusal), crate::core::retry::Again::Longer, "{who}");
        assert!((400..=422).contains(&refusal.status), "{who}: {refusal:?}");
    }
}

#[test]
fn what_only_sounds_like_a_prompt_that_is_too_long_is_none() {
    check(&[
        // The answer, not the prompt: a longer model would refuse it too.
        (
            "OpenAI",
            400,
            r#"{"error":{"message":"max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000.","type":"invalid_request_error","param":"max_tokens","code":"invalid_value"}}"#,
            Other,
        ),
        (
            "Anthropic",
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens for claude-sonnet"}}"#,
            Other,
        ),
        (
            "Qwen",
            400,
            r#"{"error":{"message":"Range of max_tokens should be [1, 8192]","type":"invalid_request_error","code":"invalid_parameter_error"}}"#,
            Other,
        ),
        (
            "vLLM",
            400,
            r#"{"error":{"message":"max_tokens must be at least 1, got 0.","type":"BadRequestError","param":"max_tokens","code":400}}"#,
            Other,
        ),
        (
            "OpenAI",
            400,
            r#"{"error":{"message":"Invalid 'tools[0].function.description': string too long. Expected a string with maximum length 1024, but got a string with length 2000 instead.","type":"invalid_request_error","param":"tools[0].function.description","code":"string_above_max_length"}}"#,
            Other,
        ),
        // Limits per time.
        (
            "Groq",
            413,
            r#"{"error":{"message":"Request too large for model `llama-3.3-70b-versatile` in organization `org_1` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 14137, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            Other,
        ),
        (
            "OpenAI",
            429,
            r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389. The input or output tokens must be reduced in order to run successfully.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            Other,
        ),
        (
            "Anthropic",
            429,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"Number of request tokens has exceeded your per-minute rate limit; the prompt is too long for it"}}"#,
            Other,
        ),
        (
            "Bedrock",
            400,
            r#"{"message":"Too many tokens, please wait before trying again."}"#,
            Other,
        ),
        // Of a server in trouble.
        ("any", 500, r#"{"error":{"message":"prompt is too long"}}"#, Other),
        // A model that is not there.
        (
            "any",
            404,
            r#"{"error":{"message":"no model with a maximum context length of 1M"}}"#,
            Other,
        ),
        ("any", 400, "", Other),
    ]);
}

#[test]
fn keys_places_and_money_are_told_apart_in_every_providers_words() {
    check(KEYS);
}

#[test]
fn what_only_sounds_like_a_refused_key_is_none() {
    check(&[
        ("nobody", 403, "", Other),
        ("a proxy", 403, "<html><head><title>403 Forbidden</title></head></html>", Other),
        (
            "NVIDIA",
            403,
            r#"{"status":403,"title":"Forbidden","detail":"Authorization failed"}"#,
            Other,
        ),
        (
            "Anthropic",
            403,
            r#"{"type":"error","error":{"type":"permission_error","message":"Your API key does not have permission to use the specified resource."}}"#,
            Other,
        ),
        (
            "OpenRouter, moderation",
            403,
            r#"{"error":{"code":403,"message":"Your chosen model requires moderation and your input was flagged","metadata":{"reasons":["violence"],"flagged_input":"API key not valid"}}}"#,
            Other,
        ),
        // What a request contains may be repeated; it must not cool a key that many share.
        (
            "OpenAI",
            400,
            r#"{"error":{"message":"Invalid value: 'api key not valid'. Supported values are: 'system', 'user'.","type":"invalid_request_error"}}"#,
            Other,
        ),
        (
            "OpenAI",
            400,
            r#"{"error":{"message":"Unknown parameter: 'your credit balance is too low'.","type":"invalid_request_error"}}"#,
            Other,
        ),
        ("any", 500, r#"{"error":{"message":"API key not valid"}}"#, Other),
        (
            "Gemini",
            429,
            r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED"}}]"#,
            Other,
        ),
    ]);
}

/// A row that no answer needs is one that nobody has seen.
#[test]
fn every_wording_is_read_off_an_answer() {
    let said = |samples: &[Sample]| {
        samples.iter().map(|s| read_sample(s).message.unwrap_or_default().to_lowercase()).collect()
    };
    let has = |text: &str, (_, parts): &Saying| parts.iter().all(|part| text.contains(part));
    let (long, keys): (Vec<String>, Vec<String>) = (said(LONG_PROMPTS), said(KEYS));
    for (sayings, texts) in [(TOO_LONG, &long), (KEY, &keys), (PERMISSION, &keys), (CREDIT, &keys)]
    {
        for saying in sayings {
            assert!(texts.iter().any(|text| has(text, saying)), "{saying:?}");
        }
    }
    let codes: Vec<_> = LONG_PROMPTS.iter().filter_map(|s| read_sample(s).code).collect();
    for code in TOO_LONG_CODES {
        assert!(codes.iter().any(|c| c == code), "{code}");
    }
    for provider in [
        "OpenAI",
        "Anthropic",
        "Gemini",
        "Mistral",
        "DeepSeek",
        "xAI",
        "Groq",
        "Together",
        "Fireworks",
        "Cohere",
        "Qwen",
        "Zhipu",
        "Moonshot",
        "MiniMax",
        "OpenRouter",
        "AiHubMix",
        "vLLM",
        "SGLang",
        "llama.cpp",
        "Ollama",
        "LM Studio",
        "TGI",
        "LiteLLM",
        "Azure",
        "Bedrock",
        "Vertex",
    ] {
        assert!(LONG_PROMPTS.iter().any(|(who, ..)| *who == provider), "{provider}");
    }
}

#[test]
fn the_words_of_every_form_of_error_are_kept() {
    for (body, words) in [
        (
            r#"[{"error":{"code":400,"message":"bad turn","status":"INVALID_ARGUMENT"}}]"#,
            "bad turn",
        ),
        (r#"{"error":{"code":400,"message":"bad turn"}}"#, "bad turn"),
        (r#"{"error":"bad turn"}"#, "bad turn"),
        (r#"{"error":["bad turn","bad tool"]}"#, "bad turn; bad tool"),
        (r#"{"error":{"error":{"message":"bad turn"}}}"#, "bad turn"),
        (r#"{"error":{"message":{"error":"bad turn"}}}"#, "bad turn"),
        (r#"{"error":true,"message":"bad turn"}"#, "bad turn"),
        (r#"{"detail":"bad turn"}"#, "bad turn"),
        (r#"{"detail":{"msg":"bad turn","type":"invalid"}}"#, "bad turn"),
        (
            r#"{"detail":[{"type":"missing","loc":["body","messages",0,"role"],"msg":"Field required","input":{"content":"private"}},{"loc":["body","model"],"msg":"Field required"}]}"#,
            "body.messages.0.role: Field required; body.model: Field required",
        ),
        (r#"{"errors":[{"code":7003,"message":"bad turn"}],"success":false}"#, "bad turn"),
        (r#"{"errors":["bad turn"]}"#, "bad turn"),
        (
            r#"{"errors":{"model":["is not known"]},"status":400,"title":"Bad"}"#,
            "model: is not known",
        ),
        (r#"{"title":"Bad Request","status":400}"#, "Bad Request"),
        (r#"{"status":403,"title":"Forbidden","detail":"bad turn"}"#, "bad turn"),
        (r#"{"message":"bad turn"}"#, "bad turn"),
        (r#"{"Message":"bad turn"}"#, "bad turn"),
        (r#"{"error_code":336007,"error_msg":"bad turn"}"#, "bad turn"),
        (r#"{"base_resp":{"status_code":2013,"status_msg":"bad turn"}}"#, "bad turn"),
        (
            r#"{"fault":{"faultstring":"bad turn","detail":{"errorcode":"x"}}}"#,
            "errorcode: x; bad turn",
        ),
        (r#"{"outcome":{"explanation":"bad turn"}}"#, "outcome.explanation: bad turn"),
        (r#""bad turn""#, "bad turn"),
        ("bad turn", "bad turn"),
        (
            "upstream connect error or disconnect/reset before headers",
            "upstream connect error or disconnect/reset before headers",
        ),
        ("\u{feff}{\"error\":{\"message\":\"bad turn\"}}", "bad turn"),
        (r#"{"error":{"message":"bad turn","at":NaN}}"#, "bad turn"),
        (r#"{"error":{"message":"bad tu"#, r#"{"error":{"message":"bad tu"#),
        ("data: {\"error\":{\"message\":\"bad turn\"}}\n\ndata: [DONE]\n\n", "bad turn"),
        (
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"bad turn\"}}\n\n",
            "bad turn",
        ),
        (
            "<html>\r\n<head><title>502 Bad Gateway</title><style>a{}</style><script>x < 1</script></head>\r\n<body><center><h1>502 Bad Gateway</h1></center><hr><center>nginx &amp; co</center></body></html>",
            "502 Bad Gateway nginx & co",
        ),
        (
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>bad turn</Message></Error>",
            "AccessDenied bad turn",
        ),
        (
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"bad turn\",\"code\":null}}","provider_name":"X"}}}"#,
            "Provider returned error; bad turn",
        ),
        (
            r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"m is limited upstream. Retry shortly"}}}"#,
            "Provider returned error; m is limited upstream. Retry shortly",
        ),
        (
            r#"{"code":"Client specified an invalid argument","error":"bad turn"}"#,
            "bad turn; Client specified an invalid argument",
        ),
        ("bad\u{0}\r\n\tturn", "bad turn"),
    ] {
        assert_eq!(read(418, body, None).message.as_deref(), Some(words), "{body}");
    }
    for nothing in ["", "  \n", "<html>", "{}", "[]", "null", "\u{feff}"] {
        assert_eq!(read(418, nothing, None).message, None, "{nothing:?}");
    }
}

#[test]
fn a_page_instead_of_json_is_told_and_other_texts_are_not() {
    let page = "<html><title>Just a moment...</title><script>x</script><p>sk-mine-1</p></html>";
    assert_eq!(instead("HTML", page, Some("sk-mine-1")), "HTML: Just a moment... [key]");
    assert_eq!(instead("HTML", "<html></html>", None), "HTML");
    assert_eq!(instead("no JSON", "Dear user, your secret is 5", None), "no JSON");
    let long = format!("<p>{}</p>", "é".repeat(1000));
    assert_eq!(instead("HTML", &long, None).chars().count(), 6 + 200 + 1);
}

#[test]
fn nothing_of_the_request_is_repeated_nor_any_key() {
    for body in [
        r#"{"detail":[{"loc":["body"],"msg":"wrong","input":{"messages":"private"}}]}"#,
        r#"{"odd":"wrong","input":"private","messages":["private"],"request":{"a":"private"}}"#,
        r#"{"error":{"message":"wrong","metadata":{"flagged_input":"private"}}}"#,
    ] {
        let message = read(400, body, None).message.unwrap();
        assert!(message.contains("wrong") && !message.contains("private"), "{message}");
    }
    for body in [
        "the key my-odd-token is wrong",
        r#"{"detail":"the key my-odd-token is wrong"}"#,
        r#"[{"error":{"message":"the key my-odd-token is wrong","code":"my-odd-token"}}]"#,
        r#"{"odd":"the key my-odd-token is wrong","my-odd-token":1}"#,
        "<p>the key my-odd-token</p>",
        r#"{"code":"the key my-odd-token is wrong"}"#,
        "{\"detail\":\"my-odd\\u002dtoken\"}",
    ] {
        let refusal = read(400, body, Some("my-odd-token"));
        assert!(!format!("{refusal:?}").contains("my-odd-token"), "{refusal:?}");
    }
}

#[test]
fn refusals_of_every_dialect() {
    let openai =
        r#"{"error":{"message":"bad sk-abc","type":"t","param":null,"code":"invalid_api_key"}}"#;
    let r = read(401, openai, Some("sk-abc"));
    assert_eq!((r.status, r.code.as_deref()), (401, Some("invalid_api_key")));
    assert!(!r.message.unwrap().contains("sk-abc"));
    let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
    assert_eq!(read(529, anthropic, None).code.as_deref(), Some("overloaded_error"));
    let spend = r#"{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    assert_eq!(read(429, spend, None).code.as_deref(), Some("enforced_spend_limit_reached"));
    assert_eq!(read(500, "<html>", None).message, None);
    assert_eq!(read(500, r#"{"message":"x"}"#, None).message.as_deref(), Some("x"));
    assert_eq!(read(400, r#"{"error":{"code":400,"message":"m"}}"#, None).code, None);
    let gemini = r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#;
    assert_eq!(read(400, gemini, None).code.as_deref(), Some("API_KEY_INVALID"));
    let cloudflare =
        r#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#;
    assert_eq!(read(403, cloudflare, None).code.as_deref(), Some("10000"));
}

#[test]
fn an_error_inside_a_200_has_the_status_that_it_tells_or_means() {
    for (error, status) in [
        (r#"{"code":429,"message":"slow down"}"#, 429),
        (r#"{"code":"503","message":"busy"}"#, 503),
        (r#"{"message":"boom"}"#, 502),
        (r#""boom""#, 502),
        (r#"{"message":"prompt is too long"}"#, 400),
        (r#"{"message":"Invalid API Key"}"#, 401),
        (r#"{"message":"Insufficient Balance"}"#, 402),
        (r#"{"message":"User location is not supported"}"#, 403),
        (r#"{"message":"Rate limit reached"}"#, 429),
    ] {
        assert_eq!(inside_200(error, None).status, status, "{error}");
    }
    for fine in [
        r#"{"object":"list","data":[{"id":"m"}]}"#,
        r#"{"object":"list","data":[],"error":null}"#,
        r#"{"success":true,"data":[],"message":""}"#,
        r#"{"data":{"label":"sk-or","limit":null}}"#,
        r#"{"base_resp":{"status_code":0,"status_msg":"success"},"data":[]}"#,
        r#"{"code":200,"message":"ok","data":[]}"#,
        r#"{"code":0,"msg":"ok"}"#,
        r#"[{"id":"m"}]"#,
        "[]",
        "not JSON",
    ] {
        assert_eq!(inside_success(fine, None), None, "{fine}");
    }
}

#[test]
fn long_messages_are_cut_between_characters() {
    let body = serde_json::json!({"error": {"message": "é".repeat(2000)}}).to_string();
    assert_eq!(read(400, &body, None).message.unwrap().chars().count(), 1001);
    // What is cut off still tells what it is about.
    let body = format!("{{\"error\":\"{} maximum context length is 5\"}}", "x".repeat(2000));
    assert_eq!(read(400, &body, None).about, TooLong);
}

#[test]
fn large_and_deep_bodies_cost_little() {
    let began = std::time::Instant::now();
    let many = format!("[{}1]", r#"{"error":{"message":"a"}},"#.repeat(9000));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = (0..12).fold("boom".to_owned(), |inner, _| {
        serde_json::json!({"error": {"message": inner}}).to_string()
    });
    let events = "data: ".repeat(40_000);
    let tags = "<a".repeat(100_000);
    let huge = "x".repeat(8 << 20);
    for body in [&many, &deep, &nested, &events, &tags, &huge] {
        let message = read(400, body, None).message.unwrap_or_default();
        assert!(message.chars().count() <= 1001);
        let _ = inside_success(body, None);
    }
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_panics(body in "\\PC*", json in "[{}\\[\\]\":,<>/a-z0-9]{0,60}") {
        for text in [&body, &json] {
            let _ = (read(400, text, Some("k")), inside_200(text, None), inside_success(text, None));
        }
    }
}
