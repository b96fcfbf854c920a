-- What the reports read: the settled rows of the ledger, summed up in the transaction that settles
-- them. Of its own gateway, both tables equal the rows of the ledger at every moment; rows of other gateways come by
-- replication (following.sql), and this server changes none of them but to forget.

SET LOCAL search_path = pg_catalog, pg_temp;

-- The name of this server among several gateways, under which it sums up; empty: it is alone. Of the reload, or of the
-- server's start, as the worker reads it.
CREATE FUNCTION @extschema@.aggregator_gateway_name() RETURNS text
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'aggregator_gateway_name_wrapper';

-- Per hour (UTC), user and gateway.
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
    gateway               text        NOT NULL DEFAULT '',
    PRIMARY KEY (user_id, hour, provider_id, model_id, status, gateway)
) WITH (fillfactor = 80);
CREATE INDEX ON @extschema@.aggregator_usage_hourly USING brin (hour);

-- Of all users together, per hour and per day (UTC): a month of everybody is then some thousand
-- rows, however many users there are.
CREATE TABLE @extschema@.aggregator_usage_totals (
    grain                 text        NOT NULL CHECK (grain IN ('hour', 'day')),
    start                 timestamptz NOT NULL,
    LIKE @extschema@.aggregator_usage_hourly INCLUDING DEFAULTS,
    PRIMARY KEY (grain, start, provider_id, model_id, status, gateway)
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

-- What a rollup adds up, each measure once: whether it counts or is USD, whether the rollups of keys and tags have it, what a
-- row of the usage log adds to it, and what it means. Its columns and core/rollup.rs have the same names in the same order;
-- the functions and comments are made from this list. What the cache has answered asks nothing of a provider.
CREATE FUNCTION @extschema@.aggregator_rollup_measures(
    OUT name        text,
    OUT unit        text,
    OUT is_labelled boolean,
    OUT added       text,
    OUT description text
) RETURNS SETOF record
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    VALUES
        ('requests', 'count', true, 'sent',
         'Attempts that left this machine, and answers of the response cache.'),
        ('unreachable', 'count', true, '1 - sent',
         'Attempts that did not (error_code unreachable); they count as nothing else.'),
        ('priced', 'count', true, 'CASE WHEN cost_estimate IS NOT NULL THEN sent END',
         'Of the requests: those with a cost, be it 0.'),
        ('unpriced', 'count', true, 'CASE WHEN cost_estimate IS NULL THEN sent END',
         'Of the requests: those whose cost is unknown.'),
        ('prompt_tokens', 'count', true, 'prompt_tokens',
         'Tokens that went in, as far as known.'),
        ('completion_tokens', 'count', true, 'completion_tokens',
         'Tokens that came out, as far as known.'),
        ('total_tokens', 'count', true, 'total_tokens',
         'Both together.'),
        ('cache_read_tokens', 'count', false, 'cache_read_tokens',
         'Of prompt_tokens: read from a cache.'),
        ('cache_write_tokens', 'count', false, 'cache_write_tokens',
         'Of prompt_tokens: written to a cache (5 minutes).'),
        ('cache_write_1h_tokens', 'count', false, 'cache_write_1h_tokens',
         'Of prompt_tokens: written to a cache (1 hour).'),
        ('audio_input_tokens', 'count', false, 'audio_input_tokens',
         'Of prompt_tokens: audio.'),
        ('reasoning_tokens', 'count', false, 'reasoning_tokens',
         'Of completion_tokens: reasoning.'),
        ('audio_output_tokens', 'count', false, 'audio_output_tokens',
         'Of completion_tokens: audio.'),
        ('timed', 'count', false, 'CASE WHEN latency_ms IS NOT NULL THEN 1 END',
         'Attempts with a latency.'),
        ('latency_ms_sum', 'count', false, 'latency_ms',
         'Sum of their latencies, in milliseconds.'),
        ('first_tokens', 'count', false, 'CASE WHEN time_to_first_token_ms IS NOT NULL THEN 1 END',
         'Attempts with a time to the first token.'),
        ('first_token_ms_sum', 'count', false, 'time_to_first_token_ms',
         'Sum of those times, in milliseconds.'),
        ('budget_requests', 'count', true, 'CASE WHEN cost_source IS DISTINCT FROM ''cached'' THEN sent END',
         'Requests that count against a budget.'),
        ('budget_tokens', 'count', true, 'counted_tokens',
         'Tokens that count against a budget; see aggregator_counted.'),
        ('own_requests', 'count', true, 'CASE WHEN is_own_key AND cost_source IS DISTINCT FROM ''cached'' THEN sent END',
         'Of budget_requests: those for which users'' own keys paid; the platform''s paid the rest.'),
        ('own_tokens', 'count', true, 'CASE WHEN is_own_key THEN counted_tokens END',
         'Of budget_tokens: those of users'' own keys.'),
        ('cost', 'usd', true, 'cost_estimate',
         'USD of the priced requests together; what is unpriced is not in it.'),
        ('budget_cost', 'usd', true, 'counted_cost',
         'USD that count against a budget; see aggregator_counted.'),
        ('own_cost', 'usd', true, 'CASE WHEN is_own_key THEN counted_cost END',
         'Of budget_cost: those of users'' own keys.')
$$;

-- What is added to what is there. A sum that is already larger than anything real stays so: one row must not keep the others
-- from being settled.
CREATE FUNCTION @extschema@.aggregator_rollup_grown(p_name text, p_unit text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_unit
        WHEN 'count' THEN format('%1$s = least(kept.%1$s, 4611686018427387904) + excluded.%1$s', p_name)
        WHEN 'usd' THEN format('%1$s = kept.%1$s + excluded.%1$s', p_name)
    END
$$;

-- Parts of statements that add to a rollup: the names of its measures, what rows of the usage log add to each, what is added
-- to what is there, and whether anything is.
CREATE FUNCTION @extschema@.aggregator_rollup_parts(
    p_labelled  boolean,
    OUT names   text,
    OUT added   text,
    OUT summed  text,
    OUT grown   text,
    OUT changes text
)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(name, ', ' ORDER BY place),
        string_agg(format('coalesce(sum(sign * (%s)), 0) AS %s', added, name), E',\n            ' ORDER BY place),
        string_agg(format('sum(%s)', name), ', ' ORDER BY place),
        string_agg(@extschema@.aggregator_rollup_grown(name, unit), E',\n            ' ORDER BY place),
        string_agg(format('sum(%s) <> 0', name), E'\n        OR ' ORDER BY place)
    FROM @extschema@.aggregator_rollup_measures()
        WITH ORDINALITY AS measure (name, unit, is_labelled, added, description, place)
    WHERE is_labelled OR NOT p_labelled
$$;

-- Adds rows of the usage log to the rollups and takes others away; pending ones count for nothing. In the
-- order of the keys, so that two writers wait for each other instead of locking each other out. Upgrades run this too.
DO $do$
DECLARE
    c_signature CONSTANT text := '@extschema@.aggregator_roll_up(@extschema@.aggregator_usage_logs[],@extschema@.aggregator_usage_logs[])';
    v_create    CONSTANT text := CASE WHEN to_regprocedure(c_signature) IS NULL THEN 'CREATE' ELSE 'CREATE OR REPLACE' END;
    v_parts              record;
    v_measure            record;
BEGIN
    SELECT * INTO STRICT v_parts FROM @extschema@.aggregator_rollup_parts(false);
    EXECUTE format($template$
%1$s FUNCTION @extschema@.aggregator_roll_up(p_added @extschema@.aggregator_usage_logs[], p_removed @extschema@.aggregator_usage_logs[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_gateway CONSTANT text := @extschema@.aggregator_gateway_name();
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
        SELECT user_id,
            date_trunc('hour', created_at, 'UTC') AS hour,
            provider_id,
            summed_model AS model_id,
            status,
            %3$s,
            -- One place for each of aggregator_latency_bounds(), and one for what is above them.
            coalesce(
                @extschema@.aggregator_sum_histograms(@extschema@.aggregator_latency_histogram(latency_ms, sign)),
                array_fill(0, ARRAY[24])) AS latency
        FROM changed
        GROUP BY 1, 2, 3, 4, 5
    ),
    hourly AS (
        INSERT INTO @extschema@.aggregator_usage_hourly AS kept
            (user_id, hour, provider_id, model_id, status,
            %2$s, latency, gateway)
        SELECT part.*, c_gateway FROM part
        ORDER BY user_id, hour, provider_id, model_id, status
        ON CONFLICT (user_id, hour, provider_id, model_id, status, gateway) DO UPDATE SET
            %5$s,
            latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency)
    )
    INSERT INTO @extschema@.aggregator_usage_totals AS kept
        (grain, start, provider_id, model_id, status,
        %2$s, latency, gateway)
    SELECT grain,
        CASE grain WHEN 'day' THEN date_trunc('day', hour, 'UTC') ELSE hour END,
        provider_id,
        model_id,
        status,
        %4$s,
        @extschema@.aggregator_sum_histograms(latency),
        c_gateway
    FROM part
    CROSS JOIN unnest('{day,hour}'::text[]) AS grain
    GROUP BY 1, 2, 3, 4, 5
    -- What only changes hands (forget_user) changes no total, and locks none.
    HAVING %6$s
        OR @extschema@.aggregator_sum_histograms(latency) <> array_fill(0, ARRAY[24])
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (grain, start, provider_id, model_id, status, gateway) DO UPDATE SET
            %5$s,
            latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency);

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
          AND kept.gateway = c_gateway
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
          AND kept.gateway = c_gateway
          AND kept.requests = 0
          AND kept.unreachable = 0;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_added) AS log WHERE log.gateway_key_id IS NOT NULL OR log.tags IS NOT NULL)
        OR EXISTS (SELECT FROM unnest(p_removed) AS log WHERE log.gateway_key_id IS NOT NULL OR log.tags IS NOT NULL)
    THEN
        PERFORM @extschema@.aggregator_roll_up_labels(p_added, p_removed);
    END IF;
