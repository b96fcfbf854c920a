-- Adds the rows that a batch has settled, by their keys, to the sums, in the same transaction.
SELECT @extschema@.aggregator_roll_up_batch(array_agg(log))
FROM unnest($1, $2, $3) AS settled (call_id, attempt, created_at)
JOIN @extschema@.aggregator_usage_logs AS log USING (call_id, attempt, created_at)
