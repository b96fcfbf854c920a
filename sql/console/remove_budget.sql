-- POST remove-budget: id
-- For administrators.
SELECT jsonb_build_object('removed', @extschema@.remove_budget(($1 ->> 'id')::uuid))
