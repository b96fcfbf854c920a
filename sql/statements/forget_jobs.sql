-- Deletes jobs that ended more than $1 seconds ago, some at a time.
DELETE FROM @extschema@.aggregator_jobs AS job
USING (
    SELECT old.id
    FROM @extschema@.aggregator_jobs AS old
    WHERE old.status IN ('succeeded', 'failed', 'cancelled')
      AND old.finished_at < now() - interval '1 second' * $1
    ORDER BY old.finished_at
    LIMIT 2000
    FOR UPDATE SKIP LOCKED
) AS old
WHERE job.id = old.id
RETURNING 1
