-- What counts against a budget since $1: of user $2, provider $3, model $4, where they are given.
-- What is still pending comes on top when it is settled.
SELECT round(coalesce(sum(counted.cost), 0), 12)::text,
    coalesce(sum(counted.tokens), 0)::bigint,
    coalesce(sum(counted.requests), 0)::bigint
FROM @extschema@.aggregator_usage_logs AS log
CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
WHERE log.created_at >= $1
  AND log.status <> 'pending'
  AND ($2 IS NULL OR log.user_id = $2)
  AND ($3 IS NULL OR log.provider_id = $3)
  AND @extschema@.aggregator_is_model($4, log.model_id)
