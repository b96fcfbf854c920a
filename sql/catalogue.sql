SET LOCAL search_path = pg_catalog, pg_temp;

-- Stores a catalogue that was fetched, given column by column: one large document would be parsed, copied and taken
-- apart as a whole, which took longer than all else. Rows that did not change are not touched, not even locked,
-- so a sync that changes nothing writes no tuple. A model that vanished stays, unavailable: logs
-- point at it. Runs as the owner, granted to nobody.
CREATE FUNCTION @extschema@.aggregator_store_catalogue(
    p_provider_id       uuid,
    p_is_inferred       boolean,
    p_model_ids         text[],
    p_model_names       text[],
    p_display_names     text[],
    p_model_types       text[],
    p_capabilities      text[],
    p_context_windows   integer[],
    p_max_output_tokens integer[],
    p_pricing           text[],
    OUT total           integer,
    OUT added           integer,
    OUT updated         integer,
    OUT removed         integer,
    OUT unchanged       integer
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Nobody knows how long a list is, and right after the first one how large the table is: joins whose time does
-- not grow with the square, whatever the plan was made from.
SET enable_nestloop = off
SET enable_hashjoin = on
-- A list of 10,000 models is kept in memory, and is no reason to compile anything.
SET work_mem = '64MB'
SET jit = off
AS $$
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
    ),
    -- What the row shall be. What a list does not say stays as it is, and what was only inferred
    -- from a name does not overwrite what somebody has put right.
    compared AS (
        SELECT m.id, f.model_id, f.model_name, f.display_name,
            CASE WHEN p_is_inferred THEN coalesce(m.model_type, f.model_type) ELSE f.model_type END AS model_type,
            CASE WHEN p_is_inferred THEN coalesce(m.capabilities, f.capabilities) ELSE f.capabilities END AS capabilities,
            coalesce(f.context_window, m.context_window) AS context_window,
            coalesce(f.max_output_tokens, m.max_output_tokens) AS max_output_tokens,
            f.pricing AS fresh_pricing,
            coalesce(f.pricing, m.catalogue_pricing, '{}') AS catalogue_pricing,
            -- A price that somebody has set stays until it is unset.
            CASE WHEN m.pricing_source = 'manual' THEN m.pricing
                ELSE coalesce(f.pricing, m.pricing, '{}') END AS pricing,
            (m.model_name, m.display_name, m.is_available)
                IS NOT DISTINCT FROM (f.model_name, f.display_name, true) AS is_named_the_same,
            m.model_type AS old_type, m.capabilities AS old_capabilities,
            m.context_window AS old_window, m.max_output_tokens AS old_output,
            m.catalogue_pricing AS old_catalogue, m.pricing AS old_pricing
        FROM fresh AS f
        LEFT JOIN @extschema@.aggregator_models AS m
            ON m.provider_id = p_provider_id AND m.model_id = f.model_id
    ),
    wanted AS MATERIALIZED (
        SELECT w.*
        FROM compared AS w
        WHERE w.id IS NULL
           OR NOT w.is_named_the_same
           OR (w.model_type, w.capabilities, w.context_window, w.max_output_tokens,
               w.catalogue_pricing, w.pricing)
               IS DISTINCT FROM
              (w.old_type, w.old_capabilities, w.old_window, w.old_output,
               w.old_catalogue, w.old_pricing)
    ),
    inserted AS (
        INSERT INTO @extschema@.aggregator_models
            (provider_id, model_id, model_name, display_name, model_type, capabilities,
             context_window, max_output_tokens, catalogue_pricing, pricing)
        SELECT p_provider_id, w.model_id, w.model_name, w.display_name, w.model_type, w.capabilities,
            w.context_window, w.max_output_tokens, w.catalogue_pricing, w.pricing
        FROM wanted AS w
        WHERE w.id IS NULL
        ON CONFLICT DO NOTHING
        RETURNING 1
    ),
    changed AS (
        UPDATE @extschema@.aggregator_models AS m
        SET model_name = w.model_name,
            display_name = w.display_name,
            model_type = w.model_type,
            capabilities = w.capabilities,
            context_window = w.context_window,
            max_output_tokens = w.max_output_tokens,
            catalogue_pricing = w.catalogue_pricing,
            -- Not w.pricing: somebody may have set a price while this waited for the row.
            pricing = CASE WHEN m.pricing_source = 'manual' THEN m.pricing
                ELSE coalesce(w.fresh_pricing, m.pricing) END,
            is_available = true
        FROM wanted AS w
        WHERE m.provider_id = p_provider_id
          AND m.id = w.id
        RETURNING 1
    ),
    vanished AS (
        UPDATE @extschema@.aggregator_models AS m
        SET is_available = false
        WHERE m.provider_id = p_provider_id
          AND m.is_available
          -- What no list ever had cannot vanish from it.
          AND m.catalogue_pricing IS NOT NULL
          AND NOT EXISTS (SELECT FROM fresh AS f WHERE f.model_id = m.model_id)
        RETURNING 1
    )
    SELECT cardinality(p_model_ids), (SELECT count(*) FROM inserted),
        (SELECT count(*) FROM changed), (SELECT count(*) FROM vanished)
    INTO total, added, updated, removed;
    unchanged := total - added - updated;
    -- The worker has no foreign key checked: a provider that has gone meanwhile gets no models, one that goes waits.
    IF added > 0 THEN
        PERFORM FROM @extschema@.api_providers AS p WHERE p.id = p_provider_id FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'provider % does not exist any more', p_provider_id USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;

    UPDATE @extschema@.api_providers AS p
    SET last_synced_at = now()
    WHERE p.id = p_provider_id
      AND (p.last_synced_at IS NULL OR added + updated + removed > 0);
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
