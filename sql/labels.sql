-- Calls of gateway keys and calls with tags, summed up in the transaction that settles them: only those, so that
-- a call that has neither pays nothing. Equal to the rows of the ledger at every moment, as the other sums are.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_usage_labels (
    kind              text        NOT NULL CHECK (kind IN ('key', 'tag')),
    label             text        NOT NULL,
    hour              timestamptz NOT NULL,
    user_id           text        NOT NULL,
    provider_id       uuid        NOT NULL,
    model_id          text        NOT NULL,
    status            text        NOT NULL,
    requests          bigint      NOT NULL,
    unreachable       bigint      NOT NULL,
    priced            bigint      NOT NULL,
    unpriced          bigint      NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    total_tokens      bigint      NOT NULL,
    budget_requests   bigint      NOT NULL,
    budget_tokens     bigint      NOT NULL,
    own_requests      bigint      NOT NULL,
    own_tokens        bigint      NOT NULL,
    cost              numeric     NOT NULL,
    budget_cost       numeric     NOT NULL,
    own_cost          numeric     NOT NULL,
    gateway           text        NOT NULL DEFAULT '',
    PRIMARY KEY (kind, label, hour, user_id, provider_id, model_id, status, gateway)
) WITH (fillfactor = 80);
CREATE INDEX ON @extschema@.aggregator_usage_labels (user_id, hour);
CREATE INDEX ON @extschema@.aggregator_usage_labels USING brin (hour);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_usage_labels', '');

-- Tags are words of people: planners need not remember them.
ALTER TABLE @extschema@.aggregator_usage_labels ALTER COLUMN label SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_usage_logs ALTER COLUMN tags SET STATISTICS 0;

-- The part of aggregator_roll_up for keys and tags. Upgrades run this too.
DO $do$
DECLARE
    c_signature CONSTANT text := '@extschema@.aggregator_roll_up_labels(@extschema@.aggregator_usage_logs[],@extschema@.aggregator_usage_logs[])';
    v_create    CONSTANT text := CASE WHEN to_regprocedure(c_signature) IS NULL THEN 'CREATE' ELSE 'CREATE OR REPLACE' END;
    v_parts              record;
