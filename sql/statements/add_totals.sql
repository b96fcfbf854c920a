-- add_totals
-- Adds to sums of all users, like add_hourly.sql: $1 hour or day, $2 its start.
INSERT INTO @extschema@.aggregator_usage_totals AS kept
    (grain, start, provider_id, model_id, status,
    requests, unreachable, priced, unpriced, prompt_tokens, completion_tokens, total_tokens,
    cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens,
    audio_output_tokens, timed, latency_ms_sum, first_tokens, first_token_ms_sum,
    budget_requests, budget_tokens, own_requests, own_tokens, cost, budget_cost, own_cost, latency)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i],
    $6[21 * i - 20], $6[21 * i - 19], $6[21 * i - 18], $6[21 * i - 17], $6[21 * i - 16], $6[21 * i - 15],
    $6[21 * i - 14], $6[21 * i - 13], $6[21 * i - 12], $6[21 * i - 11], $6[21 * i - 10], $6[21 * i - 9],
    $6[21 * i - 8], $6[21 * i - 7], $6[21 * i - 6], $6[21 * i - 5], $6[21 * i - 4], $6[21 * i - 3],
    $6[21 * i - 2], $6[21 * i - 1], $6[21 * i],
    $7[3 * i - 2]::numeric, $7[3 * i - 1]::numeric, $7[3 * i]::numeric,
    $8[24 * i - 23 : 24 * i]
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (grain, start, provider_id, model_id, status) DO UPDATE SET
    requests = least(kept.requests, 4611686018427387904) + excluded.requests,
    unreachable = least(kept.unreachable, 4611686018427387904) + excluded.unreachable,
    priced = least(kept.priced, 4611686018427387904) + excluded.priced,
    unpriced = least(kept.unpriced, 4611686018427387904) + excluded.unpriced,
    prompt_tokens = least(kept.prompt_tokens, 4611686018427387904) + excluded.prompt_tokens,
    completion_tokens = least(kept.completion_tokens, 4611686018427387904) + excluded.completion_tokens,
    total_tokens = least(kept.total_tokens, 4611686018427387904) + excluded.total_tokens,
    cache_read_tokens = least(kept.cache_read_tokens, 4611686018427387904) + excluded.cache_read_tokens,
    cache_write_tokens = least(kept.cache_write_tokens, 4611686018427387904) + excluded.cache_write_tokens,
    cache_write_1h_tokens = least(kept.cache_write_1h_tokens, 4611686018427387904) + excluded.cache_write_1h_tokens,
    audio_input_tokens = least(kept.audio_input_tokens, 4611686018427387904) + excluded.audio_input_tokens,
    reasoning_tokens = least(kept.reasoning_tokens, 4611686018427387904) + excluded.reasoning_tokens,
    audio_output_tokens = least(kept.audio_output_tokens, 4611686018427387904) + excluded.audio_output_tokens,
    timed = least(kept.timed, 4611686018427387904) + excluded.timed,
    latency_ms_sum = least(kept.latency_ms_sum, 4611686018427387904) + excluded.latency_ms_sum,
    first_tokens = least(kept.first_tokens, 4611686018427387904) + excluded.first_tokens,
    first_token_ms_sum = least(kept.first_token_ms_sum, 4611686018427387904) + excluded.first_token_ms_sum,
    budget_requests = least(kept.budget_requests, 4611686018427387904) + excluded.budget_requests,
    budget_tokens = least(kept.budget_tokens, 4611686018427387904) + excluded.budget_tokens,
    own_requests = least(kept.own_requests, 4611686018427387904) + excluded.own_requests,
    own_tokens = least(kept.own_tokens, 4611686018427387904) + excluded.own_tokens,
    cost = kept.cost + excluded.cost,
    budget_cost = kept.budget_cost + excluded.budget_cost,
    own_cost = kept.own_cost + excluded.own_cost,
    latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency)
