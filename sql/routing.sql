-- How a call finds its provider, model and key. What runs in every call is plpgsql, which keeps its
-- plans for the session; a SQL function with a search_path of its own is planned on each call.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION @extschema@.aggregator_provider_id(p_provider text) RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT p.id
        FROM @extschema@.api_providers AS p
        -- Of a value of any length, no more is looked at for each provider than an id has.
        WHERE p.name = p_provider OR p.id::text = lower(left(p_provider, 37))
        -- A name may look like an id; an id is nobody else's.
        ORDER BY p.name = p_provider
        LIMIT 1
    );
END
$$;

-- Whether a platform key with these settings serves a model of the catalogue: one on its list, by its
-- whole id, where it has a list; what is no list has nothing on it.
CREATE FUNCTION @extschema@.aggregator_platform_serves(p_settings jsonb, p_model_id text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NOT p_settings ? 'models'
        OR jsonb_typeof(p_settings -> 'models') = 'array' AND p_settings -> 'models' ? p_model_id;
END
$$;

-- Every route for a model, best first: a model of this very id, then the user's own key before the
-- platform's, then priority (higher first), then price. It bypasses row-level security by running as the
-- owner, so it is granted to nobody; the functions in front of it settle who the user is.
CREATE FUNCTION @extschema@.aggregator_routes(p_model text, p_user_id text, p_provider text DEFAULT NULL)
RETURNS TABLE (
    provider_id       uuid,
    provider_name     text,
    provider_type     text,
    api_standard      text,
    base_url          text,
    headers           jsonb,
    model_id          text,
    user_provider_id  uuid,
    is_platform_key   boolean,
    api_key_encrypted bytea,
    pricing           jsonb,
    context_window    integer,
    max_output_tokens integer,
    can_stream        boolean,
    is_listed         boolean,
    may_embed         boolean,
    takes_schema      boolean,
    takes_tools       boolean
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_given    uuid;
    v_named    uuid;
    v_is_id    boolean := false;
    v_prefix   text    := split_part(p_model, ':', 1);
    v_model    text;
    v_provider uuid;
BEGIN
    IF p_provider IS NOT NULL THEN
        v_given := @extschema@.aggregator_provider_id(p_provider);
        IF v_given IS NULL THEN
            RETURN;
        END IF;
    END IF;
    -- "openrouter:openai/gpt-4o" may name a provider; "x/y:free" does not.
    IF length(p_model) > length(v_prefix) + 1 THEN
        SELECT p.id INTO v_named
        FROM @extschema@.api_providers AS p
        WHERE p.name = v_prefix AND (v_given IS NULL OR p.id = v_given);
    END IF;
    IF v_named IS NOT NULL THEN
        v_is_id := EXISTS (SELECT FROM @extschema@.aggregator_models AS m WHERE m.model_id = p_model)
            OR EXISTS (
                SELECT FROM @extschema@.aggregator_user_models AS own
                WHERE own.user_id = p_user_id AND own.model_id = p_model);
    END IF;

    -- What a name means, the first that the user can call: 1, a model of this very id, be it "mistral:7b"; 2,
    -- the model "7b" of provider "mistral"; 3, a model whose id it is, or is the last part of. Where no
    -- provider is named, 3 is all there is.
    FOR v_step IN CASE WHEN v_named IS NULL THEN 3 ELSE 1 END .. 3 LOOP
        CONTINUE WHEN v_step = 1 AND NOT v_is_id;
        v_model := CASE v_step WHEN 2 THEN substr(p_model, length(v_prefix) + 2) ELSE p_model END;
        v_provider := CASE v_step WHEN 2 THEN v_named ELSE v_given END;
        RETURN QUERY
        SELECT p.id, p.name, p.provider_type, p.api_standard, p.base_url, p.headers, m.model_id,
            k.id, k.user_id IS NULL, k.api_key_encrypted, m.pricing, m.context_window, m.max_output_tokens,
            p.features @> '{"supports_streaming": true}'::jsonb, true,
            -- A type may be a guess from the name. One that is paid for what comes out gives no embeddings.
            m.model_type = 'embedding' OR m.model_type = 'chat' AND coalesce((m.pricing ->> 'output')::numeric, 0) = 0,
            m.capabilities @> '{"structured_outputs": true}'::jsonb, m.capabilities @> '{"functions": true}'::jsonb
        FROM (
            SELECT listed.provider_id, listed.model_id, listed.model_name, listed.pricing, listed.context_window,
                listed.max_output_tokens, listed.model_type, listed.capabilities, listed.is_available,
                NULL::text AS user_id
            FROM @extschema@.aggregator_models AS listed
            WHERE listed.model_id = v_model OR listed.model_name = v_model
            UNION ALL
            -- What only the user's own key is shown.
            SELECT own.provider_id, own.model_id, own.model_name, own.pricing, own.context_window,
                own.max_output_tokens, own.model_type, own.capabilities, true, own.user_id
            FROM @extschema@.aggregator_user_models AS own
            WHERE own.user_id = p_user_id
              AND (own.model_id = v_model OR own.model_name = v_model)
              AND NOT EXISTS (
                  SELECT FROM @extschema@.aggregator_models AS listed
                  WHERE listed.provider_id = own.provider_id AND listed.model_id = own.model_id AND listed.is_available
              )
        ) AS m
        JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
        JOIN @extschema@.user_api_providers AS k
            ON k.provider_id = m.provider_id AND (m.user_id IS NULL OR k.user_id = m.user_id)
        WHERE (v_provider IS NULL OR m.provider_id = v_provider)
          AND (v_step <> 1 OR m.model_id = v_model)
          -- Whoever names the provider gets the model sent, whatever the catalogue says.
          AND (m.is_available OR v_provider IS NOT NULL)
          AND p.is_active
          AND k.is_active
          AND (k.user_id = p_user_id
               OR k.user_id IS NULL AND @extschema@.aggregator_platform_serves(k.settings, m.model_id))
          -- At one provider, the model of this very id takes the place of those that only end in it.
          AND (m.model_id = v_model OR NOT EXISTS (
                  SELECT FROM @extschema@.aggregator_models AS exact
                  WHERE exact.provider_id = m.provider_id
                    AND exact.model_id = v_model
                    AND (exact.is_available OR v_provider IS NOT NULL)
              ) AND NOT EXISTS (
                  SELECT FROM @extschema@.aggregator_user_models AS exact
                  WHERE exact.user_id = k.user_id
                    AND exact.provider_id = m.provider_id
                    AND exact.model_id = v_model
              ))
        ORDER BY m.model_id = v_model DESC, k.user_id IS NULL, k.priority DESC, m.is_available DESC,
            (m.pricing ->> 'input')::numeric + coalesce((m.pricing ->> 'output')::numeric, 0) NULLS LAST,
            p.name, m.model_id;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;

    -- A provider may know a model that the catalogue does not: it is sent all the same, unpriced, where
    -- the user pays. The platform's key serves what is listed and nothing else. To a given provider it is
    -- sent as it stands; by its prefix a provider is asked only where nobody has a model that is called so.
    v_provider := coalesce(v_given, CASE WHEN NOT v_is_id THEN v_named END);
    IF v_provider IS NOT NULL THEN
        v_model := CASE WHEN v_given IS NULL THEN substr(p_model, length(v_prefix) + 2) ELSE p_model END;
        RETURN QUERY
        SELECT p.id, p.name, p.provider_type, p.api_standard, p.base_url, p.headers, v_model,
            k.id, false, k.api_key_encrypted, NULL::jsonb, NULL::integer, NULL::integer,
            p.features @> '{"supports_streaming": true}'::jsonb, false, true, false, false
        FROM @extschema@.api_providers AS p
        JOIN @extschema@.user_api_providers AS k ON k.provider_id = p.id
        WHERE p.id = v_provider
          AND p.is_active
          AND k.is_active
          AND k.user_id = p_user_id
        ORDER BY k.priority DESC;
    END IF;
END
$$;

-- The provider and the model that a name means in a price or a rule, where a call by that name goes: a model
-- of this very id, else the provider that it begins with and the rest. By the catalogue of all: what a user's
-- own key is shown decides no rule. It runs as its caller.
CREATE FUNCTION @extschema@.aggregator_meant(
    p_model         text,
    p_provider_id   uuid,
    OUT provider_id uuid,
    OUT model_id    text
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_prefix text := split_part(p_model, ':', 1);
    v_rest   text := substr(p_model, length(v_prefix) + 2);
    v_named  uuid;
BEGIN
    provider_id := p_provider_id;
    model_id := p_model;
    IF v_rest = '' THEN
        RETURN;
    END IF;
    SELECT p.id INTO v_named
    FROM @extschema@.api_providers AS p
    WHERE p.name = v_prefix AND (p_provider_id IS NULL OR p.id = p_provider_id);
    IF v_named IS NULL
        OR EXISTS (
            SELECT FROM @extschema@.aggregator_models AS m
            WHERE m.model_id = p_model AND (p_provider_id IS NULL OR m.provider_id = p_provider_id))
    THEN
        RETURN;
    END IF;
    -- What nobody lists means the provider that its name begins with, unless that is given, or another has a
    -- model that ends in it.
    IF EXISTS (
            SELECT FROM @extschema@.aggregator_models AS m
            WHERE m.provider_id = v_named AND (m.model_id = v_rest OR m.model_name = v_rest))
        OR p_provider_id IS NULL
            AND NOT EXISTS (SELECT FROM @extschema@.aggregator_models AS m WHERE m.model_name = p_model)
    THEN
        provider_id := v_named;
        model_id := v_rest;
    END IF;
END
$$;

CREATE FUNCTION @extschema@.get_user_available_models(p_user_id text DEFAULT NULL)
RETURNS TABLE (
    provider_id           uuid,
    provider_name         text,
    provider_display_name text,
    provider_type         text,
    model_id              text,
    model_name            text,
    display_name          text,
    model_type            text,
    capabilities          jsonb,
    context_window        integer,
    max_output_tokens     integer,
    pricing               jsonb,
    is_aggregator         boolean
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.id, p.name, p.display_name, p.provider_type, m.model_id, m.model_name, m.display_name,
        m.model_type, m.capabilities, m.context_window, m.max_output_tokens, m.pricing,
        p.provider_type = 'aggregator'
    FROM @extschema@.api_providers AS p
    JOIN @extschema@.aggregator_models AS m ON m.provider_id = p.id
    CROSS JOIN (SELECT @extschema@.aggregator_platform_models(p_user_id) AS listed) AS platform
    WHERE p.id = ANY (@extschema@.aggregator_spendable_providers(p_user_id))
      -- Where only the platform's key pays, what it serves.
      AND (NOT platform.listed ? p.id::text OR platform.listed -> p.id::text ? m.model_id)
      AND p.is_active
      AND m.is_available
    UNION ALL
    -- What only the user's own key is shown.
    SELECT p.id, p.name, p.display_name, p.provider_type, own.model_id, own.model_name, own.display_name,
        own.model_type, own.capabilities, own.context_window, own.max_output_tokens, own.pricing,
        p.provider_type = 'aggregator'
    FROM @extschema@.api_providers AS p
    JOIN @extschema@.aggregator_user_models AS own ON own.provider_id = p.id
    WHERE own.user_id = @extschema@.aggregator_acting_user(p_user_id)
      AND p.is_active
      AND EXISTS (
          SELECT FROM @extschema@.user_api_providers AS k
          WHERE k.user_id = own.user_id AND k.provider_id = own.provider_id AND k.is_active
      )
      AND NOT EXISTS (
          SELECT FROM @extschema@.aggregator_models AS m
          WHERE m.provider_id = own.provider_id AND m.model_id = own.model_id AND m.is_available
      )
    ORDER BY 2, 5
$$;

SET LOCAL search_path = @extschema@, pg_temp;
