-- From 0.2.0 to 0.3.0. Written by tools/upgrade_script.py (make upgrade-sql) from the two install scripts and
-- sql/upgrades/0.2.0--0.3.0.sql: change those.

SET LOCAL check_function_bodies = off;
SET LOCAL search_path = pg_catalog, pg_temp;

-- What a fresh installation cannot tell of the way from 0.2.0 to 0.3.0: changes of tables that are there,
-- functions that go, data that is converted.

-- bound: another column of its result.
DROP FUNCTION @extschema@.aggregator_status();

SET LOCAL search_path = @extschema@, pg_temp;

SET LOCAL search_path = pg_catalog, pg_temp;

-- Everything of the extension belongs to this role, and whatever acts with more rights than its caller acts as
-- it: nothing of ours runs as a superuser. The role is the cluster's; its other databases share it.
-- Upgrades run this too.
DO $$
DECLARE
    v_owner   pg_roles;
    v_members text;
BEGIN
    BEGIN
        IF to_regrole('aggregator_owner') IS NULL THEN
            CREATE ROLE aggregator_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
            COMMENT ON ROLE aggregator_owner IS
                'Owns the objects of the extension aggregator and runs its worker. Nobody is to be a member of it.';
        END IF;
    EXCEPTION
        -- Another database of the cluster has just made it.
        WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    SELECT r.* INTO v_owner FROM pg_roles AS r WHERE r.rolname = 'aggregator_owner';
    IF v_owner.rolsuper OR v_owner.rolcanlogin OR v_owner.rolcreaterole OR v_owner.rolcreatedb
       OR v_owner.rolreplication OR v_owner.rolbypassrls THEN
        RAISE EXCEPTION 'the role aggregator_owner is there already, with more rights than an owner of tables needs'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'ALTER ROLE aggregator_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;';
    END IF;
    SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) INTO v_members
    FROM pg_auth_members AS m
    JOIN pg_roles AS r ON r.oid = m.member
    WHERE m.roleid = v_owner.oid AND NOT r.rolsuper;
    IF v_members IS NOT NULL THEN
        RAISE WARNING 'members of aggregator_owner own every key, log and grant of the extension aggregator: %', v_members
            USING HINT = 'REVOKE aggregator_owner FROM ...;';
    END IF;
END
$$;

