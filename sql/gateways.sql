-- Several gateways, of which one is the hub: who they are, and what they have leased of its budgets
-- (core/lease.rs). On any server but the hub the leases are empty.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Why a text is no name of a gateway; NULL: it is one.
CREATE FUNCTION @extschema@.aggregator_gateway_problem(p_name text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_gateway_problem_wrapper';

-- What a hub publishes of the others: which there are.
CREATE TABLE @extschema@.aggregator_gateways (
    name       text        PRIMARY KEY CHECK (@extschema@.aggregator_gateway_problem(name) IS NULL),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- And what it does not, because it changes with each message.
CREATE TABLE @extschema@.aggregator_gateway_messages (
    -- Not a foreign key: one that is removed and added again goes on, or its old messages could be sent once more.
    gateway     text        PRIMARY KEY,
    -- Of the last message that was listened to: what comes late says nothing any more.
    number      bigint      NOT NULL DEFAULT 0,
    seen_at     timestamptz,
    -- How often its leases were settled without it: the worker reads them again.
    settlements bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

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
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_gateway_messages', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_leases', '');

CREATE FUNCTION @extschema@.add_gateway(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_problem CONSTANT text := @extschema@.aggregator_gateway_problem(coalesce(p_name, ''));
BEGIN
    PERFORM @extschema@.aggregator_require_admin('add gateways'::text);
    IF c_problem IS NOT NULL THEN
        RAISE EXCEPTION 'a gateway''s name %', c_problem
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

-- Its leases stay: it may have spent all of them. settle_gateway() takes back what it has not.
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

-- The administrators' function. Declared in gateways.rs, which asks aggregator_settle_leases() as the owner.
CREATE FUNCTION @extschema@.settle_gateway(
    p_name                text,
    OUT budget_id         uuid,
    OUT user_id           text,
    OUT period_start      timestamptz,
    OUT released_usd      numeric,
    OUT released_tokens   bigint,
    OUT released_requests bigint
)
RETURNS SETOF record
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'settle_gateway_wrapper';

-- Of one that is gone, what it has spent as far as this hub knows counts from now on, and not what it had leased: the
-- larger of what it last said and of what its rollups say that have come. The worker reads the leases again within five
-- seconds; until then what was leased counts.
CREATE FUNCTION @extschema@.aggregator_settle_leases(
    p_name                text,
    OUT budget_id         uuid,
    OUT user_id           text,
    OUT period_start      timestamptz,
    OUT released_usd      numeric,
    OUT released_tokens   bigint,
    OUT released_requests bigint
)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM @extschema@.aggregator_gateways AS known WHERE known.name = p_name) THEN
        RAISE EXCEPTION 'gateway ''%'' may lease here, and spends what it has leased', p_name
            USING ERRCODE = 'PT409',
            HINT = 'One that runs gives back by itself what it does not need. Of one that is gone for good: remove_gateway() first.';
    END IF;
    UPDATE @extschema@.aggregator_gateway_messages SET settlements = settlements + 1 WHERE gateway = p_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no gateway ''%'' has leased anything here', p_name
            USING ERRCODE = 'PT404', HINT = 'SELECT gateway FROM aggregator_gateway_messages;';
    END IF;
    RETURN QUERY
    WITH known AS (
        SELECT lease.id, lease.granted_usd, lease.granted_tokens, lease.granted_requests,
            greatest(lease.used_usd, spent.usd) AS usd,
            greatest(lease.used_tokens, spent.tokens) AS tokens,
            greatest(lease.used_requests, spent.requests) AS requests
        FROM @extschema@.aggregator_leases AS lease
        JOIN @extschema@.aggregator_budgets AS b ON b.id = lease.budget_id
        CROSS JOIN LATERAL @extschema@.aggregator_spent(coalesce(lease.user_id, b.user_id), b.provider_id, b.model_id,
            lease.period_start, b.keys,
            CASE WHEN b.gateway_key_id IS NOT NULL THEN 'key'::text WHEN b.tag IS NOT NULL THEN 'tag'::text END,
            coalesce(b.gateway_key_id::text, b.tag), p_name) AS spent
        WHERE lease.gateway = p_name
        FOR UPDATE OF lease
    )
    UPDATE @extschema@.aggregator_leases AS lease
    SET granted_usd = known.usd,
        granted_tokens = known.tokens,
        granted_requests = known.requests,
        updated_at = clock_timestamp()
    FROM known
    WHERE lease.id = known.id
      AND (known.granted_usd, known.granted_tokens, known.granted_requests) <> (known.usd, known.tokens, known.requests)
    RETURNING lease.budget_id, lease.user_id, lease.period_start, known.granted_usd - known.usd,
        known.granted_tokens - known.tokens, known.granted_requests - known.requests;
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

COMMENT ON TABLE @extschema@.aggregator_gateway_messages IS 'On the hub: what it has heard of the other gateways. Of those that were removed too. Kept by the hub''s worker.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_messages.gateway IS 'The gateway. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_messages.number IS 'Number of its last message to the hub.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_messages.seen_at IS 'When the hub last heard of it.';
COMMENT ON COLUMN @extschema@.aggregator_gateway_messages.settlements IS 'How often settle_gateway() was run for it.';

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
    'On the hub: another gateway leases no more. What it has leased counts until the period ends, because it may have spent it, or until settle_gateway() says what it has. Says whether there was one. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.settle_gateway(text) IS
    'On the hub, of a gateway that was removed and whose server is gone for good: what it had leased counts no longer in full, but with what it last said that it had used, or what its rollups here say, whichever is more. What it spent after that is over the budgets. Returns what each budget has back within five seconds; less than nothing where more was spent than leased. Can be run again, when more of its rollups have come. Administrators. PT403, PT404, PT409: it still leases.';
COMMENT ON FUNCTION @extschema@.aggregator_settle_leases(text) IS 'Settles what a gateway had leased. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_gateway_problem(text) IS 'Why a text is no name of a gateway: empty, longer than 63 bytes, or with other than small letters, digits, _ and -; NULL: it is one.';
COMMENT ON FUNCTION @extschema@.aggregator_forget_leases() IS 'Ends leases of periods that are over. Internal.';
