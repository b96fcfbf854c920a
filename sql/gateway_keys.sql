-- Gateway keys: what programs show over HTTP that hold no user's token. A key spends as its owner, within the
-- owner's budgets and its own, which are rows of the same tables. Of a key only its SHA-256 is stored
-- (core/front/gateway_key.rs). Written as the owner alone, by the functions of src/session/gateway_keys.rs.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_gateway_keys (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         text        NOT NULL CHECK (user_id <> ''),
    -- As which its owner made it. NULL: somebody else did.
    role            text,
    name            text        NOT NULL,
    key_hash        bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    key_hint        text        NOT NULL,
    -- NULL is every model, an empty list is none.
    models          text[],
    tags            text[],
    is_anonymous    boolean     NOT NULL DEFAULT false,
    expires_at      timestamptz,
    -- After a rotation, what it was before, and until when that passes as well.
    old_key_hash    bytea,
    old_valid_until timestamptz,
    revoked_at      timestamptz,
    last_used_at    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    rotated_at      timestamptz,
    CHECK (num_nulls(old_key_hash, old_valid_until) IN (0, 2))
);
CREATE UNIQUE INDEX ON @extschema@.aggregator_gateway_keys (key_hash);
CREATE UNIQUE INDEX ON @extschema@.aggregator_gateway_keys (old_key_hash) WHERE old_key_hash IS NOT NULL;
CREATE INDEX ON @extschema@.aggregator_gateway_keys (user_id);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_gateway_keys', '');

-- Planners need not remember owners, names, hints and tags: ANALYZE leaves what they do where a table is empty
-- once somebody was forgotten.
ALTER TABLE @extschema@.aggregator_gateway_keys
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0,
    ALTER COLUMN name SET STATISTICS 0,
    ALTER COLUMN key_hint SET STATISTICS 0,
    ALTER COLUMN tags SET STATISTICS 0;

-- Stores a key that was just made, and its limits. Its arguments are checked. NULL: the user has p_most keys that
-- are not revoked. Of those that are, the oldest make room.
CREATE FUNCTION @extschema@.aggregator_store_gateway_key(
    p_user_id             text,
    p_role                text,
    p_name                text,
    p_key_hash            bytea,
    p_key_hint            text,
    p_models              text[],
    p_tags                text[],
    p_is_anonymous        boolean,
    p_expires_at          timestamptz,
    p_limit_usd           numeric,
    p_period              text,
    p_requests_per_minute bigint,
    p_tokens_per_minute   bigint,
    p_most                bigint
) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id uuid;
BEGIN
    DELETE FROM @extschema@.aggregator_gateway_keys AS k
    USING (
        SELECT old.id
        FROM @extschema@.aggregator_gateway_keys AS old
        WHERE old.user_id = p_user_id
        ORDER BY old.revoked_at DESC NULLS FIRST, old.id
        OFFSET p_most - 1
    ) AS old
    WHERE k.id = old.id AND k.revoked_at IS NOT NULL;
    IF (SELECT count(*) FROM @extschema@.aggregator_gateway_keys AS k WHERE k.user_id = p_user_id) >= p_most THEN
        RETURN NULL;
    END IF;
    INSERT INTO @extschema@.aggregator_gateway_keys
        (user_id, role, name, key_hash, key_hint, models, tags, is_anonymous, expires_at)
    VALUES (p_user_id, p_role, p_name, p_key_hash, p_key_hint, p_models, p_tags, p_is_anonymous, p_expires_at)
    RETURNING id INTO v_id;
    IF p_limit_usd IS NOT NULL THEN
        INSERT INTO @extschema@.aggregator_budgets (user_id, gateway_key_id, period, limit_usd, action, keys)
        VALUES (p_user_id, v_id, p_period, p_limit_usd, 'block', 'all');
    END IF;
    IF num_nonnulls(p_requests_per_minute, p_tokens_per_minute) > 0 THEN
        INSERT INTO @extschema@.aggregator_rate_limits (user_id, gateway_key_id, requests_per_minute, tokens_per_minute)
        VALUES (p_user_id, v_id, p_requests_per_minute, p_tokens_per_minute);
    END IF;
    RETURN v_id;