-- Every route for a model, best first: the user's own key before the platform's, then priority
-- (higher first), then price. It bypasses row-level security by running as the owner, so it is
-- granted to nobody; the functions in front of it settle who the user is.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_routes(p_model text, p_user_id text, p_provider text DEFAULT NULL)
RETURNS TABLE (
    provider_id       uuid,
    provider_name     text,
    provider_type     text,
    api_standard      text,
    base_url          text,
    headers           jsonb,
    model_id          text,
    user_provider_id  uuid,
    is_platform_key   boolean,
    api_key_encrypted bytea,
    pricing           jsonb,
    context_window    integer,
    max_output_tokens integer,
    can_stream        boolean
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_provider uuid;
    v_model    text := p_model;
    v_prefix   text := split_part(p_model, ':', 1);
BEGIN
    IF p_provider IS NOT NULL THEN
        v_provider := @extschema@.aggregator_provider_id(p_provider);
        IF v_provider IS NULL THEN
            RETURN;
        END IF;
    END IF;
    -- "openrouter:openai/gpt-4o" names its provider; "x/y:free" does not, unless one is called "x/y".
    IF v_prefix <> p_model THEN
        SELECT p.id, substr(p_model, length(v_prefix) + 2)
        INTO v_provider, v_model
        FROM @extschema@.api_providers AS p
        WHERE p.name = v_prefix AND (v_provider IS NULL OR p.id = v_provider);
        IF NOT FOUND THEN
            v_model := p_model;
            v_provider := @extschema@.aggregator_provider_id(p_provider);
        END IF;
    END IF;

    RETURN QUERY
    SELECT p.id, p.name, p.provider_type, p.api_standard, p.base_url, p.headers, m.model_id,
        k.id, k.user_id IS NULL, k.api_key_encrypted, m.pricing, m.context_window, m.max_output_tokens,
        p.features @> '{"supports_streaming": true}'
    FROM (
        SELECT listed.provider_id, listed.model_id, listed.model_name, listed.pricing, listed.context_window,
            listed.max_output_tokens, listed.is_available, NULL::text AS user_id
        FROM @extschema@.aggregator_models AS listed
        WHERE listed.model_id = v_model OR listed.model_name = v_model
        UNION ALL
        -- What only the user's own key is shown.
        SELECT own.provider_id, own.model_id, own.model_name, own.pricing, own.context_window,
            own.max_output_tokens, true, own.user_id
        FROM @extschema@.aggregator_user_models AS own
        WHERE own.user_id = p_user_id
          AND (own.model_id = v_model OR own.model_name = v_model)
          AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_models AS listed
              WHERE listed.provider_id = own.provider_id AND listed.model_id = own.model_id AND listed.is_available
          )
    ) AS m
    JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
    JOIN @extschema@.user_api_providers AS k
        ON k.provider_id = m.provider_id AND (m.user_id IS NULL OR k.user_id = m.user_id)
    WHERE (v_provider IS NULL OR m.provider_id = v_provider)
      -- Whoever names the provider gets the model sent, whatever the catalogue says.
      AND (m.is_available OR v_provider IS NOT NULL)
      AND p.is_active
      AND k.is_active
      AND (k.user_id = p_user_id OR k.user_id IS NULL)
      -- At one provider, the model of this very id goes before those that only end in it.
      AND (m.model_id = v_model OR NOT EXISTS (
              SELECT FROM @extschema@.aggregator_models AS exact
              WHERE exact.provider_id = m.provider_id
                AND exact.model_id = v_model
                AND (exact.is_available OR v_provider IS NOT NULL)
          ) AND NOT EXISTS (
              SELECT FROM @extschema@.aggregator_user_models AS exact
              WHERE exact.user_id = k.user_id
                AND exact.provider_id = m.provider_id
                AND exact.model_id = v_model
          ))
    ORDER BY k.user_id IS NULL, k.priority DESC, m.is_available DESC,
        (m.pricing ->> 'input')::numeric + coalesce((m.pricing ->> 'output')::numeric, 0) NULLS LAST,
        m.model_id = v_model DESC, p.name, m.model_id;

    -- A provider may know a model that the catalogue does not: it is sent all the same, unpriced.
    IF NOT FOUND AND v_provider IS NOT NULL THEN
        RETURN QUERY
        SELECT p.id, p.name, p.provider_type, p.api_standard, p.base_url, p.headers, v_model,
            k.id, k.user_id IS NULL, k.api_key_encrypted, NULL::jsonb, NULL::integer, NULL::integer,
            p.features @> '{"supports_streaming": true}'
        FROM @extschema@.api_providers AS p
        JOIN @extschema@.user_api_providers AS k ON k.provider_id = p.id
        WHERE p.id = v_provider
          AND p.is_active
          AND k.is_active
          AND (k.user_id = p_user_id OR k.user_id IS NULL)
        ORDER BY k.user_id IS NULL, k.priority DESC;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.get_user_available_models(p_user_id text DEFAULT NULL)
