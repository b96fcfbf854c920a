SET LOCAL search_path = pg_catalog, pg_temp;

-- What a kind of role is granted: user, reader and admin by aggregator_grant(), anon and public by the
-- extension itself. identity and privileges are ready for GRANT.
CREATE FUNCTION @extschema@.aggregator_privileges(
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
            'aggregator_key_checks',
            'aggregator_usage_hourly',
            'aggregator_usage_totals',
            'aggregator_usage_labels',
            'aggregator_gateway_keys',
            'aggregator_usage_sums',
            'aggregator_usage',
            'aggregator_usage_by_hour',
            'aggregator_usage_by_day',
            'aggregator_cooling',
            'aggregator_hidden_tokens',
            'aggregator_provider_health',
            'aggregator_budgets',
            'aggregator_rate_limits',
            'aggregator_budget_warnings',
            'aggregator_budget_status'
        ]),
        ('reader', 'SELECT', ARRAY['aggregator_gateways', 'aggregator_gateway_messages', 'aggregator_leases']),
        -- What aggregator_provider_health asks of keys; row-level security shows a reader none.
        ('reader', 'SELECT (id, updated_at)', ARRAY['user_api_providers']),
        ('user', 'SELECT', ARRAY[
            'user_api_providers',
            'aggregator_user_models',
            'aggregator_jobs',
            'aggregator_ai_columns',
            'aggregator_ai_queue',
            'ai_column_status'
        ]),
        -- Who has signed in, without the hashes by which they are known.
        ('user', 'SELECT (id, user_id, role, is_anonymous, code_expires_at, expires_at, revoked_at, created_at)', ARRAY[
            'aggregator_console_sessions'
        ]),
        ('user', 'SELECT (user_id, provider_id, model_id, is_shared, size, created_at, expires_at)', ARRAY['aggregator_cache']),
        -- By this aggregator_granted_roles() knows for whom aggregator_grant() was called.
        ('user', 'UPDATE (is_active, priority, settings)', ARRAY['user_api_providers']),
        ('admin', 'SELECT', ARRAY[
            'aggregator_quarantine',
            'aggregator_gateways',
            'aggregator_gateway_messages',
            'aggregator_leases'
        ]),
        ('admin', 'INSERT, UPDATE, DELETE', ARRAY[
            'api_providers',
            'aggregator_models',
            'aggregator_budgets',
            'aggregator_rate_limits',
            'aggregator_gateways'
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
            'aggregator_is_reader()',
            -- So do triggers, for whoever writes configuration.
            'aggregator_is_applying()',
            'aggregator_follows()',
            -- Whoever restores a table with an AI column makes its triggers.
            'aggregator_ai_column_changed()'
        ]),
        ('all', ARRAY[
            'usage_summary(text, text, text)',
            'usage_over_time(text, text, text, text)',
            'usage_by_model(text, text, text)',
            'usage_by_status(text, text, text)',
            'usage_by_key(text, text, text)',
            'usage_by_tag(text, text, text)',
            'usage_cache(text, text, text)',
            'usage_dashboard(text, text, text)',
            -- What those and the views call under the caller's rights.
            'aggregator_acting_user(text)',
            'aggregator_provider_id(text)',
            'aggregator_period_start(text, timestamptz)',
            'aggregator_period_end(text, timestamptz)',
            'aggregator_is_model(text, text)',
            'aggregator_spent(text, uuid, text, timestamptz, text, text, text, text)',
            'aggregator_of_keys(text, numeric, numeric)',
            'aggregator_counted_users(@extschema@.aggregator_budgets, timestamptz)',
            'aggregator_report(text, text, text)',
            'aggregator_report_labels(text, text, text, text)',
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
            'aggregator_count(bigint)',
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
            'check_provider_key(text, text)',
            'sync_own_models(text)',
            'remove_provider_key(text, text)',
            'create_gateway_key(text, text[], timestamptz, numeric, text, bigint, bigint, text[], text)',
            'rotate_gateway_key(uuid, interval)',
            'revoke_gateway_key(uuid)',
            'console_url(text)',
            'revoke_console_sessions(text)',
            'chat_complete(text, jsonb, jsonb, text, text)',
            'chat(text, text, jsonb)',
            'chat_completions(jsonb)',
            'chat_json(text, text, jsonb, jsonb, text, text)',
            'chat_stream(text, jsonb, jsonb, text, text)',
            'chat_many(jsonb, jsonb, integer)',
            'embed(text, text, jsonb, text, text)',
            'embed_many(text[], text, jsonb, text, text)',
            'embed_submit(text[], text, jsonb, text, text, timestamptz, text)',
            'embed_result(uuid)',
            'aggregator_embeddings(jsonb)',
            'chat_submit(text, jsonb, jsonb, text, text, timestamptz, text)',
            'chat_result(uuid)',
            'chat_wait(uuid, integer)',
            'chat_cancel(uuid)',
            'ai_column(regclass, name, text, text, text, jsonb, text, text)',
            'ai_column_pause(regclass, name)',
            'ai_column_resume(regclass, name)',
            'ai_column_retry(regclass, name)',
            'ai_column_drop(regclass, name)',
            'ai_column_drop(uuid)',
            'ai_classify(text, text[], text, jsonb, text, text)',
            'ai_classify_request(text, text[], text, jsonb)',
            'ai_extract(text, jsonb, text, jsonb, text, text)',
            'ai_extract_request(text, jsonb, text, jsonb)',
            'ai_if(text, text, text, jsonb, text, text)',
            'ai_if_request(text, text, text, jsonb)',
            'ai_summarize(text, text, jsonb, text, text)',
            'ai_summarize_request(text, text, jsonb)',
            'ai_summarize_agg(text, text)',
            'calculate_cost(text, jsonb, text, timestamptz)',
            'quote_cost(text, jsonb, integer, text)',
            'calculate_provider_costs(text, uuid, timestamptz, timestamptz)',
            -- What the functions above call under the caller's rights.
            'aggregator_spendable_providers(text)',
            'aggregator_platform_models(text)',
            'aggregator_usage(jsonb)',
            'aggregator_find_model(text, text)',
            'aggregator_route(text, text)',
            'aggregator_price_list(uuid, text, timestamptz)',
            'aggregator_prompt_size(jsonb)',
            'aggregator_cost_bound(jsonb, bigint, bigint)',
            'aggregator_await_job(uuid, integer)',
            'aggregator_job_response(@extschema@.aggregator_jobs)',
            'aggregator_ai_view(oid)',
            'aggregator_ai_place(uuid)',
            'aggregator_ai_base_type(oid)',
            'aggregator_ai_is_key_type(oid)',
            'aggregator_ai_template(oid, text)',
            'aggregator_ai_change(oid, smallint[])',
            'aggregator_ai_views(oid)',
            'aggregator_ai_check_table(regclass, name, text)',
            'aggregator_ai_check_view(oid, regclass, name)',
            'aggregator_ai_check_expression(text)',
            'aggregator_ai_make(uuid, regclass, name, text, text, text)',
            'aggregator_ai_unmake(uuid, oid)',
            'aggregator_ai_inherit(oid, regclass)',
            'aggregator_ai_messages(text, text)',
            'aggregator_ai_object(jsonb)',
            'aggregator_ai_request(text, jsonb, jsonb, jsonb)',
            'aggregator_ai_answer(jsonb, text, text)',
            'aggregator_ai_field(text, jsonb)',
            'aggregator_ai_room(text)',
            'aggregator_ai_fold(jsonb, text, text)',
            'aggregator_ai_folded(jsonb)',
            'aggregator_price_tiers(jsonb, bigint, integer)',
            'aggregator_price_parts(jsonb, jsonb, integer)',
            'aggregator_price_attempt(jsonb, jsonb, text, boolean, integer, boolean)',
            'aggregator_prices_at(jsonb, bigint, timestamptz)',
            'aggregator_cost(jsonb, jsonb, timestamptz)',
            'aggregator_settled_cost(jsonb, jsonb, numeric, boolean, timestamptz, boolean)'
        ]),
        ('admin', ARRAY[
            'usage_by_user(text, text, text)',
            'aggregator_grant(regrole, text)',
            'aggregator_revoke(regrole, text)',
            'aggregator_bound_locks(boolean)',
            'aggregator_lock_keys(uuid)',
            'aggregator_checked_headers(text, jsonb, boolean)',
            'aggregator_check_user_id(text)',
            'aggregator_require_writable(text)',
            'aggregator_is_pricing(jsonb)',
            'aggregator_status()',
            'aggregator_start()',
            'aggregator_retry_quarantined()',
            'aggregator_check_provider_urls(text, text, text)',
            'aggregator_require_admin(text)',
            'aggregator_rule_provider(text)',
            'aggregator_meant(text, uuid)',
            'aggregator_model_problem(text)',
            'aggregator_tag_problem(text)',
            'aggregator_gateway_problem(text)',
            'aggregator_gateway_name()',
            'aggregator_gateway_key_owner(uuid, text, boolean)',
            'set_budget(numeric, bigint, bigint, text, text, boolean, text, text, text, text, uuid, text)',
            'remove_budget(uuid)',
            'add_gateway(text)',
            'remove_gateway(text)',
            'settle_gateway(text)',
            'set_rate_limit(bigint, bigint, text, boolean, text, text, uuid, text)',
            'remove_rate_limit(uuid)',
            'save_platform_key(text, text)',
            'set_platform_models(text, text[])',
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
        ('authenticator', 'aggregator_authenticator'),
        -- The type of pages, if it is ours: others may have functions that return one.
        ('public', 'text/html')
    );
END
$$;

-- Grants to a kind of role. Runs as the owner; aggregator_grant() in front of it decides who may ask.
CREATE FUNCTION @extschema@.aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
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
CREATE FUNCTION @extschema@.aggregator_granted_roles(OUT role regrole, OUT kind text) RETURNS SETOF record
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
CREATE FUNCTION @extschema@.aggregator_standard_roles(OUT role text, OUT kind text) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'public', 'public'
    UNION ALL
    SELECT r.rolname::text, standard.kind
    FROM pg_roles AS r
    JOIN (VALUES ('anon', 'anon'), ('authenticated', 'user'), ('service_role', 'admin'), ('postgres', 'admin'),
        ('authenticator', 'authenticator')) AS standard (name, kind) ON standard.name = r.rolname
    WHERE r.rolname <> 'postgres' OR NOT r.rolsuper
$$;

SET LOCAL search_path = @extschema@, pg_temp;
