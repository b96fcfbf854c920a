-- Entries of column $1 that nobody works on, because nothing of it is in memory: those of dead workers, and of a clerk
-- that was ended. They are taken again, but no more than $2 times in all.
UPDATE @extschema@.aggregator_ai_queue AS q
SET status = CASE WHEN q.attempts >= $2 THEN 'failed' ELSE 'queued' END,
    error = CASE WHEN q.attempts >= $2 THEN jsonb_build_object(
        'message', format('the row was taken %s times, and its worker or its clerk died each time', q.attempts),
        'code', 'worker_died',
        'sqlstate', 'PT502',
        'hint', 'The calls may have been paid for: see aggregator_usage_logs.') END
FROM (
    SELECT lost.key
    FROM @extschema@.aggregator_ai_queue AS lost
    WHERE lost.column_id = $1::text::uuid AND lost.status = 'running'
    FOR UPDATE SKIP LOCKED
) AS lost
WHERE q.column_id = $1::text::uuid AND q.key = lost.key
