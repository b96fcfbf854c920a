-- The price rules, in numeric from end to end. This is their only implementation: the ledger
-- settles with aggregator_settled_cost, and calculate_cost asks the same functions.

-- The prices that hold for a prompt of this size at this moment: the list, overlaid by every tier
-- whose conditions all match, a later tier over an earlier one (OpenRouter's pricing.overrides).
-- A long-context tier reprices the whole request, once the prompt is strictly larger. What is not a
-- price (a text, a negative number) is left out, and so unknown.
CREATE FUNCTION aggregator_prices_at(p_pricing jsonb, p_prompt_tokens bigint, p_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_prices jsonb   := p_pricing - 'tiers';
    v_tiers  jsonb   := coalesce(p_pricing -> 'tiers', '[]');
    v_clock  integer := to_char(p_at AT TIME ZONE 'UTC', 'HH24MI')::integer;
    v_tier   jsonb;
    v_start  integer;
    v_end    integer;
BEGIN
    IF jsonb_typeof(v_tiers) <> 'array' THEN
        v_tiers := '[]';
    END IF;
    FOR v_tier IN SELECT value FROM jsonb_array_elements(v_tiers) LOOP
        CONTINUE WHEN jsonb_typeof(v_tier) <> 'object';
        IF v_tier ? 'min_prompt_tokens' THEN
            CONTINUE WHEN jsonb_typeof(v_tier -> 'min_prompt_tokens') <> 'number'
                OR p_prompt_tokens <= (v_tier ->> 'min_prompt_tokens')::numeric;
        END IF;
        IF v_tier ? 'utc_start' OR v_tier ? 'utc_end' THEN
            CONTINUE WHEN coalesce(v_tier ->> 'utc_start', '') !~ '^[0-9]{1,4}$'
                OR coalesce(v_tier ->> 'utc_end', '') !~ '^[0-9]{1,4}$';
            v_start := v_tier ->> 'utc_start';
            v_end := v_tier ->> 'utc_end';
            -- Half-open, and it may wrap midnight.
            CONTINUE WHEN NOT CASE
                WHEN v_start <= v_end THEN v_clock >= v_start AND v_clock < v_end
                ELSE v_clock >= v_start OR v_clock < v_end
            END;
        END IF;
        v_prices := v_prices || (v_tier - ARRAY['min_prompt_tokens', 'utc_start', 'utc_end']);
    END LOOP;
    RETURN (
        SELECT coalesce(jsonb_object_agg(price.key, price.value), '{}')
        FROM jsonb_each(v_prices) AS price
        WHERE CASE WHEN jsonb_typeof(price.value) = 'number' THEN price.value::numeric >= 0 END
    );
END
$$;

-- What disjoint parts cost. NULL: a part has no price, so the whole has none; never 0 for that.
-- is_complete is false where a part was priced at a neighbour's rate for want of its own.
CREATE FUNCTION aggregator_cost(
    p_pricing       jsonb,
    p_parts         jsonb,
    p_at            timestamptz,
    OUT cost        numeric,
    OUT is_complete boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_prompt bigint := (p_parts ->> 'input')::bigint + (p_parts ->> 'cache_read')::bigint
        + (p_parts ->> 'cache_write')::bigint + (p_parts ->> 'cache_write_1h')::bigint
        + (p_parts ->> 'audio_input')::bigint;
    v_prices jsonb  := @extschema@.aggregator_prices_at(p_pricing, v_prompt, p_at);
    v_input  numeric := (v_prices ->> 'input')::numeric;
    v_output numeric := (v_prices ->> 'output')::numeric;
    v_write  numeric := (v_prices ->> 'cache_write')::numeric;
BEGIN
    is_complete := false;
    IF v_input IS NULL AND v_output IS NULL
       AND (v_prices ->> 'request')::numeric IS NULL THEN
        RETURN;
    END IF;
    SELECT CASE
            WHEN bool_and(part.price IS NOT NULL OR part.fallback IS NOT NULL) THEN
                sum(part.tokens * coalesce(part.price, part.fallback)) / 1000000
            WHEN count(*) = 0 THEN 0
        END,
        coalesce(bool_and(part.price IS NOT NULL), true)
    INTO cost, is_complete
    FROM (VALUES
        ((p_parts ->> 'input')::numeric, v_input, NULL::numeric),
        ((p_parts ->> 'cache_read')::numeric, (v_prices ->> 'cache_read')::numeric, v_input),
        ((p_parts ->> 'cache_write')::numeric, v_write, v_input),
        ((p_parts ->> 'cache_write_1h')::numeric, (v_prices ->> 'cache_write_1h')::numeric,
            coalesce(v_write, v_input)),
        ((p_parts ->> 'audio_input')::numeric, (v_prices ->> 'audio_input')::numeric, v_input),
        ((p_parts ->> 'output')::numeric, v_output, NULL),
        -- Reasoning is billed as output unless it has a price of its own.
        ((p_parts ->> 'reasoning')::numeric,
            coalesce((v_prices ->> 'reasoning')::numeric, v_output), NULL),
        ((p_parts ->> 'audio_output')::numeric, (v_prices ->> 'audio_output')::numeric, v_output)
    ) AS part (tokens, price, fallback)
    WHERE part.tokens > 0;
    cost := trim_scale(cost) + coalesce((v_prices ->> 'request')::numeric, 0);
    is_complete := is_complete AND cost IS NOT NULL;
END
$$;

-- The cost with which a row is settled: what the upstream reports, else what the rules say; the
-- computed cost is kept beside a reported one.
CREATE FUNCTION aggregator_settled_cost(
    p_pricing    jsonb,
    p_parts      jsonb,
    p_reported   numeric,
    p_is_free    boolean,
    p_at         timestamptz,
    OUT cost     numeric,
    OUT computed numeric,
    OUT source   text
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_is_complete boolean := false;
BEGIN
    IF p_parts IS NOT NULL THEN
        SELECT c.cost, c.is_complete INTO computed, v_is_complete
        FROM @extschema@.aggregator_cost(coalesce(p_pricing, '{}'), p_parts, p_at) AS c;
    ELSIF p_is_free THEN
        computed := 0;
        v_is_complete := true;
    END IF;
    cost := coalesce(p_reported, computed);
    source := CASE
        WHEN p_reported IS NOT NULL THEN 'upstream'
        WHEN p_parts IS NULL AND NOT p_is_free THEN 'incomplete'
        WHEN computed IS NULL THEN 'unpriced'
        WHEN NOT v_is_complete THEN 'incomplete'
        ELSE 'computed'
    END;
END
$$;

CREATE FUNCTION calculate_cost(p_model text, p_usage jsonb, p_provider text DEFAULT NULL) RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_usage    jsonb := @extschema@.aggregator_usage(p_usage);
    v_provider uuid  := @extschema@.aggregator_provider_id(p_provider);
    v_prefix   text  := split_part(p_model, ':', 1);
    v_pricing  jsonb;
    v_cost     numeric;
BEGIN
    IF p_provider IS NOT NULL AND v_provider IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT m.pricing INTO v_pricing
    FROM @extschema@.aggregator_models AS m
    JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
    WHERE (v_provider IS NULL OR m.provider_id = v_provider)
      AND (m.model_id = p_model OR m.model_name = p_model
           OR (p.name = v_prefix AND v_prefix <> p_model
               AND substr(p_model, length(v_prefix) + 2) IN (m.model_id, m.model_name)))
    ORDER BY m.model_id = p_model DESC, p.name = v_prefix DESC, m.is_available DESC,
        @extschema@.aggregator_price_rank(m.pricing) NULLS LAST, p.name, m.model_id
    LIMIT 1;
    SELECT c.cost INTO v_cost
    FROM @extschema@.aggregator_settled_cost(
        v_pricing, nullif(v_usage -> 'parts', 'null'), (v_usage ->> 'reported_cost')::numeric, false, now()) AS c;
    RETURN v_cost;
END
$$;

CREATE FUNCTION calculate_provider_costs(
    p_user_id     text,
    p_provider_id uuid        DEFAULT NULL,
    p_start_date  timestamptz DEFAULT NULL,
    p_end_date    timestamptz DEFAULT NULL
)
RETURNS TABLE (
    provider_name     text,
    model_id          text,
    requests          bigint,
    prompt_tokens     bigint,
    completion_tokens bigint,
    total_tokens      bigint,
    cost              numeric,
    avg_latency_ms    numeric
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(p.name, log.provider_id::text),
        log.model_id,
        -- What never left this machine is not a request.
        count(*) FILTER (WHERE log.error_code IS DISTINCT FROM 'unreachable'),
        coalesce(sum(log.prompt_tokens), 0),
        coalesce(sum(log.completion_tokens), 0),
        coalesce(sum(log.total_tokens), 0),
        -- NULL where nothing was priced: unknown is not free.
        sum(log.cost_estimate),
        round(avg(log.latency_ms) FILTER (WHERE log.status = 'success'), 1)
    FROM @extschema@.aggregator_usage_logs AS log
    LEFT JOIN @extschema@.api_providers AS p ON p.id = log.provider_id
    WHERE log.user_id = @extschema@.aggregator_acting_user(p_user_id)
      AND (p_provider_id IS NULL OR log.provider_id = p_provider_id)
      AND (p_start_date IS NULL OR log.created_at >= p_start_date)
      AND (p_end_date IS NULL OR log.created_at < p_end_date)
    GROUP BY 1, 2
    ORDER BY 7 DESC NULLS LAST, 1, 2
$$;
