-- Budgets and rate limits: rules that administrators set and the gateway keeps, at the moment of
-- sending. The functions that set them run as their caller: row-level security decides.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_budgets (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        text        CHECK (user_id <> ''),
    each_user      boolean     NOT NULL DEFAULT false,
    provider_id    uuid,
    model_id       text        CHECK (model_id <> ''),
    period         text        NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'total')),
    limit_usd      numeric(22, 10) CHECK (limit_usd >= 0),
    limit_tokens   bigint      CHECK (limit_tokens >= 0),
    limit_requests bigint      CHECK (limit_requests >= 0),
    action         text        NOT NULL DEFAULT 'block' CHECK (action IN ('block', 'warn')),
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    -- Rows of a dump from before there was this column count what they did.
    keys           text        NOT NULL DEFAULT 'all' CHECK (keys IN ('platform', 'own', 'all')),
    gateway_key_id uuid,
    tag            text        CHECK (tag <> ''),
    CHECK (num_nonnulls(limit_usd, limit_tokens, limit_requests) > 0),
    CHECK (NOT (each_user AND user_id IS NOT NULL)),
    -- The sums of keys and tags know the one or the other.
    CONSTRAINT aggregator_budgets_one_label CHECK (num_nonnulls(gateway_key_id, tag) < 2),
    CONSTRAINT aggregator_budgets_scope_key
        UNIQUE NULLS NOT DISTINCT (user_id, each_user, provider_id, model_id, period, action, keys, gateway_key_id, tag)
);

CREATE TABLE @extschema@.aggregator_rate_limits (
    id                  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             text        CHECK (user_id <> ''),
    each_user           boolean     NOT NULL DEFAULT false,
    provider_id         uuid,
    model_id            text        CHECK (model_id <> ''),
    requests_per_minute bigint      CHECK (requests_per_minute > 0),
    tokens_per_minute   bigint      CHECK (tokens_per_minute > 0),
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    gateway_key_id      uuid,
    tag                 text        CHECK (tag <> ''),
    CHECK (num_nonnulls(requests_per_minute, tokens_per_minute) > 0),
    CHECK (NOT (each_user AND user_id IS NOT NULL)),
    CONSTRAINT aggregator_rate_limits_one_label CHECK (num_nonnulls(gateway_key_id, tag) < 2),
    CONSTRAINT aggregator_rate_limits_scope_key
        UNIQUE NULLS NOT DISTINCT (user_id, each_user, provider_id, model_id, gateway_key_id, tag)
);

CREATE TABLE @extschema@.aggregator_budget_warnings (
    budget_id      uuid        NOT NULL,
    user_id        text,
    period_start   timestamptz NOT NULL,
    percent        smallint    NOT NULL,
    spent_usd      numeric     NOT NULL,
    spent_tokens   bigint      NOT NULL,
    spent_requests bigint      NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- Without a key that holds no NULL, a publication of all tables would forbid updates.
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    UNIQUE NULLS NOT DISTINCT (budget_id, user_id, period_start, percent)
);

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_budgets', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_rate_limits', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_budget_warnings', '');

