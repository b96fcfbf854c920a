-- POST set-rate-limit: requests_per_minute, tokens_per_minute, user_id, each_user, provider, model, tag
-- Sets a rate limit, or changes the one of the same scope. For administrators.
SELECT jsonb_build_object('id', @extschema@.set_rate_limit(
    p_requests_per_minute => ($1 ->> 'requests_per_minute')::bigint,
    p_tokens_per_minute => ($1 ->> 'tokens_per_minute')::bigint,
    p_user_id => $1 ->> 'user_id',
    p_each_user => coalesce(($1 ->> 'each_user')::boolean, false),
    p_provider => $1 ->> 'provider',
    p_model => $1 ->> 'model',
    p_gateway_key => NULL::uuid,
    p_tag => $1 ->> 'tag'))
