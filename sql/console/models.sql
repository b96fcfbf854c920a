-- GET models
-- What is listed, by provider: first what the caller can call. 5,000 models at the most.
WITH callable AS MATERIALIZED (
    SELECT c.provider_id, c.model_id
    FROM @extschema@.get_user_available_models(NULL::text) AS c
),
listed AS (
    SELECT m.provider_id, m.model_id, m.display_name, m.model_type, m.capabilities, m.context_window,
        m.max_output_tokens, m.pricing, m.pricing_source, m.first_seen_at
    FROM @extschema@.aggregator_models AS m
    WHERE m.is_available
    UNION ALL
    -- What only the caller's own key is shown.
    SELECT mine.provider_id, mine.model_id, mine.display_name, mine.model_type, mine.capabilities, mine.context_window,
        mine.max_output_tokens, mine.pricing, 'sync', mine.first_seen_at
    FROM @extschema@.aggregator_user_models AS mine
    WHERE mine.user_id = @extschema@.aggregator_user_id()
      AND NOT EXISTS (
          SELECT
          FROM @extschema@.aggregator_models AS m
          WHERE m.provider_id = mine.provider_id AND m.model_id = mine.model_id AND m.is_available
      )
),
numbered AS (
    SELECT listed.*, c.model_id IS NOT NULL AS is_callable,
        row_number() OVER (ORDER BY c.model_id IS NULL, listed.provider_id, listed.model_id) AS place,
        count(*) OVER () AS total
    FROM listed
    JOIN @extschema@.api_providers AS p ON p.id = listed.provider_id AND p.is_active
    LEFT JOIN callable AS c ON c.provider_id = listed.provider_id AND c.model_id = listed.model_id
),
grouped AS (
    SELECT n.provider_id,
        bool_or(n.is_callable) AS is_callable,
        max(n.total) AS total,
        count(*) AS shown,
        jsonb_agg(jsonb_build_object(
            'id', n.model_id,
            'name', n.display_name,
            'type', n.model_type,
            'is_callable', n.is_callable,
            'context', n.context_window,
            'max_output', n.max_output_tokens,
            'input', n.pricing ->> 'input',
            'output', n.pricing ->> 'output',
            'is_manual', n.pricing_source = 'manual',
            'first_seen_at', n.first_seen_at,
            'capabilities', (
                SELECT coalesce(jsonb_agg(c.key ORDER BY c.key), '[]'::jsonb)
                FROM jsonb_each(n.capabilities) AS c
                WHERE c.value = 'true'::jsonb)
        ) ORDER BY n.model_id) AS models
    FROM numbered AS n
    WHERE n.place <= 5000
    GROUP BY n.provider_id
)
SELECT jsonb_build_object(
    'total', coalesce(max(g.total), 0),
    'shown', coalesce(sum(g.shown), 0),
    'providers', coalesce(jsonb_agg(jsonb_build_object(
        'name', p.name,
        'display_name', p.display_name,
        'type', p.provider_type,
        'last_synced_at', p.last_synced_at,
        'models', g.models
    ) ORDER BY g.is_callable DESC, p.provider_type, p.display_name, p.name), '[]'::jsonb))
FROM grouped AS g
JOIN @extschema@.api_providers AS p ON p.id = g.provider_id
