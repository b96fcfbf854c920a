-- The ledger outgrows one machine: months that are over go to a table that Citus distributes by user_id over its
-- workers, one for each month, and the ledger goes on reading them.
--
-- Citus fires no trigger of a distributed table and applies no policy of it where the statement is: it sends the
-- statement to the shards as the calling role, which must be able to log in there, and does not say for whom it acts.
-- So such a table is no partition of the ledger itself. A foreign table is, by which this server asks itself; what
-- a user may see of it, the policies of the ledger decide here, and the condition goes along to the shards. What
-- is over is not pending any more, and its sums stay where they are: calls, budgets and reports ask nobody.

SET LOCAL search_path = pg_catalog, pg_temp;

-- The months of the ledger that are with Citus.
CREATE FUNCTION @extschema@.aggregator_archives(
    OUT partition regclass,
    OUT since     timestamptz,
    OUT until     timestamptz,
    OUT archive   regclass
) RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regnamespace('aggregator_archive') IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT part.partition, part.since, part.until,
        to_regclass(format('aggregator_archive.%I', replace(c.relname, 'ledger_', 'usage_')))
    FROM @extschema@.aggregator_partitions() AS part
    JOIN pg_class AS c ON c.oid = part.partition
    WHERE c.relkind = 'f'
      AND c.relnamespace = to_regnamespace('aggregator_archive')
    ORDER BY part.since;
END
$$;

-- The moment before which all rows are with Citus. What changes rows of the ledger, or must not wait, names it.
-- IMMUTABLE, so that it is asked when the statement is planned, which leaves those months out; and a month that goes
-- there, or comes back, has every statement on the ledger planned anew.
CREATE FUNCTION @extschema@.aggregator_archived_until() RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regnamespace('aggregator_archive') IS NULL THEN
        RETURN '-infinity';
    END IF;
    RETURN (SELECT coalesce(max(month.until), '-infinity') FROM @extschema@.aggregator_archives() AS month);
END
$$;

-- The columns of the ledger, as a list.
CREATE FUNCTION @extschema@.aggregator_usage_columns() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a
    WHERE a.attrelid = '@extschema@.aggregator_usage_logs'::regclass
      AND a.attnum > 0
      AND NOT a.attisdropped
$$;

-- What changes rows that are with Citus ------------------------------------------------------------------------------
-- No trigger of the ledger sees it: each of these adds to the sums itself.

-- Another cost for one row. False: its cost stands. Without a partition it is one of a month before, written since those
-- after it went: here, where the triggers of the ledger see it.
CREATE FUNCTION @extschema@.aggregator_apply_archived_cost(
    p_partition  regclass,
    p_call_id    uuid,
    p_attempt    smallint,
    p_created_at timestamptz,
    p_cost       numeric,
    p_computed   numeric,
    p_source     text
) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    v_old @extschema@.aggregator_usage_logs;
    v_new @extschema@.aggregator_usage_logs;
