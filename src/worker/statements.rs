//! The worker's prepared statements.

use crate::columns;
use crate::installed::{Installed, VERSION};
use pgrx::PgOid;
use pgrx::pg_sys::{
    BOOLARRAYOID, BOOLOID, BYTEAARRAYOID, BYTEAOID, FLOAT8OID, INT2OID, INT4OID, INT8ARRAYOID,
    INT8OID, OIDOID, Oid, TEXTARRAYOID, TEXTOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID, UUIDARRAYOID,
    UUIDOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};

/// Prepared once per life of the worker.
pub struct Statements {
    pub close_orphans: OwnedPreparedStatement,
    pub retry_orphans: OwnedPreparedStatement,
    pub set_aside: OwnedPreparedStatement,
    pub wanted_settlements: OwnedPreparedStatement,
    pub forget_quarantined: OwnedPreparedStatement,
    pub version: OwnedPreparedStatement,
    pub any_quarantined: OwnedPreparedStatement,
    pub fail_first: OwnedPreparedStatement,
    pub maintain: OwnedPreparedStatement,
    pub used: OwnedPreparedStatement,
    pub used_gateway_keys: OwnedPreparedStatement,
    pub store: OwnedPreparedStatement,
    pub store_own: OwnedPreparedStatement,
    pub note_check: OwnedPreparedStatement,
    pub recent_checks: OwnedPreparedStatement,
    pub low_water: OwnedPreparedStatement,
    pub claim_users: OwnedPreparedStatement,
    pub claim: OwnedPreparedStatement,
    pub finish_jobs: OwnedPreparedStatement,
    pub late_costs: OwnedPreparedStatement,
    pub job_statuses: OwnedPreparedStatement,
    pub cancelled_jobs: OwnedPreparedStatement,
    pub take_over_jobs: OwnedPreparedStatement,
    pub forget_jobs: OwnedPreparedStatement,
    pub any_jobs: OwnedPreparedStatement,
    pub lost_jobs: OwnedPreparedStatement,
    pub known_jobs: OwnedPreparedStatement,
    pub give_back_jobs: OwnedPreparedStatement,
    pub notify_jobs: OwnedPreparedStatement,
    pub forget_cooling: OwnedPreparedStatement,
    pub cooling: OwnedPreparedStatement,
    pub cool: OwnedPreparedStatement,
    pub hidden: OwnedPreparedStatement,
    pub note_hidden: OwnedPreparedStatement,
    pub warm: OwnedPreparedStatement,
    pub forgotten: OwnedPreparedStatement,
    pub sweep_forgotten: OwnedPreparedStatement,
    pub spent: OwnedPreparedStatement,
    pub last_minute: OwnedPreparedStatement,
    pub leases: OwnedPreparedStatement,
    pub listen_to_gateway: OwnedPreparedStatement,
    pub budgets_to_lease: OwnedPreparedStatement,
    pub keep_leases: OwnedPreparedStatement,
    pub gateways: OwnedPreparedStatement,
    pub settlements: OwnedPreparedStatement,
    pub budget_warning: OwnedPreparedStatement,
    pub find_answer: OwnedPreparedStatement,
    pub keep_answer: OwnedPreparedStatement,
    pub evict_answers: OwnedPreparedStatement,
    pub expire_answers: OwnedPreparedStatement,
    pub count_answers: OwnedPreparedStatement,
    pub due_columns: OwnedPreparedStatement,
    pub any_columns: OwnedPreparedStatement,
}

const CLOSE_ORPHANS: &str =
    "SELECT orphans.set_aside FROM @extschema@.aggregator_close_orphans($1) AS orphans";
const RETRY_ORPHANS: &str =
    "SELECT orphans.set_aside FROM @extschema@.aggregator_retry_orphans() AS orphans";
const SET_ASIDE: &str = "SELECT @extschema@.aggregator_set_aside($1, $2, $3, $4, $5, $6, $7)";
/// Asked for once: whatever becomes of them, they are not asked for any more.
const WANTED_SETTLEMENTS: &str = "
    UPDATE @extschema@.aggregator_quarantine AS kept
    SET retry_at = NULL
    FROM (
        SELECT wanted.call_id, wanted.attempt, wanted.created_at
        FROM @extschema@.aggregator_quarantine AS wanted
        WHERE wanted.retry_at <= now() AND wanted.settlement IS NOT NULL
        LIMIT 100
        FOR UPDATE SKIP LOCKED
    ) AS wanted
    WHERE kept.call_id = wanted.call_id
      AND kept.attempt = wanted.attempt
      AND kept.created_at = wanted.created_at
    RETURNING kept.settlement";
const FORGET_QUARANTINED: &str = "
    DELETE FROM @extschema@.aggregator_quarantine
    WHERE call_id = $1 AND attempt = $2 AND created_at = $3";
