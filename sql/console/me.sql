-- GET me
-- Who the caller is, and how far they have come.
SELECT jsonb_build_object(
    'user_id', @extschema@.aggregator_user_id(),
    'role', current_user::text,
    'is_admin', @extschema@.aggregator_is_admin(),
    'is_reader', @extschema@.aggregator_is_reader(),
    'version', (SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'aggregator'),
    'database', current_database(),
    'setup', jsonb_build_object(
        -- Providers at which somebody pays for the caller.
        'providers', cardinality(@extschema@.aggregator_spendable_providers(NULL::text)),
        'models', (SELECT count(*) FROM @extschema@.get_user_available_models(NULL::text)),
        'has_usage', EXISTS (
            SELECT
            FROM @extschema@.aggregator_usage_hourly AS used
            WHERE used.user_id = @extschema@.aggregator_user_id())
    )
)