BEGIN
    IF p_partition IS NULL THEN
        UPDATE @extschema@.aggregator_usage_logs AS log
        SET cost_estimate = p_cost,
            cost_computed = p_computed,
            cost_source = p_source
        WHERE log.call_id = p_call_id
          AND log.attempt = p_attempt
          AND log.created_at = p_created_at
          AND log.status <> 'pending'
          AND log.cost_source IN ('unpriced', 'incomplete');
        RETURN FOUND;
    END IF;
    SELECT log.* INTO v_old
    FROM @extschema@.aggregator_usage_logs AS log
    WHERE log.call_id = p_call_id
      AND log.attempt = p_attempt
      AND log.created_at = p_created_at
      AND log.cost_source IN ('unpriced', 'incomplete');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    v_new := v_old;
    v_new.cost_estimate := p_cost;
    v_new.cost_computed := p_computed;
    v_new.cost_source := p_source;
    EXECUTE format('UPDATE %s SET cost_estimate = $1, cost_computed = $2, cost_source = $3
        WHERE user_id = $4 AND call_id = $5 AND attempt = $6 AND created_at = $7', p_partition)
    USING p_cost, p_computed, p_source, v_old.user_id, p_call_id, p_attempt, p_created_at;
    PERFORM @extschema@.aggregator_roll_up(ARRAY[v_new], ARRAY[v_old]);
    RETURN true;
END
$$;

-- Another user id for the rows of one up to the last month that is there, and no tags. Citus moves no row from shard to
-- shard: they come again, and go. A day at a time.
CREATE FUNCTION @extschema@.aggregator_forget_archived(p_user_id text, p_anonymous_id text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_part    CONSTANT integer := 20000;
    v_columns text   := @extschema@.aggregator_usage_columns();
    v_values  text;
    v_kept    bigint := 0;
    v_read    bigint;
    v_count   bigint;
    v_month   record;
    v_day     timestamptz;
    v_since   timestamptz := '-infinity';
    v_old     @extschema@.aggregator_usage_logs[];
    v_new     @extschema@.aggregator_usage_logs[];
BEGIN
    SELECT string_agg(
        CASE a.attname WHEN 'user_id' THEN '$2' WHEN 'tags' THEN 'NULL::text[]' ELSE format('log.%I', a.attname) END,
        ', ' ORDER BY a.attnum)
    INTO v_values
    FROM pg_attribute AS a
    WHERE a.attrelid = '@extschema@.aggregator_usage_logs'::regclass
      AND a.attnum > 0
      AND NOT a.attisdropped;
    FOR v_month IN SELECT * FROM @extschema@.aggregator_archives() LOOP
        -- What somebody has written into months before it since it went is here.
        UPDATE @extschema@.aggregator_usage_logs
        SET user_id = p_anonymous_id, tags = NULL
        WHERE user_id = p_user_id AND created_at >= v_since AND created_at < v_month.since;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_kept := v_kept + v_count;
        v_since := v_month.until;
        FOR v_day IN EXECUTE
            format('SELECT DISTINCT date_trunc(''day'', created_at, ''UTC'') FROM %s WHERE user_id = $1', v_month.partition)
            USING p_user_id
        LOOP
            v_read := 0;
            FOR v_old IN
                SELECT array_agg(numbered.log)
                FROM (
                    SELECT log, (row_number() OVER () - 1) / c_part AS part
                    FROM @extschema@.aggregator_usage_logs AS log
                    WHERE log.user_id = p_user_id
                      AND log.created_at >= greatest(v_day, v_month.since)
                      AND log.created_at < least(v_day + interval '24 hours', v_month.until)
                ) AS numbered
                GROUP BY numbered.part
            LOOP
                EXECUTE format('SELECT array_agg(ROW(%s)::@extschema@.aggregator_usage_logs) FROM unnest($1) AS log', v_values)
                INTO v_new USING v_old, p_anonymous_id;
                EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM unnest($1) AS log', v_month.partition, v_columns, v_columns)
                USING v_new;
                PERFORM @extschema@.aggregator_roll_up(v_new, v_old);
                v_read := v_read + cardinality(v_old);
            END LOOP;
            EXECUTE format('DELETE FROM %s WHERE user_id = $1 AND created_at >= $2 AND created_at < $3', v_month.partition)
            USING p_user_id, v_day, v_day + interval '24 hours';
            GET DIAGNOSTICS v_count = ROW_COUNT;
            IF v_count <> v_read THEN
                RAISE EXCEPTION 'the usage of % has changed meanwhile', v_month.partition USING ERRCODE = 'serialization_failure';
            END IF;
            v_kept := v_kept + v_count;
        END LOOP;
    END LOOP;
    RETURN v_kept;
END
$$;

-- Ends what is older than p_cutoff: months, and of the one that is not over by then, hours; and takes it from the sums.
-- A superuser's, like the move itself: the worker asks Citus for nothing that others would wait for.
CREATE FUNCTION @extschema@.aggregator_end_archives(
    p_cutoff timestamptz,
    OUT partition  text,
    OUT moved_rows bigint,
    OUT action     text
) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_part    CONSTANT integer := 20000;
    v_columns text := @extschema@.aggregator_usage_columns();
    v_month   record;
    v_hour    timestamptz;
    v_read    bigint;
    v_count   bigint;
    v_old     @extschema@.aggregator_usage_logs[];
BEGIN
    FOR v_month IN SELECT month.* FROM @extschema@.aggregator_archives() AS month WHERE month.since < p_cutoff LOOP
        partition := v_month.archive::text;
        IF v_month.until <= p_cutoff THEN
            EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs DETACH PARTITION %s', v_month.partition);
            EXECUTE format('DROP FOREIGN TABLE %s', v_month.partition);
            EXECUTE format('DROP TABLE %s', v_month.archive);
            DELETE FROM @extschema@.aggregator_usage_hourly WHERE hour >= v_month.since AND hour < v_month.until;
            DELETE FROM @extschema@.aggregator_usage_totals WHERE start >= v_month.since AND start < v_month.until;
            DELETE FROM @extschema@.aggregator_usage_labels WHERE hour >= v_month.since AND hour < v_month.until;
            moved_rows := NULL;
            action := 'dropped';
            RETURN NEXT;
            CONTINUE;
        END IF;
        moved_rows := 0;
        FOR v_hour IN EXECUTE format('SELECT DISTINCT date_trunc(''hour'', created_at, ''UTC'') FROM %s WHERE created_at < $1', v_month.archive)
            USING p_cutoff
        LOOP
            v_read := 0;
            FOR v_old IN EXECUTE
                format('SELECT array_agg(ROW(%s)::@extschema@.aggregator_usage_logs)
                    FROM (
                        SELECT %s, (row_number() OVER () - 1) / $3 AS part
                        FROM %s
                        WHERE created_at >= $1 AND created_at < $2
                    ) AS numbered
                    GROUP BY numbered.part', v_columns, v_columns, v_month.archive)
                USING v_hour, v_hour + interval '1 hour', c_part
            LOOP
                PERFORM @extschema@.aggregator_roll_up('{}'::@extschema@.aggregator_usage_logs[], v_old);
                v_read := v_read + cardinality(v_old);
            END LOOP;
            EXECUTE format('DELETE FROM %s WHERE created_at >= $1 AND created_at < $2', v_month.archive)
            USING v_hour, v_hour + interval '1 hour';
            GET DIAGNOSTICS v_count = ROW_COUNT;
            IF v_count <> v_read THEN
                RAISE EXCEPTION 'the usage of % has changed meanwhile', v_month.archive USING ERRCODE = 'serialization_failure';
            END IF;
            moved_rows := moved_rows + v_count;
        END LOOP;
        IF moved_rows > 0 THEN
            action := 'deleted';
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- To Citus and back --------------------------------------------------------------------------------------------------

-- Default privileges may have handed an object to anybody: takes it back from all but its owner.
CREATE FUNCTION @extschema@.aggregator_close_archive(p_kind text, p_identity text, p_owner regrole, p_acl aclitem[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_grantee oid;
BEGIN
    FOR v_grantee IN
        SELECT DISTINCT acl.grantee FROM aclexplode(p_acl) AS acl WHERE acl.grantee <> p_owner
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', p_kind, p_identity,
            CASE v_grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee::regrole::text END);
    END LOOP;
END
$$;

-- What months that are with Citus need: a role that owns them and may log in to all nodes, a schema that nobody else
-- may use, and the way by which this server asks itself.
CREATE FUNCTION @extschema@.aggregator_prepare_archive() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_mapping CONSTANT text[] := ARRAY['user=aggregator_archive', 'password_required=false'];
    v_role    pg_roles;
    v_owner   oid;
    v_host    text;
    v_port    integer;
    v_server  text[];
    v_mapping text[];
    v_members text;
    v_is_here boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'citus') THEN
        RAISE EXCEPTION 'Citus is not in this database'
            USING ERRCODE = 'PT501', HINT = 'CREATE EXTENSION citus; in a database that is to be the coordinator.';
    END IF;
    EXECUTE 'SELECT node.nodename, node.nodeport FROM pg_dist_node AS node WHERE node.groupid = 0 AND node.noderole = ''primary'''
    INTO v_host, v_port;
    IF v_host IS NULL THEN
        RAISE EXCEPTION 'Citus does not know by which address its nodes reach this one'
            USING ERRCODE = 'PT409', HINT = 'SELECT citus_set_coordinator_host(''...'');';
    END IF;
    EXECUTE 'SELECT citus_is_coordinator()' INTO v_is_here;
    IF NOT v_is_here THEN
        RAISE EXCEPTION 'this is a worker of Citus'
            USING ERRCODE = 'PT409', HINT = format('The coordinator is %s, port %s.', v_host, v_port);
    END IF;
    IF to_regrole('aggregator_archive') IS NULL THEN
        CREATE ROLE aggregator_archive LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
        COMMENT ON ROLE aggregator_archive IS
            'Owns the months of the ledger of the extension aggregator that are with Citus. Nobody is to be a member of it.';
    END IF;
    SELECT r.* INTO v_role FROM pg_roles AS r WHERE r.rolname = 'aggregator_archive';
    IF v_role.rolsuper OR v_role.rolcreaterole OR v_role.rolcreatedb OR v_role.rolreplication OR v_role.rolbypassrls
       OR NOT v_role.rolcanlogin THEN
        RAISE EXCEPTION 'the role aggregator_archive is there already, with other rights than it needs'
            USING ERRCODE = 'PT409',
                HINT = 'ALTER ROLE aggregator_archive LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;';
    END IF;
    SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) INTO v_members
    FROM pg_auth_members AS m
    JOIN pg_roles AS r ON r.oid = m.member
    WHERE m.roleid = 'aggregator_archive'::regrole AND NOT r.rolsuper;
    IF v_members IS NOT NULL THEN
        RAISE WARNING 'members of aggregator_archive own everybody''s usage that is with Citus: %', v_members
            USING HINT = 'REVOKE aggregator_archive FROM ...;';
    END IF;
    IF to_regnamespace('aggregator_archive') IS NULL THEN
        CREATE SCHEMA aggregator_archive AUTHORIZATION aggregator_archive;
        COMMENT ON SCHEMA aggregator_archive IS
            'Months of the ledger of the extension aggregator that are with Citus. Read through the ledger alone.';
    END IF;
    SELECT n.nspowner INTO v_owner FROM pg_namespace AS n WHERE n.nspname = 'aggregator_archive';
    IF v_owner <> 'aggregator_archive'::regrole THEN
        RAISE EXCEPTION 'the schema aggregator_archive is there already, and belongs to %', v_owner::regrole
            USING ERRCODE = 'PT409', HINT = 'ALTER SCHEMA aggregator_archive RENAME TO ...;';
    END IF;
    PERFORM @extschema@.aggregator_close_archive('SCHEMA'::text, 'aggregator_archive'::text, 'aggregator_archive'::regrole, n.nspacl)
    FROM pg_namespace AS n
    WHERE n.nspname = 'aggregator_archive';
    GRANT USAGE ON SCHEMA aggregator_archive TO aggregator_owner;
    CREATE EXTENSION IF NOT EXISTS postgres_fdw;
    v_server := ARRAY['host=' || v_host, 'port=' || v_port, 'dbname=' || current_database()];
    IF NOT EXISTS (SELECT FROM pg_foreign_server AS s WHERE s.srvname = 'aggregator_archive') THEN
        EXECUTE format('CREATE SERVER aggregator_archive FOREIGN DATA WRAPPER postgres_fdw
            OPTIONS (host %L, port %L, dbname %L, fetch_size ''10000'', batch_size ''1000'', connect_timeout ''10'')',
            v_host, v_port, current_database());
        COMMENT ON SERVER aggregator_archive IS
            'This server itself, for the months of the ledger of the extension aggregator that are with Citus.';
    END IF;
    SELECT s.srvowner INTO v_owner FROM pg_foreign_server AS s WHERE s.srvname = 'aggregator_archive';
    IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = v_owner) THEN
        -- Who could turn it to a server of their own.
        RAISE EXCEPTION 'the server aggregator_archive is there already, and belongs to %, who is no superuser', v_owner::regrole
            USING ERRCODE = 'PT409', HINT = 'ALTER SERVER aggregator_archive RENAME TO ...; or OWNER TO a superuser, if it is this extension''s.';
    END IF;
    IF NOT (SELECT s.srvoptions @> v_server FROM pg_foreign_server AS s WHERE s.srvname = 'aggregator_archive') THEN
        -- A restored database, or another address.
        EXECUTE format('ALTER SERVER aggregator_archive OPTIONS (SET host %L, SET port %L, SET dbname %L)',
            v_host, v_port, current_database());
    END IF;
    IF NOT EXISTS (SELECT FROM pg_user_mappings AS m WHERE m.srvname = 'aggregator_archive' AND m.umuser = 0) THEN
        -- Whoever reads the ledger reads by it; without a password, where pg_hba.conf, a certificate or the
        -- server's own password file lets the role in from node to node, as Citus itself needs it for every role.
        CREATE USER MAPPING FOR PUBLIC SERVER aggregator_archive
            OPTIONS (user 'aggregator_archive', password_required 'false');
    END IF;
    SELECT m.umoptions INTO v_mapping FROM pg_user_mappings AS m WHERE m.srvname = 'aggregator_archive' AND m.umuser = 0;
    IF NOT coalesce(v_mapping @> c_mapping AND v_mapping <@ c_mapping, false) THEN
        RAISE EXCEPTION 'the server aggregator_archive has another user mapping for PUBLIC than it needs'
            USING ERRCODE = 'PT409', HINT = 'DROP USER MAPPING FOR PUBLIC SERVER aggregator_archive;';
    END IF;
END
$$;

-- A table of Citus with the rows of a month, and nothing to read it by yet.
CREATE FUNCTION @extschema@.aggregator_fill_archive(p_partition regclass, p_since timestamptz) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name    text := format('aggregator_archive.%I', 'usage_' || to_char(p_since AT TIME ZONE 'UTC', 'YYYY_MM'));
    v_columns text := @extschema@.aggregator_usage_columns();
    v_first   text;
    v_rows    bigint;
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE @extschema@.aggregator_usage_logs INCLUDING DEFAULTS)', v_name);
    -- Whom planners remember would have to be forgotten on every node.
    EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (user_id, call_id, attempt, created_at),
        ALTER COLUMN user_id SET STATISTICS 0, ALTER COLUMN tags SET STATISTICS 0, ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('CREATE INDEX ON %s (user_id, created_at)', v_name);
    EXECUTE format('CREATE INDEX ON %s (call_id)', v_name);
    EXECUTE format('CREATE INDEX ON %s USING brin (created_at)', v_name);
    EXECUTE format('COMMENT ON TABLE %s IS %L', v_name,
        format('Usage of %s (UTC), distributed by Citus.', to_char(p_since AT TIME ZONE 'UTC', 'FMMonth YYYY')));
    EXECUTE format('ALTER TABLE %s OWNER TO aggregator_archive', v_name);
    PERFORM @extschema@.aggregator_close_archive('TABLE'::text, v_name, 'aggregator_archive'::regrole, c.relacl)
    FROM pg_class AS c
    WHERE c.oid = to_regclass(v_name);
    -- All months together, so that Citus moves a user's shards as one.
    EXECUTE 'SELECT min(d.logicalrelid::text)
        FROM pg_dist_partition AS d
        JOIN pg_class AS c ON c.oid = d.logicalrelid
        WHERE c.relnamespace = to_regnamespace(''aggregator_archive'')'
    INTO v_first;
    EXECUTE format('SELECT create_distributed_table(%L, ''user_id'', colocate_with => %L)', v_name, coalesce(v_first, 'none'));
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s', v_name, v_columns, v_columns, p_partition);
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN v_rows;
END
$$;

