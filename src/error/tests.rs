use super::*;

/// Errors of every kind, each from the one before, so that none is left out: a new kind does not compile here.
fn next(error: &Error) -> Option<Error> {
    let target = || Target { provider: "p".into(), model: "m".into() };
    let (text, reason) = (String::new, String::new);
    Some(match error {
        Error::BadRequest { .. } => Error::Anonymous { action: text() },
        Error::Anonymous { .. } => Error::NotSignedIn { action: text() },
        Error::NotSignedIn { .. } => Error::Forbidden { role: text(), action: text() },
        Error::Forbidden { .. } => Error::UnknownProvider { provider: text() },
        Error::UnknownProvider { .. } => Error::UnknownModel { model: text(), similar: vec![] },
        Error::UnknownModel { .. } => Error::NoKeyForModel { model: text(), providers: vec![] },
        Error::NoKeyForModel { .. } => Error::NoKey { provider: text() },
        Error::NoKey { .. } => Error::NoPlatformKey { provider: text() },
        Error::NoPlatformKey { .. } => Error::NotServed { provider: text(), model: text() },
        Error::NotServed { .. } => Error::NotForKey { model: text() },
        Error::NotForKey { .. } => Error::Unsupported { what: text() },
        Error::Unsupported { .. } => refused(500, None),
        Error::Upstream { .. } => Error::Deadline { target: target(), waited_ms: 1 },
        Error::Deadline { .. } => Error::Stalled { target: target(), idle_ms: 1 },
        Error::Stalled { .. } => Error::UnknownJob { id: text() },
        Error::UnknownJob { .. } => Error::UnknownGatewayKey { id: text() },
        Error::UnknownGatewayKey { .. } => Error::NoGatewayKey,
        Error::NoGatewayKey => Error::NoSession,
        Error::NoSession => Error::TooManyKeys { limit: 1 },
        Error::TooManyKeys { .. } => Error::KeyReused { key: text() },
        Error::KeyReused { .. } => Error::NoTurn { target: target(), waited_ms: 1 },
        Error::NoTurn { .. } => Error::RequestTooLarge { size: 2, limit: 1 },
        Error::RequestTooLarge { .. } => Error::RequestBeyond { limit: 1, unit: text() },
        Error::RequestBeyond { .. } => Error::QueueFull { limit: text() },
        Error::QueueFull { .. } => Error::BadProvider { provider: text(), what: text() },
        Error::BadProvider { .. } => Error::NoRoute { model: text() },
        Error::NoRoute { .. } => Error::NoTime { target: target(), left_ms: 1 },
        Error::NoTime { .. } => Error::Unreachable { target: target(), reason: reason() },
        Error::Unreachable { .. } => Error::Disconnected { target: target(), reason: reason() },
        Error::Disconnected { .. } => Error::AddressRefused { provider: text(), reason: reason() },
        Error::AddressRefused { .. } => {
            Error::BrokenAnswer { target: target(), status: 200, what: text(), request_id: None }
        }
        Error::BrokenAnswer { .. } => Error::SchemaViolation {
            target: target(),
            violations: vec![text()],
            answer: text(),
            repairs: 2,
        },
        Error::SchemaViolation { .. } => Error::AnswerTooLarge { target: target(), limit: 1 },
        Error::AnswerTooLarge { .. } => Error::OutOfMemory { limit: 1, may_pass: true },
        Error::OutOfMemory { .. } => Error::AnswerOutOfMemory { target: target(), limit: 1 },
        Error::AnswerOutOfMemory { .. } => Error::BudgetExceeded {
            target: target(),
            shortfall: Box::new(Shortfall {
                period: text(),
                whose: text(),
                unit: text(),
                needed: text(),
                left: None,
                is_set_aside: false,
            }),
        },
        Error::BudgetExceeded { .. } => Error::NoCostBound { target: target(), what: text() },
        Error::NoCostBound { .. } => {
            Error::RateLimited { target: target(), limit: text(), wait_ms: 1 }
        }
        Error::RateLimited { .. } => Error::Ledger { reason: reason() },
        Error::Ledger { .. } => {
            Error::KeyRefused { provider: text(), refusal: Box::new(Refusal::new(401, None, None)) }
        }
        Error::KeyRefused { .. } => Error::KeyUnreadable { provider: text(), reason: reason() },
        Error::KeyUnreadable { .. } => Error::MissingMasterKey { key_id: text() },
        Error::MissingMasterKey { .. } => Error::Keyring { reason: reason() },
        Error::Keyring { .. } => Error::GatewayDown { reason: reason(), hint: text() },
        Error::GatewayDown { .. } => Error::ClerkDown { reason: reason(), hint: text() },
        Error::ClerkDown { .. } => Error::HubDown { reason: reason() },
        Error::HubDown { .. } => Error::ConsoleBusy { waiting: 1 },
        Error::ConsoleBusy { .. } => Error::GatewayLost,
        Error::GatewayLost => Error::ErrandLost,
        Error::ErrandLost => Error::internal(""),
        Error::Internal { .. } => Error::ClientGone,
        Error::ClientGone => Error::Recovery,
        Error::Recovery => Error::ReadOnly { action: text() },
        Error::ReadOnly { .. } => Error::Follows { hub: text() },
        Error::Follows { .. } => Error::Locked { action: text() },
        Error::Locked { .. } => Error::Forgotten,
        Error::Forgotten => Error::Stale,
        Error::Stale => Error::Database { action: text(), reason: reason(), sqlstate: None },
        Error::Database { .. } => return None,
    })
}

