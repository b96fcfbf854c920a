-- console_session
-- The session of the console with this token ($1, hexadecimal), if it passes now: it is neither over nor revoked, its
-- user was not forgotten since, its role is there still, and whoever logged in where it was made can log in still and
-- become that role. {SET}: what the right to is called. Until when: microseconds since 1970.
SELECT s.id, s.user_id, s.role, s.is_anonymous, (extract(epoch FROM s.expires_at) * 1000000)::bigint
FROM @extschema@.aggregator_console_sessions AS s
JOIN pg_roles AS r ON r.oid = s.role_oid AND r.rolname = s.role
JOIN pg_roles AS login ON login.oid = s.login_oid AND login.rolcanlogin AND pg_has_role(login.oid, r.oid, '{SET}')
WHERE s.token_hash = decode($1, 'hex')
  AND s.revoked_at IS NULL
  AND s.expires_at > clock_timestamp()
  AND NOT EXISTS (
      SELECT FROM @extschema@.aggregator_forgotten AS gone
      WHERE gone.user_hash = sha256(convert_to(s.user_id, 'UTF8')) AND gone.forgotten_at >= s.created_at
  )
