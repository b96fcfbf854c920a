-- What the reports read: the settled rows of the ledger, summed up in the transaction that settles
-- them. Both tables equal the rows of the ledger at every moment.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Per hour (UTC) and user.
CREATE TABLE @extschema@.aggregator_usage_hourly (
    hour                  timestamptz NOT NULL,
    user_id               text        NOT NULL,
    provider_id           uuid        NOT NULL,
    model_id              text        NOT NULL,
    status                text        NOT NULL,
    requests              bigint      NOT NULL,
    unreachable           bigint      NOT NULL,
    priced                bigint      NOT NULL,
    unpriced              bigint      NOT NULL,
    prompt_tokens         bigint      NOT NULL,
    completion_tokens     bigint      NOT NULL,
    total_tokens          bigint      NOT NULL,
    cache_read_tokens     bigint      NOT NULL,
    cache_write_tokens    bigint      NOT NULL,
    cache_write_1h_tokens bigint      NOT NULL,
    audio_input_tokens    bigint      NOT NULL,
    reasoning_tokens      bigint      NOT NULL,
    audio_output_tokens   bigint      NOT NULL,
    timed                 bigint      NOT NULL,
    latency_ms_sum        bigint      NOT NULL,
    first_tokens          bigint      NOT NULL,
    first_token_ms_sum    bigint      NOT NULL,
    budget_requests       bigint      NOT NULL,
    budget_tokens         bigint      NOT NULL,
    cost                  numeric     NOT NULL,
    budget_cost           numeric     NOT NULL,
    latency               integer[]   NOT NULL,
    own_requests          bigint      NOT NULL DEFAULT 0,
    own_tokens            bigint      NOT NULL DEFAULT 0,
    own_cost              numeric     NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, hour, provider_id, model_id, status)
) WITH (fillfactor = 80);
CREATE INDEX ON @extschema@.aggregator_usage_hourly USING brin (hour);

-- Of all users together, per hour and per day (UTC): a month of everybody is then some thousand
-- rows, however many users there are.
CREATE TABLE @extschema@.aggregator_usage_totals (
    grain                 text        NOT NULL CHECK (grain IN ('hour', 'day')),
    start                 timestamptz NOT NULL,
    LIKE @extschema@.aggregator_usage_hourly INCLUDING DEFAULTS,
    PRIMARY KEY (grain, start, provider_id, model_id, status)
) WITH (fillfactor = 80);
ALTER TABLE @extschema@.aggregator_usage_totals DROP COLUMN hour, DROP COLUMN user_id;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_usage_hourly', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_usage_totals', '');

-- What a row counts against a budget, pending or settled: what it cost where that is certain, else
-- the upper bound that was reserved for it, or what is known if that is more. No single row counts
-- without end: what was beyond the bound of its request counts as the bound, and what had none as
-- 1,000 USD and 10,000,000 tokens at the most. And as which model the sums know it, and who paid. The
-- gateway counts by the same rule (core/budget.rs).
CREATE FUNCTION @extschema@.aggregator_counted(
    p_log               @extschema@.aggregator_usage_logs,
    OUT cost            numeric,
    OUT tokens          bigint,
    OUT requests        integer,
    OUT model_id        text,
    OUT is_own_key      boolean
)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_most_usd    CONSTANT numeric := 1000;
    c_most_tokens CONSTANT bigint  := 10000000;
    -- What nobody can have reserved, whatever a column holds.
    v_usd         numeric := CASE WHEN p_log.reserved_cost IS NOT NULL THEN greatest(least(p_log.reserved_cost, 1e12), 0) END;
    v_tokens      bigint  := CASE WHEN p_log.reserved_tokens IS NOT NULL THEN greatest(least(p_log.reserved_tokens, 2147483647), 0) END;
