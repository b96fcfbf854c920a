-- Rows of the ledger that cannot be settled, whatever the reason: they are set aside with what is known of
-- them, for administrators to see, and the worker goes on.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_quarantine (
    call_id    uuid        NOT NULL,
    attempt    smallint    NOT NULL,
    created_at timestamptz NOT NULL,
    user_id    text        NOT NULL,
    reason     text        NOT NULL,
    tries      integer     NOT NULL,
    settlement text,
    noted_at   timestamptz NOT NULL DEFAULT now(),
    retry_at   timestamptz,
    PRIMARY KEY (call_id, attempt, created_at)
);

SELECT pg_extension_config_dump('@extschema@.aggregator_quarantine', '');

-- Sets a row aside, or says that it was tried again in vain. What is known of a user who was forgotten meanwhile
-- is not kept: the log has the row under an id that says nothing.
CREATE FUNCTION @extschema@.aggregator_set_aside(
    p_call_id    uuid,
    p_attempt    smallint,
    p_created_at timestamptz,
    p_user_id    text,
    p_reason     text,
    p_tries      integer,
    p_settlement text
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_user_id    text := p_user_id;
    v_reason     text := p_reason;
    v_settlement text := p_settlement;
BEGIN
    IF EXISTS (
        SELECT FROM @extschema@.aggregator_forgotten AS gone
        WHERE gone.user_hash = sha256(convert_to(p_user_id, 'UTF8')) AND gone.forgotten_at >= p_created_at)
    THEN
        SELECT log.user_id INTO v_user_id
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.call_id = p_call_id AND log.attempt = p_attempt AND log.created_at = p_created_at;
        v_user_id := coalesce(v_user_id, 'forgotten');
        v_reason := replace(p_reason, p_user_id, v_user_id);
        v_settlement := NULL;
    END IF;
    INSERT INTO @extschema@.aggregator_quarantine AS kept
        (call_id, attempt, created_at, user_id, reason, tries, settlement)
    VALUES (p_call_id, p_attempt, p_created_at, v_user_id, left(v_reason, 1000), p_tries, v_settlement)
    ON CONFLICT (call_id, attempt, created_at) DO UPDATE
    SET reason = excluded.reason,
        user_id = excluded.user_id,
        tries = least(kept.tries, 2000000000) + excluded.tries,
        settlement = coalesce(excluded.settlement, kept.settlement),
        noted_at = now(),
        retry_at = NULL;
END
$$;

-- What a dead life of the worker left pending becomes unknown: whether it was answered, and paid, nobody
-- knows. All rows at once, or, if that fails for any of them, each by itself; p_epoch is the living life.
-- A database in which no worker ever ran may hold pending rows of a dump.
CREATE FUNCTION @extschema@.aggregator_close_orphans(p_epoch bigint, OUT closed bigint, OUT set_aside bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_since timestamptz;
    v_log   record;
BEGIN
    closed := 0;
    set_aside := 0;
    SELECT min(CASE
        -- Before that no worker ran, and what is left of it would not fit the type.
        WHEN e.low_water > '1970-01-01 UTC'::timestamptz THEN e.low_water - interval '10 minutes'
        ELSE '-infinity'::timestamptz
    END)
    INTO v_since
    FROM @extschema@.aggregator_worker_epochs AS e
    WHERE e.ended_at IS NULL AND e.epoch <> p_epoch;
    IF v_since IS NULL THEN
        IF EXISTS (SELECT FROM @extschema@.aggregator_worker_epochs AS e WHERE e.epoch <> p_epoch) THEN
            RETURN;
        END IF;
        v_since := '-infinity';
    END IF;
    BEGIN
        UPDATE @extschema@.aggregator_usage_logs AS log
        SET status = 'unknown', cost_source = 'incomplete'
        WHERE log.status = 'pending'
          AND log.epoch <> p_epoch
          AND log.created_at >= v_since
          -- What is with Citus is not pending.
          AND log.created_at >= @extschema@.aggregator_archived_until()
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_quarantine AS kept
              WHERE kept.call_id = log.call_id AND kept.attempt = log.attempt AND kept.created_at = log.created_at
          );
        GET DIAGNOSTICS closed = ROW_COUNT;
        RETURN;
    EXCEPTION
        -- That passes.
        WHEN lock_not_available OR deadlock_detected OR query_canceled OR insufficient_resources
            OR operator_intervention THEN RAISE;
        WHEN OTHERS THEN NULL;
    END;
    FOR v_log IN
        SELECT log.call_id, log.attempt, log.created_at
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.status = 'pending'
          AND log.epoch <> p_epoch
          AND log.created_at >= v_since
          AND log.created_at >= @extschema@.aggregator_archived_until()
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_quarantine AS kept
              WHERE kept.call_id = log.call_id AND kept.attempt = log.attempt AND kept.created_at = log.created_at
          )
    LOOP
        IF @extschema@.aggregator_close_orphan(v_log.call_id, v_log.attempt, v_log.created_at) THEN
            closed := closed + 1;
        ELSE
            set_aside := set_aside + 1;
        END IF;
    END LOOP;
