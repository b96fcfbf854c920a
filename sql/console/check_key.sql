-- POST check-key: provider, key
-- Whether the provider takes a key; without a key, the caller's saved one.
SELECT jsonb_build_object(
    'status', CASE WHEN @extschema@.validate_provider_key($1 ->> 'provider', $1 ->> 'key') THEN 'valid' ELSE 'refused' END)
