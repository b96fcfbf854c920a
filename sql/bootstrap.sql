-- Runs first: what must be true before anything is created.

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

-- USAGE on this type marks the roles that may act for others. A type, because the sweeping grants
-- that databases live with (ON ALL TABLES, ON ALL FUNCTIONS) do not reach types, and because
-- PostgreSQL then dumps, restores and drops the mark with the role.
CREATE DOMAIN aggregator_admin AS boolean;
REVOKE ALL ON TYPE aggregator_admin FROM PUBLIC;

-- PostgREST reads the schema again, so that its clients see the functions at once.
NOTIFY pgrst, 'reload schema';