BEGIN
    cost := coalesce(CASE
        WHEN p_log.cost_source IN ('upstream', 'computed') THEN p_log.cost_estimate
        ELSE greatest(v_usd, p_log.cost_estimate)
    END, 0);
    tokens := coalesce(CASE
        WHEN p_log.total_tokens IS NOT NULL AND p_log.metadata -> 'estimated' IS NULL THEN p_log.total_tokens
        -- Priced without usage: it was refused, or nothing was sent, and it is free.
        WHEN p_log.total_tokens IS NULL AND p_log.cost_source = 'computed' THEN 0
        ELSE greatest(v_tokens, p_log.total_tokens)
    END, 0);
    IF cost > c_most_usd OR tokens > c_most_tokens OR p_log.metadata ? 'beyond_bound' THEN
        cost := least(cost, CASE
            WHEN p_log.metadata -> 'beyond_bound' ? 'cost' THEN coalesce(v_usd, c_most_usd)
            ELSE greatest(v_usd, c_most_usd)
        END);
        tokens := least(tokens, CASE
            WHEN p_log.metadata -> 'beyond_bound' ? 'tokens' THEN coalesce(v_tokens, c_most_tokens)
            ELSE greatest(v_tokens, c_most_tokens)
        END);
    END IF;
    requests := CASE WHEN p_log.error_code = 'unreachable' THEN 0 ELSE 1 END;
    -- Names that people make up are one row of the sums, and not a row each.
    model_id := CASE WHEN p_log.is_listed IS FALSE THEN '(unlisted)' ELSE p_log.model_id END;
    is_own_key := p_log.is_platform_key IS FALSE;
END
$$;

