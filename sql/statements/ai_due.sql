-- AI columns with something to do, but for those that are at work ($1), from the one after $2 and then from the start.
-- What is said to run of a column that is not at work does not: its worker is dead.
SELECT c.id, c.user_id
FROM @extschema@.aggregator_ai_columns AS c
WHERE c.status = 'active'
  AND (c.wait_until IS NULL OR c.wait_until <= now())
  AND c.id <> ALL ($1)
  AND (
      c.backfill_status = 'running'
      OR EXISTS (
          SELECT FROM @extschema@.aggregator_ai_queue AS q
          WHERE q.column_id = c.id AND q.status = 'queued' AND q.run_after <= now())
      OR c.id IN (SELECT q.column_id FROM @extschema@.aggregator_ai_queue AS q WHERE q.status = 'running'))
ORDER BY c.id <= $2, c.id
LIMIT 64
