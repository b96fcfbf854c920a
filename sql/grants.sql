-- What a kind of role is granted: user and admin by aggregator_grant(), anon and public by the
-- extension itself. identity and privileges are ready for GRANT.
CREATE FUNCTION aggregator_privileges(
    p_kind text,
    OUT class regclass,
    OUT object oid,
    OUT identity text,
    OUT privileges text
) RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table    text;
    v_function text;
BEGIN
    IF p_kind = 'public' THEN
        -- Who somebody is, everybody may ask; policies need the answer.
        class := 'pg_proc'::regclass;
        privileges := 'EXECUTE';
        FOREACH v_function IN ARRAY ARRAY['aggregator_user_id()', 'aggregator_is_admin()'] LOOP
            object := ('@extschema@.' || v_function)::regprocedure;
            identity := 'FUNCTION ' || object::regprocedure;
            RETURN NEXT;
        END LOOP;
        -- The type of pages, if it is ours: others may have functions that return one.
        RETURN QUERY
        SELECT 'pg_type'::regclass, t.oid, 'TYPE ' || t.oid::regtype, 'USAGE'
        FROM pg_depend AS d JOIN pg_type AS t ON t.oid = d.objid
        WHERE d.classid = 'pg_type'::regclass AND d.deptype = 'e' AND t.typname = 'text/html'
          AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator');
        RETURN;
    END IF;
    class := 'pg_class'::regclass;
    privileges := 'SELECT';
    FOREACH v_table IN ARRAY CASE p_kind WHEN 'anon' THEN ARRAY['api_providers'] ELSE ARRAY[
        'api_providers',
        'user_api_providers',
        'aggregator_models',
        'aggregator_usage_logs',
        'aggregator_jobs',
        'aggregator_cooling',
        'aggregator_provider_health',
        'aggregator_budgets',
        'aggregator_rate_limits',
        'aggregator_budget_warnings',
        'aggregator_budget_status',
        'aggregator_model_prices',
        -- Of the totals, row-level security shows a user none.
        'aggregator_usage_hourly',
        'aggregator_usage_totals',
        'aggregator_usage_sums'
    ] END LOOP
        object := ('@extschema@.' || v_table)::regclass;
        identity := 'TABLE ' || object::regclass;
        RETURN NEXT;
    END LOOP;
    IF p_kind = 'anon' THEN
        RETURN;
    END IF;
    -- By this aggregator_granted_roles() knows for whom aggregator_grant() was called.
    object := '@extschema@.user_api_providers'::regclass;
    identity := 'TABLE ' || object::regclass;
    privileges := 'UPDATE (is_active, priority, settings)';
    RETURN NEXT;
    class := 'pg_proc'::regclass;
    privileges := 'EXECUTE';
    FOREACH v_function IN ARRAY ARRAY[
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
        'usage_summary(text, text, text)',
        'usage_over_time(text, text, text, text)',
        'usage_by_model(text, text, text)',
        'usage_by_status(text, text, text)',
        'usage_dashboard(text, text, text)',
        -- What the functions above call under the caller's rights.
        'aggregator_acting_user(text)',
        'aggregator_spendable_providers(text)',
        'aggregator_provider_id(text)',
        'aggregator_usage(jsonb)',
        'aggregator_period_start(text, timestamptz)',
        'aggregator_period_end(text, timestamptz)',
        'aggregator_is_model(text, text)',
        'aggregator_spent(text, uuid, text, timestamptz)',
        'aggregator_counted_users(@extschema@.aggregator_budgets, timestamptz)',
        'aggregator_find_model(text, text)',
        'aggregator_price_list(uuid, text, timestamptz)',
        'aggregator_prompt_size(jsonb)',
        'aggregator_cost_bound(jsonb, bigint, bigint)',
        'aggregator_await_job(uuid, integer)',
        'aggregator_job_response(@extschema@.aggregator_jobs)',
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
        'aggregator_dashboard_style()',
        'aggregator_prices_at(jsonb, bigint, timestamptz)',
        'aggregator_cost(jsonb, jsonb, timestamptz)',
        'aggregator_settled_cost(jsonb, jsonb, numeric, boolean, timestamptz, boolean)'
    ] LOOP
        object := ('@extschema@.' || v_function)::regprocedure;
        identity := 'FUNCTION ' || object::regprocedure;
        RETURN NEXT;
    END LOOP;
    IF p_kind = 'user' THEN
        RETURN;
    END IF;
    class := 'pg_type'::regclass;
    object := '@extschema@.aggregator_admin'::regtype;
    identity := 'TYPE ' || object::regtype;
    privileges := 'USAGE';
    RETURN NEXT;
    class := 'pg_class'::regclass;
    privileges := 'INSERT, UPDATE, DELETE';
    FOREACH v_table IN ARRAY ARRAY[
        'api_providers',
        'aggregator_models',
        'aggregator_budgets',
        'aggregator_rate_limits'
    ] LOOP
        object := ('@extschema@.' || v_table)::regclass;
        identity := 'TABLE ' || object::regclass;
        RETURN NEXT;
    END LOOP;
    class := 'pg_proc'::regclass;
    privileges := 'EXECUTE';
    FOREACH v_function IN ARRAY ARRAY[
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
        'usage_by_user(text, text, text)',
        'maintain_usage()'
    ] LOOP
        object := ('@extschema@.' || v_function)::regprocedure;
        identity := 'FUNCTION ' || object::regprocedure;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Grants to a kind of role. Runs as the owner; aggregator_grant() in front of it decides who may ask.
CREATE FUNCTION aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_granted record;
BEGIN
    IF p_kind NOT IN ('user', 'admin') OR p_kind IS NULL THEN
        RAISE EXCEPTION 'kind must be ''user'' or ''admin''' USING ERRCODE = 'PT400';
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
        SELECT acl.grantee, 'admin' AS kind
        FROM pg_type AS t CROSS JOIN LATERAL aclexplode(t.typacl) AS acl
        WHERE t.oid = '@extschema@.aggregator_admin'::regtype AND acl.grantee <> t.typowner
        UNION ALL
        SELECT acl.grantee, 'user'
        FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS acl
        WHERE a.attrelid = '@extschema@.user_api_providers'::regclass
          AND a.attname = 'priority'
          AND acl.privilege_type = 'UPDATE'
    )
    SELECT marks.grantee::regrole, min(marks.kind)
    FROM marks
    WHERE marks.grantee <> 0
    GROUP BY marks.grantee
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
