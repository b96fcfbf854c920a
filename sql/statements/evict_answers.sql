-- Drops the oldest kept answers, $1 at the most. Says how large each was.
DELETE FROM @extschema@.aggregator_cache AS kept
USING (
    SELECT oldest.print
    FROM @extschema@.aggregator_cache AS oldest
    ORDER BY oldest.created_at
    LIMIT $1
) AS oldest
WHERE kept.print = oldest.print
RETURNING kept.size
