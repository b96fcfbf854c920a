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
          -- From PostgreSQL 18 on, types of arrays and of rows are members as well; they go with theirs.
          AND NOT EXISTS (
              SELECT FROM pg_type AS t
              WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND (t.typcategory = 'A' OR t.typrelid <> 0)
          )
    LOOP
        EXECUTE format('ALTER EXTENSION aggregator DROP %s %s', v_object.type, v_object.identity);
    END LOOP;
END
$$;
