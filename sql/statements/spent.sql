-- What counts against a budget since $1, which is the start of an hour: of user $2, provider $3, model
-- $4, where they are given, paid by the keys $5; where $6 is key or tag, by the gateway key or with the tag $7. What
-- is still pending comes on top when it is settled. By this gateway alone, $8, and by itself before it had a name: what
-- others spend is theirs to count. Whatever the sums hold, the gateway gets numbers that it can read.
SELECT round(least(@extschema@.aggregator_of_keys($5, sum(part.budget_cost), sum(part.own_cost)), 1e15), 12)::text,
    least(@extschema@.aggregator_of_keys($5, sum(part.budget_tokens), sum(part.own_tokens)), 9223372036854775807)::bigint,
    least(@extschema@.aggregator_of_keys($5, sum(part.budget_requests), sum(part.own_requests)), 9223372036854775807)::bigint
FROM (
    SELECT own.provider_id, own.model_id, own.budget_cost, own.budget_tokens, own.budget_requests,
        own.own_cost, own.own_tokens, own.own_requests
    FROM @extschema@.aggregator_usage_hourly AS own
    WHERE own.user_id = $2
      AND own.hour >= $1
      AND own.gateway IN ('', $8)
      AND $6 IS NULL
    UNION ALL
    SELECT everybody.provider_id, everybody.model_id, everybody.budget_cost, everybody.budget_tokens,
        everybody.budget_requests, everybody.own_cost, everybody.own_tokens, everybody.own_requests
    FROM @extschema@.aggregator_usage_totals AS everybody
    WHERE $2 IS NULL
      AND everybody.grain = 'hour'
      AND everybody.start >= $1
      AND everybody.gateway IN ('', $8)
      AND $6 IS NULL
    UNION ALL
    SELECT labelled.provider_id, labelled.model_id, labelled.budget_cost, labelled.budget_tokens,
        labelled.budget_requests, labelled.own_cost, labelled.own_tokens, labelled.own_requests
    FROM @extschema@.aggregator_usage_labels AS labelled
    WHERE labelled.kind = $6
      AND labelled.label = $7
      AND labelled.hour >= $1
      AND labelled.gateway IN ('', $8)
      AND ($2 IS NULL OR labelled.user_id = $2)
) AS part
WHERE ($3 IS NULL OR part.provider_id = $3)
  AND @extschema@.aggregator_is_model($4, part.model_id)
