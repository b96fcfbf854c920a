SET LOCAL search_path = pg_catalog, pg_temp;

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

SET LOCAL search_path = @extschema@, pg_temp;
