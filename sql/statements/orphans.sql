-- What a dead life of the worker left pending: whether it was answered, and paid, nobody knows.
-- A database in which no worker ever ran may hold pending rows of a dump.
UPDATE @extschema@.aggregator_usage_logs AS log
SET status = 'unknown', cost_source = 'incomplete'
WHERE log.status = 'pending'
  AND log.epoch <> $1
  AND log.created_at >= coalesce(
      (SELECT min(e.low_water) - interval '10 minutes'
       FROM @extschema@.aggregator_worker_epochs AS e
       WHERE e.ended_at IS NULL AND e.epoch <> $1),
      CASE WHEN EXISTS (SELECT FROM @extschema@.aggregator_worker_epochs AS e WHERE e.epoch <> $1)
           THEN 'infinity' ELSE '-infinity' END::timestamptz)
