-- The grants of a kind of role. Runs as the owner; aggregator_grant() in front of it decides who
-- may ask.
CREATE FUNCTION aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function text;
BEGIN
    IF p_kind NOT IN ('user', 'reader', 'admin') OR p_kind IS NULL THEN
        RAISE EXCEPTION 'kind must be ''user'', ''reader'' or ''admin''' USING ERRCODE = 'PT400';
    END IF;
    -- What every kind sees: of what row-level security shows it.
    EXECUTE format('GRANT SELECT ON @extschema@.api_providers, @extschema@.aggregator_models,
        @extschema@.aggregator_model_prices, @extschema@.aggregator_usage_logs, @extschema@.aggregator_cooling,
        @extschema@.aggregator_provider_health, @extschema@.aggregator_budgets, @extschema@.aggregator_rate_limits,
        @extschema@.aggregator_budget_warnings, @extschema@.aggregator_budget_status,
        @extschema@.aggregator_usage_hourly, @extschema@.aggregator_usage_totals, @extschema@.aggregator_usage_sums,
        @extschema@.aggregator_usage, @extschema@.aggregator_usage_by_hour, @extschema@.aggregator_usage_by_day
        TO %s', p_role);
    FOREACH v_function IN ARRAY ARRAY[
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
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', v_function, p_role);
    END LOOP;
    IF p_kind = 'reader' THEN
        EXECUTE format('GRANT USAGE ON TYPE @extschema@.aggregator_reader TO %s', p_role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.usage_by_user(text, text, text) TO %s', p_role);
        -- What aggregator_provider_health asks of keys; row-level security shows it none.
        EXECUTE format('GRANT SELECT (id, updated_at) ON @extschema@.user_api_providers TO %s', p_role);
        RETURN;
    END IF;
    EXECUTE format('GRANT SELECT ON @extschema@.user_api_providers, @extschema@.aggregator_jobs TO %s', p_role);
    EXECUTE format('GRANT UPDATE (is_active, priority, settings)
        ON @extschema@.user_api_providers TO %s', p_role);
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
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', v_function, p_role);
    END LOOP;
    IF p_kind = 'user' THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON TYPE @extschema@.aggregator_admin TO %s', p_role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE
        ON @extschema@.api_providers, @extschema@.aggregator_models,
        @extschema@.aggregator_budgets, @extschema@.aggregator_rate_limits TO %s', p_role);
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
        'maintain_usage()',
        'schedule_model_sync(text)',
        'unschedule_model_sync()',
        'schedule_usage_maintenance(text)',
        'unschedule_usage_maintenance()',
        'aggregator_require_cron(text, text)',
        'aggregator_schedule(text, text, text)',
        'aggregator_unschedule(text)'
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', v_function, p_role);
    END LOOP;
END
$$;
