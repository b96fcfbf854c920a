-- POST save-platform-key: provider, key
-- Saves the platform's key, which every user may spend and nobody may read. For administrators.
SELECT jsonb_build_object('id', @extschema@.save_platform_key($1 ->> 'provider', $1 ->> 'key'))
