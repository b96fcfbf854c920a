-- POST create-gateway-key: name, models, expires_at, limit_usd, period, requests_per_minute, tokens_per_minute, tags
-- Makes a gateway key of the caller, and shows it this one time.
SELECT jsonb_build_object('id', made.id, 'key', made.key)
FROM @extschema@.create_gateway_key(
    p_name => $1 ->> 'name',
    -- What is no list refuses: without one, nothing would be kept to.
    p_models => CASE WHEN jsonb_typeof($1 -> 'models') <> 'null'
        THEN ARRAY(SELECT jsonb_array_elements_text($1 -> 'models')) END,
    p_expires_at => ($1 ->> 'expires_at')::timestamptz,
    p_limit_usd => ($1 ->> 'limit_usd')::numeric,
    p_period => coalesce($1 ->> 'period', 'month'),
    p_requests_per_minute => ($1 ->> 'requests_per_minute')::bigint,
    p_tokens_per_minute => ($1 ->> 'tokens_per_minute')::bigint,
    p_tags => CASE WHEN jsonb_typeof($1 -> 'tags') <> 'null'
        THEN ARRAY(SELECT jsonb_array_elements_text($1 -> 'tags')) END
) AS made
