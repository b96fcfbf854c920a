SET LOCAL search_path = pg_catalog, pg_temp;

-- What cools down, kept for the next worker, and shown with the figures of the ledger.
CREATE TABLE @extschema@.aggregator_cooling (
    provider_id      uuid    NOT NULL,
    user_provider_id uuid,
    model_id         text,
    user_id          text,
    cooling_until    timestamptz NOT NULL,
    key_print        bigint  NOT NULL,
    failures         integer NOT NULL,
    reason           text    NOT NULL,
    noted_at         timestamptz NOT NULL DEFAULT now(),
    -- Without a key that holds no NULL, a publication of all tables would forbid updates.
    id               uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    UNIQUE NULLS NOT DISTINCT (provider_id, user_provider_id, model_id)
);

-- What providers were seen to count beyond the bound of a request: by it the bound of the next one grows.
-- A row per model of the catalogue at the most.
CREATE TABLE @extschema@.aggregator_hidden_tokens (
    provider_id       uuid        NOT NULL,
    model_id          text        NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    noted_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider_id, model_id)
);

CREATE VIEW @extschema@.aggregator_provider_health WITH (security_invoker = true) AS
WITH calls AS (
    SELECT log.provider_id,
        log.model_id,
        count(*) AS calls,
        count(*) FILTER (WHERE log.status = 'error') AS errors,
        count(*) FILTER (WHERE log.http_status = 429) AS rate_limited,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY log.latency_ms) FILTER (WHERE log.status = 'success') AS p50_latency_ms,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY log.latency_ms) FILTER (WHERE log.status = 'success') AS p95_latency_ms,
        (array_agg(log.error_code ORDER BY log.created_at DESC) FILTER (WHERE log.status = 'error'))[1] AS last_error,
        max(log.created_at) FILTER (WHERE log.status = 'error') AS last_error_at
    FROM @extschema@.aggregator_usage_logs AS log
    WHERE log.created_at >= now() - interval '24 hours'
      AND log.status <> 'pending'
      -- Which asked nobody.
      AND log.cost_source IS DISTINCT FROM 'cached'
    GROUP BY log.provider_id, log.model_id
),
-- A key or a provider that cools does so for each of its models.
cooling AS (
    SELECT cold.provider_id, cold.model_id, max(cold.cooling_until) AS cooling_until,
        (array_agg(cold.reason ORDER BY cold.noted_at DESC))[1] AS reason,
        max(cold.noted_at) AS noted_at
    FROM @extschema@.aggregator_cooling AS cold
    WHERE cold.cooling_until > now()
      -- A key that was saved again since is another key.
      AND NOT EXISTS (
          SELECT FROM @extschema@.user_api_providers AS k
          WHERE k.id = cold.user_provider_id AND k.updated_at > cold.noted_at AND cold.cooling_until = 'infinity'
      )
    GROUP BY cold.provider_id, cold.model_id
)
SELECT p.id AS provider_id,
    p.name AS provider_name,
    seen.model_id,
    coalesce(calls.calls, 0) AS calls,
    coalesce(calls.errors, 0) AS errors,
    coalesce(calls.rate_limited, 0) AS rate_limited,
    calls.p50_latency_ms,
    calls.p95_latency_ms,
    greatest(own.cooling_until, whole.cooling_until) AS cooling_until,
    coalesce(calls.last_error, own.reason, whole.reason) AS last_error,
    coalesce(calls.last_error_at, own.noted_at, whole.noted_at) AS last_error_at
FROM (
    SELECT provider_id, model_id FROM calls
    UNION
    SELECT provider_id, model_id FROM cooling
) AS seen
JOIN @extschema@.api_providers AS p ON p.id = seen.provider_id
LEFT JOIN calls ON calls.provider_id = seen.provider_id AND calls.model_id = seen.model_id
LEFT JOIN cooling AS own ON own.provider_id = seen.provider_id AND own.model_id = seen.model_id
LEFT JOIN cooling AS whole ON whole.provider_id = seen.provider_id AND whole.model_id IS NULL;

SET LOCAL search_path = @extschema@, pg_temp;