/// One error of each kind.
pub fn kinds() -> Vec<Error> {
    std::iter::successors(Some(Error::bad_request("")), next).collect()
}

/// Of the kinds that may pass or not, those that `kinds` has not.
pub fn of_both_ends() -> Vec<Error> {
    let target = || Target { provider: "p".into(), model: "m".into() };
    let shortfall = Shortfall {
        period: String::new(),
        whose: String::new(),
        unit: String::new(),
        needed: String::new(),
        left: None,
        is_set_aside: true,
    };
    vec![
        refused(400, None),
        Error::OutOfMemory { limit: 1, may_pass: false },
        Error::BudgetExceeded { target: target(), shortfall: Box::new(shortfall) },
    ]
}

#[test]
fn a_code_is_a_word_and_of_one_sqlstate() {
    let kinds = kinds();
    assert_eq!(kinds.len(), 59);
    let mut known: Vec<(&str, &str)> =
        kinds.iter().map(|error| (error.code(), error.sqlstate())).collect();
    known.sort_unstable();
    known.dedup();
    for (code, sqlstate) in &known {
        assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
        assert_eq!(sqlstate.len(), 5, "{code}");
        assert_eq!(known.iter().filter(|(other, _)| other == code).count(), 1, "{code}");
    }
}

#[test]
fn a_databases_error_keeps_its_sqlstate() {
    let sqlstate = Some("23514".to_owned());
    let error = Error::Database { action: "a".into(), reason: "b".into(), sqlstate };
    assert_eq!((error.sqlstate(), error.code()), ("23514", "database"));
    assert_eq!(error.to_string(), "cannot a: b");
    assert_eq!(error.coded_detail(), "database");
    assert_eq!(refused(429, Some("insufficient_quota")).coded_detail(), "insufficient_quota: no");
}

fn refused(status: u16, code: Option<&str>) -> Error {
    Error::Upstream {
        target: Target { provider: "p".into(), model: "m".into() },
        refusal: Box::new(Refusal {
            request_id: Some("r-1".into()),
            retry_after_s: Some(7),
            ..Refusal::new(status, code.map(str::to_owned), Some("no".into()))
        }),
    }
}

#[test]
fn upstream_statuses_have_their_sqlstates() {
    for (status, expected) in [
        (400, "PT400"),
        (401, "PT401"),
        (402, "PT402"),
        (403, "PT403"),
        (404, "PT404"),
        (408, "PT408"),
        (413, "PT413"),
        (418, "PT400"),
        (422, "PT422"),
        (429, "PT429"),
        (500, "PT502"),
        (503, "PT502"),
        (524, "PT504"),
        (529, "PT502"),
    ] {
        assert_eq!(refused(status, None).sqlstate(), expected, "{status}");
    }
    assert_eq!(refused(429, Some("insufficient_quota")).sqlstate(), "PT402");
}

#[test]
fn hints_of_what_costs_nothing_point_to_no_usage_row() {
    let target = |model: &str| Target { provider: "p".into(), model: model.into() };
    let errors = |model: &str| {
        [
            Error::Deadline { target: target(model), waited_ms: 60_000 },
            Error::Disconnected { target: target(model), reason: "r".into() },
            Error::BrokenAnswer {
                target: target(model),
                status: 200,
                what: "w".into(),
                request_id: None,
            },
            Error::AnswerOutOfMemory { target: target(model), limit: 1 },
        ]
    };
    for (error, of_call) in errors("").into_iter().zip(errors("m")) {
        let (free, paid) = (error.hint().unwrap(), of_call.hint().unwrap());
        assert!(free.contains("aggregator_key_checks"), "{free}");
        for wrong in ["aggregator_usage_logs", "paid for", "options.timeout_ms"] {
            assert!(!free.contains(wrong), "{free}");
        }
        assert!(paid.contains("aggregator_usage_logs"), "{paid}");
    }
    assert!(!Error::ErrandLost.hint().unwrap().contains("usage_logs"));
}

#[test]
fn messages_name_what_matters() {
    let error = refused(429, Some("rate_limit_exceeded"));
    let text = error.to_string();
    for part in ["'p'", "'m'", "429", "rate_limit_exceeded", "r-1"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(error.hint().unwrap(), "Retry after 7 seconds.");
    assert_eq!(error.to_json()["sqlstate"], "PT429");
}