-- A latency histogram has a place for each of these upper ends (milliseconds, exclusive), and one for
-- what is above them; each end is about 1.6 times the one before.
CREATE FUNCTION @extschema@.aggregator_latency_bounds() RETURNS integer[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_latency_bounds_wrapper';

CREATE FUNCTION @extschema@.aggregator_latency_histogram(p_latency_ms integer, p_times integer) RETURNS integer[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_latency_histogram_wrapper';

CREATE FUNCTION @extschema@.aggregator_add_histograms(p_one integer[], p_other integer[]) RETURNS integer[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_add_histograms_wrapper';

CREATE FUNCTION @extschema@.aggregator_percentile(p_histogram bigint[], p_share double precision) RETURNS integer
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_percentile_wrapper';

-- Whether this is the worker, writing the ledger.
CREATE FUNCTION @extschema@.aggregator_is_settling() RETURNS boolean
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'aggregator_is_settling_wrapper';

-- The histograms of several rows as one.
CREATE AGGREGATE @extschema@.aggregator_sum_histograms(integer[]) (
    SFUNC = @extschema@.aggregator_add_histograms,
    STYPE = integer[],
    COMBINEFUNC = @extschema@.aggregator_add_histograms,
    PARALLEL = SAFE
);

-- Adds rows of the ledger to the sums and takes others away; pending ones count for nothing. In the
-- order of the keys, so that two writers wait for each other instead of locking each other out. A sum
-- that is already larger than anything real stays so: one row must not keep the others from being
-- settled.
CREATE FUNCTION @extschema@.aggregator_roll_up(p_added @extschema@.aggregator_usage_logs[], p_removed @extschema@.aggregator_usage_logs[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH changed AS (
        SELECT 1 AS sign, log.*, counted.cost AS counted_cost, counted.tokens AS counted_tokens,
            counted.requests AS sent, counted.model_id AS summed_model, counted.is_own_key
        FROM unnest(p_added) AS log
        CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
        WHERE log.status <> 'pending'
        UNION ALL
        SELECT -1, log.*, counted.cost, counted.tokens, counted.requests, counted.model_id, counted.is_own_key
        FROM unnest(p_removed) AS log
        CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
        WHERE log.status <> 'pending'
    ),
    part AS MATERIALIZED (
        SELECT date_trunc('hour', created_at, 'UTC') AS hour,
            user_id,
            provider_id,
            summed_model AS model_id,
            status,
            coalesce(sum(sign * sent), 0) AS requests,
            coalesce(sum(sign * (1 - sent)), 0) AS unreachable,
            coalesce(sum(sign * sent) FILTER (WHERE cost_estimate IS NOT NULL), 0) AS priced,
            coalesce(sum(sign * sent) FILTER (WHERE cost_estimate IS NULL), 0) AS unpriced,
            coalesce(sum(sign * prompt_tokens), 0) AS prompt_tokens,
            coalesce(sum(sign * completion_tokens), 0) AS completion_tokens,
            coalesce(sum(sign * total_tokens), 0) AS total_tokens,
            coalesce(sum(sign * cache_read_tokens), 0) AS cache_read_tokens,
            coalesce(sum(sign * cache_write_tokens), 0) AS cache_write_tokens,
            coalesce(sum(sign * cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
            coalesce(sum(sign * audio_input_tokens), 0) AS audio_input_tokens,
            coalesce(sum(sign * reasoning_tokens), 0) AS reasoning_tokens,
            coalesce(sum(sign * audio_output_tokens), 0) AS audio_output_tokens,
            coalesce(sum(sign) FILTER (WHERE latency_ms IS NOT NULL), 0) AS timed,
            coalesce(sum(sign * latency_ms), 0) AS latency_ms_sum,
            coalesce(sum(sign) FILTER (WHERE time_to_first_token_ms IS NOT NULL), 0) AS first_tokens,
            coalesce(sum(sign * time_to_first_token_ms), 0) AS first_token_ms_sum,
            -- What the cache has answered asks nothing of a provider.
            coalesce(sum(sign * sent) FILTER (WHERE cost_source IS DISTINCT FROM 'cached'), 0) AS budget_requests,
            coalesce(sum(sign * counted_tokens), 0) AS budget_tokens,
            coalesce(sum(sign * cost_estimate), 0) AS cost,
            coalesce(sum(sign * counted_cost), 0) AS budget_cost,
            -- One place for each of aggregator_latency_bounds(), and one for what is above them.
            coalesce(
                @extschema@.aggregator_sum_histograms(@extschema@.aggregator_latency_histogram(latency_ms, sign)),
                array_fill(0, ARRAY[24])) AS latency,
            coalesce(sum(sign * sent) FILTER (WHERE is_own_key AND cost_source IS DISTINCT FROM 'cached'), 0) AS own_requests,
            coalesce(sum(sign * counted_tokens) FILTER (WHERE is_own_key), 0) AS own_tokens,
            coalesce(sum(sign * counted_cost) FILTER (WHERE is_own_key), 0) AS own_cost
        FROM changed
        GROUP BY 1, 2, 3, 4, 5
    ),
    hourly AS (
        INSERT INTO @extschema@.aggregator_usage_hourly AS kept
            (hour, user_id, provider_id, model_id, status,
            requests, unreachable, priced, unpriced, prompt_tokens, completion_tokens, total_tokens,
            cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens,
            audio_output_tokens, timed, latency_ms_sum, first_tokens, first_token_ms_sum, budget_requests,
            budget_tokens, cost, budget_cost, latency, own_requests, own_tokens, own_cost)
        SELECT * FROM part
        ORDER BY user_id, hour, provider_id, model_id, status
        ON CONFLICT (user_id, hour, provider_id, model_id, status) DO UPDATE SET
            requests = least(kept.requests, 4611686018427387904) + excluded.requests,
            unreachable = least(kept.unreachable, 4611686018427387904) + excluded.unreachable,
            priced = least(kept.priced, 4611686018427387904) + excluded.priced,
            unpriced = least(kept.unpriced, 4611686018427387904) + excluded.unpriced,
            prompt_tokens = least(kept.prompt_tokens, 4611686018427387904) + excluded.prompt_tokens,
            completion_tokens = least(kept.completion_tokens, 4611686018427387904) + excluded.completion_tokens,
            total_tokens = least(kept.total_tokens, 4611686018427387904) + excluded.total_tokens,
            cache_read_tokens = least(kept.cache_read_tokens, 4611686018427387904) + excluded.cache_read_tokens,
            cache_write_tokens = least(kept.cache_write_tokens, 4611686018427387904) + excluded.cache_write_tokens,
            cache_write_1h_tokens = least(kept.cache_write_1h_tokens, 4611686018427387904) + excluded.cache_write_1h_tokens,
            audio_input_tokens = least(kept.audio_input_tokens, 4611686018427387904) + excluded.audio_input_tokens,
            reasoning_tokens = least(kept.reasoning_tokens, 4611686018427387904) + excluded.reasoning_tokens,
            audio_output_tokens = least(kept.audio_output_tokens, 4611686018427387904) + excluded.audio_output_tokens,
            timed = least(kept.timed, 4611686018427387904) + excluded.timed,
            latency_ms_sum = least(kept.latency_ms_sum, 4611686018427387904) + excluded.latency_ms_sum,
            first_tokens = least(kept.first_tokens, 4611686018427387904) + excluded.first_tokens,
            first_token_ms_sum = least(kept.first_token_ms_sum, 4611686018427387904) + excluded.first_token_ms_sum,
            budget_requests = least(kept.budget_requests, 4611686018427387904) + excluded.budget_requests,
            budget_tokens = least(kept.budget_tokens, 4611686018427387904) + excluded.budget_tokens,
            cost = kept.cost + excluded.cost,
            budget_cost = kept.budget_cost + excluded.budget_cost,
            latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency),
            own_requests = least(kept.own_requests, 4611686018427387904) + excluded.own_requests,
            own_tokens = least(kept.own_tokens, 4611686018427387904) + excluded.own_tokens,
            own_cost = kept.own_cost + excluded.own_cost
    )
    INSERT INTO @extschema@.aggregator_usage_totals AS kept
        (grain, start, provider_id, model_id, status,
        requests, unreachable, priced, unpriced, prompt_tokens, completion_tokens, total_tokens,
        cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens,
        audio_output_tokens, timed, latency_ms_sum, first_tokens, first_token_ms_sum, budget_requests,
        budget_tokens, cost, budget_cost, latency, own_requests, own_tokens, own_cost)
    SELECT grain,
        CASE grain WHEN 'day' THEN date_trunc('day', hour, 'UTC') ELSE hour END,
        provider_id,
        model_id,
        status,
        sum(requests),
        sum(unreachable),
        sum(priced),
        sum(unpriced),
        sum(prompt_tokens),
        sum(completion_tokens),
        sum(total_tokens),
        sum(cache_read_tokens),
        sum(cache_write_tokens),
        sum(cache_write_1h_tokens),
        sum(audio_input_tokens),
        sum(reasoning_tokens),
        sum(audio_output_tokens),
        sum(timed),
        sum(latency_ms_sum),
        sum(first_tokens),
        sum(first_token_ms_sum),
        sum(budget_requests),
        sum(budget_tokens),
        sum(cost),
        sum(budget_cost),
        @extschema@.aggregator_sum_histograms(latency),
        sum(own_requests),
        sum(own_tokens),
        sum(own_cost)
    FROM part
    CROSS JOIN unnest('{day,hour}'::text[]) AS grain
    GROUP BY 1, 2, 3, 4, 5
    -- What only changes hands (forget_user) changes no total, and locks none.
    HAVING (sum(requests), sum(unreachable), sum(priced), sum(unpriced), sum(prompt_tokens),
            sum(completion_tokens), sum(total_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
            sum(cache_write_1h_tokens), sum(audio_input_tokens), sum(reasoning_tokens),
            sum(audio_output_tokens), sum(timed), sum(latency_ms_sum), sum(first_tokens),
            sum(first_token_ms_sum), sum(budget_requests), sum(budget_tokens), sum(cost), sum(budget_cost),
            sum(own_requests), sum(own_tokens), sum(own_cost))
            <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        OR @extschema@.aggregator_sum_histograms(latency) <> array_fill(0, ARRAY[24])
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (grain, start, provider_id, model_id, status) DO UPDATE SET
        requests = least(kept.requests, 4611686018427387904) + excluded.requests,
        unreachable = least(kept.unreachable, 4611686018427387904) + excluded.unreachable,
        priced = least(kept.priced, 4611686018427387904) + excluded.priced,
        unpriced = least(kept.unpriced, 4611686018427387904) + excluded.unpriced,
        prompt_tokens = least(kept.prompt_tokens, 4611686018427387904) + excluded.prompt_tokens,
        completion_tokens = least(kept.completion_tokens, 4611686018427387904) + excluded.completion_tokens,
        total_tokens = least(kept.total_tokens, 4611686018427387904) + excluded.total_tokens,
        cache_read_tokens = least(kept.cache_read_tokens, 4611686018427387904) + excluded.cache_read_tokens,
        cache_write_tokens = least(kept.cache_write_tokens, 4611686018427387904) + excluded.cache_write_tokens,
        cache_write_1h_tokens = least(kept.cache_write_1h_tokens, 4611686018427387904) + excluded.cache_write_1h_tokens,
        audio_input_tokens = least(kept.audio_input_tokens, 4611686018427387904) + excluded.audio_input_tokens,
        reasoning_tokens = least(kept.reasoning_tokens, 4611686018427387904) + excluded.reasoning_tokens,
        audio_output_tokens = least(kept.audio_output_tokens, 4611686018427387904) + excluded.audio_output_tokens,
        timed = least(kept.timed, 4611686018427387904) + excluded.timed,
        latency_ms_sum = least(kept.latency_ms_sum, 4611686018427387904) + excluded.latency_ms_sum,
        first_tokens = least(kept.first_tokens, 4611686018427387904) + excluded.first_tokens,
        first_token_ms_sum = least(kept.first_token_ms_sum, 4611686018427387904) + excluded.first_token_ms_sum,
        budget_requests = least(kept.budget_requests, 4611686018427387904) + excluded.budget_requests,
        budget_tokens = least(kept.budget_tokens, 4611686018427387904) + excluded.budget_tokens,
        cost = kept.cost + excluded.cost,
        budget_cost = kept.budget_cost + excluded.budget_cost,
        latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency),
        own_requests = least(kept.own_requests, 4611686018427387904) + excluded.own_requests,
        own_tokens = least(kept.own_tokens, 4611686018427387904) + excluded.own_tokens,
        own_cost = kept.own_cost + excluded.own_cost;

    IF cardinality(p_removed) > 0 THEN
        DELETE FROM @extschema@.aggregator_usage_hourly AS kept
        USING (
            SELECT DISTINCT date_trunc('hour', log.created_at, 'UTC') AS hour, log.user_id, log.provider_id,
                counted.model_id, log.status
            FROM unnest(p_removed) AS log
            CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
        ) AS gone
        WHERE (kept.user_id, kept.hour, kept.provider_id, kept.model_id, kept.status)
            = (gone.user_id, gone.hour, gone.provider_id, gone.model_id, gone.status)
          AND kept.requests = 0
          AND kept.unreachable = 0;
        DELETE FROM @extschema@.aggregator_usage_totals AS kept
        USING (
            SELECT DISTINCT grain, date_trunc(grain, log.created_at, 'UTC') AS start, log.provider_id,
                counted.model_id, log.status
            FROM unnest(p_removed) AS log
            CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
            CROSS JOIN unnest('{day,hour}'::text[]) AS grain
        ) AS gone
        WHERE (kept.grain, kept.start, kept.provider_id, kept.model_id, kept.status)
            = (gone.grain, gone.start, gone.provider_id, gone.model_id, gone.status)
          AND kept.requests = 0
          AND kept.unreachable = 0;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_added) AS log WHERE log.gateway_key_id IS NOT NULL OR log.tags IS NOT NULL)
        OR EXISTS (SELECT FROM unnest(p_removed) AS log WHERE log.gateway_key_id IS NOT NULL OR log.tags IS NOT NULL)
    THEN
        PERFORM @extschema@.aggregator_roll_up_labels(p_added, p_removed);
    END IF;
END
$$;

-- Whatever else changes the ledger changes the sums with it: forget_user, a new price, a hand. The
-- worker adds what it settles by itself, a batch at a time (core/rollup.rs, statements/add_hourly.sql). pg_dump restores into the partitions,
-- which have no such trigger, and the sums from the dump.
CREATE FUNCTION @extschema@.aggregator_after_usage() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_part    CONSTANT integer := 4096;
    v_parts   bigint;
    v_added   @extschema@.aggregator_usage_logs[];
    v_removed @extschema@.aggregator_usage_logs[];
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN
            SELECT count(*) / c_part + 1 INTO v_parts FROM added;
            FOR v_added IN
                SELECT array_agg(ROW(log.*)::@extschema@.aggregator_usage_logs)
                FROM added AS log
                WHERE log.status <> 'pending'
                GROUP BY (uuid_hash(log.call_id) & 1048575) % v_parts
            LOOP
                PERFORM @extschema@.aggregator_roll_up(v_added, '{}'::@extschema@.aggregator_usage_logs[]);
            END LOOP;
        WHEN 'DELETE' THEN
            SELECT count(*) / c_part + 1 INTO v_parts FROM removed;
            FOR v_removed IN
                SELECT array_agg(ROW(log.*)::@extschema@.aggregator_usage_logs)
                FROM removed AS log
                WHERE log.status <> 'pending'
                GROUP BY (uuid_hash(log.call_id) & 1048575) % v_parts
            LOOP
                PERFORM @extschema@.aggregator_roll_up('{}'::@extschema@.aggregator_usage_logs[], v_removed);
            END LOOP;
        WHEN 'UPDATE' THEN
            -- A row's old and new form go into one part: what stays the same then cancels out.
            SELECT count(*) / c_part + 1 INTO v_parts FROM added;
            FOR v_added, v_removed IN
                SELECT coalesce(array_agg(row) FILTER (WHERE is_new), '{}'),
                    coalesce(array_agg(row) FILTER (WHERE NOT is_new), '{}')
                FROM (
                    SELECT log.call_id, true AS is_new, ROW(log.*)::@extschema@.aggregator_usage_logs AS row
                    FROM added AS log
                    WHERE log.status <> 'pending'
                    UNION ALL
                    SELECT log.call_id, false, ROW(log.*)::@extschema@.aggregator_usage_logs
                    FROM removed AS log
                    WHERE log.status <> 'pending'
                ) AS changed
                GROUP BY (uuid_hash(call_id) & 1048575) % v_parts
            LOOP
                PERFORM @extschema@.aggregator_roll_up(v_added, v_removed);
            END LOOP;
        WHEN 'TRUNCATE' THEN
            TRUNCATE @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals,
                @extschema@.aggregator_usage_labels;
    END CASE;
    RETURN NULL;
END
$$;

-- A restore brings the sums along, and sets row_security to off; with --load-via-partition-root its rows come here.
CREATE TRIGGER after_insert AFTER INSERT ON @extschema@.aggregator_usage_logs
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT WHEN (
    NOT @extschema@.aggregator_is_settling()
    AND current_setting('row_security') <> 'off'
) EXECUTE FUNCTION @extschema@.aggregator_after_usage();

CREATE TRIGGER after_update AFTER UPDATE ON @extschema@.aggregator_usage_logs
REFERENCING OLD TABLE AS removed NEW TABLE AS added
FOR EACH STATEMENT WHEN (NOT @extschema@.aggregator_is_settling()) EXECUTE FUNCTION @extschema@.aggregator_after_usage();

CREATE TRIGGER after_delete AFTER DELETE ON @extschema@.aggregator_usage_logs
REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_after_usage();

CREATE TRIGGER after_truncate AFTER TRUNCATE ON @extschema@.aggregator_usage_logs
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_after_usage();

-- Sums up the ledger anew, for what was written past the triggers (into a partition, or with
-- triggers off): the days (UTC) from p_from up to p_to; NULL: from the first, up to the last.
CREATE FUNCTION @extschema@.aggregator_recount_usage(p_from timestamptz DEFAULT NULL, p_to timestamptz DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_part CONSTANT integer := 20000;
    v_from timestamptz := coalesce(date_trunc('day', p_from, 'UTC'), '-infinity');
    v_to   timestamptz := coalesce(date_trunc('day', p_to - interval '1 microsecond', 'UTC') + interval '24 hours', 'infinity');
    v_hour timestamptz;
    v_rows @extschema@.aggregator_usage_logs[];
BEGIN
    -- Whoever settles rows meanwhile waits, and then finds the new sums.
    LOCK TABLE @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals,
        @extschema@.aggregator_usage_labels IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM @extschema@.aggregator_usage_hourly WHERE hour >= v_from AND hour < v_to;
    DELETE FROM @extschema@.aggregator_usage_totals WHERE start >= v_from AND start < v_to;
    DELETE FROM @extschema@.aggregator_usage_labels WHERE hour >= v_from AND hour < v_to;
    -- Hour by hour, so that each sum is written once or twice and not with every part.
    FOR v_hour IN
        SELECT generate_series(date_trunc('hour', min(log.created_at), 'UTC'), max(log.created_at), interval '1 hour')
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.created_at >= v_from AND log.created_at < v_to
    LOOP
        FOR v_rows IN
            SELECT array_agg(numbered.log)
            FROM (
                SELECT log, (row_number() OVER () - 1) / c_part AS part
                FROM @extschema@.aggregator_usage_logs AS log
                WHERE log.status <> 'pending'
                  AND log.created_at >= v_hour
                  AND log.created_at < v_hour + interval '1 hour'
            ) AS numbered
            GROUP BY numbered.part
        LOOP
            PERFORM @extschema@.aggregator_roll_up(v_rows, '{}'::@extschema@.aggregator_usage_logs[]);
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_usage_hourly IS 'The settled rows of the usage log, rolled up per hour (UTC), user, provider, model and status, in the transaction that settles them.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.hour IS 'Beginning of the hour in which the attempts began, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.user_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.own_requests IS 'Of budget_requests: those for which users'' own keys paid; the platform''s paid the rest.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.own_tokens IS 'Of budget_tokens: those of users'' own keys.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.own_cost IS 'Of budget_cost: those of users'' own keys.';
COMMENT ON TABLE @extschema@.aggregator_usage_totals IS 'The same rollups of all users together, per hour and per day (UTC). For administrators.';
COMMENT ON COLUMN @extschema@.aggregator_usage_totals.grain IS 'hour or day: what the row sums up. Each attempt is in one of either.';
COMMENT ON COLUMN @extschema@.aggregator_usage_totals.start IS 'Beginning of the hour or day, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.provider_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.model_id IS 'As in aggregator_usage_logs; (unlisted): all that no catalogue listed.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.status IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.requests IS 'Attempts that left this machine, and answers of the response cache.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.unreachable IS 'Attempts that did not (error_code unreachable); they count as nothing else.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.priced IS 'Of the requests: those with a cost, be it 0.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.unpriced IS 'Of the requests: those whose cost is unknown.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.prompt_tokens IS 'Tokens that went in, as far as known.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.completion_tokens IS 'Tokens that came out, as far as known.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.total_tokens IS 'Both together.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.cache_read_tokens IS 'Of prompt_tokens: read from a cache.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.cache_write_tokens IS 'Of prompt_tokens: written to a cache (5 minutes).';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.cache_write_1h_tokens IS 'Of prompt_tokens: written to a cache (1 hour).';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.audio_input_tokens IS 'Of prompt_tokens: audio.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.reasoning_tokens IS 'Of completion_tokens: reasoning.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.audio_output_tokens IS 'Of completion_tokens: audio.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.timed IS 'Attempts with a latency.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.latency_ms_sum IS 'Sum of their latencies, in milliseconds.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.first_tokens IS 'Attempts with a time to the first token.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.first_token_ms_sum IS 'Sum of those times, in milliseconds.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.budget_requests IS 'Requests that count against a budget.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.budget_tokens IS 'Tokens that count against a budget; see aggregator_counted.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.cost IS 'USD of the priced requests together; what is unpriced is not in it.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.budget_cost IS 'USD that count against a budget; see aggregator_counted.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.latency IS 'Histogram of the latencies: how many lie below each of aggregator_latency_bounds() and not below the one before, and last those above all.';

COMMENT ON FUNCTION @extschema@.aggregator_counted(@extschema@.aggregator_usage_logs) IS
    'What a row of the usage log counts against a budget: its cost where that is certain, else the greater of what is known and what was reserved; never more than the bound of its request, or than 1,000 USD and 10,000,000 tokens where it had none. What never left is no request. model_id: as the sums know it. is_own_key: the user''s own key paid.';
COMMENT ON FUNCTION @extschema@.aggregator_latency_bounds() IS 'Upper ends of the places of a latency histogram, in milliseconds, exclusive.';
COMMENT ON FUNCTION @extschema@.aggregator_latency_histogram(integer, integer) IS 'A latency histogram that counts one latency so many times.';
COMMENT ON FUNCTION @extschema@.aggregator_add_histograms(integer[], integer[]) IS 'Two latency histograms as one.';
COMMENT ON FUNCTION @extschema@.aggregator_percentile(bigint[], double precision) IS 'Milliseconds below which this share (0 to 1) of a latency histogram lies; NULL if it is empty.';
COMMENT ON FUNCTION @extschema@.aggregator_is_settling() IS 'Whether this process is the worker and writes the usage log just now. Internal.';
COMMENT ON AGGREGATE @extschema@.aggregator_sum_histograms(integer[]) IS 'Latency histograms as one.';
COMMENT ON FUNCTION @extschema@.aggregator_roll_up(@extschema@.aggregator_usage_logs[], @extschema@.aggregator_usage_logs[]) IS 'Adds rows of the usage log to the rollups and takes others away. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_after_usage() IS 'Keeps the rollups equal to the usage log, whoever changes it.';
COMMENT ON FUNCTION @extschema@.aggregator_recount_usage(timestamptz, timestamptz) IS
    'Rolls up the usage log again, whole days (UTC) from p_from up to p_to, for what was written past the triggers. For the owner of the extension.';

SET LOCAL search_path = @extschema@, pg_temp;
