-- From 0.1.0 to 0.2.0. Order: what is new or changed, comments, and last aggregator_finish_script(),
-- which gives new objects their owner and grants. `make test` compares the outcome with a fresh 0.2.0.

-- Functions of SQL may name what comes later in this script.
SET LOCAL check_function_bodies = off;

CREATE FUNCTION aggregator_is_new(xmin xid) RETURNS boolean
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_is_new_wrapper';

CREATE FUNCTION aggregator_finish_script() RETURNS void
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_finish_script_wrapper';

-- Readers see the usage of all users and what it cost, and neither spend nor change anything: for
-- Metabase, Grafana, and whoever keeps the books.

-- USAGE on this type marks them, as aggregator_admin does administrators.
CREATE DOMAIN aggregator_reader AS boolean;
REVOKE ALL ON TYPE aggregator_reader FROM PUBLIC;

CREATE FUNCTION aggregator_is_reader() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_is_admin() OR has_type_privilege('@extschema@.aggregator_reader', 'USAGE');
END
$$;

COMMENT ON DOMAIN aggregator_reader IS
    'USAGE on this type marks the roles that may see the usage of all users; see aggregator_grant(role, kind).';
COMMENT ON FUNCTION aggregator_is_reader() IS
    'Whether the effective role may see the usage of all users: a superuser, or one that was granted reader or admin.';

