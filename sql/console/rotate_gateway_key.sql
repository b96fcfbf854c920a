-- POST rotate-gateway-key: id, grace
-- Gives a gateway key another secret, and shows it this one time; the old one passes for the grace.
SELECT jsonb_build_object('id', $1 ->> 'id', 'key', @extschema@.rotate_gateway_key(
    ($1 ->> 'id')::uuid, coalesce($1 ->> 'grace', '0')::interval))
