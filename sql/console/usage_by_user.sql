-- GET usage-by-user: range, provider, user_id
-- For readers; apart from the other reports, because users may not even name the function.
SELECT jsonb_build_object('total', count(*), 'rows', coalesce(jsonb_agg(to_jsonb(u)
        || jsonb_build_object('cost', u.cost::text)
    ORDER BY u.place) FILTER (WHERE u.place <= 500), '[]'::jsonb))
FROM (
    SELECT row_number() OVER () AS place, used.*
    FROM @extschema@.usage_by_user(coalesce($1 ->> 'range', 'week'), $1 ->> 'provider', $1 ->> 'user_id') AS used
) AS u
