//! Chat from SQL: resolve the candidates under the caller's own transaction, hand the call to the
//! gateway, give back its answer.

use crate::answer::Answer;
use crate::core::options::{OnDeadline, Prepared};
use crate::core::reply::{content, parsed};
use crate::error::Error;
use crate::protocol::{Reply, Request};
use crate::session::json::JsonText;
use crate::session::raise::or_raise;
use crate::session::request::{Resolved, no_time, usable_ms};
use crate::session::{jobs, link};
use pgrx::prelude::*;
use serde_json::json;

/// Sends a chat to a model and returns the answer in OpenAI's format, with an `aggregator` object
/// that says who served it and what it cost.
#[pg_extern]
fn chat_complete(
    model: Option<&str>,
    messages: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> JsonText {
    let prepared = Prepared::from_arguments(model, text(&messages), text(&options));
    drop((messages, options));
    let answer = prepared.and_then(|prepared| complete(prepared, provider, p_user_id));
    JsonText(or_raise(answer))
}

/// Sends one prompt and returns the text of the answer.
#[pg_extern]
fn chat(
    prompt: Option<&str>,
    model: Option<&str>,
    options: default!(Option<JsonText>, "'{}'"),
) -> Option<String> {
    let prepared = match prompt {
        Some(prompt) => {
            let messages = json!([{"role": "user", "content": prompt}]).to_string();
            Prepared::from_arguments(model, Some(&messages), text(&options))
        }
        None => Err(Error::bad_request("prompt must not be NULL")),
    };
    drop(options);
    let answer = prepared.and_then(plain).and_then(|prepared| complete(prepared, None, None));
    let content = answer.map(|answer| content(&answer));
    or_raise(content)
}

/// Sends one prompt and returns the JSON of the answer, which fits the schema.
#[pg_extern]
fn chat_json(
    prompt: Option<&str>,
    model: Option<&str>,
    schema: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> JsonText {
    let prepared = match prompt {
        Some(prompt) => {
            let messages = json!([{"role": "user", "content": prompt}]).to_string();
            Prepared::for_json(model, &messages, text(&schema), text(&options))
        }
        None => Err(Error::bad_request("prompt must not be NULL")),
    };
    drop((schema, options));
    let answer = prepared.and_then(plain).and_then(|it| complete(it, provider, p_user_id));
    let parsed = answer.and_then(|answer| parsed(&answer).ok_or_else(link::unexpected));
    JsonText(or_raise(parsed))
}

/// Refuses what asks for more than an answer.
fn plain(prepared: Prepared) -> Result<Prepared, Error> {
    let what = match &prepared {
        p if !p.throw_on_error => "throw_on_error = false needs a result that can hold an error",
        p if p.on_deadline == OnDeadline::Queue => {
            "on_deadline = 'queue' needs a result that can hold a job"
        }
        _ => return Ok(prepared),
    };
    Err(Error::bad_request_hint(what, "Use chat_complete."))
}

/// Takes a whole OpenAI request body and returns the answer. Its one parameter has no name, so
/// that PostgREST hands it the body of the HTTP request as it is.
#[pg_extern(sql = "
CREATE FUNCTION chat_completions(jsonb) RETURNS jsonb
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn chat_completions(body: Option<JsonText>) -> JsonText {
    let prepared = Prepared::from_body(text(&body));
    drop(body);
    let answer = prepared.and_then(|prepared| complete(prepared, None, None));
    JsonText(or_raise(answer))
}

/// The text of a JSON argument.
pub fn text(json: &Option<JsonText>) -> Option<&str> {
    json.as_ref().map(|json| json.0.as_str())
}

/// Runs a call. With `throw_on_error = false` whatever goes wrong, once the request itself is
/// understood, is a JSON value.
fn complete(
    prepared: Prepared,
    provider: Option<&str>,
    p_user_id: Option<&str>,
) -> Result<String, Error> {
    let prepared = prepared.whole()?;
    let throws = prepared.throw_on_error;
    match call(prepared, provider, p_user_id) {
        Ok(Outcome::Answer(answer)) => answer.into_json(throws),
        Ok(Outcome::Queued(job, status)) => {
            Ok(json!({"aggregator": {"job_id": job, "status": status}}).to_string())
        }
        Err(error) => Answer::refused(error).into_json(throws),
    }
}

/// Kept back of the statement's time to write the job of a call that is handed over.
const HAND_OVER_MS: u64 = 100;

enum Outcome {
    Answer(Answer),
    /// It became a job.
    Queued(uuid::Uuid, &'static str),
}

fn call(
    prepared: Prepared,
    provider: Option<&str>,
    p_user_id: Option<&str>,
) -> Result<Outcome, Error> {
    let resolved = Resolved::find(&prepared, provider, p_user_id)?;
    let may_queue = prepared.on_deadline == OnDeadline::Queue;
    if may_queue {
        resolved.may_wait()?;
    }
    // Giving a call away takes a moment, too.
    let kept_ms = if may_queue { HAND_OVER_MS } else { 0 };
    let usable_ms = usable_ms().map(|usable| usable.saturating_sub(kept_ms));
    if usable_ms == Some(0) {
        if may_queue {
            let job = jobs::queue(&prepared, &resolved.whose.user, provider)?;
            return Ok(Outcome::Queued(job, "queued"));
        }
        return Err(no_time(resolved.target()));
    }
    // A call that may become a job has all its time; the statement gives it away when its own is
    // over.
    let (deadline_ms, hand_over_after_ms) = match usable_ms {
        Some(usable) if may_queue && usable < prepared.timeout_ms => {
            (prepared.timeout_ms, Some(usable))
        }
        Some(usable) => (prepared.timeout_ms.min(usable), None),
        None => (prepared.timeout_ms, None),
    };
    let call = Box::new(resolved.call(&prepared, deadline_ms));
    let call_id = call.call_id;
    if hand_over_after_ms.is_some() {
        // While there is time for it.
        jobs::make_ready()?;
    }
    match link::exchange(&Request::Chat { call, hand_over_after_ms })? {
        Reply::Chat(reply) => Ok(Outcome::Answer(Answer::of(call_id, *reply))),
        Reply::HandedOver { epoch } => {
            jobs::adopt(&prepared, &resolved.whose.user, provider, call_id, epoch)?;
            Ok(Outcome::Queued(call_id, "running"))
        }
        _ => Err(link::unexpected()),
    }
}