-- The columns that the ledger has and months that are with Citus have not: the script of an upgrade ends with this, so
-- that they stay readable.
CREATE FUNCTION @extschema@.aggregator_add_archive_columns(OUT partition text, OUT action text) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column record;
BEGIN
    FOR v_column IN
        SELECT month.archive, a.attname,
            format_type(a.atttypid, a.atttypmod)
                || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
                || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END AS definition
        FROM @extschema@.aggregator_archives() AS month
        JOIN pg_attribute AS a ON a.attrelid = '@extschema@.aggregator_usage_logs'::regclass
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
        WHERE a.attnum > 0
          AND NOT a.attisdropped
          AND NOT EXISTS (
              SELECT FROM pg_attribute AS there
              WHERE there.attrelid = month.archive AND there.attname = a.attname AND NOT there.attisdropped
          )
        ORDER BY month.since, a.attnum
    LOOP
        PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', v_column.archive, v_column.attname, v_column.definition);
        partition := v_column.archive::text;
        action := format('has the column %s now', v_column.attname);
        RETURN NEXT;
    END LOOP;
END
$$;

-- Ends what is older than aggregator.usage_retention and is with Citus, then moves months of the ledger there that
-- are over, the oldest first: all, or so many that one transaction is not too long. Goes on where it was when it is run
-- again.
CREATE FUNCTION @extschema@.aggregator_distribute(
    p_months       integer DEFAULT NULL,
    OUT partition  text,
    OUT moved_rows bigint,
    OUT action     text
) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'
AS $$
DECLARE
    -- A call that began before midnight may settle after it.
    c_over      CONSTANT timestamptz := now() - interval '24 hours';
    v_retention integer;
    v_month     record;
    v_name      text;
    v_moved     jsonb := '[]';
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role ''%'' may not move the usage log', current_user USING ERRCODE = 'PT403', HINT = 'A superuser may.';
    END IF;
    -- A snapshot that is older than the locks would not have what was committed in between.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the usage log moves at the isolation level READ COMMITTED alone'
            USING ERRCODE = 'PT409', HINT = 'BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;';
    END IF;
    IF p_months < 0 THEN
        RAISE EXCEPTION '% months cannot be moved', p_months USING ERRCODE = 'PT400', HINT = 'NULL moves all that are over.';
    END IF;
    PERFORM @extschema@.aggregator_prepare_archive();
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    RETURN QUERY SELECT added.partition, NULL::bigint, added.action FROM @extschema@.aggregator_add_archive_columns() AS added;
    SELECT s.setting::integer INTO v_retention FROM pg_settings AS s WHERE s.name = 'aggregator.usage_retention';
    IF v_retention > 0 THEN
        RETURN QUERY
        SELECT ended.*
        FROM @extschema@.aggregator_end_archives(date_trunc('hour', now() - make_interval(secs => v_retention), 'UTC')) AS ended;
    END IF;
    -- Whatever the default partition holds of months that are over, in partitions of their own.
    FOR v_month IN
        SELECT DISTINCT date_trunc('month', log.created_at, 'UTC') AS since
        FROM @extschema@.aggregator_usage_logs_default AS log
        WHERE log.created_at < date_trunc('month', c_over, 'UTC')
          AND coalesce(p_months > 0, true)
        ORDER BY 1
    LOOP
        IF NOT @extschema@.aggregator_make_partition(v_month.since, true) THEN
            RETURN QUERY SELECT '@extschema@.aggregator_usage_logs_default'::regclass::text, NULL::bigint,
                'stays, and all months after it: it holds rows of a month that cannot be taken from it now'::text;
            RETURN;
        END IF;
    END LOOP;
    FOR v_month IN
        SELECT part.*
        FROM @extschema@.aggregator_partitions() AS part
        JOIN pg_class AS c ON c.oid = part.partition
        WHERE part.until <= c_over
          AND c.relkind = 'r'
        ORDER BY part.since
        LIMIT p_months
    LOOP
        IF v_month.since <> date_trunc('month', v_month.since, 'UTC')
           OR v_month.until <> date_trunc('month', v_month.since + interval '32 days', 'UTC') THEN
            RETURN QUERY SELECT v_month.partition::text, NULL::bigint, 'stays, and all months after it: it is not one month (UTC)'::text;
            EXIT;
        END IF;
        -- Who would change it waits until it is there.
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', v_month.partition);
        IF EXISTS (
            SELECT FROM @extschema@.aggregator_usage_logs AS log
            WHERE log.status = 'pending'
              AND log.created_at < v_month.until
              AND log.created_at >= v_month.since
        ) THEN
            RETURN QUERY SELECT v_month.partition::text, NULL::bigint, 'stays, and all months after it: it has pending rows'::text;
            EXIT;
        END IF;
        moved_rows := @extschema@.aggregator_fill_archive(v_month.partition, v_month.since);
        v_moved := v_moved || jsonb_build_object('partition', v_month.partition::oid, 'name', v_month.partition::text,
            'since', v_month.since, 'until', v_month.until, 'moved_rows', moved_rows);
    END LOOP;
    -- For a moment the ledger waits.
    LOCK TABLE @extschema@.aggregator_usage_logs IN ACCESS EXCLUSIVE MODE;
    FOR v_month IN
        SELECT moved.*, to_char(moved.since AT TIME ZONE 'UTC', 'YYYY_MM') AS month
        FROM jsonb_to_recordset(v_moved) AS moved (partition oid, name text, since timestamptz, until timestamptz, moved_rows bigint)
        ORDER BY moved.since
    LOOP
        EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs DETACH PARTITION %s', v_month.partition::regclass);
        EXECUTE format('DROP TABLE %s', v_month.partition::regclass);
        v_name := format('aggregator_archive.%I', 'ledger_' || v_month.month);
        EXECUTE format('CREATE FOREIGN TABLE %s PARTITION OF @extschema@.aggregator_usage_logs FOR VALUES FROM (%L) TO (%L)
            SERVER aggregator_archive OPTIONS (schema_name ''aggregator_archive'', table_name %L)',
            v_name, v_month.since, v_month.until, 'usage_' || v_month.month);
        EXECUTE format('COMMENT ON FOREIGN TABLE %s IS %L', v_name,
            format('Partition of the ledger for %s (UTC), with Citus.', to_char(v_month.since AT TIME ZONE 'UTC', 'FMMonth YYYY')));
        EXECUTE format('ALTER FOREIGN TABLE %s OWNER TO aggregator_owner', v_name);
        PERFORM @extschema@.aggregator_close_archive('TABLE'::text, v_name, 'aggregator_owner'::regrole, c.relacl)
        FROM pg_class AS c
        WHERE c.oid = to_regclass(v_name);
        partition := v_month.name;
        moved_rows := v_month.moved_rows;
        action := 'distributed';
        RETURN NEXT;
    END LOOP;
