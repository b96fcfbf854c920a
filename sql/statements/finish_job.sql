-- Ends the run of job $1. $2 status, $3 response, $4 provider, $5 served model, $6 error, $7 cost,
-- $8 cost source. $9: the failure may pass, so it is run again after so many milliseconds, and
-- later each time, at most $10 times in all. $11: it was not sent, because its turn comes later; that
-- is no run. No row: somebody holds a lock on the job, or it does
-- not run.
WITH free AS (
    SELECT job.id,
        CASE WHEN $9 IS NOT NULL AND (job.attempts < $10 OR $11) THEN 'queued' ELSE $2 END AS status
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.id = $1 AND job.status = 'running'
    FOR UPDATE SKIP LOCKED
)
UPDATE @extschema@.aggregator_jobs AS job
SET status = free.status,
    response = $3::jsonb,
    provider_name = $4,
    served_model = $5,
    error = $6::jsonb,
    -- Where a result is written late, the ledger knows what it cost.
    (cost, cost_source) = (
        SELECT coalesce($7::numeric, log.cost_estimate), coalesce($8, log.cost_source)
        FROM (SELECT) AS one
        LEFT JOIN LATERAL (
            SELECT log.cost_estimate, log.cost_source
            FROM @extschema@.aggregator_usage_logs AS log
            WHERE $3 IS NOT NULL AND $8 IS NULL AND log.call_id = job.id AND log.status = 'success'
            ORDER BY log.attempt DESC
            LIMIT 1
        ) AS log ON true
    ),
    run_after = CASE
        -- Spread out, or those that wait for the same thing would all come back at once.
        WHEN free.status = 'queued' AND $11 THEN clock_timestamp() + interval '1 millisecond' * $9 * (1 + random())
        WHEN free.status = 'queued' THEN clock_timestamp()
            + greatest(interval '1 millisecond' * $9, interval '1 second' * least(2 ^ least(job.attempts, 20), 300))
        ELSE job.run_after
    END,
    attempts = CASE WHEN $11 THEN greatest(job.attempts, 1) - 1 ELSE job.attempts END,
    finished_at = CASE WHEN free.status <> 'queued' THEN clock_timestamp() END
FROM free
WHERE job.id = free.id
RETURNING job.status
