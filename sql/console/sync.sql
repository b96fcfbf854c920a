-- POST sync: provider
-- Brings the catalogue up to date, of one provider or of all. For administrators.
SELECT jsonb_build_object('providers', coalesce(jsonb_agg(jsonb_build_object(
    'provider', s.provider_name,
    'models', s.total,
    'new', s.added,
    'updated', s.updated,
    'gone', s.removed,
    'error', s.error,
    'warnings', to_jsonb(s.warnings[1:20]),
    'warning_count', cardinality(s.warnings)
)), '[]'::jsonb))
FROM @extschema@.sync_models($1 ->> 'provider') AS s
