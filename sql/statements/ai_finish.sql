-- Ends the work on entries of column $1, which whoever calls has locked. $2: a list of objects: key and version; status,
-- which is null where the entry is done with; error; after_ms, until it is due once more; is_counted, whether this was
-- a try. What a trigger of the user's has changed in the meantime, in this very transaction, is queued once more.
WITH item AS (
    SELECT
        ARRAY(
            SELECT part FROM jsonb_array_elements_text(value -> 'key') WITH ORDINALITY AS k (part, i) ORDER BY i
        ) AS key,
        (value ->> 'version')::xid8 AS version,
        value ->> 'status' AS status,
        nullif(value -> 'error', 'null') AS error,
        coalesce((value ->> 'after_ms')::bigint, 0) AS after_ms,
        coalesce((value ->> 'is_counted')::boolean, true) AS is_counted
    FROM jsonb_array_elements($2) AS each (value)
),
gone AS (
    DELETE FROM @extschema@.aggregator_ai_queue AS q
    USING item
    WHERE q.column_id = $1::text::uuid
      AND q.key = item.key
      AND q.version = item.version
      AND q.status = 'running'
      AND item.status IS NULL
)
UPDATE @extschema@.aggregator_ai_queue AS q
SET status = item.status,
    error = item.error,
    attempts = CASE WHEN item.is_counted THEN q.attempts ELSE greatest(q.attempts, 1) - 1 END,
    run_after = CASE
        WHEN item.status = 'queued' THEN clock_timestamp() + interval '1 millisecond' * item.after_ms
        ELSE q.run_after
    END
FROM item
WHERE q.column_id = $1::text::uuid
  AND q.key = item.key
  AND q.version = item.version
  AND q.status = 'running'
  AND item.status IS NOT NULL
