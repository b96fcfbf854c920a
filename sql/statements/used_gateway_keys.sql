-- Notes that these gateway keys were used. One that is just being rotated, say, is noted another time.
UPDATE @extschema@.aggregator_gateway_keys AS k
SET last_used_at = now()
FROM (
    SELECT id FROM @extschema@.aggregator_gateway_keys
    WHERE id = ANY ($1)
    ORDER BY id
    FOR UPDATE SKIP LOCKED
) AS free
WHERE k.id = free.id
