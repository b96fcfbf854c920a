//! Bodies of the three dialects.

use super::try_all;
use super::writer::Writer;
use crate::core::front::{openai, responses};
use crate::core::options::Prepared;
use crate::core::standard::Sending;
use crate::core::standard::anthropic::front::request::{Incoming, Takes};
use crate::core::standard::anthropic::front::version::Version;
use crate::core::standard::anthropic::front::{count, native};
use crate::core::{json, request};

/// What the front takes, the gateway takes, and a job is read back from.
fn taken(prepared: &Prepared) {
    request::outline(&prepared.body()).unwrap_or_else(|unfit| panic!("{unfit}"));
    let kept = Prepared::from_http(&prepared.to_request()).expect("it is read back");
    assert_eq!(kept.body(), prepared.body());
}

#[test]
fn a_body_of_chat_is_taken_as_the_gateway_takes_it() {
    try_all("bodies of chat", 50, |rng, body| {
        Writer { rng, out: body }.body("messages");
        let read = openai::Asked::read(body);
        read.as_ref().inspect(|asked| taken(&asked.prepared)).is_ok()
    });
}

#[test]
fn a_body_of_responses_becomes_one_of_chat() {
    try_all("bodies of Responses", 50, |rng, body| {
        Writer { rng, out: body }.body("input");
        let read = responses::Asked::read(body);
        if let Ok(responses::Asked { prepared, about }) = &read {
            taken(prepared);
            let _ = format!("{about:?}");
        }
        read.is_ok()
    });
}

#[test]
fn a_body_of_messages_becomes_one_of_chat_or_goes_as_it_came() {
    try_all("bodies of Messages", 50, |rng, body| {
        let version = if rng.bool() { Version::June2023 } else { Version::October2026 };
        Writer { rng, out: body }.body("messages");
        let Ok(asked) = Incoming::read(body, version) else { return false };
        assert!(count::tokens(&asked) >= 1);
        let _ = asked.steering().map(|steering| Prepared::from_http(&steering));
        for anthropics_own in [true, false] {
            let takes = Takes { anthropics_own, reasoning_effort: true };
            if let Ok(prepared) = asked.chat(takes).and_then(|chat| Prepared::from_http(&chat)) {
                taken(&prepared);
            }
        }
        let Ok(own) = asked.native() else { return false };
        let sending = Sending {
            model_id: "claude-x",
            max_output_tokens: Some(8192),
            streams: true,
            cap: None,
            takes_newer_name: false,
            most_tokens: Some(9),
        };
        let Ok(sent) = native::request(&own, &sending) else { return false };
        json::members(&sent).expect("an object that gives nothing twice");
        if let (Ok(before), Ok(after)) = (request::outline(&own), request::outline(&sent)) {
            let most = if before.max_tokens.is_some() { 9 } else { 8192 };
            assert!(after.max_tokens.is_some_and(|tokens| tokens <= most), "{sent}");
            assert!(before.unbounded.is_some() || after.unbounded.is_none(), "{sent}");
        }
        true
    });
}
