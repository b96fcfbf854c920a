-- GET limits
-- Budgets with what is spent of them, rate limits, and the warnings of the last 30 days, as far as the caller sees
-- them. Those of gateway keys are with the keys. A budget for each user has a row for each; 500 at the most.
WITH budgets AS MATERIALIZED (
    SELECT b.*,
        greatest(
            (b.spent_usd + b.reserved_usd) / nullif(b.limit_usd, 0),
            (b.spent_tokens::numeric + b.reserved_tokens) / nullif(b.limit_tokens, 0),
            (b.spent_requests::numeric + b.reserved_requests) / nullif(b.limit_requests, 0)) AS share
    FROM @extschema@.aggregator_budget_status AS b
    WHERE b.gateway_key_id IS NULL
    ORDER BY share DESC NULLS LAST, b.budget_id, b.user_id
    LIMIT 500
),
rates AS MATERIALIZED (
    SELECT r.*, p.name AS provider_name
    FROM @extschema@.aggregator_rate_limits AS r
    LEFT JOIN @extschema@.api_providers AS p ON p.id = r.provider_id
    WHERE r.gateway_key_id IS NULL
    ORDER BY r.created_at, r.id
    LIMIT 500
),
warnings AS MATERIALIZED (
    SELECT w.*, b.period, b.limit_usd, b.limit_tokens, b.limit_requests, b.action
    FROM @extschema@.aggregator_budget_warnings AS w
    LEFT JOIN @extschema@.aggregator_budgets AS b ON b.id = w.budget_id
    WHERE w.created_at > now() - interval '30 days'
    ORDER BY w.created_at DESC, w.id
    LIMIT 50
)
SELECT jsonb_build_object(
    'budgets', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'id', b.budget_id,
            'user_id', b.user_id,
            'each_user', b.each_user,
            'provider', b.provider_name,
            'model', b.model_id,
            'tag', b.tag,
            'period', b.period,
            'action', b.action,
            'keys', b.keys,
            'period_start', b.period_start,
            'resets_at', b.resets_at,
            'limit_usd', b.limit_usd::text,
            'spent_usd', b.spent_usd::text,
            'reserved_usd', b.reserved_usd::text,
            'limit_tokens', b.limit_tokens,
            'spent_tokens', b.spent_tokens,
            'reserved_tokens', b.reserved_tokens,
            'limit_requests', b.limit_requests,
            'spent_requests', b.spent_requests,
            'reserved_requests', b.reserved_requests
        ) ORDER BY b.share DESC NULLS LAST, b.budget_id, b.user_id), '[]'::jsonb)
        FROM budgets AS b),
    'rate_limits', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'id', r.id,
            'user_id', r.user_id,
            'each_user', r.each_user,
            'provider', r.provider_name,
            'model', r.model_id,
            'tag', r.tag,
            'requests_per_minute', r.requests_per_minute,
            'tokens_per_minute', r.tokens_per_minute
        ) ORDER BY r.created_at, r.id), '[]'::jsonb)
        FROM rates AS r),
    'warnings', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'budget_id', w.budget_id,
            'user_id', w.user_id,
            'percent', w.percent,
            'created_at', w.created_at,
            'period', w.period,
            'action', w.action,
            'spent_usd', w.spent_usd::text,
            'limit_usd', w.limit_usd::text,
            'spent_tokens', w.spent_tokens,
            'limit_tokens', w.limit_tokens,
            'spent_requests', w.spent_requests,
            'limit_requests', w.limit_requests
        ) ORDER BY w.created_at DESC, w.id), '[]'::jsonb)
        FROM warnings AS w)
)
