-- That a provider is there whose keys, models or prices are written. The foreign keys say so to whoever reads the
-- schema, and take the rows along where a provider goes; but they check nothing where a row comes, because a
-- restore copies tables in any order (aggregator_ease_references). These triggers check it as a foreign key would:
-- not under session_replication_role = replica, and not what a restore brings: a row of another moment than now,
-- from a superuser, or with row_security = off, as every restore sets it. (Whom row-level security binds can
-- insert nothing then.)

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_provider_is_there() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_provider_is_there_wrapper';

CREATE TRIGGER provider_is_there AFTER INSERT ON @extschema@.user_api_providers
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND (NEW.created_at = now()
         OR (current_setting('row_security') <> 'off' AND current_setting('is_superuser') <> 'on'))
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();
CREATE TRIGGER provider_is_still_there AFTER UPDATE OF provider_id ON @extschema@.user_api_providers
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND NEW.provider_id <> OLD.provider_id
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();

CREATE TRIGGER provider_is_there AFTER INSERT ON @extschema@.aggregator_models
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND (NEW.first_seen_at = now()
         OR (current_setting('row_security') <> 'off' AND current_setting('is_superuser') <> 'on'))
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();
CREATE TRIGGER provider_is_still_there AFTER UPDATE OF provider_id ON @extschema@.aggregator_models
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND NEW.provider_id <> OLD.provider_id
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();

CREATE TRIGGER provider_is_there AFTER INSERT ON @extschema@.aggregator_user_models
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND (NEW.first_seen_at = now()
         OR (current_setting('row_security') <> 'off' AND current_setting('is_superuser') <> 'on'))
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();
CREATE TRIGGER provider_is_still_there AFTER UPDATE OF provider_id ON @extschema@.aggregator_user_models
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND NEW.provider_id <> OLD.provider_id
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();

CREATE TRIGGER provider_is_there AFTER INSERT ON @extschema@.aggregator_model_prices
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND (NEW.valid_from = now()
         OR (current_setting('row_security') <> 'off' AND current_setting('is_superuser') <> 'on'))
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();
CREATE TRIGGER provider_is_still_there AFTER UPDATE OF provider_id ON @extschema@.aggregator_model_prices
FOR EACH ROW WHEN (
    current_setting('session_replication_role') <> 'replica'
    AND NEW.provider_id <> OLD.provider_id
) EXECUTE FUNCTION @extschema@.aggregator_provider_is_there();

COMMENT ON FUNCTION @extschema@.aggregator_provider_is_there() IS 'Checks, as a foreign key would, that the provider is there whose key, model or price is written. 23503.';

SET LOCAL search_path = @extschema@, pg_temp;
