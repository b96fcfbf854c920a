use super::*;
use crate::error::{Refusal, Shortfall, Target};

fn target() -> Target {
    Target { provider: "openrouter".into(), model: "v/m".into() }
}

fn upstream(status: u16, code: Option<&str>, message: &str) -> Error {
    let refusal = Refusal::new(status, code.map(str::to_owned), Some(message.to_owned()));
    Error::Upstream { target: target(), refusal: Box::new(refusal) }
}

fn limited(wait_ms: u64) -> Error {
    Error::RateLimited { target: target(), limit: "60 requests".into(), wait_ms }
}

fn over_budget(is_set_aside: bool) -> Error {
    let shortfall = Shortfall {
        period: "day".into(),
        whose: String::new(),
        unit: "USD".into(),
        needed: "2".into(),
        left: Some("1".into()),
        is_set_aside,
    };
    Error::BudgetExceeded { target: target(), shortfall: Box::new(shortfall) }
}

/// Status, type, code, `x-should-retry`.
type Told<'a> = (u16, &'a str, Option<&'a str>, Option<bool>);

fn told(failure: &Failure) -> Told<'_> {
    (failure.status, failure.kind(), failure.code(), failure.should_retry)
}

#[track_caller]
fn becomes(error: Error, sent: Sent, expected: Told<'_>) {
    assert_eq!(told(&Failure::of(&error, sent)), expected, "{error:?} {sent:?}");
}

