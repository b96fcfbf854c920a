-- What models cost, and when: the history of price lists, prices that somebody sets, and what asks
-- for a price of another moment than now.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_model_prices (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    provider_id uuid        NOT NULL REFERENCES @extschema@.api_providers ON DELETE CASCADE,
    model_id    text        NOT NULL,
    pricing     jsonb       NOT NULL CONSTRAINT pricing CHECK (@extschema@.aggregator_is_pricing(pricing)),
    valid_from  timestamptz NOT NULL,
    valid_to    timestamptz CHECK (valid_to > valid_from),
    source      text        NOT NULL CHECK (source IN ('sync', 'manual')),
    UNIQUE (provider_id, model_id, valid_from)
);
-- At most one list of a model holds at a time.
CREATE UNIQUE INDEX ON @extschema@.aggregator_model_prices (provider_id, model_id) WHERE valid_to IS NULL;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_model_prices', '');

-- Brings the history of these models up to date with the catalogue. It only ever writes what the
-- catalogue says, and only where that is news. A model without any price has no open row.
CREATE FUNCTION @extschema@.aggregator_store_prices(p_models uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- By keys, for one model and for thousands, also by a plan that was made while the tables were empty, and below
-- a statement that wants it otherwise.
SET enable_nestloop = on
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    -- What began in this very transaction never held for anybody else.
    DELETE FROM @extschema@.aggregator_model_prices AS price
    USING @extschema@.aggregator_models AS m
    WHERE m.id = ANY (p_models)
      AND (price.provider_id, price.model_id) = (m.provider_id, m.model_id)
      AND price.valid_to IS NULL
      AND price.valid_from >= now()
      AND price.pricing <> m.pricing;

    UPDATE @extschema@.aggregator_model_prices AS price
    SET valid_to = now()
    FROM @extschema@.aggregator_models AS m
    WHERE m.id = ANY (p_models)
      AND (price.provider_id, price.model_id) = (m.provider_id, m.model_id)
      AND price.valid_to IS NULL
      AND price.pricing <> m.pricing;

    INSERT INTO @extschema@.aggregator_model_prices (provider_id, model_id, pricing, valid_from, source)
    SELECT m.provider_id, m.model_id, m.pricing, now(), m.pricing_source
    FROM @extschema@.aggregator_models AS m
    WHERE m.id = ANY (p_models)
      AND m.pricing <> '{}'
      AND NOT EXISTS (
          SELECT FROM @extschema@.aggregator_model_prices AS price
          WHERE (price.provider_id, price.model_id) = (m.provider_id, m.model_id)
            AND price.valid_to IS NULL
      );
END
$$;

-- A price that is not the catalogue's is somebody's, who need not say so.
CREATE FUNCTION @extschema@.aggregator_before_model() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_long text;
BEGIN
    v_long := CASE
        WHEN octet_length(NEW.model_id) > 255 THEN 'model_id must not be longer than 255 bytes'
        WHEN octet_length(NEW.model_name) > 255 THEN 'model_name must not be longer than 255 bytes'
        -- What a list says is cut to 128 characters.
        WHEN octet_length(NEW.display_name) > 1024 THEN 'display_name must not be longer than 1024 bytes'
        WHEN octet_length(NEW.model_type) > 255 THEN 'model_type must not be longer than 255 bytes'
        WHEN octet_length(NEW.capabilities::text) > 8192 THEN 'capabilities must not be longer than 8192 bytes'
        WHEN octet_length(NEW.pricing::text) > 16384 THEN 'pricing must not be longer than 16384 bytes'
        WHEN octet_length(NEW.catalogue_pricing::text) > 16384
            THEN 'catalogue_pricing must not be longer than 16384 bytes'
    END;
    IF v_long IS NOT NULL AND TG_OP = 'INSERT' AND NEW.first_seen_at <> now() THEN
        -- Only a restore inserts rows of another moment than now. One row that is too long must not cost it all others.
        RAISE WARNING 'a model is left out: %', v_long;
        RETURN NULL;
    ELSIF v_long IS NOT NULL THEN
        RAISE EXCEPTION '%', v_long USING ERRCODE = 'PT413';
    END IF;
    IF NEW.pricing = coalesce(NEW.catalogue_pricing, '{}') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.pricing_source := 'manual';
    ELSIF NEW.pricing <> OLD.pricing THEN
        NEW.pricing_source := 'manual';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER before_model BEFORE INSERT OR UPDATE ON @extschema@.aggregator_models
FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_before_model();

-- The one way into the history, whoever wrote to the catalogue. It runs as the writer, who may not
-- write here; aggregator_note_prices may, and believes nobody but the catalogue.
CREATE FUNCTION @extschema@.aggregator_after_models() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_models uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Only a restore inserts rows of another moment than now, and it brings their history along.
        v_models := ARRAY(
            SELECT fresh.id FROM fresh WHERE fresh.pricing <> '{}' AND fresh.first_seen_at = now());
    ELSE
        v_models := ARRAY(
            SELECT fresh.id FROM fresh JOIN stale ON stale.id = fresh.id WHERE fresh.pricing <> stale.pricing);
    END IF;
    IF v_models <> '{}' THEN
        PERFORM @extschema@.aggregator_note_prices(v_models);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER after_insert AFTER INSERT ON @extschema@.aggregator_models
REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_after_models();

CREATE TRIGGER after_update AFTER UPDATE ON @extschema@.aggregator_models
REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_after_models();

-- The list that held at a moment. Before the first that is known, and where there was none for a
-- while, it is the next one that came: the nearest to the truth that there is, and what makes the
-- week before the installation priceable. A model whose price is no longer known has none.
CREATE FUNCTION @extschema@.aggregator_price_list(p_provider_id uuid, p_model_id text, p_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_pricing jsonb;
BEGIN
    SELECT price.pricing INTO v_pricing
    FROM @extschema@.aggregator_model_prices AS price
    WHERE price.provider_id = p_provider_id
      AND price.model_id = p_model_id
      AND (price.valid_to IS NULL OR price.valid_to > p_at)
    ORDER BY price.valid_from
    LIMIT 1;
    IF v_pricing IS NULL THEN
        SELECT nullif(m.pricing, '{}') INTO v_pricing
        FROM @extschema@.aggregator_models AS m
        WHERE m.provider_id = p_provider_id AND m.model_id = p_model_id;
    END IF;
    RETURN v_pricing;
END
$$;

-- The model that a name means, without asking whose keys there are: of this very id first, then at
-- the provider that the name begins with, then the cheapest.
CREATE FUNCTION @extschema@.aggregator_find_model(p_model text, p_provider text) RETURNS @extschema@.aggregator_models
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_provider uuid := @extschema@.aggregator_provider_id(p_provider);
    v_prefix   text := split_part(p_model, ':', 1);
    v_rest     text := substr(p_model, length(v_prefix) + 2);
    v_model    @extschema@.aggregator_models;
BEGIN
    IF p_provider IS NOT NULL AND v_provider IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT m.* INTO v_model
    FROM @extschema@.aggregator_models AS m
    JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
    WHERE (v_provider IS NULL OR m.provider_id = v_provider)
      AND (m.model_id = p_model OR m.model_name = p_model
           OR (p.name = v_prefix AND v_prefix <> p_model AND v_rest IN (m.model_id, m.model_name)))
    ORDER BY m.model_id = p_model DESC, p.name = v_prefix AND v_rest = m.model_id DESC,
        p.name = v_prefix AND v_rest = m.model_name DESC, m.is_available DESC,
        (m.pricing ->> 'input')::numeric + coalesce((m.pricing ->> 'output')::numeric, 0) NULLS LAST,
        p.name, m.model_id
    LIMIT 1;
    RETURN v_model;
END
$$;

CREATE FUNCTION @extschema@.calculate_cost(
    p_model    text,
    p_usage    jsonb,
    p_provider text        DEFAULT NULL,
    p_at       timestamptz DEFAULT now()
) RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_at    timestamptz := coalesce(p_at, now());
    v_usage jsonb       := @extschema@.aggregator_usage(p_usage);
    v_model @extschema@.aggregator_models := @extschema@.aggregator_find_model(p_model, p_provider);
    v_cost  numeric;
BEGIN
    -- A provider that does not exist has no models, whatever the usage reports.
    IF p_provider IS NOT NULL AND @extschema@.aggregator_provider_id(p_provider) IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT c.cost INTO v_cost
    FROM @extschema@.aggregator_settled_cost(
        @extschema@.aggregator_price_list(v_model.provider_id, v_model.model_id, v_at),
        nullif(v_usage -> 'parts', 'null'), (v_usage ->> 'reported_cost')::numeric, false, v_at, false) AS c;
    RETURN v_cost;
END
$$;

CREATE FUNCTION @extschema@.set_model_price(
    p_model            text,
    p_pricing          jsonb,
    p_provider         text DEFAULT NULL,
    OUT provider_name  text,
    OUT model_id       text,
    OUT pricing        jsonb,
    OUT pricing_source text
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_provider uuid := @extschema@.aggregator_provider_id(p_provider);
    v_model    text;
    v_problem  text;
    v_ids      uuid[];
    v_offers   text;
    v_row      @extschema@.aggregator_models;
BEGIN
    IF NOT @extschema@.aggregator_is_admin() THEN
        RAISE EXCEPTION 'role ''%'' may not set prices', current_user USING ERRCODE = 'PT403';
    END IF;
    PERFORM @extschema@.aggregator_require_writable('set prices'::text);
    IF p_model IS NULL OR p_model = '' THEN
        RAISE EXCEPTION 'p_model must not be empty' USING ERRCODE = 'PT400';
    END IF;
    v_problem := @extschema@.aggregator_model_problem(p_model);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION 'p_model %', v_problem USING ERRCODE = 'PT400';
    END IF;
    IF p_provider IS NOT NULL AND v_provider IS NULL THEN
        RAISE EXCEPTION 'provider ''%'' does not exist', p_provider USING ERRCODE = 'PT404';
    END IF;
    v_problem := @extschema@.aggregator_pricing_problem(p_pricing);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION 'p_pricing is refused: %', v_problem
            USING ERRCODE = 'PT400',
                HINT = 'USD per 1M tokens, for example {"input": 2.5, "output": 10, "cache_read": 1.25}.';
    END IF;
    SELECT meant.provider_id, meant.model_id
    INTO v_provider, v_model
    FROM @extschema@.aggregator_meant(p_model, v_provider) AS meant;

    -- Models of this very id go before those that only end in it.
    SELECT array_agg(m.id), string_agg(p.name || ':' || m.model_id, ', ' ORDER BY p.name, m.model_id)
    INTO v_ids, v_offers
    FROM @extschema@.aggregator_models AS m
    JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
    WHERE (v_provider IS NULL OR m.provider_id = v_provider)
      AND (m.model_id = v_model
           OR (m.model_name = v_model AND NOT EXISTS (
               SELECT FROM @extschema@.aggregator_models AS exact
               WHERE exact.model_id = v_model
                 AND (v_provider IS NULL OR exact.provider_id = v_provider))));
    IF cardinality(v_ids) > 1 THEN
        RAISE EXCEPTION 'model ''%'' is offered more than once', p_model
            USING ERRCODE = 'PT400', HINT = format('Name one of: %s.', v_offers);
    END IF;

    IF v_ids IS NOT NULL THEN
        UPDATE @extschema@.aggregator_models AS m
        SET pricing = coalesce(p_pricing, m.catalogue_pricing, '{}'),
            pricing_source = CASE WHEN p_pricing IS NULL THEN 'sync' ELSE 'manual' END
        WHERE m.id = v_ids[1]
        RETURNING m.* INTO v_row;
    ELSIF v_provider IS NULL OR p_pricing IS NULL THEN
        RAISE EXCEPTION 'no model of the catalogue is called ''%''', p_model
            USING ERRCODE = 'PT404',
                HINT = 'With p_provider, a model that the catalogue does not know can be priced too.';
    ELSE
        INSERT INTO @extschema@.aggregator_models
            (provider_id, model_id, model_name, display_name, pricing, pricing_source)
        VALUES (v_provider, v_model, regexp_replace(v_model, '^.*/', ''), v_model, p_pricing, 'manual')
        RETURNING * INTO v_row;
    END IF;
    SELECT p.name INTO provider_name FROM @extschema@.api_providers AS p WHERE p.id = v_row.provider_id;
    model_id := v_row.model_id;
    pricing := v_row.pricing;
    pricing_source := v_row.pricing_source;
END
$$;

-- Gives a settled row of the ledger another cost: the one place where that is done, so whatever is
-- kept beside the ledger and must equal it is to be changed HERE, in the same transaction. False: the
-- row has meanwhile a cost that stands.
CREATE FUNCTION @extschema@.aggregator_apply_cost(
    p_call_id    uuid,
    p_attempt    smallint,
    p_created_at timestamptz,
    p_cost       numeric,
    p_computed   numeric,
    p_source     text
) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_archive regclass;
BEGIN
    IF to_regnamespace('aggregator_archive') IS NOT NULL THEN
        -- Its month, or NULL: one before those that are with Citus.
        SELECT CASE WHEN month.since <= p_created_at THEN month.partition END INTO v_archive
        FROM @extschema@.aggregator_archives() AS month
        WHERE month.until > p_created_at
        ORDER BY month.since
        LIMIT 1;
        IF FOUND THEN
            RETURN @extschema@.aggregator_apply_archived_cost(
                v_archive, p_call_id, p_attempt, p_created_at, p_cost, p_computed, p_source);
        END IF;
    END IF;
    UPDATE @extschema@.aggregator_usage_logs AS log
    SET cost_estimate = p_cost,
        cost_computed = p_computed,
        cost_source = p_source
    WHERE log.call_id = p_call_id
      AND log.attempt = p_attempt
      AND log.created_at = p_created_at
      AND log.created_at >= @extschema@.aggregator_archived_until()
      AND log.status <> 'pending'
      AND log.cost_source IN ('unpriced', 'incomplete');
    RETURN FOUND;
END
$$;

-- Runs as the owner, granted to nobody; recost_usage in front of it decides who may ask.
CREATE FUNCTION @extschema@.aggregator_recost(p_from timestamptz, p_to timestamptz)
RETURNS TABLE (
    call_id    uuid,
    attempt    smallint,
    created_at timestamptz,
    model_id   text,
    old_cost   numeric,
    new_cost   numeric,
    old_source text,
    new_source text
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_log   @extschema@.aggregator_usage_logs;
    v_parts jsonb;
    v_cost  record;
BEGIN
    FOR v_log IN
        SELECT log.*
        FROM @extschema@.aggregator_usage_logs AS log
        WHERE log.created_at >= coalesce(p_from, '-infinity')
          AND log.created_at < coalesce(p_to, 'infinity')
          AND log.status <> 'pending'
          AND log.cost_source IN ('unpriced', 'incomplete')
          -- A row that lacks either has no cost: what is not counted is not 0.
          AND log.prompt_tokens IS NOT NULL
          AND log.completion_tokens IS NOT NULL
          -- Tokens that are a guess stay one at any price.
          AND (log.cost_estimate IS NULL OR NOT coalesce(log.metadata @> '{"estimated": true}', false))
        ORDER BY log.created_at, log.call_id, log.attempt
    LOOP
        v_parts := jsonb_build_object(
            'input', v_log.prompt_tokens::bigint - coalesce(v_log.cache_read_tokens, 0)
                - coalesce(v_log.cache_write_tokens, 0) - coalesce(v_log.cache_write_1h_tokens, 0)
                - coalesce(v_log.audio_input_tokens, 0),
            'cache_read', coalesce(v_log.cache_read_tokens, 0),
            'cache_write', coalesce(v_log.cache_write_tokens, 0),
            'cache_write_1h', coalesce(v_log.cache_write_1h_tokens, 0),
            'audio_input', coalesce(v_log.audio_input_tokens, 0),
            'output', coalesce(v_log.completion_tokens, 0)::bigint - coalesce(v_log.reasoning_tokens, 0)
                - coalesce(v_log.audio_output_tokens, 0),
            'reasoning', coalesce(v_log.reasoning_tokens, 0),
            'audio_output', coalesce(v_log.audio_output_tokens, 0),
            'image', coalesce((v_log.metadata ->> 'image')::integer, 0),
            'web_search', coalesce((v_log.metadata ->> 'web_search')::integer, 0));
        SELECT c.* INTO v_cost
        FROM @extschema@.aggregator_settled_cost(
            -- As in settling: the model that answered decides the price.
            coalesce(
                @extschema@.aggregator_price_list(v_log.provider_id, v_log.served_model, v_log.created_at),
                @extschema@.aggregator_price_list(v_log.provider_id, v_log.model_id, v_log.created_at)),
            v_parts, NULL::numeric, false, v_log.created_at,
            coalesce(v_log.metadata @> '{"estimated": true}', false)) AS c;
        -- A price where there was none, or all of them where one was missing; nothing in between.
        CONTINUE WHEN v_cost.cost IS NULL
            OR (v_log.cost_estimate IS NOT NULL AND v_cost.source <> 'computed')
            OR NOT @extschema@.aggregator_apply_cost(
                v_log.call_id, v_log.attempt, v_log.created_at, v_cost.cost, v_cost.computed, v_cost.source);
        call_id := v_log.call_id;
        attempt := v_log.attempt;
        created_at := v_log.created_at;
        model_id := v_log.model_id;
        old_cost := v_log.cost_estimate;
        new_cost := v_cost.cost;
        old_source := v_log.cost_source;
        new_source := v_cost.source;
        RETURN NEXT;
    END LOOP;
END
$$;

-- The most that one request can cost: every token of the prompt at the dearest rate that a prompt's
-- token may have, and likewise of the answer, over all tiers that so long a prompt may reach, at any
-- time of day.
CREATE FUNCTION @extschema@.aggregator_cost_bound(p_pricing jsonb, p_prompt_tokens bigint, p_output_tokens bigint) RETURNS numeric
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lists  jsonb[] := ARRAY(
        SELECT p_pricing
        UNION ALL
        SELECT tier
        FROM jsonb_array_elements(coalesce(p_pricing -> 'tiers', '[]')) AS tier
        WHERE coalesce(p_prompt_tokens > (tier ->> 'min_prompt_tokens')::numeric, true));
    v_input  numeric;
    v_output numeric;
    v_fee    numeric;
BEGIN
    -- A price that a tier says is unknown bounds nothing; nor does a list without the price itself.
    IF NOT p_pricing ?& ARRAY['input', 'output']
       OR EXISTS (SELECT FROM unnest(v_lists) AS list, jsonb_each(list) AS price WHERE price.value = 'null')
    THEN
        RETURN NULL;
    END IF;
    SELECT max(greatest((list ->> 'input')::numeric, (list ->> 'cache_read')::numeric,
            (list ->> 'cache_write')::numeric, (list ->> 'cache_write_1h')::numeric)),
        max(greatest((list ->> 'output')::numeric, (list ->> 'reasoning')::numeric)),
        max((list ->> 'request')::numeric)
    INTO v_input, v_output, v_fee
    FROM unnest(v_lists) AS list;
    RETURN trim_scale((p_prompt_tokens * v_input + p_output_tokens * v_output) / 1000000 + coalesce(v_fee, 0));
END
$$;

CREATE FUNCTION @extschema@.quote_cost(
    p_model                   text,
    p_messages                jsonb,
    p_max_output_tokens       integer DEFAULT NULL,
    p_provider                text    DEFAULT NULL,
    OUT input_tokens_estimate integer,
    OUT max_cost              numeric,
    OUT expected_cost         numeric,
    OUT currency              text
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_size     jsonb := @extschema@.aggregator_prompt_size(p_messages);
    v_user     text  := @extschema@.aggregator_user_id();
    v_model    @extschema@.aggregator_models;
    v_max      integer;
    v_hidden   @extschema@.aggregator_hidden_tokens;
    v_output   numeric;
BEGIN
    IF v_size IS NULL THEN
        RAISE EXCEPTION 'p_messages must be an array of messages' USING ERRCODE = 'PT400';
    END IF;
    IF p_max_output_tokens < 1 THEN
        RAISE EXCEPTION 'p_max_output_tokens must be positive' USING ERRCODE = 'PT400';
    END IF;
    input_tokens_estimate := v_size -> 'tokens';
    currency := 'USD';
    -- The route that the call would take, if the caller has one; else what the catalogue says.
    IF v_user IS NOT NULL THEN
        SELECT route.provider_id, route.model_id, route.pricing::jsonb, route.max_output_tokens
        INTO v_model.provider_id, v_model.model_id, v_model.pricing, v_model.max_output_tokens
        FROM @extschema@.aggregator_route(p_model, p_provider) AS route;
    END IF;
    IF v_model.model_id IS NULL THEN
        v_model := @extschema@.aggregator_find_model(p_model, p_provider);
    END IF;
    -- What images, audio and files cost shows only in the answer.
    IF v_model.pricing IS NULL OR NOT (v_size -> 'is_text')::boolean THEN
        RETURN;
    END IF;
    v_max := coalesce(p_max_output_tokens, v_model.max_output_tokens);
    SELECT seen.* INTO v_hidden
    FROM @extschema@.aggregator_hidden_tokens AS seen
    WHERE (seen.provider_id, seen.model_id) = (v_model.provider_id, v_model.model_id);
    -- A token has at least a byte, and the marks around a message fewer than its JSON. The provider may have
    -- been seen to count more.
    max_cost := @extschema@.aggregator_cost_bound(
        v_model.pricing,
        greatest((v_size -> 'bytes')::bigint, input_tokens_estimate::bigint) + coalesce(v_hidden.prompt_tokens, 0::bigint),
        v_max::bigint + coalesce(v_hidden.completion_tokens, 0::bigint));
    SELECT avg(log.completion_tokens) INTO v_output
    FROM (
        SELECT l.model_id, l.provider_id, l.status, l.completion_tokens
        FROM @extschema@.aggregator_usage_logs AS l
        WHERE l.user_id = v_user AND l.created_at > now() - interval '30 days'
        ORDER BY l.created_at DESC
        LIMIT 1000
    ) AS log
    WHERE (log.provider_id, log.model_id) = (v_model.provider_id, v_model.model_id)
      AND log.status = 'success';
    v_output := round(least(coalesce(v_output, input_tokens_estimate), v_max));
    SELECT c.cost INTO expected_cost
    FROM @extschema@.aggregator_cost(
        v_model.pricing,
        jsonb_build_object(
            'input', input_tokens_estimate, 'cache_read', 0, 'cache_write', 0, 'cache_write_1h', 0,
            'audio_input', 0, 'output', v_output, 'reasoning', 0, 'audio_output', 0),
        now()) AS c;
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
