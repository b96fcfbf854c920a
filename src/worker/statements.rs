//! The worker's prepared statements.

use crate::installed::Installed;
use pgrx::PgOid;
use pgrx::pg_sys::{
    BOOLOID, INT2ARRAYOID, INT2OID, INT4OID, INT8OID, Oid, TEXTOID, TIMESTAMPTZARRAYOID,
    TIMESTAMPTZOID, UUIDARRAYOID, UUIDOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};

/// Prepared once per life of the worker.
pub struct Statements {
    pub begin: OwnedPreparedStatement,
    pub settle: OwnedPreparedStatement,
    pub roll_up: OwnedPreparedStatement,
    pub maintain: OwnedPreparedStatement,
    pub used: OwnedPreparedStatement,
    pub store: OwnedPreparedStatement,
    pub low_water: OwnedPreparedStatement,
    pub claim_users: OwnedPreparedStatement,
    pub claim: OwnedPreparedStatement,
    pub finish_job: OwnedPreparedStatement,
    pub job_status: OwnedPreparedStatement,
    pub cancelled_jobs: OwnedPreparedStatement,
    pub take_over_jobs: OwnedPreparedStatement,
    pub forget_jobs: OwnedPreparedStatement,
    pub any_jobs: OwnedPreparedStatement,
    pub cooling: OwnedPreparedStatement,
    pub cool: OwnedPreparedStatement,
    pub warm: OwnedPreparedStatement,
}

const STORE: &str = "SELECT @extschema@.aggregator_store_catalogue($1, $2::jsonb, $3)";
const MAINTAIN: &str = "SELECT @extschema@.aggregator_maintain_usage($1, $2)";
const LOW_WATER: &str = "
    UPDATE @extschema@.aggregator_worker_epochs SET low_water = $2 WHERE epoch = $1";
const JOB_STATUS: &str =
    "SELECT job.status FROM @extschema@.aggregator_jobs AS job WHERE job.id = $1";
const CANCELLED_JOBS: &str = "
    SELECT job.id FROM @extschema@.aggregator_jobs AS job
    WHERE job.id = ANY ($1) AND job.status = 'cancelled'";
const ANY_JOBS: &str = "
    SELECT EXISTS (SELECT FROM @extschema@.aggregator_jobs AS job WHERE job.status = 'queued')
        OR EXISTS (SELECT FROM @extschema@.aggregator_jobs AS job WHERE job.status = 'running')";
const WARM: &str = "
    DELETE FROM @extschema@.aggregator_cooling
    WHERE provider_id = $1
      AND user_provider_id IS NOT DISTINCT FROM $2
      AND model_id IS NOT DISTINCT FROM $3";

impl Statements {
    pub fn prepare(client: &SpiClient, installed: &Installed) -> spi::Result<Self> {
        let prepare = |sql: &str, types: &[Oid]| {
            let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
            client.prepare_mut(installed.sql(sql).as_str(), &types).map(|plan| plan.keep())
        };
        Ok(Self {
            begin: prepare(
                include_str!("../../sql/statements/begin.sql"),
                &[
                    UUIDOID,
                    INT2OID,
                    TIMESTAMPTZOID,
                    TEXTOID,
                    UUIDOID,
                    UUIDOID,
                    TEXTOID,
                    INT8OID,
                    TEXTOID,
                    INT8OID,
                ],
            )?,
            settle: prepare(
                include_str!("../../sql/statements/settle.sql"),
                &[
                    UUIDOID,
                    INT2OID,
                    TIMESTAMPTZOID,
                    UUIDOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    BOOLOID,
                    TEXTOID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT2OID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    // The six kinds of tokens.
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    BOOLOID,
                    INT4OID,
                ],
            )?,
            roll_up: prepare(
                include_str!("../../sql/statements/roll_up.sql"),
                &[UUIDARRAYOID, INT2ARRAYOID, TIMESTAMPTZARRAYOID],
            )?,
            maintain: prepare(MAINTAIN, &[BOOLOID, INT4OID])?,
            used: prepare(include_str!("../../sql/statements/used.sql"), &[UUIDARRAYOID])?,
            store: prepare(STORE, &[UUIDOID, TEXTOID, BOOLOID])?,
            low_water: prepare(LOW_WATER, &[INT8OID, TIMESTAMPTZOID])?,
            claim_users: prepare(
                include_str!("../../sql/statements/claim_users.sql"),
                &[TEXTOID, INT4OID],
            )?,
            claim: prepare(
                include_str!("../../sql/statements/claim.sql"),
                &[TEXTOID, INT8OID, INT8OID],
            )?,
            finish_job: prepare(
                include_str!("../../sql/statements/finish_job.sql"),
                &[
                    UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
                    INT8OID, INT4OID,
                ],
            )?,
            job_status: prepare(JOB_STATUS, &[UUIDOID])?,
            cancelled_jobs: prepare(CANCELLED_JOBS, &[UUIDARRAYOID])?,
            take_over_jobs: prepare(
                include_str!("../../sql/statements/take_over_jobs.sql"),
                &[INT8OID, INT4OID, UUIDARRAYOID],
            )?,
            forget_jobs: prepare(include_str!("../../sql/statements/forget_jobs.sql"), &[INT4OID])?,
            any_jobs: prepare(ANY_JOBS, &[])?,
            cooling: prepare(include_str!("../../sql/statements/cooling.sql"), &[])?,
            cool: prepare(
                include_str!("../../sql/statements/cool.sql"),
                &[UUIDOID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, INT4OID, TEXTOID],
            )?,
            warm: prepare(WARM, &[UUIDOID, UUIDOID, TEXTOID])?,
        })
    }
}
