-- POST revoke-gateway-key: id
SELECT jsonb_build_object('revoked', @extschema@.revoke_gateway_key(($1 ->> 'id')::uuid))
