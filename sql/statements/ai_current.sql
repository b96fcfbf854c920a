-- Of entries of column $1 that the worker of epoch $2 has taken, the places of those whose row nobody has changed
-- since. $3: a list of keys and versions.
SELECT item.place::integer
FROM (
    SELECT place,
        ARRAY(
            SELECT part FROM jsonb_array_elements_text(value -> 0) WITH ORDINALITY AS k (part, i) ORDER BY i
        ) AS key,
        (value ->> 1)::xid8 AS version
    FROM jsonb_array_elements($3) WITH ORDINALITY AS each (value, place)
) AS item
JOIN @extschema@.aggregator_ai_queue AS q ON q.column_id = $1::text::uuid AND q.key = item.key
WHERE q.version = item.version AND q.status = 'running' AND q.epoch = $2
