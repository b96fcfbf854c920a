-- settle
-- Settles $1 rows, one of each array: $2-$5 their keys and users, created from $6 to $7. Says which of
-- them were pending.
UPDATE @extschema@.aggregator_usage_logs AS log
SET status = $8[i],
    served_model = $9[i],
    prompt_tokens = $10[i],
    completion_tokens = $11[i],
    total_tokens = $12[i],
    cache_read_tokens = $13[i],
    cache_write_tokens = $14[i],
    cache_write_1h_tokens = $15[i],
    audio_input_tokens = $16[i],
    reasoning_tokens = $17[i],
    audio_output_tokens = $18[i],
    latency_ms = $19[i],
    time_to_first_token_ms = $20[i],
    http_status = $21[i],
    error_code = $22[i],
    request_id = $23[i],
    finish_reason = $24[i],
    cost_estimate = $25[i]::numeric,
    cost_computed = $26[i]::numeric,
    cost_source = $27[i],
    reserved_cost = $28[i]::numeric,
    reserved_tokens = $29[i],
    metadata = $30[i]::jsonb
FROM generate_series(1, $1) AS settled (i)
WHERE log.call_id = $2[i]
  AND log.attempt = $3[i]
  AND log.created_at = $4[i]
  -- So that only their partitions are opened.
  AND log.created_at BETWEEN $6 AND $7
  AND log.user_id = $5[i]
  AND log.status = 'pending'
RETURNING settled.i
