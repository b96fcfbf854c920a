-- record
-- Writes rows of @ledger@ (see begin.sql) that were never pending, settled: $1-$27 as settle.sql has them, $28-$35
-- as begin.sql does. Says which of them were not there.
INSERT INTO @ledger@ AS log
    (call_id, attempt, created_at, user_id, status, served_model, prompt_tokens, completion_tokens, total_tokens,
    cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens,
    audio_output_tokens, latency_ms, time_to_first_token_ms, http_status, error_code, request_id, finish_reason,
    cost_estimate, cost_computed, cost_source, reserved_cost, reserved_tokens, metadata,
    provider_id, user_provider_id, model_id, is_platform_key, is_listed, epoch, gateway_key_id, tags)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i], $6[i], $7[i], $8[i], $9[i],
    $10[i], $11[i], $12[i], $13[i], $14[i],
    $15[i], $16[i], $17[i], $18[i], $19[i], $20[i], $21[i],
    $22[i]::numeric, $23[i]::numeric, $24[i], $25[i]::numeric, $26[i], $27[i]::jsonb,
    $28[i], $29[i], $30[i], $31[i], $32[i], $33, $34[i], $35[i]::text[]
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ON CONFLICT DO NOTHING
RETURNING log.call_id, log.attempt