-- What a report is about. all_users: a reader asks for nobody in particular. From since on
-- up to days_since it sums up hours; from there on days, where there are days.
CREATE OR REPLACE FUNCTION aggregator_report(
    p_range        text,
    p_provider     text,
    p_user_id      text,
    OUT user_id    text,
    OUT all_users  boolean,
    OUT provider   uuid,
    OUT since      timestamptz,
    OUT days_since timestamptz
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_range interval := CASE p_range
        WHEN 'day' THEN interval '24 hours'
        WHEN 'week' THEN interval '168 hours'
        WHEN 'month' THEN interval '720 hours'
    END;
BEGIN
    IF v_range IS NULL THEN
        RAISE EXCEPTION 'p_range must be ''day'', ''week'' or ''month'', not %', coalesce(quote_literal(p_range), 'NULL')
            USING ERRCODE = 'PT400', HINT = 'They are the last 24 hours, 7 days and 30 days.';
    END IF;
    all_users := p_user_id IS NULL AND @extschema@.aggregator_is_reader();
    IF NOT all_users THEN
        user_id := CASE
            WHEN p_user_id <> '' AND @extschema@.aggregator_is_reader() THEN p_user_id
            ELSE @extschema@.aggregator_acting_user(p_user_id)
        END;
    END IF;
    IF p_provider IS NOT NULL THEN
        provider := @extschema@.aggregator_provider_id(p_provider);
        -- Usage outlives its provider.
        IF provider IS NULL AND p_provider ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            provider := p_provider;
        ELSIF provider IS NULL THEN
            RAISE EXCEPTION 'there is no provider %', quote_literal(p_provider)
                USING ERRCODE = 'PT404', HINT = 'Providers are in api_providers, by name or id.';
        END IF;
    END IF;
    since := date_trunc('hour', now() - v_range, 'UTC');
    days_since := CASE
        WHEN all_users THEN date_trunc('day', since + interval '24 hours' - interval '1 microsecond', 'UTC')
        ELSE 'infinity'
    END;
END
$$;

CREATE OR REPLACE FUNCTION usage_by_user(p_range text DEFAULT 'week', p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL)
RETURNS TABLE (
    user_id           text,
    requests          bigint,
    errors            bigint,
    total_tokens      bigint,
    cost              numeric,
    unpriced_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_report record;
BEGIN
    IF NOT @extschema@.aggregator_is_reader() THEN
        RAISE EXCEPTION 'role ''%'' may not see the usage of every user', current_user
            USING ERRCODE = 'PT403', HINT = 'It takes a role that was granted reader or admin; usage_summary() and the others show one''s own.';
    END IF;
    SELECT * INTO v_report FROM @extschema@.aggregator_report(p_range, p_provider, p_user_id);
    RETURN QUERY
    SELECT sums.user_id,
        sum(sums.requests)::bigint,
        coalesce(sum(sums.requests) FILTER (WHERE sums.status = 'error'), 0)::bigint,
        sum(sums.total_tokens)::bigint,
        @extschema@.aggregator_known_cost(sum(sums.cost), sum(sums.priced), sum(sums.unpriced)),
        sum(sums.unpriced)::bigint
    FROM @extschema@.aggregator_usage_hourly AS sums
    WHERE sums.hour >= v_report.since
      AND (v_report.provider IS NULL OR sums.provider_id = v_report.provider)
      AND (v_report.all_users OR sums.user_id = v_report.user_id)
    GROUP BY sums.user_id
    HAVING sum(sums.requests) > 0
    ORDER BY 5 DESC NULLS LAST, 4 DESC, 2 DESC, 1;
END
$$;

COMMENT ON FUNCTION usage_summary(text, text, text) IS
    'Tokens, USD, requests, errors and milliseconds (average and 95th percentile of the successful ones; the latter from a histogram) of the caller, of p_user_id (readers), or of all users together (readers, p_user_id NULL). p_range: day (24 hours), week (7 days) or month (30 days), whole hours; p_provider: name or id. total_cost is of the priced requests; NULL: none is priced. PT400, PT403, PT404.';
COMMENT ON FUNCTION usage_by_user(text, text, text) IS
    'The same per user, the dearest first. For readers. PT400, PT403, PT404.';

-- Without a key that holds no NULL, a publication of all tables would forbid updates.
ALTER TABLE aggregator_cooling ADD COLUMN id uuid PRIMARY KEY DEFAULT gen_random_uuid();
ALTER TABLE aggregator_budget_warnings ADD COLUMN id uuid PRIMARY KEY DEFAULT gen_random_uuid();
COMMENT ON COLUMN aggregator_cooling.id IS 'Id of the row.';
COMMENT ON COLUMN aggregator_budget_warnings.id IS 'Id of the row.';

-- For Metabase, Grafana and whoever draws their own charts: names instead of ids, one row per fact,
-- under the caller's own rights. Between versions columns are added to them, never changed.

-- Each request.
CREATE VIEW aggregator_usage WITH (security_invoker = true) AS
SELECT log.created_at,
    log.call_id,
    log.attempt,
    log.user_id,
    coalesce(p.name, log.provider_id::text) AS provider_name,
    log.model_id,
    log.served_model,
    log.status,
    log.error_code,
    log.http_status,
    log.prompt_tokens,
    log.completion_tokens,
    log.total_tokens,
    log.cost_estimate AS cost,
    log.cost_source,
    log.latency_ms,
    log.time_to_first_token_ms
FROM aggregator_usage_logs AS log
LEFT JOIN api_providers AS p ON p.id = log.provider_id;

-- Each hour of each user.
CREATE VIEW aggregator_usage_by_hour WITH (security_invoker = true) AS
SELECT used.hour,
    used.user_id,
    coalesce(p.name, used.provider_id::text) AS provider_name,
    used.model_id,
    used.status,
    used.requests,
    used.prompt_tokens,
    used.completion_tokens,
    used.total_tokens,
    aggregator_known_cost(used.cost, used.priced, used.unpriced) AS cost,
    used.unpriced AS unpriced_requests,
    round(used.latency_ms_sum::numeric / nullif(used.timed, 0), 1) AS avg_latency_ms,
    aggregator_percentile(used.latency::bigint[], 0.95) AS p95_latency_ms
FROM aggregator_usage_hourly AS used
LEFT JOIN api_providers AS p ON p.id = used.provider_id;

-- Each day of all users together.
CREATE VIEW aggregator_usage_by_day WITH (security_invoker = true) AS
SELECT used.start AS day,
    coalesce(p.name, used.provider_id::text) AS provider_name,
    used.model_id,
    used.status,
    used.requests,
    used.prompt_tokens,
    used.completion_tokens,
    used.total_tokens,
    aggregator_known_cost(used.cost, used.priced, used.unpriced) AS cost,
    used.unpriced AS unpriced_requests,
    round(used.latency_ms_sum::numeric / nullif(used.timed, 0), 1) AS avg_latency_ms,
    aggregator_percentile(used.latency::bigint[], 0.95) AS p95_latency_ms
FROM aggregator_usage_totals AS used
LEFT JOIN api_providers AS p ON p.id = used.provider_id
WHERE used.grain = 'day';

COMMENT ON VIEW aggregator_usage IS 'Each request that left, for charts: the usage log with the name of the provider. Users see their own rows, readers all.';
COMMENT ON VIEW aggregator_usage_by_hour IS 'Usage per hour (UTC), user, provider, model and status, for charts. Users see their own rows, readers all.';
COMMENT ON VIEW aggregator_usage_by_day IS 'Usage of all users together per day (UTC), provider, model and status, for charts. For readers.';

COMMENT ON COLUMN aggregator_usage.created_at IS 'When it began.';
COMMENT ON COLUMN aggregator_usage.call_id IS 'The call, or job, that it belongs to.';
COMMENT ON COLUMN aggregator_usage.attempt IS 'Which attempt of the call, from 1.';
COMMENT ON COLUMN aggregator_usage.user_id IS 'Whose.';
COMMENT ON COLUMN aggregator_usage.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN aggregator_usage.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN aggregator_usage.served_model IS 'The model that answered, as the provider says.';
COMMENT ON COLUMN aggregator_usage.status IS 'pending, success, error, cancelled or unknown.';
COMMENT ON COLUMN aggregator_usage.error_code IS 'What went wrong.';
COMMENT ON COLUMN aggregator_usage.http_status IS 'What the provider answered.';
COMMENT ON COLUMN aggregator_usage.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN aggregator_usage.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN aggregator_usage.total_tokens IS 'Both together.';
COMMENT ON COLUMN aggregator_usage.cost IS 'USD; NULL: unknown.';
COMMENT ON COLUMN aggregator_usage.cost_source IS 'upstream, computed, incomplete or unpriced.';
COMMENT ON COLUMN aggregator_usage.latency_ms IS 'Milliseconds until the whole answer was there.';
COMMENT ON COLUMN aggregator_usage.time_to_first_token_ms IS 'Milliseconds until the first token of a stream was there.';

COMMENT ON COLUMN aggregator_usage_by_hour.hour IS 'Beginning of the hour, in UTC.';
COMMENT ON COLUMN aggregator_usage_by_hour.user_id IS 'Whose.';
COMMENT ON COLUMN aggregator_usage_by_hour.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN aggregator_usage_by_hour.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN aggregator_usage_by_hour.status IS 'success, error, cancelled or unknown.';
COMMENT ON COLUMN aggregator_usage_by_hour.requests IS 'Attempts that left this machine.';
COMMENT ON COLUMN aggregator_usage_by_hour.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN aggregator_usage_by_hour.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN aggregator_usage_by_hour.total_tokens IS 'Both together.';
COMMENT ON COLUMN aggregator_usage_by_hour.cost IS 'USD of the priced requests; NULL: none is priced.';
COMMENT ON COLUMN aggregator_usage_by_hour.unpriced_requests IS 'Requests whose cost is unknown.';
COMMENT ON COLUMN aggregator_usage_by_hour.avg_latency_ms IS 'Average latency in milliseconds.';
COMMENT ON COLUMN aggregator_usage_by_hour.p95_latency_ms IS '95th percentile of the latency in milliseconds, from a histogram whose steps are 1.6 apart.';

COMMENT ON COLUMN aggregator_usage_by_day.day IS 'Beginning of the day, in UTC.';
COMMENT ON COLUMN aggregator_usage_by_day.provider_name IS 'Name of the provider; its id once it is deleted.';
COMMENT ON COLUMN aggregator_usage_by_day.model_id IS 'The model that was asked for.';
COMMENT ON COLUMN aggregator_usage_by_day.status IS 'success, error, cancelled or unknown.';
COMMENT ON COLUMN aggregator_usage_by_day.requests IS 'Attempts that left this machine.';
COMMENT ON COLUMN aggregator_usage_by_day.prompt_tokens IS 'Tokens that went in.';
COMMENT ON COLUMN aggregator_usage_by_day.completion_tokens IS 'Tokens that came out.';
COMMENT ON COLUMN aggregator_usage_by_day.total_tokens IS 'Both together.';
COMMENT ON COLUMN aggregator_usage_by_day.cost IS 'USD of the priced requests; NULL: none is priced.';
COMMENT ON COLUMN aggregator_usage_by_day.unpriced_requests IS 'Requests whose cost is unknown.';
COMMENT ON COLUMN aggregator_usage_by_day.avg_latency_ms IS 'Average latency in milliseconds.';
COMMENT ON COLUMN aggregator_usage_by_day.p95_latency_ms IS '95th percentile of the latency in milliseconds, from a histogram whose steps are 1.6 apart.';

-- Schedules of pg_cron, for databases that have it: what one would write by hand, with the name, the
-- schema and the database filled in, and with a clear word where it cannot work.

-- Refuses whoever may not schedule, and says what is missing where pg_cron is not at hand. p_there: the
-- statement that does the same in the database that has it.
CREATE FUNCTION aggregator_require_cron(p_action text, p_there text) RETURNS void
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
CREATE FUNCTION aggregator_schedule(p_name text, p_schedule text, p_command text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id     bigint;
    v_reason text;
BEGIN
    PERFORM @extschema@.aggregator_require_cron('schedule', format('SELECT cron.schedule_in_database(%L, %L, %L, %L);',
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
CREATE FUNCTION aggregator_unschedule(p_name text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_cron('unschedule', format(
        'SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = %L AND database = %L;', p_name, current_database()));
    PERFORM cron.unschedule(jobid) FROM cron.job WHERE jobname = p_name AND database = current_database();
    RETURN FOUND;
END
$$;

CREATE FUNCTION schedule_model_sync(p_schedule text DEFAULT '0 * * * *') RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_schedule('aggregator: sync models', p_schedule, $command$SELECT * FROM @extschema@.sync_models()$command$);
END
$$;

CREATE FUNCTION unschedule_model_sync() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_unschedule('aggregator: sync models');
END
$$;

CREATE FUNCTION schedule_usage_maintenance(p_schedule text DEFAULT '5 0 * * *') RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_schedule('aggregator: maintain usage', p_schedule, $command$SELECT * FROM @extschema@.maintain_usage()$command$);
END
$$;

CREATE FUNCTION unschedule_usage_maintenance() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_unschedule('aggregator: maintain usage');
END
$$;

COMMENT ON FUNCTION schedule_model_sync(text) IS
    'Has pg_cron run sync_models() as the caller, every hour unless p_schedule (cron''s five fields, in the time zone of pg_cron: UTC) says otherwise; a second call changes the schedule. Returns pg_cron''s job id. Administrators. PT400: no schedule; PT403; PT503: pg_cron is not here, and what to do.';
COMMENT ON FUNCTION unschedule_model_sync() IS 'Ends the schedule of schedule_model_sync(); false if there was none. Administrators. PT403, PT503.';
COMMENT ON FUNCTION schedule_usage_maintenance(text) IS
    'Has pg_cron run maintain_usage() as the caller, each night unless p_schedule says otherwise; for databases whose worker is not always there. As schedule_model_sync.';
COMMENT ON FUNCTION unschedule_usage_maintenance() IS 'Ends the schedule of schedule_usage_maintenance(); false if there was none. Administrators. PT403, PT503.';
COMMENT ON FUNCTION aggregator_require_cron(text, text) IS 'Raises PT403 or PT503 where the caller cannot schedule with pg_cron. Internal.';
COMMENT ON FUNCTION aggregator_schedule(text, text, text) IS 'Makes or changes a schedule of pg_cron. PT400, PT403, PT503. Internal.';
COMMENT ON FUNCTION aggregator_unschedule(text) IS 'Ends the schedules of a name; false if there was none. Internal.';

DROP POLICY active ON api_providers;
DROP POLICY admin ON api_providers;
DROP POLICY own ON user_api_providers;
DROP POLICY admin ON user_api_providers;
DROP POLICY catalogue ON aggregator_models;
DROP POLICY admin ON aggregator_models;
DROP POLICY catalogue ON aggregator_model_prices;
DROP POLICY own ON aggregator_usage_logs;
DROP POLICY admin ON aggregator_usage_logs;
DROP POLICY own ON aggregator_jobs;
DROP POLICY admin ON aggregator_jobs;
DROP POLICY own ON aggregator_cooling;
DROP POLICY admin ON aggregator_cooling;
DROP POLICY own ON aggregator_budgets;
DROP POLICY admin ON aggregator_budgets;
DROP POLICY own ON aggregator_rate_limits;
DROP POLICY admin ON aggregator_rate_limits;
DROP POLICY own ON aggregator_budget_warnings;
DROP POLICY admin ON aggregator_budget_warnings;
DROP POLICY own ON aggregator_usage_hourly;
DROP POLICY admin ON aggregator_usage_hourly;
DROP POLICY admin ON aggregator_usage_totals;

-- Policies decide rows; without a grant on the table none is seen. What no policy allows (a
-- tenant's INSERT of a key, say) stays forbidden even to those whom a stray grant lets in. One
-- policy per table and action: of several, PostgreSQL would weigh each for every row.
CREATE POLICY seen ON api_providers FOR SELECT
    USING (is_active OR (SELECT aggregator_is_reader()));

CREATE POLICY seen ON user_api_providers FOR SELECT
    -- Administrators see whose keys there are; a platform key nobody reads.
    USING (user_id = (SELECT aggregator_user_id()) OR (user_id IS NOT NULL AND (SELECT aggregator_is_admin())));

CREATE POLICY seen ON aggregator_models FOR SELECT
    USING (true);

-- Written as the owner only, by what watches the catalogue.
CREATE POLICY seen ON aggregator_model_prices FOR SELECT
    USING (true);

CREATE POLICY seen ON aggregator_usage_logs FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_reader()));

CREATE POLICY seen ON aggregator_jobs FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_admin()));

-- That a provider cannot be reached is nobody's secret.
CREATE POLICY seen ON aggregator_cooling FOR SELECT
    USING (user_provider_id IS NULL OR user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_admin()));

-- A rule that is about oneself, or about each user. What all together may spend is told to nobody
-- but readers.
CREATE POLICY seen ON aggregator_budgets FOR SELECT
    USING (each_user OR user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_reader()));
CREATE POLICY seen ON aggregator_rate_limits FOR SELECT
    USING (each_user OR user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_reader()));
