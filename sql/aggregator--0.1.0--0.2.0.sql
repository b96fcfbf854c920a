-- From 0.1.0 to 0.2.0. Order: what is new or changed, comments, and last aggregator_finish_script(),
-- which gives new objects their owner and grants. `make test` compares the outcome with a fresh 0.2.0.

-- Who is granted what is now a list, so that upgrades can grant what is new.
CREATE FUNCTION aggregator_is_new(xmin xid) RETURNS boolean
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_is_new_wrapper';

CREATE FUNCTION aggregator_finish_script() RETURNS void
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_finish_script_wrapper';

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
CREATE OR REPLACE FUNCTION aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
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

COMMENT ON FUNCTION aggregator_privileges(text) IS 'What a kind of role is granted: user, admin, anon, public. Internal.';
COMMENT ON FUNCTION aggregator_granted_roles() IS 'The roles that have the grants of a user or an administrator.';
COMMENT ON FUNCTION aggregator_standard_roles() IS 'The roles that are granted without being asked, where they exist. Internal.';
COMMENT ON FUNCTION aggregator_is_new(xid) IS 'Whether a row with this xmin is of this very transaction. Internal.';
COMMENT ON FUNCTION aggregator_new_objects() IS 'The objects of the extension that this transaction has made. Internal.';
COMMENT ON FUNCTION aggregator_close_new() IS 'Default deny for the objects that this transaction has made, then the grants of a fresh installation. Internal.';
COMMENT ON FUNCTION aggregator_open_new() IS 'Grants the objects that this transaction has made to the roles that have the old ones. Internal.';
COMMENT ON FUNCTION aggregator_finish_script() IS 'The last call of an install or upgrade script: gives new objects their owner and grants. Internal.';

SELECT aggregator_finish_script();
