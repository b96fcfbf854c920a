-- GET gateway-keys
-- The gateway keys, first those that pass, with what is spent of their limits. 500 at the most.
WITH kept AS MATERIALIZED (
    SELECT k.*
    FROM @extschema@.aggregator_gateway_keys AS k
    ORDER BY k.revoked_at DESC NULLS FIRST, k.created_at DESC, k.id
    LIMIT 500
)
SELECT jsonb_build_object('keys', coalesce(jsonb_agg(
    jsonb_build_object(
        'id', k.id,
        'user_id', k.user_id,
        'is_own', k.user_id = @extschema@.aggregator_user_id(),
        'name', k.name,
        'hint', k.key_hint,
        'models', k.models,
        'tags', k.tags,
        'state', CASE
            WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN k.expires_at <= now() THEN 'expired'
            ELSE 'active' END,
        'expires_at', k.expires_at,
        'created_at', k.created_at,
        'rotated_at', k.rotated_at,
        'old_valid_until', CASE WHEN k.old_valid_until > now() THEN k.old_valid_until END,
        'revoked_at', k.revoked_at,
        'last_used_at', k.last_used_at,
        'budgets', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'period', b.period,
                'action', b.action,
                'resets_at', b.resets_at,
                'limit_usd', b.limit_usd::text,
                'spent_usd', b.spent_usd::text,
                'reserved_usd', b.reserved_usd::text,
                'limit_tokens', b.limit_tokens,
                'spent_tokens', b.spent_tokens,
                'limit_requests', b.limit_requests,
                'spent_requests', b.spent_requests
            ) ORDER BY b.limit_usd), '[]'::jsonb)
            FROM @extschema@.aggregator_budget_status AS b
            WHERE b.gateway_key_id = k.id),
        'requests_per_minute', (
            SELECT min(r.requests_per_minute) FROM @extschema@.aggregator_rate_limits AS r WHERE r.gateway_key_id = k.id),
        'tokens_per_minute', (
            SELECT min(r.tokens_per_minute) FROM @extschema@.aggregator_rate_limits AS r WHERE r.gateway_key_id = k.id)
    ) ORDER BY k.revoked_at DESC NULLS FIRST, k.created_at DESC, k.id), '[]'::jsonb))
FROM kept AS k
