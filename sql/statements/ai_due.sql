-- AI columns with something to do, but for those that are at work ($1), from the one after $2 and then from the start;
-- a few of each user, so that whoever has thousands is not before everybody else.
-- What is said to run of a column that is not at work does not: its worker is dead.
SELECT due.id, due.user_id
FROM (
    SELECT c.id, c.user_id, row_number() OVER (PARTITION BY c.user_id ORDER BY c.id <= $2, c.id) AS place
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
) AS due
WHERE due.place <= 4
ORDER BY due.id <= $2, due.id
LIMIT 64
