-- The price rules, in numeric from end to end. This is their only implementation: the ledger
-- settles with aggregator_settled_cost; calculate_cost, recost_usage and quote_cost (prices.sql) ask
-- the same functions.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Whether a price list is one: every price a number that is not negative, every tier likewise. The
-- table checks it at the door, so that pricing a call need not.
CREATE FUNCTION @extschema@.aggregator_is_pricing(p_pricing jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN jsonb_typeof(p_pricing) = 'object'
        AND NOT EXISTS (
            SELECT FROM jsonb_each(p_pricing - ARRAY['tiers', 'utc_start', 'utc_end']) AS price
            WHERE CASE WHEN jsonb_typeof(price.value) = 'number' THEN price.value::numeric < 0 ELSE true END
        )
        AND (p_pricing -> 'utc_start' IS NULL OR p_pricing ->> 'utc_start' ~ '^[0-9]{1,4}$')
        AND (p_pricing -> 'utc_end' IS NULL OR p_pricing ->> 'utc_end' ~ '^[0-9]{1,4}$')
        AND CASE
            WHEN NOT p_pricing ? 'tiers' THEN true
            WHEN jsonb_typeof(p_pricing -> 'tiers') <> 'array' THEN false
            ELSE NOT EXISTS (
                SELECT FROM jsonb_array_elements(p_pricing -> 'tiers') AS tier
                -- NULL in a tier: unknown while the tier holds, whatever it is otherwise.
                WHERE tier ? 'tiers' OR NOT @extschema@.aggregator_is_pricing(jsonb_strip_nulls(tier))
            )
        END;
END
$$;

ALTER TABLE @extschema@.aggregator_models ADD CONSTRAINT pricing CHECK (@extschema@.aggregator_is_pricing(pricing));

-- The prices that hold for a prompt of this size at this moment: the list, overlaid by every tier
-- whose conditions all match, a later tier over an earlier one (OpenRouter's pricing.overrides).
-- A long-context tier reprices the whole request, once the prompt is strictly larger.
CREATE FUNCTION @extschema@.aggregator_prices_at(p_pricing jsonb, p_prompt_tokens bigint, p_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_prices jsonb   := p_pricing - 'tiers';
    v_clock  integer := to_char(p_at AT TIME ZONE 'UTC', 'HH24MI')::integer;
    v_tier   jsonb;
    v_start  integer;
    v_end    integer;
BEGIN
    FOR v_tier IN SELECT value FROM jsonb_array_elements(coalesce(p_pricing -> 'tiers', '[]')) LOOP
        CONTINUE WHEN p_prompt_tokens <= (v_tier ->> 'min_prompt_tokens')::numeric;
        IF v_tier ? 'utc_start' OR v_tier ? 'utc_end' THEN
            v_start := coalesce(v_tier ->> 'utc_start', '0');
            v_end := coalesce(v_tier ->> 'utc_end', '2400');
            -- Half-open, and it may wrap midnight.
            CONTINUE WHEN NOT CASE
                WHEN v_start <= v_end THEN v_clock >= v_start AND v_clock < v_end
                ELSE v_clock >= v_start OR v_clock < v_end
            END;
        END IF;
        v_prices := v_prices || (v_tier - ARRAY['min_prompt_tokens', 'utc_start', 'utc_end']);
    END LOOP;
    RETURN jsonb_strip_nulls(v_prices);
END
$$;

-- What disjoint parts cost. NULL: a part has no price, so the whole has none; never 0 for that.
-- is_complete is false where a part was priced at a neighbour's rate for want of its own.
CREATE FUNCTION @extschema@.aggregator_cost(
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
    v_prices   jsonb := p_pricing;
    v_part     text;
    v_fallback text;
    v_tokens   numeric;
    v_price    numeric;
    v_fees     numeric := 0;
BEGIN
    is_complete := false;
    IF v_prices ? 'tiers' THEN
        v_prices := @extschema@.aggregator_prices_at(
            p_pricing,
            (p_parts ->> 'input')::bigint + (p_parts ->> 'cache_read')::bigint + (p_parts ->> 'cache_write')::bigint
                + (p_parts ->> 'cache_write_1h')::bigint + (p_parts ->> 'audio_input')::bigint,
            p_at);
    END IF;
    IF NOT v_prices ?| ARRAY['input', 'output', 'request', 'image'] THEN
        RETURN;
    END IF;
    cost := 0;
    is_complete := true;
    FOREACH v_part IN ARRAY ARRAY['input', 'output', 'cache_read', 'cache_write', 'cache_write_1h', 'reasoning', 'audio_input', 'audio_output'] LOOP
        v_tokens := p_parts ->> v_part;
        CONTINUE WHEN v_tokens = 0;
        v_price := v_prices ->> v_part;
        IF v_price IS NULL THEN
            v_fallback := CASE
                WHEN v_part = 'cache_write_1h' AND v_prices ? 'cache_write' THEN 'cache_write'
                WHEN v_part IN ('cache_read', 'cache_write', 'cache_write_1h', 'audio_input') THEN 'input'
                WHEN v_part IN ('reasoning', 'audio_output') THEN 'output'
            END;
            v_price := v_prices ->> v_fallback;
            -- Reasoning is billed as output unless it has a price of its own; the others' are missing.
            is_complete := is_complete AND v_part = 'reasoning';
        END IF;
        cost := cost + v_tokens * v_price;
    END LOOP;
    -- What is paid by the piece: there is no neighbour to price it at.
    FOREACH v_part IN ARRAY ARRAY['image', 'web_search'] LOOP
        CONTINUE WHEN coalesce(p_parts -> v_part, '0') = '0';
        v_price := v_prices ->> v_part;
        v_fees := v_fees + (p_parts ->> v_part)::numeric * coalesce(v_price, 0);
        is_complete := is_complete AND v_price IS NOT NULL;
    END LOOP;
    cost := trim_scale(cost / 1000000 + coalesce((v_prices ->> 'request')::numeric, 0) + v_fees);
    is_complete := is_complete AND cost IS NOT NULL;
END
$$;

-- The cost with which a row is settled: what the upstream reports, else what the rules say; the
-- computed cost is kept beside a reported one. p_is_estimate: the parts are our guess.
CREATE FUNCTION @extschema@.aggregator_settled_cost(
    p_pricing     jsonb,
    p_parts       jsonb,
    p_reported    numeric,
    p_is_free     boolean,
    p_at          timestamptz,
    p_is_estimate boolean DEFAULT false,
    OUT cost      numeric,
    OUT computed  numeric,
    OUT source    text
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
        WHEN NOT v_is_complete OR p_is_estimate THEN 'incomplete'
        ELSE 'computed'
    END;
END
$$;

CREATE FUNCTION @extschema@.calculate_provider_costs(
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

SET LOCAL search_path = @extschema@, pg_temp;
