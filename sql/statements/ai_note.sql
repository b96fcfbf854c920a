-- Notes of column $1 that it waits for $2 milliseconds (0: for nothing any more; NULL: as it did), and its last error
-- $3. Somebody who pauses it holds a lock on it, and is not waited for: then it gives no row.
UPDATE @extschema@.aggregator_ai_columns AS c
SET wait_until = CASE
        WHEN $2 IS NULL THEN c.wait_until
        WHEN $2 > 0 THEN clock_timestamp() + interval '1 millisecond' * $2
    END,
    last_error = coalesce($3, c.last_error),
    last_error_at = CASE WHEN $3 IS NULL THEN c.last_error_at ELSE clock_timestamp() END
FROM (
    SELECT free.id FROM @extschema@.aggregator_ai_columns AS free
    WHERE free.id = $1::text::uuid
    FOR UPDATE SKIP LOCKED
) AS free
WHERE c.id = free.id
RETURNING c.id
