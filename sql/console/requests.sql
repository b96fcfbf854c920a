-- GET requests: before, limit, status, model, provider, key, tag, user_id
-- The usage log, newest first, a page at a time. before is what the page before gave as next. It looks back an
-- hour, then a day, and so on, and stops where the page is full: who sees all users' rows has no index by time.
WITH asked AS MATERIALIZED (
    SELECT least(greatest(coalesce(($1 ->> 'limit')::integer, 50), 1), 200) AS page,
        split_part($1 ->> 'before', '~', 1)::timestamptz AS at,
        split_part($1 ->> 'before', '~', 2)::uuid AS call_id,
        split_part($1 ->> 'before', '~', 3)::smallint AS attempt,
        @extschema@.aggregator_provider_id($1 ->> 'provider') AS provider_id
),
found AS MATERIALIZED (
    SELECT log.*
    FROM asked
    CROSS JOIN LATERAL (SELECT coalesce(asked.at, now() + interval '1 minute') AS newest) AS start
    -- The ages are in order, and each is asked only where those before were not enough.
    CROSS JOIN LATERAL (VALUES
        (start.newest, start.newest - interval '1 hour'),
        (start.newest - interval '1 hour', start.newest - interval '1 day'),
        (start.newest - interval '1 day', start.newest - interval '7 days'),
        (start.newest - interval '7 days', start.newest - interval '30 days'),
        (start.newest - interval '30 days', '-infinity'::timestamptz)
    ) AS age (upper, lower)
    CROSS JOIN LATERAL (
        SELECT l.created_at, l.call_id, l.attempt, l.user_id, l.provider_id, l.model_id, l.served_model, l.status,
            l.error_code, l.http_status, l.prompt_tokens, l.completion_tokens, l.total_tokens, l.cost_estimate,
            l.cost_source, l.latency_ms, l.time_to_first_token_ms, l.gateway_key_id, l.tags
        FROM @extschema@.aggregator_usage_logs AS l
        WHERE l.created_at > age.lower
          AND l.created_at <= age.upper
          AND (asked.at IS NULL OR (l.created_at, l.call_id, l.attempt) < (asked.at, asked.call_id, asked.attempt))
          AND ($1 ->> 'status' IS NULL OR l.status = $1 ->> 'status')
          AND ($1 ->> 'model' IS NULL OR strpos(lower(l.model_id), lower($1 ->> 'model')) > 0)
          AND ($1 ->> 'provider' IS NULL OR l.provider_id = asked.provider_id)
          AND ($1 ->> 'key' IS NULL OR l.gateway_key_id = ($1 ->> 'key')::uuid)
          AND ($1 ->> 'tag' IS NULL OR $1 ->> 'tag' = ANY (l.tags))
          AND ($1 ->> 'user_id' IS NULL OR l.user_id = $1 ->> 'user_id')
        ORDER BY l.created_at DESC, l.call_id DESC, l.attempt DESC
        LIMIT asked.page + 1
    ) AS log
    LIMIT (SELECT asked.page + 1 FROM asked)
),
numbered AS (
    SELECT found.*, row_number() OVER (ORDER BY found.created_at DESC, found.call_id DESC, found.attempt DESC) AS place
    FROM found
)
SELECT jsonb_build_object(
    'requests', coalesce(jsonb_agg(jsonb_build_object(
        'created_at', n.created_at,
        'call_id', n.call_id,
        'attempt', n.attempt,
        'user_id', n.user_id,
        'provider', coalesce(p.name, n.provider_id::text),
        'model', n.model_id,
        'served_model', n.served_model,
        'status', n.status,
        'error_code', n.error_code,
        'http_status', n.http_status,
        'prompt_tokens', n.prompt_tokens,
        'completion_tokens', n.completion_tokens,
        'total_tokens', n.total_tokens,
        'cost', n.cost_estimate::text,
        'cost_source', n.cost_source,
        'latency_ms', n.latency_ms,
        'time_to_first_token_ms', n.time_to_first_token_ms,
        'gateway_key_id', n.gateway_key_id,
        'gateway_key', k.name,
        'tags', n.tags
    ) ORDER BY n.place) FILTER (WHERE n.place <= asked.page), '[]'::jsonb),
    -- Where the page ends, if there is another one.
    'next', CASE WHEN count(n.place) > max(asked.page) THEN max(
        (to_jsonb(n.created_at) #>> '{}') || '~' || n.call_id || '~' || n.attempt
    ) FILTER (WHERE n.place = asked.page) END)
FROM asked
LEFT JOIN numbered AS n ON true
LEFT JOIN @extschema@.api_providers AS p ON p.id = n.provider_id
LEFT JOIN @extschema@.aggregator_gateway_keys AS k ON k.id = n.gateway_key_id
