-- Jobs that nobody runs: those of dead workers ($1: this epoch), whose leases end with them, and $3,
-- which this one has found to be lost. They are run again, at most $2 times in all.
WITH lost AS (
    SELECT job.id, job.attempts >= $2 AS is_over
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.status = 'running'
      AND (job.epoch IS DISTINCT FROM $1 OR job.id = ANY ($3))
    FOR UPDATE SKIP LOCKED
)
UPDATE @extschema@.aggregator_jobs AS job
SET status = CASE WHEN lost.is_over THEN 'failed' ELSE 'queued' END,
    error = CASE WHEN lost.is_over THEN jsonb_build_object(
        'message', format('the job was run %s times, and its worker died during the last', job.attempts),
        'code', 'worker_died',
        'sqlstate', 'PT502',
        'hint', 'The calls may have been paid for: see aggregator_usage_logs.') END,
    finished_at = CASE WHEN lost.is_over THEN clock_timestamp() END
FROM lost
WHERE job.id = lost.id
RETURNING job.id, lost.is_over
