-- The models that a user ($1) can call, as get_user_available_models() has them; $2: with keys of their own alone.
WITH keys AS (
    SELECT k.provider_id, k.user_id, k.settings
    FROM @extschema@.user_api_providers AS k
    WHERE k.is_active AND (k.user_id = $1 OR k.user_id IS NULL AND NOT $2)
)
SELECT p.name, m.model_id, m.display_name, m.context_window, m.max_output_tokens, m.pricing::text,
    extract(epoch FROM m.first_seen_at)::bigint
FROM @extschema@.api_providers AS p
JOIN @extschema@.aggregator_models AS m ON m.provider_id = p.id
WHERE p.is_active
  AND m.is_available
  AND EXISTS (
      SELECT
      FROM keys AS k
      WHERE k.provider_id = p.id
        AND (k.user_id IS NOT NULL
             OR NOT EXISTS (SELECT FROM keys AS own WHERE own.provider_id = p.id AND own.user_id IS NOT NULL)
                AND @extschema@.aggregator_platform_serves(k.settings, m.model_id))
  )
UNION ALL
-- What only the user's own key is shown.
SELECT p.name, own.model_id, own.display_name, own.context_window, own.max_output_tokens, own.pricing::text, NULL::bigint
FROM @extschema@.api_providers AS p
JOIN @extschema@.aggregator_user_models AS own ON own.provider_id = p.id
WHERE own.user_id = $1
  AND p.is_active
  AND EXISTS (SELECT FROM keys AS k WHERE k.provider_id = p.id AND k.user_id IS NOT NULL)
  AND NOT EXISTS (
      SELECT
      FROM @extschema@.aggregator_models AS m
      WHERE m.provider_id = own.provider_id AND m.model_id = own.model_id AND m.is_available
  )
ORDER BY 2, 1
LIMIT 20000
