-- console_sign_in
-- Exchanges the code $1 for the token $2 (the SHA-256 of each, hexadecimal), which passes for $3 seconds. A code is
-- good for one token, and not after its user was forgotten or where its session would not pass. Until when the token passes: microseconds since 1970.
UPDATE @extschema@.aggregator_console_sessions AS s
SET token_hash = decode($2, 'hex'),
    expires_at = clock_timestamp() + $3::bigint * interval '1 second'
WHERE s.code_hash = decode($1, 'hex')
  AND s.token_hash IS NULL
  AND s.revoked_at IS NULL
  AND s.code_expires_at > clock_timestamp()
  AND EXISTS (
      SELECT
      FROM pg_roles AS r
      JOIN pg_roles AS login ON login.oid = s.login_oid AND login.rolcanlogin AND pg_has_role(login.oid, r.oid, '{SET}')
      WHERE r.oid = s.role_oid AND r.rolname = s.role
  )
  AND NOT EXISTS (
      SELECT FROM @extschema@.aggregator_forgotten AS gone
      WHERE gone.user_hash = sha256(convert_to(s.user_id, 'UTF8')) AND gone.forgotten_at >= s.created_at
  )
RETURNING (extract(epoch FROM s.expires_at) * 1000000)::bigint
