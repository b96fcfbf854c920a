use super::answer::{Reading, numbers, read, with_lists};
use super::batch::{is_too_large, ranges};
use super::request::outline;
use super::{LONGEST_INPUT, MOST_DIMENSIONS, MOST_PER_REQUEST, Wanted, find, vector};
use crate::core::refusal::Refusal;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

fn wanted(inputs: usize) -> Wanted {
    Wanted { inputs, dimensions: None }
}

fn vectors(body: &str, wanted: Wanted) -> Vec<Vec<f32>> {
    match read(body, wanted, None) {
        Reading::Embeddings { response, .. } => numbers(&response).unwrap(),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn vectors_are_read_in_both_forms_and_put_in_their_order() {
    let body = r#"{"object":"list","model":"m-2","id":"e-1","data":[
        {"object":"embedding","index":1,"embedding":[0.25,1e-3]},
        {"object":"embedding","index":0,"embedding":"AACAPwAAAL8="}],
        "usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(vectors(body, wanted(2)), [[1.0, -0.5], [0.25, 0.001]]);
    let Reading::Embeddings { completion, response } = read(body, wanted(2), None) else {
        panic!()
    };
    assert_eq!(completion.served_model.as_deref(), Some("m-2"));
    assert_eq!(completion.id.as_deref(), Some("e-1"));
    let parts = completion.usage.parts.unwrap();
    assert_eq!((parts.prompt(), parts.completion()), (8, 0));
    assert!(response.contains(r#""usage":{"prompt_tokens":8,"total_tokens":8}"#), "{response}");
    let lists = with_lists(&response).unwrap();
    assert!(lists.contains(r#""index":1,"embedding":[0.25,0.001]}"#), "{lists}");
    assert_eq!(vectors(&lists, wanted(2)), vectors(body, wanted(2)));
    // Without an index each is at its place; padding may be left out; slashes may be escaped.
    let body = r#"{"data":[{"embedding":[1]},{"embedding":"AACAPw"},{"embedding":"\/\/9\/fw=="}]}"#;
    assert_eq!(vectors(body, wanted(3)), [[1.0], [1.0], [f32::MAX]]);
}

#[test]
fn the_whole_use_is_what_goes_in() {
    for (usage, tokens) in [
        (r#"{"prompt_tokens":5}"#, Some(5)),
        (r#"{"prompt_tokens":5,"total_tokens":5}"#, Some(5)),
        (r#"{"input_tokens":5}"#, Some(5)),
        // Voyage's.
        (r#"{"total_tokens":5}"#, Some(5)),
        (r#"{"total_tokens":0}"#, Some(0)),
        (r#"{"total_tokens":-5}"#, None),
        (r#"{"total_tokens":"many"}"#, None),
        (r#"{"total_tokens":99999999999}"#, None),
        (r#"{"prompt_tokens":0,"total_tokens":0}"#, Some(0)),
        ("null", None),
    ] {
        let body = format!(r#"{{"data":[{{"embedding":[1]}}],"usage":{usage}}}"#);
        let Reading::Embeddings { completion, .. } = read(&body, wanted(1), None) else { panic!() };
        let parts = completion.usage.parts;
        assert_eq!(parts.map(|parts| parts.prompt()), tokens, "{usage}");
        assert_eq!(parts.map_or(0, |parts| parts.completion()), 0, "{usage}");
        // The same of what is not what was asked for.
        assert_eq!(super::answer::usage(&body).parts, parts, "{usage}");
    }
}

#[test]
fn what_is_not_what_was_asked_for_is_broken() {
    let with = |embedding: &str| format!(r#"{{"data":[{{"embedding":{embedding}}}]}}"#);
    for (body, inputs, what) in [
        (String::new(), 1, "an empty body"),
        ("<html>".to_owned(), 1, "HTML instead of JSON"),
        ("{}".to_owned(), 1, "JSON that has no embeddings"),
        ("7".to_owned(), 1, "JSON that has no embeddings"),
        ("x".to_owned(), 1, "something that is not JSON"),
        (r#"{"data":[{"#.to_owned(), 1, "JSON that ends too early"),
        (r#"{"data":{}}"#.to_owned(), 1, "JSON that has no embeddings"),
        (r#"{"choices":[{}]}"#.to_owned(), 1, "JSON that has no embeddings"),
        (r#"{"data":[]}"#.to_owned(), 1, "0 embeddings of 1 inputs"),
        (with("[1]"), 2, "1 embeddings of 2 inputs"),
        (r#"{"data":[7]}"#.to_owned(), 1, "a list with something that is no embedding"),
        (r#"{"data":[{"index":0}]}"#.to_owned(), 1, "an embedding without its vector"),
        (
            r#"{"data":[{"index":1,"embedding":[1]}]}"#.to_owned(),
            1,
            "an embedding of an input that nobody sent",
        ),
        (
            r#"{"data":[{"index":-1,"embedding":[1]}]}"#.to_owned(),
            1,
            "an embedding of an input that nobody sent",
        ),
        (
            r#"{"data":[{"embedding":[1]},{"embedding":[1]}]}"#.to_owned(),
            1,
            "an embedding of an input that nobody sent",
        ),
        (
            r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#.to_owned(),
            2,
            "two embeddings of one input",
        ),
        (
            r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#.to_owned(),
            2,
            "embeddings of different lengths",
        ),
        (with("[1,null]"), 1, "an embedding with something that is no number"),
        (with(r#"["1"]"#), 1, "an embedding with something that is no number"),
        (with("[1e39]"), 1, "an embedding with a number that is not finite"),
        (with("[-1e400]"), 1, "an embedding with a number that is not finite"),
        (with(r#""AADAfw==""#), 1, "an embedding with a number that is not finite"),
        (with(r#""AACAfw==""#), 1, "an embedding with a number that is not finite"),
        (with("[]"), 1, "an embedding that is cut off"),
        (with(r#""""#), 1, "an embedding that is cut off"),
        (with(r#""AACA""#), 1, "an embedding that is cut off"),
        (with(r#""AAC!PwAA""#), 1, "an embedding that is not base64"),
        (with("7"), 1, "an embedding that is neither base64 nor a list of numbers"),
        (
            with(&format!("[{}1]", "1,".repeat(MOST_DIMENSIONS))),
            1,
            "an embedding with more numbers than any has",
        ),
        (
            with(&format!("\"{}\"", "AAAA".repeat(MOST_DIMENSIONS * 4))),
            1,
            "an embedding with more numbers than any has",
        ),
    ] {
        assert_eq!(read(&body, wanted(inputs), None), Reading::Broken(what.into()), "{body:.80}");
    }
    let asked = Wanted { inputs: 1, dimensions: Some(3) };
    let what = "embeddings of 1 numbers where 3 were asked for";
    assert_eq!(read(&with("[1]"), asked, None), Reading::Broken(what.into()));
    assert_eq!(vectors(&with("[1,2,3]"), asked), [[1.0, 2.0, 3.0]]);
}

#[test]
fn an_error_inside_a_200_is_a_refusal() {
    for (body, status) in [
        (r#"{"error":{"code":429,"message":"slow down sk-k"}}"#, 429),
        (r#"{"error":{"message":"boom"},"data":[]}"#, 502),
        (r#"{"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#, 429),
        (r#"[{"error":{"code":429,"message":"slow down"}}]"#, 429),
    ] {
        let Reading::Refused(refusal) = read(body, wanted(1), Some("sk-k")) else {
            panic!("{body}")
        };
        assert_eq!(refusal.status, status, "{body}");
        assert!(!refusal.message.unwrap_or_default().contains("sk-k"), "{body}");
    }
}

#[test]
fn a_request_says_what_goes_in() {
    let (found, wanted) =
        outline(r#"{"input":["abcdefgh","\u00e4"],"dimensions":256,"encoding_format":"base64"}"#)
            .unwrap();
    assert_eq!(wanted, Wanted { inputs: 2, dimensions: Some(256) });
    assert_eq!((found.max_tokens, found.prompt_tokens, found.unbounded), (Some(0), 3, None));
    let (one, wanted) = outline(r#"{"input":"abc","input_type":"query"}"#).unwrap();
    assert_eq!((wanted.inputs, one.unbounded), (1, None));
    // Words that the provider adds are in the bound.
    assert!(one.bytes > r#"{"input":"abc","input_type":"query"}"#.len());
    let (unknown, _) = outline(r#"{"input":"abc","prompt":"x"}"#).unwrap();
    assert!(unknown.unbounded.unwrap().contains("'prompt'"));
    assert!(find("input_type").is_some() && find("Dimensions").is_none());
    let long = format!(r#"{{"input":"{}"}}"#, "x".repeat(LONGEST_INPUT + 1));
    let many = format!(r#"{{"input":[{}"x"]}}"#, r#""x","#.repeat(MOST_PER_REQUEST));
    for bad in [
        "",
        "7",
        "{}",
        r#"{"input":null}"#,
        r#"{"input":[]}"#,
        r#"{"input":""}"#,
        r#"{"input":["a",""]}"#,
        r#"{"input":[1,2]}"#,
        r#"{"input":[[1]]}"#,
        r#"{"input":{"a":1}}"#,
        r#"{"input":"\ud800"}"#,
        r#"{"input":"a","input":"b"}"#,
        r#"{"input":"a","dimensions":0}"#,
        r#"{"input":"a","dimensions":1.5}"#,
        r#"{"input":"a","dimensions":32769}"#,
        &long,
        &many,
    ] {
        assert!(outline(bad).is_err(), "{bad:.60}");
    }
}

#[test]
fn an_answer_holds_so_many_vectors() {
    let most = |dimensions, bytes| Wanted { inputs: 1, dimensions }.most_inputs(bytes);
    assert_eq!(most(None, 1), None);
    assert_eq!(most(Some(3072), 32 << 20), Some(2048));
    assert_eq!(most(Some(3073), 32 << 20), Some(2047));
    assert_eq!((most(Some(1000), 64 << 10), most(Some(1000), 10)), (Some(12), Some(0)));
    assert_eq!(most(Some(0), 64), Some(16));
}

#[test]
fn inputs_go_together_up_to_a_number_and_a_size() {
    assert_eq!(ranges(&[1; 5], 2), [0..2, 2..4, 4..5]);
    assert!(ranges(&[], 2).is_empty());
    let large = super::batch::MOST_BYTES;
    assert_eq!(
        ranges(&[large, 1, 1, large - 1, large + 9, 1], 100),
        [0..1, 1..3, 3..4, 4..5, 5..6]
    );
}

#[test]
fn what_fewer_inputs_may_pass_is_known_by_status_code_and_words() {
    let refusal = |status, code: Option<&str>, message: &str| {
        Refusal::new(status, code.map(str::to_owned), Some(message.to_owned()))
    };
    for (status, code, message) in [
        (413, None, "Payload Too Large"),
        (400, Some("array_above_max_length"), "Invalid 'input'"),
        (400, None, "Invalid 'input': array too long. Expected an array with maximum length 2048"),
        (
            400,
            Some("max_tokens_per_request"),
            "Requested 400000 tokens, max 300000 tokens per request",
        ),
        (422, None, "batch size 128 > maximum allowed batch size 32"),
        (
            400,
            None,
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
        ),
        (
            400,
            None,
            "This model's maximum context length is 8192 tokens, however you requested 9000",
        ),
    ] {
        assert!(is_too_large(&refusal(status, code, message)), "{message}");
    }
    for (status, message) in [
        (400, "dimensions is not supported by this model"),
        (401, "Incorrect API key provided"),
        (404, "no such model"),
        (429, "too many inputs per minute"),
        (500, "batch size 128 > maximum allowed batch size 32"),
    ] {
        assert!(!is_too_large(&refusal(status, None, message)), "{message}");
    }
}

proptest::proptest! {
    #[test]
    fn every_vector_comes_back_as_it_was(numbers in proptest::collection::vec(proptest::num::f32::NORMAL | proptest::num::f32::ZERO | proptest::num::f32::SUBNORMAL, 1..40)) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let (base64, mut list) = (format!("{:?}", BASE64_STANDARD.encode(&bytes)), String::new());
        vector::write_list(&bytes, &mut list);
        for text in [base64, list] {
            let body = format!(r#"{{"data":[{{"embedding":{text}}}]}}"#);
            let read: Vec<u32> = vectors(&body, wanted(1)).concat().iter().map(|n| n.to_bits()).collect();
            let written: Vec<u32> = numbers.iter().map(|n| n.to_bits()).collect();
            proptest::prop_assert_eq!(read, written);
        }
    }

    #[test]
    fn nothing_from_outside_panics(
        body in "\\PC*",
        json in "[{}\\[\\]\":,a-z0-9.e-]{0,60}",
        embedding in "(\"[A-Za-z0-9+/=]{0,40}\"|\\[[0-9.,e-]{0,40}\\])",
        index in "-?[0-9]{1,22}",
        inputs in 0usize..4,
    ) {
        let whole = format!(r#"{{"data":[{{"index":{index},"embedding":{embedding}}}]}}"#);
        for text in [&body, &json, &whole] {
            match read(text, wanted(inputs), Some("k")) {
                Reading::Embeddings { response, .. } => {
                    let all = numbers(&response).unwrap();
                    proptest::prop_assert_eq!(all.len(), inputs);
                    proptest::prop_assert!(all.concat().iter().all(|n| n.is_finite()));
                    proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&with_lists(&response).unwrap()).is_ok());
                }
                Reading::Refused(_) | Reading::Broken(_) => {}
            }
            let _ = (outline(text), numbers(text), with_lists(text), super::answer::usage(text));
        }
        let request = json!({"input": [body]}).to_string();
        let _ = outline(&request);
    }
}
