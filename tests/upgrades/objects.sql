-- The extension, in the schema public with nothing else in it, as lines without an oid: equal lines,
-- equal extensions.
WITH ns AS (
    SELECT oid, oid::regnamespace::text AS name FROM pg_namespace WHERE nspname = 'public'
), ext AS (
    SELECT * FROM pg_extension WHERE extname = 'aggregator'
), rel AS (
    SELECT c.* FROM pg_class AS c JOIN ns ON ns.oid = c.relnamespace
), fn AS (
    SELECT p.* FROM pg_proc AS p JOIN ns ON ns.oid = p.pronamespace
), acls (object, kind, owner, acl) AS (
    SELECT format('%s %s', relkind, oid::regclass), CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner, relacl FROM rel
    UNION ALL
    SELECT format('column %s.%s', attrelid::regclass, attname), 'c', relowner, attacl
    FROM rel JOIN pg_attribute ON attrelid = rel.oid WHERE attacl IS NOT NULL
    UNION ALL
    SELECT format('function %s', oid::regprocedure), 'f', proowner, proacl FROM fn
    UNION ALL
    SELECT format('type %s', t.oid::regtype), 'T', typowner, typacl FROM pg_type AS t JOIN ns ON ns.oid = typnamespace
)
SELECT format('extension: %s %s %s', extversion, extrelocatable, extnamespace::regnamespace) FROM ext
UNION ALL
SELECT format('dumped: %s %s', config.oid::regclass, config.condition) FROM ext, unnest(extconfig, extcondition) AS config (oid, condition)
UNION ALL
SELECT format('member: %s', pg_describe_object(classid, objid, objsubid))
FROM pg_depend JOIN ext ON refobjid = ext.oid WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
UNION ALL
SELECT format('depends: %s -%s-> %s', pg_describe_object(classid, objid, objsubid), deptype, pg_describe_object(refclassid, refobjid, refobjsubid))
FROM pg_depend
WHERE deptype <> 'e'
  AND (pg_identify_object(classid, objid, objsubid)).schema = 'public'
  AND (pg_identify_object(refclassid, refobjid, refobjsubid)).schema IS DISTINCT FROM 'pg_toast'
UNION ALL
SELECT format('class: %s %s owner %s persistence %s rls %s %s options %s identity %s partition %s of %s am %s',
    relkind, oid::regclass, relowner::regrole, relpersistence, relrowsecurity, relforcerowsecurity, reloptions, relreplident,
    pg_get_expr(relpartbound, oid), (SELECT array_agg(inhparent::regclass ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = rel.oid),
    (SELECT amname FROM pg_am WHERE pg_am.oid = relam))
FROM rel
UNION ALL
SELECT format('view: %s %s', oid::regclass, pg_get_viewdef(oid)) FROM rel WHERE relkind IN ('v', 'm')
UNION ALL
SELECT format('column: %s %s %s %s not null %s default %s identity %s generated %s collation %s storage %s compression %s statistics %s options %s',
    attrelid::regclass, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), attname, format_type(atttypid, atttypmod), attnotnull,
    (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum),
    attidentity, attgenerated, attcollation::regcollation, attstorage, attcompression, attstattarget,
    -- Some builds of PostgreSQL stamp every column with when it was made.
    (SELECT array_agg(o ORDER BY o) FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg\_attver=%'))
FROM rel JOIN pg_attribute ON attrelid = rel.oid WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT format('constraint: %s %s %s validated %s', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid), convalidated)
FROM pg_constraint JOIN rel ON rel.oid = conrelid
UNION ALL
SELECT format('index: %s valid %s clustered %s', pg_get_indexdef(indexrelid), indisvalid, indisclustered) FROM pg_index JOIN rel ON rel.oid = indexrelid
UNION ALL
SELECT format('statistics: %s', pg_get_statisticsobjdef(pg_statistic_ext.oid)) FROM pg_statistic_ext JOIN rel ON rel.oid = stxrelid
UNION ALL
SELECT format('trigger: %s enabled %s', pg_get_triggerdef(pg_trigger.oid), tgenabled) FROM pg_trigger JOIN rel ON rel.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT format('check: %s of %s on %s enabled %s', tgfoid::regproc, conname, tgrelid::regclass, tgenabled)
FROM pg_trigger JOIN rel ON rel.oid = tgrelid JOIN pg_constraint ON pg_constraint.oid = tgconstraint WHERE tgisinternal
UNION ALL
SELECT format('policy: %s %s for %s permissive %s to %s using %s check %s', polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[],
    pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy JOIN rel ON rel.oid = polrelid
UNION ALL
-- Volatility, parallel safety, cost, settings, defaults and body are all in the definition.
SELECT format('function: owner %s leakproof %s %s', proowner::regrole, proleakproof, pg_get_functiondef(oid)) FROM fn WHERE prokind <> 'a'
UNION ALL
SELECT format('aggregate: %s %s owner %s parallel %s kind %s state %s %s %s %s combine %s final %s %s serial %s %s', fn.oid::regprocedure,
    prorettype::regtype, proowner::regrole, proparallel, aggkind, aggtransfn, aggtranstype::regtype, agginitval, aggtransspace, aggcombinefn,
    aggfinalfn, aggfinalmodify, aggserialfn, aggdeserialfn)
FROM fn JOIN pg_aggregate ON aggfnoid = fn.oid
UNION ALL
SELECT format('type: %s %s owner %s base %s default %s not null %s constraints %s', t.oid::regtype, typtype, typowner::regrole,
    format_type(typbasetype, typtypmod), typdefault, typnotnull,
    (SELECT array_agg(pg_get_constraintdef(c.oid) ORDER BY conname) FROM pg_constraint AS c WHERE contypid = t.oid))
FROM pg_type AS t JOIN ns ON ns.oid = typnamespace WHERE typrelid = 0 AND typelem = 0
UNION ALL
SELECT format('enum: %s %s', enumtypid::regtype, array_agg(enumlabel ORDER BY enumsortorder)) FROM pg_enum GROUP BY enumtypid
UNION ALL
SELECT format('event trigger: %s on %s %s calls %s enabled %s owner %s', evtname, evtevent, evttags, evtfoid::regprocedure, evtenabled, evtowner::regrole)
FROM pg_event_trigger
UNION ALL
SELECT format('grant: %s to %s', acls.object, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END) || ': '
    || string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ', ' ORDER BY privilege_type)
FROM acls, aclexplode(coalesce(acl, acldefault(kind, owner)))
GROUP BY acls.object, grantee
UNION ALL
-- By these pg_dump tells an administrator's grants from the extension's own.
SELECT format('initial grant: %s to %s: %s', pg_describe_object(classoid, objoid, objsubid),
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, string_agg(privilege_type, ', ' ORDER BY privilege_type))
FROM ext, pg_init_privs, aclexplode(initprivs)
WHERE privtype = 'e' AND grantee NOT IN (extowner, 'aggregator_owner'::regrole) AND (pg_identify_object(classoid, objoid, objsubid)).schema = 'public'
GROUP BY classoid, objoid, objsubid, grantee
UNION ALL
SELECT format('comment: %s: %s', pg_describe_object(classoid, objoid, objsubid), description) FROM pg_description WHERE objoid >= 16384
UNION ALL
SELECT format('setting: %s', setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
UNION ALL
-- The seed is part of the installation, where nobody has edited it.
SELECT format('seed: %s', to_jsonb(seed) - 'created_at' - 'updated_at')
FROM api_providers AS seed WHERE id::text LIKE 'a9920000-%' AND updated_at = created_at
ORDER BY 1