BEGIN
    SELECT * INTO STRICT v_parts FROM @extschema@.aggregator_rollup_parts(true);
    EXECUTE format($template$
%1$s FUNCTION @extschema@.aggregator_roll_up_labels(p_added @extschema@.aggregator_usage_logs[], p_removed @extschema@.aggregator_usage_logs[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_gateway CONSTANT text := @extschema@.aggregator_gateway_name();
BEGIN
    WITH changed AS (
        SELECT 1 AS sign, log.*, labelled.kind, labelled.label, counted.cost AS counted_cost, counted.tokens AS counted_tokens,
            counted.requests AS sent, counted.model_id AS summed_model, counted.is_own_key
        FROM unnest(p_added) AS log
        CROSS JOIN LATERAL @extschema@.aggregator_labels(log) AS labelled
        CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
        WHERE log.status <> 'pending'
        UNION ALL
        SELECT -1, log.*, labelled.kind, labelled.label, counted.cost, counted.tokens, counted.requests, counted.model_id,
            counted.is_own_key
        FROM unnest(p_removed) AS log
        CROSS JOIN LATERAL @extschema@.aggregator_labels(log) AS labelled
        CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
        WHERE log.status <> 'pending'
    )
    INSERT INTO @extschema@.aggregator_usage_labels AS kept
        (kind, label, hour, user_id, provider_id, model_id, status,
        %2$s, gateway)
    SELECT kind,
            label,
            date_trunc('hour', created_at, 'UTC'),
            user_id,
            provider_id,
            summed_model,
            status,
            %3$s,
            c_gateway
    FROM changed
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    -- In the order of the keys, as everybody who adds.
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (kind, label, hour, user_id, provider_id, model_id, status, gateway) DO UPDATE SET
            %4$s;

    IF cardinality(p_removed) > 0 THEN
        DELETE FROM @extschema@.aggregator_usage_labels AS kept
        USING (
            SELECT DISTINCT labelled.kind, labelled.label, date_trunc('hour', log.created_at, 'UTC') AS hour, log.user_id,
                log.provider_id, counted.model_id, log.status
            FROM unnest(p_removed) AS log
            CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
            CROSS JOIN LATERAL @extschema@.aggregator_labels(log) AS labelled
        ) AS gone
        WHERE (kept.kind, kept.label, kept.hour, kept.user_id, kept.provider_id, kept.model_id, kept.status)
            = (gone.kind, gone.label, gone.hour, gone.user_id, gone.provider_id, gone.model_id, gone.status)
          AND kept.gateway = c_gateway
          AND kept.requests = 0
          AND kept.unreachable = 0;
    END IF;
END
$$
    $template$, v_create, v_parts.names, v_parts.added, v_parts.grown);
END
$do$;

-- Under which labels a row of the ledger is summed up: its gateway key, and each of its tags once.
CREATE FUNCTION @extschema@.aggregator_labels(p_log @extschema@.aggregator_usage_logs, OUT kind text, OUT label text) RETURNS SETOF record
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_log.gateway_key_id IS NOT NULL THEN
        kind := 'key';
        label := p_log.gateway_key_id::text;
        RETURN NEXT;
    END IF;
    IF p_log.tags IS NOT NULL THEN
        RETURN QUERY
        SELECT DISTINCT 'tag'::text, tag FROM unnest(p_log.tags) AS tag WHERE tag IS NOT NULL;
    END IF;
END
$$;

-- What a report says of each label of a kind: of a key, for each user.
CREATE FUNCTION @extschema@.aggregator_report_labels(
    p_kind           text,
    p_range          text,
    p_provider       text,
    p_user_id        text,
    OUT label        text,
    OUT user_id      text,
    OUT requests     bigint,
    OUT errors       bigint,
    OUT total_tokens bigint,
    OUT cost         numeric,
    OUT unpriced     bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT sums.label,
        CASE WHEN p_kind = 'key' THEN sums.user_id END,
        sum(sums.requests)::bigint,
        coalesce(sum(sums.requests) FILTER (WHERE sums.status = 'error'), 0)::bigint,
        sum(sums.total_tokens)::bigint,
        @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)),
        sum(sums.unpriced)::bigint
    FROM @extschema@.aggregator_usage_labels AS sums
    WHERE sums.kind = p_kind
      AND sums.hour >= v_report.since
      AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
      AND (v_report.all_users OR sums.user_id = v_report.user_id)
    GROUP BY 1, 2
    HAVING sum(sums.requests) > 0;
END
$$;

CREATE FUNCTION @extschema@.usage_by_key(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    gateway_key_id    uuid,
    name              text,
    key_hint          text,
    user_id           text,
    requests          bigint,
    errors            bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT used.label::uuid, k.name, k.key_hint, used.user_id, used.requests, used.errors, used.total_tokens, used.cost,
        used.unpriced
    FROM @extschema@.aggregator_report_labels('key', p_range, p_provider, p_user_id) AS used
    LEFT JOIN @extschema@.aggregator_gateway_keys AS k ON k.id::text = used.label
    ORDER BY used.cost DESC NULLS LAST, used.total_tokens DESC, used.requests DESC, 1, 4
$$;

-- A call with several tags is in the row of each.
CREATE FUNCTION @extschema@.usage_by_tag(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    tag               text,
    requests          bigint,
    errors            bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT used.label, used.requests, used.errors, used.total_tokens, used.cost, used.unpriced
    FROM @extschema@.aggregator_report_labels('tag', p_range, p_provider, p_user_id) AS used
    ORDER BY used.cost DESC NULLS LAST, used.total_tokens DESC, used.requests DESC, 1
$$;

COMMENT ON TABLE @extschema@.aggregator_usage_labels IS 'The settled rows of the usage log that have a gateway key or tags, rolled up per key and per tag, hour (UTC), user, provider, model, status and gateway, in the transaction that settles them. A row with several tags is in the rollups of each.';
COMMENT ON COLUMN @extschema@.aggregator_usage_labels.kind IS 'key: rollups of a gateway key; tag: of a tag.';
COMMENT ON COLUMN @extschema@.aggregator_usage_labels.label IS 'Id of the gateway key, or the tag.';
-- The other columns mean the same in each of the three tables of rollups. Upgrades run this too.
DO $$
DECLARE
    v_column record;
BEGIN
    FOR v_column IN
        SELECT a.attrelid, a.attname, col_description(hourly.attrelid, hourly.attnum) AS description
        FROM pg_attribute AS hourly
        JOIN pg_attribute AS a ON a.attname = hourly.attname
        WHERE hourly.attrelid = '@extschema@.aggregator_usage_hourly'::regclass
          AND hourly.attnum > 0
          AND a.attrelid IN ('@extschema@.aggregator_usage_totals'::regclass, '@extschema@.aggregator_usage_labels'::regclass)
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', v_column.attrelid::regclass, v_column.attname, v_column.description);
    END LOOP;
END
$$;

COMMENT ON FUNCTION @extschema@.aggregator_roll_up_labels(@extschema@.aggregator_usage_logs[], @extschema@.aggregator_usage_logs[]) IS 'Adds rows of the usage log to the rollups of keys and tags and takes others away. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_labels(@extschema@.aggregator_usage_logs) IS 'The gateway key and the tags under which a row of the usage log is rolled up.';
COMMENT ON FUNCTION @extschema@.aggregator_report_labels(text, text, text, text) IS 'Usage of each gateway key and user (p_kind: key) or of each tag (tag). PT400, PT403, PT404. Internal.';
COMMENT ON FUNCTION @extschema@.usage_by_key(text, text, text) IS
    'Usage of each gateway key in the last day, week or month, dearest first: requests that left, errors among them, tokens, USD (NULL: none is priced). Users see their own keys, readers all, or those of p_user_id; the name is for the owner and administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.usage_by_tag(text, text, text) IS
    'Usage with each tag in the last day, week or month, dearest first: requests that left, errors among them, tokens, USD (NULL: none is priced). A request with several tags is in the row of each. Users see their own, readers all together, or those of p_user_id. PT400, PT403, PT404.';

SET LOCAL search_path = @extschema@, pg_temp;
