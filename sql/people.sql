-- People and their roles: whose claims are believed, what a provider's row may tell, the end of a grant, and
-- how a user is forgotten.

SET LOCAL search_path = pg_catalog, pg_temp;

-- USAGE on this type, granted to a role itself, marks the logins whose JWT claims are believed, where
-- aggregator.trusted_authenticators names none. CREATE EXTENSION marks the role authenticator, if it is there: one that is made later, by whoever may make roles, is a stranger.
CREATE DOMAIN @extschema@.aggregator_authenticator AS boolean;
REVOKE ALL ON TYPE @extschema@.aggregator_authenticator FROM PUBLIC;

COMMENT ON DOMAIN @extschema@.aggregator_authenticator IS
    'USAGE on this type marks the logins whose request.jwt.claims are believed, where aggregator.trusted_authenticators names none.';

-- Takes from a role what a kind of role is granted, and leaves it what its other kinds are. Runs as the owner;
-- aggregator_revoke() in front of it decides who may ask. False: it was not of this kind.
CREATE FUNCTION @extschema@.aggregator_revoke_grants(p_role regrole, p_kind text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kinds text[] := ARRAY(
        SELECT granted.kind FROM @extschema@.aggregator_granted_roles() AS granted WHERE granted.role = p_role);
    v_right record;
BEGIN
    IF p_kind NOT IN ('user', 'reader', 'admin') OR p_kind IS NULL THEN
        RAISE EXCEPTION 'kind must be ''user'', ''reader'' or ''admin''' USING ERRCODE = 'PT400';
    ELSIF p_kind = 'user' AND 'admin' = ANY (v_kinds) THEN
        RAISE EXCEPTION 'role % is an administrator, who is a user as well', p_role
            USING ERRCODE = 'PT400', HINT = format('SELECT aggregator_revoke(%L, ''admin'');', p_role);
    END IF;
    FOR v_right IN SELECT * FROM @extschema@.aggregator_privileges(p_kind) LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s CASCADE', v_right.privileges, v_right.identity, p_role);
    END LOOP;
    FOR v_right IN
        SELECT allowed.*
        FROM unnest(v_kinds) AS other (kind)
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(other.kind) AS allowed
        WHERE other.kind <> p_kind
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_right.privileges, v_right.identity, p_role);
    END LOOP;
    RETURN p_kind = ANY (v_kinds);
END
$$;

-- Everybody may read a provider's row: a header that may carry a secret has no place in it. From a row that a
-- restore brings it is taken away, so that the others come through.
CREATE FUNCTION @extschema@.aggregator_before_headers() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_is_restored boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.headers IS NOT DISTINCT FROM OLD.headers THEN
            RETURN NEW;
        END IF;
        v_is_restored := NEW.created_at <> OLD.created_at;
    ELSE
        v_is_restored := NEW.created_at <> now();
    END IF;
    NEW.headers := @extschema@.aggregator_checked_headers(NEW.name, NEW.headers, v_is_restored);
    RETURN NEW;
END
$$;

CREATE TRIGGER before_provider_headers BEFORE INSERT OR UPDATE ON @extschema@.api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_before_headers();

-- A user who has just saved a key, and does not end the transaction, holds the provider; one who locks a key
-- of their own holds what a provider's end takes with it. Neither is waited for without end.
CREATE FUNCTION @extschema@.aggregator_around_providers() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- What comes from the hub takes its keys along by itself.
    IF TG_LEVEL = 'ROW' THEN
        IF NOT @extschema@.aggregator_is_applying() THEN
            PERFORM @extschema@.aggregator_lock_keys(OLD.id);
        END IF;
        RETURN OLD;
    END IF;
    PERFORM @extschema@.aggregator_bound_locks(TG_WHEN = 'BEFORE');
    RETURN NULL;
END
$$;

CREATE TRIGGER before_providers BEFORE DELETE OR UPDATE OF id, name ON @extschema@.api_providers
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_around_providers();
CREATE TRIGGER before_provider_goes BEFORE DELETE ON @extschema@.api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_around_providers();
CREATE TRIGGER after_providers AFTER DELETE OR UPDATE OF id, name ON @extschema@.api_providers
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_around_providers();

