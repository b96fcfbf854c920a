-- Pauses column $1 for the error $2: nothing can be done where it is, until its owner looks after it.
UPDATE @extschema@.aggregator_ai_columns AS c
SET status = 'paused',
    paused_for = $2,
    last_error = $2,
    last_error_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE c.id = $1::text::uuid AND c.status = 'active'
