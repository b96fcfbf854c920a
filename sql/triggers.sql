SET LOCAL search_path = pg_catalog, pg_temp;

-- What a column may hold is in these triggers, and in no CHECK, because a restore must not lose a whole
-- table for one row that is too long.
CREATE FUNCTION @extschema@.aggregator_before_provider() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_long text;
    v_role text;
BEGIN
    -- What comes from the hub has been checked there.
    IF @extschema@.aggregator_is_applying() THEN
        RETURN NEW;
    END IF;
    PERFORM @extschema@.aggregator_check_provider_urls(NEW.base_url, NEW.models_url, NEW.key_check_url);
    IF TG_OP = 'UPDATE' THEN
        -- A sync is not an edit, and writes last_synced_at alone.
        IF (NEW.id, NEW.name, NEW.display_name, NEW.provider_type, NEW.api_standard, NEW.base_url, NEW.models_url,
            NEW.key_check_url, NEW.catalogue_format, NEW.headers, NEW.features, NEW.documentation_url,
            NEW.key_url, NEW.is_active, NEW.created_at, NEW.updated_at, NEW.price_unit)
           IS NOT DISTINCT FROM
           (OLD.id, OLD.name, OLD.display_name, OLD.provider_type, OLD.api_standard, OLD.base_url, OLD.models_url,
            OLD.key_check_url, OLD.catalogue_format, OLD.headers, OLD.features, OLD.documentation_url,
            OLD.key_url, OLD.is_active, OLD.created_at, OLD.updated_at, OLD.price_unit)
        THEN
            RETURN NEW;
        END IF;
        IF NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := clock_timestamp();
        END IF;
    END IF;
    v_long := CASE
        WHEN octet_length(NEW.display_name) > 255 THEN 'display_name must not be longer than 255 bytes'
        WHEN octet_length(NEW.base_url) > 2000 THEN 'base_url must not be longer than 2000 bytes'
        WHEN octet_length(NEW.models_url) > 2000 THEN 'models_url must not be longer than 2000 bytes'
        WHEN octet_length(NEW.key_check_url) > 2000 THEN 'key_check_url must not be longer than 2000 bytes'
        WHEN octet_length(NEW.documentation_url) > 2000 THEN 'documentation_url must not be longer than 2000 bytes'
        WHEN octet_length(NEW.key_url) > 2000 THEN 'key_url must not be longer than 2000 bytes'
        WHEN octet_length(NEW.headers::text) > 8192 THEN 'headers must not be longer than 8192 bytes'
        WHEN octet_length(NEW.features::text) > 8192 THEN 'features must not be longer than 8192 bytes'
    END;
    IF v_long IS NOT NULL AND TG_OP = 'INSERT' AND NEW.created_at <> now() THEN
        RAISE WARNING 'provider % is restored, and not active: %', NEW.name, v_long;
        NEW.is_active := false;
    ELSIF v_long IS NOT NULL THEN
        RAISE EXCEPTION '%', v_long USING ERRCODE = 'PT413';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        RETURN NEW;
    END IF;
    -- Only a restore inserts rows of another moment than now. Such a row replaces the fresh seed of its id, and
    -- makes room for itself where it took a seed's name.
    IF NEW.created_at <> now() THEN
        -- Keys and models of the seed's id may be restored already, and its own row, renamed, still to come: they
        -- do not go with the fresh seed.
        IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
            v_role := current_setting('session_replication_role');
            PERFORM set_config('session_replication_role', 'replica', true);
        END IF;
        DELETE FROM @extschema@.api_providers AS seed
        WHERE seed.name = NEW.name
          AND seed.id <> NEW.id
          AND seed.id::text LIKE 'a9920000-%'
          AND seed.updated_at = seed.created_at;
        IF v_role IS NOT NULL THEN
            PERFORM set_config('session_replication_role', v_role, true);
        END IF;
        UPDATE @extschema@.api_providers AS seed
        SET name = NEW.name,
            display_name = NEW.display_name,
            provider_type = NEW.provider_type,
            api_standard = NEW.api_standard,
            base_url = NEW.base_url,
            models_url = NEW.models_url,
            key_check_url = NEW.key_check_url,
            catalogue_format = NEW.catalogue_format,
            headers = NEW.headers,
            features = NEW.features,
            documentation_url = NEW.documentation_url,
            key_url = NEW.key_url,
            is_active = NEW.is_active,
            last_synced_at = NEW.last_synced_at,
            created_at = NEW.created_at,
            updated_at = NEW.updated_at,
            price_unit = NEW.price_unit
        WHERE seed.id = NEW.id
          AND seed.updated_at = seed.created_at;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER before_provider BEFORE INSERT OR UPDATE ON @extschema@.api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_before_provider();

CREATE FUNCTION @extschema@.aggregator_before_key() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_settings CONSTANT integer := 8192;
BEGIN
    -- What comes from the hub has been checked there, and noted.
    IF @extschema@.aggregator_is_applying() THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF octet_length(NEW.settings::text) <= c_settings THEN
            RETURN NEW;
        -- Only a restore inserts rows of another moment than now. One row that is too long must not cost it all others.
        ELSIF NEW.created_at <> now() THEN
            RAISE WARNING 'the settings of key % are longer than % bytes, and left out', NEW.id, c_settings;
            NEW.settings := '{}';
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'settings must not be longer than % bytes', c_settings USING ERRCODE = 'PT413';
    END IF;
    IF NEW.settings IS DISTINCT FROM OLD.settings
       AND octet_length(NEW.settings::text) > c_settings THEN
        RAISE EXCEPTION 'settings must not be longer than % bytes', c_settings USING ERRCODE = 'PT413';
    END IF;
    IF (NEW.id, NEW.user_id, NEW.provider_id, NEW.api_key_encrypted, NEW.key_hint, NEW.is_active, NEW.priority,
        NEW.settings, NEW.last_validated_at, NEW.created_at, NEW.updated_at)
       IS DISTINCT FROM
       (OLD.id, OLD.user_id, OLD.provider_id, OLD.api_key_encrypted, OLD.key_hint, OLD.is_active, OLD.priority,
        OLD.settings, OLD.last_validated_at, OLD.created_at, OLD.updated_at)
    THEN
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

-- Use is not an edit: where the worker writes last_used_at, nothing of the row is read.
CREATE TRIGGER before_key BEFORE INSERT OR UPDATE OF id, user_id, provider_id, api_key_encrypted, key_hint, is_active,
    priority, settings, last_validated_at, created_at, updated_at ON @extschema@.user_api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_before_key();

-- PostgREST reads the schema again when the extension changes or goes; see bootstrap.sql.
CREATE FUNCTION @extschema@.aggregator_notify_postgrest() RETURNS event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT starts_with(current_setting('application_name'), 'citus_internal gpid=') THEN
        NOTIFY pgrst, 'reload schema';
    END IF;
END
$$;

CREATE EVENT TRIGGER aggregator_notify_postgrest ON ddl_command_start
WHEN TAG IN ('ALTER EXTENSION', 'DROP EXTENSION')
EXECUTE FUNCTION @extschema@.aggregator_notify_postgrest();

SET LOCAL search_path = @extschema@, pg_temp;
