-- Schedules of pg_cron, for databases that have it: what one would write by hand, with the name, the
-- schema and the database filled in, and with a clear word where it cannot work.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Refuses whoever may not schedule, and says what is missing where pg_cron is not at hand. p_there: the
-- statement that does the same in the database that has it.
CREATE FUNCTION @extschema@.aggregator_require_cron(p_action text, p_there text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_home text;
BEGIN
    PERFORM @extschema@.aggregator_require_admin(p_action);
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        -- Only the one database of this setting can have it. Not everybody may read the setting.
        IF pg_has_role('pg_read_all_settings', 'USAGE') THEN
            v_home := current_setting('cron.database_name', true);
        END IF;
        RAISE EXCEPTION 'pg_cron is not installed in this database'
            USING ERRCODE = 'PT503', HINT = CASE
                WHEN v_home IS NULL THEN
                    'Install pg_cron, add it to shared_preload_libraries, restart the server, and CREATE EXTENSION pg_cron.'
                WHEN v_home = current_database() THEN
                    'A superuser can run: CREATE EXTENSION pg_cron.'
                ELSE format('pg_cron runs from the database %I; there: %s', v_home, p_there)
            END;
    ELSIF NOT has_schema_privilege('cron', 'USAGE') THEN
        RAISE EXCEPTION 'role ''%'' may not use pg_cron', current_user
            USING ERRCODE = 'PT403', HINT = format('A superuser can run: GRANT USAGE ON SCHEMA cron TO %I.', current_user);
    ELSIF NOT (SELECT rolcanlogin FROM pg_roles WHERE rolname = current_user) THEN
        -- pg_cron runs a job as the role that made it.
        RAISE EXCEPTION 'role ''%'' cannot log in, so pg_cron cannot run anything as it', current_user
            USING ERRCODE = 'PT403', HINT = 'Schedule as a role that can log in and was granted admin.';
    END IF;
END
$$;

-- Makes, or changes, the schedule of this name.
CREATE FUNCTION @extschema@.aggregator_schedule(p_name text, p_schedule text, p_command text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id     bigint;
    v_reason text;
BEGIN
    PERFORM @extschema@.aggregator_require_cron('schedule'::text, format('SELECT cron.schedule_in_database(%L, %L, %L, %L);',
        p_name, coalesce(p_schedule, ''), p_command, current_database()));
    IF coalesce(p_schedule, '') = '' THEN
        RAISE EXCEPTION 'p_schedule must not be empty'
            USING ERRCODE = 'PT400', HINT = 'It is cron''s: minute, hour, day of the month, month, day of the week.';
    END IF;
    -- Somebody else's of the same name would run beside it.
    PERFORM cron.unschedule(jobid) FROM cron.job WHERE jobname = p_name AND database = current_database();
    BEGIN
        v_id := cron.schedule(p_name, p_schedule, p_command);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS v_reason = MESSAGE_TEXT;
        RAISE EXCEPTION 'pg_cron refuses the schedule: %', v_reason
            USING ERRCODE = 'PT400', HINT = 'It is cron''s: minute, hour, day of the month, month, day of the week.';
    END;
    RETURN v_id;
END
$$;

-- Ends every schedule of this name for this database that the caller sees.
CREATE FUNCTION @extschema@.aggregator_unschedule(p_name text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_cron('unschedule'::text, format(
        'SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = %L AND database = %L;', p_name, current_database()));
    PERFORM cron.unschedule(jobid) FROM cron.job WHERE jobname = p_name AND database = current_database();
    RETURN FOUND;
END
$$;

CREATE FUNCTION @extschema@.schedule_model_sync(p_schedule text DEFAULT '0 * * * *') RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_schedule('aggregator: sync models'::text, p_schedule,
        $command$SELECT * FROM @extschema@.sync_models(NULL::text)$command$::text);
END
$$;

CREATE FUNCTION @extschema@.unschedule_model_sync() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_unschedule('aggregator: sync models'::text);
END
$$;

CREATE FUNCTION @extschema@.schedule_usage_maintenance(p_schedule text DEFAULT '5 0 * * *') RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_schedule('aggregator: maintain usage'::text, p_schedule,
        $command$SELECT * FROM @extschema@.maintain_usage()$command$::text);
END
$$;

CREATE FUNCTION @extschema@.unschedule_usage_maintenance() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_unschedule('aggregator: maintain usage'::text);
END
$$;

COMMENT ON FUNCTION @extschema@.schedule_model_sync(text) IS
    'Has pg_cron run sync_models() as the caller, every hour unless p_schedule (cron''s five fields, in the time zone of pg_cron: UTC) says otherwise; a second call changes the schedule. Returns pg_cron''s job id. Administrators. PT400: no schedule; PT403; PT503: pg_cron is not here, and what to do.';
COMMENT ON FUNCTION @extschema@.unschedule_model_sync() IS 'Ends the schedule of schedule_model_sync(); false if there was none. Administrators. PT403, PT503.';
COMMENT ON FUNCTION @extschema@.schedule_usage_maintenance(text) IS
    'Has pg_cron run maintain_usage() as the caller, each night unless p_schedule says otherwise; for databases whose worker is not always there. As schedule_model_sync.';
COMMENT ON FUNCTION @extschema@.unschedule_usage_maintenance() IS 'Ends the schedule of schedule_usage_maintenance(); false if there was none. Administrators. PT403, PT503.';
COMMENT ON FUNCTION @extschema@.aggregator_require_cron(text, text) IS 'Raises PT403 or PT503 where the caller cannot schedule with pg_cron. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_schedule(text, text, text) IS 'Makes or changes a schedule of pg_cron. PT400, PT403, PT503. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_unschedule(text) IS 'Ends the schedules of a name; false if there was none. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
