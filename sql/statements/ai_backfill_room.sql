-- Whether so few rows of column $1 wait that more may be queued.
SELECT count(*) < 2000
FROM (
    SELECT FROM @extschema@.aggregator_ai_queue AS q
    WHERE q.column_id = $1::text::uuid AND q.status = 'queued'
    LIMIT 2000
) AS queued
