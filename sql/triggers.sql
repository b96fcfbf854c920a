SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_before_provider() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_check_provider_urls(NEW.base_url, NEW.models_url, NEW.key_check_url);
    IF TG_OP = 'UPDATE' THEN
        -- A sync is not an edit.
        IF (to_jsonb(NEW) - 'last_synced_at') IS DISTINCT FROM (to_jsonb(OLD) - 'last_synced_at')
           AND NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := clock_timestamp();
        END IF;
        RETURN NEW;
    END IF;
    -- Only a restore inserts rows of the past. Such a row replaces the fresh seed of its id, and
    -- makes room for itself where it took a seed's name.
    IF NEW.created_at < now() THEN
        DELETE FROM @extschema@.api_providers AS seed
        WHERE seed.name = NEW.name
          AND seed.id <> NEW.id
          AND seed.id::text LIKE 'a9920000-%'
          AND seed.updated_at = seed.created_at;
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
            updated_at = NEW.updated_at
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
BEGIN
    -- Use is not an edit.
    IF (to_jsonb(NEW) - 'last_used_at') IS DISTINCT FROM (to_jsonb(OLD) - 'last_used_at') THEN
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER before_key BEFORE UPDATE ON @extschema@.user_api_providers
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_before_key();

-- PostgREST reads the schema again when the extension changes or goes.
CREATE FUNCTION @extschema@.aggregator_notify_postgrest() RETURNS event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NOTIFY pgrst, 'reload schema';
END
$$;

CREATE EVENT TRIGGER aggregator_notify_postgrest ON ddl_command_start
WHEN TAG IN ('ALTER EXTENSION', 'DROP EXTENSION')
EXECUTE FUNCTION @extschema@.aggregator_notify_postgrest();

SET LOCAL search_path = @extschema@, pg_temp;