-- The transactions of this database that are open, also those that have only read so far.
CREATE FUNCTION @extschema@.aggregator_open_transactions() RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(l.virtualxid), '{}')
    FROM pg_locks AS l
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'virtualxid'
      AND l.granted
      AND l.mode = 'ExclusiveLock'
      AND l.pid <> pg_backend_pid()
      AND a.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
$$;

-- Who was forgotten lately, by a hash that says nothing: what was on its way belongs to nobody any more. Kept
-- for as long as the longest call.
CREATE TABLE @extschema@.aggregator_forgotten (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_hash    bytea       NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Transactions that had begun before, and may still write.
    older        text[]      NOT NULL,
    is_swept     boolean     NOT NULL DEFAULT false
);
ALTER TABLE @extschema@.aggregator_forgotten ENABLE ROW LEVEL SECURITY;

COMMENT ON TABLE @extschema@.aggregator_forgotten IS 'Users who were forgotten in the last day, by hashes of their ids. Internal.';
COMMENT ON COLUMN @extschema@.aggregator_forgotten.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_forgotten.user_hash IS 'SHA-256 of the user id.';
COMMENT ON COLUMN @extschema@.aggregator_forgotten.forgotten_at IS 'Calls that began until then are the forgotten user''s.';
COMMENT ON COLUMN @extschema@.aggregator_forgotten.older IS 'Virtual ids of the transactions that were open then.';
COMMENT ON COLUMN @extschema@.aggregator_forgotten.is_swept IS 'Whether every transaction that began before has ended, and what it wrote is gone.';

-- What planners keep of a column holds some of its values. Nobody looks for rows by these, which hold prompts,
-- answers and settings. In tables that may be empty once a user is forgotten, not the user either: ANALYZE leaves
-- what is known of a table that is empty.
ALTER TABLE @extschema@.aggregator_jobs
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN request SET STATISTICS 0,
    ALTER COLUMN response SET STATISTICS 0,
    ALTER COLUMN error SET STATISTICS 0,
    ALTER COLUMN idempotency_key SET STATISTICS 0;
ALTER TABLE @extschema@.user_api_providers
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN api_key_encrypted SET STATISTICS 0,
    ALTER COLUMN key_hint SET STATISTICS 0,
    ALTER COLUMN settings SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_budgets ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_rate_limits ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_budget_warnings ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_cooling ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_key_checks ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_quarantine ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_user_models ALTER COLUMN user_id SET STATISTICS 0;