RETURNS TABLE (
    provider_id           uuid,
    provider_name         text,
    provider_display_name text,
    provider_type         text,
    model_id              text,
    model_name            text,
    display_name          text,
    model_type            text,
    capabilities          jsonb,
    context_window        integer,
    max_output_tokens     integer,
    pricing               jsonb,
    is_aggregator         boolean
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.id, p.name, p.display_name, p.provider_type, m.model_id, m.model_name, m.display_name,
        m.model_type, m.capabilities, m.context_window, m.max_output_tokens, m.pricing,
        p.provider_type = 'aggregator'
    FROM @extschema@.api_providers AS p
    JOIN @extschema@.aggregator_models AS m ON m.provider_id = p.id
    WHERE p.id = ANY (@extschema@.aggregator_spendable_providers(p_user_id))
      AND p.is_active
      AND m.is_available
    UNION ALL
    -- What only the user's own key is shown.
    SELECT p.id, p.name, p.display_name, p.provider_type, own.model_id, own.model_name, own.display_name,
        own.model_type, own.capabilities, own.context_window, own.max_output_tokens, own.pricing,
        p.provider_type = 'aggregator'
    FROM @extschema@.api_providers AS p
    JOIN @extschema@.aggregator_user_models AS own ON own.provider_id = p.id
    WHERE own.user_id = @extschema@.aggregator_acting_user(p_user_id)
      AND p.is_active
      AND EXISTS (
          SELECT FROM @extschema@.user_api_providers AS k
          WHERE k.user_id = own.user_id AND k.provider_id = own.provider_id AND k.is_active
      )
      AND NOT EXISTS (
          SELECT FROM @extschema@.aggregator_models AS m
          WHERE m.provider_id = own.provider_id AND m.model_id = own.model_id AND m.is_available
      )
    ORDER BY 2, 5
$$;

-- Models that a provider lists to one user's key, where it lists them to nobody without one. Only that user
-- sees them and is routed to them, with their own key; what others see, no user's key decides. The catalogue of
-- all goes before it. No foreign key to the user's key: a tenant's lock on it would stall the worker.
CREATE TABLE @extschema@.aggregator_user_models (
    user_id           text        NOT NULL CHECK (user_id <> ''),
    provider_id       uuid        NOT NULL REFERENCES @extschema@.api_providers ON DELETE CASCADE,
    model_id          text        NOT NULL,
    model_name        text        NOT NULL,
    display_name      text        NOT NULL,
    model_type        text        NOT NULL DEFAULT 'chat',
    capabilities      jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(capabilities) = 'object'),
    context_window    integer     CHECK (context_window > 0),
    max_output_tokens integer     CHECK (max_output_tokens > 0),
    pricing           jsonb       NOT NULL DEFAULT '{}',
    first_seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, provider_id, model_id)
);

CREATE INDEX ON @extschema@.aggregator_user_models (user_id, model_id);

CREATE INDEX ON @extschema@.aggregator_user_models (user_id, model_name);

CREATE INDEX ON @extschema@.aggregator_user_models (provider_id);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_user_models', '');

-- Stores the list that a user's key gave: all of it, and nothing of the one before. At most 5,000 models.
-- Runs as the owner, granted to nobody.
CREATE FUNCTION @extschema@.aggregator_store_user_models(p_user_id text, p_provider_id uuid, p_models jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_most CONSTANT bigint := 5000;
BEGIN
    WITH fresh AS MATERIALIZED (
        SELECT *
        FROM jsonb_to_recordset(p_models) AS f (
            model_id text, model_name text, display_name text, model_type text, capabilities jsonb,
            context_window integer, max_output_tokens integer, pricing jsonb)
        ORDER BY f.model_id
        LIMIT c_most
    ),
    vanished AS (
        DELETE FROM @extschema@.aggregator_user_models AS m
        WHERE m.user_id = p_user_id
          AND m.provider_id = p_provider_id
          AND NOT EXISTS (SELECT FROM fresh AS f WHERE f.model_id = m.model_id)
    )
    INSERT INTO @extschema@.aggregator_user_models AS m
        (user_id, provider_id, model_id, model_name, display_name, model_type, capabilities,
         context_window, max_output_tokens, pricing)
    SELECT p_user_id, p_provider_id, f.model_id, f.model_name, f.display_name, f.model_type, f.capabilities,
        f.context_window, f.max_output_tokens, coalesce(f.pricing, '{}'::jsonb)
    FROM fresh AS f
    ON CONFLICT (user_id, provider_id, model_id) DO UPDATE
    SET model_name = excluded.model_name,
        display_name = excluded.display_name,
        model_type = excluded.model_type,
        capabilities = excluded.capabilities,
        context_window = excluded.context_window,
        max_output_tokens = excluded.max_output_tokens,
        pricing = excluded.pricing
    WHERE (m.model_name, m.display_name, m.model_type, m.capabilities, m.context_window, m.max_output_tokens, m.pricing)
        IS DISTINCT FROM
        (excluded.model_name, excluded.display_name, excluded.model_type, excluded.capabilities,
         excluded.context_window, excluded.max_output_tokens, excluded.pricing);
END
$$;

COMMENT ON TABLE @extschema@.aggregator_user_models IS 'Models that a provider lists to one user''s key and to nobody without one. Only that user sees them and is routed to them.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.user_id IS 'Whose key it was.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.provider_id IS 'The provider.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.model_id IS 'The provider''s id of the model.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.model_name IS 'The last part of the id.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.display_name IS 'For people.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.model_type IS 'chat, embedding, image, audio, video or rerank.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.capabilities IS 'vision, functions, streaming and others, each true or false.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.context_window IS 'Tokens; NULL: unknown.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.max_output_tokens IS 'Tokens; NULL: unknown.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.pricing IS 'As in aggregator_models, as far as the list says; an absent price is unknown.';

COMMENT ON COLUMN @extschema@.aggregator_user_models.first_seen_at IS 'When the list first had it.';

COMMENT ON FUNCTION @extschema@.aggregator_store_user_models(text, uuid, jsonb) IS 'Stores the model list that a user''s key gave, for that user alone. Internal.';

-- Requests to providers that cost nothing and are in no usage log: keys that were checked, and model lists that
-- were fetched. No foreign keys, as in the usage log.
CREATE TABLE @extschema@.aggregator_key_checks (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('check', 'sync')),
    user_id     text        CHECK (user_id <> ''),
    provider_id uuid        NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('success', 'refused', 'error')),
    error_code  text,
    http_status smallint,
    latency_ms  integer
);

