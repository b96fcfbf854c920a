//! Durable jobs from SQL: writing them into the caller's transaction, waiting for them, cancelling
//! them. The worker runs them once they are committed.

use crate::core::jobs::{check_idempotency_key, checked_request};
use crate::core::options::Prepared;
use crate::core::schema::Schema;
use crate::database::failed;
use crate::error::Error;
use crate::protocol::{Reply, Request};
use crate::routing::pg_uuid;
use crate::session::chat::text;
use crate::session::json::JsonText;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::request::{Resolved, usable_ms};
use crate::session::{embed, identity, link, outbox, queue, writable};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::Spi;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Between looks at a job: whoever waits is told when it ends, unless it was cancelled.
const LOOK_MS: u64 = 1000;
/// How far ahead a job may be put off.
const LONGEST_WAIT_DAYS: i64 = 366;

/// Writes a chat as a job that runs once the caller's transaction is committed.
#[pg_extern]
fn chat_submit(
    model: Option<&str>,
    messages: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
    p_run_after: default!(Option<TimestampWithTimeZone>, "NULL"),
    p_idempotency_key: default!(Option<&str>, "NULL"),
) -> pgrx::Uuid {
    let prepared = Prepared::from_arguments(model, text(&messages), text(&options));
    drop((messages, options));
    let job = prepared.and_then(Prepared::whole);
    let job = job.and_then(|prepared| {
        if let Some(check) = &prepared.check {
            Schema::read(check.schema.get())?;
        }
        submit_for(&prepared, provider, p_user_id, p_run_after, p_idempotency_key)
    });
    pg_uuid(or_raise(job))
}

/// Writes embeddings of these texts as a job that runs once the caller's transaction is committed.
#[pg_extern]
fn embed_submit(
    inputs: Option<Vec<Option<String>>>,
    model: Option<&str>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
    p_run_after: default!(Option<TimestampWithTimeZone>, "NULL"),
    p_idempotency_key: default!(Option<&str>, "NULL"),
) -> pgrx::Uuid {
    let prepared = embed::job(inputs, model, text(&options));
    drop(options);
    let job = prepared.and_then(|prepared| {
        submit_for(&prepared, provider, p_user_id, p_run_after, p_idempotency_key)
    });
    pg_uuid(or_raise(job))
}

/// Writes a job for a user, or says why there can be none.
fn submit_for(
    prepared: &Prepared,
    provider: Option<&str>,
    p_user_id: Option<&str>,
    run_after: Option<TimestampWithTimeZone>,
    idempotency_key: Option<&str>,
) -> Result<Uuid, Error> {
    if let Some(key) = idempotency_key {
        check_idempotency_key("p_idempotency_key", key)?;
    }
    check_run_after(run_after)?;
    // A request that nobody can serve is better refused now than later.
    let resolved = Resolved::find(prepared, provider, p_user_id)?;
    resolved.may_wait()?;
    let job = Job { prepared, user: &resolved.whose.user, provider };
    submit(&job, run_after, idempotency_key)
}

/// A job that never runs would wait for ever, and keep the worker from leaving.
fn check_run_after(at: Option<TimestampWithTimeZone>) -> Result<(), Error> {
    let Some(at) = at else { return Ok(()) };
    let at = pg_sys::TimestampTz::from(at);
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    // '-infinity' is the smallest number.
    if at == i64::MIN || at > now + LONGEST_WAIT_DAYS * 24 * 60 * 60 * 1_000_000 {
        let what = format!("p_run_after must be a time at most {LONGEST_WAIT_DAYS} days ahead");
        return Err(Error::bad_request(what));
    }
    Ok(())
}

/// Waits until a job has ended, or so many milliseconds.
#[pg_extern]
fn aggregator_await_job(p_job_id: Option<pgrx::Uuid>, p_timeout_ms: Option<i32>) {
    let waited = await_job(p_job_id, p_timeout_ms);
    or_raise(waited)
}

/// Cancels a job; false if it has ended already or does not exist. Takes effect with the caller's
/// transaction.
#[pg_extern]
fn chat_cancel(p_job_id: Option<pgrx::Uuid>) -> bool {
    let cancelled = cancel(p_job_id);
    or_raise(cancelled)
}

/// What a row of `aggregator_jobs` says about its request.
struct Job<'a> {
    prepared: &'a Prepared,
    user: &'a str,
    provider: Option<&'a str>,
}