-- Has planners learn anew those columns of which they remember such a user. Of an empty table they would learn nothing,
-- and remember the rows that it had: the default partition, from which rows go to those of their months, gets one for it.
CREATE FUNCTION @extschema@.aggregator_forget_statistics(p_hashes bytea[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_default CONSTANT regclass := '@extschema@.aggregator_usage_logs_default';
    v_known   record;
BEGIN
    FOR v_known IN
        SELECT DISTINCT s.schemaname, s.tablename, s.attname
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_class AS c ON c.oid = ours
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.atttypid = 'text'::regtype
        JOIN pg_stats AS s
            ON s.schemaname = c.relnamespace::regnamespace::text
            AND s.tablename = c.relname
            AND s.attname = a.attname
        WHERE EXISTS (
            SELECT FROM unnest(coalesce(s.most_common_vals::text::text[], '{}')
                || coalesce(s.histogram_bounds::text::text[], '{}')) AS kept (value)
            WHERE sha256(convert_to(kept.value, 'UTF8')) = ANY (p_hashes)
        )
    LOOP
        IF format('%I.%I', v_known.schemaname, v_known.tablename)::regclass = c_default THEN
            INSERT INTO @extschema@.aggregator_usage_logs_default (call_id, attempt, created_at, epoch, provider_id, user_id, model_id)
            SELECT gen_random_uuid(), 1, '-infinity', 0, gen_random_uuid(), '', ''
            WHERE NOT EXISTS (SELECT FROM @extschema@.aggregator_usage_logs_default);
        END IF;
        EXECUTE format('ANALYZE %I.%I (%I)', v_known.schemaname, v_known.tablename, v_known.attname);
        DELETE FROM @extschema@.aggregator_usage_logs_default WHERE created_at = '-infinity' AND user_id = '';
    END LOOP;
END
$$;

-- The first half of forgetting a user: what others could still use. Calls in flight end between the halves.
CREATE FUNCTION @extschema@.aggregator_forget_keys(p_user_id text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM @extschema@.user_api_providers WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_gateway_keys WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_console_sessions WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_user_models WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_jobs WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_ai_queue
    WHERE column_id IN (SELECT c.id FROM @extschema@.aggregator_ai_columns AS c WHERE c.user_id = p_user_id);
    DELETE FROM @extschema@.aggregator_ai_columns WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_cache WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_budgets WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_rate_limits WHERE user_id = p_user_id;
END
$$;

-- The second half: what calls leave behind. The usage rows stay, under an id that says nothing, and without their
-- tags, which are words of the user's own. Returns how many.
CREATE FUNCTION @extschema@.aggregator_forget_usage(p_user_id text, p_anonymous_id text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_gateway CONSTANT text := @extschema@.aggregator_gateway_name();
    v_hash             bytea := sha256(convert_to(p_user_id, 'UTF8'));
    v_kept             bigint;
BEGIN
    DELETE FROM @extschema@.aggregator_budget_warnings WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_leases WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_cooling WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_key_checks WHERE user_id = p_user_id;
    -- Once more: a list, or an answer, may have come while calls were being ended.
    DELETE FROM @extschema@.aggregator_cache WHERE user_id = p_user_id;
    DELETE FROM @extschema@.aggregator_user_models WHERE user_id = p_user_id;
    -- What was counted before this gateway had a name is taken away under the name that it has.
    IF c_gateway <> ''
        AND EXISTS (SELECT FROM @extschema@.aggregator_usage_hourly AS used WHERE used.user_id = p_user_id AND used.gateway = '')
    THEN
        PERFORM @extschema@.aggregator_rename_rollups(''::text, c_gateway);
    END IF;
    UPDATE @extschema@.aggregator_usage_logs
    SET user_id = p_anonymous_id, tags = NULL
    WHERE user_id = p_user_id AND created_at >= @extschema@.aggregator_archived_until();
    GET DIAGNOSTICS v_kept = ROW_COUNT;
    IF @extschema@.aggregator_archived_until() > '-infinity' THEN
        v_kept := v_kept + @extschema@.aggregator_forget_archived(p_user_id, p_anonymous_id);
    END IF;
    -- What other gateways told of the user goes; they tell it again under an id of their own, once the user is forgotten
    -- there. A server that is alone waits for nobody who has locked the rollups.
    IF EXISTS (SELECT FROM @extschema@.aggregator_usage_hourly AS used
               WHERE used.user_id = p_user_id AND used.gateway NOT IN ('', c_gateway))
        OR EXISTS (SELECT FROM @extschema@.aggregator_usage_labels AS used
                   WHERE used.user_id = p_user_id AND used.gateway NOT IN ('', c_gateway))
    THEN
        DELETE FROM @extschema@.aggregator_usage_hourly WHERE user_id = p_user_id AND gateway NOT IN ('', c_gateway);
        DELETE FROM @extschema@.aggregator_usage_labels WHERE user_id = p_user_id AND gateway NOT IN ('', c_gateway);
    END IF;
    INSERT INTO @extschema@.aggregator_forgotten (user_hash, older)
    VALUES (v_hash, @extschema@.aggregator_open_transactions());
    -- What is known of rows that were set aside names the user; what is left of them is in the log.
    UPDATE @extschema@.aggregator_quarantine
    SET user_id = p_anonymous_id, settlement = NULL, reason = replace(reason, p_user_id, p_anonymous_id)
    WHERE user_id = p_user_id;
    PERFORM @extschema@.aggregator_forget_statistics(ARRAY[v_hash]);
    RETURN v_kept;
END
$$;

-- What transactions wrote that had begun before a user was forgotten, and ended after: it goes when the last of
-- them has ended. The worker does this from time to time. Whether that is so for every user.
CREATE FUNCTION @extschema@.aggregator_sweep_forgotten() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_open   text[] := @extschema@.aggregator_open_transactions();
    v_hashes bytea[];
BEGIN
    WITH ready AS (
        UPDATE @extschema@.aggregator_forgotten
        SET is_swept = true
        WHERE NOT is_swept
          AND NOT older && v_open
          -- One that is prepared has no such id any more, and nobody knows when it began.
          AND NOT EXISTS (SELECT FROM pg_prepared_xacts AS prepared WHERE prepared.database = current_database())
        RETURNING user_hash, forgotten_at
    ),
    keys AS (
        DELETE FROM @extschema@.user_api_providers AS k
        USING ready
        WHERE sha256(convert_to(k.user_id, 'UTF8')) = ready.user_hash
          AND k.created_at <= ready.forgotten_at
          -- Those of a hub go by its own sweep.
          AND NOT @extschema@.aggregator_follows()
    ),
    gateway_keys AS (
        DELETE FROM @extschema@.aggregator_gateway_keys AS k
        USING ready
        WHERE sha256(convert_to(k.user_id, 'UTF8')) = ready.user_hash
          AND k.created_at <= ready.forgotten_at
          AND NOT @extschema@.aggregator_follows()
    ),
    sessions AS (
        DELETE FROM @extschema@.aggregator_console_sessions AS s
        USING ready
        WHERE sha256(convert_to(s.user_id, 'UTF8')) = ready.user_hash
          AND s.created_at <= ready.forgotten_at
    ),
    jobs AS (
        DELETE FROM @extschema@.aggregator_jobs AS job
        USING ready
        WHERE sha256(convert_to(job.user_id, 'UTF8')) = ready.user_hash
          AND job.created_at <= ready.forgotten_at
    ),
    ai_columns AS (
        DELETE FROM @extschema@.aggregator_ai_columns AS c
        USING ready
        WHERE sha256(convert_to(c.user_id, 'UTF8')) = ready.user_hash
          AND c.created_at <= ready.forgotten_at
    )
    SELECT array_agg(ready.user_hash) INTO v_hashes FROM ready;
    IF v_hashes IS NOT NULL THEN
        PERFORM @extschema@.aggregator_forget_statistics(v_hashes);
        -- What they have queued for columns that were gone.
        DELETE FROM @extschema@.aggregator_ai_queue AS q
        WHERE NOT EXISTS (SELECT FROM @extschema@.aggregator_ai_columns AS c WHERE c.id = q.column_id);
    END IF;
    DELETE FROM @extschema@.aggregator_forgotten WHERE is_swept AND forgotten_at < now() - interval '25 hours';
    RETURN NOT EXISTS (SELECT FROM @extschema@.aggregator_forgotten WHERE NOT is_swept);
END
$$;

COMMENT ON FUNCTION @extschema@.aggregator_revoke_grants(regrole, text) IS 'Takes the grants of a kind of role, and leaves those of its other kinds. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_before_headers() IS 'Refuses headers that may carry a secret; takes them from a restored row. PT400.';
COMMENT ON FUNCTION @extschema@.aggregator_around_providers() IS 'Bounds how long the deletion of a provider waits for locks. PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_open_transactions() IS 'Virtual ids of the open transactions of this database. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_statistics(bytea[]) IS 'Has planners learn again the columns of which they remember these users. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_keys(text) IS 'The first half of forget_user: keys, jobs and rules. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_usage(text, text) IS 'The second half of forget_user: usage, warnings, statistics. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_sweep_forgotten() IS 'Deletes what older transactions wrote of users who were forgotten meanwhile; whether all of those have ended. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