END
$$;

-- The limits of a key go with it, and when it is revoked.
CREATE FUNCTION @extschema@.aggregator_after_gateway_key() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM @extschema@.aggregator_budgets WHERE gateway_key_id = OLD.id;
    DELETE FROM @extschema@.aggregator_rate_limits WHERE gateway_key_id = OLD.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER after_gateway_key_goes AFTER DELETE ON @extschema@.aggregator_gateway_keys
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_after_gateway_key();
CREATE TRIGGER after_gateway_key_is_revoked AFTER UPDATE OF revoked_at ON @extschema@.aggregator_gateway_keys
FOR EACH ROW WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION @extschema@.aggregator_after_gateway_key();

-- Whose limits a rule about a key is among: the owner's. NULL for a rule about no key.
CREATE FUNCTION @extschema@.aggregator_gateway_key_owner(p_gateway_key uuid, p_user_id text, p_each_user boolean) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner text;
BEGIN
    IF p_gateway_key IS NULL THEN
        RETURN p_user_id;
    END IF;
    SELECT k.user_id INTO v_owner
    FROM @extschema@.aggregator_gateway_keys AS k
    WHERE k.id = p_gateway_key AND k.revoked_at IS NULL;
    IF v_owner IS NULL THEN
        RAISE EXCEPTION 'no gateway key % is there that is not revoked', p_gateway_key
            USING ERRCODE = 'PT404', HINT = 'SELECT id, name FROM aggregator_gateway_keys WHERE revoked_at IS NULL;';
    ELSIF p_each_user OR p_user_id <> v_owner THEN
        RAISE EXCEPTION 'a rule about a gateway key is about its owner alone'
            USING ERRCODE = 'PT400', HINT = 'Leave out p_user_id and p_each_user.';
    END IF;
    RETURN v_owner;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_gateway_keys IS 'Keys that programs show over HTTP and that spend as their owner. Made by create_gateway_key(). Users see their own, administrators all.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.id IS 'Stays the same when the key is rotated.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.user_id IS 'Its owner, as whom it spends.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.role IS 'The role as which it looks at the console: the one in effect when its owner made it. NULL: it opens no console.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.name IS 'What its owner calls it.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.key_hash IS 'SHA-256 of the key, which is stored nowhere.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.key_hint IS 'Last four characters of the key.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.models IS 'Models that it may call: ids, provider:id, or beginnings with a * at the end. NULL: all; empty: none.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.tags IS 'Tags of every call with it.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.is_anonymous IS 'Its owner had not signed in when it was made, or rotated last: it may what aggregator.anonymous_users says.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.expires_at IS 'From then on it passes nothing; NULL: it does not expire.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.old_key_hash IS 'SHA-256 of what the key was before its last rotation, if that had a grace.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.old_valid_until IS 'Until then the old key passes too.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.revoked_at IS 'When it was revoked; it passes nothing any more. NULL: it is not.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.last_used_at IS 'When a call was made with it last, give or take some seconds.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.created_at IS 'When it was made.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_keys.rotated_at IS 'When it was rotated last.';
COMMENT ON FUNCTION @extschema@.aggregator_store_gateway_key(text, text, text, bytea, text, text[], text[], boolean, timestamptz, numeric, text, bigint, bigint, bigint) IS
    'Stores a gateway key and its limits; NULL: the user has as many as there may be. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_after_gateway_key() IS 'Takes the limits of a gateway key away that is no more, or is revoked.';
COMMENT ON FUNCTION @extschema@.aggregator_gateway_key_owner(uuid, text, boolean) IS 'The owner of a gateway key that a rule is about; without one, the user of the rule. PT400, PT404.';

SET LOCAL search_path = @extschema@, pg_temp;
