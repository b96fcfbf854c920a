-- What routes are made of, watched: every process keeps the routes and the rules of its last calls
-- (src/route_cache.rs), until one of these changes.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_routes_changed() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_routes_changed_wrapper';

-- By row: what a caller of SPI stops at its first row fires no trigger of its statement, and a subscriber of
-- logical replication fires none either. When something was last used, checked or synced changes no route.
CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE OF id, name, provider_type, api_standard, base_url,
    headers, features, is_active ON @extschema@.api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE OF id, user_id, provider_id, api_key_encrypted, is_active,
    priority, settings ON @extschema@.user_api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE OF provider_id, model_id, model_name, capabilities,
    pricing, context_window, max_output_tokens, is_available, shares_cache ON @extschema@.aggregator_models
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE ON @extschema@.aggregator_user_models
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE ON @extschema@.aggregator_budgets
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE ON @extschema@.aggregator_rate_limits
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

CREATE TRIGGER routes_changed AFTER INSERT OR DELETE OR UPDATE OF id, user_id, role, key_hash, models, tags, is_anonymous,
    expires_at, old_key_hash, old_valid_until, revoked_at ON @extschema@.aggregator_gateway_keys
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

-- Of sessions of the console, those that have a token are kept. A code that is exchanged for one changes nothing.
CREATE TRIGGER routes_changed AFTER DELETE OR UPDATE ON @extschema@.aggregator_console_sessions
FOR EACH ROW WHEN (OLD.token_hash IS NOT NULL) EXECUTE FUNCTION @extschema@.aggregator_routes_changed();

COMMENT ON FUNCTION @extschema@.aggregator_routes_changed() IS
    'Has every process forget the routes that it keeps, once the transaction commits. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
