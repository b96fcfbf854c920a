-- Runs first: what must be true before anything is created.

-- Every file of this script looks for names in pg_catalog alone, and names its own by their schema: what others
-- have put into that schema, before or after, is never found. The library's own functions, which are declared
-- between the files, are made where the extension is.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Functions of SQL may name functions of the library, which come later in this script.
SET LOCAL check_function_bodies = off;

DO $$
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'aggregator needs a database with encoding UTF8, this one has %',
            current_setting('server_encoding')
            USING ERRCODE = 'feature_not_supported';
    END IF;
END
$$;

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

-- Whoever may create objects beside ours may plant some that look like them. None of them is ever called; still,
-- it is better known.
DO $$
DECLARE
    v_schema   regnamespace := '@extschema@'::regnamespace;
    v_creators text;
BEGIN
    SELECT CASE WHEN has_schema_privilege('public', v_schema, 'CREATE') THEN 'PUBLIC'
        ELSE string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) END
    INTO v_creators
    FROM pg_roles AS r
    WHERE NOT r.rolsuper
      AND NOT starts_with(r.rolname, 'pg_')
      AND r.rolname <> 'aggregator_owner'
      AND has_schema_privilege(r.oid, v_schema, 'CREATE');
    IF v_creators IS NOT NULL THEN
        RAISE WARNING 'not only superusers may create objects in schema %, where the extension aggregator is: %', v_schema, v_creators
            USING HINT = format('CREATE EXTENSION aggregator SCHEMA ..., in a schema of its own; or REVOKE CREATE ON SCHEMA %s FROM ...;', v_schema);
    END IF;
END
$$;

-- USAGE on this type marks the roles that may act for others. A type, because the sweeping grants
-- that databases live with (ON ALL TABLES, ON ALL FUNCTIONS) do not reach types, and because
-- PostgreSQL then dumps, restores and drops the mark with the role.
CREATE DOMAIN @extschema@.aggregator_admin AS boolean;
REVOKE ALL ON TYPE @extschema@.aggregator_admin FROM PUBLIC;

-- PostgREST reads the schema again, so that its clients see the functions at once. Not where another node of Citus
-- carries the statement here: that ends with PREPARE TRANSACTION, which cannot notify. Whoever takes the name of
-- such a session keeps nothing but their own word from PostgREST.
DO $$
BEGIN
    IF NOT starts_with(current_setting('application_name'), 'citus_internal gpid=') THEN
        NOTIFY pgrst, 'reload schema';
    END IF;
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
