-- partition_of_now
-- The partition that holds what happens now, and from when to when (microseconds since 1970; NULL: without an
-- end): the month's, or else the default one.
WITH month AS (
    SELECT part.partition AS oid, part.since, part.until
    FROM @extschema@.aggregator_partitions() AS part
    WHERE part.since <= now() AND part.until > now()
),
other AS (
    SELECT p.partdefid AS oid
    FROM pg_partitioned_table AS p
    WHERE p.partrelid = '@extschema@.aggregator_usage_logs'::regclass
      AND NOT EXISTS (SELECT FROM month)
),
found AS (
    SELECT month.oid::oid AS oid, month.since, month.until FROM month
    UNION ALL
    SELECT other.oid, NULL, NULL FROM other
)
SELECT c.oid::regclass::text, (extract(epoch FROM found.since) * 1000000)::bigint,
    (extract(epoch FROM found.until) * 1000000)::bigint
FROM found
JOIN pg_class AS c ON c.oid = found.oid
-- A foreign table, say, is written through the ledger alone.
WHERE c.relkind = 'r'
