-- What the scripts of the extension end with, by aggregator_finish_script(): CREATE EXTENSION's and
-- those of upgrades. Only objects that the script has made are touched: on others an administrator
-- may have granted more, or less.

CREATE FUNCTION aggregator_new_objects(OUT class regclass, OUT object oid, OUT kind text, OUT identity text) RETURNS SETOF record
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

-- What is done here is the extension's own doing to pg_dump, which leaves it out: CREATE EXTENSION
-- will do it again.
CREATE FUNCTION aggregator_close_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner   pg_roles := (SELECT r FROM pg_roles AS r WHERE r.oid = (SELECT extowner FROM pg_extension WHERE extname = 'aggregator'));
    v_object  record;
    v_grantee oid;
    v_granted record;
BEGIN
    -- An upgrade may be run by another superuser than the one who made the extension.
    IF v_owner.rolname <> current_user THEN
        FOR v_object IN
            SELECT made.kind, made.identity FROM @extschema@.aggregator_new_objects() AS made
            -- The sequence of a column goes with its table.
            WHERE NOT EXISTS (
                SELECT FROM pg_depend AS d
                WHERE d.classid = made.class AND d.objid = made.object
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
            )
        LOOP
            EXECUTE format('ALTER %s %s OWNER TO %I', v_object.kind, v_object.identity, v_owner.rolname);
        END LOOP;
    END IF;
    -- The default privileges of a database may have handed our objects to anybody.
    FOR v_object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, made.identity, c.relacl AS acl
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_class AS c ON c.oid = made.object
        WHERE made.class = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_proc AS p ON p.oid = made.object
        WHERE made.class = 'pg_proc'::regclass
        UNION ALL
        SELECT 'TYPE', made.identity, coalesce(t.typacl, acldefault('T', t.typowner))
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_type AS t ON t.oid = made.object
        WHERE made.class = 'pg_type'::regclass
    LOOP
        FOR v_grantee IN
            SELECT DISTINCT acl.grantee FROM aclexplode(v_object.acl) AS acl WHERE acl.grantee <> v_owner.oid
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
CREATE FUNCTION aggregator_open_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_changed record;
BEGIN
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
