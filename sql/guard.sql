-- What keeps a sweeping GRANT ALL ON ALL TABLES from handing out more than rows: row-level security says nothing
-- about TRUNCATE, about triggers, which run as whoever writes, and about foreign keys, which hold up who deletes.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_before_truncate() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_user <> 'aggregator_owner'
       AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role ''%'' may not empty %', current_user, TG_RELID::regclass
            USING ERRCODE = 'PT403', HINT = 'DELETE takes the rows that the role may delete.';
    END IF;
    RETURN NULL;
END
$$;

-- Every table of the extension refuses to be emptied.
CREATE FUNCTION @extschema@.aggregator_guard_tables() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table regclass;
BEGIN
    FOR v_table IN
        SELECT c.oid::regclass
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_class AS c ON c.oid = ours
        WHERE c.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'before_truncate')
    LOOP
        EXECUTE format('CREATE TRIGGER before_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_before_truncate()', v_table);
    END LOOP;
END
$$;

-- Refuses triggers on, and foreign keys to, the extension's tables from all but superusers, whatever was granted;
-- after a superuser's ALTER TABLE, puts the extension's own triggers right.
-- It runs as whoever creates something anywhere in the database, and so asks the catalogs alone.
CREATE FUNCTION @extschema@.aggregator_guard_ddl() RETURNS event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_is_superuser CONSTANT boolean := (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user);
    v_ours         oid[];
    v_what         text;
    v_trigger      record;
BEGIN
    IF current_user = 'aggregator_owner'
       OR (c_is_superuser AND tg_tag <> 'ALTER TABLE') THEN
        RETURN;
    END IF;
    v_ours := ARRAY(
        SELECT d.objid
        FROM pg_depend AS d
        JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass
          AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass
          AND e.extname = 'aggregator');
    v_ours := v_ours || ARRAY(SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = ANY (v_ours));
    IF c_is_superuser THEN
        -- pg_restore --disable-triggers disables all triggers of a table, copies, and enables all. Ours are what
        -- lets a row replace a fresh seed, and so they stay; the checks of foreign keys, which would depend on
        -- the order of tables, stay off. It is known by row_security, which every restore sets to off.
        FOR v_trigger IN
            SELECT t.tgname, t.tgrelid::regclass AS relation, wanted.state
            FROM pg_event_trigger_ddl_commands() AS command
            JOIN pg_trigger AS t ON command.classid = 'pg_class'::regclass AND t.tgrelid = command.objid
            CROSS JOIN LATERAL (
                SELECT CASE
                    WHEN t.tgisinternal THEN
                        CASE WHEN t.tgfoid IN ('"RI_FKey_check_ins"()'::regprocedure, '"RI_FKey_check_upd"()'::regprocedure)
                            AND t.tgconstrrelid = ANY (v_ours) THEN 'DISABLE' END
                    WHEN t.tgenabled = 'D' AND current_setting('row_security') <> 'off' THEN NULL
                    WHEN EXISTS (
                        SELECT FROM pg_depend AS d
                        JOIN pg_extension AS e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'aggregator'
                    ) THEN 'ENABLE ALWAYS'
                END AS state
            ) AS wanted
            WHERE t.tgrelid = ANY (v_ours)
              AND t.tgenabled <> CASE wanted.state WHEN 'DISABLE' THEN 'D' ELSE 'A' END
              AND wanted.state IS NOT NULL
        LOOP
            EXECUTE format('ALTER TABLE %s %s TRIGGER %I', v_trigger.relation, v_trigger.state, v_trigger.tgname);
        END LOOP;
        RETURN;
    END IF;
    SELECT format('put trigger %I on %s', t.tgname, t.tgrelid::regclass) INTO v_what
    FROM pg_event_trigger_ddl_commands() AS command
    JOIN pg_trigger AS t ON command.classid = 'pg_trigger'::regclass AND t.oid = command.objid
    WHERE t.tgrelid = ANY (v_ours)
    UNION ALL
    SELECT format('let %s refer to %s', c.conrelid::regclass, c.confrelid::regclass)
    FROM pg_event_trigger_ddl_commands() AS command
    JOIN pg_constraint AS c ON command.classid = 'pg_class'::regclass AND c.conrelid = command.objid
    WHERE c.contype = 'f'
      AND c.confrelid = ANY (v_ours)
      AND c.conrelid <> ALL (v_ours)
    LIMIT 1;
    IF v_what IS NOT NULL THEN
        RAISE EXCEPTION 'role ''%'' may not %', current_user, v_what
            USING ERRCODE = 'PT403',
                HINT = 'A superuser may. The worker runs a trigger only where ALTER TABLE ... ENABLE ALWAYS TRIGGER says so.';
    END IF;
END
$$;

CREATE EVENT TRIGGER aggregator_guard_ddl ON ddl_command_end
WHEN TAG IN ('CREATE TRIGGER', 'CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA')
EXECUTE FUNCTION @extschema@.aggregator_guard_ddl();

COMMENT ON EVENT TRIGGER aggregator_guard_ddl IS 'Keeps others'' triggers off, and foreign keys from, the extension''s tables, and its own triggers as a restore needs them.';
COMMENT ON FUNCTION @extschema@.aggregator_before_truncate() IS 'Refuses TRUNCATE, which row-level security does not see. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_guard_tables() IS 'Puts aggregator_before_truncate on every table of the extension. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_guard_ddl() IS 'Refuses others'' triggers on, and foreign keys to, the extension''s tables (PT403), and puts the extension''s own right after ALTER TABLE.';

SET LOCAL search_path = @extschema@, pg_temp;
