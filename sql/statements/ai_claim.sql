-- Leases the entries of column $1 that are due first to the worker of epoch $2, at most $3 of them. Whoever changes a
-- row holds a lock on its entry, and keeps it.
WITH due AS (
    SELECT q.key
    FROM @extschema@.aggregator_ai_queue AS q
    WHERE q.column_id = $1::text::uuid AND q.status = 'queued' AND q.run_after <= clock_timestamp()
    ORDER BY q.run_after
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE @extschema@.aggregator_ai_queue AS q
SET status = 'running', epoch = $2, attempts = least(q.attempts, 2000000000) + 1
FROM due
WHERE q.column_id = $1::text::uuid AND q.key = due.key
RETURNING q.key, q.version::text, q.attempts
