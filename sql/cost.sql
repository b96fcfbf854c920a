-- The price rules for SQL. Their only implementation is core/cost.rs, with which the ledger settles too;
-- calculate_cost, recost_usage and quote_cost (prices.sql) ask the functions here.

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

-- The price rules themselves, in Rust (core/cost.rs), because the ledger prices each batch with them.
-- p_clock: the time of day as HHMM, UTC; infinity has none, and counts as midnight.
CREATE FUNCTION @extschema@.aggregator_price_tiers(p_pricing jsonb, p_prompt_tokens bigint, p_clock integer) RETURNS jsonb
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_price_tiers_wrapper';

CREATE FUNCTION @extschema@.aggregator_price_parts(p_pricing jsonb, p_parts jsonb, p_clock integer) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_price_parts_wrapper';

CREATE FUNCTION @extschema@.aggregator_price_attempt(
    p_pricing     jsonb,
    p_parts       jsonb,
    p_reported    text,
    p_is_free     boolean,
    p_clock       integer,
    p_is_estimate boolean
) RETURNS jsonb
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_price_attempt_wrapper';

-- The prices that hold for a prompt of this size at this moment, tiers applied.
CREATE FUNCTION @extschema@.aggregator_prices_at(p_pricing jsonb, p_prompt_tokens bigint, p_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN @extschema@.aggregator_price_tiers(
        p_pricing, p_prompt_tokens, coalesce(to_char(p_at AT TIME ZONE 'UTC', 'HH24MI')::integer, 0));
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
    v_priced jsonb := @extschema@.aggregator_price_parts(
        p_pricing, p_parts, coalesce(to_char(p_at AT TIME ZONE 'UTC', 'HH24MI')::integer, 0));
BEGIN
    cost := (v_priced ->> 'cost')::numeric;
    is_complete := coalesce((v_priced -> 'is_complete')::boolean, false);
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
    v_settled jsonb := @extschema@.aggregator_price_attempt(
        p_pricing, p_parts, p_reported::text, p_is_free,
        coalesce(to_char(p_at AT TIME ZONE 'UTC', 'HH24MI')::integer, 0), p_is_estimate);
BEGIN
    cost := (v_settled ->> 'cost')::numeric;
    computed := (v_settled ->> 'computed')::numeric;
    source := v_settled ->> 'source';
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
