SET LOCAL search_path = pg_catalog, pg_temp;

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
-- Says whether anything has changed. Runs as the owner, granted to nobody.
CREATE FUNCTION @extschema@.aggregator_store_user_models(
    p_user_id           text,
    p_provider_id       uuid,
    p_model_ids         text[],
    p_model_names       text[],
    p_display_names     text[],
    p_model_types       text[],
    p_capabilities      text[],
    p_context_windows   integer[],
    p_max_output_tokens integer[],
    p_pricing           text[]
) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- As in aggregator_store_catalogue.
SET enable_nestloop = off
SET enable_hashjoin = on
SET work_mem = '64MB'
SET jit = off
AS $$
DECLARE
    c_most CONSTANT bigint := 5000;
    v_vanished      bigint;
    v_stored        bigint;
BEGIN
    WITH fresh AS MATERIALIZED (
        SELECT f.model_id, f.model_name, f.display_name, f.model_type, f.capabilities::jsonb AS capabilities,
            f.context_window, f.max_output_tokens, f.pricing::jsonb AS pricing
        FROM unnest(
            p_model_ids, p_model_names, p_display_names, p_model_types, p_capabilities,
            p_context_windows, p_max_output_tokens, p_pricing
        ) AS f (
            model_id, model_name, display_name, model_type, capabilities,
            context_window, max_output_tokens, pricing)
        ORDER BY f.model_id
        LIMIT c_most
    ),
    vanished AS (
        DELETE FROM @extschema@.aggregator_user_models AS m
        WHERE m.user_id = p_user_id
          AND m.provider_id = p_provider_id
          AND NOT EXISTS (SELECT FROM fresh AS f WHERE f.model_id = m.model_id)
        RETURNING m.model_id
    ),
    stored AS (
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
             excluded.context_window, excluded.max_output_tokens, excluded.pricing)
        RETURNING m.model_id
    )
    SELECT (SELECT count(*) FROM vanished), (SELECT count(*) FROM stored) INTO v_vanished, v_stored;
    -- As in aggregator_store_catalogue.
    IF v_stored > 0 THEN
        PERFORM FROM @extschema@.api_providers AS p WHERE p.id = p_provider_id FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'provider % does not exist any more', p_provider_id USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;
    RETURN v_vanished + v_stored > 0;
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
COMMENT ON FUNCTION @extschema@.aggregator_store_user_models(text, uuid, text[], text[], text[], text[], text[], integer[], integer[], text[]) IS 'Stores the model list that a user''s key gave, for that user alone; whether anything has changed. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
