-- Requests since $1, and their tokens: of user $2, provider $3, model $4, where they are given.
SELECT (extract(epoch FROM recent.created_at) * 1000000)::bigint, recent.tokens
FROM (
    SELECT log.created_at, coalesce(log.total_tokens, 0)::bigint AS tokens
    FROM @extschema@.aggregator_usage_logs AS log
    WHERE log.created_at >= $1
      AND ($2 IS NULL OR log.user_id = $2)
      AND ($3 IS NULL OR log.provider_id = $3)
      AND @extschema@.aggregator_is_model($4, log.model_id)
    ORDER BY log.created_at DESC
    LIMIT 10000
) AS recent
ORDER BY recent.created_at
