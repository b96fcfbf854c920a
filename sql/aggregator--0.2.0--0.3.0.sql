-- From 0.2.0 to 0.3.0. Written by tools/upgrade_script.py (make upgrade-sql) from the two install scripts and
-- sql/upgrades/0.2.0--0.3.0.sql: change those.

SET LOCAL check_function_bodies = off;
SET LOCAL search_path = pg_catalog, pg_temp;

-- What a fresh installation cannot tell of the way from 0.2.0 to 0.3.0: changes of tables that are there,
-- functions that go, data that is converted.

SET LOCAL search_path = @extschema@, pg_temp;

SET LOCAL search_path = pg_catalog, pg_temp;

-- Everything of the extension belongs to this role, and whatever acts with more rights than its caller acts as
-- it: nothing of ours runs as a superuser. The role is the cluster's; its other databases share it.
-- Upgrades run this too.
DO $$
DECLARE
    v_owner   pg_roles;
    v_members text;
BEGIN
    BEGIN
        IF to_regrole('aggregator_owner') IS NULL THEN
            CREATE ROLE aggregator_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
            COMMENT ON ROLE aggregator_owner IS
                'Owns the objects of the extension aggregator and runs its worker. Nobody is to be a member of it.';
        END IF;
    EXCEPTION
        -- Another database of the cluster has just made it.
        WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    SELECT r.* INTO v_owner FROM pg_roles AS r WHERE r.rolname = 'aggregator_owner';
    IF v_owner.rolsuper OR v_owner.rolcanlogin OR v_owner.rolcreaterole OR v_owner.rolcreatedb
       OR v_owner.rolreplication OR v_owner.rolbypassrls THEN
        RAISE EXCEPTION 'the role aggregator_owner is there already, with more rights than an owner of tables needs'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'ALTER ROLE aggregator_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;';
    END IF;
    SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) INTO v_members
    FROM pg_auth_members AS m
    JOIN pg_roles AS r ON r.oid = m.member
    WHERE m.roleid = v_owner.oid AND NOT r.rolsuper;
    IF v_members IS NOT NULL THEN
        RAISE WARNING 'members of aggregator_owner own every key, log and grant of the extension aggregator: %', v_members
            USING HINT = 'REVOKE aggregator_owner FROM ...;';
    END IF;
END
$$;

