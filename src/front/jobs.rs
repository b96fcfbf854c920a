//! `/v1/jobs`: a chat as a durable job, which holds no connection.

use crate::core::front::failure::Failure;
use crate::core::front::openai;
use crate::core::jobs::{check_idempotency_key, checked_request};
use crate::core::reply::with_member;
use crate::core::schema::Schema;
use crate::error::Error;
use crate::front::caller::Caller;
use crate::front::endpoints::{Asking, refused};
use crate::front::reply::{self, Body};
use crate::front::{Front, calls};
use crate::gateway::asked::{JobAsked, JobSeen, JobTold, JobUser, NewJob};
use crate::gateway::task::Task;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::Arc;
use uuid::Uuid;

/// By which a job that is submitted twice is written once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Writes a job, whose body is that of a chat.
pub async fn submit(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    let idempotency_key = idempotency_key(asking.headers).map_err(refused)?;
    // By whose keys it may be served is not kept with it.
    if asking.caller.whose.own_keys_only {
        let action = "submit a job".to_owned();
        return Err(refused(Error::NotSignedIn { action }));
    }
    let read = |text: String| openai::Asked::read(&text)?.prepared.whole().map_err(refused);
    let mut prepared = asking.read(2, read).await?;
    asking.steer(&mut prepared)?;
    if let Some(check) = &prepared.check {
        let schema = check.schema.get().to_owned();
        let read = move || Schema::read(&schema).map(drop);
        let read = asking.front.shared.schemas.run(&asking.caller.whose.user, read).await;
        read.flatten().map_err(refused)?;
    }
    // One that nobody can serve is better refused now than later.
    calls::check(asking.front, &asking.caller, &prepared).await.map_err(refused)?;
    let request = checked_request(prepared.to_request()).map_err(refused)?;
    let job = NewJob {
        user: asking.caller.whose.user.clone(),
        model: prepared.model.clone(),
        provider: None,
        request,
        idempotency_key,
        gateway_key: asking.caller.whose.gateway_key,
    };
    match ask(asking.front, &asking.caller, JobAsked::Submit(job)).await? {
        JobTold::Submitted(id) => {
            let body = json!({"id": id, "object": "job", "status": "queued"}).to_string();
            let mut response = reply::json(StatusCode::ACCEPTED, body);
            reply::add(&mut response, "location", &format!("/v1/jobs/{id}"));
            Ok(response)
        }
        _ => Err(unexpected()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let wrong = |_| Error::bad_request("Idempotency-Key must be text");
    let key = std::str::from_utf8(key.as_bytes()).map_err(wrong)?;
    check_idempotency_key("Idempotency-Key", key)?;
    Ok(Some(key.to_owned()))
}

/// Shows a job, with its answer once it has ended.
pub async fn look(
    front: &Arc<Front>,
    caller: &Caller,
    job: Uuid,
) -> Result<Response<Body>, Failure> {
    match ask(front, caller, JobAsked::Look(job, of(caller))).await? {
        JobTold::Seen(seen) => Ok(reply::json(StatusCode::OK, body(*seen)?)),
        _ => Err(unexpected()),
    }
}

/// Cancels a job that has not ended.
pub async fn cancel(
    front: &Arc<Front>,
    caller: &Caller,
    job: Uuid,
) -> Result<Response<Body>, Failure> {
    let seen = match ask(front, caller, JobAsked::Look(job, of(caller))).await? {
        JobTold::Seen(seen) => seen,
        _ => return Err(unexpected()),
    };
    let is_cancelled = match seen.status.as_str() {
        "queued" | "running" => {
            match ask(front, caller, JobAsked::Cancel(job, of(caller))).await? {
                JobTold::Cancelled(is_cancelled) => is_cancelled,
                _ => return Err(unexpected()),
            }
        }
        _ => false,
    };
    let body = json!({"id": job, "object": "job", "cancelled": is_cancelled}).to_string();
    Ok(reply::json(StatusCode::OK, body))
}

/// Whose jobs they see: as in SQL their own, and administrators all; a gateway key its own.
fn of(caller: &Caller) -> JobUser {
    let Caller { whose, is_admin, .. } = caller;
    JobUser { id: whose.user.clone(), is_admin: *is_admin, gateway_key: whose.gateway_key }
}

async fn ask(front: &Front, caller: &Caller, asked: JobAsked) -> Result<JobTold, Failure> {
    let asked = Box::new(asked);
    let turn = front.questions.turn(&caller.whose.user).await.map_err(refused)?;
    turn.ask(|reply| Task::Job(asked, reply)).await.flatten().map_err(refused)
}

fn unexpected() -> Failure {
    refused(Error::internal("the main thread answered something else"))
}

fn body(seen: JobSeen) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Job {
        id: Uuid,
        object: &'static str,
        status: String,
        created_at: Option<i64>,
        started_at: Option<i64>,
        finished_at: Option<i64>,
        attempts: i32,
        /// As the answer over `/v1/chat/completions` would have been.
        response: Option<Box<RawValue>>,
        error: Option<Box<RawValue>>,
        cost: Option<Box<RawValue>>,
    }
    let raw = |text: String| RawValue::from_string(text).map_err(Error::internal);
    let about = json!({
        "job_id": seen.id,
        "provider": seen.provider,
        "served_model": seen.served_model,
        "usage_log_id": seen.id,
        "attempts": seen.attempts,
        "cost_source": seen.cost_source,
        "latency_ms": seen.latency_ms,
    });
    let response =
        seen.response.map(|response| with_member(&response, &about, seen.cost.as_deref()));
    let made = || {
        serde_json::to_string(&Job {
            id: seen.id,
            object: "job",
            status: seen.status,
            created_at: seen.created_at,
            started_at: seen.started_at,
            finished_at: seen.finished_at,
            attempts: seen.attempts,
            response: response.map(raw).transpose()?,
            error: seen.error.map(raw).transpose()?,
            cost: seen.cost.map(raw).transpose()?,
        })
        .map_err(Error::internal)
    };
    made().map_err(refused)
}
