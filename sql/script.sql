-- What the scripts of the extension end with, by aggregator_finish_script(): CREATE EXTENSION's and
-- those of upgrades. Only objects that the script has made are touched: on others an administrator
-- may have granted more, or less.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_new_objects(OUT class regclass, OUT object oid, OUT kind text, OUT identity text) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.classid::regclass, d.objid, named.type, named.identity
    FROM pg_depend AS d
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS named
    WHERE d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
      AND @extschema@.aggregator_is_new(d.xmin)
      -- From PostgreSQL 18 on, types of arrays and of rows are members as well; they go with theirs.
      AND NOT EXISTS (
          SELECT FROM pg_type AS t
          WHERE d.classid = 'pg_type'::regclass
            AND t.oid = d.objid
            AND (t.typcategory = 'A' OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c'))
      )
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

-- The foreign keys to providers check nothing where a row is written: pg_restore copies tables in any order, and
-- each of several at once, so that keys would come before their provider, and all be lost. aggregator_provider_is_there
-- checks what is not a restore's. What they do where a provider goes stays theirs, and PostgREST embeds by them.
-- Only a superuser may do this, and a script of an extension is one's.
CREATE FUNCTION @extschema@.aggregator_ease_references() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_trigger record;
BEGIN
    FOR v_trigger IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_trigger AS t ON t.tgrelid = ours
        WHERE t.tgisinternal
          AND t.tgfoid IN ('"RI_FKey_check_ins"()'::regprocedure, '"RI_FKey_check_upd"()'::regprocedure)
          AND t.tgconstrrelid IN (SELECT @extschema@.aggregator_relations())
          AND t.tgenabled <> 'D'
    LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', v_trigger.relation, v_trigger.tgname);
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
CREATE FUNCTION @extschema@.aggregator_close_new() RETURNS void
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
    PERFORM @extschema@.aggregator_ease_references();
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
CREATE FUNCTION @extschema@.aggregator_open_new() RETURNS void
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
    PERFORM @extschema@.aggregator_add_archive_columns();
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