CREATE POLICY seen ON aggregator_budget_warnings FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_reader()));

CREATE POLICY seen ON aggregator_usage_hourly FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()) OR (SELECT aggregator_is_reader()));
CREATE POLICY seen ON aggregator_usage_totals FOR SELECT
    USING ((SELECT aggregator_is_reader()));

-- What administrators write by plain statements.
DO $$
DECLARE
    v_table regclass;
BEGIN
    FOREACH v_table IN ARRAY
        '{api_providers,aggregator_models,aggregator_budgets,aggregator_rate_limits}'::regclass[]
    LOOP
        EXECUTE format('CREATE POLICY admin_insert ON %s FOR INSERT WITH CHECK ((SELECT aggregator_is_admin()))', v_table);
        EXECUTE format('CREATE POLICY admin_update ON %s FOR UPDATE USING ((SELECT aggregator_is_admin()))
            WITH CHECK ((SELECT aggregator_is_admin()))', v_table);
        EXECUTE format('CREATE POLICY admin_delete ON %s FOR DELETE USING ((SELECT aggregator_is_admin()))', v_table);
    END LOOP;
END
$$;

-- What a kind of role is granted: user, reader and admin by aggregator_grant(), anon and public by the
-- extension itself. identity and privileges are ready for GRANT.
CREATE FUNCTION aggregator_privileges(
    p_kind         text,
    OUT class      regclass,
    OUT object     oid,
    OUT identity   text,
    OUT privileges text
) RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_lists CONSTANT text[] := CASE p_kind
        WHEN 'user' THEN '{all,user}'
        WHEN 'reader' THEN '{all,reader}'
        WHEN 'admin' THEN '{all,user,admin}'
        ELSE ARRAY[p_kind]
    END;
BEGIN
    RETURN QUERY
    SELECT 'pg_class'::regclass, named.relation::oid, 'TABLE ' || named.relation, listed.privileges
    FROM (VALUES
        ('anon', 'SELECT', ARRAY['api_providers']),
        -- Of which row-level security shows each what is theirs.
        ('all', 'SELECT', ARRAY[
            'api_providers',
            'aggregator_models',
            'aggregator_model_prices',
            'aggregator_usage_logs',
            'aggregator_usage_hourly',
            'aggregator_usage_totals',
            'aggregator_usage_sums',
            'aggregator_usage',
            'aggregator_usage_by_hour',
            'aggregator_usage_by_day',
            'aggregator_cooling',
            'aggregator_provider_health',
            'aggregator_budgets',
            'aggregator_rate_limits',
            'aggregator_budget_warnings',
            'aggregator_budget_status'
        ]),
        -- What aggregator_provider_health asks of keys; row-level security shows a reader none.
        ('reader', 'SELECT (id, updated_at)', ARRAY['user_api_providers']),
        ('user', 'SELECT', ARRAY['user_api_providers', 'aggregator_jobs']),
        -- By this aggregator_granted_roles() knows for whom aggregator_grant() was called.
        ('user', 'UPDATE (is_active, priority, settings)', ARRAY['user_api_providers']),
        ('admin', 'INSERT, UPDATE, DELETE', ARRAY[
            'api_providers',
            'aggregator_models',
            'aggregator_budgets',
            'aggregator_rate_limits'
        ])
    ) AS listed (list, privileges, names)
    CROSS JOIN LATERAL unnest(listed.names) AS name
    CROSS JOIN LATERAL (SELECT ('@extschema@.' || name)::regclass AS relation) AS named
    WHERE listed.list = ANY (c_lists);

    RETURN QUERY
    SELECT 'pg_proc'::regclass, named.function::oid, 'FUNCTION ' || named.function, 'EXECUTE'
    FROM (VALUES
        -- Who somebody is, everybody may ask; policies need the answer.
        ('public', ARRAY[
            'aggregator_user_id()',
            'aggregator_is_admin()',
            'aggregator_is_reader()'
        ]),
        ('all', ARRAY[
            'usage_summary(text, text, text)',
            'usage_over_time(text, text, text, text)',
            'usage_by_model(text, text, text)',
            'usage_by_status(text, text, text)',
            'usage_dashboard(text, text, text)',
            -- What those and the views call under the caller's rights.
            'aggregator_acting_user(text)',
            'aggregator_provider_id(text)',
            'aggregator_period_start(text, timestamptz)',
            'aggregator_period_end(text, timestamptz)',
            'aggregator_is_model(text, text)',
            'aggregator_spent(text, uuid, text, timestamptz)',
            'aggregator_counted_users(@extschema@.aggregator_budgets, timestamptz)',
            'aggregator_report(text, text, text)',
            'aggregator_known_cost(numeric, numeric, numeric)',
            'aggregator_counted(@extschema@.aggregator_usage_logs)',
            'aggregator_latency_bounds()',
            'aggregator_add_histograms(integer[], integer[])',
            'aggregator_sum_histograms(integer[])',
            'aggregator_percentile(bigint[], double precision)',
            'aggregator_html(text)',
            'aggregator_short_number(numeric)',
            'aggregator_short_usd(numeric)',
            'aggregator_short_latency(numeric)',
            'aggregator_figure(numeric, text)',
            'aggregator_axis_end(numeric)',
            'aggregator_chart(text, text, text)',
            'aggregator_table_row(text, text, numeric, text, text[])',
            'aggregator_models_table(text, text, text)',
            'aggregator_statuses_table(text, text, text)',
            'aggregator_dashboard_page(text, text, text)',
            'aggregator_dashboard_style()'
        ]),
        ('reader', ARRAY['usage_by_user(text, text, text)']),
        ('user', ARRAY[
            'get_user_available_models(text)',
            'get_model_provider_config(text, text)',
            'save_provider_key(text, text, text, boolean)',
            'validate_provider_key(text, text)',
            'remove_provider_key(text, text)',
            'chat_complete(text, jsonb, jsonb, text, text)',
            'chat(text, text, jsonb)',
            'chat_completions(jsonb)',
            'chat_stream(text, jsonb, jsonb, text, text)',
            'chat_many(jsonb, jsonb, integer)',
            'chat_submit(text, jsonb, jsonb, text, text, timestamptz, text)',
            'chat_result(uuid)',
            'chat_wait(uuid, integer)',
            'chat_cancel(uuid)',
            'calculate_cost(text, jsonb, text, timestamptz)',
            'quote_cost(text, jsonb, integer, text)',
            'calculate_provider_costs(text, uuid, timestamptz, timestamptz)',
            -- What the functions above call under the caller's rights.
            'aggregator_spendable_providers(text)',
            'aggregator_usage(jsonb)',
            'aggregator_find_model(text, text)',
            'aggregator_price_list(uuid, text, timestamptz)',
            'aggregator_prompt_size(jsonb)',
            'aggregator_cost_bound(jsonb, bigint, bigint)',
            'aggregator_await_job(uuid, integer)',
            'aggregator_job_response(@extschema@.aggregator_jobs)',
            'aggregator_prices_at(jsonb, bigint, timestamptz)',
            'aggregator_cost(jsonb, jsonb, timestamptz)',
            'aggregator_settled_cost(jsonb, jsonb, numeric, boolean, timestamptz, boolean)'
        ]),
        ('admin', ARRAY[
            'usage_by_user(text, text, text)',
            'aggregator_grant(regrole, text)',
            'aggregator_is_pricing(jsonb)',
            'aggregator_status()',
            'aggregator_check_provider_urls(text, text, text)',
            'aggregator_require_admin(text)',
            'aggregator_rule_provider(text)',
            'set_budget(numeric, bigint, bigint, text, text, boolean, text, text, text)',
            'remove_budget(uuid)',
            'set_rate_limit(bigint, bigint, text, boolean, text, text)',
            'remove_rate_limit(uuid)',
            'save_platform_key(text, text)',
            'remove_platform_key(text)',
            'sync_models(text)',
            'set_model_price(text, jsonb, text)',
            'recost_usage(timestamptz, timestamptz)',
            'aggregator_pricing_problem(jsonb)',
            'aggregator_note_prices(uuid[])',
            'forget_user(text)',
            'maintain_usage()',
            'schedule_model_sync(text)',
            'unschedule_model_sync()',
            'schedule_usage_maintenance(text)',
            'unschedule_usage_maintenance()',
            'aggregator_require_cron(text, text)',
            'aggregator_schedule(text, text, text)',
            'aggregator_unschedule(text)'
        ])
    ) AS listed (list, names)
    CROSS JOIN LATERAL unnest(listed.names) AS name
    CROSS JOIN LATERAL (SELECT ('@extschema@.' || name)::regprocedure AS function) AS named
    WHERE listed.list = ANY (c_lists);

    RETURN QUERY
    SELECT 'pg_type'::regclass, t.oid, 'TYPE ' || t.oid::regtype, 'USAGE'
    FROM pg_type AS t
    JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'aggregator'
    WHERE (p_kind, t.typname::text) IN (
        ('admin', 'aggregator_admin'),
        ('reader', 'aggregator_reader'),
        -- The type of pages, if it is ours: others may have functions that return one.
        ('public', 'text/html')
    );
END
$$;

-- Grants to a kind of role. Runs as the owner; aggregator_grant() in front of it decides who may ask.
CREATE OR REPLACE FUNCTION aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_granted record;
BEGIN
    IF p_kind NOT IN ('user', 'reader', 'admin') OR p_kind IS NULL THEN
        RAISE EXCEPTION 'kind must be ''user'', ''reader'' or ''admin''' USING ERRCODE = 'PT400';
    END IF;
    FOR v_granted IN SELECT * FROM @extschema@.aggregator_privileges(p_kind) LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_granted.privileges, v_granted.identity, p_role);
    END LOOP;
