-- Drops the oldest kept answers, as many as make room for $2 bytes, $1 at the most. Says how large each was.
DELETE FROM @extschema@.aggregator_cache AS kept
USING (
    SELECT oldest.print,
        -- Of those before it.
        sum(oldest.size) OVER (ORDER BY oldest.created_at, oldest.print ROWS UNBOUNDED PRECEDING) - oldest.size AS room
    FROM (
        SELECT aged.print, aged.size, aged.created_at
        FROM @extschema@.aggregator_cache AS aged
        ORDER BY aged.created_at
        LIMIT $1
    ) AS oldest
) AS oldest
WHERE kept.print = oldest.print
  AND oldest.room < $2
RETURNING kept.size
