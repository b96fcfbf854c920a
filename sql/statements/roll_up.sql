-- Adds the rows that a batch has settled, by their keys, to the sums, in the same transaction. One
-- probe of an index for each: a plan for a join would rather read the whole log.
SELECT @extschema@.aggregator_roll_up_batch(array_agg(found.log))
FROM unnest($1, $2, $3) AS settled (call_id, attempt, created_at)
CROSS JOIN LATERAL (
    SELECT log
    FROM @extschema@.aggregator_usage_logs AS log
    WHERE log.call_id = settled.call_id
      AND log.attempt = settled.attempt
      AND log.created_at = settled.created_at
    OFFSET 0
) AS found
