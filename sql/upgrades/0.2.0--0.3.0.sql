-- What a fresh installation cannot tell of the way from 0.2.0 to 0.3.0: changes of tables that are there,
-- functions that go, data that is converted.

-- ledger: bounds of what tenants write. Settings that are longer than they may be now are emptied.
UPDATE @extschema@.user_api_providers
SET settings = '{}'::jsonb
WHERE pg_catalog.octet_length(settings::text) > 8192;

-- ledger: aggregator_status() has another column.
DROP FUNCTION IF EXISTS @extschema@.aggregator_status();
