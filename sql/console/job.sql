-- GET job: id
-- One job and its result, of which the first 100,000 characters; null: there is no such job of the caller.
SELECT jsonb_build_object('job', (
    SELECT jsonb_build_object(
        'id', job.id,
        'user_id', job.user_id,
        'status', job.status,
        'model', job.model,
        'provider', coalesce(job.provider_name, job.provider),
        'served_model', job.served_model,
        'run_after', job.run_after,
        'attempts', job.attempts,
        'created_at', job.created_at,
        'started_at', job.started_at,
        'finished_at', job.finished_at,
        'cost', job.cost::text,
        'cost_source', job.cost_source,
        'idempotency_key', job.idempotency_key,
        'error', CASE WHEN octet_length(job.error::text) <= 20000 THEN job.error
            ELSE jsonb_build_object('message', left(job.error ->> 'message', 1000), 'code', job.error -> 'code') END,
        'content', left(result.content, 100000),
        'content_length', length(result.content))
    FROM @extschema@.aggregator_jobs AS job
    CROSS JOIN LATERAL @extschema@.chat_result(job.id) AS result
    WHERE job.id = ($1 ->> 'id')::uuid
))
