-- $1-$3 the key, $4 provider, $5 served model, $6 prices of the requested model, $7 disjoint
-- parts, $8 reported cost, $9 free of charge, $24 the parts are an estimate, $26 and $27 the most USD
-- and tokens that the request can have come to. What is reported beyond them is noted as it came,
-- marked, and counts as they say (aggregator_counted, which has the same numbers for a request without).
UPDATE @extschema@.aggregator_usage_logs AS log
SET status = $10,
    served_model = $5,
    prompt_tokens = $11,
    completion_tokens = $12,
    -- least() would make a number of an unknown one.
    total_tokens = CASE WHEN $11 IS NOT NULL AND $12 IS NOT NULL THEN $11 + least($12, 2147483647 - $11) END,
    latency_ms = $13,
    http_status = $14,
    error_code = $15,
    request_id = $16,
    finish_reason = $17,
    cache_read_tokens = $18,
    cache_write_tokens = $19,
    cache_write_1h_tokens = $20,
    audio_input_tokens = $21,
    reasoning_tokens = $22,
    audio_output_tokens = $23,
    time_to_first_token_ms = $25,
    (cost_estimate, cost_computed, cost_source, reserved_cost, reserved_tokens, metadata) = (
        SELECT settled.cost, settled.computed, settled.source,
            CASE WHEN beyond.by_cost THEN $26::numeric ELSE log.reserved_cost END,
            CASE WHEN beyond.by_tokens THEN $27 ELSE log.reserved_tokens END,
            -- What is paid by the piece is rare, and has no column.
            nullif(jsonb_strip_nulls(jsonb_build_object(
                'estimated', nullif($24, false),
                'image', nullif(($7::jsonb ->> 'image')::integer, 0),
                'web_search', nullif(($7::jsonb ->> 'web_search')::integer, 0),
                'beyond_bound', CASE
                    WHEN beyond.by_cost AND beyond.by_tokens THEN '["cost", "tokens"]'::jsonb
                    WHEN beyond.by_cost THEN '["cost"]'::jsonb
                    WHEN beyond.by_tokens THEN '["tokens"]'::jsonb
                END)), '{}'::jsonb)
        FROM @extschema@.aggregator_settled_cost(
            -- The model that answered decides the price; its own price list first.
            coalesce(
                (SELECT m.pricing
                 FROM @extschema@.aggregator_models AS m
                 WHERE m.provider_id = $4 AND m.model_id = $5 AND m.pricing <> '{}'::jsonb),
                $6::jsonb),
            $7::jsonb, $8::numeric, $9, $3, $24) AS settled
        CROSS JOIN LATERAL (
            SELECT coalesce(settled.cost > coalesce($26::numeric, 1000), false) AS by_cost,
                coalesce($11::bigint + $12 > coalesce($27, 10000000), false) AS by_tokens
        ) AS beyond
    )
WHERE log.call_id = $1
  AND log.attempt = $2
  AND log.created_at = $3
  AND log.status = 'pending'
RETURNING log.cost_estimate::text, log.cost_source