fn header<'a>(headers: &'a [(&str, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
}

const INVALID: &str = "invalid_request_error";

#[test]
fn a_bad_request_is_400_and_names_its_parameter() {
    let error = Error::bad_request("options.timeout_ms must be a number");
    becomes(error.clone(), Sent::Nothing, (400, INVALID, None, None));
    let failure = Failure::of(&error, Sent::Nothing);
    assert_eq!(failure.param(), Some("timeout_ms"));
    assert_eq!(failure.message(), "timeout_ms must be a number");
    for (message, param) in [
        ("messages must be a non-empty array of objects", Some("messages")),
        ("messages[2].content must be a text", Some("messages[2].content")),
        ("model is longer than 255 bytes", Some("model")),
        ("options.temperature must be a number", Some("temperature")),
        ("extra_body: the object gives 'a' twice", Some("extra_body")),
        ("the request body must be a JSON object", None),
        ("options.nothing must be a number", None),
        ("", None),
    ] {
        let failure = Failure::of(&Error::bad_request(message), Sent::Nothing);
        assert_eq!(failure.param(), param, "{message}");
    }
    let hinted = Error::bad_request_hint("messages must be an array", "For example: []");
    let failure = Failure::of(&hinted, Sent::Nothing);
    assert_eq!(failure.message(), "messages must be an array. For example: []");
    let failure = Failure::invalid("previous_response_id", "nothing is stored");
    assert_eq!(told(&failure), (400, INVALID, None, None));
    assert_eq!(failure.param(), Some("previous_response_id"));
}

#[test]
fn what_an_upstream_calls_bad_is_400_with_its_code() {
    let error = upstream(400, Some("invalid_value"), "no");
    becomes(error, Sent::Unpaid, (400, INVALID, Some("invalid_value"), None));
    becomes(upstream(418, None, "no"), Sent::Unpaid, (400, INVALID, None, None));
    becomes(upstream(422, None, "no"), Sent::Unpaid, (422, INVALID, None, None));
}

#[test]
fn a_prompt_that_is_too_long_has_the_code_that_clients_look_for() {
    let words = "prompt is too long: 210000 tokens > 200000 maximum";
    let expected = (400, INVALID, Some("context_length_exceeded"), None);
    becomes(upstream(400, Some("invalid_request_error"), words), Sent::Unpaid, expected);
}

#[test]
fn only_the_credential_of_the_front_is_401() {
    let failure = Failure::refused(&Refused::NoCredential);
    assert_eq!(told(&failure), (401, INVALID, Some("invalid_api_key"), None));
    assert_eq!(header(&failure.headers(), "www-authenticate"), Some("Bearer"));
    let failure = Failure::refused(&Refused::BadCredential {
        message: "JWT expired",
        description: "JWT \"expired\"\r\nx: \\y é",
    });
    assert_eq!(told(&failure), (401, INVALID, Some("invalid_api_key"), None));
    assert_eq!(failure.message(), "JWT expired");
    assert_eq!(
        header(&failure.headers(), "www-authenticate"),
        Some(r#"Bearer error="invalid_token", error_description="JWT expiredx: y ""#)
    );
}

#[test]
fn a_key_that_a_provider_refuses_is_not_the_callers_credential() {
    let expected = (424, "provider_key_refused", Some("provider_key_refused"), Some(false));
    let error = upstream(401, Some("invalid_api_key"), "Incorrect API key provided");
    becomes(error.clone(), Sent::Unpaid, expected);
    assert!(Failure::of(&error, Sent::Unpaid).message().contains("openrouter"));
    let refusal = Box::new(Refusal::new(403, None, Some("invalid api key".into())));
    let error = Error::KeyRefused { provider: "openrouter".into(), refusal };
    becomes(error, Sent::Unpaid, expected);
}

#[test]
fn a_budget_and_an_account_without_credit_are_402() {
    let quota = "insufficient_quota";
    for is_set_aside in [false, true] {
        let expected = (402, quota, Some("budget_exceeded"), None);
        becomes(over_budget(is_set_aside), Sent::Nothing, expected);
        let failure = Failure::of(&over_budget(is_set_aside), Sent::Nothing);
        assert_eq!(header(&failure.headers(), "retry-after"), None);
    }
    let error = Error::NoCostBound { target: target(), what: "images".into() };
    becomes(error, Sent::Nothing, (402, quota, Some("no_cost_bound"), None));
    let error = upstream(429, Some("insufficient_quota"), "You exceeded your current quota");
    becomes(error, Sent::Unpaid, (402, quota, Some(quota), None));
    becomes(upstream(402, None, ""), Sent::Unpaid, (402, quota, Some(quota), None));
}

#[test]
fn what_one_may_not_do_is_403() {
    let kind = "permission_error";
    let error = Error::Anonymous { action: "chat".into() };
    becomes(error, Sent::Nothing, (403, kind, Some("no_user"), None));
    let error = Error::NotServed { provider: "p".into(), model: "m".into() };
    becomes(error, Sent::Nothing, (403, kind, Some("model_not_served"), None));
    let error = upstream(403, Some("unsupported_country_region_territory"), "no");
    let expected = (403, kind, Some("unsupported_country_region_territory"), None);
    becomes(error, Sent::Unpaid, expected);
}

#[test]
fn what_is_not_there_is_404() {
    let error = Error::UnknownModel { model: "gpt".into(), similar: vec!["gpt-4o".into()] };
    becomes(error.clone(), Sent::Nothing, (404, INVALID, Some("model_not_found"), None));
    let failure = Failure::of(&error, Sent::Nothing);
    assert_eq!(failure.param(), Some("model"));
    assert!(failure.message().ends_with("Did you mean gpt-4o?"), "{}", failure.message());
    let expected = (404, INVALID, Some("model_not_found"), None);
    becomes(upstream(404, None, "no such model"), Sent::Unpaid, expected);
    let error = Error::NoKey { provider: "p".into() };
    becomes(error, Sent::Nothing, (404, INVALID, Some("no_key"), None));
    let error = Error::UnknownJob { id: "7".into() };
    becomes(error, Sent::Nothing, (404, INVALID, Some("unknown_job"), None));
    let path = format!("/v1/audio/{}\n", "x".repeat(500));
    let failure = Failure::refused(&Refused::NotFound { method: "POST", path: &path });
    assert_eq!(told(&failure), (404, INVALID, Some("unknown_path"), None));
    assert!(failure.message().len() < 200 && failure.message().contains("POST /v1/audio/x"));
}

#[test]
fn another_method_is_405_and_names_those_that_there_are() {
    let (method, path) = ("GET", "/v1/responses");
    let failure = Failure::refused(&Refused::Method { method, path, allow: "POST" });
    assert_eq!(told(&failure), (405, INVALID, Some("method_not_allowed"), None));
    assert_eq!(header(&failure.headers(), "allow"), Some("POST"));
}

#[test]
fn a_timeout_is_sent_again_only_if_nothing_has_left() {
    let deadline = || Error::Deadline { target: target(), waited_ms: 9 };
    let is = |code, again| (504, "timeout", Some(code), Some(again));
    becomes(deadline(), Sent::PerhapsPaid, is("deadline", false));
    becomes(deadline(), Sent::Unpaid, is("deadline", false));
    becomes(deadline(), Sent::Nothing, is("deadline", true));
    let error = Error::NoTurn { target: target(), waited_ms: 9 };
    becomes(error, Sent::Nothing, is("no_turn", true));
    let error = Error::Stalled { target: target(), idle_ms: 9 };
    becomes(error, Sent::PerhapsPaid, is("stalled", false));
    becomes(upstream(524, None, ""), Sent::Unpaid, is("timeout", false));
    let expected = (408, "timeout", Some("timeout"), Some(false));
    becomes(upstream(408, None, ""), Sent::Unpaid, expected);
    let failure = Failure::refused(&Refused::Slow);
    assert_eq!(told(&failure), (408, "timeout", Some("request_timeout"), Some(true)));
}

#[test]
fn a_conflict_is_never_sent_again() {
    let error = Error::KeyReused { key: "k".into() };
    becomes(error, Sent::Nothing, (409, "conflict", Some("idempotency_key_reused"), Some(false)));
    let expected = (409, "conflict", Some("forgotten"), Some(false));
    becomes(Error::Forgotten, Sent::PerhapsPaid, expected);
    becomes(upstream(409, None, ""), Sent::Unpaid, (409, "conflict", None, Some(false)));
}

#[test]
fn what_is_too_large_is_413() {
    let error = Error::RequestBeyond { limit: 9, unit: "bytes".into() };
    let expected = (413, INVALID, Some("request_too_large"), None);
    becomes(error, Sent::Nothing, expected);
    let too_long = (413, INVALID, Some("context_length_exceeded"), None);
    becomes(upstream(413, None, ""), Sent::Unpaid, too_long);
    assert_eq!(told(&Failure::refused(&Refused::TooLarge { limit: 9 })), expected);
}

#[test]
fn a_body_that_is_no_plain_json_is_415_or_400() {
    let expected = (415, INVALID, Some("unsupported_media_type"), None);
    assert_eq!(told(&Failure::refused(&Refused::ContentType { given: "text/plain" })), expected);
    assert_eq!(told(&Failure::refused(&Refused::Encoding { given: "zstd" })), expected);
    assert_eq!(told(&Failure::refused(&Refused::NotUtf8)), (400, INVALID, None, None));
}

#[test]
fn a_rate_limit_is_429_with_its_wait() {
    let kind = ("rate_limit_error", Some("rate_limit_exceeded"));
    becomes(limited(1500), Sent::Nothing, (429, kind.0, kind.1, Some(true)));
    let headers = Failure::of(&limited(1500), Sent::Nothing).headers();
    assert_eq!(header(&headers, "retry-after"), Some("2"));
    assert_eq!(header(&headers, "retry-after-ms"), Some("1500"));
    assert_eq!(header(&headers, "x-should-retry"), Some("true"));
    let headers = Failure::of(&limited(0), Sent::Nothing).headers();
    assert_eq!(header(&headers, "retry-after"), Some("1"));
    assert_eq!(header(&headers, "retry-after-ms"), Some("1"));
    // A longer one than openai for Node keeps.
    becomes(limited(60_000), Sent::Nothing, (429, kind.0, kind.1, Some(true)));
    becomes(limited(60_001), Sent::Nothing, (429, kind.0, kind.1, Some(false)));
    // An earlier attempt of the call may have been paid for.
    becomes(limited(1500), Sent::PerhapsPaid, (429, kind.0, kind.1, Some(false)));
    let mut error = upstream(429, Some("slow_down"), "slow down");
    if let Error::Upstream { refusal, .. } = &mut error {
        refusal.retry_after_s = Some(7);
    }
    becomes(error.clone(), Sent::Unpaid, (429, kind.0, kind.1, Some(true)));
    let headers = Failure::of(&error, Sent::Unpaid).headers();
    assert_eq!(header(&headers, "retry-after-ms"), Some("7000"));
    let error = Error::QueueFull { limit: "9 jobs".into() };
    becomes(error, Sent::Nothing, (429, kind.0, Some("queue_full"), Some(true)));
}

#[test]
fn what_is_not_supported_is_501() {
    let expected = (501, INVALID, Some("unsupported"), Some(false));
    becomes(Error::unsupported("that"), Sent::Nothing, expected);
}

#[test]
fn an_upstream_in_trouble_is_502_and_has_been_asked_often_enough() {
    let expected = (502, "api_error", Some("upstream_error"), Some(false));
    becomes(upstream(500, Some("oops"), "no"), Sent::Unpaid, expected);
    becomes(upstream(529, None, "overloaded"), Sent::Unpaid, expected);
    let error = Error::Unreachable { target: target(), reason: "refused".into() };
    becomes(error, Sent::Nothing, expected);
    let error = Error::Disconnected { target: target(), reason: "reset".into() };
    becomes(error, Sent::PerhapsPaid, expected);
    let error =
        Error::BrokenAnswer { target: target(), status: 200, what: "x".into(), request_id: None };
    becomes(error, Sent::PerhapsPaid, expected);
    let lost = (502, "api_error", Some("gateway_lost"), Some(false));
    becomes(Error::GatewayLost, Sent::PerhapsPaid, lost);
    let internal = (502, "api_error", Some("internal"), Some(false));
    becomes(Error::panicked(), Sent::PerhapsPaid, internal);
}

#[test]
fn memory_that_may_be_free_soon_is_503_and_asked_for_again() {
    let error = |may_pass| Error::OutOfMemory { limit: 1, may_pass };
    let is = |again| (503, "overloaded", Some("out_of_memory"), Some(again));
    becomes(error(true), Sent::Nothing, is(true));
    let headers = Failure::of(&error(true), Sent::Nothing).headers();
    assert_eq!(header(&headers, "retry-after-ms"), Some("1000"));
    becomes(error(false), Sent::Nothing, is(false));
    let answer = Error::AnswerOutOfMemory { target: target(), limit: 1 };
    becomes(answer, Sent::PerhapsPaid, is(false));
    let failure = Failure::refused(&Refused::Busy);
    assert_eq!(told(&failure), (503, "overloaded", Some("busy"), Some(true)));
    assert_eq!(header(&failure.headers(), "retry-after"), Some("1"));
}

#[test]
fn what_an_administrator_must_mend_is_503_and_not_asked_for_again() {
    for (error, code) in [
        (Error::Ledger { reason: "full".into() }, "ledger"),
        (Error::Keyring { reason: "gone".into() }, "keyring"),
        (Error::MissingMasterKey { key_id: "k".into() }, "missing_master_key"),
        (Error::Recovery, "recovery"),
    ] {
        becomes(error, Sent::Nothing, (503, "server_error", Some(code), Some(false)));
    }
    let error =
        Error::Database { action: "x".into(), reason: "y".into(), sqlstate: Some("42501".into()) };
    becomes(error, Sent::Nothing, (500, "server_error", Some("database"), Some(false)));
}

#[test]
fn whatever_may_have_been_paid_for_is_not_bought_again() {
    for error in [
        Error::bad_request("x"),
        limited(1),
        over_budget(true),
        upstream(503, None, ""),
        upstream(429, None, ""),
        Error::OutOfMemory { limit: 1, may_pass: true },
        Error::Stale,
        Error::Deadline { target: target(), waited_ms: 1 },
        Error::Unreachable { target: target(), reason: String::new() },
    ] {
        assert_eq!(Failure::of(&error, Sent::PerhapsPaid).should_retry, Some(false), "{error:?}");
    }
}

#[test]
fn each_dialect_has_its_own_shape() {
    let failure = Failure::of(&limited(2000), Sent::Nothing);
    let body: Value = serde_json::from_str(&failure.openai()).unwrap();
    let error = &body["error"];
    assert_eq!(error["type"], "rate_limit_error");
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert_eq!(error["param"], Value::Null);
    assert!(error["message"].as_str().unwrap().contains("60 requests"));
    assert_eq!(error["aggregator"]["provider"], "openrouter");
    assert_eq!(error["aggregator"]["code"], "rate_limited");
    assert_eq!(error["aggregator"]["hint"], "Retry after 2 seconds.");
    let body: Value = serde_json::from_str(&failure.anthropic("req_1")).unwrap();
    assert_eq!(body["type"], "error");
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(body["request_id"], "req_1");
}

#[test]
fn anthropics_types_are_those_that_its_libraries_know() {
    let of = |error: &Error| Failure::of(error, Sent::Nothing).anthropic_kind();
    for (error, kind) in [
        (Error::bad_request("x"), "invalid_request_error"),
        (over_budget(false), "billing_error"),
        (Error::Anonymous { action: "x".into() }, "permission_error"),
        (Error::NoKey { provider: "p".into() }, "not_found_error"),
        (Error::RequestBeyond { limit: 9, unit: "bytes".into() }, "request_too_large"),
        (limited(1), "rate_limit_error"),
        (Error::Deadline { target: target(), waited_ms: 9 }, "timeout_error"),
        (upstream(500, None, ""), "api_error"),
        (upstream(401, None, ""), "api_error"),
        (Error::OutOfMemory { limit: 1, may_pass: true }, "overloaded_error"),
        (Error::Forgotten, "invalid_request_error"),
    ] {
        assert_eq!(of(&error), kind, "{error:?}");
    }
    let failure = Failure::refused(&Refused::NoCredential);
    assert_eq!(failure.anthropic_kind(), "authentication_error");
}