END
$$;

-- The roles that have such grants. Known by marks that no sweeping grant makes: USAGE on a type, and
-- a grant on columns. So they are dumped and restored, and go with the role.
CREATE FUNCTION aggregator_granted_roles(OUT role regrole, OUT kind text) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH marks AS (
        SELECT acl.grantee, substring(t.typname FROM 'aggregator_(.*)') AS kind
        FROM pg_type AS t CROSS JOIN LATERAL aclexplode(t.typacl) AS acl
        WHERE t.oid IN ('@extschema@.aggregator_admin'::regtype, '@extschema@.aggregator_reader'::regtype)
          AND acl.grantee NOT IN (0, t.typowner)
        UNION
        SELECT acl.grantee, 'user'
        FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS acl
        WHERE a.attrelid = '@extschema@.user_api_providers'::regclass
          AND a.attname = 'priority'
          AND acl.privilege_type = 'UPDATE'
          AND acl.grantee <> 0
    )
    SELECT marks.grantee::regrole, marks.kind
    FROM marks
    -- An administrator is a user as well.
    WHERE marks.kind <> 'user'
       OR NOT EXISTS (SELECT FROM marks AS higher WHERE higher.grantee = marks.grantee AND higher.kind = 'admin')
$$;

-- The roles that CREATE EXTENSION grants to, where they exist: those of Supabase and PostgREST.
CREATE FUNCTION aggregator_standard_roles(OUT role text, OUT kind text) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'public', 'public'
    UNION ALL
    SELECT r.rolname::text, standard.kind
    FROM pg_roles AS r
    JOIN (VALUES ('anon', 'anon'), ('authenticated', 'user'), ('service_role', 'admin'), ('postgres', 'admin'))
        AS standard (name, kind) ON standard.name = r.rolname
    WHERE r.rolname <> 'postgres' OR NOT r.rolsuper
