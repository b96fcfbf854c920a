-- POST remove-platform-key: provider
-- Removes the platform's key. For administrators.
SELECT jsonb_build_object('removed', @extschema@.remove_platform_key($1 ->> 'provider'))
