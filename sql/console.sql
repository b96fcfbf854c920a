-- Sessions of the console: console_url() makes one with a code for one minute, which a browser exchanges for a token.
-- Of both only the SHA-256 is stored (core/front/session.rs). Written as the owner alone, by the functions of
-- src/session/console.rs and by the worker. Not dumped: nobody stays signed in over a restore.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_console_sessions (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         text        NOT NULL CHECK (user_id <> ''),
    role            text        NOT NULL,
    -- Another role that gets its name later is not it.
    role_oid        oid         NOT NULL,
    -- Who had logged in to the database.
    login_oid       oid         NOT NULL,
    is_anonymous    boolean     NOT NULL,
    code_hash       bytea       NOT NULL CHECK (octet_length(code_hash) = 32),
    code_expires_at timestamptz NOT NULL,
    token_hash      bytea       CHECK (octet_length(token_hash) = 32),
    expires_at      timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nulls(token_hash, expires_at) IN (0, 2))
);
CREATE UNIQUE INDEX ON @extschema@.aggregator_console_sessions (code_hash);
CREATE UNIQUE INDEX ON @extschema@.aggregator_console_sessions (token_hash) WHERE token_hash IS NOT NULL;
CREATE INDEX ON @extschema@.aggregator_console_sessions (user_id);
-- What is long over is looked for by this.
CREATE INDEX ON @extschema@.aggregator_console_sessions ((coalesce(expires_at, code_expires_at)));

-- Planners need not remember users: ANALYZE leaves what they do where a table is empty once somebody was forgotten.
ALTER TABLE @extschema@.aggregator_console_sessions
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0;

-- Deletes sessions that have been over for a day, some at a time. By the worker alone, whose transactions are short:
-- nobody waits for a row of theirs because somebody else signs in. What is held itself is left for another time.
CREATE FUNCTION @extschema@.aggregator_sweep_console_sessions() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM @extschema@.aggregator_console_sessions AS s
    USING (
        SELECT old.id
        FROM @extschema@.aggregator_console_sessions AS old
        WHERE coalesce(old.expires_at, old.code_expires_at) < clock_timestamp() - interval '1 day'
        ORDER BY coalesce(old.expires_at, old.code_expires_at)
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE s.id = old.id
$$;

-- Stores a code that was just made, for a user who acts as a role; of the user's sessions the oldest make room. Its
-- arguments are checked, but for the right of the role. False: the role may not chat.
CREATE FUNCTION @extschema@.aggregator_store_console_code(
    p_user_id      text,
    p_role         oid,
    p_login        oid,
    p_is_anonymous boolean,
    p_code_hash    bytea,
    p_lasts        interval,
    p_most         bigint
) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role text;
BEGIN
    SELECT r.rolname INTO v_role
    FROM pg_roles AS r
    WHERE r.oid = p_role
      AND has_function_privilege(r.oid, '@extschema@.chat_completions(jsonb)'::regprocedure, 'EXECUTE');
    IF v_role IS NULL THEN
        RETURN false;
    END IF;
    DELETE FROM @extschema@.aggregator_console_sessions AS s
    USING (
        SELECT old.id
        FROM @extschema@.aggregator_console_sessions AS old
        WHERE old.user_id = p_user_id
        -- Those that are over go first.
        ORDER BY
            coalesce(old.expires_at, old.code_expires_at) > clock_timestamp() AND old.revoked_at IS NULL DESC,
            old.created_at DESC
        OFFSET p_most - 1
    ) AS old
    WHERE s.id = old.id;
    INSERT INTO @extschema@.aggregator_console_sessions
        (user_id, role, role_oid, login_oid, is_anonymous, code_hash, code_expires_at)
    VALUES (p_user_id, v_role, p_role, p_login, p_is_anonymous, p_code_hash, clock_timestamp() + p_lasts);
    RETURN true;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_console_sessions IS 'Who has signed in to the console. Made by console_url(). Users see their own, administrators all.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.id IS 'Id of the session.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.user_id IS 'Who has signed in.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.role IS 'The role as which the session acts: the one in effect where console_url() was called.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.role_oid IS 'Its oid.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.login_oid IS 'The role that had logged in to the database there: the session lasts for as long as it can log in and become the other.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.is_anonymous IS 'Whether the claims of whoever called console_url() said is_anonymous.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.code_hash IS 'SHA-256 of the code in the link, which is stored nowhere.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.code_expires_at IS 'From then on the link signs nobody in.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.token_hash IS 'SHA-256 of the token that the code was exchanged for; NULL: it was not.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.expires_at IS 'From then on the token passes nothing; NULL: there is none yet.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.revoked_at IS 'When the session was ended, by its user or an administrator; NULL: it was not.';
COMMENT ON COLUMN @extschema@.aggregator_console_sessions.created_at IS 'When console_url() was called.';
COMMENT ON FUNCTION @extschema@.aggregator_sweep_console_sessions() IS 'Deletes sessions of the console that have been over for a day. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_store_console_code(text, oid, oid, boolean, bytea, interval, bigint) IS
    'Stores the code of a link to the console; false: the role may not chat. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
