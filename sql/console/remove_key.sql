-- POST remove-key: provider
-- Removes the caller's own key.
SELECT jsonb_build_object('removed', @extschema@.remove_provider_key($1 ->> 'provider', NULL::text))
