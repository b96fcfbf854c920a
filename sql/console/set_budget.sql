-- POST set-budget: limit_usd, limit_tokens, limit_requests, period, user_id, each_user, provider, model, action, keys, tag
-- Sets a budget, or changes the one of the same scope. For administrators.
SELECT jsonb_build_object('id', @extschema@.set_budget(
    p_limit_usd => ($1 ->> 'limit_usd')::numeric,
    p_limit_tokens => ($1 ->> 'limit_tokens')::bigint,
    p_limit_requests => ($1 ->> 'limit_requests')::bigint,
    p_period => coalesce($1 ->> 'period', 'month'),
    p_user_id => $1 ->> 'user_id',
    p_each_user => coalesce(($1 ->> 'each_user')::boolean, false),
    p_provider => $1 ->> 'provider',
    p_model => $1 ->> 'model',
    p_action => coalesce($1 ->> 'action', 'block'),
    p_keys => $1 ->> 'keys',
    p_gateway_key => NULL::uuid,
    p_tag => $1 ->> 'tag'))
