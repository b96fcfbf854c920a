-- Queues the rows with the keys $2 (a list of lists) of column $1, and notes that so many ($3) were looked at, up to
-- the one with the key $4. $5: those were all. Keys that no index holds are passed over. Gives how many were queued.
WITH added AS (
    INSERT INTO @extschema@.aggregator_ai_queue AS q (column_id, key)
    SELECT $1::text::uuid, row.key
    FROM (
        SELECT ARRAY(
            SELECT part FROM jsonb_array_elements_text(value) WITH ORDINALITY AS k (part, i) ORDER BY i
        ) AS key
        FROM jsonb_array_elements($2) AS each (value)
    ) AS row
    WHERE octet_length(array_to_string(row.key, '')) <= 2000
    ON CONFLICT (column_id, key) DO NOTHING
    RETURNING 1
),
moved AS (
    UPDATE @extschema@.aggregator_ai_columns AS c
    SET backfill_after = coalesce($4, c.backfill_after),
        backfill_seen = c.backfill_seen + $3,
        backfill_status = CASE WHEN $5 THEN 'done' ELSE c.backfill_status END
    WHERE c.id = $1::text::uuid AND c.backfill_status = 'running'
)
SELECT count(*)::integer FROM added
