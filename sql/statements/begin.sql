INSERT INTO @extschema@.aggregator_usage_logs
    (call_id, attempt, created_at, user_id, provider_id, user_provider_id, model_id, epoch,
     reserved_cost, reserved_tokens, is_platform_key, is_listed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::numeric, $10, $11, $12)
ON CONFLICT DO NOTHING