/// Writes a job that is due at once.
pub fn queue(prepared: &Prepared, user: &str, provider: Option<&str>) -> Result<Uuid, Error> {
    submit(&Job { prepared, user, provider }, None, None)
}

fn submit(
    job: &Job<'_>,
    run_after: Option<TimestampWithTimeZone>,
    idempotency_key: Option<&str>,
) -> Result<Uuid, Error> {
    writable::require("submit a job")?;
    let installed = installed()?;
    let insert = installed.sql(
        "INSERT INTO @extschema@.aggregator_jobs
             (id, user_id, model, provider, request, request_bytes, run_after, idempotency_key)
         VALUES ($1, $2, $3, $4, $5::jsonb, octet_length($5), coalesce($6, now()), $7)
         ON CONFLICT (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
         RETURNING id",
    );
    let id = Uuid::now_v7();
    let request = checked_request(job.prepared.to_request())?;
    if let Some(key) = idempotency_key
        && let Some(id) = earlier(job, &request, key)?
    {
        return Ok(id);
    }
    queue::admit(&installed, job.user, request.len())?;
    let arguments: [DatumWithOid<'_>; 7] = [
        pg_uuid(id).into(),
        job.user.into(),
        job.prepared.model.as_str().into(),
        job.provider.into(),
        request.as_str().into(),
        run_after.into(),
        idempotency_key.into(),
    ];
    let write = || {
        Spi::connect_mut(|client| {
            client.update(insert.as_str(), None, &arguments).map(|rows| !rows.is_empty())
        })
    };
    let is_new = match idempotency_key {
        None => as_owner(&installed, write).map_err(failed("submit the job"))?,
        // An open transaction of the user may have taken the key.
        Some(_) => as_owner_in_time(&installed, "submit the job", write)?,
    };
    if let Some(key) = idempotency_key.filter(|_| !is_new) {
        let reused = || Error::KeyReused { key: key.to_owned() };
        return earlier(job, &request, key)?.ok_or_else(reused);
    }
    outbox::open()?;
    Ok(id)
}

/// The job that has this idempotency key already, if there is one; its request has to be the same.
fn earlier(job: &Job<'_>, request: &str, key: &str) -> Result<Option<Uuid>, Error> {
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT job.id, job.request = $3::jsonb AND job.provider IS NOT DISTINCT FROM $4
         FROM @extschema@.aggregator_jobs AS job
         WHERE job.user_id = $1 AND job.idempotency_key = $2",
    );
    let arguments: [DatumWithOid<'_>; 4] =
        [job.user.into(), key.into(), request.into(), job.provider.into()];
    let found = as_owner(&installed, || {
        // With a snapshot of now: the job may have been committed while the insert waited for it.
        Spi::connect_mut(|client| {
            let rows = client.update(sql.as_str(), Some(1), &arguments)?;
            rows.map(|row| Ok((row.get::<pgrx::Uuid>(1)?, row.get::<bool>(2)?))).next().transpose()
        })
    })
    .map_err(failed("submit the job"))?;
    match found {
        None => Ok(None),
        Some((Some(id), Some(true))) => Ok(Some(crate::routing::uuid(Some(id)))),
        Some(_) => Err(Error::KeyReused { key: key.to_owned() }),
    }
}

/// Makes sure that a call that has begun can be handed over in time.
pub fn make_ready() -> Result<(), Error> {
    outbox::open()
}

/// Writes the row of a call that goes on as a job, in this life of the worker.
pub fn adopt(
    prepared: &Prepared,
    user: &str,
    provider: Option<&str>,
    call_id: Uuid,
    epoch: i64,
) -> Result<(), Error> {
    let installed = installed()?;
    let insert = installed.sql(
        "INSERT INTO @extschema@.aggregator_jobs
             (id, user_id, model, provider, request, request_bytes, status, epoch, attempts, started_at)
         VALUES ($1, $2, $3, $4, $5::jsonb, octet_length($5), 'running', $6, 1, statement_timestamp())",
    );
    let request = prepared.to_request();
    let arguments: [DatumWithOid<'_>; 6] = [
        pg_uuid(call_id).into(),
        user.into(),
        prepared.model.as_str().into(),
        provider.into(),
        request.as_str().into(),
        epoch.into(),
    ];
    as_owner(&installed, || {
        Spi::connect_mut(|client| client.update(insert.as_str(), None, &arguments).map(|_| ()))
    })
    .map_err(failed("hand the call over to a job"))?;
    outbox::open()
}

fn await_job(job: Option<pgrx::Uuid>, timeout_ms: Option<i32>) -> Result<(), Error> {
    let job = job.ok_or_else(|| Error::bad_request("p_job_id must not be NULL"))?;
    let timeout_ms = u64::try_from(timeout_ms.unwrap_or(0))
        .map_err(|_| Error::bad_request("p_timeout_ms must not be negative"))?;
    // SAFETY: a plain read of the transaction's isolation level.
    if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
        return Err(Error::bad_request_hint(
            "this transaction does not see what others commit after its start",
            "Wait for jobs in READ COMMITTED.",
        ));
    }
    let given_up = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        let (status, is_own) = status_of(job)?;
        if !matches!(status.as_str(), "queued" | "running") {
            return Ok(());
        }
        if is_own {
            return Err(Error::bad_request_hint(
                "the job was submitted by this transaction, and runs once that is committed",
                "COMMIT, then wait.",
            ));
        }
        let left = given_up.saturating_duration_since(Instant::now()).as_millis() as u64;
        let left = left.min(usable_ms().unwrap_or(u64::MAX));
        if left == 0 {
            return Ok(());
        }
        let request =
            Request::AwaitJob { job: crate::routing::uuid(Some(job)), for_ms: left.min(LOOK_MS) };
        let Reply::End = link::exchange(&request)? else { return Err(link::unexpected()) };
    }
}