END
$$;

-- The way back: every month is a partition here again. Also where Citus is gone, as in a restored dump.
CREATE FUNCTION @extschema@.aggregator_undistribute(OUT partition text, OUT moved_rows bigint, OUT action text) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'
AS $$
DECLARE
    v_columns text := @extschema@.aggregator_usage_columns();
    v_month   record;
    v_table   regclass;
    v_moved   jsonb := '[]';
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role ''%'' may not move the usage log', current_user USING ERRCODE = 'PT403', HINT = 'A superuser may.';
    END IF;
    -- A snapshot that is older than the locks would not have what was committed in between.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the usage log moves at the isolation level READ COMMITTED alone'
            USING ERRCODE = 'PT409', HINT = 'BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;';
    END IF;
    IF to_regnamespace('aggregator_archive') IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    FOR v_month IN SELECT * FROM @extschema@.aggregator_archives() LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', v_month.archive);
        v_table := @extschema@.aggregator_new_partition(v_month.since);
        EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s', v_table, v_columns, v_columns, v_month.archive);
        GET DIAGNOSTICS moved_rows = ROW_COUNT;
        v_moved := v_moved || jsonb_build_object('old', v_month.partition::oid, 'new', v_table::oid, 'archive', v_month.archive::oid,
            'since', v_month.since, 'until', v_month.until, 'moved_rows', moved_rows);
    END LOOP;
    LOCK TABLE @extschema@.aggregator_usage_logs IN ACCESS EXCLUSIVE MODE;
    FOR v_month IN
        SELECT moved.*
        FROM jsonb_to_recordset(v_moved)
            AS moved (old oid, new oid, archive oid, since timestamptz, until timestamptz, moved_rows bigint)
        ORDER BY moved.since
    LOOP
        EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs DETACH PARTITION %s', v_month.old::regclass);
        EXECUTE format('DROP FOREIGN TABLE %s', v_month.old::regclass);
        EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
            v_month.new::regclass, v_month.since, v_month.until);
        EXECUTE format('DROP TABLE %s', v_month.archive::regclass);
        partition := v_month.new::regclass::text;
        moved_rows := v_month.moved_rows;
        action := 'here again';
        RETURN NEXT;
    END LOOP;
    DROP SERVER IF EXISTS aggregator_archive CASCADE;
    DROP SCHEMA aggregator_archive;
