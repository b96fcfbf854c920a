-- The linter passes over what belongs to an extension. This makes the extension's objects ordinary
-- ones, so that it looks at them too.
DO $$
DECLARE
    v_object record;
BEGIN
    FOR v_object IN
        SELECT object.type, object.identity
        FROM pg_depend AS d, pg_identify_object(d.classid, d.objid, d.objsubid) AS object
        WHERE d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
          AND d.deptype = 'e'
    LOOP
        EXECUTE format('ALTER EXTENSION aggregator DROP %s %s', v_object.type, v_object.identity);
    END LOOP;
END
$$;