const ANY_QUARANTINED: &str = "SELECT EXISTS (SELECT FROM @extschema@.aggregator_quarantine)";
/// The job of user $1 that is due first, as claim.sql would take it, for the reason $2.
const FAIL_FIRST: &str = "
    UPDATE @extschema@.aggregator_jobs AS job
    SET status = 'failed', error = $2::jsonb, finished_at = clock_timestamp()
    FROM (
        SELECT due.id
        FROM @extschema@.aggregator_jobs AS due
        WHERE due.status = 'queued' AND due.user_id = $1 AND due.run_after <= now()
        ORDER BY due.run_after
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE job.id = due.id
    RETURNING job.id";
const STORE: &str =
    "SELECT @extschema@.aggregator_store_catalogue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const STORE_OWN: &str =
    "SELECT @extschema@.aggregator_store_user_models($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const NOTE_CHECK: &str = "
    INSERT INTO @extschema@.aggregator_key_checks
        (created_at, kind, user_id, provider_id, outcome, error_code, http_status, latency_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const RECENT_CHECKS: &str = "
    SELECT (extract(epoch FROM k.created_at) * 1000000)::bigint
    FROM @extschema@.aggregator_key_checks AS k
    WHERE k.user_id = $1 AND k.provider_id = $2 AND k.created_at > $3
    ORDER BY k.created_at";
const MAINTAIN: &str = "SELECT @extschema@.aggregator_maintain_usage($1, $2)";
const LOW_WATER: &str = "
    UPDATE @extschema@.aggregator_worker_epochs SET low_water = $2 WHERE epoch = $1";
/// What jobs cost that were answered, with the answers that did not fit their schema. Of one whose cost is not known, the
/// sum is not known either.
const LATE_COSTS: &str = "
    SELECT late.i::integer, log.cost::text, log.cost_source
    FROM unnest($1) WITH ORDINALITY AS late (id, i)
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN count(log.cost_estimate) = count(*) THEN sum(log.cost_estimate) END AS cost,
            CASE
                WHEN min(log.cost_source) = max(log.cost_source) THEN min(log.cost_source)
                WHEN count(log.cost_estimate) < count(*)
                    THEN min(log.cost_source) FILTER (WHERE log.cost_estimate IS NULL)
                ELSE 'computed'
            END AS cost_source
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.call_id = late.id AND log.status = 'success'
          AND log.created_at >= @extschema@.aggregator_archived_until()
        HAVING count(*) > 0
    ) AS log";
const JOB_STATUSES: &str = "
    SELECT job.id, job.status FROM @extschema@.aggregator_jobs AS job WHERE job.id = ANY ($1)";
/// Of the jobs that run: those that were cancelled, and, of those that were claimed ($1), those
/// that are no more (forget_user). $2 may not be committed yet.
const CANCELLED_JOBS: &str = "
    SELECT claimed.id
    FROM unnest($1) AS claimed (id)
    LEFT JOIN @extschema@.aggregator_jobs AS job ON job.id = claimed.id
    WHERE job.id IS NULL OR job.status = 'cancelled'
    UNION ALL
    SELECT job.id FROM @extschema@.aggregator_jobs AS job
    WHERE job.id = ANY ($2) AND job.status = 'cancelled'";
/// A transaction that is prepared may hold jobs, and tells nobody of its commit.
const ANY_JOBS: &str = "
    SELECT EXISTS (SELECT FROM @extschema@.aggregator_jobs AS job WHERE job.status = 'queued')
        OR EXISTS (SELECT FROM @extschema@.aggregator_jobs AS job WHERE job.status = 'running')
        OR EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database())";
/// Jobs that this epoch ($1) holds by the table, but not among those that it runs ($2).
const LOST_JOBS: &str = "
    SELECT job.id FROM @extschema@.aggregator_jobs AS job
    WHERE job.status = 'running' AND job.epoch = $1 AND job.id <> ALL ($2)
    LIMIT 1000";
/// Of these jobs, those that are there.
const KNOWN_JOBS: &str = "
    SELECT job.id FROM @extschema@.aggregator_jobs AS job WHERE job.id = ANY ($1)";
/// At an orderly end: what was aborted has not been run.
const GIVE_BACK_JOBS: &str = "
    UPDATE @extschema@.aggregator_jobs AS job
    SET status = 'queued', attempts = greatest(job.attempts, 1) - 1
    FROM (
        SELECT own.id FROM @extschema@.aggregator_jobs AS own
        WHERE own.status = 'running' AND own.epoch = $1
        FOR UPDATE SKIP LOCKED
    ) AS own
    WHERE job.id = own.id";
const NOTIFY_JOBS: &str = "
    SELECT pg_catalog.pg_notify('aggregator_jobs', ended.id::text) FROM unnest($1) AS ended (id)";
