-- Readers see the usage of all users and what it cost, and neither spend nor change anything: for
-- Metabase, Grafana, and whoever keeps the books.

SET LOCAL search_path = pg_catalog, pg_temp;

-- USAGE on this type marks them, as aggregator_admin does administrators.
CREATE DOMAIN @extschema@.aggregator_reader AS boolean;
REVOKE ALL ON TYPE @extschema@.aggregator_reader FROM PUBLIC;

CREATE FUNCTION @extschema@.aggregator_is_reader() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_is_admin() OR has_type_privilege('@extschema@.aggregator_reader', 'USAGE');
END
$$;

COMMENT ON DOMAIN @extschema@.aggregator_reader IS
    'USAGE on this type marks the roles that may see the usage of all users; see aggregator_grant(role, kind).';
COMMENT ON FUNCTION @extschema@.aggregator_is_reader() IS
    'Whether the effective role may see the usage of all users: a superuser, or one that was granted reader or admin.';

SET LOCAL search_path = @extschema@, pg_temp;
