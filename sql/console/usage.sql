-- GET usage: range, provider, user_id
-- The reports, as the functions give them. Of a long list the first 500 rows.
WITH asked AS MATERIALIZED (
    SELECT coalesce($1 ->> 'range', 'week') AS p_range, $1 ->> 'provider' AS p_provider, $1 ->> 'user_id' AS p_user_id
),
-- It is looked through for each list, and made once.
listed AS MATERIALIZED (
    SELECT 'by_model' AS name, row_number() OVER () AS place, to_jsonb(m)
        || jsonb_build_object('cost', m.cost::text, 'avg_latency_ms', m.avg_latency_ms::text) AS line
    FROM asked CROSS JOIN LATERAL @extschema@.usage_by_model(asked.p_range, asked.p_provider, asked.p_user_id) AS m
    UNION ALL
    SELECT 'by_key', row_number() OVER (), to_jsonb(k) || jsonb_build_object('cost', k.cost::text)
    FROM asked CROSS JOIN LATERAL @extschema@.usage_by_key(asked.p_range, asked.p_provider, asked.p_user_id) AS k
    UNION ALL
    SELECT 'by_tag', row_number() OVER (), to_jsonb(t) || jsonb_build_object('cost', t.cost::text)
    FROM asked CROSS JOIN LATERAL @extschema@.usage_by_tag(asked.p_range, asked.p_provider, asked.p_user_id) AS t
),
lists AS (
    SELECT jsonb_object_agg(names.name, (
        SELECT jsonb_build_object(
            'total', count(*),
            'rows', coalesce(jsonb_agg(l.line ORDER BY l.place) FILTER (WHERE l.place <= 500), '[]'::jsonb))
        FROM listed AS l
        WHERE l.name = names.name)) AS known
    FROM (VALUES ('by_model'), ('by_key'), ('by_tag')) AS names (name)
)
SELECT jsonb_build_object(
    'range', asked.p_range,
    'since', report.since,
    'user_id', report.user_id,
    'all_users', report.all_users,
    'summary', (
        SELECT to_jsonb(s) || jsonb_build_object('total_cost', s.total_cost::text, 'avg_latency_ms', s.avg_latency_ms::text)
        FROM @extschema@.usage_summary(asked.p_range, asked.p_provider, asked.p_user_id) AS s),
    'over_time', (
        SELECT coalesce(jsonb_agg(to_jsonb(u) || jsonb_build_object('cost', u.cost::text) ORDER BY u.bucket), '[]'::jsonb)
        FROM @extschema@.usage_over_time(asked.p_range, asked.p_provider, asked.p_user_id, NULL::text) AS u),
    'by_status', (
        SELECT coalesce(jsonb_agg(to_jsonb(u) || jsonb_build_object('cost', u.cost::text)), '[]'::jsonb)
        FROM @extschema@.usage_by_status(asked.p_range, asked.p_provider, asked.p_user_id) AS u)
) || lists.known
FROM asked
CROSS JOIN lists
CROSS JOIN LATERAL @extschema@.aggregator_report(asked.p_range, asked.p_provider, asked.p_user_id) AS report