/// The status of a job that the caller may see, and whether this very transaction wrote it.
fn status_of(job: pgrx::Uuid) -> Result<(String, bool), Error> {
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT job.status, job.xmin::text::bigint
         FROM @extschema@.aggregator_jobs AS job
         WHERE job.id = $1 AND (job.user_id = $2 OR $3)",
    );
    let user = identity::current_user_id();
    let arguments: [DatumWithOid<'_>; 3] =
        [job.into(), user.as_deref().into(), identity::is_admin(&installed).into()];
    let found = as_owner(&installed, || {
        // Not read-only, so that each look takes a snapshot of its own.
        Spi::connect_mut(|client| {
            let rows = client.update(sql.as_str(), Some(1), &arguments)?;
            rows.map(|row| Ok((row.get::<String>(1)?, row.get::<i64>(2)?))).next().transpose()
        })
    })
    .map_err(failed("look at the job"))?;
    let unknown = || Error::UnknownJob { id: job.to_string() };
    let (status, xmin) = found.ok_or_else(unknown)?;
    let xmin = pg_sys::TransactionId::from_inner(xmin.unwrap_or(0) as u32);
    // SAFETY: a look at this backend's own transactions.
    let is_own = unsafe { pg_sys::TransactionIdIsCurrentTransactionId(xmin) };
    Ok((status.unwrap_or_default(), is_own))
}

fn cancel(job: Option<pgrx::Uuid>) -> Result<bool, Error> {
    writable::require("cancel a job")?;
    let job = job.ok_or_else(|| Error::bad_request("p_job_id must not be NULL"))?;
    let installed = installed()?;
    let is_admin = identity::is_admin(&installed);
    let user = identity::current_user_id();
    if user.is_none() && !is_admin {
        return Err(Error::Anonymous { action: "cancel a job".to_owned() });
    }
    let sql = installed.sql(
        "UPDATE @extschema@.aggregator_jobs AS job
         SET status = 'cancelled', finished_at = clock_timestamp()
         WHERE job.id = $1
           AND job.status IN ('queued', 'running')
           AND (job.user_id = $2 OR $3)
         RETURNING pg_catalog.pg_notify('aggregator_jobs', job.id::text)",
    );
    let arguments: [DatumWithOid<'_>; 3] = [job.into(), user.as_deref().into(), is_admin.into()];
    let is_cancelled = as_owner_in_time(&installed, "cancel the job", || {
        Spi::connect_mut(|client| {
            client.update(sql.as_str(), None, &arguments).map(|rows| !rows.is_empty())
        })
    })?;
    if is_cancelled {
        outbox::open()?;
    }
    Ok(is_cancelled)
}
