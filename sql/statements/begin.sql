-- begin
-- Writes pending rows, one of each array. @ledger@: all of it, or the partition that they belong to. What is
-- about gateway keys ($13) and tags ($14, each an array) is left out where no row has any.
INSERT INTO @ledger@
    (call_id, attempt, created_at, user_id, provider_id, user_provider_id, model_id, epoch,
     reserved_cost, reserved_tokens, is_platform_key, is_listed, gateway_key_id, tags)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i], $6[i], $7[i], $12, $8[i]::numeric, $9[i], $10[i], $11[i],
    $13[i], $14[i]::text[]
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ON CONFLICT DO NOTHING
