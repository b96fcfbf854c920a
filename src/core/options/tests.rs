use super::*;

const HELLO: &str = r#"[{"role":"user","content":"hi"}]"#;

fn with(options: &str) -> Result<Prepared, Error> {
    Prepared::from_arguments(Some("gpt-4o"), Some(HELLO), Some(options))
}

#[test]
fn values_pass_through_to_the_digit() {
    let body = with(r#"{"temperature": 0.10000000000000000001, "seed": 12345678901234567890123}"#)
        .unwrap()
        .body();
    assert!(body.contains("0.10000000000000000001") && body.contains("12345678901234567890123"));
    assert!(body.contains(HELLO) && !body.contains("model"));
}

#[test]
fn our_own_options_are_not_sent() {
    let p = with(r#"{"timeout_ms":5,"max_retries":0,"throw_on_error":false,"top_p":1}"#).unwrap();
    assert_eq!((p.timeout_ms, p.max_retries, p.throw_on_error), (5, 0, false));
    let body = p.body();
    assert!(
        !body.contains("timeout_ms") && !body.contains("max_retries") && body.contains("top_p")
    );
    let p = with(r#"{"timeout_ms":null}"#).unwrap();
    assert_eq!((p.timeout_ms, p.max_retries, p.throw_on_error), (120_000, 2, true));
}

#[test]
fn unknown_options_name_the_nearest() {
    let error = with(r#"{"temprature":1}"#).unwrap_err();
    assert!(error.to_string().contains("'temperature'"), "{error}");
    assert_eq!(error.sqlstate(), "PT400");
}

#[test]
fn vendor_fields_go_under_extra_body() {
    let body = with(r#"{"extra_body":{"top_k":4,"provider":{"order":["x"]}}}"#).unwrap().body();
    assert!(body.contains(r#""top_k":4"#) && !body.contains("extra_body"));
    for bad in [
        r#"{"extra_body":{"stream":true}}"#,
        r#"{"extra_body":{"model":"x"}}"#,
        r#"{"extra_body":3}"#,
    ] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_whole_body_has_an_extra_body_as_options_have() {
    let of = |extra: &str| {
        let body = format!(r#"{{"model":"m","messages":{HELLO},"top_p":1,"extra_body":{extra}}}"#);
        Prepared::from_body(Some(&body))
    };
    let body = of(r#"{"top_k":4,"top_p":0.5}"#).unwrap().body();
    assert!(body.contains(r#""top_k":4"#) && body.contains(r#""top_p":0.5"#), "{body}");
    assert!(!body.contains("extra_body"), "{body}");
    assert!(!of("null").unwrap().body().contains("extra_body"));
    for bad in [
        r#"{"stream":true}"#,
        r#"{"model":"x"}"#,
        r#"{"messages":[]}"#,
        r#"{"timeout_ms":1}"#,
        r#"{"extra_body":{}}"#,
        r#"{"max_tokens":"7"}"#,
        "3",
        "[]",
    ] {
        assert_eq!(of(bad).unwrap_err().sqlstate(), "PT400", "{bad}");
    }
    // A job that is read back is the same request.
    let request = of(r#"{"top_k":4}"#).unwrap().to_request();
    assert!(Prepared::from_body(Some(&request)).unwrap().body().contains(r#""top_k":4"#));
}

#[test]
fn streaming_points_to_chat_stream() {
    let streamed = with(r#"{"stream":true}"#).unwrap();
    assert!(streamed.streams && !streamed.body().contains("stream"));
    assert!(streamed.whole().unwrap_err().hint().unwrap().contains("chat_stream"));
    assert!(!with(r#"{"stream":false}"#).unwrap().body().contains("stream"));
}

#[test]
fn bad_arguments_are_bad_requests() {
    for messages in
        [None, Some("null"), Some("[]"), Some("{}"), Some("[1]"), Some(r#"["a"]"#), Some("[null]")]
    {
        let error = Prepared::from_arguments(Some("m"), messages, None).unwrap_err();
        assert_eq!(error.sqlstate(), "PT400", "{messages:?}");
    }
    for model in [None, Some(""), Some("  "), Some("a\nb")] {
        assert!(Prepared::from_arguments(model, Some(HELLO), None).is_err(), "{model:?}");
    }
    for options in [
        "[]",
        "3",
        r#"{"timeout_ms":0}"#,
        r#"{"timeout_ms":"x"}"#,
        r#"{"max_retries":99}"#,
        r#"{"throw_on_error":1}"#,
        r#"{"stream":"yes"}"#,
        r#"{"on_deadline":"wait"}"#,
        r#"{"models":"m"}"#,
        r#"{"models":[""]}"#,
        r#"{"tags":"x"}"#,
        r#"{"tags":["1","2","3","4","5","6","7","8","9"]}"#,
        r#"{"models":["1","2","3","4","5","6","7","8","9"]}"#,
        r#"{"extra_body":{"timeout_ms":1}}"#,
        r#"{"model":"x"}"#,
    ] {
        assert!(with(options).is_err(), "{options}");
    }
}

#[test]
fn a_parameter_of_the_wrong_type_is_a_bad_request() {
    for options in [
        r#"{"n":"128"}"#,
        r#"{"n":9223372036854775807}"#,
        r#"{"n":0}"#,
        r#"{"max_completion_tokens":"1000000"}"#,
        r#"{"max_tokens":-1}"#,
        r#"{"max_tokens":1.5}"#,
        r#"{"extra_body":{"max_tokens":"7"}}"#,
        r#"{"service_tier":1}"#,
        r#"{"temperature":"hot"}"#,
        r#"{"tools":{"type":"function"}}"#,
        r#"{"modalities":"text"}"#,
    ] {
        let error = with(options).unwrap_err();
        assert_eq!(error.sqlstate(), "PT400", "{options}");
        assert!(error.to_string().contains("must be"), "{error}");
    }
    let body = format!(r#"{{"model":"m","messages":{HELLO},"n":"2"}}"#);
    assert_eq!(Prepared::from_body(Some(&body)).unwrap_err().sqlstate(), "PT400");
    for options in [r#"{"max_tokens":9223372036854775808}"#, r#"{"n":null,"tools":null}"#] {
        assert!(with(options).is_ok(), "{options}");
    }
}

#[test]
fn a_request_has_its_bounds() {
    let too_many = format!(r#"{{"stop":[{}1]}}"#, "1,".repeat(MAX_VALUES));
    let error = with(&too_many).unwrap_err();
    assert_eq!(error.sqlstate(), "PT413", "{error}");
    let messages = format!(r#"[{{"content":[{}null]}}]"#, "null,".repeat(MAX_VALUES));
    let error = Prepared::from_arguments(Some("m"), Some(&messages), None).unwrap_err();
    assert_eq!(error.sqlstate(), "PT413", "{error}");
    let deep = format!(r#"{{"metadata":{}1{}}}"#, r#"{"a":"#.repeat(99), "}".repeat(99));
    assert!(with(&deep).is_ok());
    let deeper = format!(r#"{{"metadata":{}1{}}}"#, r#"{"a":"#.repeat(100), "}".repeat(100));
    assert_eq!(with(&deeper).unwrap_err().sqlstate(), "PT400");
    let small = with("{}").unwrap();
    assert!(small.within(100).is_ok());
    assert_eq!(small.within(30).unwrap_err().sqlstate(), "PT413");
    let twice = format!(r#"{{"model":"m","messages":{HELLO},"n":1,"n":2}}"#);
    assert_eq!(Prepared::from_body(Some(&twice)).unwrap_err().sqlstate(), "PT400");
}

#[test]
fn a_whole_body_keeps_its_vendor_fields() {
    let body =
        format!(r#"{{"model":"m","messages":{HELLO},"top_k":3,"provider":{{"sort":"price"}}}}"#);
    let p = Prepared::from_body(Some(&body)).unwrap();
    assert_eq!(p.model, "m");
    assert!(p.body().contains(r#""top_k":3"#));
    for bad in [None, Some("[]"), Some("{}"), Some(r#"{"model":1}"#)] {
        assert!(Prepared::from_body(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_request_survives_being_kept() {
    let p = with(
        r#"{"models":["a","b:c"],"timeout_ms":7,"max_retries":1,"seed":12345678901234567890123,
            "extra_body":{"top_k":4},"on_deadline":"queue","tags":["a"," b ","a"]}"#,
    )
    .unwrap();
    let again = Prepared::from_body(Some(&p.to_request())).unwrap();
    assert_eq!(again.models().collect::<Vec<_>>(), ["gpt-4o", "a", "b:c"]);
    assert_eq!((again.timeout_ms, again.max_retries), (7, 1));
    assert_eq!(again.tags, ["a", "b"]);
    assert_eq!(again.body(), p.body());
    assert!(again.body().contains("12345678901234567890123"));
}

#[test]
fn a_request_of_a_batch_goes_before_its_options() {
    let (options, dedupe) =
        Options::of_many(Some(r#"{"temperature":0,"max_tokens":9,"dedupe":true}"#)).unwrap();
    assert!(dedupe);
    let body = format!(r#"{{"model":"m","messages":{HELLO},"max_tokens":3}}"#);
    let p = Prepared::from_body_with(Some(&body), &options).unwrap();
    assert!(p.body().contains(r#""max_tokens":3"#) && p.is_deterministic());
    assert!(!Prepared::from_body(Some(&body)).unwrap().is_deterministic());
    assert!(Options::of_many(Some(r#"{"dedup":true}"#)).is_err());
}

#[test]
fn http_has_times_of_its_own() {
    let of = |timeout: &str| {
        Prepared::from_http(&format!(r#"{{"model":"m","messages":{HELLO}{timeout}}}"#))
    };
    assert_eq!(of("").unwrap().timeout_ms, 600_000);
    assert_eq!(of(r#","timeout_ms":3600000"#).unwrap().timeout_ms, 3_600_000);
    let error = of(r#","timeout_ms":3600001"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "options.timeout_ms must be a number of milliseconds from 1 to 3600000"
    );
    assert_eq!(with("{}").unwrap().timeout_ms, 120_000);
    assert_eq!(with(r#"{"timeout_ms":86400000}"#).unwrap().timeout_ms, 86_400_000);
}

#[test]
fn values_of_metadata_are_tags_where_they_can_be() {
    let beside = |others: &[&str], metadata: &str, tags: &str| {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"tags":{tags},"metadata":{metadata}}}"#
        );
        let mut prepared = Prepared::from_body(Some(&body)).unwrap();
        let metadata = prepared.metadata().unwrap();
        let others: Vec<String> = others.iter().map(|tag| (*tag).to_owned()).collect();
        prepared.add_tags_of(&metadata, &others);
        // It goes to the provider all the same.
        assert!(prepared.body().contains(r#""metadata":"#), "{metadata}");
        prepared.tags.join("|")
    };
    let of = |metadata: &str, tags: &str| beside(&[], metadata, tags);
    assert_eq!(of(r#"{"team":"blue","env":" prod "}"#, "[]"), "prod|blue");
    assert_eq!(of(r#"{"a":"x","b":"x"}"#, r#"["x","y"]"#), "x|y");
    let long = "x".repeat(65);
    let odd = format!(r#"{{"a":1,"b":null,"c":"","d":"{long}","e":["f"],"g":"h\u0007","i":"j"}}"#);
    assert_eq!(of(&odd, "[]"), "j");
    let many = r#"{"1":"1","2":"2","3":"3","4":"4","5":"5","6":"6","7":"7","8":"8","9":"9"}"#;
    assert_eq!(of(many, r#"["own"]"#), "own|1|2|3|4|5|6|7");
    assert_eq!(beside(&["a", "own", "3"], many, r#"["own"]"#), "own|1|2|3|4|5|6");
    for none in ["{}", "null"] {
        assert_eq!(of(none, "[]"), "", "{none}");
    }
}

#[test]
fn what_is_asked_of_the_cache_is_ours_and_kept_with_a_job() {
    let of = |options: &str| with(options).unwrap();
    let p = of(r#"{"cache":{"ttl":60,"refresh":true}}"#);
    assert!(!p.body().contains("cache"));
    assert!(p.caching().is_some_and(|cache| cache.ttl == Some(60) && cache.refresh));
    for options in [r#"{"cache":{"ttl":60}}"#, r#"{"cache":false,"temperature":0}"#, "{}"] {
        let p = of(options);
        let again = Prepared::from_body(Some(&p.to_request())).unwrap();
        assert_eq!((again.cache, again.caching()), (p.cache, p.caching()), "{options}");
    }
    // Without a time, what is asked at temperature 0 alone.
    assert!(of(r#"{"temperature":0}"#).caching().is_some_and(|cache| cache.ttl.is_none()));
    assert_eq!(of(r#"{"temperature":0.1}"#).caching(), None);
    assert_eq!(of(r#"{"temperature":0,"cache":false}"#).caching(), None);
    assert_eq!(of(r#"{"cache":null}"#).cache, None);
    let error = with(r#"{"cache":true}"#).unwrap_err().to_string();
    assert!(error.starts_with("options.cache must be false, or an object of ttl"), "{error}");
}

#[test]
fn a_schema_is_ours_and_a_job_keeps_it() {
    let body = r#"{"model":"m","messages":[{"role":"user"}],"schema":{"type":"number","x":1.50},"max_repairs":1}"#;
    let prepared = Prepared::from_body(Some(body)).unwrap();
    assert_eq!(prepared.body(), r#"{"messages":[{"role":"user"}]}"#);
    for prepared in [Prepared::from_body(Some(&prepared.to_request())).unwrap(), prepared] {
        let check = prepared.check.unwrap();
        assert_eq!((check.schema.get(), check.max_repairs), (r#"{"type":"number","x":1.50}"#, 1));
    }
    let without = Prepared::from_body(Some(r#"{"model":"m","messages":[{}]}"#)).unwrap();
    assert!(without.check.is_none() && !without.to_request().contains("max_repairs"));
}

#[test]
fn a_format_that_is_checked_is_a_schema() {
    let read = |format: &str| {
        let body = format!(r#"{{"model":"m","messages":[{{}}],"response_format":{format}}}"#);
        Prepared::from_body(Some(&body))
    };
    let checked =
        read(r#"{"type":"json_schema","json_schema":{"name":"n","schema":{"a":1}},"check":true}"#);
    let checked = checked.unwrap();
    assert_eq!(checked.check.as_ref().unwrap().schema.get(), r#"{"a":1}"#);
    assert_eq!(checked.body(), r#"{"messages":[{}]}"#);
    for (format, sent) in [
        (r#"{"type":"text","check":false}"#, r#"{"type":"text"}"#),
        (r#"{"type":"text","check":null}"#, r#"{"type":"text"}"#),
        (r#"{"type": "text"}"#, r#"{"type": "text"}"#),
    ] {
        let prepared = read(format).unwrap();
        assert!(prepared.check.is_none());
        assert!(prepared.body().contains(&format!(r#""response_format":{sent}"#)), "{format}");
    }
    for wrong in [
        r#"{"type":"json_schema","json_schema":{"name":"n"},"check":true}"#,
        r#"{"type":"json_schema","json_schema":7,"check":true}"#,
        r#"{"type":"json_object","check":true}"#,
        r#"{"check":"yes"}"#,
        r#"{"type":"json_schema","json_schema":{"schema":[]},"check":true}"#,
    ] {
        assert_eq!(read(wrong).unwrap_err().sqlstate(), "PT400", "{wrong}");
    }
}
