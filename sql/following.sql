-- Several servers as one gateway, without anything between them but PostgreSQL's own logical replication. On one, the hub,
-- configuration is written, and the others follow it; the rollups of each go to those that report. How to set it up is in
-- docs/operate/gateways.md.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Whether what this process writes comes from another server, by logical replication.
CREATE FUNCTION @extschema@.aggregator_is_applying() RETURNS boolean
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'aggregator_is_applying_wrapper';

-- Whether this server follows a hub, and this process may not write configuration: what comes from the hub may, a restore
-- by a superuser, and a script of the extension.
CREATE FUNCTION @extschema@.aggregator_follows() RETURNS boolean
LANGUAGE c STABLE STRICT
AS 'MODULE_PATHNAME', 'aggregator_follows_wrapper';

-- Trigger function: raises PT409, always.
CREATE FUNCTION @extschema@.aggregator_refuse_change() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_refuse_change_wrapper';

-- Trigger function: what the hub writes for itself (when a key was used last) comes as an update that changes nothing
-- here. It is not written, and no route is forgotten for it.
CREATE FUNCTION @extschema@.aggregator_before_applied() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NULL;
END
$$;

-- What a call's route and its rules are made of, and what each server writes into those tables for itself, which is not
-- published.
CREATE FUNCTION @extschema@.aggregator_configuration(OUT name name, OUT own name[]) RETURNS SETOF record
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    VALUES
        ('api_providers'::name, '{}'::name[]),
        ('user_api_providers', '{last_used_at,last_validated_at}'),
        ('aggregator_models', '{}'),
        ('aggregator_model_prices', '{}'),
        ('aggregator_user_models', '{}'),
        ('aggregator_budgets', '{}'),
        ('aggregator_rate_limits', '{}'),
        ('aggregator_gateway_keys', '{last_used_at}'),
        ('aggregator_gateways', '{}')
$$;

-- Upgrades run this too.
DO $$
DECLARE
    v_table   record;
    v_columns text;