END
$$
    $template$, v_create, v_parts.names, v_parts.added, v_parts.summed, v_parts.grown, v_parts.changes);
    FOR v_measure IN SELECT * FROM @extschema@.aggregator_rollup_measures() LOOP
        EXECUTE format('COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.%I IS %L', v_measure.name, v_measure.description);
    END LOOP;
END
$do$;

-- Whatever else changes the ledger changes the sums with it: forget_user, a new price, a hand. The
-- worker adds what it settles by itself, a batch at a time (core/rollup.rs, statements/add_hourly.sql). pg_dump restores into the partitions,
-- which have no such trigger, and the sums from the dump.
CREATE FUNCTION @extschema@.aggregator_after_usage() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_part    CONSTANT integer := 4096;
    c_gateway CONSTANT text    := @extschema@.aggregator_gateway_name();
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
            -- Of one gateway among several, its own alone.
            IF c_gateway = '' THEN
                TRUNCATE @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals,
                    @extschema@.aggregator_usage_labels;
            ELSE
                DELETE FROM @extschema@.aggregator_usage_hourly WHERE gateway IN ('', c_gateway);
                DELETE FROM @extschema@.aggregator_usage_totals WHERE gateway IN ('', c_gateway);
                DELETE FROM @extschema@.aggregator_usage_labels WHERE gateway IN ('', c_gateway);
            END IF;
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
    c_part    CONSTANT integer := 20000;
    c_gateway CONSTANT text    := @extschema@.aggregator_gateway_name();
    v_from    timestamptz := coalesce(date_trunc('day', p_from, 'UTC'), '-infinity');
    v_to      timestamptz := coalesce(date_trunc('day', p_to - interval '1 microsecond', 'UTC') + interval '24 hours', 'infinity');
    v_hour    timestamptz;
    v_rows    @extschema@.aggregator_usage_logs[];
