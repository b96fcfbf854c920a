-- Default deny, then explicit grants. Runs last, when every object exists.

-- The default privileges of a database may have handed our objects to anybody.
DO $$
DECLARE
    v_object record;
    v_grantee record;
BEGIN
    FOR v_object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
            c.oid::regclass::text AS identity, c.relacl AS acl, c.relowner AS owner
        FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'p', 'v', 'S')
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.objid
        WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, coalesce(t.typacl, acldefault('T', t.typowner)), t.typowner
        FROM pg_depend AS d JOIN pg_type AS t ON t.oid = d.objid
        WHERE d.classid = 'pg_type'::regclass AND d.deptype = 'e' AND t.typtype = 'd'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'aggregator')
    LOOP
        FOR v_grantee IN
            SELECT DISTINCT a.grantee FROM aclexplode(v_object.acl) AS a WHERE a.grantee <> v_object.owner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s', v_object.kind, v_object.identity,
                CASE v_grantee.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee.grantee::regrole::text END);
        END LOOP;
    END LOOP;
END
$$;

ALTER TABLE api_providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_api_providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE aggregator_models ENABLE ROW LEVEL SECURITY;
ALTER TABLE aggregator_usage_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE aggregator_usage_logs_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE aggregator_worker_epochs ENABLE ROW LEVEL SECURITY;

-- Policies decide rows; without a grant on the table none is seen. What no policy allows (a
-- tenant's INSERT of a key, say) stays forbidden even to those whom a stray grant lets in.
CREATE POLICY active ON api_providers FOR SELECT
    USING (is_active);
CREATE POLICY admin ON api_providers
    USING ((SELECT aggregator_is_admin()))
    WITH CHECK ((SELECT aggregator_is_admin()));

CREATE POLICY own ON user_api_providers FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()));
CREATE POLICY own_settings ON user_api_providers FOR UPDATE
    USING (user_id = (SELECT aggregator_user_id()))
    WITH CHECK (user_id = (SELECT aggregator_user_id()));
-- Administrators see whose keys there are; a platform key nobody reads.
CREATE POLICY admin ON user_api_providers FOR SELECT
    USING (user_id IS NOT NULL AND (SELECT aggregator_is_admin()));

CREATE POLICY catalogue ON aggregator_models FOR SELECT
    USING (true);
CREATE POLICY admin ON aggregator_models
    USING ((SELECT aggregator_is_admin()))
    WITH CHECK ((SELECT aggregator_is_admin()));

CREATE POLICY own ON aggregator_usage_logs FOR SELECT
    USING (user_id = (SELECT aggregator_user_id()));
CREATE POLICY admin ON aggregator_usage_logs FOR SELECT
    USING ((SELECT aggregator_is_admin()));

-- Who somebody is, everybody may ask; policies need the answer.
GRANT EXECUTE ON FUNCTION aggregator_user_id() TO PUBLIC;
GRANT EXECUTE ON FUNCTION aggregator_is_admin() TO PUBLIC;

-- The grants of a kind of role. Runs as the owner; aggregator_grant() in front of it decides who
-- may ask.
CREATE FUNCTION aggregator_apply_grants(p_role regrole, p_kind text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function text;
BEGIN
    IF p_kind NOT IN ('user', 'admin') OR p_kind IS NULL THEN
        RAISE EXCEPTION 'kind must be ''user'' or ''admin''' USING ERRCODE = 'PT400';
    END IF;
    EXECUTE format('GRANT SELECT ON @extschema@.api_providers, @extschema@.user_api_providers,
        @extschema@.aggregator_models, @extschema@.aggregator_usage_logs TO %s', p_role);
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
        'calculate_cost(text, jsonb, text)',
        'calculate_provider_costs(text, uuid, timestamptz, timestamptz)',
        -- What the functions above call under the caller's rights.
        'aggregator_acting_user(text)',
        'aggregator_spendable_providers(text)',
        'aggregator_provider_id(text)',
        'aggregator_price_rank(jsonb)',
        'aggregator_usage(jsonb)',
        'aggregator_prices_at(jsonb, bigint, timestamptz)',
        'aggregator_cost(jsonb, jsonb, timestamptz)',
        'aggregator_settled_cost(jsonb, jsonb, numeric, boolean, timestamptz)'
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', v_function, p_role);
    END LOOP;
    IF p_kind = 'user' THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON TYPE @extschema@.aggregator_admin TO %s', p_role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE
        ON @extschema@.api_providers, @extschema@.aggregator_models TO %s', p_role);
    FOREACH v_function IN ARRAY ARRAY[
        'aggregator_grant(regrole, text)',
        'aggregator_status()',
        'aggregator_check_provider_urls(text, text, text)',
        'save_platform_key(text, text)',
        'remove_platform_key(text)',
        'sync_models(text)',
        'forget_user(text)'
    ] LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION @extschema@.%s TO %s', v_function, p_role);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION aggregator_apply_grants(regrole, text) FROM PUBLIC;

-- The roles of Supabase and PostgREST, where they exist.
DO $$
BEGIN
    IF to_regrole('anon') IS NOT NULL THEN
        GRANT SELECT ON api_providers TO anon;
    END IF;
    IF to_regrole('authenticated') IS NOT NULL THEN
        PERFORM aggregator_apply_grants('authenticated', 'user');
    END IF;
    IF to_regrole('service_role') IS NOT NULL THEN
        PERFORM aggregator_apply_grants('service_role', 'admin');
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postgres' AND NOT rolsuper) THEN
        PERFORM aggregator_apply_grants('postgres', 'admin');
    END IF;
END
$$;
