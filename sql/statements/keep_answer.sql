-- Keeps an answer, in the place of an older one. Says how large that was.
WITH older AS (
    SELECT older.size FROM @extschema@.aggregator_cache AS older WHERE older.print = $1
)
INSERT INTO @extschema@.aggregator_cache AS kept
    (print, user_id, provider_id, model_id, is_shared, answer, size, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), clock_timestamp() + make_interval(secs => $8))
ON CONFLICT (print) DO UPDATE
SET user_id = excluded.user_id,
    provider_id = excluded.provider_id,
    model_id = excluded.model_id,
    is_shared = excluded.is_shared,
    answer = excluded.answer,
    size = excluded.size,
    created_at = excluded.created_at,
    expires_at = excluded.expires_at
RETURNING coalesce((SELECT older.size FROM older), 0)
