//! Jobs that are submitted, looked at and cancelled over HTTP, on the main thread.
//!
//! Whose they are has been found out by then. What the statements of SQL's functions are told by their session, the
//! user and whether it administers, these are told by their arguments.

use crate::core::jobs::checked_request;
use crate::database;
use crate::error::Error;
use crate::gateway::asked::{JobAsked, JobSeen, JobTold, JobUser, NewJob};
use crate::installed::Installed;
use crate::queue::{self, Amount};
use crate::routing::{pg_uuid, uuid};
use crate::settings;
use crate::worker::process::{self, Cause, Failure};
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use uuid::Uuid;

/// `$2`: only that user's jobs, `$3`: or all of them. `$4`: with a gateway key, those alone that came with it.
const LOOK: &str = "
    SELECT job.status, job.response::text, job.error::text, job.cost::text, job.cost_source,
        job.provider_name, job.served_model, job.attempts,
        pg_catalog.date_part('epoch'::text, job.created_at)::bigint,
        pg_catalog.date_part('epoch'::text, job.started_at)::bigint,
        pg_catalog.date_part('epoch'::text, job.finished_at)::bigint,
        (pg_catalog.date_part('epoch'::text, job.finished_at - job.started_at) * 1000)::bigint
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.id = $1 AND (job.user_id = $2 OR $3) AND ($4 IS NULL OR job.gateway_key_id = $4)";

const SUBMIT: &str = "
    INSERT INTO @extschema@.aggregator_jobs
        (id, user_id, model, provider, request, request_bytes, idempotency_key, gateway_key_id)
    VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8)
    ON CONFLICT (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id";

const EARLIER: &str = "
    SELECT job.id, job.request = $3::jsonb
        AND job.provider IS NOT DISTINCT FROM $4
        AND job.gateway_key_id IS NOT DISTINCT FROM $5
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.user_id = $1 AND job.idempotency_key = $2";

const CANCEL: &str = "
    UPDATE @extschema@.aggregator_jobs AS job
    SET status = 'cancelled'::text, finished_at = pg_catalog.clock_timestamp()
    WHERE job.id = $1
      AND job.status IN ('queued'::text, 'running'::text)
      AND (job.user_id = $2 OR $3)
      AND ($4 IS NULL OR job.gateway_key_id = $4)
    RETURNING pg_catalog.pg_notify('aggregator_jobs'::text, job.id::text)";

/// Does what is asked.
pub fn answer(asked: JobAsked) -> Result<JobTold, Error> {
    match asked {
        JobAsked::Submit(job) => submit(&job).map(JobTold::Submitted),
        JobAsked::Look(job, user) => look(job, &user).map(|seen| JobTold::Seen(Box::new(seen))),
        JobAsked::Cancel(job, user) => cancel(job, &user).map(JobTold::Cancelled),
    }
}

fn submit(job: &NewJob) -> Result<Uuid, Error> {
    let request = checked_request(job.request.clone())?;
    transaction("submit the job", |client, installed| {
        if let Some(key) = &job.idempotency_key
            && let Some(known) = earlier(client, installed, job, &request, key)?
        {
            return Ok(known);
        }
        let waiting = queue::waiting(client, installed, &job.user, settings::queue_limits())?;
        if let Err(error) = waiting.plus(Amount::of(request.len())).check(settings::queue_limits())
        {
            return Ok(Err(error));
        }
        let id = Uuid::now_v7();
        let arguments: [DatumWithOid<'_>; 8] = [
            pg_uuid(id).into(),
            job.user.as_str().into(),
            job.model.as_str().into(),
            job.provider.as_deref().into(),
            request.as_str().into(),
            i32::try_from(request.len()).unwrap_or(i32::MAX).into(),
            job.idempotency_key.as_deref().into(),
            job.gateway_key.map(pg_uuid).into(),
        ];
        let rows = client.update(installed.sql(SUBMIT).as_str(), None, &arguments)?;
        let is_new = !rows.is_empty();
        if is_new {
            return Ok(Ok(id));
        }
        // It was committed while this one was about to be.
        let key = job.idempotency_key.clone().unwrap_or_default();
        let known = earlier(client, installed, job, &request, &key)?;
        Ok(known.unwrap_or(Err(Error::KeyReused { key })))
    })
}

/// The job that has this idempotency key already, if there is one; its request has to be the same.
fn earlier(
    client: &mut SpiClient,
    installed: &Installed,
    job: &NewJob,
    request: &str,
    key: &str,
) -> spi::Result<Option<Result<Uuid, Error>>> {
    let arguments: [DatumWithOid<'_>; 5] = [
        job.user.as_str().into(),
        key.into(),
        request.into(),
        job.provider.as_deref().into(),
        job.gateway_key.map(pg_uuid).into(),
    ];
    // Not read-only: with a snapshot of now.
    let rows = client.update(installed.sql(EARLIER).as_str(), Some(1), &arguments)?;
    let read = |row: spi::SpiHeapTupleData<'_>| -> spi::Result<_> {
        Ok((row.get::<pgrx::Uuid>(1)?, row.get::<bool>(2)?))
    };
    let found = rows.map(read).next().transpose()?;
    Ok(found.map(|found| match found {
        (Some(id), Some(true)) => Ok(uuid(Some(id))),
        _ => Err(Error::KeyReused { key: key.to_owned() }),
    }))
}

