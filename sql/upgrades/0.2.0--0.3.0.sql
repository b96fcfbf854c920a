-- What a fresh installation cannot tell of the way from 0.2.0 to 0.3.0: changes of tables that are there,
-- functions that go, data that is converted.

-- ledger: bounds of what tenants write. Settings that are longer than they may be now are emptied.
UPDATE @extschema@.user_api_providers
SET settings = '{}'::jsonb
WHERE pg_catalog.octet_length(settings::text) > 8192;

-- bound: another column of its result.
DROP FUNCTION @extschema@.aggregator_status();

-- citus: another argument.
DROP FUNCTION @extschema@.aggregator_make_partition(timestamptz);

-- Money: who paid, which models were listed, whose money a budget protects. Old rows say nothing of it:
-- in the log they count as the platform's and as listed, and budgets count what they did.
ALTER TABLE @extschema@.aggregator_usage_logs ADD COLUMN is_platform_key boolean;
ALTER TABLE @extschema@.aggregator_usage_logs ADD COLUMN is_listed boolean;
ALTER TABLE @extschema@.aggregator_usage_hourly ADD COLUMN own_requests bigint NOT NULL DEFAULT 0;
ALTER TABLE @extschema@.aggregator_usage_hourly ADD COLUMN own_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE @extschema@.aggregator_usage_hourly ADD COLUMN own_cost numeric NOT NULL DEFAULT 0;
-- Named as LIKE names them, from PostgreSQL 18 on.
ALTER TABLE @extschema@.aggregator_usage_totals ADD COLUMN own_requests bigint CONSTRAINT aggregator_usage_hourly_own_requests_not_null NOT NULL DEFAULT 0;
ALTER TABLE @extschema@.aggregator_usage_totals ADD COLUMN own_tokens bigint CONSTRAINT aggregator_usage_hourly_own_tokens_not_null NOT NULL DEFAULT 0;
ALTER TABLE @extschema@.aggregator_usage_totals ADD COLUMN own_cost numeric CONSTRAINT aggregator_usage_hourly_own_cost_not_null NOT NULL DEFAULT 0;
-- Several gateways: each has its own rows. What is there is this server's.
ALTER TABLE @extschema@.aggregator_usage_hourly ADD COLUMN gateway text NOT NULL DEFAULT '';
ALTER TABLE @extschema@.aggregator_usage_totals ADD COLUMN gateway text CONSTRAINT aggregator_usage_hourly_gateway_not_null NOT NULL DEFAULT '';
ALTER TABLE @extschema@.aggregator_usage_hourly
    DROP CONSTRAINT aggregator_usage_hourly_pkey,
    ADD PRIMARY KEY (user_id, hour, provider_id, model_id, status, gateway);
ALTER TABLE @extschema@.aggregator_usage_totals
    DROP CONSTRAINT aggregator_usage_totals_pkey,
    ADD PRIMARY KEY (grain, start, provider_id, model_id, status, gateway);
ALTER TABLE @extschema@.aggregator_budgets ADD COLUMN keys text NOT NULL DEFAULT 'all'
    CHECK (keys IN ('platform', 'own', 'all'));
DO $upgrade$
BEGIN
    EXECUTE (
        SELECT pg_catalog.format('ALTER TABLE @extschema@.aggregator_budgets DROP CONSTRAINT %I', c.conname)
        FROM pg_catalog.pg_constraint AS c
        WHERE c.conrelid = '@extschema@.aggregator_budgets'::pg_catalog.regclass AND c.contype = 'u');
END
$upgrade$;
-- The response cache. Under its name each partition has the constraint as well, with the rows checked once more.
ALTER TABLE @extschema@.aggregator_models ADD COLUMN shares_cache boolean NOT NULL DEFAULT false;
ALTER TABLE @extschema@.aggregator_usage_logs DROP CONSTRAINT aggregator_usage_logs_cost_source_check;
ALTER TABLE @extschema@.aggregator_usage_logs ADD CONSTRAINT aggregator_usage_logs_cost_source_check
    CHECK (cost_source IN ('upstream', 'computed', 'incomplete', 'unpriced', 'cached'));
-- Rules about gateway keys and tags.
ALTER TABLE @extschema@.aggregator_budgets ADD COLUMN gateway_key_id uuid;
ALTER TABLE @extschema@.aggregator_budgets ADD COLUMN tag text CHECK (tag <> '');
ALTER TABLE @extschema@.aggregator_budgets ADD CONSTRAINT aggregator_budgets_one_label CHECK (pg_catalog.num_nonnulls(gateway_key_id, tag) < 2);
ALTER TABLE @extschema@.aggregator_budgets ADD CONSTRAINT aggregator_budgets_scope_key
    UNIQUE NULLS NOT DISTINCT (user_id, each_user, provider_id, model_id, period, action, keys, gateway_key_id, tag);
