-- Requests since $1, and their tokens, those of the ones on their way as they were reserved: of user $2,
-- provider $3, model $4, gateway key $5, with the tag $6, where they are given.
SELECT (extract(epoch FROM recent.created_at) * 1000000)::bigint, recent.tokens
FROM (
    SELECT log.created_at, counted.tokens
    FROM @extschema@.aggregator_usage_logs AS log
    CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
    WHERE log.created_at >= $1
      AND log.cost_source IS DISTINCT FROM 'cached'
      -- Of the future there is nothing to be paid back.
      AND log.created_at < now() + interval '1 minute'
      AND ($2 IS NULL OR log.user_id = $2)
      AND ($3 IS NULL OR log.provider_id = $3)
      AND ($5 IS NULL OR log.gateway_key_id = $5)
      AND ($6 IS NULL OR $6 = ANY (log.tags))
      AND @extschema@.aggregator_is_model($4, counted.model_id)
    ORDER BY log.created_at DESC
    LIMIT 10000
) AS recent
ORDER BY recent.created_at
