-- The ledger by months: partitions ahead of time, and an end for what is old.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Makes the partition of a month (UTC), with the rights, row-level security and storage of the
-- default one. False: it is there; or so many rows of the month are in the default partition that
-- moving them would hold up the ledger, so that it keeps the month (p_whatever_size: the ledger waits); or somebody
-- is using the ledger.
CREATE FUNCTION @extschema@.aggregator_make_partition(p_month timestamptz, p_whatever_size boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
    c_moved     CONSTANT integer := 20000;
    v_from      timestamptz := date_trunc('month', p_month, 'UTC');
    v_to        timestamptz := date_trunc('month', v_from + interval '32 days', 'UTC');
    v_name      text        := 'aggregator_usage_logs_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF to_regclass(format('@extschema@.%I', v_name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- A restored partition of other bounds may hold the month already.
    IF EXISTS (
        SELECT FROM @extschema@.aggregator_partitions() AS part
        WHERE part.since < v_to AND part.until > v_from
    ) THEN
        RETURN false;
    END IF;
    IF NOT p_whatever_size AND EXISTS (
        SELECT FROM @extschema@.aggregator_usage_logs_default AS log
        WHERE log.created_at >= v_from AND log.created_at < v_to
        OFFSET c_moved
    ) THEN
        RETURN false;
    END IF;
    PERFORM @extschema@.aggregator_new_partition(v_from);
    -- From partition to partition: no trigger of the ledger sees it, and the sums stay as they are. Nobody reads
    -- the ledger meanwhile: a statement that was planned before the new partition is there, and waits for the old
    -- one, would find the rows in neither.
    LOCK TABLE @extschema@.aggregator_usage_logs IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH moved AS (
            DELETE FROM @extschema@.aggregator_usage_logs_default AS log
            WHERE log.created_at >= %L AND log.created_at < %L
            RETURNING *
        )
        INSERT INTO @extschema@.%I SELECT * FROM moved', v_from, v_to, v_name);
    EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs ATTACH PARTITION @extschema@.%I FOR VALUES FROM (%L) TO (%L)',
        v_name, v_from, v_to);
    RETURN true;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR check_violation THEN
        RETURN false;
END
$$;

-- The table of a month, which is not a partition yet.
CREATE FUNCTION @extschema@.aggregator_new_partition(p_from timestamptz) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name    text := 'aggregator_usage_logs_' || to_char(p_from AT TIME ZONE 'UTC', 'YYYY_MM');
    v_grantee record;
BEGIN
    EXECUTE format('CREATE TABLE @extschema@.%I (LIKE @extschema@.aggregator_usage_logs_default INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
        WITH (fillfactor = 95, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)', v_name);
    -- The default privileges of the database may have handed it to anybody; it is read through the
    -- ledger alone.
    FOR v_grantee IN
        SELECT DISTINCT acl.grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = to_regclass(format('@extschema@.%I', v_name))
          AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON @extschema@.%I FROM %s', v_name,
            CASE v_grantee.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee.grantee::regrole::text END);
    END LOOP;
    EXECUTE format('ALTER TABLE @extschema@.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I ALTER COLUMN tags SET STATISTICS 0', v_name);
    EXECUTE format('CREATE TRIGGER before_truncate BEFORE TRUNCATE ON @extschema@.%I
        FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_before_truncate()', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I ENABLE ALWAYS TRIGGER before_truncate', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I OWNER TO aggregator_owner', v_name);
    EXECUTE format('COMMENT ON TABLE @extschema@.%I IS %L', v_name,
        format('Partition of the ledger for %s (UTC).', to_char(p_from AT TIME ZONE 'UTC', 'FMMonth YYYY')));
    RETURN to_regclass(format('@extschema@.%I', v_name));
END
$$;

-- The partitions that have bounds.
CREATE FUNCTION @extschema@.aggregator_partitions(OUT partition regclass, OUT since timestamptz, OUT until timestamptz) RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY
    SELECT c.oid::regclass, (bounds.found)[1]::timestamptz, (bounds.found)[2]::timestamptz
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''(.*)''[)] TO [(]''(.*)''[)]') AS bounds (found)
    WHERE i.inhparent = '@extschema@.aggregator_usage_logs'::regclass
      AND bounds.found IS NOT NULL
    ORDER BY 2;
END
$$;