-- Makes the partition of a month (UTC), with the rights, row-level security and storage of the
-- default one. False: it is there; or so many rows of the month are in the default partition that
-- moving them would hold up the ledger, so that it keeps the month; or somebody is using the ledger.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_make_partition(p_month timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
    c_moved     CONSTANT integer := 20000;
    v_from      timestamptz := date_trunc('month', p_month, 'UTC');
    v_to        timestamptz := date_trunc('month', v_from + interval '32 days', 'UTC');
    v_name      text        := 'aggregator_usage_logs_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
    v_grantee   record;
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
    IF EXISTS (
        SELECT FROM @extschema@.aggregator_usage_logs_default AS log
        WHERE log.created_at >= v_from AND log.created_at < v_to
        OFFSET c_moved
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE @extschema@.%I (LIKE @extschema@.aggregator_usage_logs_default INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
        WITH (fillfactor = 80)', v_name);
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
    EXECUTE format('CREATE TRIGGER before_truncate BEFORE TRUNCATE ON @extschema@.%I
        FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_before_truncate()', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I ENABLE ALWAYS TRIGGER before_truncate', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I OWNER TO aggregator_owner', v_name);
    EXECUTE format('COMMENT ON TABLE @extschema@.%I IS %L', v_name,
        format('Partition of the ledger for %s (UTC).', to_char(v_from AT TIME ZONE 'UTC', 'FMMonth YYYY')));
    -- From partition to partition: no trigger of the ledger sees it, and the sums stay as they are.
    LOCK TABLE @extschema@.aggregator_usage_logs_default IN ACCESS EXCLUSIVE MODE;
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

-- Tables, views and sequences of the extension, and the partitions that were made since.
CREATE FUNCTION @extschema@.aggregator_relations() RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.objid::regclass
    FROM pg_depend AS d
    WHERE d.classid = 'pg_class'::regclass
      AND d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
    UNION
    SELECT i.inhrelid::regclass
    FROM pg_inherits AS i
    WHERE i.inhparent = '@extschema@.aggregator_usage_logs'::regclass
$$;

-- Gives everything of the extension to aggregator_owner: what a script has made, what an earlier version owned
-- as a superuser, partitions that somebody else restored. But not what PostgreSQL runs in the name of whoever
-- does something, a superuser included: event triggers and their functions stay with whom the extension belongs to.
CREATE FUNCTION @extschema@.aggregator_hand_over() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_owner   CONSTANT oid := 'aggregator_owner'::regrole;
    c_creator CONSTANT oid := (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'aggregator');
    v_object  record;
BEGIN
    FOR v_object IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_depend AS d
            WHERE d.deptype = 'e'
              AND d.refclassid = 'pg_extension'::regclass
              AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
        )
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS identity,
            c.oid, c.relowner AS owner, c_owner AS heir
        FROM @extschema@.aggregator_relations() AS relation
        JOIN pg_class AS c ON c.oid = relation
        WHERE c.relkind IN ('r', 'p', 'v', 'S')
          AND c.relowner <> c_owner
          -- The sequence of a column goes with its table.
          AND NOT EXISTS (
              SELECT FROM pg_depend AS d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
                AND c.relkind = 'S'
          )
        UNION ALL
        SELECT CASE p.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END, p.oid::regprocedure::text,
            p.oid, p.proowner, heir.role
        FROM member
        JOIN pg_proc AS p ON p.oid = member.objid
        CROSS JOIN LATERAL (
            SELECT CASE p.prorettype WHEN 'event_trigger'::regtype THEN c_creator ELSE c_owner END AS role
        ) AS heir
        WHERE member.classid = 'pg_proc'::regclass
          AND p.proowner <> heir.role
        UNION ALL
        SELECT 'EVENT TRIGGER', quote_ident(e.evtname), e.oid, e.evtowner, c_creator
        FROM member
        JOIN pg_event_trigger AS e ON e.oid = member.objid
        WHERE member.classid = 'pg_event_trigger'::regclass
          AND e.evtowner <> c_creator
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, t.oid, t.typowner, c_owner
        FROM member
        JOIN pg_type AS t ON t.oid = member.objid
        WHERE member.classid = 'pg_type'::regclass
          AND t.typtype = 'd'
          AND t.typowner <> c_owner
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %s', v_object.kind, v_object.identity, v_object.heir::regrole);
        -- What the extension has granted from the start, pg_dump leaves out; before version 17, PostgreSQL does not
        -- tell it that the owner who granted it is another one now.
        UPDATE pg_init_privs AS initial
        SET initprivs = ARRAY(
            SELECT (
                CASE item.grantee WHEN 0 THEN '' ELSE format('"%s"', replace(grantee.rolname, '"', '""')) END
                || substring(acl.item::text FROM '=[a-zA-Z*]*/')
                || format('"%s"', replace(grantor.rolname, '"', '""'))
            )::aclitem
            FROM unnest(initial.initprivs) WITH ORDINALITY AS acl (item, place)
            CROSS JOIN LATERAL (SELECT * FROM aclexplode(ARRAY[acl.item]) LIMIT 1) AS item
            JOIN pg_roles AS grantor ON grantor.oid = CASE item.grantor WHEN v_object.owner THEN v_object.heir ELSE item.grantor END
            LEFT JOIN pg_roles AS grantee ON grantee.oid = CASE item.grantee WHEN v_object.owner THEN v_object.heir ELSE item.grantee END
            ORDER BY acl.place)
        WHERE initial.objoid = v_object.oid
          AND initial.classoid = CASE
              WHEN v_object.kind = 'TYPE' THEN 'pg_type'::regclass
              WHEN v_object.kind IN ('FUNCTION', 'AGGREGATE') THEN 'pg_proc'::regclass
              WHEN v_object.kind IN ('TABLE', 'VIEW', 'SEQUENCE') THEN 'pg_class'::regclass
          END;
    END LOOP;
END
$$;

-- The worker runs with session_replication_role = replica: of triggers and rules on these tables it runs those
-- alone that are to run always. Ours are; what others have put there is not, unless a superuser says so. A
-- restore with --disable-triggers leaves ours as ordinary ones: the worker calls this when it begins.
CREATE FUNCTION @extschema@.aggregator_arm_triggers() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    v_trigger record;
BEGIN
    FOR v_trigger IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_trigger AS t ON t.tgrelid = ours
        JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid
        WHERE NOT t.tgisinternal
          AND t.tgenabled <> 'A'
          AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', v_trigger.relation, v_trigger.tgname);
    END LOOP;
END
$$;

-- Triggers and rules on the extension's tables that are not the extension's.
CREATE FUNCTION @extschema@.aggregator_foreign_triggers() RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
    FROM @extschema@.aggregator_relations() AS ours
    JOIN pg_trigger AS t ON t.tgrelid = ours
    WHERE NOT t.tgisinternal
      AND NOT EXISTS (
          SELECT FROM pg_depend AS d
          WHERE d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
            AND d.refclassid = 'pg_extension'::regclass
            AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
      )
    UNION ALL
    SELECT format('rule %I on %s', r.rulename, r.ev_class::regclass)
    FROM @extschema@.aggregator_relations() AS ours
    JOIN pg_rewrite AS r ON r.ev_class = ours
    WHERE r.rulename <> '_RETURN'
$$;

-- What is done here is the extension's own doing to pg_dump, which leaves it out: CREATE EXTENSION
-- will do it again.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_close_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_object  record;
    v_grantee oid;
    v_granted record;
BEGIN
    PERFORM @extschema@.aggregator_hand_over();
    PERFORM @extschema@.aggregator_guard_tables();
    PERFORM @extschema@.aggregator_arm_triggers();
    -- The default privileges of a database may have handed our objects to anybody.
    FOR v_object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, made.identity, c.relacl AS acl, c.relowner AS owner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_class AS c ON c.oid = made.object
        WHERE made.class = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_proc AS p ON p.oid = made.object
        WHERE made.class = 'pg_proc'::regclass
        UNION ALL
        SELECT 'TYPE', made.identity, coalesce(t.typacl, acldefault('T', t.typowner)), t.typowner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_type AS t ON t.oid = made.object
        WHERE made.class = 'pg_type'::regclass
    LOOP
        FOR v_grantee IN
            SELECT DISTINCT acl.grantee FROM aclexplode(v_object.acl) AS acl WHERE acl.grantee <> v_object.owner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s', v_object.kind, v_object.identity,
                CASE v_grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee::regrole::text END);
        END LOOP;
    END LOOP;
    FOR v_granted IN
        SELECT standard.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_standard_roles() AS standard
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(standard.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_granted.privileges, v_granted.identity,
            CASE v_granted.role WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(v_granted.role) END);
    END LOOP;
END
$$;

-- What is done here carries on what an administrator did, and pg_dump carries it: a restored copy
-- would lack it.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_open_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_changed record;
BEGIN
    -- To make partitions, and to find its own objects where PUBLIC may not look.
    GRANT USAGE, CREATE ON SCHEMA @extschema@ TO aggregator_owner;
    -- From whom the old objects were taken is not given the new ones.
    FOR v_changed IN
        SELECT standard.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_standard_roles() AS standard
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(standard.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
        WHERE standard.kind IN ('user', 'admin')
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_granted_roles() AS granted
              WHERE granted.role = quote_ident(standard.role)::regrole AND granted.kind = standard.kind
          )
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %I', v_changed.privileges, v_changed.identity, v_changed.role);
    END LOOP;
    FOR v_changed IN
        SELECT granted.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_granted_roles() AS granted
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(granted.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
        WHERE NOT EXISTS (
            SELECT FROM @extschema@.aggregator_standard_roles() AS standard
            WHERE quote_ident(standard.role) = granted.role::text AND standard.kind = granted.kind
        )
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_changed.privileges, v_changed.identity, v_changed.role);
    END LOOP;
END
$$;

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

-- Refuses triggers on, and foreign keys to, the extension's tables from all but superusers, whatever was granted.
-- It runs as whoever creates something anywhere in the database, and so asks the catalogs alone.
CREATE FUNCTION @extschema@.aggregator_guard_ddl() RETURNS event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ours oid[];
    v_what text;
BEGIN
    IF current_user = 'aggregator_owner'
       OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
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

COMMENT ON EVENT TRIGGER aggregator_guard_ddl IS 'Keeps others'' triggers off, and foreign keys from, the extension''s tables.';

COMMENT ON FUNCTION @extschema@.aggregator_before_truncate() IS 'Refuses TRUNCATE, which row-level security does not see. PT403.';

COMMENT ON FUNCTION @extschema@.aggregator_guard_tables() IS 'Puts aggregator_before_truncate on every table of the extension. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_guard_ddl() IS 'Refuses others'' triggers on, and foreign keys to, the extension''s tables. PT403.';

COMMENT ON FUNCTION @extschema@.aggregator_relations() IS 'The tables, views and sequences of the extension, partitions made since included. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_hand_over() IS 'Gives everything of the extension to aggregator_owner. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_arm_triggers() IS 'Has the extension''s triggers fire in the worker too. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_foreign_triggers() IS 'Triggers and rules on the extension''s tables that are not its own; the worker does not run them unless a superuser has it run them always. Internal.';

SET LOCAL search_path = pg_catalog, pg_temp;

SELECT @extschema@.aggregator_finish_script();