-- When the period began in which a moment lies, in UTC; weeks begin on Mondays.
CREATE FUNCTION @extschema@.aggregator_period_start(p_period text, p_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_period = 'total' THEN
        RETURN 'epoch';
    END IF;
    RETURN date_trunc(p_period, p_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
END
$$;

-- When it ends; NULL: never.
CREATE FUNCTION @extschema@.aggregator_period_end(p_period text, p_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_period = 'total' THEN
        RETURN NULL;
    END IF;
    RETURN (date_trunc(p_period, p_at AT TIME ZONE 'UTC') + ('1 ' || p_period)::interval) AT TIME ZONE 'UTC';
END
$$;

-- Whether a rule about a model means this one: by its id or the last part of it, in any case, and
-- whatever variant (":floor") is appended; and whether the model is (unlisted), which may be any.
CREATE FUNCTION @extschema@.aggregator_is_model(p_rule text, p_model_id text) RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_is_model_wrapper';

-- Why a text is no name of a model; NULL: it is one.
CREATE FUNCTION @extschema@.aggregator_model_problem(p_model text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_model_problem_wrapper';

-- Why a text is no tag of a call; NULL: it is one.
CREATE FUNCTION @extschema@.aggregator_tag_problem(p_tag text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'aggregator_tag_problem_wrapper';

-- Of a sum, the part that the keys of a budget have paid; 0 at the least.
CREATE FUNCTION @extschema@.aggregator_of_keys(p_keys text, p_all numeric, p_own numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN greatest(CASE p_keys WHEN 'platform' THEN p_all - p_own WHEN 'own' THEN p_own ELSE p_all END, 0);
END
$$;

CREATE FUNCTION @extschema@.aggregator_require_admin(p_action text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT @extschema@.aggregator_is_admin() THEN
        RAISE EXCEPTION 'role ''%'' may not %', current_user, p_action
            USING ERRCODE = 'PT403', HINT = 'An administrator can run: SELECT aggregator_grant(''role'', ''admin'').';
    END IF;
    -- Whatever asks for an administrator writes.
    PERFORM @extschema@.aggregator_require_writable(p_action);
END
$$;

-- The id of the provider that a rule is about; NULL for every provider.
CREATE FUNCTION @extschema@.aggregator_rule_provider(p_provider text) RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_provider uuid := @extschema@.aggregator_provider_id(p_provider);
BEGIN
    IF p_provider IS NOT NULL AND v_provider IS NULL THEN
        RAISE EXCEPTION 'provider ''%'' does not exist', p_provider
            USING ERRCODE = 'PT404', HINT = 'SELECT name FROM api_providers;';
    END IF;
    RETURN v_provider;
END
$$;

CREATE FUNCTION @extschema@.set_budget(
    p_limit_usd      numeric DEFAULT NULL,
    p_limit_tokens   bigint  DEFAULT NULL,
    p_limit_requests bigint  DEFAULT NULL,
    p_period         text    DEFAULT 'month',
    p_user_id        text    DEFAULT NULL,
    p_each_user      boolean DEFAULT false,
    p_provider       text    DEFAULT NULL,
    p_model          text    DEFAULT NULL,
    p_action         text    DEFAULT 'block',
    p_keys           text    DEFAULT NULL,
    p_gateway_key    uuid    DEFAULT NULL,
    p_tag            text    DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_each_user boolean := coalesce(p_each_user, false);
    v_keys      text    := p_keys;
    v_user      text;
    v_provider  uuid;
    v_model     text;
    v_problem   text;
    v_id        uuid;
BEGIN
    PERFORM @extschema@.aggregator_require_admin('set budgets'::text);
    PERFORM @extschema@.aggregator_check_user_id(p_user_id);
    v_problem := coalesce('p_model ' || @extschema@.aggregator_model_problem(p_model),
        'p_tag ' || @extschema@.aggregator_tag_problem(p_tag));
    IF num_nonnulls(p_limit_usd, p_limit_tokens, p_limit_requests) = 0 THEN
        RAISE EXCEPTION 'a budget needs a limit'
            USING ERRCODE = 'PT400', HINT = 'Give p_limit_usd, p_limit_tokens or p_limit_requests.';
    ELSIF p_limit_usd < 0 OR p_limit_tokens < 0 OR p_limit_requests < 0
        OR p_limit_usd IN ('NaN', 'Infinity') OR p_limit_usd >= 1e12 THEN
        RAISE EXCEPTION 'a limit must be a number from 0 up' USING ERRCODE = 'PT400';
    ELSIF p_period IS NULL OR p_period NOT IN ('hour', 'day', 'week', 'month', 'total') THEN
        RAISE EXCEPTION 'p_period must be hour, day, week, month or total' USING ERRCODE = 'PT400';
    ELSIF p_action IS NULL OR p_action NOT IN ('block', 'warn') THEN
        RAISE EXCEPTION 'p_action must be block or warn' USING ERRCODE = 'PT400';
    ELSIF p_keys NOT IN ('platform', 'own', 'all') THEN
        RAISE EXCEPTION 'p_keys must be platform, own or all' USING ERRCODE = 'PT400';
    ELSIF v_each_user AND p_user_id IS NOT NULL THEN
        RAISE EXCEPTION 'a budget is for one user or for each, not both' USING ERRCODE = 'PT400';
    ELSIF p_gateway_key IS NOT NULL AND p_tag IS NOT NULL THEN
        RAISE EXCEPTION 'a budget is about a gateway key or a tag, not both' USING ERRCODE = 'PT400';
    ELSIF p_user_id = '' OR v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', coalesce(v_problem, 'p_user_id must not be empty') USING ERRCODE = 'PT400';
    END IF;
    v_user := @extschema@.aggregator_gateway_key_owner(p_gateway_key, p_user_id, v_each_user);
    SELECT meant.provider_id, meant.model_id
    INTO v_provider, v_model
    FROM @extschema@.aggregator_meant(p_model, @extschema@.aggregator_rule_provider(p_provider)) AS meant;
    IF v_keys IS NULL THEN
        -- A budget of all users together is the platform's: nobody uses it up with a key of their own.
        v_keys := CASE WHEN v_user IS NULL AND NOT v_each_user THEN 'platform' ELSE 'all' END;
        -- One that is set anew protects what it did.
        v_keys := coalesce((
            SELECT b.keys
            FROM @extschema@.aggregator_budgets AS b
            WHERE (b.user_id, b.provider_id, b.model_id, b.gateway_key_id, b.tag)
                IS NOT DISTINCT FROM (v_user, v_provider, v_model, p_gateway_key, p_tag)
              AND (b.each_user, b.period, b.action) = (v_each_user, p_period, p_action)
            ORDER BY b.keys = v_keys DESC
            LIMIT 1), v_keys);
    END IF;
    INSERT INTO @extschema@.aggregator_budgets AS b
        (user_id, each_user, provider_id, model_id, period, limit_usd, limit_tokens, limit_requests, action, keys,
        gateway_key_id, tag)
    VALUES (v_user, v_each_user, v_provider, v_model, p_period, p_limit_usd, p_limit_tokens, p_limit_requests,
        p_action, v_keys, p_gateway_key, p_tag)
    ON CONFLICT (user_id, each_user, provider_id, model_id, period, action, keys, gateway_key_id, tag) DO UPDATE
    SET limit_usd = excluded.limit_usd,
        limit_tokens = excluded.limit_tokens,
        limit_requests = excluded.limit_requests,
        updated_at = now()
    RETURNING b.id INTO v_id;
    RETURN v_id;
END
$$;

CREATE FUNCTION @extschema@.remove_budget(p_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_admin('remove budgets'::text);
    DELETE FROM @extschema@.aggregator_budgets WHERE id = p_id;
    RETURN FOUND;
END
$$;

CREATE FUNCTION @extschema@.set_rate_limit(
    p_requests_per_minute bigint  DEFAULT NULL,
    p_tokens_per_minute   bigint  DEFAULT NULL,
    p_user_id             text    DEFAULT NULL,
    p_each_user           boolean DEFAULT false,
    p_provider            text    DEFAULT NULL,
    p_model               text    DEFAULT NULL,
    p_gateway_key         uuid    DEFAULT NULL,
    p_tag                 text    DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_each_user boolean := coalesce(p_each_user, false);
    v_user      text;
    v_problem   text;
    v_id        uuid;
BEGIN
    PERFORM @extschema@.aggregator_require_admin('set rate limits'::text);
    PERFORM @extschema@.aggregator_check_user_id(p_user_id);
    v_problem := coalesce('p_model ' || @extschema@.aggregator_model_problem(p_model),
        'p_tag ' || @extschema@.aggregator_tag_problem(p_tag));
    IF num_nonnulls(p_requests_per_minute, p_tokens_per_minute) = 0 THEN
        RAISE EXCEPTION 'a rate limit needs a limit'
            USING ERRCODE = 'PT400', HINT = 'Give p_requests_per_minute or p_tokens_per_minute.';
    ELSIF p_requests_per_minute < 1 OR p_tokens_per_minute < 1 THEN
        RAISE EXCEPTION 'a limit per minute must be at least 1' USING ERRCODE = 'PT400';
    ELSIF v_each_user AND p_user_id IS NOT NULL THEN
        RAISE EXCEPTION 'a rate limit is for one user or for each, not both' USING ERRCODE = 'PT400';
    ELSIF p_gateway_key IS NOT NULL AND p_tag IS NOT NULL THEN
        RAISE EXCEPTION 'a rate limit is about a gateway key or a tag, not both' USING ERRCODE = 'PT400';
    ELSIF p_user_id = '' OR v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', coalesce(v_problem, 'p_user_id must not be empty') USING ERRCODE = 'PT400';
    END IF;
    v_user := @extschema@.aggregator_gateway_key_owner(p_gateway_key, p_user_id, v_each_user);
    INSERT INTO @extschema@.aggregator_rate_limits AS r
        (user_id, each_user, provider_id, model_id, requests_per_minute, tokens_per_minute, gateway_key_id, tag)
    SELECT v_user, v_each_user, meant.provider_id, meant.model_id,
        p_requests_per_minute, p_tokens_per_minute, p_gateway_key, p_tag
    FROM @extschema@.aggregator_meant(p_model, @extschema@.aggregator_rule_provider(p_provider)) AS meant
    ON CONFLICT (user_id, each_user, provider_id, model_id, gateway_key_id, tag) DO UPDATE
    SET requests_per_minute = excluded.requests_per_minute,
        tokens_per_minute = excluded.tokens_per_minute,
        updated_at = now()
    RETURNING r.id INTO v_id;
    RETURN v_id;
END
$$;

CREATE FUNCTION @extschema@.remove_rate_limit(p_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM @extschema@.aggregator_require_admin('remove rate limits'::text);
    DELETE FROM @extschema@.aggregator_rate_limits WHERE id = p_id;
    RETURN FOUND;
END
$$;

-- What a user, or all, have spent of a rule's scope since a moment, and what is set aside for calls
-- on their way; as far as the caller sees the usage log. p_kind and p_label: by this gateway key ('key') or
-- with this tag ('tag') alone. p_gateway: what this one of several gateways has counted, and nothing set aside. Whatever
-- the sums hold, it raises nothing.
CREATE FUNCTION @extschema@.aggregator_spent(
    p_user_id           text,
    p_provider_id       uuid,
    p_model_id          text,
    p_since             timestamptz,
    p_keys              text,
    p_kind              text,
    p_label             text,
    p_gateway           text,
    OUT usd             numeric,
    OUT tokens          bigint,
    OUT requests        bigint,
    OUT reserved_usd    numeric,
    OUT reserved_tokens bigint,
    OUT reserved_requests bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_most CONSTANT numeric := 9223372036854775807;
BEGIN
    SELECT @extschema@.aggregator_of_keys(p_keys, sum(part.budget_cost), sum(part.own_cost)),
        least(@extschema@.aggregator_of_keys(p_keys, sum(part.budget_tokens), sum(part.own_tokens)), c_most),
        least(@extschema@.aggregator_of_keys(p_keys, sum(part.budget_requests), sum(part.own_requests)), c_most)
    INTO usd, tokens, requests
    FROM (
        SELECT own.provider_id, own.model_id, own.budget_cost, own.budget_tokens, own.budget_requests,
            own.own_cost, own.own_tokens, own.own_requests
        FROM @extschema@.aggregator_usage_hourly AS own
        WHERE own.user_id = p_user_id
          AND own.hour >= p_since
          AND (p_gateway IS NULL OR own.gateway = p_gateway)
          AND p_kind IS NULL
        UNION ALL
        SELECT everybody.provider_id, everybody.model_id, everybody.budget_cost, everybody.budget_tokens,
            everybody.budget_requests, everybody.own_cost, everybody.own_tokens, everybody.own_requests
        FROM @extschema@.aggregator_usage_totals AS everybody
        WHERE p_user_id IS NULL
          AND everybody.grain = 'hour'
          AND everybody.start >= p_since
          AND (p_gateway IS NULL OR everybody.gateway = p_gateway)
          AND p_kind IS NULL
        UNION ALL
        SELECT labelled.provider_id, labelled.model_id, labelled.budget_cost, labelled.budget_tokens,
            labelled.budget_requests, labelled.own_cost, labelled.own_tokens, labelled.own_requests
        FROM @extschema@.aggregator_usage_labels AS labelled
        WHERE labelled.kind = p_kind
          AND labelled.label = p_label
          AND labelled.hour >= p_since
          AND (p_gateway IS NULL OR labelled.gateway = p_gateway)
          AND (p_user_id IS NULL OR labelled.user_id = p_user_id)
    ) AS part
    WHERE (p_provider_id IS NULL OR part.provider_id = p_provider_id)
      AND @extschema@.aggregator_is_model(p_model_id, part.model_id);
    IF p_gateway IS NOT NULL THEN
        RETURN;
    END IF;

    -- No call is on its way for longer than the longest timeout, a day.
    SELECT coalesce(sum(counted.cost), 0), least(coalesce(sum(counted.tokens), 0), c_most),
        coalesce(sum(counted.requests), 0)
    INTO reserved_usd, reserved_tokens, reserved_requests
    FROM @extschema@.aggregator_usage_logs AS log
    CROSS JOIN LATERAL @extschema@.aggregator_counted(log) AS counted
    WHERE log.status = 'pending'
      AND log.created_at >= greatest(p_since, now() - interval '25 hours')
      AND (p_user_id IS NULL OR log.user_id = p_user_id)
      AND (p_provider_id IS NULL OR log.provider_id = p_provider_id)
      AND (p_kind IS NULL
           OR p_kind = 'key' AND log.gateway_key_id::text = p_label
           OR p_kind = 'tag' AND p_label = ANY (log.tags))
      AND (p_keys = 'all' OR counted.is_own_key = (p_keys = 'own'))
      AND @extschema@.aggregator_is_model(p_model_id, counted.model_id);
END
$$;

-- Whose counts a budget has: one for all, one for its user, or one for each user who has spent
-- something in the period, and the caller's own.
CREATE FUNCTION @extschema@.aggregator_counted_users(p_budget @extschema@.aggregator_budgets, p_since timestamptz) RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_budget.each_user THEN
        RETURN NEXT p_budget.user_id;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT DISTINCT own.user_id
    FROM @extschema@.aggregator_usage_hourly AS own
    WHERE own.hour >= p_since
      AND p_budget.tag IS NULL
    UNION
    SELECT DISTINCT labelled.user_id
    FROM @extschema@.aggregator_usage_labels AS labelled
    WHERE labelled.kind = 'tag'
      AND labelled.label = p_budget.tag
      AND labelled.hour >= p_since
    UNION
    SELECT @extschema@.aggregator_user_id()
    WHERE @extschema@.aggregator_user_id() IS NOT NULL;
END
$$;

CREATE VIEW @extschema@.aggregator_budget_status WITH (security_invoker = true) AS
SELECT b.id AS budget_id,
    whose.user_id,
    b.each_user,
    p.name AS provider_name,
    b.model_id,
    b.period,
    b.action,
    since.start AS period_start,
    @extschema@.aggregator_period_end(b.period, now()) AS resets_at,
    b.limit_usd,
    spent.usd AS spent_usd,
    spent.reserved_usd,
    greatest(b.limit_usd - spent.usd - spent.reserved_usd, 0) AS left_usd,
    b.limit_tokens,
    spent.tokens AS spent_tokens,
    spent.reserved_tokens,
    greatest(b.limit_tokens::numeric - spent.tokens - spent.reserved_tokens, 0)::bigint AS left_tokens,
    b.limit_requests,
    spent.requests AS spent_requests,
    spent.reserved_requests,
    greatest(b.limit_requests::numeric - spent.requests - spent.reserved_requests, 0)::bigint AS left_requests,
    b.keys,
    b.gateway_key_id,
    b.tag
FROM @extschema@.aggregator_budgets AS b
CROSS JOIN LATERAL (SELECT @extschema@.aggregator_period_start(b.period, now()) AS start) AS since
CROSS JOIN LATERAL @extschema@.aggregator_counted_users(b, since.start) AS whose (user_id)
CROSS JOIN LATERAL @extschema@.aggregator_spent(whose.user_id, b.provider_id, b.model_id, since.start, b.keys,
    CASE WHEN b.gateway_key_id IS NOT NULL THEN 'key'::text WHEN b.tag IS NOT NULL THEN 'tag'::text END,
    coalesce(b.gateway_key_id::text, b.tag), NULL::text) AS spent
LEFT JOIN @extschema@.api_providers AS p ON p.id = b.provider_id;

SET LOCAL search_path = @extschema@, pg_temp;