BEGIN
    -- Whoever settles rows meanwhile waits, and then finds the new sums.
    LOCK TABLE @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals,
        @extschema@.aggregator_usage_labels IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM @extschema@.aggregator_usage_hourly WHERE hour >= v_from AND hour < v_to AND gateway IN ('', c_gateway);
    DELETE FROM @extschema@.aggregator_usage_totals WHERE start >= v_from AND start < v_to AND gateway IN ('', c_gateway);
    DELETE FROM @extschema@.aggregator_usage_labels WHERE hour >= v_from AND hour < v_to AND gateway IN ('', c_gateway);
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

COMMENT ON TABLE @extschema@.aggregator_usage_hourly IS 'The settled rows of the usage log, rolled up per hour (UTC), user, provider, model, status and gateway, in the transaction that settles them.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.gateway IS 'Which of several gateways served them; empty: one that had no name (aggregator.gateway).';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.hour IS 'Beginning of the hour in which the attempts began, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.user_id IS 'As in aggregator_usage_logs.';
COMMENT ON TABLE @extschema@.aggregator_usage_totals IS 'The same rollups of all users together, per hour and per day (UTC). For administrators.';
COMMENT ON COLUMN @extschema@.aggregator_usage_totals.grain IS 'hour or day: what the row sums up. Each attempt is in one of either.';
COMMENT ON COLUMN @extschema@.aggregator_usage_totals.start IS 'Beginning of the hour or day, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.provider_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.model_id IS 'As in aggregator_usage_logs; (unlisted): all that no catalogue listed.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.status IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_usage_hourly.latency IS 'Histogram of the latencies: how many lie below each of aggregator_latency_bounds() and not below the one before, and last those above all.';