CREATE INDEX ON @extschema@.aggregator_key_checks (user_id, created_at);

CREATE INDEX ON @extschema@.aggregator_key_checks (created_at);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_key_checks', '');

-- Forgets what is older than p_retention seconds (0: 90 days), 90 days at the most. Some at a time.
CREATE FUNCTION @extschema@.aggregator_forget_key_checks(p_retention integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM @extschema@.aggregator_key_checks AS old
    WHERE old.id IN (
        SELECT k.id
        FROM @extschema@.aggregator_key_checks AS k
        WHERE k.created_at < now() - least(
            make_interval(days => 90),
            CASE WHEN p_retention > 0 THEN make_interval(secs => p_retention::double precision) END)
        LIMIT 10000
    )
$$;

COMMENT ON TABLE @extschema@.aggregator_key_checks IS 'Requests that cost nothing: keys that were checked, and model lists that were fetched. Users see their own rows, readers all. Kept as long as the usage log, and for 90 days at the most.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.id IS 'Id of the row.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.created_at IS 'When it began.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.kind IS 'check: validate_provider_key or save_provider_key; sync: a model list.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.user_id IS 'Whose key it was; NULL: the platform''s, or none.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.provider_id IS 'The provider. Not a foreign key.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.outcome IS 'success; refused: the provider does not take the key; error.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.error_code IS 'Which error, as in the usage log.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.http_status IS 'The provider''s, where it gave one.';

COMMENT ON COLUMN @extschema@.aggregator_key_checks.latency_ms IS 'Milliseconds.';

COMMENT ON FUNCTION @extschema@.aggregator_forget_key_checks(integer) IS 'Forgets key checks that are older than so many seconds, or than 90 days. Internal.';

-- Makes the partition of a month (UTC), with the rights, row-level security and storage of the
-- default one. False: it is there; or so many rows of the month are in the default partition that
-- moving them would hold up the ledger, so that it keeps the month; or somebody is using the ledger.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_make_partition(p_month timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
    c_moved     CONSTANT integer := 20000;
    v_from      timestamptz := date_trunc('month', p_month, 'UTC');
    v_to        timestamptz := date_trunc('month', v_from + interval '32 days', 'UTC');
    v_name      text        := 'aggregator_usage_logs_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
    v_grantee   record;
BEGIN
    IF to_regclass(format('@extschema@.%I', v_name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- A restored partition of other bounds may hold the month already.
    IF EXISTS (
        SELECT FROM @extschema@.aggregator_partitions() AS part
        WHERE part.since < v_to AND part.until > v_from
    ) THEN
        RETURN false;
    END IF;
    IF EXISTS (
        SELECT FROM @extschema@.aggregator_usage_logs_default AS log
        WHERE log.created_at >= v_from AND log.created_at < v_to
        OFFSET c_moved
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE @extschema@.%I (LIKE @extschema@.aggregator_usage_logs_default INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
        WITH (fillfactor = 80)', v_name);
    -- The default privileges of the database may have handed it to anybody; it is read through the
    -- ledger alone.
    FOR v_grantee IN
        SELECT DISTINCT acl.grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = to_regclass(format('@extschema@.%I', v_name))
          AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON @extschema@.%I FROM %s', v_name,
            CASE v_grantee.grantee WHEN 0 THEN 'PUBLIC' ELSE v_grantee.grantee::regrole::text END);
    END LOOP;
    EXECUTE format('ALTER TABLE @extschema@.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('CREATE TRIGGER before_truncate BEFORE TRUNCATE ON @extschema@.%I
        FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_before_truncate()', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I ENABLE ALWAYS TRIGGER before_truncate', v_name);
    EXECUTE format('ALTER TABLE @extschema@.%I OWNER TO aggregator_owner', v_name);
    EXECUTE format('COMMENT ON TABLE @extschema@.%I IS %L', v_name,
        format('Partition of the ledger for %s (UTC).', to_char(v_from AT TIME ZONE 'UTC', 'FMMonth YYYY')));
    -- From partition to partition: no trigger of the ledger sees it, and the sums stay as they are.
    LOCK TABLE @extschema@.aggregator_usage_logs_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH moved AS (
            DELETE FROM @extschema@.aggregator_usage_logs_default AS log
            WHERE log.created_at >= %L AND log.created_at < %L
            RETURNING *
        )
        INSERT INTO @extschema@.%I SELECT * FROM moved', v_from, v_to, v_name);
    EXECUTE format('ALTER TABLE @extschema@.aggregator_usage_logs ATTACH PARTITION @extschema@.%I FOR VALUES FROM (%L) TO (%L)',
        v_name, v_from, v_to);
    RETURN true;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR check_violation THEN
        RETURN false;
END
$$;

-- Makes partitions for this month and the next two (p_ahead), and forgets what is older than p_retention
-- seconds (0: nothing): whole partitions, old rows of the default one, and their sums, by whole
-- hours. Each is done by itself, so that what cannot be had now is left for another time.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_maintain_usage(
    p_ahead     boolean,
    p_retention integer,
    OUT created integer,
    OUT dropped integer,
    OUT deleted bigint
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_at_once CONSTANT integer := 10000;
    v_now     timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    v_cutoff  timestamptz;
    v_part    record;
BEGIN
    created := 0;
    dropped := 0;
    deleted := 0;
    FOR i IN 0..CASE WHEN p_ahead THEN 2 ELSE -1 END LOOP
        IF @extschema@.aggregator_make_partition((v_now + make_interval(months => i)) AT TIME ZONE 'UTC') THEN
            created := created + 1;
        END IF;
    END LOOP;
    PERFORM @extschema@.aggregator_forget_key_checks(p_retention);
    IF p_retention <= 0 THEN
        RETURN;
    END IF;
    v_cutoff := date_trunc('hour', now() - make_interval(secs => p_retention), 'UTC');
    FOR v_part IN SELECT * FROM @extschema@.aggregator_partitions() AS part WHERE part.until <= v_cutoff LOOP
        IF @extschema@.aggregator_drop_partition(v_part.partition, v_part.since, v_part.until) THEN
            dropped := dropped + 1;
        END IF;
    END LOOP;
    -- Rows that have no partition of their own, or whose partition is not over yet; the triggers of
    -- the ledger take them from the sums. Some at a time: nobody waits for the rest.
    WITH old AS (
        SELECT log.call_id, log.attempt, log.created_at
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.created_at < v_cutoff AND log.status <> 'pending'
        LIMIT c_at_once
    )
    DELETE FROM @extschema@.aggregator_usage_logs AS log
    USING old
    WHERE (log.call_id, log.attempt, log.created_at) = (old.call_id, old.attempt, old.created_at);
    GET DIAGNOSTICS deleted = ROW_COUNT;
END
$$;

-- What a kind of role is granted: user, reader and admin by aggregator_grant(), anon and public by the
-- extension itself. identity and privileges are ready for GRANT.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_privileges(
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
        ('user', 'SELECT', ARRAY['user_api_providers', 'aggregator_user_models', 'aggregator_jobs']),
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

-- Tables, views and sequences of the extension, and the partitions that were made since.
CREATE FUNCTION @extschema@.aggregator_relations() RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.objid::regclass
    FROM pg_depend AS d
    WHERE d.classid = 'pg_class'::regclass
      AND d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
    UNION
    SELECT i.inhrelid::regclass
    FROM pg_inherits AS i
    WHERE i.inhparent = '@extschema@.aggregator_usage_logs'::regclass
$$;

-- Gives everything of the extension to aggregator_owner: what a script has made, what an earlier version owned
-- as a superuser, partitions that somebody else restored. But not what PostgreSQL runs in the name of whoever
-- does something, a superuser included: event triggers and their functions stay with whom the extension belongs to.
CREATE FUNCTION @extschema@.aggregator_hand_over() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_owner   CONSTANT oid := 'aggregator_owner'::regrole;
    c_creator CONSTANT oid := (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'aggregator');
    v_object  record;
BEGIN
    FOR v_object IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_depend AS d
            WHERE d.deptype = 'e'
              AND d.refclassid = 'pg_extension'::regclass
              AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
        )
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS identity,
            c.oid, c.relowner AS owner, c_owner AS heir
        FROM @extschema@.aggregator_relations() AS relation
        JOIN pg_class AS c ON c.oid = relation
        WHERE c.relkind IN ('r', 'p', 'v', 'S')
          AND c.relowner <> c_owner
          -- The sequence of a column goes with its table.
          AND NOT EXISTS (
              SELECT FROM pg_depend AS d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
                AND c.relkind = 'S'
          )
        UNION ALL
        SELECT CASE p.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END, p.oid::regprocedure::text,
            p.oid, p.proowner, heir.role
        FROM member
        JOIN pg_proc AS p ON p.oid = member.objid
        CROSS JOIN LATERAL (
            SELECT CASE p.prorettype WHEN 'event_trigger'::regtype THEN c_creator ELSE c_owner END AS role
        ) AS heir
        WHERE member.classid = 'pg_proc'::regclass
          AND p.proowner <> heir.role
        UNION ALL
        SELECT 'EVENT TRIGGER', quote_ident(e.evtname), e.oid, e.evtowner, c_creator
        FROM member
        JOIN pg_event_trigger AS e ON e.oid = member.objid
        WHERE member.classid = 'pg_event_trigger'::regclass
          AND e.evtowner <> c_creator
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text, t.oid, t.typowner, c_owner
        FROM member
        JOIN pg_type AS t ON t.oid = member.objid
        WHERE member.classid = 'pg_type'::regclass
          AND t.typtype = 'd'
          AND t.typowner <> c_owner
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %s', v_object.kind, v_object.identity, v_object.heir::regrole);
        -- What the extension has granted from the start, pg_dump leaves out; before version 17, PostgreSQL does not
        -- tell it that the owner who granted it is another one now.
        UPDATE pg_init_privs AS initial
        SET initprivs = ARRAY(
            SELECT (
                CASE item.grantee WHEN 0 THEN '' ELSE format('"%s"', replace(grantee.rolname, '"', '""')) END
                || substring(acl.item::text FROM '=[a-zA-Z*]*/')
                || format('"%s"', replace(grantor.rolname, '"', '""'))
            )::aclitem
            FROM unnest(initial.initprivs) WITH ORDINALITY AS acl (item, place)
            CROSS JOIN LATERAL (SELECT * FROM aclexplode(ARRAY[acl.item]) LIMIT 1) AS item
            JOIN pg_roles AS grantor ON grantor.oid = CASE item.grantor WHEN v_object.owner THEN v_object.heir ELSE item.grantor END
            LEFT JOIN pg_roles AS grantee ON grantee.oid = CASE item.grantee WHEN v_object.owner THEN v_object.heir ELSE item.grantee END
            ORDER BY acl.place)
        WHERE initial.objoid = v_object.oid
          AND initial.classoid = CASE
              WHEN v_object.kind = 'TYPE' THEN 'pg_type'::regclass
              WHEN v_object.kind IN ('FUNCTION', 'AGGREGATE') THEN 'pg_proc'::regclass
              WHEN v_object.kind IN ('TABLE', 'VIEW', 'SEQUENCE') THEN 'pg_class'::regclass
          END;
    END LOOP;
END
$$;

-- The worker runs with session_replication_role = replica: of triggers and rules on these tables it runs those
-- alone that are to run always. Ours are; what others have put there is not, unless a superuser says so. A
-- restore with --disable-triggers leaves ours as ordinary ones: the worker calls this when it begins.
CREATE FUNCTION @extschema@.aggregator_arm_triggers() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
    v_trigger record;
BEGIN
    FOR v_trigger IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_trigger AS t ON t.tgrelid = ours
        JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid
        WHERE NOT t.tgisinternal
          AND t.tgenabled <> 'A'
          AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', v_trigger.relation, v_trigger.tgname);
    END LOOP;
END
$$;

-- Triggers and rules on the extension's tables that are not the extension's.
CREATE FUNCTION @extschema@.aggregator_foreign_triggers() RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
    FROM @extschema@.aggregator_relations() AS ours
    JOIN pg_trigger AS t ON t.tgrelid = ours
    WHERE NOT t.tgisinternal
      AND NOT EXISTS (
          SELECT FROM pg_depend AS d
          WHERE d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
            AND d.refclassid = 'pg_extension'::regclass
            AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
      )
    UNION ALL
    SELECT format('rule %I on %s', r.rulename, r.ev_class::regclass)
    FROM @extschema@.aggregator_relations() AS ours
    JOIN pg_rewrite AS r ON r.ev_class = ours
    WHERE r.rulename <> '_RETURN'
$$;

-- What is done here is the extension's own doing to pg_dump, which leaves it out: CREATE EXTENSION
-- will do it again.
CREATE OR REPLACE FUNCTION @extschema@.aggregator_close_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_object  record;
    v_grantee oid;
    v_granted record;
BEGIN
    PERFORM @extschema@.aggregator_hand_over();
    PERFORM @extschema@.aggregator_guard_tables();
    PERFORM @extschema@.aggregator_arm_triggers();
    -- The default privileges of a database may have handed our objects to anybody.
    FOR v_object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, made.identity, c.relacl AS acl, c.relowner AS owner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_class AS c ON c.oid = made.object
        WHERE made.class = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_proc AS p ON p.oid = made.object
        WHERE made.class = 'pg_proc'::regclass
        UNION ALL
        SELECT 'TYPE', made.identity, coalesce(t.typacl, acldefault('T', t.typowner)), t.typowner
        FROM @extschema@.aggregator_new_objects() AS made
        JOIN pg_type AS t ON t.oid = made.object
        WHERE made.class = 'pg_type'::regclass
    LOOP
        FOR v_grantee IN
            SELECT DISTINCT acl.grantee FROM aclexplode(v_object.acl) AS acl WHERE acl.grantee <> v_object.owner
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
CREATE OR REPLACE FUNCTION @extschema@.aggregator_open_new() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_changed record;
BEGIN
    -- To make partitions, and to find its own objects where PUBLIC may not look.
    GRANT USAGE, CREATE ON SCHEMA @extschema@ TO aggregator_owner;
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

CREATE FUNCTION @extschema@.aggregator_before_truncate() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_user <> 'aggregator_owner'
       AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role ''%'' may not empty %', current_user, TG_RELID::regclass
            USING ERRCODE = 'PT403', HINT = 'DELETE takes the rows that the role may delete.';
    END IF;
    RETURN NULL;
END
$$;

-- Every table of the extension refuses to be emptied.
CREATE FUNCTION @extschema@.aggregator_guard_tables() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table regclass;
BEGIN
    FOR v_table IN
        SELECT c.oid::regclass
        FROM @extschema@.aggregator_relations() AS ours
        JOIN pg_class AS c ON c.oid = ours
        WHERE c.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'before_truncate')
    LOOP
        EXECUTE format('CREATE TRIGGER before_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_before_truncate()', v_table);
    END LOOP;
END
$$;

-- Refuses triggers on, and foreign keys to, the extension's tables from all but superusers, whatever was granted.
-- It runs as whoever creates something anywhere in the database, and so asks the catalogs alone.
CREATE FUNCTION @extschema@.aggregator_guard_ddl() RETURNS event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ours oid[];
    v_what text;
BEGIN
    IF current_user = 'aggregator_owner'
       OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RETURN;
    END IF;
    v_ours := ARRAY(
        SELECT d.objid
        FROM pg_depend AS d
        JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass
          AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass
          AND e.extname = 'aggregator');
    v_ours := v_ours || ARRAY(SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = ANY (v_ours));
    SELECT format('put trigger %I on %s', t.tgname, t.tgrelid::regclass) INTO v_what
    FROM pg_event_trigger_ddl_commands() AS command
    JOIN pg_trigger AS t ON command.classid = 'pg_trigger'::regclass AND t.oid = command.objid
    WHERE t.tgrelid = ANY (v_ours)
    UNION ALL
    SELECT format('let %s refer to %s', c.conrelid::regclass, c.confrelid::regclass)
    FROM pg_event_trigger_ddl_commands() AS command
    JOIN pg_constraint AS c ON command.classid = 'pg_class'::regclass AND c.conrelid = command.objid
    WHERE c.contype = 'f'
      AND c.confrelid = ANY (v_ours)
      AND c.conrelid <> ALL (v_ours)
    LIMIT 1;
    IF v_what IS NOT NULL THEN
        RAISE EXCEPTION 'role ''%'' may not %', current_user, v_what
            USING ERRCODE = 'PT403',
                HINT = 'A superuser may. The worker runs a trigger only where ALTER TABLE ... ENABLE ALWAYS TRIGGER says so.';
    END IF;
END
$$;

CREATE EVENT TRIGGER aggregator_guard_ddl ON ddl_command_end
WHEN TAG IN ('CREATE TRIGGER', 'CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA')
EXECUTE FUNCTION @extschema@.aggregator_guard_ddl();

COMMENT ON EVENT TRIGGER aggregator_guard_ddl IS 'Keeps others'' triggers off, and foreign keys from, the extension''s tables.';

COMMENT ON FUNCTION @extschema@.aggregator_before_truncate() IS 'Refuses TRUNCATE, which row-level security does not see. PT403.';

COMMENT ON FUNCTION @extschema@.aggregator_guard_tables() IS 'Puts aggregator_before_truncate on every table of the extension. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_guard_ddl() IS 'Refuses others'' triggers on, and foreign keys to, the extension''s tables. PT403.';

SET LOCAL search_path = @extschema@, pg_temp;

-- src/session/admin.rs:37
-- aggregator::session::admin::aggregator_status
CREATE OR REPLACE FUNCTION "aggregator_status"() RETURNS TABLE (
	"version" TEXT,  /* String */
	"worker_pid" INT,  /* i32 */
	"started_at" timestamp with time zone,  /* TimestampWithTimeZone */
	"in_flight" bigint,  /* i64 */
	"served" bigint,  /* i64 */
	"ledger_queue" bigint,  /* i64 */
	"waiting" bigint,  /* i64 */
	"preloaded" bool,  /* bool */
	"gateway_stall_ms" bigint  /* i64 */
)
STRICT
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'aggregator_status_wrapper';

SET LOCAL search_path = pg_catalog, pg_temp;

ALTER TABLE @extschema@.aggregator_user_models ENABLE ROW LEVEL SECURITY;

ALTER TABLE @extschema@.aggregator_key_checks ENABLE ROW LEVEL SECURITY;

-- A model of one's own may have a name that is nobody else's business.
CREATE POLICY seen ON @extschema@.aggregator_user_models FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

CREATE POLICY seen ON @extschema@.aggregator_key_checks FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));

COMMENT ON FUNCTION @extschema@.aggregator_status() IS
    'The worker of this database; asking starts it. in_flight: requests of sessions and jobs; waiting: chats that wait for a limit in flight; gateway_stall_ms: the longest that anything has held the thread that serves all sessions, in the last minute or two. Administrators. PT403, PT503.';

COMMENT ON FUNCTION @extschema@.aggregator_relations() IS 'The tables, views and sequences of the extension, partitions made since included. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_hand_over() IS 'Gives everything of the extension to aggregator_owner. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_arm_triggers() IS 'Has the extension''s triggers fire in the worker too. Internal.';

COMMENT ON FUNCTION @extschema@.aggregator_foreign_triggers() IS 'Triggers and rules on the extension''s tables that are not its own; the worker does not run them unless a superuser has it run them always. Internal.';

SET LOCAL search_path = pg_catalog, pg_temp;

SELECT @extschema@.aggregator_finish_script();
