-- What counts against a budget since $1, which is the start of an hour: of user $2, provider $3, model
-- $4, where they are given. What is still pending comes on top when it is settled.
SELECT round(coalesce(sum(part.budget_cost), 0), 12)::text,
    coalesce(sum(part.budget_tokens), 0)::bigint,
    coalesce(sum(part.budget_requests), 0)::bigint
FROM (
    SELECT own.provider_id, own.model_id, own.budget_cost, own.budget_tokens, own.budget_requests
    FROM @extschema@.aggregator_usage_hourly AS own
    WHERE own.user_id = $2
      AND own.hour >= $1
    UNION ALL
    SELECT everybody.provider_id, everybody.model_id, everybody.budget_cost, everybody.budget_tokens,
        everybody.budget_requests
    FROM @extschema@.aggregator_usage_totals AS everybody
    WHERE $2 IS NULL
      AND everybody.grain = 'hour'
      AND everybody.start >= $1
) AS part
WHERE ($3 IS NULL OR part.provider_id = $3)
  AND @extschema@.aggregator_is_model($4, part.model_id)
