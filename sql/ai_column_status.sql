-- AI columns that are there: which they are, how far, and what becomes of those whose table is gone.

SET LOCAL search_path = pg_catalog, pg_temp;

-- What keeps the table's owner of now, who is the caller, from having its AI column. Raises it.
CREATE FUNCTION @extschema@.aggregator_ai_inherit(p_view oid, p_table regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner record;
    v_maker name := (SELECT pg_get_userbyid(v.relowner) FROM pg_class AS v WHERE v.oid = p_view);
BEGIN
    SELECT o.rolname, o.rolsuper INTO v_owner FROM pg_class AS c JOIN pg_roles AS o ON o.oid = c.relowner WHERE c.oid = p_table;
    IF v_owner.rolname <> current_user THEN
        RAISE EXCEPTION 'table % belongs to ''%'' now, and not to ''%''', p_table, v_owner.rolname, current_user
            USING ERRCODE = 'PT403', HINT = format('SET ROLE %I;', v_owner.rolname);
    ELSIF v_owner.rolsuper THEN
        RAISE EXCEPTION 'table % belongs to a superuser, and nothing runs as one', p_table USING ERRCODE = 'PT403';
    ELSIF v_maker <> v_owner.rolname THEN
        RAISE EXCEPTION 'the view % of the AI column belongs to ''%'' still', p_view::regclass, v_maker
            USING ERRCODE = 'PT409', HINT = format('ALTER VIEW %s OWNER TO %I;', p_view::regclass, v_owner.rolname);
    END IF;
END
$$;

-- The AI column of a table's column, as the owner sees it: whose it is, and who may do something about it. PT404.
-- Anybody can make a view of such a name over another's table: only one of the table's owner counts, or, where the table
-- has got another, one that the table's triggers name, which nobody else can make.
CREATE FUNCTION @extschema@.aggregator_ai_find(
    p_table         regclass,
    p_column        name,
    OUT id          uuid,
    OUT user_id     text,
    OUT definer     text,
    OUT table_owner oid,
    OUT owner_name  text,
    OUT view_oid    oid,
    OUT view_name   text,
    OUT view_owner  text
) RETURNS record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT named.id, c.user_id, c.definer, t.relowner, place.owner::text, place.view_oid, place.view_name,
        pg_get_userbyid(v.relowner)::text
    INTO id, user_id, definer, table_owner, owner_name, view_oid, view_name, view_owner
    FROM pg_class AS t
    CROSS JOIN LATERAL (
        SELECT named.oid, named.relname, named.relowner
        FROM pg_class AS named
        WHERE named.oid IN (
                SELECT r.ev_class
                FROM pg_depend AS d
                JOIN pg_rewrite AS r ON r.oid = d.objid
                WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_table)
          AND (named.relowner = t.relowner
               OR EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND g.tgname = named.relname || '_row'))
        OFFSET 0
    ) AS v
    CROSS JOIN LATERAL (
        SELECT CASE WHEN v.relname ~ '^aggregator_ai_[0-9a-f]{32}$' THEN substr(v.relname, 15)::uuid END AS id
    ) AS named
    CROSS JOIN LATERAL @extschema@.aggregator_ai_place(named.id) AS place
    LEFT JOIN @extschema@.aggregator_ai_columns AS c ON c.id = named.id
    WHERE t.oid = p_table AND place.view_oid = v.oid AND place.output_name = p_column
    -- One of which the extension keeps something first.
    ORDER BY v.relowner = t.relowner DESC, c.id IS NULL
    LIMIT 1;
    IF id IS NULL THEN
        RAISE EXCEPTION 'column ''%'' of table % is no AI column', p_column, p_table
            USING ERRCODE = 'PT404', HINT = 'SELECT table_name, column_name FROM ai_column_status;';
    END IF;
END
$$;