-- Makes partitions for this month and the next two (p_ahead), and forgets what is older than p_retention
-- seconds (0: nothing): whole partitions, old rows of the default one, and their sums, by whole
-- hours. Each is done by itself, so that what cannot be had now is left for another time.
CREATE FUNCTION @extschema@.aggregator_maintain_usage(
    p_ahead     boolean,
    p_retention integer,
    OUT created integer,
    OUT dropped integer,
    OUT deleted bigint
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_at_once CONSTANT integer := 10000;
    v_now     timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    v_cutoff  timestamptz;
    v_part    record;
    v_log     record;
BEGIN
    created := 0;
    dropped := 0;
    deleted := 0;
    FOR i IN 0..CASE WHEN p_ahead THEN 2 ELSE -1 END LOOP
        IF @extschema@.aggregator_make_partition((v_now + make_interval(months => i)) AT TIME ZONE 'UTC', false) THEN
            created := created + 1;
        END IF;
    END LOOP;
    PERFORM @extschema@.aggregator_forget_key_checks(p_retention);
    PERFORM @extschema@.aggregator_forget_leases();
    IF p_retention <= 0 THEN
        RETURN;
    END IF;
    v_cutoff := date_trunc('hour', now() - make_interval(secs => p_retention), 'UTC');
    FOR v_part IN
        SELECT part.*
        FROM @extschema@.aggregator_partitions() AS part
        -- Those that are with Citus aggregator_distribute() ends.
        WHERE part.until <= v_cutoff AND part.until > @extschema@.aggregator_archived_until()
    LOOP
        IF @extschema@.aggregator_drop_partition(v_part.partition, v_part.since, v_part.until) THEN
            dropped := dropped + 1;
        END IF;
    END LOOP;
    -- Rows that have no partition of their own, or whose partition is not over yet; the triggers of
    -- the ledger take them from the sums. Some at a time: nobody waits for the rest.
    BEGIN
        WITH old AS (
            SELECT log.call_id, log.attempt, log.created_at
            FROM @extschema@.aggregator_usage_logs AS log
            WHERE log.created_at < v_cutoff
              AND log.created_at >= @extschema@.aggregator_archived_until()
              AND log.status <> 'pending'
              AND NOT EXISTS (
                  SELECT FROM @extschema@.aggregator_quarantine AS kept
                  WHERE kept.call_id = log.call_id AND kept.attempt = log.attempt AND kept.created_at = log.created_at
              )
            LIMIT c_at_once
        )
        DELETE FROM @extschema@.aggregator_usage_logs AS log
        USING old
        WHERE (log.call_id, log.attempt, log.created_at) = (old.call_id, old.attempt, old.created_at)
          AND log.created_at >= @extschema@.aggregator_archived_until();
        GET DIAGNOSTICS deleted = ROW_COUNT;
        RETURN;
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected OR query_canceled OR insufficient_resources
            OR operator_intervention THEN RAISE;
        WHEN OTHERS THEN NULL;
    END;
    -- One that the sums do not let go of must not keep all others: it is set aside.
    FOR v_log IN
        SELECT log.call_id, log.attempt, log.created_at, log.user_id
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.created_at < v_cutoff
          AND log.created_at >= @extschema@.aggregator_archived_until()
          AND log.status <> 'pending'
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_quarantine AS kept
              WHERE kept.call_id = log.call_id AND kept.attempt = log.attempt AND kept.created_at = log.created_at
          )
        LIMIT 1000
    LOOP
        BEGIN
            DELETE FROM @extschema@.aggregator_usage_logs AS log
            WHERE log.call_id = v_log.call_id AND log.attempt = v_log.attempt AND log.created_at = v_log.created_at
              AND log.created_at >= @extschema@.aggregator_archived_until();
            deleted := deleted + 1;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected OR query_canceled OR insufficient_resources
                OR operator_intervention THEN RAISE;
            WHEN OTHERS THEN
                PERFORM @extschema@.aggregator_set_aside(v_log.call_id, v_log.attempt, v_log.created_at, v_log.user_id,
                    format('it cannot be removed: %s: %s', SQLSTATE, SQLERRM), 1, NULL::text);
        END;
    END LOOP;
END
$$;

-- Drops a partition and the sums of its hours, those of other gateways too, if nobody is using the ledger.
CREATE FUNCTION @extschema@.aggregator_drop_partition(p_partition regclass, p_since timestamptz, p_until timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
BEGIN
    EXECUTE format('DROP TABLE %s', p_partition);
    DELETE FROM @extschema@.aggregator_usage_hourly WHERE hour >= p_since AND hour < p_until;
    DELETE FROM @extschema@.aggregator_usage_totals WHERE start >= p_since AND start < p_until;
    DELETE FROM @extschema@.aggregator_usage_labels WHERE hour >= p_since AND hour < p_until;
    RETURN true;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN false;
END
$$;

CREATE FUNCTION @extschema@.maintain_usage(OUT created integer, OUT dropped integer, OUT deleted bigint) RETURNS SETOF record
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', 'maintain_usage_wrapper';

COMMENT ON FUNCTION @extschema@.aggregator_new_partition(timestamptz) IS 'Makes the table of a month, which is not attached to the usage log yet. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_make_partition(timestamptz, boolean) IS 'Makes the partition of the usage log for a month; false if it is there or cannot be had now. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_partitions() IS 'The partitions of the usage log that have bounds. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_drop_partition(regclass, timestamptz, timestamptz) IS 'Drops a partition of the usage log and the rollups of its hours; false if it cannot be had now. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_maintain_usage(boolean, integer) IS 'Partitions ahead, and an end for what is older than so many seconds. Internal.';
COMMENT ON FUNCTION @extschema@.maintain_usage() IS
    'What the worker does from time to time, for pg_cron: partitions of the usage log for this month and the next two, and an end for what is older than aggregator.usage_retention. Says how many partitions it made and dropped, and how many rows it deleted. Administrators. PT403.';

SET LOCAL search_path = @extschema@, pg_temp;
