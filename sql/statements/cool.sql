-- Keeps until when something is cool; NULL: until the key changes.
INSERT INTO @extschema@.aggregator_cooling
    (provider_id, user_provider_id, model_id, user_id, cooling_until, key_print, failures, reason)
SELECT $1, $2, $3, $4, coalesce($5, 'infinity'), $6, $7, $8
-- A key that is gone has no health, and its user may be forgotten.
WHERE $2 IS NULL OR EXISTS (SELECT FROM @extschema@.user_api_providers AS k WHERE k.id = $2)
ON CONFLICT (provider_id, user_provider_id, model_id) DO UPDATE
SET user_id = excluded.user_id,
    cooling_until = excluded.cooling_until,
    key_print = excluded.key_print,
    failures = excluded.failures,
    reason = excluded.reason,
    noted_at = now()
