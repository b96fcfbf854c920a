-- Reports over the sums, under the caller's own rights. A range begins at a full hour, so that it is
-- never too short: 'day' is the 24 hours before now and what the first of them lacks.

SET LOCAL search_path = pg_catalog, pg_temp;

-- The sums of each user by the hour, and those of all users (user_id is NULL) by the hour and day.
CREATE VIEW @extschema@.aggregator_usage_sums WITH (security_invoker = true) AS
SELECT user_id, 'hour' AS grain, hour AS start, provider_id, model_id, status, requests, unreachable, priced, unpriced,
    prompt_tokens, completion_tokens, total_tokens, timed, latency_ms_sum, latency, cost
FROM @extschema@.aggregator_usage_hourly
UNION ALL
SELECT NULL, grain, start, provider_id, model_id, status, requests, unreachable, priced, unpriced,
    prompt_tokens, completion_tokens, total_tokens, timed, latency_ms_sum, latency, cost
FROM @extschema@.aggregator_usage_totals;

-- What a report is about. all_users: a reader asks for nobody in particular. From since on
-- up to days_since it sums up hours; from there on days, where there are days.
CREATE FUNCTION @extschema@.aggregator_report(
    p_range        text,
    p_provider     text,
    p_user_id      text,
    OUT user_id    text,
    OUT all_users  boolean,
    OUT provider   uuid,
    OUT since      timestamptz,
    OUT days_since timestamptz
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_range interval := CASE p_range
        WHEN 'day' THEN interval '24 hours'
        WHEN 'week' THEN interval '168 hours'
        WHEN 'month' THEN interval '720 hours'
    END;
BEGIN
    IF v_range IS NULL THEN
        RAISE EXCEPTION 'p_range must be ''day'', ''week'' or ''month'', not %', coalesce(quote_literal(p_range), 'NULL')
            USING ERRCODE = 'PT400', HINT = 'They are the last 24 hours, 7 days and 30 days.';
    END IF;
    all_users := p_user_id IS NULL AND @extschema@.aggregator_is_reader();
    IF NOT all_users THEN
        user_id := CASE
            WHEN p_user_id <> '' AND @extschema@.aggregator_is_reader() THEN p_user_id
            ELSE @extschema@.aggregator_acting_user(p_user_id)
        END;
    END IF;
    IF p_provider IS NOT NULL THEN
        provider := @extschema@.aggregator_provider_id(p_provider);
        -- Usage outlives its provider.
        IF provider IS NULL AND p_provider ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            provider := p_provider;
        ELSIF provider IS NULL THEN
            RAISE EXCEPTION 'there is no provider %', quote_literal(p_provider)
                USING ERRCODE = 'PT404', HINT = 'Providers are in api_providers, by name or id.';
        END IF;
    END IF;
    since := date_trunc('hour', now() - v_range, 'UTC');
    days_since := CASE
        WHEN all_users THEN date_trunc('day', since + interval '24 hours' - interval '1 microsecond', 'UTC')
        ELSE 'infinity'
    END;
END
$$;

-- USD of so many priced requests. Where there are only unpriced ones it is unknown, which is not 0.
CREATE FUNCTION @extschema@.aggregator_known_cost(p_cost numeric, p_priced numeric, p_unpriced numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN p_priced > 0 OR coalesce(p_unpriced, 0) = 0 THEN coalesce(trim_scale(p_cost), 0) END;
END
$$;

CREATE FUNCTION @extschema@.usage_summary(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    total_tokens      bigint,
    total_cost        numeric,
    requests          bigint,
    errors            bigint,
    avg_latency_ms    numeric,
    p95_latency_ms    integer,
    unpriced_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT coalesce(sum(sums.total_tokens), 0)::bigint,
        @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)),
        coalesce(sum(sums.requests), 0)::bigint,
        coalesce(sum(sums.requests) FILTER (WHERE sums.status = 'error'), 0)::bigint,
        round(sum(sums.latency_ms_sum) FILTER (WHERE sums.status = 'success')
            / nullif(sum(sums.timed) FILTER (WHERE sums.status = 'success'), 0), 1),
        @extschema@.aggregator_percentile(
            (@extschema@.aggregator_sum_histograms(sums.latency) FILTER (WHERE sums.status = 'success'))::bigint[],
            0.95::double precision),
        coalesce(sum(sums.unpriced), 0)::bigint
    FROM @extschema@.aggregator_usage_sums AS sums
    WHERE (v_report.all_users AND sums.user_id IS NULL OR sums.user_id = v_report.user_id)
      AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
      AND (sums.grain = 'hour' AND sums.start >= v_report.since AND sums.start < v_report.days_since
           OR sums.grain = 'day' AND sums.start >= v_report.days_since);
END
$$;

-- p_bucket: hour or day (UTC); else hours for a day and days for what is longer. The first bucket
-- may begin before the range, and then counts only what is in it.
CREATE FUNCTION @extschema@.usage_over_time(
    p_range    text DEFAULT 'week',
    p_provider text DEFAULT NULL,
    p_user_id  text DEFAULT NULL,
    p_bucket   text DEFAULT NULL
)
RETURNS TABLE (
    bucket            timestamptz,
    requests          bigint,
    tokens            bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
    v_bucket text := coalesce(p_bucket, CASE p_range WHEN 'day' THEN 'hour' ELSE 'day' END);
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    IF v_bucket = 'hour' THEN
        v_report.days_since := 'infinity';
    ELSIF v_bucket <> 'day' THEN
        RAISE EXCEPTION 'p_bucket must be ''hour'' or ''day'', not %', quote_literal(p_bucket)
            USING ERRCODE = 'PT400';
    END IF;
    RETURN QUERY
    SELECT every.bucket, coalesce(used.requests, 0), coalesce(used.tokens, 0),
        CASE WHEN used.bucket IS NULL THEN 0 ELSE used.cost END,
        coalesce(used.unpriced, 0)
    FROM generate_series(
        -- Counted in UTC, whose days all have 24 hours.
        date_trunc(v_bucket, v_report.since, 'UTC') AT TIME ZONE 'UTC',
        now() AT TIME ZONE 'UTC',
        ('1 ' || v_bucket)::interval
    ) AS step
    CROSS JOIN LATERAL (SELECT step AT TIME ZONE 'UTC' AS bucket) AS every
    LEFT JOIN (
        SELECT date_trunc(v_bucket, sums.start, 'UTC') AS bucket,
            sum(sums.requests)::bigint AS requests,
            sum(sums.total_tokens)::bigint AS tokens,
            @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)) AS cost,
            sum(sums.unpriced)::bigint AS unpriced
        FROM @extschema@.aggregator_usage_sums AS sums
        WHERE (v_report.all_users AND sums.user_id IS NULL OR sums.user_id = v_report.user_id)
          AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
          AND (sums.grain = 'hour' AND sums.start >= v_report.since AND sums.start < v_report.days_since
               OR sums.grain = 'day' AND sums.start >= v_report.days_since)
        GROUP BY 1
    ) AS used ON used.bucket = every.bucket
    ORDER BY every.bucket;