BEGIN
    FOR v_table IN SELECT * FROM @extschema@.aggregator_configuration() LOOP
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO v_columns
        FROM pg_attribute AS a
        WHERE a.attrelid = format('@extschema@.%I', v_table.name)::regclass
          AND a.attnum > 0
          AND NOT a.attisdropped
          AND a.attname <> ALL (v_table.own);
        -- By row, and by name before all others.
        EXECUTE format('CREATE TRIGGER a_follows_hub BEFORE INSERT OR DELETE OR UPDATE OF %s ON @extschema@.%I
            FOR EACH ROW WHEN (@extschema@.aggregator_follows()) EXECUTE FUNCTION @extschema@.aggregator_refuse_change()',
            v_columns, v_table.name);
        EXECUTE format('CREATE TRIGGER a_is_unchanged BEFORE UPDATE ON @extschema@.%I
            FOR EACH ROW WHEN (@extschema@.aggregator_is_applying() AND OLD.* IS NOT DISTINCT FROM NEW.*)
            EXECUTE FUNCTION @extschema@.aggregator_before_applied()', v_table.name);
    END LOOP;
END
$$;

-- Has rollups under one name count as another's.
CREATE FUNCTION @extschema@.aggregator_rename_rollups(p_from text, p_to text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table   record;
    v_renamed bigint := 0;
    v_rows    bigint;
BEGIN
    IF p_from IS NULL OR p_from = p_to THEN
        RETURN 0;
    END IF;
    LOCK TABLE @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals,
        @extschema@.aggregator_usage_labels IN SHARE ROW EXCLUSIVE MODE;
    FOR v_table IN
        SELECT rollup.*, parts.names, parts.grown
        FROM (VALUES
            ('aggregator_usage_hourly', false, 'user_id, hour, provider_id, model_id, status'),
            ('aggregator_usage_totals', false, 'grain, start, provider_id, model_id, status'),
            ('aggregator_usage_labels', true, 'kind, label, hour, user_id, provider_id, model_id, status')
        ) AS rollup (name, is_labelled, keys)
        CROSS JOIN LATERAL @extschema@.aggregator_rollup_parts(rollup.is_labelled) AS parts
    LOOP
        EXECUTE format($template$
            WITH other AS (
                DELETE FROM @extschema@.%1$I WHERE gateway = $1 RETURNING *
            )
            INSERT INTO @extschema@.%1$I AS kept (%2$s, %3$s%4$s, gateway)
            SELECT %2$s, %3$s%4$s, $2
            FROM other
            ORDER BY %2$s
            ON CONFLICT (%2$s, gateway) DO UPDATE SET
                %5$s%6$s
            $template$, v_table.name, v_table.keys, v_table.names,
            CASE WHEN v_table.is_labelled THEN '' ELSE ', latency' END, v_table.grown,
            CASE WHEN v_table.is_labelled THEN ''
                ELSE ', latency = @extschema@.aggregator_add_histograms(kept.latency, excluded.latency)' END)
        USING p_from, p_to;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        v_renamed := v_renamed + v_rows;
    END LOOP;
    RETURN v_renamed;
END
$$;

-- Has this gateway's rollups under another name count as its own: those from before it had a name, or had this one. A
-- name that another gateway has would be the end of what that one told.
CREATE FUNCTION @extschema@.aggregator_adopt_usage(p_gateway text DEFAULT '') RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_gateway('adopt usage'::text);
    RETURN @extschema@.aggregator_rename_rollups(p_gateway, @extschema@.aggregator_gateway_name());
END
$$;

-- Deletes what another gateway has told of its usage, before all of it is copied anew: a subscription that begins again
-- copies no row that is there.
CREATE FUNCTION @extschema@.aggregator_drop_usage(p_gateway text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table   text;
    v_dropped bigint := 0;
    v_rows    bigint;
BEGIN
    PERFORM @extschema@.aggregator_require_gateway('drop what another gateway has counted'::text);
    IF coalesce(p_gateway, '') IN ('', @extschema@.aggregator_gateway_name()) THEN
        RAISE EXCEPTION 'what this gateway has counted itself is its own'
            USING ERRCODE = 'PT400', HINT = 'SELECT DISTINCT gateway FROM aggregator_usage_totals;';
    END IF;
    FOREACH v_table IN ARRAY '{aggregator_usage_hourly,aggregator_usage_totals,aggregator_usage_labels}'::text[] LOOP
        EXECUTE format('DELETE FROM @extschema@.%I WHERE gateway = $1', v_table) USING p_gateway;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        v_dropped := v_dropped + v_rows;
    END LOOP;
    RETURN v_dropped;
END
$$;

-- What sharing asks of a server: a superuser, who may publish, a name, and a log that can be decoded.
CREATE FUNCTION @extschema@.aggregator_require_gateway(p_action text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role ''%'' may not %', current_user, p_action USING ERRCODE = 'PT403', HINT = 'A superuser may.';
    ELSIF @extschema@.aggregator_gateway_name() = '' THEN
        RAISE EXCEPTION 'this gateway has no name'
            USING ERRCODE = 'PT409', HINT = 'ALTER SYSTEM SET aggregator.gateway = ''eu-1''; SELECT pg_reload_conf(); small letters, digits, _ and -.';
    ELSIF current_setting('wal_level') <> 'logical' THEN
        RAISE EXCEPTION 'wal_level is %, and what is published has to be decoded', current_setting('wal_level')
            USING ERRCODE = 'PT409', HINT = 'ALTER SYSTEM SET wal_level = logical; and restart the server.';
    END IF;
END
$$;

-- Publishes what this gateway has counted. Not what it was told by others, which would go round; and no TRUNCATE, which
-- knows no gateway.
CREATE FUNCTION @extschema@.aggregator_publish_usage() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_tables CONSTANT text := (
        SELECT string_agg(format('@extschema@.%I WHERE (gateway = %L)', name, @extschema@.aggregator_gateway_name()), ', ')
        FROM unnest('{aggregator_usage_hourly,aggregator_usage_totals,aggregator_usage_labels}'::text[]) AS name);
BEGIN
    PERFORM @extschema@.aggregator_adopt_usage(''::text);
    IF EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = 'aggregator_usage') THEN
        EXECUTE 'ALTER PUBLICATION aggregator_usage SET TABLE ' || c_tables;
    ELSE
        EXECUTE format('CREATE PUBLICATION aggregator_usage FOR TABLE %s WITH (publish = ''insert, update, delete'')', c_tables);
    END IF;
END
$$;

-- How another server subscribes to a publication of this one, or this one of another. A slot is the publishing server's,
-- whose databases share its names.
CREATE FUNCTION @extschema@.aggregator_subscription(p_name text, p_publication text, p_slot text, p_host text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION %I WITH (slot_name = %I);',
        left(translate(p_name, '-', '_'), 63), format('host=%s dbname=%I user=gateways', p_host, current_database()),
        p_publication, left(translate(p_slot, '-', '_'), 63))
$$;

-- On the hub: publishes the configuration, and what it has counted itself; on one that follows, the latter alone. Says
-- which publications there are.
CREATE FUNCTION @extschema@.aggregator_publish() RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_tables CONSTANT text := (
        SELECT string_agg(
            format('@extschema@.%I', wanted.name) || CASE WHEN wanted.own = '{}' THEN '' ELSE format(' (%s)', (
                SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                FROM pg_attribute AS a
                WHERE a.attrelid = format('@extschema@.%I', wanted.name)::regclass
                  AND a.attnum > 0
                  AND NOT a.attisdropped
                  AND a.attname <> ALL (wanted.own))) END,
            ', ')
        FROM @extschema@.aggregator_configuration() AS wanted);
BEGIN
    PERFORM @extschema@.aggregator_require_gateway('publish its configuration'::text);
    IF NOT @extschema@.aggregator_follows() THEN
        IF EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = 'aggregator_configuration') THEN
            EXECUTE 'ALTER PUBLICATION aggregator_configuration SET TABLE ' || c_tables;
        ELSE
            EXECUTE 'CREATE PUBLICATION aggregator_configuration FOR TABLE ' || c_tables;
        END IF;
        RETURN NEXT 'aggregator_configuration';
    END IF;
    PERFORM @extschema@.aggregator_publish_usage();
    RETURN NEXT 'aggregator_usage';
END
$$;

-- On a follower: empties its configuration, for that of the hub, and publishes what it counts itself. CREATE
-- SUBSCRIPTION runs in no function: it says which are next.
CREATE FUNCTION @extschema@.aggregator_follow(OUT run_on text, OUT statement text) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'
AS $$
DECLARE
    c_gateway CONSTANT text := @extschema@.aggregator_gateway_name();
    v_tables  text;
    v_by      text;
BEGIN
    PERFORM @extschema@.aggregator_require_gateway('follow a hub'::text);
    IF NOT @extschema@.aggregator_follows() THEN
        RAISE EXCEPTION 'this gateway has no hub to follow'
            USING ERRCODE = 'PT409', HINT = 'ALTER SYSTEM SET aggregator.hub = ''https://hub.example.org:8787''; SELECT pg_reload_conf();';
    END IF;
    SELECT string_agg(format('@extschema@.%I', wanted.name), ', ') INTO v_tables
    FROM @extschema@.aggregator_configuration() AS wanted;
    -- What is emptied under a subscription would not come again.
    SELECT string_agg(DISTINCT quote_ident(s.subname), ', ') INTO v_by
    FROM @extschema@.aggregator_configuration() AS wanted
    JOIN pg_subscription_rel AS r ON r.srrelid = format('@extschema@.%I', wanted.name)::regclass
    JOIN pg_subscription AS s ON s.oid = r.srsubid;
    IF v_by IS NOT NULL THEN
        RAISE EXCEPTION 'the configuration of this gateway is subscribed to already, by %', v_by
            USING ERRCODE = 'PT409', HINT = format('DROP SUBSCRIPTION %s; and follow again.', v_by);
    END IF;
    EXECUTE 'TRUNCATE ' || v_tables;
    PERFORM @extschema@.aggregator_publish_usage();
    RETURN QUERY VALUES
        ('this server', @extschema@.aggregator_subscription('aggregator_configuration'::text, 'aggregator_configuration'::text,
            'aggregator_configuration_' || c_gateway, 'HUB'::text)),
        ('this server', @extschema@.aggregator_subscription('aggregator_usage_of_hub'::text, 'aggregator_usage'::text,
            'aggregator_usage_for_' || c_gateway, 'HUB'::text)),
        ('the hub', @extschema@.aggregator_subscription('aggregator_usage_of_' || c_gateway, 'aggregator_usage'::text,
            'aggregator_usage_for_hub'::text, 'THIS_SERVER'::text));
END
$$;

COMMENT ON FUNCTION @extschema@.aggregator_is_applying() IS 'Whether what this process writes comes from another server, by logical replication. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_follows() IS 'Whether this server follows a hub (aggregator.hub), where its configuration is changed. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_refuse_change() IS 'Refuses configuration that is written on a server which follows a hub. PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_before_applied() IS 'Passes over what comes from another server and changes nothing.';
COMMENT ON FUNCTION @extschema@.aggregator_configuration() IS 'The tables that a hub publishes, and of each the columns that every server writes for itself. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_rename_rollups(text, text) IS 'Has rollups under one gateway''s name count as another''s; how many rows. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_adopt_usage(text) IS
    'Has rollups under another name count as this gateway''s: those from before it had a name (empty), or that of before it was renamed. Returns how many rows. Never a name that another gateway has. Superusers. PT403, PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_drop_usage(text) IS
    'Deletes the rollups that another gateway has told this one, so that a subscription to it can be made anew, which copies all of them. Returns how many rows. Superusers. PT400: its own; PT403, PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_require_gateway(text) IS 'Raises PT403 or PT409 unless a superuser asks on a server that can share. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_publish_usage() IS 'Publishes what this gateway has counted. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_subscription(text, text, text, text) IS 'A statement that subscribes. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_publish() IS
    'On the hub of several gateways: publishes its configuration (aggregator_configuration) and its rollups (aggregator_usage) for the others to subscribe to; on one that follows, its rollups alone. Can be run again. Superusers. PT403, PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_follow() IS
    'On a server with aggregator.hub: empties its configuration, for that of the hub, publishes its rollups (aggregator_usage), and returns the statements that subscribe, without a password. Superusers. PT403, PT409.';

SET LOCAL search_path = @extschema@, pg_temp;
