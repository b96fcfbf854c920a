-- POST save-key: provider, key, unchecked
-- Saves the caller's own key, once the provider takes it, or as it is.
SELECT jsonb_build_object('id', @extschema@.save_provider_key(
    $1 ->> 'provider', $1 ->> 'key', NULL::text, NOT coalesce(($1 ->> 'unchecked')::boolean, false)))
