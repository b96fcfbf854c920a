-- Leases the jobs of user $1 that are due first to the worker of epoch $2, at most $3 of them and
-- of some $4 bytes. Whoever holds a lock on a job (to cancel it, say) keeps it.
WITH due AS (
    SELECT job.id, job.run_after, job.request_bytes
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.status = 'queued'
      AND job.user_id = $1
      AND job.run_after <= now()
    ORDER BY job.run_after
    LIMIT $3
    FOR UPDATE SKIP LOCKED
),
taken AS (
    SELECT sized.id
    FROM (
        SELECT due.id,
            sum(due.request_bytes::bigint) OVER (ORDER BY due.run_after, due.id) - due.request_bytes AS bytes_before
        FROM due
    ) AS sized
    WHERE sized.bytes_before < $4
)
UPDATE @extschema@.aggregator_jobs AS job
SET status = 'running',
    epoch = $2,
    -- Whatever stands there: one row must not keep all others from being taken.
    attempts = least(job.attempts, 2000000000) + 1,
    started_at = coalesce(job.started_at, now())
FROM taken
WHERE job.id = taken.id
RETURNING job.id,
    -- What is longer than a name can be names no provider, shortened as well.
    left(job.provider, 64),
    job.request::text,
    CASE
        WHEN job.started_at = now() THEN 0
        ELSE (SELECT coalesce(max(log.attempt), 0) FROM @extschema@.aggregator_usage_logs AS log WHERE log.call_id = job.id
            -- Nobody waits for Citus.
            AND log.created_at >= @extschema@.aggregator_archived_until())
    END::smallint,
    job.gateway_key_id