COMMENT ON FUNCTION @extschema@.aggregator_counted(@extschema@.aggregator_usage_logs) IS
    'What a row of the usage log counts against a budget: its cost where that is certain, else the greater of what is known and what was reserved; never more than the bound of its request, or than 1,000 USD and 10,000,000 tokens where it had none. What never left is no request. model_id: as the rollups know it. is_own_key: the user''s own key paid.';
COMMENT ON FUNCTION @extschema@.aggregator_gateway_name() IS 'The name of this server among several gateways (aggregator.gateway); empty: it is alone. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_latency_bounds() IS 'Upper ends of the places of a latency histogram, in milliseconds, exclusive.';
COMMENT ON FUNCTION @extschema@.aggregator_latency_histogram(integer, integer) IS 'A latency histogram that counts one latency so many times.';
COMMENT ON FUNCTION @extschema@.aggregator_add_histograms(integer[], integer[]) IS 'Two latency histograms as one.';
COMMENT ON FUNCTION @extschema@.aggregator_percentile(bigint[], double precision) IS 'Milliseconds below which this share (0 to 1) of a latency histogram lies; NULL if it is empty.';
COMMENT ON FUNCTION @extschema@.aggregator_is_settling() IS 'Whether this process is the worker and writes the usage log just now. Internal.';
COMMENT ON AGGREGATE @extschema@.aggregator_sum_histograms(integer[]) IS 'Latency histograms as one.';
COMMENT ON FUNCTION @extschema@.aggregator_rollup_measures() IS 'What a rollup adds up: each measure, its unit (count or usd), whether the rollups of keys and tags have it, what a row of the usage log adds to it, and what it means. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_rollup_grown(text, text) IS 'How a measure of a rollup grows, by its name and unit: a part of statements. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_rollup_parts(boolean) IS 'Parts of the statements that add to a rollup, made from its measures. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_roll_up(@extschema@.aggregator_usage_logs[], @extschema@.aggregator_usage_logs[]) IS 'Adds rows of the usage log to the rollups and takes others away. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_after_usage() IS 'Keeps the rollups equal to the usage log, whoever changes it.';
COMMENT ON FUNCTION @extschema@.aggregator_recount_usage(timestamptz, timestamptz) IS
    'Rolls up the usage log again, whole days (UTC) from p_from up to p_to, for what was written past the triggers. For the owner of the extension.';

SET LOCAL search_path = @extschema@, pg_temp;
