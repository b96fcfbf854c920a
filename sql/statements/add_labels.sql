-- add_labels
-- Adds to sums of gateway keys and tags, like add_hourly.sql, whose counts ($8) and amounts ($9) it gets: of those it
-- keeps some. $1 key or tag, $2 which.
INSERT INTO @extschema@.aggregator_usage_labels AS kept
    (kind, label, hour, user_id, provider_id, model_id, status,
    requests, unreachable, priced, unpriced, prompt_tokens, completion_tokens, total_tokens,
    budget_requests, budget_tokens, own_requests, own_tokens, cost, budget_cost, own_cost)
SELECT $1[i], $2[i], $3[i], $4[i], $5[i], $6[i], $7[i],
    $8[21 * i - 20], $8[21 * i - 19], $8[21 * i - 18], $8[21 * i - 17], $8[21 * i - 16], $8[21 * i - 15],
    $8[21 * i - 14], $8[21 * i - 3], $8[21 * i - 2], $8[21 * i - 1], $8[21 * i],
    $9[3 * i - 2]::numeric, $9[3 * i - 1]::numeric, $9[3 * i]::numeric
FROM unnest($1) WITH ORDINALITY AS given (first, i)
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (kind, label, hour, user_id, provider_id, model_id, status) DO UPDATE SET
    requests = least(kept.requests, 4611686018427387904) + excluded.requests,
    unreachable = least(kept.unreachable, 4611686018427387904) + excluded.unreachable,
    priced = least(kept.priced, 4611686018427387904) + excluded.priced,
    unpriced = least(kept.unpriced, 4611686018427387904) + excluded.unpriced,
    prompt_tokens = least(kept.prompt_tokens, 4611686018427387904) + excluded.prompt_tokens,
    completion_tokens = least(kept.completion_tokens, 4611686018427387904) + excluded.completion_tokens,
    total_tokens = least(kept.total_tokens, 4611686018427387904) + excluded.total_tokens,
    budget_requests = least(kept.budget_requests, 4611686018427387904) + excluded.budget_requests,
    budget_tokens = least(kept.budget_tokens, 4611686018427387904) + excluded.budget_tokens,
    own_requests = least(kept.own_requests, 4611686018427387904) + excluded.own_requests,
    own_tokens = least(kept.own_tokens, 4611686018427387904) + excluded.own_tokens,
    cost = kept.cost + excluded.cost,
    budget_cost = kept.budget_cost + excluded.budget_cost,
    own_cost = kept.own_cost + excluded.own_cost
