-- POST change-key: provider, priority, is_active
-- Changes the caller's own key; what is not given stays.
WITH changed AS (
    UPDATE @extschema@.user_api_providers AS k
    SET priority = coalesce(($1 ->> 'priority')::integer, k.priority),
        is_active = coalesce(($1 ->> 'is_active')::boolean, k.is_active)
    WHERE k.provider_id = @extschema@.aggregator_provider_id($1 ->> 'provider')
      AND k.user_id = @extschema@.aggregator_user_id()
    RETURNING k.id
)
SELECT jsonb_build_object('changed', EXISTS (SELECT FROM changed))