END
$$;

CREATE FUNCTION @extschema@.usage_by_model(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    provider_name     text,
    model_id          text,
    requests          bigint,
    errors            bigint,
    prompt_tokens     bigint,
    completion_tokens bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint,
    avg_latency_ms    numeric
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT coalesce(p.name, used.provider_id::text), used.model_id, used.requests, used.errors,
        used.prompt_tokens, used.completion_tokens, used.total_tokens, used.cost, used.unpriced, used.latency
    FROM (
        SELECT sums.provider_id,
            sums.model_id,
            sum(sums.requests)::bigint AS requests,
            coalesce(sum(sums.requests) FILTER (WHERE sums.status = 'error'), 0)::bigint AS errors,
            sum(sums.prompt_tokens)::bigint AS prompt_tokens,
            sum(sums.completion_tokens)::bigint AS completion_tokens,
            sum(sums.total_tokens)::bigint AS total_tokens,
            @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)) AS cost,
            sum(sums.unpriced)::bigint AS unpriced,
            round(sum(sums.latency_ms_sum) FILTER (WHERE sums.status = 'success')
                / nullif(sum(sums.timed) FILTER (WHERE sums.status = 'success'), 0), 1) AS latency
        FROM @extschema@.aggregator_usage_sums AS sums
        WHERE (v_report.all_users AND sums.user_id IS NULL OR sums.user_id = v_report.user_id)
          AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
          AND (sums.grain = 'hour' AND sums.start >= v_report.since AND sums.start < v_report.days_since
               OR sums.grain = 'day' AND sums.start >= v_report.days_since)
        GROUP BY sums.provider_id, sums.model_id
    ) AS used
    LEFT JOIN @extschema@.api_providers AS p ON p.id = used.provider_id
    WHERE used.requests > 0
    ORDER BY used.cost DESC NULLS LAST, used.total_tokens DESC, used.requests DESC, 1, 2;