/// What has been well for a while, and keys that are gone.
const FORGET_COOLING: &str = "
    DELETE FROM @extschema@.aggregator_cooling AS cold
    WHERE cold.cooling_until < now() - interval '10 minutes'
       OR (cold.user_provider_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM @extschema@.user_api_providers AS k WHERE k.id = cold.user_provider_id))";
/// The last millisecond of the calls of users who were forgotten.
const FORGOTTEN: &str = "
    SELECT gone.user_hash, (extract(epoch FROM gone.forgotten_at) * 1000)::bigint
    FROM @extschema@.aggregator_forgotten AS gone
    WHERE gone.forgotten_at > now() - interval '25 hours' AND isfinite(gone.forgotten_at)";
const SWEEP_FORGOTTEN: &str = "
    SELECT @extschema@.aggregator_sweep_forgotten()
    WHERE EXISTS (SELECT FROM @extschema@.aggregator_forgotten)";
/// Of providers that are gone nothing is kept.
const HIDDEN: &str = "
    WITH gone AS (
        DELETE FROM @extschema@.aggregator_hidden_tokens AS seen
        WHERE NOT EXISTS (SELECT FROM @extschema@.api_providers AS p WHERE p.id = seen.provider_id)
    )
    SELECT seen.provider_id, seen.model_id, seen.prompt_tokens, seen.completion_tokens
    FROM @extschema@.aggregator_hidden_tokens AS seen";
const NOTE_HIDDEN: &str = "
    INSERT INTO @extschema@.aggregator_hidden_tokens AS seen (provider_id, model_id, prompt_tokens, completion_tokens)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (provider_id, model_id) DO UPDATE
    SET prompt_tokens = greatest(seen.prompt_tokens, excluded.prompt_tokens),
        completion_tokens = greatest(seen.completion_tokens, excluded.completion_tokens),
        noted_at = now()";
/// As many as there can be, and one more.
const GATEWAYS: &str = "
    SELECT known.name FROM @extschema@.aggregator_gateways AS known ORDER BY known.name LIMIT 1001";
/// Grows with each.
const SETTLEMENTS: &str = "
    SELECT coalesce(sum(heard.settlements), 0)::bigint FROM @extschema@.aggregator_gateway_messages AS heard";
/// Bytes of all kept answers.
const COUNT_ANSWERS: &str = "
    SELECT coalesce(sum(kept.size), 0)::bigint FROM @extschema@.aggregator_cache AS kept";
