-- The budgets of these ids, as a gateway keeps them.
SELECT b.id, b.user_id, b.each_user, b.provider_id, b.model_id, b.period, b.limit_usd::text, b.limit_tokens,
    b.limit_requests, b.action = 'block', b.keys, b.gateway_key_id, b.tag
FROM @extschema@.aggregator_budgets AS b
WHERE b.id = ANY ($1)
