-- Several gateways, of which one is the hub: who they are, and what they have leased of its budgets
-- (core/lease.rs). On any server but the hub the leases are empty.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_gateways (
    -- As core/lease.rs has it.
    name           text        PRIMARY KEY CHECK (name ~ '^[a-z0-9_-]{1,63}$'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- Of the last message that was listened to: what comes late says nothing any more.
    message_number bigint      NOT NULL DEFAULT 0,
    seen_at        timestamptz
);

CREATE TABLE @extschema@.aggregator_leases (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    budget_id        uuid        NOT NULL,
    -- Whose count it is; NULL: that of all.
    user_id          text        CHECK (user_id <> ''),
    period_start     timestamptz NOT NULL,
    gateway          text        NOT NULL,
    granted_usd      numeric     NOT NULL CHECK (granted_usd >= 0),
    granted_tokens   bigint      NOT NULL CHECK (granted_tokens >= 0),
    granted_requests bigint      NOT NULL CHECK (granted_requests >= 0),
    used_usd         numeric     NOT NULL CHECK (used_usd >= 0),
    used_tokens      bigint      NOT NULL CHECK (used_tokens >= 0),
    used_requests    bigint      NOT NULL CHECK (used_requests >= 0),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (budget_id, user_id, period_start, gateway)
) WITH (fillfactor = 80);

-- Planners need not remember users: ANALYZE leaves what they do where a table is empty once somebody was forgotten.
ALTER TABLE @extschema@.aggregator_leases ALTER COLUMN user_id SET STATISTICS 0;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_gateways', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_leases', '');

CREATE FUNCTION @extschema@.add_gateway(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_admin('add gateways'::text);
    IF p_name IS NULL OR p_name !~ '^[a-z0-9_-]{1,63}$' THEN
        RAISE EXCEPTION 'a gateway''s name has small letters, digits, ''_'' and ''-'' alone, at most 63'
            USING ERRCODE = 'PT400', HINT = 'As its setting aggregator.gateway has it.';
    END IF;
    IF p_name = @extschema@.aggregator_gateway_name() THEN
        RAISE EXCEPTION '''%'' is the name of this gateway itself', p_name
            USING ERRCODE = 'PT400', HINT = 'Add the others on the hub.';
    END IF;
    INSERT INTO @extschema@.aggregator_gateways (name) VALUES (p_name) ON CONFLICT (name) DO NOTHING;
    RETURN FOUND;
END
$$;

-- Its leases stay: it may have spent all of them.
CREATE FUNCTION @extschema@.remove_gateway(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_admin('remove gateways'::text);
    DELETE FROM @extschema@.aggregator_gateways WHERE name = p_name;
    RETURN FOUND;
END
$$;

-- Ends the leases of budgets that are no more, and of periods that ended a day ago: calls that began in them have
-- ended too.
CREATE FUNCTION @extschema@.aggregator_forget_leases() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_ended bigint;
BEGIN
    DELETE FROM @extschema@.aggregator_leases AS lease
    WHERE NOT EXISTS (
        SELECT FROM @extschema@.aggregator_budgets AS b
        WHERE b.id = lease.budget_id
          AND coalesce(@extschema@.aggregator_period_end(b.period, lease.period_start) > now() - interval '1 day', true)
    );
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    RETURN v_ended;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_gateways IS 'On the hub: the other gateways that lease its budgets; on these: what is known of them by replication. See add_gateway.';
COMMENT ON COLUMN @extschema@.aggregator_gateways.name IS 'Its name: aggregator.gateway of its server.';
COMMENT ON COLUMN @extschema@.aggregator_gateways.created_at IS 'When it was added.';
COMMENT ON COLUMN @extschema@.aggregator_gateways.message_number IS 'Number of its last message to the hub. Kept by the hub''s worker.';
COMMENT ON COLUMN @extschema@.aggregator_gateways.seen_at IS 'When the hub last heard of it. NULL: not yet.';

COMMENT ON TABLE @extschema@.aggregator_leases IS 'On the hub: what each other gateway may have spent of a budget in a period, in all. It counts in full against the budget until it is given back. Kept by the hub''s worker.';
COMMENT ON COLUMN @extschema@.aggregator_leases.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_leases.budget_id IS 'The budget. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_leases.user_id IS 'Of a budget that each user has: whose count it is.';
COMMENT ON COLUMN @extschema@.aggregator_leases.period_start IS 'When the period began.';
COMMENT ON COLUMN @extschema@.aggregator_leases.gateway IS 'The gateway. Not a foreign key: what a removed one has leased counts on.';
COMMENT ON COLUMN @extschema@.aggregator_leases.granted_usd IS 'USD that it may have spent in all.';
COMMENT ON COLUMN @extschema@.aggregator_leases.granted_tokens IS 'Tokens that it may have used in all.';
COMMENT ON COLUMN @extschema@.aggregator_leases.granted_requests IS 'Requests that it may have sent in all.';
COMMENT ON COLUMN @extschema@.aggregator_leases.used_usd IS 'USD that it had spent or set aside when it last said so.';
COMMENT ON COLUMN @extschema@.aggregator_leases.used_tokens IS 'Tokens that it had used or set aside then.';
COMMENT ON COLUMN @extschema@.aggregator_leases.used_requests IS 'Requests that it had sent or set aside then.';
COMMENT ON COLUMN @extschema@.aggregator_leases.updated_at IS 'When it last asked or told.';

COMMENT ON FUNCTION @extschema@.add_gateway(text) IS
    'On the hub: lets another gateway lease of its budgets, by the name that its setting aggregator.gateway has. From then on rate limits are shared among one gateway more. Says whether it is new. Administrators. PT400, PT403.';
COMMENT ON FUNCTION @extschema@.remove_gateway(text) IS
    'On the hub: another gateway leases no more. What it has leased counts until the period ends, because it may have spent it. Says whether there was one. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_leases() IS 'Ends leases of periods that are over. Internal.';
