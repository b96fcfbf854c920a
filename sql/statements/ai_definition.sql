-- The AI column $1, as it is defined and where it is now: no row where it is gone, paused or waits, but for a write ($2).
SELECT c.user_id, c.definer, c.kind, c.model, c.provider, c.request::text, c.concurrency, c.batch_size,
    c.wait_until IS NOT NULL AS has_waited,
    c.backfill_status = 'running' AS backfills,
    c.backfill,
    c.backfill_after,
    r.oid AS role,
    place.table_name || '.' || quote_ident(place.output_name) AS label,
    place.view_name,
    place.key_types,
    place.problem,
    -- A restore makes them last, when all rows are there: a row that is missing before is not gone.
    EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid = place.table_oid
          AND NOT t.tgisinternal
          AND t.tgname LIKE '%' || replace(c.id::text, '-', '') || '%'
    ) AS has_triggers,
    -- Rows of tables that inherit from it are not its own.
    CASE source.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || place.table_name AS target,
    ARRAY(
        SELECT quote_ident(name) FROM unnest(place.key_names) WITH ORDINALITY AS key (name, i) ORDER BY i
    ) AS key_names,
    quote_ident(place.output_name) AS output_name
FROM @extschema@.aggregator_ai_columns AS c
LEFT JOIN LATERAL @extschema@.aggregator_ai_place(c.id) AS place ON true
LEFT JOIN pg_class AS source ON source.oid = place.table_oid
LEFT JOIN pg_roles AS r ON r.rolname = c.definer
WHERE c.id = $1::text::uuid
  AND ($2 OR c.status = 'active')
  AND ($2 OR c.wait_until IS NULL OR c.wait_until <= clock_timestamp())
