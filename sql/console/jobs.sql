-- GET jobs: before, status
-- The jobs, newest first, 50 at a time, without what was asked and answered. before is what the page before gave
-- as next.
WITH found AS MATERIALIZED (
    SELECT job.id, job.user_id, job.status, job.model, job.provider, job.run_after, job.attempts, job.created_at,
        job.started_at, job.finished_at, job.provider_name, job.served_model, job.cost, job.cost_source,
        job.error ->> 'message' AS error, job.error ->> 'code' AS error_code, job.idempotency_key,
        row_number() OVER (ORDER BY job.created_at DESC, job.id DESC) AS place
    FROM @extschema@.aggregator_jobs AS job
    WHERE ($1 ->> 'status' IS NULL OR job.status = $1 ->> 'status')
      AND ($1 ->> 'before' IS NULL
           OR (job.created_at, job.id)
               < (split_part($1 ->> 'before', '~', 1)::timestamptz, split_part($1 ->> 'before', '~', 2)::uuid))
    ORDER BY job.created_at DESC, job.id DESC
    LIMIT 51
)
SELECT jsonb_build_object(
    'jobs', coalesce(jsonb_agg(jsonb_build_object(
        'id', f.id,
        'user_id', f.user_id,
        'status', f.status,
        'model', f.model,
        'provider', coalesce(f.provider_name, f.provider),
        'served_model', f.served_model,
        'run_after', f.run_after,
        'attempts', f.attempts,
        'created_at', f.created_at,
        'started_at', f.started_at,
        'finished_at', f.finished_at,
        'cost', f.cost::text,
        'cost_source', f.cost_source,
        'error', left(f.error, 1000),
        'error_code', f.error_code,
        'idempotency_key', f.idempotency_key
    ) ORDER BY f.place) FILTER (WHERE f.place <= 50), '[]'::jsonb),
    'next', CASE WHEN count(*) > 50 THEN max(
        (to_jsonb(f.created_at) #>> '{}') || '~' || f.id
    ) FILTER (WHERE f.place = 50) END)
FROM found AS f