ALTER TABLE @extschema@.aggregator_rate_limits ADD COLUMN gateway_key_id uuid;
ALTER TABLE @extschema@.aggregator_rate_limits ADD COLUMN tag text CHECK (tag <> '');
DO $upgrade$
BEGIN
    EXECUTE (
        SELECT pg_catalog.format('ALTER TABLE @extschema@.aggregator_rate_limits DROP CONSTRAINT %I', c.conname)
        FROM pg_catalog.pg_constraint AS c
        WHERE c.conrelid = '@extschema@.aggregator_rate_limits'::pg_catalog.regclass AND c.contype = 'u');
END
$upgrade$;
ALTER TABLE @extschema@.aggregator_rate_limits ADD CONSTRAINT aggregator_rate_limits_one_label CHECK (pg_catalog.num_nonnulls(gateway_key_id, tag) < 2);
ALTER TABLE @extschema@.aggregator_rate_limits ADD CONSTRAINT aggregator_rate_limits_scope_key
    UNIQUE NULLS NOT DISTINCT (user_id, each_user, provider_id, model_id, gateway_key_id, tag);
ALTER TABLE @extschema@.aggregator_usage_logs ADD COLUMN gateway_key_id uuid;
ALTER TABLE @extschema@.aggregator_usage_logs ADD COLUMN tags text[];
ALTER TABLE @extschema@.aggregator_usage_logs ALTER COLUMN tags SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_jobs ADD COLUMN gateway_key_id uuid;
-- There is an index of only those that have such a key.
ALTER TABLE @extschema@.aggregator_jobs DROP CONSTRAINT aggregator_jobs_user_id_idempotency_key_key;
DROP FUNCTION @extschema@.set_rate_limit(bigint, bigint, text, boolean, text, text);
-- Their results or arguments have changed.
DROP FUNCTION @extschema@.aggregator_counted(@extschema@.aggregator_usage_logs);
DROP FUNCTION @extschema@.aggregator_routes(text, text, text);
DROP FUNCTION @extschema@.set_budget(numeric, bigint, bigint, text, text, boolean, text, text, text);

-- Units: that of a list's prices can be fixed.
ALTER TABLE @extschema@.api_providers ADD COLUMN price_unit text NOT NULL DEFAULT 'auto'
    CHECK (price_unit IN ('auto', 'token', 'million'));

-- Catalogues: sync_models has another column in its result.
DROP FUNCTION @extschema@.sync_models(text);
DROP FUNCTION @extschema@.aggregator_store_catalogue(uuid, jsonb, boolean);

-- Size: what the ledger's partitions no longer need; those that are there, restored ones too. No row is written
-- anew: pages that are full stay as they are. An index of the same columns that somebody made, under another
-- name, stays.
DO $upgrade$
DECLARE
    v_part  record;
    v_index record;
BEGIN
    FOR v_part IN
        SELECT c.oid, c.relname, c.reloptions
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = '@extschema@.aggregator_usage_logs'::pg_catalog.regclass
          AND c.relkind = 'r'
        ORDER BY c.relname
    LOOP
        IF v_part.reloptions = '{fillfactor=80}'::text[] THEN
            EXECUTE pg_catalog.format(
                'ALTER TABLE %s SET (fillfactor = 95, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)',
                v_part.oid::pg_catalog.regclass);
        END IF;
        FOR v_index IN
            SELECT c.oid, c.relname, pg_catalog.substring(pg_catalog.pg_get_indexdef(c.oid), ' USING (.*)$') AS keys
            FROM pg_catalog.pg_index AS x
            JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid
            WHERE x.indrelid = v_part.oid
              AND NOT x.indisunique
        LOOP
            IF v_index.keys = 'btree (provider_id, created_at)'
                AND v_index.relname = v_part.relname || '_provider_id_created_at_idx' THEN
                EXECUTE pg_catalog.format('DROP INDEX %s', v_index.oid::pg_catalog.regclass);
            ELSIF v_index.keys = 'brin (created_at)' THEN
                EXECUTE pg_catalog.format('ALTER INDEX %s SET (autosummarize = on)', v_index.oid::pg_catalog.regclass);
            END IF;
        END LOOP;
    END LOOP;
END
$upgrade$;