-- Definitions whose view is gone go a week later: a restore may bring it back. The worker does this from time to time.
CREATE FUNCTION @extschema@.aggregator_sweep_ai_columns() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE @extschema@.aggregator_ai_columns AS c
    SET detached_at = CASE WHEN seen.is_there THEN NULL ELSE now() END
    FROM (
        SELECT known.id, EXISTS (
            SELECT FROM pg_class AS v
            WHERE v.relname = 'aggregator_ai_' || replace(known.id::text, '-', '') AND v.relkind = 'v') AS is_there
        FROM @extschema@.aggregator_ai_columns AS known
    ) AS seen
    WHERE c.id = seen.id AND (c.detached_at IS NULL) <> seen.is_there;
    WITH gone AS (
        DELETE FROM @extschema@.aggregator_ai_columns AS c
        WHERE c.detached_at < now() - interval '7 days'
        RETURNING c.id
    )
    DELETE FROM @extschema@.aggregator_ai_queue AS q
    USING gone
    WHERE q.column_id = gone.id;
END
$$;

-- The AI columns that one may see: one's own, those of one's tables, all for administrators.
CREATE VIEW @extschema@.ai_column_status WITH (security_invoker = true) AS
SELECT c.id,
    place.table_name,
    place.output_name AS column_name,
    c.kind,
    c.model,
    c.provider,
    c.user_id,
    CASE
        WHEN place.table_oid IS NULL THEN 'detached'
        WHEN c.status = 'paused' THEN 'paused'
        WHEN c.wait_until > now() THEN 'waiting'
        ELSE 'active'
    END AS status,
    coalesce(q.queued, 0) AS queued,
    coalesce(q.running, 0) AS running,
    coalesce(q.failed, 0) AS failed,
    c.backfill_status,
    c.backfill_seen,
    c.backfill_total,
    CASE WHEN c.wait_until > now() THEN c.wait_until END AS wait_until,
    coalesce(c.paused_for, c.last_error) AS last_error,
    c.last_error_at,
    place.problem
FROM @extschema@.aggregator_ai_columns AS c
LEFT JOIN LATERAL @extschema@.aggregator_ai_place(c.id) AS place ON true
LEFT JOIN (
    SELECT entry.column_id,
        count(*) FILTER (WHERE entry.status = 'queued') AS queued,
        count(*) FILTER (WHERE entry.status = 'running') AS running,
        count(*) FILTER (WHERE entry.status = 'failed') AS failed
    FROM @extschema@.aggregator_ai_queue AS entry
    GROUP BY entry.column_id
) AS q ON q.column_id = c.id;

COMMENT ON VIEW @extschema@.ai_column_status IS
    'AI columns that one may see, and how far each is: rows that wait, run and have failed, the backfill, the last error. status: active, waiting (until wait_until), paused, or detached (its view is gone). problem: why nothing can be done now.';
COMMENT ON COLUMN @extschema@.ai_column_status.table_name IS 'The table, with its schema; NULL: the column''s view is gone.';
COMMENT ON COLUMN @extschema@.ai_column_status.column_name IS 'The column that is filled.';
COMMENT ON COLUMN @extschema@.ai_column_status.status IS 'active, waiting (until wait_until), paused, or detached (its view is gone).';
COMMENT ON COLUMN @extschema@.ai_column_status.queued IS 'Rows that wait to be computed.';
COMMENT ON COLUMN @extschema@.ai_column_status.running IS 'Rows that are being computed.';
COMMENT ON COLUMN @extschema@.ai_column_status.failed IS 'Rows that have failed, until ai_column_retry or their next change.';
COMMENT ON COLUMN @extschema@.ai_column_status.wait_until IS 'Nothing is asked before: a limit is reached, or something is down. NULL: it waits for nothing.';
COMMENT ON COLUMN @extschema@.ai_column_status.last_error IS 'The error for which it was paused, else the last one of a row or of all.';
COMMENT ON COLUMN @extschema@.ai_column_status.problem IS 'Why nothing can be done now; NULL: nothing is in the way.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_inherit(oid, regclass) IS 'Raises what keeps a table''s owner of now from having its AI column. PT403, PT409. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_find(regclass, name) IS 'The AI column of a table''s column. PT404. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_sweep_ai_columns() IS 'Deletes AI columns whose view has been gone for a week. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
