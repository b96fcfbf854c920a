-- GET users
-- Who used something in the last 30 days and is seen by the caller, the busiest first; 500 at the most.
SELECT jsonb_build_object('users', coalesce(jsonb_agg(u.user_id ORDER BY u.requests DESC, u.user_id), '[]'::jsonb))
FROM (
    SELECT used.user_id, sum(used.requests) AS requests
    FROM @extschema@.aggregator_usage_hourly AS used
    WHERE used.hour >= now() - interval '30 days'
    GROUP BY used.user_id
    ORDER BY requests DESC, used.user_id
    LIMIT 500
) AS u