/// Whether an AI column that is not paused has rows that wait, or were there before it.
const ANY_COLUMNS: &str = "
    SELECT EXISTS (
        SELECT FROM @extschema@.aggregator_ai_columns AS c
        WHERE c.status = 'active'
          AND (c.backfill_status = 'running' OR EXISTS (
              SELECT FROM @extschema@.aggregator_ai_queue AS q
              WHERE q.column_id = c.id AND q.status IN ('queued', 'running'))))";
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
            close_orphans: prepare(CLOSE_ORPHANS, &[INT8OID])?,
            retry_orphans: prepare(RETRY_ORPHANS, &[])?,
            set_aside: prepare(
                SET_ASIDE,
                &[UUIDOID, INT2OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT4OID, TEXTOID],
            )?,
            wanted_settlements: prepare(WANTED_SETTLEMENTS, &[])?,
            forget_quarantined: prepare(FORGET_QUARANTINED, &[UUIDOID, INT2OID, TIMESTAMPTZOID])?,
            version: prepare(VERSION, &[OIDOID])?,
            any_quarantined: prepare(ANY_QUARANTINED, &[])?,
            fail_first: prepare(FAIL_FIRST, &[TEXTOID, TEXTOID])?,
            maintain: prepare(MAINTAIN, &[BOOLOID, INT4OID])?,
            used: prepare(include_str!("../../sql/statements/used.sql"), &[UUIDARRAYOID])?,
            used_gateway_keys: prepare(
                include_str!("../../sql/statements/used_gateway_keys.sql"),
                &[UUIDARRAYOID],
            )?,
            store: prepare(STORE, &[&[UUIDOID, BOOLOID], &columns::TYPES[..]].concat())?,
            store_own: prepare(STORE_OWN, &[&[TEXTOID, UUIDOID], &columns::TYPES[..]].concat())?,
            note_check: prepare(
                NOTE_CHECK,
                &[TIMESTAMPTZOID, TEXTOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, INT2OID, INT4OID],
            )?,
            recent_checks: prepare(RECENT_CHECKS, &[TEXTOID, UUIDOID, TIMESTAMPTZOID])?,
            low_water: prepare(LOW_WATER, &[INT8OID, TIMESTAMPTZOID])?,
            claim_users: prepare(
                include_str!("../../sql/statements/claim_users.sql"),
                &[TEXTOID, INT4OID],
            )?,
            claim: prepare(
                include_str!("../../sql/statements/claim.sql"),
                &[TEXTOID, INT8OID, INT8OID, INT8OID],
            )?,
            finish_jobs: prepare(
                include_str!("../../sql/statements/finish_jobs.sql"),
                &[
                    UUIDARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    BOOLARRAYOID,
                    INT4OID,
                ],
            )?,
            late_costs: prepare(LATE_COSTS, &[UUIDARRAYOID])?,
            job_statuses: prepare(JOB_STATUSES, &[UUIDARRAYOID])?,
            cancelled_jobs: prepare(CANCELLED_JOBS, &[UUIDARRAYOID, UUIDARRAYOID])?,
            take_over_jobs: prepare(
                include_str!("../../sql/statements/take_over_jobs.sql"),
                &[INT8OID, INT4OID, UUIDARRAYOID],
            )?,
            forget_jobs: prepare(include_str!("../../sql/statements/forget_jobs.sql"), &[INT4OID])?,
            any_jobs: prepare(ANY_JOBS, &[])?,
            lost_jobs: prepare(LOST_JOBS, &[INT8OID, UUIDARRAYOID])?,
            known_jobs: prepare(KNOWN_JOBS, &[UUIDARRAYOID])?,
            give_back_jobs: prepare(GIVE_BACK_JOBS, &[INT8OID])?,
            notify_jobs: prepare(NOTIFY_JOBS, &[UUIDARRAYOID])?,
            forget_cooling: prepare(FORGET_COOLING, &[])?,
            cooling: prepare(include_str!("../../sql/statements/cooling.sql"), &[])?,
            cool: prepare(
                include_str!("../../sql/statements/cool.sql"),
                &[UUIDOID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, INT4OID, TEXTOID],
            )?,
            spent: prepare(
                include_str!("../../sql/statements/spent.sql"),
                &[TIMESTAMPTZOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID],
            )?,
            last_minute: prepare(
                include_str!("../../sql/statements/last_minute.sql"),
                &[TIMESTAMPTZOID, TEXTOID, UUIDOID, TEXTOID, UUIDOID, TEXTOID],
            )?,
            leases: prepare(
                include_str!("../../sql/statements/leases.sql"),
                &[UUIDOID, TEXTOID, TIMESTAMPTZOID],
            )?,
            listen_to_gateway: prepare(
                include_str!("../../sql/statements/listen_to_gateway.sql"),
                &[TEXTOID, INT8OID],
            )?,
            budgets_to_lease: prepare(
                include_str!("../../sql/statements/budgets_to_lease.sql"),
                &[UUIDARRAYOID],
            )?,
            keep_leases: prepare(
                include_str!("../../sql/statements/keep_leases.sql"),
                &[
                    TEXTOID,
                    UUIDARRAYOID,
                    TEXTARRAYOID,
                    TIMESTAMPTZARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                ],
            )?,
            gateways: prepare(GATEWAYS, &[])?,
            settlements: prepare(SETTLEMENTS, &[])?,
            budget_warning: prepare(
                include_str!("../../sql/statements/budget_warning.sql"),
                &[UUIDOID, TEXTOID, TIMESTAMPTZOID, INT2OID, TEXTOID, INT8OID, INT8OID],
            )?,
            find_answer: prepare(
                include_str!("../../sql/statements/find_answer.sql"),
                &[BYTEAARRAYOID, FLOAT8OID],
            )?,
            keep_answer: prepare(
                include_str!("../../sql/statements/keep_answer.sql"),
                &[BYTEAOID, TEXTOID, UUIDOID, TEXTOID, BOOLOID, BYTEAOID, INT4OID, FLOAT8OID],
            )?,
            evict_answers: prepare(
                include_str!("../../sql/statements/evict_answers.sql"),
                &[INT4OID, INT8OID],
            )?,
            expire_answers: prepare(
                include_str!("../../sql/statements/expire_answers.sql"),
                &[INT4OID],
            )?,
            count_answers: prepare(COUNT_ANSWERS, &[])?,
            due_columns: prepare(
                include_str!("../../sql/statements/ai_due.sql"),
                &[UUIDARRAYOID, UUIDOID],
            )?,
            any_columns: prepare(ANY_COLUMNS, &[])?,
            hidden: prepare(HIDDEN, &[])?,
            note_hidden: prepare(NOTE_HIDDEN, &[UUIDOID, TEXTOID, INT8OID, INT8OID])?,
            warm: prepare(WARM, &[UUIDOID, UUIDOID, TEXTOID])?,
            forgotten: prepare(FORGOTTEN, &[])?,
            sweep_forgotten: prepare(SWEEP_FORGOTTEN, &[])?,
        })
    }
}
