SET LOCAL search_path = pg_catalog, pg_temp;

-- Durable jobs: a transactional outbox. A row exists if and only if its transaction committed; the
-- worker claims it, commits that, and only then sends the request. Tenants may read their rows, and
-- lock one by chat_cancel; the worker passes over locked rows and comes back to them.
CREATE TABLE @extschema@.aggregator_jobs (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         text        NOT NULL CHECK (user_id <> ''),
    status          text        NOT NULL DEFAULT 'queued'
                                CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    model           text        NOT NULL,
    provider        text,
    request         jsonb       NOT NULL CHECK (jsonb_typeof(request) = 'object'),
    request_bytes   integer     NOT NULL DEFAULT 0,
    idempotency_key text,
    run_after       timestamptz NOT NULL DEFAULT now(),
    attempts        integer     NOT NULL DEFAULT 0,
    epoch           bigint,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    provider_name   text,
    served_model    text,
    response        jsonb,
    error           jsonb,
    cost            numeric,
    cost_source     text,
    gateway_key_id  uuid
) WITH (fillfactor = 80);
-- Only of those that have one: every change of a job's status is a new entry in each index that has the job.
CREATE UNIQUE INDEX aggregator_jobs_idempotent ON @extschema@.aggregator_jobs (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The worker takes users in turn, and of each the job that is due first.
CREATE INDEX aggregator_jobs_queued ON @extschema@.aggregator_jobs (user_id, run_after) WHERE status = 'queued';
CREATE INDEX aggregator_jobs_running ON @extschema@.aggregator_jobs (epoch) WHERE status = 'running';
CREATE INDEX aggregator_jobs_ended ON @extschema@.aggregator_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX ON @extschema@.aggregator_jobs (user_id, created_at);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_jobs', '');

-- The answer of a job as chat_complete would have given it.
CREATE FUNCTION @extschema@.aggregator_job_response(p_job @extschema@.aggregator_jobs) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN p_job.response || jsonb_build_object('aggregator', jsonb_build_object(
        'job_id', p_job.id,
        'provider', p_job.provider_name,
        'served_model', p_job.served_model,
        'usage_log_id', p_job.id,
        'attempts', p_job.attempts,
        'cost', p_job.cost,
        'cost_source', p_job.cost_source,
        'latency_ms', (extract(epoch FROM p_job.finished_at - p_job.started_at) * 1000)::bigint
    ));
END
$$;

-- Runs as the caller: whose job it is, row-level security decides.
CREATE FUNCTION @extschema@.chat_result(p_job_id uuid)
RETURNS TABLE (
    id          uuid,
    status      text,
    response    jsonb,
    content     text,
    error       jsonb,
    cost        numeric,
    attempts    integer,
    created_at  timestamptz,
    started_at  timestamptz,
    finished_at timestamptz
)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT job.id, job.status, @extschema@.aggregator_job_response(job),
        CASE jsonb_typeof(job.response #> '{choices,0,message,content}')
            WHEN 'string' THEN job.response #>> '{choices,0,message,content}'
            WHEN 'array' THEN (
                SELECT string_agg(part ->> 'text', '')
                FROM jsonb_array_elements(job.response #> '{choices,0,message,content}') AS part)
        END,
        job.error, job.cost, job.attempts, job.created_at, job.started_at, job.finished_at
    FROM @extschema@.aggregator_jobs AS job
    WHERE job.id = p_job_id;
END
$$;

-- The vectors of a job of embed_submit, in the order of its inputs. Runs as the caller, as chat_result does.
CREATE FUNCTION @extschema@.embed_result(p_job_id uuid)
RETURNS TABLE (
    ord       integer,
    embedding real[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT vector.ord, vector.embedding
    FROM @extschema@.aggregator_jobs AS job
    CROSS JOIN LATERAL @extschema@.aggregator_embeddings(job.response) AS vector
    WHERE job.id = p_job_id
    ORDER BY vector.ord;
END
$$;

-- In plpgsql each statement takes a snapshot of its own: the second sees how the job ended.
CREATE FUNCTION @extschema@.chat_wait(p_job_id uuid, p_timeout_ms integer DEFAULT 30000)
RETURNS TABLE (
    id          uuid,
    status      text,
    response    jsonb,
    content     text,
    error       jsonb,
    cost        numeric,
    attempts    integer,
    created_at  timestamptz,
    started_at  timestamptz,
    finished_at timestamptz
)
LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_await_job(p_job_id, p_timeout_ms);
    RETURN QUERY SELECT * FROM @extschema@.chat_result(p_job_id);
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
