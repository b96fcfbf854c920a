-- Whether a role that an access token claims ($1) may do over HTTP what it may do in SQL: a login whose claims are
-- believed may become it, it may use the schema $4, and has the right that is asked about, to what has the oid $5; and
-- whether it administers, by USAGE on the type of the oid $6. $2: logins that are named; NULL: those that have the mark,
-- USAGE on the type of the oid $3. {IS_ITSELF}: true where nobody need become it. {SET}: what the login's right to become
-- it is called. And whether it can log in, or somebody can who may become it, other than superusers, who always may. No
-- row: there is no such role.
SELECT has_schema_privilege(r.oid, $4, 'USAGE')
    AND {RIGHT}
    AND ({IS_ITSELF} OR EXISTS (
        SELECT
        FROM pg_roles AS login
        WHERE login.rolcanlogin
          AND pg_has_role(login.oid, r.oid, '{SET}')
          AND CASE WHEN $2 IS NOT NULL THEN login.rolname = ANY ($2)
              ELSE EXISTS (
                  SELECT
                  FROM pg_type AS mark
                  CROSS JOIN LATERAL aclexplode(mark.typacl) AS granted
                  WHERE mark.oid = $3 AND granted.grantee = login.oid)
              END
    )),
    has_type_privilege(r.oid, $6, 'USAGE'),
    r.rolcanlogin OR EXISTS (
        SELECT
        FROM pg_roles AS login
        WHERE login.rolcanlogin
          AND NOT login.rolsuper
          AND pg_has_role(login.oid, r.oid, '{SET}')
    )
FROM pg_roles AS r
WHERE r.rolname = $1