fn look(job: Uuid, user: &JobUser) -> Result<JobSeen, Error> {
    transaction("look at the job", |client, installed| {
        let rows = client.select(installed.sql(LOOK).as_str(), Some(1), &of(job, user))?;
        let seen = rows.map(|row| {
            Ok::<_, spi::Error>(JobSeen {
                id: job,
                status: row.get(1)?.unwrap_or_default(),
                response: row.get(2)?,
                error: row.get(3)?,
                cost: row.get(4)?,
                cost_source: row.get(5)?,
                provider: row.get(6)?,
                served_model: row.get(7)?,
                attempts: row.get(8)?.unwrap_or_default(),
                created_at: row.get(9)?,
                started_at: row.get(10)?,
                finished_at: row.get(11)?,
                latency_ms: row.get(12)?,
            })
        });
        let seen = seen.last().transpose()?;
        Ok(seen.ok_or_else(|| Error::UnknownJob { id: job.to_string() }))
    })
}

/// Whether it was still to be cancelled.
fn cancel(job: Uuid, user: &JobUser) -> Result<bool, Error> {
    transaction("cancel the job", |client, installed| {
        let rows = client.update(installed.sql(CANCEL).as_str(), None, &of(job, user))?;
        Ok(Ok(!rows.is_empty()))
    })
}

fn of(job: Uuid, user: &JobUser) -> [DatumWithOid<'_>; 4] {
    let gateway_key = user.gateway_key.map(pg_uuid);
    [pg_uuid(job).into(), user.id.as_str().into(), user.is_admin.into(), gateway_key.into()]
}

/// Whoever has locked what is asked for is not waited for: the main thread serves everybody.
fn transaction<T>(
    action: &str,
    work: impl FnOnce(&mut SpiClient, &Installed) -> spi::Result<Result<T, Error>>,
) -> Result<T, Error> {
    let done = process::impatient_transaction(|installed| {
        Spi::connect_mut(|client| work(client, installed))
    });
    match done {
        Ok(done) => done,
        Err(Failure::NotInstalled) => {
            Err(Error::Ledger { reason: "the extension was dropped".to_owned() })
        }
        Err(Failure::Database(Cause { sqlstate: Some(sqlstate), .. })) if sqlstate == "55P03" => {
            Err(Error::Locked { action: action.to_owned() })
        }
        Err(Failure::Database(cause) | Failure::Data(cause)) => {
            Err(database::error(action, &cause.words, cause.sqlstate))
        }
    }
}