END
$$;

-- What never left this machine is a status of its own here: unreachable.
CREATE FUNCTION @extschema@.usage_by_status(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    status            text,
    requests          bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    WITH used AS (
        SELECT sums.status,
            sum(sums.requests)::bigint AS requests,
            sum(sums.unreachable)::bigint AS unreachable,
            sum(sums.total_tokens)::bigint AS total_tokens,
            @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)) AS cost,
            sum(sums.unpriced)::bigint AS unpriced
        FROM @extschema@.aggregator_usage_sums AS sums
        WHERE (v_report.all_users AND sums.user_id IS NULL OR sums.user_id = v_report.user_id)
          AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
          AND (sums.grain = 'hour' AND sums.start >= v_report.since AND sums.start < v_report.days_since
               OR sums.grain = 'day' AND sums.start >= v_report.days_since)
        GROUP BY sums.status
    )
    SELECT used.status, used.requests, used.total_tokens, used.cost, used.unpriced
    FROM used
    WHERE used.requests > 0
    UNION ALL
    SELECT 'unreachable', sum(used.unreachable)::bigint, 0::bigint, 0::numeric, 0::bigint
    FROM used
    HAVING sum(used.unreachable) > 0
    ORDER BY 2 DESC, 1;
END
$$;

CREATE FUNCTION @extschema@.usage_by_user(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    user_id           text,
    requests          bigint,
    errors            bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    IF NOT @extschema@.aggregator_is_reader() THEN
        RAISE EXCEPTION 'role ''%'' may not see the usage of every user', current_user
            USING ERRCODE = 'PT403', HINT = 'It takes a role that was granted reader or admin; usage_summary() and the others show one''s own.';
    END IF;
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT sums.user_id,
        sum(sums.requests)::bigint,
        coalesce(sum(sums.requests) FILTER (WHERE sums.status = 'error'), 0)::bigint,
        sum(sums.total_tokens)::bigint,
        @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)),
        sum(sums.unpriced)::bigint
    FROM @extschema@.aggregator_usage_hourly AS sums
    WHERE sums.hour >= v_report.since
      AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
      AND (v_report.all_users OR sums.user_id = v_report.user_id)
    GROUP BY sums.user_id
    HAVING sum(sums.requests) > 0
    ORDER BY 5 DESC NULLS LAST, 4 DESC, 2 DESC, 1;
END
$$;

COMMENT ON VIEW @extschema@.aggregator_usage_sums IS 'What the reports read: the rollups of each user by the hour, and those of all users together (user_id is NULL) by the hour and by the day.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.user_id IS 'Whose; NULL: all users together.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.grain IS 'hour or day.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.start IS 'Beginning of the hour or day, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.provider_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.model_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.status IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.requests IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.unreachable IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.priced IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.unpriced IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.prompt_tokens IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.completion_tokens IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.total_tokens IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.timed IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.latency_ms_sum IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.latency IS 'As in aggregator_usage_hourly.';
COMMENT ON COLUMN @extschema@.aggregator_usage_sums.cost IS 'As in aggregator_usage_hourly.';

COMMENT ON FUNCTION @extschema@.aggregator_report(text, text, text) IS 'What a report with these arguments is about. PT400, PT403, PT404. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_known_cost(numeric, numeric, numeric) IS 'USD of so many priced requests; NULL if there are only unpriced ones.';
COMMENT ON FUNCTION @extschema@.usage_summary(text, text, text) IS
    'Tokens, USD, requests, errors and milliseconds (average and 95th percentile of the successful ones; the latter from a histogram) of the caller, of p_user_id (readers), or of all users together (readers, p_user_id NULL). p_range: day (24 hours), week (7 days) or month (30 days), whole hours; p_provider: name or id. total_cost is of the priced requests; NULL: none is priced. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.usage_over_time(text, text, text, text) IS
    'The same over time: a row for each hour or day (UTC; p_bucket) of the range, those without usage too. As a date a day is (bucket AT TIME ZONE ''UTC'')::date. cost NULL: nothing in it is priced. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.usage_by_model(text, text, text) IS
    'The same per provider and model, the dearest first. cost NULL: nothing is priced. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.usage_by_status(text, text, text) IS
    'The same per status; unreachable is what never left this machine, and counts as a request nowhere else. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.usage_by_user(text, text, text) IS
    'The same per user, the dearest first. For readers. PT400, PT403, PT404.';

SET LOCAL search_path = @extschema@, pg_temp;
