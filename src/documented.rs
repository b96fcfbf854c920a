//! The pages of docs/reference that the code itself tells: errors, and the options of a request. `make reference`
//! writes them; a page that says anything else than the code fails.

use crate::core::options::{OURS, Prepared};
use crate::core::parameters::{PARAMETERS, Takes};
use crate::core::schema::DEFAULT_REPAIRS;
use crate::error::tests::{kinds, of_both_ends};
use std::collections::BTreeMap;

fn compare(name: &str, page: &str) {
    let path = format!("{}/docs/reference/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("AGGREGATOR_WRITE_GOLDENS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/{name} is not up to date: make reference");
}

/// Of each code: when it is raised, and whether the caller may try the same again.
const CODES: &[(&str, &str, &str)] = &[
    ("address_refused", "The provider's address is private.", "no"),
    ("answer_too_large", "The answer exceeds `aggregator.max_response_size`.", "no"),
    ("bad_provider", "The row of the provider cannot be used.", "no"),
    ("bad_request", "An argument is wrong. The hint says what is right.", "no"),
    ("broken_answer", "What came back is not an answer.", "yes, but it may have been paid for"),
    (
        "budget_exceeded",
        "A budget does not cover what the call may cost.",
        "sometimes: when calls in flight have ended, or in the next period",
    ),
    (
        "clerk_down",
        "The process of the console cannot start, went away or has too much to do.",
        "yes, later",
    ),
    ("client_gone", "The client went away.", "yes, but it may have been paid for"),
    ("console_busy", "Too many requests of this user to the console wait.", "yes, later"),
    (
        "database",
        "A statement of the extension failed. The SQLSTATE is the database's own where it gave one.",
        "as that SQLSTATE says",
    ),
    (
        "deadline",
        "The time for the call is over.",
        "yes, with more time; it may have been paid for",
    ),
    ("disconnected", "The connection to the provider broke.", "yes, but it may have been paid for"),
    ("follows_hub", "The server follows a hub, where configuration is changed.", "no"),
    ("forbidden", "The role may not do this.", "no"),
    ("forgotten", "The user was deleted with `forget_user()` while the call ran.", "no"),
    (
        "gateway_down",
        "The worker cannot start. The message says why.",
        "yes, when the reason is gone",
    ),
    (
        "gateway_lost",
        "The worker went away during the call. The usage log has the attempt.",
        "yes, but it may have been paid for",
    ),
    (
        "hub_down",
        "A budget is to be leased of the hub, which cannot be reached or does not know this gateway. Nothing was sent.",
        "yes, when the hub is there",
    ),
    ("idempotency_key_reused", "The key belongs to a job with another request.", "no"),
    ("internal", "A fault of the gateway.", "yes; report it"),
    (
        "invalid_api_key",
        "The gateway key or the session of this call has been revoked, has expired or is gone.",
        "no",
    ),
    ("key_refused", "A key was to be saved, and the provider refuses it.", "no"),
    ("key_unreadable", "A saved key cannot be decrypted.", "no"),
    ("keyring", "The keyring file cannot be used.", "yes, when the reason is gone"),
    (
        "ledger",
        "The usage log cannot be written, so nothing was sent.",
        "yes, when the reason is gone",
    ),
    ("locked", "Another transaction holds a lock on the row.", "yes"),
    ("missing_master_key", "The master key is not in the keyring file.", "yes, when it is there"),
    ("model_not_allowed", "The gateway key is not for this model.", "no"),
    ("model_not_served", "The platform's key does not pay for this model.", "no"),
    ("no_cost_bound", "A budget is set, and what the request may cost has no upper bound.", "no"),
    ("no_key", "A provider offers the model, but there is no key for it.", "no"),
    ("no_route", "No provider can run this job any more.", "no"),
    (
        "no_turn",
        "A concurrency limit left no turn in time, or a call of this user that asks the same, for which it waited.",
        "yes, later",
    ),
    (
        "no_user",
        "The caller has no user id, or has not signed in (`aggregator.anonymous_users`).",
        "no",
    ),
    (
        "out_of_memory",
        "This user's share of `aggregator.max_memory` is taken.",
        "sometimes: when other calls have ended",
    ),
    ("queue_full", "Too many jobs of this user wait.", "yes, later"),
    (
        "rate_limited",
        "A rate limit is reached. The hint says for how long.",
        "yes, after that time",
    ),
    ("recovery", "This server is a standby.", "yes, on the primary"),
    ("request_too_large", "The request exceeds a limit.", "no"),
    (
        "schema_violation",
        "No answer fits the schema. DETAIL has what is wrong, and the last answer.",
        "yes, but it was paid for",
    ),
    ("stale", "Who may serve the call kept changing before it was sent.", "yes"),
    (
        "stalled",
        "A stream was silent for longer than `aggregator.stream_idle_timeout`.",
        "yes, but it may have been paid for",
    ),
    ("too_many_keys", "The user has as many gateway keys as are allowed.", "no"),
    ("unknown_gateway_key", "The user has no such gateway key, or it is revoked or expired.", "no"),
    ("unknown_job", "The user has no such job.", "no"),
    ("unknown_model", "No provider offers the model. The hint names similar ones.", "no"),
    ("unknown_provider", "No active provider has this name or id.", "no"),
    ("unreachable", "The provider could not be reached. Nothing was sent.", "yes"),
    ("unsupported", "The API of this provider has nothing like it.", "no"),
    (
        "upstream_error",
        "The provider refused and gave no code. `PT4xx` where its status says so. A code that it gave is passed on instead.",
        "sometimes: 408, 429 and 5xx",
    ),
];

#[test]
fn the_page_of_errors_is_what_the_code_says() {
    // Per code its SQLSTATE, and whether a job that ends so is run again.
    let mut found: BTreeMap<String, (String, Vec<bool>)> = BTreeMap::new();
    for error in kinds().into_iter().chain(of_both_ends()) {
        let (_, passes) = found
            .entry(error.code().to_owned())
            .or_insert_with(|| (error.sqlstate().to_owned(), vec![]));
        passes.push(error.may_pass().is_some());
    }
    let codes: Vec<&str> = CODES.iter().map(|(code, ..)| *code).collect();
    assert_eq!(codes, found.keys().map(String::as_str).collect::<Vec<_>>());
    let mut page = String::from(
        "# Errors\n\n\
         <!-- Written by `make reference`. -->\n\n\
         An error has a SQLSTATE (`PT` and an HTTP status, which PostgREST and the HTTP endpoint answer with) and a code \
         that stays the same when the message changes. [Errors](../guides/calling.md#errors) says where drivers find the \
         code. *Try again?* is for callers; *Jobs* says whether the worker itself runs a job again that ends so, up to \
         `aggregator.job_max_attempts`.\n\n\
         | Code | SQLSTATE | HTTP | When | Try again? | Jobs |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for (code, when, again) in CODES {
        let (sqlstate, passes) = &found[*code];
        let jobs = match (passes.contains(&true), passes.contains(&false)) {
            (true, false) => "yes",
            (true, true) => "sometimes",
            _ => "no",
        };
        if jobs != "no" {
            assert!(again.starts_with(jobs), "{code}: {again}");
        }
        let http = sqlstate.strip_prefix("PT").unwrap_or("");
        page += &format!("| `{code}` | `{sqlstate}` | {http} | {when} | {again} | {jobs} |\n");
    }
    compare("errors.md", &page);
}

/// Of each option of ours what it takes, what holds without it, and what it does.
fn options(without: &Prepared) -> Vec<(&'static str, &'static str, String, &'static str)> {
    let none = String::new;
    vec![
        (
            "cache",
            "an object",
            none(),
            "Keep the answer, or take one that was kept: `{\"ttl\": 60}`. See [Response cache](../guides/cache.md).",
        ),
        ("extra_body", "an object", none(), "A vendor's own fields. They are sent as they are."),
        (
            "max_repairs",
            "a whole number from 0 to 5",
            DEFAULT_REPAIRS.to_string(),
            "How often the model is asked again because its answer does not fit `schema`.",
        ),
        (
            "max_retries",
            "a whole number from 0 to 10",
            without.max_retries.to_string(),
            "Retries with backoff and Retry-After, for 408, 429, 5xx and broken connections.",
        ),
        ("models", "an array of up to 8 texts", none(), "Models to fall back on, in this order."),
        (
            "on_deadline",
            "`error` or `queue`",
            "`error`".to_owned(),
            "`queue`: a call that `statement_timeout` would cancel continues as a job.",
        ),
        (
            "schema",
            "a JSON Schema",
            none(),
            "The answer is JSON that fits it. See [Checked JSON](../guides/checked-json.md).",
        ),
        (
            "stream_upstream",
            "true or false",
            "`aggregator.stream_upstream`".to_owned(),
            "Ask the provider for a stream where the answer is given whole: a stalled provider is noticed early.",
        ),
        (
            "tags",
            "an array of up to 8 texts",
            none(),
            "Kept in the usage log, to find the call in reports. See [Tags](../guides/tags.md).",
        ),
        (
            "throw_on_error",
            "true or false",
            format!("`{}`", without.throw_on_error),
            "`false` returns `{\"error\": {...}}` instead of raising.",
        ),
        (
            "timeout_ms",
            "from 1 to 86400000 (a day)",
            without.timeout_ms.to_string(),
            "Milliseconds from the start to the whole answer.",
        ),
    ]
}

#[test]
fn the_page_of_options_is_what_the_code_says() {
    let messages = r#"[{"role": "user", "content": "hi"}]"#;
    let without = Prepared::from_arguments(Some("m"), Some(messages), None).unwrap();
    let options = options(&without);
    assert_eq!(options.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), OURS);
    let mut page = String::from(
        "# Request options\n\n\
         <!-- Written by `make reference`. -->\n\n\
         `options` of `chat_complete` and its relatives takes the gateway's own options, which are not sent \
         (what is in `extra_body` is), and OpenAI's parameters, which are passed on as given. An unknown name is an \
         error that names the nearest known one.\n\n\
         ## The gateway's own\n\n\
         | Option | Takes | Default | What it does |\n\
         | --- | --- | --- | --- |\n",
    );
    for (name, takes, default, meaning) in options {
        page += &format!("| `{name}` | {takes} | {default} | {meaning} |\n");
    }
    page += "\n## OpenAI's\n\n\
         `model` and `messages` are arguments of their own. What is known of the type is checked before anything is sent.\n\n\
         | Parameter | Takes |\n\
         | --- | --- |\n";
    for parameter in PARAMETERS.iter().filter(|parameter| parameter.is_openais) {
        let takes = if parameter.takes == Takes::Any { "" } else { parameter.takes.words() };
        page += &format!("| `{}` | {takes} |\n", parameter.name);
    }
    compare("options.md", &page);
}
