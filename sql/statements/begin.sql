-- begin
-- Writes $1 pending rows, one of each array.
INSERT INTO @extschema@.aggregator_usage_logs
    (call_id, attempt, created_at, user_id, provider_id, user_provider_id, model_id, epoch,
     reserved_cost, reserved_tokens, is_platform_key, is_listed)
SELECT $2[i], $3[i], $4[i], $5[i], $6[i], $7[i], $8[i], $13, $9[i]::numeric, $10[i], $11[i], $12[i]
FROM generate_series(1, $1) AS begun (i)
ON CONFLICT DO NOTHING