$$;

-- What the scripts of the extension end with, by aggregator_finish_script(): CREATE EXTENSION's and
-- those of upgrades. Only objects that the script has made are touched: on others an administrator
-- may have granted more, or less.

CREATE FUNCTION aggregator_new_objects(OUT class regclass, OUT object oid, OUT kind text, OUT identity text) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.classid::regclass, d.objid, named.type, named.identity
    FROM pg_depend AS d
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS named
    WHERE d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
      AND @extschema@.aggregator_is_new(d.xmin)
      -- From PostgreSQL 18 on, types of arrays and of rows are members as well; they go with theirs.
      AND NOT EXISTS (
          SELECT FROM pg_type AS t
          WHERE d.classid = 'pg_type'::regclass
            AND t.oid = d.objid
            AND (t.typcategory = 'A' OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c'))
      )
$$;

-- What is done here is the extension's own doing to pg_dump, which leaves it out: CREATE EXTENSION
-- will do it again.
CREATE FUNCTION aggregator_close_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner   pg_roles := (SELECT r FROM pg_roles AS r WHERE r.oid = (SELECT extowner FROM pg_extension WHERE extname = 'aggregator'));
    v_object  record;
    v_grantee oid;
    v_granted record;
BEGIN
    -- An upgrade may be run by another superuser than the one who made the extension.
    IF v_owner.rolname <> current_user THEN
        FOR v_object IN
            SELECT made.kind, made.identity FROM @extschema@.aggregator_new_objects() AS made
            -- The sequence of a column goes with its table.
            WHERE NOT EXISTS (
                SELECT FROM pg_depend AS d
                WHERE d.classid = made.class AND d.objid = made.object
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
            )
        LOOP
            EXECUTE format('ALTER %s %s OWNER TO %I', v_object.kind, v_object.identity, v_owner.rolname);
        END LOOP;
    END IF;
    -- The default privileges of a database may have handed our objects to anybody.
    FOR v_object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, made.identity, c.relacl AS acl
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_class AS c ON c.oid = made.object
        WHERE made.class = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_proc AS p ON p.oid = made.object
        WHERE made.class = 'pg_proc'::regclass
        UNION ALL
        SELECT 'TYPE', made.identity, coalesce(t.typacl, acldefault('T', t.typowner))
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_type AS t ON t.oid = made.object
        WHERE made.class = 'pg_type'::regclass
    LOOP
        FOR v_grantee IN
            SELECT DISTINCT acl.grantee FROM aclexplode(v_object.acl) AS acl WHERE acl.grantee <> v_owner.oid
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s', v_object.kind, v_object.identity,
                CASE v_grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee::regrole::text END);
        END LOOP;
    END LOOP;
    FOR v_granted IN
        SELECT standard.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_standard_roles() AS standard
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(standard.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_granted.privileges, v_granted.identity,
            CASE v_granted.role WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(v_granted.role) END);
    END LOOP;