-- After the functions.
-- Gateways: what a loop makes for the tables of a fresh installation.
ALTER TABLE @extschema@.aggregator_leases ALTER COLUMN user_id SET STATISTICS 0;
CREATE POLICY admin_insert ON @extschema@.aggregator_gateways FOR INSERT
    WITH CHECK ((SELECT @extschema@.aggregator_is_admin()));
CREATE POLICY admin_update ON @extschema@.aggregator_gateways FOR UPDATE
    USING ((SELECT @extschema@.aggregator_is_admin()))
    WITH CHECK ((SELECT @extschema@.aggregator_is_admin()));
CREATE POLICY admin_delete ON @extschema@.aggregator_gateways FOR DELETE
    USING ((SELECT @extschema@.aggregator_is_admin()));
ALTER TABLE @extschema@.aggregator_usage_labels ALTER COLUMN label SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_gateway_keys
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0,
    ALTER COLUMN name SET STATISTICS 0,
    ALTER COLUMN key_hint SET STATISTICS 0,
    ALTER COLUMN tags SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_console_sessions
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_cache ALTER COLUMN answer SET STORAGE EXTERNAL;
ALTER TABLE @extschema@.aggregator_cache
    ALTER COLUMN print SET STATISTICS 0,
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN answer SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_ai_columns
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN definer SET STATISTICS 0,
    ALTER COLUMN request SET STATISTICS 0,
    ALTER COLUMN backfill_after SET STATISTICS 0,
    ALTER COLUMN paused_for SET STATISTICS 0,
    ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_ai_queue
    ALTER COLUMN key SET STATISTICS 0,
    ALTER COLUMN error SET STATISTICS 0;
-- The worker adds up its batches by itself.
DROP FUNCTION @extschema@.aggregator_roll_up_batch(@extschema@.aggregator_usage_logs[]);
DROP FUNCTION @extschema@.aggregator_roll_up_one(@extschema@.aggregator_usage_logs);
-- Money: nothing asks the old one any more.
DROP FUNCTION @extschema@.aggregator_spent(text, uuid, text, timestamptz);
-- Its comment went with the old one, and says the same.
COMMENT ON FUNCTION @extschema@.aggregator_routes(text, text, text) IS
    'Every route of a user for a model, best first. Internal.';
-- Days with rows that count otherwise now, because they said or reserved more than any row may count.
DO $upgrade$
DECLARE
    v_day timestamptz;
BEGIN
    FOR v_day IN
        SELECT DISTINCT pg_catalog.date_trunc('day', log.created_at, 'UTC')
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.status <> 'pending'
          AND pg_catalog.isfinite(log.created_at)
          AND (log.cost_estimate > 1000
               OR log.total_tokens > 10000000
               OR log.reserved_tokens NOT BETWEEN 0 AND 2147483647
               OR log.reserved_cost NOT BETWEEN 0 AND 1e12)
    LOOP
        PERFORM @extschema@.aggregator_recount_usage(v_day, v_day + pg_catalog.make_interval(days => 1));
    END LOOP;
END
$upgrade$;

-- People: planners forget what they remember of prompts, answers, keys' hints and settings, and do not learn it
-- again. Not by giving a column its own type anew, which a view of somebody's on it would forbid.
DELETE FROM pg_catalog.pg_statistic AS remembered
USING pg_catalog.pg_attribute AS a
WHERE remembered.starelid = a.attrelid
  AND remembered.staattnum = a.attnum
  AND ((a.attrelid = '@extschema@.aggregator_jobs'::pg_catalog.regclass
        AND a.attname IN ('user_id', 'request', 'response', 'error', 'idempotency_key'))
       OR (a.attrelid = '@extschema@.user_api_providers'::pg_catalog.regclass
           AND a.attname IN ('user_id', 'api_key_encrypted', 'key_hint', 'settings'))
       OR (a.attrelid IN ('@extschema@.aggregator_budgets'::pg_catalog.regclass,
               '@extschema@.aggregator_rate_limits'::pg_catalog.regclass,
               '@extschema@.aggregator_budget_warnings'::pg_catalog.regclass,
               '@extschema@.aggregator_cooling'::pg_catalog.regclass)
           AND a.attname = 'user_id'));
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

-- People: headers of providers that may carry a secret, which everybody may read, go with a warning.
UPDATE @extschema@.api_providers AS p
SET headers = safe.headers
FROM (
    SELECT old.id, @extschema@.aggregator_checked_headers(old.name, old.headers, true) AS headers
    FROM @extschema@.api_providers AS old
    OFFSET 0
) AS safe
WHERE safe.id = p.id
  AND safe.headers <> p.headers;
