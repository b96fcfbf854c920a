-- POST sync-own: provider
-- Brings what the caller's own keys are shown up to date, of one provider or of all.
SELECT jsonb_build_object('providers', coalesce(jsonb_agg(jsonb_build_object(
    'provider', s.provider_name,
    'models', s.total,
    'new', s.added,
    'gone', s.removed,
    'error', s.error
)), '[]'::jsonb))
FROM @extschema@.sync_own_models($1 ->> 'provider') AS s