END
$$;

-- What is done here carries on what an administrator did, and pg_dump carries it: a restored copy
-- would lack it.
CREATE FUNCTION aggregator_open_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_changed record;
BEGIN
    -- From whom the old objects were taken is not given the new ones.
    FOR v_changed IN
        SELECT standard.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_standard_roles() AS standard
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(standard.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
        WHERE standard.kind IN ('user', 'admin')
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_granted_roles() AS granted
              WHERE granted.role = quote_ident(standard.role)::regrole AND granted.kind = standard.kind
          )
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %I', v_changed.privileges, v_changed.identity, v_changed.role);
    END LOOP;
    FOR v_changed IN
        SELECT granted.role, allowed.privileges, allowed.identity
        FROM @extschema@.aggregator_granted_roles() AS granted
        CROSS JOIN LATERAL @extschema@.aggregator_privileges(granted.kind) AS allowed
        JOIN @extschema@.aggregator_new_objects() AS made USING (class, object)
        WHERE NOT EXISTS (
            SELECT FROM @extschema@.aggregator_standard_roles() AS standard
            WHERE quote_ident(standard.role) = granted.role::text AND standard.kind = granted.kind
        )
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', v_changed.privileges, v_changed.identity, v_changed.role);
    END LOOP;
END
$$;

