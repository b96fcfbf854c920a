-- POST check-key: provider, key
-- Whether the provider takes a key, and what it says where it does not; without a key, the caller's saved one.
SELECT jsonb_build_object('status', CASE WHEN c.is_valid THEN 'valid' ELSE 'refused' END, 'message', c.reason)
FROM @extschema@.check_provider_key($1 ->> 'provider', $1 ->> 'key') AS c
