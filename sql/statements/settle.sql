-- settle
-- Settles rows of @ledger@ (see begin.sql), one of each array: $1-$3 their keys, $4 whose they are as far as the worker
-- knows. Says which of them were pending, and whose they are and what they are found by now: a user may have been
-- forgotten meanwhile, or is being forgotten. The user only where it is another one, which is rare.
UPDATE @ledger@ AS log
SET status = $5[i],
    served_model = $6[i],
    prompt_tokens = $7[i],
    completion_tokens = $8[i],
    total_tokens = $9[i],
    cache_read_tokens = $10[i],
    cache_write_tokens = $11[i],
    cache_write_1h_tokens = $12[i],
    audio_input_tokens = $13[i],
    reasoning_tokens = $14[i],
    audio_output_tokens = $15[i],
    latency_ms = $16[i],
    time_to_first_token_ms = $17[i],
    http_status = $18[i],
    error_code = $19[i],
    request_id = $20[i],
    finish_reason = $21[i],
    cost_estimate = $22[i]::numeric,
    cost_computed = $23[i]::numeric,
    cost_source = $24[i],
    reserved_cost = $25[i]::numeric,
    reserved_tokens = $26[i],
    metadata = $27[i]::jsonb
FROM unnest($1) WITH ORDINALITY AS given (first, i)
WHERE log.call_id = $1[i]
  AND log.attempt = $2[i]
  AND log.created_at = $3[i]
  AND log.status = 'pending'
  -- What is with Citus is not pending, and cannot be changed here.
  AND log.created_at >= @extschema@.aggregator_archived_until()
RETURNING i::integer, CASE WHEN log.user_id <> $4[i] THEN log.user_id END, log.gateway_key_id, log.tags