END
$$;

-- The same for one row; false if it had to be quarantined.
CREATE FUNCTION @extschema@.aggregator_close_orphan(p_call_id uuid, p_attempt smallint, p_created_at timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reason text;
BEGIN
    BEGIN
        UPDATE @extschema@.aggregator_usage_logs AS log
        SET status = 'unknown', cost_source = 'incomplete'
        WHERE log.call_id = p_call_id
          AND log.attempt = p_attempt
          AND log.created_at = p_created_at
          AND log.created_at >= @extschema@.aggregator_archived_until()
          AND log.status = 'pending';
        RETURN true;
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected OR query_canceled OR insufficient_resources
            OR operator_intervention THEN RAISE;
        WHEN OTHERS THEN v_reason := format('%s: %s', SQLSTATE, SQLERRM);
    END;
    PERFORM @extschema@.aggregator_set_aside(log.call_id, log.attempt, log.created_at, log.user_id, v_reason, 1, NULL::text)
    FROM @extschema@.aggregator_usage_logs AS log
    WHERE log.call_id = p_call_id
      AND log.attempt = p_attempt
      AND log.created_at = p_created_at;
    RETURN false;
END
$$;

-- Tries the rows of dead lives again for which somebody has asked; those of the living one it settles itself.
CREATE FUNCTION @extschema@.aggregator_retry_orphans(OUT closed bigint, OUT set_aside bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept @extschema@.aggregator_quarantine;
BEGIN
    closed := 0;
    set_aside := 0;
    FOR v_kept IN
        SELECT kept.*
        FROM @extschema@.aggregator_quarantine AS kept
        WHERE kept.retry_at <= now() AND kept.settlement IS NULL
        LIMIT 1000
    LOOP
        IF @extschema@.aggregator_close_orphan(v_kept.call_id, v_kept.attempt, v_kept.created_at) THEN
            DELETE FROM @extschema@.aggregator_quarantine AS kept
            WHERE kept.call_id = v_kept.call_id
              AND kept.attempt = v_kept.attempt
              AND kept.created_at = v_kept.created_at;
            closed := closed + 1;
        ELSE
            set_aside := set_aside + 1;
        END IF;
    END LOOP;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_quarantine IS 'Rows of the usage log that could not be settled, for administrators: mend the reason, then SELECT aggregator_retry_quarantined().';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.call_id IS 'As in aggregator_usage_logs, where the row is pending still.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.attempt IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.created_at IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.user_id IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.reason IS 'Why the row could not be settled, as PostgreSQL says it.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.tries IS 'How often it was tried.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.settlement IS 'What is known of how the attempt ended, as the worker will write it (JSON). NULL: the worker died before it knew.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.noted_at IS 'When it was tried last.';
COMMENT ON COLUMN @extschema@.aggregator_quarantine.retry_at IS 'From when on it is to be tried again. NULL: when somebody asks for it.';
COMMENT ON FUNCTION @extschema@.aggregator_set_aside(uuid, smallint, timestamptz, text, text, integer, text) IS 'Sets a row of the usage log aside that cannot be settled. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_close_orphans(bigint) IS 'Makes unknown what dead lives of the worker left pending. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_close_orphan(uuid, smallint, timestamptz) IS 'Makes one such row unknown; false if it had to be quarantined. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_retry_orphans() IS 'Tries such rows again that were quarantined, where somebody has asked for it. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