COMMENT ON FUNCTION aggregator_grant(regrole, text) IS
    'Grants a role what a user of the extension needs, a reader (sees all usage, spends nothing) or an administrator. kind: user, reader or admin. Administrators. PT400, PT403.';
COMMENT ON FUNCTION aggregator_privileges(text) IS 'What a kind of role is granted: user, reader, admin, anon, public. Internal.';
COMMENT ON FUNCTION aggregator_granted_roles() IS 'The roles that have the grants of a user, a reader or an administrator.';
COMMENT ON FUNCTION aggregator_standard_roles() IS 'The roles that are granted without being asked, where they exist. Internal.';
COMMENT ON FUNCTION aggregator_is_new(xid) IS 'Whether a row with this xmin is of this very transaction. Internal.';
COMMENT ON FUNCTION aggregator_new_objects() IS 'The objects of the extension that this transaction has made. Internal.';
COMMENT ON FUNCTION aggregator_close_new() IS 'Default deny for the objects that this transaction has made, then the grants of a fresh installation. Internal.';
COMMENT ON FUNCTION aggregator_open_new() IS 'Grants the objects that this transaction has made to the roles that have the old ones. Internal.';
COMMENT ON FUNCTION aggregator_finish_script() IS 'The last call of an install or upgrade script: gives new objects their owner and grants. Internal.';

-- A type of pages that was there before the extension is restored before it.
INSERT INTO pg_catalog.pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
SELECT 'pg_extension'::regclass, e.oid, 0, 'pg_type'::regclass, p.prorettype, 0, 'n'
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_proc AS p ON p.oid = 'usage_dashboard(text, text, text)'::regprocedure
WHERE e.extname = 'aggregator'
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend AS d
      WHERE d.classid = 'pg_type'::regclass AND d.objid = p.prorettype AND d.deptype = 'e'
  );

SELECT aggregator_finish_script();
