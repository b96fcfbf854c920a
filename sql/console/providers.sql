-- GET providers
-- The providers, with the caller's own key and how they have done in the last 24 hours. The platform's key nobody
-- reads: administrators learn that there is one from what it lets a user do who has none.
WITH own AS MATERIALIZED (
    SELECT k.id, k.provider_id, k.key_hint, k.is_active, k.priority, k.last_validated_at, k.last_used_at, k.updated_at
    FROM @extschema@.user_api_providers AS k
    WHERE k.user_id = @extschema@.aggregator_user_id()
),
reach AS MATERIALIZED (
    SELECT @extschema@.aggregator_spendable_providers(NULL::text) AS spendable,
        CASE WHEN @extschema@.aggregator_is_admin()
            THEN @extschema@.aggregator_spendable_providers('nobody-' || gen_random_uuid()) END AS platform
),
listed AS (
    SELECT m.provider_id, count(*) AS models, count(*) FILTER (WHERE NOT m.pricing ? 'input') AS unpriced
    FROM (
        SELECT all_users.provider_id, all_users.pricing
        FROM @extschema@.aggregator_models AS all_users
        WHERE all_users.is_available
        UNION ALL
        SELECT mine.provider_id, mine.pricing
        FROM @extschema@.aggregator_user_models AS mine
        WHERE mine.user_id = @extschema@.aggregator_user_id()
          AND NOT EXISTS (
              SELECT
              FROM @extschema@.aggregator_models AS m
              WHERE m.provider_id = mine.provider_id AND m.model_id = mine.model_id AND m.is_available
          )
    ) AS m
    GROUP BY m.provider_id
),
-- Readers see the hours of all users, others their own.
used AS (
    SELECT u.provider_id,
        sum(u.requests)::bigint AS requests,
        coalesce(sum(u.requests) FILTER (WHERE u.status = 'error'), 0)::bigint AS errors,
        round(sum(u.latency_ms_sum) FILTER (WHERE u.status = 'success')
            / nullif(sum(u.timed) FILTER (WHERE u.status = 'success'), 0))::bigint AS avg_latency_ms
    FROM @extschema@.aggregator_usage_hourly AS u
    WHERE u.hour >= date_trunc('hour', now() - interval '24 hours', 'UTC')
    GROUP BY u.provider_id
),
cooling AS (
    SELECT cold.provider_id,
        -- A key that was saved again since is another key.
        bool_or(cold.user_provider_id = own.id AND cold.cooling_until = 'infinity' AND own.updated_at <= cold.noted_at)
            AS key_is_refused,
        max(cold.cooling_until) FILTER (WHERE cold.model_id IS NULL AND cold.cooling_until <> 'infinity') AS cooling_until,
        count(*) FILTER (WHERE cold.model_id IS NOT NULL) AS models,
        (array_agg(cold.reason ORDER BY cold.noted_at DESC))[1] AS reason
    FROM @extschema@.aggregator_cooling AS cold
    LEFT JOIN own ON own.provider_id = cold.provider_id
    WHERE cold.cooling_until > now()
      AND (cold.user_provider_id IS NULL OR cold.user_provider_id = own.id)
    GROUP BY cold.provider_id
)
SELECT jsonb_build_object('providers', coalesce(jsonb_agg(
    jsonb_build_object(
        'name', p.name,
        'display_name', p.display_name,
        'type', p.provider_type,
        'standard', p.api_standard,
        'host', substring(p.base_url FROM '^[a-z]+://([^/?#]+)'),
        'features', p.features,
        'documentation_url', p.documentation_url,
        'key_url', p.key_url,
        'is_active', p.is_active,
        'last_synced_at', p.last_synced_at,
        'models', coalesce(listed.models, 0),
        'unpriced_models', coalesce(listed.unpriced, 0),
        'is_spendable', p.id = ANY (reach.spendable),
        'has_platform_key', p.id = ANY (reach.platform),
        'own_key', CASE WHEN own.id IS NOT NULL THEN jsonb_build_object(
            'hint', own.key_hint,
            'is_active', own.is_active,
            'priority', own.priority,
            'last_validated_at', own.last_validated_at,
            'last_used_at', own.last_used_at) END,
        'health', jsonb_build_object(
            'requests', coalesce(used.requests, 0),
            'errors', coalesce(used.errors, 0),
            'avg_latency_ms', used.avg_latency_ms,
            'key_is_refused', coalesce(cooling.key_is_refused, false),
            'cooling_until', cooling.cooling_until,
            'cooling_models', coalesce(cooling.models, 0),
            'reason', cooling.reason)
    ) ORDER BY p.provider_type, p.display_name, p.name), '[]'::jsonb))
FROM @extschema@.api_providers AS p
CROSS JOIN reach
LEFT JOIN own ON own.provider_id = p.id
LEFT JOIN listed ON listed.provider_id = p.id
LEFT JOIN used ON used.provider_id = p.id
LEFT JOIN cooling ON cooling.provider_id = p.id
WHERE p.is_active OR own.id IS NOT NULL