END
$$;

COMMENT ON FUNCTION @extschema@.aggregator_distribute(integer) IS
    'Moves months of the usage log that are over, the oldest first, to tables that Citus distributes by user_id, and says what it did with each: all, or at most so many in this transaction. The log goes on reading them. Those that aggregator.usage_retention lets go of it ends first. To be run again from time to time, say by pg_cron. Superusers, on the coordinator. PT400, PT403, PT409, PT501.';
COMMENT ON FUNCTION @extschema@.aggregator_undistribute() IS
    'The way back: every month of the usage log is a partition here again. Superusers. PT403, PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_archives() IS 'The months of the usage log that are with Citus. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_archived_until() IS 'The moment before which the usage log is with Citus; -infinity: none of it is. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_usage_columns() IS 'The columns of the usage log as a list. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_apply_archived_cost(regclass, uuid, smallint, timestamptz, numeric, numeric, text) IS 'aggregator_apply_cost for a row that is with Citus. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_archived(text, text) IS 'aggregator_forget_usage for what is with Citus. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_end_archives(timestamptz) IS 'Ends usage that is with Citus and older than a moment. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_add_archive_columns() IS 'Adds to the months that are with Citus the columns that the usage log has and they have not. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_close_archive(text, text, regrole, aclitem[]) IS 'Takes an object from all but its owner. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_prepare_archive() IS 'Makes the role, the schema and the server that months need which are with Citus. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_fill_archive(regclass, timestamptz) IS 'Makes a table of Citus with the rows of a month. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
