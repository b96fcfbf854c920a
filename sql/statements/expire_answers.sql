-- Drops kept answers that are no longer good, $1 at the most. Says how large each was.
DELETE FROM @extschema@.aggregator_cache AS kept
USING (
    SELECT old.print
    FROM @extschema@.aggregator_cache AS old
    WHERE old.expires_at <= clock_timestamp()
    ORDER BY old.expires_at
    LIMIT $1
) AS old
WHERE kept.print = old.print
RETURNING kept.size
