-- POST remove-rate-limit: id
-- For administrators.
SELECT jsonb_build_object('removed', @extschema@.remove_rate_limit(($1 ->> 'id')::uuid))
