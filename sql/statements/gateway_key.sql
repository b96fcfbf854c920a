-- gateway_key
-- The gateway key with this hash ($1, hexadecimal) or this id ($2), if it passes now: it is not revoked and has not
-- expired, its owner was not forgotten since, and, where that is a role, may chat and can log in, or somebody can who
-- may become it, other than superusers, who always may. {SET}: what the right to is called. Whose it is, what it may,
-- until when (microseconds since 1970; NULL: without an end), whether its owner had not signed in, and as which role
-- its owner made it.
SELECT k.id, k.user_id, k.models, k.tags,
    (extract(epoch FROM least(
        k.expires_at,
        CASE WHEN k.old_key_hash = decode($1, 'hex') THEN k.old_valid_until END,
        CASE WHEN k.expires_at IS NOT NULL OR k.old_key_hash = decode($1, 'hex') THEN '3000-01-01 UTC'::timestamptz END
    )) * 1000000)::bigint,
    k.is_anonymous,
    k.role
FROM @extschema@.aggregator_gateway_keys AS k
WHERE (k.key_hash = decode($1, 'hex')
       OR k.old_key_hash = decode($1, 'hex') AND k.old_valid_until > clock_timestamp()
       OR k.id = $2::uuid)
  AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
  AND NOT EXISTS (
      SELECT FROM @extschema@.aggregator_forgotten AS gone
      WHERE gone.user_hash = sha256(convert_to(k.user_id, 'UTF8')) AND gone.forgotten_at >= k.created_at
  )
  AND (NOT starts_with(k.user_id, 'role:')
       OR EXISTS (
           SELECT FROM pg_roles AS r
           WHERE r.rolname = substr(k.user_id, 6)
             AND has_function_privilege(r.oid, '@extschema@.chat_completions(jsonb)'::regprocedure, 'EXECUTE')
             AND (r.rolcanlogin OR EXISTS (
                 SELECT FROM pg_roles AS login
                 WHERE login.rolcanlogin
                   AND NOT login.rolsuper
                   AND pg_has_role(login.oid, r.oid, '{SET}')
             ))
       ))
