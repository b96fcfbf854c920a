-- A tenant may hold a lock on the row: then it is noted another time.
UPDATE @extschema@.user_api_providers AS k
SET last_used_at = now()
FROM (
    SELECT id FROM @extschema@.user_api_providers
    WHERE id = ANY ($1)
    ORDER BY id
    FOR UPDATE SKIP LOCKED
) AS free
WHERE k.id = free.id
